"""Normalisations."""

import math

import torch
from torch import Tensor

from .checks import check_shapes
from .operator import constant, formula_operator, gradients_of, is_eager, of_any_rank, operator
from .shapes import as_type_of, like, total, totals

# ---- rms_norm ----------------------------------------------------------------------------------------------------


def _rms_formula(x, weight, eps, offset):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide if weight is None else wide * (weight.float() + offset)).to(x.dtype)


_run_rms = of_any_rank("rms_norm")
_run_rms_backward = of_any_rank("rms_norm_backward")


def _rms_backward(dy, x, weight, eps, offset, dx=None):
    dx = like(x) if dx is None else dx
    if weight is None:
        return _run_rms_backward(dy, x, None, None, eps, offset, dx=dx), None
    _, dweight = _run_rms_backward(dy, x, weight, None, eps, offset, dx=dx, weighted=True)
    return dx, total(dweight, weight)


def _may_be_written(dy: Tensor) -> bool:
    """Whether a gradient can give its place to another; whether it should is for the caller to know."""
    return dy.is_contiguous() and not torch.is_grad_enabled() and is_eager(dy)


def _gradients(x, *parameters):
    return like(x), *(None if parameter is None else like(parameter) for parameter in parameters)


rms_norm_backward = formula_operator(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor? weight, float eps, float offset) -> (Tensor, Tensor)",
    _rms_backward,
    lambda dy, x, weight, eps, offset: _gradients(x, weight),
    gradients_of(_rms_formula, 1, (0, 1)),
)


def _rms_setup(ctx, inputs, output):
    x, weight, ctx.eps, ctx.offset, _, ctx.in_place = inputs
    ctx.save_for_backward(x, weight)


def _rms_gradient(ctx, dy):
    x, weight = ctx.saved_tensors
    if ctx.in_place and _may_be_written(dy):
        dx, dweight = _rms_backward(dy, x, weight, ctx.eps, ctx.offset, dy)
    else:
        dx, dweight = rms_norm_backward(dy, x, weight, ctx.eps, ctx.offset)
    return dx, None if weight is None else dweight, None, None, None, None


def _rms(x, weight, eps, offset, casting, in_place):
    return _run_rms(x, weight, eps, offset, out=like(x), casting=casting)


_rms_norm = operator(
    "rms_norm(Tensor x, Tensor? weight, float eps, float offset, str casting, bool in_place) -> Tensor",
    _rms,
    lambda x, *_: like(x),
    _rms_setup,
    _rms_gradient,
)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting: str = "gemma",
    in_place: bool = False,
) -> Tensor:
    """x / sqrt(mean(x²) + eps) * (weight + offset), over the last dimension.

    x: (..., n) of f32, f16 or bf16. weight: (n,), or none, and then no offset either. casting: where the result is
    rounded to x's type, computed in f32 otherwise: "gemma" once, at the end; "llama" also before the multiplication by
    the weight; "none" at every step, the root's too. in_place: the backward writes x's gradient over the result's, to
    save memory, where that is contiguous and nobody traces or differentiates again. Not for a result that is added to
    something: an addition hands the same gradient to both its terms.
    Returns a tensor like x. Raises UserError for other shapes and types.
    """
    return _rms_norm(x, as_type_of(x, weight), eps, offset, casting, in_place)


# ---- fused_add_rms_norm ------------------------------------------------------------------------------------------


_run_fused = of_any_rank("fused_add_rms_norm")
_run_fused_backward = of_any_rank("fused_add_rms_norm_backward")


def _fused_backward(dy, dsum, sum, weight, eps, offset, dx=None):
    dx = like(sum) if dx is None else dx
    if weight is None:
        return _run_fused_backward(dy, sum, None, dsum, None, eps, offset, dx=dx), None
    _, dweight = _run_fused_backward(dy, sum, weight, dsum, None, eps, offset, dx=dx, weighted=True)
    return dx, total(dweight, weight)


fused_add_rms_norm_backward = formula_operator(
    "fused_add_rms_norm_backward(Tensor dy, Tensor? dsum, Tensor sum, Tensor? weight, float eps, float offset)"
    " -> (Tensor, Tensor)",
    _fused_backward,
    lambda dy, dsum, sum, weight, eps, offset: _gradients(sum, weight),
    gradients_of(lambda sum, *others: (_rms_formula(sum, *others), sum), 2, (0, 1)),
)


