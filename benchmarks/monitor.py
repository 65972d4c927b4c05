"""Measure the cost of monitoring a training: python benchmarks/monitor.py [TASK ...] [--json FILE].

Two trainings with the same seed take turns step by step: one as `rmsprop train` runs it, one with --every 0. Other load
on the machine slows both alike. The costs are median differences of processor time on one thread, between records and
at a record. Forward, backward, validation and the file of statistics are part of the steps. It takes about two minutes.
docs/monitor.md shows benchmarks/results/monitor.json; `docs/make/findings.py --page` writes it there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rmsprop.environment import environment
from rmsprop.files import write_atomically
from rmsprop.lab.find_task import load_task
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.measured_steps import StepRecorder
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.training_run import EVERY, usual_every
from rmsprop.torch import RMSprop

RECORDS = {"digits": 40, "mnist": 10, "shakespeare": 5}


def _steps(task: str, folder: Path, every: int) -> Iterator[float]:
    """Train forever and yield the time of each step in seconds."""
    training = TrainingLoop(
        load_task(task), with_optimizer(lambda params: RMSprop(params, lr=1e-3)), seed=0, epochs=10**6
    )
    watch = StepRecorder(RunDirectory(folder), training, every)
    steps = training.run()
    next(steps)  # the record before the first step
    while True:
        began = time.process_time()
        next(steps)
        watch.write()
        yield time.process_time() - began


def measure(task: str) -> dict[str, float]:
    """Return the seconds of a step, and the extra seconds with a monitor between records and at a record."""
    plain, between, records = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        ways = [_steps(task, Path(folder), every) for every in (0, EVERY)]
        for step in range(1, EVERY * RECORDS[task] + 1):
            order = (0, 1) if step % 2 else (1, 0)
            seconds = {i: next(ways[i]) for i in order}
            more = seconds[1] - seconds[0]
            plain.append(seconds[0])
            if step % EVERY == EVERY - 1:
                before = more  # this step samples gradients for the record of the next one
            elif step % EVERY == 0:
                records.append(before + more)
                print(f"\r{task:<12} {len(records)} of {RECORDS[task]} records", end="", file=sys.stderr, flush=True)
            elif step > 1:
                between.append(more)
    print(file=sys.stderr)
    found = {"step": median(plain), "between": median(between), "record": median(records)}
    steps = TrainingLoop(load_task(task), with_optimizer(lambda params: RMSprop(params)), seed=0).total_steps
    return {**found, "run_steps": steps, "run_cost": _cost(found, usual_every(steps)), "cost": _cost(found, EVERY)}


def _cost(found: dict[str, float], every: int) -> float:
    """Return the relative cost of one record in `every` steps."""
    return ((every - 2) * found["between"] + found["record"]) / (every * found["step"])


def main() -> None:
    """Measure and print; with --json, also write a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(RECORDS)}; all if left out")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    if unknown := set(given.tasks) - set(RECORDS):
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for task in given.tasks or RECORDS:
        row = rows[task] = measure(task)
        print(
            f"{task:<12} {100 * row['cost']:.2f} % more, {100 * row['run_cost']:.2f} % of {row['run_steps']} steps; "
            f"a step {1e3 * row['step']:.3g} ms, watched {1e6 * row['between']:.2g} µs more, "
            f"a record {1e3 * row['record']:.2g} ms",
            flush=True,
        )
    if given.json:
        found = {"environment": environment(), "every": EVERY, "tasks": rows}
        write_atomically(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
