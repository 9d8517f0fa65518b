"""The training kernels' benchmarks: inputs, what torch and Liger make of them, and how ours are called."""

from collections.abc import Callable
from dataclasses import dataclass

import bitloom
import torch
import torch.nn.functional as F

try:
    import liger_kernel.transformers.functional as liger
except ImportError:
    liger = None


@dataclass(frozen=True)
class Op:
    """What each of the contenders makes of the same inputs.

    `inputs(n, *size)` names them; n makes a normal tensor of a shape. `theirs` and `liger` take them by name and give
    the outputs; `wrt` are those with gradients. `ours` and `backward` (which takes the outputs' gradients too) make
    room for their results and return a callable that gives these, gradients in the order of wrt. `bytes` has what
    forward and backward must move, from the inputs. A loss has one callable for both. `cpu` and `cuda` are sizes.
    """

    cpu: list[tuple[int, ...]]
    cuda: list[tuple[int, ...]]
    inputs: Callable
    theirs: Callable
    wrt: tuple[str, ...]
    bytes: Callable
    ours: Callable
    backward: Callable | None = None
    liger: Callable | None = None


def summed(partials, like):
    out = torch.empty_like(like)
    return lambda: bitloom.sum_partials(partials, out=out)


def summed_both(partials, second, like):
    """Those of two parameters of one shape, by one launch."""
    out, second_out = torch.empty_like(like), torch.empty_like(like)
    return lambda: bitloom.sum_partials(partials, second, out=out, second_out=second_out)


def programs(rows):
    """On the CPU, a few programs a thread leave few partial sums to add up."""
    return {} if torch.get_default_device().type == "cuda" else {"programs": min(rows, 8 * bitloom.num_threads())}


def rms_norm(x, weight):
    out = torch.empty_like(x)
    return lambda: (bitloom.rms_norm(x, weight, out=out),)


def rms_norm_backward(dy, x, weight):
    rstd = bitloom.rms_norm(x, weight, with_rstd=True)[1]
    few = programs(len(x))
    dx, partials = bitloom.rms_norm_backward(dy, x, weight, rstd, **few)
    total = summed(partials, weight)

    def run():
        bitloom.rms_norm_backward(dy, x, weight, rstd, dx=dx, dweight=partials, **few)
        return dx, total()

    return run


def fused_add_rms_norm(x, residual, weight):
    out, total = torch.empty_like(x), torch.empty_like(x)
    return lambda: bitloom.fused_add_rms_norm(x, residual, weight, out=out, sum=total)


def fused_add_rms_norm_backward(dy, dsum, x, residual, weight):
    total, rstd = bitloom.fused_add_rms_norm(x, residual, weight, with_rstd=True)[1:]
    few = programs(len(x))
    dx, partials = bitloom.fused_add_rms_norm_backward(dy, total, weight, dsum, rstd, **few)
    add = summed(partials, weight)

    def run():
        bitloom.fused_add_rms_norm_backward(dy, total, weight, dsum, rstd, dx=dx, dweight=partials, **few)
        return dx, dx, add()

    return run


def torch_fused_add_rms_norm(x, residual, weight):
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, 1e-6), total


def layer_norm(x, weight, bias):
    out = torch.empty_like(x)
    return lambda: (bitloom.layer_norm(x, weight, bias, out=out),)


def layer_norm_backward(dy, x, weight, bias):
    mean, rstd = bitloom.layer_norm(x, weight, bias, with_mean=True, with_rstd=True)[1:]
    few = programs(len(x))
    dx, *partials = bitloom.layer_norm_backward(dy, x, mean, rstd, weight, with_dweight=True, with_dbias=True, **few)
    totals = summed_both(*partials, weight)

    def run():
        bitloom.layer_norm_backward(dy, x, mean, rstd, weight, dx=dx, dweight=partials[0], dbias=partials[1], **few)
        return dx, *totals()

    return run


def group_norm(x, weight, bias):
    out = torch.empty_like(x)
    return lambda: (bitloom.group_norm(x, weight, bias, out=out),)


