"""`rmsprop train`: one run of RMSprop, recorded, and resumable after every interruption."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rmsprop.environment import environment
from rmsprop.errors import check_count
from rmsprop.lab.stopping import Interrupted, stop_signals
from rmsprop.lab.store import RunDirectory, new_path
from rmsprop.lab.task import fingerprint, load_task
from rmsprop.lab.training import Record, Training
from rmsprop.lab.watch import Watch
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Listener = Callable[[Training, list[Record]], None]


def train(
    spec: str,
    rule: Rule | None = None,
    *,
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    schedule: str = "constant",
    every: int = 50,
    out: Path | None = None,
    resume: bool = False,
    command: str = "",
    listen: Listener = lambda _training, _records: None,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train `spec` (see `load_task`) with `rule`; return the run's directory and its summary.

    The directory holds run.json (what was asked), records.jsonl (see `Training.run`), statistics.jsonl (what the
    optimizer did at every `every`-th step, see `rmsprop.monitor.Monitor`; 0 leaves it out), checkpoint.pt and, at the
    end, summary.json. A checkpoint is written once a second, or less often if writing takes long, at the end
    and when SIGINT or SIGTERM arrive; then Interrupted is raised. With `resume` the run goes on, bit for bit.
    """
    check_count("seed", seed, "any whole number will do", least=0)
    check_count("every", every, "50 is usual, 0 measures nothing", least=0)
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None:
            check_count(name, value, f"leave {name} out for the task's own")
    rule = rule or Rule()
    task = load_task(spec)
    task.try_out()
    config = {
        "kind": "train",
        "task": spec,
        "task_sha256": fingerprint(spec),
        "rule": dataclasses.asdict(rule),
        "seed": seed,
        "epochs": epochs or task.epochs,
        "batch_size": batch_size or task.batch_size,
        "schedule": schedule,
        "every": every,
        "made_with": {"torch": torch.__version__, "threads": torch.get_num_threads()},
    }
    training = Training(task, lambda params: RMSprop.from_rule(params, rule), seed, epochs, batch_size, schedule)
    run = RunDirectory.open(out or new_path("train", task.name, resume=resume), config, resume=resume)
    _like_before(run.config()["made_with"])
    watch = Watch(run, training, every)
    records = 0

    def go_back(state: dict[str, Any]) -> None:
        nonlocal records
        training.load_state_dict(state["training"])
        watch.load_state_dict(state["watch"])
        records = state["records"]

    def state() -> dict[str, Any]:
        return {"training": training.state_dict(), "watch": watch.state_dict(), "records": records}

    run.load_checkpoint(go_back)
    run.keep_records(records)
    watch.begin()
    saver = _Saver()
    with stop_signals() as stopped:
        for new in training.run():
            run.append(new)
            records += len(new)
            watch.write()
            listen(training, new)
            if stopped or saver.due():
                saver.save(run, state())
            if stopped:
                raise Interrupted(f"stopped after step {training.step} of {training.total_steps}")
    saver.save(run, state())
    return run, run.finish({**_summary(run, training, command), **watch.summary()})


def _like_before(made_with: dict[str, Any]) -> None:
    """Use the number of threads the run began with; say so if its torch is another: sums may differ in the last bit."""
    torch.set_num_threads(made_with["threads"])
    if made_with["torch"] != torch.__version__:
        text = f"the run began with torch {made_with['torch']} and goes on with {torch.__version__}"
        warnings.warn(f"{text}: it may differ in the last bits", stacklevel=3)


def _summary(run: RunDirectory, training: Training, command: str) -> dict[str, Any]:
    task = training.task
    last = [r for r in run.records() if r["kind"] == "epoch"][-1]
    diverged = training.diverged or last["validation_loss"] is None  # what is not finite is recorded as null
    summary = {
        "status": "diverged" if diverged else "finished",
        "task": task.name,
        "metric": task.metric_name,
        "higher_is_better": task.higher_is_better,
        "epochs": training.epoch,
        "steps": training.step,
        "validation_loss": last["validation_loss"],
        "validation_metric": last["validation_metric"],
        "command": command,
        "implementation": getattr(training.optimizer, "implementation", ""),
        "environment": environment(),
    }
    if task.test is not None and not diverged:
        summary["test_loss"], summary["test_metric"] = training.evaluate("test")
    return summary


class _Saver:
    """Decides when to save: once a second, or so that saving takes at most a twentieth of the time."""

    def __init__(self) -> None:
        self._pause, self._saved = 1.0, time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved > self._pause

    def save(self, run: RunDirectory, state: dict[str, Any]) -> None:
        began = time.monotonic()
        run.save_checkpoint(state)
        self._saved = time.monotonic()
        self._pause = max(1.0, 20 * (self._saved - began))
