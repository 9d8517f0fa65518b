"""The edges of bitloom.torch's operators: forms, sizes and mistakes that test_torch_ops has no rows for."""

import mmap

import bitloom
import pytest
import torch
from bitloom.torch import functional as F
from test_torch_ops import angles, class_weights, classes, cross_entropy, derivatives, rope, tensors

# ---- rows in memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
@pytest.mark.parametrize("form", ["contiguous", "transposed", "every other", "one row for all"])
def test_rows_of_any_rank_and_strides(rank, form):
    """The first dimensions are rows, wherever they lie in memory; so are those of the gradient that comes."""
    if rank == 1 and form != "contiguous":
        pytest.skip("has no first dimensions")
    shape = (*(2, 1, 3, 2)[: rank - 1], 17)

    def formed(x):
        if form == "transposed":
            return x.reshape(*reversed(shape[:-1]), 17).permute(*reversed(range(rank - 1)), rank - 1)
        if form == "every other":
            return torch.stack((x, x), -1).flatten(-2)[..., ::2]
        return x[(slice(1),) * (rank - 1)].expand(shape) if form == "one row for all" else x

    weight, bias = torch.randn(17), torch.randn(17)
    pairs = {
        "layer_norm": (F.layer_norm, lambda x, w, b: torch.nn.functional.layer_norm(x, (17,), w, b)),
        "rms_norm": (lambda x, w, b: F.rms_norm(x, w), lambda x, w, b: torch.nn.functional.rms_norm(x, (17,), w, 1e-6)),
        "softmax": (lambda x, w, b: F.softmax(x), lambda x, w, b: torch.softmax(x, -1)),
        "relu_squared": (lambda x, w, b: F.relu_squared(x), lambda x, w, b: torch.relu(x).square()),
        "swiglu": (lambda x, w, b: F.swiglu(x, x), lambda x, w, b: torch.nn.functional.silu(x) * x),
    }
    for name, functions in pairs.items():
        x, dy = torch.randn(shape), torch.randn(shape)
        found = []
        for function in functions:
            leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
            y = function(formed(leaves[0]), *leaves[1:])
            y.backward(formed(dy))
            found.append([y, *(leaf.grad for leaf in leaves if leaf.grad is not None)])
        for mine, other in zip(*found, strict=True):
            assert mine.shape == other.shape, name
            assert torch.allclose(mine, other, atol=1e-5), name


def test_a_weight_of_two_dimensions_is_no_row():
    with pytest.raises(bitloom.UserError, match="rms_norm: argument weight: expected .* dimension"):
        F.rms_norm(torch.randn(3, 16), torch.randn(1, 16))


def test_after_a_mistake_good_targets_count():
    logits = torch.randn(3, 17)
    for _ in range(2):
        with pytest.raises(bitloom.UserError, match="got another in row 2"):
            F.cross_entropy(logits, torch.tensor([0, 1, 17]))
        good = torch.tensor([0, 1, 16])
        assert torch.allclose(F.cross_entropy(logits, good), torch.nn.functional.cross_entropy(logits, good))


# ---- norms -------------------------------------------------------------------------------------------------------


def casting_reference(x, weight, eps, offset, casting):
    """As Llama, Gemma and plain torch write it: where results are rounded to x's type."""
    if casting == "none":
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (weight + offset)
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    if casting == "llama":
        return (weight + offset) * wide.to(x.dtype)
    return (wide * (weight.float() + offset)).to(x.dtype)


