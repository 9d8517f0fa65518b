"""low_bit_matmul on each processor against the interpreter: every width, signed and unsigned, ragged."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BITLOOM = Path(__file__).resolve().parents[2] / "build" / "bin" / "bitloom"
VALUES = {1: 8, 2: 4, 3: 8, 4: 2, 5: 8, 6: 4, 7: 8, 8: 1}  # that share bytes
# The target; lanes and depth of a vector, biased fields; rows, columns in a group, rows of activations together; and
# where they are more than a unit's, rows of the weight together.
CASES = [
    ("host", 16, 4, "all", 9, 48, 1),
    ("x86-64-v3", 8, 2, "none", 3, 48, 1),
    ("x86-64-v3", 16, 1, "none", 3, 16, 1),
    ("aarch64", 16, 1, "low", 3, 16, 1),
    ("aarch64+dotprod", 4, 4, "low", 1, 32, 1),
    ("aarch64+dotprod", 4, 4, "none", 1, 16, 1),
    ("aarch64+dotprod", 4, 4, "low", 3, 16, 1),
    ("aarch64+dotprod", 4, 4, "none", 5, 48, 1),
    ("aarch64+dotprod", 4, 4, "low", 1, 128, 1, 64),
    ("aarch64+dotprod", 4, 4, "none", 1, 256, 1, 32),
    ("aarch64+dotprod+i8mm", 2, 8, "none", 17, 48, 8),
    ("aarch64+dotprod+i8mm", 2, 8, "none", 3, 16, 1),
    ("aarch64+dotprod+i8mm", 2, 8, "none", 16, 128, 8),
    ("aarch64+dotprod+i8mm", 2, 8, "none", 16, 512, 8),
    ("aarch64+dotprod+i8mm", 4, 4, "low", 1, 48, 1),
    # Units of 32, 64 bytes and more together.
    ("aarch64+sve2", 4, 4, "low", 1, 128, 1, 64),
    ("aarch64+sve2", 4, 4, "none", 1, 48, 1, 128),
    ("aarch64+sve2", 4, 4, "low", 5, 32, 1, 128),
    ("aarch64+i8mm+sve2", 4, 4, "none", 1, 32, 1, 128),
    ("aarch64+i8mm+sve2", 2, 8, "none", 16, 128, 8, 64),
    ("aarch64+i8mm+sve2", 2, 8, "none", 17, 48, 8, 32),
    ("aarch64+i8mm+sve2", 2, 8, "none", 3, 16, 1, 128),
]
EMULATED = shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-gcc")


@pytest.mark.parametrize("asymmetric", [0, 1], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", VALUES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-m{case[4]}-{case[3]}-g{case[5]}")
def test_products(case, bits, asymmetric):
    target, lanes, depth, bias, m, group, x_rows, *together = case
    if target.startswith("aarch64") and not EMULATED:
        pytest.skip("needs qemu-aarch64 and a cross compiler")
    if bias == "low" and bits == 8:
        bias = "none"
    rows = max(VALUES[bits] * lanes, *together, 16)
    sets = {"m": m, "n": rows + 5, "groups": 3, "group": group, "bits": bits, "lanes": lanes, "depth": depth}
    sets |= {"rows": rows, "biased_fields": ("none", "low", "all").index(bias), "x_rows": x_rows}
    sets |= {"asymmetric": asymmetric, "x_asymmetric": bits % 2}
    words = [f"{name}={value}" for name, value in sets.items()]
    command = [BITLOOM, "check", "low_bit_matmul", "--dtype", "bf16", "--target", target, "--set", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    lengths = 4 if target.endswith("sve2") else 1  # of vectors
    assert f"{lengths} checked, 0 wrong" in done.stdout
