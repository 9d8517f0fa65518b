"""Activations of 8 bits as tensor cores take them: every weight against float64, dynamic quantisation, refusals."""

import bitloom
import pytest
import torch
from bitloom.low_bit import byte_products
from bitloom.low_bit.formats import FORMATS
from bitloom.low_bit.numbers import pack_zeros
from test_low_bit import codes_of, dequantised, relative, values_of

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 9)] + ["ternary"]
EXACT_IN_E4M3 = [*(f"int{bits}" for bits in range(1, 6)), *(f"uint{bits}" for bits in range(1, 5)), "ternary"]
KINDS = {"int8": torch.int8, "e4m3_float8": torch.float8_e4m3fn}
LARGEST = {"int8": 127, "e4m3_float8": 448}


@pytest.fixture(autouse=True)
def few_rows_are_16(monkeypatch):
    """Up to which a packed weight is multiplied as it is: so small products take both ways."""
    monkeypatch.setattr(byte_products, "FEW_ROWS", 16)


def make(kind, name, n=17, k=199, **fields):
    """A product as on CUDA; its kernels run where the tensors are."""
    sums = "int32" if kind == "int8" else "float32"
    given = {"N": n, "K": k, "A_dtype": kind, "W_dtype": name, "accum_dtype": sums, "out_dtype": "float32"}
    config = bitloom.MatmulConfig(**given | fields)
    return config, bitloom.Matmul(config, target="cuda")


def quantised(x, kind):
    """What each row of x becomes, in f32 operation by operation: a number between two others may go either way."""
    x = x.float()
    scale = x.abs().amax(1, keepdim=True) / LARGEST[kind]
    q = x * (1 / scale)
    return (q.round() if kind == "int8" else q.to(KINDS[kind])).double() * scale.double()


def rounding(kind, device, else_=2e-6):
    """Relative error of sums in f32; of 8-bit floats Hopper's tensor cores keep some 14 bits of those in a block."""
    return 5e-4 if (kind, device) == ("e4m3_float8", "cuda") else else_


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_exact(name, device):
    """Also where sums pass 2^24, with the extremes of both operands."""
    for m, k in ((1, 17), (3, 4097), (70, 199)):
        _, matmul = make("int8", name, 33, k, out_dtype="int32")
        codes = codes_of(name, 33, k)
        codes[0], codes[1] = FORMATS[name].lowest, FORMATS[name].highest
        weight = codes.to(torch.int8) if name == "int8" else codes
        x = torch.randint(-128, 128, (m, k), dtype=torch.int8)
        x[0] = -128
        y = matmul(x.to(device), matmul.transform_weight(weight.to(device)))
        assert y.dtype == torch.int32 and torch.equal(y.cpu().long(), x.long() @ codes.t())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*EXACT_IN_E4M3, "fp4_e2m1", "e4m3_float8"])