def group_norm_backward(dy, x, weight, bias):
    mean, rstd = bitloom.group_norm(x, weight, bias, with_mean=True, with_rstd=True)[1:]
    dx, *partials = bitloom.group_norm_backward(dy, x, mean, rstd, weight)
    totals = summed_both(*(partial.flatten(1) for partial in partials), weight.flatten())

    def run():
        bitloom.group_norm_backward(dy, x, mean, rstd, weight, dx=dx, dweight=partials[0], dbias=partials[1])
        return dx, *(total.view_as(weight) for total in totals())

    return run


def torch_group_norm(x, weight, bias):
    batch, groups, depth, space = x.shape
    channels = x.view(batch, groups * depth, space)
    return torch.group_norm(channels, groups, weight.flatten(), bias.flatten(), 1e-5).view(x.shape)


def softmax(x):
    out = torch.empty_like(x)
    return lambda: (bitloom.softmax(x, out=out),)


def softmax_backward(dy, x):
    y, dx = bitloom.softmax(x), torch.empty_like(x)
    return lambda: (bitloom.softmax_backward(dy, y, dx=dx),)


def gated(kernel, kernel_backward):
    def forward(gate, up):
        out = torch.empty_like(gate)
        return lambda: (kernel(gate, up, out=out),)

    def backward(dy, gate, up):
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        return lambda: kernel_backward(dy, gate, up, dgate=dgate, dup=dup)

    return {
        "inputs": lambda n, rows, cols: {"gate": n(rows, cols), "up": n(rows, cols)},
        "wrt": ("gate", "up"),
        "bytes": lambda gate, up: (3 * gate.nbytes, 5 * gate.nbytes),
        "ours": forward,
        "backward": backward,
    }


def relu_squared(x):
    out = torch.empty_like(x)
    return lambda: (bitloom.relu_squared(x.view(-1), out=out.view(-1)).view_as(x),)


def relu_squared_backward(dy, x):
    dx = torch.empty_like(x)
    return lambda: (bitloom.relu_squared_backward(dy.view(-1), x.view(-1), dx=dx.view(-1)).view_as(x),)


