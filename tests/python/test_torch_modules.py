"""The modules of bitloom.torch have torch's own parameters and give what its modules give."""

import pytest
import torch
from bitloom.torch import functional as F
from bitloom.torch import modules
from torch import nn

PAIRS = {
    "RMSNorm": (lambda: modules.RMSNorm(17, 1e-5), lambda: nn.RMSNorm(17, 1e-5), (3, 17)),
    "LayerNorm": (lambda: modules.LayerNorm(17), lambda: nn.LayerNorm(17), (3, 17)),
    "LayerNorm without bias": (
        lambda: modules.LayerNorm(17, bias=False),
        lambda: nn.LayerNorm(17, bias=False),
        (3, 17),
    ),
    "GroupNorm": (lambda: modules.GroupNorm(3, 6), lambda: nn.GroupNorm(3, 6), (2, 6, 17)),
    "GroupNorm without parameters": (
        lambda: modules.GroupNorm(3, 6, affine=False),
        lambda: nn.GroupNorm(3, 6, affine=False),
        (2, 6, 17),
    ),
    "Softmax": (lambda: modules.Softmax(1), lambda: nn.Softmax(1), (2, 5, 17)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_as_torchs_module(name):
    ours, theirs, shape = PAIRS[name]
    ours, theirs = ours(), theirs()
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(value.shape, generator=generator) for key, value in theirs.state_dict().items()}
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])  # the same at first
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    x = torch.randn(shape, generator=generator)
    torch.testing.assert_close(ours(x), theirs(x))


def test_embedding():
    """A functional padding_idx counts from the end too, where it is below 0."""
    ours, theirs = modules.Embedding(33, 17, padding_idx=3), nn.Embedding(33, 17, padding_idx=3)
    theirs.load_state_dict(ours.state_dict())
    ids = torch.tensor([[3, 0, 32], [5, 5, 3]])
    for module in (ours, theirs):
        module(ids).square().sum().backward()
    assert torch.equal(ours(ids), theirs(ids)) and not ours.weight[3].any()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    for padding in (3, 3 - 33):
        (own,) = torch.autograd.grad(F.embedding(ids, ours.weight, padding).square().sum(), ours.weight)
        assert torch.equal(own, ours.weight.grad)


@pytest.mark.parametrize("module, activation", [(modules.SwiGLU, nn.SiLU()), (modules.GEGLU, nn.GELU("tanh"))])
def test_gated(module, activation):
    layer, x = module(17, 33), torch.randn(2, 3, 17)
    gate, up = layer.gate_up(x).chunk(2, -1)
    torch.testing.assert_close(layer(x), layer.down(activation(gate) * up))


def test_losses_take_options():
    x, weight, target = torch.randn(6, 17), torch.rand(33) + 0.5, torch.tensor([0, 32, -100, 3, 3, 7])
    head = torch.randn(33, 17)
    expected = nn.CrossEntropyLoss(weight, label_smoothing=0.1, reduction="sum")(x @ head.T, target)
    options = {"label_smoothing": 0.1, "reduction": "sum"}
    torch.testing.assert_close(modules.CrossEntropyLoss(weight, **options)(x @ head.T, target), expected)
    fused = modules.FusedLinearCrossEntropyLoss(weight, chunk_size=4, **options)
    torch.testing.assert_close(fused(x, head, target), expected)
    assert "weight" in fused.state_dict() and "label_smoothing=0.1" in repr(fused)
    p, q = torch.randn(6, 33).log_softmax(-1), torch.randn(6, 33).softmax(-1)
    torch.testing.assert_close(modules.KLDivLoss()(p, q), nn.KLDivLoss(reduction="batchmean")(p, q))
    loss = modules.FusedLinearSimPOLoss(beta=1.0, gamma=0.25)(x.view(2, 3, 17), head, target.view(2, 3))
    assert loss == F.fused_linear_simpo(x.view(2, 3, 17), head, target.view(2, 3), 1.0, 0.25)
