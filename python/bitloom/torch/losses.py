"""Losses of logits."""

from typing import NamedTuple

import torch
from torch import Tensor

import bitloom

from .checks import check_choice, check_constant, check_floats, check_range, check_shapes, check_targets
from .operator import constant, formula_operator, gradients_of, is_eager, of_any_rank, operator
from .shapes import flattened, like, per_row, rows
from .targets import error_word, look_at

REDUCTIONS = ("mean", "sum", "none")


# ---- cross_entropy -----------------------------------------------------------------------------------------------


def _mean_scale(target, weight, ignore_index):
    if weight is None:
        return bitloom.target_scale(target, ignore_index)
    return bitloom.target_weight_scale(target, weight.detach(), ignore_index)


# What a mean over the targets multiplies by, (1,): 0 where no target counts.
mean_scale = operator(
    "mean_scale(Tensor target, Tensor? weight, int ignore_index) -> Tensor",
    _mean_scale,
    lambda target, weight, ignore_index: like(target, 1, torch.float32),
)


def reduced(losses: Tensor, target: Tensor, scale: Tensor | None, reduction: str) -> Tensor:
    """The rows' losses, (n,), as a reduction has them; scale is what a mean multiplies by, None of a sum."""
    return losses.view_as(target) if reduction == "none" else bitloom.sum_scaled(losses, scale).view(())


