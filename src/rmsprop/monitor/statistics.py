"""What is measured of a step, defined in NumPy: `sums`, one row of numbers and a histogram for each parameter tensor.

Symbols are those of `rmsprop.rule`: gradient g (as given, before E1 and E2, divided by a loss scale), averages v and m,
s of E5, d of E6; Δ = p₁ − p₀, what the whole step did to the stored parameter. A complex element counts as two. s and d
are computed in the dtype that computes (float32 for float16 and bfloat16), as the step does; sums are in double.

    gradient_sq     Σ g²                            eps        elements with ε > √s (eps_inside_sqrt: ε > s)
    update_sq       Σ Δ²                            floor      elements whose s is a floor of E5
    parameter_sq    Σ p₁²                           nonfinite  elements with not |g| < 2⁶⁴ (float64: 2⁵¹²): g² is none
    history_sq      Σ v₀, the stored v before it    zero       elements with g = 0
    signal_sq       Σ m̂², centered only             unchanged  elements with g ≠ 0 and Δ = 0
    noise_sq        Σ s, centered only
    largest_update  max |Δ|, NaN if a Δ is NaN      histogram  elements with 2ᵉ ≤ d < 2ᵉ⁺¹, for each exponent e

So bin e holds the elements whose effective learning rate η/d lies in (η·2⁻ᵉ⁻¹, η·2⁻ᵉ]; d = 0 and d = ∞ are in none.
"""

from __future__ import annotations

import bisect
import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule

Array = npt.NDArray[Any]

COLUMNS = (
    "gradient_sq",
    "update_sq",
    "parameter_sq",
    "history_sq",
    "signal_sq",
    "noise_sq",
    "largest_update",
    "eps",
    "floor",
    "nonfinite",
    "zero",
    "unchanged",
)
BINS = 128
FIRST = -64  # exponent of the first bin; what lies outside of the bins is counted in the first or the last one


