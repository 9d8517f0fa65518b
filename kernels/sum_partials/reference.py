"""sum_partials in float64, and as torch computes it."""

import torch


def sums(partials, second):
    return partials.sum(0), partials[0, :0] if second is None else second.sum(0)


def sum_partials(partials, second_partials=None, **_):
    return sums(partials, second_partials)


def sum_partials_torch(partials, dtype, second_partials=None, **_):
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    return tuple(total.to(kind) for total in sums(partials, second_partials))