def test_every_code_is_exact_in_e4m3(name, device):
    k = 64
    _, matmul = make("e4m3_float8", name, 17, k, with_scaling=True)
    codes = codes_of(name, 17, k)
    ones = torch.ones(17, 1, device=device)
    y = matmul(torch.eye(k, device=device).to(torch.float8_e4m3fn), matmul.transform_weight(codes.to(device)), ones)
    assert torch.equal(y.cpu().double(), values_of(name, codes).t())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("out", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("group", [-1, 16, 48, 64, 128])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("int8", "int8"), ("int8", "int4"), ("int8", "uint3"), ("int8", "uint8"), ("int8", "ternary")]
    + [("e4m3_float8", "e4m3_float8"), ("e4m3_float8", "int4"), ("e4m3_float8", "fp4_e2m1")],
)
def test_scaled(kind, name, group, out, device):
    """Bytes as they are, and floats that become bytes row by row: against the product of just those numbers."""
    config, matmul = make(kind, name, out_dtype=out, group_size=group, with_scaling=True, with_bias=True)
    torch.manual_seed(group)
    codes, scale, bias = codes_of(name, 17, 199), torch.rand(17, config.groups) + 0.5, torch.randn(17)
    scale = scale * 2**-6 if kind == "int8" else scale * 2**-10
    given = [each.to(device) for each in (matmul.transform_weight(codes), scale, bias)]
    matrix = dequantised(config, codes, scale)
    error = {"float32": rounding(kind, device), "float16": 1e-3, "bfloat16": 8e-3}[out]
    for m in (1, 3, 70):
        x = torch.randint(-8, 9, (m, 199)).to(KINDS[kind])
        y = matmul(x.to(device), given[0], given[1], bias=given[2])
        assert y.dtype == getattr(torch, out) and relative(y.cpu(), x.double() @ matrix.t() + bias) < error
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            floats = torch.randn(m, 199).to(dtype)
            y = matmul(floats.to(device), given[0], given[1], bias=given[2])
            assert relative(y.cpu(), quantised(floats, kind) @ matrix.t() + bias) < error
            assert torch.equal(matmul(floats.to(device), given[0], given[1], bias=given[2]), y)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["original", "rescale", "quantized"])
@pytest.mark.parametrize("group", [-1, 32])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("int8", name) for name in ("uint4", "int4", "uint8", "int8", "uint1", "int7")] + [("e4m3_float8", "uint4")],
)
def test_zeros(kind, name, group, mode, device):
    config, matmul = make(
        kind, name, 24, group_size=group, with_scaling=True, with_zeros=True, zeros_mode=mode, out_dtype="float32"
    )
    torch.manual_seed(2)
    codes, scale = codes_of(name, 24, 199), torch.rand(24, config.groups) + 0.1
    zeros = torch.randint(0, 1 << FORMATS[name].bits, (24, config.groups)).float()
    given = pack_zeros(zeros, FORMATS[name].bits) if mode == "quantized" else zeros + 0.25
    matrix = dequantised(config, codes, scale, zeros if mode == "quantized" else given)
    weight = matmul.transform_weight(codes.to(device))
    for m in (1, 40):
        x = torch.randint(-16, 17, (m, 199)).to(KINDS[kind])
        y = matmul(x.to(device), weight, scale.to(device), given.to(device))
        assert relative(y.cpu(), x.double() @ matrix.t()) < rounding(kind, device, 2e-5)
        floats = torch.randn(m, 199)
        y = matmul(floats.to(device), weight, scale.to(device), given.to(device))
        assert relative(y.cpu(), quantised(floats, kind) @ matrix.t()) < rounding(kind, device, 2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "out"), [("uint4", "int32"), ("int8", "int8"), ("int3", "float32")])
def test_whole_zeros_without_scales_are_exact(name, out, device):
    config, matmul = make("int8", name, 24, 199, group_size=64, with_zeros=True, out_dtype=out)
    codes, zeros = codes_of(name, 24, 199), torch.randint(-3, 9, (24, 4)).float()
    x = torch.randint(-128, 128, (9, 199), dtype=torch.int8)
    y = matmul(x.to(device), matmul.transform_weight(codes.to(device)), zeros=zeros.to(device))
    exact = x.double() @ dequantised(config, codes, torch.ones(24, 4), zeros).t()
    assert torch.equal(y.cpu().double(), exact.to(torch.int32).to(getattr(torch, out)).double())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_far_apart(kind, device):
    """Rows of zeros, of numbers without a finite inverse, of large ones: each has a scale of its own."""
    _, matmul = make(kind, kind, 8, 16, with_scaling=True)
    weight = torch.eye(16)[:8].to(KINDS[kind])
    x = torch.stack([torch.zeros(16), torch.full((16,), 1e-42), torch.arange(-8, 8.0) * 2e37, torch.arange(-8, 8.0)])
    y = matmul(x.to(device), matmul.transform_weight(weight.to(device)), torch.ones(8, 1, device=device)).cpu()
    assert torch.equal(y[0], torch.zeros(8)) and (y[1].abs() <= 1e-38).all()
    torch.testing.assert_close(y[2:], x[2:, :8], rtol=2**-4, atol=0 if kind == "e4m3_float8" else 8e35)
    x[2, 3] = float("nan")
    y = matmul(x.to(device), matmul.transform_weight(weight.to(device)), torch.ones(8, 1, device=device)).cpu()
    torch.testing.assert_close(y[3], x[3, :8], rtol=2**-4, atol=0.04)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["int3", "uint4"])
