"""Who is told what every step did: `RMSprop.watch` takes one observer, and `rmsprop.monitor.Monitor` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rmsprop.errors import InputError, Received

ParamKey: TypeAlias = tuple[int, int]  # the number of a parameter's group, and its own in it


@runtime_checkable
class Observer(Protocol):
    """What an optimizer calls: `wanted` before every step, and after it `measured` or `skipped`.

    Neither is called if the step raises or if no parameter has a gradient: it was not made then. Both are called by the
    thread that has called `wanted`.
    """

    def wanted(self) -> tuple[int, int]:
        """Return what is to be measured of the next step: 0 nothing, 1 the sums, 2 the histograms, too.

        The first number is for what the kernel steps, where measuring the sums adds about a tenth of the step, the
        second one for what tensor operations step. If both are above 0, the higher one counts for both.
        """

    def measured(
        self, places: Sequence[ParamKey], sums: NDArray[np.float64], histograms: NDArray[np.int64] | None, /
    ) -> None:
        """Take what a step did to the parameters at `places`; there are none if nothing was wanted.

        A row of `sums` has the columns of `rmsprop.statistics.COLUMNS`, one of `histograms` its bins. The arrays
        are overwritten by the next step: copy what is to be kept.
        """

    def skipped(self, places: Sequence[ParamKey], nonfinite: list[int], /) -> None:
        """Take note that the step was left out, since at `places` so many elements of gradients were not finite.

        There are none if a GradScaler has found them, or another rank of torch.distributed. Where nothing was wanted
        and only a device knows that the step was left out, `measured` is called instead, and the step is counted by
        `unsynced_skips` of the optimizer's `StepState`.
        """


def refuse(observer: Observer | None, by: str) -> None:
    """Raise if there is an observer, which a step made by `by` would leave in the dark."""
    if observer is not None:
        found = Received(f"one with {type(observer).__name__}")
        raise InputError("optimizer", f"one without an observer for {by}", found, "call optimizer.watch(None) first")
