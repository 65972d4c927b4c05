"""`rmsprop compare`: compare RMSprop with other optimizers, each at its best learning rate on validation data.

Stage 1 trains every optimizer at every rate of one grid. It picks the rate with the best mean validation metric of
each optimizer; validation loss breaks ties. If an optimizer's best rate is an end of the grid, the grid is widened
there, once. Every optimizer is trained at the new rates, so that all are tuned equally.

Stage 2 trains each optimizer at its rate with other seeds. A seed fixes the model's start and the order of the data, so
that optimizers are compared seed by seed. Only stage 2 uses the test data, once per model.

In both stages the rate falls linearly to zero over a training, unless another schedule is asked for. With a constant
rate, the noise of the last steps would decide the comparison.

With `ablate`, the rules from the given one to Adam take the place of the optimizers. Each is compared with the one
before it, and the last with the first, to show what each switch brings.

Intervals are Student's for the mean of paired differences. They are widened for the number of comparisons (Bonferroni):
all of them hold jointly with 95 % confidence.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch

from rmsprop.environment import cores, environment
from rmsprop.errors import InputError
from rmsprop.lab.ablation import ablation
from rmsprop.lab.find_task import load_task
from rmsprop.lab.learning_rates import LEARNING_RATES, Choice, choose, rates_beyond
from rmsprop.lab.processes import check_alone
from rmsprop.lab.run import Run
from rmsprop.lab.runs.directory import RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.schema import (
    CompareConfig,
    CompareSummary,
    ConstantScore,
    Difference,
    FinalRow,
    ScoreFacts,
    TrialRow,
)
from rmsprop.lab.runs.task_code import source_of
from rmsprop.lab.runs.trial import Source, Trial, key_of, run_trial, sent_to_workers
from rmsprop.lab.runs.workers import Workers
from rmsprop.lab.task import Task
from rmsprop.lab.verdicts import CONFIDENCE, constant_score, judge, judge_all_switches
from rmsprop.lab_options import OPTIMIZERS, USUAL_OPTIMIZERS, CompareOptions, ScheduleName, result_options
from rmsprop.rule import Rule

Listener = Callable[[str, int, int, TrialRow | None], None]  # stage, trainings done, their total, newest row


def compare(
    spec: str | Task,
    rule: Rule | None = None,
    options: CompareOptions | None = None,
    *,
    command: str = "",
    listen: Listener = lambda _stage, _done, _total, _row: None,
    **keywords: Any,
) -> Run:
    """Compare `rule` with other optimizers on a task; return the Run: its directory and its CompareSummary.

    `spec` is a Task, or names one as in `load_task`. Keywords are fields of `CompareOptions` and override `options`.

    The rate of every optimizer is picked from `learning_rates`; the rule's lr is not used. The other optimizers keep
    torch's defaults, except that "momentum" is SGD with a momentum of 0.9. With `ablate` there are no others, but the
    rules from the given one to Adam, with one switch more each. All clip gradients to `Task.clip`, if it has one.

    `jobs` trainings run at a time, each in a process of one thread. Their number changes no result. If memory runs
    out, half as many run at a time. With `resume`, recorded trainings are not repeated.

    Raises
    ------
    InputError
        If the rule maximizes, the task cannot be run or has no test data, or the directory cannot hold this run.
    Interrupted
        After SIGINT or SIGTERM.
    WorkerLost
        If memory does not suffice for a single training, or a worker process ends for another reason.
    """
    check_alone("compare")
    options, rule = dataclasses.replace(options or CompareOptions(), **keywords), rule or Rule()
    tuning_seeds = options.tuning_seeds or (1 if options.quick else 2)
    seeds = options.seeds or (5 if options.quick else 10)
    rules = ablation(rule) if options.ablate else dict.fromkeys(_names(options), rule)
    grid = sorted(set(options.learning_rates or LEARNING_RATES[:: 2 if options.quick else 1]))
    if rule.maximize:
        remedy = "return minus the quantity to maximize as the task's loss: the other optimizers minimize"
        raise InputError("--maximize", "omitted", True, remedy)
    task = load_task(spec)
    if task.test is None:
        raise InputError("Task.test", "a torch Dataset for a comparison", None, "hold some of the data out")
    task.try_out()
    whole: dict[str, Any] = {"tuning_seeds": tuning_seeds, "seeds": seeds, "epochs": options.epochs or task.epochs}
    used = dataclasses.replace(options, learning_rates=tuple(grid), **whole)
    path = options.out or new_path("compare", task.name, resume=options.resume)
    config = _config_of(spec, rule, list(rules), used)
    with RunDirectory.open(path, config, resume=options.resume, accept_changes=options.accept_changes) as run:
        run.keep_records(key_of)
        began = time.monotonic()
        with stop_signals() as stopped, sent_to_workers(spec) as source, Workers(options.jobs or cores()) as workers:
            comparison = _Comparison(
                task, source, rules, options.epochs, options.schedule, run, workers, listen, stopped
            )
            tuned = comparison.tune(grid, range(tuning_seeds))
            rows = comparison.final(tuned.choices, range(tuning_seeds, tuning_seeds + seeds))
        better = task.score.higher_is_better
        scores = judge(better, tuned.choices, rows, in_turn=options.ablate)
        summary: CompareSummary = {
            "status": "finished",
            "task": task.name,
            "metric": task.score.name,
            "metric_kind": task.score.kind,
            "higher_is_better": better,
            "constant": cast(ConstantScore, constant_score(rows)._asdict()),
            "confidence": CONFIDENCE,
            "widened": tuned.widened,
            "scores": [cast(ScoreFacts, score._asdict()) for score in scores],
            "jobs": workers.count,
            "seconds": time.monotonic() - began,
            "command": command,
            "implementation": "; ".join(sorted({r["implementation"] for r in rows if r["implementation"]})),
            "environment": environment(),
        }
        if task.clip is not None:
            summary["clip"] = task.clip
        if options.ablate:
            summary["all_switches"] = cast(Difference, judge_all_switches(better, tuned.choices, rows)._asdict())
        return Run(run, run.finish(summary))


def _names(options: CompareOptions) -> list[str]:
    """Return the optimizers to compare, in the order of `OPTIMIZERS`."""
    wanted = {"RMSprop", *(options.optimizers or USUAL_OPTIMIZERS)}
    return [name for name in OPTIMIZERS if name in wanted]


def _config_of(spec: str | Task, rule: Rule, optimizers: list[str], options: CompareOptions) -> CompareConfig:
    """Return the content of run.json."""
    config = {
        "kind": "compare",
        **source_of(spec),
        "rule": {k: v for k, v in dataclasses.asdict(rule).items() if k != "lr"},
        **result_options(options),
        "optimizers": optimizers,
        "learning_rates": list(options.learning_rates or ()),  # JSON has no tuples
        "made_with": {"torch": torch.__version__},
    }
    return cast(CompareConfig, config)


class _Tuned(NamedTuple):
    """The rates picked, and the rates added to the grid."""

    choices: dict[str, Choice]
    widened: list[float]


@dataclass
class _Comparison:
    """The trainings of a comparison: read from its records, or run by its workers."""

    task: Task
    source: Source
    rules: dict[str, Rule]  # by optimizer; those that are not RMSprop ignore it
    epochs: int | None
    schedule: ScheduleName
    run: RunDirectory
    workers: Workers
    listen: Listener
    stopped: list[int]  # numbers of the signals received

    def tune(self, grid: list[float], seeds: Iterable[int]) -> _Tuned:
        """Pick a rate for each optimizer. Widen the grid once, at the ends that are best for an optimizer."""
        trials = [self._trial("tune", o, lr, s) for s in seeds for lr in grid for o in self.rules]
        choices = self._choices(self._rows(trials))
        widened = rates_beyond(grid, choices.values())
        if widened:
            trials += [self._trial("tune", o, lr, s) for s in seeds for lr in widened for o in self.rules]
            choices = self._choices(self._rows(trials))
        return _Tuned(choices, widened)

    def final(self, choices: dict[str, Choice], seeds: Iterable[int]) -> list[FinalRow]:
        """Train each optimizer at its rate with each of `seeds`."""
        trials = [self._trial("final", o, choices[o].lr, s) for s in seeds for o in self.rules]
        return cast(list[FinalRow], self._rows(trials))

    def _trial(self, stage: Literal["tune", "final"], optimizer: str, lr: float, seed: int) -> Trial:
        rule, schedule = self.rules[optimizer], self.schedule
        return Trial(stage, optimizer, lr, seed, self.source, rule, self.epochs, schedule)

    def _choices(self, rows: list[TrialRow]) -> dict[str, Choice]:
        better = self.task.score.higher_is_better
        return {o: choose(better, [row for row in rows if row["optimizer"] == o]) for o in self.rules}

    def _rows(self, trials: list[Trial]) -> list[TrialRow]:
        """Return the row of each trial of one stage. Trials without a record are trained and recorded."""
        stage = trials[0].stage
        done = {key_of(row): row for row in self.run.records() if row["stage"] == stage}
        wanted = [trial for trial in trials if trial.key not in done]
        count = len(trials) - len(wanted)
        self.listen(stage, count, len(trials), None)

        def check() -> None:
            if self.stopped:
                raise Interrupted(f"stopped after {count} of {len(trials)} trainings of this stage")

        for row in self.workers.results(run_trial, wanted, check):
            self.run.append([row])
            done[key_of(row)] = row
            count += 1
            self.listen(stage, count, len(trials), row)
        return [done[trial.key] for trial in trials]
