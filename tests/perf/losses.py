"""Losses over a linear layer, forward and backward: time, and the peak of memory above the inputs, beside peers and
beside the layer's three products of matrices alone. And what an operator with its gradient costs the host.

    python losses.py [--json FILE] [--small]

The products are the floor: the logits, and their gradient times the weight and times the input. Memory counts the
gradients; those of 16 bits of a weight of 128256 by 4096 are 1002 MiB. Needs a GPU; --small makes sizes that a CPU
computes in seconds, to try the script.
"""

import argparse
import json
import statistics
import time

import bitloom
import torch
import torch.nn.functional as F
from bitloom.torch import functional as ours
from timing import table

try:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
    from liger_kernel.ops.fused_linear_jsd import LigerFusedLinearJSDFunction
    from liger_kernel.transformers import functional as liger
except ImportError:
    LigerFusedLinearCrossEntropyFunction = LigerFusedLinearJSDFunction = liger = None

ROUNDS = 5


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measure(run, device):
    """(median milliseconds, peak MiB above what was there) of run()."""
    cuda = device == "cuda"
    for _ in range(2):
        run()
    wait(device)
    before = 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    samples = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        wait(device)
        samples.append(time.perf_counter() - start)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else 0.0
    return statistics.median(samples) * 1e3, peak


def gradients(loss, inputs):
    """A run of loss(*inputs) with its gradients by them; nothing of it stays."""
    leaves = [x.detach().requires_grad_() for x in inputs]

    def run():
        torch.autograd.grad(loss(*leaves), leaves)

    return run


def products(x, weight):
    def run():
        logits = x @ weight.t()
        _ = logits @ weight
        _ = logits.t() @ x

    return run


def options_of(device):
    return {"device": device, "dtype": torch.bfloat16 if device == "cuda" else torch.float32}


def cross_entropy_cases(device, rows, hidden, classes):
    options = options_of(device)
    x = torch.randn(rows, hidden, **options) * hidden**-0.5
    weight = torch.randn(classes, hidden, **options)
    target = torch.randint(classes, (rows,), device=device)

    def eager(x, weight):
        return F.cross_entropy(F.linear(x, weight).float(), target)

    yield "three products", products(x, weight)
    yield "bitloom", gradients(lambda x, w: ours.fused_linear_cross_entropy(x, w, target), (x, weight))
    low = lambda x, w: ours.fused_linear_cross_entropy(x, w, target, low_memory=True)
    yield "bitloom, low memory", gradients(low, (x, weight))
    yield "torch.compile", gradients(torch.compile(eager), (x, weight))
    if LigerFusedLinearCrossEntropyFunction:
        yield (
            "liger",
            gradients(lambda x, w: LigerFusedLinearCrossEntropyFunction.apply(x, w, target)[0], (x, weight)),
        )


def jsd_cases(device, rows, hidden, classes):
    options = options_of(device)
    x, teacher = (torch.randn(rows, hidden, **options) * hidden**-0.5 for _ in range(2))
    weight, teacher_weight = (torch.randn(classes, hidden, **options) for _ in range(2))
    yield "three products", products(x, weight)
    yield "bitloom", gradients(lambda x, w: ours.fused_linear_jsd(x, w, teacher, teacher_weight), (x, weight))
    if LigerFusedLinearJSDFunction:
        yield (
            "liger",
            gradients(lambda x, w: LigerFusedLinearJSDFunction.apply(x, w, teacher, teacher_weight), (x, weight)),
        )


