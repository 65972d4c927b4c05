"""Define the observer of an optimizer: the argument of `RMSprop.watch`, such as `rmsprop.monitor.Monitor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rmsprop.errors import InputError, Received

ParamKey: TypeAlias = tuple[int, int]  # the index of a parameter's group, and its index in the group


@runtime_checkable
class Observer(Protocol):
    """The methods that an optimizer calls: `wanted` before every step, then `measured` or `skipped`.

    After a step that raised or that had no gradient to step, `measured` is not called. All three are called by the
    thread that steps.
    """

    def wanted(self) -> tuple[int, int]:
        """Return two levels of what to measure of the next step: 0 nothing, 1 sums, 2 sums and histograms.

        The first level is for engines that measure while they step: the CPU kernel, where the sums add about a tenth of
        the step's time. The second level is for engines that copy what a step overwrites: tensor operations. If both
        are above 0, the higher one counts for both.
        """

    def measured(
        self, keys: Sequence[ParamKey], sums: NDArray[np.float64], histograms: NDArray[np.int64] | None, /
    ) -> None:
        """Receive the statistics of an executed step: a row for each key. `keys` is empty if nothing was wanted.

        The columns of `sums` are those of `rmsprop.statistics.COLUMNS`, the columns of `histograms` the bins of
        `rmsprop.statistics`. The next step overwrites the arrays: copy what you keep.
        """

    def skipped(self, keys: Sequence[ParamKey], nonfinite: list[int], /) -> None:
        """Receive a skipped step. `nonfinite` is the number of elements that are not finite, for each key.

        `keys` is empty if a GradScaler or another rank of torch.distributed has found the elements. If nothing was
        wanted and the step was skipped on a device, `measured` is called instead. `unsynced_skips` of the optimizer's
        `StepState` then counts the step.
        """


on_new: list[Callable[[Any], None]] = []  # called with each new optimizer of this process


def refuse(observer: Observer | None, by: str) -> None:
    """Raise InputError if there is an observer: steps by `by` would not be reported.

    An observer that `yields`, one that nobody asked this optimizer for, is closed instead.
    """
    if observer is not None and getattr(observer, "yields", False):
        observer.close()  # type: ignore[attr-defined]
    elif observer is not None:
        found = Received(f"one with {type(observer).__name__}")
        raise InputError("optimizer", f"one without an observer for {by}", found, "call optimizer.watch(None) first")


def check_observer(observer: object, current: Observer | None, *, released: bool) -> None:
    """Raise InputError if an optimizer cannot report to `observer`: `current` does, or gradients are `released`."""
    if not isinstance(observer, Observer):
        allowed = "an object with wanted, measured and skipped, or None"
        raise InputError("observer", allowed, observer, "rmsprop.monitor.Monitor is one")
    if released:
        found = Received("one with released gradients")
        raise InputError("optimizer", "one without released gradients", found, "call remove() on the handle first")
    refuse(current, "another one")
