"""bitloom.explain: which code a call runs, and why."""

import bitloom
import numpy as np
import pytest


def lines(text, word):
    return [line.split(None, 1)[1] for line in text.splitlines() if line.split()[0] == word]


def test_of_a_call():
    x, weight = np.ones((3, 199), np.float32), np.ones(199, np.float32)
    text = bitloom.explain(bitloom.rms_norm, x, weight, block=64, block_rows=1, eps=1e-3, target="x86-64")
    assert lines(text, "kernel") == ["rms_norm of f32, RmsNorm.cpp"]
    assert lines(text, "target")[0].startswith("x86-64: 16 vector registers of 128 bits")
    assert lines(text, "features") == ["none beyond x86-64"]
    assert lines(text, "sizes") == ["rows = 3, cols = 199"]
    assert "block = 64, given; by default 256" in lines(text, "meta")
    assert "resident = 0, the default: cols <= block" in lines(text, "meta")
    assert lines(text, "view")[0] == "x f32[3, 199]: elements of a row side by side, aligned to its elements only"
    assert lines(text, "grid") == [f"3 programs, on up to {bitloom.num_threads()} threads"]
    strided = bitloom.explain("rms_norm", x=np.ones((199, 3), np.float32).T, weight=weight)
    assert lines(strided, "view")[0] == "x f32[3, 199]: any stride, aligned to its elements only"
    assert lines(bitloom.explain("rms_norm", x, weight, target="interpreter"), "target") == [
        "the interpreter, as use_target says"
    ]


@pytest.mark.parametrize(
    ("target", "chosen", "instruction"),
    [
        (
            "sm_90a",
            "wgmma on bf16, since sm_90a has it and the tile fills it",
            "wgmma.mma_async.sync.aligned.m64n128k16",
        ),
        ("sm_80", "mma.sync on bf16, since sm_80 has no wgmma", "mma.sync.aligned.m16n8k16"),
        ("x86-64-v4", "4 rows by 4 vectors of 16 columns at once", "vfmadd231ps zmm"),
        ("x86-64-v3", "4 rows by 2 vectors of 8 columns at once", "vfmadd231ps ymm"),
        ("aarch64", "4 rows by 4 vectors of 4 columns at once", "fmla"),
    ],
)
def test_what_a_product_becomes(target, chosen, instruction):
    text = bitloom.explain("matmul", target=target, dtype="bf16")
    assert sum(chosen in line for line in lines(text, "chosen")) == 1
    assert instruction in lines(text, "code")[0]
    reason = [line for line in lines(text, "chosen") if chosen in line][0]
    assert reason.startswith("Matmul.cpp:")


def test_products_that_tensor_cores_do_not_take():
    text = bitloom.explain("matmul", target="sm_90a", dtype="f32")
    assert any(
        "on the general-purpose cores, since the tensor cores of sm_90a take no" in c for c in lines(text, "chosen")
    )
    assert "fma.rn.f32" in lines(text, "code")[0]
    assert any(
        "wgmma on tf32" in c for c in lines(bitloom.explain("matmul", target="sm_90a", dtype="f32", tf32=1), "chosen")
    )


def test_mistakes():
    with pytest.raises(bitloom.UserError, match="unknown kernel"):
        bitloom.explain("rms_nrom")
    with pytest.raises(bitloom.UserError, match="expected the arrays to say the element types"):
        bitloom.explain("rms_norm", np.ones((1, 2)), dtype="f32")
