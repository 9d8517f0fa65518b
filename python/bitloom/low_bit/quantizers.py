"""Float weights as codes of few bits, on the device that they are on, and what that loses."""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitloom import UserError

from .formats import FORMATS, WeightFormat, weight_format

METHODS = ("minmax", "hqq")


@dataclass(frozen=True)
class ErrorReport:
    """What quantising lost: of a weight w and what its codes stand for, d, in f32."""

    relative: float  # |d - w| / |w|, Euclidean norms
    largest: float  # max |d - w|
    groups: Tensor  # (rows, groups): the same as relative, group by group; 0 where w is 0

    def __str__(self) -> str:
        worst = self.groups.max().item() if self.groups.numel() else 0.0
        return f"relative error {self.relative:.3g}, worst group {worst:.3g}, largest difference {self.largest:.3g}"


@dataclass(frozen=True)
class Quantized:
    """codes: (n, k), i8 if the format is signed, else u8. value = scale · (v - zero), v the code or what its format's
    table says. scale, zeros: (n, groups) of f32, scale of the mxfp formats powers of two as they store them; zeros None
    where there are none."""

    codes: Tensor
    scale: Tensor
    zeros: Tensor | None
    W_dtype: str
    group_size: int
    report: ErrorReport | None = None

    def dequantize(self) -> Tensor:
        """(n, k) of f32."""
        k = self.codes.shape[1]
        width = k if self.group_size == -1 else min(self.group_size, k)
        table = FORMATS[self.W_dtype].table(self.codes.device)
        values = self.codes.float() if table is None else table[self.codes.int()]
        if self.zeros is not None:
            values = values - self.zeros.repeat_interleave(width, 1)[:, :k]
        return values * self.scale.float().repeat_interleave(width, 1)[:, :k]


def _groups(matrix: Tensor, width: int) -> list[Tensor]:
    """(n, groups, width), and what is left over as a group of its own."""
    n, k = matrix.shape
    whole = k // width * width
    parts = [matrix[:, :whole].reshape(n, -1, width)]
    return parts + [matrix[:, whole:].reshape(n, 1, -1)] if whole < k else parts


def _inverse(scale: Tensor) -> Tensor:
    inverse = 1 / scale
    return torch.where((scale != 0) & inverse.isfinite(), inverse, 0)[..., None]


def _ranges(w: Tensor) -> tuple[Tensor, Tensor]:
    return w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)


def _symmetric(row: WeightFormat, w: Tensor):
    least, most = _ranges(w)
    if row.levels == 3:  # Ma et al., "The Era of 1-bit LLMs", 2024: the mean of |w| is 1
        scale = w.abs().mean(-1)
    else:
        scale = torch.where(most > -least, most, least) / row.lowest
    return (w * _inverse(scale)).round().clamp(row.lowest, row.highest), scale, None


def _asymmetric(row: WeightFormat, w: Tensor):
    least, most = _ranges(w)
    if row.bits == 1:  # Rastegari et al., "XNOR-Net", 2016
        scale, zero = 2 * w.abs().mean(-1), torch.full_like(least, 0.5)
    else:
        scale = (most - least) / row.highest
        zero = (-least * _inverse(scale)[..., 0]).round().clamp(0, row.highest)
    return (w * _inverse(scale) + zero[..., None]).round().clamp(0, row.highest), scale, zero


def _half_quadratic(row: WeightFormat, w: Tensor, power=0.7, beta=10.0, growth=1.01, steps=20):
    """Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023: of the zero point alone,
    min |w - d|^p by turns between d's error, shrunk, and the zero point that fits the rest. The best that it met."""
    codes, scale, zero = _asymmetric(row, w)
    inverse, best = _inverse(scale), None
    for _ in range(steps):
        codes = (w * inverse + zero[..., None]).round().clamp(0, row.highest)
        error = w - (codes - zero[..., None]) * scale[..., None]
        lost = error.abs().pow(power).sum(-1)
        if best is None:
            best = codes, zero, lost
        else:
            better = lost < best[2]
            if not better.any():
                break
            best = (
                torch.where(better[..., None], codes, best[0]),
                torch.where(better, zero, best[1]),
                torch.where(better, lost, best[2]),
            )
        size = error.abs()
        kept = (size - size.clamp(min=1e-8).pow(power - 1) / beta).clamp(min=0) * error.sign()
        zero = (codes - (w - kept) * inverse).mean(-1)
        beta *= growth
    return best[0], scale, best[1]


