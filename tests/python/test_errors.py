"""Each mistake is named: the argument, what was expected, what came."""

import re

import bitloom
import numpy as np
import pytest
import torch

X = np.zeros((3, 17), np.float32)
WEIGHT = np.zeros(17, np.float32)
READ_ONLY = np.zeros((3, 17), np.float32)
READ_ONLY.flags.writeable = False
UNALIGNED = np.zeros(17 * 4 + 1, np.uint8)[1:].view(np.float32)
HEADS = np.zeros((1, 6, 5, 16), np.float32)
BYTES = np.zeros((3, 64), np.uint8)

USER_ERRORS = {
    "dtype": (lambda: bitloom.rms_norm(X.astype(np.float64), WEIGHT), "x: expected dtype f32, f16, bf16, got f64"),
    "dtype of a later argument": (
        lambda: bitloom.rms_norm(X, WEIGHT.astype(np.float16)),
        "weight: expected dtype f32, got f16",
    ),
    "dtype of no kernel": (lambda: bitloom.rms_norm(X.astype(np.complex64), WEIGHT), "got complex64"),
    "dtype of an output": (
        lambda: bitloom.rms_norm(X, WEIGHT, out=X.astype(np.float16)),
        "out: expected dtype f32, got f16",
    ),
    "rank": (lambda: bitloom.rms_norm(X[0], WEIGHT), "x: expected 2 dimensions, got 1"),
    "shape": (
        lambda: bitloom.rms_norm(X, WEIGHT[:16]),
        "weight: expected extent 17 in dimension 0 (cols * weighted), got 16",
    ),
    "shape of an output": (
        lambda: bitloom.rms_norm(X, WEIGHT, out=X[:2].copy()),
        "out: expected extent 3 in dimension 0",
    ),
    "shape that a Meta parameter decides": (
        lambda: bitloom.low_bit_gemv(np.zeros((1, 128), np.float32), BYTES, np.ones((3, 1), np.float32), bits=3),
        "weight: expected extent 48 in dimension 1 (ceil_div(k, group) * group * bits / 8), got 64",
    ),
    "an input that is needed after all": (
        lambda: bitloom.low_bit_gemv(
            np.zeros((1, 128), np.float32), BYTES, np.ones((3, 1), np.float32), asymmetric=True
        ),
        "zeros: expected a tensor of shape (n * asymmetric, ceil_div(k, group)), got none",
    ),
    "stride": (
        lambda: bitloom.rms_norm(X, WEIGHT, out=torch.zeros(1, 17).expand(3, 17)),
        "out: expected distinct elements to write, got stride 0 in dimension 0",
    ),
    "alignment": (lambda: bitloom.rms_norm(X, UNALIGNED), "weight: expected elements aligned to 4 bytes, got"),
    "read-only output": (
        lambda: bitloom.rms_norm(X, WEIGHT, out=READ_ONLY),
        "out: expected a tensor that can be written, got a read-only one",
    ),
    "device without memory": (lambda: bitloom.rms_norm(torch.zeros(3, 17, device="meta"), WEIGHT), "x: expected a"),
    "sparse": (lambda: bitloom.rms_norm(torch.zeros(3, 17).to_sparse(), WEIGHT), "x: expected a dense tensor, got one"),
    "gradient": (
        lambda: bitloom.rms_norm(torch.zeros(3, 17, requires_grad=True), WEIGHT),
        "x: expected a tensor that needs no gradient, got one with requires_grad",
    ),
    "no array": (
        lambda: bitloom.rms_norm([[1.0]], WEIGHT),
        "x: expected a tensor (torch, numpy, or any with __dlpack__), got list",
    ),
    "no number": (
        lambda: bitloom.rms_norm(X, WEIGHT, eps="small"),
        "eps: expected a number that fits 64 bits, got 'small'",
    ),
    "number too large": (
        lambda: bitloom.rms_norm(X, WEIGHT, block=2**64),
        f"block: expected a number that fits 64 bits, got {2**64}",
    ),
    "contraction": (
        lambda: bitloom.matmul(X, np.zeros((16, 5), np.float32)),
        "matmul: argument b: expected extent 17 in dimension 0 (k, as a in dimension 1), got 16",
    ),
    "dtype of the right operand": (
        lambda: bitloom.matmul(X, np.zeros((17, 5), np.float16)),
        "matmul: argument b: expected dtype f32, got f16",
    ),
    "bias": (
        lambda: bitloom.matmul(X, X.T, np.zeros(2, np.float32)),
        "matmul: argument bias: expected extent 3 in dimension 0 (n * biased), got 2",
    ),
    "choice": (
        lambda: bitloom.matmul(X, X.T, activation="relo"),
        "matmul: argument activation: expected none, relu, silu, gelu, got 'relo'",
    ),
    "number of a choice": (
        lambda: bitloom.matmul(X, X.T, activation=4),
        "matmul: argument activation: expected none, relu, silu, gelu or a number below 4, got 4",
    ),
    "rows of an optional output": (
        lambda: bitloom.attention(HEADS, HEADS, HEADS, lse=np.zeros((1, 4, 5), np.float32)),
        "attention: argument lse: expected extent 6 in dimension 1 (heads, as q in dimension 1), got 4",
    ),
    "groups": (
        lambda: bitloom.grouped_matmul(X, np.zeros((2, 5, 17), np.float32), np.zeros(2, np.int32)),
        "grouped_matmul: argument offsets: expected extent 3 in dimension 0 (groups + 1), got 2",
    ),
    "fraction": (lambda: bitloom.rms_norm(X, WEIGHT, block=1.5), "block: expected an integer, got 1.5"),
}

