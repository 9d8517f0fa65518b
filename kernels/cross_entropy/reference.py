"""cross_entropy and scale_rows in float64, and as torch computes them."""

import numpy as np
import torch


def cross_entropy_inputs(generator, inputs):
    """Targets are columns, some of them ignored; class weights are positive."""
    rows, cols = inputs["logits"].shape
    target = torch.from_numpy(generator.integers(0, cols, rows))
    if rows > 2:
        target[1] = -100
    inputs["target"] = target
    if "weight" in inputs:
        inputs["weight"] = inputs["weight"].abs() + 0.1


def scale_rows(x, scale, **_):
    return x * scale[:, None]


def scale_rows_torch(x, scale, **_):
    return x * scale[:, None].to(x.dtype)


def scale_rows_inputs(generator, inputs):
    """Some rows are left alone."""
    inputs["scale"][::2] = 1


scale_rows_reads = ("x",)


def results(loss, dlogits, lse, z_loss, predicted, correct, counts, given, none):
    """Those that are asked for, in the kernel's order."""
    asked = [
        (dlogits, "with_gradient"),
        (loss, None),
        (lse, "with_lse"),
        (z_loss, "with_z_loss"),
        (predicted, "with_predicted"),
        (correct & counts, "with_correct"),
    ]
    return tuple(value if name is None or given.get(name) else value[:0] for value, name in asked) + (none,)


def cross_entropy(logits, target, ignore_index, label_smoothing, lse_square_scale, softcap, weight=None, **given):
    capped = np.tanh(logits / softcap) if softcap else None
    x = softcap * capped if softcap else logits
    rows, cols = x.shape
    counts = target != ignore_index
    y = np.where(counts, target, 0)
    at = np.arange(rows)
    w = np.ones(cols) if weight is None else weight
    top = x.max(axis=1)
    lse = given.get("known_lse", top + np.log(np.exp(x - top[:, None]).sum(axis=1)))
    even = label_smoothing / cols
    loss = (1 - label_smoothing) * w[y] * (lse - x[at, y]) + even * (w * (lse[:, None] - x)).sum(axis=1)
    z_loss = lse_square_scale * lse**2
    share = (1 - label_smoothing) * w[y] + even * w.sum() + 2 * lse_square_scale * lse
    gradient = np.exp(x - lse[:, None]) * share[:, None] - even * w
    gradient[at, y] -= (1 - label_smoothing) * w[y]
    if softcap:
        gradient *= 1 - capped**2
    gradient *= (counts * given.get("scale", 1))[:, None]
    predicted = x.argmax(axis=1)
    none = np.zeros(given.get("checked", 0), dtype=np.int64)
    return results(
        (loss + z_loss) * counts, gradient, lse, z_loss * counts, predicted, predicted == target, counts, given, none
    )


def _with_known_lse(x, target, ignore_index, lse_square_scale, softcap, weight, known_lse, **given):
    counts, at = target != ignore_index, torch.arange(len(x))
    y = torch.where(counts, target, 0)
    w = torch.ones(len(x)) if weight is None else weight[y]
    lse = known_lse.to(x.dtype)
    z_loss = lse_square_scale * lse**2
    gradient = torch.exp(x - lse[:, None]) * (w + 2 * lse_square_scale * lse)[:, None].to(x.dtype)
    gradient[at, y] -= w.to(x.dtype)
    if softcap:
        gradient = gradient * (1 - (x / softcap) ** 2)
    gradient = gradient * (counts * given.get("scale", torch.ones(len(x))))[:, None].to(x.dtype)
    loss, predicted = w * (lse - x[at, y]), x.argmax(1)
    none = torch.zeros(given.get("checked", 0), dtype=torch.int32)
    return results(
        (loss + z_loss) * counts, gradient, lse, z_loss * counts, predicted, predicted == target, counts, given, none
    )


def cross_entropy_torch(logits, target, ignore_index, label_smoothing, lse_square_scale, softcap, weight=None, **given):
    if "known_lse" not in given:
        logits = logits.clone().requires_grad_()
    x = softcap * torch.tanh(logits / softcap) if softcap else logits
    if "known_lse" in given:
        return _with_known_lse(x, target, ignore_index, lse_square_scale, softcap, weight, **given)
    counts = target != ignore_index
    usual = {"ignore_index": ignore_index, "reduction": "none", "label_smoothing": label_smoothing}
    loss = torch.nn.functional.cross_entropy(x, target, weight if weight is None else weight.to(x.dtype), **usual)
    lse = torch.logsumexp(x, 1)
    z_loss = lse_square_scale * lse**2 * counts
    (gradient,) = torch.autograd.grad(((loss + z_loss) * given.get("scale", 1)).sum(), logits)
    predicted = x.argmax(1)
    none = torch.zeros(given.get("checked", 0), dtype=torch.int32)
    return results(loss + z_loss, gradient, lse, z_loss, predicted, predicted == target, counts, given, none)


