"""Makes a module of every example in the dialect's generated documentation: examples.py TileOps.md > examples.mlir"""

import re
import sys

# What an example may use without defining it.
NAMES = {
    "%matrix": "!tile.view<?x?xf32>",
    "%vector": "!tile.view<?xf32>",
    "%i": "i64",
    "%j": "i64",
    "%x": "f32",
    "%a": "tensor<16x64xf32>",
    "%b": "tensor<64x16xf32>",
    "%acc": "tensor<16x16xf32>",
    "%v": "tensor<64xf32>",
    "%column": "tensor<64x1xf32>",
    "%pairs": "tensor<64x2xf32>",
    "%idx": "tensor<64xi32>",
    "%mask": "tensor<64xi1>",
    "%bytes": "tensor<16x64xi8>",
    "%values": "tensor<16x128xi8>",
    "%table": "tensor<16xf32>",
    "%ring": "!tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>",
    "%p": "i1",
}
WITHOUT_EXAMPLE = {"tile.yield", "tile.convert_layout"}  # shown within others; met only with encodings
NAME = re.compile(r"%[A-Za-z_]\w*")


def function(number: int, code: str) -> str:
    """A function around operations; a use of a type or an attribute where there are none."""
    first = code.lstrip()[0]
    if first == "!":
        types = ", ".join(code.split("\n"))
        return f"func.func private @example{number}({types})\n"
    if first == "#":
        attributes = ", ".join(code.split("\n"))
        return f"func.func private @example{number}() attributes {{examples = [{attributes}]}}\n"
    defined = {name for line in code.split("\n") if "=" in line for name in NAME.findall(line.split("=")[0])}
    defined |= {name for arguments in re.findall(r"\^bb0\((.*)\)", code) for name in NAME.findall(arguments)}
    used = dict.fromkeys(name for name in NAME.findall(code) if name not in defined)
    unknown = [name for name in used if name not in NAMES]
    if unknown:
        sys.exit(f"expected an example to use the names of {__file__} only, got {unknown} in\n{code}")
    arguments = ", ".join(f"{name}: {NAMES[name]}" for name in used)
    return f"func.func @example{number}({arguments}) {{\n{code}\n  return\n}}\n"


def main() -> None:
    number = 0
    for section in re.split(r"^### ", open(sys.argv[1]).read(), flags=re.MULTILINE)[1:]:
        title = section.split("\n", 1)[0]
        examples = re.findall(r"^```mlir\n(.*?)\n```$", section, flags=re.MULTILINE | re.DOTALL)
        op = re.match(r"`(tile\.\w+)`", title)
        if not examples and op and op[1] not in WITHOUT_EXAMPLE:
            sys.exit(f"expected an example in the description of {op[1]}, got none")
        for code in examples:
            if op and op[1] not in code:
                sys.exit(f"expected the example of {op[1]} to use it, got\n{code}")
            print(f"// {title}\n{function(number, code)}")
            number += 1


main()
