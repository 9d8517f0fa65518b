"""What a call of a kernel's function takes and gives."""

import inspect
import threading
from types import SimpleNamespace

import bitloom
import numpy as np
import pytest
import torch


def rms_norm(x, weight, eps=1e-6):
    return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps) * weight


@pytest.fixture
def arrays():
    generator = np.random.default_rng(7)
    x = generator.standard_normal((3, 17)).astype(np.float32)
    weight = generator.standard_normal(17).astype(np.float32)
    return SimpleNamespace(x=x, weight=weight, expected=rms_norm(x, weight))


def close(result, expected):
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-5, atol=1e-6)


def test_numpy_gives_numpy(arrays):
    out = bitloom.rms_norm(arrays.x, arrays.weight)
    assert type(out) is np.ndarray and out.dtype == np.float32
    close(out, arrays.expected)


def test_torch_gives_torch(arrays):
    out = bitloom.rms_norm(torch.from_numpy(arrays.x), torch.from_numpy(arrays.weight))
    assert type(out) is torch.Tensor and out.dtype == torch.float32
    close(out, arrays.expected)


def test_the_first_array_decides_the_library(arrays):
    assert type(bitloom.rms_norm(torch.from_numpy(arrays.x), arrays.weight)) is torch.Tensor
    assert type(bitloom.rms_norm(arrays.x, torch.from_numpy(arrays.weight))) is np.ndarray


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_of_torch(arrays, dtype):
    out = bitloom.rms_norm(torch.from_numpy(arrays.x).to(dtype), torch.from_numpy(arrays.weight).to(dtype))
    assert out.dtype == dtype
    np.testing.assert_allclose(out.float(), arrays.expected, rtol=0.02, atol=0.02)


def test_scalars_by_position_and_name(arrays):
    expected = rms_norm(arrays.x, arrays.weight, 0.5)
    close(bitloom.rms_norm(arrays.x, arrays.weight, 0.5), expected)
    close(bitloom.rms_norm(eps=0.5, weight=arrays.weight, x=arrays.x), expected)
    close(bitloom.rms_norm(arrays.x, arrays.weight, np.float32(0.5)), expected)
    close(bitloom.rms_norm(arrays.x, arrays.weight, torch.tensor(0.5)), expected)


def test_each_scalar_counts_anew(arrays):
    for eps in (0.5, 1.0, 0.5):
        close(bitloom.rms_norm(arrays.x, arrays.weight, eps), rms_norm(arrays.x, arrays.weight, eps))


def test_outputs_that_are_passed_are_written_and_given(arrays):
    out = np.full((3, 17), np.nan, np.float32)
    assert bitloom.rms_norm(arrays.x, arrays.weight, out=out) is out
    close(out, arrays.expected)


def test_several_outputs_are_a_tuple(arrays):
    dx, dweight = bitloom.rms_norm_backward(arrays.x, arrays.x, arrays.weight)
    assert dx.shape == (3, 17) and dweight.shape[1] == 17


def test_some_outputs_passed(arrays):
    dx = np.full((3, 17), np.nan, np.float32)
    given, dweight = bitloom.rms_norm_backward(arrays.x, arrays.x, arrays.weight, dx=dx)
    assert given is dx and not np.isnan(dx).any() and not np.isnan(dweight).any()


def test_meta_parameters(arrays):
    close(bitloom.rms_norm(arrays.x, arrays.weight, block=16), arrays.expected)
    close(bitloom.rms_norm(arrays.x, arrays.weight, block=32, resident=True), arrays.expected)


def test_an_input_that_a_call_does_without():
    x, weight = np.ones((1, 64), np.float32), np.full((3, 32), 0x11, np.uint8)
    scales = np.ones((3, 2), np.float32)
    without = bitloom.low_bit_gemv(x, weight, scales, group=32)
    np.testing.assert_array_equal(without, np.full((1, 3), 64.0))
    zeros = np.full((3, 2), 3, np.float32)
    given = bitloom.low_bit_gemv(x, weight, scales, zeros, group=32, asymmetric=True)
    np.testing.assert_array_equal(given, np.full((1, 3), -128.0))


def test_matrices_either_way_round():
    """A transposed operand is read where it lies, and gives the same as a copy in order."""
    generator = np.random.default_rng(3)
    a, b = (generator.standard_normal(shape).astype(np.float32) for shape in ((37, 70), (70, 19)))
    expected = bitloom.matmul(a, b)
    np.testing.assert_allclose(expected, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)

    def ways(matrix):
        steps = np.repeat(np.repeat(matrix, 2, 0), 3, 1)[::2, ::3]
        return matrix, np.asfortranarray(matrix), steps, np.asfortranarray(matrix.repeat(3, 1))[:, ::3]

    for left in ways(a):
        for right in ways(b):
            np.testing.assert_array_equal(bitloom.matmul(left, right), expected)
            with bitloom.use_target("interpreter"):
                np.testing.assert_allclose(bitloom.matmul(left, right), expected, rtol=1e-4, atol=1e-4)


