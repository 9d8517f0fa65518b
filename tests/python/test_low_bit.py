"""bitloom.Matmul: every format against float64, refusals, and BitBLAS's spelling."""

import copy
import inspect
import pickle
import types

import bitloom
import numpy as np
import pytest
import torch
from bitloom.low_bit import fragments
from bitloom.low_bit.formats import E2M1, FORMATS, NF4
from bitloom.low_bit.numbers import pack_zeros
from torch._subclasses import FakeTensorMode

TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ERRORS = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


def make(**fields):
    config = bitloom.MatmulConfig(**{"N": 17, "K": 199, "A_dtype": "float32", "out_dtype": "float32"} | fields)
    return config, bitloom.Matmul(config, target="cpu")


def codes_of(name, n, k, seed=0):
    """Every code that stands for a number, over and over."""
    row = FORMATS[name]
    codes = torch.arange(row.lowest, row.highest + 1)
    if row.values:
        codes = codes[torch.tensor(row.values).isfinite()]
    shuffled = codes.repeat(n * k // len(codes) + 1)[: n * k]
    return shuffled[torch.randperm(n * k, generator=torch.Generator().manual_seed(seed))].view(n, k)


def values_of(name, codes):
    """Written down here once more, apart from what bitloom has."""
    if name == "nf4":
        return torch.tensor(NF4, dtype=torch.float64)[codes]
    if name == "fp4_e2m1":
        return torch.tensor([*E2M1, *(-v for v in E2M1)], dtype=torch.float64)[codes]
    if name.endswith("float8"):
        kind = torch.float8_e4m3fn if name.startswith("e4m3") else torch.float8_e5m2
        return codes.to(torch.uint8).view(kind).double()
    return codes.double()


def dequantised(config, codes, scale=None, zeros=None):
    def spread(numbers):
        return numbers.double().repeat_interleave(config.group, 1)[:, : config.K]

    values = values_of(config.W_dtype, codes)
    scales = torch.ones(1, 1) if scale is None else spread(scale)
    if zeros is None:
        return values * scales
    if config.zeros_mode == "rescale":
        return values * scales - spread(zeros)
    return (values - spread(zeros)) * scales


def relative(result, expected):
    return ((result.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.block is None])
def test_every_code_decodes_exactly(name):
    """Rows of the identity: the values themselves, by each of the roads."""
    k = 192
    config, matmul = make(N=17, K=k, W_dtype=name)
    codes = codes_of(name, 17, k)
    weight = matmul.transform_weight(codes)
    assert weight.dtype == torch.int8 and list(weight.shape) == matmul.retrieve_weight_shape()
    for rows in (3, k):
        y = matmul(torch.eye(k)[:rows], weight)
        assert torch.equal(y.double(), values_of(name, codes).t()[:rows])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["int4", "uint3", "nf4", "e4m3_float8", "ternary"])
@pytest.mark.parametrize("group", [-1, 8, 48, 128, 512])
def test_scaled(name, dtype, group):
    """Ragged M, N and K; groups that are no power of two, and longer than the row."""
    config, matmul = make(
        A_dtype=dtype, out_dtype=dtype, accum_dtype="float32", W_dtype=name, group_size=group, with_scaling=True
    )
    torch.manual_seed(group)
    codes, scale = codes_of(name, 17, 199), (torch.rand(17, config.groups) + 0.5).to(TORCH[dtype])
    weight = matmul.transform_weight(codes)
    for m in (1, 3, 67):
        x = torch.randn(m, 199).to(TORCH[dtype])
        expected = x.double() @ dequantised(config, codes, scale).t()
        y = matmul(x, weight, scale)
        assert y.dtype == TORCH[dtype] and relative(y, expected) < ERRORS[dtype]
        assert torch.equal(matmul(x, weight, scale), y)


@pytest.mark.parametrize("mode", ["original", "rescale", "quantized"])
@pytest.mark.parametrize("name", [f"{kind}{bits}" for kind in ("uint", "int") for bits in range(1, 9)])
def test_zeros(mode, name):
    config, matmul = make(
        N=24, W_dtype=name, group_size=32, with_scaling=True, with_zeros=True, zeros_mode=mode, with_bias=True
    )
    torch.manual_seed(1)
    codes, scale, bias = codes_of(name, 24, 199), torch.rand(24, 7), torch.randn(24)
    scale[3, 2] = 0
    zeros = torch.randint(0, 1 << FORMATS[name].bits, (24, 7)).float()
    given = pack_zeros(zeros, FORMATS[name].bits) if mode == "quantized" else zeros
    weight = matmul.transform_weight(codes)
    for m in (1, 65):
        x = torch.randn(m, 199)
        expected = x.double() @ dequantised(config, codes, scale, zeros).t() + bias
        assert relative(matmul(x, weight, scale, given, bias), expected) < 3e-6


