"""Products of matrices by AArch64's instructions for them, under qemu against the interpreter: ragged, either way round."""

import os
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
@pytest.mark.parametrize("dtype, target", [("bf16", "bf16"), ("bf16/f32", "bf16"), ("i8/i32", "i8mm")])
def test_matmul(dtype, target):
    said = bitloom("check", "matmul", "--dtype", dtype, "--target", f"aarch64+{target}")
    assert "11 checked, 0 wrong" in said


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
    lines = [line.replace(" : tensor", f" {attributes}: tensor", 1) if "tile.dot" in line else line
             for line in text.splitlines()]  # fmt: skip
    file = tmp_path / "matmul.mlir"
    file.write_text("\n".join(lines))
    assembly = bitloom("inspect", "--from", file, "--target", "aarch64+bf16+i8mm", "--emit", "asm")
    used = {word for word in assembly.split() if word.endswith("mla") and not word.startswith("f")}
    assert used == {instruction}
