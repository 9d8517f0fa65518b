"""bitloom.Matmul with activations of 8 bits on one CUDA GPU, beside cuBLAS of the same types, in one process.

    python low_bit_bytes.py [--quick] [--out DIR]

A row is a call of forward on what it takes: bytes, or f16 whose rows become bytes on the way (dynamic). Beside it are
torch._int_mm and torch._scaled_mm, the products alone, of bytes that are there, and torch's of f16. Each row is checked
on sampled rows against float64 before it is measured; weights rotate so that no launch finds its own in the L2 cache.
"""

import argparse
import json
import os
import traceback

import bitloom
import torch
from gemm import copies_for, milliseconds
from timing import table

SHAPES = [(m, n, k) for n, k in ((8192, 28672), (4096, 4096)) for m in (1, 16, 128, 1024, 4096)]
PRODUCTS = [  # A_dtype, W_dtype, group_size, dynamic
    ("int8", "int8", -1, False),
    ("int8", "int8", -1, True),
    ("int8", "int4", -1, False),
    ("int8", "int4", -1, True),
    ("int8", "int2", -1, True),
    ("int8", "int8", 128, False),
    ("int8", "int4", 128, True),
    ("e4m3_float8", "e4m3_float8", -1, False),
    ("e4m3_float8", "e4m3_float8", -1, True),
    ("e4m3_float8", "int4", -1, True),
]


def codes_of(name, n, k):
    if name == "e4m3_float8":
        return torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
    bits = int(name[3:])
    return torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (n, k), dtype=torch.int8, device="cuda")


def peers(kind, m, n, k, copies):
    """cuBLAS on plain matrices: of the same 8-bit type where its shapes allow, and of f16."""
    half = [torch.randn(n, k, device="cuda", dtype=torch.float16) for _ in range(copies)]
    xh = torch.randn(m, k, device="cuda", dtype=torch.float16)
    found = {"cuBLAS f16": lambda i: xh @ half[i].t()}
    if kind == "int8" and m > 16:
        plain = [torch.randint(-128, 128, (n, k), dtype=torch.int8, device="cuda") for _ in range(copies)]
        x8 = torch.randint(-128, 128, (m, k), dtype=torch.int8, device="cuda")
        found["cuBLAS 8"] = lambda i: torch._int_mm(x8, plain[i].t())
    if kind == "e4m3_float8":
        plain = [torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(copies)]
        x8, one = torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn), torch.ones((), device="cuda")
        found["cuBLAS 8"] = lambda i: torch._scaled_mm(x8, plain[i].t(), one, one, out_dtype=torch.bfloat16)
    return found


def quantised(x, kind):
    x = x.float()
    scale = x.abs().amax(1, keepdim=True) / (127 if kind == "int8" else 448)
    q = x * (1 / scale)
    return (q.round() if kind == "int8" else q.to(torch.float8_e4m3fn)).double() * scale.double()


def measure(product, shape, rounds):
    (kind, name, group, dynamic), (m, n, k) = product, shape
    config = bitloom.MatmulConfig(
        N=n, K=k, A_dtype=kind, W_dtype=name, accum_dtype="int32" if kind == "int8" else "float32",
        out_dtype="float16", group_size=group, with_scaling=True,
    )  # fmt: skip
    matmul = bitloom.Matmul(config, target="cuda")
    codes = codes_of(name, n, k)
    first = matmul.transform_weight(codes)
    weights = [first] + [first.clone() for _ in range(copies_for(first.nbytes) - 1)]
    scale = (torch.rand(n, config.groups, device="cuda") + 0.5) * 2**-12
    if dynamic:
        x = torch.randn(m, k, device="cuda", dtype=torch.float16)
    else:
        x = codes_of(kind, m, k)
    rows = torch.arange(0, m, max(1, m // 8), device="cuda")
    left = quantised(x[rows], kind) if dynamic else x[rows].double()
    exact = left @ (codes.double() * scale.double().repeat_interleave(config.group, 1)[:, :k]).t()
    y = matmul(x, first, scale)
    error = ((y[rows].double() - exact).norm() / exact.norm()).item()
    if not error < 1e-3 or not torch.equal(matmul(x, first, scale), y):
        raise AssertionError(f"relative error {error:.3g}, or two runs differ")
    times = milliseconds({"bitloom": lambda i: matmul(x, weights[i], scale)}
                         | peers(kind, m, n, k, len(weights)), len(weights), rounds)  # fmt: skip
    label = f"{kind} x {name}" + (f" g{group}" if group > 0 else "") + (" dynamic" if dynamic else "")
    return {"product": label, "m": m, "n": n, "k": k, "error": error} | {
        f"{who} us": t * 1e3 for who, t in times.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes of each, few rounds")
    parser.add_argument("--out", default=".")
    options = parser.parse_args()
    shapes = [SHAPES[1], SHAPES[4]] if options.quick else SHAPES
    found = []
    for product in PRODUCTS:
        for shape in shapes:
            try:
                found.append(measure(product, shape, 3 if options.quick else 7))
                print(found[-1], flush=True)
            except Exception:
                print(f"{product} {shape} failed:\n{traceback.format_exc()}", flush=True)
            torch.cuda.empty_cache()
    columns = ["product", "m", "n", "k", "bitloom us", "cuBLAS 8 us", "cuBLAS f16 us", "error"]
    number = lambda value: f"{value:.4g}" if isinstance(value, float) else value
    table(columns, [[number(row.get(name, "")) for name in columns] for row in found])
    with open(os.path.join(options.out, "low_bit_bytes.jsonl"), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in found)


if __name__ == "__main__":
    main()
