"""Draw how a search went: the best score so far, and the importances of the coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from rmsprop.lab.report.figures import add_legend, new_axes, style, to_svg, verbatim
from rmsprop.lab.report.tuning_axes import score_axis
from rmsprop.lab.runs.schema import ImportanceFacts, TuneSummary
from rmsprop.lab.score import is_share, score_words

_QUANTILES = (0.05, 0.95)  # of the band
_BLUE, _GREY = "#0072B2", "#555555"


class BestSoFar(NamedTuple):
    """The best score of an optimizer's first n trials, for each n; NaN before the first score.

    `low` and `high` are the same for random orders of the trials: between them lie 90 % of all orders.
    """

    label: str
    best: list[float]
    low: list[float]
    high: list[float]


def progress_data(summary: TuneSummary) -> list[BestSoFar]:
    """Return the best score so far of each optimizer that has a score; RMSprop comes first."""
    by_optimizer: dict[str, list[float | None]] = {}
    for trial in summary["trials"]:
        by_optimizer.setdefault(trial["optimizer"], []).append(trial["score"])
    better = max if summary["higher_is_better"] else min
    found = []
    for label, scores in by_optimizer.items():
        best, so_far = math.nan, []
        for score in scores:
            if score is not None:
                best = score if math.isnan(best) else better(best, score)
            so_far.append(best)
        if not math.isnan(best):
            ends = _best_of_random(scores, _QUANTILES, maximize=summary["higher_is_better"])
            low, high = ends if summary["higher_is_better"] else ends[::-1]
            found.append(BestSoFar(label, so_far, low, high))
    return found


def _best_of_random(
    scores: Sequence[float | None], quantiles: tuple[float, float], *, maximize: bool
) -> tuple[list[float], list[float]]:
    """Return two quantiles of the best of n trials that are drawn without replacement, for each n, the worse first.

    This is what a bootstrap over random orders tends to. P(the best of n is worse than rank r) is the product of
    (N−n−i)/(N−i) for i < r. Trials without a score rank last and are NaN.
    """
    known = sorted((score for score in scores if score is not None), reverse=maximize)
    ranked, total = known + [math.nan] * (len(scores) - len(known)), len(scores)
    ends: tuple[list[float], list[float]] = ([], [])
    for n in range(1, total + 1):
        for end, quantile in zip(ends, reversed(quantiles), strict=True):
            rank, worse = 0, 1.0
            while rank < total - 1 and (worse := worse * max(0, total - n - rank) / (total - rank)) > 1 - quantile:
                rank += 1
            end.append(ranked[rank])
    return ends


def last_third_words(summary: TuneSummary) -> str:
    """Return what the last third of RMSprop's trials gained: whether the budget is enough."""
    scores = [trial["score"] for trial in summary["trials"] if trial["optimizer"] == "RMSprop"]
    data = next((each for each in progress_data(summary) if each.label == "RMSprop"), None)
    count = len(scores) // 3
    if data is None or not count:
        return ""
    metric, noise = summary["metric"], summary["noise"]
    before, after = data.best[-count - 1], data.best[-1]
    which = f"The last {count} of {len(scores)} trials" if count > 1 else f"The last of {len(scores)} trials"
    if before == after:
        return f"{which} found nothing better."
    if math.isnan(before):
        return f"{which} found the first score: the budget is too small, or the space too wide."
    words = f"{which} improved the best score from {score_words(before, metric)} to {score_words(after, metric)}"
    if not noise:
        return f"{words}."
    times = abs(after - before) / noise
    enough = "more trials may bring more" if times > 1 else "less than another seed changes"
    return f"{words}, {times:.1f} times the seed noise: {enough}."


@verbatim
def draw_progress(data: Sequence[BestSoFar], default: float | None, summary: TuneSummary) -> str:
    """Draw the best score so far over the trials, the band of random orders for RMSprop, and the default as a line."""
    figure, axes = new_axes()
    for position, each in enumerate(data):
        colour, dashes = style(each.label, position)
        x = [*range(1, len(each.best) + 1), len(each.best) + 0.5]  # the last step is seen, too
        best, low, high = ([*values, values[-1]] for values in (each.best, each.low, each.high))
        wide = 2.2 if each.label == "RMSprop" else 1.3
        axes.step(x, best, where="post", color=colour, linestyle=dashes, linewidth=wide, label=each.label)
        if each.label == "RMSprop":
            axes.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    if default is not None:
        axes.axhline(default, color=_GREY, linewidth=1, linestyle=(0, (4, 2)), label="default")
    # The first trials of an optimizer may be far below all that matters: the axis begins at its middle trial.
    kept = [x for each in data for x in each.best[len(each.best) // 2 :]]
    kept += [] if default is None else [default]
    score_axis(axes, summary, [x for x in kept if not math.isnan(x)], room=0.5)
    if is_share(summary["metric"]):
        axes.set_ylim(bottom=max(axes.get_ylim()[0], -0.02))
    axes.set_xlabel("trial")
    axes.set_xlim(1, 0.5 + max(len(each.best) for each in data))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure)
    return to_svg(figure)


@verbatim
def draw_importances(importances: Mapping[str, ImportanceFacts]) -> str:
    """Draw a bar for each coordinate, grey if it does not exceed chance, which is a line; return an SVG."""
    figure, axes = new_axes(height=max(1.8, 0.9 + 0.3 * len(importances)))
    for row, each in enumerate(reversed(list(importances.values()))):
        colour = _BLUE if each["share"] > each["chance"] else "#bbbbbb"
        axes.barh([row], [100 * each["share"]], color=colour, height=0.6)
        axes.plot([100 * min(each["chance"], 1)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1.6)
    axes.set_yticks(range(len(importances)), [name.replace("_", " ") for name in reversed(list(importances))])
    axes.set_xlim(0, 101)
    axes.set_xlabel("share of the importance in %")
    return to_svg(figure)