@pytest.mark.parametrize("name", [f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 9)] + ["ternary"])
@pytest.mark.parametrize("fixed", [False, True])
def test_integers_are_exact(name, fixed):
    """Also where sums pass 2^24, with the extremes of both operands."""
    for m, k in ((1, 17), (3, 4097), (9, 199)):
        config = bitloom.MatmulConfig(
            M=m if fixed else None,
            **{"N": 33, "K": k, "A_dtype": "int8", "W_dtype": name, "out_dtype": "int32", "accum_dtype": "int32"},
        )
        matmul = bitloom.Matmul(config, target="cpu")
        codes = codes_of(name, 33, k)
        codes[0], codes[1] = FORMATS[name].lowest, FORMATS[name].highest
        x = torch.randint(-128, 128, (m, k), dtype=torch.int8)
        x[0] = -128
        weight = codes.to(torch.int8) if name == "int8" else codes
        y = matmul(x, matmul.transform_weight(weight))
        assert y.dtype == torch.int32 and torch.equal(y.long(), x.long() @ codes.t())


@pytest.mark.parametrize(
    ("bits", "dtype"), [*((bits, torch.float32) for bits in range(1, 9)), (4, torch.float16), (4, torch.bfloat16)]
)
def test_one_row_becomes_bytes_in_the_product(bits, dtype):
    """low_bit_matvec is quantize_rows and low_bit_matmul, bit for bit, however many programs there are."""
    packing = bitloom.Packing.for_target("host", bits, 1)
    sets = {"bits": bits, "lanes": packing.lanes, "depth": packing.block, "rows": packing.rows}
    sets |= {"biased_fields": ("none", "low", "all").index(packing.bias)}
    for n, k, group in ((1, 1, 16), (17, 199, 48), (515, 4097, 128)):
        groups, panels = -(-k // group), -(-n // packing.rows)
        row_bytes = groups * group * packing.rows * bits // 8
        weight = torch.randint(0, 256, (panels, row_bytes), dtype=torch.uint8)
        scales, zeros, x = torch.rand(groups, n), torch.rand(groups, n), torch.randn(1, k).to(dtype)
        q, x_scales, sums = bitloom.quantize_rows(x, group=group)
        for given in ({}, {"zeros": zeros}):
            y = bitloom.low_bit_matmul(q, weight, scales, x_scales, x_sums=sums, group=group, **sets, **given)
            for each in {1, panels}:
                one, bytes_of_all, _ = bitloom.low_bit_matvec(
                    x, weight, scales, group=group, panels=each, **sets, **given
                )
                assert torch.equal(one, y)
                assert torch.equal(bytes_of_all, q.expand(-(-panels // each), -1))


def test_one_row_of_nearly_nothing():
    """A scale whose inverse would be infinite is none."""
    for x in (torch.zeros(1, 33), torch.full((1, 33), 1e-44)):
        q, scales, sums = bitloom.quantize_rows(x, group=16)
        assert scales.item() == 1 and not q.any() and not sums.any()


@pytest.mark.parametrize("name", ["int4", "uint2", "int8", "uint5"])
@pytest.mark.parametrize("group", [-1, 48, 64])
def test_bytes_with_scales(name, group):
    config, matmul = make(
        A_dtype="int8", W_dtype=name, accum_dtype="int32", group_size=group, with_scaling=True, with_zeros=True
    )
    codes, scale = codes_of(name, 17, 199), torch.rand(17, config.groups)
    zeros = torch.rand(17, config.groups) * 3
    weight, matrix = matmul.transform_weight(codes), dequantised(config, codes, scale, zeros)
    for m in (1, 9):
        x = torch.randint(-128, 128, (m, 199), dtype=torch.int8)
        assert relative(matmul(x, weight, scale, zeros), x.double() @ matrix.t()) < 1e-5
        floats = torch.randn(m, 199).half()  # made int8 row by row
        assert relative(matmul(floats, weight, scale, zeros), floats.double() @ matrix.t()) < 2e-2


@pytest.mark.parametrize("mode", ["original", "rescale"])
@pytest.mark.parametrize("name", ["int3", "uint4", "int8"])
def test_bytes_with_zeros_alone(name, mode):
    """Zero points that are no whole numbers, without scales: nor are the sums whole numbers."""
    config, matmul = make(
        A_dtype="int8", W_dtype=name, accum_dtype="int32", group_size=64, with_zeros=True, zeros_mode=mode
    )
    codes, zeros = codes_of(name, 17, 199), torch.rand(17, config.groups)
    weight, matrix = matmul.transform_weight(codes), dequantised(config, codes, None, zeros)
    for m in (1, 9):
        x = torch.randint(-128, 128, (m, 199), dtype=torch.int8)
        assert relative(matmul(x, weight, None, zeros), x.double() @ matrix.t()) < 1e-5


@pytest.mark.parametrize("layout", ["nt", "nn"])
@pytest.mark.parametrize(
    ("dtype", "out"),
    [
        *(("float16", "float32"), ("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float32", "float16")),
        *(("int8", "int32"), ("int8", "float32"), ("e4m3_float8", "bfloat16"), ("e4m3_float8", "float32")),
    ],
)
def test_plain_matrices(layout, dtype, out):
    kind = {"int8": torch.int8, "e4m3_float8": torch.float8_e4m3fn}.get(dtype) or TORCH[dtype]
    sums = "int32" if dtype == "int8" else "float32"
    config, matmul = make(A_dtype=dtype, W_dtype=dtype, out_dtype=out, accum_dtype=sums, layout=layout)
    w, x = (torch.randint(-16, 17, (rows, 199)).to(kind) for rows in (17, 5))
    y = matmul(x, matmul.transform_weight(w if layout == "nt" else w.t()))
    expected = x.double() @ w.double().t()
    assert y.dtype == getattr(torch, out)
    assert torch.equal(y.double(), expected) if dtype == "int8" else relative(y, expected) < ERRORS[out]


@pytest.mark.parametrize(("dtype", "target"), [("float32", "cpu"), ("float16", "cpu"), ("float16", "cuda")])
def test_second_derivatives(dtype, target):
    """The gradient is linear in what comes; as a product of dense matrices has it."""
    config, _ = make(A_dtype=dtype, out_dtype="float32", accum_dtype="float32", W_dtype="int4", with_scaling=True)
    matmul = bitloom.Matmul(config, target=target)
    codes, scale = codes_of("int4", 17, 199), torch.rand(17, 1)
    weight, matrix = matmul.transform_weight(codes), dequantised(config, codes, scale).float()
    results = []
    for function in (lambda x: matmul(x, weight, scale), lambda x: x.float() @ matrix.t()):
        x = torch.linspace(-1, 1, 3 * 199).view(3, 199).to(TORCH[dtype]).requires_grad_()
        (first,) = torch.autograd.grad((function(x) / 100).sin().sum(), x, create_graph=True)
        results.append((first.detach().float(), *(g.float() for g in torch.autograd.grad(first.float().sum(), x))))
    torch.testing.assert_close(*results, rtol=2e-2, atol=2e-2)


def test_codes_of_the_other_layout_and_type():
    codes = codes_of("uint8", 17, 199)
    _, rows = make(W_dtype="uint8")
    _, columns = make(W_dtype="uint8", layout="nn")
    assert torch.equal(rows.transform_weight(codes), columns.transform_weight(codes.t()))
    assert torch.equal(rows.transform_weight(codes.to(torch.uint8).view(torch.int8)), rows.transform_weight(codes))
    _, floats = make(W_dtype="e4m3_float8")
    stored = codes_of("e4m3_float8", 17, 199).to(torch.uint8)
    assert torch.equal(floats.transform_weight(stored.view(torch.float8_e4m3fn)), floats.transform_weight(stored))


def test_shapes_outputs_and_gradients():
    config, matmul = make(W_dtype="int4", group_size=32, with_scaling=True)
    codes, scale = codes_of("int4", 17, 199), torch.rand(17, 7)
    weight, matrix = matmul.transform_weight(codes), dequantised(config, codes, scale).float()
    x = torch.randn(199, 3, 2).permute(2, 1, 0)  # not contiguous
    out = torch.empty(2, 3, 17)
    assert matmul(x, weight, scale, output=out) is out
    torch.testing.assert_close(out, x @ matrix.t(), rtol=1e-4, atol=1e-4)
    assert matmul(x[:0], weight, scale).shape == (0, 3, 17)
    for rows in (3, 70):
        x = torch.randn(rows, 199, requires_grad=True)
        dy = torch.randn(rows, 17)
        matmul(x, weight, scale).backward(dy)
        torch.testing.assert_close(x.grad, dy @ matrix, rtol=1e-4, atol=1e-4)
    other = matmul.transform_weight(-codes.clamp(min=-7))
    before = matmul(x, other, scale)
    scale *= 2  # a change in place is seen, and another tensor
    torch.testing.assert_close(matmul(x, weight, scale), 2 * (x @ matrix.t()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(matmul(x, other, scale), 2 * before)
    expected = x @ -codes.clamp(min=-7).float().t()
    torch.testing.assert_close(matmul(x, other, torch.ones(17, 7)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"N": None}, "MatmulConfig: N: expected a number of 1 or more, got None"),
        ({"M": [1, 0]}, "MatmulConfig: M: expected a number of 1 or more, several of them or None, got (1, 0)"),
        ({"W_dtype": "int9"}, "MatmulConfig: W_dtype: expected one of int1, int2"),
        ({"A_dtype": "int4"}, "MatmulConfig: A_dtype: expected one of float32, float16, bfloat16, int8"),
        ({"layout": "tn"}, "MatmulConfig: layout: expected one of nt, nn, got 'tn'"),
        ({"group_size": 12}, "MatmulConfig: group_size: expected -1 or a multiple of 8, got 12"),
        ({"zeros_mode": "origin"}, "MatmulConfig: zeros_mode: expected one of original, rescale, quantized"),
        ({"accum_dtype": "int32"}, "accum_dtype: expected one of float32, float16 with an A of float32, got 'int32'"),
        ({"out_dtype": "int32"}, "out_dtype: expected one of float32, float16, bfloat16 with an A of float32"),
        ({"W_dtype": "nf4", "with_zeros": True}, "with_zeros: expected False with a W of nf4, got True"),
        ({"W_dtype": "float32", "with_scaling": True}, "with_scaling: expected False with a W of A's type, float32"),
        ({"with_zeros": True, "zeros_mode": "quantized"}, "N: expected a multiple of 8 with zeros_mode quantized"),
        ({"A_dtype": "int8", "accum_dtype": "int32", "W_dtype": "nf4"}, "W_dtype: expected integers with an A of int8"),
        ({"A_dtype": "int8", "accum_dtype": "int32", "group_size": 24}, "group_size: expected -1 or a multiple of 16"),
        ({"A_dtype": "e5m2_float8"}, "W_dtype: expected e5m2_float8 with an A of e5m2_float8, got 'int4'"),
        ({"storage_dtype": "int32"}, "storage_dtype: expected int8, got 'int32'"),
    ],
)
def test_refused_by_name(fields, message):
    with pytest.raises(bitloom.UserError) as caught:
        make(**{"W_dtype": "int4"} | fields)
    assert message in str(caught.value)


def test_only_two_targets():
    config = bitloom.MatmulConfig(N=16, K=64, A_dtype="int8", W_dtype="int4", accum_dtype="int32", out_dtype="int32")
    with pytest.raises(bitloom.UserError, match="argument target: expected cpu or cuda, got 'tpu'"):
        bitloom.Matmul(config, target="tpu")


def test_mistakes_are_named():
    config, matmul = make(M=3, W_dtype="uint4", group_size=32, with_scaling=True, with_bias=True)
    weight, x, scale, bias = (
        torch.zeros(17, 112, dtype=torch.int8),
        torch.ones(3, 199),
        torch.ones(17, 7),
        torch.ones(17),
    )
    out = torch.full((3, 17), 7.0)

    def says(message, *arguments, **named):
        with pytest.raises(bitloom.UserError) as caught:
            matmul(*arguments, **{"scale": scale, "bias": bias, "output": out} | named)
        assert message in str(caught.value) and (out == 7).all()

    says("argument A: expected torch.float32, got torch.float16", x.half(), weight)
    says("argument A: expected 199 in its last dimension, got shape (3, 198)", x[:, 1:], weight)
    says("argument A: expected 3 rows, as M says, got 2", x[1:], weight)
    says("argument W: expected torch.int8 of (17, 112), as transform_weight gives it, got torch.int8", x, weight[1:])
    says("argument W: expected torch.int8 of (17, 112)", x, weight.view(torch.uint8))
    says("argument W: expected a contiguous tensor, got one of strides (1, 17)", x, weight.t().contiguous().t())
    says("argument scale: expected one, as with_scaling says, got none", x, weight, scale=None)
    says("argument scale: expected shape (17, 7), got (7, 17)", x, weight, scale=scale.t())
    says("argument scale: expected floats, got torch.int32", x, weight, scale=scale.int())
    says("argument zeros: expected none, as with_zeros says, got one", x, weight, zeros=scale)
    says("argument bias: expected one, as with_bias says, got none", x, weight, bias=None)
    says("argument bias: expected float32 of (17,), got torch.float32 of (16,)", x, weight, bias=bias[1:])
    wrong = torch.zeros(3, 16)
    says("argument output: expected torch.float32 of (3, 17), got torch.float32 of (3, 16)", x, weight, output=wrong)
    for codes, message in (
        (torch.full((17, 199), 16), "expected codes of uint4, from 0 to 15, got 16"),
        (torch.ones(17, 199), "expected integers, the codes of uint4, got torch.float32"),
        (torch.ones(17, 198, dtype=torch.int8), "expected shape (17, 199), got (17, 198)"),
    ):
        with pytest.raises(bitloom.UserError) as caught:
            matmul.transform_weight(codes)
        assert message in str(caught.value)


def test_copies():
    """Made anew of the configuration, for the same target."""
    _, matmul = make(W_dtype="int4")
    weight, x = matmul.transform_weight(codes_of("int4", 17, 199)), torch.randn(3, 199)
    for other in (copy.deepcopy(matmul), pickle.loads(pickle.dumps(matmul))):
        assert other.config == matmul.config and other.target == "cpu"
        assert torch.equal(other(x, weight), matmul(x, weight))


def test_nothing_is_kept_of_calls_without_values():
    _, matmul = make(W_dtype="int4", with_scaling=True)
    weight, scale, x = matmul.transform_weight(codes_of("int4", 17, 199)), torch.rand(17, 1), torch.randn(3, 199)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert matmul(torch.empty(3, 199), weight, scale).shape == (3, 17)
    assert type(matmul(x, weight, scale)) is torch.Tensor
    assert torch.equal(matmul(x, weight, scale), bitloom.Matmul(matmul.config, target="cpu")(x, weight, scale))


def test_explain():
    config, matmul = make(W_dtype="int4", group_size=32, with_scaling=True)
    weight, scale = matmul.transform_weight(codes_of("int4", 17, 199)), torch.rand(17, 7)
    few = bitloom.explain(matmul, torch.ones(2, 199), weight, scale)
    assert few.startswith("matmul    float32 x int4 -> float32, N = 17, K = 199\nscales    one for 32\n")
    assert "runs      low_bit_gemv\n" in few and "group = 32, given" in few
    many = bitloom.explain(matmul, torch.ones(100, 199), weight, scale)
    assert "runs      low_bit_dequantize, then matmul\n" in many and "m = 100" in many


# ---- On tensor cores: the same kernels on the CPU ----------------------------------------------------------------


def on_tensor_cores(**fields):
    config = bitloom.MatmulConfig(
        **{"N": 24, "K": 199, "A_dtype": "float16", "out_dtype": "float16", "with_scaling": True} | fields
    )
    return config, bitloom.Matmul(config, target="cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("group", [-1, 8, 32, 48, 128, 384])
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("int4", None), ("uint3", None), ("int8", None), ("ternary", None), ("uint1", "original")),
        *(("nf4", None), ("fp4_e2m1", None)),
        *(("uint4", "original"), ("uint4", "rescale"), ("uint4", "quantized"), ("int6", "quantized")),
    ],
)
def test_fragments(name, mode, group, dtype):
    """Ragged rows and columns, a scale of zero, a bias; results of another type."""
    config, matmul = on_tensor_cores(
        K=450, A_dtype=dtype, out_dtype=dtype, W_dtype=name, group_size=group, with_zeros=mode is not None,
        zeros_mode=mode, with_bias=True,
    )  # fmt: skip
    torch.manual_seed(group)
    kind, bits = TORCH[dtype], FORMATS[name].bits
    codes = codes_of(name, 24, 450)
    scale, bias = (torch.rand(24, config.groups) + 0.5).to(kind), torch.randn(24).to(kind)
    scale[3, -1] = 0
    zeros = torch.randint(0, 1 << bits, (24, config.groups)).to(kind) if mode else None
    given = pack_zeros(zeros, bits) if mode == "quantized" else zeros
    weight = matmul.transform_weight(codes)
    for m in (1, 3, 37):
        x = torch.randn(m, 450).to(kind)
        expected = x.double() @ dequantised(config, codes, scale, zeros).t() + bias.double()
        assert relative(matmul(x, weight, scale, given, bias), expected) < ERRORS[dtype]
        assert relative(matmul(x, weight, scale, given, bias.float()), expected) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("group", [32, 128])
def test_fragments_as_a_matrix(monkeypatch, dtype, group):
    """Many rows, which matmul takes, and results of f32; the gradient of either."""
    config, matmul = on_tensor_cores(A_dtype=dtype, out_dtype="float32", W_dtype="int4", group_size=group)
    torch.manual_seed(0)
    codes, scale = codes_of("int4", 24, 199), torch.rand(24, config.groups) * 1e-3
    weight, matrix = matmul.transform_weight(codes), dequantised(config, codes, scale)
    x, dy = torch.randn(5, 199).to(TORCH[dtype]).requires_grad_(), torch.randn(5, 24)
    for most in (1, 9):
        monkeypatch.setattr(fragments, "MATRIX_ROWS", most)
        y = matmul(x, weight, scale)
        assert y.dtype == torch.float32 and relative(y.detach(), x.detach().double() @ matrix.t()) < ERRORS[dtype]
        y.backward(dy)
        assert relative(x.grad, dy.double() @ matrix) < ERRORS[dtype]
        x.grad = None


@pytest.mark.parametrize("size", [1e-8, 1e-6, 1e4])
def test_scales_beyond_halves(size):
    """In f16 neither the scales nor their products with the values would be numbers of full precision."""
    for group in (32, 128):
        config, matmul = on_tensor_cores(out_dtype="float32", W_dtype="int8", group_size=group)
        codes, scale = codes_of("int8", 24, 199), (torch.rand(24, config.groups) + 0.5) * size
        x = torch.randn(3, 199).half()
        expected = x.double() @ dequantised(config, codes, scale).t()
        assert relative(matmul(x, matmul.transform_weight(codes), scale), expected) < 1e-3


def test_the_device_says_which_product():
    """16-bit floats by integers are for tensor cores on CUDA; a weight packed for another device is refused."""
    packings = {}
    for target in ("cpu", "cuda"):
        for dtype, name in (
            ("float16", "int4"),
            ("bfloat16", "uint3"),
            ("float32", "int4"),
            ("float16", "e5m2_float8"),
        ):
            config = bitloom.MatmulConfig(N=24, K=256, A_dtype=dtype, W_dtype=name, out_dtype=dtype)
            packings[target, dtype, name] = bitloom.Matmul(config, target=target).product.packing.order
    fast = {("cuda", "float16", "int4"), ("cuda", "bfloat16", "uint3")}
    assert {key for key, order in packings.items() if order == "fragments"} == fast
    config, cuda = on_tensor_cores(K=256, W_dtype="int4", group_size=128)
    cpu = bitloom.Matmul(config, target="cpu")
    codes, scale, x = codes_of("int4", 24, 256), torch.ones(24, 2), torch.ones(1, 256).half()
    for mine, other, rows in ((cuda, cpu, 12), (cpu, cuda, 24)):
        expected = rf"argument W: expected torch.int8 of \({rows}, .*, as transform_weight"
        with pytest.raises(bitloom.UserError, match=expected):
            mine(x, other.transform_weight(codes), scale)
    text = bitloom.explain(cuda, x, cuda.transform_weight(codes), scale)
    assert "packing   bits=4,order=fragments,block=128" in text and "runs      low_bit_linear\n" in text
    many = bitloom.explain(cuda, x.expand(fragments.MATRIX_ROWS, -1), cuda.transform_weight(codes), scale)
    assert "runs      low_bit_linear_weight, then matmul\n" in many


# ---- BitBLAS's spelling ------------------------------------------------------------------------------------------


def in_its_spelling(bitblas, device):
    """A user's program of BitBLAS's documentation: only the import differs."""
    config = bitblas.MatmulConfig(
        M=[1, 16], N=64, K=128, A_dtype="float16", W_dtype="uint4", accum_dtype="float16", out_dtype="float16",
        layout="nt", with_bias=True, group_size=32, with_scaling=True, with_zeros=True, zeros_mode="original",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    matmul = bitblas.Matmul(config=config, target=bitblas.auto_detect_nvidia_target(), enable_tuning=False)
    codes = torch.randint(0, 15, (64, 128), dtype=torch.int8, generator=generator).to(device)
    scale = torch.rand(64, 4, generator=generator).half().to(device)
    zeros = torch.full((64, 4), 7, dtype=torch.float16, device=device)
    bias = torch.rand(64, generator=generator).half().to(device)
    x = torch.rand(3, 128, generator=generator).half().to(device)
    weight = matmul.transform_weight(codes)
    results = [matmul(x, weight, scale=scale, zeros=zeros, bias=bias)]
    output = torch.empty(3, 64, dtype=torch.float16, device=device)
    matmul.forward(x, weight, scale, zeros, bias, output)

    linear = bitblas.Linear(
        in_features=128, out_features=64, bias=True, A_dtype="float16", W_dtype="uint4", accum_dtype="float16",
        out_dtype="float16", group_size=32, with_scaling=True, with_zeros=True, zeros_mode="original", opt_M=[1, 16],
        enable_tuning=False,
    ).to(device)  # fmt: skip
    linear.load_and_transform_weight(codes, scales=scale, zeros=zeros, bias=bias)
    gptq = types.SimpleNamespace(
        qweight=torch.randint(-(2**31), 2**31 - 1, (16, 64), dtype=torch.int32, generator=generator).to(device),
        qzeros=torch.randint(-(2**31), 2**31 - 1, (4, 8), dtype=torch.int32, generator=generator).to(device),
        scales=scale.t().contiguous(),
        bias=bias,
    )
    results += [output, linear(x)]
    linear.repack_from_gptq(gptq)
    return [*results, linear(x)]


class StandIn:
    """What the program needs of BitBLAS, with its signatures and its formulas, in float64."""

    @staticmethod
    def auto_detect_nvidia_target():
        return "cuda"

    class MatmulConfig:
        def __init__(self, M=None, N=None, K=None, A_dtype="float16", W_dtype="float16", out_dtype="float16",
                     accum_dtype="float16", layout="nt", with_bias=False, group_size=-1, with_scaling=False,
                     with_zeros=False, zeros_mode="original", storage_dtype="int8", fast_decoding=None,
                     propagate_a=None, propagate_b=None, optimize_stratety=None):  # fmt: skip
            self.group_size = group_size

    class Matmul:
        def __init__(self, config, name="matmul", target=None, enable_tuning=True, from_database=False, backend="tir"):
            self.group_size = config.group_size

        def transform_weight(self, weight, scale=None, zeros=None, bias=None):
            return weight

        def forward(self, A, W, scale=None, zeros=None, bias=None, output=None):
            def spread(numbers):
                return numbers.double().repeat_interleave(self.group_size, 1)

            y = (A.double() @ ((W.double() - spread(zeros)) * spread(scale)).t() + bias).half()
            return y if output is None else output.copy_(y)

        def __call__(self, *args, **kwds):
            return self.forward(*args, **kwds)

    class Linear(torch.nn.Module):
        def __init__(self, in_features, out_features, bias=False, A_dtype="float16", W_dtype="float16",
                     accum_dtype="float16", out_dtype="float16", group_size=-1, with_scaling=None, with_zeros=False,
                     zeros_mode=None, opt_M=None, enable_tuning=True, fast_decoding=None,
                     propagate_b=False):  # fmt: skip
            super().__init__()
            self.matmul = StandIn.Matmul(StandIn.MatmulConfig(group_size=group_size))

        def load_and_transform_weight(self, weight, scales=None, zeros=None, bias=None):
            self.given = weight, scales, zeros, bias

        def repack_from_gptq(self, gptq_module):
            def fields(words, dim):
                parts = [(words >> 4 * i) & 15 for i in range(8)]
                return torch.stack(parts, dim + 1).flatten(dim, dim + 1)

            zeros = ((fields(gptq_module.qzeros, 1) + 1) & 15).t()
            weight = fields(gptq_module.qweight, 0).t()
            self.given = weight, gptq_module.scales.t(), zeros, gptq_module.bias

        def forward(self, A, output=None):
            return self.matmul(A, *self.given, output)


def test_the_import_is_all_that_changes():
    device = "cpu" if bitloom.cuda_unavailable() else "cuda"
    for mine, its in zip(in_its_spelling(bitloom, device), in_its_spelling(StandIn, "cpu")):
        assert mine.dtype == its.dtype and relative(mine.cpu(), its.double()) < 1e-3


@pytest.mark.parametrize(
    "path", ["MatmulConfig", "Matmul", "Matmul.forward", "Matmul.transform_weight", "Linear", "Linear.forward",
             "Linear.load_and_transform_weight"]
)  # fmt: skip
def test_signatures_are_its_own(path):
    mine, its = bitloom, StandIn
    for name in path.split("."):
        mine, its = getattr(mine, name), getattr(its, name)
    mine, its = inspect.signature(mine).parameters, inspect.signature(its).parameters
    assert list(mine)[: len(its)] == list(its)
    same = [name for name in its if name not in ("M", "opt_M")]
    assert all(np.all(mine[name].default == its[name].default) for name in same)


@pytest.mark.parametrize(
    ("name", "mode", "group"),
    [("int4", None, 128), ("uint3", "original", 32), ("nf4", None, 64), ("int8", None, -1), ("uint2", "quantized", 64)],
)
@pytest.mark.parametrize("layout", ["nt", "nn"])
def test_mixtures_of_experts(name, mode, group, layout):
    """Ragged everything, an expert without rows, and rows of no expert, which stay."""
    torch.manual_seed(group)
    fields = {"W_dtype": name, "with_scaling": True, "group_size": group, "layout": layout}
    config = bitloom.MatmulConfig(N=24, K=199, with_zeros=mode is not None, zeros_mode=mode, **fields)
    mixture = bitloom.GroupedMatmul(config, 3)
    codes = torch.stack([codes_of(name, 24, 199) for _ in range(3)])
    weight = mixture.transform_weight(codes if layout == "nt" else codes.mT)
    scale = torch.rand(3, 24, config.groups).half() * torch.tensor([1.0, 30.0, 1e-3]).half()[:, None, None]
    bits = FORMATS[name].bits
    zeros = torch.randint(0, 1 << bits, (3, 24, config.groups)).half() if mode else None
    given = torch.stack([pack_zeros(each, bits) for each in zeros]) if mode == "quantized" else zeros
    offsets, x = torch.tensor([0, 4, 4, 11], dtype=torch.int32), torch.randn(13, 199).half()
    out = torch.full((13, 24), 7.0).half()
    for _ in range(2):
        assert mixture(x, weight, offsets, scale, given, out) is out
        assert (out[11:] == 7).all()
        for e in (0, 2):
            rows = slice(int(offsets[e]), int(offsets[e + 1]))
            matrix = dequantised(config, codes[e], scale[e], None if zeros is None else zeros[e])
            assert relative(out[rows], x[rows].double() @ matrix.t()) < ERRORS["float16"]


def test_mixtures_refuse():
    config = bitloom.MatmulConfig(N=24, K=199, W_dtype="int4")
    mixture = bitloom.GroupedMatmul(config, 3)
    weight = mixture.transform_weight(torch.zeros(3, 24, 199, dtype=torch.int8))
    x, offsets = torch.zeros(5, 199).half(), torch.tensor([0, 2, 2, 5], dtype=torch.int32)
    assert mixture(x, weight, offsets).shape == (5, 24)
    for arguments, message in (
        (
            (x.float(), weight, offsets),
            "argument A: expected torch.float16 of (tokens, 199), got torch.float32 of (5, 199)",
        ),
        (
            (x[:, 1:], weight, offsets),
            "argument A: expected torch.float16 of (tokens, 199), got torch.float16 of (5, 198)",
        ),
        ((x, weight[:2], offsets), "argument W: expected contiguous int8 of (3, "),
        ((x, weight, offsets[1:]), "argument offsets: expected int32 of (4,), got torch.int32 of (3,)"),
        ((x, weight, offsets, torch.ones(3, 24, 1)), "argument scale: expected none, as with_scaling says, got one"),
    ):
        with pytest.raises(bitloom.UserError) as caught:
            mixture(*arguments)
        assert message in str(caught.value)
    for fields, message in (
        ({"W_dtype": "mxfp4"}, "expected 16-bit floats by integers, nf4 or fp4_e2m1, got float16 x mxfp4"),
        ({"W_dtype": "int4", "out_dtype": "float32"}, "out_dtype: expected float16, got float32"),
        ({"W_dtype": "int4", "with_bias": True}, "with_bias: expected False, got True"),
    ):
        with pytest.raises(bitloom.UserError) as caught:
            bitloom.GroupedMatmul(bitloom.MatmulConfig(N=24, K=199, **fields), 3)
        assert message in str(caught.value)
