"""The operators of bitloom.torch: one row each, and what holds for every one of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import bitloom
import pytest
import torch
from bitloom.torch import functional as F
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Row:
    """reference is the function in torch's operators; inputs are shapes of random tensors, or make one each."""

    name: str
    function: Callable
    reference: Callable
    inputs: tuple = ()
    empty: tuple = field(default=())  # inputs without elements, where the operator takes such


def rms_norm(x, weight=None, eps=1e-6, offset=0.0):
    y = torch.nn.functional.rms_norm(x, x.shape[-1:], None, eps)
    return y if weight is None else y * (weight + offset)


def fused_add_rms_norm(x, residual, weight=None, eps=1e-6, offset=0.0):
    return rms_norm(x + residual, weight, eps, offset), x + residual


def layer_norm(x, weight=None, bias=None):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias)


def glu(activation):
    def reference(gate, up=None, before=1.0, after=1.0):
        gate, up = gate.chunk(2, -1) if up is None else (gate, up)
        return activation(gate * before) * up * after

    return reference


def angles(*shape):
    """Cosines or sines, tables that need no gradient."""

    def make(generator):
        half = torch.rand(*shape[:-1], shape[-1] // 2, generator=generator) * 2 - 1
        return torch.cat([half, half], -1)

    return make


def rope(q, k, cos, sin, interleaved=False):
    def turn(x):
        rotated, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        if interleaved:
            c, s = (table[..., : table.shape[-1] // 2].repeat_interleave(2, -1) for table in (cos, sin))
            other = torch.stack((-rotated[..., 1::2], rotated[..., ::2]), -1).flatten(-2)
        else:
            c, s = cos, sin
            a, b = rotated.chunk(2, -1)
            other = torch.cat((-b, a), -1)
        return torch.cat((rotated * c[:, None] + other * s[:, None], rest), -1).to(x.dtype)

    return turn(q), turn(k)


def wide(x):
    return x if x.dtype == torch.float64 else x.float()


def classes(*shape, count=5, ignored=()):
    """Targets; those at the places `ignored` do not count."""

    def make(generator):
        target = torch.randint(count, shape, generator=generator)
        target.view(-1)[list(ignored)] = -100
        return target

    return make


def class_weights(count):
    return lambda generator: torch.rand(count, generator=generator) + 0.5


def cross_entropy(
    logits, target, weight=None, smoothing=0.0, z=0.0, softcap=None, reduction="mean", token_scaling=False
):
    x = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    flat, target = x.flatten(0, -2), target.flatten()
    counts = target != -100
    weight = None if weight is None else weight.to(x.dtype)
    loss = torch.nn.functional.cross_entropy(flat, target, weight, reduction="none", label_smoothing=smoothing)
    loss = loss + counts * z * torch.logsumexp(flat, -1).square()
    if token_scaling:
        loss = loss * torch.softmax(flat, -1).gather(-1, target.clamp(min=0)[:, None])[:, 0].detach()
    if reduction == "none":
        return wide(loss.view(logits.shape[:-1]))
    number = (counts.sum() if weight is None else weight[target[counts]].sum()).clamp(min=1e-9)
    return wide(loss.sum() / (number if reduction == "mean" else 1))


def losses():
    """cross_entropy over its options."""
    target = classes(2, 7, count=33, ignored=(3, 9))
    for name, options in {
        "mean": {},
        "sum": {"reduction": "sum"},
        "none": {"reduction": "none"},
        "smoothed": {"smoothing": 0.1},
        "z-loss": {"z": 0.01, "reduction": "none"},
        "capped": {"softcap": 2.0, "z": 0.01},
    }.items():
        for weighted in (False, True):
            inputs = ((2, 7, 33), target, *([class_weights(33)] if weighted else []))
            keywords = renamed(options)
            yield Row(
                f"cross_entropy {name}{' weighted' if weighted else ''}",
                lambda *tensors, keywords=keywords: F.cross_entropy(*tensors, **keywords),
                lambda *tensors, options=options: cross_entropy(*tensors, **options),
                inputs,
                ((0, 33), classes(0)),
            )


def linear_losses():
    """fused_linear_cross_entropy over its options, in three chunks and in one."""
    target = classes(2, 7, count=33, ignored=(3, 9))
    for name, options, chunk in [
        ("in chunks", {}, 5),
        ("in one chunk", {}, 4096),
        ("sum", {"reduction": "sum", "softcap": 2.0}, 7),
        ("none", {"reduction": "none", "smoothing": 0.1}, 5),
        ("all", {"smoothing": 0.1, "z": 0.01, "softcap": 2.0}, 14),
        ("token scaling", {"token_scaling": True}, 5),
        ("token scaling none", {"token_scaling": True, "reduction": "none", "softcap": 2.0}, 14),
        ("by classes", {"smoothing": 0.1, "z": 0.01, "softcap": 2.0, "low_memory": True}, 5),
        ("by all classes", {"low_memory": True}, None),
        ("by classes none", {"reduction": "none", "low_memory": True, "token_scaling": True}, 16),
    ]:
        parameters = [(2, 7, 24), (33, 24), target, (33,)]
        weights = [class_weights(33)] if chunk == 5 else []
        keywords = renamed(options) | {"chunk_size": chunk}

        options.pop("low_memory", None)

        def reference(x, weight, target, bias, class_weight=None, options=options):
            return cross_entropy(torch.nn.functional.linear(x, weight, bias), target, class_weight, **options)

        yield Row(
            f"fused_linear_cross_entropy {name}",
            lambda *tensors, keywords=keywords: F.fused_linear_cross_entropy(*tensors, **keywords),
            reference,
            (*parameters, *weights),
            ((0, 24), (33, 24), classes(0), (33,)),
        )
    yield Row(
        "fused_linear_cross_entropy of a frozen head",
        lambda x, target: F.fused_linear_cross_entropy(x, torch.eye(33, 24).to(x), target),
        lambda x, target: cross_entropy(x @ torch.eye(24, 33).to(x), target),
        ((2, 7, 24), target),
    )


def distributions(*shape, log=True):
    def make(generator):
        logs = torch.log_softmax(torch.randn(shape, generator=generator), -1)
        return (logs if log else logs.exp()).bfloat16().float()  # the same in every type

    return make


def divergence(kind, logs=lambda x: x, target_logs=None, beta=0.5, reduction="batchmean"):
    """The divergence by way of torch's kl_div; logs give log-probabilities."""

    def reference(x, target, labels=None):
        q, p = logs(x), (target_logs or logs)(target.to(x.dtype))
        kl = functools.partial(torch.nn.functional.kl_div, reduction="none", log_target=True)
        if kind == "tvd":
            values = 0.5 * (p.exp() - q.exp()).abs()
        elif kind == "kl_div" or beta == 0:
            values = kl(q, p)
        elif beta == 1:
            values = kl(p, q)
        else:
            m = torch.log(beta * p.exp() + (1 - beta) * q.exp())
            values = beta * kl(m, p) + (1 - beta) * kl(m, q)
        losses = wide(values).sum(-1)
        number = losses.numel()
        if labels is not None:
            losses, number = losses.where(labels != -100, 0), (labels != -100).sum()
        number = number * x.shape[-1] if reduction == "mean" else number
        return losses if reduction == "none" else losses.sum() / (1 if reduction == "sum" else max(1, number))

    return reference


def divergences():
    shape, half = (2, 7, 33), functools.partial(torch.log_softmax, dim=-1)
    labels = classes(2, 7, count=33, ignored=(3, 9))

    def softened(x):
        return torch.log_softmax(x / 2.5, -1)

    for name, options, reference, inputs in [
        ("kl_div", {}, divergence("kl_div", target_logs=torch.log), (shape, distributions(*shape, log=False))),
        (
            "kl_div log_target",
            {"log_target": True, "reduction": "mean"},
            divergence("kl_div", reduction="mean"),
            (shape, distributions(*shape)),
        ),
        (
            "kl_div logits",
            {"logits": True, "temperature": 2.5, "reduction": "none"},
            divergence("kl_div", softened, reduction="none"),
            (shape, distributions(*shape)),
        ),
        ("jsd", {"beta": 0.3}, divergence("jsd", beta=0.3), (shape, distributions(*shape), labels)),
        (
            "jsd forward",
            {"beta": 0.0, "reduction": "sum"},
            divergence("jsd", beta=0.0, reduction="sum"),
            (shape, distributions(*shape), labels),
        ),
        (
            "jsd reverse logits",
            {"beta": 1.0, "logits": True},
            divergence("jsd", half, beta=1.0),
            (shape, distributions(*shape)),
        ),
        (
            "jsd logits",
            {"logits": True, "temperature": 2.5, "reduction": "none"},
            divergence("jsd", softened, reduction="none"),
            (shape, distributions(*shape), labels),
        ),
        ("tvd", {"space": "logits"}, divergence("tvd", half), (shape, distributions(*shape), labels)),
        (
            "tvd log_probs",
            {"space": "log_probs", "reduction": "none"},
            divergence("tvd", reduction="none"),
            (shape, distributions(*shape)),
        ),
    ]:
        kind = name.split()[0]
        yield Row(
            name,
            lambda x, target, *labels, kind=kind, options=options: getattr(F, kind)(
                x, target.to(x.dtype), **({"labels": labels[0]} if labels else {}), **options
            ),
            reference,
            inputs,
            ((0, 5), distributions(0, 5)),
        )


def linear_divergences():
    """fused_linear_jsd, whose teacher has another hidden size."""
    teacher = distributions(2, 7, 17), distributions(33, 17)
    labels, biases = classes(2, 7, count=33, ignored=(3, 9)), [(33,), distributions(33)]
    for name, options, inputs in [
        ("in chunks", {"chunk_size": 5, "beta": 0.3}, [labels]),
        ("in one chunk", {"temperature": 2.5, "reduction": "mean"}, [labels, *biases]),
        ("none", {"chunk_size": 9, "reduction": "none"}, [labels, *biases]),
        ("sum", {"chunk_size": 9, "reduction": "sum", "beta": 0.0, "temperature": 2.0}, []),
    ]:

        def function(x, weight, teacher, head, labels=None, bias=None, other=None, options=options):
            teacher, head = teacher.to(x.dtype), head.to(x.dtype)
            other = None if other is None else other.to(x.dtype)
            return F.fused_linear_jsd(x, weight, teacher, head, labels, bias=bias, teacher_bias=other, **options)

        def reference(x, weight, teacher, head, labels=None, bias=None, other=None, options=options):
            options = {"temperature": 1.0, "beta": 0.5, "reduction": "batchmean"} | options
            kind = torch.float64 if x.dtype == torch.float64 else torch.float32
            linear = torch.nn.functional.linear
            student = linear(x, weight, bias)
            target = linear(teacher.to(x.dtype), head.to(x.dtype), None if other is None else other.to(x.dtype))

            def logs(x):
                return torch.log_softmax(x.to(kind) / options["temperature"], -1)

            losses = divergence("jsd", logs, beta=options["beta"], reduction=options["reduction"])
            return losses(student, target.to(kind) if kind == torch.float64 else target, labels)

        yield Row(
            f"fused_linear_jsd {name}",
            function,
            reference,
            ((2, 7, 24), (33, 24), *teacher, *inputs),
            ((0, 24), (33, 24), distributions(0, 17), distributions(33, 17)),
        )


def renamed(options):
    ours = {"smoothing": "label_smoothing", "z": "lse_square_scale"}
    return {ours.get(key, key): value for key, value in options.items()}


silu, gelu = torch.nn.functional.silu, lambda x: torch.nn.functional.gelu(x, approximate="tanh")

ROWS = [
    Row("rms_norm", F.rms_norm, rms_norm, ((2, 3, 199), (199,)), ((0, 17), (17,))),
    Row("rms_norm of a row", F.rms_norm, rms_norm, ((17,), (17,)), ((0,), (0,))),
    Row("rms_norm without weight", F.rms_norm, rms_norm, ((17, 33),)),
    Row(
        "rms_norm of gemma",
        lambda x, w: F.rms_norm(x, w, 1e-5, 1.0),
        lambda x, w: rms_norm(x, w, 1e-5, 1.0),
        ((1, 4097), (4097,)),
    ),
    Row(
        "fused_add_rms_norm",
        lambda x, r, w: F.fused_add_rms_norm(x, r, w, 1e-6, 0.5),
        lambda x, r, w: fused_add_rms_norm(x, r, w, 1e-6, 0.5),
        ((2, 3, 65), (2, 3, 65), (65,)),
        ((0, 4, 3), (0, 4, 3), (3,)),
    ),
    Row("fused_add_rms_norm without weight", F.fused_add_rms_norm, fused_add_rms_norm, ((3, 65), (3, 65))),
    Row("layer_norm", F.layer_norm, layer_norm, ((2, 3, 199), (199,), (199,)), ((0, 17), (17,), (17,))),
    Row("layer_norm without bias", F.layer_norm, layer_norm, ((17, 33), (33,))),
    Row("layer_norm without parameters", F.layer_norm, layer_norm, ((17, 33),)),
    Row(
        "layer_norm with bias",
        lambda x, b: F.layer_norm(x, None, b),
        lambda x, b: layer_norm(x) + b,
        ((3, 5), (5,)),
    ),
    Row("softmax", F.softmax, lambda x: torch.softmax(x, -1), ((2, 3, 199),), ((2, 0, 5),)),
    Row("softmax of columns", lambda x: F.softmax(x, 1), lambda x: torch.softmax(x, 1), ((2, 17, 3),)),
    Row("swiglu", F.swiglu, glu(silu), ((2, 3, 199), (2, 3, 199)), ((0, 3), (0, 3))),
    Row("swiglu packed", F.swiglu, glu(silu), ((2, 3, 66),), ((4, 0),)),
    Row("swiglu scaled", lambda g, u: F.swiglu(g, u, 0.5, 3.0), lambda g, u: glu(silu)(g, u, 0.5, 3.0), ((17,), (17,))),
    Row("geglu", F.geglu, glu(gelu), ((3, 4097), (3, 4097))),
    Row(
        "geglu exact",
        lambda gate, up: F.geglu(gate, up, 0.5, 3.0, approximate="none"),
        lambda gate, up: glu(torch.nn.functional.gelu)(gate, up, 0.5, 3.0),
        ((3, 199), (3, 199)),
    ),
    Row("rope", F.rope, rope, ((2, 4, 5, 16), (2, 2, 5, 16), angles(2, 5, 16), angles(2, 5, 16))),
    Row("rope of one table", F.rope, rope, ((2, 3, 7, 34), (2, 1, 7, 34), angles(1, 7, 16), angles(1, 7, 16))),
    Row(
        "rope interleaved",
        lambda *tensors: F.rope(*tensors, True),
        lambda *tensors: rope(*tensors, True),
        ((1, 2, 3, 48), (1, 2, 3, 48), angles(1, 3, 24), angles(1, 3, 24)),
        ((1, 2, 0, 16), (1, 1, 0, 16), angles(1, 0, 16), angles(1, 0, 16)),
    ),
    Row("relu_squared", F.relu_squared, lambda x: torch.relu(x).square(), ((2, 3, 199),), ((0, 3),)),
    Row(
        "embedding",
        lambda weight, ids: F.embedding(ids, weight, 3),
        lambda weight, ids: torch.nn.functional.embedding(ids, weight, 3),
        ((33, 17), classes(2, 199, count=33)),
        ((33, 17), classes(0)),
    ),
    Row(
        "group_norm",
        lambda x, weight, bias: F.group_norm(x, 3, weight, bias),
        lambda x, weight, bias: torch.nn.functional.group_norm(x, 3, weight, bias),
        ((2, 6, 5, 7), (6,), (6,)),
        ((0, 6, 5), (6,), (6,)),
    ),
    Row(
        "group_norm without parameters",
        lambda x: F.group_norm(x, 2),
        lambda x: torch.nn.functional.group_norm(x, 2),
        ((3, 4, 199),),
    ),
    *losses(),
    *linear_losses(),
    *divergences(),
    *linear_divergences(),
    Row("geglu packed", F.geglu, glu(gelu), ((17, 6),), ((0, 6),)),
]


def tensors(shapes, dtype=torch.float32, seed=0):
    """Random tensors that require gradients, or what a callable of a generator gives."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape in shapes:
        if callable(shape):
            made.append(shape(generator))
        else:
            made.append(torch.randn(shape, generator=generator).to(dtype).requires_grad_())
    return made


def flat(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def derivatives(function, inputs, orders=1):
    """Values and gradients: by every input, for random gradients of every output; of second order, those of the sum of
    the gradients' sines."""
    outputs = flat(function(*inputs))
    generator = torch.Generator().manual_seed(1)
    outer = [torch.randn(y.shape, generator=generator).bfloat16() for y in outputs]  # the same in every type
    outer = [grad.to(y).requires_grad_(orders > 1) for grad, y in zip(outer, outputs)]
    by = [x for x in inputs if x.requires_grad]
    first = torch.autograd.grad(outputs, by, outer, create_graph=orders > 1)
    results = [y.detach() for y in outputs] + list(first)
    if orders > 1:
        total = sum(g.sin().sum() for g in first)
        results += [
            torch.zeros_like(x) if g is None else g
            for x, g in zip(by + outer, torch.autograd.grad(total, by + outer, allow_unused=True))
        ]
    return results


rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))


@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def test_as_exact_as_torch(row, dtype):
    """No error against f64 is larger than twice that of torch in the same type."""
    inputs = tensors(row.inputs, dtype)
    wide = [x.detach().double().requires_grad_() if x.requires_grad else x for x in inputs]
    exact = derivatives(row.reference, wide)
    theirs = derivatives(row.reference, inputs)
    ours = derivatives(row.function, inputs)
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        assert mine.shape == truth.shape and mine.dtype == other.dtype
        allowed = 2 * (other.double() - truth).abs().max() + 1e-4 * max(1, truth.abs().max())
        assert (mine.double() - truth).abs().max() <= allowed


@rows
def test_second_derivatives(row):
    inputs = tensors(row.inputs)
    wide = [x.detach().double().requires_grad_() if x.requires_grad else x for x in inputs]
    for mine, truth in zip(derivatives(row.function, inputs, 2), derivatives(row.reference, wide, 2), strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-4, atol=1e-4 * max(1, truth.abs().max().item()))


def spread(x):
    """A tensor of the same values whose elements are three apart and whose first dimensions are turned round."""
    if not x.requires_grad:
        return x
    with torch.no_grad():
        turned = x.transpose(0, -1).repeat_interleave(3, -1)[..., ::3].transpose(0, -1)
    return turned.requires_grad_()


@rows
def test_strided_inputs(row):
    inputs = tensors(row.inputs)
    apart = [spread(x) for x in inputs]
    for mine, other in zip(derivatives(row.function, apart), derivatives(row.function, inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", [row for row in ROWS if row.empty], ids=lambda row: row.name.replace(" ", "_"))
def test_empty_inputs(row):
    inputs = tensors(row.empty)
    for mine, other in zip(derivatives(row.function, inputs), derivatives(row.reference, inputs), strict=True):
        assert mine.shape == other.shape and torch.equal(mine, torch.zeros_like(mine)), mine


class Calls(TorchDispatchMode):
    """The calls of bitloom's operators within it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "bitloom":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


seen = set()


@rows
def test_operators_keep_torchs_rules(row):
    """opcheck of every operator that forward and backward call; and that these are operators, with a mode active."""
    with Calls() as mode:
        derivatives(row.function, tensors(row.inputs))
    assert mode.calls
    for function, args in mode.calls:
        # The same operator with the same arguments left out needs no second look.
        kind = function, tuple(type(a) for a in args)
        if kind in seen:
            continue
        seen.add(kind)
        fresh = [a.detach().requires_grad_(a.is_floating_point()) if isinstance(a, torch.Tensor) else a for a in args]
        opcheck(function, tuple(fresh))


@rows
def test_compiled_in_one_graph(row):
    torch.compiler.reset()
    compiled = torch.compile(row.function, fullgraph=True, backend="aot_eager", dynamic=False)
    inputs = tensors(row.inputs)
    for mine, other in zip(derivatives(compiled, inputs), derivatives(row.function, inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@rows
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_without_synchronising(row):
    inputs = tensors(row.inputs)
    there = [x.detach().cuda().requires_grad_(x.requires_grad) for x in inputs]
    expected = derivatives(row.function, inputs)
    derivatives(row.function, there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs = flat(row.function(*there))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, other in zip(outputs, expected):
        torch.testing.assert_close(mine.cpu(), other, rtol=1e-4, atol=1e-4)


def test_rope_of_positions_and_sections():
    q, k, cos, sin = tensors(((2, 3, 5, 16), (2, 1, 5, 16), angles(9, 16), angles(9, 16)))
    positions = torch.tensor([[3, 0, 8, 1, 2], [5, 5, 5, 4, 0]])
    for mine, other in zip(F.rope(q, k, cos, sin, positions=positions), rope(q, k, cos[positions], sin[positions])):
        torch.testing.assert_close(mine, other)
    for mine, other in zip(
        F.rope(q, k, cos, sin, positions=positions[:1]), rope(q, k, cos[positions[:1]], sin[positions[:1]])
    ):
        torch.testing.assert_close(mine, other)

    _, _, cos, sin = tensors((q.shape, k.shape, angles(3, 2, 5, 16), angles(3, 2, 5, 16)))
    owner = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2] * 2)  # the section whose angle a column takes
    mixed = [table.movedim(0, -1).gather(-1, owner.expand(2, 5, -1)[..., None])[..., 0] for table in (cos, sin)]
    for mine, other in zip(F.rope(q, k, cos, sin, mrope_sections=(2, 3, 3)), rope(q, k, *mixed)):
        torch.testing.assert_close(mine, other)


ERRORS = {
    "target of a divergence": (
        lambda: F.kl_div(torch.ones(3, 5), torch.ones(3, 4)),
        "kl_div: argument target: expected shape (3, 5), got (3, 4)",
    ),
    "target with a gradient": (
        lambda: F.tvd(torch.ones(3, 5), torch.ones(3, 5, requires_grad=True)),
        "tvd: argument target: expected a tensor that requires no gradient, got one that does",
    ),
    "beta": (lambda: F.jsd(torch.ones(3, 5), torch.ones(3, 5), 1.5), "jsd: argument beta: expected 0 to 1, got 1.5"),
    "temperature": (
        lambda: F.jsd(torch.ones(3, 5), torch.ones(3, 5), temperature=0),
        "jsd: argument temperature: expected more than 0, got 0",
    ),
    "target": (
        lambda: F.cross_entropy(torch.ones(3, 5), torch.tensor([0, 5, 1])),
        "cross_entropy: argument target: expected classes of the logits or ignore_index, got another in row 1",
    ),
    "targets": (
        lambda: F.cross_entropy(torch.ones(3, 5), torch.tensor([0, 1])),
        "cross_entropy: argument target: expected shape (3,), got (2,)",
    ),
    "target of a later chunk": (
        lambda: F.fused_linear_cross_entropy(torch.ones(7, 3), torch.ones(5, 3), torch.arange(7), chunk_size=2),
        "fused_linear_cross_entropy: argument target: expected classes of the logits or ignore_index, got another in "
        "row 6",
    ),
    "ids": (
        lambda: F.embedding(torch.tensor([[0, 1], [5, 2]]), torch.ones(5, 3)),
        "embedding: argument ids: expected rows of the weight, got another in row 2",
    ),
    "groups": (lambda: F.group_norm(torch.ones(2, 6, 3), 4), "group_norm: argument num_groups: expected a divisor"),
    "target of no class": (
        lambda: F.fused_linear_cross_entropy(
            torch.ones(7, 3), torch.ones(5, 3), torch.tensor([0, 1, 2, -1, 4, 0, 0]), chunk_size=2, low_memory=True
        ),
        "fused_linear_cross_entropy: argument target: expected classes of the logits or ignore_index, got another in "
        "row 3",
    ),
    "weight with a gradient": (
        lambda: F.cross_entropy(torch.ones(3, 5), torch.tensor([0, 1, 1]), torch.ones(5, requires_grad=True)),
        "cross_entropy: argument weight: expected a tensor that requires no gradient, got one that does",
    ),
    "hidden": (
        lambda: F.fused_linear_cross_entropy(torch.ones(3, 5), torch.ones(7, 4), torch.tensor([0, 1, 1])),
        "fused_linear_cross_entropy: argument weight: expected shape (7, 5), got (7, 4)",
    ),
    "reduction": (
        lambda: F.cross_entropy(torch.ones(3, 5), torch.tensor([0, 1, 1]), reduction="average"),
        "cross_entropy: argument reduction: expected mean, sum, none, got 'average'",
    ),
    "smoothing": (
        lambda: F.cross_entropy(torch.ones(3, 5), torch.tensor([0, 1, 1]), label_smoothing=2),
        "cross_entropy: argument label_smoothing: expected 0 to 1, got 2",
    ),
    "softcap": (
        lambda: F.cross_entropy(torch.ones(3, 5), torch.tensor([0, 1, 1]), softcap=-1),
        "cross_entropy: argument softcap: expected 0 or more, got -1",
    ),
    "sections": (
        lambda: F.rope(*torch.ones(4, 1, 1, 1, 16), mrope_sections=(2, 3)),
        "rope: argument mrope_sections: expected three numbers that add up to 8 (rotated / 2), got [2, 3]",
    ),
    "weight of another width": (
        lambda: F.rms_norm(torch.ones(2, 3, 17), torch.ones(16)),
        "rms_norm: argument weight: expected extent 17 in dimension 0",
    ),
    "integers": (lambda: F.rms_norm(torch.ones(3, 17, dtype=torch.int32)), "rms_norm: argument x: expected"),
    "casting": (lambda: F.rms_norm(torch.ones(3, 17), casting="lama"), "argument casting: expected gemma, llama, none"),
    "targets of other rows": (  # as many of them
        lambda: F.cross_entropy(torch.ones(3, 2, 5), torch.zeros(2, 3, dtype=torch.int64)),
        "cross_entropy: argument target: expected shape (3, 2), got (2, 3)",
    ),
    "targets of another type": (
        lambda: F.fused_linear_cross_entropy(torch.ones(3, 5), torch.ones(7, 5), torch.zeros(3, dtype=torch.int32)),
        "fused_linear_cross_entropy: argument target: expected dtype i64, got torch.int32",
    ),
    "hidden states of f64": (
        lambda: F.fused_linear_cross_entropy(torch.ones(3, 5).double(), torch.ones(7, 5), torch.tensor([0, 1, 1])),
        "fused_linear_cross_entropy: argument input: expected dtype f32, f16, bf16, got torch.float64",
    ),
    "no classes": (
        lambda: F.cross_entropy(torch.ones(3, 0), torch.tensor([-100, -100, -100])),
        "cross_entropy: argument logits: expected 1 class or more, got 0",
    ),
    "no dimensions": (lambda: F.swiglu(torch.ones(())), "swiglu: argument gate: expected 1 dimension or more, got 0"),
    "a number's divergence": (
        lambda: F.tvd(torch.ones(()), torch.ones(())),
        "tvd: argument input: expected 1 dimension or more, got 0",
    ),
    "up of other rows": (
        lambda: F.geglu(torch.ones(3, 2, 5), torch.ones(2, 3, 5)),
        "geglu: argument up: expected shape (3, 2, 5), got (2, 3, 5)",
    ),
    "residual of other rows": (
        lambda: F.fused_add_rms_norm(torch.ones(3, 2, 5), torch.ones(2, 3, 5)),
        "fused_add_rms_norm: argument residual: expected shape (3, 2, 5), got (2, 3, 5)",
    ),
    "dim": (lambda: F.softmax(torch.ones(3, 5), 2), "softmax: argument dim: expected -2 to 1, got 2"),
    "padding": (
        lambda: F.embedding(torch.tensor([0]), torch.ones(3, 5), 3),
        "embedding: argument padding_idx: expected -3 to 2 (rows of the weight), got 3",
    ),
    "positions": (
        lambda: F.rope(*torch.ones(2, 2, 1, 3, 8), *torch.ones(2, 4, 8), positions=torch.tensor([[0, 4, 1]])),
        "rope: argument positions: expected 0 to 3 (rows of the tables), got 4",
    ),
    "tables of other rows": (
        lambda: F.rope(*torch.ones(2, 2, 1, 3, 8), *torch.ones(2, 5, 3, 8)),
        "rope: argument cos: expected (2 or 1, 3, width), got shape (5, 3, 8)",
    ),
    "tables that differ": (
        lambda: F.rope(*torch.ones(2, 2, 1, 3, 8), torch.ones(1, 3, 8), torch.ones(2, 3, 8)),
        "rope: argument sin: expected shape (1, 3, 8), got (2, 3, 8)",
    ),
    "angles with a gradient": (
        lambda: F.rope(*torch.ones(2, 2, 1, 3, 8), *torch.ones(2, 1, 3, 8, requires_grad=True)),
        "rope: argument cos: expected a tensor that requires no gradient, got one that does",
    ),
    "sections below 0": (
        lambda: F.rope(*torch.ones(2, 2, 1, 3, 8), *torch.ones(2, 3, 2, 3, 8), mrope_sections=(6, -1, -1)),
        "rope: argument mrope_sections: expected three numbers that add up to 4 (rotated / 2), got [6, -1, -1]",
    ),
    "residual": (
        lambda: F.fused_add_rms_norm(torch.ones(3, 17), torch.ones(3, 16)),
        "fused_add_rms_norm: argument residual: expected shape (3, 17), got (3, 16)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_mistakes_are_named(name):
    call, message = ERRORS[name]
    with pytest.raises(bitloom.UserError) as caught:
        call()
    assert message in str(caught.value)
