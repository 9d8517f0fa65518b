"""rope in float64, and as torch computes it."""

import numpy as np
import torch


def columns_of(table, t, batch, half, first_section, second_section, positions):
    """The table's numbers for each sequence, token and pair, of numpy arrays or tensors alike."""
    if positions is None:
        tokens = np.arange(t) if table.shape[1] == t else np.arange(batch * t)
        positions = np.broadcast_to(tokens.reshape(-1, t), (len(table), batch, t)).copy()
    cuts = [0, half] if len(table) == 1 else [0, first_section, first_section + second_section, half]
    parts = [table[s][positions[s]][..., cuts[s] : cuts[s + 1]] for s in range(len(table))]
    join = torch.cat if isinstance(table, torch.Tensor) else np.concatenate
    return join(parts, -1)[:, :, None]


def turned(x, c, s, rotated, interleaved):
    half = rotated // 2
    first, second = slice(0, half), slice(half, rotated)
    if interleaved:
        first, second = slice(0, rotated, 2), slice(1, rotated, 2)
    out = x.clone() if isinstance(x, torch.Tensor) else x.copy()
    out[..., first] = x[..., first] * c - x[..., second] * s
    out[..., second] = x[..., second] * c + x[..., first] * s
    return out


def rope(q, k, cos, sin, interleaved, inverse, first_section, second_section, positions=None, rotated=None, **_):
    rotated = rotated or q.shape[3]
    given = (q.shape[1], q.shape[0], rotated // 2, first_section, second_section, positions)
    c, s = columns_of(cos, *given), columns_of(sin, *given)
    s = -s if inverse else s
    return turned(q, c, s, rotated, interleaved), turned(k, c, s, rotated, interleaved)


def rope_torch(dtype, **given):
    return rope(**given)


def rope_inputs(generator, inputs):
    """Positions within the tables."""
    if "positions" in inputs:
        places = inputs["cos"].shape[1]
        inputs["positions"] = torch.from_numpy(generator.integers(0, places, inputs["positions"].shape))
