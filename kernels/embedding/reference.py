"""embedding and its gradient in float64, and as torch computes them."""

import numpy as np
import torch


def embedding_inputs(generator, inputs):
    """Ids are rows of the weight."""
    inputs["ids"] = torch.from_numpy(generator.integers(0, len(inputs["weight"]), len(inputs["ids"])))


def embedding(ids, weight, checked=0, **_):
    return weight[ids], np.zeros(checked, dtype=np.int64)


def embedding_torch(ids, weight, checked=0, **_):
    return torch.nn.functional.embedding(ids, weight), torch.zeros(checked)


def embedding_results(out, error):
    """The error word starts as the test's pattern, which is larger than any place."""
    return out, error * 0


def embedding_backward_inputs(generator, inputs):
    """The order of random ids, some of which are frequent."""
    n, vocab = len(inputs["dy"]), len(inputs["starts"]) - 1
    ids = torch.from_numpy(np.minimum(generator.integers(0, vocab, n), generator.integers(0, vocab, n)))
    ordered, order = ids.sort(stable=True)
    inputs["order"], inputs["starts"] = order, torch.searchsorted(ordered, torch.arange(vocab + 1))


def ids_of(order, starts):
    ids = np.empty(len(order), dtype=np.int64)
    ids[order] = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return ids


def embedding_backward(dy, order, starts, padding, **_):
    dweight = np.zeros((len(starts) - 1, dy.shape[1]))
    np.add.at(dweight, ids_of(order, starts), dy)
    if padding >= 0:
        dweight[padding] = 0
    return dweight


def embedding_backward_torch(dy, order, starts, padding, **_):
    ids = torch.from_numpy(ids_of(order.numpy(), starts.numpy()))
    return torch.ops.aten.embedding_dense_backward(dy, ids, len(starts) - 1, padding, False)
