"""Rotary position embedding."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

import bitloom

from .checks import check_constant, check_shapes
from .operator import of_heads_first, operator

_run = of_heads_first("rope")


def _tables(cos: Tensor, sections: int) -> Tensor:
    """(sections, rows, width), as the kernel takes them."""
    if cos.dim() == 3 and cos.shape[0] == sections:  # most often: the one table of the whole batch
        return cos
    return cos.reshape(sections, -1, cos.shape[-1])


def _check_positions(positions: Tensor, rows: int) -> None:
    """On the CPU only: elsewhere it would take a wait for the device."""
    if positions.device.type != "cpu" or not positions.numel():
        return
    least, most = (value.item() for value in positions.aminmax())
    if least < 0 or most >= rows:
        wrong = least if least < 0 else most
        raise bitloom.UserError(f"rope: argument positions: expected 0 to {rows - 1} (rows of the tables), got {wrong}")


def _rope(q, k, cos, sin, positions, rotated, interleaved, mrope, inverse):
    sections = 3 if mrope else 1
    first, second = (mrope[0], mrope[1]) if mrope else (0, 0)
    if positions is not None:
        _check_positions(positions, cos.shape[-2])
        positions = positions.expand(q.shape[0], -1)[None] if not mrope else positions
    # In memory as q and k are, and no views: of views autograd keeps more.
    return _run(
        q,
        k,
        _tables(cos, sections),
        _tables(sin, sections),
        positions,
        out_q=torch.empty_like(q),
        out_k=torch.empty_like(k),
        rotated=rotated,
        interleaved=interleaved,
        inverse=inverse,
        first_section=first,
        second_section=second,
    )


def _setup(ctx, inputs, output):
    _, _, cos, sin, positions, *ctx.others, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin, positions)


def _gradient(ctx, dq, dk):
    dq, dk = _operator(dq, dk, *ctx.saved_tensors, *ctx.others, not ctx.inverse)
    return dq, dk, None, None, None, None, None, None, None


# Linear in q and k: its gradient is itself, turning the other way.
_operator = operator(
    "rope(Tensor q, Tensor k, Tensor cos, Tensor sin, Tensor? positions, int rotated, bool interleaved, int[] mrope,"
    " bool inverse) -> (Tensor, Tensor)",
    _rope,
    lambda q, k, *_: (torch.empty_like(q), torch.empty_like(k)),
    _setup,
    _gradient,
)


def _check_tables(q: Tensor, cos: Tensor, sin: Tensor, in_place: bool, sections: int) -> None:
    """in_place: their rows are the tokens', in order, rather than chosen by positions."""
    if q.dim() != 4:
        raise bitloom.UserError(f"rope: argument q: expected 4 dimensions, got {q.dim()}")
    batch, _, t, _ = q.shape
    count = math.prod(cos.shape[:-1])
    if in_place and count != sections * t and count != sections * batch * t:
        first = "3, " if sections == 3 else ""
        raise bitloom.UserError(
            f"rope: argument cos: expected ({first}{batch} or 1, {t}, width), got shape {tuple(cos.shape)}"
        )
    check_shapes("rope", sin=(sin, cos.shape))
    check_constant("rope", "cos", cos)
    check_constant("rope", "sin", sin)


def rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    *,
    positions: Tensor | None = None,
    rotated: int | None = None,
    mrope_sections: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """q and k with rotary position embedding.

    q: (batch, heads, t, d), k: (batch, kv_heads, t, d), of f32, f16 or bf16. cos, sin: tables of q's type or f32, whose
    columns are a token's angles: (batch or 1, t, width), or (rows, width) with positions, i64 of (batch or 1, t) that
    choose each token's row. Column j is for pair j; columns from rotated / 2 on are not read.
    interleaved: pairs are elements 2j and 2j + 1 of a head, else j and j + rotated / 2. rotated: how many elements of a
    head take part, from the first on; the tables' width by default, the rest is copied. mrope_sections: how many pairs
    take their angles from the first, second and third of three tables (3, batch or 1, t, width), with positions of (3,
    batch, t).
    A position that is no row of the tables is an error on the CPU; on CUDA its angles' cosines and sines are 0.
    Gradients are for q and k. Returns two tensors like q and k, whose dimensions lie in memory in the same order.
    Raises UserError for other shapes and types.
    """
    rotated = (cos.shape[-1] if cos.dim() else 0) if rotated is None else rotated
    sections = list(mrope_sections or ())
    if sections and (len(sections) != 3 or sum(sections) != rotated // 2 or min(sections) < 0):
        raise bitloom.UserError(
            f"rope: argument mrope_sections: expected three numbers that add up to {rotated // 2} (rotated / 2), got "
            f"{sections}"
        )
    _check_tables(q, cos, sin, positions is None, 3 if sections else 1)
    return _operator(q, k, cos, sin, positions, rotated, interleaved, sections, False)
