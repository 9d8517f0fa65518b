"""The command line: what it prints, its exit codes, and what it says of mistakes."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BITLOOM = ROOT / "build" / "bin" / "bitloom"


def bitloom(*words, code=0, **environment) -> subprocess.CompletedProcess:
    command = [str(word) for word in (BITLOOM, *words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == code, done.stdout + done.stderr
    return done


def commands() -> list[str]:
    return re.findall(r"^  (\w+)  ", bitloom("--help").stdout, re.MULTILINE)


def build_library(folder: Path, source: str) -> Path:
    """A shared library of kernels, compiled as bitloom_add_kernels does."""
    (folder / "Mine.cpp").write_text(source)
    build = ROOT / "build"
    flags = ["-std=c++20", "-fPIC", "-shared", f"-I{build}/include", f"-L{build}/lib", f"-Wl,-rpath,{build}/lib"]
    subprocess.run(["clang++-22", *flags, folder / "Mine.cpp", "-lbitloom", "-o", folder / "libmine.so"], check=True)
    return folder / "libmine.so"


KERNEL = """#include <bitloom/dsl/Kernel.h>
using namespace bitloom;
struct Kernel {
  static constexpr auto name = "%s";
  static constexpr auto summary = "of a test";
  static constexpr auto tests = "n=8", benchmarks = "n=8";
  View<const f32, 1> x{"n"};
  View<f32, 1> out{"n"};
  BITLOOM_PARAMS(x, out)
  Grid grid() const { return {1}; }
  void operator()() const {
    %s
  }
};
BITLOOM_REGISTER(Kernel)
"""


# What it prints


def test_every_command_has_a_page():
    assert commands() == ["list", "inspect", "check", "bench", "tune", "build", "pack", "packing", "replay"]
    for command in commands():
        page = bitloom(command, "--help").stdout
        assert page.startswith(f"usage: bitloom {command}")
        assert page == bitloom("help", command).stdout
        assert max(map(len, page.splitlines())) <= 120


def test_list():
    table = bitloom("list").stdout.splitlines()
    assert table[0].split() == ["kernel", "dtypes", "what", "it", "computes"]
    rows = json.loads(bitloom("list", "--json").stdout)
    assert [row["name"] for row in rows] == [line.split()[0] for line in table[1:]]
    add = next(row for row in rows if row["name"] == "vector_add")
    assert add["variants"][0] == {
        "dtype": "f32",
        "parameters": [
            {"name": "x", "kind": "view", "dtype": "f32", "output": False, "shape": ["n"]},
            {"name": "y", "kind": "view", "dtype": "f32", "output": False, "shape": ["n"]},
            {"name": "out", "kind": "view", "dtype": "f32", "output": True, "shape": ["n"]},
            {"name": "block", "kind": "meta", "default": 1024},
        ],
    }
    norm = next(row for row in rows if row["name"] == "rms_norm")
    assert norm["variants"][0]["parameters"][3]["default"] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("stage", "target", "wanted"),
    [
        ("tile", "host", "tile.program_id 0"),
        ("layout", "aarch64", "vector<4xf32>"),
        ("layout", "sm_90a", "#tile.layout"),
        ("llvm", "x86-64-v3", "fadd <8 x float>"),
        ("asm", "aarch64", "fadd"),
        ("asm", "sm_90a", ".target sm_90a"),
    ],
)
def test_inspect(stage, target, wanted):
    text = bitloom("inspect", "vector_add", "--target", target, "--emit", stage, "--set", "block=64", "n=1000").stdout
    assert wanted in text


def test_set_and_dtype_reach_the_kernel():
    text = bitloom("inspect", "vector_add", "--dtype", "bf16", "--set", "block=96").stdout
    assert "tensor<96xbf16>" in text


def test_inspect_resumes_from_the_text_of_a_stage(tmp_path):
    for stage in ("tile", "layout"):
        bitloom("inspect", "softmax", "--target", "x86-64-v3", "--emit", stage, "-o", tmp_path / stage)
        again = bitloom("inspect", "--from", tmp_path / stage, "--target", "x86-64-v3", "--emit", "asm").stdout
        assert again == bitloom("inspect", "softmax", "--target", "x86-64-v3", "--emit", "asm").stdout


def test_check_compares_and_shows():
    out = bitloom("check", "vector_add", "--dtype", "i32", "--set", "n=17").stdout
    assert re.search(r"^vector_add +i32 +n=17 +host +0 differ +out +exact +ok$", out, re.MULTILINE)
    assert out.endswith("1 checked, 0 wrong\n")


def test_check_finds_what_is_wrong(tmp_path):
    """A body that records something else each time it is traced: for the interpreter, then for the compiler."""
    library = build_library(tmp_path, KERNEL % ("test_turns", "static int t; out(span(0, 8)) = x(span(0, 8)) + ++t;"))
    out = bitloom("check", library, code=1).stdout
    assert re.search(r"^test_turns +f32 +n=8 +host +\S+ +out +6.1e-05 +WRONG$", out, re.MULTILINE)
    assert re.search(
        r"^test_turns n=8 on host: out: 8 of 8 elements differ; element \d: expected .*, got", out, re.MULTILINE
    )
    assert out.endswith("1 checked, 1 wrong\n")


def test_bench_shows_the_floor():
    rows = json.loads(
        bitloom("bench", "vector_add", "--dtype", "f32", "--set", "n=100000", "--runs", "3", "--json").stdout
    )
    assert [row["bytes"] for row in rows] == [1200000]
    assert rows[0]["ms"] > 0 and rows[0]["copy_ms"] > 0
    table = bitloom("bench", "vector_add", "--dtype", "f32", "--set", "n=1000", "--runs", "1").stdout
    assert "copy GB/s" in table.splitlines()[0]


def test_packing():
    assert "1.3 1.2 1.1 1.0 0.3 0.2 0.1 0.0" in bitloom("packing", "bits=4,order=low,block=8").stdout


# Mistakes in the command line: exit code 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lst", "unknown command 'lst': did you mean 'list'? expected one of list, inspect, "),
        ("inspect rms_nrm", "unknown kernel 'rms_nrm': did you mean 'rms_norm'? expected one of "),
        ("inspect", "expected KERNEL or --from FILE, got neither"),
        ("check", "expected KERNEL or --all, got neither"),
        ("bench a b", "expected KERNEL alone, got 'b' too"),
        ("inspect vector_add --emitt tile", "unknown option '--emitt': did you mean '--emit'? expected one of "),
        ("inspect vector_add --emit", "option --emit: expected STAGE, got nothing"),
        ("inspect vector_add --emit tile --emit asm", "option --emit: expected it once, got 'tile' and 'asm'"),
        (
            "inspect vector_add --emit ptx",
            "unknown stage 'ptx': expected one of tile, layout, llvm, asm, sass, resources",
        ),
        ("inspect vector_add --emit sass", "--emit sass: expected a GPU as target, got "),
        (
            "inspect vector_add --target sm_90",
            "unknown target 'sm_90': did you mean 'sm_90a'? expected one of host, cuda, ",
        ),
        ("inspect vector_add --target host,sm_80", "expected one target, got 2"),
        ("inspect vector_add --dtype f8", "unknown dtype 'f8' of vector_add: expected one of f32, f16, bf16, i32"),
        ("inspect vector_add --set m=3", "vector_add: unknown name 'm': did you mean 'n'? expected one of n, block"),
        ("inspect vector_add --set n=many", "vector_add: n: expected an integer, got 'many'"),
        ("inspect vector_add --set n=-1", "vector_add: n: expected an extent of 0 or more, got -1"),
        ("inspect vector_add --set n", "expected NAME=NUMBER, got 'n'"),
        ("bench vector_add --runs 0", "option --runs: expected a number from 1 to 100000, got '0'"),
        ("list --json=yes", "option --json: expected no value, got 'yes'"),
        ("list ./absent.so", "could not load kernels from './absent.so': "),
        ("inspect ./absent.so", "expected LIBRARY.so:KERNEL, got './absent.so'"),
        ("packing bits=9,order=low,block=8", "expected 1 to 8 bits, got 9"),
        ("replay /absent", "expected a readable file, got '/absent'"),
        ("build vector_add --name f", "--name: expected --dtype beside it, since vector_add has 4 variants"),
        ("build vector_add --dtype f32 --name 1f", "--name: expected a name of C, got '1f'"),
    ],
)
def test_usage(words, message):
    done = bitloom(*words.split(), code=2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"bitloom: {message}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_no_words_show_the_commands():
    assert bitloom(code=2).stderr == bitloom("--help").stdout


# Mistakes in a kernel: exit code 1 and the user's own line


def test_wrong_extents_name_the_line(tmp_path):
    library = build_library(tmp_path, KERNEL % ("test_extents", "out(span(0, 8)) = x(span(0, 8)) + x(span(0, 4));"))
    done = bitloom("inspect", f"{library}:test_extents", code=1)
    assert done.stderr == (
        f"{tmp_path}/Mine.cpp:12: error: expected operands of one shape (or extents of 1), got [8] and [4]\n"
    )


def test_an_assertion_that_fails_names_the_line(tmp_path):
    library = build_library(tmp_path, KERNEL % ("test_assert", 'assert_(x(span(0, 8)) > 2.0f, "x is small");'))
    out = bitloom("check", f"{library}:test_assert", code=1).stdout
    assert re.search(rf"^{tmp_path}/Mine.cpp:12: error: .*x is small", out, re.MULTILINE), out


def test_a_kernel_that_is_not_in_the_library(tmp_path):
    library = build_library(tmp_path, KERNEL % ("test_scale", "out(span(0, 8)) = x(span(0, 8));"))
    done = bitloom("inspect", f"{library}:test_scal", code=2)
    assert done.stderr == (
        f"bitloom: unknown kernel 'test_scal' of {library}: did you mean 'test_scale'? expected one of test_scale\n"
    )
    shipped = bitloom("inspect", f"{library}:vector_add", code=2)
    assert f"unknown kernel 'vector_add' of {library}" in shipped.stderr


# Bugs of the compiler: the operation, its line, and a file to replay


def test_a_bug_leaves_a_reproducer(tmp_path):
    """No kernel is known to fail, so the text of one is given an operation that no pass expects."""
    text = """
