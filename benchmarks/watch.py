"""Measure what `rmsprop run` costs a training step: python benchmarks/watch.py [--json FILE].

Three optimizers of one network take turns, step by step: torch's RMSprop, this one, and this one watched as by
`rmsprop run`. Times are processor time on one thread; the figure of each kind of step is its first decile, which other
load on the machine raises least. The cost is that of a training step of 10 ms in all, with a record in every 50 steps.
It takes about ten seconds. docs/clients.md shows benchmarks/results/watch.json; `docs/make/client_table.py --page`
writes it there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from rmsprop.environment import environment
from rmsprop.files import write_atomically
from rmsprop.monitor.watch import Watch
from rmsprop.torch import RMSprop

EVERY, STEPS, SIZES, TRAINING_STEP = 50, 3000, (784, 700, 700, 10), 0.010


def optimizer_of(cls: Any) -> Any:
    """Return an optimizer of the weights and biases of a network, with gradients."""
    torch.manual_seed(0)
    shapes = [shape for a, b in itertools.pairwise(SIZES) for shape in ((b, a), (b,))]
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = 0.01 * torch.randn_like(p)
    return cls(params, lr=1e-4)


def kind_of(way: str, step: int) -> str:
    """Return what a step is measured as: a watched one may have a record, or be the one before, which has samples."""
    kinds = {0: "record", EVERY - 1: "before record"}
    return kinds.get(step % EVERY, way) if way == "watched" else way


def measure() -> dict[str, Any]:
    """Return the seconds of each kind of step, and the share of a training step that a monitor takes."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        optimizers = {"torch": optimizer_of(torch.optim.RMSprop), "plain": optimizer_of(RMSprop)}
        with Watch(lambda: Path(folder), EVERY):
            optimizers["watched"] = optimizer_of(RMSprop)
            for step in range(1, STEPS + 1):
                for way, optimizer in optimizers.items():
                    began = time.process_time()
                    optimizer.step()
                    if step > 1:
                        seconds.setdefault(kind_of(way, step), []).append(time.process_time() - began)
    found = {kind: quantiles(x, n=10)[0] for kind, x in seconds.items()}
    more = {kind: found[kind] - found["plain"] for kind in ("watched", "before record", "record")}
    cost = ((EVERY - 2) * more["watched"] + more["before record"] + more["record"]) / (EVERY * TRAINING_STEP)
    return {
        "every": EVERY,
        "parameters": sum((a + 1) * b for a, b in itertools.pairwise(SIZES)),
        "load": os.getloadavg()[0],
        "seconds": found,
        "cost": cost,
    }


def main() -> None:
    """Measure and print; with --json, also write a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure()
    print(found)
    if given.json:
        write_atomically(given.json, json.dumps({"environment": environment(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
