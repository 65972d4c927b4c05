"""Draw figures in two steps: `*_data` computes numbers from a run's records, `draw_*` draws them as an SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from statistics import mean, median, quantiles
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator

from rmsprop.lab.runs.schema import FinalRow, ScoreFacts, TrialRow
from rmsprop.lab.score import is_share
from rmsprop.text import printable

# Okabe and Ito's palette, which colour-blind readers can tell apart. Lines also differ in dashes.
STYLES: dict[str, tuple[str, Any]] = {
    "RMSprop": ("#0072B2", "-"),
    "SGD": ("#555555", (0, (1, 1))),
    "momentum": ("#E69F00", (0, (5, 1))),
    "AdaGrad": ("#009E73", (0, (3, 1, 1, 1))),
    "Adadelta": ("#CC79A7", (0, (4, 2))),
    "Adam": ("#D55E00", (0, (6, 1, 1, 1))),
    "AdamW": ("#56B4E9", (0, (2, 2))),
}
_SIZE = (4.6, 3.4)  # inches: readable at 400 pixels wide
_LONG_LABEL = 16  # characters; with longer labels, a legend has two columns
_SHORT = 1e3  # a logarithmic axis has ticks between powers of ten if its ends differ by less than this factor
# Show names of tensors and metrics verbatim, whatever their characters and matplotlib's settings.
verbatim = mpl.rc_context({"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False})
_UNNAMED = re.compile(r"_child\d+")  # what matplotlib calls a line without a label
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def style(label: str, position: int) -> tuple[str, Any]:
    """Return colour and dashes of a label; without an own style, those of its position among the labels."""
    return STYLES[label] if label in STYLES else list(STYLES.values())[position % len(STYLES)]


class Band(NamedTuple):
    """Median and middle half of the seeds, by epoch."""

    label: str
    x: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]


def curve_data(
    rows: list[FinalRow], curve: Literal["loss_curve", "validation_curve"], column: int, order: Sequence[str]
) -> list[Band]:
    """Return a Band per optimizer from `column` of the final rows' `curve`. Seeds that diverged are left out."""
    bands = []
    for label in order:
        curves: list[Any] = [row[curve] for row in rows if row["optimizer"] == label and not row["diverged"]]
        if curves:
            points = [sorted(c[i][column] for c in curves) for i in range(min(len(c) for c in curves))]
            x = [point[0] for point in curves[0]][: len(points)]
            bands.append(Band(label, x, [median(p) for p in points], *_middle_half(points)))
    return bands


def _middle_half(points: list[list[float]]) -> tuple[list[float], list[float]]:
    if len(points[0]) < 2:
        return [p[0] for p in points], [p[0] for p in points]
    cuts = [quantiles(p, n=4, method="inclusive") for p in points]
    return [c[0] for c in cuts], [c[2] for c in cuts]


def test_data(rows: list[FinalRow], order: Sequence[str]) -> dict[str, list[float]]:
    """Return the test metric of every seed that did not diverge, by optimizer."""
    finite = [row for row in rows if not row["diverged"]]
    known = [(row["optimizer"], row["test_metric"]) for row in finite]
    return {o: [metric for name, metric in known if name == o and metric is not None] for o in order}


