"""The operators as modules. Their parameters have the names and the initial values of torch's own modules."""

import torch
from torch import Tensor, nn

from . import functional


class _Norm(nn.Module):
    def __init__(self, size: int, eps: float, parameters: dict[str, float], device, dtype):
        super().__init__()
        self.size, self.eps = size, eps
        for name in ("weight", "bias"):
            if name in parameters:
                value = torch.full((size,), parameters[name], device=device, dtype=dtype)
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_parameter(name, None)

    def extra_repr(self) -> str:
        return f"{self.size}, eps={self.eps}"


class RMSNorm(_Norm):
    """functional.rms_norm over the last dimension, of `size` elements. elementwise_affine: it has a weight, which with
    the offset begins at 1."""

    def __init__(
        self,
        size: int,
        eps: float = 1e-6,
        offset: float = 0.0,
        casting: str = "gemma",
        elementwise_affine: bool = True,
        device=None,
        dtype=None,
        in_place: bool = False,
    ):
        super().__init__(size, eps, {"weight": 1.0 - offset} if elementwise_affine else {}, device, dtype)
        self.offset, self.casting, self.in_place = offset, casting, in_place

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, offset={self.offset}, casting={self.casting!r}"

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight, self.eps, self.offset, self.casting, self.in_place)


class FusedAddRMSNorm(RMSNorm):
    """functional.fused_add_rms_norm: takes x and the residual, gives the norm of their sum and the sum."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return functional.fused_add_rms_norm(
            x, residual, self.weight, self.eps, self.offset, self.casting, self.in_place
        )


class LayerNorm(_Norm):
    """functional.layer_norm over the last dimension, of `size` elements."""

    def __init__(
        self, size: int, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True, device=None, dtype=None
    ):
        parameters = {"weight": 1.0} | ({"bias": 0.0} if bias else {}) if elementwise_affine else {}
        super().__init__(size, eps, parameters, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight, self.bias, self.eps)


class Softmax(nn.Module):
    """functional.softmax over a dimension."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(x, self.dim)


class _Gated(nn.Module):
    """A transformer's feed-forward part: down(act(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, size: int, hidden: int, bias: bool = False, device=None, dtype=None):
        super().__init__()
        self.gate_up = nn.Linear(size, 2 * hidden, bias, device, dtype)
        self.down = nn.Linear(hidden, size, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(self.gate_up(x)))


class SwiGLU(_Gated):
    __doc__ = f"{_Gated.__doc__} act: silu."
    gate = staticmethod(functional.swiglu)


class GEGLU(_Gated):
    __doc__ = f"{_Gated.__doc__} act: gelu in its tanh form."
    gate = staticmethod(functional.geglu)


class _Loss(nn.Module):
    """A loss whose keyword arguments are the function's."""

    def __init__(self, weight: Tensor | None = None, **options):
        super().__init__()
        self.register_buffer("weight", weight)
        self.options = options

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class CrossEntropyLoss(_Loss):
    """functional.cross_entropy of logits and targets. weight: of the classes. options: its other arguments, by name."""

    def forward(self, logits: Tensor, target: Tensor):
        return functional.cross_entropy(logits, target, self.weight, **self.options)


class FusedLinearCrossEntropyLoss(_Loss):
    """functional.fused_linear_cross_entropy of a layer's input, its weight and bias, and targets. weight: of the
    classes. options: its other arguments, by name."""

    def forward(self, input: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None):
        return functional.fused_linear_cross_entropy(
            input, weight, target, bias, class_weight=self.weight, **self.options
        )


class GroupNorm(nn.Module):
    """functional.group_norm of `num_channels` channels."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device=None, dtype=None
    ):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            full = torch.full((num_channels,), value, device=device, dtype=dtype) if affine else None
            self.register_parameter(name, nn.Parameter(full) if affine else None)

    def extra_repr(self) -> str:
        return f"{self.num_groups} groups, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class ReLUSquared(nn.Module):
    """functional.relu_squared."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu_squared(x)


class Embedding(nn.Embedding):
    """functional.embedding. Of torch.nn.Embedding's options those that change neither the weight nor the gradient's
    scale or layout: padding_idx, device and dtype."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, device=None, dtype=None
    ):
        super().__init__(num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight, self.padding_idx)


class _Criterion(nn.Module):
    """A loss with its keyword arguments."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    extra_repr = _Loss.extra_repr

    def forward(self, *tensors, **others):
        return self.function(*tensors, **self.options, **others)


def _criterion(called: str, name: str) -> type:
    function = getattr(functional, name)
    doc = f"functional.{name}: the options are its keyword arguments, forward() takes the others."
    return type(called, (_Criterion,), {"function": staticmethod(function), "__doc__": doc, "__module__": __name__})


KLDivLoss = _criterion("KLDivLoss", "kl_div")
JSDLoss = _criterion("JSDLoss", "jsd")
TVDLoss = _criterion("TVDLoss", "tvd")
FusedLinearJSDLoss = _criterion("FusedLinearJSDLoss", "fused_linear_jsd")
FusedLinearDPOLoss = _criterion("FusedLinearDPOLoss", "fused_linear_dpo")
FusedLinearORPOLoss = _criterion("FusedLinearORPOLoss", "fused_linear_orpo")
FusedLinearSimPOLoss = _criterion("FusedLinearSimPOLoss", "fused_linear_simpo")
FusedLinearKTOLoss = _criterion("FusedLinearKTOLoss", "fused_linear_kto")
FusedLinearGRPOLoss = _criterion("FusedLinearGRPOLoss", "fused_linear_grpo")
