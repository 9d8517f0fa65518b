"""Rows of a table."""

import torch
from torch import Tensor

import bitloom

from .operator import formula_operator, operator
from .shapes import flattened, like, rows
from .targets import error_word, look_at


def _backward_formula(dy, ids, count, padding):
    dy = dy.reshape(-1, dy.shape[-1]).float() * (ids.flatten() != padding)[:, None]
    return dy.new_zeros(count, dy.shape[-1]).index_add(0, ids.flatten(), dy)


def _run_backward(dy, ids, count, padding):
    sorted, order = torch.sort(ids.flatten(), stable=True)
    starts = torch.searchsorted(sorted, torch.arange(count + 1, device=ids.device))
    dweight = like(dy, (count, dy.shape[-1]))
    bitloom.embedding_backward(rows(dy), order, starts, padding, dweight=dweight)
    return dweight


embedding_backward = formula_operator(
    "embedding_backward(Tensor dy, Tensor ids, int count, int padding) -> Tensor",
    _run_backward,
    lambda dy, ids, count, padding: like(dy, (count, dy.shape[-1])),
    lambda *arguments: _backward_formula(*arguments).to(arguments[0].dtype),
)


def _forward(ids, weight, padding):
    word = error_word("embedding", ids.device)
    out, _ = bitloom.embedding(flattened(ids), weight, error=word)
    look_at("embedding", word)
    return out.view(*ids.shape, weight.shape[1])


def _setup(ctx, inputs, output):
    ids, weight, ctx.padding = inputs
    ctx.count = weight.shape[0]
    ctx.save_for_backward(ids)


_embedding = operator(
    "embedding(Tensor ids, Tensor weight, int padding) -> Tensor",
    _forward,
    lambda ids, weight, padding: like(weight, (*ids.shape, weight.shape[1])),
    _setup,
    lambda ctx, dy: (None, embedding_backward(dy, *ctx.saved_tensors, ctx.count, ctx.padding), None),
)


def embedding(ids: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """weight[ids]: rows of a table.

    ids: i64 of (...). weight: (count, n) of f32, f16 or bf16; its gradient is summed in f32, and is the same bits from
    run to run. padding_idx: an id whose row gets no gradient; below 0 it counts from the end.
    Returns (..., n). Raises UserError for other shapes and types, and for ids that are no row: on CUDA, a later call
    does so.
    """
    if padding_idx is None:
        return _embedding(ids, weight, -1)
    count = weight.shape[0]
    if not -count <= padding_idx < count:
        raise bitloom.UserError(
            f"embedding: argument padding_idx: expected {-count} to {count - 1} (rows of the weight), got {padding_idx}"
        )
    return _embedding(ids, weight, padding_idx % count)
