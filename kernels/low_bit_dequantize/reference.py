"""low_bit_dequantize in float64, and in f32 rounded once to out's type."""

import bitloom
import numpy as np
import torch

TYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "f8e4m3": torch.float8_e4m3fn,
}


def low_bit_dequantize(weight, scales, bits, group, zeros=None, table=None, asymmetric=False, tabled=False, **_):
    packing = bitloom.Packing(bits, "planar", group)
    signed = not (asymmetric or tabled)
    values = bitloom.unpack(weight.astype(np.uint8), packing, signed=signed).astype(np.int64)
    values = table[values] if tabled else values.astype(scales.dtype)
    values = values.reshape(*scales.shape, group)
    if asymmetric:
        values = values - zeros[..., None]
    return (values * scales[..., None]).reshape(len(weight), -1)


def low_bit_dequantize_torch(dtype, **given):
    given = {name: value.cpu().numpy() if torch.is_tensor(value) else value for name, value in given.items()}
    return torch.from_numpy(low_bit_dequantize(**given)).to(TYPES[dtype])
