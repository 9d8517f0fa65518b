"""The cross entropy of a linear layer's results, a chunk of classes at a time: of all of them on one device, or of a
part on each of several. First the rows' normalisers, then the gradients from logits that are computed again."""

import torch
import torch.distributed as dist
from torch import Tensor

import bitloom

from .chunks import identity_of
from .linear_loss import ARGUMENTS, cross_entropy_operator, early_type, linear_cross_entropy_formula
from .losses import mean_scale, reduced, share
from .shapes import flattened, like, per_row, rows
from .targets import PARTS, error_word, look_at

# Logits of a chunk: of bf16, 228 MiB. With 4096 columns of the weight, tiles of 128x256 of its gradient are 6.9 times
# as many as an H200 has multiprocessors then, or a multiple of it.
LOGITS = 114 << 20


def _over(group: str | None, value: Tensor, operation=dist.ReduceOp.SUM) -> Tensor:
    """The sum, or what else the operation makes, of all processes' values, in the value's memory."""
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
        self.room, self.last = None, None

    def _layer(self, span: slice) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor]:
        """Of one chunk the product's operands, the bias, and room for its results until the next chunk's."""
        n, classes = len(self.x), span.stop - span.start
        if self.room is None:  # the first chunk is the largest
            self.room = like(self.x, n * classes)
        bias = None if self.bias is None else self.bias[span]
        return (self.x, self.weight[span].t()), bias, self.room[: n * classes].view(n, classes)

    def _logits(self, span: slice) -> Tensor:
        """Of one chunk, until those of the next are asked for; of the only one they are kept."""
        if self.last is not None:
            return self.last
        operands, bias, logits = self._layer(span)
        bitloom.matmul(*operands, bias, out=logits)
        self.last = logits if len(self.spans) == 1 else None
        return logits

    def _part_of(self, span: slice) -> tuple[int, Tensor | None]:
        """The chunk's first class, and its classes' weights where the smoothing needs them."""
        first = self.first + span.start
        if self.class_weight is None or not self.smoothing:
            return first, None
        return first, self.class_weight[first : first + span.stop - span.start]

    def losses(self, predict: bool = False) -> tuple[Tensor, Tensor]:
        """The rows' losses, and the z-loss's share in them. predict: find the classes of the largest logits too."""
        n, target, s = len(self.x), self.target, self.smoothing
        summed = self.x.new_zeros(3 * n + 1, dtype=torch.float32)
        sums, parts = summed[:-1].view(3, n), summed[-1:]  # room for the exponentials, own, spread; the parts' sizes
        if len(self.spans) > 1 and n and not s and not predict:  # nothing but sums is wanted of these logits
            options = {"first": self.first, "softcap": self.softcap or None}
            found = bitloom.linear_lse(self.x, self.weight.t(), target, self.bias, **options)
            lse, sums[1] = bitloom.combine_lse(*found)
            del found
        else:
            lse = torch.full((n,), -torch.inf, dtype=torch.float32, device=self.x.device)
            state = {"lse": lse, "own": sums[1]} | ({"spread": sums[2]} if s else {})
            if predict:
                largest, self.predicted = lse.clone(), torch.zeros_like(target)
                state |= {"top": largest, "predicted": self.predicted}
            for span in self.spans:
                first, weight = self._part_of(span)
                bitloom.cross_entropy_part(
                    self._logits(span), target, weight, first=first, softcap=self.softcap or None, **state
                )
        if self.group is not None:
            top = _over(self.group, lse.clone(), dist.ReduceOp.MAX)
            sums[0] = torch.exp(lse - top)
            parts.fill_(len(self.weight))
            _over(self.group, summed)
            lse = top + torch.log(sums[0])
        if self.group is not None and predict:
            most = _over(self.group, largest.clone(), dist.ReduceOp.MAX)
            place = torch.where(largest == most, self.predicted, self.classes - 1)
            self.predicted = _over(self.group, place, dist.ReduceOp.MIN)
        self.lse, nll = lse, lse - sums[1]

        inside = (target >= 0) & (target < self.classes)
        self.counts = (target != self.ignore_index) & inside
        wrong = (target != self.ignore_index) & ~inside
        name = f"{'fused_linear' if self.group is None else 'vocab_parallel'}_cross_entropy"
        word = error_word(name, target.device)
        if n:
            numbers = torch.arange(1, n + 1, dtype=torch.int32, device=target.device)
            row = (numbers * wrong).amax()
            word.copy_(row if self.group is None else torch.where(parts == self.classes, row, PARTS))
        look_at(name, word)

        self.own = 1.0 if self.class_weight is None else self.class_weight[target.clamp(0, self.classes - 1)]
        self.all = self.classes if self.class_weight is None else self.class_weight.sum()
        even = s / self.classes
        z_losses = self.z * lse.square()
        losses = (1 - s) * self.own * nll + even * (lse * self.all - sums[2]) + z_losses
        self.factor = torch.exp(-nll) if self.scaling else 1.0
        if self.group is not None:
            wrong = wrong | (parts != self.classes)
        losses = torch.where(wrong, torch.nan, torch.where(self.counts, losses * self.factor, 0))
        return losses, torch.where(self.counts, z_losses * self.factor, 0)

    def gradients(self, scale: Tensor | None, dx: bool, dweight: bool, dbias: bool) -> tuple[Tensor | None, ...]:
        """After losses(): by x, weight and bias, of the losses times scale; None where not asked for."""
        x, s, weight = self.x, self.smoothing, self.weight
        kind = early_type(x, weight)
        # The sum over chunks in f32, or, where nobody else adds to it, in pairs of bf16.
        paired = x.dtype == torch.bfloat16 and self.group is None
        by_x = like(x, dtype=x.dtype if paired else torch.float32) if dx else None
        left = like(x) if dx and paired and len(self.spans) > 1 else None
        if dx and not self.spans:
            by_x.zero_()
        by_weight = like(weight, dtype=kind) if dweight else None
        by_bias = like(x, (1, len(weight)), torch.float32) if dbias else None
        identity = None if left is None else identity_of(x)
        ones = torch.ones(1, len(x), dtype=x.dtype, device=x.device)
        multiplier = torch.where(self.counts, self.factor * (1.0 if scale is None else scale), 0.0)
        slope = multiplier * ((1 - s) * self.own + s / self.classes * self.all + 2 * self.z * self.lse)
        least, even = multiplier * ((1 - s) * self.own), multiplier * (s / self.classes) if s else None
        for span in self.spans if dx or dweight or dbias else ():
            first, part = self._part_of(span)
            of_rows = self.target, self.lse, slope, least
            if self.last is None and not s and not self.softcap:
                operands, bias, logits = self._layer(span)
                bitloom.linear_cross_entropy_backward(*operands, *of_rows, bias, first=first, dlogits=logits)
            else:
                logits = self._logits(span)
                rest = {"first": first, "softcap": self.softcap or None, "dlogits": logits}
                bitloom.cross_entropy_part_backward(logits, *of_rows, even, part, **rest)
            if dweight:
                bitloom.matmul(logits.t(), x, out=by_weight[span])
            if dbias:
                bitloom.matmul(ones, logits, out=by_bias[:, span])
            earlier = span.start > 0
            if left is not None:
                more = {"rest": left} if span.stop < len(weight) else {}
                more |= {"addend": by_x, "addend_rest": left, "identity": identity} if earlier else {}
                bitloom.matmul_sum(logits, weight[span], out=by_x, **more)
            elif dx:
                bitloom.matmul(logits, weight[span], addend=by_x if earlier else None, out=by_x)
        return (
            _over(self.group, by_x).to(x.dtype) if dx else None,
            by_weight,
            by_bias.view(-1).to(kind) if dbias else None,
        )


