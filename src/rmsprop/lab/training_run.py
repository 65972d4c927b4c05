"""`rmsprop train`: run one training with RMSprop, record it, and resume it after an interruption."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from rmsprop.files import write_atomically
from rmsprop.lab.compute import Compute
from rmsprop.lab.find_task import load_task
from rmsprop.lab.processes import Processes, device_of_this_process, joined
from rmsprop.lab.run import Run
from rmsprop.lab.runs.directory import CONFIG, PICTURE, RunDirectory, new_path
from rmsprop.lab.runs.recorded_training import Listener, RecordedTraining
from rmsprop.lab.runs.schema import (
    GivenOptions,
    MadeWith,
    TrainConfig,
)
from rmsprop.lab.runs.selection import Selection
from rmsprop.lab.runs.task_code import source_of
from rmsprop.lab.runs.trackers import Trackers
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.runs.training_summary import evaluated_result, summary_of
from rmsprop.lab.setup import recipe_of, with_recipe
from rmsprop.lab.sharding import chosen_sharding, zero_redundancy
from rmsprop.lab.task import Task
from rmsprop.lab_options import TrainOptions, result_options
from rmsprop.recipes import Recipe
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

_ARGUMENTS = ("state_dtype", "stochastic_rounding", "nonfinite")  # options that are arguments of RMSprop
EVERY = 250  # steps between records of a long training: they cost a small share of its time (docs/monitor.md)
RECORDS = 10  # records of a training of fewer than RECORDS * EVERY steps; they may cost a larger share


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
    - picture.svg: what the trained model generates; only of a task whose model generates something to see
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
            if options.clip is None and not isinstance(rule, Recipe):
                options = dataclasses.replace(options, clip=task.clip)
            used_recipe = recipe_of(rule, options)
            sharding = chosen_sharding(options, used_recipe, processes)
            make = zero_redundancy if sharding == "zero" else RMSprop.from_rule
            arguments = {name: getattr(options, name) for name in _ARGUMENTS}
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
            recorded = RecordedTraining(run, training, every, trackers)
            recorded.restore()
            recorded.run_to_end(listen)
        given: GivenOptions = {"epochs": options.epochs, "batch_size": options.batch_size}
        result = evaluated_result(recorded)
        if processes.is_first and (picture := task.picture(training.evaluated_model)) is not None:
            write_atomically(path / PICTURE, picture)
        return Run(run, processes.on_first(lambda: run.finish(summary_of(recorded, result, command, given))))


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
        step = run.last_step() if options.tensorboard else 0
        made.append(Trackers(run.path, run.config(), tensorboard=options.tensorboard, wandb=options.wandb, step=step))

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


def _use_threads(made_with: MadeWith) -> None:
    """Use as many threads as the run began with: their number changes the last bits of sums."""
    torch.set_num_threads(made_with["threads"])