def sensitivity_data(rows: list[TrialRow], order: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Return pairs (learning rate, mean validation metric) of each optimizer, except rates at which a seed diverged."""
    result = {}
    for label in order:
        by_rate: dict[float, list[TrialRow]] = {}
        for row in rows:
            if row["optimizer"] == label:
                by_rate.setdefault(row["lr"], []).append(row)
        metrics = {
            lr: [row["validation_metric"] for row in of_rate]
            for lr, of_rate in sorted(by_rate.items())
            if not any(row["diverged"] for row in of_rate)
        }
        result[label] = [(lr, mean(m for m in known if m is not None)) for lr, known in metrics.items()]
    return result


@verbatim
def draw_bands(bands: list[Band], y_label: str, *, log: bool) -> str:
    """Draw curves with bands over the epochs; return an SVG."""
    figure, axes = new_axes()
    for position, band in enumerate(bands):
        colour, dashes = style(band.label, position)
        wide = 2.2 if band.label == "RMSprop" else 1.3
        axes.plot(band.x, band.middle, color=colour, linestyle=dashes, linewidth=wide, label=band.label)
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
    values = [y for band in bands for y in (*band.low, *band.middle)]
    if log and values and min(values) > 0:
        log_scale(axes, "y")
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    if len(bands) > 1:
        add_legend(figure)
    return to_svg(figure)


@verbatim
def draw_test(results: dict[str, list[float]], y_label: str) -> str:
    """Draw every seed as a dot and the median as a line, one column per optimizer; return an SVG."""
    figure, axes = new_axes()
    for column, (label, values) in enumerate(results.items()):
        colour, _ = style(label, column)
        spread = [column + 0.3 * ((i + 0.5) / len(values) - 0.5) for i in range(len(values))]
        axes.plot(spread, values, "o", color=colour, markersize=4, alpha=0.7)
        if values:
            axes.plot([column - 0.3, column + 0.3], [median(values)] * 2, color=colour, linewidth=2.5)
    axes.set_xticks(range(len(results)), list(results), rotation=25, ha="right")
    axes.set_ylabel(y_label)
    return to_svg(figure)


class Interval(NamedTuple):
    """A difference to the reference, and its interval."""

    label: str
    optimizer: str  # decides the colour
    difference: float
    low: float
    high: float


def difference_data(scores: Sequence[ScoreFacts]) -> list[Interval]:
    """Return the difference of each optimizer that has one."""
    return [
        Interval(s["optimizer"], s["optimizer"], s["difference"], *s["interval"])
        for s in scores
        if s["interval"] is not None and s["difference"] is not None
    ]


@verbatim
def draw_differences(differences: Sequence[Interval], metric: str) -> str:
    """Draw each difference as a dot on its interval; return an SVG."""
    figure, axes = new_axes(height=max(1.6, 0.9 + 0.3 * len(differences)))
    scale = 100 if is_share(metric) else 1
    for row, each in enumerate(reversed(differences)):
        colour, _ = style(each.optimizer, row)
        axes.plot([scale * each.low, scale * each.high], [row, row], color=colour, linewidth=2)
        axes.plot([scale * each.difference], [row], "o", color=colour, markersize=6)
    axes.axvline(0, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
    axes.set_yticks(range(len(differences)), [printable(each.label) for each in reversed(differences)])
    axes.set_ylim(-0.6, len(differences) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("percentage points" if is_share(metric) else f"difference of {metric}")
    return to_svg(figure)


@verbatim
def draw_sensitivity(results: dict[str, list[tuple[float, float]]], y_label: str, *, log: bool = False) -> str:
    """Draw the validation metric against the learning rate; return an SVG."""
    figure, axes = new_axes()
    for position, (label, points) in enumerate(results.items()):
        colour, dashes = style(label, position)
        x, y = [p[0] for p in points], [p[1] for p in points]
        wide = 2.2 if label == "RMSprop" else 1.3
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=wide, marker="o", markersize=2.5, label=label)
    log_scale(axes, "x")
    scores = [y for points in results.values() for _, y in points]
    if log and scores and min(scores) > 0:
        log_scale(axes, "y")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(y_label)
    add_legend(figure)
    return to_svg(figure)


@verbatim
def draw_bars(values: Mapping[Any, float], x_label: str) -> str:
    """Draw a horizontal bar for each value; return an SVG."""
    figure, axes = new_axes(height=max(1.6, 0.8 + 0.3 * len(values)))
    labels: list[str] = list(values)[::-1]
    axes.barh(labels, [values[k] for k in labels], color=[STYLES.get(k, ("#0072B2",))[0] for k in labels], height=0.6)
    for row, label in enumerate(labels):
        axes.text(values[label], row, f" {values[label]:.0f}", va="center", fontsize=8)
    axes.set_xlim(0, 1.18 * max(values.values(), default=1.0))
    axes.set_xlabel(x_label)
    return to_svg(figure)


def log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(_Powers())
    axis.set_minor_formatter(_Powers())
    axis.set_minor_locator(_Between(subs="auto"))


class _Between(LogLocator):
    """Ticks between powers of ten, on short axes only: on long axes they would take half of a figure's time."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        ticks: Sequence[float] = super().tick_values(vmin, vmax) if 0 < vmax < _SHORT * vmin else []
        return ticks


class _Powers(LogFormatterSciNotation):
    """Labels such as 10⁻³, or 0.003 on a short axis. They are plain text: formulas take a third of a figure's time."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        axis: Any = self.axis  # set before any label is asked for
        low, high = sorted(axis.get_view_interval())
        power = re.fullmatch(r"\$\\mathdefault\{(?:(.*)\\times)?10\^\{(.*)\}\}\$", super().__call__(x, pos))
        if power is None:
            return ""
        if high < _SHORT * low and 1e-4 <= x < 1e5:
            return f"{x:g}"
        factor, exponent = power.groups()
        return (f"{factor}×" if factor else "") + "10" + exponent.translate(RAISED)


def new_axes(height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    """Return a figure and its axes, without pyplot, which would change global state and the backend."""
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(figure: Figure, columns: int = 3) -> None:
    """Draw a legend of all lines with a label. Matplotlib itself would omit labels that begin with _."""
    lines = [line for axes in figure.axes for line in axes.lines if not _UNNAMED.fullmatch(str(line.get_label()))]
    numbers = [str(number) for number in range(len(lines))]
    if any(len(str(line.get_label())) > _LONG_LABEL for line in lines):
        columns = min(columns, 2)  # three would be wider than the figure
    legend = figure.legend(lines, numbers, loc="outside upper center", fontsize=8, frameon=False, ncols=columns)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_text(printable(str(line.get_label())))


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG that depends on its content alone: no date, no random ids."""
    with mpl.rc_context({"svg.hashsalt": "rmsprop"}):
        buffer = io.StringIO()
        canvas = FigureCanvasSVG(figure)  # figure.savefig draws twice
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    text = printable(buffer.getvalue())  # matplotlib repeats every label in a comment
    return text[text.index("<svg") :]
