"""Scaling rules: formulas by hand, identities, simulations of the stochastic differential equation, and the page."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rmsprop import InputError, Rule, init, update
from rmsprop.lab.find_task import load_task
from rmsprop.scaling import (
    convert_eps,
    half_life,
    sample_size,
    scale_batch_size,
    steps_to_forget,
    warmup_steps,
    window,
)

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parent.parent / "docs" / "make" / "scaling.py"))
PLAIN = Rule(lr=0.01, decay=0.99, eps=0.02)
SLOW = Rule(lr=0.01, decay=0.99, eps=0.02, momentum=0.95)


def near(rule: Rule, *, rel: float = 1e-12) -> Any:
    """Return a dictionary of approximate values to compare a rule with."""
    return {k: v if isinstance(v, bool) else pytest.approx(v, rel=rel) for k, v in dataclasses.asdict(rule).items()}


# -- formulas ---------------------------------------------------------------------------------------------------------

# Rules, and what κ = 4 makes of them: 1−β and 1−μ grow fourfold; √κ = 2, κ^1.5 = 8.
BY_FOUR: dict[str, tuple[Rule, Rule]] = {
    "plain": (PLAIN, Rule(lr=0.02, decay=0.96, eps=0.01)),
    "eps inside": (replace(PLAIN, eps_inside_sqrt=True), Rule(0.02, 0.96, 0.005, eps_inside_sqrt=True)),
    "v0": (replace(PLAIN, initial_square_avg=1.0), Rule(0.02, 0.96, 0.01, initial_square_avg=0.25)),
    "L2": (replace(PLAIN, weight_decay=0.3), Rule(0.02, 0.96, 0.01, weight_decay=0.3)),
    "decoupled": (
        replace(PLAIN, weight_decay=0.3, decoupled_weight_decay=True),
        Rule(0.02, 0.96, 0.01, weight_decay=0.6, decoupled_weight_decay=True),  # 4·0.01·0.3 = 0.02·0.6
    ),
    "momentum": (SLOW, Rule(0.08, 0.96, 0.01, momentum=0.8)),  # η/(1−μ): 0.2, then 0.4
    "momentum, decoupled": (
        replace(SLOW, weight_decay=0.3, decoupled_weight_decay=True),
        Rule(0.08, 0.96, 0.01, 0.8, weight_decay=0.15, decoupled_weight_decay=True),  # 4·0.01·0.3 = 0.08·0.15
    ),
    "first moment": (replace(SLOW, first_moment=True), Rule(0.02, 0.96, 0.01, 0.8, first_moment=True)),
    "NAdam, decoupled": (
        replace(SLOW, first_moment=True, nesterov=True, bias_correction=True, momentum_decay=0.004, weight_decay=0.3,
                decoupled_weight_decay=True),
        Rule(0.02, 0.96, 0.01, 0.8, first_moment=True, nesterov=True, bias_correction=True, momentum_decay=0.016,
             weight_decay=0.6, decoupled_weight_decay=True),
    ),
    "flags": (
        replace(SLOW, centered=True, nesterov=True, lr_in_momentum=True, bias_correction=True, maximize=True),
        Rule(0.08, 0.96, 0.01, 0.8, centered=True, nesterov=True, lr_in_momentum=True, bias_correction=True,
             maximize=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), BY_FOUR.values(), ids=BY_FOUR)
def test_four_times_the_batch(rule: Rule, expected: Rule) -> None:
    scaled = scale_batch_size(rule, 32, 128, steps=1000)
    assert dataclasses.asdict(scaled.rule) == near(expected)
    assert (scaled.kappa, scaled.steps) == (4.0, 250)
    assert dataclasses.asdict(scale_batch_size(expected, 128, 32).rule) == near(rule)


def test_steps_are_whole_and_at_least_one() -> None:
    assert scale_batch_size(PLAIN, 32, 96, steps=1000).steps == 333
    assert scale_batch_size(PLAIN, 2, 128, steps=10).steps == 1
    assert scale_batch_size(PLAIN, 64, 32, steps=10).steps == 20
    assert scale_batch_size(PLAIN, 64, 32).steps is None


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    momentum = draw(st.sampled_from([0.0, 0.98, 0.999]))
    number = st.floats(1e-9, 1e3)
    return Rule(
        lr=draw(st.floats(1e-6, 1e-2)),
        decay=draw(st.floats(0.97, 0.9999)),
        eps=draw(st.just(0.0) | number),
        momentum=momentum,
        weight_decay=draw(st.just(0.0) | st.floats(1e-6, 1.0)),
        centered=draw(st.booleans()),
        nesterov=momentum > 0 and draw(st.booleans()),
        eps_inside_sqrt=draw(st.booleans()),
        initial_square_avg=draw(st.just(0.0) | number),
        lr_in_momentum=draw(st.booleans()),
        bias_correction=draw(st.booleans()),
        decoupled_weight_decay=draw(st.booleans()),
        maximize=draw(st.booleans()),
    )


batches = st.integers(1000, 5000)


@given(rules(), batches, batches, batches)
def test_there_and_back_is_nothing_and_two_scalings_are_one(rule: Rule, first: int, second: int, third: int) -> None:
    once = scale_batch_size(rule, first, third).rule
    by_way = scale_batch_size(scale_batch_size(rule, first, second).rule, second, third).rule
    back = scale_batch_size(once, third, first).rule
    assert dataclasses.asdict(by_way) == near(once, rel=1e-11)
    assert dataclasses.asdict(back) == near(rule, rel=1e-11)
    assert scale_batch_size(rule, first, first).rule == rule


@given(rules(), st.integers(1, 100), st.integers(1, 10), st.integers(1, 10))
def test_averaged_gradients_of_several_passes_are_one_batch(rule: Rule, old: int, new: int, passes: int) -> None:
    assume(new * passes < 10 * old)
    assert scale_batch_size(rule, old, new, accumulation=passes) == scale_batch_size(rule, old, new * passes)
    assert scale_batch_size(rule, old, new, accumulation=1, summed=True) == scale_batch_size(rule, old, new)


@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_summed_gradients_make_the_same_steps_to_the_bit(rule: Rule) -> None:
    """Four times a gradient is exact in floating point; so are all results, if ε, v₀ and λ are scaled, too."""
    averaged = scale_batch_size(rule, 10, 5, accumulation=4).rule
    summed = scale_batch_size(rule, 10, 5, accumulation=4, summed=True).rule
    assert summed != averaged or rule.eps == 0
    one, gradients = cases.problem(np.float64)
    other, one_state, other_state = one, init(averaged, one), init(summed, one)
    for gradient in gradients:
        one, one_state = update(averaged, one, gradient, one_state)
        other, other_state = update(summed, other, 4 * gradient, other_state)
        assert np.array_equal(one, other)


# -- the stochastic differential equation -----------------------------------------------------------------------------

PARABOLA: Rule = SCRIPT["PARABOLA"]
LONG = replace(PARABOLA, lr=5e-5, momentum=0.99)  # the same rate in the limit, with a memory of 100 steps
NOISY: dict[str, Rule] = {
    "plain": PARABOLA,
    "eps inside": replace(PARABOLA, eps=30.0, eps_inside_sqrt=True),
    "bias correction": replace(PARABOLA, bias_correction=True, initial_square_avg=0.0),
    "centered": replace(PARABOLA, centered=True),
    "L2": replace(PARABOLA, weight_decay=0.3),
    "decoupled": replace(PARABOLA, weight_decay=0.1, decoupled_weight_decay=True),
    "momentum": LONG,
    "momentum with lr, nesterov": replace(LONG, lr_in_momentum=True, nesterov=True),
    "momentum, decoupled": replace(LONG, weight_decay=10.0, decoupled_weight_decay=True),
    "first moment": replace(PARABOLA, momentum=0.99, first_moment=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", NOISY.values(), ids=NOISY)
def test_on_a_noisy_parabola_runs_agree_at_equal_numbers_of_examples(rule: Rule) -> None:
    """To first order in κ(1−β): 0.8 % for κ = 4 and 3.2 % for κ = 16. Other rates differ far more."""
    base = SCRIPT["parabola"](rule, 1)
    for kappa in (4, 16):
        error = kappa * (1 - rule.decay)
        scaled = scale_batch_size(rule, 1, kappa).rule
        found = SCRIPT["beside"](SCRIPT["parabola"](scaled, kappa), base)
        assert found["early"] == pytest.approx(1, abs=2 * error)
        assert found["late"] == pytest.approx(1, abs=2 * error)
        assert found["distance"] < 2 * error
    for rate in (16 * rule.lr, rule.lr):
        found = SCRIPT["beside"](SCRIPT["parabola"](replace(scaled, lr=rate), 16), base)
        assert found["distance"] > 10 * error


@pytest.mark.slow
def test_the_spread_at_last_is_that_of_theory() -> None:
    """Compare the spread of x with theory: with ε = 0 and v at rest, E x² tends to η·σ/2, σ being the batch's noise.

    Then x is an Ornstein-Uhlenbeck process. The rule keeps η·σ; linear scaling makes it √κ times as large. 500 copies
    over several relaxation times give ± 3 %.
    """
    rule = Rule(lr=0.02, decay=0.998, eps=0.0, initial_square_avg=100.0)
    assert SCRIPT["NOISE"] == 10
    for kappa in (1, 4, 16):
        scaled = scale_batch_size(rule, 1, kappa).rule
        linear = replace(scaled, lr=kappa * rule.lr)
        for tried, theory in ((scaled, 0.1), (linear, 0.1 * math.sqrt(kappa))):
            path = SCRIPT["parabola"](tried, kappa)
            late = path[len(path) // 2 :]
            assert (late**2).mean() == pytest.approx(theory, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("centered", [False, True])
def test_where_noise_does_not_outweigh_the_mean_steps_are_too_short(centered: bool) -> None:
    """Too short by √((1+r)/(1+κr)). If centered, d is the standard deviation, and lengths are right to first order."""
    rule = Rule(lr=1e-3, decay=0.998, eps=0.0, centered=centered)
    for r in (1.0, 9.0):
        slope = SCRIPT["NOISE"] * math.sqrt(r)
        moved = []
        for kappa in (1, 16):
            path = SCRIPT["parabola"](scale_batch_size(rule, 1, kappa).rule, kappa, slope=slope)
            moved.append((path[-1] - path[len(path) // 2 - 1]).mean())
        expected = 1.0 if centered else math.sqrt((1 + r) / (1 + 16 * r))
        assert moved[1] / moved[0] == pytest.approx(expected, rel=0.032)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_notes_say_what_to_mind() -> None:
    noise = (
        "holds where gradient noise outweighs the mean gradient in a batch of 64; where not, steps come out too short"
    )
    assert scale_batch_size(PLAIN, 32, 64).notes == (noise,)
    assert scale_batch_size(PLAIN, 8, 16, accumulation=4).notes == (noise,)
    assert scale_batch_size(PLAIN, 64, 32).notes == (noise.replace("short", "long"),)
    assert scale_batch_size(PLAIN, 64, 64).notes == ()
    assert scale_batch_size(replace(PLAIN, decay=0.0), 64, 64).rule.decay == 0
    assert scale_batch_size(replace(PLAIN, centered=True), 32, 64).notes == ()
    close = scale_batch_size(replace(SLOW, decay=0.8), 32, 96).notes
    assert close[1:] == ("κ(1−β) of decay is 0.6: a memory of 1.7 steps follows only roughly",)
    momentum = scale_batch_size(replace(SLOW, centered=True), 1, 12).notes
    assert momentum == ("κ(1−μ) of momentum is 0.6: a memory of 1.7 steps follows only roughly",)


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"to_batch": 3200}, "κ(1−β) of decay must be below 1, got 1; keep the batch below 3200, or raise decay"),
    ({"to_batch": 1600, "accumulation": 4}, "κ(1−β) of decay must be below 1, got 2; keep the batch below 3200"),
    ({"rule": SLOW, "to_batch": 1280}, "κ(1−μ) of momentum must be below 1, got 2; scale momentum=0 with lr=0.2: "),
    ({"rule": replace(PLAIN, momentum=0.9), "to_batch": 320}, "κ(1−μ) of momentum must be below 1, got 1; "),
    (
        {"rule": replace(PLAIN, weight_decay=50.0, decoupled_weight_decay=True), "to_batch": 64},
        "κ·η·λ of weight_decay must be below 1, got 1; lower weight_decay, or the batch",
    ),
    ({"from_batch": 0}, "from_batch must be a whole number >= 1, got 0; count the examples of one step"),
    ({"to_batch": 1.5}, "to_batch must be a whole number >= 1, got 1.5; "),
    ({"steps": 0}, "steps must be a whole number >= 1, got 0; omit it"),
    ({"accumulation": 0}, "accumulation must be a whole number >= 1, got 0; 1 is a step after every"),
    ({"summed": 2}, "summed must be True or False, got 2; "),
]


@pytest.mark.parametrize(("given", "message"), ERRORS)
def test_what_cannot_be_scaled_raises_one_line(given: dict[str, Any], message: str) -> None:
    arguments = {"rule": PLAIN, "from_batch": 32, "to_batch": 64, **given}
    with pytest.raises(InputError, match="^" + re.escape(message)) as caught:
        scale_batch_size(**arguments)
    assert "\n" not in str(caught.value)


# -- ε ----------------------------------------------------------------------------------------------------------------


def denominators(inside: float, outside: float, v: NDArray[np.float64] | float) -> Any:
    return np.sqrt(v) + outside, np.sqrt(v + inside)


positive = st.floats(1e-12, 1e6)


@given(positive, st.just(0.0) | positive)
def test_converted_eps_makes_denominators_agree_at_v(eps: float, v: float) -> None:
    inside = convert_eps(eps, "inside", v)
    one, other = denominators(inside.eps, eps, v)
    assert one == pytest.approx(other, rel=1e-14)
    back = convert_eps(inside.eps, "outside", v)
    assert back.eps == pytest.approx(eps, rel=1e-14)
    assert back.largest_ratio == pytest.approx(inside.largest_ratio, rel=1e-14)
    # The ratio is the largest over all v, and is reached.
    grid = np.concatenate([[0.0], np.geomspace(inside.eps * 1e-8, (inside.eps / eps) ** 2 * 1e8, 4001)])
    one, other = denominators(inside.eps, eps, grid)
    largest = np.maximum(one / other, other / one).max()
    assert largest == pytest.approx(inside.largest_ratio, rel=1e-3)
    assert largest <= inside.largest_ratio * (1 + 1e-14)


def test_equal_floors_differ_by_the_root_of_two_where_v_is_eps_inside() -> None:
    assert convert_eps(0.1, "inside") == pytest.approx((0.01, math.sqrt(2)), rel=1e-14)
    one, other = denominators(0.01, 0.1, 0.01)
    assert one / other == pytest.approx(math.sqrt(2), rel=1e-14)
    assert convert_eps(0, "inside") == convert_eps(0, "outside", 1.0) == (0.0, 1.0)
    # Computed as √(v + ε) − √v, this would be 0.
    assert convert_eps(1e-8, "outside", 1e9).eps == pytest.approx(0.5e-8 / math.sqrt(1e9), rel=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((-1.0, "inside"), "eps must be a finite number >= 0, got -1.0; 1e-8 is usual"),
        ((0.1, "inside", math.nan), "v must be a finite number >= 0, got nan; 0 makes the floors equal"),
        ((0.1, "in"), 'to must be "inside" or "outside", got \'in\'; name the side'),
        ((1e-200, "inside"), "eps must be one whose counterpart a float holds, got 1e-200; 0 would be the result"),
        ((1e200, "inside"), "eps must be one whose counterpart a float holds, got 1e+200; inf would be the result"),
    ],
)
def test_eps_that_cannot_be_converted_raises_one_line(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        convert_eps(*given)


# -- memory -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.5, 0.9999), st.floats(1e-6, 0.9))
def test_memories_are_those_of_the_weights(decay: float, share: float) -> None:
    rule = Rule(decay=decay)
    weights = (1 - decay) * decay ** np.arange(int(40 / (1 - decay)))  # of the gradients in v, the newest first
    assert (weights * np.arange(len(weights))).sum() == pytest.approx(window(rule) - 1, rel=1e-8)  # mean age
    assert decay ** half_life(rule) == pytest.approx(0.5, rel=1e-12)
    assert 1 / (weights**2).sum() == pytest.approx(sample_size(rule), rel=1e-8)
    steps = steps_to_forget(rule, share)
    assert decay**steps <= share * (1 + 1e-9)
    assert decay ** (steps - 1) > share


def test_memories_of_usual_rules() -> None:
    assert [steps_to_forget(Rule(decay=b)) for b in (0.0, 0.1, 0.9, 0.99, 0.999)] == [1, 2, 44, 459, 4603]
    assert [warmup_steps(Rule(decay=b)) for b in (0.0, 0.9, 0.99, 0.999)] == [2, 20, 200, 2000]
    assert [sample_size(Rule(decay=b)) for b in (0.0, 0.9, 0.99)] == pytest.approx([1, 19, 199], rel=1e-12)
    for share in (0.0, 1.0, -0.1, "half"):
        with pytest.raises(InputError, match="share must be"):
            steps_to_forget(PLAIN, share)  # type: ignore[arg-type]


# -- the page ---------------------------------------------------------------------------------------------------------


def stored() -> Any:
    return json.loads(SCRIPT["FOUND"].read_text())


def test_the_page_says_what_was_measured() -> None:
    page = SCRIPT["PAGE"].read_text()
    assert SCRIPT["up_to_date"](page, stored()) == page
    assert SCRIPT["PICTURE"].read_text() == SCRIPT["picture"](stored())


@pytest.mark.slow
def test_what_was_measured_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat the first three of eight epochs on digits: later epochs drift apart with the order of sums."""
    for found, kept in zip(SCRIPT["parabolas"](), stored()["parabola"], strict=True):
        assert (found["kappa"], found["way"]) == (kept["kappa"], kept["way"])
        assert found["rest"] == pytest.approx(kept["rest"], rel=1e-6)
        assert found["far"] == pytest.approx(kept["far"], rel=1e-6)
    monkeypatch.setitem(SCRIPT["digits"].__globals__, "EPOCHS", 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses = SCRIPT["digits"](load_task("mnist"), 16, "the rule", 0)["loss"]
    finally:
        torch.set_num_threads(threads)
    kept = next(r["loss"][0] for r in stored()["digits"]["runs"] if (r["kappa"], r["way"]) == (16, "the rule"))
    assert losses == pytest.approx(kept[:12], rel=0.02)  # another processor adds in another order
