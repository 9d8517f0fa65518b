"""The cross entropy of a linear layer's results, whose logits are never there all at once."""

import torch
from torch import Tensor

import bitloom

from .by_classes import by_classes
from .chunks import CHUNK, Chunks
from .linear_loss import ARGUMENTS, cross_entropy_operator, early_type, linear_cross_entropy_formula, prepared
from .losses import CrossEntropyOutput, mean_scale, output_of, reduced, share
from .shapes import flattened, like, per_row, rows
from .targets import error_word, look_at


def _run(chunks, target, class_weight, ignore_index, smoothing, z, softcap, scale, scaling, results):
    """The losses of all rows into results["loss"], and what else of the kernel's results is there. Gradients are of the
    losses times scale, (n,) or None, and by the probabilities of the targets where these scale."""
    numbers = ignore_index, smoothing or None, z or None, softcap or None
    device = target.device
    words = error_word("fused_linear_cross_entropy", device)
    found = [words] if len(chunks.spans) < 2 else list(words.new_zeros(len(chunks.spans), 1))
    summed = not smoothing and "predicted" not in results and "correct" not in results  # no other look at the logits
    # On a GPU the product is slower by its exponentials than cross_entropy is by those of a row that it has anyway.
    summed &= scaling or not chunks.any or device.type != "cuda"
    for span, word in zip(chunks.spans, found):
        own, lse = target[span], None
        if summed:
            logits, lse = chunks.logits_and_lse(span, softcap or None)
        else:
            logits = chunks.logits(span)
        factor = None if scale is None else scale[span]
        if scaling:
            likelihood = bitloom.cross_entropy(
                logits, own, known_lse=lse, ignore_index=ignore_index, softcap=softcap or None
            )
            probability = torch.exp(-likelihood)
            factor = probability if factor is None else probability * factor
        outputs = {name: value[span] for name, value in results.items()}
        if chunks.any:
            outputs["dlogits"] = logits
        bitloom.cross_entropy(
            logits, own, class_weight, factor if chunks.any else None, lse, *numbers, error=word, **outputs
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
    flat, classes = rows(x), flattened(target)
    scale = per_row(grad, len(flat))
    if reduction == "mean":
        scale = scale * mean_scale(classes, class_weight, ignore_index)
    chunks = Chunks(flat, weight, bias, chunk, dx, dweight, dbias)
    results = {"loss": like(x, len(flat), torch.float32)}
    _run(chunks, classes, class_weight, ignore_index, *numbers, scale, scaling, results)
    return chunks.gradients(x, weight.dtype)


def _forward(x, weight, target, bias, class_weight, ignore_index, *others):
    *numbers, reduction, scaling, chunk, dx, dweight, dbias, z_loss, accuracy, predicted = others
    flat, classes = rows(x), flattened(target)
    mean = mean_scale(classes, class_weight, ignore_index) if reduction == "mean" else None
    chunks = Chunks(flat, weight, bias, chunk, dx, dweight, dbias)
    # Gradients of 16 bits without an exponent's range keep theirs until the mean's factor comes with the loss's scale.
    early = None if mean is None or x.dtype == torch.float16 else mean.expand(len(flat))
    asked = {"loss": torch.float32} | ({"z_loss": torch.float32} if z_loss else {})
    asked |= ({"predicted": torch.int64} if predicted else {}) | ({"correct": torch.bool} if accuracy else {})
    results = {name: like(x, len(flat), kind) for name, kind in asked.items()}
    _run(chunks, classes, class_weight, ignore_index, *numbers, early, scaling, results)
    return (
        reduced(results["loss"], target, mean, reduction),
        reduced(results["z_loss"], target, mean, reduction) if z_loss else None,
        share(results["correct"], classes, ignore_index) if accuracy else None,
        results["predicted"].clamp_(max=len(weight) - 1).view_as(target) if predicted else None,  # of NaN: any class
        *chunks.gradients(x, early_type(x, weight)),
    )


_fused_linear_cross_entropy = cross_entropy_operator(
    "fused_linear_cross_entropy", ARGUMENTS, _forward, _gradients, linear_cross_entropy_formula
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
    8192 where it is not given.

    input: (..., hidden) of f32, f16 or bf16. weight: (classes, hidden). bias: (classes,). target: i64 of (...).
    token_scaling: each row's loss is multiplied by its target's probability, which counts as a constant. The others are
    cross_entropy's, class_weight being its weight. Sums over chunks are in f32, or in pairs of bf16. Gradients are
    computed with the loss, under reduction="none" in the backward, and not at all where nothing requires them.
    low_memory: chunks are of chunk_size classes rather than rows, by default so many that their logits are some 10^8:
    the weight's gradient is computed once, in its own type, for the price of computing logits twice. As exact.
    Returns and raises as cross_entropy does.
    """
    tensors, numbers, wanted = prepared(
        "fused_linear_cross_entropy",
        *(input, weight, target, bias, class_weight, ignore_index, label_smoothing, lse_square_scale, softcap),
        *(reduction, token_scaling, chunk_size, weight.shape[0]),
    )
    asked = return_z_loss, return_token_accuracy, return_predicted_tokens
    if low_memory:
        found = by_classes(tensors, numbers, chunk_size, wanted, asked)
    else:
        found = _fused_linear_cross_entropy(*tensors, *numbers, chunk_size or CHUNK, *wanted, *asked)
    return output_of(found, asked)
