"""What the benchmarks share: fair repeated timing and the table they print."""

import statistics
import time


def interleaved(contenders, rounds=15, warmup=2, clock=time.perf_counter):
    """Median seconds of each callable of a dict, measured in turn so that the machine's drift falls on all alike."""
    for _ in range(warmup):
        for run in contenders.values():
            run()
    samples = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = clock()
            run()
            samples[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in samples.items()}


def table(header, rows):
    """Prints rows of text under a header, in columns."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print(
            "  ".join(
                str(cell).rjust(width) if i else str(cell).ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            )
        )
