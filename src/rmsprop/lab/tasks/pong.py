"""The task "pong": Atari's Pong from its pixels, by A2C."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rmsprop.lab.reinforcement import ActorCriticLoss, PolicyTask
from rmsprop.lab.rollouts import optional_module
from rmsprop.lab.tasks.cartpole import orthogonal


def hidden_layers() -> nn.Sequential:
    """Return the hidden layers of DQN (Mnih et al. 2015), from four images to 512 features."""
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(), nn.Conv2d(64, 64, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(),
    )  # fmt: skip


class Network(nn.Module):
    """The network of DQN, with orthogonal weights, one head for the scores of the actions and one for the value."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body = hidden_layers()
        for layer in self.body:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                orthogonal(layer)
        self.policy, self.value = orthogonal(nn.Linear(512, actions), 0.01), orthogonal(nn.Linear(512, 1), 1.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of the actions, and the values of the observations."""
        features = self.body(images.float() / 255)
        return self.policy(features), self.value(features).squeeze(1)


def games(*, clip: bool) -> Callable[[int], Any]:
    """Return a function from a number to as many games of Pong; `clip` limits rewards to -1, 0 and 1."""

    def create(count: int) -> Any:
        vectors = optional_module("pong", "gymnasium.vector", "atari")
        atari = optional_module("pong", "ale_py.vector_env", "atari")
        return atari.AtariVectorEnv(
            "pong", count, num_threads=torch.get_num_threads(), reward_clipping=clip,
            autoreset_mode=vectors.AutoresetMode.SAME_STEP,
        )  # fmt: skip

    return create


def pong() -> PolicyTask:
    """Return the task: win points against the game's own player, from four grey images of 84 × 84 pixels.

    Source: Pong of the package ale-py, GPL-2.0 (Bellemare et al. 2013). An episode ends when a side has 21 points; its
    return is from -21 to 21. Settings are those of RL Baselines3 Zoo for Atari: 16 environments, 5 steps, discount
    0.99, entropy 0.01, error of the values 0.25, gradients clipped to a norm of 0.5; an action is repeated 4 times.
    Evaluations draw actions. An epoch has 80,000 steps of the environments; the published trainings take 10 million
    steps, 125 epochs. The metric is the return.
    """
    return PolicyTask(
        "pong", lambda: Network(6), games(clip=True), games(clip=False), games(clip=False),
        loss=ActorCriticLoss(0.25, 0.01), clip=0.5, batch_size=80, epochs=125, episodes=10, samples=True,
    )  # fmt: skip
