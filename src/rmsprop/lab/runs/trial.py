"""One training of a comparison, in a worker process: any optimizer, rate and seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import nn

from rmsprop.lab.intervals import median_of_known
from rmsprop.lab.runs.training import Training
from rmsprop.lab.task import Task, load_task
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Parameters: TypeAlias = Iterable[nn.Parameter]
Row: TypeAlias = dict[str, Any]  # one training: what it was (stage, optimizer, lr, seed) and its results
TrialKey: TypeAlias = tuple[str, str, float, int]

# (parameters, rule) → optimizer. RMSprop takes the whole rule, the others its learning rate.
OPTIMIZERS: dict[str, Callable[[Parameters, Rule], torch.optim.Optimizer]] = {
    "RMSprop": RMSprop.from_rule,
    "SGD": lambda params, rule: torch.optim.SGD(params, lr=rule.lr),
    "momentum": lambda params, rule: torch.optim.SGD(params, lr=rule.lr, momentum=0.9),
    "AdaGrad": lambda params, rule: torch.optim.Adagrad(params, lr=rule.lr),
    "Adadelta": lambda params, rule: torch.optim.Adadelta(params, lr=rule.lr),
    "Adam": lambda params, rule: torch.optim.Adam(params, lr=rule.lr),
}


@dataclass(frozen=True)
class Trial:
    """What to train.

    Attributes
    ----------
    stage
        "tune" picks rates; "final" compares, and keeps curves and test scores.
    optimizer
        A key of `OPTIMIZERS`.
    spec
        The task, as `load_task` takes it.
    rule
        RMSprop's, whose own rate is not used.
    epochs
        None: as many as the task says.
    """

    stage: str
    optimizer: str
    lr: float
    seed: int
    spec: str
    rule: Rule
    epochs: int | None

    @property
    def key(self) -> TrialKey:
        """What tells this trial from the others of its comparison."""
        return (self.stage, self.optimizer, self.lr, self.seed)


def key_of(row: Row) -> TrialKey:
    """Return the key of the trial that a row is the result of."""
    return (row["stage"], row["optimizer"], row["lr"], row["seed"])


@lru_cache(maxsize=1)
def _task(spec: str) -> Task:
    return load_task(spec)


def run_trial(trial: Trial) -> Row:
    """Train and return the row for records.jsonl."""
    task, make = _task(trial.spec), OPTIMIZERS[trial.optimizer]
    rule = dataclasses.replace(trial.rule, lr=trial.lr)
    training = Training(task, lambda params: make(params, rule), trial.seed, trial.epochs, schedule="linear")
    records = [record for new in training.run() for record in new]
    epochs = [r for r in records if r["kind"] == "epoch"]
    loss, metric = epochs[-1]["validation_loss"], epochs[-1]["validation_metric"]
    diverged = training.diverged or not (math.isfinite(loss) and math.isfinite(metric))
    row: Row = {
        "stage": trial.stage,
        "optimizer": trial.optimizer,
        "lr": trial.lr,
        "seed": trial.seed,
        "validation_loss": loss,
        "validation_metric": metric,
        "diverged": diverged,
    }
    if trial.stage == "final":
        tested = None if diverged else training.evaluate("test")
        row["test_loss"], row["test_metric"] = (None, None) if tested is None else (tested.loss, tested.metric)
        row["constant"] = None if tested is None else tested.constant._asdict()
        row["loss_curve"] = [[r["epoch"], r["loss"]] for r in records if r["kind"] == "loss"]
        row["validation_curve"] = [[r["epoch"], r["validation_loss"], r["validation_metric"]] for r in epochs]
        row["step_us"] = median_of_known(r["step_us"] for r in epochs)
        row["optimizer_us"] = median_of_known(r["optimizer_us"] for r in epochs)
        row["effective_lr"] = epochs[len(epochs) // 2]["effective_lr"]
        row["implementation"] = getattr(training.optimizer, "implementation", None)
    return row
