"""Confidence intervals of paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import mean, median, stdev

from scipy import special


def paired_interval(differences: list[float], confidence: float) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean of paired differences and its Student interval; None for both if a run diverged."""
    if not all(math.isfinite(d) for d in differences):
        return None, None
    center, n = mean(differences), len(differences)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * stdev(differences) / math.sqrt(n)
    return center, (center - half, center + half)


def median_of_known(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
