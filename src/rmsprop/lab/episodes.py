"""Tasks whose model plays: environments in place of data sets, and a return as the score."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rmsprop.errors import InputError, Received, check_count, check_number
from rmsprop.lab.chance import Constant
from rmsprop.lab.compute import Compute
from rmsprop.lab.rollouts import LONGEST, Environments, Player, opened
from rmsprop.lab.score import Evaluation, Score
from rmsprop.lab.task import Task, kind_of
from rmsprop.lab.user_code import described_error

_SEEDS = {"validation": 1, "test": 2}  # seeds of the episodes that evaluate


@dataclass(frozen=True)
class EpisodeTask(Task):
    """A task whose model plays episodes: what A2C and Q-learning share."""

    train: Environments  # type: ignore[assignment]  # in place of data sets
    validation: Environments = ""  # type: ignore[assignment]
    test: Environments = ""  # type: ignore[assignment]
    epochs: int = 10
    updates: int = 1000
    discount: float = 0.99
    episodes: int = 20

    generates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.train)
        for name in ("metric", "metrics"):
            if getattr(self, name):
                found = kind_of(getattr(self, name))
                raise InputError(f"Task.{name}", "omitted: a policy is scored by its return", found, "")
        super().__post_init__()
        for name in ("updates", "episodes"):
            check_count(f"Task.{name}", getattr(self, name), f"see help({type(self).__name__})")
        check_share("Task.discount", self.discount, "0.99 is usual")

    @staticmethod
    def _check_data(name: str, data: Any) -> None:
        if not (callable(data) or isinstance(data, str)):
            allowed = "the id of an environment, or a function from a number to a gymnasium.vector.VectorEnv"
            raise InputError(name, allowed, kind_of(data), "see help(PolicyTask)")

    @cached_property
    def score(self) -> Score:
        """The return of an episode."""
        return Score("return", higher_is_better=True, kind="return", loss_is_sum=False)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of updates in an epoch."""
        return self.updates

    @abstractmethod
    def scores_of(self, player: Player) -> Tensor:
        """Return a score for each action, by the newest observations; the policy prefers the highest."""

    @abstractmethod
    def evaluated_actions(self, player: Player, scores: Tensor) -> Tensor:
        """Return the actions that an evaluation takes."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, batch_size: int, compute: Compute) -> Evaluation:
        """Return the mean return of the "validation" or "test" episodes, and minus it as the loss.

        Both are NaN if a score of the model is not finite.
        """
        model.eval()
        with opened(self.name, part, getattr(self, part), self.episodes) as vector:
            player = Player(model, vector, _SEEDS[part], compute)
            returns, playing = np.zeros(self.episodes), np.ones(self.episodes, dtype=bool)
            for _ in range(LONGEST):
                scores = self.scores_of(player)
                if not scores.isfinite().all():
                    return Evaluation(math.nan, math.nan, Constant())
                rewards, terminated, truncated, _ = player.step(self.evaluated_actions(player, scores))
                returns += rewards * playing
                playing &= ~(terminated | truncated)
                if not playing.any():
                    mean = float(returns.mean())
                    return Evaluation(-mean, mean, Constant())
        found, remedy = Received("a longer one"), "give the environments a time limit: gymnasium.wrappers.TimeLimit"
        raise InputError(f"an episode of Task.{part}", f"one that ends within {LONGEST:,} steps", found, remedy)

    @abstractmethod
    def tried_batch(self, model: nn.Module, vector: Any) -> Any:
        """Play in one environment; return a small batch of the training."""

    def try_out(self, batch_size: int | None = None) -> None:
        """Play in one environment of each part and call the loss, to show mistakes before any training."""
        what, state = "for training", torch.get_rng_state()
        try:
            model = self._new_model()
            for part in dict.fromkeys((self.train, self.validation, self.test)):
                field = next(name for name in ("train", "validation", "test") if getattr(self, name) == part)
                what = f"of Task.{field}"
                with opened(self.name, field, part, 1) as vector:
                    loss = self.loss(*self.apply(model, self.tried_batch(model, vector)))
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            allowed, remedy = f"able to play one rollout {what}", "try it in Python"
            raise InputError(f"task {self.name}", allowed, described_error(error), remedy) from error
        finally:
            torch.set_rng_state(state)
        self._check_loss(loss)


def check_share(name: str, value: float, remedy: str) -> None:
    """Raise InputError unless a value is a number from 0 to 1."""
    if not 0 <= check_number(name, value, remedy) <= 1:
        raise InputError(name, "a number from 0 to 1", value, remedy)
