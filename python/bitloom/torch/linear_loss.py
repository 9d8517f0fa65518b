"""What the losses of a linear layer's results have in common: options, and gradients that the forward computes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import bitloom

from .checks import check_devices, check_floats, check_range, check_shapes, check_targets
from .losses import check_classes, check_cross_entropy, cross_entropy_formula, mean_scale
from .operator import arguments_of, constant, formula_operator, gradients_of, is_eager, is_transformed, keep, operator
from .shapes import as_autocast_has, as_type_of, flattened, like, rows

# ---- as operators ------------------------------------------------------------------------------------------------


def linear_loss(
    name: str,
    arguments: str,
    by: tuple[int, int, int],
    forward: Callable,
    fake: Callable,
    gradients: Callable,
    formula: Callable,
    mean_factor: Callable,
    options: str = "",
    results: int = 1,
) -> Callable:
    """Registers a loss whose forward computes the gradients by a layer's input, weight and bias where it can, and
    ``<name>_backward``, which computes them anew. Returns the function to call.

    arguments: of the schema; `by` are the places of the three among them. The operator takes then dinput, dweight and
    dbias, which of the gradients the forward is to compute, and `options`, more flags. It gives `results` tensors, of
    which the first is the loss, and the gradients.
    forward(*arguments, *wanted, *options) and fake(...) give the results and gradients; gradients(grad, *arguments,
    *wanted) the gradients of grad * loss; formula(*arguments) is the loss in torch's own functions; mean_factor(
    *arguments) is what the forward's gradients of f16 are still to be multiplied by, or None.
    """
    wanted_flags = "bool dinput, bool dweight, bool dbias"
    count = arguments.count(",") + 1

    def second_order(grad, *inputs):
        *inputs, dx, dweight, dbias = inputs
        places = tuple(place for place, wanted in zip(by, (dx, dweight, dbias)) if wanted)
        found = iter(gradients_of(formula, 1, places)(grad, *inputs))
        return tuple(next(found) if wanted else None for wanted in (dx, dweight, dbias))

    def fake_backward(grad, *inputs):
        x, weight = inputs[by[0]], inputs[by[1]]
        return fake_gradients(x, weight, *inputs[count:], weight.dtype)

    backward_operator = formula_operator(
        f"{name}_backward(Tensor grad, {arguments}, {wanted_flags}) -> (Tensor, Tensor, Tensor)",
        gradients,
        fake_backward,
        second_order,
    )

    def setup(ctx, inputs, output):
        keep(ctx, inputs[:count])
        ctx.asked = inputs[count : count + 3]
        ctx.gradients = output[results:] if any(ctx.asked) else None
        ctx.inputs = len(inputs)
        constant(ctx, *output[1:])

    def backward(ctx, grad, *_):
        found = [None] * ctx.inputs
        if grad is None:
            return tuple(found)
        inputs = arguments_of(ctx)
        x = inputs[by[0]]
        early, ctx.gradients = ctx.gradients, None  # they go out: another backward through here computes its own
        wanted = [ctx.needs_input_grad[place] for place in by]
        if early is None or any(w and not a for w, a in zip(wanted, ctx.asked)) or torch.is_grad_enabled():
            early = backward_operator(grad, *inputs, *wanted)
        else:
            factor = mean_factor(*inputs) if x.dtype == torch.float16 else None
            early = scaled(early, grad if factor is None else grad * factor[0])
        for place, value, needed in zip(by, early, wanted):
            found[place] = value.to(x.dtype) if needed else None
        return tuple(found)

    schema = ", ".join(filter(None, (arguments, wanted_flags, options)))
    outputs = ", ".join(["Tensor"] * (results + 3))
    return operator(f"{name}({schema}) -> ({outputs})", forward, fake, setup, backward)


def scaled(gradients: tuple[Tensor | None, ...], factor: Tensor) -> list[Tensor | None]:
    """Gradients that a forward computed, which nobody else has, times what comes from further on, a scalar."""
    if not is_eager(factor, *gradients):
        return [None if value is None else value * factor for value in gradients]
    for value in gradients:
        if value is not None and value.numel():
            count = math.gcd(value.numel(), 4096)  # rows enough for a GPU, few enough to leave in no time where it is 1
            matrix = value.view(count, -1) if count >= 1024 else rows(value)
            bitloom.scale_rows(factor.expand(matrix.shape[0]), x=matrix)
    return list(gradients)


def fake_gradients(x, weight, dx, dweight, dbias, kind):
    return (
        like(x) if dx else None,
        like(weight, dtype=kind) if dweight else None,
        like(weight, len(weight), kind) if dbias else None,
    )


def early_type(x: Tensor, weight: Tensor) -> torch.dtype:
    """Of the weight's gradient from a forward: those of f16 keep their range until the mean's factor comes with the
    loss's scale."""
    return torch.float32 if x.dtype == torch.float16 else weight.dtype


