"""Tasks that several processes train in test_processes.py, in double precision: rounding hides no mistake."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab import Task
from rmsprop.lab.runs import checkpoints

EXAMPLES = 21  # in batches of 4: the last has one example, which one of two processes has
CLASSES = 3


def data(kind: str) -> list[TensorDataset]:
    """Return data sets for training, validation and testing."""
    generator = torch.Generator().manual_seed(0)
    sets = []
    for _ in range(3):
        x = torch.randn(EXAMPLES, 4, generator=generator, dtype=torch.float64)
        y = x[:, :CLASSES] + 0.1 * torch.randn(EXAMPLES, CLASSES, generator=generator, dtype=torch.float64)
        if kind == "classes":
            y = y.argmax(dim=1)
        if kind == "words":  # none, one or two words count, so that there are shares, but no batches, without words
            y = torch.randint(CLASSES, (EXAMPLES, 5), generator=generator)
            y = y.masked_fill(torch.arange(5) >= (torch.arange(EXAMPLES)[:, None] - 1) % 3, -100)
        sets.append(TensorDataset(x, y))
    return sets


def linear() -> nn.Module:
    return nn.Linear(4, CLASSES).double()


class Words(nn.Module):
    """Scores of five words."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, CLASSES * 5).double()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        return scores.view(-1, CLASSES, 5)


class Parts(nn.Module):
    """A model whose parts a task's `forward` calls; `spare` has no part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare = (nn.Linear(4, n).double() for n in (4, CLASSES, 2))


def penalized(model: Any, batch: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Call the parts of `Parts`; return a penalty on its weights beside the output."""
    x, y = batch
    return (model.head(model.body(x).tanh()), model.body.weight.square().sum()), y


def task(name: str, model: Callable[[], nn.Module], kind: str, loss: Any, **options: Any) -> Task:
    train, validation, test = data(kind)
    return Task(name, model, train, validation, test, loss=loss, batch_size=4, epochs=2, **options)


def weighted() -> Task:
    return task("weighted", linear, "classes", nn.CrossEntropyLoss(torch.tensor([5.0, 1.0, 0.3]).double()))


def ignoring() -> Task:
    return task("ignoring", Words, "words", nn.functional.cross_entropy)


def summed() -> Task:
    return task("summed", linear, "values", nn.MSELoss(reduction="sum"))


def penalty() -> Task:
    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return nn.functional.mse_loss(output[0], target) + 0.1 * output[1]

    return task("penalty", Parts, "values", loss, forward=penalized)


class Blocks(nn.Module):
    """A model whose blocks are sharded one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)])
        self.head = nn.Linear(4, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        scores: Tensor = self.head(x)
        return scores


def layered() -> Task:
    return task("layered", Blocks, "classes", nn.functional.cross_entropy)


def noisy() -> Task:
    """A task whose bits depend on the random generators of every process."""
    model = lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)).double()  # noqa: E731
    return task("noisy", model, "classes", nn.functional.cross_entropy)


def signalled() -> Task:
    """The task `plain`, in which rank KILLED_RANK sends itself the signal KILLED_BY in step KILLED_AT.

    Every step is saved then.
    """
    at, rank, by = (int(os.environ.get(f"KILLED_{name}", "-1")) for name in ("AT", "RANK", "BY"))
    steps = -1  # Task.try_out makes one beforehand

    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        nonlocal steps
        steps += model.training
        if model.training and steps == at and os.environ.get("RANK") == str(rank):
            os.kill(os.getpid(), by)
        return model(batch[0]), batch[1]

    if at > 0:
        checkpoints.Saver.due = lambda self: True  # type: ignore[method-assign]
    return task("signalled", linear, "classes", nn.functional.cross_entropy, forward=forward)


def overflowing() -> Task:
    """The task `plain` with an example of infinite loss; it is in the share of one process."""
    plain_task = plain()
    data: Any = plain_task.train
    data.tensors[0][7] = torch.inf
    return plain_task


def plain() -> Task:
    return task("plain", linear, "classes", nn.functional.cross_entropy)


NAMES = ("weighted", "ignoring", "summed", "penalty")  # what test_processes.py trains in one process and in two
