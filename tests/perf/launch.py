"""What a call costs the host, in microseconds: ours beside torch's, on one thread, on a GPU or on the CPU.

    python launch.py [--device cuda] [--nineteen LIBRARY/libnineteen.so]

Each figure is the least of many samples of some calls, between which the device is waited for, so that no call waits
for room in its queue. Kernels are as small as they can be.
"""

import argparse
import gc
import time

import bitloom
import torch
import torch.nn.functional as F
from timing import table


def microseconds(call, device, samples=100, calls=100):
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    least = float("inf")
    for _ in range(samples):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        least = min(least, (time.perf_counter() - start) / calls)
    wait()
    return least * 1e6


def cases(device, nineteen):
    half = torch.bfloat16 if device == "cuda" else torch.float32
    make = lambda *shape: torch.ones(*shape, device=device, dtype=half)
    x, weight, normal = make(1, 128), make(128), make(1, 128)
    yield "rms_norm", lambda: bitloom.rms_norm(x, weight), lambda: F.rms_norm(x, (128,), weight)
    yield "rms_norm, out", lambda: bitloom.rms_norm(x, weight, out=normal), None
    a, b, c = make(64, 64), make(64, 64), make(64, 64)
    yield "matmul, out", lambda: bitloom.matmul(a, b, out=c), lambda: torch.mm(a, b, out=c)
    yield "a + b, out", None, lambda: torch.add(a, b, out=c)
    if nineteen:
        bitloom.load_kernels(nineteen)
        views = [torch.ones(1, 1, device=device) for _ in range(9)]
        out = torch.empty(1, 1, device=device)
        numbers = [1.0] * 9
        kernel = bitloom.nineteen
        yield "nineteen arguments", lambda: kernel(*views, *numbers, out=out), None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--nineteen", help="the library of the kernel of 19 arguments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bitloom.set_num_threads(1)
    gc.disable()
    rows = []
    for name, ours, theirs in cases(options.device, options.nineteen):
        times = [microseconds(call, options.device) if call else None for call in (ours, theirs)]
        rows.append([name, *(f"{value:.2f}" if value else "-" for value in times)])
    print(f"torch {torch.__version__}, {options.device}")
    table(["call", "bitloom us", "torch us"], rows)
