"""Turn the sums of a step into the numbers of a record."""

from __future__ import annotations

import bisect
import itertools
import math

import numpy as np
import numpy.typing as npt

from rmsprop.monitor.record import Description, EffectiveLR
from rmsprop.statistics import BINS, COLUMNS, FIRST, Sums, sums

__all__ = ["BINS", "COLUMNS", "FIRST", "Sums", "describe", "sums"]


def describe(
    elements: int, sums: npt.NDArray[np.float64], histogram: npt.NDArray[np.int64] | None, lr: float, centered: bool
) -> Description:
    """Describe one tensor in plain values that JSON can hold; None stands for a value that is unknown or not finite.

    Parameters
    ----------
    elements
        Number of measured elements; a complex element counts as two.
    sums, histogram
        What `rmsprop.statistics.sums` returned. The histogram may be None.
    lr
        η of the step.
    centered
        Whether the rule is centered. Only a centered rule has a signal-to-noise ratio.

    Returns
    -------
    dict
        `elements`; `gradient_rms`, `update_rms`, `parameter_rms`, `history_rms` (√(mean v) before the step): root mean
        squares; `update_ratio`: update_rms/parameter_rms; `largest_update`; `eps_share`, `floor_share`,
        `zero_gradient_share`, `unchanged_share`: shares of the elements; `nonfinite`: a count; `signal_to_noise`:
        Σm̂²/Σs; `effective_lr`: {"lr": η, "first": exponent e of the first nonempty bin of d, "counts": counts from
        that bin to the last nonempty one}; `effective_lr_median`: geometric middle of the median's bin, to a factor
        of √2.

    Examples
    --------
    >>> described = describe(4, np.array([4.0, 0.01, 4.0, 0, 0, 0, 0.05, 1, 0, 0, 0, 0]), None, 0.01, False)
    >>> described["gradient_rms"], described["update_ratio"], described["eps_share"]
    (1.0, 0.05, 0.25)
    """
    # For a few dozen numbers, plain Python is faster than NumPy.
    of = Sums(*sums.tolist())

    def root(total: float) -> float | None:
        return math.sqrt(total / elements) if elements and 0 <= total < math.inf else None

    def share(count: float) -> float | None:
        return count / elements if elements else None

    update_rms, parameter_rms = root(of.update_sq), root(of.parameter_sq)
    rates, median = _effective_lr(histogram, lr)
    return {
        "elements": elements,
        "gradient_rms": root(of.gradient_sq),
        "update_rms": update_rms,
        "parameter_rms": parameter_rms,
        "update_ratio": _finite(update_rms / parameter_rms) if update_rms is not None and parameter_rms else None,
        "history_rms": root(of.history_sq),
        "largest_update": _finite(of.largest_update) if elements else None,
        "eps_share": share(of.eps),
        "floor_share": share(of.floor),
        "nonfinite": int(of.nonfinite),
        "zero_gradient_share": share(of.zero),
        "unchanged_share": share(of.unchanged),
        "signal_to_noise": _finite(of.signal_sq / of.noise_sq) if centered and of.noise_sq else None,
        "effective_lr": rates,
        "effective_lr_median": median,
    }


def _effective_lr(histogram: npt.NDArray[np.int64] | None, lr: float) -> tuple[EffectiveLR | None, float | None]:
    """Return the histogram without empty bins at its ends, and its median as an effective learning rate."""
    counts = [0] if histogram is None else histogram.tolist()
    below = list(itertools.accumulate(counts))  # cumulative counts
    total = below[-1]
    if not total:
        return None, None
    first, middle, last = (bisect.bisect_left(below, at) for at in (1, total / 2, total))
    rates: EffectiveLR = {"lr": lr, "first": FIRST + first, "counts": counts[first : last + 1]}
    return rates, _finite(lr * 2.0 ** -(FIRST + middle + 0.5))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
