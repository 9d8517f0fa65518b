"""layer_norm and its gradients in float64, and as torch computes them."""

import numpy as np
import torch

EPS = 1e-5


def statistics(x, eps=EPS):
    mean = x.mean(axis=1, keepdims=True)
    return mean, 1 / np.sqrt(np.mean((x - mean) ** 2, axis=1, keepdims=True) + eps)


def layer_norm(x, eps, weight=1, bias=0, with_mean=0, with_rstd=0, **_):
    mean, rstd = statistics(x, eps)
    out = (x - mean) * rstd * weight + bias
    return out, mean[: with_mean * len(x), 0], rstd[: with_rstd * len(x), 0]


def layer_norm_torch(x, eps, weight=None, bias=None, with_mean=0, with_rstd=0, **_):
    out = torch.nn.functional.layer_norm(x, x.shape[1:], weight, bias, eps)
    rstd = torch.rsqrt(x.float().var(1, correction=0) + eps)
    return out, x.float().mean(1)[: with_mean * len(x)], rstd[: with_rstd * len(x)]


def layer_norm_backward_inputs(generator, inputs):
    """The forward's mean and rstd."""
    mean, rstd = statistics(inputs["x"].double().numpy())
    inputs["mean"], inputs["rstd"] = (torch.from_numpy(of[:, 0]).float() for of in (mean, rstd))


def layer_norm_backward(dy, x, mean, rstd, weight=1, with_dweight=0, with_dbias=0, **_):
    mean, rstd = statistics(x)
    n, g = (x - mean) * rstd, dy * weight
    dx = rstd * (g - g.mean(axis=1, keepdims=True) - n * np.mean(g * n, axis=1, keepdims=True))
    return dx, (dy * n).sum(axis=0) * with_dweight, dy.sum(axis=0) * with_dbias


def layer_norm_backward_torch(dy, x, mean, rstd, weight=None, with_dweight=0, with_dbias=0, **_):
    x = x.clone().requires_grad_()
    own = torch.ones_like(x[0]) if weight is None else weight
    own, bias = own.clone().requires_grad_(), torch.zeros_like(own).requires_grad_()
    out = torch.nn.functional.layer_norm(x, x.shape[1:], own, bias, EPS)
    dx, dweight, dbias = torch.autograd.grad(out, (x, own, bias), dy)
    return dx, dweight * with_dweight, dbias * with_dbias


def layer_norm_backward_results(dx, dweight, dbias):
    """The kernel leaves the sums over its programs to the caller."""
    return dx, dweight.sum(axis=0), dbias.sum(axis=0)
