"""Draw the effective learning rates of each layer: those that matter most alone, the others by pattern of names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from rmsprop.lab.report.figures import log_scale, new_axes, to_svg, verbatim
from rmsprop.lab.report.tensor_names import by_pattern, shortened
from rmsprop.lab.runs.effective_rates import QUANTILES
from rmsprop.text import printable

ROWS = 24  # with more layers, some share a row
_ALONE = ROWS // 2  # layers with a row of their own
_FOUND = _ALONE // 2  # of these, those with findings
_MEDIAN = len(QUANTILES) // 2
_BLUE, _GREY = "#0072B2", "#777777"


class Layer(NamedTuple):
    """Quantiles of the effective learning rates of one layer, or of several with names of one pattern."""

    name: str
    quantiles: list[float]  # at rmsprop.lab.runs.effective_rates.QUANTILES; medians over seeds
    number: int = 1  # of layers


def layer_data(recorded: Sequence[dict[str, list[float | None]]]) -> list[Layer]:
    """Return a Layer for each parameter, from the quantiles of one or more seeds."""
    names = [name for name in recorded[0] if all(name in each for each in recorded)] if recorded else []
    return [Layer(name, [median(r[name][i] or 0.0 for r in recorded) for i in range(len(QUANTILES))]) for name in names]


def layer_rows(layers: Sequence[Layer], found: Sequence[str] = ()) -> list[Layer]:
    """Return the rows of the figure: all layers, or if they are more than `ROWS`, those that matter most and patterns.

    Layers of findings come first, in the order of `found`. Then those whose median is farthest, as a factor, from the
    median of all. Patterns beyond `ROWS` share the last row.
    """
    if len(layers) <= ROWS:
        return list(layers)
    known = {layer.name: math.log(m) for layer in layers if (m := layer.quantiles[_MEDIAN]) > 0}
    center = median(known.values()) if known else 0.0
    farthest = sorted(known, key=lambda name: -abs(known[name] - center))
    named = [name for name in found if any(layer.name == name for layer in layers)][:_FOUND]
    alone = set(list(dict.fromkeys([*named, *farthest]))[:_ALONE])
    others = by_pattern(layer.name for layer in layers if layer.name not in alone)
    largest = sorted(others, key=lambda pattern: -len(others[pattern]))
    if len(largest) > ROWS - len(alone):
        del largest[ROWS - len(alone) - 1 :]
    merged = {pattern: others[pattern] for pattern in others if pattern in largest}
    if rest := [name for pattern, names in others.items() if pattern not in largest for name in names]:
        merged["others"] = rest
    by_name = {layer.name: layer for layer in layers}
    rows = [layer for layer in layers if layer.name in alone]
    return rows + [_merged(pattern, [by_name[name] for name in names]) for pattern, names in merged.items()]


def _merged(pattern: str, layers: list[Layer]) -> Layer:
    """Return one row for several layers: their whole range, and the medians of their other quantiles."""
    columns = list(zip(*(layer.quantiles for layer in layers), strict=True))
    quantiles = [min(columns[0]), *(median(column) for column in columns[1:-1]), max(columns[-1])]
    return Layer(pattern, quantiles, len(layers))


def rows_words(rows: Sequence[Layer]) -> str:
    """Return which layers share a row; empty if none does."""
    shared = [row.number for row in rows if row.number > 1]
    if not shared:
        return ""
    return (
        f" {len(rows) - len(shared)} of the {sum(row.number for row in rows)} layers have a row: those of findings and "
        f"those farthest from the median of all. Grey rows are the other {sum(shared)}, by the pattern of their names "
        "(* is any number): the range of all, and the medians of their other quantiles."
    )


@verbatim
def draw_layers(rows: Sequence[Layer], lr: float) -> str:
    """Draw each row's effective rates; return an SVG.

    The range is a hairline, 5-95 % a thin line, 25-75 % a thick line, and the median a tick.
    """
    figure, axes = new_axes(height=max(2.0, 0.9 + 0.28 * len(rows)))
    for position, row in enumerate(reversed(rows)):
        least, p5, p25, p50, p75, p95, most = [q if q and q > 0 else None for q in row.quantiles]
        colour = _BLUE if row.number == 1 else _GREY
        for low, high, wide in ((least, most, 0.6), (p5, p95, 2.0), (p25, p75, 6.0)):
            if low is not None and high is not None:
                axes.plot([low, high], [position] * 2, color=colour, linewidth=wide, solid_capstyle="butt")
        if p50 is not None:
            axes.plot([p50], [position], "s", color=colour, markersize=6)  # seen where the range is narrow
            axes.plot([p50], [position], "|", color="white", markersize=7, markeredgewidth=1.8)
    if lr > 0:
        axes.axvline(lr, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
        axes.text(lr, len(rows) - 0.45, " η", color="#555555", fontsize=9, va="bottom")
    if any(rate and rate > 0 for row in rows for rate in row.quantiles):
        log_scale(axes, "x")
    labels = [shortened(printable(row.name)) + (f" ×{row.number}" if row.number > 1 else "") for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(-0.6, len(rows) - 0.1)
    axes.set_xlabel("effective learning rate η/d")
    axes.tick_params(axis="y", labelsize=8)
    return to_svg(figure)
