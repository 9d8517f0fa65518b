"""Shapes and sums that operators share."""

import torch
from torch import Tensor

import bitloom


def rows(x: Tensor) -> Tensor:
    """x as a matrix of its last dimension; a view where there is one."""
    rank = x.dim()
    return x if rank == 2 else x.flatten(0, -2) if rank > 2 else x.unsqueeze(0)


def flattened(x: Tensor | None) -> Tensor | None:
    """x with one dimension; a view where there is one."""
    return x if x is None or x.dim() == 1 else x.flatten()


def per_row(grad: Tensor, count: int) -> Tensor:
    """The gradient that comes to a loss, one for all rows or of each of them, as that of each of `count` rows."""
    return grad.expand(count) if grad.dim() == 0 else flattened(grad)


def like(x: Tensor, shape=None, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor on x's device, of its shape and type where those are not given, without values."""
    if shape is None:  # a shape that goes through Python takes torch longer than the tensor
        return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device)


def as_type_of(x: Tensor, parameter: Tensor | None) -> Tensor | None:
    """A parameter in x's type: where weights are kept in f32, models of 16 bits multiply by rounded ones."""
    return parameter if parameter is None or parameter.dtype == x.dtype else parameter.to(x.dtype)


def as_autocast_has(x: Tensor) -> Tensor:
    """The input of a linear layer in the type that torch.autocast, where it is on, has such layers compute in."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def total(partials: Tensor, parameter: Tensor) -> Tensor:
    """The sum over the programs that each wrote a row, in the parameter's shape and type."""
    return bitloom.sum_partials(partials, out=like(parameter))


def totals(partials: Tensor, second: Tensor, parameter: Tensor, second_parameter: Tensor) -> tuple[Tensor, Tensor]:
    """The same of two parameters with as many elements, by one launch; a second one of no programs counts as absent."""
    if parameter.dtype != second_parameter.dtype or not len(second):
        return total(partials, parameter), total(second, second_parameter)
    out, second_out = like(parameter), like(second_parameter)
    bitloom.sum_partials(partials, second, out=out, second_out=second_out)
    return out, second_out
