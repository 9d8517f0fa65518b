"""The cross entropy of a linear layer's results, a chunk of classes at a time: of all of them on one device, or of a
part on each of several. First the rows' normalisers, then the gradients from logits that are computed again."""

import torch
import torch.distributed as dist
from torch import Tensor

import bitloom

from .chunks import fake_gradients, linear_cross_entropy_formula, scaled
from .losses import mean_scale
from .operator import formula_operator, gradients_of, operator
from .shapes import like, rows
from .targets import error_word, look_at

LOGITS = 1 << 25  # of a chunk


def _sum_over(group: str | None, value: Tensor, operation=dist.ReduceOp.SUM) -> Tensor:
    if group is not None:
        dist.all_reduce(value, operation, dist.distributed_c10d._resolve_process_group(group))
    return value


class _Parts:
    """One run over the classes. x: (n, hidden), weight: (classes here, hidden), the first of which is class `first`."""

    def __init__(self, x, weight, target, bias, class_weight, numbers, chunk, first, classes, group):
        self.x, self.weight, self.target, self.bias, self.class_weight = x, weight, target, bias, class_weight
        self.ignore_index, self.smoothing, self.z, self.softcap, self.reduction, self.scaling = numbers
        self.first, self.classes, self.group = first, classes, group
        here = len(weight)
        self.spans = [slice(i, min(i + chunk, here)) for i in range(0, here, chunk)]
        self.last = None

    def _logits(self, span: slice) -> Tensor:
        """Of one chunk; of the only one they are kept."""
        if self.last is not None:
            return self.last
        logits = bitloom.matmul(self.x, self.weight[span].t(), None if self.bias is None else self.bias[span])
        self.last = logits if len(self.spans) == 1 else None
        return logits

    def _part_of(self, span: slice) -> tuple[int, Tensor | None]:
        """The chunk's first class, and its classes' weights where the smoothing needs them."""
        first = self.first + span.start
        if self.class_weight is None or not self.smoothing:
            return first, None
        return first, self.class_weight[first : first + span.stop - span.start]

    def losses(self) -> tuple[Tensor, Tensor]:
        """The rows' losses, and the z-loss's share in them."""
        n, target, s = len(self.x), self.target, self.smoothing
        lse = torch.full((n,), -torch.inf, dtype=torch.float32, device=self.x.device)
        sums = lse.new_zeros((3, n))  # room for the exponentials, own, spread
        state = {"lse": lse, "own": sums[1]} | ({"spread": sums[2]} if s else {})
        for span in self.spans:
            first, weight = self._part_of(span)
            bitloom.cross_entropy_part(
                self._logits(span), target, weight, first=first, softcap=self.softcap or None, **state
            )
        if self.group is not None:
            top = _sum_over(self.group, lse.clone(), dist.ReduceOp.MAX)
            sums[0] = torch.exp(lse - top)
            lse = top + torch.log(_sum_over(self.group, sums)[0])
        self.lse, nll = lse, lse - sums[1]

        inside = (target >= 0) & (target < self.classes)
        self.counts = (target != self.ignore_index) & inside
        wrong = (target != self.ignore_index) & ~inside
        word = error_word("fused_linear_cross_entropy", target.device)
        if n:
            numbers = torch.arange(1, n + 1, dtype=torch.int32, device=target.device)
            word.copy_((numbers * wrong).amax())
        look_at("fused_linear_cross_entropy", word)

        self.own = 1.0 if self.class_weight is None else self.class_weight[target.clamp(0, self.classes - 1)]
        self.all = self.classes if self.class_weight is None else self.class_weight.sum()
        even = s / self.classes
        z_losses = self.z * lse.square()
        losses = (1 - s) * self.own * nll + even * (lse * self.all - sums[2]) + z_losses
        self.factor = torch.exp(-nll) if self.scaling else 1.0
        losses = torch.where(wrong, torch.nan, torch.where(self.counts, losses * self.factor, 0))
        return losses, torch.where(self.counts, z_losses * self.factor, 0)

    def gradients(self, scale: Tensor | None, dx: bool, dweight: bool, dbias: bool) -> tuple[Tensor, Tensor, Tensor]:
        """After losses(): by x, weight and bias, of the losses times scale; without elements where not asked for."""
        x, s, weight = self.x, self.smoothing, self.weight
        kind = torch.float32 if x.dtype == torch.float16 else weight.dtype
        by_x = torch.zeros(x.shape, dtype=torch.float32, device=x.device) if dx else None
        by_weight = like(weight, dtype=kind) if dweight else like(x, 0)
        by_bias = like(x, (1, len(weight)), torch.float32) if dbias else None
        ones = torch.ones(1, len(x), dtype=x.dtype, device=x.device)
        multiplier = torch.where(self.counts, self.factor * (1.0 if scale is None else scale), 0.0)
        slope = multiplier * ((1 - s) * self.own + s / self.classes * self.all + 2 * self.z * self.lse)
        least, even = multiplier * ((1 - s) * self.own), multiplier * (s / self.classes) if s else None
        for span in self.spans if dx or dweight or dbias else ():
            logits = self._logits(span)
            first, part = self._part_of(span)
            rest = {"first": first, "softcap": self.softcap or None, "dlogits": logits}
            bitloom.cross_entropy_part_backward(logits, self.target, self.lse, slope, least, even, part, **rest)
            if dweight:
                bitloom.matmul(logits.t(), x, out=by_weight[span])
            if dbias:
                bitloom.matmul(ones, logits, out=by_bias[:, span])
            if dx:
                bitloom.matmul(logits, weight[span], addend=by_x, out=by_x)
        return (
            _sum_over(self.group, by_x).to(x.dtype) if dx else like(x, 0),
            by_weight,
            by_bias.view(-1).to(kind) if dbias else like(x, 0),
        )


