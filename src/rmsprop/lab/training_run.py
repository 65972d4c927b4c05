"""`rmsprop train`: run one training with RMSprop, record it, and resume it after an interruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from rmsprop.environment import environment
from rmsprop.files import finite
from rmsprop.lab.compute import Compute
from rmsprop.lab.find_task import load_task
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.runaway_loss import find_runaway_loss
from rmsprop.lab.run import Run
from rmsprop.lab.runs.checkpoints import Saver
from rmsprop.lab.runs.directory import CONFIG, RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.measured_steps import StepRecorder, measured_steps
from rmsprop.lab.runs.schema import (
    EpochRecord,
    GivenOptions,
    MadeWith,
    PostMortemFacts,
    TrainConfig,
    TrainRecord,
    TrainSummary,
)
from rmsprop.lab.runs.task_code import source_of
from rmsprop.lab.runs.trackers import Trackers
from rmsprop.lab.runs.training import Selection, TrainingLoop
from rmsprop.lab.setup import recipe_of, with_recipe
from rmsprop.lab.task import Task
from rmsprop.lab_options import TrainOptions, result_options
from rmsprop.recipes import Recipe
from rmsprop.rule import Rule

Listener = Callable[[TrainingLoop, list[TrainRecord]], None]

EVERY = 250  # steps between records of a long training: they cost a small share of its time (docs/monitor.md)
RECORDS = 10  # records of a training of fewer than RECORDS * EVERY steps; they may cost a larger share
NOT_IN_VALIDATION = "validation not finite"  # reason of a summary if the training losses are finite
LEARNED_NOTHING = "learned nothing"  # reason of a summary, and kind of its finding


def train(
    spec: str | Task,
    rule: Rule | Recipe | None = None,
    options: TrainOptions | None = None,
    *,
    command: str = "",
    listen: Listener = lambda _training, _records: None,
    **keywords: Any,
) -> Run:
    """Train a task with RMSprop; return the Run: its directory and its TrainSummary.

    `spec` is a Task, or names one as in `load_task`. `rule` may be a recipe, with its schedule, clipping and average.
    Keywords are fields of `TrainOptions` and override `options`.

    Files of the directory:

    - run.json: configuration of the run
    - records.jsonl: losses and scores, see `TrainingLoop.run`
    - statistics.jsonl: measured steps, see `rmsprop.monitor.Monitor`; missing if `every` is 0
    - checkpoint.pt: written once a second, or less often if writing takes long; at the end; at an interruption after
      the first step. `Run.load_model` reads the trained model from it
    - summary.json: written at the end

    With `resume` the run goes on, bit for bit as if never interrupted.

    The summary's status is "finished" or "diverged". Its reason is None unless the training diverged or learned
    nothing. For a divergence, post_mortem says at which step and in which tensor it began. The monitor keeps sums of
    the newest 1000 steps for this.

    Raises
    ------
    InputError
        If the task cannot be run, or the directory cannot hold this run.
    Interrupted
        After SIGINT or SIGTERM.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from rmsprop import Rule
    >>> run = train("digits", Rule(lr=0.003), epochs=3, out=Path(tempfile.mkdtemp()))
    >>> run.summary["status"], run.summary["test_metric"] > 0.8
    ('finished', True)
    >>> model = run.load_model()
    """
    options, rule = dataclasses.replace(options or TrainOptions(), **keywords), rule or Rule()
    task = load_task(spec)
    task.try_out(options.batch_size)
    used_recipe = recipe_of(rule, options)
    compute = Compute.chosen(options.device, options.amp, compiled=options.compile)
    arguments = {"state_dtype": options.state_dtype, "stochastic_rounding": options.stochastic_rounding}
    training = TrainingLoop(
        task,
        with_recipe(used_recipe, **arguments),
        options.seed,
        options.epochs,
        options.batch_size,
        compute,
        Selection(options.evaluate_every, options.patience, options.best),
    )
    path = options.out or new_path("train", task.name, resume=options.resume)
    every = _every(options, path, training.total_steps)
    used = dataclasses.replace(options, epochs=training.epochs, batch_size=training.batch_size, every=every)
    peak = dataclasses.replace(used_recipe.rule(), lr=float(training.scheduler.base_lrs[0]))
    config = _config_of(spec, peak, rule.name if isinstance(rule, Recipe) else None, used)
    may_grow = "total_steps" not in used_recipe.schedule.needs
    opened = RunDirectory.open(
        path, config, resume=options.resume, accept_changes=options.accept_changes, may_grow=may_grow
    )
    with opened as run:
        _use_threads(run.config()["made_with"])
        with Trackers(
            run.path, run.config(), tensorboard=options.tensorboard, wandb=options.wandb, step=run.last_step()
        ) as trackers:
            recorded = _RecordedTraining(run, training, every, trackers)
            recorded.restore()
            recorded.run_to_end(listen)
        given: GivenOptions = {"epochs": options.epochs, "batch_size": options.batch_size}
        return Run(run, run.finish(_summary(recorded, command, given)))


def _config_of(spec: str | Task, rule: Rule, recipe: str | None, options: TrainOptions) -> TrainConfig:
    """Return the content of run.json."""
    config = {
        "kind": "train",
        **source_of(spec),
        "recipe": recipe,
        "rule": dataclasses.asdict(rule),
        **result_options(options),
        "made_with": {"torch": torch.__version__, "threads": torch.get_num_threads()},
    }
    return cast(TrainConfig, config)


def _every(options: TrainOptions, path: Path, steps: int) -> int:
    """Return the steps between two measurements; a run that goes on, perhaps for longer, keeps its own number."""
    if options.every is not None:
        return options.every
    began = options.resume and (path / CONFIG).exists()
    every: int = RunDirectory(path).config().get("every", usual_every(steps)) if began else usual_every(steps)
    return every


def usual_every(steps: int) -> int:
    """Return the default number of steps between two measured steps in a run of `steps` steps."""
    return min(EVERY, max(1, steps // RECORDS))


class _RecordedTraining:
    """A training that writes its records and checkpoints to a run directory."""

    def __init__(self, run: RunDirectory, training: TrainingLoop, every: int, trackers: Trackers) -> None:
        self.run, self.training, self.every, self._trackers = run, training, every, trackers
        self.steps = StepRecorder(run, training, every, trackers.sinks)
        self._records = 0  # lines written to records.jsonl, as the checkpoint counts them

    @property
    def lost_records(self) -> int:
        """Number of records that a crash has cost."""
        return max(0, self._records - len(self.run.records()))

    def restore(self) -> None:
        """Restore the run's checkpoint and drop the records of later steps. Without a checkpoint, drop all records."""
        step = self.training.step if self.run.load_checkpoint(self._load_state_dict) else -1
        self.run.keep_records_until(step, self._records)
        self.steps.begin(step)

    def run_to_end(self, listen: Listener) -> None:
        """Train to the end, with checkpoints. After SIGINT or SIGTERM, save and raise Interrupted."""
        saver = Saver(self.run)
        with stop_signals() as stopped:
            for new in self.training.run():
                self.run.append(new)
                self._records += len(new)
                listen(self.training, new)
                self._trackers.show(new, float(self.training.scheduler.get_last_lr()[0]))
                step = self.training.step  # 0 is the start, which needs no checkpoint
                if step and self.training.resumable and (stopped or saver.due()):
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
    """Use as many threads as the run began with: their number changes the last bits of sums."""
    torch.set_num_threads(made_with["threads"])


