"""Numbers and bounds of claims in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rmsprop.lab.claims.claim import Bound, Number


def number_words(value: float) -> str:
    """Return a number with four digits.

    >>> number_words(123.8634), number_words(8.9e-15), number_words(1234567)
    ('123.9', '8.9e-15', '1.235e+06')
    """
    return f"{'−' if value < 0 else ''}{abs(value):.4g}"


def measured_words(number: Number) -> str:
    """Return a mean with its interval, if it has one.

    >>> measured_words(Number(0.5, 0.4, 0.6)), measured_words(Number(10.0, 10.0, 10.0))
    ('0.5 [0.4, 0.6]', '10')
    """
    if math.isnan(number.mean):
        return "not a number"
    mean, low, high = map(number_words, number)
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def bound_words(bound: Bound) -> str:
    """Return what a bound demands.

    >>> bound_words(Bound("x", high=1.0)), bound_words(Bound("x", 0.9, 1.1)), bound_words(Bound("x", 1.0, 1.0 + 1e-9))
    ('≤ 1', '0.9 to 1.1', '= 1')
    """
    low, high = bound.low, bound.high
    if math.isinf(low):
        return f"≤ {number_words(high)}" if abs(high) > 1e-9 or high == 0 else "about 0" if high > 0 else "< 0"
    if math.isinf(high):
        return f"≥ {number_words(low)}" if abs(low) > 1e-9 or low == 0 else "> 0"
    ends = number_words(low), number_words(high)
    return f"= {ends[0]}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def main_number(bounds: tuple[Bound, ...], numbers: Mapping[str, Number]) -> str:
    """Return the number that decides a verdict: that of the first bound that fails, or of the first one."""
    failing = [bound for bound in bounds if bound.status(numbers[bound.number]) == "fails"]
    bound = (failing or list(bounds))[0]
    return f"{bound.number}: {measured_words(numbers[bound.number])}"


def seconds_words(seconds: float) -> str:
    """Return a duration.

    >>> seconds_words(0.04), seconds_words(12.3), seconds_words(5824)
    ('0.1 s', '12 s', '97 min')
    """
    if seconds < 9.95:
        return f"{max(seconds, 0.1):.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
