"""Train Stable-Baselines3's A2C on CartPole with three optimizers: python benchmarks/sb3_a2c.py [--json FILE].

With torch's RMSprop, with this one in its place (`install`), and with the rule of Stable-Baselines3's RMSpropTFLike.
For each seed, the three trainings take turns, a piece of steps each; the rewards are those of 20 episodes at the end,
the times processor time on one thread. It takes about ten minutes. docs/clients.md shows
benchmarks/results/sb3_a2c.json; `docs/make/client_table.py --page` writes it there.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmsprop.environment import environment
from rmsprop.files import write_atomically
from rmsprop.torch import install
from rmsprop.torch.drop_ins import RMSpropTFLike

SEEDS, PIECES, STEPS = range(5), 10, 2000  # steps of a piece


class Training:
    """One training, whose random numbers do not depend on the others."""

    def __init__(self, way: str, seed: int) -> None:
        from stable_baselines3 import A2C

        choice = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}
        options: dict[str, Any] = {"policy_kwargs": choice} if way == "sb3" else {}
        if way == "ours":
            with install():
                self.model = A2C("MlpPolicy", "CartPole-v1", seed=seed, device="cpu", **options)
        else:
            self.model = A2C("MlpPolicy", "CartPole-v1", seed=seed, device="cpu", **options)
        self._random = self._state()

    def train(self) -> float:
        """Train for a piece of steps; return the seconds."""
        random.setstate(self._random[0])
        np.random.set_state(self._random[1])
        torch.set_rng_state(self._random[2])
        began = time.process_time()
        self.model.learn(STEPS, reset_num_timesteps=False)
        seconds = time.process_time() - began
        self._random = self._state()
        return seconds

    def _state(self) -> tuple[Any, Any, torch.Tensor]:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    def reward(self) -> float:
        """Return the mean reward of 20 episodes."""
        from stable_baselines3.common.evaluation import evaluate_policy

        return float(evaluate_policy(self.model, self.model.get_env(), n_eval_episodes=20, warn=False)[0])


def main() -> None:
    """Train and print; with --json, also write a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rewards: dict[str, list[float]] = {way: [] for way in ("torch", "ours", "sb3")}
    speeds: dict[str, list[float]] = {way: [] for way in rewards}
    for seed in SEEDS:
        trainings = {way: Training(way, seed) for way in rewards}
        for _ in range(PIECES):
            for way, training in trainings.items():
                speeds[way].append(STEPS / training.train())
        for way, training in trainings.items():
            rewards[way].append(training.reward())
        print(seed, {way: (x[-1], round(speeds[way][-1])) for way, x in rewards.items()}, flush=True)
    if given.json:
        facts = {"environment": environment(), "steps": PIECES * STEPS, "rewards": rewards, "speeds": speeds}
        write_atomically(given.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
