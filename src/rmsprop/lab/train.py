"""`rmsprop train`: one run of RMSprop, recorded, and resumable after every interruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch

from rmsprop.environment import environment
from rmsprop.files import finite
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.runaway_loss import find_runaway_loss
from rmsprop.lab.runs.checkpoints import Saver
from rmsprop.lab.runs.directory import RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.measured_steps import StepRecorder, measured_steps
from rmsprop.lab.runs.schema import (
    EpochRecord,
    Given,
    MadeWith,
    PostMortemFacts,
    TrainConfig,
    TrainRecord,
    TrainSummary,
)
from rmsprop.lab.runs.task_code import task_code
from rmsprop.lab.runs.training import Training
from rmsprop.lab.task import load_task
from rmsprop.lab_options import TrainOptions, result_options
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Listener = Callable[[Training, list[TrainRecord]], None]

EVERY = 250  # steps between records of a long training: measuring costs a small share of it (docs/monitor.md)
RECORDS = 10  # of a short training, which takes less than a second: they may cost a larger share
NOT_IN_VALIDATION = "validation not finite"  # while training is
LEARNED_NOTHING = "learned nothing"  # reason of a summary, and kind of its finding


def train(
    spec: str,
    rule: Rule | None = None,
    options: TrainOptions | None = None,
    *,
    command: str = "",
    listen: Listener = lambda _training, _records: None,
    **keywords: Any,
) -> tuple[RunDirectory, Any]:
    """Train `spec` (see `load_task`) with `rule`; return the run's directory and its summary, a TrainSummary.

    Keywords are fields of `TrainOptions`, and count before those of `options`.

    The directory holds run.json (what was asked), records.jsonl (see `Training.run`), statistics.jsonl (what the
    optimizer did at every `every`-th step, see `rmsprop.monitor.Monitor`; 0 leaves it out, and None stands for a tenth
    of the run, at most `EVERY` steps), checkpoint.pt and, at the end, summary.json. A checkpoint is written once a
    second, or less often if writing takes long, at the end and when SIGINT or SIGTERM arrive after the first step; then
    Interrupted is raised. With `resume` the run goes on, bit for bit, if the task's code has not changed; with
    `accept_changes` also if it has, which run.json then says.

    Where the run diverged, post_mortem of the summary says at which step and in which tensor: sums of the newest 1000
    steps are kept for this, beside the records.

    status of the summary is "finished" or "diverged"; its reason is None only for a training that came to something.
    """
    options, rule = dataclasses.replace(options or TrainOptions(), **keywords), rule or Rule()
    task = load_task(spec)
    task.try_out(options.batch_size)
    training = Training(
        task,
        lambda params: RMSprop.from_rule(params, rule),
        options.seed,
        options.epochs,
        options.batch_size,
        options.schedule,
    )
    every = usual_every(training.total_steps) if options.every is None else options.every
    used = dataclasses.replace(options, epochs=training.epochs, batch_size=training.batch_size, every=every)
    config = {
        "kind": "train",
        "task": spec,
        "task_code": task_code(spec),
        "rule": dataclasses.asdict(rule),
        **result_options(used),
        "made_with": {"torch": torch.__version__, "threads": torch.get_num_threads()},
    }
    path = options.out or new_path("train", task.name, resume=options.resume)
    with RunDirectory.open(
        path, cast(TrainConfig, config), resume=options.resume, accept_changes=options.accept_changes
    ) as run:
        _use_threads(run.config()["made_with"])
        recorded = _RecordedTraining(run, training, every)
        recorded.restore()
        recorded.run_to_end(listen)
        given: Given = {"epochs": options.epochs, "batch_size": options.batch_size}
        return run, run.finish(_summary(recorded, command, given))


def usual_every(steps: int) -> int:
    """Return how many steps lie between two records of a run of `steps`."""
    return min(EVERY, max(1, steps // RECORDS))


class _RecordedTraining:
    """A training whose records and checkpoints go into a run directory."""

    def __init__(self, run: RunDirectory, training: Training, every: int) -> None:
        self.run, self.training, self.every = run, training, every
        self.steps = StepRecorder(run, training, every)
        self._records = 0  # in records.jsonl

    @property
    def lost_records(self) -> int:
        """How many records a crash has cost."""
        return max(0, self._records - len(self.run.records()))

    def restore(self) -> None:
        """Go to the run's checkpoint, and drop the records of later steps; without a checkpoint, of all steps."""
        step = self.training.step if self.run.load_checkpoint(self._load_state_dict) else -1
        self.run.keep_records_until(step, self._records)
        self.steps.begin(step)

    def run_to_end(self, listen: Listener) -> None:
        """Train; save from time to time, at the end, and when a signal asks to stop, which raises Interrupted."""
        saver = Saver(self.run)
        with stop_signals() as stopped:
            for new in self.training.run():
                self.run.append(new)
                self._records += len(new)
                listen(self.training, new)
                step = self.training.step  # 0 is the start, which needs no checkpoint
                if step and (stopped or saver.due()):
                    saver.save(self._state_dict())
                if stopped:
                    raise Interrupted(f"stopped after step {step} of {self.training.total_steps}")
            saver.save(self._state_dict())

    def _state_dict(self) -> dict[str, Any]:
        self.steps.write()
        return {
            "training": self.training.state_dict(),
            "watch": self.steps.state_dict(),
            "records": self._records,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["training"])
        self.steps.load_state_dict(state["watch"])
        self._records = state["records"]


