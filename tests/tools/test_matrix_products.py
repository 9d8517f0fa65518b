"""Products of matrices by instructions of AArch64: under qemu against the interpreter, ragged, either way round."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BITLOOM = Path(__file__).resolve().parents[2] / "build" / "bin" / "bitloom"
EMULATED = shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-gcc")


def bitloom(*words, **options):
    done = subprocess.run([BITLOOM, *words], capture_output=True, text=True, env=os.environ, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not EMULATED, reason="needs qemu-aarch64 and a cross compiler")
@pytest.mark.parametrize(
    "dtype, target",
    [
        ("bf16", "bf16"),
        ("bf16/f32", "bf16"),
        ("i8/i32", "i8mm"),
        # In vectors of any length, each of four.
        ("f32", "sve2"),
        ("f16", "sve2"),
        ("bf16", "bf16+sve2"),
        ("bf16/f32", "bf16+sve2"),
        ("i8/i32", "i8mm+sve2"),
    ],
)
def test_matmul(dtype, target):
    said = bitloom("check", "matmul", "--dtype", dtype, "--target", f"aarch64+{target}")
    assert re.search(r"\b[1-9]\d* checked, 0 wrong", said), said


@pytest.mark.skipif(not EMULATED, reason="needs qemu-aarch64 and a cross compiler")
@pytest.mark.parametrize("kernel", ["vector_add", "softmax"])
def test_bf16_under_masks(kernel):
    """LLVM has masked loads and stores of NEON's vectors of bf16 only without SVE."""
    said = bitloom("check", kernel, "--dtype", "bf16", "--target", "aarch64+bf16+sve2")
    assert re.search(r"\b[1-9]\d* checked, 0 wrong", said), said


@pytest.mark.parametrize(
    "dtype, attributes, instruction",
    [
        ("bf16/f32", "", "bfmmla"),
        ("i8/i32", "", "smmla"),
        ("i8/i32", "{unsignedA} ", "usmmla"),
        ("i8/i32", "{unsignedA, unsignedB} ", "ummla"),
        ("i8/i32", "{unsignedB} ", "mla"),
    ],
)
def test_each_its_instruction(tmp_path, dtype, attributes, instruction):
    sizes = ("--set", "m=64", "n=64", "k=64")
    text = bitloom("inspect", "matmul", "--dtype", dtype, "--target", "aarch64", "--emit", "tile", *sizes)
    dot = re.compile(r"(tile\.dot [^:]*): tensor")
    file = tmp_path / "matmul.mlir"
    file.write_text(dot.sub(rf"\1{attributes}: tensor", text))
    assembly = bitloom("inspect", "--from", file, "--target", "aarch64+bf16+i8mm", "--emit", "asm")
    used = {word for word in assembly.split() if word.endswith("mla") and not word.startswith("f")}
    assert used == {instruction}
    assembly = bitloom("inspect", "--from", file, "--target", "aarch64+bf16+i8mm+sve2", "--emit", "asm")
    of_any_length = {mnemonic for mnemonic in re.findall(r"\t(\w*mmla)\tz", assembly)}
    assert of_any_length == ({instruction} if instruction != "mla" else set())


def test_sums_of_f16(tmp_path):
    sizes = ("--set", "m=64", "n=64", "k=64")
    text = bitloom("inspect", "matmul", "--dtype", "i8/i32", "--target", "aarch64", "--emit", "tile", *sizes)
    file = tmp_path / "matmul.mlir"
    file.write_text(text.replace("xi8", "xf16").replace("xi32", "xf16").replace("dense<0>", "dense<0.0>"))
    assembly = bitloom("inspect", "--from", file, "--target", "aarch64+fullfp16", "--emit", "asm")
    assert assembly.count("fmla\tv") == sum(".8h" in line for line in assembly.splitlines() if "fmla\tv" in line) > 0