@pytest.mark.parametrize("casting", ["gemma", "llama", "none"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rms_norm_of_each_casting(casting, offset, dtype):
    x, weight = tensors(((3, 199), (199,)), dtype)
    mine, other = (f(x, weight, 1e-5, offset, casting).detach() for f in (F.rms_norm, casting_reference))
    exact = casting_reference(x.double(), weight.double(), 1e-5, offset, "none").detach()
    assert mine.dtype == dtype
    assert (mine - exact).abs().max() <= 2 * (other - exact).abs().max() + 1e-4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [17, 4097, 40000])
def test_a_norms_backward_in_place(weighted, width):
    """Over the gradient that comes; one that is not contiguous stays as it is."""
    x, r, weight = tensors(((2, 3, width), (2, 3, width), (width,)))
    weight = weight if weighted else None
    leaves = [x, weight] if weighted else [x]
    for outer in (
        torch.randn(2, 3, width),
        torch.randn(2, width, 3).transpose(1, 2),
        torch.ones(()).expand(2, 3, width),
    ):
        expected = torch.autograd.grad(F.rms_norm(x, weight), leaves, outer)
        kept, given = outer.clone(), outer.clone() if outer.is_contiguous() else outer
        found = torch.autograd.grad(F.rms_norm(x, weight, in_place=True), leaves, given)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert (found[0].data_ptr() == given.data_ptr()) == outer.is_contiguous()
        assert outer.is_contiguous() or torch.equal(outer, kept)
    results = []
    for in_place in (False, True):
        outer = torch.ones(2, 3, width), torch.full((2, 3, width), 2.0)
        outputs = F.fused_add_rms_norm(x, r, weight, in_place=in_place)
        results.append(torch.autograd.grad(outputs, leaves, outer))
        assert (results[-1][0].data_ptr() == outer[0].data_ptr()) == in_place
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("space", [(), (1,), (17,), (1, 1), (3, 1, 5), (2, 3, 2, 5)])
@pytest.mark.parametrize(("batch", "channels", "groups"), [(1, 1, 1), (3, 6, 2), (2, 33, 33)])
def test_group_norm_of_any_space(space, batch, channels, groups):
    inputs = tensors(((batch, channels, *space), (channels,), (channels,)))
    wide = [x.detach().double().requires_grad_() for x in inputs]
    ours = derivatives(lambda x, weight, bias: F.group_norm(x, groups, weight, bias), inputs)

    def reference(x, weight, bias):  # torch's own refuses groups of one element
        wide = x.reshape(batch, groups, -1)
        wide = (wide - wide.mean(-1, keepdim=True)) * torch.rsqrt(wide.var(-1, correction=0, keepdim=True) + 1e-5)
        shape = (-1, *[1] * len(space))
        return wide.view(x.shape) * weight.view(shape) + bias.view(shape)

    for mine, truth in zip(ours, derivatives(reference, wide), strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-4, atol=1e-3)


# ---- rope --------------------------------------------------------------------------------------------------------


def mixed(table, sections):
    """The columns of three tables that the sections choose, for both halves of a head."""
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(sections)).repeat(2)
    return table.movedim(0, -1).gather(-1, owner.expand(*table.shape[1:])[..., None])[..., 0]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [16, 12])  # of 16, the rest of the head stays
@pytest.mark.parametrize("form", ["tables", "positions", "sections", "positions of sections"])
def test_ropes_forms(form, width, interleaved):
    """Queries of 4 heads, keys of 2, and their gradients."""
    sections = (2, width // 2 - 3, 1)
    q, k = tensors(((2, 4, 5, 16), (2, 2, 5, 16)))
    generator = torch.Generator().manual_seed(1)
    positions, options = None, {}
    if form == "tables":
        cos, sin = tensors((angles(2, 5, width), angles(2, 5, width)))
        picked = cos, sin
    elif form == "positions":
        cos, sin = tensors((angles(9, width), angles(9, width)))
        positions = torch.randint(9, (2, 5), generator=generator)
        picked = cos[positions], sin[positions]
    elif form == "sections":
        cos, sin = tensors((angles(3, 2, 5, width), angles(3, 2, 5, width)))
        picked = mixed(cos, sections), mixed(sin, sections)
        options["mrope_sections"] = sections
    else:
        cos, sin = tensors((angles(3, 9, width), angles(3, 9, width)))
        positions = torch.randint(9, (3, 2, 5), generator=generator)
        picked = (mixed(torch.stack([t[i, positions[i]] for i in range(3)]), sections) for t in (cos, sin))
        options["mrope_sections"] = sections
    picked = tuple(picked)
    ours = derivatives(lambda q, k: F.rope(q, k, cos, sin, interleaved, positions=positions, **options), (q, k))
    wide = [x.detach().double().requires_grad_() for x in (q, k)]
    theirs = derivatives(lambda q, k: rope(q, k, *(t.double() for t in picked), interleaved), wide)
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-5)


