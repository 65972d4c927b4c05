"""The known steps of one tensor, with each gradient in units of the tensor's history.

The history is √(mean v) before a step: about the gradient's root mean square over the last 1/(1−β) steps. A v that is
young or began at v₀ is corrected as in E5 of `rmsprop.rule`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmsprop.monitor.ring import Kept
from rmsprop.rule import Rule


@dataclass(frozen=True)
class Point:
    """One tensor in one step. Mean squares are None if the number of elements is unknown."""

    step: int
    gradient: float | None  # mean square; NaN if an element is NaN
    history: float | None  # mean of v before the step
    level: float | None  # corrected mean of v, or the corrected sum if the number of elements is unknown
    rise: float | None  # the gradient's root mean square, divided by the history
    update_ratio: float | None
    nonfinite: int
    broken: bool  # parameters or averages are not finite


@dataclass(frozen=True)
class GradientHistory:
    """The known steps of one tensor, oldest first."""

    name: str
    propagates: bool  # non-finite gradients go into the averages
    points: Sequence[Point]


def of_sums(rule: Rule, age: int, step: int, elements: int, sums: Kept) -> Point:
    """Return the Point of a step's sums; `elements` is 0 if the number is unknown.

    `age` is the number of steps of this tensor before this one.
    """
    ratio = sums.update_sq / sums.parameter_sq if sums.parameter_sq else math.nan
    return _point(
        rule,
        age,
        step,
        gradient=sums.gradient_sq,
        history=sums.history_sq,
        elements=elements,
        update_ratio=math.sqrt(ratio) if math.isfinite(ratio) else None,
        nonfinite=int(sums.nonfinite),
        broken=not math.isfinite(sums.parameter_sq + sums.history_sq),
    )


def of_record(rule: Rule, age: int, step: int, described: Mapping[str, Any]) -> Point:
    """Return the Point of a tensor in a record."""
    elements = described["elements"]
    squares = [
        math.nan if described[key] is None else described[key] ** 2 * elements
        for key in ("gradient_rms", "history_rms")
    ]
    return _point(
        rule,
        age,
        step,
        gradient=squares[0],
        history=squares[1],
        elements=elements,
        update_ratio=described["update_ratio"],
        nonfinite=described["nonfinite"],
        broken=elements > 0 and None in (described["parameter_rms"], described["history_rms"]),
    )


def _point(
    rule: Rule,
    age: int,
    step: int,
    *,
    gradient: float,
    history: float,
    elements: int,
    update_ratio: float | None,
    nonfinite: int,
    broken: bool,
) -> Point:
    level = rise = None
    if age > 0 and (elements or not rule.initial_square_avg):
        power = rule.decay**age
        corrected = (history - power * rule.initial_square_avg * elements) / (1 - power)
        # A smaller difference is rounding noise of v.
        if 0 < corrected < math.inf and corrected > 1e-6 * history and not math.isnan(gradient):
            level, rise = corrected / (elements or 1), math.sqrt(gradient / corrected)
    mean_g, mean_v = (x / elements if elements else None for x in (gradient, history))
    return Point(step, mean_g, mean_v, level, rise, update_ratio, nonfinite, broken)
