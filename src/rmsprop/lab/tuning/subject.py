"""What is tuned, a task or a function, and what follows from it and the options: the configuration and the plan."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch

from rmsprop.environment import cores
from rmsprop.errors import InputError
from rmsprop.lab.find_task import load_task
from rmsprop.lab.runs.schema import TuneConfig
from rmsprop.lab.runs.task_code import source_of
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.task import Task
from rmsprop.lab.tuning.objective import FunctionObjective, Objective, TaskObjective
from rmsprop.lab.tuning.plan import Plan, make_plan
from rmsprop.lab_options import TuneOptions, result_options
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Function = Callable[[Rule, int], float]


class Subject(NamedTuple):
    """A task or a function, as the caller gave it and as this process uses it."""

    spec: Any
    name: str
    objective: Objective
    task: Task | None
    higher_is_better: bool
    metric: str
    metric_kind: str
    confirmed_on: str  # "test" or "validation" data; "" for a function

    @classmethod
    def of(cls, spec: Any, options: TuneOptions, higher_is_better: bool | None) -> Subject:
        """Return what `spec` stands for; check what a task, or a function, cannot have."""
        if callable(spec) and not isinstance(spec, Task):
            for name in ("folds", "epochs", "schedule"):
                if getattr(options, name) is not None:
                    raise InputError(f"--{name}", "omitted for a function", getattr(options, name), "give a Task")
            if higher_is_better is None:
                raise InputError("higher_is_better", "given for a function", None, "pass True or False")
            name = getattr(spec, "__name__", type(spec).__name__).strip("<>")
            return cls(spec, name, FunctionObjective(spec), None, higher_is_better, "score", "metric", "")
        if higher_is_better is not None:
            raise InputError("higher_is_better", "omitted for a task", higher_is_better, "a task has its own")
        task = load_task(spec)
        task.try_out()
        objective = TaskObjective(task, options.epochs, options.folds, options.seed)
        score = task.score
        on = "validation" if task.test is None else "test"
        return cls(spec, task.name, objective, task, score.higher_is_better, score.name, score.kind, on)


def config_of(subject: Subject, rule: Rule, options: TuneOptions) -> TuneConfig:
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
        "metric": subject.metric,
        "metric_kind": subject.metric_kind,
        "confirmed_on": subject.confirmed_on,
        **given,
        "made_with": {"torch": torch.__version__},
    }
    return cast(TuneConfig, config)


def plan_of(subject: Subject, rule: Rule, options: TuneOptions) -> Plan:
    """Return the plan, without what a probe measures. Checks the budget and the space."""
    return make_plan(
        rule,
        options,
        cost=subject.objective.cost,
        confirming_cost=subject.objective.confirming_cost,
        higher_is_better=subject.higher_is_better,
        seconds_of_epoch=0.0 if options.minutes is None else _seconds_of_epoch(subject, rule),
        workers=options.workers or cores(),
        trains=subject.task is not None,
    )


def _seconds_of_epoch(subject: Subject, rule: Rule) -> float:
    """Return how long an epoch of the default takes, from a few steps; of a function, a call."""
    began = time.monotonic()
    if subject.task is None:
        subject.spec(rule, 0)
        return time.monotonic() - began
    training = TrainingLoop(subject.task, with_optimizer(RMSprop), 0)
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
