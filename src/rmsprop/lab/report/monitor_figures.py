"""Draw the monitor's records in two steps: `*_data` computes numbers, `draw_*` draws them as an SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import PercentFormatter

from rmsprop.lab.report.figures import STYLES, add_legend, log_scale, new_axes, to_svg, verbatim
from rmsprop.text import printable

MANY = 10  # with this many tensors or more, a figure shows range, median, extremes and findings instead of each tensor
_FOUND = 2  # largest number of tensors that a figure of many shows for their findings
FEW = 8  # with this many tensors or fewer, each has its own heatmap
_COLUMNS = 300  # largest number of a heatmap's columns
_PARTS = 4  # rows of a heatmap per factor of two
_COLOURS = [colour for colour, _ in STYLES.values()]
# Of the highest tensor, the lowest, and those with findings.
_MANY_STYLES: tuple[tuple[str, Any], ...] = (
    ("#D55E00", "-"), ("#009E73", (0, (4, 1.5))), ("#CC79A7", (0, (6, 1, 1, 1))), ("#E69F00", (0, (1, 1))),
)  # fmt: skip
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1)))


class Series(NamedTuple):
    """One statistic of one tensor at the measured steps; NaN if the tensor has no value there."""

    name: str
    steps: list[int]
    values: list[float]

    @property
    def middle(self) -> float:
        """The median of the known values; NaN if there are none."""
        return median(self.known) if self.known else math.nan

    @property
    def known(self) -> list[float]:
        """The values that are not NaN."""
        return [v for v in self.values if not math.isnan(v)]


class Heat(NamedTuple):
    """Distribution of the elements' effective learning rates at each measured step."""

    steps: list[int]
    lowest: int  # log2 of the lowest edge; a row spans a quarter of a factor of two
    shares: npt.NDArray[np.float64]  # rows × steps: share of the elements in the bin (a factor of two) around the row
    lrs: list[float]  # η of the first group at each step


def series_data(records: Sequence[Mapping[str, Any]], field: str) -> list[Series]:
    """Return a Series for each tensor whose `field` is known at a step or more."""
    steps = [record["step"] for record in records]
    names = dict.fromkeys(name for record in records for name in record["tensors"])
    result = []
    for name in names:
        found = (record["tensors"].get(name, {}).get(field) for record in records)
        values = [math.nan if value is None else float(value) for value in found]
        if not all(math.isnan(value) for value in values):
            result.append(Series(name, steps, values))
    return result


def heat_data(records: Sequence[Mapping[str, Any]], name: str | None = None) -> Heat | None:
    """Return the Heat of the tensor `name`, or of all tensors together; None if no rate was measured."""
    records = records[:: math.ceil(len(records) / _COLUMNS)] if records else []
    columns = []
    for record in records:
        tensors = record["tensors"].values() if name is None else [record["tensors"].get(name, {})]
        rates = [t["effective_lr"] for t in tensors if t.get("effective_lr")]
        columns.append([(math.log2(r["lr"]), r["first"], r["counts"]) for r in rates if r["lr"] > 0])
    spectra = [each for column in columns for each in column]
    if not spectra:
        return None
    # Bin e holds elements with 2ᵉ ≤ d < 2ᵉ⁺¹: log2(η/d) is between log2 η − e − 1 and log2 η − e.
    lowest = math.floor(min(eta - first - len(counts) for eta, first, counts in spectra))
    highest = math.ceil(max(eta - first for eta, first, _ in spectra))
    centers = lowest + (np.arange(_PARTS * (highest - lowest)) + 0.5) / _PARTS
    shares = np.zeros((len(centers), len(records)))
    for column, parts in enumerate(columns):
        for eta, first, counts in parts:
            bins = np.ceil(eta - centers - 1).astype(int) - first
            inside = (bins >= 0) & (bins < len(counts))
            shares[inside, column] += np.array(counts)[bins[inside]]
        shares[:, column] /= max(1, sum(sum(counts) for _, _, counts in parts))
    lrs = [float(record["groups"][0]["lr"]) for record in records]
    return Heat([record["step"] for record in records], lowest, shares, lrs)


