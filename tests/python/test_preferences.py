"""The losses of preferences over hidden states, against the same written over all logits in float64."""

import functools

import bitloom
import pytest
import torch
from bitloom.torch import functional as F
from torch.nn.functional import logsigmoid

BATCH, LENGTH, HIDDEN, CLASSES = 6, 7, 24, 33


def made(dtype=torch.float32):
    """The policy's states and head, targets of which a whole sequence and some tokens are ignored, and the reference's
    log-probabilities."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator).bfloat16().to(dtype)

    x, weight, bias = normal(BATCH, LENGTH, HIDDEN), normal(CLASSES, HIDDEN) / 4, normal(CLASSES)
    target = torch.randint(CLASSES, (BATCH, LENGTH), generator=generator)
    target[0, :3] = target[4, 5:] = target[2] = -100
    other = normal(BATCH, LENGTH, HIDDEN), normal(CLASSES, HIDDEN) / 4
    return [t.requires_grad_() for t in (x, weight, bias)], target, other


def token_log_probs(x, weight, bias, target, temperature=1.0, softcap=None):
    logits = torch.nn.functional.linear(x, weight, bias) / temperature
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    own = torch.log_softmax(logits, -1).gather(-1, target.clamp(min=0)[..., None])[..., 0]
    return own * (target != -100)


def sums(tokens, target):
    return tokens.sum(-1)


def means(tokens, target):
    return tokens.sum(-1) / (target != -100).sum(-1).clamp(min=1)


def dpo(tokens, reference, target, beta, smoothing):
    ratios = beta * (sums(tokens, target) - sums(reference, target))
    x = ratios[:3] - ratios[3:]
    return -((1 - smoothing) * logsigmoid(x) + smoothing * logsigmoid(-x)).mean()


def orpo(tokens, reference, target, beta):
    values = means(tokens, target).clamp(max=-1e-6)
    odds = values - torch.log1p(-values.exp())
    own = -tokens[:3].sum() / (target[:3] != -100).sum()
    return own - beta * logsigmoid(odds[:3] - odds[3:]).mean()


def simpo(tokens, reference, target, beta, gamma):
    values = means(tokens, target)
    return -logsigmoid(beta * (values[:3] - values[3:]) - gamma).mean()


DESIRABLE = torch.tensor([True, False, True, True, False, False])


def kto(tokens, reference, target, beta, kl):
    x = beta * (sums(tokens, target) - sums(reference, target) - kl)
    return torch.where(DESIRABLE, 1.5 * (1 - x.sigmoid()), 0.5 * (1 - (-x).sigmoid())).mean()


ADVANTAGES = torch.tensor([1.0, -0.5, 0.25, -2.0, 0.0, 1.5])


def grpo(tokens, reference, target, beta, reduction, shift, by_sequence=False):
    counts = target != -100
    old = tokens.detach() + shift
    x = tokens - old
    x = x if not by_sequence else means(x * counts, target)[:, None].expand_as(x)
    a = ADVANTAGES[:, None].to(tokens)
    losses = -torch.minimum(x.exp() * a, x.exp().clamp(0.8, 1.3) * a)
    d = reference - tokens
    losses = (losses + beta * (d.exp() - d - 1)) * counts
    if reduction == "sequences":
        return (losses.sum(-1) / counts.sum(-1).clamp(min=1)).mean()
    return losses.sum() / (counts.sum() if reduction == "tokens" else losses.numel())


SHIFT = torch.linspace(-0.5, 0.5, BATCH * LENGTH).view(BATCH, LENGTH)


def ours_grpo(parts, **options):
    x, weight, bias, target, reference = parts
    with torch.no_grad():
        old = F.fused_linear_log_probs(x, weight, target, bias) + SHIFT
    return F.fused_linear_grpo(
        x, weight, target, ADVANTAGES, old, reference.float(), epsilon_high=0.3, bias=bias, chunk_size=10, **options
    )


def paired(function, *options, referenced=True, **keywords):
    def run(parts):
        x, weight, bias, target, reference = parts
        given = [reference.sum(-1).float()] if referenced else []
        return function(x, weight, target, *given, *options, bias=bias, chunk_size=10, **keywords)

    return run


def ours_kto(parts):
    x, weight, bias, target, reference = parts
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    return F.fused_linear_kto(
        x, weight, target, DESIRABLE, reference.sum(-1).float(), torch.tensor(0.75), 0.2, **weights, bias=bias
    )


CASES = {
    "dpo": (paired(F.fused_linear_dpo, 0.2), functools.partial(dpo, beta=0.2, smoothing=0.0)),
    "dpo smoothed": (paired(F.fused_linear_dpo, 0.3, 0.1), functools.partial(dpo, beta=0.3, smoothing=0.1)),
    "orpo": (paired(F.fused_linear_orpo, 0.3, referenced=False), functools.partial(orpo, beta=0.3)),
    "simpo": (paired(F.fused_linear_simpo, referenced=False), functools.partial(simpo, beta=2.0, gamma=0.5)),
    "kto": (ours_kto, functools.partial(kto, beta=0.2, kl=0.75)),
    "grpo": (
        functools.partial(ours_grpo, beta=0.1),
        functools.partial(grpo, beta=0.1, reduction="sequences", shift=SHIFT),
    ),
    "grpo tokens": (
        functools.partial(ours_grpo, reduction="tokens"),
        functools.partial(grpo, beta=0.0, reduction="tokens", shift=SHIFT),
    ),
    "grpo by sequence": (
        functools.partial(ours_grpo, reduction="constant", sequence_ratios=True),
        functools.partial(grpo, beta=0.0, reduction="constant", shift=SHIFT, by_sequence=True),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def losses(name, dtype=torch.float32, wrap=lambda f: f):
    """(loss, gradients) of ours and of the one over all logits."""
    ours, reference = CASES[name]
    parameters, target, (other, head) = made(dtype)
    exact = [t.detach().double().requires_grad_() for t in parameters]
    distant = token_log_probs(other.double(), head.double(), None, target)
    mine = wrap(lambda *parts: ours(parts).loss)(*parameters, target, distant)
    truth = reference(token_log_probs(*exact, target), distant, target)
    return [mine, *torch.autograd.grad(mine, parameters)], [truth, *torch.autograd.grad(truth, exact)]


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_as_over_all_logits(name, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for mine, truth in zip(*losses(name, dtype), strict=True):
        assert truth.abs().max() > 1e-3
        torch.testing.assert_close(
            mine.double(), truth.detach(), rtol=tolerance, atol=tolerance * truth.abs().max().item()
        )


@cases
def test_compiled_in_one_graph(name):
    torch.compiler.reset()
    compiled = functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
    for mine, truth in zip(*losses(name, wrap=compiled), strict=True):
        torch.testing.assert_close(mine.double(), truth.detach(), rtol=1e-5, atol=1e-5)


def test_reference_from_its_states():
    (x, weight, bias), target, (other, head) = made()
    with torch.no_grad():
        log_probs = F.fused_linear_log_probs(other, head, target).sum(-1)
    given = F.fused_linear_dpo(x, weight, target, log_probs, bias=bias)
    computed = F.fused_linear_dpo(x, weight, target, reference_input=other, reference_weight=head, bias=bias)
    for mine, expected in zip(computed, given, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_what_comes_with_the_loss():
    (x, weight, bias), target, (other, head) = made()
    tokens, distant = token_log_probs(x, weight, bias, target), token_log_probs(other, head, None, target)
    result = F.fused_linear_dpo(x, weight, target, distant.sum(-1).detach(), 0.5, bias=bias)
    torch.testing.assert_close(result.chosen_log_probs, tokens.sum(-1)[:3])
    torch.testing.assert_close(result.rejected_rewards, 0.5 * (tokens - distant).sum(-1)[3:].detach())
    result = F.fused_linear_grpo(
        x, weight, target, ADVANTAGES, tokens.detach() + SHIFT, distant.detach(), bias=bias, temperature=1.0
    )
    counts, ratio, a = target != -100, torch.exp(-SHIFT), ADVANTAGES[:, None]
    clipped = (((ratio > 1.2) & (a > 0)) | ((ratio < 0.8) & (a < 0)))[counts].float().mean()
    torch.testing.assert_close(result.clipped, clipped)
    d = (distant - tokens)[counts]
    torch.testing.assert_close(result.kl, (d.exp() - d - 1).mean().detach())


def test_temperature_and_softcap():
    (x, weight, bias), target, _ = made()
    options = {"temperature": 2.0, "softcap": 1.5}
    mine = F.fused_linear_log_probs(x, weight, target, bias, **options)
    torch.testing.assert_close(mine, token_log_probs(x, weight, bias, target, **options))


def mistake(function, *more, **options):
    def run():
        (x, weight, _), target, _ = made()
        getattr(F, f"fused_linear_{function}")(x, weight, target, *more, **options)

    return run


MISTAKES = {
    "an odd batch": (
        lambda: F.fused_linear_simpo(torch.ones(3, 4, 5), torch.ones(7, 5), torch.ones(3, 4, dtype=torch.int64)),
        "fused_linear_simpo: argument target: expected as many chosen sequences as rejected ones, got 3 in all",
    ),
    "no reference": (mistake("dpo"), "fused_linear_dpo: argument reference_log_probs: expected either it or both"),
    "another reference": (
        mistake("dpo", torch.ones(5)),
        "fused_linear_dpo: argument reference_log_probs: expected shape (6,), got (5,)",
    ),
    "advantages": (
        mistake("grpo", torch.ones(5)),
        "fused_linear_grpo: argument advantages: expected shape (6,), got (5,)",
    ),
    "a divergence without reference": (
        mistake("grpo", torch.ones(6), beta=0.1),
        "fused_linear_grpo: argument reference_log_probs: expected a tensor where beta is not 0, got None",
    ),
    "reduction": (
        mistake("grpo", torch.ones(6), reduction="mean"),
        "fused_linear_grpo: argument reduction: expected sequences, tokens, constant, got 'mean'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    call, message = MISTAKES[name]
    with pytest.raises(bitloom.UserError) as caught:
        call()
    assert message in str(caught.value)
