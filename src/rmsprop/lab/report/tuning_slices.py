"""Draw the trials of a search by their settings: the score along each coordinate, and all coordinates side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from rmsprop.lab.report.figures import add_legend, new_axes, to_svg, verbatim
from rmsprop.lab.report.tuning_axes import LABELS, AxisOf, axis_of, cut, is_log, score_axis, score_label
from rmsprop.lab.report.tuning_words import has_diverged, plain
from rmsprop.lab.runs.schema import TIME_OVER, SettingFacts, TrialFacts, TuneSummary
from rmsprop.lab.score import is_share

_BLUE, _ORANGE, _GREY, _GREEN = "#0072B2", "#D55E00", "#777777", "#009E73"
_SPREAD = 0.25  # half the width of the trials of one choice, as a share of the distance to the next
_EDGE = 0.04  # share of the axis of the scores below which no score lies
_SHOWN_LINES = 200  # of the parallel coordinates: more hide each other


class Slice(NamedTuple):
    """RMSprop's trials along one coordinate; positions are those of the axis.

    Attributes
    ----------
    points
        Position and score of each other trial that has a place on the axis of the scores.
    worse
        Positions of trials with a worse score, drawn at the edge.
    stopped, diverged
        Positions of trials without a score.
    default, recommended
        Position and score of two settings. The score is None if the trial has none; `recommended` is None if it is the
        default.
    """

    axis: AxisOf
    points: list[tuple[float, float]]
    worse: list[float]
    stopped: list[float]
    diverged: list[float]
    default: tuple[float, float | None]
    recommended: tuple[float, float] | None


def own_trials(summary: TuneSummary) -> list[TrialFacts]:
    """Return RMSprop's trials that ended for a reason of their own, not for lack of time."""
    return [t for t in summary["trials"] if t["optimizer"] == "RMSprop" and t["reason"] != TIME_OVER]


def slice_data(summary: TuneSummary, name: str) -> Slice:
    """Return the trials along a coordinate."""
    trials, default, recommended = own_trials(summary), _default(summary), _recommended(summary)
    settings = [default[0], *(t["setting"] for t in trials), *([recommended[0]] if recommended else [])]
    axis = axis_of(name, settings)
    bound = score_cut(summary)
    points, worse = [], []
    failed: dict[bool, list[float]] = {True: [], False: []}
    for trial, position in zip(trials, _spread(axis, [t["setting"] for t in trials]), strict=True):
        if trial["setting"] in (default[0], recommended and recommended[0]):
            continue
        if trial["score"] is None:
            failed[has_diverged(trial)].append(position)
        elif bound is not None and (trial["score"] < bound) == summary["higher_is_better"]:
            worse.append(position)
        else:
            points.append((position, trial["score"]))
    return Slice(
        axis,
        points,
        worse,
        failed[False],
        failed[True],
        (axis.positions[plain(default[0], name)], default[1]),
        None if recommended is None else (axis.positions[plain(recommended[0], name)], recommended[1]),
    )


def score_cut(summary: TuneSummary) -> float | None:
    """Return the score from which on trials are drawn at the edge; None if none is."""
    scores = [t["score"] for t in own_trials(summary) if t["score"] is not None]
    marked = [_default(summary)[1], *([found[1]] if (found := _recommended(summary)) else [])]
    kept = [score for score in marked if score is not None]
    return cut(summary, scores, kept) if kept else None


def _default(summary: TuneSummary) -> tuple[SettingFacts, float | None]:
    trial = next((t for t in own_trials(summary) if t["slot"] == 0), None)
    return summary["candidates"][0]["setting"], None if trial is None else trial["score"]


def _recommended(summary: TuneSummary) -> tuple[SettingFacts, float] | None:
    """Return the recommended setting and its score in the search; None if it is the default."""
    if not summary["recommended"]:
        return None
    found = summary["candidates"][summary["recommended"]]
    return None if found["search_score"] is None else (found["setting"], found["search_score"])


def _spread(axis: AxisOf, settings: Sequence[SettingFacts]) -> list[float]:
    """Return the position of each setting. Those of one choice lie side by side, since they would hide each other."""
    found = [axis.positions[plain(setting, axis.name)] for setting in settings]
    if not axis.is_choice:
        return found
    count, seen = {at: found.count(at) for at in set(found)}, defaultdict[float, int](int)
    for k, at in enumerate(found):
        found[k] = at + _SPREAD * axis.gap * (2 * (seen[at] + 0.5) / count[at] - 1)
        seen[at] += 1
    return found


