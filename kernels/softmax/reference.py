"""softmax in float64, and as torch computes it."""

import numpy as np
import torch


def softmax(x, **_):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_torch(x, **_):
    return torch.softmax(x, dim=1)
