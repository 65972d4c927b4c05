"""What watching costs a training: python benchmarks/monitor.py [TASK ...] [--json FILE].

Two trainings of the same seed, one as `rmsprop train` makes it and one with --every 0, take turns in blocks of as many
steps as lie between two records, one of which is measured in each; who begins changes from block to block. The cost of
a task is the median over the blocks of one's time by the other's, in seconds of the processor on one thread, which
other programs disturb less than the clock's. Forward, backward, validation and the file of statistics are part of it.
About four minutes. benchmarks/results/monitor.json is what docs/monitor.md shows; `scripts/findings.py --page` puts it
there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from rmsprop.environment import environment
from rmsprop.files import write_atomically
from rmsprop.lab.store import RunDirectory
from rmsprop.lab.task import load_task
from rmsprop.lab.train import EVERY
from rmsprop.lab.training import Training
from rmsprop.lab.watch import Watch
from rmsprop.torch import RMSprop

BLOCKS = {"digits": 150, "mnist": 20, "shakespeare": 8}


def _blocks(task: str, folder: Path, every: int) -> Iterator[float]:
    """Train for ever and yield the time of each block."""
    training = Training(load_task(task), lambda params: RMSprop(params, lr=1e-3), seed=0, epochs=10**6)
    watch = Watch(RunDirectory(folder), training, every)
    steps = training.run()
    next(steps)  # the record before the first step
    while True:
        began = time.process_time()
        for _ in range(EVERY):
            next(steps)
        watch.write()
        yield time.process_time() - began


def measure(task: str) -> dict[str, float]:
    """Return how many times as long a training takes when it is watched: median and middle half; ms of a step."""
    ratios, plain_ms = [], []
    with tempfile.TemporaryDirectory() as folder:
        ways = [_blocks(task, Path(folder), every) for every in (0, EVERY)]
        for way in ways:
            next(way)  # warm up
        for block in range(BLOCKS[task]):
            order = (0, 1) if block % 2 else (1, 0)
            seconds = {i: next(ways[i]) for i in order}
            ratios.append(seconds[1] / seconds[0])
            plain_ms.append(1e3 * seconds[0] / EVERY)
            print(f"\r{task:<12} {block + 1} of {BLOCKS[task]} blocks", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    low, _, high = quantiles(ratios, n=4)
    return {"ratio": median(ratios), "low": low, "high": high, "step_ms": median(plain_ms), "blocks": len(ratios)}


def main() -> None:
    """Measure and print, or write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(BLOCKS)}; all if left out")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    if unknown := set(given.tasks) - set(BLOCKS):
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for task in given.tasks or BLOCKS:
        row = rows[task] = measure(task)
        print(
            f"{task:<12} watched {row['ratio']:.4f} times as long [{row['low']:.4f}-{row['high']:.4f}], "
            f"{row['step_ms']:.3g} ms a step, {row['blocks']} blocks",
            flush=True,
        )
    if given.json:
        found = {"environment": environment(), "every": EVERY, "tasks": rows}
        write_atomically(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
