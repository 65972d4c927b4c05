"""Q-learning: a network of action values, trained by DQN on the replayed steps of its own episodes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rmsprop.errors import InputError, Received, check_count
from rmsprop.lab.episodes import EpisodeTask, check_share
from rmsprop.lab.replay import ReplayMemory, Transitions
from rmsprop.lab.rollouts import Player, opened


@dataclass(frozen=True)
class TDLoss:
    """Loss of DQN: the Huber loss of the TD errors, whose gradient is the error clipped to ±1.

    Parameters
    ----------
    reduction
        "sum" over the batch, as in the code of Mnih et al. 2015, or "mean". The eps of a published rule fits one of
        them: 0.01 with the sum over 32 transitions is 0.01/32², about 1e-5, with their mean.
    """

    reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        if self.reduction not in ("sum", "mean"):
            raise InputError("TDLoss.reduction", "sum or mean", self.reduction, "sum is that of recipe dqn-nature")

    def __call__(self, values: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of the values of all actions for (actions taken, their target values)."""
        actions, targets = target
        taken = values.gather(1, actions[:, None]).squeeze(1)
        return nn.functional.smooth_l1_loss(taken, targets, reduction=self.reduction)


@dataclass(frozen=True)
class QLearningTask(EpisodeTask):
    """A network of action values, trained by DQN (Mnih et al. 2015).

    A step is one update. Before it, every environment plays `rollout` steps: the action with the highest value, or a
    random one with a probability that falls from 1 to `epsilon`. Then `batch_size` transitions are drawn from the
    replay memory. The target of each is its reward, plus the discounted highest value after it by the target network,
    unless the episode ended there.

    An epoch is `updates` steps. At its start, the environments are reset with seeds of their own. Replay memory, target
    network and exploration go on from epoch to epoch. Checkpoints hold them, so that a run can be resumed at the end of
    any epoch, bit for bit. Within an epoch it cannot.

    The score is the return, as in `PolicyTask`.

    Parameters
    ----------
    name
        Short name, used for directories.
    model
        Function that returns a new model. The model is called with a batch of observations; it returns the values of
        the actions, observations × actions.
    train, validation, test
        The environments, as in `PolicyTask`.
    loss
        Function (values, (actions, targets)) → loss; see `TDLoss`.
    batch_size
        Transitions of an update.
    epochs
        Used unless the command line gives another number.
    updates
        Updates in an epoch.
    environments
        Number of environments in training.
    rollout
        Steps of each environment before an update.
    memory
        Observations in the replay memory; of stacked frames, frames.
    frames
        Frames in an observation, along its first dimension, the newest last. Each is kept once. 1 if it is no stack.
    warm_up
        Steps of all environments together before the first update, with random actions.
    exploration
        Steps after the warm-up in which the probability of a random action falls linearly from 1 to `epsilon`.
    epsilon
        Last probability of a random action.
    target_updates
        Updates between two copies of the model to the target network.
    discount
        Weight of a reward one step later, from 0 to 1.
    episodes
        Episodes of an evaluation.
    evaluation_epsilon
        Probability of a random action in evaluations.

    Examples
    --------
    >>> from torch import nn
    >>> task = QLearningTask("cart", lambda: nn.Linear(4, 2), "CartPole-v1", updates=100)
    """

    loss: Callable[[Any, Any], Tensor] = TDLoss()
    batch_size: int = 32
    environments: int = 1
    rollout: int = 4
    memory: int = 10_000
    frames: int = 1
    warm_up: int = 1000
    exploration: int = 10_000
    epsilon: float = 0.1
    target_updates: int = 500
    evaluation_epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("environments", "rollout", "memory", "frames", "warm_up", "exploration", "target_updates")
        for name in names:
            check_count(f"Task.{name}", getattr(self, name), "see help(QLearningTask)")
        for name in ("epsilon", "evaluation_epsilon"):
            check_share(f"Task.{name}", getattr(self, name), "0.05 to 0.1 is usual")
        least = self.environments * (2 * self.frames + 1)  # the shortest episode, and the beginning of the next
        if self.memory < least:
            allowed = f"at least {least} for {self.environments} environments and {self.frames} frames"
            raise InputError("Task.memory", allowed, self.memory, "10000 is small")

    def source(self, model: nn.Module) -> QLearner:
        """Return what a training keeps from epoch to epoch: target network and replay memory."""
        return QLearner(self, model)

    def batches(self, model: nn.Module, batch_size: int, order: int) -> Iterator[Any]:
        """Yield the batches of a first epoch."""
        return self.source(model).batches(batch_size, order)

    def scores_of(self, player: Player) -> Tensor:
        """Return the values of the actions."""
        return player.values(player.observations)

    def evaluated_actions(self, player: Player, scores: Tensor) -> Tensor:
        """Return the actions with the highest values, a share of them random."""
        return player.explore(scores, self.evaluation_epsilon)

    def tried_batch(self, model: nn.Module, vector: Any) -> Any:
        """Return one replayed transition."""
        learner = QLearner(self, model)
        player = Player(model, vector, 0)
        learner.begin(player)
        before = player.observations
        ended = learner.take(player, player.explore(self.scores_of(player), self.epsilon))
        if self.frames > 1 and not ended and not torch.equal(player.observations[:, :-1], before[:, 1:]):
            allowed = "stacks of frames that move by one frame a step, the newest last"
            raise InputError("the observations", allowed, Received("others"), "frames=1 keeps whole observations")
        return learner.batch(1, torch.Generator())


