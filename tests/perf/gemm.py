"""Matrix products and attention on one CUDA GPU beside cuBLAS, Triton and torch's attention, in one process.

    python gemm.py [--only gemm-bf16,gemm-nn,gemm-tn,small,int8,fp8,ragged,grouped,attention] [--quick] [--out DIR]
                   [--set block_m=128 block_n=256] [--shapes 4096x4096x4096] [--sustained]

Each row is checked before it is measured: on sampled rows against float64, with the output poisoned beforehand, where
the error may be twice that of torch's own operation; over the whole output against torch; and bit for bit between two
runs. Times are medians of CUDA events around launches that queue up behind a sleeping kernel, the contenders in turn,
on buffers that rotate so that no launch finds its inputs in the L2 cache. Contenders in turn share one clock, which the
power of all of them sets; with --sustained each runs alone until the clock is its own. A row that fails is printed and
does not stop the others.

The peer beside torch is Triton; in `attention` it is cuDNN, in `ragged` our own product of extents that are multiples
of 64, for as many operations, and in `grouped` a torch.mm for each group.
"""

import argparse
import functools
import gc
import json
import math
import os
import statistics
import sys
import time
import traceback

import bitloom
import torch
import torch.nn.functional as F
from timing import table
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    import triton_gemm
except ImportError as missing:
    triton_gemm = None
    print(f"without Triton: {missing}")

LARGE = [  # (m, n, k)
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (8192, 14336, 4096),
    (8192, 4096, 14336),
    (16384, 16384, 1024),
    (1024, 8192, 8192),
    (2048, 2048, 2048),
]
SMALL = [(m, n, k) for n, k in ((14336, 4096), (8192, 28672)) for m in (1, 16, 64, 128, 256)]
BYTES = [(8192, 8192, 8192), (4096, 8192, 28672)]
ACROSS = [(4096, 4096, 4096), (8192, 8192, 8192)]
GROUPS = {
    "gemm-bf16": (torch.bfloat16, LARGE),
    # b lies [k, n] in memory; and a [k, m] too: the gradients of a linear layer by its input and its weight. The last
    # ones are those of a loss over 128256 classes, of 4096 rows.
    "gemm-nn": (torch.bfloat16, [*ACROSS, (4096, 4096, 128256)]),
    "gemm-tn": (torch.bfloat16, [*ACROSS, (128256, 4096, 4096)]),
    "gemm-f16": (torch.float16, LARGE),
    "small": (torch.bfloat16, SMALL),
    "int8": (torch.int8, BYTES),
    "fp8": (torch.float8_e4m3fn, BYTES),  # beside torch._scaled_mm
    "fp8-fast": (torch.float8_e4m3fn, BYTES),  # sums stay in the tensor cores, which keep fewer bits than f32
}
# One extent, or all, no multiple of anything, and as in BLAS whether a and b lie as they are (n) or transposed (t).
RAGGED = [
    (4097, 4096, 4096, "nt"),
    (4096, 4097, 4096, "nt"),
    (4096, 4096, 4097, "nt"),
    (4097, 4097, 4097, "nt"),
    (4096, 4097, 4096, "nn"),
    (4096, 4096, 4097, "nn"),
    (4097, 4096, 4096, "tn"),
]
GROUPED = [  # (rows of the groups, n, k)
    ((317, 2048, 1, 1500, 900, 64, 2362, 1000), 14336, 4096),
    (tuple(128 + (37 * g % 64 - 32) * 3 for g in range(64)), 2048, 1408),
]
MORE = {"ragged": RAGGED, "grouped": GROUPED, "attention": [False, True]}  # not of one operation and shapes alone
QUICK = {"gemm-bf16": 2, "small": 3}  # rows of a group, else 1
ROTATED = 400 << 20  # bytes of buffers: several times the L2 cache of any GPU


