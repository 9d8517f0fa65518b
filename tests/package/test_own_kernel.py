"""examples/own_kernel, a project outside the tree, built against an installation; the command line on its library."""

import resource
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", ROOT / "build", "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def project(prefix, tmp_path_factory) -> Path:
    """The build folder of the example, with its two sources compiled in little time."""
    build = tmp_path_factory.mktemp("own")
    source = ROOT / "examples" / "own_kernel"
    compiler = "-DCMAKE_CXX_COMPILER=clang++-22"
    run("cmake", "-G", "Ninja", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", compiler)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run("cmake", "--build", build)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
    return build


def test_the_program_calls_the_kernel(project):
    out = run(project / "call_swiglu", project / "libmine.so")
    assert [float(word) for word in out.split()] == pytest.approx([-0.268941, 0, 2.193176, 7.046376], rel=1e-5)


def test_the_command_line_takes_the_library(prefix, project):
    bitloom, library = prefix / "bin" / "bitloom", project / "libmine.so"
    assert "my_swiglu" in run(bitloom, "list", library)
    assert "tile.store" in run(bitloom, "inspect", f"{library}:my_swiglu", "--set", "rows=3", "cols=17", "block=64")
    assert "tensor<64xf32>" in run(bitloom, "inspect", f"{library}:my_swiglu", "--set", "block=64")
    out = run(bitloom, "check", f"{library}:my_swiglu")
    assert out.endswith("9 checked, 0 wrong\n")
    assert out.count("  ok\n") == 9


def test_a_c_program_calls_the_kernel_with_no_bitloom(prefix, project, tmp_path):
    """Built ahead of time for this machine, in C and in C++."""
    run(prefix / "bin" / "bitloom", "build", f"{project}/libmine.so:my_swiglu", "--dtype", "f32", "-o", tmp_path)
    (tmp_path / "main.c").write_text("""
#include "my_swiglu_f32.h"
#include <math.h>
int main(void) {
  enum { rows = 3, cols = 1001 };
  static float gate[rows * cols], up[rows * cols], out[rows * cols];
  for (int i = 0; i < rows * cols; ++i) gate[i] = (float)(i % 13 - 6), up[i] = (float)(i % 7);
  if (my_swiglu_f32_contiguous(gate, up, out, rows, cols, 2) != 0) return 1;
  for (int i = 0; i < rows * cols; ++i)
    if (fabsf(out[i] - gate[i] / (1 + expf(-gate[i])) * up[i]) > 1e-4f) return 2;
  return my_swiglu_f32_contiguous(gate, up, out, -1, cols, 2) == 1 ? 0 : 1;
}
""")
    objects = [tmp_path / "my_swiglu_f32.o", tmp_path / "bitloom_rt.o"]
    run("gcc", "-c", "-O1", tmp_path / "bitloom_rt.c", "-o", objects[1])
    warnings = ("-Wall", "-Wextra", "-Werror")
    for compiler in (("gcc", "-std=c11"), ("g++", "-x", "c++", "-std=c++17")):
        run(*compiler, *warnings, "-c", tmp_path / "main.c", "-o", tmp_path / "main.o")
        run("g++", "-pthread", tmp_path / "main.o", *objects, "-lm", "-o", tmp_path / "main")
        run(tmp_path / "main")
    assert "bitloom" not in run("ldd", tmp_path / "main").replace(str(tmp_path), "")
