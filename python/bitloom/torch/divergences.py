"""Divergences of a distribution, the input, from another, the target."""

import torch
from torch import Tensor

import bitloom

from .checks import check_choice, check_constant, check_floats, check_range, check_shapes, check_temperature
from .losses import mean_scale
from .operator import constant, formula_operator, gradients_of, is_eager, operator
from .shapes import flattened, like, per_row, rows

SPACES = ("log_probs", "logits", "probs")
REDUCTIONS = ("batchmean", "sum", "none", "mean")


def mean_factor(shape, labels: Tensor | None, ignore_index: int, reduction: str, device) -> Tensor | None:
    """What a mean over rows, or over the elements of a (rows, classes), multiplies by, f32 of (1,)."""
    if reduction not in ("batchmean", "mean"):
        return None
    count, classes = shape
    if labels is None:
        factor = torch.full((1,), 1 / max(1, count), dtype=torch.float32, device=device)
    else:
        factor = mean_scale(labels, None, ignore_index)
    return factor / classes if reduction == "mean" else factor


def row_scale(shape, labels: Tensor | None, ignore_index: int, reduction: str, device) -> Tensor | None:
    """What each row's loss is multiplied by, f32 of (rows,): 0 where its label is ignore_index."""
    factor = mean_factor(shape, labels, ignore_index, reduction, device)
    if labels is None:
        return None if factor is None else factor.expand(shape[0])
    counts = (labels != ignore_index).float()
    return counts if factor is None else counts * factor


def run(kind, x, target, input_space, target_space, beta, temperature, scale, known=(None, None), **outputs):
    """The kernel: the rows' losses and, on request, the gradient times scale. known: of logits, for jsd, both rows'
    normalisers at this temperature."""
    if kind == "kl_div":
        options = {"log_target": target_space == "log_probs", "logits": input_space == "logits"}
        return bitloom.kl_div(x, target, scale, temperature, **options, **outputs)
    if kind == "tvd":
        return bitloom.tvd(x, target, scale, temperature, space=input_space, **outputs)
    form = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "between")
    options = {"form": form, "logits": input_space == "logits"}
    return bitloom.jsd(x, target, scale, *known, beta, temperature, **options, **outputs)


def _logs(x, space, temperature):
    if space == "logits":
        return torch.log_softmax(x.float() / temperature, -1)
    return x.float() if space == "log_probs" else torch.log(x.float())


def rows_formula(kind, x, target, input_space, target_space, beta, temperature):
    """The rows' losses in torch's operators."""
    log_q, log_p = _logs(x, input_space, temperature), _logs(target, target_space, temperature)
    q, p = (x.float() if input_space == "probs" else log_q.exp()), log_p.exp()
    if kind == "tvd":
        return 0.5 * (p - q).abs().sum(-1)

    def product(p, logs):
        return torch.where(p > 0, p * logs, 0)

    if kind == "kl_div" or beta == 0:
        return product(p, log_p - log_q).sum(-1)
    if beta == 1:
        return product(q, log_q - log_p).sum(-1)
    log_m = torch.log(beta * p + (1 - beta) * q)
    return (beta * product(p, log_p - log_m) + (1 - beta) * product(q, log_q - log_m)).sum(-1)


def _formula(x, target, labels, kind, input_space, target_space, beta, temperature, ignore_index, reduction):
    flat, target = rows(x), rows(target).detach()
    losses = rows_formula(kind, flat, target, input_space, target_space, beta, temperature)
    scale = row_scale(flat.shape, flattened(labels), ignore_index, reduction, x.device)
    losses = losses if scale is None else torch.where(scale != 0, losses, 0) * scale
    return losses.view(x.shape[:-1]) if reduction == "none" else losses.sum()


def _gradient_of(grad, x, target, labels, kind, input_space, target_space, beta, temperature, ignore_index, reduction):
    flat = rows(x)
    own = row_scale(flat.shape, flattened(labels), ignore_index, reduction, x.device)
    scale = per_row(grad, len(flat))
    scale = scale if own is None else scale * own
    options = input_space, target_space, beta, temperature
    return run(kind, flat, rows(target), *options, scale, with_gradient=True)[1].view_as(x)


_arguments = (
    "Tensor input, Tensor target, Tensor? labels, str kind, str input_space, str target_space, float beta, "
    "float temperature, int ignore_index, str reduction"
)
divergence_backward = formula_operator(
    f"divergence_backward(Tensor grad, {_arguments}) -> Tensor",
    _gradient_of,
    lambda grad, x, *_: like(x),
    lambda *arguments: gradients_of(_formula, 1, (0,))(*arguments)[0],
)