@pytest.mark.parametrize("zeros", [False, True])
def test_no_rows(zeros, name, kind, target):
    config, _ = make(kind, name, group_size=64, with_zeros=zeros, out_dtype="float16")
    matmul = bitloom.Matmul(config, target=target)
    weight = matmul.transform_weight(codes_of(name, 17, 199))
    numbers = torch.ones(17, 4) if zeros else None
    for x in (torch.empty(0, 199).to(KINDS[kind]), torch.empty(0, 199)):
        y = matmul(x, weight, None, numbers)
        assert y.shape == (0, 17) and y.dtype == torch.float16


def test_outputs_strides_and_nothing():
    config, matmul = make("int8", "int4", group_size=64, with_scaling=True, out_dtype="float16")
    codes, scale = codes_of("int4", 17, 199), torch.rand(17, 4) * 2**-4
    weight = matmul.transform_weight(codes)
    x = torch.randn(199, 3, 2).half().permute(2, 1, 0)  # not contiguous
    out = torch.empty(2, 3, 17, dtype=torch.float16)
    assert matmul(x, weight, scale, output=out) is out
    exact = quantised(x.reshape(6, 199), "int8") @ dequantised(config, codes, scale).t()
    assert relative(out.view(6, 17), exact) < 1e-3
    assert matmul(x[:0], weight, scale).shape == (0, 3, 17)
    compiled = torch.compile(lambda x: matmul(x, weight, scale), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), matmul(x, weight, scale))


def test_layer():
    config = {"A_dtype": "int8", "accum_dtype": "int32", "out_dtype": "float16", "with_scaling": True, "target": "cuda"}
    layer = bitloom.Linear(199, 17, W_dtype="int8", **config)
    w = torch.randn(17, 199) * 0.02
    found = bitloom.quantize(w, "int8", group_size=-1)
    layer.load_and_transform_weight(found.codes, found.scale)
    x = torch.randn(2, 5, 199).half()
    assert layer(x).dtype == torch.float16
    assert relative(layer(x).view(10, 17), x.view(10, 199).double() @ w.double().t()) < 2e-2


def kernels_of(matmul, x, weight, *numbers):
    return bitloom.explain(matmul, x, weight, *numbers).split("runs      ")[1].splitlines()[0]