@verbatim
def draw_slice(data: Slice, summary: TuneSummary) -> str:
    """Draw the scores along a coordinate, and at the edge the trials that have none; return an SVG."""
    figure, axes = new_axes(height=2.9)
    edge = _EDGE if summary["higher_is_better"] else 1 - _EDGE
    if data.points:
        axes.plot(*zip(*data.points, strict=True), "o", color=_BLUE, markersize=4, alpha=0.75, label="trial")
    for positions, marker, colour, label in (
        (data.worse, "v" if summary["higher_is_better"] else "^", _BLUE, "worse than shown"),
        (data.stopped, "x", _GREY, "stopped"),
        (data.diverged, "x", _ORANGE, "diverged"),
    ):
        if positions:
            at_edge = axes.get_xaxis_transform()
            ends, filled = [edge] * len(positions), "none" if marker in "v^" else colour
            axes.plot(
                positions, ends, marker, color=colour, markerfacecolor=filled, markersize=5, label=label,
                transform=at_edge, zorder=3,
            )  # fmt: skip
    at, score = data.default
    decided = summary["status"] == "finished" and not data.recommended
    _mark(axes, at, score, "D", "black", "default, recommended" if decided else "default")
    if data.recommended is not None:
        _mark(axes, *data.recommended, "*", _GREEN, "recommended")
    shown = [score for _, score in data.points]
    shown += [score for _, score in (data.default, data.recommended or data.default) if score is not None]
    score_axis(axes, summary, shown, room=0.15)
    axes.set_xlim(*data.axis.ends)
    axes.set_xticks([at for at, _ in data.axis.ticks], [label for _, label in data.axis.ticks])
    axes.set_xlabel(LABELS[data.axis.name])
    add_legend(figure)
    return to_svg(figure)


def _mark(axes: Axes, at: float, score: float | None, marker: str, colour: str, label: str) -> None:
    """Mark a setting: at its score, and as a line, which is all of it if its trial has no score."""
    axes.axvline(at, color=colour, linewidth=0.8, linestyle=(0, (4, 2)))
    if score is None:
        axes.plot([at], [0.5], marker, color=colour, label=label, transform=axes.get_xaxis_transform(), markersize=6)
        return
    size = 11 if marker == "*" else 6
    axes.plot([at], [score], marker, color=colour, markersize=size, markeredgecolor="white", label=label, zorder=4)


class Line(NamedTuple):
    """A trial across all coordinates: its share of each axis, from 0 to 1, and its score."""

    shares: list[float]
    score: float | None


def parallel_data(summary: TuneSummary, names: Sequence[str]) -> tuple[list[AxisOf], list[Line]]:
    """Return the axes, and a line for each trial: those without a score first, then from the worst to the best."""
    trials = own_trials(summary)
    axes = [axis_of(name, [trial["setting"] for trial in trials]) for name in names]
    sign = 1 if summary["higher_is_better"] else -1
    ranked = sorted(trials, key=lambda t: -math.inf if t["score"] is None else sign * t["score"])[-_SHOWN_LINES:]
    positions = [_spread(axis, [trial["setting"] for trial in ranked]) for axis in axes]
    lines = [
        Line([share(axis, at[k]) for axis, at in zip(axes, positions, strict=True)], trial["score"])
        for k, trial in enumerate(ranked)
    ]
    return axes, lines


def share(axis: AxisOf, position: float) -> float:
    """Return where on the axis a position is, from 0 to 1."""
    low, high = axis.ends
    return (position - low) / (high - low)


@verbatim
def draw_parallel(axes_of: Sequence[AxisOf], lines: Sequence[Line], summary: TuneSummary) -> str:
    """Draw each trial as a line across all coordinates, coloured by its score; return an SVG."""
    figure, axes = new_axes(height=0.9 + 0.52 * len(axes_of))
    scores = [line.score for line in lines if line.score is not None]
    bound = score_cut(summary)
    best, worst = (max(scores), min(scores)) if summary["higher_is_better"] else (min(scores), max(scores))
    log = is_log(summary, min(scores))
    ends = [math.log10(x) if log else x for x in (best, worst if bound is None else bound)]
    # The best is dark: it is seen on white.
    colours = ScalarMappable(
        Normalize(min(ends), max(ends), clip=True), "viridis_r" if summary["higher_is_better"] else "viridis"
    )

    def colour_of(score: float) -> Any:
        return colours.to_rgba(np.array(math.log10(score) if log else score))

    rows = range(len(axes_of))
    for line in lines:
        if line.score is None:
            axes.plot(line.shares, rows, color="#bbbbbb", linewidth=0.7, linestyle=(0, (2, 2)))
        else:
            axes.plot(line.shares, rows, color=colour_of(line.score), linewidth=1.2)
    axes.plot(lines[-1].shares, rows, color=colour_of(best), linewidth=3)  # once more and wider
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    for row, axis in enumerate(axes_of):
        axes.axhline(row, color="#555555", linewidth=0.8)
        for at, label in axis.ticks:
            axes.plot([share(axis, at)], [row], "|", color="#555555", markersize=5)
            axes.text(share(axis, at), row + 0.12, label, fontsize=7.5, ha="center", va="top", bbox=box)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_yticks(rows, [LABELS[axis.name].split(" in ")[0] for axis in axes_of])
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.set_xlim(0, 1)
    axes.set_ylim(len(axes_of) - 0.4, -0.3)
    bar = figure.colorbar(colours, ax=axes, label=score_label(summary), location="top", aspect=40, pad=0.03)
    metric = summary["metric"]
    bar.ax.xaxis.set_major_formatter(
        lambda x, _position: f"{100 * x:.4g} %" if is_share(metric) else f"{10**x if log else x:.3g}"
    )
    bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize=8)
    return to_svg(figure)