def _forward(x, target, labels, kind, *others):
    *options, ignore_index, reduction, gradient = others
    flat = rows(x)
    scale = row_scale(flat.shape, flattened(labels), ignore_index, reduction, x.device)
    # Gradients of 16 bits without an exponent's range keep theirs until the scale comes.
    early = None if x.dtype == torch.float16 else scale
    results = run(kind, flat, rows(target), *options, early if gradient else None, with_gradient=gradient)
    losses, dx = results if gradient else (results, None)
    if scale is not None:
        losses = torch.where(scale != 0, losses, 0) * scale
    total = losses.view(x.shape[:-1]) if reduction == "none" else bitloom.sum_scaled(losses).view(())
    return total, dx.view_as(x) if gradient else None


def _fake(x, target, labels, *others):
    *_, reduction, gradient = others
    shape = x.shape[:-1] if reduction == "none" else ()
    return like(x, shape, torch.float32), like(x) if gradient else None


def _setup(ctx, inputs, output):
    x, target, labels, *ctx.options, gradient = inputs
    ctx.save_for_backward(x, target, labels)
    ctx.gradient = output[1] if gradient else None
    constant(ctx, output[1])


def _backward(ctx, grad, _):
    nothing = (None,) * 10
    if grad is None:
        return (None, *nothing)
    x, target, labels = ctx.saved_tensors
    dx, ctx.gradient = ctx.gradient, None  # it goes out: another backward through here computes its own
    if dx is None or torch.is_grad_enabled() or not is_eager(dx, grad):
        return (divergence_backward(grad, x, target, labels, *ctx.options), *nothing)
    scale = per_row(grad, x.shape[:-1].numel())
    if x.dtype == torch.float16:
        own = row_scale(rows(x).shape, flattened(labels), *ctx.options[-2:], x.device)
        scale = scale if own is None else scale * own
    bitloom.scale_rows(scale, x=rows(dx))
    return (dx, *nothing)


_divergence = operator(
    f"divergence({_arguments}, bool gradient) -> (Tensor, Tensor)", _forward, _fake, _setup, _backward
)


def _checked(kind, x, target, labels, input_space, target_space, beta, temperature, ignore_index, reduction) -> Tensor:
    check_choice(kind, "reduction", reduction, REDUCTIONS)
    check_floats(kind, "input", x)
    check_constant(kind, "target", target)
    check_range(kind, "beta", beta, 0, 1)
    check_temperature(kind, temperature)
    check_shapes(kind, target=(target, x.shape), labels=(labels, x.shape[:-1]))
    gradient = x.requires_grad and torch.is_grad_enabled() and is_eager(x)
    numbers = float(beta), float(temperature), ignore_index, reduction
    return _divergence(x, target, labels, kind, input_space, target_space, *numbers, gradient)[0]


def kl_div(
    input: Tensor,
    target: Tensor,
    reduction: str = "batchmean",
    log_target: bool = False,
    *,
    logits: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Σ p * (log p - log q) over the last dimension, q the input and p the target.

    input: (..., classes) of f32, f16 or bf16, log-probabilities. target: like it, probabilities, or log-probabilities
    with log_target. logits: both hold logits instead, divided by temperature. reduction: "batchmean", the sum over the
    number of rows; "sum"; "mean", over the number of elements; or "none", one for each row. Only the input has a
    gradient.
    Returns f32 of () or of (...). Raises UserError for other shapes, types and numbers.
    """
    spaces = ("logits", "logits") if logits else ("log_probs", "log_probs" if log_target else "probs")
    return _checked("kl_div", input, target, None, *spaces, 0.0, temperature, -100, reduction)


def jsd(
    input: Tensor,
    target: Tensor,
    beta: float = 0.5,
    labels: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "batchmean",
    *,
    logits: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """The generalised Jensen-Shannon divergence: beta * KL(p, m) + (1 - beta) * KL(q, m) with m = beta * p +
    (1 - beta) * q, q the input and p the target; KL(p, q) for beta = 0, KL(q, p) for beta = 1.

    input, target: (..., classes) of f32, f16 or bf16, log-probabilities, or logits. labels: i64 of (...); rows where
    they are ignore_index count for nothing. The rest is as for kl_div.
    """
    space = "logits" if logits else "log_probs"
    return _checked("jsd", input, target, labels, space, space, beta, temperature, ignore_index, reduction)


def tvd(
    input: Tensor,
    target: Tensor,
    labels: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "batchmean",
    *,
    space: str = "probs",
    temperature: float = 1.0,
) -> Tensor:
    """The total variation distance, Σ |p - q| / 2 over the last dimension.

    input, target: (..., classes) of f32, f16 or bf16. space: what they hold, "probs", "log_probs" or "logits". The rest
    is as for jsd.
    """
    check_choice("tvd", "space", space, SPACES)
    return _checked("tvd", input, target, labels, space, space, 0.0, temperature, ignore_index, reduction)
