"""Weights whose format has scales for blocks of columns: the MX formats and NVFP4."""

import bitloom
import pytest
import torch
from bitloom.low_bit.formats import FORMATS
from test_low_bit import ERRORS, TORCH, codes_of, relative
from test_low_bit_bytes import DEVICES, quantised

LEVELS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
BLOCKS = {"mxfp4": 32, "mxfp8_e4m3": 32, "mxfp8_e5m2": 32, "nvfp4": 16}
LARGEST = {"mxfp4": 6.0, "mxfp8_e4m3": 448.0, "mxfp8_e5m2": 57344.0, "nvfp4": 6.0}


def make(name, k=199, **fields):
    given = {"N": 17, "K": k, "A_dtype": "float32", "W_dtype": name, "out_dtype": "float32"} | fields
    config = bitloom.MatmulConfig(**given)
    return config, bitloom.Matmul(config, target="cpu")


def values_of(name, codes):
    if name.endswith("fp4"):
        return torch.tensor([*LEVELS, *(-level for level in LEVELS)], dtype=torch.float64)[codes]
    kind = torch.float8_e4m3fn if name.endswith("e4m3") else torch.float8_e5m2
    return codes.to(torch.uint8).view(kind).double()


def scales_of(name, groups):
    """As files have them, and in float64."""
    if name == "nvfp4":
        stored = (torch.rand(17, groups) * 4 + 0.1).to(torch.float8_e4m3fn)
        return stored, stored.double()
    stored = torch.randint(120, 131, (17, groups), dtype=torch.uint8)
    return stored, torch.exp2(stored.double() - 127)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "e4m3_float8"])
