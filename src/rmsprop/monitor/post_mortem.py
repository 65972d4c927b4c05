"""Find the first step and tensor of a divergence in the steps that a monitor still knows.

The history of a tensor (`rmsprop.monitor.gradient_history`) is the root mean square of its gradient over the last
1/(1−β) steps. A run has diverged in one of these cases:

- Gradients were not finite and went into the averages, or parameters or averages are not finite.
- A tensor's gradient rose above SPIKE times its history. At least LASTING measured steps later, the gradient is still
  above SPIKE times the history before the rise. All gradients together rose as much.
- A tensor's gradient rose above LEAP times the largest in the first half of the known steps before, and is still above
  that. All gradients together rose as much. This case finds a divergence from records alone, after the ring has dropped
  its steps and the history has caught up. In healthy runs, all gradients together rose up to 25-fold (first steps, tiny
  initial weights), and 300-fold where a loss was multiplied by 50.
- The last STUCK steps were all skipped, because gradients were not finite.

In the first case, the divergence began at the rise before it, if that rise lasted. Two rises are not detected: one that
came back, and one below LEAP after the ring has dropped its steps.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from rmsprop.monitor.findings.finding import counted
from rmsprop.monitor.gradient_history import GradientHistory, Point

SPIKE = 10.0
LEAP = 1000.0
LASTING = 3
STUCK = 20
_SAME_FACTOR = 6.0  # largest rise/smallest rise: up to 4.4 where a loss was multiplied, above 26 in divergences
_COMPARED_STEPS = 3  # known steps before the rise, and from the rise on, that are compared
_TABLE_STEPS = (5, 2)  # steps in the table: up to the beginning, and after it
_TENSORS = 3


@dataclass(frozen=True)
class PostMortem:
    """Where a run diverged; `str()` gives sentences, and a table of the worst tensors around that step.

    Attributes
    ----------
    kind
        "spike": a gradient rose far above its history. "nonfinite": a number was not finite, without a rise before.
        "stuck": all newest steps were skipped.
    step
        The first step that shows the divergence.
    after
        The last step known to be good, if steps between `after` and `step` were not measured; else None.
    tensors
        The tensors in which the divergence began, the worst first. With `after`, the tensors that show it in `step`.
    nonfinite_step
        The first step with a number that was not finite, or None.
    sentences
        What happened.
    table
        Values of the worst tensors around `step`, a dict for each step.
    """

    kind: str
    step: int
    after: int | None
    tensors: tuple[str, ...]
    nonfinite_step: int | None
    sentences: tuple[str, ...]
    table: dict[str, list[dict[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict that JSON can hold."""
        return dataclasses.asdict(self) | {"tensors": list(self.tensors), "sentences": list(self.sentences)}

    def __str__(self) -> str:
        lines = [" ".join(self.sentences)]
        for name, rows in self.table.items():
            lines += ["", name, f"{'step':>9}  {'gradient':>9}  {'history':>9}  {'update/weight':>13}  not finite"]
            for row in rows:
                values = (_short(row[key]) for key in ("gradient_rms", "history_rms", "update_ratio"))
                lines.append("{:>9}  {:>9}  {:>9}  {:>13}  {:>10}".format(row["step"], *values, row["nonfinite"]))
        return "\n".join(lines)


class _Rise(NamedTuple):
    """The first step in which a tensor's gradient was far above earlier gradients."""

    step: int
    times: float
    text: str


def post_mortem(series: Sequence[GradientHistory], now: int, skipped_last: int = 0, last: int = 0) -> PostMortem | None:
    """Return where the run of `now` steps diverged, or None.

    The newest `skipped_last` steps were skipped. The ring keeps the sums of `last` steps.
    """
    known_steps = sorted({p.step for s in series for p in s.points})
    bad = [(p.step, -p.nonfinite, s) for s in series for p in s.points if p.broken or (s.propagates and p.nonfinite)]
    end = min((step for step, _, _ in bad), default=None)
    risen = _rises(series, end)
    if risen:
        step = min(rise.step for rise, _ in risen)
        worst = sorted(((rise, s) for rise, s in risen if rise.step == step), key=lambda pair: -pair[0].times)
        return _spike(worst, series, known_steps, step, end, last)
    if end is not None:
        first = [s for step, _, s in sorted(bad, key=lambda x: x[:2]) if step == end]
        return _nonfinite(first, series, known_steps, end, last)
    if skipped_last >= STUCK:
        sentences = (
            f"The last {skipped_last} steps were all skipped: every one had gradients that were not finite.",
            f"The last executed step is {now}.",
        )
        return PostMortem(
            kind="stuck", step=now + 1, after=None, tensors=(), nonfinite_step=now + 1, sentences=sentences, table={}
        )
    return None