def _use_threads(made_with: MadeWith) -> None:
    """Use as many threads as the run began with: their number decides the last bits of sums."""
    torch.set_num_threads(made_with["threads"])


def _summary(recorded: _RecordedTraining, command: str, given: Given) -> TrainSummary:
    run, training = recorded.run, recorded.training
    validations = _validations(run, training)
    last = validations[-1]
    reason = _what_went_wrong(run, training, last)
    summary: TrainSummary = {
        "status": "diverged" if reason else "finished",
        "reason": reason,
        "task": training.task.name,
        "metric": training.score.name,
        "metric_kind": training.score.kind,
        "higher_is_better": training.score.higher_is_better,
        "epochs": training.epoch,
        "steps": training.step,
        "validation_loss": last.loss,
        "validation_metric": last.metric,
        "command": command,
        "given": given,
        "implementation": getattr(training.optimizer, "implementation", ""),
        "environment": environment(),
    }
    if reason == NOT_IN_VALIDATION:
        summary["lost_epoch"] = next(v.epoch for v in validations if v.loss is None)
    findings = findings_to_show(run, summary)
    if findings or measured_steps(run):
        summary["findings"] = findings
    if any(f["kind"] == LEARNED_NOTHING for f in findings):
        summary["reason"] = LEARNED_NOTHING
    if training.task.test is not None and not reason:
        tested = training.evaluate("test")
        summary["test_loss"], summary["test_metric"] = tested.loss, tested.metric
    if recorded.every:
        summary["post_mortem"] = _post_mortem(recorded.steps)
    if recorded.lost_records:
        summary["lost_records"] = recorded.lost_records
    return summary


class _Validation(NamedTuple):
    """What the validation data said after an epoch; None stands for what is not finite."""

    epoch: int
    loss: float | None
    metric: float | None


def _validations(run: RunDirectory, training: Training) -> list[_Validation]:
    """Return the results of all epochs; the last one is measured again where a crash has lost its record."""
    epochs: list[EpochRecord] = [record for record in run.records() if record["kind"] == "epoch"]
    results = [_Validation(e["epoch"], e["validation_loss"], e["validation_metric"]) for e in epochs]
    if not results or results[-1].epoch != training.epoch:
        again = training.evaluate("validation")
        results.append(_Validation(training.epoch, finite(again.loss), finite(again.metric)))
    return results


def _post_mortem(steps: StepRecorder) -> PostMortemFacts | None:
    found = steps.post_mortem()
    return None if found is None else cast(PostMortemFacts, {**found.to_dict(), "text": str(found)})


def _what_went_wrong(run: RunDirectory, training: Training, last: _Validation) -> str | None:
    """Return the reason why a training counts as diverged, None if it does not."""
    rule = run.config()["rule"]
    lost = last.loss is None  # what is not finite is recorded as null
    if training.diverged or (lost and not all(p.isfinite().all() for p in training.model.parameters())):
        return "not finite"
    if not rule["maximize"] and find_runaway_loss(LossHistory(run.records()), rule["lr"]):
        return "ran away"
    return NOT_IN_VALIDATION if lost else None