def cross_entropy_results(dlogits, loss, lse, z_loss, predicted, correct, error):
    """The error word starts as the test's pattern, which is larger than any row."""
    return dlogits, loss, lse, z_loss, predicted, correct, error * 0


cross_entropy_part_reads = ("lse", "own", "spread", "top", "predicted")


def best_of_part(x, first, top, predicted, where):
    """The largest of each row so far and its column; as they were where they are not asked for."""
    if not len(top):
        return top, predicted
    largest, place = x.max(1), x.argmax(1) + first
    largest = getattr(largest, "values", largest)
    return where(largest > top, largest, top), where(largest > top, place, predicted)


def cross_entropy_part(logits, target, lse, own, spread, top, predicted, first, softcap, weight=1, **_):
    x = softcap * np.tanh(logits / softcap) if softcap else logits
    columns = np.arange(x.shape[1]) + first
    most = x.max(axis=1)
    part = most + np.log(np.exp(x - most[:, None]).sum(axis=1))
    spread = spread + (x * weight).sum(axis=1) if len(spread) else spread
    best = best_of_part(x, first, top, predicted, np.where)
    return np.logaddexp(lse, part), own + (x * (columns == target[:, None])).sum(axis=1), spread, *best


def cross_entropy_part_torch(logits, target, lse, own, spread, top, predicted, first, softcap, weight=1, **_):
    x = softcap * torch.tanh(logits / softcap) if softcap else logits
    columns = torch.arange(x.shape[1]) + first
    part = torch.logsumexp(x, 1)
    spread = spread + (x * weight).sum(1) if len(spread) else spread
    best = best_of_part(x.float(), first, top, predicted, torch.where)
    return torch.logaddexp(lse, part.float()), own + (x * (columns == target[:, None])).sum(1), spread, *best


def cross_entropy_part_backward(logits, target, lse, slope, least, first, softcap, weight=1, even=None, **_):
    capped = np.tanh(logits / softcap) if softcap else None
    x = softcap * capped if softcap else logits
    columns = np.arange(x.shape[1]) + first
    gradient = np.exp(x - lse[:, None]) * slope[:, None] - (columns == target[:, None]) * least[:, None]
    if even is not None:
        gradient = gradient - even[:, None] * weight
    return gradient * (1 - capped**2) if softcap else gradient


def cross_entropy_part_backward_torch(logits, target, lse, slope, least, first, softcap, weight=1, even=None, **_):
    capped = torch.tanh(logits / softcap) if softcap else None
    x = softcap * capped if softcap else logits
    columns = torch.arange(x.shape[1]) + first
    gradient = torch.exp(x - lse[:, None]) * slope[:, None] - (columns == target[:, None]) * least[:, None]
    if even is not None:
        gradient = gradient - even[:, None] * weight
    return (gradient * (1 - capped**2) if softcap else gradient).to(logits.dtype)


def _linear_parts(x, target, first, softcap, with_logits, module, width=128):
    """lse of each `width` columns, own where there are targets, and x on request."""
    logits = x[: len(x) * with_logits]
    x = softcap * module.tanh(x / softcap) if softcap else x
    spans = [slice(i, i + width) for i in range(0, x.shape[1], width)]
    top = x.max() if module is np else x.amax()
    lse = module.stack([top + module.log(module.exp(x[:, span] - top).sum(1)) for span in spans])
    if target is None:
        return lse, lse[:0], logits
    columns = module.arange(x.shape[1]) + first
    own = module.stack([(x * (columns == target[:, None]))[:, span].sum(1) for span in spans])
    return lse, own, logits


def linear_lse(a, b, first, softcap, target=None, bias=0, with_logits=0, **_):
    return _linear_parts(a @ b + bias, target, first, softcap, with_logits, np)


def linear_lse_torch(a, b, first, softcap, target=None, bias=0, with_logits=0, **_):
    return _linear_parts(a @ b + bias, target, first, softcap, with_logits, torch)


def linear_cross_entropy_backward(a, b, bias=0, **rows):
    return cross_entropy_part_backward(a @ b + bias, softcap=0, **rows)


def linear_cross_entropy_backward_torch(a, b, bias=0, **rows):
    return cross_entropy_part_backward_torch(a @ b + bias, softcap=0, **rows)


def combine_lse(lses, owns=None, **_):
    top = lses.max(axis=0)
    lse = top + np.log(np.exp(lses - top).sum(axis=0))
    return lse, np.zeros(0) if owns is None else owns.sum(axis=0)


def combine_lse_torch(lses, owns=None, **_):
    return torch.logsumexp(lses, 0), torch.zeros(0) if owns is None else owns.sum(0)
