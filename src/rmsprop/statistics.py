"""Define the statistics of a step of one tensor, in NumPy: what each column and bin means.

Tests hold the kernel and tensor operations to `sums`. Symbols are those of `rmsprop.rule`: gradient g (before E1 and
E2, divided by the loss scale), averages v and m, s of E5, d of E6. Δ = p₁ − p₀ is the change of the stored parameter in
the whole step. A complex element counts as two. s and d are computed in the compute dtype (float32 for float16 and
bfloat16), as in the step. Sums are in double. The native kernel adds the float32 numbers of a chunk in float32:
its sums have a relative error of up to 1e-5.

`Sums` has the columns. A histogram counts elements by d: bin e counts those with 2ᵉ ≤ d < 2ᵉ⁺¹, with an effective
learning rate η/d in (η·2⁻ᵉ⁻¹, η·2⁻ᵉ]. d = 0, ∞ and NaN are in no bin.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.rule import AVERAGES, Rule, variance

Array = npt.NDArray[Any]


class Sums(NamedTuple):
    """The columns, in the order of the kernel's `enum Column`."""

    gradient_sq: float  # Σ g²
    update_sq: float  # Σ Δ²
    parameter_sq: float  # Σ p₁²
    history_sq: float  # Σ v₀, the stored v before the step
    signal_sq: float  # Σ m̂²; 0 unless centered
    noise_sq: float  # Σ s; 0 unless centered
    largest_update: float  # max |Δ|, NaN if a Δ is NaN
    eps: float  # elements with ε > √s (eps_inside_sqrt: ε > s)
    floor: float  # elements whose s is a floor of E5
    nonfinite: float  # elements whose g² is not finite: not |g| < 2⁶⁴ (float64: 2⁵¹²)
    zero: float  # elements with g = 0
    unchanged: float  # elements with g ≠ 0 and Δ = 0


COLUMNS = Sums._fields
BINS = 128
FIRST = -64  # exponent of the first bin; the first and last bins also count all smaller and larger d


@np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
def sums(
    rule: Rule,
    *,
    before: Array,
    after: Array,
    gradient: Array,
    square_avg_before: Array,
    step: int,
    kappa: float | None = None,
    **averages: Array | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Measure one step of one parameter tensor: a value for each of COLUMNS, and the histogram.

    Parameters
    ----------
    rule
        The rule of the step.
    before, after
        p₀ and p₁, the stored parameter before and after the step.
    gradient
        g.
    square_avg_before
        The stored v before the step.
    step
        t, 1 for the first step.
    kappa
        κ of E5. None: 8 × unit roundoff of the compute dtype, which is float64 if `square_avg` is, else float32.
    **averages
        The averages after the step by their names in `rmsprop.State`: square_avg, and grad_avg of a centered rule. They
        are not yet rounded to a smaller dtype. Averages that E5 does not read are ignored.

    Raises
    ------
    InputError
        If an array does not have the shape of `before`, or an average is missing or unknown.

    Examples
    --------
    >>> from rmsprop import Rule, init, update
    >>> rule, p, g = Rule(lr=0.01, decay=0.9), np.array([1.0, 1.0]), np.array([10.0, 0.0])
    >>> state = init(rule, p)
    >>> after, new = update(rule, p, g, state)
    >>> v0, v = state.square_avg, new.square_avg
    >>> row, histogram = sums(rule, before=p, after=after, gradient=g, square_avg_before=v0, square_avg=v, step=1)
    >>> Sums(*row.tolist()).eps, histogram.nonzero()[0] + FIRST
    (1.0, array([-27,   1]))
    """
    for name in averages.keys() - set(AVERAGES):
        raise InputError(name, f"one of {', '.join(AVERAGES)}", Received("another name"), "use a name of rmsprop.State")
    if averages.get("square_avg") is None:
        raise InputError("square_avg", "an array", None, "pass the average after the step")
    inputs: dict[str, Any] = {
        "before": before,
        "after": after,
        "gradient": gradient,
        "square_avg_before": square_avg_before,
        **averages,
    }
    dtype = np.float64 if np.asarray(averages["square_avg"]).dtype in (np.float64, np.complex128) else np.float32
    for name, x in inputs.items():
        if x is not None and np.shape(x) != np.shape(before):
            found = Received(f"{np.shape(x)} against {np.shape(before)}")
            raise InputError(name, "of the shape of before", found, "pass the arrays of one parameter")
    arrays = {name: _reals(x, dtype) for name, x in inputs.items() if x is not None}
    p1, g = arrays["after"], arrays["gradient"]
    at_floor = np.zeros(g.shape, bool)

    def floored(difference: Array, floor: Array) -> Array:
        np.logical_or(at_floor, difference < floor, out=at_floor)
        return np.maximum(difference, floor)

    power = rule.decay**step
    kappa = 4 * float(np.finfo(dtype).eps) if kappa is None else kappa
    s, mean = variance(rule, arrays, power, 1 - power, kappa, floored)
    d = np.sqrt(s + rule.eps) if rule.eps_inside_sqrt else np.sqrt(s) + rule.eps
    change = p1.astype(np.float64) - arrays["before"]
    row = Sums(
        gradient_sq=_sum_of_squares(g),
        update_sq=_sum_of_squares(change),
        parameter_sq=_sum_of_squares(p1),
        history_sq=float(arrays["square_avg_before"].sum(dtype=np.float64)),
        signal_sq=0.0 if mean is None else _sum_of_squares(mean),
        noise_sq=0.0 if mean is None else float(s.sum(dtype=np.float64)),
        largest_update=float(np.max(np.abs(change), initial=0.0)),
        eps=_count(rule.eps > (s if rule.eps_inside_sqrt else np.sqrt(s))),
        floor=_count(at_floor),
        nonfinite=_count(~(np.abs(g) < (2.0**512 if dtype is np.float64 else 2.0**64))),
        zero=_count(g == 0),
        unchanged=_count((g != 0) & (change == 0)),
    )
    exponents = np.frexp(d[(d > 0) & (d < np.inf)])[1] - 1  # d = f·2ᵉ with ½ ≤ f < 1
    histogram = np.bincount(np.clip(exponents - FIRST, 0, BINS - 1), minlength=BINS)
    return np.array(row, np.float64), histogram.astype(np.int64)


def _reals(x: Any, dtype: type[np.floating]) -> Array:
    """Return the numbers of an array, flattened, in the compute dtype; complex ones as two."""
    x = np.asarray(x)
    parts = (x.real, x.imag) if np.iscomplexobj(x) else (x,)
    numbers: Array = np.concatenate([part.reshape(-1) for part in parts]).astype(dtype)
    return numbers


def _sum_of_squares(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _count(x: Array) -> float:
    return float(np.count_nonzero(x))
