"""Gather what `rmsprop doctor RUN` shows."""

from __future__ import annotations

from typing import Any

from rmsprop.errors import InputError, Received
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.report.sentences import describe_training
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.runs.schema import TrainSummary


def examine_run(run: RunDirectory) -> dict[str, Any]:
    """Return what `rmsprop doctor RUN` shows of a training: finished, interrupted or diverged.

    Raises
    ------
    InputError
        If the directory holds no run of train. Or if there is nothing to show: no step was measured, the losses show
        no problem, and the run did not diverge.
    """
    config = run.config()  # raises InputError if the directory holds no run
    if config["kind"] != "train":
        found = Received(f"{run.path}, of {config['kind']}")
        raise InputError("the run", "one of train", found, f"see it with: rmsprop report {run.path}")
    summary: TrainSummary | None = run.summary()
    records, findings = measured_steps(run), findings_to_show(run, summary)
    status = summary["status"] if summary else "not finished"
    reason = summary["reason"] if summary else None
    if not (records or findings or status == "diverged"):
        found = Received(f"{run.path}, which has none")
        raise InputError(
            "the run", "one with statistics", found, "they come from: rmsprop train TASK, without --every 0"
        )
    steps = [record["step"] for record in records]
    return {
        "run": str(run.path),
        "status": status,
        "reason": reason,
        "result": describe_training(config, summary) if reason else [],
        "measured": {"count": len(records), "first": min(steps, default=None), "last": max(steps, default=None)},
        "findings": findings,
        "post_mortem": summary.get("post_mortem") if summary else None,
        "healthy": not findings and not reason,
    }
