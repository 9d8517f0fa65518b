"""low_bit_gemv in float64, and as torch computes it: in f32 on the dequantised weight, rounded once to x's type."""

import bitloom
import numpy as np
import torch


def dequantised(weight, scales, zeros, columns, bits, group, asymmetric):
    """The weight as n rows of k columns in float64."""
    packing = bitloom.Packing(bits, "planar", group)
    values = bitloom.unpack(weight.astype(np.uint8), packing, signed=not asymmetric).astype(np.float64)
    values = values.reshape(*scales.shape, group)
    if asymmetric:
        values = values - zeros[..., None]
    return (values * scales[..., None]).reshape(len(weight), -1)[:, :columns]


def low_bit_gemv(x, weight, scales, bits, group, asymmetric, zeros=None, **_):
    return x @ dequantised(weight, scales, zeros, x.shape[1], bits, group, asymmetric).T


def low_bit_gemv_torch(x, weight, scales, bits, group, asymmetric, zeros=None, **_):
    given = [None if array is None else array.cpu().numpy() for array in (weight, scales, zeros)]
    matrix = torch.from_numpy(dequantised(*given, x.shape[1], bits, group, asymmetric))
    return (x.float() @ matrix.to(x.device, torch.float32).T).to(x.dtype)
