"""Replay memory: the newest transitions of several environments."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Transitions(NamedTuple):
    """A batch of transitions: an observation, the action taken, its reward, and the observation after it."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor  # the episode ended there, and no time limit cut it
    after: Tensor


class ReplayMemory:
    """Keep the newest observations of several environments, each once, and sample transitions among them.

    An observation may be a stack of frames, such as the last four images of a game. Then each frame is kept once, and
    the stack of an observation is rebuilt: its last frame is the newest, and the others are those before it.

    Each environment has a ring of entries. An entry is a frame; where an action was taken, also the action, its reward
    and whether it ended the episode. An episode begins with all frames of its first observation. It ends with the last
    frame of its last observation.

    Parameters
    ----------
    size
        Entries of all environments together.
    first
        The first observations, one per environment.
    frames
        Frames in an observation, along its first dimension; 1 if it is no stack.
    """

    def __init__(self, size: int, first: Tensor, frames: int = 1) -> None:
        count, shape = len(first), first.shape[2:] if frames > 1 else first.shape[1:]
        self._frames, length = frames, size // count
        self._kept = torch.empty((count, length, *shape), dtype=first.dtype)
        self._actions = torch.zeros((count, length), dtype=torch.int64)
        self._rewards = torch.zeros((count, length))
        self._terminated = torch.zeros((count, length), dtype=torch.bool)
        self._acted = torch.zeros((count, length), dtype=torch.bool)  # where an action was taken
        self._added = torch.zeros(count, dtype=torch.int64)  # entries so far, those that were overwritten included

    def begin(self, environment: int, observation: Tensor) -> None:
        """Add the first observation of an episode."""
        for frame in observation if self._frames > 1 else [observation]:
            self._add(environment, frame)

    def act(self, environment: int, action: int, reward: float, *, terminated: bool, after: Tensor) -> None:
        """Add the action taken at the newest observation, and the observation after it."""
        index = (int(self._added[environment]) - 1) % self._kept.shape[1]
        self._actions[environment, index] = action
        self._rewards[environment, index] = reward
        self._terminated[environment, index] = terminated
        self._acted[environment, index] = True
        self._add(environment, after[-1] if self._frames > 1 else after)

    def _add(self, environment: int, frame: Tensor) -> None:
        index = int(self._added[environment]) % self._kept.shape[1]
        self._kept[environment, index] = frame
        self._acted[environment, index] = False
        self._added[environment] += 1

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """Return `count` transitions, drawn with replacement: first an environment, then one of its transitions."""
        length, before = self._kept.shape[1], self._frames - 1
        least = (self._added - length).clamp(min=0) + before  # older entries lack a frame
        places: list[Tensor] = []
        while sum(map(len, places)) < count:
            environment = torch.randint(len(least), (2 * count,), generator=generator)
            share = torch.rand(2 * count, generator=generator, dtype=torch.float64)
            start = least[environment]
            entry = start + (share * (self._added[environment] - start)).long()
            taken = self._acted[environment, entry % length]
            places.append(torch.stack([environment[taken], entry[taken]], dim=1))
        environment, entry = torch.cat(places)[:count].T
        here = environment, entry % length
        seen = self._kept[environment[:, None], (entry[:, None] + torch.arange(-before, 2)) % length]
        observations, after = (seen[:, :-1], seen[:, 1:]) if self._frames > 1 else (seen[:, 0], seen[:, 1])
        return Transitions(observations, self._actions[here], self._rewards[here], self._terminated[here], after)

    def state_dict(self) -> dict[str, Any]:
        """Return all entries, without the memory that is not used yet."""
        used = min(int(self._added.max()), self._kept.shape[1])
        arrays = (self._kept, self._actions, self._rewards, self._terminated, self._acted)
        whole = used == self._kept.shape[1]
        return {"arrays": [each if whole else each[:, :used].clone() for each in arrays], "added": self._added}

    @classmethod
    def restored(cls, size: int, frames: int, state: dict[str, Any]) -> ReplayMemory:
        """Return a memory with a state that `state_dict` returned."""
        kept = state["arrays"][0]
        like = kept[:, :1].expand(-1, frames, *kept.shape[2:]) if frames > 1 else kept[:, 0]
        memory = cls(size, like, frames)
        arrays = (memory._kept, memory._actions, memory._rewards, memory._terminated, memory._acted)
        for mine, saved in zip(arrays, state["arrays"], strict=True):
            mine[:, : saved.shape[1]] = saved
        memory._added.copy_(state["added"])
        return memory
