"""Confidence intervals of paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import mean, median, stdev

from scipy import special

_HUGE = 1e300  # stands for infinity, where infinities of both signs are averaged


def paired_interval(differences: list[float], confidence: float) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean of paired differences and its Student interval; None for both if a run diverged."""
    if not all(math.isfinite(d) for d in differences):
        return None, None
    center, n = mean(differences), len(differences)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * stdev(differences) / math.sqrt(n)
    return center, (center - half, center + half)


def signed_rank_interval(differences: list[float], confidence: float) -> tuple[float, tuple[float, float] | None]:
    """Return the Hodges-Lehmann estimate of paired differences, and its exact interval by Wilcoxon's signed ranks.

    The estimate is the median of the means of all pairs of differences. A few outliers, even infinite ones, move
    neither the estimate nor the interval far. None in place of the interval if the differences are too few for this
    confidence: see `least_pairs`.

    Examples
    --------
    >>> signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0, 900.0], 0.95)
    (3.5, (1.0, 900.0))
    """
    finite = [max(min(d, _HUGE), -_HUGE) for d in differences]
    means = sorted((a + b) / 2 for i, a in enumerate(finite) for b in finite[: i + 1])
    counts = [1] + [0] * len(means)  # number of sign patterns by the sum of positive ranks
    for rank in range(1, len(finite) + 1):
        counts = [c + (counts[k - rank] if k >= rank else 0) for k, c in enumerate(counts)]
    tail, outside = 0, 0
    while outside + 1 < len(counts) and (tail + counts[outside]) / 2 ** len(finite) <= (1 - confidence) / 2 + 1e-12:
        tail, outside = tail + counts[outside], outside + 1
    estimate = median(means)
    return estimate, None if outside == 0 else (means[outside - 1], means[-outside])


def least_pairs(confidence: float) -> int:
    """Return the number of pairs from which `signed_rank_interval` has an interval.

    >>> least_pairs(0.95), least_pairs(1 - 0.05 / 3)
    (6, 7)
    """
    return 1 + math.ceil(-math.log2(1 - confidence) - 1e-9)


def median_of_known(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