def test_matrices_with_nothing_to_turn_round():
    for shape in ((1, 5), (5, 1), (1, 1), (0, 3)):
        a = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(bitloom.matmul(a.T, a), a.T @ a)
        np.testing.assert_array_equal(bitloom.matmul(a, a.T), a @ a.T)


@pytest.mark.parametrize("activation", ["none", "relu", "silu", "gelu"])
def test_choices_by_name(activation):
    a, b = torch.randn(17, 33), torch.randn(33, 20)
    function = {"none": lambda x: x, "relu": torch.relu}.get(activation) or getattr(torch.nn.functional, activation)
    for bias in (None, torch.randn(20)):
        expected = function(a @ b + (0 if bias is None else bias))
        close(bitloom.matmul(a, b, bias, activation=activation), expected)
    number = ["none", "relu", "silu", "gelu"].index(activation)
    assert torch.equal(bitloom.matmul(a, b, activation=number), bitloom.matmul(a, b, activation=activation))


def test_outputs_only_where_asked_for():
    q, k, v = torch.randn(3, 1, 2, 5, 16)
    out = bitloom.attention(q, k, v)
    assert type(out) is torch.Tensor
    again, lse = bitloom.attention(q, k, v, with_lse=True)
    expected = (q @ k.mT / 4).logsumexp(-1)
    assert torch.equal(again, out) and lse.shape == (1, 2, 5)
    close(lse, expected)
    given = torch.full((1, 2, 5), torch.nan)
    again, same = bitloom.attention(q, k, v, lse=given)
    assert same is given and torch.equal(given, lse)
    with bitloom.use_target("interpreter"):
        assert type(bitloom.attention(q, k, v)) is torch.Tensor
    empty, lse = bitloom.attention(q[:, :, :0], k, v, with_lse=True)
    assert empty.shape == (1, 2, 0, 16) and lse.shape == (1, 2, 0)


def test_attention_of_heads_last():
    """Views (batch, heads, t, d) of memory in the order of (batch, t, heads, d), as models make them."""
    q, k, v = (torch.randn(2, 17, heads, 64).transpose(1, 2) for heads in (4, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    np.testing.assert_allclose(bitloom.attention(q, k, v, 0.3, causal=True), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_no_group_are_left_alone():
    x, w = torch.randn(20, 16), torch.randn(3, 8, 16)
    out = torch.full((20, 8), torch.nan)
    bitloom.grouped_matmul(x, w, torch.tensor([2, 2, 11, 17], dtype=torch.int32), out=out)
    assert out[:2].isnan().all() and out[17:].isnan().all()
    np.testing.assert_allclose(out[2:11], x[2:11] @ w[1].T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out[11:17], x[11:17] @ w[2].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::2],
        lambda a: a[::2],
        lambda a: a.T,
        lambda a: a[1:, 3:],
        lambda a: a[:1, :0],
    ],
    ids=["columns", "rows", "transposed", "inner", "empty"],
)
def test_strided_arrays_are_read_and_written_in_place(library, view):
    source = np.arange(6 * 8, dtype=np.float32).reshape(6, 8)
    target = np.full((6, 8), np.nan, np.float32)
    if library == "torch":
        source, target = torch.from_numpy(source), torch.from_numpy(target)
    x, out = view(source), view(target)
    weight = np.ones(x.shape[1], np.float32)
    bitloom.rms_norm(x, weight, out=out)
    close(out, rms_norm(np.asarray(x), weight) if x.shape[1] else np.asarray(x))
    assert np.isnan(np.asarray(target)).sum() == 6 * 8 - out.shape[0] * out.shape[1]


def test_negative_and_zero_strides(arrays):
    close(bitloom.rms_norm(arrays.x[::-1, ::-1], arrays.weight), rms_norm(arrays.x[::-1, ::-1], arrays.weight))
    row = np.broadcast_to(arrays.x[0], (5, 17))
    close(bitloom.rms_norm(row, arrays.weight), rms_norm(row, arrays.weight))


@pytest.mark.parametrize("shape", [(0, 17), (3, 0), (0, 0)])
def test_empty_arrays(shape):
    assert bitloom.rms_norm(np.empty(shape, np.float32), np.empty(shape[1], np.float32)).shape == shape
    assert bitloom.rms_norm(torch.empty(shape), torch.empty(shape[1])).shape == shape


def test_unaligned_rows(arrays):
    """Machine code made for 16-byte aligned rows is not used for others of the same shape."""
    memory = np.zeros(1 + 3 * 17, np.float32)
    for start in (0, 1, 0):
        x = memory[start : start + 51].reshape(3, 17)
        x[:] = arrays.x
        close(bitloom.rms_norm(x, arrays.weight), arrays.expected)


def test_read_only_inputs(arrays):
    arrays.x.flags.writeable = False
    close(bitloom.rms_norm(arrays.x, arrays.weight), arrays.expected)


def test_memory_is_given_back(arrays):
    import sys

    before = sys.getrefcount(arrays.x), sys.getrefcount(arrays.weight)
    for _ in range(10):
        out = bitloom.rms_norm(arrays.x, arrays.weight)
        with pytest.raises(bitloom.UserError):
            bitloom.rms_norm(arrays.x, arrays.x)
    assert (sys.getrefcount(arrays.x), sys.getrefcount(arrays.weight)) == before
    assert sys.getrefcount(out) == 2


def test_any_library_with_dlpack(arrays):
    """Only __dlpack__ and __dlpack_device__ are asked of an array, without the arguments of DLPack 1.0."""

    class Plain:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self):
            return self.array.__dlpack__()

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    out = bitloom.rms_norm(Plain(arrays.x), Plain(arrays.weight))
    assert type(out) is np.ndarray
    close(out, arrays.expected)


