"""The statistics' definition in NumPy, compared with exact sums and with loops over elements."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cases import RULES, STEPS, gradients, problem, rules
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rmsprop import InputError, Rule, init, update
from rmsprop.monitor.statistics import BINS, COLUMNS, FIRST, describe, sums
from rmsprop.rule import AVERAGES

SUMS = COLUMNS[:6]


def exact(values: list[float]) -> float:
    """Return the sum of squares, computed in fractions and rounded once."""
    if not all(map(math.isfinite, values)):
        return math.nan if any(map(math.isnan, values)) else math.inf
    return float(sum((Fraction(x) ** 2 for x in values), Fraction(0)))


@np.errstate(all="ignore")
def one_by_one(
    rule: Rule, p0: NDArray[Any], p1: NDArray[Any], g: NDArray[Any], v0: NDArray[Any], v: NDArray[Any],
    m: NDArray[Any] | None, t: int,
) -> tuple[dict[str, float], list[int]]:  # fmt: skip
    """Return the statistics from loops over elements, independently of `sums`."""
    number = p0.dtype.type
    kappa, eps = number(4 * np.finfo(number).eps), number(rule.eps)
    power, weight = rule.decay**t, number(1 - rule.decay**t)
    limit = 2.0**64 if number is np.float32 else 2.0**512
    row = dict.fromkeys(COLUMNS, 0.0)
    histogram = [0] * BINS
    variances, means = [], []
    for i in range(len(p0)):
        s, whole, mean, floored = v[i], v[i], None if m is None else m[i], False
        if rule.bias_correction:
            rest = s - number(power * rule.initial_square_avg)
            floored = bool(rest < kappa * s)
            s = (kappa * s if floored else rest) / weight
            whole = whole / weight
            mean = None if mean is None else mean / weight
        if mean is not None:
            means.append(float(mean))
            rest = s - mean * mean
            if rest < kappa * whole:
                s, floored = kappa * whole, True
            else:
                s = rest
            variances.append(float(s))
        row["floor"] += floored
        row["eps"] += bool(eps > s) if rule.eps_inside_sqrt else bool(eps > np.sqrt(s))
        d = float(np.sqrt(s + eps) if rule.eps_inside_sqrt else np.sqrt(s) + eps)
        if 0 < d < math.inf:
            exponent = next(e for e in range(-1080, 1030) if d < math.ldexp(1.0, e + 1))
            histogram[min(max(exponent - FIRST, 0), BINS - 1)] += 1
        delta = float(p1[i]) - float(p0[i])
        row["largest_update"] = math.nan if math.isnan(delta) else max(row["largest_update"], abs(delta))
        row["nonfinite"] += not abs(float(g[i])) < limit
        row["zero"] += float(g[i]) == 0
        row["unchanged"] += float(g[i]) != 0 and delta == 0
    row["gradient_sq"] = exact(g.tolist())
    row["update_sq"] = exact([b - a for a, b in zip(p0.tolist(), p1.tolist(), strict=True)])
    row["parameter_sq"] = exact(p1.tolist())
    row["history_sq"] = float(sum(map(Fraction, v0.tolist()))) if np.isfinite(v0).all() else math.nan
    row["signal_sq"] = exact(means)
    row["noise_sq"] = float(sum(map(Fraction, variances))) if np.isfinite(variances).all() else math.nan
    return row, histogram


def check(rule: Rule, start: NDArray[Any], given: list[NDArray[Any]]) -> dict[str, float]:
    """Compare the statistics of each step; return those of the last step."""
    p, state = start, init(rule, start)
    measured: dict[str, float] = {}
    for g in given:
        p1, after = update(rule, p, g, state)
        v0, m = state.square_avg, after.grad_avg
        averages = {name: x for name in AVERAGES if (x := getattr(after, name)) is not None}
        row, histogram = sums(rule, before=p, after=p1, gradient=g, square_avg_before=v0, step=after.step, **averages)
        divisor = after.square_avg if after.max_square_avg is None else after.max_square_avg
        expected, bins = one_by_one(rule, p, p1, g, v0, divisor, m, after.step)
        measured = dict(zip(COLUMNS, row.tolist(), strict=True))
        for name in COLUMNS:
            tolerance = 1e-13 * abs(expected[name]) + 1e-300 if name in SUMS else 0.0
            assert measured[name] == pytest.approx(expected[name], rel=0, abs=tolerance, nan_ok=True), name
        assert histogram.tolist() == bins
        p, state = p1, after
    return measured


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule(rule: Rule, dtype: type[np.floating]) -> None:
    start, given = problem(dtype, size=20)
    measured = check(rule, start, given[: STEPS // 2])
    assert 0 < measured["zero"] < 20


@given(rules(), gradients(), st.sampled_from([np.float32, np.float64]))
def test_any_rule_and_any_gradient(rule: Rule, values: list[float], dtype: type[np.floating]) -> None:
    g = np.array(values, dtype)
    check(rule, np.linspace(-1, 1, len(values)).astype(dtype), [g, g, -2 * g])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_that_are_not_finite(dtype: type[np.floating]) -> None:
    limit = 2.0 ** (512 if dtype is np.float64 else 64)
    g = np.array([math.nan, math.inf, -math.inf, limit, np.nextafter(dtype(limit), dtype(0)), 0.0], dtype)
    measured = check(Rule(), np.ones(6, dtype), [g])
    assert (measured["nonfinite"], measured["zero"]) == (4, 1)
    assert math.isnan(measured["largest_update"])


def test_the_bins_are_those_of_the_denominator() -> None:
    """At the ends of a bin: 2ᵉ is in bin e, the number below it in bin e−1."""
    v = np.array([4.0, np.nextafter(4.0, 0), 2.0**-200, 2.0**200, 0.0, math.inf])
    args: dict[str, Any] = {name: np.ones(6) for name in ("before", "after", "gradient", "square_avg_before")}
    histogram = sums(Rule(eps=0.0), **args, square_avg=v, step=1)[1]
    assert {FIRST + k: int(histogram[k]) for k in np.flatnonzero(histogram)} == {1: 1, 0: 1, -64: 1, 63: 1}


def test_both_floors_are_counted_once() -> None:
    rule = Rule(centered=True, bias_correction=True, initial_square_avg=1.0, decay=0.9)
    v = np.array([0.9, 0.9, 5.0, 5.0])  # βᵗ·v₀ is 0.9 in the first step: the first two variances are 0
    m = np.array([1.0, 0.0, 0.1 * math.sqrt(41.0), 0.0])  # m̂² equals s in the third element
    args: dict[str, Any] = {name: np.ones(4) for name in ("before", "after", "gradient", "square_avg_before")}
    row = sums(rule, **args, square_avg=v, grad_avg=m, step=1)[0]
    assert row[COLUMNS.index("floor")] == 3
    assert sums(rule, **args, square_avg=v, grad_avg=m, step=1, kappa=0.0)[0][COLUMNS.index("floor")] < 3


def test_complex_elements_are_two_and_halves_are_computed_in_float32() -> None:
    z = np.array([3 + 4j, 0 + 1j])
    args: dict[str, Any] = {"before": z, "after": z * 2, "square_avg_before": z, "square_avg": z}
    row = dict(zip(COLUMNS, sums(Rule(), gradient=z, step=1, **args)[0].tolist(), strict=True))
    assert (row["gradient_sq"], row["update_sq"], row["zero"], row["history_sq"]) == (26, 26, 1, 8)
    half: dict[str, Any] = {name: np.array([1.0], np.float16) for name in ("before", "square_avg_before", "square_avg")}
    big = np.array([6e4], np.float16)
    row = dict(zip(COLUMNS, sums(Rule(), after=big, gradient=big, step=1, **half)[0].tolist(), strict=True))
    assert (row["gradient_sq"], row["update_sq"], row["nonfinite"]) == (60000.0**2, 59999.0**2, 0)  # 60000 fits float16


def test_arrays_of_other_shapes_and_a_missing_average_are_refused() -> None:
    x = np.ones(2)
    args: dict[str, Any] = {"before": x, "after": x, "square_avg_before": x, "square_avg": x, "step": 1}
    with pytest.raises(InputError, match="gradient must be of the shape of before"):
        sums(Rule(), gradient=np.ones(3), **args)
    with pytest.raises(InputError, match=r"^grad_avg must be an array, which this rule needs, got None"):
        sums(Rule(centered=True), gradient=x, **args)
    with pytest.raises(InputError, match=r"^mean must be one of square_avg, .*got another name; use a name"):
        sums(Rule(), gradient=x, mean=x, **args)
    with pytest.raises(InputError, match=r"^square_avg must be an array, got None; pass the average after the step"):
        sums(Rule(), gradient=x, **{**args, "square_avg": None})


def test_description_of_a_step() -> None:
    rule = Rule(lr=0.5, decay=0.75, eps=0.25)
    p, g, v0, v = np.array([3.0, 4.0]), np.array([0.0, 2.0]), np.array([0.0, 0.0]), np.array([0.0, 1.0])
    row, histogram = sums(rule, before=p, after=p - [0.0, 0.5], gradient=g, square_avg_before=v0, square_avg=v, step=1)
    told = describe(2, row, histogram, rule.lr, rule.centered)
    assert told == {
        "elements": 2,
        "gradient_rms": math.sqrt(2.0),
        "update_rms": math.sqrt(0.125),
        "parameter_rms": math.sqrt((9 + 3.5**2) / 2),
        "update_ratio": math.sqrt(0.125) / math.sqrt((9 + 3.5**2) / 2),
        "history_rms": 0.0,
        "largest_update": 0.5,
        "eps_share": 0.5,
        "floor_share": 0.0,
        "nonfinite": 0,
        "zero_gradient_share": 0.5,
        "unchanged_share": 0.0,
        "signal_to_noise": None,
        "effective_lr": {"lr": 0.5, "first": -2, "counts": [1, 0, 1]},  # d = 0.25 and 1.25
        "effective_lr_median": 0.5 * 2**1.5,
    }


@given(
    st.lists(st.floats() | st.just(0.0), min_size=len(COLUMNS), max_size=len(COLUMNS)),
    st.integers(0, 5),
    st.booleans(),
)
def test_descriptions_are_json_whatever_the_sums(values: list[float], elements: int, centered: bool) -> None:
    values = [abs(x) for x in values]
    values[7:] = [x if math.isfinite(x) else 0.0 for x in values[7:]]  # counts
    histogram = np.zeros(BINS, np.int64)
    told = describe(elements, np.array(values), histogram, 0.1, centered)
    json.dumps(told, allow_nan=False)
    assert told["effective_lr"] is None
    assert describe(elements, np.array(values), None, 0.1, centered) == told


def test_signal_to_noise_needs_centered() -> None:
    rule = dataclasses.replace(RULES["centered"], eps=0.0)
    start, given = problem(np.float64)
    measured = check(rule, start, given[:3])
    row = np.array([measured[name] for name in COLUMNS])
    told = describe(60, row, None, rule.lr, True)["signal_to_noise"]
    assert told == measured["signal_sq"] / measured["noise_sq"]
    assert describe(60, row, None, rule.lr, False)["signal_to_noise"] is None
