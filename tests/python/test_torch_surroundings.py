"""bitloom.torch's operators in what else PyTorch does with functions: torch.func's transforms, autocast, tensors
without values, compiling for sizes that vary, checkpoints, copies."""

import copy
import io
import pickle

import bitloom
import pytest
import torch
import torch._dynamo.testing
from bitloom.torch import functional as F
from bitloom.torch import modules
from torch.autograd import forward_ad
from torch.nn import functional as TF
from torch.utils.checkpoint import checkpoint

TARGET = torch.tensor([1, 16, -100, 4, 0])
HEAD = torch.randn(17, 33, generator=torch.Generator().manual_seed(0))


def rms_norm(x):
    return TF.rms_norm(x, x.shape[-1:], eps=1e-6)


LOSSES = {
    "rms_norm": (lambda x: F.rms_norm(x).sin().sum(), lambda x: rms_norm(x).sin().sum()),
    "layer_norm": (lambda x: F.layer_norm(x).sin().sum(), lambda x: TF.layer_norm(x, x.shape[-1:]).sin().sum()),
    "fused_add_rms_norm": (
        lambda x: sum(y.sin().sum() for y in F.fused_add_rms_norm(x, x)),
        lambda x: rms_norm(2 * x).sin().sum() + (2 * x).sin().sum(),
    ),
    "swiglu": (lambda x: F.swiglu(x, x).sum(), lambda x: (TF.silu(x) * x).sum()),
    "cross_entropy": (
        lambda x: F.cross_entropy(x[..., :17], TARGET[: len(x)].view(x.shape[:-1])),
        lambda x: TF.cross_entropy(x[..., :17], TARGET[: len(x)].view(x.shape[:-1])),
    ),
    "fused_linear_cross_entropy": (
        lambda x: F.fused_linear_cross_entropy(x, HEAD, TARGET),
        lambda x: TF.cross_entropy(x @ HEAD.t(), TARGET),
    ),
    "low memory": (
        lambda x: F.fused_linear_cross_entropy(x, HEAD, TARGET, low_memory=True),
        lambda x: TF.cross_entropy(x @ HEAD.t(), TARGET),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_torch_func(name):
    x = torch.randn(5, 33)
    mine, other = (torch.func.grad(function)(x) for function in LOSSES[name])
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rms_norm", "layer_norm", "fused_add_rms_norm", "swiglu"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_each_sample(name):
    x = torch.randn(3, 33)
    mine, other = (torch.func.vmap(torch.func.grad(function))(x) for function in LOSSES[name])
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_derivatives_that_there_are_not():
    """Rather than derivatives of 0, which the dispatcher would make of them."""
    x, direction = torch.randn(5, 33), torch.randn(5, 33)
    with pytest.raises(bitloom.UserError, match="rms_norm: expected no derivatives in forward mode, got a tensor with"):
        torch.func.jvp(F.rms_norm, (x,), (direction,))
    with forward_ad.dual_level():
        with pytest.raises(bitloom.UserError, match="layer_norm: expected no derivatives in forward mode"):
            F.layer_norm(forward_ad.make_dual(x, direction))
        torch.testing.assert_close(F.layer_norm(x), TF.layer_norm(x, (33,)))  # no tangent, no mistake
    with pytest.raises(bitloom.UserError, match="rms_norm_backward: expected no derivatives of second order in"):
        torch.func.jacrev(torch.func.jacrev(LOSSES["rms_norm"][0]))(x)


def test_autocast_reaches_the_head():
    """The hidden states and the head are rounded as torch.nn.functional.linear rounds them, gradients come in f32."""
    x, weight, bias = torch.randn(5, 33, requires_grad=True), HEAD.clone().requires_grad_(), torch.randn(17)
    halves = [value.detach().bfloat16().requires_grad_() for value in (x, weight)]
    for more in ({}, {"low_memory": True}, {"reduction": "sum"}):
        expected = F.fused_linear_cross_entropy(*halves, TARGET, bias.bfloat16(), **more)
        outer = torch.autograd.grad(expected, halves)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.fused_linear_cross_entropy(x, weight, TARGET, bias, **more)
        assert torch.equal(loss, expected)
        for mine, other in zip(torch.autograd.grad(loss, (x, weight)), outer):
            assert mine.dtype == torch.float32 and torch.equal(mine, other.float())
    teacher = torch.randn(5, 8), torch.randn(17, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.fused_linear_jsd(x, weight, *teacher)
    assert torch.equal(loss, F.fused_linear_jsd(*halves, *(value.bfloat16() for value in teacher)))


ON_META = {
    "rms_norm": lambda x: F.rms_norm(x, torch.ones(33, device=x.device)),
    "swiglu": lambda x: F.swiglu(x[:, :32]),
    "cross_entropy": lambda x: F.cross_entropy(x, TARGET.to(x.device)),
    "fused_linear_cross_entropy": lambda x: F.fused_linear_cross_entropy(x, HEAD.to(x.device), TARGET.to(x.device)),
    "jsd": lambda x: F.jsd(x, torch.ones(5, 33, device=x.device), logits=True),
    "embedding": lambda x: F.embedding(TARGET.clamp(0, 4).to(x.device), x),
}


@pytest.mark.parametrize("name", ON_META)
def test_shapes_without_values(name):
    x, there = (torch.ones(5, 33, device=device, requires_grad=True) for device in ("cpu", "meta"))
    y, mine = ON_META[name](x), ON_META[name](there)
    mine.sum().backward()
    assert mine.is_meta and mine.shape == y.shape and mine.dtype == y.dtype and there.grad.shape == x.shape


def test_values_on_one_side_only():
    there = torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(bitloom.UserError, match="embedding: argument weight: expected a tensor on meta, got one on"):
        F.embedding(there, torch.ones(3, 5))
    with pytest.raises(bitloom.UserError, match="cross_entropy: argument target: expected a tensor on cpu, got one"):
        F.cross_entropy(torch.ones(2, 5), there)
    with pytest.raises(bitloom.UserError, match="fused_linear_cross_entropy: argument weight: expected a tensor on"):
        F.fused_linear_cross_entropy(torch.ones(2, 5), torch.ones(3, 5, device="meta"), torch.zeros(2).long())


VARYING = {
    "layer_norm": lambda x, target: F.layer_norm(x),
    "group_norm": lambda x, target: F.group_norm(x.transpose(1, 2), 3),
    "cross_entropy": lambda x, target: F.cross_entropy(x, target),
    "fused_linear_cross_entropy": lambda x, target: F.fused_linear_cross_entropy(x, HEAD, target),
    "low memory": lambda x, target: F.fused_linear_cross_entropy(x, HEAD, target, low_memory=True),
    "rope": lambda x, target: F.rope(*[x[:, None, :, :32]] * 2, *[x[:1, :, :32].detach()] * 2),
}


@pytest.mark.parametrize("name", VARYING)
def test_sizes_that_vary_are_compiled_once(name):
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(VARYING[name], fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for n in (5, 7, 9, 13):
        x, target = torch.randn(2, n, 33), torch.randint(17, (2, n))
        results = []
        for function in (compiled, VARYING[name]):
            own = x.clone().requires_grad_()
            outputs = function(own, target)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            results.append([*outputs, *torch.autograd.grad(sum(y.sin().sum() for y in outputs), own)])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        counts.append(counter.frame_count)
    assert counts[-1] == counts[0]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant):
    x, weight = torch.randn(5, 33, requires_grad=True), HEAD.clone().requires_grad_()

    def loss(x, weight):
        return F.fused_linear_cross_entropy(F.rms_norm(x), weight, TARGET)

    expected = torch.autograd.grad(loss(x, weight), (x, weight))
    checkpoint(loss, x, weight, use_reentrant=reentrant).backward()
    torch.testing.assert_close((x.grad, weight.grad), expected, rtol=0, atol=0)


MODULES = [
    modules.RMSNorm(17, offset=1.0, casting="llama"),
    modules.FusedAddRMSNorm(17),
    modules.LayerNorm(17),
    modules.GroupNorm(3, 6),
    modules.Softmax(1),
    modules.SwiGLU(17, 33),
    modules.GEGLU(17, 33, bias=True),
    modules.ReLUSquared(),
    modules.Embedding(5, 17, padding_idx=-1),
    modules.CrossEntropyLoss(torch.ones(17), reduction="sum"),
    modules.FusedLinearCrossEntropyLoss(softcap=3.0),
    modules.KLDivLoss(log_target=True),
    modules.JSDLoss(beta=0.25),
    modules.TVDLoss(),
    modules.FusedLinearJSDLoss(),
    modules.FusedLinearDPOLoss(beta=0.2),
    modules.FusedLinearORPOLoss(),
    modules.FusedLinearSimPOLoss(),
    modules.FusedLinearKTOLoss(),
    modules.FusedLinearGRPOLoss(),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_modules_are_copied_and_kept_in_files(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)):
        assert type(other) is type(module) and repr(other) == repr(module)
        for key, value in module.state_dict().items():
            assert torch.equal(other.state_dict()[key], value)


@pytest.mark.parametrize("low_memory", [None, False, True])
def test_predictions_of_nothing_are_classes(low_memory):
    x = torch.full((3, 33), torch.nan)
    target, asked = torch.tensor([0, 5, -100]), {"return_predicted_tokens": True}
    if low_memory is None:
        result = F.cross_entropy(x[:, :17], target, **asked)
    else:
        result = F.fused_linear_cross_entropy(x, HEAD, target, low_memory=low_memory, **asked)
    assert result.loss.isnan() and ((result.predicted_tokens >= 0) & (result.predicted_tokens < 17)).all()


def test_class_weights_follow_their_module():
    """Into another type too, as all buffers of a model do."""
    weight, x = torch.rand(17) + 0.5, torch.randn(5, 17)
    loss = modules.CrossEntropyLoss(weight).bfloat16()
    torch.testing.assert_close(loss(x, TARGET), TF.cross_entropy(x, TARGET, weight.bfloat16().float()))
    fused = F.fused_linear_cross_entropy(torch.randn(5, 33).bfloat16(), HEAD.bfloat16(), TARGET, None, loss.weight)
    assert fused.isfinite()