# ---- fused_linear_cross_entropy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("wanted", [(), (0,), (1,), (2,), (0, 2)])
def test_only_the_gradients_that_are_required_are_computed(low_memory, wanted, monkeypatch):
    """One product for the logits of a chunk, and one for each gradient; none of these without gradients."""
    parameters, target = tensors(((6, 8), (10, 8), (10,))), torch.tensor([0, 1, -100, 9, 4, 4])
    for i, x in enumerate(parameters):
        x.requires_grad_(i in wanted)
    products = []
    for name in ("matmul",) if low_memory else ("matmul", "linear_lse"):  # low memory's normalisers are a pass more
        kernel = getattr(bitloom, name)
        monkeypatch.setattr(bitloom, name, lambda *a, kernel=kernel, **k: products.append(a) or kernel(*a, **k))

    def loss():
        return F.fused_linear_cross_entropy(parameters[0], parameters[1], target, parameters[2], low_memory=low_memory)

    loss()
    assert len(products) == 1 + len(wanted)
    products.clear()
    with torch.no_grad():
        value = loss()
    assert len(products) == 1 and not value.requires_grad
    x, weight, bias = (p.detach() for p in parameters)
    torch.testing.assert_close(value, cross_entropy(torch.nn.functional.linear(x, weight, bias), target))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_cross_entropy_of_all_options(reduction):
    """Class weights, label smoothing, z-loss and softcap at once, where logits are and where they are not."""
    options = {"reduction": reduction, "softcap": 2.0}
    renamed = {"label_smoothing": 0.1, "lse_square_scale": 0.01} | options
    x, head, target, weight = tensors(((17, 24), (33, 24), classes(17, count=33, ignored=(3, 9)), class_weights(33)))
    wide = [t.detach().double().requires_grad_() for t in (x, head)]
    truth = derivatives(lambda x, h: cross_entropy(x @ h.T, target, weight, 0.1, 0.01, **options), wide)
    forms = [
        lambda x, h: F.cross_entropy(x @ h.T, target, weight, **renamed),
        lambda x, h: F.fused_linear_cross_entropy(x, h, target, None, weight, chunk_size=5, **renamed),
        lambda x, h: F.fused_linear_cross_entropy(x, h, target, None, weight, chunk_size=5, low_memory=True, **renamed),
    ]
    for form in forms:
        for mine, true in zip(derivatives(form, (x, head)), truth, strict=True):
            torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-4)


# ---- sizes -------------------------------------------------------------------------------------------------------


def far_apart(x):
    """The values in rows that lie more than 2^31 elements apart, in memory of which only touched pages are there."""
    stride, flags = 2**31 + 64, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, (stride * (x.shape[0] - 1) + x.shape[1]) * x.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=x.dtype).as_strided(x.shape, (stride, 1)).copy_(x)


FAR = {
    "rms_norm": (F.rms_norm, ((3, 199), (199,))),
    "fused_add_rms_norm": (F.fused_add_rms_norm, ((3, 199), (3, 199), (199,))),
    "layer_norm": (F.layer_norm, ((3, 199), (199,), (199,))),
    "softmax": (F.softmax, ((3, 199),)),
    "swiglu": (F.swiglu, ((3, 199), (3, 199))),
    "geglu packed": (F.geglu, ((3, 198),)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([5, 198, 0])), ((3, 199),)),
    "fused_linear_cross_entropy": (
        lambda x, head: F.fused_linear_cross_entropy(x, head, torch.tensor([4, 1, 0])),
        ((3, 17), (5, 17)),
    ),
    "by classes": (
        lambda x, head: F.fused_linear_cross_entropy(x, head, torch.tensor([4, 1, 0]), low_memory=True, chunk_size=2),
        ((3, 17), (5, 17)),
    ),
    "embedding": (lambda weight: F.embedding(torch.tensor([2, 0, 2]), weight), ((3, 17),)),
    "jsd": (lambda x: F.jsd(x, torch.ones(3, 17).log_softmax(-1), logits=True), ((3, 17),)),
}


@pytest.mark.parametrize("name", FAR)
def test_rows_more_than_2_31_elements_apart(name):
    function, shapes = FAR[name]
    inputs = tensors(shapes)
    far = [far_apart(x.detach()).requires_grad_() if x.dim() > 1 else x for x in inputs]
    for mine, other in zip(derivatives(function, far), derivatives(function, inputs), strict=True):
        torch.testing.assert_close(mine, other)


# ---- mistakes ----------------------------------------------------------------------------------------------------


def test_two_devices():
    with pytest.raises(bitloom.UserError, match="rms_norm: argument weight: expected .* got .*"):
        F.rms_norm(torch.ones(3, 17), torch.ones(17, device="meta"))


@pytest.mark.parametrize("name", ["cross_entropy", "fused_linear_cross_entropy", "embedding"])
def test_on_a_device_a_later_call_names_the_mistake(name, monkeypatch):
    """Where the device is not waited for; here a CPU in its place, whose results are there at once."""
    from bitloom.torch import targets

    there, seen = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    monkeypatch.setitem(targets._words, (name, torch.device("cuda:0")), (there, seen))
    word = targets.error_word(name, torch.device("cuda:0"))
    assert word is there
    word.fill_(7)
    seen.copy_(word)  # as look_at does, once the device comes to it
    with pytest.raises(bitloom.UserError, match=f"{name}: argument .*, got another in row 6 of an earlier call"):
        targets.error_word(name, torch.device("cuda:0"))
    assert targets.error_word(name, torch.device("cuda:0")).item() == 0  # told once
