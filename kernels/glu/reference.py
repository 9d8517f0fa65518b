"""swiglu, geglu in both forms and their gradients in float64, and as torch computes them."""

import math

import numpy as np
import torch


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x):
    """With its derivative."""
    s = sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


def gelu(x):
    """In the tanh form, with its derivative."""
    factor = math.sqrt(2 / math.pi)
    t = np.tanh(factor * (x + 0.044715 * x**3))
    slope = factor * (1 + 3 * 0.044715 * x**2)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * slope


def gelu_exact(x):
    """With its derivative."""
    part = 0.5 * torch.special.erfc(torch.from_numpy(-x / math.sqrt(2))).numpy()
    return x * part, part + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def gelu_torch(x):
    return torch.nn.functional.gelu(x, approximate="tanh")


def forward(activation, gate, up, gate_multiplier, down_multiplier):
    return activation(gate * gate_multiplier)[0] * up * down_multiplier


def backward(activation, dy, gate, up, gate_multiplier, down_multiplier):
    value, derivative = activation(gate * gate_multiplier)
    d = dy * down_multiplier
    return d * derivative * up * gate_multiplier, d * value


def forward_torch(activation, gate, up, gate_multiplier, down_multiplier):
    return activation(gate * gate_multiplier) * up * down_multiplier


def backward_torch(activation, dy, gate, up, *multipliers):
    gate, up = gate.clone().requires_grad_(), up.clone().requires_grad_()
    return torch.autograd.grad(forward_torch(activation, gate, up, *multipliers), (gate, up), dy)


def swiglu(gate, up, gate_multiplier, down_multiplier, **_):
    return forward(silu, gate, up, gate_multiplier, down_multiplier)


def swiglu_torch(gate, up, gate_multiplier, down_multiplier, **_):
    return forward_torch(torch.nn.functional.silu, gate, up, gate_multiplier, down_multiplier)


def swiglu_backward(dy, gate, up, gate_multiplier, down_multiplier, **_):
    return backward(silu, dy, gate, up, gate_multiplier, down_multiplier)


def swiglu_backward_torch(dy, gate, up, gate_multiplier, down_multiplier, **_):
    return backward_torch(torch.nn.functional.silu, dy, gate, up, gate_multiplier, down_multiplier)


def geglu(gate, up, gate_multiplier, down_multiplier, **_):
    return forward(gelu, gate, up, gate_multiplier, down_multiplier)


def geglu_torch(gate, up, gate_multiplier, down_multiplier, **_):
    return forward_torch(gelu_torch, gate, up, gate_multiplier, down_multiplier)


def geglu_backward(dy, gate, up, gate_multiplier, down_multiplier, **_):
    return backward(gelu, dy, gate, up, gate_multiplier, down_multiplier)


def geglu_backward_torch(dy, gate, up, gate_multiplier, down_multiplier, **_):
    return backward_torch(gelu_torch, dy, gate, up, gate_multiplier, down_multiplier)


def geglu_exact(gate, up, gate_multiplier, down_multiplier, **_):
    return forward(gelu_exact, gate, up, gate_multiplier, down_multiplier)


def geglu_exact_torch(gate, up, gate_multiplier, down_multiplier, **_):
    return forward_torch(torch.nn.functional.gelu, gate, up, gate_multiplier, down_multiplier)


def geglu_exact_backward(dy, gate, up, gate_multiplier, down_multiplier, **_):
    return backward(gelu_exact, dy, gate, up, gate_multiplier, down_multiplier)


def geglu_exact_backward_torch(dy, gate, up, gate_multiplier, down_multiplier, **_):
    return backward_torch(torch.nn.functional.gelu, dy, gate, up, gate_multiplier, down_multiplier)
