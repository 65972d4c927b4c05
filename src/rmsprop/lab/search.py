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
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

try:
    import optuna as _optuna  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("rmsprop tune needs optuna: pip install 'rmsprop[tune]'", name="optuna") from error

from rmsprop.environment import cores
from rmsprop.errors import InputError, Received
from rmsprop.lab.processes import check_alone
from rmsprop.lab.range_test import on_task
from rmsprop.lab.runs.directory import CONFIG, SUMMARY, RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.lock import is_held
from rmsprop.lab.runs.schema import TuneConfig, TuneSummary
from rmsprop.lab.runs.trial import sent_to_workers
from rmsprop.lab.task import Task
from rmsprop.lab.tuned import Tuned
from rmsprop.lab.tuning.crew import Crew
from rmsprop.lab.tuning.plan import Plan
from rmsprop.lab.tuning.progress import Listener, progress_of
from rmsprop.lab.tuning.ray_crew import check_ray, ray_crew
from rmsprop.lab.tuning.setting_file import BEST, write_best
from rmsprop.lab.tuning.space import Setting
from rmsprop.lab.tuning.storage import JOURNAL, opened, shown
from rmsprop.lab.tuning.study import Study, begin, check_config, is_begun, without_versions
from rmsprop.lab.tuning.subject import Function, Subject, config_of, plan_of
from rmsprop.lab.tuning.summary import STUDY, summary_of
from rmsprop.lab.tuning.trainings import gradient_rms
from rmsprop.lab_options import TuneOptions
from rmsprop.rule import Rule

_POLL = 0.3  # seconds between two looks at the study
_BEGIN_SECONDS = 30.0  # in which a process that holds a new directory has written run.json
_ALIVE_SECONDS = 10.0  # between two records that the study is worked on
_RANGE_TEST_STEPS = 100


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
        raise InputError("--maximize", "omitted", True, remedy)
    if options.cluster is not None:
        check_ray(options.address)
    subject = Subject.of(spec, options, higher_is_better)
    config, plan = config_of(subject, rule, options), plan_of(subject, rule, options)
    return _Search(subject, rule, options, config, plan, began, shown(command), listen).result()


def _led_elsewhere(name: str, options: TuneOptions, config: TuneConfig) -> RunDirectory | None:
    """Return the run of this study that another process of this host leads, which this one can join; None without."""
    run = RunDirectory(options.out or new_path("tune", name, resume=True))
    if not is_held(run.path) or not (run.path / CONFIG).exists():
        return None
    if options.out is None and without_versions(run.config()) != without_versions(config):
        return None
    run.check_same(config)
    return run


