"""What an optimizer remembers of its steps beside its state, shared by the modules that work on one optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.torch import statistics
from rmsprop.torch.engines.cpu_kernel import Refused
from rmsprop.torch.engines.sparse_rows import Lags
from rmsprop.torch.observer import Observer


@dataclass
class StepState:
    """What an optimizer remembers of its steps. Wrappers that copy the attributes of an optimizer share it."""

    batches: list[Any] = field(default_factory=list)  # spare ones: they know where the parameters were
    refused: list[Refused] = field(default_factory=list)  # by the kernel, in the last step
    stepped: int = 0  # parameters, by the kernel, in the last step
    sparse: set[int] = field(default_factory=set)  # the id of every state that had a sparse gradient
    lags: Lags = field(default_factory=dict)  # the rows that lag
    nonfinite_steps: Tensor | None = None  # a count; None before the first one
    observer: Observer | None = None
    unsynced_skips: Tensor | None = None  # skipped on a device; reported to the observer as executed until it asks
    found: statistics.Found = field(default_factory=statistics.Found)


def step_state(optimizer: Optimizer) -> StepState:
    """Return the `StepState` of an `RMSprop`."""
    state: StepState = optimizer.__dict__["step_state"]
    return state
