"""examples/edge, cross-compiled against the build folder: one program that runs on every kind of AArch64 processor."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EDGE = ROOT / "examples" / "edge"

pytestmark = pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")), reason="no cross compiler or emulator"
)


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("edge")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EDGE}/aarch64-linux-gnu.cmake"
    run("cmake", "-G", "Ninja", "-S", EDGE, "-B", build, f"-DCMAKE_PREFIX_PATH={ROOT}/build", toolchain)
    run("cmake", "--build", build)
    return build


@pytest.mark.parametrize(
    ("processor", "target"),
    [
        ("cortex-a57", "aarch64"),
        ("cortex-a76", "aarch64+dotprod"),
        ("max,sve=off", "aarch64+i8mm"),
        ("max", "aarch64+sve2"),
        ("max,sve-default-vector-length=16", "aarch64+sve2"),
        ("max,sve-default-vector-length=32", "aarch64+sve2"),
        ("max,sve-default-vector-length=64", "aarch64+sve2"),
    ],
)
def test_the_processor_runs_the_best_that_it_has(project, processor, target):
    """An instruction that the processor lacks would end the program; its own check would find a wrong result."""
    out = run("qemu-aarch64", "-cpu", processor, project / "classify")
    assert out.startswith(f"gemv_w4 for {target}, softmax for {target}: off by ")


def test_the_library_needs_c_alone(project):
    symbols = run("aarch64-linux-gnu-nm", "-A", project / "libkernels.a").splitlines()
    defined = {line.split()[-1] for line in symbols if re.search(r" [TDBRVW] \S+$", line)}
    needed = {line.split()[-1] for line in symbols if " U " in line} - defined
    needed -= {name for name in needed if name.startswith("__aarch64_")}  # atomics, of the C compiler's own library
    assert {"gemv_w4_programs", "softmax_f32_target", "gemv_w4_aarch64_sve2_programs"} <= defined
    assert needed <= {
        *("abort", "fflush", "fprintf", "fputs", "free", "malloc", "memcpy", "memset", "printf", "putchar", "puts"),
        *("snprintf", "stderr", "stdout", "strcspn", "strlen", "strncmp", "strtod", "strtof", "getauxval", "sysconf"),
        *("pthread_create", "pthread_join", "pthread_mutex_lock", "pthread_mutex_unlock", "__stack_chk_fail"),
        *("fwrite", "__stack_chk_guard"),
    }
    assert (project / "libkernels.a").stat().st_size < 100_000


def test_a_second_build_compiles_nothing(project):
    assert "no work to do" in run("cmake", "--build", project)
