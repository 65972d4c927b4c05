"""Tasks that go wrong at a known step, which tests of `rmsprop train` name as tests/sick.py:FUNCTION."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from rmsprop.lab import Task

WELL = 205  # steps before the first bad one


class Growing(nn.Linear):
    """A linear map whose output grows a hundredfold with every step after WELL; what counts them is saved with it."""

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
    """One that counts its steps where no checkpoint sees it, so that nothing repeats itself."""

    def forward(self, x: Tensor) -> Tensor:
        global _seen
        _seen += self.training
        return super().forward(x) + 1e-3 * _seen


def forgetful() -> Task:
    return dataclasses.replace(growing(), name="forgetful", model=Forgetful)
