"""What the codes of a weight stand for: one row a format."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitloom import UserError

# Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, appendix E.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# The OCP's "Microscaling Formats (MX) Specification", 2023, 5.3.3: a sign, two bits of exponent, one of mantissa.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class WeightFormat:
    """Codes of `bits` bits: integers, two's complement if signed, or places in a table of `values`."""

    name: str
    bits: int
    signed: bool = False
    values: tuple[float, ...] | None = None
    storage: torch.dtype | None = None  # of the 8-bit floats: a weight may come as such a tensor
    levels: int | None = None  # of integers, where they are fewer than 2^bits: 3 are -1, 0 and 1
    block: int | None = None  # columns that share a scale, where the format says how many
    scale: torch.dtype | None = None  # of those scales

    @property
    def lowest(self) -> int:
        return -1 if self.levels == 3 else -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        return 1 if self.levels == 3 else (1 << (self.bits - self.signed)) - 1

    @property
    def fits_e4m3(self) -> bool:
        """Whether each value is a number of e4m3_float8: integers are up to 16."""
        if self.values is None:
            return max(-self.lowest, self.highest) <= 16
        finite = torch.tensor([value for value in self.values if abs(value) < float("inf")])
        return torch.equal(finite.to(torch.float8_e4m3fn).float(), finite)

    def table(self, device: torch.device) -> Tensor | None:
        """The values in f32, filled up to 256; None for integers."""
        if self.values is None:
            return None
        return torch.tensor(self.values + (0.0,) * (256 - len(self.values)), device=device)

    def scales(self, scale: Tensor) -> Tensor:
        """Scales in f32; bytes are those that the format stores."""
        return (scale.view(self.scale) if self.scale and scale.dtype == torch.uint8 else scale).float()

    def codes(self, weight: Tensor) -> Tensor:
        """The weight as contiguous i8 or u8 codes. UserError: it holds other numbers."""
        if self.storage is not None and weight.dtype == self.storage:
            return weight.contiguous().view(torch.uint8)
        if weight.dtype.is_floating_point or weight.dtype.is_complex or weight.dtype == torch.bool:
            raise UserError(f"argument weight: expected integers, the codes of {self.name}, got {weight.dtype}")
        if self.bits == 8 and not self.signed and weight.dtype == torch.int8:
            return weight.contiguous().view(torch.uint8)  # any byte is a code
        if weight.numel():
            least, most = (int(value) for value in weight.aminmax())
            if least < self.lowest or most > self.highest:
                wrong = least if least < self.lowest else most
                raise UserError(
                    f"argument weight: expected codes of {self.name}, from {self.lowest} to {self.highest}, got {wrong}"
                )
        return weight.to(torch.int8 if self.signed else torch.uint8).contiguous()


def _float4(name: str, **blocks) -> WeightFormat:
    return WeightFormat(name, 4, values=E2M1 + tuple(-value for value in E2M1), **blocks)


def _float8(name: str, storage: torch.dtype, **blocks) -> WeightFormat:
    values = torch.arange(256, dtype=torch.uint8).view(storage).float()
    return WeightFormat(name, 8, values=tuple(values.tolist()), storage=storage, **blocks)


_MX = {"block": 32, "scale": torch.float8_e8m0fnu}  # the specification's 5.2 and 5.4: powers of two


FORMATS = {
    row.name: row
    for row in (
        *(WeightFormat(f"int{bits}", bits, signed=True) for bits in range(1, 9)),
        *(WeightFormat(f"uint{bits}", bits) for bits in range(1, 9)),
        WeightFormat("ternary", 2, signed=True, levels=3),
        WeightFormat("nf4", 4, values=NF4),
        _float4("fp4_e2m1"),
        _float8("e4m3_float8", torch.float8_e4m3fn),
        _float8("e5m2_float8", torch.float8_e5m2),
        _float4("mxfp4", **_MX),
        _float8("mxfp8_e4m3", torch.float8_e4m3fn, **_MX),
        _float8("mxfp8_e5m2", torch.float8_e5m2, **_MX),
        # NVIDIA, "Pretraining Large Language Models with NVFP4", 2025: and one scale for all of the matrix.
        _float4("nvfp4", block=16, scale=torch.float8_e4m3fn),
    )
}


def weight_format(name: str) -> WeightFormat:
    """The format of a W_dtype. UserError, which lists them, for another name."""
    if name not in FORMATS:
        raise UserError(f"W_dtype: expected one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]