def share(correct: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """How many of the targets that count are correct, between 0 and 1. Both are (n,)."""
    return bitloom.sum_scaled(correct, bitloom.target_scale(target, ignore_index)).view(())


def cross_entropy_formula(logits, target, weight, ignore_index, smoothing, z, softcap, reduction):
    x = rows(logits).float()
    x = softcap * torch.tanh(x / softcap) if softcap else x
    target, weight = flattened(target), None if weight is None else weight.detach()
    counts = target != ignore_index
    usual = {
        "weight": weight,
        "ignore_index": ignore_index,
        "label_smoothing": smoothing,
        "reduction": "none",
    }
    loss = torch.nn.functional.cross_entropy(x, target, **usual) + counts * z * torch.logsumexp(x, -1).square()
    if reduction == "none":
        return loss.view(logits.shape[:-1])
    return loss.sum() * (mean_scale(target, weight, ignore_index)[0] if reduction == "mean" else 1)


_run = of_any_rank("cross_entropy")


def _gradient_of(grad, logits, target, weight, ignore_index, smoothing, z, softcap, reduction):
    target = flattened(target)
    scale = per_row(grad, len(target))
    if reduction == "mean":
        scale = scale * mean_scale(target, weight, ignore_index)
    numbers = ignore_index, smoothing or None, z or None, softcap or None
    return _run(logits, target, weight, scale, None, *numbers, dlogits=like(logits))[0]


_arguments = (
    "Tensor target, Tensor? weight, int ignore_index, float label_smoothing, float lse_square_scale, float softcap, "
    "str reduction"
)
cross_entropy_backward = formula_operator(
    f"cross_entropy_backward(Tensor grad, Tensor logits, {_arguments}) -> Tensor",
    _gradient_of,
    lambda grad, logits, *_: like(logits),
    lambda *arguments: gradients_of(cross_entropy_formula, 1, (0,))(*arguments)[0],
)


def _forward(logits, target, weight, ignore_index, smoothing, z, softcap, reduction, gradient, z_loss, correct, best):
    classes = flattened(target)
    scale = _mean_scale(classes, weight, ignore_index) if reduction == "mean" else None
    # Gradients of 16 bits without an exponent's range keep theirs until the mean's factor comes with the loss's scale.
    early = scale.expand(len(classes)) if gradient and scale is not None and logits.dtype != torch.float16 else None
    word = error_word("cross_entropy", logits.device)
    results = iter(
        _run(
            logits,
            classes,
            weight,
            early,
            None,
            ignore_index,
            smoothing or None,
            z or None,
            softcap or None,
            dlogits=like(logits) if gradient else None,
            with_z_loss=z_loss,
            with_predicted=best,
            with_correct=correct,
            error=word,
        )
    )
    look_at("cross_entropy", word)

    dlogits = next(results) if gradient else None
    losses = reduced(next(results), target, scale, reduction)
    z_losses = reduced(next(results), target, scale, reduction) if z_loss else None
    predicted = next(results).clamp_(max=logits.shape[-1] - 1).view_as(target) if best else None  # of NaN: any class
    accuracy = share(next(results), classes, ignore_index) if correct else None
    return losses, z_losses, accuracy, predicted, dlogits


def _fake(logits, target, weight, ignore_index, smoothing, z, softcap, reduction, gradient, z_loss, correct, best):
    shape = target.shape if reduction == "none" else ()
    return (
        like(logits, shape, torch.float32),
        like(logits, shape, torch.float32) if z_loss else None,
        like(logits, (), torch.float32) if correct else None,
        like(target) if best else None,
        like(logits) if gradient else None,
    )


def _setup(ctx, inputs, output):
    logits, target, weight, *ctx.numbers, gradient, _, _, _ = inputs
    ctx.save_for_backward(logits, target, weight)
    ctx.gradient = output[-1] if gradient else None
    constant(ctx, *output[1:])


def _backward(ctx, grad, *_):
    nothing = (None,) * 11
    if grad is None:
        return (None, *nothing)
    dlogits, ctx.gradient = ctx.gradient, None  # it goes out: another backward through here computes its own
    if dlogits is None or torch.is_grad_enabled() or not is_eager(dlogits, grad):
        return (cross_entropy_backward(grad, *ctx.saved_tensors, *ctx.numbers), *nothing)
    matrix = rows(dlogits)
    scale = per_row(grad, matrix.shape[0])
    if ctx.numbers[-1] == "mean" and dlogits.dtype == torch.float16:
        _, target, weight = ctx.saved_tensors
        scale = scale * mean_scale(flattened(target), weight, ctx.numbers[0])
    bitloom.scale_rows(scale, x=matrix)
    return (dlogits, *nothing)


_cross_entropy = operator(
    f"cross_entropy(Tensor logits, {_arguments}, bool gradient, bool z_loss, bool accuracy, bool predicted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake,
    _setup,
    _backward,
)


class CrossEntropyOutput(NamedTuple):
    """loss, and what else was asked for: the z-loss's share in it, how many of the targets that count the largest
    logits hit (between 0 and 1), and the classes of the largest logits."""

    loss: Tensor
    z_loss: Tensor | None = None
    token_accuracy: Tensor | None = None
    predicted_tokens: Tensor | None = None


def output_of(found: tuple, asked: tuple[bool, bool, bool]) -> Tensor | CrossEntropyOutput:
    """What a loss gives its caller, of an operator's results, which begin with the output's fields."""
    if not any(asked):
        return found[0]
    return CrossEntropyOutput(found[0], *(value if wanted else None for value, wanted in zip(found[1:], asked)))


def check_cross_entropy(name, label_smoothing, lse_square_scale, softcap, reduction, weight, called="weight") -> None:
    check_choice(name, "reduction", reduction, REDUCTIONS)
    check_range(name, "label_smoothing", label_smoothing, 0, 1)
    check_range(name, "lse_square_scale", lse_square_scale, 0)
    check_range(name, "softcap", softcap, 0)
    check_constant(name, called, weight)


def check_classes(name: str, argument: str, classes: int) -> None:
    if classes < 1:
        raise bitloom.UserError(f"{name}: argument {argument}: expected 1 class or more, got 0")


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    *,
    return_z_loss: bool = False,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
) -> Tensor | CrossEntropyOutput:
    """The cross entropy of each row of logits with its target, plus lse_square_scale * logsumexp(row)².

    logits: (..., classes) of f32, f16 or bf16. target: i64 of (...), classes or ignore_index; such rows count for
    nothing. weight: floats of (classes,). softcap: logits are softcap * tanh(logits / softcap) first. reduction: "mean"
    over the targets that count, by their weights where there are such, and 0 where none counts; "sum"; or "none".
    Computed in f32; the gradient is for the logits.
    Returns the loss, f32 of () or of (...), or a CrossEntropyOutput where more is asked for.
    Raises UserError for other shapes, types and numbers, and for targets that are no class: these make the loss NaN,
    and are named by this call on the CPU and by a later one on CUDA, which does not wait for the device.
    """
    cap = 0.0 if softcap is None else softcap
    check_cross_entropy("cross_entropy", label_smoothing, lse_square_scale, cap, reduction, weight)
    check_floats("cross_entropy", "logits", logits)
    check_targets("cross_entropy", target, logits)
    check_classes("cross_entropy", "logits", logits.shape[-1])
    if weight is not None:
        check_shapes("cross_entropy", weight=(weight, logits.shape[-1:]))
        weight = weight.float()
    # Traced, the backward computes the gradient: what the forward wrote could not be scaled in place.
    gradient = logits.requires_grad and torch.is_grad_enabled() and is_eager(logits)
    numbers = ignore_index, float(label_smoothing), float(lse_square_scale), float(cap), reduction
    asked = return_z_loss, return_token_accuracy, return_predicted_tokens
    found = _cross_entropy(logits, target, weight, *numbers, gradient, *asked)
    return output_of(found, asked)
