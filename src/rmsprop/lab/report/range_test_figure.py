"""Draw the figure of a learning-rate range test."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from rmsprop.lab.report.figures import log_scale, new_axes, to_svg, verbatim
from rmsprop.monitor.lr_finder import Found
from rmsprop.monitor.lr_finder.curve import stops

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#555555"


@verbatim
def draw_range_test(found: Found, title: str = "") -> str:
    """Draw each seed's losses, the smoothed curve with its band, and the suggested rate; return an SVG.

    The curve ends at a dotted line, the rate at which the first seed stopped.
    """
    figure, axes = new_axes()
    rates, middle, low, high = found.curve
    for own in found.losses:
        axes.plot(found.rates[: len(own)], own, color=_GREY, linewidth=0.5, alpha=0.6)
    axes.fill_between(rates, low, high, color=_BLUE, alpha=0.2, linewidth=0)
    axes.plot(rates, middle, color=_BLUE, linewidth=2.2)
    bottom, top = _limits(low, middle)
    axes.set_ylim(bottom, top)
    if stopped := stops(np.array(found.rates), found.losses):
        axes.axvline(stopped[0], color=_GREY, linewidth=1, linestyle=":")
    if found.lr is not None:
        axes.axvline(found.lr, color=_ORANGE, linewidth=1.5)
        axes.text(found.lr, top, f"suggested: {found.lr:g} ", color=_ORANGE, fontsize=9, ha="right", va="top")
        lowest = found.facts["lowest_at"]
        at = int(abs(np.log(rates / lowest)).argmin())
        axes.plot([lowest], [middle[at]], "o", color=_BLUE, markersize=5)
    log_scale(axes, "x")
    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=12))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(found.rates[0], found.rates[-1])
    axes.set_xlabel("learning rate" + (" (dotted: the first seed stopped)" if stopped else ""))
    axes.set_ylabel("loss after a step with it")
    if title:
        axes.set_title(title, fontsize=9)
    return to_svg(figure)


def _limits(low: NDArray[np.float64], middle: NDArray[np.float64]) -> tuple[float, float]:
    """Return limits of the y axis that show the start and the minimum of the curve, not all of its rise."""
    if not len(middle):  # no seed reached its second rate
        return 0.0, 1.0
    begin, bottom = float(np.median(middle[:5])), float(min(low.min(), middle.min()))
    room = max(begin - float(middle.min()), 1e-3 * abs(begin), 1e-12)
    return bottom - 0.1 * room, begin + 0.6 * room
