"""`rmsprop train`: run one training with RMSprop, record it, and resume it after an interruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
from rmsprop.lab.processes import Processes, device_of_this_process, joined
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
from rmsprop.lab.score import Evaluation
from rmsprop.lab.setup import recipe_of, with_recipe
from rmsprop.lab.sharding import chosen_sharding, zero_redundancy
from rmsprop.lab.task import Task
from rmsprop.lab_options import TrainOptions, result_options
from rmsprop.recipes import Recipe
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

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

    If torchrun has started several processes, they share the training (see docs/lab.md). All return the same Run, and
    rank 0 calls `listen`.

    The summary's status is "finished" or "diverged". Its reason is None unless the training diverged or learned
    nothing. For a divergence, post_mortem says at which step and in which tensor it began. The monitor keeps sums of
    the newest 1000 steps for this.

    Raises
    ------
    InputError
        If the task cannot be run, or the directory cannot hold this run.
    Interrupted
        After SIGINT or SIGTERM.
    ProcessLost
        If another process of this training ended. A process that has nothing to add to another's error raises
        ToldElsewhere.

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
    compute = Compute.chosen(device_of_this_process(options.device), options.amp, compiled=options.compile)
    with joined(compute.device) as processes, ExitStack() as held:
        with processes.together():
            task = load_task(spec)
            task.try_out(options.batch_size)
            used_recipe = recipe_of(rule, options)
            sharding = chosen_sharding(options, used_recipe, processes)
            make = zero_redundancy if sharding == "zero" else RMSprop.from_rule
            arguments = {"state_dtype": options.state_dtype, "stochastic_rounding": options.stochastic_rounding}
            training = TrainingLoop(
                task,
                with_recipe(used_recipe, make, **arguments),
                options.seed,
                options.epochs,
                options.batch_size,
                compute,
                Selection(options.evaluate_every, options.patience, options.best),
                processes,
                sharded=sharding == "fsdp",
            )

        def begin() -> tuple[Path, int, MadeWith]:
            """Open the run; return its directory, the steps between measurements, and what the run was made with."""
            path = options.out or new_path("train", task.name, resume=options.resume)
            every = _every(options, path, training.total_steps)
            used = dataclasses.replace(options, epochs=training.epochs, batch_size=training.batch_size, every=every)
            peak = dataclasses.replace(used_recipe.rule(), lr=float(training.scheduler.base_lrs[0]))
            recipe = rule.name if isinstance(rule, Recipe) else None
            config = _config_of(spec, peak, recipe, used, processes.count)
            may_grow = "total_steps" not in used_recipe.schedule.needs
            held.enter_context(
                RunDirectory.open(
                    path, config, resume=options.resume, accept_changes=options.accept_changes, may_grow=may_grow
                )
            )
            return path, every, RunDirectory(path).config()["made_with"]

        path, every, made_with = processes.on_first(begin)
        if made_with.get("processes", 1) == processes.count:  # otherwise the last bits differ anyway
            _use_threads(made_with)
        run = RunDirectory(path)
        with _trackers(run, options, processes) as trackers:
            recorded = _RecordedTraining(run, training, every, trackers)
            recorded.restore()
            recorded.run_to_end(listen)
        given: GivenOptions = {"epochs": options.epochs, "batch_size": options.batch_size}
        result = _result(recorded)
        return Run(run, processes.on_first(lambda: run.finish(_summary(recorded, result, command, given))))


def _config_of(spec: str | Task, rule: Rule, recipe: str | None, options: TrainOptions, processes: int) -> TrainConfig:
    """Return the content of run.json."""
    made_with: MadeWith = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if processes > 1:
        made_with["processes"] = processes
    config = {
        "kind": "train",
        **source_of(spec),
        "recipe": recipe,
        "rule": dataclasses.asdict(rule),
        **result_options(options),
        "made_with": made_with,
    }
    return cast(TrainConfig, config)


def _trackers(run: RunDirectory, options: TrainOptions, processes: Processes) -> Trackers:
    """Return the trackers of the options on rank 0, and none on the others. Collective."""
    made: list[Trackers] = []

    def make() -> None:
        config, step = run.config(), run.last_step()
        made.append(Trackers(run.path, config, tensorboard=options.tensorboard, wandb=options.wandb, step=step))

    processes.on_first(make)
    return made[0] if made else Trackers(run.path, {}, tensorboard=False, wandb=None, step=0)


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
    """A training whose records and checkpoints rank 0 writes to a run directory."""

    def __init__(self, run: RunDirectory, training: TrainingLoop, every: int, trackers: Trackers) -> None:
        self.run, self.training, self.every, self._trackers = run, training, every, trackers
        self.processes = training.processes
        measured = every if self.processes.is_first else 0  # replicas are equal
        self.steps = StepRecorder(run, training, measured, trackers.sinks)
        self._records = 0  # lines written to records.jsonl, as the checkpoint counts them

    @property
    def lost_records(self) -> int:
        """Number of records that a crash has cost."""
        return max(0, self._records - len(self.run.records()))

    def restore(self) -> None:
        """Restore the run's checkpoint and drop the records of later steps. Without a checkpoint, drop all records."""
        read: list[dict[str, Any]] = []
        location = None if self.processes.count == 1 else "cpu"  # another process has another device
        self.processes.on_first(lambda: self.run.load_checkpoint(read.append, location))
        for state in self.processes.on_first(lambda: read):
            with self.processes.together(), self.run.checking_checkpoint():
                self._load_state_dict(state)
        step = self.training.step if read else -1
        if self.processes.is_first:
            self.run.keep_records_until(step, self._records)
            self.steps.begin(step)

    def run_to_end(self, listen: Listener) -> None:
        """Train to the end, with checkpoints. After SIGINT or SIGTERM of any process, save and raise Interrupted."""
        saver = Saver(self.run)
        is_first = self.processes.is_first
        with stop_signals() as stopped:
            for new in self.training.run():
                if is_first:
                    self.run.append(new)
                    listen(self.training, new)
                    self._trackers.show(new, float(self.training.scheduler.get_last_lr()[0]))
                self._records += len(new)
                step = self.training.step  # 0 is the start, which needs no checkpoint
                stop, due = self.processes.any(bool(stopped), is_first and saver.due())
                if step and self.training.resumable and (stop or due):
                    self._save(saver)
                if stop:
                    self.processes.on_first(lambda: _interrupt(self.training))
            self._save(saver)

    def _save(self, saver: Saver) -> None:
        state = self._state_dict()
        self.processes.on_first(lambda: saver.save(state))

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


