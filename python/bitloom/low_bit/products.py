"""The ways in which a configured product is computed, but for those of fragments.py and byte_products.py. Each packs
codes, and multiplies a matrix x by them; `sums` is the type of what it gives, and so of a bias that it adds."""

import torch
from torch import Tensor
from torch.nn.functional import pad

import bitloom
from bitloom.torch.operator import operator
from bitloom.torch.shapes import like

from .byte_products import ByteProduct, EightBitProduct
from .config import DTYPES, FLOATS, FLOATS8, MatmulConfig
from .formats import FORMATS
from .fragments import FragmentsProduct
from .numbers import NumbersOf
from .numbers import round_up as _round_up

GEMV_ROWS = {"cpu": 64, "cuda": 8}  # of x: with more, the weight is made a matrix once

# ---- A plain matrix ----------------------------------------------------------------------------------------------


class NativeProduct:
    """W of A's type: matmul."""

    packing, devices = None, ("cpu", "cuda")

    def __init__(self, config: MatmulConfig, device: str):
        self.config = config
        shape = (config.N, config.K)
        self.weight_shape = shape if config.layout == "nt" else shape[::-1]
        self.weight_dtype = DTYPES[config.W_dtype]
        floats = config.A_dtype if config.A_dtype == config.out_dtype else "float32"
        floats = config.out_dtype if config.A_dtype in FLOATS8 else floats
        self.sums = DTYPES["int32" if config.A_dtype == "int8" else floats]

    def pack(self, weight: Tensor) -> Tensor:
        if weight.dtype != self.weight_dtype:
            raise bitloom.UserError(f"argument weight: expected {self.weight_dtype}, got {weight.dtype}")
        return weight.contiguous()

    def operands(self, weight: Tensor, scale: None, zeros: None, device: torch.device) -> tuple[Tensor]:
        return (weight.t() if self.config.layout == "nt" else weight,)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return bitloom.matmul(x, weight, bias, out=like(x, (x.shape[0], self.config.N), self.sums))

    def calls(self, x, weight, bias):
        yield "matmul", (x, weight, bias), {"out": like(x, (x.shape[0], self.config.N), self.sums)}


# ---- Floats by codes ---------------------------------------------------------------------------------------------


def _dequantize(weight, scales, zeros, table, columns, bits, group, dtype):
    out = like(weight, (len(weight), scales.shape[1] * group), dtype)
    return bitloom.low_bit_dequantize(weight, scales, zeros, table, out=out, bits=bits, group=group)[:, :columns]


def _takes_gemv(x, table) -> bool:
    return table is None and x.shape[0] <= GEMV_ROWS[x.device.type]


def _product(x, weight, scales, zeros, table, bits, group, wide):
    asymmetric = zeros is not None
    if _takes_gemv(x, table):
        x = x.float() if wide else x
        return bitloom.low_bit_gemv(x, weight, scales, zeros, bits=bits, group=group, asymmetric=asymmetric)
    matrix = _dequantize(weight, scales, zeros, table, x.shape[1], bits, group, x.dtype)
    return bitloom.matmul(x, matrix.t(), out=like(x, (len(x), len(weight)), torch.float32 if wide else x.dtype))


def _product_dx(dy, weight, scales, zeros, table, columns, bits, group, dtype):
    matrix = _dequantize(weight, scales, zeros, table, columns, bits, group, dtype)
    return bitloom.matmul(dy.to(dtype), matrix)


def _setup_backward(ctx, inputs, output):
    ctx.kind = inputs[0].dtype
    _, *ctx.weight, _, ctx.bits, ctx.group, _ = inputs


def _again(ctx, ddx):
    """The gradient is linear in dy: its own is the product once more."""
    ddy = low_bit_product(ddx, *ctx.weight, ctx.bits, ctx.group, ctx.kind != ddx.dtype)
    return ddy.to(ctx.kind), *(None,) * 8


