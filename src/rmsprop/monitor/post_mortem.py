"""Where a run went wrong: the first step and tensor of a divergence, found in what a monitor still has of it.

A tensor's history is what `rmsprop.monitor.series` says, about the gradient's root mean square over the last 1/(1−β)
steps. A run has diverged

- if gradients were not finite and went into the averages, or parameters or averages are not finite; or
- if a tensor's gradient rose above SPIKE times its history and is still above SPIKE times what that was then, at least
  LASTING measured steps later, and all gradients together rose as much; or
- if the last STUCK steps were left out, every one, since gradients were not finite.

In the first case the beginning is the rise before it, if there was one that lasted until then.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rmsprop.monitor.history import counted
from rmsprop.monitor.series import Point, Series

SPIKE = 10.0
LASTING = 3
STUCK = 20
_ROWS = (5, 2)  # of the table: steps up to the beginning, and after it
_TENSORS = 3


@dataclass(frozen=True)
class PostMortem:
    """Where a run went wrong; `str` tells it in words, with the last values of the tensors.

    Attributes
    ----------
    kind
        "spike": a gradient rose far above its history; "nonfinite": one was not finite, without a rise before;
        "stuck": all steps are left out.
    step
        The first step in which it was seen.
    after
        The last step known to be good, where steps between it and `step` were not measured; else None.
    tensors
        The tensors in which it began, the worst first.
    nonfinite_step
        The first step with something that was not finite, if there was one.
    sentences
        What happened.
    table
        The last values of the worst tensors, a dict for each step.
    """

    kind: str
    step: int
    after: int | None
    tensors: tuple[str, ...]
    nonfinite_step: int | None
    sentences: tuple[str, ...]
    table: dict[str, list[dict[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as a plain dict that JSON can hold."""
        return dataclasses.asdict(self) | {"tensors": list(self.tensors), "sentences": list(self.sentences)}

    def __str__(self) -> str:
        lines = [" ".join(self.sentences)]
        for name, rows in self.table.items():
            lines += ["", name, f"{'step':>9}  {'gradient':>9}  {'history':>9}  {'update/weight':>13}  not finite"]
            for row in rows:
                values = (_short(row[key]) for key in ("gradient_rms", "history_rms", "update_ratio"))
                lines.append("{:>9}  {:>9}  {:>9}  {:>13}  {:>10}".format(row["step"], *values, row["nonfinite"]))
        return "\n".join(lines)


def post_mortem(series: Sequence[Series], now: int, left_out: int = 0) -> PostMortem | None:
    """Return where the run of `now` steps diverged, or None; `left_out` is how many steps were, the last ones."""
    known = sorted({p.step for s in series for p in s.points})
    bad = [(p.step, -p.nonfinite, s) for s in series for p in s.points if p.broken or (s.propagates and p.nonfinite)]
    end = min((step for step, _, _ in bad), default=None)
    risen = _rises(series, end)
    if risen:
        step = min(at.step for at, _ in risen)
        worst = sorted(((at, s) for at, s in risen if at.step == step), key=lambda pair: -(pair[0].rise or 0))
        return _spike(worst, len(series), known, step, end)
    if end is not None:
        first = [s for step, _, s in sorted(bad, key=lambda x: x[:2]) if step == end]
        return _nonfinite(first, series, known, end)
    if left_out >= STUCK:
        sentence = f"The last {left_out} steps were all left out: every one had gradients that were not finite."
        return PostMortem("stuck", now + 1, None, (), now + 1, (sentence, f"The last step that was made is {now}."), {})
    return None


def _rises(series: Sequence[Series], end: int | None) -> list[tuple[Point, Series]]:
    """Return for each tensor the first rise that has lasted, up to where something is not finite."""
    found = []
    totals = _Totals(series)
    for s in series:
        points = [p for p in s.points if end is None or p.step < end]
        last = points[-1] if points else None
        if last is None or last.gradient is None:
            continue
        for number, p in enumerate(points):
            if p.rise is None or p.level is None or p.rise <= SPIKE or last.gradient <= SPIKE**2 * p.level:
                continue
            if end is None and (len(points) - 1 - number < LASTING or not totals.rose(p.step, last.step)):
                continue
            found.append((p, s))
            break
    return found