def milliseconds(contenders, copies, rounds):
    """Median time of one launch of each contender, a dict of functions of a buffer's number."""
    estimates = {}
    for name, run in contenders.items():
        for i in range(copies):
            run(i)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(3):
            run(i % copies)
        torch.cuda.synchronize()
        estimates[name] = (time.perf_counter() - start) / 3
    # As many launches as take about 10 ms, so that a sample is long beside the clock's resolution.
    launches = {name: max(4, min(40, int(0.010 / seconds))) for name, seconds in estimates.items()}
    samples = {name: [] for name in contenders}
    for turn in range(rounds):
        order = list(contenders)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for name in order:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(launches[name] * 100_000)  # about 50 us a launch, in which the host queues it
            start.record()
            for i in range(launches[name]):
                contenders[name](i % copies)
            end.record()
            torch.cuda.synchronize()
            samples[name].append(start.elapsed_time(end) / launches[name])
    return {name: statistics.median(times) for name, times in samples.items()}


def sustained(contenders, copies, seconds=0.5):
    """Mean time of one launch of each contender in the second half of so long a run of nothing else."""
    means = {}
    for name, run in contenders.items():
        run(0)
        torch.cuda.synchronize()
        marks, start = [], time.perf_counter()
        while time.perf_counter() - start < seconds or len(marks) < 4:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            marks.append(mark)
            run(len(marks) % copies)
            if len(marks) > 16:  # the host no further ahead than that
                marks[-16].synchronize()
        torch.cuda.synchronize()
        half = len(marks) // 2
        means[name] = marks[half].elapsed_time(marks[-1]) / (len(marks) - 1 - half)
    return means


def measure(contenders, copies, options):
    if options.sustained:
        return sustained(contenders, copies)
    return milliseconds(contenders, copies, 5 if options.quick else 11)


def copies_for(one_bytes):
    return max(2, min(12, math.ceil(ROTATED / one_bytes)))


def poison(tensor):
    tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor.fill_(0x55555555)
    return tensor


def same_bits(one, other):
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def check(run, theirs, exact, sample):
    """run(out) twice into poisoned outputs like `theirs`, torch's result, whose sample(…) float64 knows exactly.

    Gives our largest error on the sample and torch's. AssertionError says what is wrong.
    """
    ours = poison(torch.empty_like(theirs))
    run(ours)
    again = poison(torch.empty_like(theirs))
    run(again)
    torch.cuda.synchronize()
    require(same_bits(ours, again), "two runs differ")
    if not theirs.is_floating_point():
        require(torch.equal(sample(ours).double(), exact), "integers differ from the exact ones")
        require(torch.equal(ours, theirs), "integers differ from torch's")
        return 0.0, 0.0
    require(not ours.isnan().any(), f"{int(ours.isnan().sum())} elements are not written, or NaN")
    error, their_error = ((sample(one).double() - exact).abs().max().item() for one in (ours, theirs))
    require(error <= 2 * their_error + 1e-4, f"error {error:.3g}, torch's {their_error:.3g}")
    apart = (ours.float() - theirs.float()).abs().max().item()
    bound = 4 * torch.finfo(theirs.dtype).eps * theirs.abs().max().item() + 1e-4
    require(apart <= bound, f"{apart:.3g} from torch outside the sample, expected at most {bound:.3g}")
    return error, their_error


def random_matrix(rows, columns, dtype):
    if dtype == torch.int8:
        return torch.randint(-128, 128, (rows, columns), dtype=dtype, device="cuda")
    if dtype.itemsize == 1:
        return torch.randn(rows, columns, device="cuda").to(dtype)
    return torch.randn(rows, columns, dtype=dtype, device="cuda")


def is_fp8(tensor):
    return tensor.is_floating_point() and tensor.dtype.itemsize == 1


@functools.cache
def one():
    return torch.ones((), device="cuda")


def torch_product(a, b, out, fast=False):
    if is_fp8(a):
        return torch._scaled_mm(a, b.T, one(), one(), out_dtype=out.dtype, use_fast_accum=fast, out=out)
    return torch._int_mm(a, b.T, out=out) if a.dtype == torch.int8 else torch.mm(a, b.T, out=out)


