"""Run one training of a comparison in a worker process."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, cast

import torch
from torch import nn

from rmsprop.lab.intervals import median_of_known
from rmsprop.lab.runs.schema import ConstantScore, EpochRecord, FinalRow, TrialRow
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.task import Task, load_task
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Parameters: TypeAlias = Iterable[nn.Parameter]
TrialKey: TypeAlias = tuple[str, str, float, int]

# (parameters, rule) → optimizer. These take the rule's learning rate only.
_OTHERS: dict[str, Callable[[Parameters, Rule], torch.optim.Optimizer]] = {
    "SGD": lambda params, rule: torch.optim.SGD(params, lr=rule.lr),
    "momentum": lambda params, rule: torch.optim.SGD(params, lr=rule.lr, momentum=0.9),
    "AdaGrad": lambda params, rule: torch.optim.Adagrad(params, lr=rule.lr),
    "Adadelta": lambda params, rule: torch.optim.Adadelta(params, lr=rule.lr),
    "Adam": lambda params, rule: torch.optim.Adam(params, lr=rule.lr),
    "AdamW": lambda params, rule: torch.optim.AdamW(params, lr=rule.lr),
}


@dataclass(frozen=True)
class Trial:
    """One training of a comparison.

    Attributes
    ----------
    stage
        "tune" picks rates; "final" compares, and keeps curves and test scores.
    optimizer
        One of `rmsprop.lab_options.OPTIMIZERS`, or the name of a rule of RMSprop.
    spec
        The task, as `load_task` takes it.
    lr
        Learning rate. The rule's lr is not used.
    rule
        Rule of RMSprop; the other optimizers take none of it.
    epochs
        Passes over the training data; None takes the task's value.
    """

    stage: Literal["tune", "final"]
    optimizer: str
    lr: float
    seed: int
    spec: str
    rule: Rule
    epochs: int | None

    @property
    def key(self) -> TrialKey:
        """Identifies the trial within its comparison."""
        return (self.stage, self.optimizer, self.lr, self.seed)


def key_of(row: TrialRow) -> TrialKey:
    """Return the key of the trial that a row records."""
    return (row["stage"], row["optimizer"], row["lr"], row["seed"])


@lru_cache(maxsize=1)
def _task(spec: str) -> Task:
    return load_task(spec)


def run_trial(trial: Trial) -> TrialRow:
    """Train, and return the row for records.jsonl: a FinalRow in the stage "final"."""
    task, make = _task(trial.spec), _OTHERS.get(trial.optimizer, RMSprop.from_rule)
    rule = dataclasses.replace(trial.rule, lr=trial.lr)
    training = TrainingLoop(task, lambda params: make(params, rule), trial.seed, trial.epochs, schedule="linear")
    records = [record for new in training.run() for record in new]
    epochs: list[EpochRecord] = [r for r in records if r["kind"] == "epoch"]
    row: TrialRow = {
        "stage": trial.stage,
        "optimizer": trial.optimizer,
        "lr": trial.lr,
        "seed": trial.seed,
        "diverged": training.diverged or not _is_finite(epochs[-1]),
        "validation_loss": epochs[-1]["validation_loss"],
        "validation_metric": epochs[-1]["validation_metric"],
    }
    if trial.stage == "tune":
        return row
    tested = None if row["diverged"] else training.evaluate("test")
    final: FinalRow = {
        **row,
        "test_loss": None if tested is None else tested.loss,
        "test_metric": None if tested is None else tested.metric,
        "constant": None if tested is None else cast(ConstantScore, tested.constant._asdict()),
        "loss_curve": [(r["epoch"], r["loss"]) for r in records if r["kind"] == "loss"],
        "validation_curve": [(r["epoch"], r["validation_loss"], r["validation_metric"]) for r in epochs],
        "step_us": median_of_known(r["step_us"] for r in epochs),
        "optimizer_us": median_of_known(r["optimizer_us"] for r in epochs),
        "effective_lr": epochs[len(epochs) // 2]["effective_lr"],
        "implementation": getattr(training.optimizer, "implementation", None),
    }
    return final


def _is_finite(epoch: EpochRecord) -> bool:
    loss, metric = epoch["validation_loss"], epoch["validation_metric"]
    return loss is not None and metric is not None and math.isfinite(loss) and math.isfinite(metric)
