"""Instructions that AArch64 kernels take, counted under qemu: what can be said of their speed without the processor.

Kernels are compiled ahead of time, called once from C on contiguous tensors, and every instruction in their function is
counted; what the C library does is not. Of the inner loops of products, llvm-mca says how many multiplications (MACs)
its models of processors do a cycle. `--json` prints the same as JSON.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import bitloom
from timing import table

BITLOOM = Path(__file__).parents[2] / "build/bin/bitloom"
TARGETS = ("aarch64", "aarch64+dotprod+i8mm+bf16")
BIASES = ("none", "low", "all")
C_TYPES = {"f32": "float", "bf16": "uint16_t", "u8": "uint8_t"}


def command(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def executed(kernel, dtype, sets, tensors, extents, target, processors=("max",)):
    """Instructions executed in the kernel's function on each processor. `tensors`: element type and count of each, in
    call order, or a number for a scalar; `extents` follow them in the call."""
    name = f"{kernel}_{dtype}"
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"{key}={value}" for key, value in sets.items()]
        command(BITLOOM, "build", kernel, "--dtype", dtype, "--target", target, "--set", *settings, "-o", folder)
        memory, arguments = "", []
        for i, tensor in enumerate(tensors):
            if isinstance(tensor, tuple):
                memory += f"static {C_TYPES[tensor[0]]} t{i}[{tensor[1]}];\n"
                arguments.append(f"(void *)t{i}")
            else:
                arguments.append(str(tensor))
        arguments += [str(sets[extent]) for extent in extents] + ["1"]  # threads
        call = f"{name}_contiguous({', '.join(arguments)})"
        Path(folder, "main.c").write_text(f'#include "{name}.h"\n{memory}int main(void) {{ return {call}; }}\n')
        compiler = ("aarch64-linux-gnu-gcc", "-O2", "-static", "-o", "main", "main.c", f"{name}.o", "bitloom_rt.c")
        command(*compiler, "-lm", "-lpthread", cwd=folder)
        # One instruction a block, so that the log of blocks is one of instructions.
        single = "-one-insn-per-tb" if "-one-insn-per-tb" in command("qemu-aarch64", "-help") else "-singlestep"
        counts = []
        for processor in processors:
            command("qemu-aarch64", "-cpu", processor, single, "-d", "exec,nochain", "-D", "log", "./main", cwd=folder)
            with open(Path(folder, "log")) as log:
                counts.append(sum(line.rstrip().endswith(f" {name}_programs") for line in log))
        return counts


def rows_of_a_norm(dtype):
    rows, cols = 4, 4096
    tensors = [(dtype, rows * cols), (dtype, cols), (dtype, rows * cols), "1e-6f", "0.0f", "0"]
    return "rms_norm", dtype, {"rows": rows, "cols": cols, "weighted": 1}, tensors, ("rows", "cols"), rows * cols


def low_bit(bits):
    n, k, group = 16, 4096, 128
    tensors = [("f32", k), ("u8", n * k * bits // 8), ("f32", n * k // group), ("f32", 1), ("f32", n)]
    return "low_bit_gemv", "f32", {"m": 1, "n": n, "k": k, "bits": bits}, tensors, ("m", "k", "n"), n * k


def quantised(bits, group, m, target, full=False):
    """low_bit_matmul as a target's packings want it; `full`: asymmetric activations, a bias and a clamp besides."""
    n, k = 256, 512
    packing = bitloom.Packing.for_target(target, bits, m)
    sets = {"m": m, "n": n, "groups": k // group, "bits": bits, "group": group, "lanes": packing.lanes}
    sets |= {"depth": packing.block, "rows": packing.rows, "biased_fields": BIASES.index(packing.bias)}
    sets |= {"x_rows": bitloom.Packing.of_activations_for_target(target, m).rows}
    sets |= dict.fromkeys(("x_asymmetric", "biased", "clamped"), int(full))
    vectors = [("f32", m), ("f32", n), ("f32", 1), ("f32", 1), ("f32", n)]
    tensors = [("u8", m * k), ("u8", n * k * bits // 8), ("bf16", k // group * n), ("f32", m), *vectors]
    tensors += [("f32", m * n), "0.0f", "6.0f"]
    return "low_bit_matmul", "bf16", sets, tensors, ("m", "groups", "n"), n * k * m


def sum_of(dtype):
    n = 1 << 15
    return "vector_add", dtype, {"n": n}, [(dtype, n)] * 3, ("n",), n


CASES = {
    "vector_add f32": (sum_of("f32"), "element"),
    "rms_norm f32, 4096 columns": (rows_of_a_norm("f32"), "element"),
    "rms_norm bf16, 4096 columns": (rows_of_a_norm("bf16"), "element"),
    **{f"low_bit_gemv f32 W{bits} g128": (low_bit(bits), "MAC") for bits in range(1, 9)},
}


SDOT, SMMLA = "aarch64+dotprod", "aarch64+dotprod+i8mm"
# 0.6 times the count of torchao, at 8 bits that count; then those of a product of 16 rows.
GEMV_BARS = {1: 0.195, 2: 0.191, 3: 0.219, 4: 0.140, 5: 0.242, 6: 0.215, 7: 0.210, 8: 0.193}
GEMM_BARS = {bits: 0.065 if bits == 4 else 0.1 for bits in range(1, 9)}


def products():
    """Target, rows of the activations, bits, group and, where there is one, the bar."""
    yield SDOT, 1, 4, 32, 0.185
    for bits, bar in GEMV_BARS.items():
        yield SDOT, 1, bits, 128, bar
    yield SMMLA, 16, 4, 32, 0.085
    for bits, bar in GEMM_BARS.items():
        yield SMMLA, 16, bits, 128, bar


LENGTHS = (16, 32, 64)  # of SVE's vectors, in bytes


def dense(dtype):
    m, n, k = 64, 128, 256
    tensors = [(dtype, m * k), (dtype, k * n), *[("f32", 1)] * 4, (dtype, m * n)]
    return "matmul", dtype, {"m": m, "n": n, "k": k, "b_transposed": 0}, tensors, ("m", "k", "n"), m * n * k


def scalable():
    """Where SVE has a form of its own: a name, and the case and the target without SVE2 and with it."""
    for without, m in ((SDOT, 1), (SMMLA, 16)):
        target = f"{without}+sve2"
        for bits, group in ((4, 32), *((bits, 128) for bits in range(1, 9))):
            cases = [(quantised(bits, group, m, each), each) for each in (without, target)]
            yield f"low_bit_matmul M={m} W{bits} g{group}", *cases
    for dtype, without in (("f32", "aarch64"), ("bf16", "aarch64+bf16")):
        yield f"matmul {dtype} M=64 N=128 K=256", *((dense(dtype), each) for each in (without, f"{without}+sve2"))


MCA = shutil.which("llvm-mca-22") or shutil.which("llvm-mca")
# MACs a cycle: target, rows of the activations, a group that is one body of code with its end, and for each processor
# the bar. What is published of other kernels, and so the bar, is of the loop within a group: no group ends in it.
PROCESSORS = ("neoverse-v2", "neoverse-n2", "cortex-a510")
CYCLES = ((SDOT, 1, 32, (32, 21, 9.8)), (SMMLA, 16, 128, (105, 56, 23)))
LONG = 512  # a group of several iterations of an inner loop


def inner_loop(assembly):
    """Of the loops that are one block, the first one with most products, and how many MACs its instructions are."""
    label, lines, best = None, [], (0, [])
    for line in assembly.splitlines():
        if match := re.match(r"(\.L\w+):", line):
            label, lines = match[1], []
        elif re.match(r"\t[a-z]", line):
            lines.append(line.strip())
            if label and re.match(rf"\t(b\.|cb|tb).*\s{re.escape(label)}$", line):
                elements = sum(bool(re.match(r"[us]*dot\s.*\.4b\[", each)) for each in lines)
                matrices = sum(bool(re.match(r"[us]*mmla\s", each)) for each in lines)
                best = max(best, (16 * elements + 32 * matrices, list(lines)), key=lambda loop: loop[0])
    return best


def macs_a_cycle(macs, lines):
    """Of a loop that is these instructions, by processor."""
    text, times = re.sub(r"\.L\w+", "0", "\n".join(lines)), 300
    for processor in PROCESSORS:
        options = ("-mtriple=aarch64", f"-mcpu={processor}", "-mattr=+dotprod,+i8mm", f"-iterations={times}", "-")
        cycles = re.search(r"Total Cycles:\s+(\d+)", command(MCA, *options, input=text))
        yield macs * times / int(cycles[1])


def loop_of(target, m, group):
    """The inner loop with weights of 4 bits, whose operands' instructions are all products of the weight."""
    kernel, dtype, sets, *_ = quantised(4, group, m, target)
    words = ("--dtype", dtype, "--target", target, "--emit", "asm", "--set", *(f"{k}={v}" for k, v in sets.items()))
    return inner_loop(command(BITLOOM, "inspect", kernel, *words))


def regions(target, m, group):
    """What the processors' models are asked about: the loop within a long group; the body of a whole group, with its
    end; and what is before that, up to the last product, where the body is of one group and not of several."""
    macs, lines = loop_of(target, m, group)
    whole = [loop_of(target, m, LONG), (macs, lines)]
    last = max(i for i, line in enumerate(lines) if re.match(r"[us]*(dot|mmla)\s", line))
    return [*whole, (macs, lines[: last + 1])] if group >= 128 else whole


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    version = re.search(r"version (\S+)", command("qemu-aarch64", "--version"))[1]
    rows = []
    for name, ((*case, units), unit) in CASES.items():
        rows.append([name, unit, *(f"{executed(*case, target)[0] / units:.3f}" for target in TARGETS)])
    ours = []
    for target, m, bits, group, bar in products():
        *case, units = quantised(bits, group, m, target)
        *full, _ = quantised(bits, group, m, target, full=True)
        counts = [executed(*each, target)[0] / units for each in (case, full)]
        ours.append([f"M={m} W{bits} g{group}", target, *(f"{count:.4f}" for count in counts), f"{bar:.3f}"])
    lengths, processors = [], [f"max,sve-default-vector-length={length}" for length in LENGTHS]
    for name, ((*neon, units), without), ((*case, _), target) in scalable():
        counts = executed(*neon, without) + executed(*case, target, processors)
        lengths.append([name, target, *(f"{count / units:.4f}" for count in counts)])
    vectors = ["by the length of SVE's vectors", "target", "NEON", *(f"{length} bytes" for length in LENGTHS)]
    header = ["low_bit_matmul, N=256 K=512", "target", "per MAC", "asymmetric, bias, clamp", "bar"]
    loops = []
    for target, m, group, bars in CYCLES if MCA else ():
        measured = [list(macs_a_cycle(*region)) for region in regions(target, m, group)]
        for processor, bar, *rates in zip(PROCESSORS, bars, *measured):
            within, *whole = (f"{rate:.1f}" for rate in rates)
            loops.append([f"M={m} W4", processor, within, f"{bar}", f"g{group}", *whole, *["-"] * (2 - len(whole))])
    cycles = ["MACs a cycle by llvm-mca", "processor", f"loop within a group (g{LONG})", "bar"]
    cycles += ["a whole group", "with its end", "to its last product"]
    if options.json:
        tables = [(["kernel", "per", *TARGETS], rows), (header, ours), (vectors, lengths), (cycles, loops)]
        print(json.dumps([dict(zip(names, row)) for names, lines in tables for row in lines], indent=1))
        return
    print(f"instructions per element or multiplication (MAC), under qemu-aarch64 {version}")
    table(["kernel", "per", *TARGETS], rows)
    print()
    table(header, ours)
    print()
    table(vectors, lengths)
    if loops:
        print()
        table(cycles, loops)


if __name__ == "__main__":
    main()
