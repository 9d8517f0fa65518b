"""grouped_matmul in float64, and as torch computes it: group by group."""

import numpy as np
import torch


def grouped_matmul_inputs(generator, inputs):
    """Offsets ascend from 0 to the number of rows; some groups are empty."""
    tokens, groups = len(inputs["x"]), len(inputs["w"])
    cuts = np.sort(generator.integers(0, tokens, groups - 1, endpoint=True))
    inputs["offsets"] = torch.tensor([0, *cuts, tokens], dtype=torch.int32)


def grouped_matmul(x, w, offsets, **_):
    return np.concatenate([x[offsets[g] : offsets[g + 1]] @ w[g].T for g in range(len(w))])


def grouped_matmul_torch(x, w, offsets, **_):
    return torch.cat([x[offsets[g] : offsets[g + 1]] @ w[g].T for g in range(len(w))])