CALL_ERRORS = {
    "missing": (lambda: bitloom.layer_norm(), "layer_norm() missing required argument 'x'"),
    "too many": (
        lambda: bitloom.rms_norm(X, WEIGHT, 1e-6, 0.0, X),
        "rms_norm() takes 4 positional arguments but 5 were given",
    ),
    "unknown": (
        lambda: bitloom.rms_norm(X, WEIGHT, epz=1),
        "rms_norm() got an unexpected keyword argument 'epz': did you mean 'eps'?",
    ),
    "twice": (lambda: bitloom.rms_norm(X, WEIGHT, x=X), "rms_norm() got multiple values for argument 'x'"),
}


@pytest.mark.parametrize("name", USER_ERRORS)
def test_user_error(name):
    call, message = USER_ERRORS[name]
    with pytest.raises(bitloom.UserError, match=re.escape(message)) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert re.match(r"\w+: argument \w+: expected ", str(caught.value))
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


@pytest.mark.parametrize("name", CALL_ERRORS)
def test_call_error(name):
    call, message = CALL_ERRORS[name]
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_devices_differ():
    with pytest.raises(bitloom.UserError, match="weight: expected a tensor on cuda:0 as the others, got one on cpu"):
        bitloom.rms_norm(torch.zeros(3, 17, device="cuda"), torch.zeros(17))


def test_a_mistake_in_a_kernel_names_its_line():
    with pytest.raises(
        bitloom.UserError, match=r"kernels/rms_norm/RmsNorm\.cpp:\d+: error: .*expected extents of 1 or more"
    ):
        bitloom.rms_norm(X, WEIGHT, block=0)


def test_conditions_on_extents():
    keys = np.zeros((1, 4, 5, 16), np.float32)
    message = "attention: expected heads % kv_heads == 0, got heads = 6, kv_heads = 4"
    with pytest.raises(bitloom.UserError, match=re.escape(message)):
        bitloom.attention(HEADS, keys, keys)


def test_a_choice_that_the_element_type_does_not_have():
    message = r"argument activation: expected 0 \(none\) or 1 \(relu\) for integers, got 3"
    with pytest.raises(bitloom.UserError, match=message):
        bitloom.matmul(BYTES.view(np.int8), BYTES.view(np.int8).T, activation="gelu")


def test_a_failed_call_leaves_the_next_one_alone():
    for _ in range(3):
        with pytest.raises(bitloom.UserError):
            bitloom.rms_norm(X, X)
    assert bitloom.rms_norm(X, WEIGHT).shape == X.shape


def test_targets_are_checked():
    with (
        pytest.raises(bitloom.UserError, match="unknown target 'sm_9': did you mean 'sm_89'?"),
        bitloom.use_target("sm_9"),
    ):
        pass
    with pytest.raises(bitloom.UserError, match="expected one that this processor runs"), bitloom.use_target("aarch64"):
        pass
    with (
        bitloom.use_target("sm_80"),
        pytest.raises(bitloom.UserError, match="rms_norm: expected tensors that sm_80 can run on, got some on cpu"),
    ):
        bitloom.rms_norm(X, WEIGHT)


def test_scales_make_floats():
    a = np.ones((4, 4), np.int8)
    with pytest.raises(bitloom.UserError, match="scale_a, scale_b: expected an out of floats, got integers"):
        bitloom.matmul(a, a, scale_a=np.ones(1, np.float32), out=np.empty((4, 4), np.int32))


def test_an_impossible_block_names_the_kernels_line():
    with pytest.raises(bitloom.UserError, match=r"Matmul.cpp:\d+: error: expected a divisor other than 0"):
        bitloom.matmul(torch.ones(4, 5), torch.ones(5, 7), block_m=0)


def test_unknown_kernel():
    with pytest.raises(bitloom.UserError, match="unknown kernel 'rms_nrm': did you mean 'rms_norm'?"):
        bitloom.inspect("rms_nrm")


def test_threads_are_checked():
    with pytest.raises(bitloom.UserError, match="expected a thread count from 1 to 1024, got 0"):
        bitloom.set_num_threads(0)


def test_libraries_are_checked(tmp_path):
    with pytest.raises(bitloom.UserError, match="could not load kernels from"):
        bitloom.load_kernels(tmp_path / "none.so")