def test_which_kernels_run():
    floats, whole = torch.randn(3, 199).half(), torch.ones(3, 199, dtype=torch.int8)
    ones, groups = torch.ones(17, 1), torch.ones(17, 4)

    def runs(x, kind, name, *numbers, **fields):
        _, matmul = make(kind, name, with_scaling=True, **fields)
        return kernels_of(matmul, x, matmul.transform_weight(codes_of(name, 17, 199)), *numbers)

    assert runs(whole, "int8", "int8", ones) == "matmul"
    assert runs(floats, "int8", "int8", ones) == "quantize_tokens, then matmul"
    assert runs(floats, "e4m3_float8", "e4m3_float8", ones) == "quantize_tokens, then matmul"
    assert runs(floats, "int8", "int4", ones) == "quantize_tokens, then low_bit_linear"
    assert (
        runs(whole.to(torch.float8_e4m3fn), "e4m3_float8", "int4", groups, group_size=64, out_dtype="float16")
        == "low_bit_linear"
    )
    many = floats.expand(17, 3, 199).reshape(51, 199)
    assert runs(many, "int8", "int4", ones) == "quantize_tokens, then low_bit_unpack, then matmul"
    unpacked = "low_bit_unpack, then group_scaled_matmul"  # results of f32 are too exact for scales of f16
    assert runs(whole, "int8", "int4", groups, group_size=64) == unpacked
    assert runs(whole, "int8", "int8", groups, group_size=64) == "group_scaled_matmul"
    assert runs(whole, "int8", "uint8", ones) == "matmul, then matmul"
    _, exact = make("int8", "int4", out_dtype="int32")
    weight = exact.transform_weight(codes_of("int4", 17, 199))
    assert kernels_of(exact, whole, weight) == "low_bit_linear"
    assert kernels_of(exact, whole.expand(17, 3, 199).reshape(51, 199), weight) == "low_bit_unpack, then matmul"
    _, long = make("int8", "uint7", 17, 2300, out_dtype="int32")  # sums of 1024 columns are below 2^24
    weight = long.transform_weight(codes_of("uint7", 17, 2300))
    assert kernels_of(long, whole[:, :1].expand(3, 2300), weight) == ", then ".join(["low_bit_linear"] * 3)


@pytest.mark.parametrize(
    ("kind", "name", "fields", "message"),
    [
        ("e4m3_float8", "int6", {}, "W_dtype: expected one of int1, int2, int3, int4, int5, uint1, uint2, uint3, "),
        ("e4m3_float8", "nf4", {}, " with an A of e4m3_float8, got 'nf4'"),
        ("e5m2_float8", "int4", {}, "W_dtype: expected e5m2_float8 with an A of e5m2_float8, got 'int4'"),
        ("e5m2_float8", "e5m2_float8", {"with_scaling": True, "out_dtype": "bfloat16"}, "with_scaling: expected False"),
        ("e5m2_float8", "e5m2_float8", {}, "out_dtype: expected bfloat16 with an A of e5m2_float8, got 'float32'"),
        ("int8", "fp4_e2m1", {}, "W_dtype: expected integers with an A of int8, got 'fp4_e2m1'"),
        ("e4m3_float8", "fp4_e2m1", {"with_zeros": True}, "with_zeros: expected False with a W of fp4_e2m1, got True"),
        ("e4m3_float8", "int4", {"group_size": 24}, "group_size: expected -1 or a multiple of 16, got 24"),
        ("e4m3_float8", "int4", {"out_dtype": "int32"}, "out_dtype: expected one of float32, float16, bfloat16"),
        ("int8", "int4", {"with_scaling": True, "out_dtype": "int32"}, "with an A of int8 and scales, got 'int32'"),
    ],
)
def test_refused_by_name(kind, name, fields, message):
    with pytest.raises(bitloom.UserError) as caught:
        make(kind, name, **fields)
    assert message in str(caught.value)


def test_mistakes_are_named():
    _, matmul = make("int8", "int8", with_scaling=True)
    weight, ones = matmul.transform_weight(codes_of("int8", 17, 199)), torch.ones(17, 1)
    with pytest.raises(bitloom.UserError, match="argument A: expected torch.bfloat16 or .*, got torch.int32"):
        matmul(torch.ones(3, 199, dtype=torch.int32), weight, ones)
    with pytest.raises(bitloom.UserError, match=r"argument W: expected torch.int8 of \(17, 208\)"):
        matmul(torch.ones(3, 199, dtype=torch.int8), weight[:, :199], ones)
    with pytest.raises(bitloom.UserError, match="argument scale: expected one, as with_scaling says, got none"):
        matmul(torch.ones(3, 199, dtype=torch.int8), weight)
    with pytest.raises(bitloom.UserError, match="expected codes of ternary, from -1 to 1, got 2"):
        make("int8", "ternary")[1].transform_weight(torch.full((17, 199), 2))
