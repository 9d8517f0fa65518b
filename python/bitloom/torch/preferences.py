"""Losses of preferences and rewards over the tokens' log-probabilities, which come from hidden states in chunks: logits
are never there all at once. Hidden states and targets are aligned: place t's state predicts place t's target."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import bitloom

from .checks import check_choice, check_constant, check_range, check_shapes, check_temperature
from .chunks import CHUNK
from .fused_linear import fused_linear_cross_entropy


class PreferenceOutput(NamedTuple):
    """The loss, the log-probabilities of the sequences as the loss has them (sums over a sequence's tokens, or means),
    and, without gradients, what the loss takes for their rewards. Each of (pairs,)."""

    loss: Tensor
    chosen_log_probs: Tensor
    rejected_log_probs: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class KTOOutput(NamedTuple):
    """The loss, and of each sequence the log-probability and, without gradients, the reward."""

    loss: Tensor
    log_probs: Tensor
    rewards: Tensor


class GRPOOutput(NamedTuple):
    """The loss, the tokens' log-probabilities, (batch, length), and means over the tokens that count, without
    gradients: of the estimate of KL(policy, reference), and of how many of the ratios were clipped."""

    loss: Tensor
    log_probs: Tensor
    kl: Tensor
    clipped: Tensor


def fused_linear_log_probs(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    *,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_size: int = CHUNK,
) -> Tensor:
    """The log-probabilities of the targets, f32 of (...); 0 where the target is ignore_index.

    temperature: what logits are divided by, before a softcap. The rest is as for fused_linear_cross_entropy.
    """
    check_temperature("fused_linear_log_probs", temperature)
    if temperature != 1:
        input, bias = input / temperature, None if bias is None else bias / temperature
    options = {"softcap": softcap, "reduction": "none", "chunk_size": chunk_size}
    return -fused_linear_cross_entropy(input, weight, target, bias, ignore_index=ignore_index, **options)


def _sequences(name, input, weight, target, bias, ignore_index, softcap, chunk_size, mean):
    """Of each sequence, the sum of its tokens' log-probabilities, or the mean over those that count."""
    if target.dim() != 2:
        raise bitloom.UserError(f"{name}: argument target: expected 2 dimensions (batch, length), got {target.dim()}")
    options = {"softcap": softcap, "chunk_size": chunk_size}
    sums = fused_linear_log_probs(input, weight, target, bias, ignore_index, **options).sum(-1)
    return sums / (target != ignore_index).sum(-1).clamp(min=1) if mean else sums


def _reference(name, target, ignore_index, softcap, chunk_size, log_probs, input, weight, bias):
    """The reference model's sums: given, or from its hidden states and its head."""
    if (log_probs is None) == (input is None or weight is None):
        raise bitloom.UserError(
            f"{name}: argument reference_log_probs: expected either it or both of reference_input and reference_weight"
        )
    if log_probs is not None:
        check_constant(name, "reference_log_probs", log_probs)
        check_shapes(name, reference_log_probs=(log_probs, target.shape[:1]))
        return log_probs
    with torch.no_grad():
        return _sequences(name, input, weight, target, bias, ignore_index, softcap, chunk_size, False)


def _pairs(name: str, values: Tensor) -> tuple[Tensor, Tensor]:
    if len(values) % 2:
        raise bitloom.UserError(
            f"{name}: argument target: expected as many chosen sequences as rejected ones, got {len(values)} in all"
        )
    return values.chunk(2)


def _smoothed(x: Tensor, label_smoothing: float) -> Tensor:
    """-log of the probability that a preference is as x says, where it is the other with that of label_smoothing."""
    if not label_smoothing:
        return -logsigmoid(x).mean()
    return -((1 - label_smoothing) * logsigmoid(x) + label_smoothing * logsigmoid(-x)).mean()


def fused_linear_dpo(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    reference_log_probs: Tensor | None = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    *,
    reference_input: Tensor | None = None,
    reference_weight: Tensor | None = None,
    reference_bias: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_size: int = CHUNK,
) -> PreferenceOutput:
    """-log sigmoid(beta * (log-ratio of the chosen - log-ratio of the rejected)), a mean over pairs, where a log-ratio
    is a sequence's log-probability minus the reference model's (Rafailov et al., "Direct Preference Optimization",
    2023; label_smoothing: Mitchell, "A note on DPO with noisy preferences", 2023).

    input: (2 * pairs, length, hidden), the chosen sequences first, then the rejected ones. weight: (classes, hidden).
    target: i64 of (2 * pairs, length). reference_log_probs: f32 of (2 * pairs,), sums over the sequences' tokens; or
    they come from reference_input, reference_weight and reference_bias, without gradients.
    The rest is as for fused_linear_cross_entropy. Raises UserError for other shapes, types and numbers.
    """
    name = "fused_linear_dpo"
    check_range(name, "label_smoothing", label_smoothing, 0, 1)
    common = ignore_index, softcap, chunk_size
    reference = _reference(
        name, target, *common, reference_log_probs, reference_input, reference_weight, reference_bias
    )
    sums = _sequences(name, input, weight, target, bias, *common, False)
    chosen, rejected = _pairs(name, sums)
    better, worse = _pairs(name, beta * (sums - reference))
    return PreferenceOutput(
        _smoothed(better - worse, label_smoothing), chosen, rejected, better.detach(), worse.detach()
    )


def fused_linear_orpo(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    beta: float = 0.1,
    ignore_index: int = -100,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_size: int = CHUNK,
) -> PreferenceOutput:
    """The mean of the chosen tokens' -log-probabilities, minus beta * log sigmoid(log-odds of the chosen - log-odds of
    the rejected), a mean over pairs, of the sequences' mean log-probabilities (Hong et al., "ORPO", 2024).

    The arguments are fused_linear_dpo's.
    """
    name = "fused_linear_orpo"
    means = _sequences(name, input, weight, target, bias, ignore_index, softcap, chunk_size, True)
    chosen, rejected = _pairs(name, means)
    counts = _pairs(name, (target != ignore_index).sum(-1))[0]
    own = -(chosen * counts).sum() / counts.sum().clamp(min=1)
    sure = means.clamp(max=-1e-6)  # the odds of what is certain are infinite
    better, worse = _pairs(name, sure - torch.log(-torch.expm1(sure)))
    loss = own - beta * logsigmoid(better - worse).mean()
    return PreferenceOutput(loss, chosen, rejected, beta * chosen.detach(), beta * rejected.detach())


def fused_linear_simpo(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    beta: float = 2.0,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_size: int = CHUNK,
) -> PreferenceOutput:
    """-log sigmoid(beta * (chosen - rejected) - gamma), a mean over pairs, of the sequences' mean log-probabilities
    (Meng et al., "SimPO", 2024).

    The arguments are fused_linear_dpo's.
    """
    name = "fused_linear_simpo"
    check_range(name, "label_smoothing", label_smoothing, 0, 1)
    means = _sequences(name, input, weight, target, bias, ignore_index, softcap, chunk_size, True)
    chosen, rejected = _pairs(name, means)
    loss = _smoothed(beta * (chosen - rejected) - gamma, label_smoothing)
    return PreferenceOutput(loss, chosen, rejected, beta * chosen.detach(), beta * rejected.detach())


def fused_linear_kto(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    desirable: Tensor,
    reference_log_probs: Tensor | None = None,
    kl: Tensor | None = None,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    ignore_index: int = -100,
    *,
    reference_input: Tensor | None = None,
    reference_weight: Tensor | None = None,
    reference_bias: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_size: int = CHUNK,
) -> KTOOutput:
    """1 - sigmoid(beta * (log-ratio - kl)) of desirable sequences and 1 - sigmoid(beta * (kl - log-ratio)) of others,
    by their weights, a mean over all (Ethayarajh et al., "KTO", 2024).

    input: (batch, length, hidden). target: i64 of (batch, length). desirable: bool of (batch,). kl: of (), an estimate
    of KL(policy, reference), from other completions of the prompts; 0 where it is left out or below.
    The rest is as for fused_linear_dpo.
    """
    name = "fused_linear_kto"
    check_shapes(name, desirable=(desirable, target.shape[:1]), kl=(kl, ()))
    check_constant(name, "kl", kl)
    common = ignore_index, softcap, chunk_size
    reference = _reference(
        name, target, *common, reference_log_probs, reference_input, reference_weight, reference_bias
    )
    sums = _sequences(name, input, weight, target, bias, *common, False)
    rewards = beta * (sums - reference)
    margin = rewards if kl is None else rewards - beta * kl.clamp(min=0)
    good = desirable.bool()
    losses = 1 - torch.sigmoid(torch.where(good, margin, -margin))
    loss = (torch.where(good, desirable_weight, undesirable_weight) * losses).sum() / max(1, len(losses))
    return KTOOutput(loss, sums, rewards.detach())


GRPO_REDUCTIONS = ("sequences", "tokens", "constant")


def fused_linear_grpo(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    advantages: Tensor,
    old_log_probs: Tensor | None = None,
    reference_log_probs: Tensor | None = None,
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    ignore_index: int = -100,
    *,
    reduction: str = "sequences",
    sequence_ratios: bool = False,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_size: int = CHUNK,
) -> GRPOOutput:
    """-min(r * a, clip(r, 1 - epsilon, 1 + epsilon_high) * a) + beta * kl of each token, where r is the ratio of its
    probability to the old policy's, a its sequence's advantage and kl = exp(d) - d - 1 with d the reference's
    log-probability minus the policy's (Shao et al., "DeepSeekMath", 2024; epsilon_high: Yu et al., "DAPO", 2025).

    input: (batch, length, hidden). target: i64 of (batch, length). advantages: (batch,). old_log_probs,
    reference_log_probs: (batch, length), the policy's own where the old are left out; the reference's are needed where
    beta is not 0. reduction: the mean over "sequences" of the means over their tokens; over all "tokens"; or the sum
    over batch * length, a "constant" (Liu et al., "Understanding R1-Zero-Like Training", 2025). sequence_ratios: r is
    one of a sequence, the geometric mean over its tokens (Zheng et al., "GSPO", 2025). temperature: what logits are
    divided by. The rest is as for fused_linear_cross_entropy.
    """
    name = "fused_linear_grpo"
    check_choice(name, "reduction", reduction, GRPO_REDUCTIONS)
    check_range(name, "epsilon", epsilon, 0, 1)
    high = epsilon if epsilon_high is None else epsilon_high
    check_range(name, "epsilon_high", high, 0)
    others = {"advantages": advantages, "old_log_probs": old_log_probs, "reference_log_probs": reference_log_probs}
    for argument, value in others.items():
        check_constant(name, argument, value)
    shape = target.shape
    check_shapes(
        name,
        advantages=(advantages, shape[:1]),
        old_log_probs=(old_log_probs, shape),
        reference_log_probs=(reference_log_probs, shape),
    )
    if beta and reference_log_probs is None:
        raise bitloom.UserError(
            f"{name}: argument reference_log_probs: expected a tensor where beta is not 0, got None"
        )
    options = {"softcap": softcap, "temperature": temperature, "chunk_size": chunk_size}
    log_probs = fused_linear_log_probs(input, weight, target, bias, ignore_index, **options)

    counts = target != ignore_index
    lengths = counts.sum(-1, keepdim=True).clamp(min=1)
    number = counts.sum().clamp(min=1)
    old = log_probs.detach() if old_log_probs is None else old_log_probs
    log_ratio = torch.where(counts, log_probs - old, 0)
    if sequence_ratios:
        log_ratio = (log_ratio.sum(-1, keepdim=True) / lengths).expand(shape)
    ratio, advantage = torch.exp(log_ratio), advantages[:, None]
    clipped = ratio.clamp(1 - epsilon, 1 + high)
    losses = -torch.minimum(ratio * advantage, clipped * advantage)
    kl = torch.zeros_like(losses)
    if reference_log_probs is not None:
        d = torch.where(counts, reference_log_probs - log_probs, 0)
        kl = torch.exp(d) - d - 1
        losses = losses + beta * kl if beta else losses
    losses = torch.where(counts, losses, 0)
    if reduction == "sequences":
        loss = (losses / lengths).sum() / max(1, len(losses))
    else:
        loss = losses.sum() / (number if reduction == "tokens" else max(1, losses.numel()))
    outside = counts & (((ratio < 1 - epsilon) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0)))
    return GRPOOutput(loss, log_probs, kl.detach().sum() / number, outside.sum() / number)
