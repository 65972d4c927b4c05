"""Open vector environments, and play a policy in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmsprop.errors import InputError, Received
from rmsprop.lab.compute import Compute
from rmsprop.lab.user_code import described_error

# The id of an environment of gymnasium, or a function from a number of environments to a gymnasium.vector.VectorEnv.
Environments: TypeAlias = str | Callable[[int], Any]

LONGEST = 100_000  # steps after which an episode of an evaluation counts as endless


class Play(NamedTuple):
    """What a policy does in a batch of observations: a score for each action, and the return that it expects."""

    scores: Tensor
    values: Tensor


def optional_module(task: str, name: str, extra: str) -> Any:
    """Import and return a module that the environments of a task need.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        allowed = f"run with {error.name} installed"
        raise InputError(f"the task {task}", allowed, Received("none"), f"pip install 'rmsprop[{extra}]'") from None


@contextmanager
def opened(task: str, field: str, environments: Environments, count: int) -> Iterator[Any]:
    """Yield a vector of `count` environments; close it at the end.

    Raises
    ------
    InputError
        If the environments cannot be created, have other than discrete actions, or do not reset in the step that ends
        an episode.
    """
    name = f"Task.{field}"
    try:
        vector = _of_gymnasium(task, environments, count) if isinstance(environments, str) else environments(count)
    except InputError:
        raise
    except Exception as error:
        what = f"the environment {environments}" if isinstance(environments, str) else f"{name}({count})"
        remedy = "check its name and what it needs: pip install 'rmsprop[rl]'"
        raise InputError(what, "one that can be created", described_error(error), remedy) from error
    try:
        _check(name, vector, count)
        yield vector
    finally:
        if hasattr(vector, "close"):
            vector.close()


def _of_gymnasium(task: str, environment: str, count: int) -> Any:
    gymnasium = optional_module(task, "gymnasium", "rl")
    vectors = import_module("gymnasium.vector")

    def create() -> Any:
        with warnings.catch_warnings():  # Box2D warns on import, and crashes if warnings are errors
            warnings.filterwarnings("ignore", "builtin type", DeprecationWarning)
            return gymnasium.make(environment, disable_env_checker=True)

    return vectors.SyncVectorEnv([create] * count, autoreset_mode=vectors.AutoresetMode.SAME_STEP)


def _check(name: str, vector: Any, count: int) -> None:
    """Raise InputError unless `vector` is a VectorEnv of `count` environments that this module can play in."""
    found = getattr(vector, "num_envs", None)
    if found != count:
        received = Received(f"{found} of them" if found else f"a {type(vector).__name__}")
        remedy = "return gymnasium.vector.SyncVectorEnv([create] * count, autoreset_mode=AutoresetMode.SAME_STEP)"
        raise InputError(f"{name}({count})", f"a gymnasium.vector.VectorEnv of {count} environments", received, remedy)
    mode = vector.metadata.get("autoreset_mode")
    if getattr(mode, "value", mode) != "SameStep":
        allowed = "environments that reset in the step that ends an episode"
        remedy = "pass autoreset_mode=AutoresetMode.SAME_STEP: in other modes, a step after the end has no meaning"
        raise InputError(name, allowed, Received(str(mode)), remedy)
    actions = vector.single_action_space
    if not hasattr(actions, "n") or int(getattr(actions, "start", 0)):
        remedy = "wrap the environment, for example in gymnasium.wrappers.TransformAction"
        raise InputError(name, "environments with discrete actions from 0", Received(str(actions)), remedy)


