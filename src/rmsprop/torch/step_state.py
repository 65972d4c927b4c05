"""Hold what an optimizer keeps between steps besides its state, for all modules that work on the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.torch.engines.engine import Engine
from rmsprop.torch.engines.report import Report
from rmsprop.torch.engines.sparse_rows import Lags
from rmsprop.torch.observer import Observer
from rmsprop.torch.statistics import KeyCache


@dataclass
class StepState:
    """The data that an optimizer keeps between steps. Wrappers that copy the optimizer's attributes share it."""

    spare_engines: list[Sequence[Engine]] = field(default_factory=list)  # one sequence for each thread that steps
    report: Report = field(default_factory=list)  # of the last step
    sparse: set[int] = field(default_factory=set)  # the id of every state that had a sparse gradient
    lags: Lags = field(default_factory=dict)  # rows of sparse parameters that lag
    nonfinite_steps: Tensor | None = None  # a count; None before the first one
    observer: Observer | None = None
    unsynced_skips: Tensor | None = None  # skipped on a device; reported as executed until the observer syncs
    keys: KeyCache = field(default_factory=KeyCache)


def step_state(optimizer: Optimizer) -> StepState:
    """Return the `StepState` of an `RMSprop`."""
    state: StepState = optimizer.__dict__["step_state"]
    return state
