"""The grid of learning rates, and the choice of one from trainings at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


class Choice(NamedTuple):
    """The rate picked for one optimizer."""

    lr: float
    at_edge: bool  # the grid's end: a better rate may lie beyond


def choose(higher_is_better: bool, rows: Sequence[dict[str, Any]]) -> Choice:
    """Return the rate whose rows (one per seed) have the best mean validation metric; diverged ones come last."""

    def rank(lr: float) -> tuple[bool, float, float]:
        of_rate = [row for row in rows if row["lr"] == lr]
        if any(row["diverged"] for row in of_rate):
            return (True, 0.0, 0.0)
        metric = mean(row["validation_metric"] for row in of_rate)
        return (False, -metric if higher_is_better else metric, mean(row["validation_loss"] for row in of_rate))

    rates = sorted({row["lr"] for row in rows})
    best = min(rates, key=rank)
    return Choice(best, best in (rates[0], rates[-1]))
