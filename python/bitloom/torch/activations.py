"""softmax, relu_squared and gated linear units."""

from collections.abc import Callable

import torch
from torch import Tensor

import bitloom

from .checks import check_choice, check_floats, check_shapes
from .operator import formula_operator, of_any_rank, operator
from .shapes import like, rows

# ---- softmax -----------------------------------------------------------------------------------------------------

_run_softmax = of_any_rank("softmax")
_run_softmax_backward = of_any_rank("softmax_backward")

softmax_backward = formula_operator(
    "softmax_backward(Tensor dy, Tensor y) -> Tensor",
    lambda dy, y: _run_softmax_backward(dy, y, dx=like(y)),
    lambda dy, y: like(y),
    lambda dy, y: y * (dy - (dy * y).sum(-1, keepdim=True)),
)

_softmax = operator(
    "softmax(Tensor x) -> Tensor",
    lambda x: _run_softmax(x, out=like(x)),
    like,
    lambda ctx, inputs, output: ctx.save_for_backward(output),
    lambda ctx, dy: softmax_backward(dy, *ctx.saved_tensors),
)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) over a dimension, computed in f32.

    x: of f32, f16 or bf16, of any shape with a dimension or more. A dimension other than the last is read as it lies.
    Returns a tensor of x's shape and type. Raises UserError for other types.
    """
    check_floats("softmax", "x", x)
    if not -x.dim() <= dim < x.dim():
        raise bitloom.UserError(f"softmax: argument dim: expected {-x.dim()} to {x.dim() - 1}, got {dim}")
    if dim in (-1, x.dim() - 1):
        return _softmax(x)
    return _softmax(x.movedim(dim, -1)).movedim(-1, dim)


# ---- relu_squared ------------------------------------------------------------------------------------------------

_run_relu_squared = of_any_rank("relu_squared")
_run_relu_squared_backward = of_any_rank("relu_squared_backward")

relu_squared_backward = formula_operator(
    "relu_squared_backward(Tensor dy, Tensor x) -> Tensor",
    lambda dy, x: _run_relu_squared_backward(dy, x, dx=like(x)),
    lambda dy, x: like(x),
    lambda dy, x: 2 * dy * torch.relu(x),
)

_relu_squared = operator(
    "relu_squared(Tensor x) -> Tensor",
    lambda x: _run_relu_squared(x, out=like(x)),
    like,
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    lambda ctx, dy: relu_squared_backward(dy, *ctx.saved_tensors),
)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)², of a tensor of any shape of f32, f16 or bf16."""
    return _relu_squared(x)


# ---- swiglu, geglu -----------------------------------------------------------------------------------------------


def _halves(packed):
    """The gate and up matrices of one tensor (..., 2n)."""
    packed = rows(packed)
    half = packed.shape[1] // 2
    return packed[:, :half], packed[:, half:]


def _gated(name: str, activation: Callable) -> tuple[Callable, Callable]:
    """The operators of a gate: of two tensors, and of one that holds both."""
    run, run_backward = of_any_rank(name), of_any_rank(f"{name}_backward")

    def formula(gate, up, before, after):
        return (activation(gate.float() * before) * up.float() * after).to(gate.dtype)

    def slopes(dy, gate, up, before, after):
        # The derivative of the activation, kept differentiable.
        gate, up = gate.float(), up.float()
        with torch.enable_grad():
            inner = gate * before
            value = activation(inner)
            (slope,) = torch.autograd.grad(value, inner, torch.ones_like(value), create_graph=True)
        dy = dy.float() * after
        return dy * slope * up * before, dy * value

    def backward(dy, gate, up, before, after):
        return run_backward(dy, gate, up, before, after, dgate=like(gate), dup=like(up))

    def backward_formula(dy, gate, up, before, after):
        return tuple(value.to(gate.dtype) for value in slopes(dy, gate, up, before, after))

    backward_of_two = formula_operator(
        f"{name}_backward(Tensor dy, Tensor gate, Tensor up, float before, float after) -> (Tensor, Tensor)",
        backward,
        lambda dy, gate, up, before, after: (like(gate), like(gate)),
        backward_formula,
    )

    def packed_backward(dy, packed, before, after):
        out = like(packed)
        dgate, dup = _halves(out)
        run_backward(dy, *_halves(packed), before, after, dgate=dgate, dup=dup)
        return out

    backward_of_one = formula_operator(
        f"{name}_packed_backward(Tensor dy, Tensor packed, float before, float after) -> Tensor",
        packed_backward,
        lambda dy, packed, before, after: like(packed),
        lambda dy, packed, before, after: torch.cat(backward_formula(dy, *packed.chunk(2, -1), before, after), -1),
    )

    def setup(ctx, inputs, output):
        *tensors, ctx.before, ctx.after = inputs
        ctx.save_for_backward(*tensors)

    two = operator(
        f"{name}(Tensor gate, Tensor up, float before, float after) -> Tensor",
        lambda gate, up, before, after: run(gate, up, before, after, out=like(gate)),
        lambda gate, up, before, after: like(gate),
        setup,
        lambda ctx, dy: (*backward_of_two(dy, *ctx.saved_tensors, ctx.before, ctx.after), None, None),
    )

    def halved(packed):
        return (*packed.shape[:-1], packed.shape[-1] // 2)

    one = operator(
        f"{name}_packed(Tensor packed, float before, float after) -> Tensor",
        lambda packed, before, after: run(*_halves(packed), before, after, out=like(packed, halved(packed))),
        lambda packed, before, after: like(packed, halved(packed)),
        setup,
        lambda ctx, dy: (backward_of_one(dy, *ctx.saved_tensors, ctx.before, ctx.after), None, None),
    )
    return two, one


_swiglu, _swiglu_packed = _gated("swiglu", torch.nn.functional.silu)
_geglus = {
    "tanh": _gated("geglu", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "none": _gated("geglu_exact", torch.nn.functional.gelu),
}


def _call(name, two, one, gate, up, before, after):
    check_floats(name, "gate", gate)
    if up is not None:
        check_shapes(name, up=(up, gate.shape))
        return two(gate, up, before, after)
    if gate.shape[-1] % 2:
        raise bitloom.UserError(
            f"{name}: argument gate: expected an even last dimension where up is not given, got {gate.shape[-1]}"
        )
    return one(gate, before, after)


def swiglu(
    gate: Tensor, up: Tensor | None = None, gate_multiplier: float = 1.0, down_multiplier: float = 1.0
) -> Tensor:
    """silu(gate * gate_multiplier) * up * down_multiplier, computed in f32.

    gate, up: (..., n) of f32, f16 or bf16, of one shape and type; or one tensor (..., 2n) that holds the gate first.
    Returns (..., n). Raises UserError for other shapes and types.
    """
    return _call("swiglu", _swiglu, _swiglu_packed, gate, up, gate_multiplier, down_multiplier)


def geglu(
    gate: Tensor,
    up: Tensor | None = None,
    gate_multiplier: float = 1.0,
    down_multiplier: float = 1.0,
    approximate: str = "tanh",
) -> Tensor:
    """gelu(gate * gate_multiplier) * up * down_multiplier; the rest is as for swiglu.

    approximate: gelu's "tanh" form, or "none", by the error function.
    """
    check_choice("geglu", "approximate", approximate, tuple(_geglus))
    return _call("geglu", *_geglus[approximate], gate, up, gate_multiplier, down_multiplier)
