"""Measure what `rmsprop train` costs beside a loop written by hand: python benchmarks/train_loop.py [--json].

Both train the same model on the same data, with the same optimizer. The hand-written loop is as short as it gets: a
permutation of the indices, a forward and a backward pass, a step, and the loss as a number.

- loop: `TrainingLoop` without a run directory. The loops take turns, an epoch each, on one thread.
- train: `rmsprop train` with its run directory, checkpoints, evaluations and measured steps; the hand-written loop
  evaluates after each epoch, too. Whole trainings take turns. The times are those from the first step to the last.

Times are wall times and processor times. A ratio is the median over the pairs: other load on the machine slows both
alike. Peak memory is that of a process for each training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import torch
from peak_memory import peak_mb
from torch.utils.data import TensorDataset

from rmsprop import Rule
from rmsprop.environment import environment
from rmsprop.lab import Task, load_task
from rmsprop.lab.runs.selection import Selection
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer
from rmsprop.torch import RMSprop

# Task: pairs of epochs, pairs of trainings.
TASKS = {"digits": (300, 15), "letters": (30, 5), "mnist": (30, 5)}
LR = 1e-3
_ENDLESS = 10**6  # epochs


def by_hand(task: Task, epochs: int, *, evaluated: bool) -> Iterator[None]:
    """Train as a user's own loop does; yield after each epoch. `evaluated` evaluates the validation data first."""
    data, validation = (cast(TensorDataset, part) for part in (task.train, task.validation))
    x, y = data.tensors
    torch.manual_seed(0)
    model = task.model()
    optimizer = RMSprop(model.parameters(), lr=LR)
    for _ in range(epochs):
        losses = []
        model.train()
        for indices in torch.randperm(len(x)).split(task.batch_size):
            optimizer.zero_grad()
            loss = task.loss(model(x[indices]), y[indices])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if evaluated:
            model.eval()
            with torch.no_grad():
                for a, b in zip(*(t.split(task.batch_size) for t in validation.tensors), strict=True):
                    output = model(a)
                    task.loss(output, b).item()
                    (output.argmax(dim=1) == b).sum().item()
        yield


def by_lab(task: Task) -> Iterator[None]:
    """Train by `TrainingLoop`; yield after each epoch."""
    setup = with_optimizer(lambda params: RMSprop(params, lr=LR))
    training = TrainingLoop(task, setup, seed=0, epochs=_ENDLESS, selection=Selection(evaluate_every=_ENDLESS))
    steps = training.run()
    next(steps)  # evaluates the untrained model
    while True:
        for _ in range(training.steps_per_epoch):
            next(steps)
        yield


class Seconds(NamedTuple):
    """Times of a piece of work."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        """Return the clocks of this process."""
        return cls(time.perf_counter(), time.process_time())

    def since(self, began: Seconds) -> Seconds:
        """Return the times from then to these."""
        return Seconds(self.wall - began.wall, self.processor - began.processor)


def command(task: Task, epochs: int) -> Seconds:
    """Train by `rmsprop.lab.train`; return the times from before the first step to after the last."""
    from rmsprop.lab import train  # a loop written by hand does not import the lab's figures

    times = []

    def listen(training: TrainingLoop, _records: Any) -> None:
        if training.step in (0, training.total_steps):
            times.append(Seconds.now())

    with tempfile.TemporaryDirectory() as folder:
        train(task, Rule(lr=LR), epochs=epochs, out=Path(folder) / "run", listen=listen)
    return times[-1].since(times[0])


def _seconds(function: Callable[[], Any]) -> Seconds:
    began = Seconds.now()
    function()
    return Seconds.now().since(began)


def _paired(ours: Callable[[], Seconds], theirs: Callable[[], Seconds], pairs: int) -> dict[str, float]:
    """Return the median seconds of both, which take turns in going first, and the median ratios."""
    ours(), theirs()
    found = []
    for pair in range(pairs):
        if pair % 2:
            found.append((ours(), theirs()))
        else:
            second = theirs()
            found.append((ours(), second))
    result = {}
    for kind in Seconds._fields:
        pairs_of_kind = [(getattr(a, kind), getattr(b, kind)) for a, b in found]
        result[f"{kind}_s"], result[f"hand_{kind}_s"] = (median(times) for times in zip(*pairs_of_kind, strict=True))
        result[f"{kind}_ratio"] = median(a / b for a, b in pairs_of_kind)
    return result


def measure(name: str) -> dict[str, Any]:
    """Return the times of an epoch by the loop, of a whole training by the command, and their ratios."""
    task = load_task(name)
    task.try_out()
    steps = task.steps_per_epoch(task.batch_size)
    loops = by_lab(task), by_hand(task, _ENDLESS, evaluated=False)
    epoch_pairs, run_pairs = TASKS[name]
    of_loop = _paired(*(lambda each=each: _seconds(lambda: next(each)) for each in loops), epoch_pairs)

    def whole() -> Seconds:
        return _seconds(lambda: list(by_hand(task, task.epochs, evaluated=True)))

    of_command = _paired(lambda: command(task, task.epochs), whole, run_pairs)
    return {"steps_per_epoch": steps, "epochs": task.epochs, "loop": of_loop, "train": of_command}


def peak_memory(way: str, name: str) -> float:
    """Train in this process; return its peak memory in MB."""
    task = load_task(name)
    if way == "train":
        command(task, 2)
    else:
        list(by_hand(task, 2, evaluated=True))
    return peak_mb()


def main() -> None:
    """Measure each task and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; all if left out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--memory", choices=("hand", "train"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.tasks) - set(TASKS):
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    if given.memory:
        print(peak_memory(given.memory, given.tasks[0]))
        return
    rows = {}
    for name in given.tasks or TASKS:
        row = rows[name] = measure(name)
        for way in ("hand", "train"):
            own = [sys.executable, __file__, name, "--memory", way]
            row[f"{way}_mb"] = float(subprocess.run(own, check=True, capture_output=True, text=True).stdout)  # noqa: S603
        load.append(os.getloadavg()[0])
        if not given.json:
            for way, steps in (("loop", 1), ("train", row["epochs"])):
                found, per = row[way], 1e6 / (steps * row["steps_per_epoch"])
                print(
                    f"{name:<8} {way:<5} a step {per * found['wall_s']:.0f} µs, {per * found['hand_wall_s']:.0f} by "
                    f"hand, ratio {found['wall_ratio']:.3f}; processor time {per * found['processor_s']:.0f} µs, "
                    f"{per * found['hand_processor_s']:.0f}, ratio {found['processor_ratio']:.3f}",
                    flush=True,
                )
            print(f"{name:<8} at most {row['train_mb']:.0f} MB, {row['hand_mb']:.0f} MB by hand", flush=True)
    if given.json:
        json.dump({"environment": environment(), "load": load, "tasks": rows}, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
