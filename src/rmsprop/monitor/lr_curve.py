"""What the losses of a range test say: a smooth curve with a band, and a learning rate or why there is none.

Every seed's losses are smoothed by the median of those at rates within a factor of 2 on either side: unlike a running
average it does not lag, which would shift the curve towards high rates; a valley's bottom becomes flat over a factor
of 2, of which the lowest rate is taken. The curve is the median of the seeds, the band reaches from the lowest to the
highest.

The suggestion is half of the rate where the curve is lowest. There the steps that help and those that harm are in
balance for a model that meets the rate once; a training stays at its rate. The rate where the curve is steepest is no
measure: for the built-in language model it is a tenth and less of what trains best (docs/lr-finder.md has the figures).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Losses = list[list[float]]  # of each seed, after a step with each rate, as far as it came

WINDOW = 2.0  # rates within this factor are smoothed over
SHARE = 2.0  # the suggestion is the lowest point's rate divided by this
DISAGREEMENT = 6.0  # factor between the seeds' lowest points above which they do not agree
NOISE = 2.0  # the loss has to fall by this many times its scatter
_ROOM = 10.0  # factor between the lowest rate and that of the lowest loss: what comes before the fall has to be seen


class Curve(NamedTuple):
    """The smoothed losses of all seeds, as far as all of them came."""

    rates: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A rate and the reason for it, or no rate and the reason for that."""

    lr: float | None
    reason: str
    facts: dict[str, Any]  # lowest_at, lowest_at_by_seed, begin, fall, scatter, band, steepest_at


def smoothed(rates: NDArray[np.float64], losses: list[float]) -> NDArray[np.float64]:
    """Return for every loss the median of those at rates within a factor of `WINDOW`."""
    values, exponents = np.array(losses), np.log(rates[: len(losses)])
    reach = math.log(WINDOW) * (1 + 1e-9)
    return np.array([np.median(values[np.abs(exponents - x) <= reach]) for x in exponents])


def curve(rates: NDArray[np.float64], losses: Losses) -> Curve:
    """Return the median of the seeds' smoothed losses, and the lowest and highest of them."""
    count = min(len(own) for own in losses)
    table = np.array([smoothed(rates, own)[:count] for own in losses])
    return Curve(rates[:count], np.median(table, axis=0), table.min(axis=0), table.max(axis=0))


def judge(rates: NDArray[np.float64], losses: Losses) -> Verdict:
    """Return what `losses` say of the best of `rates`.

    Parameters
    ----------
    rates
        Ascending, a constant factor apart.
    losses
        One list for each seed, shorter than `rates` where the seed was stopped, since its loss rose or was not finite.
    """
    found = curve(rates, losses)
    if len(found.rates) < 5:
        text = f"the loss is out of hand at {rates[0]:.3g} already, the lowest rate: begin lower"
        return Verdict(None, text, {})
    own = [smoothed(rates, each) for each in losses]
    lowest = [float(rates[int(y.argmin())]) for y in own]
    at = int(found.middle.argmin())
    begin, best = float(np.median(found.middle[:5])), float(found.middle[at])
    fall, band = begin - best, float(found.high[at] - found.low[at])
    flat = slice(0, max(5, int(np.searchsorted(found.rates, found.rates[at] / 10))))
    scatter = float(np.median([abs(np.array(x[flat]) - y[flat]) for x, y in zip(losses, own, strict=True)]))
    facts = {
        "lowest_at": float(found.rates[at]),
        "lowest_at_by_seed": lowest,
        "begin": begin,
        "fall": fall,
        "scatter": scatter,
        "band": band,
        "steepest_at": _steepest(found, at),
    }

    def unclear(reason: str) -> Verdict:
        return Verdict(None, reason, facts)

    span = f"from {rates[0]:.3g} to {found.rates[-1]:.3g}"
    if fall <= NOISE * scatter:
        return unclear(
            f"the loss does not fall at any rate {span}: by {fall:.2g} at most, while it scatters by {scatter:.2g} "
            "from batch to batch; the model may be trained already, or need larger batches, more steps or other rates"
        )
    if max(lowest) > DISAGREEMENT * min(lowest):
        each = ", ".join(f"{x:.2g}" for x in lowest)
        return unclear(f"the seeds disagree on where the loss is lowest ({each}): take more steps or seeds")
    if band > fall:
        return unclear(
            f"the seeds differ by {band:.2g} where the loss is lowest, more than it falls ({fall:.2g}): take more "
            "steps or larger batches"
        )
    where = found.rates[at]
    stopped = any(len(each) < len(rates) for each in losses)
    if not stopped and rates[-1] / where < WINDOW:
        return unclear(f"the loss still falls at {rates[-1]:.3g}, the highest rate: go on to higher ones")
    if where / rates[0] < _ROOM:
        return unclear(f"the loss is lowest at {where:.2g} and falls from the lowest rate on: begin lower")
    return Verdict(
        float(f"{where / SHARE:.1e}"),
        f"the loss falls from {begin:.3g} to {best:.3g} at a rate of {where:.2g}, and no further; half of that rate is "
        "one that a training can stay at",
        facts,
    )


def _steepest(found: Curve, at: int) -> float:
    """Return the rate where the curve falls fastest against the logarithm of the rate, up to its lowest point."""
    slope = np.gradient(found.middle, np.log(found.rates))
    return float(found.rates[int(slope[: at + 1].argmin())])