@pytest.mark.parametrize("name", BLOCKS)
def test_products(name, dtype, device):
    if dtype == "e4m3_float8" and name == "mxfp8_e5m2":
        pytest.skip("refused, which another test sees")
    out = "float32" if dtype == "e4m3_float8" else dtype
    config, matmul = make(name, A_dtype=dtype, out_dtype=out)
    assert (config.group_size, config.with_scaling) == (BLOCKS[name], True)
    torch.manual_seed(3)
    codes, groups = codes_of(name, 17, 199), -(-199 // BLOCKS[name])
    stored, scale = scales_of(name, groups)
    if name == "mxfp8_e5m2":
        scale, stored = scale * 2.0**-10, stored - 10
    matrix = values_of(name, codes) * scale.repeat_interleave(BLOCKS[name], 1)[:, :199]
    weight = matmul.transform_weight(codes.to(device))
    whole = torch.tensor(0.25)
    for m in (1, 9, 70):
        x = torch.randn(m, 199).to(TORCH.get(dtype, torch.float32))
        exact = (quantised(x, dtype) if dtype == "e4m3_float8" else x.double()) @ matrix.t()
        assert relative(matmul(x.to(device), weight, stored.to(device)).cpu(), exact) < 2 * ERRORS[out]
        given = matmul.transform_scale(stored.to(device), whole.to(device))
        assert relative(matmul(x.to(device), weight, given).cpu(), exact / 4) < 2 * ERRORS[out]


def test_bytes_of_powers_of_two_are_read_so():
    _, matmul = make("mxfp4", 64)
    weight = matmul.transform_weight(torch.full((17, 64), 2))  # ones
    stored = torch.tensor([[0, 254]], dtype=torch.uint8).expand(17, 2).contiguous()
    y = matmul(torch.eye(64)[[0, 63]], weight, stored)
    assert (y[0] == 2.0**-127).all() and (y[1] == 2.0**127).all()
    assert torch.equal(matmul(torch.eye(64)[[0, 63]], weight, stored.view(torch.float8_e8m0fnu)), y)


@pytest.mark.parametrize("name", BLOCKS)
def test_quantised_blocks(name):
    """Every code is the nearest for the scale, which is one that the format stores."""
    w = torch.randn(17, 199, generator=torch.Generator().manual_seed(1)) * 0.05
    w[2, :64] = 0
    found = bitloom.quantize(w, name)
    block = BLOCKS[name]
    assert found.group_size == block and found.scale.shape == (17, -(-199 // block))
    parts = torch.nn.functional.pad(w, (0, -199 % block)).view(17, -1, block)
    largest = parts.abs().amax(-1).double()
    scale = found.scale.double()
    if name == "nvfp4":
        one = w.abs().max().item() / 6 / 448
        stored = scale / one
        assert relative(stored.float().to(torch.float8_e4m3fn), stored) < 1e-6
        some = largest > 0
        torch.testing.assert_close(scale[some], (largest / 6)[some], rtol=2**-4, atol=0)
    else:
        exponent = torch.frexp(torch.tensor(LARGEST[name]))[1] - 1
        expected = torch.exp2(torch.frexp(largest)[1] - 1 - exponent)
        assert found.scale.dtype == torch.float8_e8m0fnu
        assert torch.equal(scale, torch.where(largest > 0, expected.double(), 1.0))
    d = found.dequantize()
    assert torch.equal(d[2, :64], torch.zeros(64))
    spread = scale.repeat_interleave(block, 1)[:, :199].clamp(min=1e-30)
    table = torch.tensor(FORMATS[name].values, dtype=torch.float64)
    table = table[table.isfinite()]
    nearest = ((w / spread)[..., None] - table).abs().amin(-1) * spread
    torch.testing.assert_close((d - w).abs().double(), nearest, rtol=1e-4, atol=1e-7)
    _, matmul = make(name)
    y = matmul(torch.eye(199), matmul.transform_weight(found.codes), found.scale)
    torch.testing.assert_close(y, d.t(), rtol=1e-6, atol=1e-8)


def test_layer():
    layer = bitloom.Linear(199, 17, A_dtype="float32", W_dtype="mxfp4", out_dtype="float32", target="cpu")
    w = torch.randn(17, 199) * 0.05
    found = bitloom.quantize(w, "mxfp4")
    x = torch.randn(3, 199)
    for scale in (found.scale, found.scale.view(torch.uint8)):
        layer.load_and_transform_weight(found.codes, scale)
        torch.testing.assert_close(layer(x), x @ found.dequantize().t(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group_size": 16}, "group_size: expected 32 with a W of mxfp4, got 16"),
        ({"with_zeros": True}, "with_zeros: expected False with a W of mxfp4, got True"),
        ({"A_dtype": "int8", "accum_dtype": "int32"}, "W_dtype: expected integers with an A of int8, got 'mxfp4'"),
        ({"A_dtype": "e4m3_float8", "W_dtype": "mxfp8_e5m2"}, " with an A of e4m3_float8, got 'mxfp8_e5m2'"),
        ({"W_dtype": "nvfp4", "group_size": 32}, "group_size: expected 16 with a W of nvfp4, got 32"),
        ({"W_dtype": "mxfp6"}, "W_dtype: expected one of int1, int2"),
    ],
)
def test_refused_by_name(fields, message):
    with pytest.raises(bitloom.UserError) as caught:
        make("mxfp4", **fields) if "W_dtype" not in fields else make(fields.pop("W_dtype"), **fields)
    assert message in str(caught.value)


def test_mistakes_are_named():
    _, matmul = make("mxfp4")
    weight = matmul.transform_weight(torch.zeros(17, 199, dtype=torch.int8))
    with pytest.raises(bitloom.UserError, match="argument scale: expected one, as with_scaling says, got none"):
        matmul(torch.ones(3, 199), weight)
    with pytest.raises(bitloom.UserError, match=r"argument scale: expected shape \(17, 7\), got \(17, 13\)"):
        matmul(torch.ones(3, 199), weight, torch.ones(17, 13))
    with pytest.raises(bitloom.UserError, match="argument scale: expected floats, got torch.int32"):
        matmul(torch.ones(3, 199), weight, torch.ones(17, 7, dtype=torch.int32))
    with pytest.raises(bitloom.UserError, match="argument group_size: expected 32 of mxfp4, got 64"):
        bitloom.quantize(torch.ones(2, 64), "mxfp4", 64)
