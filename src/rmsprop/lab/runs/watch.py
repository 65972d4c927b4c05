"""What `rmsprop train` keeps of what its optimizer did, in step with its checkpoint, and what that says."""

from __future__ import annotations

import math
from typing import Any

from rmsprop.errors import InputError, Received
from rmsprop.lab.report.advice import told
from rmsprop.lab.runs.course import Course
from rmsprop.lab.runs.runaway_loss import ran_away
from rmsprop.lab.report.outcome import Judged, harmless, movement, outcome
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.training import Record, Training
from rmsprop.lab.report.sentences import describe_training
from rmsprop.monitor import Monitor, PostMortem
from rmsprop.monitor.findings import Finding, consistent, find

STATISTICS = "statistics.jsonl"


class Watch:
    """The monitor of a training, and its records in the run's directory.

    Between records nothing is measured: should the run diverge, steps of it are replayed (`rmsprop.lab.runs.replay`).

    Parameters
    ----------
    run, training
        Where the records go, and whose optimizer is watched.
    every
        Steps from one measured step to the next; 0 measures nothing.
    """

    def __init__(self, run: RunDirectory, training: Training, every: int) -> None:
        self._run = run
        self._new: list[Record] = []  # measured, and not yet in the file
        self._written = 0
        self._monitor = (
            Monitor(training.optimizer, training.model, every=every, last=0, sinks=[self._new.append])
            if every
            else None
        )

    def write(self) -> None:
        """Add what was measured since the last call to the file."""
        if self._new:
            self._run.append(self._new, STATISTICS)
            self._written += len(self._new)
            self._new.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to measure as if it had not been interrupted."""
        monitor = None if self._monitor is None else self._monitor.state_dict()
        return {"written": self._written, "monitor": monitor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self._written = state["written"]
        if self._monitor is not None:
            self._monitor.load_state_dict(state["monitor"])

    def begin(self, step: int) -> None:
        """Drop the records after `step`, which the checkpoint does not know of; the monitor gets back the others."""
        if self._monitor is not None:
            self._run.keep_records_until(step, self._written, STATISTICS)
            self._monitor.records[:] = measured(self._run)

    def post_mortem(self) -> PostMortem | None:
        """Return what the records say of where the run diverged; None if nothing, or if nothing was measured."""
        return None if self._monitor is None else self._monitor.post_mortem()


def findings_of(run: RunDirectory, summary: dict[str, Any] | None) -> list[Finding]:
    """Return what the losses and the measured steps of a training say, the gravest first.

    What came of it is judged where there is a `summary` of a training that did not diverge. Long steps are no finding
    where the training went well nevertheless.
    """
    rule, statistics, course = run.config()["rule"], measured(run), Course(run.records())
    steps = find(statistics)
    if rule["maximize"]:  # a loss that rises is then what is meant
        return steps
    losses = [] if (away := ran_away(course, rule["lr"])) is None else [away]
    if summary is not None and not losses and summary["status"] != "diverged":
        moved = movement(statistics, summary["steps"])
        losses += outcome(Judged(course, rule, summary["metric"], summary["higher_is_better"], moved))
    too_long = any(change.get("lr", math.inf) < rule["lr"] for f in losses for change in f.changes)
    kept = [f for f in steps if too_long or not harmless(f, course)]
    return consistent([*losses, *kept], rule | {"epochs": run.config()["epochs"]})


def told_of(run: RunDirectory, summary: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the findings as plain values, with remedies as commands."""
    config = run.config()
    given = (summary or {}).get("given") or {name: config[name] for name in ("epochs", "batch_size")}
    return [told(finding, config, given) for finding in findings_of(run, summary)]


def examine(run: RunDirectory) -> dict[str, Any]:
    """Return what `rmsprop doctor RUN` shows of a run, be it finished, interrupted or diverged.

    Raises
    ------
    InputError
        If the directory holds no run of train, or one that did not diverge, of which nothing was measured and whose
        losses say nothing.
    """
    config = run.config()  # says what is wrong with a directory that is no run
    if config["kind"] != "train":
        found = Received(f"{run.path}, of {config['kind']}")
        raise InputError("the run", "one of train", found, f"see it with: rmsprop report {run.path}")
    records, findings = measured(run), told_of(run, run.summary())
    summary, steps = run.summary() or {}, [record["step"] for record in records]
    status, replayed = summary.get("status", "not finished"), summary.get("replay")
    if not (records or findings or status == "diverged"):
        found = Received(f"{run.path}, which has none")
        raise InputError(
            "the run", "one with statistics", found, "they come from: rmsprop train TASK, without --every 0"
        )
    result = describe_training(config, summary) if summary.get("reason") or replayed else []
    return {
        "run": str(run.path),
        "status": status,
        "reason": summary.get("reason"),
        "result": result,
        "measured": {"count": len(records), "first": min(steps, default=None), "last": max(steps, default=None)},
        "findings": findings,
        "post_mortem": summary.get("post_mortem"),
        "replay": replayed,
        "healthy": not findings and not summary.get("reason"),
    }


def measured(run: RunDirectory) -> list[Record]:
    """Return the records of the measured steps; none if nothing was measured."""
    return run.records(STATISTICS)
