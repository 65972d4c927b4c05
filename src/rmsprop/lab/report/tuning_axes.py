"""Axes of tuned settings, in plain units: η and β as a user writes them, on a scale that spreads them evenly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rmsprop.lab.report.figures import RAISED, log_scale
from rmsprop.lab.report.tuning_words import Plain, plain
from rmsprop.lab.runs.schema import SettingFacts, TuneSummary
from rmsprop.lab.score import is_share
from rmsprop.lab.tuning.space import DIMENSIONS

LABELS = {
    "lr": "learning rate η", "decay": "decay β", "eps": "ε", "momentum": "momentum μ", "schedule": "schedule",
    "centered": "centered", "bias_correction": "bias correction", "weight_decay": "weight decay λ",
    "warmup": "warm-up in steps",
}  # fmt: skip
_ZERO = 0.6  # decades from the smallest number to the place of 0, which has no logarithm
_MARGIN = 0.06  # share of an axis beyond its outermost values
_MOST_TICKS = 5
_FEW = 4  # numbers that are choices
_DECADES = 2  # of a logarithmic axis of scores


class AxisOf(NamedTuple):
    """The values of one coordinate and their positions on an axis: logarithms of numbers, or the index of a choice."""

    name: str
    positions: dict[Plain, float]
    ticks: list[tuple[float, str]]
    is_choice: bool  # of few values: words, or numbers of a list

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest position, with a margin."""
        low, high = min(self.positions.values()), max(self.positions.values())
        margin = 0.5 * self.gap if self.is_choice or low == high else _MARGIN * (high - low)
        return low - margin, high + margin

    @property
    def gap(self) -> float:
        """The smallest distance between two values."""
        places = sorted(self.positions.values())
        return min((b - a for a, b in pairwise(places)), default=1.0)


def axis_of(name: str, settings: Sequence[SettingFacts]) -> AxisOf:
    """Return the axis that holds the settings' values of a coordinate."""
    values = list(dict.fromkeys(plain(setting, name) for setting in settings))
    numbers = sorted(value for value in values if isinstance(value, float))
    if not numbers:
        words = _sorted_choices(name, [str(value) for value in values])
        return AxisOf(name, {w: float(k) for k, w in enumerate(words)}, list(enumerate(words)), is_choice=True)
    complement = DIMENSIONS[name].complement
    place = (lambda x: -math.log10(1 - x)) if complement else math.log10
    known: dict[Plain, float] = {x: place(x) for x in numbers if complement or x > 0}
    ticks = _ticks(known.values(), complement=complement)
    if not complement and 0.0 in numbers:
        known[0.0] = min(known.values(), default=0.0) - _ZERO
        ticks = [(known[0.0], "0"), *ticks]
    few = len(numbers) <= _FEW and len(settings) > 2 * len(numbers)
    return AxisOf(name, known, [(known[x], f"{x:g}") for x in numbers] if few else ticks, few)


def score_label(summary: TuneSummary) -> str:
    """Return what the scores of the search are, for an axis: "validation accuracy"."""
    return f"validation {summary['metric']}" if summary["confirmed_on"] else summary["metric"]


def score_axis(axes: Axes, summary: TuneSummary, shown: Sequence[float], room: float = 0.0) -> None:
    """Make the y axis one of scores that holds those shown. `room` is the share of their range left below the worst.

    Shares are percentages.
    """
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    log = is_log(summary, low)
    if log:
        log_scale(axes, "y")
        low, high = math.log10(low), math.log10(high)
    span = high - low or 0.05 * abs(high) or 0.1
    ends = [low - _MARGIN * span, high + _MARGIN * span]
    if summary["higher_is_better"]:
        ends[0] -= room * span
    else:
        ends[1] += room * span
    axes.set_ylim(*(10**end if log else end for end in ends))
    if is_share(summary["metric"]):
        axes.yaxis.set_major_formatter(lambda x, _position: f"{100 * x:.4g} %")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(score_label(summary))


def cut(summary: TuneSummary, scores: Sequence[float], kept: Sequence[float]) -> float | None:
    """Return the first score that is drawn at the edge, with all worse ones; None if all scores fit.

    The scores `kept` have their place, and the better half of `scores`. On a logarithmic axis, two decades have it.
    """
    better, best = summary["higher_is_better"], max if summary["higher_is_better"] else min
    ranked = sorted(scores, reverse=better)
    middle = ranked[(len(ranked) - 1) // 2]
    bound = min(middle, *kept) if better else max(middle, *kept)
    if is_log(summary, min(scores)):
        bound = max(bound, ranked[0] * 10**_DECADES)
    else:
        bound += 0.5 * (bound - ranked[0])
    return None if best(ranked[-1], bound) == ranked[-1] else bound


def is_log(summary: TuneSummary, lowest: float) -> bool:
    """Return whether the axis of the scores is logarithmic: errors and losses differ by factors."""
    return not summary["higher_is_better"] and lowest > 0


def _sorted_choices(name: str, words: list[str]) -> list[str]:
    usual: Any = DIMENSIONS[name].usual
    order = ["no", "yes", *map(str, getattr(usual, "values", ()))]
    return sorted(words, key=lambda word: order.index(word) if word in order else len(order))


def _ticks(positions: Iterable[float], *, complement: bool) -> list[tuple[float, str]]:
    """Return positions and labels of powers of ten; on a short axis, of their multiples as well."""
    ends = list(positions)
    if not ends:
        return []
    low, high = min(ends), max(ends)
    exponents = range(math.floor(low) - 1, math.ceil(high) + 2)
    found: list[tuple[float, float]] = []
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        numbers = [factor * 10.0 ** (-e if complement else e) for e in exponents for factor in factors]
        places = [(-math.log10(x) if complement else math.log10(x), x) for x in numbers]
        found = sorted((at, x) for at, x in places if low - 1e-9 <= at <= high + 1e-9)
        if len(found) >= 3:
            break
    if len(found) < 2:  # the outermost values
        found = [(at, float(f"{10 ** (-at if complement else at):.3g}")) for at in sorted({low, high})]
    found = found[:: -(-len(found) // _MOST_TICKS)]
    if complement:
        return [(at, f"{1 - x:.9g}") for at, x in found]
    as_powers = any(not 1e-4 <= x < 1e5 for _, x in found)
    return [(at, _power(x) if as_powers else f"{x:g}") for at, x in found]


def _power(x: float) -> str:
    """Return a number as a power of ten: 10⁻⁵, 3×10⁻⁵."""
    factor, exponent = f"{x:.2e}".split("e")
    factor = f"{float(factor):g}"
    power = "10" + str(int(exponent)).translate(RAISED)
    return power if factor == "1" else f"{factor}×{power}"
