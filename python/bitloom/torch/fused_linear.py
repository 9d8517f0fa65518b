"""The cross entropy of a linear layer's results, whose logits are never there all at once."""

import torch
from torch import Tensor

import bitloom

from .by_classes import by_classes
from .checks import check_range, check_shapes
from .chunks import CHUNK, Chunks, fake_gradients, linear_cross_entropy_formula, scaled
from .losses import CrossEntropyOutput, check_cross_entropy, mean_scale
from .operator import formula_operator, gradients_of, operator
from .shapes import as_type_of, like, rows
from .targets import error_word, look_at


def _run(chunks, target, class_weight, ignore_index, smoothing, z, softcap, scale, scaling, results):
    """The losses of all rows into results["loss"], and what else of the kernel's results is there. Gradients are of the
    losses times scale, (n,) or None, and by the probabilities of the targets where these scale."""
    numbers = ignore_index, smoothing or None, z or None, softcap or None
    device = target.device
    words = error_word("fused_linear_cross_entropy", device)
    found = [words] if len(chunks.spans) < 2 else list(words.new_zeros(len(chunks.spans), 1))
    for span, word in zip(chunks.spans, found):
        logits, own = chunks.logits(span), target[span]
        factor = None if scale is None else scale[span]
        if scaling:
            likelihood = bitloom.cross_entropy(logits, own, None, None, ignore_index, None, None, softcap or None)
            probability = torch.exp(-likelihood)
            factor = probability if factor is None else probability * factor
        outputs = {name: value[span] for name, value in results.items()}
        if chunks.any:
            outputs["dlogits"] = logits
        bitloom.cross_entropy(
            logits, own, class_weight, factor if chunks.any else None, *numbers, error=word, **outputs
        )
        if scaling:
            for name in ("loss", "z_loss"):
                if name in outputs:
                    outputs[name].mul_(probability)
        if chunks.any:
            chunks.add(span, logits)
    if len(found) > 1:
        first = torch.arange(len(found), dtype=torch.int32, device=device) * chunks.spans[0].stop
        row = torch.cat(found)
        torch.amax(torch.where(row > 0, row + first, 0), 0, keepdim=True, out=words)
    look_at("fused_linear_cross_entropy", words)


def _gradients(grad, x, weight, target, bias, class_weight, ignore_index, *others):
    *numbers, reduction, scaling, chunk, dx, dweight, dbias = others
    flat, classes = rows(x), target.flatten()
    scale = grad.flatten().expand(len(flat))
    if reduction == "mean":
        scale = scale * mean_scale(classes, class_weight, ignore_index)
    chunks = Chunks(flat, weight, bias, chunk, dx, dweight, dbias)
    results = {"loss": like(x, len(flat), torch.float32)}
    _run(chunks, classes, class_weight, ignore_index, *numbers, scale, scaling, results)
    dx, dweight, dbias = chunks.gradients()
    return dx.view(x.shape) if dx.dim() > 1 else dx, dweight.to(weight.dtype), dbias.to(weight.dtype)


def _second_order(*arguments):
    *arguments, dx, dweight, dbias = arguments
    by = [place for place, wanted in ((0, dx), (1, dweight), (3, dbias)) if wanted]
    found = iter(gradients_of(linear_cross_entropy_formula, 1, tuple(by))(*arguments))
    return tuple(next(found) if wanted else None for wanted in (dx, dweight, dbias))


_arguments = (
    "Tensor input, Tensor weight, Tensor target, Tensor? bias, Tensor? class_weight, int ignore_index, "
    "float label_smoothing, float lse_square_scale, float softcap, str reduction, bool token_scaling, int chunk_size, "
    "bool dinput, bool dweight, bool dbias"
)
fused_linear_cross_entropy_backward = formula_operator(
    f"fused_linear_cross_entropy_backward(Tensor grad, {_arguments}) -> (Tensor, Tensor, Tensor)",
    _gradients,
    lambda grad, x, weight, *others: fake_gradients(x, weight, *others[-3:], weight.dtype),
    _second_order,
)


def _forward(x, weight, target, bias, class_weight, ignore_index, *others):
    *numbers, reduction, scaling, chunk, dx, dweight, dbias, z_loss, accuracy, predicted = others
    flat, classes = rows(x), target.flatten()
    mean = mean_scale(classes, class_weight, ignore_index) if reduction == "mean" else None
    chunks = Chunks(flat, weight, bias, chunk, dx, dweight, dbias)
    # Gradients of 16 bits without an exponent's range keep theirs until the mean's factor comes with the loss's scale.
    early = None if mean is None or x.dtype == torch.float16 else mean.expand(len(flat))
    asked = {"loss": torch.float32} | ({"z_loss": torch.float32} if z_loss else {})
    asked |= ({"predicted": torch.int64} if predicted else {}) | ({"correct": torch.bool} if accuracy else {})
    results = {name: like(x, len(flat), kind) for name, kind in asked.items()}
    _run(chunks, classes, class_weight, ignore_index, *numbers, early, scaling, results)

    def summed(values):
        return values.view(target.shape) if reduction == "none" else bitloom.sum_scaled(values, mean).view(())

    dx, dweight, dbias = chunks.gradients()
    return (
        summed(results["loss"]),
        summed(results["z_loss"]) if z_loss else like(x, 0, torch.float32),
        bitloom.sum_scaled(results["correct"], bitloom.target_scale(classes, ignore_index)).view(())
        if accuracy
        else like(x, 0, torch.float32),
        results["predicted"].view(target.shape) if predicted else like(x, 0, torch.int64),
        dx.view(x.shape) if dx.dim() > 1 else dx,
        dweight,
        dbias,
    )


