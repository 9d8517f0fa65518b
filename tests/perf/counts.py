"""Instructions that AArch64 kernels take, counted under qemu: what can be said of their speed without the processor.

Kernels are compiled ahead of time, called once from C on contiguous tensors, and every instruction in their function is
counted; what the C library does is not.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from timing import table

BITLOOM = Path(__file__).parents[2] / "build/bin/bitloom"
TARGETS = ("aarch64", "aarch64+dotprod+i8mm+bf16")
C_TYPES = {"f32": "float", "bf16": "uint16_t", "u8": "uint8_t"}


def command(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def executed(kernel, dtype, sets, tensors, extents, target):
    """Instructions executed in the kernel's function. `tensors`: element type and count of each, in call order, or a
    number for a scalar; `extents` follow them in the call."""
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
        command("qemu-aarch64", "-cpu", "max", single, "-d", "exec,nochain", "-D", "log", "./main", cwd=folder)
        with open(Path(folder, "log")) as log:
            return sum(line.rstrip().endswith(f" {name}_programs") for line in log)


def rows_of_a_norm(dtype):
    rows, cols = 4, 4096
    tensors = [(dtype, rows * cols), (dtype, cols), (dtype, rows * cols), "1e-6f"]
    return "rms_norm", dtype, {"rows": rows, "cols": cols}, tensors, ("rows", "cols"), rows * cols


def low_bit(bits):
    n, k, group = 16, 4096, 128
    tensors = [("f32", k), ("u8", n * k * bits // 8), ("f32", n * k // group), ("f32", 1), ("f32", n)]
    return "low_bit_gemv", "f32", {"m": 1, "n": n, "k": k, "bits": bits}, tensors, ("m", "k", "n"), n * k


def sum_of(dtype):
    n = 1 << 15
    return "vector_add", dtype, {"n": n}, [(dtype, n)] * 3, ("n",), n


CASES = {
    "vector_add f32": (sum_of("f32"), "element"),
    "rms_norm f32, 4096 columns": (rows_of_a_norm("f32"), "element"),
    "rms_norm bf16, 4096 columns": (rows_of_a_norm("bf16"), "element"),
    **{f"low_bit_gemv f32 W{bits} g128": (low_bit(bits), "MAC") for bits in range(1, 9)},
}


def main():
    version = re.search(r"version (\S+)", command("qemu-aarch64", "--version"))[1]
    print(f"instructions per element or multiplication (MAC), under qemu-aarch64 {version}")
    rows = []
    for name, ((*case, units), unit) in CASES.items():
        rows.append([name, unit, *(f"{executed(*case, target) / units:.3f}" for target in TARGETS)])
    table(["kernel", "per", *TARGETS], rows)


if __name__ == "__main__":
    main()
