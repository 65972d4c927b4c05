"""Find problems of a run in its losses and in its measured steps."""

from __future__ import annotations

import math

from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.outcome import Judged, harmless, movement, outcome
from rmsprop.lab.findings.remedies import with_commands
from rmsprop.lab.findings.runaway_loss import find_runaway_loss
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.runs.schema import FindingFacts, TrainConfig, TrainSummary
from rmsprop.monitor.findings import Finding, consistent, find


def find_in_run(run: RunDirectory, summary: TrainSummary | None) -> list[Finding]:
    """Return the findings in the losses and the measured steps of a training, the gravest first.

    The result of the training is judged if there is a `summary` and the training did not diverge. If the loss went down
    well, findings about long steps are dropped, unless another finding asks for a lower rate.
    """
    return _find(run, summary, LossHistory(run.records()))


def _find(run: RunDirectory, summary: TrainSummary | None, history: LossHistory) -> list[Finding]:
    rule, statistics = run.config()["rule"], measured_steps(run)
    steps = find(statistics)
    if rule["maximize"]:  # the loss is meant to rise
        return steps
    losses = [] if (away := find_runaway_loss(history, rule["lr"])) is None else [away]
    if summary is not None and not losses and summary["status"] != "diverged":
        moved = movement(statistics, summary["steps"])
        losses += outcome(Judged(history, rule, summary["metric"], summary["higher_is_better"], moved))
    too_long = any(change.get("lr", math.inf) < rule["lr"] for f in losses for change in f.changes)
    kept = [f for f in steps if too_long or not harmless(f, history)]
    return consistent([*losses, *kept], rule | {"epochs": run.config()["epochs"]})


def findings_to_show(run: RunDirectory, summary: TrainSummary | None) -> list[FindingFacts]:
    """Return the findings as plain values, with remedies as commands."""
    config: TrainConfig = run.config()
    given = summary.get("given") if summary else None
    if given is None:
        given = {"epochs": config["epochs"], "batch_size": config["batch_size"]}
    history = LossHistory(run.records())
    found = _find(run, summary, history)
    return [with_commands(finding, config, given, range_test=not history.separate) for finding in found]