_numbers = "Tensor weight, Tensor scales, Tensor? zeros, Tensor? table"
low_bit_product_backward = operator(
    f"low_bit_product_backward(Tensor dy, {_numbers}, int columns, int bits, int group, ScalarType dtype) -> Tensor",
    _product_dx,
    lambda dy, weight, scales, zeros, table, columns, bits, group, dtype: like(dy, (len(dy), columns), dtype),
    _setup_backward,
    _again,
)


def _setup(ctx, inputs, output):
    x, *ctx.weight, ctx.bits, ctx.group, _ = inputs
    ctx.columns, ctx.dtype = x.shape[1], x.dtype


low_bit_product = operator(
    f"low_bit_product(Tensor x, {_numbers}, int bits, int group, bool wide) -> Tensor",
    _product,
    lambda x, weight, scales, zeros, table, bits, group, wide: like(
        x, (len(x), len(weight)), torch.float32 if wide else x.dtype
    ),
    _setup,
    lambda ctx, dy: (
        low_bit_product_backward(dy, *ctx.weight, ctx.columns, ctx.bits, ctx.group, ctx.dtype),
        *(None,) * 7,
    ),
)


class FloatProduct:
    """x of floats: a few rows by low_bit_gemv, more, and codes with a table, by low_bit_dequantize and matmul. On the
    CPU and on CUDA."""

    devices = ("cpu", "cuda")
    sums = None

    def __init__(self, config: MatmulConfig, device: str):
        self.config, self.format = config, FORMATS[config.W_dtype]
        whole = config.group == config.K
        group = config.group & -config.group if not whole else max(8, 1 << (config.K - 1).bit_length())
        self.group = min(group, 128)
        self.packing = bitloom.Packing(self.format.bits, "planar", self.group)
        self.columns = _round_up(config.K, self.group)
        self.weight_shape = (config.N, self.packing.bytes_per_row(self.columns))
        self.weight_dtype = torch.int8
        self.numbers = NumbersOf(config, self.group)
        self.wide = config.A_dtype != config.out_dtype and config.A_dtype != "float32"

    def pack(self, weight: Tensor) -> Tensor:
        codes = self.format.codes(weight).cpu()
        if self.numbers.bias:
            codes = (codes.int() + self.numbers.bias).to(torch.uint8)
        codes = pad(codes, (0, self.columns - codes.shape[1]))
        return bitloom.pack(codes, self.packing).view(torch.int8).to(weight.device)

    def operands(self, weight: Tensor, scale, zeros, device: torch.device) -> tuple:
        self.numbers.check(scale, zeros, device)
        numbers = self.numbers(scale, zeros, device)
        return weight.view(torch.uint8), numbers.scales, numbers.zeros, numbers.table

    def __call__(self, x: Tensor, weight, scales, zeros, table, bias: None) -> Tensor:
        return low_bit_product(x, weight, scales, zeros, table, self.format.bits, self.group, self.wide)

    def calls(self, x, weight, scales, zeros, table, bias):
        options, dtype = {"bits": self.format.bits, "group": self.group}, torch.float32 if self.wide else x.dtype
        if _takes_gemv(x, table):
            yield "low_bit_gemv", (x.to(dtype), weight, scales, zeros), options | {"asymmetric": zeros is not None}
            return
        matrix = like(x, (len(weight), self.columns))
        yield "low_bit_dequantize", (weight, scales, zeros, table), options | {"out": matrix}
        out = like(x, (len(x), len(weight)), dtype)
        yield "matmul", (x, matrix[:, : x.shape[1]].t()), {"out": out}


def product_of(config: MatmulConfig, device: str):
    """How the configured product is computed on "cpu" or "cuda". UserError: no kernel of the device does."""
    if config.is_native:
        return NativeProduct(config, device)
    if FragmentsProduct.takes(config, device):
        return FragmentsProduct(config, device)
    if config.A_dtype in FLOATS:
        return FloatProduct(config, device)
    return ByteProduct(config) if config.A_dtype == "int8" and device == "cpu" else EightBitProduct(config, device)
