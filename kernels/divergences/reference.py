"""kl_div, jsd and tvd with their gradients in float64, and as torch computes them."""

import numpy as np
import torch

LOG_PROBS, LOGITS, PROBS = range(3)


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def divergence(terms, input, target, spaces, temperature, given):
    """The loss and the gradient; terms gives the loss's elements and its derivative with respect to log q."""
    logs = [
        np.log(x) if space == PROBS else log_softmax(x / temperature) if space == LOGITS else x
        for x, space in zip((input, target), spaces)
    ]
    q, p = np.exp(logs[0]), np.exp(logs[1])
    loss, slope = terms(*logs, q, p)
    if spaces[0] == LOGITS:
        slope = (slope - q * slope.sum(axis=1, keepdims=True)) / temperature
    elif spaces[0] == PROBS:
        slope = slope / q
    gradient = slope * np.reshape(given.get("scale", np.ones(len(input))), (-1, 1))
    return loss.sum(axis=1), gradient if given.get("with_gradient") else gradient[:0]


def divergence_torch(losses, input, target, spaces, temperature, given):
    """losses gives the loss's elements from log q and log p."""
    input = input.clone().requires_grad_()
    logs = [
        x.log() if space == PROBS else torch.log_softmax(x / temperature, 1) if space == LOGITS else x
        for x, space in zip((input, target), spaces)
    ]
    loss = losses(*logs).sum(1)
    (gradient,) = torch.autograd.grad((loss * given.get("scale", 1)).sum(), input)
    return loss, gradient if given.get("with_gradient") else gradient[:0]


def distributions(inputs, spaces):
    for name, space in zip(("input", "target"), spaces):
        if space != LOGITS:
            x = inputs[name].double()
            inputs[name] = (torch.softmax if space == PROBS else torch.log_softmax)(x, 1).to(inputs[name].dtype)


def kl_spaces(log_target, logits):
    return (LOGITS, LOGITS) if logits else (LOG_PROBS, LOG_PROBS if log_target else PROBS)


def kl_terms(log_q, log_p, q, p):
    return p * (log_p - log_q), -p


def kl_div_inputs(generator, inputs, log_target, logits, **_):
    distributions(inputs, kl_spaces(log_target, logits))


def kl_div(input, target, temperature, log_target, logits, **given):
    return divergence(kl_terms, input, target, kl_spaces(log_target, logits), temperature, given)


def kl_div_torch(input, target, temperature, log_target, logits, **given):
    def losses(log_q, log_p):
        return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True)

    return divergence_torch(losses, input, target, kl_spaces(log_target, logits), temperature, given)


def jsd_spaces(logits):
    return (LOGITS, LOGITS) if logits else (LOG_PROBS, LOG_PROBS)


def jsd_inputs(generator, inputs, logits, temperature=1.0, **_):
    distributions(inputs, jsd_spaces(logits))
    for name in ("input", "target"):
        if f"{name}_lse" in inputs:
            inputs[f"{name}_lse"] = torch.logsumexp(inputs[name].double() / temperature, 1).float()


def jsd(input, target, beta, temperature, form, logits, **given):
    def terms(log_q, log_p, q, p):
        if form == 1:
            return kl_terms(log_q, log_p, q, p)
        if form == 2:
            return q * (log_q - log_p), q * (log_q - log_p) + q
        log_m = np.log(beta * p + (1 - beta) * q)
        of_q = (1 - beta) * q * (log_q - log_m)
        return beta * p * (log_p - log_m) + of_q, of_q

    return divergence(terms, input, target, jsd_spaces(logits), temperature, given)


def jsd_torch(input, target, beta, temperature, form, logits, **given):
    def losses(log_q, log_p):
        def kl(a, b):
            return torch.nn.functional.kl_div(b, a, reduction="none", log_target=True)

        if form:
            return kl(log_p, log_q) if form == 1 else kl(log_q, log_p)
        log_m = torch.log(beta * log_p.exp() + (1 - beta) * log_q.exp())
        return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)

    return divergence_torch(losses, input, target, jsd_spaces(logits), temperature, given)


def tvd_inputs(generator, inputs, space, **_):
    distributions(inputs, (space, space))


def tvd(input, target, temperature, space, **given):
    def terms(log_q, log_p, q, p):
        return (0.5 * np.abs(p - q), 0.5 * np.sign(q - p) * q)

    return divergence(terms, input, target, (space, space), temperature, given)


def tvd_torch(input, target, temperature, space, **given):
    def losses(log_q, log_p):
        return 0.5 * (log_p.exp() - log_q.exp()).abs()

    return divergence_torch(losses, input, target, (space, space), temperature, given)
