"""`rmsprop compare`: RMSprop beside other optimizers, each with the learning rate that suits it on validation data.

Stage 1 trains every optimizer at every rate of one grid and picks, per optimizer, the rate with the best mean
validation metric (ties: validation loss). Stage 2 trains each optimizer at its rate with other seeds. A seed fixes
the model's start and the order of the data, so that optimizers can be compared seed by seed; the test data are used
only there, once per model. All rates fall linearly to zero over a training: a constant rate ends in noise of its own
size, which would decide the comparison. Intervals are Student's for the mean of paired differences, widened for the
number of comparisons (Bonferroni), so that they hold jointly with 95 %.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch

from rmsprop.environment import cores, environment
from rmsprop.errors import InputError
from rmsprop.lab.chance import Constant, no_better
from rmsprop.lab.intervals import median_of_known, paired_interval
from rmsprop.lab.learning_rates import LEARNING_RATES, Choice, choose
from rmsprop.lab.runs.directory import RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.task_code import task_code
from rmsprop.lab.runs.trial import OPTIMIZERS, Row, Trial, key_of, run_trial
from rmsprop.lab.runs.workers import Workers
from rmsprop.lab.task import load_task
from rmsprop.lab_options import CompareOptions, that_decide
from rmsprop.rule import Rule

CONFIDENCE = 0.95

Listener = Callable[[str, int, int, Row | None], None]  # stage, trainings done, of how many, the newest


class Score(NamedTuple):
    """One optimizer's test results over the seeds, and its difference to RMSprop seed by seed."""

    optimizer: str
    lr: float
    at_edge: bool
    metric: float  # median over the seeds
    low: float  # worst and best seed, in the order low <= high
    high: float
    validation_loss: float | None  # median over the seeds that did not diverge, at the end of training
    optimizer_us: float | None  # median time of one optimizer step; None if no epoch was finished
    diverged: int  # seeds that ended in a loss that is not finite
    difference: float | None  # mean of this optimizer's metric minus RMSprop's; None for RMSprop itself
    interval: tuple[float, float] | None
    verdict: str  # against RMSprop: "better", "worse", "no difference" (none is shown) or "not comparable"
    at_chance: bool | None = None  # no better than the best prediction that ignores its input; None: not known