def test_parameters_of_modules_without_gradient(arrays):
    weight = torch.nn.Parameter(torch.from_numpy(arrays.weight))
    with torch.no_grad():
        close(bitloom.rms_norm(torch.from_numpy(arrays.x), weight), arrays.expected)


def test_threads_share_functions(arrays):
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(bitloom.rms_norm(arrays.x, arrays.weight) for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200
    for result in results:
        close(result, arrays.expected)


def test_use_target_holds_for_its_block_and_thread(arrays):
    def seen():
        before = bitloom._bitloom._set_target("device")
        bitloom._bitloom._set_target(before)
        return before

    other = []
    usual = seen()
    with bitloom.use_target("interpreter"):
        close(bitloom.rms_norm(arrays.x, arrays.weight), arrays.expected)
        thread = threading.Thread(target=lambda: other.append(seen()))
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError), bitloom.use_target("x86-64"):
            assert seen() == "x86-64"
            raise RuntimeError
        assert seen() == "interpreter"
    assert seen() == usual and other == ["device"]


def test_signatures_come_from_the_registry():
    signature = inspect.signature(bitloom.rms_norm_backward)
    assert str(signature) == (
        "(dy, x, weight=None, rstd=None, eps=1e-06, offset=0, *, dx=None, dweight=None, weighted=None, has_rstd=None, "
        "cluster=None, block=None, block_rows=None, programs=None, resident=None, stages=2)"
    )
    assert bitloom.rms_norm.__module__ == "bitloom" and bitloom.rms_norm.__name__ == "rms_norm"
    assert str(inspect.signature(bitloom.vector_add)) == "(x, y, *, out=None, block=1024)"
    assert "zeros=None" in str(inspect.signature(bitloom.low_bit_gemv))


def test_docstrings_say_types_shapes_and_defaults():
    text = bitloom.rms_norm.__doc__
    assert text.startswith("out = x / sqrt(mean(x^2) + eps) * (weight + offset), row by row; rstd on request\n")
    assert "x : f32, f16 or bf16 of shape (rows, cols)\n" in text
    assert "eps : f32, default 1e-06\n" in text
    assert "out : f32, f16 or bf16 of shape (rows, cols), written; made when not given\n" in text
    assert "block_rows : int, default max(1, 1024 / next_pow2(block))" in text
    assert "zeros : f32 of shape (n * asymmetric, ceil_div(k, group)), optional\n" in bitloom.low_bit_gemv.__doc__


def test_every_kernel_is_a_function():
    for name, row in bitloom.kernels().items():
        function = getattr(bitloom, name)
        assert name in bitloom.__all__ and row.summary in function.__doc__
        assert str(inspect.signature(function)) == row.signature


@pytest.mark.parametrize("name, largest", [("float8_e4m3fn", 448), ("float8_e5m2", 57344)])
def test_float8_of_torch(name, largest):
    """Quantised with one scale a matrix, multiplied, and scaled back."""
    generator = torch.Generator().manual_seed(7)
    a, b = (torch.randn(shape, generator=generator) for shape in ((17, 65), (33, 65)))
    scale_a, scale_b = (x.abs().amax().reshape(1) / largest for x in (a, b))
    small_a, small_b = (a / scale_a).to(getattr(torch, name)), (b / scale_b).to(getattr(torch, name))
    bias = torch.randn(33, generator=generator).to(torch.bfloat16)
    out = bitloom.matmul(small_a, small_b.T, bias, scale_a, scale_b, activation="relu")
    assert out.dtype == torch.bfloat16
    exact = small_a.double() @ small_b.double().T * scale_a.double() * scale_b.double() + bias.double()
    torch.testing.assert_close(out.double(), exact.relu(), rtol=2**-8, atol=1e-5)
    one = bitloom.matmul(small_a, small_b.T, scale_b=scale_b, fast_sums=True)
    torch.testing.assert_close(one.double(), small_a.double() @ small_b.double().T * scale_b, rtol=2**-8, atol=1e-5)
