"""Measure from how many elements a second thread pays: the source of the grains in kernel/run.cpp.

python benchmarks/threads.py [--torch] [--json] times a plain float32 step for each size, by one thread and by one per
processor. The two take turns; figures are medians of pairs. Threads are started for the step; with --torch they are
torch's OpenMP team.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import median

import numpy as np

from rmsprop import Rule, get_num_threads, native
from rmsprop.environment import environment

SIZES = [2**n for n in range(13, 23)]
REPEATS = 301


def measure(size: int, threads: int) -> dict[str, float]:
    """Return median microseconds of a step by one thread and by `threads`, and the median of their ratio."""
    p, g, v = (np.ones(size, np.float32) for _ in range(3))
    rule = native.kernel_rule(Rule())

    def step(number: int) -> float:
        began = time.perf_counter()
        native.kernel.update(rule, 1e-3, 0.0, 1.0, 0.0, p, g, v, None, None, None, number, 1)  # type: ignore[union-attr]
        return 1e6 * (time.perf_counter() - began)

    pairs = [(step(1), step(threads)) for _ in range(REPEATS if size < 2**20 else REPEATS // 10)]
    alone, shared = (median(times) for times in zip(*pairs, strict=True))
    return {"size": size, "alone_us": alone, "shared_us": shared, "ratio": median(b / a for a, b in pairs)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch", action="store_true", help="use torch's threads")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.torch:
        import rmsprop.torch  # noqa: F401  (the import finds the team)
    team = native.kernel.has_team()  # type: ignore[union-attr]
    threads = get_num_threads()
    rows = [measure(size, threads) for size in SIZES]
    if arguments.json:
        json.dump({"environment": environment(), "threads": threads, "team": team, "rows": rows}, sys.stdout, indent=1)
        print()
        return
    print(f"elements  1 thread  {threads} threads  of the time")
    for row in rows:
        print(f"{row['size']:8d}  {row['alone_us']:5.0f} µs   {row['shared_us']:5.0f} µs  {row['ratio']:11.2f}")


if __name__ == "__main__":
    main()