def _rises(series: Sequence[GradientHistory], end: int | None) -> list[tuple[_Rise, GradientHistory]]:
    """Return each tensor's first lasting rise, before the first step `end` with non-finite numbers."""
    rises = []
    totals = _Totals(series)
    for s in series:
        points = [p for p in s.points if end is None or p.step < end]
        if not points or points[-1].gradient is None:
            continue
        rise = _above_history(points, totals, lasting=end is None)
        rise = _leap(points, totals, lasting=end is None, before=rise and rise.step) or rise
        if rise:
            rises.append((rise, s))
    return rises


def _above_history(points: list[Point], totals: _Totals, *, lasting: bool) -> _Rise | None:
    last = points[-1]
    for index, p in enumerate(points):
        if p.rise is None or p.level is None or p.rise <= SPIKE or (last.gradient or 0) <= SPIKE**2 * p.level:
            continue
        if lasting and (len(points) - 1 - index < LASTING or not totals.rose(p.step, last.step, SPIKE)):
            continue
        return _Rise(p.step, p.rise, f"was {p.rise:.3g} times its history")
    return None


def _leap(points: list[Point], totals: _Totals, *, lasting: bool, before: int | None) -> _Rise | None:
    """Return the first rise above LEAP times earlier gradients; None if it is not earlier than step `before`."""
    g = np.array([p.gradient if p.gradient is not None and math.isfinite(p.gradient) else 0.0 for p in points])
    largest = np.concatenate([[0.0], np.maximum.accumulate(g)])  # of the points before each point
    earlier = largest[(np.arange(len(g)) + 1) // 2]  # of the first half of these points
    with np.errstate(over="ignore"):
        spikes = (g > SPIKE**2 * earlier) & (earlier > 0)
        leaps = (g > LEAP**2 * earlier) & (earlier > 0) & (g[-1] > LEAP**2 * earlier)
    newest = points[-1]
    for index in np.flatnonzero(leaps).tolist():
        if before is not None and points[index].step >= before:
            return None
        if lasting and len(points) - 1 - index < LASTING and (newest.rise is None or newest.rise > SPIKE):
            continue  # few steps since the rise, and v has not caught up with it
        start = int(np.flatnonzero(~spikes[:index])[-1]) + 1  # of consecutive spikes; the first point is no spike
        times = math.sqrt(g[start:].max() / largest[start])
        if totals.rose(points[start].step, newest.step, LEAP if lasting else SPIKE):
            return _Rise(points[start].step, times, f"rose to {times:.3g} times the largest before")
    return None


class _Totals:
    """Sums the gradient's mean square over all tensors, step by step; values that are not finite are skipped."""

    def __init__(self, series: Sequence[GradientHistory]) -> None:
        self._by_step: dict[int, float] = {}
        for s in series:
            for p in s.points:
                self._by_step.setdefault(p.step, 0.0)
                if p.gradient is not None and math.isfinite(p.gradient):
                    self._by_step[p.step] += p.gradient
        self._steps = sorted(self._by_step)
        self._sums = list(accumulate((self._by_step[step] for step in self._steps), initial=0.0))  # before each step

    def rose(self, step: int, last: int, times: float) -> bool:
        """Return whether all gradients together rose `times`-fold, from the mean before `step` to step `last`."""
        count = bisect_left(self._steps, step)
        return count > 0 and self._by_step[last] > times**2 * self._sums[count] / count


def _spike(
    worst: list[tuple[_Rise, GradientHistory]],
    series: Sequence[GradientHistory],
    known_steps: list[int],
    step: int,
    end: int | None,
    last: int,
) -> PostMortem:
    after = _gap(known_steps, step)
    rise, first = worst[0]
    others = _others(len(worst), len(series))
    sentences = [
        f"It began {_when(after, step)} in {first.name}{others}: its gradient {rise.text}, and has not come back."
    ]
    if end is None:
        sentences += _multiplied(series, step)
    else:
        sentences.append(f"From step {end} on there were numbers that were not finite.")
    sentences += _unseen(after, [s for _, s in worst], last)
    names = tuple(s.name for _, s in worst)
    return PostMortem(
        kind="spike",
        step=step,
        after=after,
        tensors=names,
        nonfinite_step=end,
        sentences=tuple(sentences),
        table=_table([s for _, s in worst], step),
    )


def _multiplied(series: Sequence[GradientHistory], step: int) -> list[str]:
    """Return a sentence if all gradients rose by about the same factor, by the mean squares next to `step`."""
    factors = []
    for s in series:
        squares = [(p.step, p.gradient) for p in s.points if p.gradient is not None and math.isfinite(p.gradient)]
        at = bisect_left(squares, (step,))
        before, since = (
            [g for _, g in part] for part in (squares[:at][-_COMPARED_STEPS:], squares[at:][:_COMPARED_STEPS])
        )
        if not (since and sum(before) > 0):
            return []
        factors.append(math.sqrt(sum(since) / len(since) / (sum(before) / len(before))))
    smallest, largest = min(factors), max(factors)
    if len(factors) == 1 or not 1 < largest <= _SAME_FACTOR * smallest:
        return []
    return [
        f"All {len(factors)} gradients rose by about the same factor ({smallest:.3g} to {largest:.3g}): the loss may"
        " have been multiplied there, and then nothing has diverged."
    ]


def _nonfinite(
    first: list[GradientHistory], series: Sequence[GradientHistory], known_steps: list[int], step: int, last: int
) -> PostMortem:
    after = _gap(known_steps, step)
    count = next(p.nonfinite for p in first[0].points if p.step == step)
    were = f"{counted(count, 'element')} of its gradient {'was' if count == 1 else 'were'} not finite"
    what = were if count else "its parameters or averages are not finite"
    began = f"It began {_when(after, step)}"
    if len(first) == 1 or len(first) < len(series):
        sentences = [f"{began} in {first[0].name}{_others(len(first), len(series))}: {what}."]
    elif after is None:
        sentences = [
            f"{began} in all {len(first)} tensors at once: the loss was not finite, or something that all"
            " gradients pass through."
        ]
    else:
        sentences = [f"{began}: by then, all {len(first)} tensors were not finite."]
    if known_steps[0] == step:
        sentences.append("No step before it was measured.")
    elif any(p.rise is not None for s in series for p in s.points if p.step < step):
        until = "Before it" if after is None else f"Up to step {after}"
        sentences.append(f"{until}, no gradient had risen to {SPIKE:g} times its history and stayed there.")
    sentences += _unseen(after, first, last)
    names = tuple(s.name for s in first)
    return PostMortem(
        kind="nonfinite",
        step=step,
        after=after,
        tensors=names,
        nonfinite_step=step,
        sentences=tuple(sentences),
        table=_table(first, step),
    )


def _others(count: int, tensors: int) -> str:
    """Return the words for the other tensors in which the divergence began."""
    return f", and in {count - 1} of {counted(tensors - 1, 'other tensor')}" if count > 1 else ""


def _gap(known_steps: list[int], step: int) -> int | None:
    """Return the last measured step before `step`; None if no step between them is missing."""
    before = max((at for at in known_steps if at < step), default=0)
    return None if before == step - 1 else before


def _when(after: int | None, step: int) -> str:
    return f"at step {step}" if after is None else f"between step {after} and step {step}"


def _unseen(after: int | None, worst: Sequence[GradientHistory], last: int) -> list[str]:
    """Return sentences about the unknown steps after `after`."""
    if after is None:
        return []
    newest = [p.step for p in worst[0].points[-2:]]
    if len(newest) == 2 and newest[1] - newest[0] == 1:  # every step is measured
        why = f"are no longer kept: pass Monitor a larger last than {last}"
    else:
        why = "were not measured: pass every=1 to Monitor, or --every 1 to rmsprop run"
    first = ["Which of these tensors was first is unknown."] if len(worst) > 1 else []
    return [f"The steps between them {why}.", *first]


def _table(worst: Sequence[GradientHistory], step: int) -> dict[str, list[dict[str, Any]]]:
    table = {}
    for s in worst[:_TENSORS]:
        before = [p for p in s.points if p.step <= step][-_TABLE_STEPS[0] :]
        shown = before + [p for p in s.points if p.step > step][: _TABLE_STEPS[1]]
        table[s.name] = [
            {
                "step": p.step,
                "gradient_rms": _root(p.gradient),
                "history_rms": _root(p.history),
                "update_ratio": p.update_ratio,
                "nonfinite": p.nonfinite,
            }
            for p in shown
        ]
    return table


def _root(square: float | None) -> float | None:
    return math.sqrt(square) if square is not None and 0 <= square < math.inf else None


def _short(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"
