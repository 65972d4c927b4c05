"""Good and bad tasks of a user, which the command-line tests name as tests/mine.py:FUNCTION."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab import Task

NOT_A_FUNCTION = 3


def regression() -> Task:
    """A task whose metric is better when it is lower."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(300, 1, generator=generator)
    parts = [TensorDataset(x[i : i + 100], y[i : i + 100]) for i in (0, 100, 200)]
    return Task(
        "regression", lambda: nn.Linear(3, 1), train=parts[0], validation=parts[1], test=parts[2],
        loss=nn.functional.mse_loss, metric=nn.functional.l1_loss,
        metric_name="error", higher_is_better=False, batch_size=25, epochs=3,
    )  # fmt: skip


def slow() -> Task:
    """A task whose steps take STEP_SECONDS: long enough to be killed in the middle."""
    pause = float(os.environ.get("STEP_SECONDS", "0"))

    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(pause if self.training else 0)
            return super().forward(x)

    return dataclasses.replace(regression(), name="slow", model=lambda: Slow(3, 1), epochs=40)


def killed_once() -> Task:
    """A task whose fifth training is killed in a worker process, as by the system. KILLED is the file that marks it."""
    made = itertools.count()

    class Killed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and next(made) == 4 * 4 + 2 and multiprocessing.parent_process() is not None:
                mark = Path(os.environ["KILLED"])
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x)

    return dataclasses.replace(regression(), name="killed", model=lambda: Killed(3, 1))


def without_test() -> Task:
    return dataclasses.replace(regression(), test=None)


def nothing() -> None:
    return None


def needs_arguments(size: int) -> Task:
    raise AssertionError(size)


def breaks() -> Task:
    raise FileNotFoundError("no data in /nowhere")


def wrong_shape() -> Task:
    return dataclasses.replace(regression(), model=lambda: nn.Linear(4, 1))


def lone_last() -> Task:
    """A task whose last training batch has one example, which BatchNorm refuses."""
    model = lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))  # noqa: E731
    return dataclasses.replace(regression(), model=model, batch_size=33)


def rising() -> Task:
    """A task with an objective that rises, from about 3 without limit."""

    def objective(output: Tensor, target: Tensor) -> Tensor:
        return 3 + (output * target).mean() - 0.1 * output.square().mean()

    return dataclasses.replace(regression(), loss=objective, epochs=20)


def module_not_function() -> Task:
    return dataclasses.replace(regression(), model=nn.Linear(3, 1))


def empty() -> Task:
    return dataclasses.replace(regression(), train=TensorDataset(torch.zeros(0, 3), torch.zeros(0, 1)))


def list_of_losses() -> Task:
    def loss(output: Any, target: Any) -> Any:
        return (output - target).square()

    return dataclasses.replace(regression(), loss=loss)


def metric_of_words() -> Task:
    return dataclasses.replace(regression(), metric=lambda output, target: "good")  # type: ignore[arg-type, return-value]


def no_parameters() -> Task:
    return dataclasses.replace(regression(), model=lambda: nn.Flatten())


def random_data() -> Task:
    """A task whose data are drawn without a seed."""
    x = torch.randn(60, 3)
    part = TensorDataset(x, x.sum(dim=1, keepdim=True))
    return dataclasses.replace(regression(), name="random", train=part, validation=part, test=part)


def one_model_for_all() -> Task:
    model = nn.Linear(3, 1)
    return dataclasses.replace(regression(), model=lambda: model)


def not_finite() -> Task:
    """A task whose validation loss is not finite although its training loss is."""

    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1.0 if self.training else float("nan"))

    return dataclasses.replace(regression(), name="broken", model=lambda: Broken(3, 1))


def odd() -> Task:
    """A negative loss, an empty parameter, plain lists of examples of different lengths, batches of one."""

    class Odd(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 1)
            self.empty = nn.Parameter(torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(dim=1) + self.empty.sum()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(output, target) - 100

    data: Any = [(torch.ones(2 + i % 3, 3), torch.ones(1)) for i in range(9)]
    parts = {"train": data, "validation": data, "test": data}
    return dataclasses.replace(regression(), name="odd", model=Odd, loss=loss, batch_size=1, **parts)
