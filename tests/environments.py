"""An environment whose observations say where it is, for tests of what is learned from which step."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit


class Counter(gymnasium.Env[Any, Any]):
    """Observes (how often it was reset, the step); an episode of even number ends at step 3, others never."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = gymnasium.spaces.Discrete(2)
    resets = step_ = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets, self.step_ = self.resets + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_ += 1
        return self._observation(), self.step_ + 10.0 * action, self.resets % 2 == 0 and self.step_ == 3, False, {}

    def _observation(self) -> Any:
        return np.array([self.resets, self.step_], dtype=np.float32)


def limited(limit: int | None, kind: Any = Counter) -> Any:
    return kind() if limit is None else TimeLimit(kind(), limit)


def counters(
    count: int, limit: int | None = 4, mode: AutoresetMode = AutoresetMode.SAME_STEP, kind: Any = Counter
) -> Any:
    return SyncVectorEnv([partial(limited, limit, kind)] * count, autoreset_mode=mode)