class _Totals:
    """The sum over all tensors of the gradient's mean square, step by step; those that are not finite are left out."""

    def __init__(self, series: Sequence[Series]) -> None:
        self._of: dict[int, float] = {}
        for s in series:
            for p in s.points:
                self._of.setdefault(p.step, 0.0)
                if p.gradient is not None and math.isfinite(p.gradient):
                    self._of[p.step] += p.gradient
        self._steps = sorted(self._of)
        self._sums = list(accumulate((self._of[step] for step in self._steps), initial=0.0))  # of those before each

    def rose(self, step: int, last: int) -> bool:
        """Return whether all gradients together rose, from the mean before `step` to `last`, by SPIKE."""
        count = bisect_left(self._steps, step)
        return count > 0 and self._of[last] > SPIKE**2 * self._sums[count] / count


def _spike(worst: list[tuple[Point, Series]], tensors: int, known: list[int], step: int, end: int | None) -> PostMortem:
    after = _gap(known, step)
    at, first = worst[0]
    others = _others(len(worst), tensors)
    sentences = [
        f"It began {_when(after, step)} in {first.name}{others}:"
        f" its gradient was {at.rise or 0:.3g} times its history, and has not come back."
    ]
    if end is not None:
        sentences.append(f"From step {end} on there were numbers that were not finite.")
    sentences += _unseen(after)
    names = tuple(s.name for _, s in worst)
    return PostMortem("spike", step, after, names, end, tuple(sentences), _table([s for _, s in worst], step))


def _nonfinite(first: list[Series], series: Sequence[Series], known: list[int], step: int) -> PostMortem:
    after = _gap(known, step)
    count = next(p.nonfinite for p in first[0].points if p.step == step)
    were = f"{counted(count, 'element')} of its gradient {'was' if count == 1 else 'were'} not finite"
    what = were if count else "its parameters or averages are not finite"
    if len(first) > 1 and len(first) == len(series):
        sentences = [
            f"It began {_when(after, step)} in all {len(first)} tensors at once:"
            " the loss was not finite, or something that all gradients pass."
        ]
    else:
        others = _others(len(first), len(series))
        sentences = [f"It began {_when(after, step)} in {first[0].name}{others}: {what}."]
    if known[0] == step:
        sentences.append("There is no step before it that was measured.")
    else:
        sentences.append(f"No gradient had risen to {SPIKE:g} times its history before.")
    sentences += _unseen(after)
    names = tuple(s.name for s in first)
    return PostMortem("nonfinite", step, after, names, step, tuple(sentences), _table(first, step))


def _others(found: int, tensors: int) -> str:
    """Return the words for the tensors beside the one that is named, which it began in, too."""
    return f", and in {found - 1} of {counted(tensors - 1, 'other tensor')}" if found > 1 else ""


def _gap(known: list[int], step: int) -> int | None:
    """Return the last measured step before `step`, unless that is the step just before it."""
    before = max((at for at in known if at < step), default=0)
    return None if before == step - 1 else before


def _when(after: int | None, step: int) -> str:
    return f"at step {step}" if after is None else f"between step {after} and step {step}"


def _unseen(after: int | None) -> list[str]:
    if after is None:
        return []
    return ["The steps between them were not measured: every step is with every=1, and where the native kernel steps."]


def _table(worst: Sequence[Series], step: int) -> dict[str, list[dict[str, Any]]]:
    table = {}
    for s in worst[:_TENSORS]:
        before = [p for p in s.points if p.step <= step][-_ROWS[0] :]
        shown = before + [p for p in s.points if p.step > step][: _ROWS[1]]
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
