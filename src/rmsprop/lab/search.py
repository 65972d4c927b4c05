"""`rmsprop tune`: search for the hyperparameters of RMSprop on a task, and say how sure the result is.

The first trial is the default, the second the rate of the range test. Then values are drawn in the space of
`rmsprop.lab.tuning.space`, in a budget that is not exceeded. Each trial trains on the same seed. The best trials and
the default are trained again on new seeds, which decides whether there is a gain: see `rmsprop.lab.tuning.verdict`.

All trials are in one storage of Optuna, which workers of several processes and hosts share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

try:
    import optuna as _optuna  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("rmsprop tune needs optuna: pip install 'rmsprop[tune]'", name="optuna") from error

from rmsprop.environment import cores, environment
from rmsprop.errors import InputError, Received
from rmsprop.lab.find_task import load_task
from rmsprop.lab.processes import check_alone
from rmsprop.lab.range_test import on_task
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
from rmsprop.lab.tuning.objective import FunctionObjective, Objective, TaskObjective
from rmsprop.lab.tuning.plan import Plan, make_plan, space_to_json
from rmsprop.lab.tuning.setting_file import BEST, write_best
from rmsprop.lab.tuning.space import Setting
from rmsprop.lab.tuning.storage import JOURNAL, open_storage
from rmsprop.lab.tuning.study import Study, begin, confirming_jobs, ranked
from rmsprop.lab.tuning.trainings import gradient_rms
from rmsprop.lab.tuning.trial_queue import ended_slots
from rmsprop.lab.verdicts import CONFIDENCE
from rmsprop.lab_options import TuneOptions, result_options
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

_POLL = 0.3  # seconds between two looks at the study
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
        Estimate, None at first.
    news
        The newest trial, in words.
    """

    confirming: bool
    done: int
    total: int
    best: float | None
    default: float | None
    noise: float | None
    seconds_left: float | None
    news: str


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
        summary = _run(subject, rule, options, config, run, command, listen, began, joins=joins)
        if summary is None:  # this process has joined: the one that leads writes the result
            summary = _awaited(run)
        return Tuned(run, summary)


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
            for name in ("folds", "epochs"):
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
        "schedule": None,
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


def _run(
    subject: _Subject,
    rule: Rule,
    options: TuneOptions,
    config: TuneConfig,
    run: RunDirectory,
    command: str,
    listen: Listener,
    began: float,
    *,
    joins: bool,
) -> TuneSummary | None:
    """Work on the study until it is finished; return its summary, or None if another process of this host leads."""
    location = options.storage or str(run.path / JOURNAL)
    name = "study" if options.storage is None else options.study or f"tune-{subject.name}"
    workers = options.workers or cores()
    with stop_signals() as stopped:
        study = _study(subject, rule, options, config, location, name, workers, began, stopped)
        if options.resume and not joins:
            study.go_on()
        with (
            sent_to_workers(subject.spec) as source,
            _workers(options, workers) as make,
            make(location, name, study.plan, source, options.epochs, options.folds) as crew,
        ):
            _attend(study, crew, listen, stopped)
    if joins:
        return None
    summary = _summary(subject, study, options, workers, time.time() - began, command)
    chosen = Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])
    write_best(chosen, run.path / BEST, command or f"rmsprop.lab.tune on {subject.name}")
    return cast(TuneSummary, run.finish(summary))


@contextmanager
def _workers(options: TuneOptions, count: int) -> Iterator[Callable[..., Any]]:
    """Yield the function that starts workers: processes of this host, or tasks of Ray."""
    if options.cluster is None:
        yield lambda *job: Crew(count, *job)
        return
    from rmsprop.lab.tuning.ray_crew import ray_crew

    with ray_crew(options.address, count) as make:
        yield make


def _study(
    subject: _Subject,
    rule: Rule,
    options: TuneOptions,
    config: TuneConfig,
    location: str,
    name: str,
    workers: int,
    began: float,
    stopped: list[int],
) -> Study:
    """Return the study, a new one with its plan or one that goes on."""
    storage = open_storage(location)
    seconds_of_epoch = 1.0
    if options.minutes is not None and subject.task is not None:
        seconds_of_epoch = _seconds_of_epoch(subject.task)
    plan = make_plan(
        rule,
        options,
        cost=subject.objective.cost,
        confirming_cost=subject.objective.confirming_cost,
        higher_is_better=subject.higher_is_better,
        seconds_of_epoch=seconds_of_epoch,
        workers=workers,
        has_schedules=subject.task is not None,
    )
    study = Study(storage, name, plan)
    if not study.is_begun() and subject.task is not None:
        plan = _probed(plan, subject.task, rule, options, stopped)
    return begin(storage, name, _without_versions(config), plan, began)


