"""The products of a mixture of experts: rows sorted by expert, a weight each."""

import torch
from torch import Tensor

import bitloom
from bitloom import UserError

from .config import DTYPES, MatmulConfig
from .fragments import FragmentsProduct
from .matmul import _Kept


def _say(argument: str, expected: object, got: object) -> None:
    raise UserError(f"GroupedMatmul: argument {argument}: expected {expected}, got {got}")


class GroupedMatmul:
    """output[i] = A[i] · dequantised(W[e])^T for the rows i from offsets[e] to offsets[e + 1] - 1 of each expert e.

    config: of each expert, as Matmul's: A_dtype and out_dtype float16 or bfloat16, W_dtype of integers, nf4 or
    fp4_e2m1, no bias; M is not looked at. It runs grouped_low_bit_linear, on CUDA, and slowly on the CPU; without
    gradients. UserError for another configuration.
    """

    def __init__(self, config: MatmulConfig, experts: int):
        if not FragmentsProduct.takes(config, "cuda"):
            given = f"{config.A_dtype} x {config.W_dtype}"
            raise UserError(f"GroupedMatmul: expected 16-bit floats by integers, nf4 or fp4_e2m1, got {given}")
        if config.out_dtype != config.A_dtype or config.with_bias:
            field, expected = ("with_bias", False) if config.with_bias else ("out_dtype", config.A_dtype)
            raise UserError(f"GroupedMatmul: {field}: expected {expected}, got {getattr(config, field)}")
        if experts < 1:
            _say("experts", "1 or more", experts)
        self.config, self.experts = config, experts
        self.product = FragmentsProduct(config, "cuda")
        self._kept: _Kept | None = None  # of the last call

    def __repr__(self) -> str:
        config = self.config
        return (
            f"bitloom.GroupedMatmul({self.experts} x {config.A_dtype} x {config.W_dtype}, N={config.N}, K={config.K})"
        )

    def transform_weight(self, weight: Tensor) -> Tensor:
        """Packs the codes of all experts, (experts, N, K), or (experts, K, N) for the layout nn, as Matmul's does those
        of one: i8 for forward, on the weight's device."""
        config = self.config
        shape = (self.experts, *((config.N, config.K) if config.layout == "nt" else (config.K, config.N)))
        if tuple(weight.shape) != shape:
            _say("weight", f"shape {shape}", tuple(weight.shape))
        weight = weight.detach() if config.layout == "nt" else weight.detach().mT
        return torch.stack([self.product.pack(each) for each in weight])

    def _operands(self, W: Tensor, scale: Tensor | None, zeros: Tensor | None, device: torch.device) -> tuple:
        """Weight, scales, zeros, table and units of all experts, kept as long as the same tensors come."""
        if self._kept is not None and self._kept.is_of(device, W, scale, zeros, None):
            return self._kept.operands
        shape = (self.experts, *self.product.weight_shape)
        if W.dtype != torch.int8 or tuple(W.shape) != shape or not W.is_contiguous():
            _say("W", f"contiguous int8 of {shape}, as transform_weight gives it", f"{W.dtype} of {tuple(W.shape)}")
        for argument, value in (("W", W), ("scale", scale), ("zeros", zeros)):
            if value is not None and value.device != device:
                _say(argument, f"a tensor on {device}", f"one on {value.device}")
            if value is not None and len(value) != self.experts:
                _say(argument, f"{self.experts} in its first dimension", f"shape {tuple(value.shape)}")
        each = [
            self.product.operands(W[e], *(None if one is None else one[e] for one in (scale, zeros)), device)
            for e in range(self.experts)
        ]
        _, scales, points, tables, units = zip(*each)
        operands = (
            W.view(torch.uint8).view(self.experts, len(W[0]), -1),
            *(None if every[0] is None else torch.stack(every) for every in (scales, points)),
            tables[0],
            None if units[0] is None else torch.cat(units),
        )
        self._kept = _Kept(operands, device, W, scale, zeros, None)
        return operands

    @torch.no_grad()
    def forward(
        self,
        A: Tensor,
        W: Tensor,
        offsets: Tensor,
        scale: Tensor | None = None,
        zeros: Tensor | None = None,
        output: Tensor | None = None,
    ) -> Tensor:
        """A: (tokens, K), sorted by expert. W: what transform_weight gave. offsets: int32 (experts + 1,), ascending
        from 0 to at most tokens, on A's device. scale, zeros: as MatmulConfig says, with a first dimension of experts.
        output: (tokens, N), to write to; rows of no expert stay as they are, and hold anything in a new one. Returns
        it, or a new one. UserError, before anything is written, for arguments that are not so."""
        config = self.config
        if A.dtype != DTYPES[config.A_dtype] or A.dim() != 2 or A.shape[1] != config.K:
            _say("A", f"{DTYPES[config.A_dtype]} of (tokens, {config.K})", f"{A.dtype} of {tuple(A.shape)}")
        if offsets.dtype != torch.int32 or tuple(offsets.shape) != (self.experts + 1,):
            _say("offsets", f"int32 of {(self.experts + 1,)}", f"{offsets.dtype} of {tuple(offsets.shape)}")
        weight, scales, points, table, units = self._operands(W, scale, zeros, A.device)
        options = {"bits": self.product.bits, "group": self.product.group}
        return bitloom.grouped_low_bit_linear(A, weight, scales, offsets, points, table, units, out=output, **options)

    __call__ = forward