# ---- cross entropy -----------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """Checked arguments of a cross entropy of a linear layer, as the operators take them."""

    tensors: tuple  # input, weight, target, bias, class_weight
    numbers: tuple  # ignore_index to token_scaling
    wanted: list[bool]  # which gradients the forward is to compute


def prepared(
    name: str,
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    lse_square_scale: float,
    softcap: float | None,
    reduction: str,
    token_scaling: bool,
    chunk_size: int | None,
    classes: int,
) -> Prepared:
    """classes: of all parts of the weight."""
    cap = 0.0 if softcap is None else softcap
    check_cross_entropy(name, label_smoothing, lse_square_scale, cap, reduction, class_weight, "class_weight")
    if chunk_size is not None:
        check_range(name, "chunk_size", chunk_size, 1)
    check_floats(name, "input", input)
    check_targets(name, target, input)
    check_devices(name, input.device, weight=weight, bias=bias, class_weight=class_weight)
    check_classes(name, "weight", weight.shape[0])
    check_shapes(
        name,
        weight=(weight, (weight.shape[0], input.shape[-1])),
        bias=(bias, weight.shape[:1]),
        class_weight=(class_weight, (classes,)),
    )
    input = as_autocast_has(input)
    weight, bias = as_type_of(input, weight), as_type_of(input, bias)
    class_weight = class_weight if class_weight is None else class_weight.float()
    early = torch.is_grad_enabled() and reduction != "none" and not is_transformed()
    return Prepared(
        (input, weight, target, bias, class_weight),
        (ignore_index, float(label_smoothing), float(lse_square_scale), float(cap), reduction, token_scaling),
        [early and x is not None and x.requires_grad for x in (input, weight, bias)],
    )


ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor target, Tensor? bias, Tensor? class_weight, int ignore_index, "
    "float label_smoothing, float lse_square_scale, float softcap, str reduction, bool token_scaling, int chunk_size"
)
OPTIONS = "bool z_loss, bool accuracy, bool predicted"


def cross_entropy_operator(
    name: str, arguments: str, forward: Callable, gradients: Callable, formula: Callable
) -> Callable:
    """linear_loss of a cross entropy, whose arguments begin with ARGUMENTS. Its results are the loss, the z-loss, the
    accuracy and the predicted tokens, those after the loss by its options."""

    def fake(x, weight, target, *others):
        reduction, (*wanted, z_loss, accuracy, predicted) = others[6], others[-6:]
        shape = target.shape if reduction == "none" else ()
        return (
            like(x, shape, torch.float32),
            like(x, shape, torch.float32) if z_loss else None,
            like(x, (), torch.float32) if accuracy else None,
            like(target) if predicted else None,
            *fake_gradients(x, weight, *wanted, early_type(x, weight)),
        )

    def mean_factor(x, weight, target, bias, class_weight, ignore_index, *others):
        return mean_scale(flattened(target), class_weight, ignore_index) if others[3] == "mean" else None

    return linear_loss(name, arguments, (0, 1, 3), forward, fake, gradients, formula, mean_factor, OPTIONS, results=4)


def linear_cross_entropy_formula(
    x, weight, target, bias, class_weight, ignore_index, smoothing, z, softcap, reduction, scaling, chunk
):
    x, classes = rows(x).float(), flattened(target)
    logits = torch.nn.functional.linear(x, weight.float(), None if bias is None else bias.float())
    numbers = ignore_index, smoothing, z, softcap
    loss = cross_entropy_formula(logits, classes, class_weight, *numbers, "none")
    if scaling:
        with torch.no_grad():
            usual = ignore_index, 0.0, 0.0, softcap
            probability = torch.exp(-cross_entropy_formula(logits, classes, None, *usual, "none"))
        loss = loss * probability
    if reduction == "none":
        return loss.view(target.shape)
    return loss.sum() * (mean_scale(classes, class_weight, ignore_index)[0] if reduction == "mean" else 1)