def _fake(x, weight, target, bias, class_weight, ignore_index, *others):
    *_, reduction, _, _, dx, dweight, dbias, z_loss, accuracy, predicted = others
    shape = target.shape if reduction == "none" else ()
    return (
        like(x, shape, torch.float32),
        like(x, shape if z_loss else 0, torch.float32),
        like(x, () if accuracy else 0, torch.float32),
        like(x, target.shape if predicted else 0, torch.int64),
        *fake_gradients(x, weight, dx, dweight, dbias, torch.float32 if x.dtype == torch.float16 else weight.dtype),
    )


def _setup(ctx, inputs, output):
    x, weight, target, bias, class_weight, *ctx.numbers = inputs[:12]
    ctx.save_for_backward(x, weight, target, bias, class_weight)
    ctx.asked = inputs[12:15]
    ctx.gradients = output[4:] if any(ctx.asked) else None
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 18
    x, weight, target, bias, class_weight = saved = ctx.saved_tensors
    gradients, ctx.gradients = ctx.gradients, None  # they go out: another backward through here computes its own
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
    if gradients is None or any(w and not a for w, a in zip(wanted, ctx.asked)) or torch.is_grad_enabled():
        gradients = fused_linear_cross_entropy_backward(grad, *saved, *ctx.numbers, *wanted)
    else:
        ignore_index, *_, reduction, _, _ = ctx.numbers
        if reduction == "mean" and x.dtype == torch.float16:
            grad = grad * mean_scale(target.flatten(), class_weight, ignore_index)[0]
        gradients = scaled(gradients, grad)
    dx, dweight, dbias = (value.to(x.dtype) if w else None for value, w in zip(gradients, wanted))
    return (dx, dweight, None, dbias, *(None,) * 14)


_fused_linear_cross_entropy = operator(
    f"fused_linear_cross_entropy({_arguments}, bool z_loss, bool accuracy, bool predicted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake,
    _setup,
    _backward,
)


def fused_linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    *,
    token_scaling: bool = False,
    chunk_size: int | None = None,
    low_memory: bool = False,
    return_z_loss: bool = False,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
) -> Tensor | CrossEntropyOutput:
    """cross_entropy(linear(input, weight, bias), target, class_weight, ...) with the logits of chunk_size rows at once,
    4096 where it is not given.

    input: (..., hidden) of f32, f16 or bf16. weight: (classes, hidden). bias: (classes,). target: i64 of (...).
    token_scaling: each row's loss is multiplied by its target's probability, which counts as a constant. The others are
    cross_entropy's, class_weight being its weight. Sums over chunks are in f32. Gradients are computed with the loss,
    under reduction="none" in the backward, and not at all where nothing requires them.
    low_memory: chunks are of chunk_size classes rather than rows, by default so many that their logits are some 2^25:
    the weight's gradient is computed once, in its own type, for the price of computing logits twice. As exact; but
    accuracy and predicted tokens are not to be had.
    Returns and raises as cross_entropy does.
    """
    name, cap = "fused_linear_cross_entropy", 0.0 if softcap is None else softcap
    check_cross_entropy(name, label_smoothing, lse_square_scale, cap, reduction, class_weight, "class_weight")
    if chunk_size is not None:
        check_range(name, "chunk_size", chunk_size, 1)
    check_shapes(
        name,
        weight=(weight, (weight.shape[0], input.shape[-1])),
        target=(target, input.shape[:-1]),
        bias=(bias, weight.shape[:1]),
    )
    weight, bias = as_type_of(input, weight), as_type_of(input, bias)
    early = torch.is_grad_enabled() and reduction != "none"
    wanted = [early and x is not None and x.requires_grad for x in (input, weight, bias)]
    numbers = ignore_index, float(label_smoothing), float(lse_square_scale), float(cap), reduction, token_scaling
    asked = return_z_loss, return_token_accuracy, return_predicted_tokens
    if low_memory:
        if return_token_accuracy or return_predicted_tokens:
            raise bitloom.UserError(
                f"{name}: argument low_memory: expected no accuracy and no predicted tokens beside it"
            )
        loss, z_loss = by_classes(input, weight, target, bias, class_weight, numbers, chunk_size, wanted)
        return CrossEntropyOutput(loss, z_loss) if return_z_loss else loss
    chunk_size = chunk_size or CHUNK
    loss, *others = _fused_linear_cross_entropy(
        input, weight, target, bias, class_weight, *numbers, chunk_size, *wanted, *asked
    )
    if not any(asked):
        return loss
    return CrossEntropyOutput(loss, *(value if wanted else None for value, wanted in zip(others, asked)))