def _probed(plan: Plan, task: Task, rule: Rule, options: TuneOptions, stopped: list[int]) -> Plan:
    """Return the plan with what short runs measure: √v̂ if ε is tuned, and the rate of the range test."""

    def check(_done: int, _total: int) -> None:
        if stopped:
            raise Interrupted("stopped before the first trial")

    unit = None
    if any("eps" in space for space in plan.spaces.values()):
        unit = gradient_rms(task, rule, options.epochs)
        if unit is None:
            remedy = "leave eps out of --space, or check the gradients: rmsprop train with --every 1 shows them"
            raise InputError("eps", "tuned on a task with gradients above 0", Received("none above 0"), remedy)
    suggested = None
    if not task.generates and plan.sampler != "grid":
        with contextlib.suppress(InputError):  # a rule or a data set that a range test cannot use: no suggestion
            suggested = on_task(task, rule, listen=check, steps=_RANGE_TEST_STEPS, seeds=1).lr
    check(0, 0)
    if suggested is not None and f"{suggested:.3g}" == f"{rule.lr:.3g}":
        suggested = None
    return dataclasses.replace(plan, gradient_rms=unit, suggested=suggested)


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


def _attend(study: Study, crew: Any, listen: Listener, stopped: list[int]) -> None:
    """Watch the study until it is finished: replace workers that were killed, show the progress."""
    done, saved = -1, 0.0
    while not study.is_finished():
        progress = progress_of(study)
        crew.tend(progressed=progress.done != done)
        done = progress.done
        listen(progress)
        if time.monotonic() - saved > 10:
            study.keep_alive()
            saved = time.monotonic()
        if stopped:
            what = "trainings that confirm" if progress.confirming else "trials"
            raise Interrupted(f"stopped after {progress.done} of {progress.total} {what}")
        time.sleep(_POLL)
    listen(progress_of(study))


def progress_of(study: Study) -> Progress:
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
    left = None
    if plan.seconds is not None:
        left = max(0.0, plan.seconds - study.elapsed())
    elif 0 < done < total:
        left = study.elapsed() / done * (total - done) if not confirming else None
    return Progress(
        confirming,
        done,
        total,
        float(best[0].values[0]) if best else None,
        score,
        study.noise(),
        left,
        "" if newest is None else _news(newest.user_attrs),
    )


def _news(facts: dict[str, Any]) -> str:
    rule = facts["setting"]["rule"]
    return f"{facts['phase']}: lr {rule['lr']:.3g}" + (f" ({facts['reason']})" if facts["reason"] else "")


def _summary(
    subject: _Subject, study: Study, options: TuneOptions, workers: int, seconds: float, command: str
) -> TuneSummary:
    candidates = verdict.judge_candidates(study)
    task = subject.task
    return {
        "status": "finished",
        "task": subject.name,
        "metric": subject.metric,
        "metric_kind": subject.metric_kind,
        "higher_is_better": subject.higher_is_better,
        "command": command,
        "implementation": "",
        "environment": environment(),
        "trials": verdict.trial_facts(study),
        "candidates": candidates,
        "recommended": verdict.recommended(candidates, higher_is_better=subject.higher_is_better),
        "confidence": CONFIDENCE,
        "noise": study.noise(),
        "spaces": {name: space_to_json(study.space(name)) for name in study.searches},
        "widened": verdict.widened_ranges(study),
        "at_ends": verdict.ends(study),
        "failures": verdict.failures(study),
        "gradient_rms": study.plan.gradient_rms,
        "confirmed_on": "validation" if task is None or task.test is None else "test",
        "seconds": seconds,
        "workers": workers,
    }


def _awaited(run: RunDirectory) -> TuneSummary:
    """Return the summary that the leading process writes."""
    while not (run.path / SUMMARY).exists():
        if not is_held(run.path):
            found = Received(f"{run.path}, where the process that led it has ended")
            raise InputError("the study", "finished", found, "add --resume to finish it")
        time.sleep(_POLL)
    return cast(TuneSummary, run.summary())
