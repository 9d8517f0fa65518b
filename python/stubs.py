"""Writes the type stub of the kernels' functions: python stubs.py OUTPUT. The build runs it on the module it made."""

import sys
from pathlib import Path

from bitloom import _bitloom

HEADER = '''"""The kernels' functions. Written by the build from the registry."""

from typing import Any, Protocol, TypeVar

class Array(Protocol):
    """Anything with DLPack: a torch, numpy, cupy or jax array."""

    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, Any]: ...

A = TypeVar("A", bound=Array)

def add(name: str) -> Any: ...
'''
FLOATS = ("f16", "bf16", "f32", "f64", "f8e4m3", "f8e5m2")
SCALARS = {"b1": "bool"} | dict.fromkeys(FLOATS, "float")


def stub(kernel) -> str:
    """A kernel's function: results have the type of its first array."""
    declared = {parameter.name: parameter for parameter in kernel.variants[0]}
    arguments, first = [], True
    for text in kernel.signature.strip("()").split(", "):
        name, _, default = text.partition("=")
        if name == "*":
            arguments.append(name)
            continue
        parameter = declared[name]
        if parameter.kind == "view":
            kind = "A" if first else "Array"
            first = False
        else:
            kind = "str | int" if default.startswith("'") else SCALARS.get(parameter.dtype, "int")
        if default == "None":
            kind += " | None"
        arguments.append(f"{name}: {kind}" + (f" = {default}" if default else ""))
    body = _bitloom._function(kernel).__doc__
    outputs = sum(parameter.output for parameter in declared.values())
    needed = outputs - body.count(", written, optional\n")
    counts = range(needed, outputs + 1)
    result = " | ".join("A" if n == 1 else f"tuple[{', '.join(['A'] * n)}]" for n in counts)
    lines = "\n".join(f"    {line}".rstrip() for line in body.rstrip().split("\n"))
    return f'\ndef {kernel.name}({", ".join(arguments)}) -> {result}:\n    """\n{lines}\n    """\n'


def main() -> None:
    kernels = _bitloom.kernels()
    names = ", ".join(f'"{name}"' for name in kernels)
    Path(sys.argv[1]).write_text(HEADER + f"\n__all__ = [{names}]\n" + "".join(map(stub, kernels.values())))


if __name__ == "__main__":
    main()
