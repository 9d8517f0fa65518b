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


CHECKS = [check_passes]
