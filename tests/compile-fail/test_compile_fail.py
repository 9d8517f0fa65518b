"""Snippets that must not compile, each with a twin that must.

Without -DFAIL a snippet compiles; with it the first error is the one that its first lines name, for every compiler
("// error: …") or for one of them ("// clang++: …").
"""

import re
import resource
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SNIPPETS = sorted(Path(__file__).parent.glob("*.cpp"))
COMPILERS = {"clang++": "clang++-22", "g++": "g++"}


@pytest.fixture(scope="session")
def headers(tmp_path_factory):
    """A directory in which "bitloom/…" is found."""
    folder = tmp_path_factory.mktemp("include")
    (folder / "bitloom").symlink_to(ROOT)
    return folder


def compile_snippet(compiler, snippet, headers, *flags):
    command = [COMPILERS[compiler], "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", f"-I{headers}", *flags, snippet]
    return subprocess.run(command, capture_output=True, text=True)


def wanted_error(snippet, compiler):
    comment = []
    for line in snippet.read_text().splitlines():
        if not line.startswith("// "):
            break
        if re.match(r"// (error|clang\+\+|g\+\+): ", line):
            comment.append(line[3:])
        else:  # a long message goes on in the next line
            comment[-1] += " " + line[3:]
    errors = dict(line.split(": ", 1) for line in comment)
    return errors.get("error") or errors[compiler]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.stem)
def test_the_twin_compiles(snippet, compiler, headers):
    done = compile_snippet(compiler, snippet, headers)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.stem)
def test_the_first_error_says_what_is_expected(snippet, compiler, headers):
    done = compile_snippet(compiler, snippet, headers, "-DFAIL")
    assert done.returncode == 1
    errors = [line.split("error: ", 1)[1] for line in done.stderr.splitlines() if "error: " in line]
    # clang writes the condition between "static assertion failed" and the message
    message = re.sub(r"^static assertion failed( due to requirement '.*?')?: ", "", errors[0])
    assert message == wanted_error(snippet, compiler)
    assert re.search(rf"{snippet.name}:\d+:\d+", done.stderr), "expected the snippet's own line in the diagnostic"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_kernel_needs_no_header_of_the_compiler_and_seconds(compiler, headers, tmp_path):
    """Processor time, the least of three: a neighbour on the same core costs half as much again."""
    source = ROOT / "kernels" / "rms_norm" / "RmsNorm.cpp"
    command = [COMPILERS[compiler], "-std=c++20", "-O2", "-c", f"-I{headers}", "-MD", "-MF", tmp_path / "deps", source]

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "-o", tmp_path / "kernel.o"], check=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before.ru_utime

    least = min(seconds() for _ in range(3))
    included = (tmp_path / "deps").read_text().split()
    assert "dsl/Kernel.h" in " ".join(included)
    assert [path for path in included if re.search(r"/(mlir|llvm|llvm-c|mlir-c)/", path)] == []
    assert least < 3
