"""rmsprop.jax.rmsprop: equal to the rule and to optax, and sound under JAX's transformations."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cases
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import rmsprop.jax
from rmsprop import InputError, Rule, State, init, profile, update
from rmsprop.jax import FIELDS, RMSpropState
from rmsprop.rule import AVERAGES

RULES = cases.having(FIELDS)
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
# How XLA compiles where nobody sets XLA_FLAGS; conftest.py sets them.
AS_USERS = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3}
# Every branch of the rule occurs with and without the options that combine with it.
KINDS = ("plain", "no eps", "decoupled", "centered, eps inside", "nesterov", "bias correction, v0", "TensorFlow 1",
         "all of it", "all of it, the other way", "amsgrad", "NAdam, schedule", "everything of Adam")  # fmt: skip
rules_of_each_kind = pytest.mark.parametrize("rule", [RULES[k] for k in KINDS], ids=KINDS)
SOME = ("plain", "TensorFlow 1", "all of it", "everything of Adam")
some_rules = pytest.mark.parametrize("rule", [RULES[k] for k in SOME], ids=SOME)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def schedule(step: Any) -> Any:
    """Return cases.lr_at after `step` updates."""
    return jnp.where(step + 1 < cases.STEPS // 2, cases.lr_at(1), cases.lr_at(cases.STEPS))


def cut(x: Any) -> dict[str, Any]:
    """Return 60 numbers as a tree of three arrays and a None."""
    return {"a": x[:6].reshape(3, 2), "b": [x[6:30].reshape(2, 3, 4), None], "c": (x[30:],)}


def join(tree: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def run(optimizer: optax.GradientTransformation, params: Any, gradients: Any, state: Any = None) -> tuple[Any, Any]:
    """Return parameters and state after one step with each of the gradients."""
    step = jax.jit(optimizer.update)
    state = optimizer.init(params) if state is None else state
    for g in gradients:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


# -- equal to the rule ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@every_rule
def test_every_variant_equals_the_rule(rule: Rule) -> None:
    """Compare parameters and all state after every step, in float64, while the rate changes."""
    value, gradients = cases.problem(np.float64)
    optimizer = rmsprop.jax.rmsprop(rule, schedule)
    params, expected = cut(jnp.asarray(value)), init(rule, value)
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for t, g in enumerate(gradients, start=1):
        updates, state = step(cut(g), state, params)
        params = optax.apply_updates(params, updates)
        value, expected = update(dataclasses.replace(rule, lr=cases.lr_at(t)), value, g, expected)
        np.testing.assert_allclose(join(params), value, rtol=1e-11, atol=1e-13)
        for name in AVERAGES:
            if getattr(expected, name) is None:
                assert getattr(state, name) is None
            else:
                mine = join(getattr(state, name))
                np.testing.assert_allclose(mine, getattr(expected, name), rtol=1e-11, atol=1e-13)
        assert (state.step.dtype, int(state.step)) == (jnp.int32, t)


@every_rule
def test_float32_is_within_a_few_units_in_the_last_place_of_the_rule(rule: Rule) -> None:
    """Each step starts from the rule's own state: errors cannot add up or cancel."""
    value, gradients = cases.problem(np.float32)
    step = jax.jit(rmsprop.jax.rmsprop(rule).update, compiler_options=AS_USERS)
    expected = init(rule, value)
    eps = float(np.finfo(np.float32).eps)
    for g in gradients:
        averages = [None if x is None else jnp.asarray(x) for x in (getattr(expected, name) for name in AVERAGES)]
        updates, state = step(jnp.asarray(g), RMSpropState(jnp.int32(expected.step), *averages), jnp.asarray(value))
        mine, old = value + np.asarray(updates), value
        before, (value, expected) = expected, update(rule, value, g, expected)
        size = np.abs(old) + np.abs(value - old) + cases.moment_size(rule, before, expected, g)
        # E5 loses the digits that v shares with what is subtracted from it.
        power = rule.decay**expected.step if rule.bias_correction else 0.0
        divisor = expected.square_avg if expected.max_square_avg is None else expected.max_square_avg
        total = divisor / (1 - power)
        left = total - power * rule.initial_square_avg / (1 - power)
        if expected.grad_avg is not None:
            left = left - np.square(expected.grad_avg / (1 - power))
        lost = np.maximum(1, total / np.maximum(np.maximum(left, 4 * eps * total), 1e-30))
        assert np.all(np.abs(mine - value) <= 4 * eps * size * lost + 1e-12)
        # g + λ·p also loses digits where the two almost cancel.
        terms = np.square(np.abs(g) + rule.weight_decay * np.abs(old))
        difference = np.abs(np.asarray(state.square_avg) - expected.square_avg)
        assert np.all(difference <= 4 * eps * (expected.square_avg + (1 - rule.decay) * terms))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 0.99999])
@pytest.mark.parametrize("t", [1, 2, 10_000])
def test_bias_correction_keeps_its_digits_in_float32(decay: float, t: int) -> None:
    """Computed from a power in float32, 1 − 0.99999 has two correct digits."""
    rule = Rule(decay=decay, eps=0.0, lr=1.0, bias_correction=True)
    g, v = np.array([1e-3, 0.7, 90.0], np.float32), np.array([0.0, 0.1, 2000.0], np.float32)
    expected, _ = update(rule, np.zeros(3, np.float32), g, State(t - 1, v))
    state = RMSpropState(jnp.int32(t - 1), jnp.asarray(v), None, None)
    updates, state = jax.jit(rmsprop.jax.rmsprop(rule).update)(jnp.asarray(g), state)
    np.testing.assert_allclose(updates, expected, rtol=5e-7)
    assert int(state.step) == t


