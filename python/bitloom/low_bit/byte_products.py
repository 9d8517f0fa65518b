"""Products of 8-bit activations: as the bytes of CPUs are packed, and as tensor cores take them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

import bitloom
from bitloom.torch.operator import operator
from bitloom.torch.shapes import like

from .config import DTYPES, FLOATS, MatmulConfig
from .formats import FORMATS
from .fragments import BLOCK, FragmentsOrder, FragmentsProduct, bytes_of
from .numbers import NumbersOf, round_up

EXACT = 1 << 24  # whole numbers up to here are exact in f32

# ---- On CPUs -----------------------------------------------------------------------------------------------------


class ByteProduct:
    """x of int8, or floats made so row by row: low_bit_matmul, on a CPU. Without scales its sums are exact. One row of
    floats becomes bytes where it is multiplied: low_bit_matvec."""

    devices = ("cpu",)
    sums = None

    def __init__(self, config: MatmulConfig):
        self.config, self.format = config, FORMATS[config.W_dtype]
        bits, many = self.format.bits, 1 if config.M == 1 else 2
        self.packing = bitloom.Packing.for_target("host", bits, many)
        self.x_packing = bitloom.Packing.of_activations_for_target("host", many)
        whole = config.group == config.K
        self.group = min(round_up(config.K, 16), 128) if whole else config.group
        self.groups = -(-config.K // self.group)
        self.rows = round_up(config.N, self.packing.rows)
        self.row_bytes = self.group * self.packing.rows * bits // 8
        self.weight_shape = (self.rows // self.packing.rows, self.groups * self.row_bytes)
        self.weight_dtype = torch.int8
        self.numbers = NumbersOf(config, self.group)
        # Groups whose products, and zero points times sums of x, are whole numbers that f32 adds exactly.
        self.together = max(1, EXACT // (128 * (1 << bits) * self.group)) if not config.with_scaling else self.groups

    def pack(self, weight: Tensor) -> Tensor:
        codes = self.format.codes(weight).cpu()
        if self.numbers.bias:
            codes = (codes.int() + self.numbers.bias).to(torch.uint8)
        codes = pad(codes, (0, self.groups * self.group - codes.shape[1], 0, self.rows - len(codes)))
        return bitloom.pack(codes.contiguous(), self.packing).view(torch.int8).to(weight.device)

    def _weight_options(self):
        packing = self.packing
        return {
            **{"bits": self.format.bits, "group": self.group},
            **{"lanes": packing.lanes, "depth": packing.block, "rows": packing.rows},
            **{"biased_fields": ("none", "low", "all").index(packing.bias)},
        }

    def _options(self):
        return self._weight_options() | {"x_rows": self.x_packing.rows, "x_lanes": max(self.x_packing.lanes, 1)}

    def _bytes_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x as the kernel takes it, its scales (m,) and the sums of its groups (groups, m)."""
        panel = self.x_packing.rows
        if x.dtype != torch.int8:
            return bitloom.quantize_rows(x, group=self.group, panel=panel)
        x8 = pad(x, (0, self.groups * self.group - x.shape[1])).contiguous()
        sums = x8.view(len(x), self.groups, self.group).sum(-1, dtype=torch.int32).t().float().contiguous()
        scales = torch.ones(len(x))
        if panel == 1:
            return x8.view(torch.uint8), scales, sums
        return bitloom.pack(pad(x8, (0, 0, 0, -len(x) % panel)), self.x_packing), scales, sums

    def operands(self, weight: Tensor, scale, zeros, device: torch.device) -> tuple:
        self.numbers.check(scale, zeros, device)
        numbers = self.numbers(scale, zeros, device)
        zeros = None if numbers.zeros is None else numbers.zeros.t()
        return weight.view(torch.uint8), numbers.scales.t(), zeros

    def calls(self, x, weight, scales, zeros, bias):
        if len(x) == 1 and x.dtype != torch.int8 and self.x_packing.rows == 1:
            # Every program makes bytes of the row: so two for each thread, which are enough to share the work evenly.
            panels = max(1, len(weight) // (2 * bitloom.num_threads()))
            yield "low_bit_matvec", (x, weight, scales), {"zeros": zeros, "panels": panels, **self._weight_options()}
            return
        x8, x_scales, sums = self._bytes_of(x)
        x_width = self.group * self.x_packing.rows
        exact = x.dtype == torch.int8 and not self.config.with_scaling
        step = self.together if exact else self.groups
        for first in range(0, self.groups, step):
            here = slice(first, first + step)
            of = slice(first * x_width, (first + step) * x_width)
            of_weight = slice(first * self.row_bytes, (first + step) * self.row_bytes)
            arguments = (x8[:, of], weight[:, of_weight], scales[here], x_scales)
            given = {"zeros": None if zeros is None else zeros[here], "x_sums": sums[here]}
            yield "low_bit_matmul", arguments, given | self._options()

    def __call__(self, x: Tensor, *operands: Tensor | None) -> Tensor:
        config = self.config
        # Without scales sums are whole numbers, unless zero points are not.
        whole = not config.with_zeros or config.out_dtype not in FLOATS
        exact = (torch.int32 if whole else torch.float64) if x.dtype == torch.int8 and not config.with_scaling else None
        if not len(x):
            return like(x, (0, config.N), exact or torch.float32)
        parts = []
        for name, given, options in self.calls(x, *operands):
            result = getattr(bitloom, name)(*given, **options)
            parts.append(result[0] if isinstance(result, tuple) else result)
        return functools.reduce(torch.add, (part.to(exact) for part in parts)) if exact else parts[0]


# ---- On tensor cores ---------------------------------------------------------------------------------------------

# Rows of x up to which a packed weight is unpacked where it is multiplied, by the numbers of x in f16, which has them
# all: with more, making it bytes first costs less than products of twice the width (docs/benchmarks/notes.md).
FEW_ROWS = 256


class FewRows:
    """What low_bit_linear takes for such rows. A scale for each row of the weight is f32 and multiplies sums; those of
    groups are rounded to f16, which results in f32 are too exact for, and zero points of theirs are among them."""

    def __init__(self, config: MatmulConfig):
        self.by_groups = config.with_scaling and config.groups > 1
        weight = FORMATS[config.W_dtype]
        fields = replace(
            config, A_dtype="float16", accum_dtype="float32", out_dtype="float16", with_bias=False,
            with_scaling=self.by_groups, with_zeros=self.by_groups and config.with_zeros,
            group_size=config.group_size if self.by_groups else -1,
        )  # fmt: skip
        self.product = FragmentsProduct(fields, "cuda")
        self.is_taken = FragmentsProduct.takes(fields, "cuda") and not (
            self.by_groups and (config.out_dtype == "float32" or (config.with_zeros and weight.signed))
        )

    def operands(self, weight: Tensor, scale, zeros, device: torch.device) -> list[Tensor | None]:
        """Scales, zeros, table and unit."""
        if not self.by_groups:
            given = self.product.operands(weight, None, None, device)[1:4]
            return [*given, None if scale is None else scale.float().flatten()]
        return list(self.product.operands(weight, scale, zeros, device)[1:])


@dataclass(frozen=True)
class _Numbers:
    """Of a weight: scales and points as matmul and group_scaled_matmul take them, one for `unit` columns, a table, and
    what FewRows has, if anything, with groups of `group` columns, zero points among them or not."""

    scales: Tensor | None
    points: Tensor | None
    table: Tensor | None
    few: list[Tensor | None]
    group: int
    with_points: bool
    unit: int
    bits: int
    is_signed: bool


def _with_columns(x: Tensor, columns: int) -> Tensor:
    """x of 8-bit elements, filled up with zeros."""
    return x if x.shape[1] == columns else pad(x.view(torch.int8), (0, columns - x.shape[1])).view(x.dtype)


def _corrections(x8: Tensor, points: Tensor, unit: int) -> Tensor:
    """Sums (m, groups) of x over the groups that have zero points: whole numbers below 2^24 where x is of them."""
    groups = len(points)
    parts = _with_columns(x8, groups * unit) if groups > 1 else x8
    exact = parts.dtype == torch.int8
    parts = (parts if exact else parts.float()).view(len(x8), groups, parts.shape[1] // groups)
    return parts.sum(-1, dtype=torch.int32 if exact else torch.float32).float()


def _by_few_rows(x8, x_scales, weight, numbers: _Numbers, out) -> Iterator[tuple]:
    """low_bit_linear; for whole numbers of as many columns at once as f32 adds exactly."""
    scales, zeros, table, unit = numbers.few
    x = x8.to(torch.float16)
    given = {"bits": numbers.bits, "group": numbers.group, "x_scales": x_scales}
    if out.dtype.is_floating_point:
        given["row_units"] = unit is not None and len(unit) > 1
        yield "low_bit_linear", (x, weight, scales, zeros, table, unit), given | {"out": out}
        return
    columns = EXACT // (128 << (numbers.bits - numbers.is_signed)) // BLOCK * BLOCK
    block_bytes = weight.shape[1] // -(-x.shape[1] // BLOCK)
    for first in range(0, x.shape[1], columns):
        blocks = slice(first // BLOCK * block_bytes, (first + columns) // BLOCK * block_bytes)
        part = like(x, out.shape, torch.float32)
        here = x[:, first : first + columns], weight[:, blocks], scales, zeros, table
        yield "low_bit_linear", here, given | {"out": part}
        out.add_(part.to(out.dtype)) if first else out.copy_(part)


def _by_many_rows(x8, x_scales, weight, numbers: _Numbers, out) -> Iterator[tuple]:
    """matmul or group_scaled_matmul, of a weight that is made as wide as x first."""
    if weight.dtype != x8.dtype:
        matrix = like(weight, (out.shape[1], round_up(x8.shape[1], BLOCK)), x8.dtype)
        given = {"bits": numbers.bits, "is_signed": numbers.is_signed, "out": matrix}
        yield "low_bit_unpack", (weight, numbers.table), given
        weight = matrix
    b, scales = weight[:, : x8.shape[1]].t(), numbers.scales
    if scales is not None and len(scales) > 1:
        ones = torch.ones(len(x8), device=x8.device) if x_scales is None else x_scales
        yield "group_scaled_matmul", (x8, b, scales, ones), {"group": numbers.unit, "out": out}
        return
    given = {"scale_a": x_scales, "scale_b": None if scales is None else scales[0], "out": out}
    given |= {"row_scales": x_scales is not None, "column_scales": scales is not None}
    yield "matmul", (x8, b), given


def _steps(x, weight, numbers: _Numbers, kind, out) -> Iterator[tuple]:
    """The kernels' calls, in order, each with the tensors that it writes; the last writes `out`."""
    m, unit, points = len(x), numbers.unit, numbers.points
    x8, x_scales = x, None
    if x.dtype != kind:
        x8, x_scales = like(x, (m, round_up(x.shape[1], unit)), kind), like(x, (m,), torch.float32)
        yield "quantize_tokens", (x,), {"out": x8, "scales": x_scales, "multiple": unit}
    x8 = _with_columns(x8, round_up(x.shape[1], unit))
    is_few = bool(numbers.few) and m <= FEW_ROWS
    yield from (_by_few_rows if is_few else _by_many_rows)(x8, x_scales, weight, numbers, out)
    if points is not None and out.dtype == torch.float32 and not (is_few and numbers.with_points):
        given = {"scale_a": x_scales, "row_scales": x_scales is not None, "addend": out, "out": out}
        yield "matmul", (_corrections(x8, points, unit), points), given


def _product(x, weight, *rest):
    *numbers, n, kind, dtype = rest
    numbers = _Numbers(*numbers)
    exact = dtype in (torch.int32, torch.float64)
    out = like(x, (len(x), n), torch.int32 if exact else dtype)
    for name, arguments, given in _steps(x, weight, numbers, kind, out):
        getattr(bitloom, name)(*arguments, **given)
    if exact and numbers.points is not None:
        out = (out + _corrections(x, numbers.points, numbers.unit).double() @ numbers.points.double()).to(dtype)
    return out


eight_bit_product = operator(
    "eight_bit_product(Tensor x, Tensor weight, Tensor? scales, Tensor? points, Tensor? table, Tensor?[] few, "
    "int group, bool with_points, int unit, int bits, bool is_signed, int n, ScalarType kind, ScalarType dtype) "
    "-> Tensor",
    _product,
    lambda x, weight, *rest: like(x, (len(x), rest[-3]), rest[-1]),
)


class EightBitProduct:
    """x of int8 or e4m3_float8, or floats made so row by row (quantize_tokens), by a weight of as many bits: matmul,
    whose epilogue has the scales, or group_scaled_matmul where a row of the weight has several. A weight of fewer bits
    is packed for low_bit_linear, which multiplies up to FEW_ROWS rows on CUDA, and unpacked at each call for more. Zero
    points come after, times sums of x. Without scales int8's sums are exact."""

    packing, devices, sums = None, ("cpu", "cuda"), None

    def __init__(self, config: MatmulConfig, device: str):
        self.config, self.format = config, FORMATS[config.W_dtype]
        bits = self.format.bits
        self.kind = DTYPES[config.A_dtype]
        by_groups = config.groups > 1 and (config.with_scaling or config.with_zeros)
        # Columns that share a number; what extents are rounded up to. Any power of two there divides config.group.
        self.unit = min(config.group & -config.group, BLOCK) if by_groups else 16
        self.columns = round_up(config.K, self.unit)
        self.weight_shape = (config.N, self.columns)
        self.few = None
        if bits < 8:
            self.order = FragmentsOrder(bits, config.N, config.K)
            self.packing, self.weight_shape = self.order.packing, self.order.shape
            few = FewRows(config)
            self.few = few if device == "cuda" and few.is_taken else None
        self.weight_dtype = torch.int8
        self.numbers = NumbersOf(config, self.unit if by_groups else config.K)
        self.numbers.bias = 0  # signed fields stay so
        self.shift = 128 if config.W_dtype == "uint8" else 0  # of the fields, to be bytes with a sign

    def pack(self, weight: Tensor) -> Tensor:
        codes = self.format.codes(weight)
        if self.packing is not None:
            return self.order.pack(codes)
        codes = (codes.short() - self.shift).to(torch.int8) if self.shift else codes.view(torch.int8)
        return pad(codes, (0, self.columns - codes.shape[1])).contiguous()

    def operands(self, weight: Tensor, scale, zeros, device: torch.device) -> tuple:
        config = self.config
        self.numbers.check(scale, zeros, device)
        numbers = self.numbers(scale, zeros, device)
        zero = numbers.zeros if config.with_zeros else torch.zeros(1, 1, device=device)
        points = self.shift_points(numbers.scales, zero) if config.with_zeros or self.shift else None
        scales = numbers.scales.t().contiguous() if config.with_scaling else None
        few = [] if self.few is None else self.few.operands(weight, scale, zeros, device)
        if self.packing is None:
            return weight.view(self.kind), scales, points, None, few
        table = None if numbers.table is None else numbers.table[:16]
        return bytes_of(weight), scales, points, table, few

    def shift_points(self, scales: Tensor, zeros: Tensor) -> Tensor:
        """(groups, N): what the sums of x are multiplied by."""
        points = (scales * (self.shift - zeros)).t()
        return points.expand(-1, self.config.N).contiguous()

    def _given(self, x: Tensor, weight, scales, points, table, few, bias=None) -> tuple:
        config = self.config
        dtype = DTYPES[config.out_dtype] if points is None else torch.float32
        if x.dtype == torch.int8 and not config.with_scaling:
            dtype = torch.int32 if points is None or config.out_dtype not in FLOATS else torch.float64
        group, with_points = (self.few.product.group, self.few.by_groups) if self.few else (0, False)
        options = (group, with_points, self.unit, self.format.bits, self.format.signed)
        return x, weight, scales, points, table, few, *options, config.N, self.kind, dtype

    def __call__(self, x: Tensor, *operands) -> Tensor:
        return eight_bit_product(*self._given(x, *operands))

    def calls(self, x: Tensor, *operands) -> Iterator[tuple]:
        x, weight, *numbers, n, kind, dtype = self._given(x, *operands)
        exact = dtype in (torch.int32, torch.float64)
        return _steps(x, weight, _Numbers(*numbers), kind, like(x, (len(x), n), torch.int32 if exact else dtype))
