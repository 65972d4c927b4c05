"""Turn the losses of a range test into a smooth curve with a band, and a suggested rate or the reason for none.

Smoothing: each loss is replaced by the median of the losses at rates within a factor of 2 on either side. A running
average would lag, and shift the curve towards high rates. The bottom of a valley becomes flat over a factor of 2; its
lowest rate is taken. The curve is the median of the seeds. The band spans the lowest to the highest seed. The curve
ends where the first seed ended: only rates that every seed has seen are judged.

Noise: smoothed losses fall even if they are pure noise, because the lowest of a few dozen medians is below the first.
The scatter σ from batch to batch is median|Δ|/0.954 over neighbours (for two normal losses the median of |Δ| is
0.954 σ). A fall must be larger than 7.5 σ/√n, where a window holds n losses. Normal white noise then gets a suggestion
in at most 1 of 100 tests with one seed, and hardly ever with three (docs/lr-finder.md counts them).

Suggestion: half of the rate where the curve is lowest. At the lowest point, steps that help and steps that harm
balance, for a model that meets the rate once. A training stays at its rate, so it needs a lower one. The rate where the
curve is steepest is no measure: for the built-in language model it is a tenth or less of the rate that trains best
(docs/lr-finder.md has the figures). In an easy task, such as classes that a plane separates, every rate lowers the
loss. If the last tenth of the fall takes a factor of ROOM or more, the suggestion is half of the rate where that tenth
begins.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Beyond: TypeAlias = Literal["lower", "higher"]
Losses = list[list[float]]  # for each seed: the losses after a step at each rate, until the seed ended

WINDOW = 2.0  # rates within this factor are smoothed over
MIN_WINDOW = 8  # losses in a window; with fewer, the smooth curve is noise
DIVISOR = 2.0  # the suggestion is the lowest point's rate divided by this
DISAGREEMENT = 6.0  # seeds disagree if their lowest points differ by more than this factor
NOISE = 7.5  # the loss must fall by more than this many σ/√n
ROOM = 10.0  # least factor from the lowest rate to the rate of the lowest loss: the start of the fall must show
FALL_DONE = 0.9  # share of the fall that sets the suggestion if the loss falls up to the highest rate
_MEDIAN_OF_DIFFERENCES = 0.954  # √2·0.6745: the median of |x − y|/σ for normal x and y
_SHORT = 5  # a curve of fewer rates is not judged


class Curve(NamedTuple):
    """The smoothed losses of all seeds, up to where the first seed ended."""

    rates: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A suggested rate or None, and the reason."""

    lr: float | None
    reason: str
    facts: dict[str, Any]  # lowest_at, lowest_at_by_seed, begin, fall, scatter, needed, band, steepest_at
    beyond: Beyond | None = None  # without a rate: where one may lie, outside the range


def least_steps(lowest: float, highest: float) -> int:
    """Return the least number of rates with which a window holds `MIN_WINDOW` losses."""
    return math.ceil(MIN_WINDOW * (math.log(highest) - math.log(lowest)) / (2 * math.log(WINDOW)) - 1e-9) + 1


def smoothed(rates: NDArray[np.float64], losses: list[float]) -> NDArray[np.float64]:
    """Return for every loss the median of the losses at rates within a factor of `WINDOW`."""
    values, exponents = np.array(losses), np.log(rates[: len(losses)])
    reach = math.log(WINDOW) * (1 + 1e-9)
    return np.array([np.median(values[np.abs(exponents - x) <= reach]) for x in exponents])


def curve(rates: NDArray[np.float64], losses: Losses) -> Curve:
    """Return the median, lowest and highest of the seeds' smoothed losses."""
    return _curve(rates, _smoothed_together(rates, losses))


def _smoothed_together(rates: NDArray[np.float64], losses: Losses) -> NDArray[np.float64]:
    """Return a row of smoothed losses for each seed, up to where the first seed ended."""
    count = min(len(seed_losses) for seed_losses in losses)
    return np.array([smoothed(rates, seed_losses[:count]) for seed_losses in losses])


def _curve(rates: NDArray[np.float64], table: NDArray[np.float64]) -> Curve:
    return Curve(rates[: table.shape[1]], np.median(table, axis=0), table.min(axis=0), table.max(axis=0))


def stops(rates: NDArray[np.float64], losses: Losses) -> list[float]:
    """Return the last rate of each seed that ended early, in ascending order."""
    return sorted(float(rates[max(len(seed_losses) - 1, 0)]) for seed_losses in losses if len(seed_losses) < len(rates))