def _formula(*arguments):
    if arguments[-1] is not None:
        raise bitloom.UserError("vocab_parallel_cross_entropy: expected no derivatives of second order")
    return linear_cross_entropy_formula(*arguments[:-3])


def _second_order(*arguments):
    *arguments, dx, dweight, dbias = arguments
    by = [place for place, wanted in ((0, dx), (1, dweight), (3, dbias)) if wanted]
    found = iter(gradients_of(_formula, 1, tuple(by))(*arguments))
    return tuple(next(found) if wanted else None for wanted in (dx, dweight, dbias))


def _start(x, weight, target, bias, class_weight, others):
    *numbers, chunk, first, classes, group = others
    return _Parts(rows(x), weight, target.flatten(), bias, class_weight, numbers, chunk, first, classes, group)


def _gradients(grad, x, weight, target, bias, class_weight, *others):
    *others, dx, dweight, dbias = others
    parts = _start(x, weight, target, bias, class_weight, others)
    parts.losses()
    scale = grad.flatten().expand(len(parts.x))
    if parts.reduction == "mean":
        scale = scale * mean_scale(parts.target, class_weight, parts.ignore_index)
    by_x, by_weight, by_bias = parts.gradients(scale, dx, dweight, dbias)
    return by_x.view(x.shape) if dx else by_x, by_weight.to(weight.dtype), by_bias.to(weight.dtype)


_arguments = (
    "Tensor input, Tensor weight, Tensor target, Tensor? bias, Tensor? class_weight, int ignore_index, "
    "float label_smoothing, float lse_square_scale, float softcap, str reduction, bool token_scaling, int chunk_size, "
    "int first, int classes, str? group, bool dinput, bool dweight, bool dbias"
)
cross_entropy_by_classes_backward = formula_operator(
    f"cross_entropy_by_classes_backward(Tensor grad, {_arguments}) -> (Tensor, Tensor, Tensor)",
    _gradients,
    lambda grad, x, weight, *others: fake_gradients(x, weight, *others[-3:], weight.dtype),
    _second_order,
)


def _forward(x, weight, target, bias, class_weight, *others):
    *others, dx, dweight, dbias = others
    parts = _start(x, weight, target, bias, class_weight, others)
    mean = mean_scale(parts.target, class_weight, parts.ignore_index) if parts.reduction == "mean" else None
    losses, z_losses = parts.losses()
    # Gradients of 16 bits without an exponent's range keep theirs until the mean's factor comes with the loss's scale.
    early = None if x.dtype == torch.float16 else mean
    by_x, by_weight, by_bias = parts.gradients(early, dx, dweight, dbias)

    def summed(values):
        return values.view(target.shape) if parts.reduction == "none" else bitloom.sum_scaled(values, mean).view(())

    return summed(losses), summed(z_losses), by_x.view(x.shape) if dx else by_x, by_weight, by_bias


def _fake(x, weight, target, *others):
    *_, reduction, _, _, _, _, _, dx, dweight, dbias = others
    shape = target.shape if reduction == "none" else ()
    kind = torch.float32 if x.dtype == torch.float16 else weight.dtype
    return *(like(x, shape, torch.float32) for _ in range(2)), *fake_gradients(x, weight, dx, dweight, dbias, kind)


def _setup(ctx, inputs, output):
    x, weight, target, bias, class_weight, *ctx.options = inputs[:15]
    ctx.save_for_backward(x, weight, target, bias, class_weight)
    ctx.asked = inputs[15:]
    ctx.gradients = output[2:] if any(ctx.asked) else None
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 18
    x, _, target, _, class_weight = saved = ctx.saved_tensors
    gradients, ctx.gradients = ctx.gradients, None  # they go out: another backward through here computes its own
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
    if gradients is None or any(w and not a for w, a in zip(wanted, ctx.asked)) or torch.is_grad_enabled():
        gradients = cross_entropy_by_classes_backward(grad, *saved, *ctx.options, *wanted)
    else:
        if ctx.options[4] == "mean" and x.dtype == torch.float16:
            grad = grad * mean_scale(target.flatten(), class_weight, ctx.options[0])[0]
        gradients = scaled(gradients, grad)
    dx, dweight, dbias = (value.to(x.dtype) if w else None for value, w in zip(gradients, wanted))
    return (dx, dweight, None, dbias, *(None,) * 14)


_by_classes = operator(
    f"cross_entropy_by_classes({_arguments}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake,
    _setup,
    _backward,
)


def by_classes(
    x, weight, target, bias, class_weight, numbers, chunk_size, wanted, first=0, classes=None, group=None
) -> tuple[Tensor, Tensor]:
    """The loss and the z-loss, of arguments that have been checked."""
    if chunk_size is None:
        chunk_size = max(1024, LOGITS // max(1, x.shape[:-1].numel()))
    place = first, classes or weight.shape[0], group
    return _by_classes(x, weight, target, bias, class_weight, *numbers, chunk_size, *place, *wanted)[:2]