@np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
def sums(
    rule: Rule,
    *,
    before: Array,
    after: Array,
    gradient: Array,
    square_avg_before: Array,
    square_avg: Array,
    grad_avg: Array | None = None,
    step: int,
    kappa: float | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the statistics of one step of one parameter tensor: a value for each of COLUMNS, and the histogram.

    Parameters
    ----------
    rule
        The rule of the step.
    before, after
        The parameter, p₀ and p₁, as it was stored.
    gradient
        g.
    square_avg_before
        v as it was stored before the step.
    square_avg, grad_avg
        v and m after E3 and E4, before they are rounded to a smaller type. m is needed when centered.
    step
        t, 1 for the first step.
    kappa
        κ of E5. None: 8 × unit roundoff of the dtype that computes, float64 if `square_avg` is, else float32.

    Raises
    ------
    InputError
        If an array does not have the shape of `before`, or `grad_avg` is missing.

    Examples
    --------
    >>> from rmsprop import Rule, init, update
    >>> rule, p, g = Rule(lr=0.01, decay=0.9), np.array([1.0, 1.0]), np.array([10.0, 0.0])
    >>> state = init(rule, p)
    >>> after, new = update(rule, p, g, state)
    >>> v0, v = state.square_avg, new.square_avg
    >>> row, histogram = sums(rule, before=p, after=after, gradient=g, square_avg_before=v0, square_avg=v, step=1)
    >>> dict(zip(COLUMNS, row.tolist()))["eps"], histogram.nonzero()[0] + FIRST
    (1.0, array([-27,   1]))
    """
    if rule.centered and grad_avg is None:
        raise InputError("grad_avg", "an array with centered=True", None, "pass the gradient average after the step")
    given: dict[str, Any] = {
        "before": before,
        "after": after,
        "gradient": gradient,
        "square_avg_before": square_avg_before,
        "square_avg": square_avg,
        "grad_avg": grad_avg if rule.centered else None,
    }
    dtype = np.float64 if np.asarray(square_avg).dtype in (np.float64, np.complex128) else np.float32
    for name, x in given.items():
        if x is not None and np.shape(x) != np.shape(before):
            found = Received(f"{np.shape(x)} against {np.shape(before)}")
            raise InputError(name, "of the shape of before", found, "pass the arrays of one parameter")
    arrays = {name: _reals(x, dtype) for name, x in given.items() if x is not None}
    p1, g, v, m = arrays["after"], arrays["gradient"], arrays["square_avg"], arrays.get("grad_avg")
    s, at_floor, m = _variance(rule, v, m, step, 4 * float(np.finfo(dtype).eps) if kappa is None else kappa)
    d = np.sqrt(s + rule.eps) if rule.eps_inside_sqrt else np.sqrt(s) + rule.eps
    change = p1.astype(np.float64) - arrays["before"]
    row = {
        "gradient_sq": _sum_of_squares(g),
        "update_sq": _sum_of_squares(change),
        "parameter_sq": _sum_of_squares(p1),
        "history_sq": arrays["square_avg_before"].sum(dtype=np.float64),
        "signal_sq": 0.0 if m is None else _sum_of_squares(m),
        "noise_sq": 0.0 if m is None else s.sum(dtype=np.float64),
        "largest_update": np.max(np.abs(change), initial=0.0),
        "eps": np.count_nonzero(rule.eps > (s if rule.eps_inside_sqrt else np.sqrt(s))),
        "floor": np.count_nonzero(at_floor),
        "nonfinite": np.count_nonzero(~(np.abs(g) < (2.0**512 if dtype is np.float64 else 2.0**64))),
        "zero": np.count_nonzero(g == 0),
        "unchanged": np.count_nonzero((g != 0) & (change == 0)),
    }
    exponents = np.frexp(d[(d > 0) & (d < np.inf)])[1] - 1  # d = f·2ᵉ with ½ ≤ f < 1
    histogram = np.bincount(np.clip(exponents - FIRST, 0, BINS - 1), minlength=BINS)
    return np.array([row[name] for name in COLUMNS], np.float64), histogram.astype(np.int64)


def _variance(rule: Rule, v: Array, m: Array | None, t: int, kappa: float) -> tuple[Array, Array, Array | None]:
    """Return s and m̂ of E5, as `rmsprop.rule.denominator` has them, and which elements are at a floor."""
    s, at_floor = v, np.zeros(v.shape, bool)
    if rule.bias_correction:
        power = rule.decay**t
        rest = v - power * rule.initial_square_avg
        at_floor = rest < kappa * v
        s = np.maximum(rest, kappa * v) / (1 - power)
        v = v / (1 - power)
        m = None if m is None else m / (1 - power)
    if m is not None:
        rest = s - m * m
        at_floor = at_floor | (rest < kappa * v)
        s = np.maximum(rest, kappa * v)
    return s, at_floor, m


def _reals(x: Any, dtype: type[np.floating]) -> Array:
    """Return an array's numbers in a row, in the dtype that computes, complex ones as two."""
    x = np.asarray(x)
    parts = (x.real, x.imag) if np.iscomplexobj(x) else (x,)
    numbers: Array = np.concatenate([part.reshape(-1) for part in parts]).astype(dtype)
    return numbers


def _sum_of_squares(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def describe(
    elements: int, sums: npt.NDArray[np.float64], histogram: npt.NDArray[np.int64] | None, lr: float, centered: bool
) -> dict[str, Any]:
    """Return what `sums` of one tensor mean, as a plain dict that JSON can hold; None stands for what is no number.

    Parameters
    ----------
    elements
        How many elements were measured, two for each complex one.
    sums, histogram
        What `sums` returns; the histogram may be left out.
    lr
        η of the step.
    centered
        Whether the rule is, without which there is no signal-to-noise ratio.

    Returns
    -------
    dict
        `elements`; `gradient_rms`, `update_rms`, `parameter_rms`, `history_rms` (the root of the mean of v before the
        step): root mean squares; `update_ratio`: update_rms/parameter_rms; `largest_update`; `eps_share`,
        `floor_share`, `zero_gradient_share`, `unchanged_share`: shares of the elements; `nonfinite`: a count;
        `signal_to_noise`: Σm̂²/Σs; `effective_lr`: {"lr": η, "first": the lowest exponent e of d with a count,
        "counts": [from there on]}; `effective_lr_median`, to a factor of √2: the geometric middle of the bin.

    Examples
    --------
    >>> described = describe(4, np.array([4.0, 0.01, 4.0, 0, 0, 0, 0.05, 1, 0, 0, 0, 0]), None, 0.01, False)
    >>> described["gradient_rms"], described["update_ratio"], described["eps_share"]
    (1.0, 0.05, 0.25)
    """
    # Plain Python: between the steps of a training, a few dozen numbers are described sooner than arrays of them are.
    gradient, update, parameter, history, signal, noise, largest, eps, floor, nonfinite, zero, unchanged = sums.tolist()

    def root(total: float) -> float | None:
        return math.sqrt(total / elements) if elements and 0 <= total < math.inf else None

    def share(count: float) -> float | None:
        return count / elements if elements else None

    update_rms, parameter_rms = root(update), root(parameter)
    return {
        "elements": elements,
        "gradient_rms": root(gradient),
        "update_rms": update_rms,
        "parameter_rms": parameter_rms,
        "update_ratio": _finite(update_rms / parameter_rms) if update_rms is not None and parameter_rms else None,
        "history_rms": root(history),
        "largest_update": _finite(largest) if elements else None,
        "eps_share": share(eps),
        "floor_share": share(floor),
        "nonfinite": int(nonfinite),
        "zero_gradient_share": share(zero),
        "unchanged_share": share(unchanged),
        "signal_to_noise": _finite(signal / noise) if centered and noise else None,
        **_effective_lr(histogram, lr),
    }


def _effective_lr(histogram: npt.NDArray[np.int64] | None, lr: float) -> dict[str, Any]:
    """Return the histogram from its first count to its last, and its median as an effective learning rate."""
    counts = [0] if histogram is None else histogram.tolist()
    below = list(itertools.accumulate(counts))  # in each bin and those before it
    total = below[-1]
    if not total:
        return {"effective_lr": None, "effective_lr_median": None}
    first, middle, last = (bisect.bisect_left(below, at) for at in (1, total / 2, total))
    return {
        "effective_lr": {"lr": lr, "first": FIRST + first, "counts": counts[first : last + 1]},
        "effective_lr_median": _finite(lr * 2.0 ** -(FIRST + middle + 0.5)),
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
