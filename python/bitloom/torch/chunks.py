"""Gradients of a linear layer whose results are there in chunks."""

import torch
from torch import Tensor

import bitloom

from .shapes import like

# Rows whose logits are there at once. Each chunk but the first reads the sum of the weight's gradient, and each writes
# it: of rows like these that takes a fifteenth of the time of the products, behind which it mostly hides.
CHUNK = 8192


def linear_lse(x: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, logits: Tensor) -> Tensor:
    """The rows' normalisers, f32 of (n,), of a linear layer's results, which go to logits, before a softcap."""
    parts, *_ = bitloom.linear_lse(x, weight.t(), None, bias, softcap=softcap, logits=logits)
    return bitloom.combine_lse(parts)


def identity_of(x: Tensor) -> Tensor | None:
    """What matmul_sum takes beside x where tensor cores had better add the addends; None where not."""
    if x.device.type != "cuda" or torch.cuda.get_device_capability(x.device)[0] != 9:
        return None
    return torch.eye(128, dtype=x.dtype, device=x.device)


class Chunks:
    """Gradients of a linear layer from those of its results, a chunk of rows at a time.

    x: (n, hidden), weight: (classes, hidden), bias: (classes,), of one type. Where there is more than one chunk,
    dweight is summed in f32, or for bf16 in pairs of it: the sum rounded, and what that leaves. It is f32 for f16,
    whose gradients are scaled at the very end. The logits of all chunks take turns in one place.
    """

    def __init__(self, x, weight, bias, chunk: int, dx: bool, dweight: bool, dbias: bool):
        self.x, self.weight, self.bias = x, weight, bias
        self.spans = [slice(i, min(i + chunk, len(x))) for i in range(0, len(x), chunk)]
        self.any = dx or dweight or dbias
        self.paired = len(self.spans) > 1 and x.dtype == torch.bfloat16
        one = len(self.spans) == 1 and x.dtype != torch.float16
        self.kind = weight.dtype if self.paired or one else torch.float32
        self.dx = like(x) if dx else None
        self.wanted, self.dweight, self.rest = dweight, None, None  # not there before the first chunk's logits are
        self.dbias = like(weight, (1, len(weight)), torch.float32) if dbias else None
        self.room = None
        if not self.spans:
            self.dweight = torch.zeros_like(weight) if dweight else None
            if self.dbias is not None:
                self.dbias.zero_()

    def logits(self, span: slice) -> Tensor:
        """Of one chunk, until those of the next are asked for."""
        return bitloom.matmul(self.x[span], self.weight.t(), self.bias, out=self._place(span))

    def _place(self, span: slice) -> Tensor:
        if self.room is None:  # the first chunk is the largest
            self.room = like(self.x, (span.stop - span.start, len(self.weight)))
        return self.room[: span.stop - span.start]

    def logits_and_lse(self, span: slice, softcap: float | None = None) -> tuple[Tensor, Tensor]:
        """The logits, before a softcap, and the rows' normalisers after it."""
        logits = self._place(span)
        return logits, linear_lse(self.x[span], self.weight, self.bias, softcap, logits)

    def add(self, span: slice, dlogits: Tensor) -> None:
        """Takes the gradient of the logits of one chunk, each of them once, in order."""
        earlier = span.start > 0
        if self.dx is not None:
            bitloom.matmul(dlogits, self.weight, out=self.dx[span])
        if self.wanted and not earlier:
            self.dweight = like(self.weight, dtype=self.kind)
            self.rest, self.identity = (like(self.weight), identity_of(self.x)) if self.paired else (None, None)
        if self.rest is not None:
            more = {"rest": self.rest} if span.stop < len(self.x) else {}
            if earlier:
                identity = None if self.identity is None else self.identity.t()  # as dlogits lie
                more |= {"addend": self.dweight, "addend_rest": self.rest, "identity": identity}
            bitloom.matmul_sum(dlogits.t(), self.x[span], out=self.dweight, **more)
        elif self.dweight is not None:
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
