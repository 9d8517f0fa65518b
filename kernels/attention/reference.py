"""attention in float64, and as torch computes it."""

import numpy as np
import torch


def seen(t, t_kv, causal):
    """Which keys each query sees."""
    return np.tri(t, t_kv, t_kv - t, dtype=bool) if causal else np.ones((t, t_kv), dtype=bool)


def attention(q, k, v, causal, with_lse=0, scale=0, **_):
    shared = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, shared, 1), np.repeat(v, shared, 1)
    scores = q @ np.swapaxes(k, 2, 3) * (scale or q.shape[3] ** -0.5)
    scores = np.where(seen(*scores.shape[2:], causal), scores, -np.inf)
    top = scores.max(3, keepdims=True)
    p = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = p.sum(3, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    return p @ v / np.where(total > 0, total, 1), lse if with_lse else lse[:0]


def attention_torch(q, k, v, causal, with_lse=0, scale=0, **_):
    scale = scale or q.shape[3] ** -0.5
    mask = torch.from_numpy(seen(q.shape[2], k.shape[2], causal)).to(q.device)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
    out = torch.where(mask.any(1)[:, None], out, 0)
    scores = (q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT).float() * scale
    lse = torch.where(mask, scores, -torch.inf).logsumexp(3)
    return out, lse if with_lse else lse[:0]
