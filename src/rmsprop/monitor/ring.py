"""The statistics of the newest steps, in arrays that are made once: nothing is allocated while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rmsprop.monitor.statistics import COLUMNS

if TYPE_CHECKING:
    from rmsprop.torch.observer import ParamKey

KEPT = ("gradient_sq", "update_sq", "parameter_sq", "history_sq", "nonfinite")  # what `series.of_sums` reads
_COLUMNS = [COLUMNS.index(name) for name in KEPT]
_NONFINITE = KEPT.index("nonfinite")
_ABSENT = -1.0  # in the column "nonfinite": the tensor was not measured in this step


class Ring:
    """Those sums of the newest `last` steps that a post-mortem reads, KEPT: 40 bytes for each tensor and step.

    Attributes
    ----------
    rows
        The row of each place, in the order in which places were first seen.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        self.rows: dict[ParamKey, int] = {}
        self._steps = [0] * last
        self._sums = np.zeros((last, 0, len(KEPT)))
        self._count = 0  # of steps put in so far
        self._counted = 0  # of these, those that `nonfinite_steps` has seen
        self._nonfinite = 0
        self._places: Sequence[ParamKey] = ()  # of the step before
        self._where: slice | npt.NDArray[np.intp] = slice(0)

    def put(self, step: int, places: Sequence[ParamKey], sums: npt.NDArray[np.float64]) -> None:
        """Take the sums of a step, a row for each of `places`."""
        if places is not self._places and places != self._places:
            self._arrange(places)
        at = self._count % self.last
        if at == 0:
            self._count_nonfinite()  # before the oldest steps are overwritten
        self._steps[at] = step
        if isinstance(self._where, slice):
            sums.take(_COLUMNS, 1, self._sums[at], "clip")
        else:
            self._sums[at] = 0
            self._sums[at, :, _NONFINITE] = _ABSENT
            self._sums[at, self._where] = sums[:, _COLUMNS]
        self._count += 1

    def _arrange(self, places: Sequence[ParamKey]) -> None:
        """Find the rows of `places`, and make those that are missing."""
        for place in places:
            self.rows.setdefault(place, len(self.rows))
        more = len(self.rows) - self._sums.shape[1]
        if more:
            absent = np.zeros((self.last, more, len(KEPT)))
            absent[:, :, _NONFINITE] = _ABSENT
            self._sums = np.concatenate([self._sums, absent], 1)
        rows = [self.rows[place] for place in places]
        self._where = slice(None) if rows == list(range(len(self.rows))) else np.array(rows, np.intp)
        self._places = places if isinstance(places, tuple) else list(places)  # a copy of what may change

    def _count_nonfinite(self) -> None:
        new = self._count - self._counted  # of one turn, as `put` counts at the end of each
        first = self._counted % self.last
        if new and self._sums.shape[1]:
            most = self._sums[first : first + new, :, _NONFINITE].max(1).tolist()
            self._nonfinite += sum(x > 0 for x in most)
        self._counted = self._count

    def nonfinite_steps(self) -> int:
        """Return how many of the steps put in so far had a gradient that was not finite."""
        self._count_nonfinite()
        return self._nonfinite

    def series(self, place: ParamKey) -> list[tuple[int, dict[str, Any]]]:
        """Return the steps in which the tensor at `place` was measured, with its sums of KEPT; oldest first."""
        row = self.rows[place]
        return [
            (self._steps[at], dict(zip(KEPT, self._sums[at, row].tolist(), strict=True)))
            for at in self._order()
            if self._sums[at, row, _NONFINITE] != _ABSENT
        ]

    def held(self) -> tuple[list[int], npt.NDArray[np.float64]]:
        """Return the steps that are held, oldest first, and their sums: a row for each of `rows`, by KEPT."""
        order = self._order()
        return [self._steps[at] for at in order], self._sums[order]

    def hold(self, steps: Sequence[int], places: Sequence[ParamKey], sums: npt.NDArray[np.float64]) -> None:
        """Take what `held` returned, into an empty ring; `places` are those of the rows. It holds the newest steps."""
        self._arrange(places)
        self._count = min(len(steps), self.last)
        self._steps[: self._count] = steps[len(steps) - self._count :]
        self._sums[: self._count] = sums[len(steps) - self._count :]

    def _order(self) -> list[int]:
        return [i % self.last for i in range(max(0, self._count - self.last), self._count)]
