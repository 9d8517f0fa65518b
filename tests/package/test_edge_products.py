"""Products with packed weights, built ahead of time: one weight for all AArch64 processors, each with its own code."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("aarch64", "aarch64+dotprod", "aarch64+i8mm", "aarch64+sve2", "aarch64+i8mm+sve2")  # weaker first
PROCESSORS = [
    ("cortex-a57", "aarch64"),
    ("a64fx", "aarch64"),  # SVE, but not SVE2
    ("cortex-a76", "aarch64+dotprod"),
    ("neoverse-n1", "aarch64+dotprod"),
    ("max,sve=off", "aarch64+i8mm"),
    *((f"max,sve-default-vector-length={length}", "aarch64+i8mm+sve2") for length in (16, 32, 64, 256)),
]
# Bits; rows of the activations; of the weight: lanes, depth, rows together, whether low fields are biased.
SHAPES = [(4, 1, 4, 4, 64, 1), (4, 17, 2, 8, 16, 0), (6, 1, 4, 4, 64, 1), (7, 17, 2, 8, 64, 0)]

pytestmark = pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")), reason="no cross compiler or emulator"
)


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"w{shape[0]}-m{shape[1]}")
def program(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("products")
    bits, m, lanes, depth, rows, biased = request.param
    sets = {"m": m, "bits": bits, "group": 32, "lanes": lanes, "depth": depth, "rows": rows}
    words = [f"{name}={value}" for name, value in (sets | {"biased_fields": biased}).items()]
    build = (ROOT / "build" / "bin" / "bitloom", "build", "low_bit_matmul", "--dtype", "bf16")
    run(*build, "--target", ",".join(TARGETS), "--set", *words, "-o", folder)
    names = {"BITS": bits, "M": m, "LANES": lanes, "DEPTH": depth, "ROWS": rows, "BIASED": biased}
    defines = [f"-D{name}={value}" for name, value in names.items()]
    sources = [Path(__file__).parent / "products.c", *folder.glob("*.c"), *folder.glob("*.o")]
    compiler = ("aarch64-linux-gnu-gcc", "-O1", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-I", folder)
    run(*compiler, *defines, "-o", folder / "products", *sources)
    return folder / "products"


@pytest.mark.parametrize(("processor", "target"), PROCESSORS, ids=[processor for processor, _ in PROCESSORS])
def test_every_processor_has_exact_sums(program, processor, target):
    assert run("qemu-aarch64", "-cpu", processor, program).strip() == target
