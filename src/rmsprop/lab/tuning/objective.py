"""What a study scores: trainings of a task, or a function of the user."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import mean
from typing import Protocol

from rmsprop.lab.task import Task
from rmsprop.lab.tuning.space import Setting
from rmsprop.lab.tuning.trainings import Epoch, Outcome, folds, train_once
from rmsprop.rule import Rule

OnEpoch = Callable[[Epoch], None]


class Objective(Protocol):
    """Scores settings."""

    @property
    def cost(self) -> int:
        """Epochs of one search trial at its full length."""

    @property
    def confirming_cost(self) -> int:
        """Epochs of one training that confirms a setting."""

    def search(self, setting: Setting, seed: int, on_epoch: OnEpoch) -> Outcome:
        """Return the score of a setting that decides the search."""

    def confirm(self, setting: Setting, seed: int, on_epoch: OnEpoch) -> Outcome:
        """Return a score on data that the search did not use."""


class TaskObjective:
    """Trainings of a task.

    The search uses the validation data, or the held-out data of each fold. Confirming uses the test data, if any.

    Parameters
    ----------
    folds
        Number of folds; None trains once, on the task's own training data.
    split_seed
        Decides the folds, which are the same for every trial.
    """

    def __init__(self, task: Task, epochs: int | None, count: int | None, split_seed: int) -> None:
        self._task, self._epochs = task, epochs
        self._folds = [task] if count is None else folds(task, count, split_seed)
        self._cross_validates = count is not None

    @property
    def cost(self) -> int:
        """Epochs of one search trial at its full length."""
        return len(self._folds) * self.confirming_cost

    @property
    def confirming_cost(self) -> int:
        """Epochs of one training."""
        return self._epochs or self._task.epochs

    def search(self, setting: Setting, seed: int, on_epoch: OnEpoch) -> Outcome:
        """Return the mean validation score over the folds.

        Folds show their training loss only: a decision to stop must not see the data that the score comes from.
        """
        scores, before = [], 0
        for task in self._folds:

            def shifted(epoch: Epoch, before: int = before) -> None:
                on_epoch(epoch._replace(number=before + epoch.number))

            done = train_once(task, setting, seed, self._epochs, shifted, by_training_loss=self._cross_validates)
            before += done.epochs
            if done.score is None:
                return Outcome(None, before, done.reason)
            scores.append(done.score)
        return Outcome(mean(scores), before)

    def confirm(self, setting: Setting, seed: int, on_epoch: OnEpoch) -> Outcome:
        """Return the score on the test data, or on the validation data if there are none."""
        part = "validation" if self._task.test is None else "test"
        return train_once(self._task, setting, seed, self._epochs, on_epoch, part=part)


class FunctionObjective:
    """A function of the user: (rule, seed) → score."""

    cost = confirming_cost = 1

    def __init__(self, function: Callable[[Rule, int], float]) -> None:
        self._function = function

    def search(self, setting: Setting, seed: int, on_epoch: OnEpoch) -> Outcome:
        """Return the function's value; one that is not finite counts as diverged."""
        return self.confirm(setting, seed, on_epoch)

    def confirm(self, setting: Setting, seed: int, on_epoch: OnEpoch) -> Outcome:
        """Return the function's value."""
        score = float(self._function(setting.rule, seed))
        return Outcome(score, 1) if math.isfinite(score) else Outcome(None, 1, f"the score is {score}")
