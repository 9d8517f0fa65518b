"""low_bit_linear in float64, and as torch computes it: in f32 on the dequantised weight, rounded once to x's type."""

import bitloom
import numpy as np
import torch

BLOCK = 128


def dequantised(weight, scales, zeros, columns, bits, group, asymmetric):
    """The weight as n rows of k columns in float64; scales and zeros of [groups, n]."""
    packing = bitloom.Packing(bits, "fragments", BLOCK)
    values = bitloom.unpack(weight.astype(np.uint8), packing, signed=not asymmetric).astype(np.float64)
    each = np.arange(values.shape[1]) // group
    each = np.minimum(each, len(scales) - 1)  # what fills up the last block meets zeros of x
    if asymmetric:
        values = values - zeros.T[:, each]
    return (values * scales.T[:, each])[:, :columns]


def low_bit_linear(x, weight, scales, bits=4, group=128, asymmetric=False, zeros=None, **_):
    return x @ dequantised(weight, scales, zeros, x.shape[1], bits, group, asymmetric).T


def low_bit_linear_torch(x, weight, scales, bits=4, group=128, asymmetric=False, zeros=None, **_):
    given = [None if array is None else array.double().cpu().numpy() for array in (weight, scales, zeros)]
    matrix = torch.from_numpy(dequantised(*given, x.shape[1], bits, group, asymmetric))
    return (x.float() @ matrix.to(x.device, torch.float32).T).to(x.dtype)
