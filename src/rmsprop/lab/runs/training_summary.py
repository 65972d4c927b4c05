"""How a training ended: its last evaluations, and the content of summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from rmsprop.environment import environment
from rmsprop.files import finite
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.runaway_loss import find_runaway_loss
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.measured_steps import StepRecorder, measured_steps
from rmsprop.lab.runs.recorded_training import RecordedTraining
from rmsprop.lab.runs.schema import EpochRecord, GivenOptions, PostMortemFacts, TrainSummary
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.score import Evaluation

NOT_IN_VALIDATION = "validation not finite"  # reason of a summary if the training losses are finite
LEARNED_NOTHING = "learned nothing"  # reason of a summary, and kind of its finding


class _Validation(NamedTuple):
    """Validation loss and metric after an epoch; None if not finite."""

    epoch: int
    loss: float | None
    metric: float | None
    metrics: Mapping[str, float | None]


class Result(NamedTuple):
    """How a training ended: why it diverged, if it did; its validations; those of the weights that are kept; tests."""

    reason: str | None
    validations: list[_Validation]
    kept: _Validation
    tested: Evaluation | None


def evaluated_result(recorded: RecordedTraining) -> Result:
    """Evaluate what is left to evaluate. Collective."""
    run, training, processes = recorded.run, recorded.training, recorded.processes
    validations = processes.on_first(lambda: _validations(run))
    if not validations or validations[-1].epoch != training.epoch:  # a crash has cost the last record
        validations.append(_evaluated(training))
    last = kept = validations[-1]
    # Records hold null for a loss that is not finite.
    lost = training.diverged or (last.loss is None and training.has_lost_weights())
    reason = processes.on_first(lambda: _what_went_wrong(run, last, lost=lost))
    if training.selection.best and not reason:
        training.use_best()
        kept = _evaluated(training)
    tested = training.evaluate("test") if training.task.test is not None and not reason else None
    return Result(reason, validations, kept, tested)


def summary_of(recorded: RecordedTraining, result: Result, command: str, given: GivenOptions) -> TrainSummary:
    """Return the content of summary.json."""
    run, training = recorded.run, recorded.training
    reason, kept = result.reason, result.kept
    summary: TrainSummary = {
        "status": "diverged" if reason else "finished",
        "reason": reason,
        "task": training.task.name,
        "metric": training.score.name,
        "metric_kind": training.score.kind,
        "higher_is_better": training.score.higher_is_better,
        "epochs": training.epoch,
        "steps": training.step,
        "validation_loss": kept.loss,
        "validation_metric": kept.metric,
        "command": command,
        "given": given,
        "implementation": getattr(getattr(training.optimizer, "optim", training.optimizer), "implementation", ""),
        "environment": environment(),
        "device": str(training.compute.device),
    }
    if kept.metrics:
        summary["metrics"] = dict(kept.metrics)
    if training.selection.best:
        summary["best_epoch"] = training.best_epoch
    if training.stopped and training.epoch < training.epochs:
        summary["stopped_early"] = True
    if nonfinite := sum(record.get("nonfinite", 0) for record in run.records()):
        summary["nonfinite_losses"] = nonfinite
    if reason == NOT_IN_VALIDATION:
        summary["lost_epoch"] = next(v.epoch for v in result.validations if v.loss is None)
    findings = findings_to_show(run, summary)
    if findings or measured_steps(run):
        summary["findings"] = findings
    if any(f["kind"] == LEARNED_NOTHING for f in findings):
        summary["reason"] = LEARNED_NOTHING
    tested = result.tested
    if tested is not None:
        summary["test_loss"], summary["test_metric"] = tested.loss, tested.metric
        if tested.metrics:
            summary["test_metrics"] = dict(tested.metrics)
    recorded.steps.write_findings()
    if recorded.every:
        summary["post_mortem"] = _post_mortem(recorded.steps)
    if recorded.lost_records:
        summary["lost_records"] = recorded.lost_records
    return summary


def _evaluated(training: TrainingLoop) -> _Validation:
    found = training.evaluate("validation")
    others = {name: finite(value) for name, value in found.metrics.items()}
    return _Validation(training.epoch, finite(found.loss), finite(found.metric), others)


def _validations(run: RunDirectory) -> list[_Validation]:
    """Return the recorded validation results."""
    epochs: list[EpochRecord] = [record for record in run.records() if record["kind"] == "epoch"]
    return [_Validation(e["epoch"], e["validation_loss"], e["validation_metric"], e.get("metrics", {})) for e in epochs]


def _post_mortem(steps: StepRecorder) -> PostMortemFacts | None:
    found = steps.post_mortem()
    return None if found is None else cast(PostMortemFacts, {**found.to_dict(), "text": str(found)})


def _what_went_wrong(run: RunDirectory, last: _Validation, *, lost: bool) -> str | None:
    """Return why a training counts as diverged; None if it does not. `lost`: losses or weights are not finite."""
    rule = run.config()["rule"]
    if lost:
        return "not finite"
    if not rule["maximize"] and find_runaway_loss(LossHistory(run.records()), rule["lr"]):
        return "ran away"
    return NOT_IN_VALIDATION if last.loss is None else None
