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
    signature = inspect.signature(bitloom.rms_norm)
    assert str(signature) == "(x, weight, eps=1e-06, *, out=None, block=None, resident=None)"
    assert bitloom.rms_norm.__module__ == "bitloom" and bitloom.rms_norm.__name__ == "rms_norm"
    assert str(inspect.signature(bitloom.vector_add)) == "(x, y, *, out=None, block=1024)"
    assert "zeros=None" in str(inspect.signature(bitloom.low_bit_gemv))


def test_docstrings_say_types_shapes_and_defaults():
    text = bitloom.rms_norm.__doc__
    assert text.startswith("out = x / sqrt(mean(x^2) + eps) * weight, row by row\n")
    assert "x : f32, f16 or bf16 of shape (rows, cols)\n" in text
    assert "eps : f32, default 1e-06\n" in text
    assert "out : f32, f16 or bf16 of shape (rows, cols), written; made when not given\n" in text
    assert "block : int, default min(round_up(cols, 128), 16384)" in text
    assert "zeros : f32 of shape (n * asymmetric, ceil_div(k, group)), optional\n" in bitloom.low_bit_gemv.__doc__


def test_every_kernel_is_a_function():
    for name, row in bitloom.kernels().items():
        function = getattr(bitloom, name)
        assert name in bitloom.__all__ and row.summary in function.__doc__
        assert str(inspect.signature(function)) == row.signature
