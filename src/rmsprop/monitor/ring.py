"""Keep the sums of the newest steps, which a post-mortem reads between two records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from rmsprop.statistics import COLUMNS

if TYPE_CHECKING:
    from rmsprop.torch.observer import ParamKey

Numbers = npt.NDArray[np.float64]


class Kept(NamedTuple):
    """The sums of one tensor in one step that a post-mortem reads."""

    gradient_sq: float
    update_sq: float
    parameter_sq: float
    history_sq: float
    nonfinite: float


_KEPT = [COLUMNS.index(name) for name in Kept._fields]
_NONFINITE = Kept._fields.index("nonfinite")
_ABSENT = -1.0  # in column "nonfinite" of `held`: the tensor was not measured in this step


class Ring:
    """Holds the sums of the newest `last` steps: 96 bytes for each tensor and step."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._steps: deque[tuple[int, tuple[ParamKey, ...], bytes]] = deque(maxlen=last)
        self._uncounted = 0  # newest steps that `_nonfinite` does not count yet
        self._nonfinite = 0

    def put(self, step: int, keys: Sequence[ParamKey], sums: Numbers) -> None:
        """Add a step, with a row of `sums` for each of `keys`."""
        if self._uncounted == self.last:
            self._count_nonfinite()
        self._steps.append((step, tuple(keys), sums.tobytes()))  # the cheapest copy: this runs in every step
        self._uncounted += 1

    def nonfinite_steps(self) -> int:
        """Count the steps put in so far that had a non-finite gradient."""
        self._count_nonfinite()
        return self._nonfinite

    def _count_nonfinite(self) -> None:
        new = list(islice(reversed(self._steps), self._uncounted))
        if (_rows(sums for _, _, sums in new)[:, _NONFINITE] > 0).any():
            self._nonfinite += sum(bool((_rows([sums])[:, _NONFINITE] > 0).any()) for _, _, sums in new)
        self._uncounted = 0

    def series(self) -> dict[ParamKey, list[tuple[int, Kept]]]:
        """Return the measured steps of each tensor with its sums, oldest first."""
        series: dict[ParamKey, list[tuple[int, Kept]]] = {}
        for step, keys, sums in self._steps:
            for key, row in zip(keys, _rows([sums]).tolist(), strict=True):
                series.setdefault(key, []).append((step, Kept(*row)))
        return series

    def held(self) -> tuple[list[int], list[ParamKey], Numbers]:
        """Return the steps (oldest first), the tensors, and an array of sums: steps × tensors × fields of `Kept`."""
        index: dict[ParamKey, int] = {}
        for keys, _ in self._runs():
            for key in keys:
                index.setdefault(key, len(index))
        held = np.zeros((len(self._steps), len(index), len(_KEPT)))
        held[:, :, _NONFINITE] = _ABSENT
        start = 0
        for keys, sums in self._runs():
            stop = start + len(sums)
            held[start:stop, [index[key] for key in keys]] = sums
            start = stop
        return [step for step, _, _ in self._steps], list(index), held

    def _runs(self) -> Iterator[tuple[tuple[ParamKey, ...], Numbers]]:
        """Yield the tensors and the sums of consecutive steps that measured the same tensors."""
        for keys, steps in groupby(self._steps, key=itemgetter(1)):
            yield keys, _rows(sums for _, _, sums in steps).reshape(-1, len(keys), len(_KEPT))

    def hold(self, steps: Sequence[int], keys: Sequence[ParamKey], sums: Numbers) -> None:
        """Add the steps that `held` of another ring returned."""
        rows = np.zeros((len(keys), len(COLUMNS)))
        for step, row in zip(steps, sums, strict=True):
            rows[:, _KEPT] = row
            measured = row[:, _NONFINITE] != _ABSENT
            if measured.any():
                self.put(step, [key for key, was in zip(keys, measured, strict=True) if was], rows[measured])


def _rows(sums: Iterator[bytes] | Sequence[bytes]) -> Numbers:
    return np.frombuffer(b"".join(sums)).reshape(-1, len(COLUMNS))[:, _KEPT]
