"""A2C: a policy trained by advantage actor-critic on the episodes that it plays itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rmsprop.errors import InputError, check_count, check_number
from rmsprop.lab.episodes import EpisodeTask
from rmsprop.lab.rollouts import Player, opened


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
class PolicyTask(EpisodeTask):
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

    loss: Callable[[Any, Any], Tensor] = ActorCriticLoss()
    batch_size: int = 40
    rollout: int = 5
    samples: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Task.rollout", self.rollout, "see help(PolicyTask)")
        self._count("Task.batch_size", self.batch_size)

    def _count(self, name: str, batch_size: int) -> int:
        """Return the number of environments for a batch size."""
        if batch_size % self.rollout:
            allowed = f"a multiple of {self.rollout}, the steps of a rollout"
            raise InputError(name, allowed, batch_size, f"{8 * self.rollout} are 8 environments")
        return batch_size // self.rollout

    def batches(self, model: nn.Module, batch_size: int, order: int) -> Iterator[Any]:
        """Yield the rollouts of one epoch, each played by the model of that moment, in the dtype of its parameters."""
        with opened(self.name, "train", self.train, self._count("batch_size", batch_size)) as vector:
            player = Player(model, vector, order)
            for _ in range(self.updates):
                yield player.rollout(self.rollout, self.discount)

    def scores_of(self, player: Player) -> Tensor:
        """Return the scores (logits) of the actions."""
        return player.play(player.observations).scores

    def evaluated_actions(self, player: Player, scores: Tensor) -> Tensor:
        """Return the actions with the highest scores, or drawn ones."""
        return player.draw(scores) if self.samples else scores.argmax(dim=1)

    def try_out(self, batch_size: int | None = None) -> None:
        """Play one rollout in one environment of each part and call the loss, to show mistakes before any training."""
        self._count("--batch-size", batch_size or self.batch_size)
        super().try_out(batch_size)

    def tried_batch(self, model: nn.Module, vector: Any) -> Any:
        """Return a rollout of one environment."""
        return Player(model, vector, 0).rollout(self.rollout, self.discount)