@pytest.mark.slow
@settings(max_examples=40)  # each in four dtypes
@given(st.data())
def test_finite_gradients_give_finite_parameters_for_every_variant(data: st.DataObject) -> None:
    rule, gradients = data.draw(cases.rules(moments=True)), data.draw(cases.gradients())
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            # In half precision the steps must be finite, too: at the floor of the variance they are 1e3 times lr or
            # more.
            optimizer = rmsprop.jax.rmsprop(rule, 1e-6 if dtype == jnp.float16 else rule.lr)
            limit = 65504.0 if dtype == jnp.float16 else 2.0**60
            params = jnp.ones(2, dtype)
            state = optimizer.init(params)
            for g in gradients:
                updates, state = optimizer.update(jnp.full(2, max(-limit, min(limit, g)), dtype), state, params)
                params = optax.apply_updates(params, updates)
            assert jnp.isfinite(params).all()


def test_what_is_not_finite_is_not_hidden() -> None:
    for rule in (cases.RULES["plain"], cases.RULES["no eps"], cases.RULES["all of it, the other way"]):
        params, _ = run(rmsprop.jax.rmsprop(rule), jnp.ones(3), [jnp.array([jnp.nan, jnp.inf, 1.0])] * 2)
        assert jnp.isnan(params).tolist() == [True, True, False]


def test_zero_gradients_without_eps_change_nothing_and_centered_stays_finite() -> None:
    """optax returns NaN for both."""
    for rule in (Rule(eps=0.0, momentum=0.5), Rule(eps=0.0, centered=True, bias_correction=True)):
        params, _ = run(rmsprop.jax.rmsprop(rule), jnp.ones(3), [jnp.zeros(3)] * 3)
        assert params.tolist() == [1, 1, 1]
    constant = [jnp.logspace(-3, 3, 64)] * 300
    rule = profile("optax", lr=1e-4, eps=0.0, centered=True)
    assert jnp.isfinite(run(rmsprop.jax.rmsprop(rule), jnp.zeros(64), constant)[0]).all()
    assert not jnp.isfinite(run(optax.rmsprop(1e-4, eps=0.0, centered=True), jnp.zeros(64), constant)[0]).all()


# -- equal to optax ---------------------------------------------------------------------------------------------------

CUT = optax.piecewise_constant_schedule(0.02, {500: 0.1})
OPTAX: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of both, arguments of the rule only
    "defaults": ({}, {}),
    "eps outside": ({"eps_in_sqrt": False}, {}),
    "momentum": ({"momentum": 0.8}, {}),
    "momentum, eps outside": ({"momentum": 0.8, "eps_in_sqrt": False}, {}),
    "nesterov": ({"momentum": 0.8, "nesterov": True}, {}),
    "centered": ({"centered": True}, {}),
    "centered, eps outside, nesterov": (
        {"centered": True, "eps_in_sqrt": False, "momentum": 0.8, "nesterov": True}, {}
    ),
    "start at 1": ({"initial_scale": 1.0, "momentum": 0.8}, {}),
    "bias correction": ({"bias_correction": True, "momentum": 0.8}, {}),
    "bias correction, centered": ({"bias_correction": True, "centered": True}, {}),
    "L2": ({"momentum": 0.8}, {"weight_decay": 0.1}),
    "maximize": ({"momentum": 0.8}, {"maximize": True}),
}  # fmt: skip


def trajectory(optimizer: optax.GradientTransformation, steps: int = 1000) -> np.ndarray[Any, Any]:
    """Return the parameters after each step on a noisy bowl, with gradients of three orders of magnitude."""
    generator = np.random.default_rng(0)
    start, scale = jnp.asarray(generator.standard_normal(20)), jnp.logspace(-2, 1, 20)
    noise = jnp.asarray(generator.standard_normal((steps, 20)))

    def step(carry: Any, z: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(scale * (params + z), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return np.asarray(jax.lax.scan(step, (start, optimizer.init(start)), noise)[1])


def distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Return the largest difference relative to the largest value of a parameter in the run."""
    return float(np.max(np.abs(a - b) / np.abs(b).max(axis=0)))


def theirs(options: dict[str, Any], extra: dict[str, Any]) -> optax.GradientTransformation:
    before = [optax.add_decayed_weights(extra["weight_decay"])] if "weight_decay" in extra else []
    before += [optax.scale(-1.0)] if "maximize" in extra else []
    return optax.chain(*before, optax.rmsprop(CUT, decay=0.9, eps=1e-3, **options))


def ours(options: dict[str, Any], extra: dict[str, Any]) -> Rule:
    return profile("optax", lr=0.02, eps=1e-3, **options, **extra)


@functools.cache
def of_optax(name: str) -> np.ndarray[Any, Any]:
    """Return the trajectory of optax's own transformation, in float64."""
    result = trajectory(theirs(*OPTAX[name]))
    assert result.dtype == np.float64
    return result


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in OPTAX if name != "bias correction, centered"])
def test_it_follows_optax_for_1000_steps(name: str) -> None:
    assert distance(trajectory(rmsprop.jax.rmsprop(ours(*OPTAX[name]), CUT)), of_optax(name)) < 1e-12


