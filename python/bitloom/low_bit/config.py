"""What a product is configured by. What no device runs is refused here; what a device lacks, where it is known."""

from dataclasses import dataclass

import torch

from bitloom import UserError

from .formats import FORMATS

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int8": torch.int8,
    "e4m3_float8": torch.float8_e4m3fn,
    "e5m2_float8": torch.float8_e5m2,
}
FLOATS = ("float32", "float16", "bfloat16")
FLOATS8 = ("e4m3_float8", "e5m2_float8")
BYTES = ("int8", "e4m3_float8")  # that floats as A become, row by row
ZEROS_MODES = ("original", "rescale", "quantized")
DYNAMIC_M = (1, 16, 32, 64, 128, 256, 512, 1024)


def refuse(field: str, expected: object, got: object, why: str = "") -> None:
    """Raises the UserError of a field of MatmulConfig."""
    if isinstance(expected, (tuple, list)):
        expected = ("one of " if len(expected) > 1 else "") + ", ".join(map(str, expected))
    raise UserError(f"MatmulConfig: {field}: expected {expected}{why}, got {got!r}")


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class MatmulConfig:
    """output[M, N] = A[M, K] · dequantised(W)[N, K]^T + bias[N]: the fields of BitBLAS's, in its order.

    M: the rows of A; several or None: any number of rows, and those given are hints. A_dtype: float32, float16,
    bfloat16, int8 or the 8-bit floats. W_dtype: int1 to int8, uint1 to uint8, ternary (-1, 0, 1), nf4, fp4_e2m1,
    e4m3_float8, e5m2_float8, formats with scales for blocks of 32 or 16 columns (mxfp4, mxfp8_e4m3, mxfp8_e5m2, nvfp4:
    group_size and with_scaling follow), or A_dtype. With an A of e4m3_float8, W's values must be numbers of it.
    out_dtype: a float, or of an A of int8 int32 or int8 (its low bits).
    accum_dtype: sums of floats are kept in f32 at least, of int8 in int32. layout: nt, W is N x K, or nn, W is K x N.
    group_size: columns of a row that share a scale, a multiple of 8 (of 16 with an A of 8 bits), -1 for the whole row;
    the last group may be shorter. with_scaling: scales (N, groups). zeros_mode: original (w - zero) · scale, zeros
    (N, groups); rescale w · scale - zero, the same; quantized (w - unpack(zero)) · scale, zeros i8 (groups, N / 8 ·
    bits), packed in order low. The rest is BitBLAS's tuning, and changes nothing.
    UserError, which names the field, for what no device runs.
    """

    M: int | tuple[int, ...] | list[int] | None = None
    N: int | None = None
    K: int | None = None
    A_dtype: str = "float16"
    W_dtype: str = "float16"
    out_dtype: str = "float16"
    accum_dtype: str = "float16"
    layout: str = "nt"
    with_bias: bool = False
    group_size: int = -1
    with_scaling: bool = False
    with_zeros: bool = False
    zeros_mode: str = "original"
    storage_dtype: str = "int8"
    fast_decoding: bool | None = None
    propagate_a: object = None
    propagate_b: object = None
    optimize_stratety: object = None  # so spelled there

    def __post_init__(self):
        usual = {"M": DYNAMIC_M, "group_size": -1, "zeros_mode": "original"}
        usual |= dict.fromkeys(("with_bias", "with_scaling", "with_zeros"), False)
        for field, value in usual.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        if isinstance(self.M, list):
            object.__setattr__(self, "M", tuple(self.M))
        self._check_sizes()
        self._check_types()
        self._take_blocks()
        self._check_scales()

    @property
    def is_native(self) -> bool:
        """Whether W is of A's type and has no scales: a product of plain matrices."""
        numbers = self.A_dtype in BYTES and (self.with_scaling or self.with_zeros)
        return self.A_dtype == self.W_dtype and not numbers

    @property
    def group(self) -> int:
        """Columns that share a scale: K at most."""
        return self.K if self.group_size == -1 else min(self.group_size, self.K)

    @property
    def groups(self) -> int:
        """Scales in a row."""
        return -(-self.K // self.group)

    def _check_sizes(self):
        for field in ("N", "K"):
            if not is_count(getattr(self, field)):
                refuse(field, "a number of 1 or more", getattr(self, field))
        if not all(is_count(m) for m in (self.M if isinstance(self.M, tuple) else (self.M,))) or self.M == ():
            refuse("M", "a number of 1 or more, several of them or None", self.M)
        if self.layout not in ("nt", "nn"):
            refuse("layout", ("nt", "nn"), self.layout)
        if self.storage_dtype != "int8" and self.storage_dtype != self.W_dtype:
            refuse("storage_dtype", "int8", self.storage_dtype)

    def _check_types(self):
        if self.A_dtype not in (*FLOATS, *FLOATS8, "int8"):
            refuse("A_dtype", (*FLOATS, "int8", *FLOATS8), self.A_dtype)
        if self.W_dtype not in FORMATS and self.W_dtype != self.A_dtype:
            refuse("W_dtype", (*FORMATS, self.A_dtype), self.W_dtype)
        if self.A_dtype in FLOATS8:
            exact = tuple(name for name, row in FORMATS.items() if row.fits_e4m3) if self.A_dtype in BYTES else ()
            if self.W_dtype not in (self.A_dtype, *exact):
                refuse("W_dtype", exact or self.A_dtype, self.W_dtype, f" with an A of {self.A_dtype}")
        if self.A_dtype == "int8" and FORMATS[self.W_dtype].values is not None:
            refuse("W_dtype", "integers", self.W_dtype, " with an A of int8")
        allowed = ("int32", "float32") if self.A_dtype == "int8" else ("float32", "float16")
        if self.accum_dtype not in allowed:
            refuse("accum_dtype", allowed, self.accum_dtype, f" with an A of {self.A_dtype}")
        outputs = FLOATS
        if self.A_dtype == "e5m2_float8":
            outputs = ("bfloat16",)
        elif self.A_dtype == "int8":
            outputs = FLOATS if self.with_scaling else ("int32", "int8", *FLOATS)
        if self.out_dtype not in outputs:
            scaled = " and scales" if self.A_dtype == "int8" and self.with_scaling else ""
            refuse("out_dtype", outputs, self.out_dtype, f" with an A of {self.A_dtype}{scaled}")

    def _take_blocks(self):
        block = FORMATS[self.W_dtype].block if self.W_dtype in FORMATS else None
        if block is None:
            return
        if self.group_size not in (-1, block):
            refuse("group_size", block, self.group_size, f" with a W of {self.W_dtype}")
        object.__setattr__(self, "group_size", block)
        object.__setattr__(self, "with_scaling", True)

    def _check_scales(self):
        if self.zeros_mode not in ZEROS_MODES:
            refuse("zeros_mode", ZEROS_MODES, self.zeros_mode)
        for field in ("with_scaling", "with_zeros"):
            if getattr(self, field) and self.is_native:
                refuse(field, False, True, f" with a W of A's type, {self.A_dtype}")
        if self.with_zeros and FORMATS[self.W_dtype].values is not None:
            refuse("with_zeros", False, True, f" with a W of {self.W_dtype}")
        if self.with_zeros and self.zeros_mode == "quantized" and self.N % 8:
            refuse("N", "a multiple of 8", self.N, " with zeros_mode quantized")
        if self.is_native or self.group == self.K:
            if not (is_count(self.group_size) or self.group_size == -1):
                refuse("group_size", "-1 or a number of 1 or more", self.group_size)
            return
        unit = 16 if self.A_dtype in BYTES else 8
        if not is_count(self.group_size) or self.group_size % unit:
            refuse("group_size", f"-1 or a multiple of {unit}", self.group_size)
