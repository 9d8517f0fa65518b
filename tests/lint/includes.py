"""Which file may include which: the layers, and what keeps MLIR and vendors where they belong.

A checker takes the root of a tree and yields one line of text for each violation.
"""

import re
from collections.abc import Iterator
from pathlib import Path

LAYERS = {"lib": 0, "lowering": 1, "dsl": 2, "kernels": 3, "python": 4, "tools": 4, "examples": 4}
"""A file includes only from its own layer and from those with a smaller number."""

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
SOURCES = (".cpp", ".h", ".def")


def sources(root: Path, *folders: str) -> Iterator[tuple[Path, str]]:
    """Every C++ file below the folders, with its path relative to the root in POSIX form."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCES and path.is_file():
                yield path, path.relative_to(root).as_posix()


def includes(path: Path) -> list[str]:
    return INCLUDE.findall(path.read_text())


def bitloom_layer(include: str) -> str | None:
    """The layer of an include that reads "bitloom/<layer>/…"; None for any other."""
    parts = include.split("/")
    return parts[1] if parts[0] == "bitloom" and len(parts) > 2 else None


def is_mlir(include: str) -> bool:
    """A header of LLVM or MLIR, or one that TableGen makes from their records."""
    return include.startswith(("mlir/", "llvm/", "llvm-c/", "mlir-c/")) or include.endswith(".inc")


def check_layers(root: Path) -> Iterator[str]:
    for path, name in sources(root, *LAYERS):
        own = name.split("/")[0]
        for include in includes(path):
            layer = bitloom_layer(include)
            if layer is None:
                if (root / own / include).exists() or (path.parent / include).exists():
                    yield f'{name}: expected an include that reads "bitloom/{own}/…", got "{include}"'
            elif layer not in LAYERS:
                yield f'{name}: expected an include of a layer ({", ".join(LAYERS)}), got "{include}"'
            elif layer != own and LAYERS[layer] >= LAYERS[own]:
                yield f'{name}: expected includes from the left of {own} only, got "{include}"'


def check_targets(root: Path) -> Iterator[str]:
    """lowering/targets/A never includes lowering/targets/B."""
    for path, name in sources(root, "lowering/targets"):
        parts = name.split("/")
        if len(parts) < 4:
            continue
        for include in includes(path):
            match = re.match(r"bitloom/lowering/targets/([^/]+)/", include)
            if match and match[1] != parts[2]:
                yield f'{name}: expected no include of another target, got "{include}"'


def check_mlir_headers(root: Path) -> Iterator[str]:
    """A header of LLVM or MLIR is included in lowering/, and in the .cpp files and internal headers of dsl/."""
    for path, name in sources(root, *LAYERS):
        if name.startswith("lowering/") or (name.startswith("dsl/") and not is_public_dsl_header(name)):
            continue
        for include in includes(path):
            if is_mlir(include):
                yield f'{name}: expected no header of LLVM or MLIR here, got "{include}"'


def is_public_dsl_header(name: str) -> bool:
    return name.startswith("dsl/") and name.endswith(".h") and not name.startswith("dsl/internal/")


def check_public_dsl(root: Path) -> Iterator[str]:
    """The public headers of dsl/ include lib/ and each other, so that a kernel's source pulls in no compiler."""
    for path, name in sources(root, "dsl"):
        if not is_public_dsl_header(name):
            continue
        for include in includes(path):
            if bitloom_layer(include) not in (None, "lib", "dsl") or include.startswith("bitloom/dsl/internal/"):
                yield f'{name}: expected a public header to include lib and dsl only, got "{include}"'


VENDOR = re.compile(r"cuda|nvptx", re.IGNORECASE)
COMMENT = re.compile(r"//[^\n]*")


def check_vendor_names(root: Path) -> Iterator[str]:
    """A generic pass never asks "is this CUDA?": targets register, and say it in their own folder.

    Only code counts: a comment may compare.
    """
    for path, name in sources(root, "lowering"):
        if name.startswith("lowering/targets/"):
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            match = VENDOR.search(COMMENT.sub("", line))
            if match:
                yield f"{name}:{number}: expected no vendor's name in generic code, got '{match[0]}'"


CHECKS = [check_layers, check_targets, check_mlir_headers, check_public_dsl, check_vendor_names]
