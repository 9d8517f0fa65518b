"""layer_norm in float64, and as torch computes it."""

import numpy as np
import torch


def layer_norm(x, weight, bias, eps, **_):
    difference = x - x.mean(axis=1, keepdims=True)
    return difference / np.sqrt(np.mean(difference**2, axis=1, keepdims=True) + eps) * weight + bias


def layer_norm_torch(x, weight, bias, eps, **_):
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
