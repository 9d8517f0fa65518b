"""low_bit_matmul in float64, and in f32 in the order of the kernel; integers are exact in both."""

import bitloom
import numpy as np
import torch

BIASES = ("none", "low", "all")


def low_bit_matmul_inputs(generator, inputs):
    """The sums of x are those of x, and results are small."""
    inputs["scales"] *= 2**-10
    if "x_sums" in inputs:
        groups = len(inputs["scales"])
        quantised = inputs["x"].view(torch.int8).float()
        inputs["x_sums"] = quantised.reshape(len(quantised), groups, -1).sum(-1).T.contiguous()


def product(
    number,
    x,
    weight,
    scales,
    x_scales,
    bits,
    lanes,
    depth,
    rows=None,
    biased_fields=0,
    x_zeros=None,
    w_sums=None,
    zeros=None,
    bias=None,
    clamped=False,
    lower=0.0,
    upper=6.0,
    asymmetric=False,
    x_asymmetric=False,
    biased=False,
    **_,
):
    groups, n = scales.shape
    order = f"order=columns,block={depth},rows={rows or max(lanes * 8, 32)},lanes={lanes},bias={BIASES[biased_fields]}"
    packing = bitloom.Packing.parse(f"bits={bits},{order}")
    fields = bitloom.unpack(weight.astype(np.uint8), packing, signed=not asymmetric)[:n].astype(np.int64)
    x = x.astype(np.uint8).view(np.int8).astype(np.int64)
    scales, x_scales = scales.astype(number), x_scales.astype(number)
    out = np.zeros((len(x), n), number)
    group = x.shape[1] // groups
    for g in range(groups):
        part = x[:, g * group : (g + 1) * group]
        sums = (part @ fields[:, g * group : (g + 1) * group].T).astype(number)
        if asymmetric:
            sums -= part.sum(1).astype(number)[:, None] * zeros[g].astype(number)
        out += sums * scales[g]
    if x_asymmetric:
        out -= x_zeros.astype(number)[:, None] * w_sums.astype(number)
    out *= x_scales[:, None]
    if biased:
        out += bias.astype(number)
    return np.clip(out, lower, upper) if clamped else out


def low_bit_matmul(**arguments):
    return product(np.float64, **arguments)


def low_bit_matmul_torch(**arguments):
    arguments = {
        name: value.cpu().to(torch.float64 if value.is_floating_point() else torch.int64).numpy()
        if torch.is_tensor(value)
        else value
        for name, value in arguments.items()
    }
    return torch.from_numpy(product(np.float32, **arguments))


def quantize_rows(x, group, panel, asymmetric=False, **_):
    """In f32, operation by operation: a number between two others may go either way in float64."""
    f32 = np.float32
    m, k = x.shape
    x = np.pad(x.astype(f32), ((0, -m % panel), (0, 0)))
    top, bottom = x.max(1).clip(f32(0)), x.min(1).clip(max=f32(0))
    step = (top - bottom) / f32(255) if asymmetric else np.maximum(top, -bottom) / f32(127)
    scales = np.where(step >= np.finfo(f32).tiny, step, f32(1))
    inverse = f32(1) / scales
    zeros = np.round(f32(-128) - bottom * inverse).clip(f32(-128), f32(127)) if asymmetric else np.zeros(len(x), f32)
    q = (np.round(x * inverse[:, None]) + zeros[:, None]).clip(f32(-128), f32(127))
    groups = -(-k // group)
    padded = np.pad(q, ((0, 0), (0, groups * group - k)))
    sums = padded[:m].reshape(m, groups, group).sum(-1).T
    panels = padded.reshape(-1, panel, groups * group // 8, 8).swapaxes(1, 2) if panel > 1 else padded
    out = panels.astype(np.int64).reshape(len(padded) // panel, -1) & 0xFF
    return out, scales[:m], zeros[: m * bool(asymmetric)], sums


def quantize_rows_results(out, scales, zeros, sums):
    return out, scales, zeros, sums


def quantize_rows_torch(x, **numbers):
    return tuple(
        torch.from_numpy(np.ascontiguousarray(each)) for each in quantize_rows(x.cpu().float().numpy(), **numbers)
    )


def low_bit_matvec_inputs(generator, inputs):
    inputs["scales"] *= 2**-10


def low_bit_matvec(x, weight, scales, group, **options):
    """As the two kernels that it is in one."""
    number = options.pop("number", np.float64)
    q, x_scales, _, _ = quantize_rows(x, group, 1)
    return product(number, x=q, weight=weight, scales=scales, x_scales=x_scales, **options)


def low_bit_matvec_results(out, bytes, sums):
    return out


def low_bit_matvec_torch(x, **arguments):
    arguments = {k: v.cpu().double().numpy() if torch.is_tensor(v) else v for k, v in arguments.items()}
    weight = arguments.pop("weight").astype(np.int64)
    return torch.from_numpy(low_bit_matvec(x.cpu().float().numpy(), weight, number=np.float32, **arguments))


def quantize_tokens(x, multiple, **_):
    """What is quantised, with zeros to a multiple of columns."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % multiple)))


def quantize_tokens_results(out, scales):
    return out * scales[:, None]


def quantize_tokens_torch(x, multiple, dtype, **_):
    x = torch.nn.functional.pad(x.float(), (0, -x.shape[1] % multiple))
    limit, kind = (127, torch.int8) if dtype.endswith("i8") else (448, torch.float8_e4m3fn)
    scales = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / limit
    q = x / scales
    return (q.round() if kind == torch.int8 else q).to(kind).double() * scales