def suggest(rates: NDArray[np.float64], losses: Losses) -> Verdict:
    """Suggest a rate by these losses, or give the reason for none.

    Parameters
    ----------
    rates
        Ascending, a constant factor apart.
    losses
        One list for each seed, shorter than `rates` if the seed ended early: its loss rose or was not finite.
    """
    table = _smoothed_together(rates, losses)
    found, stopped = _curve(rates, table), stops(rates, losses)
    if len(found.rates) < _SHORT:
        seeds = f", for {len(stopped)} of {len(losses)} seeds" if len(losses) > 1 else ""
        text = f"the loss is too high or not finite already at {stopped[0]:.3g}{seeds}: begin lower"
        return Verdict(None, text, {}, beyond="lower")
    facts = _facts(rates, losses, table, found)
    if unclear := _no_fall(facts, rates[0], found.rates[-1]) or _seeds_differ(facts):
        return unclear
    begin, best, lowest_at, end = facts["begin"], found.middle.min(), facts["lowest_at"], float(found.rates[-1])
    is_at_end = end / lowest_at < WINDOW
    ended_near = sum(x <= WINDOW * end for x in stopped)  # seeds that ended where the curve ends, or soon after
    if is_at_end and not stopped:
        return _still_falling(found, facts)
    if is_at_end and 2 * ended_near <= len(losses):
        text = (
            f"the loss is lowest at {lowest_at:.2g}, where {ended_near} of {len(losses)} seeds were stopped and the "
            "others went on: take more steps or seeds"
        )
        return Verdict(None, text, facts)
    if lowest_at / rates[0] < ROOM:
        text = f"the loss is lowest at {lowest_at:.2g} and falls from the lowest rate on: begin lower"
        return Verdict(None, text, facts, beyond="lower")
    where = f"where {ended_near} of {len(losses)} seeds ended" if is_at_end else "and no further"
    return Verdict(
        float(f"{lowest_at / DIVISOR:.1e}"),
        f"the loss falls from {begin:.3g} to {best:.3g} at a rate of {lowest_at:.2g}, {where}; half of that rate "
        "suits a whole training",
        facts,
    )


def _facts(rates: NDArray[np.float64], losses: Losses, table: NDArray[np.float64], found: Curve) -> dict[str, Any]:
    """Return the numbers behind a verdict."""
    lowest = int(found.middle.argmin())
    begin = float(np.median(found.middle[:_SHORT]))
    scatter, needed = _scatter(rates, losses, lowest)
    return {
        "lowest_at": float(found.rates[lowest]),
        "lowest_at_by_seed": [float(x) for x in rates[table.argmin(axis=1)]],
        "begin": begin,
        "fall": begin - float(found.middle[lowest]),
        "scatter": scatter,
        "needed": needed,
        "band": float(found.high[lowest] - found.low[lowest]),
        "steepest_at": _steepest(found, lowest),
    }


def _no_fall(facts: dict[str, Any], low: float, end: float) -> Verdict | None:
    """Return a verdict if the loss falls no more than noise does, at rates from `low` to `end`."""
    if facts["fall"] > facts["needed"]:
        return None
    text = f"the loss does not fall at any rate from {low:.3g} to {end:.3g}"
    if end / low < ROOM:  # a seed ended soon after the lowest rate
        text += (
            ", where the first seed ended: begin lower, or take larger batches if it scatters as much at a rate of 0"
        )
        return Verdict(None, text, facts, beyond="lower")
    text += (
        f": it falls by {facts['fall']:.2g} at most, and noise of σ = {facts['scatter']:.2g} alone can make "
        f"it fall by {facts['needed']:.2g}; the model may be trained already, or need larger batches, more steps or "
        "other rates"
    )
    return Verdict(None, text, facts)


def _seeds_differ(facts: dict[str, Any]) -> Verdict | None:
    """Return a verdict if the seeds disagree on the lowest point, or on the loss there."""
    lowest = facts["lowest_at_by_seed"]
    if max(lowest) > DISAGREEMENT * min(lowest):
        each = ", ".join(f"{x:.2g}" for x in lowest)
        text = f"the seeds disagree on where the loss is lowest ({each}): take more steps or seeds"
        return Verdict(None, text, facts)
    if facts["band"] > facts["fall"]:
        text = (
            f"the seeds differ by {facts['band']:.2g} where the loss is lowest, more than it falls "
            f"({facts['fall']:.2g}): take more steps or larger batches"
        )
        return Verdict(None, text, facts)
    return None


def _still_falling(found: Curve, facts: dict[str, Any]) -> Verdict:
    """Return the verdict on a loss that falls up to the highest rate, in all seeds."""
    begin, end = facts["begin"], float(found.rates[-1])
    done_at = float(found.rates[int((found.middle <= begin - FALL_DONE * facts["fall"]).argmax())])
    if end / done_at < ROOM:
        text = f"the loss still falls at {end:.3g}, the highest rate: raise it to {100 * end:.3g}"
        return Verdict(None, text, facts, beyond="higher")
    text = (
        f"every rate up to {end:.3g}, the highest, lowers the loss, from {begin:.3g} to {found.middle.min():.3g}; "
        f"{100 * FALL_DONE:g} % of the fall is done at a rate of {done_at:.2g}; half of that rate suits a whole "
        "training"
    )
    return Verdict(float(f"{done_at / DIVISOR:.1e}"), text, facts)


def _scatter(rates: NDArray[np.float64], losses: Losses, lowest: int) -> tuple[float, float]:
    """Return σ of the losses up to the lowest point, and the fall that noise of this σ hardly ever exceeds."""
    count = max(lowest + 1, _SHORT)
    differences = np.concatenate([np.abs(np.diff(seed_losses[:count])) for seed_losses in losses])
    scatter = float(np.median(differences)) / _MEDIAN_OF_DIFFERENCES
    in_window = 2 * math.log(WINDOW) / math.log(rates[1] / rates[0])
    return scatter, NOISE * scatter / math.sqrt(in_window)


def _steepest(found: Curve, lowest: int) -> float:
    """Return the rate where the curve falls fastest against the logarithm of the rate, up to its lowest point."""
    slope = np.gradient(found.middle, np.log(found.rates))
    return float(found.rates[int(slope[: lowest + 1].argmin())])