@pytest.mark.usefixtures("x64")
def test_centered_and_bias_corrected_it_follows_optax_once_there_is_a_variance() -> None:
    """The first variance is exactly zero: optax divides by √ε there. The second step is the first to compare."""
    arguments = OPTAX["bias correction, centered"]
    rate = optax.piecewise_constant_schedule(0.02, {500: 0.1})

    def warm(step: Any) -> Any:
        return jnp.where(step == 0, 0.0, rate(step))

    reference = optax.rmsprop(warm, decay=0.9, eps=1e-3, **arguments[0])
    assert distance(trajectory(rmsprop.jax.rmsprop(ours(*arguments), warm)), trajectory(reference)) < 1e-12


CHANGES: dict[str, Callable[[Rule], dict[str, Any]]] = {
    "eps elsewhere": lambda rule: {"eps_inside_sqrt": not rule.eps_inside_sqrt},
    "another start": lambda rule: {"initial_square_avg": 1.0 - rule.initial_square_avg},
    "decay 1 % lower": lambda rule: {"decay": rule.decay * 0.99},
    "decay 1 % higher": lambda rule: {"decay": rule.decay * 1.01},
    "rate outside the buffer": lambda rule: {"lr_in_momentum": False},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["momentum", "nesterov", "start at 1"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_comparison_with_optax_notices_every_change(name: str, change: Callable[[Rule], dict[str, Any]]) -> None:
    """Each change exceeds 1e-4; the tests above allow 1e-12."""
    rule = ours(*OPTAX[name])
    rule = dataclasses.replace(rule, **change(rule))
    assert distance(trajectory(rmsprop.jax.rmsprop(rule, CUT)), of_optax(name)) > 1e-4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_torch_order_is_a_chain_of_optax(centered: bool, nesterov: bool) -> None:
    """The rate applies after the buffer, which `optax.rmsprop` cannot do."""
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    chain = optax.chain(
        optax.add_decayed_weights(0.1),
        scale(decay=0.9, eps=1e-3, eps_in_sqrt=False),
        optax.trace(0.8, nesterov),
        optax.scale_by_learning_rate(CUT),
    )
    rule = profile("torch", alpha=0.9, eps=1e-3, momentum=0.8, weight_decay=0.1, centered=centered, nesterov=nesterov)
    assert distance(trajectory(rmsprop.jax.rmsprop(rule, CUT)), trajectory(chain)) < 1e-12
    inside = dataclasses.replace(rule, lr_in_momentum=True)
    assert distance(trajectory(rmsprop.jax.rmsprop(inside, CUT)), trajectory(chain)) > 1e-4


@pytest.mark.usefixtures("x64")
def test_decoupled_decay_is_a_chain_of_optax() -> None:
    chain = optax.chain(
        optax.scale_by_rms(decay=0.9, eps=1e-3), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(CUT)
    )
    rule = profile("optax", lr=0.02, eps=1e-3, weight_decay=0.1, decoupled_weight_decay=True)
    assert distance(trajectory(rmsprop.jax.rmsprop(rule, CUT)), trajectory(chain)) < 1e-12
    coupled = dataclasses.replace(rule, decoupled_weight_decay=False)
    assert distance(trajectory(rmsprop.jax.rmsprop(coupled, CUT)), trajectory(chain)) > 1e-4


# -- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_in_any_form_gives_the_same_bits() -> None:
    value, gradients = cases.problem(np.float32)
    rule = cases.RULES["all of it"]
    forms = [
        rmsprop.jax.rmsprop(rule),
        rmsprop.jax.rmsprop(dataclasses.replace(rule, lr=5.0), np.float64(0.03)),
        rmsprop.jax.rmsprop(rule, jnp.float32(0.03)),
        rmsprop.jax.rmsprop(rule, np.array(0.03)),
        rmsprop.jax.rmsprop(rule, lambda step: 0.03),
        optax.inject_hyperparams(rmsprop.jax.rmsprop, static_args="rule")(rule, learning_rate=0.03),
        optax.inject_hyperparams(rmsprop.jax.rmsprop)(rule),
        optax.inject_hyperparams(rmsprop.jax.rmsprop)(rule, optax.constant_schedule(0.03)),
    ]
    results = [np.asarray(run(each, jnp.asarray(value), gradients)[0]) for each in forms]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-6)  # for a plain number, η·λ is a product in float64
    half = rmsprop.jax.rmsprop(rule, 0.015)
    assert not np.allclose(run(half, jnp.asarray(value), gradients)[0], results[0], rtol=1e-3)


def test_a_rate_alone_means_the_rule_with_its_defaults() -> None:
    value, gradients = cases.problem(np.float32)
    expected = run(rmsprop.jax.rmsprop(Rule(lr=0.05)), jnp.asarray(value), gradients)[0]
    forms: list[Any] = [0.05, jnp.float32(0.05), np.float32(0.05), lambda step: 0.05]
    for rate in forms:
        for optimizer in (rmsprop.jax.rmsprop(rate), rmsprop.jax.rmsprop(learning_rate=rate)):
            np.testing.assert_array_equal(run(optimizer, jnp.asarray(value), gradients)[0], expected)


def test_a_schedule_is_called_with_the_updates_made_before() -> None:
    asked: list[int] = []

    def rate(step: Any) -> float:
        asked.append(int(step))
        return 0.1

    optimizer, params = rmsprop.jax.rmsprop(Rule(), rate), jnp.ones(2)
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update(params, state)
    assert asked == [0, 1, 2]


def test_one_compilation_serves_every_step_and_every_injected_rate() -> None:
    traces = 0
    optimizer = optax.inject_hyperparams(rmsprop.jax.rmsprop, static_args="rule")(
        cases.RULES["all of it"], learning_rate=0.1
    )

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(g, state, params)
        return optax.apply_updates(params, updates), state

    value, gradients = cases.problem(np.float32)
    params, expected = jnp.asarray(value), init(cases.RULES["all of it"], value)
    state = optimizer.init(params)
    for t, g in enumerate(gradients, start=1):
        state.hyperparams["learning_rate"] = jnp.array(cases.lr_at(t))
        params, state = step(params, state, g)
        value, expected = update(dataclasses.replace(cases.RULES["all of it"], lr=cases.lr_at(t)), value, g, expected)
    assert traces == 1
    np.testing.assert_allclose(params, value, rtol=1e-4)
    assert float(optax.tree.get(state, "learning_rate")) == np.float32(cases.lr_at(cases.STEPS))


# -- the other numbers of a rule --------------------------------------------------------------------------------------

NUMBERS = ("decay", "eps", "momentum", "weight_decay", "initial_square_avg")


def changed(rule: Rule, t: int) -> Rule:
    """Return `rule` with other numbers in the second half of a run, except v₀, with which the state began."""
    if t <= cases.STEPS // 2:
        return rule
    return dataclasses.replace(rule, lr=0.004, decay=0.6, eps=0.05, momentum=0.3, weight_decay=0.1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["all of it", "all of it, the other way", "everything of Adam"])
def test_every_number_of_a_rule_can_be_injected_and_changed_without_compiling_anew(name: str) -> None:
    rule, traces = RULES[name], 0
    numbers = NUMBERS[:-1] if rule.amsgrad else NUMBERS  # v₀ must be 0
    value, gradients = cases.problem(np.float64)
    blank = dataclasses.replace(rule, **dict(zip(numbers, (0.1, 9.0, 0.9, 0.9, 9.0), strict=False)))  # type: ignore[arg-type]
    optimizer = optax.inject_hyperparams(rmsprop.jax.rmsprop)(
        blank, learning_rate=rule.lr, **{number: getattr(rule, number) for number in numbers}
    )

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(g, state, params)
        return optax.apply_updates(params, updates), state

    params, expected = jnp.asarray(value), init(rule, value)
    state = optimizer.init(params)
    assert set(state.hyperparams) == {"learning_rate", *numbers}
    for t, g in enumerate(gradients, start=1):
        now = changed(rule, t)
        for number in numbers:
            state.hyperparams[number] = jnp.array(getattr(now, number))
        state.hyperparams["learning_rate"] = jnp.array(now.lr)
        params, state = step(params, state, g)
        value, expected = update(now, value, g, expected)
        np.testing.assert_allclose(params, value, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(state.inner_state.square_avg, expected.square_avg, rtol=1e-10)
    assert traces == 1


def test_numbers_beside_a_rule_go_before_its_own_and_follow_schedules() -> None:
    value, gradients = cases.problem(np.float32)
    numbers: dict[str, Any] = {
        "decay": 0.6,
        "eps": 0.05,
        "momentum": 0.3,
        "weight_decay": 0.1,
        "initial_square_avg": 2.0,
    }
    for number, x in numbers.items():
        rule = dataclasses.replace(cases.RULES["all of it"], **{number: x})
        expected = run(rmsprop.jax.rmsprop(rule), jnp.asarray(value), gradients)[0]
        mine = run(rmsprop.jax.rmsprop(cases.RULES["all of it"], **{number: x}), jnp.asarray(value), gradients)[0]
        np.testing.assert_array_equal(mine, expected)
        schedule = optax.constant_schedule(x)
        injected = optax.inject_hyperparams(rmsprop.jax.rmsprop)(cases.RULES["all of it"], **{number: schedule})
        np.testing.assert_allclose(run(injected, jnp.asarray(value), gradients)[0], expected, rtol=2e-4)
    with pytest.raises(InputError, match=r"decay must be a number in \[0, 1\), got 1.5"):
        rmsprop.jax.rmsprop(Rule(), decay=1.5)
    with pytest.raises(InputError, match=r"eps must be a real scalar, got shape \(2,\) float32"):
        rmsprop.jax.rmsprop(Rule(), eps=jnp.ones(2))
    refused = "^initial_square_avg must be 0 with amsgrad=True and bias_correction=True, got an array; omit it$"
    with pytest.raises(InputError, match=refused):
        rmsprop.jax.rmsprop(RULES["everything of Adam"], initial_square_avg=jnp.zeros(()))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
def test_wider_numbers_do_not_widen_the_state(dtype: Any) -> None:
    numbers: Any = {number: jnp.asarray(getattr(cases.RULES["all of it"], number)) for number in NUMBERS}
    optimizer, params = rmsprop.jax.rmsprop(cases.RULES["all of it"], **numbers), jnp.ones(3, dtype)
    state = optimizer.init(params)
    updates, after = optimizer.update(jnp.ones(3, dtype), state, params)
    wide = jnp.complex64 if dtype == jnp.complex64 else jnp.float32
    assert {x.dtype for x in jax.tree.leaves((updates, state[1:], after[1:]))} == {jnp.dtype(wide)}
    expected, _ = rmsprop.jax.rmsprop(cases.RULES["all of it"]).update(params, state, params)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["all of it", "everything of Adam"])
def test_derivatives_with_respect_to_every_number_are_those_of_differences(name: str) -> None:
    value, gradients = cases.problem(np.float64, 5)
    rule = RULES[name]
    names = NUMBERS[:-1] if rule.amsgrad else NUMBERS  # v₀ must be 0
    _, warm = run(rmsprop.jax.rmsprop(rule, 0.0), jnp.asarray(value), [g / 10 for g in gradients])

    def after(*numbers: Any) -> Any:
        optimizer = rmsprop.jax.rmsprop(rule, **dict(zip(names, numbers, strict=True)))
        params, state = jnp.asarray(value), warm
        for _ in range(2):
            updates, state = optimizer.update(jnp.sinh(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    check: Any = jax.test_util.check_grads
    check(jax.jit(after), [jnp.array(getattr(rule, name)) for name in names], order=1, rtol=1e-5, eps=1e-6)


def test_update_takes_the_further_arguments_of_optax() -> None:
    """As optax.rmsprop does: a training loop may pass the loss to every optimizer."""
    params, g = jnp.ones(3), jnp.full(3, 2.0)
    optimizer = rmsprop.jax.rmsprop(cases.RULES["all of it"])
    state = optimizer.init(params)
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    expected = optimizer.update(g, state, params)
    for x, y in zip(
        jax.tree.leaves(optimizer.update(g, state, params, value=1.0, grad=g, value_fn=jnp.sum)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)
    wrapped: list[Any] = [
        optax.chain(optax.clip_by_global_norm(1.0), optimizer, optax.contrib.reduce_on_plateau()),
        optax.MultiSteps(optimizer, 2),
        optax.masked(optimizer, True),
        optax.multi_transform({"all": optimizer}, "all"),
        optax.apply_if_finite(optimizer, 3),
        optax.inject_hyperparams(rmsprop.jax.rmsprop)(Rule(), decay=0.8),
    ]
    for each in wrapped:
        jax.jit(each.update)(g, each.init(params), params, value=jnp.float32(1.0))


# -- dtypes -----------------------------------------------------------------------------------------------------------


@some_rules
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_the_float32_step_rounded_once(rule: Rule, dtype: Any) -> None:
    value, gradients = cases.problem(np.float32, 600)
    optimizer, twice = rmsprop.jax.rmsprop(rule), 0
    params = jnp.asarray(value, dtype)
    state = optimizer.init(params)
    for gradient in gradients[:4]:
        g = jnp.asarray(gradient, dtype)
        wide, wide_state = optimizer.update(g.astype(jnp.float32), state, params.astype(jnp.float32))
        updates, state = optimizer.update(g, state, params)
        exact = (params.astype(jnp.float32) + wide).astype(dtype)
        twice += int(jnp.sum(params + updates.astype(dtype) != exact))
        params = optax.apply_updates(params, updates)
        assert (params.dtype, updates.dtype) == (dtype, jnp.float32)
        assert {x.dtype for x in jax.tree.leaves(state[1:])} == {jnp.dtype(jnp.float32)}
        np.testing.assert_array_equal(params.astype(jnp.float32), exact.astype(jnp.float32))
        for mine, other in zip(jax.tree.leaves(state), jax.tree.leaves(wide_state), strict=True):
            np.testing.assert_array_equal(mine, other)
    assert twice > 0  # half-precision updates would round some parameters twice


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64])
@pytest.mark.parametrize("gradient", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_scan_over_steps_keeps_its_types(dtype: Any, gradient: Any) -> None:
    """Nor does a value become weakly typed, which would recompile the second step."""
    gradient = dtype if dtype == jnp.complex64 else gradient
    optimizer = rmsprop.jax.rmsprop(cases.RULES["all of it"], schedule)
    params = jnp.ones(3, dtype)
    carry = params, optimizer.init(params)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jnp.ones(3, gradient), state, params)
        return (optax.apply_updates(params, updates), state), None

    after = jax.eval_shape(lambda carry: jax.lax.scan(step, carry, length=3)[0], carry)
    for x, y in zip(jax.tree.leaves(carry), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype, y.weak_type) == (y.shape, y.dtype, False)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rate", [0.1, np.float64(0.1), np.array(0.1), lambda step: np.float64(0.1), lambda step: 0.1])
def test_wider_gradients_and_rates_do_not_widen_the_state(rate: Any) -> None:
    optimizer, params = rmsprop.jax.rmsprop(cases.RULES["all of it"], rate), jnp.ones(3, jnp.float32)
    updates, state = optimizer.update(jnp.ones(3, jnp.float64), optimizer.init(params), params)
    assert {x.dtype for x in jax.tree.leaves((updates, state[1:]))} == {jnp.dtype(jnp.float32)}


@pytest.mark.usefixtures("x64")
@rules_of_each_kind
def test_complex_parameters_are_two_reals(rule: Rule) -> None:
    generator = np.random.default_rng(0)
    start, *gradients = generator.standard_normal((6, 4, 2)).view(complex)
    whole, state = run(rmsprop.jax.rmsprop(rule), start, gradients)
    parts, halves = run(rmsprop.jax.rmsprop(rule), [start.real, start.imag], [[g.real, g.imag] for g in gradients])
    np.testing.assert_allclose(whole, parts[0] + 1j * parts[1], rtol=1e-14)
    for name in AVERAGES:
        mine, other = getattr(state, name), getattr(halves, name)
        if other is not None:
            np.testing.assert_allclose(mine, other[0] + 1j * other[1], rtol=1e-14)


def test_complex_parameters_descend_along_the_conjugate_of_what_grad_gives() -> None:
    target = jnp.array([1 + 2j, -3j])
    optimizer, params = rmsprop.jax.rmsprop(0.01), jnp.zeros(2, jnp.complex64)
    state = optimizer.init(params)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(jnp.abs(z - target) ** 2)))
    step = jax.jit(optimizer.update)
    for _ in range(500):
        updates, state = step(jnp.conj(gradient(params)), state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, target, atol=0.02)


