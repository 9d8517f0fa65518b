"""rms_norm, its fused forms and their gradients in float64, and as torch computes them."""

import numpy as np
import torch


def rstd_of(x, eps):
    return 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps)


def rms_norm(x, eps, offset, weight=None, with_rstd=0, **_):
    rstd = rstd_of(x, eps)
    out = x * rstd * (1 if weight is None else weight + offset)
    return out, rstd[:, 0] if with_rstd else rstd[:0, 0]


def factor_of(weight, offset):
    return None if weight is None else weight + offset


def norm(x, weight, eps, offset, casting=0):
    """As torch has it, or step by step as the models with that casting do."""
    if casting == 0:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], factor_of(weight, offset), eps)
    rstd = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    out = (x.float() * rstd).to(x.dtype) if casting == 1 else x * rstd.to(x.dtype)
    return out if weight is None else out * factor_of(weight, offset)


def rms_norm_torch(x, eps, offset, weight=None, with_rstd=0, casting=0, **_):
    rstd = torch.rsqrt(x.float().square().mean(-1) + eps)
    return norm(x, weight, eps, offset, casting), rstd if with_rstd else rstd[:0]


def rms_norm_backward(dy, x, eps, offset, weight=None, **_):
    scale = rstd_of(x, eps)
    g = dy * (1 if weight is None else weight + offset)
    dx = scale * (g - x * scale**2 * np.mean(g * x, axis=1, keepdims=True))
    return dx, np.sum(dy * x * scale, axis=0) if weight is not None else np.zeros(x.shape[1])


def rms_norm_backward_torch(dy, x, eps, offset, weight=None, **_):
    x = x.clone().requires_grad_()
    if weight is None:
        (dx,) = torch.autograd.grad(norm(x, None, eps, 0), x, dy)
        return dx, torch.zeros(x.shape[1])
    weight = weight.clone().requires_grad_()
    return torch.autograd.grad(norm(x, weight, eps, offset), (x, weight), dy)


def rms_norm_backward_results(dx, dweight):
    """The kernel leaves the sum over its programs to the caller."""
    return dx, dweight.sum(axis=0)


def rms_norm_backward_inputs(generator, inputs):
    """rstd as the forward gives it, with the default eps."""
    if "rstd" in inputs:
        x = inputs["x"] if "x" in inputs else inputs["sum"]
        inputs["rstd"] = torch.rsqrt(x.double().square().mean(-1) + 1e-6).float()


def fused_add_rms_norm(x, residual, eps, offset, **others):
    out, rstd = rms_norm(x + residual, eps, offset, **others)
    return out, x + residual, rstd


def fused_add_rms_norm_torch(x, residual, eps, offset, **others):
    out, rstd = rms_norm_torch(x + residual, eps, offset, **others)
    return out, x + residual, rstd


def fused_add_rms_norm_backward(dy, sum, dsum=0, **others):
    dx, dweight = rms_norm_backward(dy, sum, **others)
    return dx + dsum, dweight


def fused_add_rms_norm_backward_torch(dy, sum, dsum=0, **others):
    dx, dweight = rms_norm_backward_torch(dy, sum, **others)
    return dx + dsum, dweight


fused_add_rms_norm_backward_results = rms_norm_backward_results


fused_add_rms_norm_backward_inputs = rms_norm_backward_inputs
