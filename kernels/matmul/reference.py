"""matmul in float64 and int64, and as torch computes it."""

from math import erf, sqrt

import numpy as np
import torch


def activated(x, activation):
    if activation == 1:
        return np.maximum(x, 0)
    if activation == 2:
        return x / (1 + np.exp(-x))
    if activation == 3:
        return 0.5 * x * (1 + np.vectorize(erf, otypes=[float])(x / sqrt(2)))
    return x


def spread(scale, axis):
    """One for all, or one for each place along the axis of the product."""
    return np.expand_dims(scale, 1 - axis) if np.size(scale) > 1 else scale


def matmul(a, b, activation, bias=0, scale_a=1, scale_b=1, addend=0, **_):
    return activated(a @ b * spread(scale_a, 0) * spread(scale_b, 1) + bias + addend, activation)


OUT = {"i32": torch.int32, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


matmul_torch_on_device = True  # tensor cores round sums in ways of their own


def widened(x, rows, columns):
    return torch.nn.functional.pad(x, (0, -x.shape[1] % columns, 0, -x.shape[0] % rows))


def product_of_bytes(a, b):
    """In f32, or exact; on a GPU 8-bit floats by its tensor cores, which keep some 14 bits of their sums: ours leave
    them there for up to 256 columns, so torch's are to stay as well."""
    if a.is_cuda and a.dtype == torch.float8_e4m3fn:
        one = torch.ones((), device=a.device)
        left, right = (widened(x.half(), 16, 16).to(x.dtype) for x in (a, b.mT))
        product = torch._scaled_mm(left, right.mT, one, one, out_dtype=torch.float32, use_fast_accum=True)
        return product[: a.shape[0], : b.shape[1]]
    wide = torch.float64 if a.dtype == torch.int8 else torch.float32  # integers have no product on GPUs
    return a.to(wide) @ b.to(wide)


def product_in_f32(a, b):
    if not a.is_cuda:
        return a.float() @ b.float()
    # One column is no product of matrices to torch, which then takes no tensor cores.
    return torch.mm(a, widened(b, 1, 8), out_dtype=torch.float32)[:, : b.shape[1]]


def matmul_torch(a, b, activation, bias=None, addend=None, dtype="", **_):
    kind, out = a.dtype, dtype.partition("/")[2]
    if kind.itemsize == 1:
        product = product_of_bytes(a, b).to(torch.int32 if out == "i32" else torch.float32)
        product = (product + (0 if bias is None else bias)).to(OUT[out])
    elif out == "f32":
        product = product_in_f32(a, b) + (0 if bias is None else bias)
    else:
        product = a @ b if bias is None else torch.addmm(bias, a, b)
    if addend is not None:
        product = product + addend
    function = (lambda x: x, torch.relu, torch.nn.functional.silu, torch.nn.functional.gelu)[activation]
    return function(product)


def matmul_sum_inputs(generator, inputs):
    if "identity" in inputs:
        inputs["identity"] = torch.eye(*inputs["identity"].shape, dtype=inputs["identity"].dtype)


def matmul_sum(a, b, addend=0, addend_rest=0, **_):
    return a @ b + addend + addend_rest, np.zeros((0, b.shape[1]))  # what rounding leaves: see test_sums.py


def matmul_sum_torch(a, b, addend=None, addend_rest=None, **_):
    product = a.float() @ b.float()
    product = product if addend is None else product + addend.float() + addend_rest.float()
    return product.to(a.dtype), b[:0]


def group_scaled_matmul_inputs(generator, inputs):
    """Results that f16 holds."""
    if inputs["a"].dtype == torch.int8:
        inputs["scale_a"] *= 2**-12


def group_scaled_matmul(a, b, scales, scale_a, group, addend=0, product=lambda a, b: a @ b, **_):
    parts = (slice(g * group, (g + 1) * group) for g in range(len(scales)))
    total = sum(product(a[:, part], b[part]) * row for part, row in zip(parts, scales))
    return total * scale_a[:, None] + addend


group_scaled_matmul_torch_on_device = True


def group_scaled_matmul_torch(a, b, scales, scale_a, group, addend=None, dtype="", **_):
    addend = 0 if addend is None else addend.float()

    def product(a, b):
        return product_of_bytes(a, b).float()

    total = group_scaled_matmul(a, b, scales, scale_a, group, addend, product)
    return total.to(OUT[dtype.partition("/")[2]])
