"""low_bit_linear and its weight in float64, and as torch computes them: values less their zero points in 16 bits, where
they are premultiplied their products with the scales too, the rest in f32, rounded once to out's type."""

import bitloom
import numpy as np
import torch

BLOCK = 128
TYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "i8": torch.int8,
    "f8e4m3": torch.float8_e4m3fn,
}


def packing_of(bits):
    return bitloom.Packing.for_target("sm_90a", bits)


def columns_of(weight, bits):
    return weight.shape[1] * 8 // bits // packing_of(bits).rows


def each_column(numbers, group, columns):
    """Of [blocks, n * groups of a block], or [groups, n]: n rows of a number a column."""
    numbers = numbers.reshape(len(numbers), -1, max(1, BLOCK // group))
    rows = numbers.transpose(1, 0, 2).reshape(numbers.shape[1], -1)
    return rows[:, np.minimum(np.arange(columns) // group, rows.shape[1] - 1)]


def values_of(weight, scales, zeros, table, columns, bits, group, asymmetric):
    """Before their scales, n rows of k columns in float64."""
    rows = scales.shape[1] // max(1, BLOCK // group)
    signed = not asymmetric and table is None
    values = bitloom.unpack(weight.astype(np.uint8), packing_of(bits), signed=signed)[:rows, :columns]
    values = values.astype(np.float64) if table is None else table[values]
    return values - each_column(zeros, group, columns) if asymmetric else values


def low_bit_linear(
    x,
    weight,
    scales,
    bits=4,
    group=128,
    asymmetric=False,
    zeros=None,
    table=None,
    unit=None,
    bias=None,
    x_scales=None,
    **_,
):
    columns = x.shape[1]
    matrix = values_of(weight, scales, zeros, table, columns, bits, group, asymmetric) * each_column(
        scales, group, columns
    )
    of_rows = 1 if x_scales is None else x_scales[:, None]
    return x @ matrix.T * (1 if unit is None else unit) * of_rows + (0 if bias is None else bias)


def low_bit_linear_torch(
    x,
    weight,
    scales,
    dtype,
    bits=4,
    group=128,
    asymmetric=False,
    zeros=None,
    table=None,
    unit=None,
    bias=None,
    x_scales=None,
    **_,
):
    columns = x.shape[1]
    given = (weight, scales, zeros, table)
    weight, scales, zeros, table = (None if array is None else array.double().cpu().numpy() for array in given)
    values = torch.from_numpy(values_of(weight, scales, zeros, table, columns, bits, group, asymmetric)).to(x.dtype)
    matrix = values.float() * torch.from_numpy(each_column(scales, group, columns)).float()
    if group < BLOCK or len(x) > 32:
        matrix = matrix.to(x.dtype).float()
    of_rows = 1 if x_scales is None else x_scales[:, None]
    y = x.float() @ matrix.T * (1 if unit is None else unit) * of_rows + (0 if bias is None else bias)
    return y.to(TYPES[dtype.split("/")[-1]])


def low_bit_linear_weight(weight, scales, bits=4, group=128, asymmetric=False, zeros=None, table=None, **_):
    columns = columns_of(weight, bits)
    return values_of(weight, scales, zeros, table, columns, bits, group, asymmetric) * each_column(
        scales, group, columns
    )


def low_bit_linear_weight_torch(
    weight, scales, dtype, bits=4, group=128, asymmetric=False, zeros=None, table=None, **_
):
    columns = columns_of(weight, bits)
    given = (weight, scales, zeros, table)
    weight, scales, zeros, table = (None if array is None else array.double().cpu().numpy() for array in given)
    values = torch.from_numpy(values_of(weight, scales, zeros, table, columns, bits, group, asymmetric)).to(
        TYPES[dtype]
    )
    return (values.float() * torch.from_numpy(each_column(scales, group, columns)).float()).to(TYPES[dtype])


def low_bit_unpack_inputs(generator, inputs):
    """Numbers that bytes hold."""
    if "table" in inputs:
        inputs["table"] = torch.from_numpy(generator.integers(-16, 17, 16)).float()


def low_bit_unpack(weight, bits=4, is_signed=True, table=None, **_):
    """Of rows that fill their blocks."""
    signed = bool(is_signed) and table is None
    values = bitloom.unpack(weight.astype(np.uint8), packing_of(bits), signed=signed).astype(np.int64)
    return values if table is None else table[values]


def low_bit_unpack_torch(dtype, **given):
    given = {name: value.cpu().numpy() if torch.is_tensor(value) else value for name, value in given.items()}
    return torch.from_numpy(np.asarray(low_bit_unpack(**given), np.float32)).to(TYPES[dtype])


def grouped_low_bit_linear_inputs(generator, inputs):
    """Offsets ascend from 0 to the number of rows; some experts have none."""
    tokens, experts = len(inputs["x"]), len(inputs["weight"])
    cuts = np.sort(generator.integers(0, tokens, experts - 1, endpoint=True))
    inputs["offsets"] = torch.tensor([0, *cuts, tokens], dtype=torch.int32)


def each_expert(linear, x, weight, scales, offsets, zeros, unit, **numbers):
    def of(array, e):
        return None if array is None else array[e]

    return [
        linear(x[offsets[e] : offsets[e + 1]], weight[e], scales[e], zeros=of(zeros, e), unit=of(unit, e), **numbers)
        for e in range(len(weight))
    ]


def grouped_low_bit_linear(x, weight, scales, offsets, zeros=None, unit=None, **numbers):
    return np.concatenate(each_expert(low_bit_linear, x, weight, scales, offsets, zeros, unit, **numbers))


def grouped_low_bit_linear_torch(x, weight, scales, offsets, zeros=None, unit=None, **numbers):
    return torch.cat(each_expert(low_bit_linear_torch, x, weight, scales, offsets, zeros, unit, **numbers))
