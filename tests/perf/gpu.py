"""The CUDA target beside torch and a device copy of the same bytes, in one process on one GPU.

Times are medians of CUDA events around launches queued back to back; buffers rotate so that no run finds the last one's
data in the L2 cache. The floor of a memory-bound kernel is the copy, half of the bytes read and half written.
"""

import argparse
import json
import statistics

import bitloom
import torch
import torch.nn.functional as F
from timing import table


def milliseconds(run, copies, rounds=7, launches=20):
    """Median time of one launch, over `rounds` of `launches` queued together on rotating buffers."""
    for i in range(copies):
        run(i)
    torch.cuda.synchronize()
    samples = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for i in range(launches):
            run(i % copies)
        end.record()
        torch.cuda.synchronize()
        samples.append(start.elapsed_time(end) / launches)
    return statistics.median(samples)


def buffers(make, one_bytes):
    """Enough copies of a buffer to pass the L2 cache several times over."""
    return [make() for _ in range(max(2, min(8, (400 << 20) // one_bytes + 1)))]


def rows_case(name, rows, cols, dtype, ours, theirs):
    xs = buffers(lambda: torch.randn(rows, cols, device="cuda", dtype=dtype), rows * cols * dtype.itemsize)
    outs = [torch.empty_like(x) for x in xs]
    weight = torch.randn(cols, device="cuda", dtype=dtype)
    bias = torch.randn(cols, device="cuda", dtype=dtype)
    n = len(xs)
    times = {
        "bitloom": milliseconds(lambda i: ours(xs[i], weight, bias, outs[i]), n),
        "torch": milliseconds(lambda i: theirs(xs[i], weight, bias), n),
        "copy": milliseconds(lambda i: outs[i].copy_(xs[i]), n),
    }
    return {
        "kernel": name,
        "shape": f"{rows}x{cols}",
        "dtype": str(dtype).split(".")[1],
        "bytes": 2 * xs[0].nbytes,
        **times,
    }


def run():
    norm = lambda x, w, b, out: bitloom.rms_norm(x, w, out=out)
    torch_norm = lambda x, w, b: F.rms_norm(x, (x.shape[1],), w, 1e-6)
    layer = lambda x, w, b, out: bitloom.layer_norm(x, w, b, out=out)
    torch_layer = lambda x, w, b: F.layer_norm(x, (x.shape[1],), w, b)
    soft = lambda x, w, b, out: bitloom.softmax(x, out=out)
    torch_soft = lambda x, w, b: torch.softmax(x, -1)
    gelu = lambda x, w, b, out: bitloom.gelu(x.view(-1), out=out.view(-1))
    torch_gelu = lambda x, w, b: F.gelu(x)
    results = []
    for rows, cols in [(8192, 8192), (16384, 4096), (4096, 16384)]:
        results.append(rows_case("rms_norm", rows, cols, torch.bfloat16, norm, torch_norm))
        results.append(rows_case("layer_norm", rows, cols, torch.bfloat16, layer, torch_layer))
        results.append(rows_case("softmax", rows, cols, torch.bfloat16, soft, torch_soft))
    results.append(rows_case("rms_norm", 8192, 8192, torch.float32, norm, torch_norm))
    results.append(rows_case("gelu", 8192, 8192, torch.bfloat16, gelu, torch_gelu))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; medians")
    results = run()
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    table(
        ["kernel", "shape", "dtype", "us", "torch us", "copy us", "GB/s", "% copy", "x torch"],
        [
            [
                r["kernel"],
                r["shape"],
                r["dtype"],
                f"{r['bitloom'] * 1e3:.1f}",
                f"{r['torch'] * 1e3:.1f}",
                f"{r['copy'] * 1e3:.1f}",
                f"{r['bytes'] / r['bitloom'] / 1e6:.0f}",
                f"{100 * r['copy'] / r['bitloom']:.1f}",
                f"{r['torch'] / r['bitloom']:.2f}",
            ]
            for r in results
        ],
    )