def compare(
    spec: str,
    rule: Rule | None = None,
    options: CompareOptions | None = None,
    *,
    command: str = "",
    listen: Listener = lambda _stage, _done, _total, _row: None,
    **keywords: Any,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Compare `rule` with the other `OPTIMIZERS` on the task `spec`; return the run's directory and its summary.

    Keywords are fields of `CompareOptions`, and count before those of `options`. The rule's lr is not used: it is
    picked from `learning_rates`, as for the others, which keep torch's defaults.

    `jobs` trainings run at a time, one thread each, in processes of their own; their number changes no result.
    With `resume`, trainings that are recorded are not repeated; if the task's code has changed since, `accept_changes`
    is needed, and run.json then says so. SIGINT and SIGTERM raise Interrupted. Where memory does not suffice for as
    many, it goes on with half of them; WorkerLost is raised where one is too many, and where a worker process ends
    otherwise.
    """
    options, rule = dataclasses.replace(options or CompareOptions(), **keywords), rule or Rule()
    tuning_seeds, seeds, epochs = options.tuning_seeds, options.seeds, options.epochs
    learning_rates = sorted(set(options.learning_rates or LEARNING_RATES))
    if rule.maximize:
        remedy = "let the task's loss be minus what is to rise: the others, and the choice of rates, make it small"
        raise InputError("--maximize", "left out", True, remedy)
    task = load_task(spec)
    if task.test is None:
        raise InputError("Task.test", "a torch Dataset for a comparison", None, "hold some of the data out")
    task.try_out()
    config = {
        "kind": "compare",
        "task": spec,
        "task_code": task_code(spec),
        "rule": {k: v for k, v in dataclasses.asdict(rule).items() if k != "lr"},
        "optimizers": list(OPTIMIZERS),
        **that_decide(options),
        "learning_rates": learning_rates,
        "epochs": epochs or task.epochs,
        "schedule": "linear",
        "made_with": {"torch": torch.__version__},
    }
    higher = task.score.higher_is_better
    path = options.out or new_path("compare", task.name, resume=options.resume)
    with RunDirectory.open(path, config, resume=options.resume, accept_changes=options.accept_changes) as run:
        run.keep_records(key_of)
        began = time.monotonic()
        tuning = [
            Trial("tune", o, lr, seed=s, spec=spec, rule=rule, epochs=epochs)
            for s in range(tuning_seeds)
            for lr in learning_rates
            for o in OPTIMIZERS
        ]
        with stop_signals() as stopped, Workers(options.jobs or cores()) as workers:
            rows = _train_all(workers, run, "tune", tuning, listen, stopped)
            choices = {o: choose(higher, [r for r in rows if r["optimizer"] == o]) for o in OPTIMIZERS}
            final_seeds = range(tuning_seeds, tuning_seeds + seeds)
            final = [
                Trial("final", o, choices[o].lr, seed=s, spec=spec, rule=rule, epochs=epochs)
                for s in final_seeds
                for o in OPTIMIZERS
            ]
            rows = _train_all(workers, run, "final", final, listen, stopped)
        summary = {
            "status": "finished",
            "task": task.name,
            "metric": task.score.name,
            "metric_kind": task.score.kind,
            "higher_is_better": higher,
            "constant": _constant(rows)._asdict(),
            "confidence": CONFIDENCE,
            "scores": [score._asdict() for score in judge(higher, choices, rows)],
            "jobs": workers.count,
            "seconds": time.monotonic() - began,
            "command": command,
            "implementation": "; ".join(sorted({r["implementation"] for r in rows if r.get("implementation")})),
            "environment": environment(),
        }
        return run, run.finish(summary)


def judge(higher_is_better: bool, choices: dict[str, Choice], rows: list[Row]) -> list[Score]:
    """Return one Score per optimizer from the final rows, RMSprop first, the others from best to worst median."""
    results = {o: {row["seed"]: row for row in rows if row["optimizer"] == o} for o in choices}
    constant = _constant(rows)
    worst = -math.inf if higher_is_better else math.inf

    def metrics(o: str) -> dict[int, float]:
        return {s: worst if r["diverged"] else r["test_metric"] for s, r in results[o].items()}

    reference = metrics("RMSprop")
    scores = []
    for o, choice in choices.items():
        own = metrics(o)
        difference = interval = None
        verdict = ""
        if o != "RMSprop":
            paired = [own[s] - reference[s] for s in sorted(reference)]
            difference, interval = paired_interval(paired, 1 - (1 - CONFIDENCE) / (len(choices) - 1))
            verdict = "no difference" if interval is not None else "not comparable"
            if interval is not None and not interval[0] <= 0 <= interval[1]:
                verdict = "better" if (interval[0] > 0) == higher_is_better else "worse"
        scores.append(
            Score(
                optimizer=o,
                lr=choice.lr,
                at_edge=choice.at_edge,
                metric=median(own.values()),
                low=min(own.values()),
                high=max(own.values()),
                validation_loss=median_of_known(r["validation_loss"] for r in results[o].values() if not r["diverged"]),
                optimizer_us=median_of_known(r["optimizer_us"] for r in results[o].values()),
                diverged=sum(r["diverged"] for r in results[o].values()),
                difference=difference,
                interval=interval,
                verdict=verdict,
                at_chance=_at_chance(list(results[o].values()), median(own.values()), constant, higher_is_better),
            )
        )
    return sorted(scores, key=lambda s: (s.optimizer != "RMSprop", -s.metric if higher_is_better else s.metric))


def _constant(rows: list[Row]) -> Constant:
    """Return what the best constant prediction scores on the test data: the same in every row that did not diverge."""
    return next((Constant(**row["constant"]) for row in rows if row.get("constant")), Constant())


def _at_chance(rows: list[Row], score: float, constant: Constant, higher_is_better: bool) -> bool | None:
    """Return whether one optimizer's median score is at chance; where that is not known, its median test loss."""
    if constant.metric is not None:
        return no_better(score, constant.metric, constant.margin, higher_is_better=higher_is_better)
    loss = median_of_known(math.inf if r["diverged"] else r.get("test_loss") for r in rows)
    return None if loss is None else no_better(loss, constant.loss)


def _train_all(
    workers: Workers, run: RunDirectory, stage: str, trials: list[Trial], listen: Listener, stopped: list[int]
) -> list[Row]:
    """Return a row for each trial, from the records or newly trained (and then recorded)."""
    done = {key_of(row): row for row in run.records() if row["stage"] == stage}

    def check() -> None:
        if stopped:
            raise Interrupted(f"stopped after {len(done)} of {len(trials)} trainings of this stage")

    listen(stage, len(done), len(trials), None)
    for row in workers.results(run_trial, [trial for trial in trials if trial.key not in done], check):
        run.append([row])
        done[key_of(row)] = row
        listen(stage, len(done), len(trials), row)
    return [done[trial.key] for trial in trials]