class Bare(torch.autograd.Function):
    """What any operator with a gradient in Python takes: it makes its tensors and computes nothing."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, dy):
        return tuple(map(torch.empty_like, ctx.saved_tensors))


def host_cases(device):
    """Operators with their gradients, on tensors so small that only the host counts: ours, torch's, Liger's."""

    def leaf(*shape):
        return torch.randn(*shape, device=device).requires_grad_()

    x, y, weight = leaf(8, 128), leaf(8, 128), leaf(128)
    target = torch.zeros(8, dtype=torch.int64, device=device)
    q, k = (leaf(1, 8, heads, 32).detach().transpose(1, 2).requires_grad_() for heads in (4, 2))
    cos, sin = (torch.rand(1, 8, 32, device=device) for _ in range(2))
    yield "a bare autograd.Function", lambda: Bare.apply(x, weight), None, None
    yield (
        "rms_norm",
        lambda: ours.rms_norm(x, weight),
        lambda: F.rms_norm(x, (128,), weight),
        liger and (lambda: liger.liger_rms_norm(x, weight, 1e-6)),
    )
    yield (
        "fused_add_rms_norm",
        lambda: ours.fused_add_rms_norm(x, y, weight)[0],
        lambda: F.rms_norm(x + y, (128,), weight),
        liger and (lambda: liger.liger_fused_add_rms_norm(x, y, weight, 1e-6)[0]),
    )
    yield (
        "layer_norm",
        lambda: ours.layer_norm(x, weight, weight),
        lambda: F.layer_norm(x, (128,), weight, weight),
        liger and (lambda: liger.liger_layer_norm(x, weight, weight, 1e-6)),
    )
    yield (
        "swiglu",
        lambda: ours.swiglu(x, y),
        lambda: F.silu(x) * y,
        liger and (lambda: liger.liger_swiglu(x, y)),
    )
    yield "rope", lambda: ours.rope(q, k, cos, sin)[0], None, liger and (lambda: liger.liger_rope(q, k, cos, sin)[0])
    yield (
        "cross_entropy",
        lambda: ours.cross_entropy(x, target),
        lambda: F.cross_entropy(x, target),
        liger and (lambda: liger.liger_cross_entropy(x, target)),
    )


def host_microseconds(function, device, calls=200, samples=20):
    """Of a call and its backward, less what those of a sum of one element take."""
    if not function:
        return None
    least = float("inf")
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(calls):
            function().sum().backward()
        least = min(least, (time.perf_counter() - start) / calls)
        wait(device)
    empty = torch.ones(1, device=device).requires_grad_()
    least_empty = float("inf")
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(calls):
            empty.sum().backward()
        least_empty = min(least_empty, (time.perf_counter() - start) / calls)
        wait(device)
    return (least - least_empty) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--small", action="store_true", help="sizes to try the script with, on the CPU")
    options = parser.parse_args()
    device = "cpu" if options.small else "cuda"  # not torch's default, by which each of its calls in Python is slower
    torch.manual_seed(0)
    sizes = [(64, 32, 1000), (64, 32, 1000)] if options.small else [(4096, 4096, 128256), (16384, 4096, 128256)]
    results = []
    for size in sizes:
        results += [
            ("cross entropy", size, name, *measure(run, device)) for name, run in cross_entropy_cases(device, *size)
        ]
    size = (32, 32, 1000) if options.small else (2048, 4096, 128256)
    results += [("jsd", size, name, *measure(run, device)) for name, run in jsd_cases(device, *size)]
    bitloom.set_num_threads(1)
    torch.set_num_threads(1)
    host = [
        (name, *(host_microseconds(function, device) for function in functions))
        for name, *functions in host_cases(device)
    ]
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"losses": results, "host": host}, file, indent=1)

    floors = {(loss, size): ms for loss, size, name, ms, _ in results if name == "three products"}
    rows = [
        [loss, "x".join(map(str, size)), name, f"{ms:.2f}", f"{ms / floors[loss, size]:.2f}", f"{peak:.0f}"]
        for loss, size, name, ms, peak in results
    ]
    table(["loss", "rows x hidden x classes", "who", "ms", "x products", "peak MiB"], rows)
    print()
    rows = [[name, *(f"{value:.1f}" if value else "-" for value in values)] for name, *values in host]
    table(["forward + backward on the host", "us", "torch us", "liger us"], rows)


if __name__ == "__main__":
    main()
