"""What the forms of the cross entropy do beyond test_torch_ops: what they tell, and where nothing counts."""

import functools

import pytest
import torch
from bitloom.torch import functional as F


def linear_cross_entropy(logits, target, *, chunk_size=6, **options):
    head = torch.eye(logits.shape[-1]).to(logits.dtype)
    return F.fused_linear_cross_entropy(logits, head, target, chunk_size=chunk_size, **options)


def by_classes(logits, target, **options):
    return linear_cross_entropy(logits, target, chunk_size=2, low_memory=True, **options)


forms = pytest.mark.parametrize("function", [F.cross_entropy, linear_cross_entropy, by_classes])


@forms
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_target_that_counts(function, reduction):
    logits = torch.randn(3, 5, requires_grad=True)
    loss = function(logits, torch.full((3,), -100), reduction=reduction, label_smoothing=0.1, lse_square_scale=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (loss == 0).all() and torch.equal(gradient, torch.zeros(3, 5))


@forms
def test_backward_twice(function):
    """The forward's gradient is used up by the first; the second is as right, and so is one of another loss's scale."""
    logits, target = torch.randn(17, 5, requires_grad=True), torch.randint(5, (17,))
    for reduction in ("mean", "none"):
        loss = function(logits, target, reduction=reduction)
        scale = torch.randn(loss.shape)
        (first,) = torch.autograd.grad(loss, logits, scale, retain_graph=True)
        kept = first.clone()
        first.zero_()
        (second,) = torch.autograd.grad(loss, logits, 2 * scale)
        torch.testing.assert_close(second, 2 * kept)


ASKED = {"return_z_loss": True, "return_token_accuracy": True, "return_predicted_tokens": True}


@forms
def test_what_else_is_told(function):
    logits, target = torch.randn(2, 9, 5), torch.randint(5, (2, 9))
    target[0, :4] = -100
    result = function(logits, target, lse_square_scale=0.1, **ASKED)
    counts = target != -100
    assert torch.equal(result.predicted_tokens, logits.argmax(-1))
    torch.testing.assert_close(result.token_accuracy, (logits.argmax(-1) == target)[counts].float().mean())
    torch.testing.assert_close(result.z_loss, 0.1 * logits.logsumexp(-1)[counts].square().mean())
    plain = function(logits, target, lse_square_scale=0.1, return_z_loss=True)
    assert torch.equal(plain.loss, result.loss) and plain.token_accuracy is None
    compiled = torch.compile(functools.partial(function, **ASKED), fullgraph=True, backend="aot_eager")
    for mine, other in zip(compiled(logits, target, lse_square_scale=0.1), result, strict=True):
        torch.testing.assert_close(mine, other)


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (3, 17), (17, 199)])
def test_the_first_of_equal_logits_is_predicted(function, rows, classes, dtype):
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randint(-3, 3, (rows, classes), generator=generator).to(dtype)
    target = torch.randint(classes, (rows,), generator=generator)
    target[:: max(2, rows // 2)] = logits.argmax(-1)[:: max(2, rows // 2)]
    result = function(logits, target, return_predicted_tokens=True, return_token_accuracy=True)
    assert torch.equal(result.predicted_tokens, logits.argmax(-1))
    torch.testing.assert_close(result.token_accuracy, (logits.argmax(-1) == target).float().mean())
    # A softcap makes logits equal that were not.
    result = function(8 * logits, target, softcap=0.5, return_predicted_tokens=True)
    assert torch.equal(result.predicted_tokens, torch.tanh(8 * logits.float() / 0.5).argmax(-1))


def test_classes_that_are_ruled_out():
    """A bias of -inf, as of rows that fill a head up; here on all of the first chunk."""
    x, head, target = torch.randn(3, 8), torch.randn(9, 8, requires_grad=True), torch.tensor([8, 4, 6])
    bias = torch.zeros(9)
    bias[:4] = -torch.inf
    results = []
    for low_memory in (False, True):
        options = {"chunk_size": 2, "low_memory": low_memory, "return_predicted_tokens": True}
        result = F.fused_linear_cross_entropy(x, head, target, bias, **options)
        results.append((result.loss, result.predicted_tokens, *torch.autograd.grad(result.loss, head)))
    logits = torch.nn.functional.linear(x, head, bias)
    loss = torch.nn.functional.cross_entropy(logits, target)
    for result in results:
        torch.testing.assert_close(result[0], loss)
        assert torch.equal(result[1], logits.argmax(-1))
        torch.testing.assert_close(result[2], *torch.autograd.grad(loss, head, retain_graph=True))