@verbatim
def draw_series(
    series: list[Series], y_label: str, *, log: bool, mark: float | None = None, found: Sequence[str] = ()
) -> str:
    """Draw a statistic of each tensor over the steps; return an SVG.

    With `MANY` tensors or more, draw range, median, extremes and the first tensors of `found`. A `log` axis omits
    zeros; otherwise values are shares, shown in percent. `mark` draws a horizontal line.
    """
    figure, axes = new_axes()
    if log:
        series = [s._replace(values=[v if v > 0 else math.nan for v in s.values]) for s in series]
        series = [s for s in series if not math.isnan(s.middle)]
    if len(series) < MANY:
        for s, (colour, dashes) in zip(series, _styles([s.name for s in series]), strict=True):
            axes.plot(s.steps, s.values, color=colour, linestyle=dashes, linewidth=1.5, label=s.name)
    else:
        _draw_many(axes, series, found)
    for line in axes.lines:
        if np.isfinite(np.asarray(line.get_ydata(), float)).sum() == 1:
            line.set_marker("o")  # a line of one point would be invisible
    if mark is not None:
        axes.axhline(mark, color="#555555", linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    if log and series:
        log_scale(axes, "y")
    elif not log:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel(y_label)
    if series:
        add_legend(figure, columns=max(1, min(3, 64 // (7 + max(len(str(line.get_label())) for line in axes.lines)))))
    return to_svg(figure)


def _styles(names: list[str]) -> list[tuple[str, Any]]:
    """Return colour and dashes of each name: a module's parameters share a colour and differ in dashes."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    positions = {n: (i, j) for i, (_, inside) in enumerate(modules.items()) for j, n in enumerate(inside)}
    count = len(_COLOURS)
    return [(_COLOURS[i % count], _DASHES[(i // count + j) % len(_DASHES)]) for i, j in (positions[n] for n in names)]


def _draw_many(axes: Axes, series: list[Series], found: Sequence[str] = ()) -> None:
    """Draw the range, the median, the tensors with the highest and the lowest median, and the first of `found`."""
    columns = [[v for v in column if not math.isnan(v)] for column in zip(*(s.values for s in series), strict=True)]
    known = [(step, column) for step, column in zip(series[0].steps, columns, strict=True) if column]
    x = [step for step, _ in known]
    axes.fill_between(x, [min(c) for _, c in known], [max(c) for _, c in known], color="#0072B2", alpha=0.12, lw=0)
    highest, lowest = (pick(series, key=lambda s: (s.middle, max(s.known))) for pick in (max, min))
    by_name = {s.name: s for s in series}
    others = [by_name[name] for name in found if name in by_name.keys() - {highest.name, lowest.name}][:_FOUND]
    for s, (colour, dashes) in zip((highest, lowest, *others), _MANY_STYLES, strict=False):
        axes.plot(s.steps, s.values, color=colour, linestyle=dashes, linewidth=1.2, label=s.name)
    middle = [median(c) for _, c in known]
    axes.plot(x, middle, color="#0072B2", linewidth=2.2, label=f"median of {len(series)}")


@verbatim
def draw_heat(heats: dict[str, Heat]) -> str:
    """Draw one Heat over the steps, or several side by side; return an SVG."""
    figure, axes = new_axes()
    figure.dpi = 200  # cells are pixels, not paths, which keeps the file small
    axes.grid(visible=False)
    axes.set_facecolor(mpl.colormaps["Blues"](0))  # the colour of 0: outside of the cells there are no elements
    norm = PowerNorm(
        0.5, vmin=0, vmax=max(float(heat.shares.max()) for heat in heats.values())
    )  # small shares stay visible
    shades: Any = None
    for number, heat in enumerate(heats.values()):
        edges, steps = np.array(_edges(heat.steps)), np.array(heat.steps, float)
        if len(heats) > 1:
            edges, steps = (number + (x - edges[0]) / (edges[-1] - edges[0]) for x in (edges, steps))
            axes.axvline(number, color="white", linewidth=4)
        rates = 2.0 ** (heat.lowest + np.arange(len(heat.shares) + 1) / _PARTS)
        shades = axes.pcolormesh(edges, rates, heat.shares, cmap="Blues", norm=norm, rasterized=True, zorder=0.5)
        lrs = [lr or math.nan for lr in heat.lrs]
        axes.plot(steps, lrs, color="#D55E00", linewidth=1.2, linestyle=(0, (4, 2)))
    if len(heats) > 1:
        axes.set_xticks(np.arange(len(heats)) + 0.5, [printable(name) for name in heats], rotation=25, ha="right")
        axes.set_xlim(0, len(heats))
    else:
        axes.set_xlabel("step")
    log_scale(axes, "y")
    lowest = min(min([2.0**heat.lowest, *(lr for lr in heat.lrs if lr > 0)]) for heat in heats.values())
    highest = max(2.0 ** (heat.lowest + len(heat.shares) / _PARTS) for heat in heats.values())
    axes.set_ylim(lowest / 1.5, highest * 1.5)
    axes.set_ylabel("effective learning rate η/d")
    figure.colorbar(shades, ax=axes, format=PercentFormatter(1, decimals=0), label="elements", aspect=30)
    return to_svg(figure)


def _edges(steps: list[int]) -> list[float]:
    """Return the edges of the columns: halfway between steps, and the same distance outside the first and last step."""
    between = [(a + b) / 2 for a, b in pairwise(steps)]
    first = 2 * steps[0] - between[0] if between else steps[0] - 0.5
    last = 2 * steps[-1] - between[-1] if between else steps[-1] + 0.5
    return [max(0.0, first), *between, last]


def extremes_words(series: list[Series], form: str) -> str:
    """Return which tensors end highest and lowest, in words for readers who cannot see the picture."""
    last = [(s.name, s.known[-1]) for s in series if s.known]
    if len(last) < 2:
        return "".join(f"{name} ends at {_number(value, form)}." for name, value in last)
    (low, least), (high, most) = (pick(last, key=lambda pair: pair[1]) for pick in (min, max))
    if least == most:
        return f"At the end all are at {_number(most, form)}."
    return f"At the end {high} is highest ({_number(most, form)}) and {low} lowest ({_number(least, form)})."


def _number(value: float, form: str) -> str:
    return f"{value:{form}}".replace("%", " %")
