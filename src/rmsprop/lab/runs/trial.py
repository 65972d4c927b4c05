"""Run one training of a comparison in a worker process."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias, cast

import cloudpickle
import torch
from torch import nn

from rmsprop.errors import InputError
from rmsprop.lab.find_task import load_task
from rmsprop.lab.intervals import median_of_known
from rmsprop.lab.runs.schema import ConstantScore, EpochRecord, FinalRow, TrialRow
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import SCHEDULES, with_optimizer
from rmsprop.lab.task import Task
from rmsprop.lab.user_code import described_error
from rmsprop.lab_options import ScheduleName
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Parameters: TypeAlias = Iterable[nn.Parameter]
Source: TypeAlias = str | Path  # names a task, or holds a pickled one
TrialKey: TypeAlias = tuple[str, str, float, int]

# (parameters, rule) → optimizer. These take the rule's learning rate only.
OTHERS: dict[str, Callable[[Parameters, Rule], torch.optim.Optimizer]] = {
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
    source
        The task, as `load_task` takes it, or the file of a pickled one.
    lr
        Learning rate. The rule's lr is not used.
    rule
        Rule of RMSprop; the other optimizers take none of it.
    epochs
        Passes over the training data; None takes the task's value.
    schedule
        Learning rate over the training.
    """

    stage: Literal["tune", "final"]
    optimizer: str
    lr: float
    seed: int
    source: Source
    rule: Rule
    epochs: int | None
    schedule: ScheduleName = "linear"

    @property
    def key(self) -> TrialKey:
        """Identifies the trial within its comparison."""
        return (self.stage, self.optimizer, self.lr, self.seed)


def key_of(row: TrialRow) -> TrialKey:
    """Return the key of the trial that a row records."""
    return (row["stage"], row["optimizer"], row["lr"], row["seed"])


@contextmanager
def sent_to_workers(spec: str | Task | Callable[..., Any]) -> Iterator[Source]:
    """Yield what tells workers the task: its name, or a file with the task itself, if it was made in Python."""
    if isinstance(spec, str):
        yield spec
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "task.pkl"
        try:
            path.write_bytes(cloudpickle.dumps(spec))
        except Exception as error:
            remedy = "put the function that makes it into a file and name it path/to/file.py:function"
            raise InputError("the task", "one that can be sent to workers", described_error(error), remedy) from error
        yield path


@lru_cache(maxsize=1)
def task_of(source: Source) -> Task:
    """Return the task of a source, loaded once for each process."""
    if isinstance(source, str):
        return load_task(source)
    task: Task = pickle.loads(source.read_bytes())  # noqa: S301  (written by this run's own process, see above)
    return task


def run_trial(trial: Trial) -> TrialRow:
    """Train, and return the row for records.jsonl: a FinalRow in the stage "final"."""
    task, make = task_of(trial.source), OTHERS.get(trial.optimizer, RMSprop.from_rule)
    rule = dataclasses.replace(trial.rule, lr=trial.lr)
    setup = with_optimizer(lambda params: make(params, rule), SCHEDULES[trial.schedule], task.clip)
    training = TrainingLoop(task, setup, trial.seed, trial.epochs)
    if trial.optimizer in OTHERS and any(getattr(module, "sparse", False) for module in training.model.modules()):
        _densify(training.optimizer)
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


def _densify(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer dense gradients: torch's own refuse sparse ones, or step touched rows only."""

    def densify(*_: object) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.is_sparse:
                    p.grad = p.grad.to_dense()

    optimizer.register_step_pre_hook(densify)


def _is_finite(epoch: EpochRecord) -> bool:
    loss, metric = epoch["validation_loss"], epoch["validation_metric"]
    return loss is not None and metric is not None and math.isfinite(loss) and math.isfinite(metric)