@dataclass
class _Search:
    """One process's part in a study: it leads the study or joins it, and starts workers."""

    subject: Subject
    rule: Rule
    options: TuneOptions
    config: TuneConfig
    plan: Plan
    began: float  # when the command started, as time.time() has it
    command: str
    listen: Listener

    def __post_init__(self) -> None:
        self.workers = self.options.workers or cores()
        self._probed = False
        self.name = STUDY
        if self.options.storage is not None:
            self.name = self.options.study or f"tune-{self.subject.name}"

    def result(self) -> Tuned:
        """Lead the study or join it; return its result. What can be refused is refused before a file is written."""
        with ExitStack() as held:
            stopped = held.enter_context(stop_signals())
            database = None
            if self.options.storage is not None:
                database = held.enter_context(opened(self.options.storage))
                check_config(database, self.name, self.config, accept_changes=self.options.accept_changes)
            run = _led_elsewhere(self.subject.name, self.options, self.config)
            if run is None and not self.options.resume and not (database and is_begun(database, self.name)):
                self._probe(stopped)
            leads = run is None
            if run is None:
                run, leads = self._opened(held)
            self.location = self.options.storage or str(run.path / JOURNAL)
            storage = database or held.enter_context(opened(self.location))
            if not self._probed and not is_begun(storage, self.name):
                self._probe(stopped)
            study = begin(
                storage, self.name, self.config, self.plan, self.began, accept_changes=self.options.accept_changes
            )
            if leads and self.options.resume:
                study.go_on()
            self._work_on(study, stopped)
            return Tuned(run, self._finish(run, study) if leads else _awaited(run, stopped))

    def _opened(self, held: ExitStack) -> tuple[RunDirectory, bool]:
        """Return the run and whether this process leads it: another one may begin the same at this moment."""
        name, options = self.subject.name, self.options
        path = options.out or new_path("tune", name, resume=options.resume)
        until = time.monotonic() + _BEGIN_SECONDS
        while True:
            try:
                return held.enter_context(
                    RunDirectory.open(path, self.config, resume=options.resume, accept_changes=options.accept_changes)
                ), True
            except InputError:
                run = _led_elsewhere(name, dataclasses.replace(options, out=path), self.config)
                if run is not None:
                    return run, False
                if not is_held(path) or time.monotonic() > until:
                    raise
            time.sleep(_POLL)  # the other process holds the directory and has not written run.json yet

    def _probe(self, stopped: list[int]) -> None:
        """Add to the plan what short runs measure: √v̂ if ε is tuned, and the rate of the range test."""
        task, self._probed = self.subject.task, True
        if task is None:
            return

        def check(_done: int, _total: int) -> None:
            if stopped:
                raise Interrupted("stopped before the first trial")

        unit = None
        if any("eps" in space for space in self.plan.spaces.values()):
            unit = gradient_rms(task, self.rule, self.options.epochs)
            if unit is None:
                remedy = "leave eps out of --space, or check the gradients: rmsprop train with --every 1 shows them"
                raise InputError("eps", "tuned on a task with gradients above 0", Received("none above 0"), remedy)
        suggested = None
        if not task.generates and self.plan.sampler != "grid":
            with contextlib.suppress(InputError):  # a rule or a data set that a range test cannot use: no suggestion
                suggested = on_task(task, self.rule, listen=check, steps=_RANGE_TEST_STEPS, seeds=1).lr
        check(0, 0)
        if suggested is not None and f"{suggested:.3g}" == f"{self.rule.lr:.3g}":
            suggested = None
        self.plan = dataclasses.replace(self.plan, gradient_rms=unit, suggested=suggested)

    def _work_on(self, study: Study, stopped: list[int]) -> None:
        """Let workers run the study to its end: replace those that were killed, show the progress."""
        done, saved = -1, 0.0
        with sent_to_workers(self.subject.spec) as source, ExitStack() as held:
            job = (self.location, self.name, study.plan, source, self.options.epochs, self.options.folds)
            if self.options.cluster is None:
                crew: Any = held.enter_context(Crew(self.workers, *job))
            else:
                crew = held.enter_context(ray_crew(self.options.address, self.workers, *job))
            while not study.is_finished():
                progress = progress_of(study, self.subject.metric)
                crew.tend(progressed=progress.done != done)
                done = progress.done
                self.listen(progress)
                if time.monotonic() - saved > _ALIVE_SECONDS:
                    with contextlib.suppress(OSError):  # of a full disk, which ends the workers: `tend` says so
                        study.keep_alive()
                    saved = time.monotonic()
                if stopped:
                    what = "trainings that confirm" if progress.confirming else "trials"
                    raise Interrupted(f"stopped after {progress.done} of {progress.total} {what}")
                time.sleep(_POLL)
        self.listen(progress_of(study, self.subject.metric))

    def _finish(self, run: RunDirectory, study: Study) -> TuneSummary:
        """Write best.toml and the summary, which ends the run."""
        seconds = time.time() - self.began
        summary = summary_of(study, self.config, command=self.command, seconds=seconds, workers=self.workers)
        chosen = Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])
        write_best(chosen, run.path / BEST, self.command or f"rmsprop.lab.tune on {self.subject.name}")
        return cast(TuneSummary, run.finish(summary))


def _awaited(run: RunDirectory, stopped: list[int]) -> TuneSummary:
    """Return the result that the leading process writes."""
    while not (run.path / SUMMARY).exists():
        if stopped:
            raise Interrupted("stopped; the process that leads the study goes on")
        if not is_held(run.path):
            found = Received(f"{run.path}, where the process that led it has ended")
            raise InputError("the study", "finished", found, "add --resume to finish it")
        time.sleep(_POLL)
    return cast(TuneSummary, run.summary())
