"""`rmsprop tune`: search for the hyperparameters of RMSprop on a task, and say how sure the result is.

The first trial is the default, the second the rate of the range test. Then values are drawn in the space of
`rmsprop.lab.tuning.space`, in a budget that is not exceeded. Each trial trains on the same seed. The best trials and
the default are trained again on new seeds, which decides whether there is a gain: see `rmsprop.lab.tuning.verdict`.

All trials are in one storage of Optuna, which workers of several processes and hosts share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

try:
    from optuna.storages import BaseStorage
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("rmsprop tune needs optuna: pip install 'rmsprop[tune]'", name="optuna") from error

from rmsprop.environment import cores, environment
from rmsprop.errors import InputError, Received
from rmsprop.lab.find_task import load_task
from rmsprop.lab.processes import check_alone
from rmsprop.lab.range_test import on_task
from rmsprop.lab.report.tuning_words import reason_words
from rmsprop.lab.runs.directory import CONFIG, SUMMARY, RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.lock import is_held
from rmsprop.lab.runs.schema import TuneConfig, TuneSummary
from rmsprop.lab.runs.task_code import source_of
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.runs.trial import sent_to_workers
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.task import Task
from rmsprop.lab.tuned import Tuned
from rmsprop.lab.tuning import verdict
from rmsprop.lab.tuning.crew import Crew
from rmsprop.lab.tuning.importances import importances
from rmsprop.lab.tuning.objective import FunctionObjective, Objective, TaskObjective
from rmsprop.lab.tuning.plan import Plan, make_plan, space_to_json
from rmsprop.lab.tuning.setting_file import BEST, write_best
from rmsprop.lab.tuning.space import Setting
from rmsprop.lab.tuning.storage import JOURNAL, opened, shown
from rmsprop.lab.tuning.study import Study, begin, confirming_jobs, ranked
from rmsprop.lab.tuning.trainings import gradient_rms
from rmsprop.lab.tuning.trial_queue import ended_slots
from rmsprop.lab.verdicts import CONFIDENCE
from rmsprop.lab_options import TuneOptions, result_options
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

_POLL = 0.3  # seconds between two looks at the study
_ALIVE_SECONDS = 10.0  # between two records that the study is worked on
_RANGE_TEST_STEPS = 100

Function = Callable[[Rule, int], float]


class Progress(NamedTuple):
    """Where a study stands.

    Attributes
    ----------
    done, total
        Trials of the searches, or with `confirming` trainings of the best settings.
    best, default
        Best score of RMSprop so far, and the default's.
    noise
        Standard deviation of the default's score over seeds; None if not known yet.
    seconds_left
        Estimate for the search, or with `confirming` for the rest; None at first.
    news
        The newest trial, in words.
    metric
        Name of the scores.
    """

    confirming: bool
    done: int
    total: int
    best: float | None
    default: float | None
    noise: float | None
    seconds_left: float | None
    news: str
    metric: str


Listener = Callable[[Progress], None]


def tune(
    spec: str | Task | Function,
    rule: Rule | None = None,
    options: TuneOptions | None = None,
    *,
    higher_is_better: bool | None = None,
    command: str = "",
    listen: Listener = lambda _progress: None,
    **keywords: Any,
) -> Tuned:
    """Search for hyperparameters of RMSprop on a task, and confirm the best on new seeds.

    Parameters
    ----------
    spec
        A Task, or the name of one as in `load_task`. Or a function (rule, seed) → score of your own: it has no epochs,
        no schedule and no pruning.
    rule
        The default: what the search does not tune, and what its result is compared with.
    options
        Options; keywords are fields of `TuneOptions` and override them.
    higher_is_better
        Direction of the score of a function; a task knows its own.
    command
        Command line, for the report.
    listen
        Called with the `Progress` a few times a second.

    Returns
    -------
    Tuned
        The rule to use, whether it is a gain, and the run's directory.

    Raises
    ------
    InputError
        If an option, the space, the task or the storage cannot be used.
    Interrupted
        After SIGINT or SIGTERM; the study goes on with `resume`.

    Examples
    --------
    >>> import tempfile
    >>> from rmsprop import Rule
    >>> def distance(rule: Rule, seed: int) -> float:
    ...     return abs(rule.lr - 0.1) + 1e-6 * seed
    >>> tuned = tune(distance, trials=9, higher_is_better=False, out=tempfile.mkdtemp())
    >>> tuned.gain, 0.02 < tuned.rule.lr < 0.2
    (True, True)
    """
    began = time.time()
    check_alone("tune")
    options, rule = dataclasses.replace(options or TuneOptions(), **keywords), rule or Rule()
    if rule.maximize:
        remedy = "return minus the quantity to maximize as the task's loss"
        raise InputError("--maximize", "left out", True, remedy)
    subject = _Subject.of(spec, options, higher_is_better)
    config = _config_of(subject, rule, options)
    with ExitStack() as held:
        run, joins = _opened(subject.name, options, config, held)
        search = _Search(subject, rule, options, config, run, began, command, listen)
        return Tuned(run, search.joined() if joins else search.led())


class _Subject(NamedTuple):
    """What is tuned: a task or a function, as the caller gave it and as this process uses it."""

    spec: Any
    name: str
    objective: Objective
    task: Task | None
    higher_is_better: bool
    metric: str
    metric_kind: str

    @classmethod
    def of(cls, spec: Any, options: TuneOptions, higher_is_better: bool | None) -> _Subject:
        if callable(spec) and not isinstance(spec, Task):
            for name in ("folds", "epochs", "schedule"):
                if getattr(options, name) is not None:
                    raise InputError(f"--{name}", "omitted for a function", getattr(options, name), "give a Task")
            if higher_is_better is None:
                raise InputError("higher_is_better", "given for a function", None, "pass True or False")
            name = getattr(spec, "__name__", type(spec).__name__).strip("<>")
            return cls(spec, name, FunctionObjective(spec), None, higher_is_better, "score", "metric")
        if higher_is_better is not None:
            raise InputError("higher_is_better", "omitted for a task", higher_is_better, "a task has its own")
        task = load_task(spec)
        task.try_out()
        objective = TaskObjective(task, options.epochs, options.folds, options.seed)
        score = task.score
        return cls(spec, task.name, objective, task, score.higher_is_better, score.name, score.kind)


def _config_of(subject: _Subject, rule: Rule, options: TuneOptions) -> TuneConfig:
    """Return the content of run.json."""
    if subject.task is None:
        source: dict[str, Any] = {"task": subject.name, "task_code": None, "from_python": True}
    else:
        source = source_of(subject.spec)
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in result_options(options).items()}
    config = {
        "kind": "tune",
        **source,
        "rule": dataclasses.asdict(rule),
        **given,
        "made_with": {"torch": torch.__version__},
    }
    return cast(TuneConfig, config)


def _place(name: str, options: TuneOptions, config: TuneConfig) -> tuple[Path, bool]:
    """Return the directory of the run, and whether another process leads the study there, which this one joins."""
    newest = new_path("tune", name, resume=True)
    path = options.out or newest
    if is_held(path) and (path / CONFIG).exists():
        run = RunDirectory(path)
        if options.out is not None or _without_versions(run.config()) == _without_versions(config):
            run.check_same(config)
            return path, True
    return options.out or (newest if options.resume else new_path("tune", name, resume=False)), False


def _opened(name: str, options: TuneOptions, config: TuneConfig, held: ExitStack) -> tuple[RunDirectory, bool]:
    """Return the run, open until `held` ends, or joined: another process leads it then."""
    path, joins = _place(name, options, config)
    if joins:
        return RunDirectory(path), True
    try:
        run = held.enter_context(
            RunDirectory.open(path, config, resume=options.resume, accept_changes=options.accept_changes)
        )
    except InputError:  # perhaps because another process began the same at this moment
        path, joins = _place(name, dataclasses.replace(options, out=path), config)
        if not joins:
            raise
        return RunDirectory(path), True
    return run, False


def _without_versions(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "made_with"}


@dataclass
class _Search:
    """One process's part in a study: it leads the study or joins it, and starts workers."""

    subject: _Subject
    rule: Rule
    options: TuneOptions
    config: TuneConfig
    run: RunDirectory
    began: float  # when the command started, as time.time() has it
    command: str
    listen: Listener

    def __post_init__(self) -> None:
        self.command = shown(self.command)  # files keep it, and it may have a password
        self.workers = self.options.workers or cores()
        self.location = self.options.storage or str(self.run.path / JOURNAL)
        self.name = "study"
        if self.options.storage is not None:
            self.name = self.options.study or f"tune-{self.subject.name}"

    def led(self) -> TuneSummary:
        """Work until the study is finished, and write its result."""
        with opened(self.location) as storage, stop_signals() as stopped:
            study = self._study(storage, stopped)
            if self.options.resume:
                study.go_on()
            self._work_on(study, stopped)
            summary = self._summary(study)
        chosen = Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])
        write_best(chosen, self.run.path / BEST, self.command or f"rmsprop.lab.tune on {self.subject.name}")
        return cast(TuneSummary, self.run.finish(summary))

    def joined(self) -> TuneSummary:
        """Work until the study is finished; return the result that the leading process writes."""
        with opened(self.location) as storage, stop_signals() as stopped:
            self._work_on(self._study(storage, stopped), stopped)
            while not (self.run.path / SUMMARY).exists():
                if stopped:
                    raise Interrupted("stopped; the process that leads the study goes on")
                if not is_held(self.run.path):
                    found = Received(f"{self.run.path}, where the process that led it has ended")
                    raise InputError("the study", "finished", found, "add --resume to finish it")
                time.sleep(_POLL)
        return cast(TuneSummary, self.run.summary())

    def _study(self, storage: BaseStorage, stopped: list[int]) -> Study:
        """Return the study: a new one with its plan, or one that goes on."""
        task = self.subject.task
        timed = self.options.minutes is not None and task is not None
        plan = make_plan(
            self.rule,
            self.options,
            cost=self.subject.objective.cost,
            confirming_cost=self.subject.objective.confirming_cost,
            higher_is_better=self.subject.higher_is_better,
            seconds_of_epoch=_seconds_of_epoch(cast(Task, task)) if timed else 1.0,
            workers=self.workers,
            trains=task is not None,
        )
        if task is not None and not Study(storage, self.name, plan).is_begun():
            plan = self._probed(plan, task, stopped)
        return begin(storage, self.name, _without_versions(self.config), plan, self.began)

    def _probed(self, plan: Plan, task: Task, stopped: list[int]) -> Plan:
        """Return the plan with what short runs measure: √v̂ if ε is tuned, and the rate of the range test."""

        def check(_done: int, _total: int) -> None:
            if stopped:
                raise Interrupted("stopped before the first trial")

        unit = None
        if any("eps" in space for space in plan.spaces.values()):
            unit = gradient_rms(task, self.rule, self.options.epochs)
            if unit is None:
                remedy = "leave eps out of --space, or check the gradients: rmsprop train with --every 1 shows them"
                raise InputError("eps", "tuned on a task with gradients above 0", Received("none above 0"), remedy)
        suggested = None
        if not task.generates and plan.sampler != "grid":
            with contextlib.suppress(InputError):  # a rule or a data set that a range test cannot use: no suggestion
                suggested = on_task(task, self.rule, listen=check, steps=_RANGE_TEST_STEPS, seeds=1).lr
        check(0, 0)
        if suggested is not None and f"{suggested:.3g}" == f"{self.rule.lr:.3g}":
            suggested = None
        return dataclasses.replace(plan, gradient_rms=unit, suggested=suggested)

    def _work_on(self, study: Study, stopped: list[int]) -> None:
        """Let workers run the study to its end: replace those that were killed, show the progress."""
        done, saved = -1, 0.0
        with sent_to_workers(self.subject.spec) as source, ExitStack() as held:
            job = (self.location, self.name, study.plan, source, self.options.epochs, self.options.folds)
            if self.options.cluster is None:
                crew: Any = held.enter_context(Crew(self.workers, *job))
            else:
                from rmsprop.lab.tuning.ray_crew import ray_crew

                crew = held.enter_context(ray_crew(self.options.address, self.workers, *job))
            while not study.is_finished():
                progress = progress_of(study, self.subject.metric)
                crew.tend(progressed=progress.done != done)
                done = progress.done
                self.listen(progress)
                if time.monotonic() - saved > _ALIVE_SECONDS:
                    study.keep_alive()
                    saved = time.monotonic()
                if stopped:
                    what = "trainings that confirm" if progress.confirming else "trials"
                    raise Interrupted(f"stopped after {progress.done} of {progress.total} {what}")
                time.sleep(_POLL)
        self.listen(progress_of(study, self.subject.metric))

    def _summary(self, study: Study) -> TuneSummary:
        candidates = verdict.judge_candidates(study)
        task = self.subject.task
        return {
            "status": "finished",
            "task": self.subject.name,
            "metric": self.subject.metric,
            "metric_kind": self.subject.metric_kind,
            "higher_is_better": self.subject.higher_is_better,
            "command": self.command,
            "implementation": "",
            "environment": environment(),
            "trials": verdict.trial_facts(study),
            "candidates": candidates,
            "recommended": verdict.recommended(candidates, higher_is_better=self.subject.higher_is_better),
            "confidence": CONFIDENCE,
            "noise": study.noise(),
            "spaces": {name: space_to_json(study.space(name)) for name in study.searches},
            "widened": verdict.widened_ranges(study),
            "at_ends": verdict.ends(study),
            "importances": importances(
                study.searches["RMSprop"].trials(),
                study.space("RMSprop"),
                maximize=study.plan.higher_is_better,
                seed=study.plan.seed,
            ),
            "failures": verdict.failures(study),
            "gradient_rms": study.plan.gradient_rms,
            "confirmed_on": "" if task is None else "validation" if task.test is None else "test",
            "seconds": time.time() - self.began,
            "workers": self.workers,
        }


