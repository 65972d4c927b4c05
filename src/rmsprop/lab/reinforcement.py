"""Tasks of reinforcement learning: a policy trained by A2C on the episodes that it plays itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
class ActorCriticLoss:
    """Loss of A2C: policy gradient, squared error of the values, entropy of the policy.

    Parameters
    ----------
    value_weight
        Weight of the mean squared error between values and returns.
    entropy_weight
        Weight of the policy's mean entropy, which is subtracted: it keeps the policy from settling early.
    """

    value_weight: float = 0.5
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        check_number("ActorCriticLoss.value_weight", self.value_weight, "0.5 is usual")
        check_number("ActorCriticLoss.entropy_weight", self.entropy_weight, "0 to 0.01 is usual")

    def __call__(self, output: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the loss of (scores, values) for (actions, returns, advantages)."""
        (scores, values), (actions, returns, advantages) = output, target
        logs = scores.log_softmax(dim=1)
        chosen = logs.gather(1, actions[:, None]).squeeze(1)
        entropy = -(logs.exp() * logs).sum(dim=1).mean()
        error = nn.functional.mse_loss(values, returns)
        return -(advantages * chosen).mean() + self.value_weight * error - self.entropy_weight * entropy


@dataclass(frozen=True)
class PolicyTask(Task):
    """A policy, trained by A2C (advantage actor-critic) on rollouts of itself.

    A step is one update: every environment plays `rollout` steps with the current policy, and all of them together are
    its batch. An epoch is `updates` steps. At its start, the environments are reset with seeds of their own, so that a
    run can be resumed at the end of any epoch, bit for bit. Within an epoch it cannot.

    The score is the return: the mean, over `episodes` whole episodes, of the rewards of an episode, not discounted.
    Validation episodes have the same seeds at every evaluation, test episodes others. The policy takes the action with
    the highest score, or draws it if `samples`. The validation loss is minus the return.

    The seed of a run decides the model's start, the environments and the drawn actions.

    Parameters
    ----------
    name
        Short name, used for directories.
    model
        Function that returns a new model. The model is called with a batch of observations; it returns the scores
        (logits) of the actions, observations × actions, and the values of the observations, which are the returns
        that it expects.
    train, validation, test
        The id of an environment of gymnasium, such as "CartPole-v1", or a function from a number of environments to
        a `gymnasium.vector.VectorEnv` with `autoreset_mode=AutoresetMode.SAME_STEP`. Actions are discrete.
        Those for validation and test are those for training if omitted.
    loss
        Function ((scores, values), (actions, returns, advantages)) → loss; see `ActorCriticLoss`.
    batch_size
        Steps of a batch, of all environments together: a multiple of `rollout`. 40 are 8 environments of 5 steps.
    epochs
        Used unless the command line gives another number.
    updates
        Updates in an epoch.
    rollout
        Steps of each environment in an update.
    discount
        Weight of a reward one step later, from 0 to 1.
    episodes
        Episodes of an evaluation.
    samples
        Draw actions in evaluations, too.

    Examples
    --------
    >>> from torch import nn
    >>> class Policy(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.scores, self.values = nn.Linear(4, 2), nn.Linear(4, 1)
    ...
    ...     def forward(self, observations):
    ...         return self.scores(observations), self.values(observations).squeeze(1)
    >>> task = PolicyTask("cart", Policy, "CartPole-v1", updates=100)
    """

    train: Environments  # type: ignore[assignment]  # in place of data sets
    validation: Environments = ""  # type: ignore[assignment]
    test: Environments = ""  # type: ignore[assignment]
    loss: Callable[[Any, Any], Tensor] = ActorCriticLoss()
    batch_size: int = 40
    epochs: int = 10
    updates: int = 1000
    rollout: int = 5
    discount: float = 0.99
    episodes: int = 20
    samples: bool = False

    generates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.train)
        for name in ("metric", "metrics"):
            if getattr(self, name):
                found = kind_of(getattr(self, name))
                raise InputError(f"Task.{name}", "left out: a policy is scored by its return", found, "")
        super().__post_init__()
        for name in ("updates", "rollout", "episodes"):
            check_count(f"Task.{name}", getattr(self, name), "see help(PolicyTask)")
        if not 0 <= check_number("Task.discount", self.discount, "0.99 is usual") <= 1:
            raise InputError("Task.discount", "a number from 0 to 1", self.discount, "0.99 is usual")
        self._count("Task.batch_size", self.batch_size)

    @staticmethod
    def _check_data(name: str, data: Any) -> None:
        if not (callable(data) or isinstance(data, str)):
            allowed = "the id of an environment, or a function from a number to a gymnasium.vector.VectorEnv"
            raise InputError(name, allowed, kind_of(data), "see help(PolicyTask)")

    @cached_property
    def score(self) -> Score:
        """The return of an episode."""
        return Score("return", higher_is_better=True, kind="return", loss_is_sum=False)

    def _count(self, name: str, batch_size: int) -> int:
        """Return the number of environments for a batch size."""
        if batch_size % self.rollout:
            allowed = f"a multiple of {self.rollout}, the steps of a rollout"
            raise InputError(name, allowed, batch_size, f"{8 * self.rollout} are 8 environments")
        return batch_size // self.rollout

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of updates in an epoch."""
        return self.updates

    def batches(self, model: nn.Module, batch_size: int, order: int) -> Iterator[Any]:
        """Yield the rollouts of one epoch, each played by the model of that moment, in the dtype of its parameters."""
        with opened(self.name, "train", self.train, self._count("batch_size", batch_size)) as vector:
            player = Player(model, vector, order)
            for _ in range(self.updates):
                yield player.rollout(self.rollout, self.discount)

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
                scores = player.play(player.observations).scores
                if not scores.isfinite().all():
                    return Evaluation(math.nan, math.nan, Constant())
                actions = player.draw(scores) if self.samples else scores.argmax(dim=1)
                rewards, terminated, truncated, _ = player.step(actions)
                returns += rewards * playing
                playing &= ~(terminated | truncated)
                if not playing.any():
                    mean = float(returns.mean())
                    return Evaluation(-mean, mean, Constant())
        found, remedy = Received("a longer one"), "give the environments a time limit: gymnasium.wrappers.TimeLimit"
        raise InputError(f"an episode of Task.{part}", f"one that ends within {LONGEST:,} steps", found, remedy)

    def try_out(self, batch_size: int | None = None) -> None:
        """Play one rollout in one environment and call the loss, to show mistakes before any training."""
        self._count("--batch-size", batch_size or self.batch_size)
        what, state = "for training", torch.get_rng_state()
        try:
            model = self._new_model()
            for part in dict.fromkeys((self.train, self.validation, self.test)):
                field = next(name for name in ("train", "validation", "test") if getattr(self, name) == part)
                what = f"of Task.{field}"
                with opened(self.name, field, part, 1) as vector:
                    batch = Player(model, vector, 0).rollout(self.rollout, self.discount)
                    loss = self.loss(*self.apply(model, batch))
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            allowed, remedy = f"able to play one rollout {what}", "try it in Python"
            raise InputError(f"task {self.name}", allowed, described_error(error), remedy) from error
        finally:
            torch.set_rng_state(state)
        self._check_loss(loss)
