"""Products with weights of 1 to 8 bits on one CUDA GPU, beside cuBLAS in 16 bits, torch's tinygemm and GemLite where it
is installed, in one process.

    python low_bit.py [--only gemv,widths,skinny,large,bf16] [--gemlite] [--json FILE] [--set block_n=128 together=8]

Every launch finds its weight outside the L2 cache: a CUDA graph of many launches goes round copies of it of 320 MB
together and is replayed; a row is the median replay over its launches. The floor is the time in which the same GPU
reads the weight's bytes, its scales and x and writes the result, at the rate at which it read 2 GiB just before.

Each row is checked before it is measured: some columns of the result against float64 on the dequantised weight, by the
norm of the difference; that all of the poisoned output is written; and that two runs give the same bits.
"""

import argparse
import gc
import json
import math
import statistics

import bitloom
import torch
from timing import table

ROTATED = 320 << 20
BLOCK = 128  # columns that lie together in the packing
BOUND = {torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of the relative norm
PLANES = (8192, 28672)  # n, k of the rows with the strictest bars
SHAPES = (PLANES, (14336, 4096), (4096, 14336), (4096, 4096))


def gemv():
    return [(1, n, k, 4, torch.float16) for n, k in SHAPES]


def widths():
    return [(1, *PLANES, bits, torch.float16) for bits in (1, 2, 3, 5, 6, 7, 8)]


def skinny():
    return [(m, *PLANES, 4, torch.float16) for m in (8, 16, 32, 64)]


def large():
    return [(m, n, k, 4, torch.float16) for n, k in SHAPES[:2] for m in (128, 256, 1024, 4096)]


def bf16():
    return [(m, *PLANES, 4, torch.bfloat16) for m in (1, 16, 64, 256, 4096)]


GROUPS = {"gemv": gemv, "widths": widths, "skinny": skinny, "large": large, "bf16": bf16}


def microseconds(calls, milliseconds=3.0):
    """Median time of one of the calls, which take turns in a graph that is replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for call in calls:
        call()
    end.record()
    torch.cuda.synchronize()
    one = max(1e-3, start.elapsed_time(end) / len(calls))
    rounds = max(1, min(math.ceil(milliseconds / one), 400) // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    samples = []
    for _ in range(13):
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / (rounds * len(calls)))
    graph.reset()
    return statistics.median(samples[2:])


def bytes_per_microsecond():
    """At which 2 GiB are read: by a sum, which writes nothing to speak of."""
    one = torch.ones(1 << 30, device="cuda", dtype=torch.float16)
    out = torch.empty((), device="cuda", dtype=torch.float32)
    return one.nbytes / microseconds([lambda: torch.sum(one, dim=0, dtype=torch.float32, out=out)])


def copies(tensors):
    return max(1, min(200, math.ceil(ROTATED / sum(t.nbytes for t in tensors))))


def clones(tensors):
    return [tensors, *([t.clone() for t in tensors] for _ in range(copies(tensors) - 1))]


class Weight:
    """Random fields of so many bits as an n by k weight, with scales of groups of columns."""

    def __init__(self, n, k, bits, dtype, group, together=None):
        self.n, self.bits, self.dtype, self.k, self.group = n, bits, dtype, k, group
        self.packing = bitloom.Packing.for_target("sm_90a", bits)
        if together:
            self.packing = bitloom.Packing(bits, "fragments", BLOCK, together)
        shape = n // self.packing.rows, self.packing.bytes_per_row(k)
        self.packed = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
        shape = (k // max(group, BLOCK), n * max(1, BLOCK // group))
        self.scales = ((torch.rand(shape, device="cuda") + 0.5) * 0.04 / 2**bits).to(dtype)

    def rows(self, chosen):
        """Of the dequantised weight, in float64."""
        together = self.packing.rows
        panels = self.packed[chosen // together].cpu()
        values = torch.from_numpy(bitloom.unpack(panels.numpy(), self.packing, signed=True)).view(-1, together, self.k)
        values = values[torch.arange(len(chosen)), chosen.cpu() % together]
        scales = self.scales.unflatten(1, (self.n, -1))[:, chosen].transpose(0, 1).flatten(1).double()
        return values.double().cuda() * scales.repeat_interleave(self.group, 1)

    def empty(self):
        return torch.empty(self.n, self.k, dtype=self.dtype, device="cuda")


def checked(run, x, weight):
    """The relative norm of the error of run(out). AssertionError says what is wrong."""
    outs = [torch.full((len(x), weight.n), math.nan, dtype=x.dtype, device="cuda") for _ in range(2)]
    for out in outs:
        run(out)
    if outs[0].isnan().any():
        raise AssertionError(f"{int(outs[0].isnan().sum())} elements are not written, or NaN")
    if not torch.equal(*(out.view(torch.int16) for out in outs)):
        raise AssertionError("two runs differ")
    chosen = torch.randint(0, weight.n, (48,), device="cuda")
    exact = x.double() @ weight.rows(chosen).T
    error = ((outs[0][:, chosen].double() - exact).norm() / exact.norm()).item()
    if error > BOUND[x.dtype]:
        raise AssertionError(f"relative error {error:.3g}, expected at most {BOUND[x.dtype]}")
    return error


def tinygemm(x, n, k):
    codes = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
    numbers = torch.rand(k // BLOCK, n, 2, device="cuda", dtype=torch.bfloat16)
    x = x.bfloat16()
    return [lambda p=p, s=s: torch.ops.aten._weight_int4pack_mm(x, p, BLOCK, s) for p, s in clones([packed, numbers])]


def gemlite(x, n, k, bits):
    from gemlite import DType, GemLiteLinear
    from gemlite.core import forward_functional

    codes = torch.randint(0, 2**bits, (n, k), device="cuda", dtype=torch.uint8)
    scales = torch.rand(n * k // BLOCK, 1, device="cuda").half()
    layer = GemLiteLinear(
        W_nbits=bits, group_size=BLOCK, in_features=k, out_features=n, input_dtype=DType.FP16, output_dtype=DType.FP16
    )
    layer.pack(codes, scales, torch.full_like(scales, 2 ** (bits - 1)), bias=None)
    *tensors, last = layer.get_tensor_args()
    metas = layer.get_meta_args()
    return [lambda t=t: forward_functional(x, None, [*t, last], metas) for t in clones(list(tensors))]


def measured(m, n, k, bits, dtype, options):
    metas = dict(options.set)
    weight = Weight(n, k, bits, dtype, options.group, metas.get("together"))
    x = torch.randn(m, k, device="cuda", dtype=dtype)
    out = torch.empty(m, n, device="cuda", dtype=dtype)
    needed = weight.packed.nbytes + weight.scales.nbytes + x.nbytes + out.nbytes
    row = {"m": m, "n": n, "k": k, "bits": bits, "dtype": str(dtype)[6:], "bytes": needed, "us": {}}

    def linear(packed, scales, out=out):
        bitloom.low_bit_linear(x, packed, scales, out=out, bits=bits, group=options.group, **metas)

    def attempt(name, make, milliseconds=3.0):
        try:
            row["us"][name] = microseconds(make(), milliseconds)
        except Exception as problem:
            row.setdefault("problems", {})[name] = f"{type(problem).__name__}: {problem}"[:300]
            print(f"  {m}x{n}x{k} W{bits} {name}: {row['problems'][name]}", flush=True)

    if m <= 4096:
        try:
            row["error"] = checked(lambda out: linear(weight.packed, weight.scales, out), x, weight)
        except Exception as problem:
            row["problem"] = f"{type(problem).__name__}: {problem}"[:300]
            print(f"  {m}x{n}x{k} W{bits}: {row['problem']}", flush=True)
        attempt("linear", lambda: [lambda t=t: linear(*t) for t in clones([weight.packed, weight.scales])])
    if m >= 128:  # the weight made a matrix, then multiplied
        matrix = weight.empty()

        def twice(packed, scales):
            rows = {"together": metas["together"]} if "together" in metas else {}
            bitloom.low_bit_linear_weight(packed, scales, bits=bits, group=options.group, out=matrix, **rows)
            bitloom.matmul(x, matrix.T, out=out)

        attempt("dequantize", lambda: [lambda t=t: twice(*t) for t in clones([weight.packed, weight.scales])], 20.0)
    full = torch.randn(n, k, device="cuda", dtype=dtype)
    attempt("cublas", lambda: [lambda w=w: torch.mm(x, w.T, out=out) for (w,) in clones([full])])
    if bits == 4 and m <= 64:
        attempt("tinygemm", lambda: tinygemm(x, n, k))
    if options.gemlite and dtype == torch.float16 and bits in (1, 2, 4) and m <= 64:
        attempt("gemlite", lambda: gemlite(x, n, k, bits))
    return row


def cells(row):
    floor, times = row["bytes"] / row["rate"], row["us"]
    ours = min((times[name] for name in ("linear", "dequantize") if name in times), default=math.nan)
    of = lambda name: f"{times[name]:.2f}" if name in times else "-"
    shape = f"{row['m']}x{row['n']}x{row['k']}"
    names = ("linear", "dequantize", "cublas", "tinygemm", "gemlite")
    right = f"{row['error']:.1e}" if "error" in row else row.get("problem", "-")[:40]
    ahead = f"{times['cublas'] / ours:.2f}" if "cublas" in times else "-"
    return [
        shape,
        f"W{row['bits']} {row['dtype']}",
        *map(of, names),
        f"{floor:.2f}",
        f"{ours / floor:.2f}",
        ahead,
        right,
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, by commas")
    parser.add_argument("--gemlite", action="store_true", help="GemLite too, which takes minutes to tune itself")
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--group", type=int, default=BLOCK, help="columns that share a scale: 32")
    parser.add_argument("--set", nargs="*", default=[], help="Meta parameters of low_bit_linear: block_n=128")
    options = parser.parse_args()
    options.set = [(name, int(value)) for name, value in (item.split("=") for item in options.set)]
    torch.manual_seed(1)
    rate = bytes_per_microsecond()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; reads {rate / 1e6:.2f} TB/s; microseconds",
        flush=True,
    )
    rows = []
    for group in options.only.split(","):
        for case in GROUPS[group]():
            rows.append(measured(*case, options) | {"group": group, "rate": rate})
            print("  ".join(cells(rows[-1])), flush=True)
            gc.collect()
            torch.cuda.empty_cache()
            if options.json:
                with open(options.json, "w") as file:
                    json.dump(rows, file, indent=1)
    header = [
        "shape",
        "weight",
        "linear",
        "dequantize",
        "cublas",
        "tinygemm",
        "gemlite",
        "floor",
        "x floor",
        "x cublas",
    ]
    table([*header, "error"], list(map(cells, rows)))


if __name__ == "__main__":
    main()
