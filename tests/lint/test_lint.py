"""The tree keeps the house's rules, and each rule catches a tree that does not."""

from pathlib import Path

import includes
import names
import pytest

ROOT = Path(__file__).resolve().parents[2]

RMS_NORM = '  static constexpr auto name = "rms_norm";\n'

# For each check: the files of a tree that breaks it once (path to text), and a piece of what it must say.
VIOLATIONS = {
    "check_layers": [
        ({"lib/a/A.h": '#include "bitloom/lowering/Passes.h"\n'}, 'got "bitloom/lowering/Passes.h"'),
        ({"kernels/k/K.h": '#include "bitloom/tools/Main.h"\n'}, "from the left of kernels"),
        ({"tools/T.cpp": '#include "bitloom/python/Module.h"\n'}, "from the left of tools"),
        ({"lib/a/A.h": '#include "B.h"\n', "lib/a/B.h": ""}, 'reads "bitloom/lib/…", got "B.h"'),
        ({"lib/a/A.h": '#include "bitloom/libs/a/B.h"\n'}, "expected an include of a layer"),
    ],
    "check_targets": [
        (
            {"lowering/targets/x86/X.cpp": '#include "bitloom/lowering/targets/nvptx/N.h"\n'},
            "no include of another target",
        ),
    ],
    "check_mlir_headers": [
        ({"lib/a/A.cpp": "#include <llvm/ADT/SmallVector.h>\n"}, 'got "llvm/ADT/SmallVector.h"'),
        ({"tools/T.cpp": '#include "mlir/IR/MLIRContext.h"\n'}, 'got "mlir/IR/MLIRContext.h"'),
        ({"dsl/Value.h": '#include "mlir/IR/Value.h"\n'}, 'got "mlir/IR/Value.h"'),
    ],
    "check_public_dsl": [
        ({"dsl/Value.h": '#include "bitloom/lowering/Program.h"\n'}, 'got "bitloom/lowering/Program.h"'),
        ({"dsl/Value.h": '#include "bitloom/dsl/internal/Trace.h"\n'}, 'got "bitloom/dsl/internal/Trace.h"'),
    ],
    "check_vendor_names": [
        ({"lowering/Pipeline.cpp": 'if (target == "cuda") run();\n'}, "lowering/Pipeline.cpp:1"),
        ({"lowering/transforms/Fuse.cpp": "int x;\nrunNVPTX();\n"}, "lowering/transforms/Fuse.cpp:2"),
    ],
    "check_passes": [
        ({"lowering/Passes.td": 'def Fuse : Pass<"tile-fuse"> {\n', "lowering/Fuse.cpp": ""}, "lit test Fuse.mlir"),
        ({"lowering/Passes.td": 'def Fuse : Pass<"tile-fuse"> {\n', "tests/lit/Fuse.mlir": ""}, "file Fuse.cpp"),
    ],
    "check_kernels": [
        ({"kernels/norm/RmsNorm.cpp": RMS_NORM}, "expected rms_norm in norm/reference.py"),
        (
            {"kernels/norm/RmsNorm.cpp": RMS_NORM, "kernels/norm/reference.py": "def norm(): ..."},
            "expected rms_norm in",
        ),
        ({"kernels/norm/Norm.cpp": RMS_NORM, "kernels/norm/reference.py": "def rms_norm(): ..."}, "got ['rms_norm']"),
        ({"kernels/norm/Helpers.cpp": "", "kernels/norm/reference.py": ""}, "expected one kernel"),
    ],
}

# What comes close to a violation and is none.
LEGAL = {
    "dsl/Trace.cpp": '#include "mlir/IR/Builders.h"\n#include "bitloom/lowering/Program.h"\n',
    "dsl/internal/Trace.h": '#include "mlir/IR/Builders.h"\n',
    "dsl/Value.h": '#include "bitloom/lib/dtype/DType.h"\n#include <vector>\n',
    "kernels/norm/RmsNorm.cpp": RMS_NORM,
    "kernels/norm/reference.py": "def rms_norm(x): ...\n",
    "kernels/k/K.h": '#include "bitloom/dsl/Value.h"\n',
    "lib/runtime/Cuda.h": "int cudaLaunch();\n",
    "lowering/Pipeline.cpp": "// unlike CUDA, a block here is one thread\n",
    "lowering/targets/nvptx/N.cpp": '#include "bitloom/lowering/targets/nvptx/N.h"\nint nvptx;\n',
    "lowering/Passes.td": 'def Fuse : Pass<"tile-fuse"> {\n',
    "lowering/transforms/Fuse.cpp": "",
    "tests/lit/transforms/Fuse.mlir": "",
}

CHECKS = {check.__name__: check for module in (includes, names) for check in module.CHECKS}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_check_has_a_violation():
    assert VIOLATIONS.keys() == CHECKS.keys()


@pytest.mark.parametrize("check", CHECKS)
def test_tree(check):
    violations = list(CHECKS[check](ROOT))
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("check", "files", "message"),
    [(check, files, message) for check, cases in VIOLATIONS.items() for files, message in cases],
)
def test_violation_is_caught(check, files, message, tmp_path):
    plant(tmp_path, files)
    found = list(CHECKS[check](tmp_path))
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize("check", CHECKS)
def test_legal_tree_passes(check, tmp_path):
    plant(tmp_path, LEGAL)
    assert list(CHECKS[check](tmp_path)) == []