# -- trees ------------------------------------------------------------------------------------------------------------


def test_a_gradient_of_none_leaves_its_parameter_and_state_as_they_are() -> None:
    optimizer = rmsprop.jax.rmsprop(cases.RULES["all of it"])
    params = {"a": jnp.ones(2), "frozen": {"b": jnp.ones(3)}}
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    updates, after = optimizer.update({"a": jnp.ones(2), "frozen": None}, state, params)
    assert updates["frozen"] is None
    assert after.square_avg["frozen"] is state.square_avg["frozen"]
    before: Any = jax.tree.structure(state)
    assert before == jax.tree.structure(after)
    assert not np.array_equal(after.square_avg["a"], state.square_avg["a"])


def test_parameters_without_arrays_and_bare_arrays_are_trees_too() -> None:
    optimizer = rmsprop.jax.rmsprop(cases.RULES["momentum"])
    trees: list[Any] = [None, {}, [None, ()]]
    for params in trees:
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert (updates, int(state.step)) == (params, 1)
    updates, _ = optimizer.update(2.0, optimizer.init(1.0), 1.0)
    assert updates.shape == ()


def test_masked_and_multi_transform_step_their_parts_only() -> None:
    params, g = {"w": jnp.ones(3), "b": jnp.ones(2)}, {"w": jnp.full(3, 2.0), "b": jnp.full(2, 3.0)}
    rule = cases.RULES["all of it"]
    alone = run(rmsprop.jax.rmsprop(rule), params["w"], [g["w"]] * 3)[0]
    masked = optax.masked(rmsprop.jax.rmsprop(rule), {"w": True, "b": False})
    result, state = run(masked, params, [g] * 3)
    np.testing.assert_allclose(result["w"], alone, rtol=1e-6)
    np.testing.assert_allclose(result["b"], 1 + 9, rtol=1e-6)  # masked leaves pass through
    assert isinstance(state.inner_state.square_avg["b"], optax.MaskedNode)
    several = optax.multi_transform(
        {"ours": rmsprop.jax.rmsprop(rule), "sgd": optax.sgd(0.1)}, {"w": "ours", "b": "sgd"}
    )
    result, _ = run(several, params, [g] * 3)
    np.testing.assert_allclose(result["w"], alone, rtol=1e-6)
    np.testing.assert_allclose(result["b"], 1 - 0.9, rtol=1e-5)


