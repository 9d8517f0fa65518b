"""Normalisation of groups of channels."""

import torch
from torch import Tensor

import bitloom

from .checks import check_shapes
from .operator import constant, formula_operator, gradients_of, operator
from .shapes import as_type_of, like, total, totals


def _grouped(x: Tensor, groups: int) -> Tensor:
    """(batch, groups, channels of a group, space); a view where there is one."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, x.shape[2:].numel())


def _by_group(parameter: Tensor | None, groups: int) -> Tensor | None:
    return None if parameter is None else parameter.reshape(groups, -1)


def _formula(x, mean, rstd, weight, bias, groups, eps):
    wide = _grouped(x, groups).float()
    wide = wide - wide.mean((2, 3), keepdim=True)
    wide = (wide * torch.rsqrt(wide.square().mean((2, 3), keepdim=True) + eps)).reshape(x.shape)
    shape = (1, -1, *[1] * (x.dim() - 2))
    wide = wide if weight is None else wide * weight.float().view(shape)
    return (wide if bias is None else wide + bias.float().view(shape)).to(x.dtype)


def _run_backward(dy, x, mean, rstd, weight, bias, groups, eps):
    by_group = _by_group(weight, groups)
    dx, dweight, dbias = bitloom.group_norm_backward(_grouped(dy, groups), _grouped(x, groups), mean, rstd, by_group)
    partials = dweight.view(x.shape[:2]), dbias.view(x.shape[:2])
    if weight is not None and bias is not None:
        return dx.view_as(x), *totals(*partials, weight, bias)
    return (
        dx.view_as(x),
        None if weight is None else total(partials[0], weight),
        None if bias is None else total(partials[1], bias),
    )


def _gradients(x, weight, bias):
    return like(x), *(None if parameter is None else like(parameter) for parameter in (weight, bias))


group_norm_backward = formula_operator(
    "group_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, int groups, "
    "float eps) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    lambda dy, x, mean, rstd, weight, bias, groups, eps: _gradients(x, weight, bias),
    gradients_of(_formula, 1, (0, 3, 4)),
)


def _setup(ctx, inputs, output):
    x, weight, bias, ctx.groups, ctx.eps = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    constant(ctx, mean, rstd)


def _backward(ctx, dy, *_):
    if dy is None:
        return None, None, None, None, None
    *_, weight, bias = saved = ctx.saved_tensors
    dx, dweight, dbias = group_norm_backward(dy, *saved, ctx.groups, ctx.eps)
    return dx, None if weight is None else dweight, None if bias is None else dbias, None, None


def _forward(x, weight, bias, groups, eps):
    parameters = _by_group(weight, groups), _by_group(bias, groups)
    out, mean, rstd = bitloom.group_norm(_grouped(x, groups), *parameters, eps, with_mean=True, with_rstd=True)
    return out.view_as(x), mean, rstd


_group_norm = operator(
    "group_norm(Tensor x, Tensor? weight, Tensor? bias, int groups, float eps) -> (Tensor, Tensor, Tensor)",
    _forward,
    lambda x, weight, bias, groups, eps: (like(x), *(like(x, (x.shape[0], groups), torch.float32) for _ in range(2))),
    _setup,
    _backward,
)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over each group of channels and all that follows them.

    x: (batch, channels, ...) of f32, f16 or bf16. weight, bias: (channels,), or none. Statistics are in f32.
    Returns a tensor like x. Raises UserError for other shapes and types.
    """
    if x.dim() < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise bitloom.UserError(
            f"group_norm: argument num_groups: expected a divisor of the channels of an x of 2 dimensions or more, "
            f"got {num_groups} and shape {tuple(x.shape)}"
        )
    check_shapes("group_norm", weight=(weight, x.shape[1:2]), bias=(bias, x.shape[1:2]))
    return _group_norm(x, as_type_of(x, weight), as_type_of(x, bias), num_groups, eps)[0]