def rope_inputs(n, batch, t, heads, kv_heads, d):
    """Tables of each token's cosines and sines, each twice, as models have them."""
    angles = torch.arange(t)[:, None] * 10000.0 ** (-torch.arange(d // 2) / (d // 2))
    tables = {name: f(angles).repeat(1, 2)[None].to(n(1).dtype) for name, f in (("cos", torch.cos), ("sin", torch.sin))}
    return {"q": n(batch, t, heads, d), "k": n(batch, t, kv_heads, d), **tables}


def rope(q, k, cos, sin):
    out_q, out_k = torch.empty_like(q), torch.empty_like(k)
    return lambda: bitloom.rope(q, k, cos, sin, out_q=out_q, out_k=out_k)


def rope_backward(dq, dk, q, k, cos, sin):
    out_q, out_k = torch.empty_like(q), torch.empty_like(k)
    return lambda: bitloom.rope(dq, dk, cos, sin, inverse=True, out_q=out_q, out_k=out_k)


def torch_rope(q, k, cos, sin):
    """As Hugging Face's models compute it, but for the order of heads and tokens."""

    def rotated(x):
        a, b = x.chunk(2, -1)
        return x * cos[:, :, None] + torch.cat((-b, a), -1) * sin[:, :, None]

    return rotated(q), rotated(k)


def liger_rope(q, k, cos, sin):
    return tuple(x.transpose(1, 2) for x in liger.liger_rope(q.transpose(1, 2), k.transpose(1, 2), cos, sin))


def ids(rows, below):
    return torch.randint(0, below, (rows,), generator=torch.Generator(torch.get_default_device()).manual_seed(rows))


def embedding(ids, weight):
    out = torch.empty(len(ids), weight.shape[1], dtype=weight.dtype)
    return lambda: (bitloom.embedding(ids, weight, out=out),)


def embedding_backward(dy, ids, weight):
    """With the sort of the ids, as a caller needs it."""
    dweight, rows = torch.empty_like(weight), torch.arange(len(weight) + 1)

    def run():
        ordered, order = torch.sort(ids, stable=True)
        return (bitloom.embedding_backward(dy, order, torch.searchsorted(ordered, rows), dweight=dweight),)

    return run


def embedding_bytes(ids, weight):
    tokens = len(ids) * weight[0].nbytes
    return 2 * tokens, tokens + weight.nbytes


def cross_entropy(logits, target):
    gradient = torch.empty_like(logits)

    def run():
        _, loss = bitloom.cross_entropy(logits, target, dlogits=gradient)
        return loss.sum(), gradient

    return run


def divergence(kernel):
    def ours(input, target):
        gradient, loss = torch.empty_like(input), torch.empty(len(input))

        def run():
            kernel(input, target, dinput=gradient, loss=loss)
            return loss.sum(), gradient

        return run

    return {
        "cpu": [(512, 32000)],
        "cuda": [(2048, 128256)],
        "wrt": ("input",),
        "bytes": lambda input, target: (3 * input.nbytes,),
        "ours": ours,
    }


def log_probs(n, rows, cols):
    return {name: torch.log_softmax(n(rows, cols), 1) for name in ("input", "target")}


def torch_jsd(input, target):
    log_m = torch.log((input.exp() + target.exp()) / 2)
    return sum(F.kl_div(log_m, x, reduction="sum", log_target=True) for x in (input, target)) / 2


NORMS = [(8192, 8192), (16384, 4096), (4096, 16384)]
GLUS = {"cpu": [(2048, 11008)], "cuda": [(8192, 14336)]}

OPS = {
    "rms_norm": Op(
        cpu=[(4096, 4096)],
        cuda=[*NORMS, (4096, 4096)],
        inputs=lambda n, rows, cols: {"x": n(rows, cols), "weight": n(cols)},
        theirs=lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-6),
        wrt=("x", "weight"),
        bytes=lambda x, weight: (2 * x.nbytes, 3 * x.nbytes),
        ours=rms_norm,
        backward=rms_norm_backward,
        liger=lambda x, weight: liger.liger_rms_norm(x, weight, 1e-6, in_place=False),
    ),
    "fused_add_rms_norm": Op(
        cpu=[(4096, 4096)],
        cuda=NORMS,
        inputs=lambda n, rows, cols: {"x": n(rows, cols), "residual": n(rows, cols), "weight": n(cols)},
        theirs=torch_fused_add_rms_norm,
        wrt=("x", "residual", "weight"),
        bytes=lambda x, residual, weight: (4 * x.nbytes, 4 * x.nbytes),
        ours=fused_add_rms_norm,
        backward=fused_add_rms_norm_backward,
        liger=lambda x, residual, weight: liger.liger_fused_add_rms_norm(x, residual, weight, 1e-6, in_place=False),
    ),
    "layer_norm": Op(
        cpu=[(4096, 4096)],
        cuda=NORMS,
        inputs=lambda n, rows, cols: {"x": n(rows, cols), "weight": n(cols), "bias": n(cols)},
        theirs=lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias),
        wrt=("x", "weight", "bias"),
        bytes=lambda x, weight, bias: (2 * x.nbytes, 3 * x.nbytes),
        ours=layer_norm,
        backward=layer_norm_backward,
        liger=lambda x, weight, bias: liger.liger_layer_norm(x, weight, bias, 1e-5),
    ),
    "group_norm": Op(
        cpu=[(8, 32, 16, 4096)],
        cuda=[(32, 32, 16, 4096)],
        inputs=lambda n, batch, groups, depth, space: {
            "x": n(batch, groups, depth, space),
            "weight": n(groups, depth),
            "bias": n(groups, depth),
        },
        theirs=torch_group_norm,
        wrt=("x", "weight", "bias"),
        bytes=lambda x, weight, bias: (2 * x.nbytes, 3 * x.nbytes),
        ours=group_norm,
        backward=group_norm_backward,
        liger=lambda x, weight, bias: liger.liger_group_norm(
            x.flatten(1, 2), weight.flatten(), bias.flatten(), weight.numel(), len(weight), 1e-5
        ).view(x.shape),
    ),
    "softmax": Op(
        cpu=[(4096, 4096)],
        cuda=[(16384, 8192), (4096, 65536)],
        inputs=lambda n, rows, cols: {"x": n(rows, cols)},
        theirs=lambda x: torch.softmax(x, -1),
        wrt=("x",),
        bytes=lambda x: (2 * x.nbytes, 3 * x.nbytes),
        ours=softmax,
        backward=softmax_backward,
        liger=lambda x: liger.liger_softmax(x),
    ),
    "swiglu": Op(
        **GLUS,
        **gated(bitloom.swiglu, bitloom.swiglu_backward),
        theirs=lambda gate, up: F.silu(gate) * up,
        liger=lambda gate, up: liger.liger_swiglu(gate, up),
    ),
    "geglu": Op(
        **GLUS,
        **gated(bitloom.geglu, bitloom.geglu_backward),
        theirs=lambda gate, up: F.gelu(gate, approximate="tanh") * up,
        liger=lambda gate, up: liger.liger_geglu(gate, up),
    ),
    "relu_squared": Op(
        cpu=[(2048, 11008)],
        cuda=[(8192, 14336)],
        inputs=lambda n, rows, cols: {"x": n(rows, cols)},
        theirs=lambda x: torch.relu(x).square(),
        wrt=("x",),
        bytes=lambda x: (2 * x.nbytes, 3 * x.nbytes),
        ours=relu_squared,
        backward=relu_squared_backward,
    ),
    "rope": Op(
        cpu=[(1, 2048, 32, 8, 128)],
        cuda=[(4, 4096, 32, 8, 128)],
        inputs=rope_inputs,
        theirs=torch_rope,
        wrt=("q", "k"),
        bytes=lambda q, k, cos, sin: (2 * (q.nbytes + k.nbytes),) * 2,
        ours=rope,
        backward=rope_backward,
        liger=liger_rope,
    ),
    "embedding": Op(
        cpu=[(8192, 32000, 1024)],
        cuda=[(16384, 128256, 4096)],
        inputs=lambda n, rows, vocab, cols: {"ids": ids(rows, vocab), "weight": n(vocab, cols)},
        theirs=lambda ids, weight: F.embedding(ids, weight),
        wrt=("weight",),
        bytes=embedding_bytes,
        ours=embedding,
        backward=embedding_backward,
    ),
    "cross_entropy": Op(
        cpu=[(1024, 32000), (256, 128256)],
        cuda=[(8192, 32000), (8192, 128256)],
        inputs=lambda n, rows, cols: {"logits": n(rows, cols), "target": ids(rows, cols)},
        theirs=lambda logits, target: F.cross_entropy(logits, target, reduction="sum"),
        wrt=("logits",),
        bytes=lambda logits, target: (2 * logits.nbytes,),
        ours=cross_entropy,
        liger=lambda logits, target: liger.liger_cross_entropy(logits, target, reduction="sum"),
    ),
    "kl_div": Op(
        **divergence(bitloom.kl_div),
        inputs=lambda n, rows, cols: {**log_probs(n, rows, cols), "target": torch.softmax(n(rows, cols), 1)},
        theirs=lambda input, target: F.kl_div(input, target, reduction="sum"),
        liger=lambda input, target: liger.liger_kl_div(input, target, reduction="sum"),
    ),
    "jsd": Op(**divergence(bitloom.jsd), inputs=log_probs, theirs=torch_jsd),
    "tvd": Op(
        **divergence(bitloom.tvd),
        inputs=log_probs,
        theirs=lambda input, target: (input.exp() - target.exp()).abs().sum() / 2,
    ),
}
