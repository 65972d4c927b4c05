"""Time of one optimizer step beside torch's, in one run: `make bench`, or `python benchmarks/step.py --json`.

The contenders take turns within every repeat; what is printed is the median over the repeats of the time relative to
`torch.optim.RMSprop` in the same repeat, with the middle half in brackets. The memory reference is the time in which
this machine moves the 20 bytes per element that a plain step must read and write, measured with torch.add.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rmsprop.environment import environment
from rmsprop.torch import RMSprop

CASES: dict[str, tuple[list[tuple[int, ...]], int]] = {
    "policy network, 6 tensors, 4.6 k parameters": ([(64, 4), (64,), (64, 64), (64,), (2, 64), (2,)], 200),
    "1000 tensors of 32 × 32": ([(32, 32)] * 1000, 3),
    "one tensor of 20 M elements": ([(20_000_000,)], 1),
}
REPEATS = 11
Timed = dict[str, list[float]]


def contenders(shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], Any]]:
    """Return a step of each contender, every one on parameters of its own."""
    steps: dict[str, Callable[[], Any]] = {}
    for name, make, options in (
        ("torch", torch.optim.RMSprop, {}),
        ("torch, foreach", torch.optim.RMSprop, {"foreach": True}),
        ("rmsprop", RMSprop, {}),
        ("rmsprop, foreach", RMSprop, {"foreach": True}),
    ):
        params = [torch.randn(shape) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        steps[name] = make(params, **options).step  # type: ignore[arg-type]
    a, b, c = (torch.randn(sum(torch.Size(s).numel() for s in shapes)) for _ in range(3))
    steps["memory reference"] = lambda: torch.add(a, b, out=c)
    return steps


def measure(steps: dict[str, Callable[[], Any]], count: int) -> Timed:
    """Return seconds per step for every repeat; torch.add moves 12 bytes per element and stands for 20."""
    seconds: Timed = {name: [] for name in steps}
    for repeat in range(REPEATS + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(count):
                step()
            if repeat:  # the first is warm-up
                scale = 20 / 12 if name == "memory reference" else 1
                seconds[name].append(scale * (time.perf_counter() - began) / count)
    return seconds


def relative(seconds: Timed) -> dict[str, dict[str, float]]:
    """Return the median time, and the median and middle half of its ratio to torch's, by contender."""
    rows = {}
    for name, own in seconds.items():
        low, middle, high = quantiles([x / y for x, y in zip(own, seconds["torch"], strict=True)], n=4)
        rows[name] = {"us": 1e6 * median(own), "ratio": middle, "low": low, "high": high}
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.parse_args().json
    results = {case: relative(measure(contenders(shapes), count)) for case, (shapes, count) in CASES.items()}
    facts = {"environment": {**environment(), "threads": torch.get_num_threads()}, "repeats": REPEATS, "cases": results}
    if as_json:
        json.dump(facts, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("case", "contender", "µs a step", "of torch's time"):
        table.add_column(name, justify="right" if "s" in name[-2:] or "time" in name else "left")
    for case, rows in results.items():
        for i, (name, r) in enumerate(rows.items()):
            ratio = f"{r['ratio']:.2f} ({r['low']:.2f}–{r['high']:.2f})"
            table.add_row(case if i == 0 else "", name, f"{r['us']:.0f}", ratio, end_section=i == len(rows) - 1)
    console.print(table)
    console.print(f"{environment()['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
