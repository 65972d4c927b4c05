"""The task "cartpole": balance a pole on a cart, by A2C."""

import math

import torch
from torch import Tensor, nn

from rmsprop.lab.reinforcement import ActorCriticLoss, PolicyTask


class Network(nn.Module):
    """Two networks of two hidden layers of 64 units: one scores the actions, one values the observations.

    Weights are orthogonal, as in Stable-Baselines3: with gain √2 in hidden layers, 0.01 for the scores, 1 for the
    values. The first policy therefore takes all actions almost equally often.
    """

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.policy = _layers(observations, actions, gain=0.01)
        self.value = _layers(observations, 1, gain=1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of the actions, and the values of the observations."""
        return self.policy(observations), self.value(observations).squeeze(1)


def _layers(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    return nn.Sequential(
        orthogonal(nn.Linear(inputs, 64)), nn.Tanh(), orthogonal(nn.Linear(64, 64)), nn.Tanh(),
        orthogonal(nn.Linear(64, outputs), gain),
    )  # fmt: skip


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float = math.sqrt(2)) -> nn.Module:
    """Return the layer with new orthogonal weights, and biases of 0."""
    torch.nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None  # noqa: S101
    torch.nn.init.zeros_(layer.bias)
    return layer


def cartpole() -> PolicyTask:
    """Return the task: push a cart left or right so that its pole stays up, 1 a step, for at most 500 steps.

    Source: CartPole-v1 of the package gymnasium, MIT (Barto, Sutton and Anderson 1983). Settings are those of
    Stable-Baselines3's A2C: 8 environments, 5 steps, discount 0.99, no entropy, gradients clipped to a norm of 0.5. An
    epoch has 40,000 steps of the environments. The metric is the return.
    """
    return PolicyTask("cartpole", lambda: Network(4, 2), "CartPole-v1", loss=ActorCriticLoss(0.5, 0.0), clip=0.5)
