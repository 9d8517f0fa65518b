"""Gradients of a linear layer whose results are there in chunks."""

import torch
from torch import Tensor

import bitloom

from .losses import cross_entropy_formula, mean_scale
from .operator import is_eager
from .shapes import like, rows

CHUNK = 4096  # rows whose logits are there at once: enough for the products to fill a GPU


class Chunks:
    """Gradients of a linear layer from those of its results, a chunk of rows at a time.

    x: (n, hidden), weight: (classes, hidden), bias: (classes,), of one type. dweight is summed in f32 where there is
    more than one chunk, and is f32 for f16, whose gradients are scaled at the very end.
    """

    def __init__(self, x, weight, bias, chunk: int, dx: bool, dweight: bool, dbias: bool):
        self.x, self.weight, self.bias = x, weight, bias
        self.spans = [slice(i, min(i + chunk, len(x))) for i in range(0, len(x), chunk)]
        self.any = dx or dweight or dbias
        kind = weight.dtype if len(self.spans) == 1 and x.dtype != torch.float16 else torch.float32
        self.dx = like(x) if dx else None
        self.dweight = like(weight, dtype=kind) if dweight else None
        self.dbias = like(weight, (1, len(weight)), torch.float32) if dbias else None
        if not self.spans:
            for sum in (self.dweight, self.dbias):
                if sum is not None:
                    sum.zero_()

    def logits(self, span: slice) -> Tensor:
        return bitloom.matmul(self.x[span], self.weight.t(), self.bias)

    def add(self, span: slice, dlogits: Tensor) -> None:
        """Takes the gradient of the logits of one chunk, each of them once, in order."""
        earlier = span.start > 0
        if self.dx is not None:
            bitloom.matmul(dlogits, self.weight, out=self.dx[span])
        if self.dweight is not None:
            addend = self.dweight if earlier else None
            bitloom.matmul(dlogits.t(), self.x[span], addend=addend, out=self.dweight)
        if self.dbias is not None:
            ones = torch.ones(1, len(dlogits), dtype=dlogits.dtype, device=dlogits.device)
            bitloom.matmul(ones, dlogits, addend=self.dbias if earlier else None, out=self.dbias)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """By x, weight and bias; without elements where not asked for."""
        kind = torch.float32 if self.x.dtype == torch.float16 else self.weight.dtype
        return (
            like(self.x, 0) if self.dx is None else self.dx,
            like(self.x, 0) if self.dweight is None else self.dweight.to(kind),
            like(self.x, 0) if self.dbias is None else self.dbias.view(-1).to(kind),
        )


def scaled(gradients, factor: Tensor) -> list[Tensor]:
    """Gradients that a forward computed, which nobody else has, times what comes from further on, a scalar."""
    if not is_eager(factor, *gradients):
        return [value * factor for value in gradients]
    for value in gradients:
        if value.numel():
            matrix = rows(value)
            bitloom.scale_rows(factor.expand(len(matrix)), x=matrix)
    return list(gradients)


def fake_gradients(x, weight, dx, dweight, dbias, kind):
    return (
        like(x) if dx else like(x, 0),
        like(weight, dtype=kind) if dweight else like(x, 0, x.dtype),
        like(weight, len(weight), kind) if dbias else like(x, 0, x.dtype),
    )


def linear_cross_entropy_formula(
    x, weight, target, bias, class_weight, ignore_index, smoothing, z, softcap, reduction, scaling, chunk
):
    x = rows(x).float()
    logits = torch.nn.functional.linear(x, weight.float(), None if bias is None else bias.float())
    numbers = ignore_index, smoothing, z, softcap
    loss = cross_entropy_formula(logits, target.flatten(), class_weight, *numbers, "none")
    if scaling:
        with torch.no_grad():
            usual = ignore_index, 0.0, 0.0, softcap
            probability = torch.exp(-cross_entropy_formula(logits, target.flatten(), None, *usual, "none"))
        loss = loss * probability
    if reduction == "none":
        return loss.view(target.shape)
    return loss.sum() * (mean_scale(target.flatten(), class_weight, ignore_index)[0] if reduction == "mean" else 1)
