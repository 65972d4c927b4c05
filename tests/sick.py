"""Tasks that go wrong at a known step; tests of `rmsprop train` name them as tests/sick.py:FUNCTION."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab import Task

WELL = 205  # steps before the first bad one


class Growing(nn.Linear):
    """A linear map whose output grows a hundredfold with every step after WELL. Its step count is in the checkpoint."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__(3, 1)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(x) * 100.0 ** max(0, int(self.calls) - WELL)


def growing() -> Task:
    from mine import regression

    return dataclasses.replace(regression(), name="growing", model=Growing, batch_size=5, epochs=20)


_seen = 0  # steps of all runs of this process


class Forgetful(Growing):
    """A model that counts its steps outside of the checkpoint: a resumed run does not repeat the first one."""

    def forward(self, x: Tensor) -> Tensor:
        global _seen
        _seen += self.training
        return super().forward(x) + 1e-3 * _seen


def forgetful() -> Task:
    return dataclasses.replace(growing(), name="forgetful", model=Forgetful)


def blind() -> Task:
    """A task whose validation loss is not finite from the second epoch on, while training goes well."""

    class Blind(Growing):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1.0 if self.training or int(self.calls) < 8 else float("nan"))

    return dataclasses.replace(growing(), name="blind", model=Blind, batch_size=25, epochs=3)


def lost_at_the_end() -> Task:
    """A task whose gradient, but not its loss, is infinite in the last step."""

    class Lost(Growing):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            if self.training and int(self.calls) == 12:
                return output + torch.sqrt(output - output.detach())  # 0, with an infinite slope
            return output

    return dataclasses.replace(growing(), name="lost", model=Lost, batch_size=25, epochs=3)


def noisy() -> Task:
    """A task with 30 examples that a model can learn by heart; validation improves only until it does."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(330, 20, generator=generator)
    y = x[:, :1] + torch.randn(330, 1, generator=generator)
    train, validation = (TensorDataset(x[i:j], y[i:j]) for i, j in ((0, 30), (30, 330)))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1))

    return Task("noisy", model, train, validation, loss=nn.functional.mse_loss, batch_size=10, epochs=100)


def separable() -> Task:
    """Two classes on the two sides of a plane. A long step finds it, with a loss in the millions for each mistake."""
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x.sum(dim=1) > 0).long())
    model = functools.partial(nn.Linear, 3, 2)
    return Task("separable", model, data, data, loss=nn.functional.cross_entropy, epochs=10)