def _seconds_of_epoch(task: Task) -> float:
    """Return how long an epoch takes, from a few steps of the default."""
    training = TrainingLoop(task, with_optimizer(RMSprop), 0)
    records = training.run()
    next(records)  # the first evaluation and the first step warm up
    next(records)
    began, steps = time.monotonic(), 0
    while steps < 20 and time.monotonic() - began < 5 and next(records, None) is not None:
        steps += 1
    one = (time.monotonic() - began) / max(1, steps)
    began = time.monotonic()
    training.evaluate("validation")
    return one * training.steps_per_epoch + time.monotonic() - began


def progress_of(study: Study, metric: str) -> Progress:
    """Return where a study stands."""
    plan, maximize = study.plan, study.plan.higher_is_better
    searches = {name: queue.trials() for name, queue in study.searches.items()}
    best = ranked(searches["RMSprop"], maximize=maximize)
    default = ended_slots(searches["RMSprop"]).get(0)
    confirming = study.is_searched()
    if confirming:
        done = len(ended_slots(study.confirming.trials()))
        total = len(confirming_jobs(plan, study.candidates()))
    else:
        done = sum(len(ended_slots(trials)) for trials in searches.values())
        total = sum(plan.trials if plan.seconds is not None else study.slots(name) for name in searches)
        total = max(total, done)  # of a budget in minutes, an estimate
    ended = [trial for trials in searches.values() for trial in ended_slots(trials).values()]
    newest = max(ended, key=lambda trial: str(trial.datetime_complete), default=None)
    score = None if default is None or default.values is None else float(default.values[0])
    return Progress(
        confirming=confirming,
        done=done,
        total=total,
        best=float(best[0].values[0]) if best else None,
        default=score,
        noise=study.noise(),
        seconds_left=_seconds_left(study, done, total, confirming=confirming),
        news="" if newest is None else _news(newest.user_attrs),
        metric=metric,
    )


def _seconds_left(study: Study, done: int, total: int, *, confirming: bool) -> float | None:
    """Return how long the search takes still, or the trainings that confirm; None if not known."""
    if study.plan.seconds is not None:
        return max(0.0, study.plan.seconds - study.elapsed())
    if not 0 < done < total:
        return None
    if not confirming:
        return study.elapsed() / done * (total - done)
    begun = [trial.datetime_start for trial in study.confirming.trials() if trial.datetime_start is not None]
    return (datetime.datetime.now() - min(begun)).total_seconds() / done * (total - done) if begun else None


def _news(facts: dict[str, Any]) -> str:
    setting = facts["setting"]
    name = "" if setting["optimizer"] == "RMSprop" else f"{setting['optimizer']}, "
    reason = f", {reason_words(facts['reason'])}" if facts["reason"] else ""
    return f"{name}{facts['phase']}: lr {setting['rule']['lr']:.3g}{reason}"
