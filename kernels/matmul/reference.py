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


def matmul(a, b, activation, bias=0, scale_a=1, scale_b=1, addend=0, **_):
    return activated(a @ b * scale_a * scale_b + bias + addend, activation)


matmul_torch_on_device = True  # tensor cores round sums in ways of their own


def matmul_torch(a, b, activation, bias=None, addend=None, dtype="", **_):
    if dtype.endswith("/f32"):
        product = torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
        product = product + (0 if bias is None else bias)
    elif not a.is_floating_point():  # in float64, exactly: integers have no product on GPUs
        product = (a.double() @ b.double()).to(torch.int32) + (0 if bias is None else bias)
    elif a.dtype.itemsize == 1:  # torch._scaled_mm wants shapes of multiples of 16
        product = (a.float() @ b.float() + (0 if bias is None else bias)).to(torch.bfloat16)
    else:
        product = a @ b if bias is None else torch.addmm(bias, a, b)
    if addend is not None:
        product = product + addend
    function = (lambda x: x, torch.relu, torch.nn.functional.silu, torch.nn.functional.gelu)[activation]
    return function(product)


def matmul_sum(a, b, addend=0, addend_rest=0, **_):
    return a @ b + addend + addend_rest, np.zeros((0, b.shape[1]))  # what rounding leaves: see test_sums.py


def matmul_sum_torch(a, b, addend=None, addend_rest=None, **_):
    product = a.float() @ b.float()
    product = product if addend is None else product + addend.float() + addend_rest.float()
    return product.to(a.dtype), b[:0]
