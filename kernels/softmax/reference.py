"""softmax and its gradient in float64, and as torch computes them."""

import numpy as np
import torch


def softmax(x, **_):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_torch(x, **_):
    return torch.softmax(x, dim=1)


def softmax_backward_inputs(generator, inputs):
    """y is a softmax's result."""
    inputs["y"] = torch.softmax(inputs["y"], dim=1)


def softmax_backward(dy, y, **_):
    return y * (dy - (dy * y).sum(axis=1, keepdims=True))


def softmax_backward_torch(dy, y, **_):
    return torch._softmax_backward_data(dy, y, 1, y.dtype)
