"""The scales and zero points of a weight as the kernels take them: f32, value = scale · (field - zero)."""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

import bitloom
from bitloom import UserError

from .config import MatmulConfig
from .formats import FORMATS

NOTHING = 2.0**-64  # in place of a scale of 0, by which no zero point can be divided


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
    """Makes Numbers from what a caller passes, and keeps the last: a weight's are the same at every call."""

    def __init__(self, config: MatmulConfig, group: int):
        """group: that of the kernel, a divisor of config.group or, where that is the whole row, any."""
        self.config, self.format, self.group = config, FORMATS[config.W_dtype], group
        self.groups = -(-config.K // group)
        self.fields_are_unsigned = config.with_zeros or not (self.format.signed or self.format.values)
        self.bias = 1 << (self.format.bits - 1) if self.format.signed and config.with_zeros else 0  # of their fields
        self._key, self._last, self._alive = None, None, []

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
                got = "none" if value is None else "one"
                raise UserError(f"argument {name}: expected {'one' if wanted else 'none'}, as {field} says, got {got}")
            if value is None:
                continue
            shape = self.shapes()[name]
            if tuple(value.shape) != shape:
                raise UserError(f"argument {name}: expected shape {shape}, got {tuple(value.shape)}")
            if value.device != device:
                raise UserError(f"argument {name}: expected a tensor on {device}, got one on {value.device}")
            whole = name == "zeros" and config.zeros_mode == "quantized"
            if value.dtype.is_floating_point if whole else not value.dtype.is_floating_point:
                raise UserError(f"argument {name}: expected {'int8' if whole else 'floats'}, got {value.dtype}")

    def __call__(self, scale: Tensor | None, zeros: Tensor | None, device: torch.device) -> Numbers:
        given = [tensor for tensor in (scale, zeros) if tensor is not None]
        if torch.compiler.is_compiling() or any(tensor.is_inference() for tensor in given):
            self.check(scale, zeros, device)
            return self._make(scale, zeros, device)
        key = [(id(tensor), tensor._version, tensor.data_ptr()) for tensor in given] + [device]
        if key != self._key or any(kept() is None for kept in self._alive):
            self.check(scale, zeros, device)
            self._last = self._make(scale, zeros, device)
            self._key, self._alive = key, [weakref.ref(tensor) for tensor in given]
        return self._last

    @torch.no_grad()
    def _make(self, scale, zeros, device):
        n = self.config.N
        scales = torch.ones(1, 1, device=device) if scale is None else scale.float()
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
