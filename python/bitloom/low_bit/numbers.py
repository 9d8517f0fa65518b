"""The scales and zero points of a weight as the kernels take them: f32, value = scale · (field - zero)."""

from dataclasses import dataclass

import torch
from torch import Tensor

import bitloom
from bitloom import UserError

from .config import MatmulConfig
from .formats import FORMATS

NOTHING = 2.0**-64  # in place of a scale of 0, by which no zero point can be divided


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass
class Numbers:
    """scales, zeros: (N, groups of the kernel) of f32, which may be expanded views; table: (256,) of f32."""

    scales: Tensor
    zeros: Tensor | None = None
    table: Tensor | None = None


def unpack_zeros(zeros: Tensor, bits: int) -> Tensor:
    """The zero points (N, groups) in f32 of packed ones, i8 of (groups, N / 8 · bits)."""
    fields = bitloom.unpack(zeros.cpu().contiguous().view(torch.uint8), bitloom.Packing(bits, "low", 8))
    return fields.T.to(zeros.device, torch.float32)


def pack_zeros(zeros: Tensor, bits: int) -> Tensor:
    """The inverse: whole numbers (N, groups) as zeros_mode quantized has them."""
    fields = zeros.T.to("cpu", torch.uint8).contiguous()
    return bitloom.pack(fields, bitloom.Packing(bits, "low", 8)).view(torch.int8).to(zeros.device)


class NumbersOf:
    """Checks what a caller passes, and makes Numbers of it."""

    def __init__(self, config: MatmulConfig, group: int):
        """group: that of the kernel, a divisor of config.group or, where that is the whole row, any."""
        self.config, self.format, self.group = config, FORMATS[config.W_dtype], group
        self.groups = -(-config.K // group)
        self.fields_are_unsigned = config.with_zeros or not (self.format.signed or self.format.values)
        self.bias = 1 << (self.format.bits - 1) if self.format.signed and config.with_zeros else 0  # of their fields

    def shapes(self) -> dict[str, tuple[int, int]]:
        config = self.config
        one = (config.N, config.groups)
        packed = (config.groups, config.N // 8 * self.format.bits)
        return {"scale": one, "zeros": packed if config.zeros_mode == "quantized" else one}

    def check(self, scale: Tensor | None, zeros: Tensor | None, device: torch.device) -> None:
        config = self.config
        given = {"scale": (scale, config.with_scaling), "zeros": (zeros, config.with_zeros)}
        for name, (value, wanted) in given.items():
            if (value is not None) != bool(wanted):
                field = "with_scaling" if name == "scale" else "with_zeros"
                expected, got = ("one", "none") if wanted else ("none", "one")
                raise UserError(f"Matmul: argument {name}: expected {expected}, as {field} says, got {got}")
            if value is None:
                continue
            shape = self.shapes()[name]
            if tuple(value.shape) != shape:
                raise UserError(f"Matmul: argument {name}: expected shape {shape}, got {tuple(value.shape)}")
            if value.device != device:
                raise UserError(f"Matmul: argument {name}: expected a tensor on {device}, got one on {value.device}")
            whole = name == "zeros" and config.zeros_mode == "quantized"
            if name == "scale" and self.format.scale and value.dtype == torch.uint8:
                continue  # as files hold them
            if value.dtype.is_floating_point if whole else not value.dtype.is_floating_point:
                raise UserError(f"Matmul: argument {name}: expected {'int8' if whole else 'floats'}, got {value.dtype}")

    @torch.no_grad()
    def __call__(self, scale: Tensor | None, zeros: Tensor | None, device: torch.device) -> Numbers:
        n = self.config.N
        scales = torch.ones(1, 1, device=device) if scale is None else self.format.scales(scale)
        points = None
        if zeros is not None:
            if self.config.zeros_mode == "quantized":
                points = unpack_zeros(zeros, self.format.bits)
            elif self.config.zeros_mode == "rescale":
                scales = torch.where(scales == 0, NOTHING, scales)
                points = zeros.float() / scales
            else:
                points = zeros.float()
            points = points + self.bias
        elif self.fields_are_unsigned:
            points = torch.zeros(1, 1, device=device)
        table = self.format.table(device)
        return Numbers(self._spread(scales, n), None if points is None else self._spread(points, n), table)

    def _spread(self, numbers: Tensor, n: int) -> Tensor:
        """A number for each of the kernel's groups."""
        if numbers.shape[1] > 1 and self.config.group != self.group:
            numbers = numbers.repeat_interleave(self.config.group // self.group, 1)[:, : self.groups]
        return numbers.expand(n, self.groups)
