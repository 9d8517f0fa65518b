"""bitloom.quantize: against `bitloom pack`'s own integers, what it reports, and what each method is better at."""

import bitloom
import numpy as np
import pytest
import torch
from bitloom.low_bit.formats import FORMATS


def weight_of(n=17, k=199, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kind", ["int", "uint"])
@pytest.mark.parametrize("group", [32, 199])
def test_the_integers_of_pack(tmp_path, bits, kind, group):
    """Groups that do not divide the row, rows of zeros and of one sign."""
    w = weight_of()
    w[0], w[1] = 0, w[1].abs()
    path = str(tmp_path / "w.blw")
    bitloom.write_packed(path, {"w": w}, bits=bits, group=group, asymmetric=kind == "uint")
    tensor = bitloom.PackedFile(path)["w"]
    found = bitloom.quantize(w, f"{kind}{bits}", group)
    codes = bitloom.unpack(np.array(tensor.weight), tensor.packing, signed=kind == "int")[:, :199]
    np.testing.assert_allclose(found.scale, np.asarray(tensor.scales), rtol=1e-6)
    if kind == "uint":
        np.testing.assert_array_equal(found.zeros, np.asarray(tensor.zeros))
    assert (found.codes.numpy() != codes).mean() < 1e-3  # a value halfway between two may go either way
    assert found.codes.dtype == (torch.int8 if kind == "int" else torch.uint8)


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.block is None])
@pytest.mark.parametrize("group", [-1, 48])
def test_reports_what_was_lost(name, group):
    """The report is the difference of what comes back, and a product computes with just that."""
    w = weight_of()
    found = bitloom.quantize(w, name, group)
    d, report = found.dequantize(), found.report
    width = 199 if group == -1 else group
    assert report.relative == pytest.approx(((d - w).norm() / w.norm()).item(), rel=1e-5)
    assert report.largest == pytest.approx((d - w).abs().max().item(), rel=1e-6)
    assert report.groups.shape == (17, -(-199 // width))
    here = slice(width * (report.groups.shape[1] - 1), None)
    expected = (d - w)[:, here].norm(dim=1) / w[:, here].norm(dim=1)
    torch.testing.assert_close(report.groups[:, -1], expected, rtol=1e-4, atol=1e-7)
    assert str(report).startswith(f"relative error {report.relative:.3g}, worst group ")

    config = bitloom.MatmulConfig(
        N=17, K=199, A_dtype="float32", W_dtype=name, out_dtype="float32", group_size=group, with_scaling=True,
        with_zeros=found.zeros is not None,
    )  # fmt: skip
    matmul = bitloom.Matmul(config, target="cpu")
    y = matmul(torch.eye(199), matmul.transform_weight(found.codes), found.scale, found.zeros)
    torch.testing.assert_close(y, d.t(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["int", "uint"])
def test_more_bits_lose_less(kind):
    w = weight_of(33, 256)
    lost = [bitloom.quantize(w, f"{kind}{bits}", 64).report.relative for bits in range(2, 9)]
    assert all(more < 0.62 * less for less, more in zip(lost, lost[1:]))
    assert bitloom.quantize(w, f"{kind}8", 64).report.relative < 0.01


@pytest.mark.parametrize("name", ["nf4", "fp4_e2m1", "e4m3_float8", "e5m2_float8"])
def test_tables_take_the_nearest(name):
    w, row = weight_of(), FORMATS[name]
    found = bitloom.quantize(w, name, 199)
    table = torch.tensor(row.values)
    table = table[table.isfinite()]
    nearest = (w[:, :, None] / found.scale[:, :, None] - table).abs().amin(-1) * found.scale
    torch.testing.assert_close((found.dequantize() - w).abs(), nearest, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("bits", range(1, 9))
def test_half_quadratic(bits):
    """Better than it starts from in its own measure, in every group; the zero points are no whole numbers."""
    w = weight_of(33, 200)
    w[:, ::50] *= 8  # outliers
    plain, found = (bitloom.quantize(w, f"uint{bits}", 64, method) for method in ("minmax", "hqq"))

    def lost(quantized):
        return (quantized.dequantize() - w).abs().pow(0.7)

    for first in range(0, 200, 64):
        here = slice(first, first + 64)
        assert (lost(found)[:, here].sum(1) <= lost(plain)[:, here].sum(1) * (1 + 1e-5)).all()
    assert lost(found).sum() < 0.999 * lost(plain).sum()
    assert torch.equal(found.scale, plain.scale) and (found.zeros != found.zeros.round()).any()


def test_ternary_and_zero_rows():
    w = torch.tensor([[0.5, -2.0, 1.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = bitloom.quantize(w, "ternary", -1)
    assert found.codes.tolist() == [[0, -1, 1, 0], [0, 0, 0, 0]] and found.scale.tolist() == [[1.0], [0.0]]
    assert found.report.groups.tolist()[1] == [0.0]
    for name in FORMATS:
        assert (bitloom.quantize(w[1:], name).dequantize() == 0).all()
    half = bitloom.quantize(w.bfloat16(), "int8")
    assert torch.equal(half.codes, bitloom.quantize(w, "int8").codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 4), "int9"), "W_dtype: expected one of int1, int2"),
        ((torch.ones(3, 4), "int4", 128, "gptq"), "argument method: expected minmax or hqq, got 'gptq'"),
        ((torch.ones(3, 4), "int4", 128, "hqq"), "argument W_dtype: expected uint1 to uint8 with hqq, got int4"),
        ((torch.ones(3, 4), "int4", 0), "argument group_size: expected -1 or a number of 1 or more, got 0"),
        ((torch.ones(4),), "expected a matrix of float32, float16 or bfloat16, got torch.float32 of (4,)"),
        ((torch.ones(3, 4).double(),), "got torch.float64 of (3, 4)"),
        ((torch.ones(0, 4),), "expected elements, got shape (0, 4)"),
        ((torch.tensor([[torch.inf]]),), "expected finite values, got an infinity or a NaN"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(bitloom.UserError) as caught:
        bitloom.quantize(*arguments)
    assert message in str(caught.value)
