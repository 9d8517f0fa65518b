"""Products of 16-bit floats by integers, and by 4-bit codes with a table, on tensor cores: low_bit_linear, and matmul
for many rows."""

import torch
from torch import Tensor
from torch.nn.functional import pad

import bitloom
from bitloom.torch.operator import is_eager, operator
from bitloom.torch.shapes import like

from .config import DTYPES, MatmulConfig
from .formats import FORMATS
from .numbers import NumbersOf

BLOCK = 128  # columns of a weight that are packed together
# Rows of x from which the weight is better made a matrix once: what that takes is 8% of a product with 4096 on an H200
# (docs/benchmarks/notes.md).
MATRIX_ROWS = 8192
TARGET = "sm_90a"  # whose packing is that of all GPUs
MOST = 2.0**15  # of a zero point's magnitude, in f16 too


class FragmentsOrder:
    """The order in which tensor cores' weights of n rows by k columns are packed: both are filled up with zeros to
    whole blocks. `shape` has three dimensions, so that no other packing is taken for it."""

    def __init__(self, bits: int, n: int, k: int):
        self.packing = bitloom.Packing.for_target(TARGET, bits)
        self.blocks = -(-k // BLOCK)
        self.shape = (-(-n // self.packing.rows), self.blocks, self.packing.bytes_per_row(BLOCK))

    def pack(self, codes: Tensor) -> Tensor:
        filled = pad(codes.cpu(), (0, self.blocks * BLOCK - codes.shape[1], 0, -len(codes) % self.packing.rows))
        return bitloom.pack(filled.contiguous(), self.packing).view(torch.int8).view(self.shape).to(codes.device)


def bytes_of(weight: Tensor) -> Tensor:
    """What FragmentsOrder.pack gave, as kernels take it."""
    return weight.view(torch.uint8).view(len(weight), -1)


def _rows(scales, group):
    return scales.shape[1] // max(1, BLOCK // group)


def _matrix(weight, scales, zeros, table, columns, bits, group):
    """The weight (n, columns) in the unit of the scales."""
    bytes_per_row = weight.numel() // len(weight) // bitloom.Packing.for_target(TARGET, bits).rows
    out = like(scales, (_rows(scales, group), bytes_per_row * 8 // bits))
    return bitloom.low_bit_linear_weight(weight, scales, zeros, table, out=out, bits=bits, group=group)[:, :columns]


def _product(x, weight, scales, zeros, table, unit, bias, bits, group, wide):
    if x.shape[0] < MATRIX_ROWS and not wide:  # the kernel makes its output sooner than torch does
        return bitloom.low_bit_linear(x, weight, scales, zeros, table, unit, bias, bits=bits, group=group)
    out = like(x, (x.shape[0], _rows(scales, group)), torch.float32 if wide else None)
    if x.shape[0] < MATRIX_ROWS:
        return bitloom.low_bit_linear(x, weight, scales, zeros, table, unit, bias, out=out, bits=bits, group=group)
    matrix = _matrix(weight, scales, zeros, table, x.shape[1], bits, group)
    return bitloom.matmul(x, matrix.t(), bias, scale_b=unit, out=out)


def _product_dx(dy, weight, scales, zeros, table, unit, columns, bits, group):
    matrix = _matrix(weight, scales, zeros, table, columns, bits, group)
    return bitloom.matmul(dy.to(scales.dtype), matrix, scale_b=unit)


def _setup_backward(ctx, inputs, output):
    ctx.kind = inputs[0].dtype
    _, *ctx.weight, _, ctx.bits, ctx.group = inputs


def _again(ctx, ddx):
    """The gradient is linear in dy: its own is the product once more."""
    ddy = fragments_product(ddx, *ctx.weight, None, ctx.bits, ctx.group, ctx.kind != ddx.dtype)
    return ddy.to(ctx.kind), *(None,) * 8


_weight = "Tensor weight, Tensor scales, Tensor? zeros, Tensor? table, Tensor? unit"
fragments_product_backward = operator(
    f"fragments_product_backward(Tensor dy, {_weight}, int columns, int bits, int group) -> Tensor",
    _product_dx,
    lambda dy, weight, scales, zeros, table, unit, columns, bits, group: like(dy, (len(dy), columns), scales.dtype),
    _setup_backward,
    _again,
)


def _setup(ctx, inputs, output):
    x, *ctx.weight, _, ctx.bits, ctx.group, _ = inputs
    ctx.columns = x.shape[1]


fragments_product = operator(
    f"fragments_product(Tensor x, {_weight}, Tensor? bias, int bits, int group, bool wide) -> Tensor",
    _product,
    lambda x, weight, scales, zeros, table, unit, bias, bits, group, wide: like(
        x, (len(x), _rows(scales, group)), torch.float32 if wide else None
    ),
    _setup,
    lambda ctx, dy: (
        fragments_product_backward(dy, *ctx.weight, ctx.columns, ctx.bits, ctx.group),
        *(None,) * 9,
    ),
)


class FragmentsProduct:
    """x of 16-bit floats by integers, or 4-bit codes with a table: low_bit_linear, with many rows low_bit_linear_weight
    and matmul. For CUDA; a CPU computes it too, slowly."""

    devices = ("cpu", "cuda")

    @staticmethod
    def takes(config: MatmulConfig, device: str) -> bool:
        sixteen = config.A_dtype in ("float16", "bfloat16")
        weight = FORMATS[config.W_dtype]
        return device == "cuda" and sixteen and weight.block is None and (weight.values is None or weight.bits == 4)

    def __init__(self, config: MatmulConfig, device: str):
        self.config, self.format = config, FORMATS[config.W_dtype]
        self.order = FragmentsOrder(self.format.bits, config.N, config.K)
        if config.group == config.K:
            self.group = self.order.blocks * BLOCK
        else:
            self.group = config.group if config.group % BLOCK == 0 else config.group & -config.group
        self.packing, self.weight_shape = self.order.packing, self.order.shape
        self.weight_dtype = torch.int8
        self.numbers = NumbersOf(config, self.group)
        self.bits = self.format.bits
        self.wide = config.A_dtype != config.out_dtype
        self.sums = torch.float32 if self.wide else DTYPES[config.A_dtype]

    def pack(self, weight: Tensor) -> Tensor:
        codes = self.format.codes(weight)
        if self.numbers.bias:
            codes = (codes.int() + self.numbers.bias).to(torch.uint8)
        return self.order.pack(codes)

    def _as_blocks(self, numbers: Tensor | None) -> Tensor | None:
        """Of (N, groups), as low_bit_linear reads them: (blocks, N * groups of a block), or (groups, N)."""
        if numbers is None:
            return None
        each = max(1, BLOCK // self.group)
        numbers = pad(numbers, (0, -numbers.shape[1] % each)).view(len(numbers), -1, each)
        return numbers.transpose(0, 1).to(DTYPES[self.config.A_dtype]).flatten(1).contiguous()

    @torch.no_grad()
    def operands(self, weight: Tensor, scale, zeros, device: torch.device) -> tuple:
        self.numbers.check(scale, zeros, device)
        numbers = self.numbers(scale, zeros, device)
        scales, points, unit = numbers.scales, numbers.zeros, None
        if points is not None:  # beyond MOST the value is all zero point, whatever the field
            beyond = (points.abs() / MOST).clamp(min=1)
            scales, points = scales * beyond, points / beyond
        if self.config.A_dtype == "float16" and (scale is not None or zeros is not None):
            # All scales and their products with the values become normal numbers.
            _, exponent = scales.abs().amax().view(1).frexp()
            unit = torch.ldexp(torch.ones(1, device=device), exponent.clamp(-100, 100))
            scales = scales / unit
        table = None if numbers.table is None else numbers.table[:16].to(DTYPES[self.config.A_dtype])
        return bytes_of(weight), self._as_blocks(scales), self._as_blocks(points), table, unit

    def __call__(self, x: Tensor, weight: Tensor, *numbers) -> Tensor:
        # The operator's road looks at every argument; the rest of operands() is plain if these are.
        if is_eager(x, weight, numbers[0]) and not (x.requires_grad and torch.is_grad_enabled()):
            return _product(x, weight, *numbers, self.bits, self.group, self.wide)
        return fragments_product(x, weight, *numbers, self.bits, self.group, self.wide)

    def calls(self, x, weight, scales, zeros, table, unit, bias):
        options, out = {"bits": self.format.bits, "group": self.group}, like(x, (len(x), self.config.N), self.sums)
        if len(x) < MATRIX_ROWS:
            yield "low_bit_linear", (x, weight, scales, zeros, table, unit, bias), options | {"out": out}
            return
        matrix = like(x, (self.config.N, self.order.blocks * BLOCK))
        yield "low_bit_linear_weight", (weight, scales, zeros, table), options | {"out": matrix}
        yield "matmul", (x, matrix[:, : x.shape[1]].t(), bias), {"scale_b": unit, "out": out}
