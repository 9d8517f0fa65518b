"""Gradients of a linear layer whose results are there in chunks."""

import torch
from torch import Tensor

import bitloom

from .shapes import like

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

    def gradients(self, input: Tensor, kind: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """By the input, which x are the rows of, and, in type `kind`, by weight and bias; None where not asked for."""
        return (
            None if self.dx is None else self.dx.view_as(input),
            None if self.dweight is None else self.dweight.to(kind),
            None if self.dbias is None else self.dbias.view(-1).to(kind),
        )
