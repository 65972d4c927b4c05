"""The observer of an optimizer: `RMSprop.watch` takes one, and `rmsprop.monitor.Monitor` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rmsprop.errors import InputError, Received

ParamKey: TypeAlias = tuple[int, int]  # the index of a parameter's group, and its index in the group


@runtime_checkable
class Observer(Protocol):
    """What an optimizer calls: `wanted` before every step, and after it `measured` or `skipped`.

    Neither is called if the step raises or if no parameter has a gradient: no step was executed then. Both are called
    by the thread that has called `wanted`.
    """

    def wanted(self) -> tuple[int, int]:
        """Return what is to be measured of the next step: 0 nothing, 1 the sums, 2 the histograms, too.

        The first number is for engines that measure while they step: the CPU kernel, where the sums add about a tenth
        of the step. The second one is for engines that copy what a step overwrites: tensor operations. If both are
        above 0, the higher one counts for both.
        """

    def measured(
        self, keys: Sequence[ParamKey], sums: NDArray[np.float64], histograms: NDArray[np.int64] | None, /
    ) -> None:
        """Take what a step did to the parameters with these keys; there are none if nothing was wanted.

        A row of `sums` has the columns of `rmsprop.statistics.COLUMNS`, a row of `histograms` its bins. The next step
        overwrites the arrays: copy what is to be kept.
        """

    def skipped(self, keys: Sequence[ParamKey], nonfinite: list[int], /) -> None:
        """Take note that the step was skipped. `nonfinite` counts the elements that are not finite, for each key.

        There are no keys if a GradScaler or another rank of torch.distributed has found such elements. Where nothing
        was wanted and only a device knows that the step was skipped, `measured` is called instead. The step is then
        counted in `unsynced_skips` of the optimizer's `StepState`.
        """


def refuse(observer: Observer | None, by: str) -> None:
    """Raise InputError if there is an observer: steps by `by` are not reported."""
    if observer is not None:
        found = Received(f"one with {type(observer).__name__}")
        raise InputError("optimizer", f"one without an observer for {by}", found, "call optimizer.watch(None) first")