def _fused_setup(ctx, inputs, output):
    _, _, weight, ctx.eps, ctx.offset, _, ctx.in_place = inputs
    ctx.save_for_backward(output[1], weight)
    ctx.set_materialize_grads(False)


def _fused_gradient(ctx, dy, dsum):
    sum, weight = ctx.saved_tensors
    if dy is None:
        return dsum, dsum, None, None, None, None, None
    if ctx.in_place and _may_be_written(dy):
        dx, dweight = _fused_backward(dy, dsum, sum, weight, ctx.eps, ctx.offset, dy)
    else:
        dx, dweight = fused_add_rms_norm_backward(dy, dsum, sum, weight, ctx.eps, ctx.offset)
    return dx, dx, None if weight is None else dweight, None, None, None, None


def _fused(x, residual, weight, eps, offset, casting, in_place):
    return _run_fused(x, residual, weight, eps, offset, out=like(x), sum=like(x), casting=casting)


_fused_add_rms_norm = operator(
    "fused_add_rms_norm(Tensor x, Tensor residual, Tensor? weight, float eps, float offset, str casting, "
    "bool in_place) -> (Tensor, Tensor)",
    _fused,
    lambda x, *_: (like(x), like(x)),
    _fused_setup,
    _fused_gradient,
)


def fused_add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting: str = "gemma",
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual), the sum rounded to x's type before its norm is taken.

    residual: of x's shape and type. The rest is as for rms_norm.
    """
    check_shapes("fused_add_rms_norm", residual=(residual, x.shape))
    return _fused_add_rms_norm(x, residual, as_type_of(x, weight), eps, offset, casting, in_place)


# ---- layer_norm --------------------------------------------------------------------------------------------------


def _layer_formula(x, mean, rstd, weight, bias, eps):
    wide = x.float()
    wide = wide - wide.mean(-1, keepdim=True)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    wide = wide if weight is None else wide * weight.float()
    return (wide if bias is None else wide + bias.float()).to(x.dtype)


_run_layer = of_any_rank("layer_norm")
_run_layer_backward = of_any_rank("layer_norm_backward")


def _layer_backward(dy, x, mean, rstd, weight, bias, eps):
    weighted, biased = weight is not None, bias is not None
    results = _run_layer_backward(dy, x, mean, rstd, weight, dx=like(x), with_dweight=weighted, with_dbias=biased)
    dx, *partials = results if weighted or biased else (results,)
    if weighted and biased:
        return dx, *totals(*partials, weight, bias)
    return dx, total(partials[0], weight) if weighted else None, total(partials[0], bias) if biased else None


layer_norm_backward = formula_operator(
    "layer_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    _layer_backward,
    lambda dy, x, mean, rstd, weight, bias, eps: _gradients(x, weight, bias),
    gradients_of(_layer_formula, 1, (0, 3, 4)),
)


def _layer_setup(ctx, inputs, output):
    x, weight, bias, ctx.eps = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    constant(ctx, mean, rstd)


def _layer_gradient(ctx, dy, *_):
    if dy is None:
        return None, None, None, None
    *_, weight, bias = saved = ctx.saved_tensors
    dx, dweight, dbias = layer_norm_backward(dy, *saved, ctx.eps)
    return dx, None if weight is None else dweight, None if bias is None else dbias, None


def _layer(x, weight, bias, eps):
    return _run_layer(x, weight, bias, eps, out=like(x), with_mean=True, with_rstd=True)


_layer_norm = operator(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)",
    _layer,
    lambda x, weight, bias, eps: (like(x), *(like(x, math.prod(x.shape[:-1]), torch.float32) for _ in range(2))),
    _layer_setup,
    _layer_gradient,
)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last dimension; statistics in f32.

    x: (..., n) of f32, f16 or bf16. weight, bias: (n,), or none.
    Returns a tensor like x. Raises UserError for other shapes and types.
    """
    return _layer_norm(x, as_type_of(x, weight), as_type_of(x, bias), eps)[0]