def _formula(*arguments):
    if arguments[-1] is not None:
        raise bitloom.UserError("vocab_parallel_cross_entropy: expected no derivatives of second order")
    return linear_cross_entropy_formula(*arguments[:-3])


def _start(x, weight, target, bias, class_weight, others):
    *numbers, chunk, first, classes, group = others
    chunk = chunk or max(1024, LOGITS // max(1, x.shape[:-1].numel()) // 128 * 128)
    return _Parts(rows(x), weight, flattened(target), bias, class_weight, numbers, chunk, first, classes, group)


def _gradients(grad, x, weight, target, bias, class_weight, *others):
    *others, dx, dweight, dbias = others
    parts = _start(x, weight, target, bias, class_weight, others)
    parts.losses()
    scale = per_row(grad, len(parts.x))
    if parts.reduction == "mean":
        scale = scale * mean_scale(parts.target, class_weight, parts.ignore_index)
    by_x, by_weight, by_bias = parts.gradients(scale, dx, dweight, dbias)
    return (
        by_x.view_as(x) if dx else None,
        by_weight.to(weight.dtype) if dweight else None,
        by_bias.to(weight.dtype) if dbias else None,
    )


def _forward(x, weight, target, bias, class_weight, *others):
    *others, dx, dweight, dbias, z_loss, accuracy, predicted = others
    parts = _start(x, weight, target, bias, class_weight, others)
    mean = mean_scale(parts.target, class_weight, parts.ignore_index) if parts.reduction == "mean" else None
    losses, z_losses = parts.losses(accuracy or predicted)
    # Gradients of 16 bits without an exponent's range keep theirs until the mean's factor comes with the loss's scale.
    early = None if x.dtype == torch.float16 else mean
    by_x, by_weight, by_bias = parts.gradients(early, dx, dweight, dbias)
    return (
        reduced(losses, target, mean, parts.reduction),
        reduced(z_losses, target, mean, parts.reduction) if z_loss else None,
        share((parts.predicted == parts.target) & parts.counts, parts.target, parts.ignore_index) if accuracy else None,
        parts.predicted.view_as(target) if predicted else None,
        by_x.view_as(x) if dx else None,
        by_weight,
        by_bias,
    )


_by_classes = cross_entropy_operator(
    "cross_entropy_by_classes",
    f"{ARGUMENTS}, int first, int classes, str? group",
    _forward,
    _gradients,
    _formula,
)


def by_classes(
    tensors, numbers, chunk_size, wanted, asked, first: int = 0, classes: int | None = None, group: str | None = None
) -> tuple[Tensor | None, ...]:
    """The loss, the z-loss, the accuracy and the predicted tokens, of arguments that have been prepared."""
    place = first, classes or tensors[1].shape[0], group
    return _by_classes(*tensors, *numbers, chunk_size or 0, *place, *wanted, *asked)
