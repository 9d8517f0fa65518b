"""A user's own kernel, built with find_package(bitloom) against the build folder and against an installation."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(mine CXX)
find_package(bitloom 0.1 REQUIRED)
bitloom_add_kernels(mine ScaledAdd.cpp)
"""

FROM_PYTHON = """
import sys
import bitloom, numpy as np
assert bitloom.load_kernels(sys.argv[1]) == ["scaled_add"]
x = np.arange(5, dtype=np.float32)
assert bitloom.scaled_add(x, np.ones_like(x), a=2).tolist() == [1, 3, 5, 7, 9]
"""


def run(*command) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


def kernel_of_the_readme() -> str:
    """The first block of C++ in README.md."""
    return (ROOT / "README.md").read_text().split("```cpp\n")[1].split("```")[0]


@pytest.fixture(params=["build folder", "installation"])
def prefix(request, tmp_path) -> Path:
    if request.param == "build folder":
        return BUILD
    run("cmake", "--install", BUILD, "--prefix", tmp_path / "prefix")
    return tmp_path / "prefix"


def test_kernel_library(prefix, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT)
    (source / "ScaledAdd.cpp").write_text(kernel_of_the_readme())
    compiler = "-DCMAKE_CXX_COMPILER=clang++-22"
    run("cmake", "-G", "Ninja", "-S", source, "-B", tmp_path / "out", f"-DCMAKE_PREFIX_PATH={prefix}", compiler)
    run("cmake", "--build", tmp_path / "out")
    run(sys.executable, "-c", FROM_PYTHON, tmp_path / "out" / "libmine.so")