def _summary(recorded: _RecordedTraining, command: str, given: GivenOptions) -> TrainSummary:
    run, training = recorded.run, recorded.training
    validations = _validations(run, training)
    last = validations[-1]
    reason = _what_went_wrong(run, training, last)
    kept = last
    if training.selection.best and not reason:
        training.use_best()
        kept = _evaluated(training)
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
        "implementation": getattr(training.optimizer, "implementation", ""),
        "environment": environment(),
        "device": str(training.compute.device),
    }
    if kept.metrics:
        summary["metrics"] = dict(kept.metrics)
    if training.selection.best:
        summary["best_epoch"] = training.best_epoch
    if training.stopped:
        summary["stopped_early"] = True
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
        if tested.metrics:
            summary["test_metrics"] = dict(tested.metrics)
    if recorded.every:
        summary["post_mortem"] = _post_mortem(recorded.steps)
    if recorded.lost_records:
        summary["lost_records"] = recorded.lost_records
    return summary


class _Validation(NamedTuple):
    """Validation loss and metric after an epoch; None if not finite."""

    epoch: int
    loss: float | None
    metric: float | None
    metrics: Mapping[str, float | None]


def _evaluated(training: TrainingLoop) -> _Validation:
    found = training.evaluate("validation")
    others = {name: finite(value) for name, value in found.metrics.items()}
    return _Validation(training.epoch, finite(found.loss), finite(found.metric), others)


def _validations(run: RunDirectory, training: TrainingLoop) -> list[_Validation]:
    """Return the validation results of all epochs. If a crash lost the last record, evaluate again."""
    epochs: list[EpochRecord] = [record for record in run.records() if record["kind"] == "epoch"]
    results = [
        _Validation(e["epoch"], e["validation_loss"], e["validation_metric"], e.get("metrics", {})) for e in epochs
    ]
    if not results or results[-1].epoch != training.epoch:
        results.append(_evaluated(training))
    return results


def _post_mortem(steps: StepRecorder) -> PostMortemFacts | None:
    found = steps.post_mortem()
    return None if found is None else cast(PostMortemFacts, {**found.to_dict(), "text": str(found)})


def _what_went_wrong(run: RunDirectory, training: TrainingLoop, last: _Validation) -> str | None:
    """Return why a training counts as diverged; None if it does not."""
    rule = run.config()["rule"]
    lost = last.loss is None  # records hold null for a value that is not finite
    if training.diverged or (lost and not all(p.isfinite().all() for p in training.model.parameters())):
        return "not finite"
    if not rule["maximize"] and find_runaway_loss(LossHistory(run.records()), rule["lr"]):
        return "ran away"
    return NOT_IN_VALIDATION if lost else None
