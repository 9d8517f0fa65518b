"""The Jensen-Shannon divergence of the results of two linear layers, a student's and a teacher's, whose logits are
never there all at once."""

import torch
from torch import Tensor

import bitloom

from .checks import check_choice, check_constant, check_floats, check_range, check_shapes, check_temperature
from .chunks import CHUNK, Chunks, linear_lse
from .divergences import REDUCTIONS, mean_factor, row_scale, rows_formula, run
from .linear_loss import early_type, fake_gradients, linear_loss
from .operator import is_transformed
from .shapes import as_autocast_has, as_type_of, flattened, like, per_row, rows


def _run(chunks, teacher, teacher_weight, teacher_bias, beta, temperature, scale):
    """The rows' losses; gradients are of these times scale, (n,) or None."""
    losses = like(teacher, len(teacher), torch.float32)
    for span in chunks.spans:
        if temperature == 1:
            logits, lse = chunks.logits_and_lse(span)
            target = like(logits)
            known = lse, linear_lse(teacher[span], teacher_weight, teacher_bias, None, target)
        else:
            logits, known = chunks.logits(span), (None, None)
            target = bitloom.matmul(teacher[span], teacher_weight.t(), teacher_bias)
        factor = scale[span] if scale is not None and chunks.any else None
        outputs = {"loss": losses[span]} | ({"dinput": logits} if chunks.any else {})
        run("jsd", logits, target, "logits", "logits", beta, temperature, factor, known, **outputs)
        if chunks.any:
            chunks.add(span, logits)
        del target  # before the next one comes
    return losses


def _formula(x, weight, bias, teacher, teacher_weight, teacher_bias, labels, beta, temperature, *others):
    ignore_index, reduction, _ = others

    def linear(x, weight, bias):
        return torch.nn.functional.linear(rows(x).float(), weight.float(), None if bias is None else bias.float())

    logits = linear(x, weight, bias)
    with torch.no_grad():
        target = linear(teacher, teacher_weight, teacher_bias)
    losses = rows_formula("jsd", logits, target, "logits", "logits", beta, temperature)
    scale = row_scale(logits.shape, flattened(labels), ignore_index, reduction, x.device)
    losses = losses if scale is None else torch.where(scale != 0, losses, 0) * scale
    return losses.view(x.shape[:-1]) if reduction == "none" else losses.sum()


def _gradients(grad, x, weight, bias, teacher, teacher_weight, teacher_bias, labels, *others):
    beta, temperature, ignore_index, reduction, chunk, *wanted = others
    flat = rows(x)
    own = row_scale((len(flat), len(weight)), flattened(labels), ignore_index, reduction, x.device)
    scale = per_row(grad, len(flat))
    chunks = Chunks(flat, weight, bias, chunk, *wanted)
    _run(chunks, rows(teacher), teacher_weight, teacher_bias, beta, temperature, scale if own is None else scale * own)
    return chunks.gradients(x, weight.dtype)


def _forward(x, weight, bias, teacher, teacher_weight, teacher_bias, labels, *others):
    beta, temperature, ignore_index, reduction, chunk, *wanted = others
    flat, labels = rows(x), flattened(labels)
    shape = len(flat), len(weight)
    scale = row_scale(shape, labels, ignore_index, reduction, x.device)
    chunks = Chunks(flat, weight, bias, chunk, *wanted)
    # Gradients of 16 bits without an exponent's range keep theirs until the mean's factor comes with the loss's scale.
    early = row_scale(shape, labels, ignore_index, "sum", x.device) if x.dtype == torch.float16 else scale
    losses = _run(chunks, rows(teacher), teacher_weight, teacher_bias, beta, temperature, early)
    if scale is not None:
        losses = torch.where(scale != 0, losses, 0) * scale
    total = losses.view(x.shape[:-1]) if reduction == "none" else bitloom.sum_scaled(losses).view(())
    return total, *chunks.gradients(x, early_type(x, weight))


def _fake(x, weight, *others):
    *_, reduction, _, dx, dweight, dbias = others
    shape = x.shape[:-1] if reduction == "none" else ()
    return like(x, shape, torch.float32), *fake_gradients(x, weight, dx, dweight, dbias, early_type(x, weight))


def _mean_factor(x, weight, bias, teacher, teacher_weight, teacher_bias, labels, beta, temperature, *others):
    ignore_index, reduction, _ = others
    return mean_factor((rows(x).shape[0], weight.shape[0]), flattened(labels), ignore_index, reduction, x.device)


_fused_linear_jsd = linear_loss(
    "fused_linear_jsd",
    "Tensor input, Tensor weight, Tensor? bias, Tensor teacher_input, Tensor teacher_weight, Tensor? teacher_bias, "
    "Tensor? labels, float beta, float temperature, int ignore_index, str reduction, int chunk_size",
    (0, 1, 2),
    _forward,
    _fake,
    _gradients,
    _formula,
    _mean_factor,
)


def fused_linear_jsd(
    input: Tensor,
    weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    labels: Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "batchmean",
    *,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    chunk_size: int = CHUNK // 2,
) -> Tensor:
    """jsd(linear(input, weight, bias), linear(teacher_input, teacher_weight, teacher_bias), beta, labels, logits=True),
    with the logits of chunk_size rows at once.

    input: (..., hidden) of f32, f16 or bf16. weight: (classes, hidden). The teacher's may be of another hidden size
    and have no gradient. Sums over chunks are in f32, or in pairs of bf16. The rest is as for jsd and
    fused_linear_cross_entropy.
    """
    name = "fused_linear_jsd"
    check_choice(name, "reduction", reduction, REDUCTIONS)
    check_range(name, "beta", beta, 0, 1)
    check_range(name, "chunk_size", chunk_size, 1)
    check_temperature(name, temperature)
    teacher = {"teacher_input": teacher_input, "teacher_weight": teacher_weight, "teacher_bias": teacher_bias}
    for argument, value in teacher.items():
        check_constant(name, argument, value)
    check_floats(name, "input", input)
    check_shapes(
        name,
        weight=(weight, (weight.shape[0], input.shape[-1])),
        bias=(bias, weight.shape[:1]),
        teacher_input=(teacher_input, (*input.shape[:-1], teacher_input.shape[-1])),
        teacher_weight=(teacher_weight, (weight.shape[0], teacher_input.shape[-1])),
        teacher_bias=(teacher_bias, weight.shape[:1]),
        labels=(labels, input.shape[:-1]),
    )
    input = as_autocast_has(input)
    weight, bias, *teacher = (as_type_of(input, x) for x in (weight, bias, *teacher.values()))
    early = torch.is_grad_enabled() and reduction != "none" and not is_transformed()
    wanted = [early and x is not None and x.requires_grad for x in (input, weight, bias)]
    numbers = float(beta), float(temperature), ignore_index, reduction, chunk_size
    return _fused_linear_jsd(input, weight, bias, *teacher, labels, *numbers, *wanted)[0]
