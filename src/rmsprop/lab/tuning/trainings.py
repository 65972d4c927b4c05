"""One training of a trial: its score, or the reason why it was stopped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from rmsprop.errors import InputError, Received
from rmsprop.lab.chance import no_better
from rmsprop.lab.runs.schema import EpochRecord
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.runs.trial import OTHERS
from rmsprop.lab.setup import recipe_of, with_recipe
from rmsprop.lab.task import Task
from rmsprop.lab.tuning.space import RULES, Setting
from rmsprop.lab_options import TrainOptions
from rmsprop.monitor import Monitor
from rmsprop.monitor.findings import find
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

_MEASUREMENTS = 20  # measured steps of a training: what a monitor finds may stop the training
_STOPPING = {"eps": "ε governs", "dead rows": "dead averages", "state stall": "dead averages"}  # kinds of findings


class Stop(Exception):  # noqa: N818  (no error: this trial is not worth its epochs)
    """A trial is stopped early; the text says why."""


class Epoch(NamedTuple):
    """A training after an epoch.

    Attributes
    ----------
    number
        Epochs done by the trial, over all its trainings.
    loss
        Validation loss; the training loss where validation data must decide nothing.
    problem
        What the monitor found, or "".
    """

    number: int
    loss: float
    problem: str


@dataclass(frozen=True)
class Outcome:
    """The end of a training.

    Attributes
    ----------
    score
        Validation or test score; None if the training diverged.
    epochs
        Epochs that it took.
    reason
        Why there is no score.
    at_chance
        Whether the score is no better than that of the best constant prediction; None if not known.
    """

    score: float | None
    epochs: int
    reason: str = ""
    at_chance: bool | None = None


def train_once(
    task: Task,
    setting: Setting,
    seed: int,
    epochs: int | None,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
    *,
    part: str = "validation",
    by_training_loss: bool = False,
) -> Outcome:
    """Train once and return the score on `part` of the data.

    `on_epoch` may raise `Stop`. With `by_training_loss` it is shown the training loss only.
    """
    training = TrainingLoop(task, _setup(task, setting), seed, epochs)
    monitor = None
    if isinstance(training.optimizer, RMSprop):
        every = max(1, training.total_steps // _MEASUREMENTS)
        monitor = Monitor(training.optimizer, training.model, every=every, last=0)
    loss = math.nan
    last: EpochRecord | None = None
    for new in training.run():
        for record in new:
            if record["kind"] == "loss":
                loss = math.nan if record["loss"] is None else record["loss"]
                continue
            last = record
            if record["epoch"]:
                shown = loss if by_training_loss else record["validation_loss"]
                problem = "" if monitor is None else _problem(monitor)
                on_epoch(Epoch(record["epoch"], math.nan if shown is None else shown, problem))
    if monitor is not None:
        monitor.close()
    assert last is not None  # noqa: S101
    if training.diverged:
        return Outcome(None, training.epoch + 1, f"diverged at step {training.step}")
    if part == "validation":
        score, chance = last["validation_metric"], None
    else:
        tested = training.evaluate(part)
        score, chance = tested.metric, tested.constant
    if score is None or not math.isfinite(score):
        return Outcome(None, training.epoch, "score not finite")
    if chance is None or chance.metric is None:
        return Outcome(score, training.epoch)
    better = task.score.higher_is_better
    return Outcome(
        score, training.epoch, at_chance=no_better(score, chance.metric, chance.margin, higher_is_better=better)
    )


def gradient_rms(task: Task, rule: Rule, epochs: int | None) -> float | None:
    """Return √v̂ as a short probe run of the default measures it: the median over all elements, by tensor.

    The probe takes an epoch, at most 200 steps. None if no step was measured.
    """
    training = TrainingLoop(task, _setup(task, Setting(rule)), 0, epochs)
    monitor = Monitor(training.optimizer, training.model, every=1, last=0)
    for _ in training.run():
        if training.step >= min(200, training.steps_per_epoch):
            break
    found = [
        (tensor["history_rms"], tensor["elements"])
        for tensor in (monitor.records[-1]["tensors"].values() if monitor.records else ())
        if tensor.get("history_rms")
    ]
    monitor.close()
    if not found:
        return None
    values, weights = np.array(sorted(found)).T
    return float(values[np.searchsorted(np.cumsum(weights), weights.sum() / 2)])


def folds(task: Task, count: int, seed: int) -> list[Task]:
    """Return a task for each fold: training and validation data together, `count` times split anew.

    Classes have equal shares in each fold if the targets are classes. The test data stay aside.
    """
    from sklearn.model_selection import KFold, StratifiedKFold  # takes two seconds

    parts = [task.train, task.validation]
    if task.generates or any(isinstance(p, DataLoader | IterableDataset) for p in parts):
        found = Received(f"{task.name}, whose data have an order or batches of their own")
        raise InputError("--folds", "given for a task with data sets that can be indexed", found, "omit --folds")
    data: Any = ConcatDataset(parts)  # type: ignore[arg-type]
    targets = _classes(data)
    if len(data) < count:
        raise InputError("--folds", f"at most {len(data)}, the number of examples", count, "5 is usual")
    splitter: Any = KFold(count, shuffle=True, random_state=seed)
    if targets is not None and np.bincount(targets).min() >= count:
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [
        dataclasses.replace(task, train=Subset(data, fit.tolist()), validation=Subset(data, held_out.tolist()))
        for fit, held_out in splitter.split(np.zeros(len(data)), targets)
    ]


def _classes(data: Any) -> Any:
    """Return the class of each example as integers from 0; None if targets are no classes."""
    first = data[0]
    target = first[-1] if isinstance(first, tuple | list) else None
    if not isinstance(target, int) and not (
        isinstance(target, torch.Tensor) and target.ndim == 0 and not target.is_floating_point()
    ):
        return None
    return np.unique([int(data[k][-1]) for k in range(len(data))], return_inverse=True)[1]


def _setup(task: Task, setting: Setting) -> Any:
    """Return the setup of a setting: its rule, or torch's optimizer of its name at the rule's rate."""
    other = None if setting.optimizer in RULES else OTHERS[setting.optimizer]
    options = TrainOptions(schedule=cast("Any", setting.schedule), warmup=setting.warmup, clip=task.clip)

    def make(params: Iterable[nn.Parameter], rule: Rule) -> Any:
        return RMSprop.from_rule(params, rule) if other is None else other(params, rule)

    return with_recipe(recipe_of(setting.rule, options), make)


def _problem(monitor: Monitor) -> str:
    """Return what the monitor found that may stop a trial: ε governs, or averages that cannot move."""
    kinds = [finding.kind for finding in find(monitor.records)] if monitor.records else []
    return next((_STOPPING[kind] for kind in kinds if kind in _STOPPING), "")