#where = loc("scale.cpp":7:0)
func.func @scale(%x: !tile.view<?xf32>) attributes {tile.kernel} {
  %m = memref.alloca() : memref<4xf32> loc(#where)
  %c = arith.constant 0 : index
  %v = memref.load %m[%c] : memref<4xf32>
  %o = arith.constant 0 : i64
  tile.scatter %v, %x[%o] : f32, !tile.view<?xf32>, i64
  return
}
"""
    (tmp_path / "in.mlir").write_text(text)
    done = bitloom(
        "inspect", "--from", tmp_path / "in.mlir", "--emit", "asm", code=1, BITLOOM_REPRODUCER_DIR=str(tmp_path)
    )
    assert "internal compiler error: after stage 'tile' an operation is out of place: %" in done.stderr
    assert "memref.alloca" in done.stderr and "scale.cpp:7" in done.stderr
    saved = re.search(r"bitloom replay (\S+)", done.stderr)[1]
    assert Path(saved).parent == tmp_path
    again = bitloom("replay", saved, code=1)
    assert "memref.alloca" in again.stdout
    fixed = Path(saved).read_text()
    fixed = "\n".join(line for line in fixed.splitlines() if "memref" not in line and "scatter" not in line)
    Path(saved).write_text(fixed)
    assert "passes now" in bitloom("replay", saved).stdout


def test_replay_takes_reproducers_alone(tmp_path):
    (tmp_path / "other.mlir").write_text("module {}\n")
    assert str(tmp_path / "other.mlir") in bitloom("replay", tmp_path / "other.mlir", code=2).stderr


def test_verbose_says_which_code_runs_and_why():
    """On stderr, so that what a program reads on stdout stays as it is."""
    words = ("inspect", "low_bit_gemv", "--target", "aarch64+dotprod", "--set", "bits=3", "m=2", "n=5", "k=256")
    plain, told = bitloom(*words), bitloom(*words, "--verbose")
    assert plain.stderr == "" and told.stdout == plain.stdout
    for line in (
        "kernel     low_bit_gemv of f32, LowBitGemv.cpp",
        "features   dotprod",
        "meta       bits = 3, given; by default 4",
        "view       weight u8[5, 96]: elements of a row side by side, at multiples of 16 bytes",
    ):
        assert line + "\n" in told.stderr
    checked = bitloom("check", "vector_add", "--set", "n=17", "--dtype", "f32", "--target", "host", "--verbose")
    assert checked.stderr.startswith("kernel     vector_add of f32") and "1 checked, 0 wrong" in checked.stdout


def test_verbose_build_knows_no_alignment(tmp_path):
    done = bitloom("build", "rms_norm", "--dtype", "f32", "--target", "aarch64", "-o", tmp_path, "--verbose")
    assert "view       x f32[4096, 4096]: elements of a row side by side, aligned to its elements only\n" in done.stderr