def _block_scale(row: WeightFormat, largest: Tensor, most: float, whole: float) -> Tensor:
    """What the format stores for a block, in f32. OCP, "Microscaling Formats (MX) Specification", 2023, 6.3: the power
    of two that takes the largest value to the table's largest exponent. Of nvfp4 an e4m3 number times one for all of
    the matrix, whose largest value is `whole`."""
    if row.scale == torch.float8_e8m0fnu:
        exponent = torch.floor(torch.log2(largest)) - math.floor(math.log2(most))
        return torch.where(largest > 0, torch.exp2(exponent.clamp(-127, 127)), 1.0)
    one = whole / most / torch.finfo(row.scale).max or 1.0
    return (largest / most / one).to(row.scale).float() * one


def _by_table(row: WeightFormat, w: Tensor, whole: float = 0.0):
    table = row.table(w.device)[: 1 << row.bits]
    finite = torch.where(table.isfinite(), table, 0)
    most = finite.abs().max().item()
    largest = w.abs().amax(-1)
    scale = _block_scale(row, largest, most, whole) if row.block else largest / most
    scaled = w * _inverse(scale)
    if row.storage is not None:
        return scaled.clamp(-most, most).to(row.storage).view(torch.uint8), scale, None
    order = finite.argsort(stable=True)
    levels = finite[order]
    above = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
    return order[above], scale, None


@torch.no_grad()
def quantize(weight: Tensor, W_dtype: str = "uint4", group_size: int = 128, method: str = "minmax") -> Quantized:
    """The codes nearest to a weight, a scale for each group of a row, and a zero point where W_dtype is unsigned.

    weight: (n, k) of f32, f16 or bf16. W_dtype: of MatmulConfig. group_size: -1 for whole rows. method: minmax rounds
    to the nearest between the least and the largest value (int: the value furthest from zero is the lowest code; uint:
    the range is made to hold zero, and the zero point is a whole number); hqq goes on from there to the zero point that
    is best for the sum of |error|^0.7, for uint1 to uint8. Tables are scaled so that the largest value fits, ternary by
    the mean magnitude; formats with blocks of their own have groups of those, and scales such as they store. Integers
    by minmax are those that `bitloom pack` writes.
    UserError: other names, types and shapes, and values that are not finite.
    """
    row = weight_format(W_dtype)
    if method not in METHODS:
        raise UserError(f"quantize: argument method: expected {' or '.join(METHODS)}, got {method!r}")
    unsigned = row.values is None and not row.signed
    if method == "hqq" and not unsigned:
        raise UserError(f"quantize: argument W_dtype: expected uint1 to uint8 with hqq, got {W_dtype}")
    if weight.dim() != 2 or weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UserError(
            "quantize: argument weight: expected a matrix of float32, float16 or bfloat16, got "
            f"{weight.dtype} of {tuple(weight.shape)}"
        )
    if group_size != -1 and not (isinstance(group_size, int) and group_size > 0):
        raise UserError(f"quantize: argument group_size: expected -1 or a number of 1 or more, got {group_size!r}")
    n, k = weight.shape
    if not n or not k:
        raise UserError(f"quantize: argument weight: expected elements, got shape {(n, k)}")
    if not weight.isfinite().all():
        raise UserError("quantize: argument weight: expected finite values, got an infinity or a NaN")
    if row.block:
        if group_size not in (128, row.block):
            raise UserError(f"quantize: argument group_size: expected {row.block} of {W_dtype}, got {group_size}")
        group_size = row.block
    width = k if group_size == -1 else min(group_size, k)
    find = _half_quadratic if method == "hqq" else _asymmetric if unsigned else _symmetric
    if row.values:
        find = functools.partial(_by_table, whole=weight.abs().max().item())
    codes, scale, zeros = zip(*(find(row, part) for part in _groups(weight.float(), width)))
    codes = torch.cat([part.flatten(1) for part in codes], 1).to(torch.int8 if row.signed else torch.uint8)
    zeros = None if zeros[0] is None else torch.cat(zeros, 1)
    scale = torch.cat(scale, 1)
    scale = scale.to(row.scale) if row.scale == torch.float8_e8m0fnu else scale
    found = Quantized(codes, scale, zeros, W_dtype, group_size)
    return replace(found, report=_report(weight.float(), found.dequantize(), width))


def _report(w: Tensor, d: Tensor, width: int) -> ErrorReport:
    def sizes(matrix):
        return torch.cat([part.norm(dim=-1) for part in _groups(matrix, width)], 1)

    lost, all = sizes(d - w), sizes(w)
    whole = all.norm().item()
    groups = torch.where(all > 0, lost / all, 0)
    return ErrorReport(lost.norm().item() / whole if whole else 0.0, (d - w).abs().max().item(), groups)
