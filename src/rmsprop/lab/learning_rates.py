"""The grid of learning rates, and the choice of the best rate of an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import NamedTuple

from rmsprop.lab.runs.schema import TrialRow

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
WIDENED_BY = 2  # rates added beyond an end of the grid


class Choice(NamedTuple):
    """The rate picked for one optimizer."""

    lr: float
    at_edge: bool  # an end of the grid: a better rate may lie beyond


def choose(higher_is_better: bool, rows: Sequence[TrialRow]) -> Choice:
    """Pick the rate with the best mean validation metric over its rows, one row per seed.

    Validation loss breaks ties. A rate at which any seed diverged comes last.
    """

    def rank(lr: float) -> tuple[bool, float, float]:
        of_rate = [row for row in rows if row["lr"] == lr]
        losses = [row["validation_loss"] for row in of_rate if row["validation_loss"] is not None]
        metrics = [row["validation_metric"] for row in of_rate if row["validation_metric"] is not None]
        if any(row["diverged"] for row in of_rate):
            return (True, 0.0, 0.0)
        metric = mean(metrics)
        return (False, -metric if higher_is_better else metric, mean(losses))

    rates = sorted({row["lr"] for row in rows})
    best = min(rates, key=rank)
    return Choice(best, best in (rates[0], rates[-1]))


def rates_beyond(grid: Sequence[float], choices: Iterable[Choice]) -> list[float]:
    """Return the rates that widen an ascending grid: `WIDENED_BY` beyond each end that an optimizer chose.

    New rates repeat the ratios of the last rates at that end.

    Examples
    --------
    >>> rates_beyond((0.01, 0.03, 0.1, 0.3, 1.0), [Choice(0.1, False), Choice(1.0, True)])
    [3.0, 10.0]
    """
    picked = {choice.lr for choice in choices}
    lower, upper = grid[: WIDENED_BY + 1], grid[-WIDENED_BY - 1 :]
    new = [lr * lower[0] / lower[-1] for lr in lower[:-1]] if grid[0] in picked else []
    new += [lr * upper[-1] / upper[0] for lr in upper[1:]] if grid[-1] in picked else []
    return [float(f"{lr:.6g}") for lr in new]
