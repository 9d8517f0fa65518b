"""Shapes and sums that operators share."""

import torch
from torch import Tensor

import bitloom


def rows(x: Tensor) -> Tensor:
    """x as a matrix of its last dimension; a view where there is one."""
    rank = x.dim()
    return x if rank == 2 else x.flatten(0, -2) if rank > 2 else x.unsqueeze(0)


def like(x: Tensor, shape=None, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor on x's device, of its shape and type where those are not given, without values."""
    return torch.empty(x.shape if shape is None else shape, dtype=dtype or x.dtype, device=x.device)


def as_type_of(x: Tensor, parameter: Tensor | None) -> Tensor | None:
    """A parameter in x's type: where weights are kept in f32, models of 16 bits multiply by rounded ones."""
    return parameter if parameter is None or parameter.dtype == x.dtype else parameter.to(x.dtype)


def total(partials: Tensor, parameter: Tensor) -> Tensor:
    """The sum over the programs that each wrote a row, in the parameter's shape and type."""
    return bitloom.sum_partials(partials, out=like(parameter))
