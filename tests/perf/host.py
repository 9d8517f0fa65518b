"""The host target beside PyTorch eager and a plain copy of the same bytes, on two threads, in one process.

    python host.py [--only memory,dense,gemv,products] [--ggml LIBRARY]

With the shared library of ggml's CPU back end its product of a repacked q4_0 weight is measured beside ours.

The floor of a memory-bound kernel is the copy: the same total of bytes, half read and half written, by as many threads.
All rotate through more memory than a cache holds.
"""

import argparse
import itertools
import os

# As torch comes, its idle threads keep a processor busy for milliseconds, at the expense of whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import bitloom
import ggml
import torch
import torch.nn.functional as F
from timing import interleaved, table

THREADS = 2
ROTATION = 1 << 30  # bytes


def rotating(calls):
    """Each time the next of them."""
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def copies_of(total_bytes, count):
    """Plain copies that move total_bytes each, half of them read."""

    def one():
        source, target = torch.rand(total_bytes // 8), torch.zeros(total_bytes // 8)
        return lambda: target.copy_(source)

    return [one() for _ in range(count)]


def memory_bound():
    def rms(dtype):
        x, weight = torch.randn(4096, 4096).to(dtype), torch.randn(4096).to(dtype)
        out = torch.zeros_like(x)
        return 2 * x.nbytes, lambda: bitloom.rms_norm(x, weight, out=out), lambda: F.rms_norm(x, (4096,), weight, 1e-6)

    def softmax():
        x = torch.randn(4096, 4096)
        out = torch.zeros_like(x)
        return 2 * x.nbytes, lambda: bitloom.softmax(x, out=out), lambda: torch.softmax(x, -1, out=out)

    def add():
        x, y = torch.randn(1 << 26), torch.randn(1 << 26)
        out = torch.zeros_like(x)
        return 3 * x.nbytes, lambda: bitloom.vector_add(x, y, out=out), lambda: torch.add(x, y, out=out)

    cases = {
        "rms_norm f32 4096x4096": lambda: rms(torch.float32),
        "rms_norm bf16 4096x4096": lambda: rms(torch.bfloat16),
        "softmax f32 4096x4096": softmax,
        "vector_add f32 2^26": add,
    }
    rows = []
    for name, make in cases.items():
        sets = [make()]
        moved = sets[0][0]
        sets += [make() for _ in range(ROTATION // moved - 1)]
        _, ours, torchs = zip(*sets)
        times = interleaved(
            {
                "bitloom": rotating(ours),
                "torch": rotating(torchs),
                "copy": rotating(copies_of(moved, len(sets))),
            },
            warmup=len(sets),
        )
        rows.append(
            [
                name,
                *(f"{times[who] * 1e3:.2f}" for who in ("bitloom", "torch", "copy")),
                f"{moved / times['bitloom'] / 1e9:.1f}",
                f"{times['copy'] / times['bitloom']:.2f}",
                f"{times['torch'] / times['bitloom']:.2f}",
            ]
        )
    table(["kernel", "ms", "torch ms", "copy ms", "GB/s", "x copy", "x torch"], rows)


def low_bit():
    n = k = 4096
    x = torch.randn(1, k)
    out = torch.empty(1, n)
    dense = torch.randn(n, k)
    rows = []
    bitloom.set_num_threads(1)
    torch.set_num_threads(1)
    for bits in range(1, 9):
        weight = torch.randint(0, 256, (n, k * bits // 8), dtype=torch.uint8)
        scales = torch.rand(n, k // 128)
        times = interleaved(
            {
                "bitloom": lambda: bitloom.low_bit_gemv(x, weight, scales, out=out, bits=bits),
                "torch": lambda: torch.mv(dense, x[0]),
            }
        )
        rows.append(
            [
                f"W{bits} g128 4096x4096",
                f"{times['bitloom'] * 1e3:.3f}",
                f"{times['bitloom'] * 1e9 / (n * k):.4f}",
                f"{times['torch'] / times['bitloom']:.2f}",
            ]
        )
    table(["low_bit_gemv f32, one thread", "ms", "ns per MAC", "x torch f32 mv"], rows)


def quantised(m, group, library, bits=4):
    """low_bit_matmul, 4096x4096, of activations that are 8-bit already: ns for each multiplication; and a peer's."""
    n = k = 4096
    packing = bitloom.Packing.for_target("host", bits, m)
    weight = torch.randint(0, 256, (n // packing.rows, packing.bytes_per_row(k)), dtype=torch.uint8)
    x = torch.randn(m, k)
    q, x_scales, sums = bitloom.quantize_rows(x, group=group)
    scales = torch.rand(k // group, n).to(torch.bfloat16)
    out = torch.empty(m, n)
    sets = {"bits": bits, "group": group, "lanes": packing.lanes, "depth": packing.block, "rows": packing.rows}
    sets |= {"biased_fields": ("none", "low", "all").index(packing.bias)}
    dense = torch.randn(n, k)
    contenders = {
        "bitloom": lambda: bitloom.low_bit_matmul(q, weight, scales, x_scales, x_sums=sums, out=out, **sets),
        "quantize": lambda: bitloom.quantize_rows(x, group=group),
        "torch": lambda: torch.mm(x, dense.T),
    }
    if library:
        contenders["ggml"], result = library.product(x, dense)
    times = interleaved(contenders)
    nanoseconds = [f"{times[who] * 1e9 / (m * n * k):.4f}" for who in ("bitloom", "quantize")]
    row = [f"M={m} W{bits} g{group}", *nanoseconds, f"{times['torch'] / times['bitloom']:.2f}"]
    if library:
        exact = x @ dense.T
        assert (result() - exact).norm() < 0.1 * exact.norm()
        both = times["bitloom"] + times["quantize"]
        row += [f"{times['ggml'] * 1e9 / (m * n * k):.4f}", f"{times['ggml'] / both:.2f}"]
    return row


def products(library):
    bitloom.set_num_threads(1)
    torch.set_num_threads(1)
    rows = [quantised(m, group, library) for m in (1, 64) for group in (32, 128)]
    header = ["low_bit_matmul 4096x4096, one thread", "ns per MAC", "quantize_rows", "x torch f32"]
    if library:
        header += ["ggml q4_0 g32", "x ggml, with quantize_rows"]
    table(header, rows)


def dense():
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    out, theirs = torch.empty(n, n), torch.empty(n, n)
    contenders = {"bitloom": lambda: bitloom.matmul(a, b, out=out), "torch": lambda: torch.mm(a, b, out=theirs)}
    times = interleaved(contenders, rounds=7)
    gigaflops = [f"{2 * n**3 / times[who] / 1e9:.0f}" for who in contenders]
    table(
        ["matmul f32", "GF/s", "torch GF/s", "x torch"],
        [[f"{n}x{n}x{n}", *gigaflops, f"{times['torch'] / times['bitloom']:.2f}"]],
    )


if __name__ == "__main__":
    parts = {"memory": memory_bound, "dense": dense, "gemv": low_bit, "products": products}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(parts))
    parser.add_argument("--ggml", metavar="LIBRARY", type=ggml.Library)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    bitloom.set_num_threads(THREADS)
    print(f"{torch.__config__.parallel_info().splitlines()[0]}, torch {torch.__version__}, {THREADS} threads; medians")
    for name in options.only.split(","):
        parts[name](*([options.ggml] if name == "products" else []))
        print()
