"""What a training, a comparison and a range test can be asked for: one dataclass each.

The command line shows their fields as options, the functions of `rmsprop.lab` take them, and run.json keeps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rmsprop.errors import InputError, check_count, check_number

# Options whose name on the command line is not that of the field.
_SHORT = {"learning_rates": "lrs", "lowest": "from", "highest": "to"}
# What changes no result: where a run is kept, whether it is resumed, and how many processes work for it.
_NO_RESULT = ("out", "resume", "accept_changes", "jobs")


def option_name(field: str) -> str:
    """Return the name of a field on the command line, without the dashes before it."""
    return _SHORT.get(field, field).replace("_", "-")


@dataclass(frozen=True)
class TrainOptions:
    """Options of one training.

    Parameters
    ----------
    seed
        Decides the model's start and the order of the data.
    epochs
        Passes over the training data; the task's own number if left out.
    batch_size
        Examples per step; the task's own number if left out.
    schedule
        Learning rate over the run: constant, or falling linearly to 0.
    every
        Measure the optimizer once in so many steps, 0: never. A tenth of the run, at most 250 steps, if left out.
        Unless it is 0, a run that diverges says in which step and tensor that began.
    out
        Directory of the run; runs/train-TASK, numbered, if left out.
    resume
        Go on with the run in --out (or the last one of this task), given the same options.
    accept_changes
        With --resume: go on although the task's code has changed; the report says what.
    """

    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    schedule: Literal["constant", "linear"] = "constant"
    every: int | None = None
    out: Path | None = None
    resume: bool = False
    accept_changes: bool = False

    def __post_init__(self) -> None:
        _check_count(self, "seed", "any whole number will do", least=0)
        _check_count(self, "epochs", "leave it out for the task's own")
        _check_count(self, "batch_size", "leave it out for the task's own")
        _check_count(self, "every", "leave it out for a tenth of the run; 0 measures nothing", least=0)


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison.

    Parameters
    ----------
    learning_rates
        The grid of learning rates; 1e-4 to 10 in half decades if left out. Where the best rate of an optimizer is at
        its end, all optimizers get two more rates beyond it.
    tuning_seeds
        Seeds that the rates are picked with.
    seeds
        Other seeds that the optimizers are compared with, at least 5.
    epochs
        Passes over the training data; the task's own number if left out.
    jobs
        Trainings at a time; one per core if left out. Changes no result. Halved when memory runs out.
    out
        Directory of the run; runs/compare-TASK, numbered, if left out.
    resume
        Go on with the comparison in --out (or the last one of this task), given the same options.
    accept_changes
        With --resume: go on although the task's code has changed; the report says what.
    """

    learning_rates: tuple[float, ...] | None = None
    tuning_seeds: int = 2
    seeds: int = 10
    epochs: int | None = None
    jobs: int | None = None
    out: Path | None = None
    resume: bool = False
    accept_changes: bool = False

    def __post_init__(self) -> None:
        if self.learning_rates is not None:
            for lr in self.learning_rates:
                check_number("--lrs", lr, "1e-4 to 10 covers the optimizers' usual rates")
            if len(set(self.learning_rates)) < 3:
                raise InputError("--lrs", "at least 3 different rates", list(self.learning_rates), "give a wider grid")
        _check_count(self, "tuning_seeds", "2 is usual")
        _check_count(self, "seeds", "fewer say too little about the spread", least=5)
        _check_count(self, "epochs", "leave it out for the task's own")
        _check_count(self, "jobs", "leave it out for one per core")


@dataclass(frozen=True)
class FindLrOptions:
    """Options of a range test.

    Parameters
    ----------
    lowest
        Lowest rate.
    highest
        Highest rate, at least 100 times the lowest.
    steps
        Steps from the lowest rate to the highest, for each seed; from 1e-6 to 1 at least 81.
    seeds
        How often the rate rises.
    warm
        Steps with a rate of 0; 2/(1-decay), or 2/(1-momentum) if more, at most 500, if left out.
    batch_size
        Examples per step; the task's own number if left out.
    out
        Directory of find-lr.json and find-lr.svg; runs/find-lr-TASK, numbered, if left out.
    """

    lowest: float = 1e-6
    highest: float = 1.0
    steps: int = 100
    seeds: int = 3
    warm: int | None = None
    batch_size: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        _check_count(self, "batch_size", "leave it out for the task's own")
        if not 0 < self.lowest < math.inf:
            raise InputError("--from", "above 0 and finite", self.lowest, "1e-6 is usual")
        least = 100 * self.lowest
        if not least * (1 - 1e-9) <= self.highest < math.inf:
            raise InputError("--to", f"at least {least:g}, 100 times --from", self.highest, "1 is usual")


Options: TypeAlias = TrainOptions | CompareOptions | FindLrOptions


def that_decide(options: Options) -> dict[str, Any]:
    """Return the options that decide a run's result: run.json keeps them, and a resumed run must be given the same."""
    return {name: value for name, value in vars(options).items() if name not in _NO_RESULT}


def _check_count(options: Options, field: str, remedy: str, *, least: int = 1) -> None:
    """Raise InputError unless a field is a whole number from `least`, or left out."""
    value = getattr(options, field)
    if value is not None:
        check_count(f"--{option_name(field)}", value, remedy, least=least)
