"""Define an engine: code that steps parameters, and gives the reason for every parameter that it does not step.

`rmsprop.torch.step` asks its engines in order of preference. Each engine takes the parameters that it can step. It
returns the others, with reasons, for the next engine. A new engine is a class with the methods of `Engine` and one
entry in `step.ENGINES`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.errors import InputError
from rmsprop.rule import Rule
from rmsprop.torch.engines.sparse_rows import Lags
from rmsprop.torch.groups import FIELDS, RULE_NAMES
from rmsprop.torch.state import ParamGroup

HOST = "cpu"  # the type of the device whose memory the host reads without waiting
NOT_ON_CPU, NOT_ON_GPU = "it is not on the CPU", "it is not on a GPU of CUDA or ROCm"


class Remaining(NamedTuple):
    """Parameters of a group that no engine has taken yet, and why the last engine asked did not take them."""

    group_index: int
    indices: list[int] | None  # in the group; None: all parameters that have a gradient
    reason: str

    @property
    def where(self) -> str:
        """Return the group, or the first parameter and its group, as text."""
        return ("" if self.indices is None else f"parameter {self.indices[0]} of ") + f"group {self.group_index}"


class LossScale:
    """The loss scale of a GradScaler, by which gradients are divided; 1 if it is None."""

    def __init__(self, scale: Tensor | None = None) -> None:
        self._scale = scale
        self._number = 1.0 if scale is None else None

    @property
    def number(self) -> float:
        """Return the scale. The host waits for the device that holds the scale."""
        if self._number is None:  # not a cached_property: in Python 3.11 that takes a lock, a tenth of a small step
            assert self._scale is not None  # noqa: S101
            self._number = float(self._scale.item())
        return self._number

    @property
    def on_device(self) -> Tensor | None:
        """Return the scale if it lies on a device for which the host would wait, else None."""
        return self._scale if self._scale is not None and waits(self._scale) else None


class StepInputs(NamedTuple):
    """Inputs of one step, the same for all engines."""

    optimizer: Optimizer
    groups: list[ParamGroup]
    states: defaultdict[Tensor, Any]
    offsets: list[int]  # for each group: the index of its first parameter among all parameters
    loss_scale: LossScale
    found_inf: Tensor | None  # on a device: not 0 if a GradScaler skips the step
    sweep_level: int  # what engines measure while they step: 0 nothing, 1 sums, 2 also histograms
    copy_level: int  # the same, for engines that measure by copying what a step overwrites
    lags: Lags  # the rows that lag after sparse gradients
    sparse: set[int]  # id(state) of every parameter that has had a sparse gradient

    @property
    def grad_scale(self) -> float:
        """Return the loss scale, by which gradients are divided."""
        return self.loss_scale.number


class Measured(NamedTuple):
    """The statistics of a step: one row per parameter."""

    indices: bytes  # uint32 each, among the parameters of all groups
    sums: NDArray[np.float64]
    histograms: NDArray[np.int64]


class Engine(Protocol):
    """One way to step parameters. An object holds the parameters taken for one step, and is reused for the next step.

    torch's compiler traces `group_refusal` and `param_refusal`. `gather` may raise for parameters that no engine can
    step: nothing has been stepped then. `run` is called after all engines have gathered, and should not fail.
    """

    @property
    def name(self) -> str:
        """Return the engine's name in `RMSprop.implementation`."""

    @property
    def fields(self) -> Collection[str]:
        """Return the fields of Rule that the engine implements."""

    @property
    def skips_on_device(self) -> bool:
        """Return whether `run` can skip the step by a flag on a device that the host does not read."""

    def __len__(self) -> int:
        """Return how many parameters the engine has taken."""

    @classmethod
    def unavailable(cls) -> str | None:
        """Return why the engine steps nothing in this process; else None."""

    @classmethod
    def group_refusal(cls, group: ParamGroup) -> str | None:
        """Return why the engine steps no parameter of `group`: how it is executed or a field of its rule; else None."""

    @classmethod
    def param_refusal(cls, p: Tensor) -> str | None:
        """Return why the class, device or dtype of `p` keeps the engine from stepping `p`; else None."""

    def gather(self, inputs: StepInputs, remaining: Sequence[Remaining]) -> list[Remaining]:
        """Take the parameters of `remaining` that the engine can step, complete their state, and return the others.

        Parameters on devices of other engines keep their reason.
        """

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        """Return whether a gradient in groups with nonfinite="skip" has a non-finite element; None means no."""

    def copy_before(self, inputs: StepInputs) -> None:
        """Copy what statistics need and the step overwrites. Called only if `copy_level` is above 0."""

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        """Step the parameters taken, and forget them. If `skip` is true, change nothing. Autograd may be on.

        Return whether a gradient element counted as 0, for nonfinite="zero"; None means no.
        """

    def measured(self, inputs: StepInputs) -> list[Measured]:
        """Return the statistics of the last `run`. The next `run` overwrites them."""

    def clear(self) -> None:
        """Forget the parameters taken."""


def check_fused(inputs: StepInputs, left: Sequence[Remaining]) -> None:
    """Raise InputError if a group with fused=True has parameters in `left`, which only tensor operations can step."""
    for part in left:
        group, indices = inputs.groups[part.group_index], part.indices
        if indices is None:
            indices = [i for i, p in enumerate(group["params"]) if p.grad is not None]
        if group["fused"] and indices:
            reason = part.reason
            if reason in ("", NOT_ON_CPU, NOT_ON_GPU):
                reason = f"it is on {group['params'][indices[0]].device.type}, where there is no kernel"
            raise InputError("fused", f"None or False for {part.where}", True, f"{reason}; omit fused")


def waits(x: Tensor) -> bool:
    """Return whether the host waits for a device to read `x`."""
    return x.device.type != HOST


def missing_field(group: ParamGroup, fields: Collection[str], engine: str) -> str | None:
    """Return which field the rule of `group` needs and `fields` lacks, as a reason of `engine`; else None."""
    for name in RULE_NAMES:
        if FIELDS[name] not in fields and group[name] != getattr(Rule, FIELDS[name]):
            return f"its rule has {name}={group[name]!r}, not implemented by {engine}"
    return None


def parameter_offsets(groups: list[ParamGroup]) -> list[int]:
    """Return for each group the index of its first parameter among all parameters."""
    offsets, count = [], 0
    for group in groups:
        offsets.append(count)
        count += len(group["params"])
    return offsets
