"""The training kernels beside torch eager, torch.compile and Liger, where it is installed, in one process, on the CPU
or on a GPU.

% copy is the time of a plain copy over the kernel's: the copy moves the bytes that the kernel must, each input read
once and each output written once. A backward kernel's time includes the sum of its partial gradients. Losses run
forward and backward, as one. Buffers rotate through more memory than a cache holds. Our outputs are made before,
torch's by torch; for that to cost it no page faults on the CPU, the heap keeps what is given back to it.

peak MiB is what ours and torch's take on a GPU above the inputs and incoming gradients: outputs, gradients and all that
is kept for them.

error is the largest difference from float64 in any output or gradient, as a share of the bound: twice torch's + 1e-4.
"""

import argparse
import ctypes
import json
import os
import time
from functools import partial

# As torch comes, its idle threads keep a processor busy for milliseconds, at the expense of whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import bitloom
import roofline
import torch
from gpu import milliseconds
from host import ROTATION, THREADS, copies_of, rotating
from timing import interleaved, table
from training_ops import OPS, liger

PEERS = ("torch", "compile", "liger")
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ERROR_ROWS = 64  # float64 is slow
ROUNDS = 15


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


class Peer:
    """A function of torch's kind with its graph: forward as it is, backward through autograd.

    Each callable keeps its last results until the next, so that the heap, too, rotates through more than a cache.
    """

    def __init__(self, op, function):
        self.op, self.function = op, function

    def leaves(self, inputs):
        return {name: x.detach().requires_grad_() if name in self.op.wrt else x for name, x in inputs.items()}

    def keeping(self, function):
        kept = []

        def run():
            kept[:] = function()
            return kept

        return run

    def forward(self, inputs):
        def run():
            with torch.no_grad():
                return as_tuple(self.function(**inputs))

        return self.keeping(run)

    def backward(self, gradients, inputs):
        leaves = self.leaves(inputs)
        outputs = as_tuple(self.function(**leaves))
        wanted = [leaves[name] for name in self.op.wrt]
        return self.keeping(lambda: torch.autograd.grad(outputs, wanted, gradients, retain_graph=True))

    def both(self, inputs):
        def run():
            leaves = self.leaves(inputs)
            outputs = as_tuple(self.function(**leaves))
            return *(x.detach() for x in outputs), *torch.autograd.grad(outputs, [leaves[name] for name in self.op.wrt])

        return self.keeping(run)


def normal(dtype):
    return lambda *shape: torch.randn(*shape, dtype=torch.float32).to(dtype)


def gradients_of(op, inputs):
    with torch.no_grad():
        return tuple(torch.randn_like(x) for x in as_tuple(op.theirs(**inputs)))


def peers_of(op, chosen):
    functions = {"torch": op.theirs, "liger": liger and op.liger}
    if "compile" in chosen:
        functions["compile"] = torch.compile(op.theirs, dynamic=False)
    return {who: Peer(op, functions[who]) for who in PEERS if who in chosen and functions[who]}


def contenders(op, peers, which, inputs):
    """Of forward, backward or both: what makes each of them, to be run."""
    if which == "backward":
        gradients = gradients_of(op, inputs)
        builds = {"bitloom": partial(op.backward, *gradients, **inputs)}
        return builds | {who: partial(peer.backward, gradients, inputs) for who, peer in peers.items()}
    builds = {"bitloom": partial(op.ours, **inputs)}
    return builds | {who: partial(getattr(peer, which), inputs) for who, peer in peers.items()}


def peak_of(build):
    """MiB of device memory that making and running one takes at most."""
    build()()  # compiled, and what is kept from call to call is there
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    build()()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def error_of(op, which, size, dtype):
    """Ours, as a share of the bound."""
    rows = [i for i in range(len(size)) if size[i] > ERROR_ROWS][:1] if op is not OPS["embedding"] else []
    inputs = op.inputs(normal(dtype), *(ERROR_ROWS if i in rows else extent for i, extent in enumerate(size)))
    true = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    exact = Peer(op, op.theirs)
    if which == "backward":
        gradients = gradients_of(op, inputs)
        runs = op.backward(*gradients, **inputs), exact.backward(gradients, inputs)
        wanted = exact.backward(tuple(x.double() for x in gradients), true)()
    else:
        runs = op.ours(**inputs), getattr(exact, which)(inputs)
        wanted = getattr(exact, which)(true)()
    ours, theirs = ([(a.double() - b).abs().max() for a, b in zip(run(), wanted, strict=True)] for run in runs)
    return max(float(a / (2 * b + 1e-4)) for a, b in zip(ours, theirs, strict=True))