class Player:
    """A policy that plays in a vector of environments.

    Parameters
    ----------
    model
        Called with a batch of observations; returns the scores of the actions (environments × actions) and the values
        of the observations (environments).
    vector
        The environments.
    seed
        Seed of the environments and of the drawn actions.
    compute
        Precision of the model's calls; None is that of its parameters.
    """

    def __init__(self, model: nn.Module, vector: Any, seed: int, compute: Compute | None = None) -> None:
        self._model, self._vector, self._compute = model, vector, compute or Compute()
        self._device = next(model.parameters()).device
        self.noise = torch.Generator().manual_seed(seed)  # of drawn actions
        first = np.random.SeedSequence(seed).generate_state(1)[0] >> 2  # environment i has the seed first + i
        self._observations = self._array(vector.reset(seed=int(first))[0])

    @property
    def observations(self) -> Tensor:
        """The newest observations."""
        return torch.from_numpy(self._observations)

    def play(self, observations: Tensor) -> Play:
        """Return the scores and values that the model gives to observations, on the CPU.

        Raises
        ------
        InputError
            If the model returns anything but scores of all actions and values.
        """
        found = self._called(observations)
        shapes = [tuple(each.shape) for each in found] if isinstance(found, tuple) else []
        count, actions = len(observations), self._action_count()
        if shapes != [(count, actions), (count,)]:
            allowed = f"scores ({count} × {actions}) and values ({count}) for {count} observations"
            received = Received(f"shapes {shapes}" if shapes else f"a {type(found).__name__}")
            raise InputError("what Task.model() returns", allowed, received, "return scores, values.squeeze(1)")
        return Play(*(each.float().cpu() for each in found))

    def values(self, observations: Tensor) -> Tensor:
        """Return the values of all actions that the model gives to observations, on the CPU.

        Raises
        ------
        InputError
            If the model returns anything else.
        """
        found = self._called(observations)
        count, actions = len(observations), self._action_count()
        if not isinstance(found, Tensor) or found.shape != (count, actions):
            allowed = f"values of actions ({count} × {actions}) for {count} observations"
            shown = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError("what Task.model() returns", allowed, Received(shown), "return one tensor")
        return found.float().cpu()

    @torch.no_grad()
    def _called(self, observations: Tensor) -> Any:
        with self._compute.autocast():
            return self._model(observations.to(self._device))

    def _action_count(self) -> int:
        return int(self._vector.single_action_space.n)

    def draw(self, scores: Tensor) -> Tensor:
        """Draw an action for each environment, with the probabilities that the scores give.

        Scores that are not finite give every action the same chance. The loss of their batch is not finite, so that
        the training ends as diverged.
        """
        shares = scores.softmax(dim=1).nan_to_num(nan=1.0)
        return torch.multinomial(shares, 1, generator=self.noise).squeeze(1)

    def explore(self, values: Tensor, epsilon: float) -> Tensor:
        """Return the actions with the highest values; with probability `epsilon`, an action is random."""
        highest = values.argmax(dim=1)
        if not epsilon:
            return highest
        explores = torch.rand(len(values), generator=self.noise) < epsilon
        return torch.where(explores, self.random_actions(), highest)

    def random_actions(self) -> Tensor:
        """Draw an action for each environment, all equally likely."""
        return torch.randint(self._action_count(), (int(self._vector.num_envs),), generator=self.noise)

    def step(self, actions: Tensor) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take one action in each environment; return rewards, terminations, truncations and what else is known."""
        observations, rewards, terminated, truncated, known = self._vector.step(actions.numpy())
        self._observations = self._array(observations)
        return rewards, terminated, truncated, known

    def rollout(self, steps: int, discount: float) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Play `steps` steps; return observations, and actions, returns and advantages, one for each step taken.

        A return is the sum of the discounted rewards up to the end of the episode. The model's value of the last
        observation stands for the rewards after the rollout, or after a time limit that cut the episode.
        """
        observations, actions, values, rewards, ends = [], [], [], [], []
        for _ in range(steps):
            seen = self.observations
            play = self.play(seen)
            action = self.draw(play.scores)
            gained, terminated, truncated, known = self.step(action)
            reward = gained.astype(np.float64)
            cut = truncated & ~terminated
            if cut.any():
                last = self._array(np.stack(list(known["final_obs"][cut])))
                reward[cut] += discount * self.play(torch.from_numpy(last)).values.numpy()
            observations.append(seen)
            actions.append(action)
            values.append(play.values)
            rewards.append(reward)
            ends.append(terminated | truncated)
        after = self.play(self.observations).values.numpy()
        returns = torch.from_numpy(discounted(np.array(rewards), np.array(ends), after, discount)).float().flatten()
        return torch.cat(observations), (torch.cat(actions), returns, returns - torch.cat(values))

    @staticmethod
    def _array(observations: Any) -> NDArray[Any]:
        """Return a copy of observations: environments may reuse their memory."""
        if not isinstance(observations, np.ndarray):
            remedy = "wrap the environment in gymnasium.wrappers.FlattenObservation"
            found = Received(f"a {type(observations).__name__}")
            raise InputError("the observations of the environments", "arrays", found, remedy)
        return observations.copy()


def discounted(
    rewards: NDArray[np.float64], ends: NDArray[np.bool_], after: NDArray[Any], discount: float
) -> NDArray[np.float64]:
    """Return the discounted sum of the rewards from each step on (steps × environments), up to an episode's end.

    `after` has the return expected after the last step.

    Examples
    --------
    >>> rewards, ends = np.ones((3, 2)), np.array([[False, False], [False, True], [False, False]])
    >>> discounted(rewards, ends, after=np.array([8.0, 8.0]), discount=0.5).tolist()
    [[2.75, 1.5], [3.5, 1.0], [5.0, 5.0]]
    """
    returns, following = np.empty_like(rewards), after
    for step in reversed(range(len(rewards))):
        following = returns[step] = rewards[step] + discount * following * ~ends[step]
    return returns