def _interrupt(training: TrainingLoop) -> None:
    raise Interrupted(f"stopped after step {training.step} of {training.total_steps}")


def _use_threads(made_with: MadeWith) -> None:
    """Use as many threads as the run began with: their number changes the last bits of sums."""
    torch.set_num_threads(made_with["threads"])


class _Validation(NamedTuple):
    """Validation loss and metric after an epoch; None if not finite."""

    epoch: int
    loss: float | None
    metric: float | None
    metrics: Mapping[str, float | None]


class _Result(NamedTuple):
    """How a training ended: why it diverged, if it did; its validations; those of the weights that are kept; tests."""

    reason: str | None
    validations: list[_Validation]
    kept: _Validation
    tested: Evaluation | None


def _result(recorded: _RecordedTraining) -> _Result:
    """Evaluate what is left to evaluate. Collective."""
    run, training, processes = recorded.run, recorded.training, recorded.processes
    validations = processes.on_first(lambda: _validations(run))
    if not validations or validations[-1].epoch != training.epoch:  # a crash has cost the last record
        validations.append(_evaluated(training))
    last = kept = validations[-1]
    lost = training.diverged or (
        last.loss is None and training.has_lost_weights()
    )  # null stands for what is not finite
    reason = processes.on_first(lambda: _what_went_wrong(run, last, lost=lost))
    if training.selection.best and not reason:
        training.use_best()
        kept = _evaluated(training)
    tested = training.evaluate("test") if training.task.test is not None and not reason else None
    return _Result(reason, validations, kept, tested)


def _summary(recorded: _RecordedTraining, result: _Result, command: str, given: GivenOptions) -> TrainSummary:
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
    if training.stopped:
        summary["stopped_early"] = True
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