class QLearner:
    """What a training by DQN keeps from epoch to epoch: replay memory, target network, steps and updates.

    Parameters
    ----------
    task, model
        What is trained.
    """

    def __init__(self, task: QLearningTask, model: nn.Module) -> None:
        self._task, self._model = task, model
        self._target = copy.deepcopy(model).requires_grad_(False)
        self._memory: ReplayMemory | None = None
        self._steps = self._updates = 0

    def batches(self, batch_size: int, order: int) -> Iterator[Any]:
        """Play, and yield the batches of one epoch; `order` seeds environments, actions and draws."""
        task = self._task
        with opened(task.name, "train", task.train, task.environments) as vector:
            player = Player(self._model, vector, order)
            self.begin(player)
            for _ in range(task.updates):
                while self._steps < task.warm_up:
                    self.take(player, player.random_actions())
                for _ in range(task.rollout):
                    self.take(player, player.explore(task.scores_of(player), self.epsilon))
                if self._updates % task.target_updates == 0:
                    self._target.load_state_dict(self._model.state_dict())
                self._updates += 1
                yield self.batch(batch_size, player.noise)

    @property
    def epsilon(self) -> float:
        """The probability of a random action now."""
        done = min(1.0, max(0, self._steps - self._task.warm_up) / self._task.exploration)
        return 1 + done * (self._task.epsilon - 1)

    def begin(self, player: Player) -> None:
        """Add the first observations of a player's episodes to the memory."""
        first = player.observations
        if self._memory is None:
            self._memory = self._new_memory(first)
        for environment, observation in enumerate(first):
            self._memory.begin(environment, observation)

    def _new_memory(self, like: Tensor) -> ReplayMemory:
        frames = self._task.frames
        if frames > 1 and like.shape[1:2] != (frames,):
            allowed = f"{like.shape[1] if like.ndim > 2 else 1}, the first dimension of the observations"
            raise InputError("Task.frames", allowed, frames, "1 keeps whole observations")
        return ReplayMemory(self._task.memory, like, frames)

    def take(self, player: Player, actions: Tensor) -> bool:
        """Take one action in each environment, and add what happens to the memory. Return whether an episode ended."""
        assert self._memory is not None  # noqa: S101
        rewards, terminated, truncated, known = player.step(actions)
        self._steps += len(actions)
        for environment, observation in enumerate(player.observations):
            ended = bool(terminated[environment] or truncated[environment])
            after = torch.from_numpy(known["final_obs"][environment]) if ended else observation
            self._memory.act(
                environment, int(actions[environment]), float(rewards[environment]),
                terminated=bool(terminated[environment]), after=after,
            )  # fmt: skip
            if ended:
                self._memory.begin(environment, observation)
        return bool((terminated | truncated).any())

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Draw transitions; return their observations, actions and targets."""
        assert self._memory is not None  # noqa: S101
        drawn = self._memory.sample(size, generator)
        return drawn.observations, (drawn.actions, targets(self._target, drawn, self._task.discount))

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `batches` goes on bit for bit: tensors and plain values."""
        memory = None if self._memory is None else self._memory.state_dict()
        return {"target": self._target.state_dict(), "memory": memory, "counts": [self._steps, self._updates]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self._target.load_state_dict(state["target"])
        self._steps, self._updates = state["counts"]
        if state["memory"] is not None:
            self._memory = ReplayMemory.restored(self._task.memory, self._task.frames, state["memory"])


@torch.no_grad()
def targets(network: nn.Module, drawn: Transitions, discount: float) -> Tensor:
    """Return r + discount · max Q(after), and r alone where the episode ended."""
    device = next(network.parameters()).device
    highest: Tensor = network(drawn.after.to(device)).max(dim=1).values.float().cpu()
    return drawn.rewards + discount * highest * ~drawn.terminated
