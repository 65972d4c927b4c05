"""`rmsprop find-lr`: run the range test of `rmsprop.monitor.lr_finder` on a task, and draw its figure."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from rmsprop.environment import environment
from rmsprop.errors import InputError, Received
from rmsprop.files import finite, remove_temporary, temporary_files, write_atomically
from rmsprop.lab.find_task import load_task
from rmsprop.lab.processes import check_alone
from rmsprop.lab.random_state import seed_everything
from rmsprop.lab.report.range_test_figure import draw_range_test
from rmsprop.lab.run import RangeTest
from rmsprop.lab.runs.directory import RANGE_FIGURE, RANGE_TEST, is_unused, new_path, to_json
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.lock import locked
from rmsprop.lab.runs.training import order_of
from rmsprop.lab.task import Task
from rmsprop.lab_options import FindLrOptions, result_options
from rmsprop.monitor.lr_finder import Found
from rmsprop.monitor.lr_finder import find_lr as test_range
from rmsprop.monitor.lr_finder.curve import Beyond
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Listener = Callable[[int, int], None]

WIDENING_FACTOR = 100  # factor on an end of the range in the second test, if the best rate may lie beyond that end


_FIXED = "one with a fixed set of data: the loss at one rate must be comparable with the loss at another"


def on_task(task: Task, rule: Rule, *, batch_size: int | None = None, listen: Listener, **range_: Any) -> Found:
    """Return the result of a range test of `rule` on `task`. The rule's lr is not used.

    `range_` holds arguments of `rmsprop.monitor.lr_finder.find_lr`.
    """
    size = batch_size or task.batch_size

    def order(seed: int) -> Iterator[Any]:
        epoch = 0
        while True:
            yield from task.batches(model, size, order_of(seed, epoch))
            epoch += 1

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return task.loss(*task.apply(model, batch))

    seed_everything(0)
    model = task.model()
    return test_range(model, RMSprop.from_rule(model.parameters(), rule), loss, order, listen=listen, **range_)


def find_lr(
    spec: str | Task,
    rule: Rule | None = None,
    options: FindLrOptions | None = None,
    *,
    command: str = "",
    listen: Listener = lambda _done, _total: None,
    **keywords: Any,
) -> RangeTest:
    """Test learning rates on a task; return the run's directory and the content of its find-lr.json.

    `spec` is a Task, or names one as in `load_task`. Keywords are fields of `FindLrOptions` and override `options`.
    If the best rate may lie beyond an end of the range, the range is widened there for a second test. A note says so.

    find-lr.json and find-lr.svg are written at the end: a test that is stopped leaves nothing.

    Raises
    ------
    InputError
        If the task cannot be run, or the directory is not empty or cannot be written.
    Interrupted
        After SIGINT or SIGTERM.
    """
    check_alone("find-lr")
    options = dataclasses.replace(options or FindLrOptions(), **keywords)
    out, rule = options.out, rule or Rule()
    _check_out(out)
    task = load_task(spec)
    if task.generates:
        remedy = f"compare a few rates by their {task.score.name}: rmsprop compare {task.name} --lrs 0.0003 0.001 0.003"
        raise InputError("the task", _FIXED, Received(f"{task.name}, whose model generates its batches"), remedy)
    task.try_out(options.batch_size)
    with nullcontext() if out is None else locked(out), stop_signals() as stopped:
        _check_out(out)  # another process may have written here before this one held the lock

        def on_step(done: int, total: int) -> None:
            listen(done, total)
            if stopped:
                raise Interrupted(f"stopped after {done} of at most {total} steps; nothing was written")

        found = on_task(task, rule, listen=on_step, **result_options(options))
        widened = wider_range(found.beyond, options)
        if widened is not None:
            found = _with_reason(found, widened, on_task(task, rule, listen=on_step, **result_options(widened)))
        figure = draw_range_test(found)
        if stopped:
            raise Interrupted("stopped before the figure was drawn; nothing was written")
        result = {
            "task": task.name,
            "rule": dataclasses.asdict(rule),
            "batch_size": options.batch_size or task.batch_size,
            **found.to_dict(),
            "widened": None if widened is None else [widened.lowest, widened.highest],
            "command": command,
            "environment": environment(),
        }
        directory = out or new_path("find-lr", task.name, resume=False)
        remove_temporary(temporary_files(directory))
        write_atomically(directory / RANGE_FIGURE, figure)
        write_atomically(directory / RANGE_TEST, to_json(result) + "\n")
        return RangeTest(directory, finite(result))


def wider_range(beyond: Beyond | None, options: FindLrOptions) -> FindLrOptions | None:
    """Return options with the range's end `beyond` moved out by the factor `WIDENING_FACTOR`; None if `beyond` is None.

    Steps are added, so that the rate rises by the same factor per step as before.
    """
    if beyond is None:
        return None
    lowest = options.lowest / (WIDENING_FACTOR if beyond == "lower" else 1)
    highest = options.highest * (WIDENING_FACTOR if beyond == "higher" else 1)
    longer = math.log(highest / lowest) / math.log(options.highest / options.lowest)
    steps = 1 + math.ceil((options.steps - 1) * longer - 1e-9)
    return dataclasses.replace(options, lowest=float(f"{lowest:.6g}"), highest=float(f"{highest:.6g}"), steps=steps)


def _with_reason(first: Found, widened: FindLrOptions, found: Found) -> Found:
    """Return `found`, the result for the widened range, with a note of why the range was widened."""
    note = f"the range was widened once, to {widened.lowest:g} to {widened.highest:g}: {first.reason}"
    return dataclasses.replace(found, notes=[note, *found.notes])


def _check_out(out: Path | None) -> None:
    """Raise InputError unless `out` is new or empty and can be written to. None checks that runs/ can be written to."""
    directory = out or Path("runs")
    nearest = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        found = Received(f"{directory}, where {nearest} is no directory that can be written to")
        raise InputError("--out", "a new or empty directory", found, "choose another --out")
    if out is not None and not is_unused(out):
        raise InputError("--out", "a new or empty directory", str(out), "choose another --out")
