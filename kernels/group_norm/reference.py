"""group_norm and its gradients in float64, and as torch computes them."""

import numpy as np
import torch

EPS = 1e-5


def statistics(x, eps=EPS):
    mean = x.mean(axis=(2, 3), keepdims=True)
    return mean, 1 / np.sqrt(((x - mean) ** 2).mean(axis=(2, 3), keepdims=True) + eps)


def per_channel(parameter, otherwise):
    return otherwise if parameter is None else parameter[None, :, :, None]


def group_norm(x, eps, weight=None, bias=None, with_mean=0, with_rstd=0, **_):
    mean, rstd = statistics(x, eps)
    out = (x - mean) * rstd * per_channel(weight, 1) + per_channel(bias, 0)
    return out, mean[: with_mean * len(x), :, 0, 0], rstd[: with_rstd * len(x), :, 0, 0]


def flat(parameter):
    return None if parameter is None else parameter.reshape(-1)


def group_norm_torch(x, eps, weight=None, bias=None, with_mean=0, with_rstd=0, **_):
    batch, groups, depth, space = x.shape
    channels = x.reshape(batch, groups * depth, space)
    out = torch.group_norm(channels, groups, flat(weight), flat(bias), eps).reshape(x.shape)
    mean = x.float().mean((2, 3))
    rstd = torch.rsqrt(x.float().var((2, 3), correction=0) + eps)
    return out, mean[: with_mean * batch], rstd[: with_rstd * batch]


def group_norm_backward_inputs(generator, inputs):
    """The forward's mean and rstd."""
    mean, rstd = statistics(inputs["x"].double().numpy())
    inputs["mean"], inputs["rstd"] = (torch.from_numpy(of[:, :, 0, 0]).float() for of in (mean, rstd))


def group_norm_backward(dy, x, mean, rstd, weight=None, **_):
    mean, rstd = statistics(x)
    n, g = (x - mean) * rstd, dy * per_channel(weight, 1)
    over = {"axis": (2, 3), "keepdims": True}
    dx = rstd * (g - g.mean(**over) - n * (g * n).mean(**over))
    return dx, (dy * n).sum(axis=(0, 3)), dy.sum(axis=(0, 3))


def group_norm_backward_torch(dy, x, mean, rstd, weight=None, **_):
    x = x.clone().requires_grad_()
    weight = torch.ones_like(x[0, :, :, 0]) if weight is None else weight
    weight, bias = weight.clone().requires_grad_(), torch.zeros_like(weight).requires_grad_()
    out = group_norm_torch(x, EPS, weight, bias)[0]
    return torch.autograd.grad(out, (x, weight, bias), dy)


def group_norm_backward_results(dx, dweight, dbias):
    """The kernel leaves the sums over the samples to the caller."""
    return dx, dweight.sum(axis=0), dbias.sum(axis=0)