def test_optax_finds_the_parameters_in_the_state() -> None:
    optimizer = rmsprop.jax.rmsprop(cases.RULES["all of it"])
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    spec = optax.tree.map_params(
        optimizer, lambda _, name: name, optimizer.init(params), {"w": "W", "b": "B"}, transform_non_params=lambda _: 0
    )
    assert spec == (0, *[{"w": "W", "b": "B"}] * 3, None)


# -- JAX's transformations --------------------------------------------------------------------------------------------


def descend(rule: Rule, rate: Any, start: Any, steps: int = 20, state: Any = None) -> Any:
    """Return the end of a descent on a bowl, in a loop that is compiled as a whole."""
    optimizer = rmsprop.jax.rmsprop(rule, rate)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jnp.sinh(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    state = optimizer.init(start) if state is None else state
    return jax.lax.scan(step, (start, state), length=steps)[0][0]


@pytest.mark.usefixtures("x64")
@rules_of_each_kind
def test_derivatives_through_steps_are_those_of_differences(rule: Rule) -> None:
    """By the initial parameters and the rate. The state is warm: its variance is more than rounding noise."""
    value, gradients = cases.problem(np.float64, 5)
    _, warm = run(rmsprop.jax.rmsprop(rule, 0.0), jnp.asarray(value), [g / 10 for g in gradients])

    def after(start: Any, rate: Any) -> Any:
        return descend(rule, rate, start, 4, warm)

    check: Any = jax.test_util.check_grads
    check(jax.jit(after), (jnp.asarray(value), jnp.asarray(0.03)), order=1, rtol=1e-6, atol=1e-8, eps=1e-6)


@rules_of_each_kind
def test_derivatives_are_finite_where_gradients_are_zero(rule: Rule) -> None:
    def after(params: Any, lr: Any) -> Any:
        optimizer = rmsprop.jax.rmsprop(rule, lr)
        state = optimizer.init(params)
        for _ in range(2):
            grads = jax.tree.map(lambda p: p * jnp.array([1, 0, 1], p.dtype), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return sum(jnp.sum(jnp.real(x) ** 2 + jnp.imag(x) ** 2).astype(jnp.float32) for x in params)

    dtypes = (jnp.float32, jnp.bfloat16, jnp.complex64) if rule == cases.RULES["all of it"] else (jnp.float32,)
    params = [jnp.array([0, 2, 1e-3], dtype) for dtype in dtypes]
    slopes = jax.jit(jax.grad(after, argnums=(0, 1)))(params, 0.01)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(slopes))


def test_the_derivative_at_a_zero_gradient_is_that_of_the_step() -> None:
    """Near zero the step is −η·g/ε; optax gives NaN."""

    def change(optimizer: optax.GradientTransformation) -> Callable[[Any], Any]:
        return lambda g: optimizer.update(g, optimizer.init(g))[0]

    slope = jax.grad(change(rmsprop.jax.rmsprop(Rule(lr=0.01, eps=0.1))))(0.0)
    assert slope == pytest.approx(-0.1)
    assert jnp.isnan(jax.grad(change(optax.rmsprop(0.01, eps=0.1, eps_in_sqrt=False)))(0.0))


@some_rules
def test_vmap_runs_over_rates_and_over_starts(rule: Rule) -> None:
    rates = jnp.array([0.0, 1e-3, 1e-2, 0.1])
    starts = jax.random.normal(jax.random.key(0), (3, 5))
    many = jax.jit(jax.vmap(jax.vmap(descend, (None, 0, None)), (None, None, 0)), static_argnums=0)(rule, rates, starts)
    assert many.shape == (3, 4, 5)
    one = jax.jit(descend, static_argnums=0)
    for i, start in enumerate(starts):
        for j, rate in enumerate(rates):
            np.testing.assert_allclose(many[i, j], one(rule, rate, start), rtol=1e-5, atol=1e-5)


def test_a_step_can_take_over_the_memory_of_its_arguments() -> None:
    optimizer = rmsprop.jax.rmsprop(cases.RULES["all of it"])

    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = optimizer.update(g, state, params)
        return optax.apply_updates(params, updates), state

    value, gradients = cases.problem(np.float32)
    expected, _ = run(optimizer, jnp.asarray(value), gradients)
    params = jnp.array(value)
    state, donating = optimizer.init(params), jax.jit(step, donate_argnums=(0, 1))
    for g in gradients:
        old = params, state
        params, state = donating(params, state, g)
        assert all(x.is_deleted() for x in jax.tree.leaves(old))
    np.testing.assert_allclose(params, expected, rtol=1e-5)


# -- with the rest of optax, on real data -----------------------------------------------------------------------------


def test_clipping_before_it_composes() -> None:
    params, g = {"w": jnp.ones(3)}, {"w": jnp.array([30.0, 40.0, 0.0])}
    rule = Rule(eps=1.0)
    chained, _ = run(optax.chain(optax.clip_by_global_norm(1.0), rmsprop.jax.rmsprop(rule)), params, [g] * 3)
    clipped, _ = run(rmsprop.jax.rmsprop(rule), params, [{"w": jnp.array([0.6, 0.8, 0.0])}] * 3)
    np.testing.assert_allclose(chained["w"], clipped["w"], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_multisteps_gathers_gradients_for_one_step(dtype: Any) -> None:
    rule = cases.RULES["momentum"]
    params, pair = jnp.ones(3, dtype), [jnp.array([1.0, 2.0, 3.0], dtype), jnp.array([3.0, 4.0, 9.0], dtype)]
    many, state = run(optax.MultiSteps(rmsprop.jax.rmsprop(rule), 2), params, pair * 3)
    once, _ = run(rmsprop.jax.rmsprop(rule), params, [(pair[0] + pair[1]) / 2] * 3)
    np.testing.assert_allclose(many.astype(jnp.float32), once.astype(jnp.float32), rtol=1e-6)
    assert (int(state.gradient_step), many.dtype) == (3, dtype)


def test_averages_that_a_rule_does_not_use_are_kept() -> None:
    """A run may switch centered or momentum off, and on again later."""
    params = {"w": jnp.ones(2)}
    _, state = run(rmsprop.jax.rmsprop(cases.RULES["all of it"]), params, [params])
    _, after = rmsprop.jax.rmsprop(cases.RULES["plain"]).update(params, state)
    assert after.grad_avg is state.grad_avg
    assert after.momentum_buffer is state.momentum_buffer
    _, state = run(rmsprop.jax.rmsprop(RULES["amsgrad"]), params, [params])
    _, after = rmsprop.jax.rmsprop(cases.RULES["plain"]).update(params, state)
    assert after.max_square_avg is state.max_square_avg


def test_the_count_of_updates_stops_at_its_largest_number() -> None:
    """It never becomes negative, where bias correction would give NaN."""
    optimizer, params = rmsprop.jax.rmsprop(Rule(bias_correction=True)), jnp.ones(2)
    largest = 2**31 - 1
    updates, state = optimizer.update(params, optimizer.init(params)._replace(step=jnp.int32(largest)))
    assert int(state.step) == largest
    assert jnp.isfinite(updates).all()


def test_apply_if_finite_drops_a_step() -> None:
    optimizer = rmsprop.jax.rmsprop(cases.RULES["momentum"])
    params, g = jnp.ones(2), jnp.array([1.0, 2.0])
    guarded, state = run(optax.apply_if_finite(optimizer, 5), params, [g, g * jnp.nan, g])
    np.testing.assert_allclose(guarded, run(optimizer, params, [g, g])[0], rtol=1e-6)
    assert (int(state.inner_state.step), int(state.total_notfinite)) == (2, 1)


def test_apply_if_finite_takes_float32_gradients_of_bfloat16_parameters() -> None:
    """Updates are float32, but a dropped step returns zeros in the gradients' dtype."""
    optimizer = optax.apply_if_finite(rmsprop.jax.rmsprop(cases.PLAIN), 5)
    params = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(TypeError, match=r"has type float32.* has type bfloat16"):
        run(optimizer, params, [params])
    widened = optax.chain(optax.stateless(lambda g, _: optax.tree.cast(g, jnp.float32)), optimizer)
    assert run(widened, params, [params, params * jnp.nan])[0].dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_network_learns_digits_compiled_and_not() -> None:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = jnp.asarray(data.data[order] / 16, jnp.float32), jnp.asarray(data.target[order])
    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": (jax.random.normal(keys[0], (64, 48)) / 8, jnp.zeros(48)),
        "out": (jax.random.normal(keys[1], (48, 10)) / 7, jnp.zeros(10)),
    }

    def logits(params: Any, x: Any) -> Any:
        h = jnp.tanh(x @ params["hidden"][0] + params["hidden"][1])
        return h @ params["out"][0] + params["out"][1]

    def loss(params: Any, x: Any, y: Any) -> Any:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

    rates = optax.exponential_decay(0.003, 100, 0.5)
    optimizer = rmsprop.jax.rmsprop(profile("tf1", lr=0.003, momentum=0.9, eps=1e-3), rates)

    def step(params: Any, state: Any, start: Any) -> Any:
        batch = [jax.lax.dynamic_slice_in_dim(part, start, 100) for part in (x, y)]
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return optax.apply_updates(params, updates), state

    def train(step: Callable[..., Any], steps: int) -> Any:
        now, state = params, optimizer.init(params)
        for i in range(steps):
            now, state = step(now, state, 100 * (i % 14))
        return now

    compiled = jax.jit(step)
    for a, b in zip(jax.tree.leaves(train(compiled, 3)), jax.tree.leaves(train(step, 3)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    correct = jnp.argmax(logits(train(compiled, 280), x[1400:]), axis=1) == y[1400:]
    assert correct.mean() > 0.95


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 0.2), "learning_rate must be given once, got two; pass a Rule and a rate, or a rate only"),
        (("tf1",), "rule must be a Rule or a learning rate, got 'tf1'; rmsprop.profile gives rules by name"),
        ((None,), "rule must be a Rule or a learning rate, got None"),
        ((True,), "learning_rate must be a finite number >= 0, got True"),
        ((-0.1,), "learning_rate must be a finite number >= 0, got -0.1"),
        ((Rule(), float("nan")), "learning_rate must be a finite number >= 0, got nan"),
        (("1e-5",), r"rule must be a Rule or .*, got '1e-5'; it is text: write 1.0e-5 \(YAML reads 1e-5 as text"),
        ((Rule(), "1e-5"), r"learning_rate must be .* got '1e-5'; it is text: write 1.0e-5 \(YAML"),
        ((Rule(), "0.1"), "learning_rate must be a finite number >= 0, got '0.1'"),
        ((Rule(), np.ones(2)), r"learning_rate must be a real scalar, got shape \(2,\) float64; jax.vmap runs over"),
        ((Rule(), np.array(1j)), r"learning_rate must be a real scalar, got shape \(\) complex128"),
        ((Rule(), np.array(True)), r"learning_rate must be a real scalar, got shape \(\) bool"),
    ],
)
def test_unusable_arguments_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        rmsprop.jax.rmsprop(*arguments)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_named() -> None:
    optimizer = rmsprop.jax.rmsprop(Rule())
    params = {"w": jnp.ones((2, 3))}
    state = optimizer.init(params)
    fits = r"^the gradient of params\['w'\] must be like its state, \(2, 3\) float32, got "
    with pytest.raises(InputError, match=fits + r"\(3,\) float32; was init called with these params\?$"):
        optimizer.update({"w": jnp.ones(3)}, state)
    with pytest.raises(InputError, match=fits + r"\(2, 3\) complex64"):
        optimizer.update({"w": jnp.ones((2, 3)) * 1j}, state)
    decaying = rmsprop.jax.rmsprop(Rule(weight_decay=0.1))
    with pytest.raises(InputError, match=r"^params\['w'\] must be like its state, \(2, 3\) float32, got \(4, 2, 3\) "):
        decaying.update(params, decaying.init(params), {"w": jnp.ones((4, 2, 3))})
    with pytest.raises(
        InputError, match=r"^the dtype of params\['n'\] must be floating or complex, got int32; exclude"
    ):
        optimizer.init({"n": jnp.arange(3)})
    with pytest.raises(InputError, match=r"^learning_rate must be a real scalar, got shape \(2,\)"):
        rmsprop.jax.rmsprop(Rule(), lambda step: jnp.ones(2)).update(params, state)
    for decoupled in (False, True):
        decaying = rmsprop.jax.rmsprop(Rule(weight_decay=0.1, decoupled_weight_decay=decoupled))
        with pytest.raises(InputError, match=r"^params must be given with weight decay, got none; update\(grads, "):
            decaying.update(params, state)
    with pytest.raises(ValueError, match="'w'"):  # JAX names the difference between trees
        optimizer.update({"other": jnp.ones((2, 3))}, state)


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_a_missing_framework_is_one_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import rmsprop.jax"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ModuleNotFoundError: rmsprop.jax needs JAX and optax: pip install 'rmsprop[jax]'"
