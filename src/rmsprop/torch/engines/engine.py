"""What an engine is: code that steps parameters, and that says of every parameter it does not step why not.

`rmsprop.torch.step` asks its engines in order of preference. Each takes what it can step and returns the rest, with
reasons, for the next one. A new engine is a class with the methods of `Engine` and one line in `step.ENGINES`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.rule import Rule
from rmsprop.torch.engines.sparse_rows import Lags
from rmsprop.torch.groups import FIELDS, RULE_NAMES
from rmsprop.torch.state import ParamGroup


class Remaining(NamedTuple):
    """Parameters of a group that no engine has taken yet, and why the last one that was asked did not."""

    group: int
    indices: list[int] | None  # in the group; None: every parameter that has a gradient
    reason: str

    @property
    def where(self) -> str:
        """Return where they are, in words."""
        return f"group {self.group}" if self.indices is None else f"parameter {self.indices[0]} of group {self.group}"


class StepInputs(NamedTuple):
    """What the engines read in one step."""

    optimizer: Optimizer
    groups: list[ParamGroup]
    states: defaultdict[Tensor, Any]
    offsets: list[int]  # the index of each group's first parameter among those of all groups
    grad_scale: float  # by which gradients are to be divided
    sweep_level: int  # what an engine measures while it steps: 0 nothing, 1 sums, 2 histograms, too
    copy_level: int  # the same for engines that have to copy what a step overwrites
    lags: Lags  # rows of sparse parameters that lag
    sparse: set[int]  # the id of every state that had a sparse gradient


class Measured(NamedTuple):
    """What a step did to parameters: a row for each."""

    indices: bytes  # of uint32, among the parameters of all groups
    sums: NDArray[np.float64]
    histograms: NDArray[np.int64]


class Engine(Protocol):
    """One way to step parameters. An object holds what it has taken for one step, and is used again for the next one.

    `gather` may raise, for what no engine can step; no parameter, average or counter has changed then. `run` is called
    when all engines have gathered, and should not fail.
    """

    @property
    def name(self) -> str:
        """Return its name in `RMSprop.implementation`."""

    @property
    def fields(self) -> Collection[str]:
        """Return the fields of Rule that it implements."""

    @property
    def follows_devices(self) -> bool:
        """Return whether `run` can skip the step by a flag that the host has not read."""

    def __len__(self) -> int:
        """Return how many parameters it has taken."""

    def group_refusal(self, group: ParamGroup) -> str | None:
        """Return why it steps no parameter of `group`, else None: a field of its rule, or how it is to be executed."""

    def param_refusal(self, p: Tensor) -> str | None:
        """Return why it does not step `p`, as far as class, device and dtype tell; None if they tell nothing."""

    def gather(self, inputs: StepInputs, remaining: Sequence[Remaining]) -> list[Remaining]:
        """Take the parameters of `remaining` that it can step and complete their state; return the others."""

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        """Return whether a gradient has an element that is not finite, of groups with nonfinite="skip"; None: none."""

    def copy_before(self, inputs: StepInputs) -> None:
        """Copy what statistics need and the step overwrites. Called for a `copy_level` above 0 only."""

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        """Step what it has taken, and forget it. Where `skip` is true, everything stays as it is.

        Return whether an element of a gradient counted as 0, for nonfinite="zero"; None if none can have.
        """

    def measured(self, inputs: StepInputs) -> list[Measured]:
        """Return what it has measured in the last `run`. The next one writes over it."""

    def clear(self) -> None:
        """Forget what it has taken."""


def missing_field(group: ParamGroup, fields: Collection[str], engine: str) -> str | None:
    """Return None if an engine that implements `fields` can step the rule of `group`, else the reason."""
    for name in RULE_NAMES:
        if FIELDS[name] not in fields and group[name] != getattr(Rule, FIELDS[name]):
            return f"its rule has {name}={group[name]!r}, unknown to {engine}"
    return None


def parameter_offsets(groups: list[ParamGroup]) -> list[int]:
    """Return the index of each group's first parameter among those of all groups."""
    offsets, count = [], 0
    for group in groups:
        offsets.append(count)
        count += len(group["params"])
    return offsets
