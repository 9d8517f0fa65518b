"""The operators as functions."""

from .activations import geglu, relu_squared, softmax, swiglu
from .divergences import jsd, kl_div, tvd
from .embedding import embedding
from .fused_linear import fused_linear_cross_entropy
from .fused_linear_jsd import fused_linear_jsd
from .group_norm import group_norm
from .losses import CrossEntropyOutput, cross_entropy
from .norms import fused_add_rms_norm, layer_norm, rms_norm
from .preferences import (
    GRPOOutput,
    KTOOutput,
    PreferenceOutput,
    fused_linear_dpo,
    fused_linear_grpo,
    fused_linear_kto,
    fused_linear_log_probs,
    fused_linear_orpo,
    fused_linear_simpo,
)
from .rope import rope
from .vocab_parallel import vocab_parallel_cross_entropy

__all__ = [
    "CrossEntropyOutput",
    "GRPOOutput",
    "KTOOutput",
    "PreferenceOutput",
    "cross_entropy",
    "embedding",
    "fused_add_rms_norm",
    "fused_linear_cross_entropy",
    "fused_linear_dpo",
    "fused_linear_grpo",
    "fused_linear_jsd",
    "fused_linear_kto",
    "fused_linear_log_probs",
    "fused_linear_orpo",
    "fused_linear_simpo",
    "geglu",
    "group_norm",
    "jsd",
    "kl_div",
    "layer_norm",
    "relu_squared",
    "rms_norm",
    "rope",
    "softmax",
    "swiglu",
    "tvd",
    "vocab_parallel_cross_entropy",
]