def gemm_row(m, n, k, dtype, options, group):
    fast = group == "fp8-fast"

    def matrix(rows, across):  # (rows, k), in memory as it is or (k, rows)
        return random_matrix(k, rows, dtype).T if across else random_matrix(rows, k, dtype)

    out_dtype = torch.int32 if dtype == torch.int8 else torch.bfloat16 if dtype.itemsize == 1 else dtype
    one_bytes = (m + n) * k * dtype.itemsize + m * n * out_dtype.itemsize
    sets = [
        (
            matrix(m, group == "gemm-tn"),
            matrix(n, group in ("gemm-nn", "gemm-tn")),
            torch.empty(m, n, dtype=out_dtype, device="cuda"),
        )
        for _ in range(copies_for(one_bytes))
    ]
    metas = dict(options.set) | ({"fast_sums": True} if fast else {})
    row = {"shape": f"{m}x{n}x{k}", "operations": 2 * m * n * k, "bytes": one_bytes, "metas": metas}

    contenders = {}
    a, b, c = sets[0]
    chosen = sorted({0, m // 3, m // 2, m - 1, *torch.randint(0, m, (8,)).tolist()})
    try:
        exact = a[chosen].double() @ b.double().T
        theirs = None
        try:
            theirs = torch_product(a, b, torch.empty_like(c), fast).clone()
            contenders["torch"] = lambda i: torch_product(*sets[i], fast)
        except RuntimeError as problem:  # torch._int_mm refuses fewer than 17 rows
            row["torch problem"] = str(problem).splitlines()[0]
            theirs = (a.double() @ b.double().T).to(out_dtype)
        ours = lambda out: bitloom.matmul(a, b.T, out=out, **metas)
        row["error"], row["torch error"] = check(ours, theirs, exact, lambda out: out[chosen])
        del theirs, exact
        contenders["bitloom"] = lambda i: bitloom.matmul(sets[i][0], sets[i][1].T, out=sets[i][2], **metas)
    except Exception as problem:
        note(row, problem)
    if triton_gemm and not is_fp8(a) and group not in ("gemm-nn", "gemm-tn"):
        try:
            contenders["triton"], row["triton configuration"] = triton_gemm.best(sets, options.quick)
        except Exception as problem:
            row["triton problem"] = str(problem)[:300]
    row["ms"] = measure(contenders, len(sets), options)
    return row


def ragged_row(m, n, k, form, options, dtype=torch.bfloat16):
    def operands(m, n, k):
        a = random_matrix(m, k, dtype) if form[0] == "n" else random_matrix(k, m, dtype).T
        b = random_matrix(k, n, dtype) if form[1] == "n" else random_matrix(n, k, dtype).T
        return a, b, torch.empty(m, n, dtype=dtype, device="cuda")

    even = [extent // 64 * 64 for extent in (m, n, k)]
    one_bytes = ((m + n) * k + m * n) * dtype.itemsize
    copies = copies_for(one_bytes)
    sets, even_sets = ([operands(*extents) for _ in range(copies)] for extents in ((m, n, k), even))
    metas = dict(options.set)
    row = {"shape": f"{m}x{n}x{k} {form}", "operations": 2 * m * n * k, "bytes": one_bytes, "metas": metas}
    contenders = {"torch": lambda i: torch.mm(sets[i][0], sets[i][1], out=sets[i][2])}
    a, b, c = sets[0]
    chosen = sorted({0, m // 3, m // 2, m - 1, *torch.randint(0, m, (8,)).tolist()})
    try:
        exact = a[chosen].double() @ b.double()
        theirs = torch.mm(a, b)
        ours = lambda out: bitloom.matmul(a, b, out=out, **metas)
        row["error"], row["torch error"] = check(ours, theirs, exact, lambda out: out[chosen])
        del theirs, exact
        contenders["bitloom"] = lambda i: bitloom.matmul(sets[i][0], sets[i][1], out=sets[i][2], **metas)
    except Exception as problem:
        note(row, problem)
    contenders["aligned"] = lambda i: bitloom.matmul(even_sets[i][0], even_sets[i][1], out=even_sets[i][2], **metas)
    row["ms"] = measure(contenders, copies, options)
    row["ms"]["aligned"] *= m * n * k / math.prod(even)
    return row


def grouped_row(sizes, n, k, options, dtype=torch.bfloat16):
    tokens, groups = sum(sizes), len(sizes)
    starts = [sum(sizes[:g]) for g in range(groups + 1)]
    offsets = torch.tensor(starts, dtype=torch.int32, device="cuda")
    ends = offsets[1:].contiguous()
    one_bytes = (tokens * k + groups * n * k + tokens * n) * dtype.itemsize
    sets = [
        (
            random_matrix(tokens, k, dtype),
            random_matrix(groups * n, k, dtype).view(groups, n, k),
            torch.empty(tokens, n, dtype=dtype, device="cuda"),
        )
        for _ in range(copies_for(one_bytes))
    ]
    metas = dict(options.set)
    row = {
        "shape": f"{tokens}x{n}x{k} in {groups}",
        "operations": 2 * tokens * n * k,
        "bytes": one_bytes,
        "metas": metas,
    }

    def loop(i):
        x, w, out = sets[i]
        for g in range(groups):
            torch.mm(x[starts[g] : starts[g + 1]], w[g].T, out=out[starts[g] : starts[g + 1]])

    x, w, _ = sets[0]
    contenders = {"loop": loop}
    try:
        torch._grouped_mm(x, w.transpose(1, 2), offs=ends)
        contenders["torch"] = lambda i: torch._grouped_mm(sets[i][0], sets[i][1].transpose(1, 2), offs=ends)
    except (AttributeError, RuntimeError) as problem:
        row["torch problem"] = str(problem).splitlines()[0]
    try:
        loop(0)
        theirs = sets[0][2].clone()
        chosen = sorted({*starts[:-1], *(start - 1 for start in starts[1:]), tokens // 2})
        group_of = [next(g for g in range(groups) if starts[g + 1] > token) for token in chosen]
        exact = torch.stack([w[g].double() @ x[token].double() for token, g in zip(chosen, group_of)])
        ours = lambda out: bitloom.grouped_matmul(x, w, offsets, out=out, **metas)
        row["error"], row["torch error"] = check(ours, theirs, exact, lambda out: out[chosen])
        del theirs, exact
        contenders["bitloom"] = lambda i: bitloom.grouped_matmul(
            sets[i][0], sets[i][1], offsets, out=sets[i][2], **metas
        )
    except Exception as problem:
        note(row, problem)
    row["ms"] = measure(contenders, len(sets), options)
    return row


def attention_row(causal, options, batch=4, heads=32, t=4096, d=128, dtype=torch.bfloat16):
    sets = [
        tuple(torch.randn(batch, heads, t, d, device="cuda", dtype=dtype) for _ in range(3))
        for _ in range(copies_for(3 * batch * heads * t * d * dtype.itemsize))
    ]
    outs = [torch.empty_like(q) for q, _, _ in sets]
    row = {
        "shape": f"B{batch} H{heads} T{t} D{d}{' causal' if causal else ''}",
        "operations": 4 * batch * heads * t * t * d // (2 if causal else 1),
        "bytes": 4 * sets[0][0].nbytes,
        "metas": dict(options.set),
    }

    def by_torch(backend):
        def run(i):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*sets[i], is_causal=causal)

        return run

    contenders = {"torch": by_torch(SDPBackend.FLASH_ATTENTION)}
    try:
        cudnn = by_torch(SDPBackend.CUDNN_ATTENTION)
        cudnn(0)
        contenders["cudnn"] = cudnn
    except RuntimeError as problem:
        row["cudnn problem"] = str(problem).splitlines()[0]
    try:
        one = (batch - 1, heads // 2)
        q, k, v = (tensor[one].double() for tensor in sets[0])
        scores = q @ k.T * d**-0.5
        if causal:
            scores = scores.masked_fill(~torch.ones(t, t, dtype=torch.bool, device="cuda").tril(), -math.inf)
        exact = scores.softmax(1) @ v
        del scores
        ours = lambda out: bitloom.attention(*sets[0], out=out, causal=causal, **row["metas"])
        row["error"], row["torch error"] = check(ours, contenders["torch"](0), exact, lambda out: out[one])
        contenders["bitloom"] = lambda i: bitloom.attention(*sets[i], out=outs[i], causal=causal, **row["metas"])
    except Exception as problem:
        note(row, problem)
    row["ms"] = measure(contenders, len(sets), options)
    return row


def note(row, problem):
    row["problem"] = f"{type(problem).__name__}: {problem}"
    print(f"  {row['shape']}: {row['problem']}", flush=True)
    if not isinstance(problem, AssertionError | bitloom.UserError):
        traceback.print_exc(limit=-3)


def rows_of(group, options):
    """Functions that measure the rows of a group."""
    if group in MORE:
        row_of = {
            "attention": lambda causal: attention_row(causal, options),
            "ragged": lambda shape: ragged_row(*shape, options),
            "grouped": lambda shape: grouped_row(*shape, options),
        }[group]
        return [functools.partial(row_of, one) for one in MORE[group]]
    dtype, shapes = GROUPS[group]
    shapes = options.shapes or (shapes[: QUICK.get(group, 1)] if options.quick else shapes)
    return [lambda shape=shape: gemm_row(*shape, dtype, options, group) for shape in shapes]


def measured(group, options):
    rows = []
    for row_of in rows_of(group, options):
        try:
            row = row_of()
        except Exception as problem:  # torch itself failed, or the memory did not do
            row = {"shape": "?", "operations": 0, "ms": {}}
            note(row, problem)
        row["group"] = group
        rows.append(row)
        print("  ".join(cells(row)), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return rows


PEERS = {"attention": "cudnn", "ragged": "aligned", "grouped": "loop"}  # beside torch; Triton in the others


def ratio(row, peer):
    """How many times as fast as the peer."""
    times = row["ms"]
    return times[peer] / times["bitloom"] if peer in times and "bitloom" in times else None


def cells(row):
    speed = lambda who: f"{row['operations'] / row['ms'][who] / 1e9:.1f}" if who in row["ms"] else "-"
    second = PEERS.get(row["group"], "triton")
    shown = [f"{value:.3f}" if value else "-" for value in (ratio(row, "torch"), ratio(row, second))]
    time_of = f"{row['ms']['bitloom'] * 1e3:.1f}" if "bitloom" in row["ms"] else "-"
    right = "failed" if "problem" in row else f"{row['error']:.2g}/{row['torch error']:.2g}"
    return [row["group"], row["shape"], time_of, speed("bitloom"), speed("torch"), speed(second), *shown, right]


def geometric_mean(values):
    values = [value for value in values if value]
    return f"{math.exp(statistics.fmean(map(math.log, values))):.3f}" if values else "-"


def report(rows):
    print()
    header = ["group", "shape", "us", "TF/s", "torch", "peer", "x torch", "x peer", "error/torch's"]
    lines = [cells(row) for row in rows]
    for group in dict.fromkeys(row["group"] for row in rows):
        own = [row for row in rows if row["group"] == group]
        means = [geometric_mean(ratio(row, peer) for row in own) for peer in ("torch", PEERS.get(group, "triton"))]
        lines.append(
            [group, "geometric mean", "", "", "", "", *means, f"{sum('problem' in row for row in own)} failed"]
        )
    table(header, lines)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join([*GROUPS, *MORE]), help="groups, by commas")
    parser.add_argument("--quick", action="store_true", help="fewer shapes, rounds and Triton configurations")
    parser.add_argument("--sustained", action="store_true", help="each contender alone, half a second")
    parser.add_argument("--out", help="write every row to gemm.json in this folder")
    parser.add_argument("--set", nargs="*", default=[], help="Meta parameters of our kernels: block_m=128")
    parser.add_argument("--shapes", nargs="*", help="matrix shapes MxNxK in place of the groups' own")
    options = parser.parse_args()
    options.set = [(name, int(value)) for name, value in (item.split("=") for item in options.set)]
    options.shapes = options.shapes and [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    options.only = options.only.split(",")
    for group in options.only:
        if group not in GROUPS and group not in MORE:
            parser.error(f"expected groups of {', '.join([*GROUPS, *MORE])}, got '{group}'")
    return options


def main():
    options = parsed()
    torch.manual_seed(1)
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}; medians; TF/s", flush=True)
    rows = []
    for group in options.only:
        rows += measured(group, options)
        if options.out:
            os.makedirs(options.out, exist_ok=True)
            with open(os.path.join(options.out, "gemm.json"), "w") as file:
                json.dump({"device": name, "torch": torch.__version__, "rows": rows}, file, indent=1)
    report(rows)
    return 1 if any("problem" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