def measure(name, which, size, dtype, peers, rounds, clock):
    op, cuda = OPS[name], torch.get_default_device().type == "cuda"
    first = op.inputs(normal(dtype), *size)
    moved = op.bytes(**first)[which == "backward"]
    count = max(2, min(16, ROTATION // moved))
    all_inputs = [first, *({k: x.clone() for k, x in first.items()} for _ in range(count - 1))]
    peers = peers_of(op, peers)
    builds = [contenders(op, peers, which, inputs) for inputs in all_inputs]
    peaks = {who: peak_of(build) for who, build in builds[0].items()} if cuda else {}
    sets = [{who: build() for who, build in one.items()} for one in builds]
    runs = {who: [one[who] for one in sets] for who in sets[0]} | {"copy": copies_of(moved, count)}
    if cuda:
        seconds = {who: milliseconds(lambda i, calls=calls: calls[i](), count) / 1e3 for who, calls in runs.items()}
    else:
        turns = {who: rotating(calls) for who, calls in runs.items()}
        seconds = interleaved(turns, rounds=rounds, warmup=count, clock=clock)
    return {
        "op": name,
        "pass": which,
        "size": "x".join(map(str, size)),
        "bytes": moved,
        "seconds": seconds,
        "peaks": peaks,
        "error": error_of(op, which, size, dtype),
    }


def cells(row, peers):
    s, peaks = row["seconds"], row["peaks"]
    return [
        f"{row['op']} {row['pass']}" if row["pass"] != "both" else row["op"],
        row["dtype"],
        row["size"],
        f"{s['bitloom'] * 1e3:.3f}",
        *(f"{s[who] * 1e3:.3f}" if who in s else "" for who in peers),
        f"{s['copy'] * 1e3:.3f}",
        f"{100 * s['copy'] / s['bitloom']:.0f}",
        f"{s['torch'] / s['bitloom']:.2f}" if "torch" in s else "",
        "/".join(f"{peaks[who]:.0f}" for who in ("bitloom", "torch") if who in peaks),
        f"{row['error']:.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="ops, separated by commas; all without it")
    parser.add_argument(
        "--dtype", default="", help="f32, f16 or bf16, separated by commas; f32,bf16 on the CPU, else bf16"
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="torch, compile and liger, separated by commas")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="on the CPU")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="on a CPU that others use: processor time of all threads over their number, not the time that passed",
    )
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--plot", metavar="PATH", help="also draw PATH.png and PATH.svg")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    clock = (lambda: time.process_time() / THREADS) if options.busy else time.perf_counter
    if not cuda:
        torch.set_num_threads(THREADS)
        bitloom.set_num_threads(THREADS)
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks are of the heap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    torch.set_default_device(options.device)
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if cuda else f"{THREADS} threads"
    print(f"{where}, torch {torch.__version__}{'' if liger else ', no liger_kernel here'}; medians", flush=True)
    peers = [who for who in PEERS if who in options.peers.split(",")]
    rows = []
    for name in options.only.split(",") if options.only else OPS:
        for dtype in (options.dtype or ("bf16" if cuda else "f32,bf16")).split(","):
            for size in getattr(OPS[name], options.device):
                for which in ["forward", "backward"] if OPS[name].backward else ["both"]:
                    row = measure(name, which, size, DTYPES[dtype], peers, options.rounds, clock)
                    rows.append(row | {"dtype": dtype})
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
    if options.plot:
        roofline.draw(rows, options.plot)
    peers = [who for who in peers if any(who in row["seconds"] for row in rows)]
    columns = [f"{who} ms" for who in peers]
    header = ["kernel", "dtype", "size", "ms", *columns, "copy ms", "% copy", "x torch", "peak MiB", "error"]
    table(header, [cells(row, peers) for row in rows])


if __name__ == "__main__":
    main()
