"""Files that must come together: a pass and its lit test, a kernel and its reference."""

import re
from collections.abc import Iterator
from pathlib import Path

PASS = re.compile(r"^def\s+(\w+)\s*:\s*(?:Interface)?Pass<\s*\"([\w-]+)\"", re.MULTILINE)


def check_passes(root: Path) -> Iterator[str]:
    """Every record in Passes.td has a source file and a lit test of its own name."""
    records = root / "lowering" / "Passes.td"
    if not records.exists():
        return
    sources = {path.stem for path in (root / "lowering").rglob("*.cpp")}
    tests = {path.stem for path in (root / "tests" / "lit").rglob("*.mlir")}
    for name, _ in PASS.findall(records.read_text()):
        if name not in sources:
            yield f"lowering/Passes.td: expected a source file {name}.cpp for the pass {name}, got none"
        if name not in tests:
            yield f"lowering/Passes.td: expected a lit test {name}.mlir for the pass {name}, got none"


KERNEL = re.compile(r"^\s*static constexpr auto name = \"(\w+)\"", re.MULTILINE)


def pascal_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def check_kernels(root: Path) -> Iterator[str]:
    """A kernel my_kernel is alone in its MyKernel.cpp, beside a reference.py that defines my_kernel."""
    for folder in sorted(path for path in (root / "kernels").glob("*") if path.is_dir()):
        reference = folder / "reference.py"
        defined = re.findall(r"^def (\w+)", reference.read_text(), re.MULTILINE) if reference.exists() else []
        for path in sorted(folder.glob("*.cpp")):
            file = path.relative_to(root).as_posix()
            names = KERNEL.findall(path.read_text())
            if [pascal_case(name) for name in names] != [path.stem]:
                yield f"{file}: expected one kernel, named as the file is, got {names}"
            for name in names:
                if name not in defined:
                    yield f"{file}: expected {name} in {folder.name}/reference.py, got none"


CHECKS = [check_passes, check_kernels]
