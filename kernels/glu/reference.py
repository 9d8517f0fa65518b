"""swiglu, geglu and their gradients in float64, and as torch computes them."""

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


def forward(activation):
    def run(gate, up, gate_multiplier, down_multiplier, **_):
        return activation(gate * gate_multiplier)[0] * up * down_multiplier

    return run


def backward(activation):
    def run(dy, gate, up, gate_multiplier, down_multiplier, **_):
        value, derivative = activation(gate * gate_multiplier)
        d = dy * down_multiplier
        return d * derivative * up * gate_multiplier, d * value

    return run


def forward_torch(activation):
    def run(gate, up, gate_multiplier, down_multiplier, **_):
        return activation(gate * gate_multiplier) * up * down_multiplier

    return run


def backward_torch(activation):
    def run(dy, gate, up, **others):
        gate, up = gate.clone().requires_grad_(), up.clone().requires_grad_()
        return torch.autograd.grad(forward_torch(activation)(gate, up, **others), (gate, up), dy)

    return run


def gelu_torch(x):
    return torch.nn.functional.gelu(x, approximate="tanh")


swiglu, swiglu_backward = forward(silu), backward(silu)
geglu, geglu_backward = forward(gelu), backward(gelu)
swiglu_torch, swiglu_backward_torch = forward_torch(torch.nn.functional.silu), backward_torch(torch.nn.functional.silu)
geglu_torch, geglu_backward_torch = forward_torch(gelu_torch), backward_torch(gelu_torch)
