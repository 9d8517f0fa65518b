"""gelu in float64, and as torch computes it."""

from math import erf, pi, sqrt

import numpy as np
import torch


def gelu(x, approximate, **_):
    if approximate:
        return 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(erf, otypes=[float])(x / sqrt(2)))


def gelu_torch(x, approximate, **_):
    return torch.nn.functional.gelu(x, approximate="tanh" if approximate else "none")
