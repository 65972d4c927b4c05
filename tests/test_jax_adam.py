"""rmsprop.jax as Adam, AdamW, NAdam and AMSGrad: equal to optax's own for a thousand steps, and its edges."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.typing import NDArray
from test_jax import CUT, distance, run, trajectory

import rmsprop.jax
from rmsprop import Rule, init, update

# No value is a default. eps is large enough to matter.
ADAM = Rule(0.02, 0.95, 1e-3, 0.8, first_moment=True, bias_correction=True)
NADAM = dataclasses.replace(ADAM, nesterov=True)
AMSGRAD = dataclasses.replace(ADAM, amsgrad=True, bias_correction=False)
DECOUPLED: dict[str, Any] = {"weight_decay": 0.1, "decoupled_weight_decay": True}
NUMBERS: dict[str, Any] = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
UNCORRECTED = {"bias_correction_mu": False, "bias_correction_nu": False}


class Case(NamedTuple):
    """A transformation of optax, and the rule that it is."""

    make: Callable[[], optax.GradientTransformation]
    rule: Rule


def case(make: Callable[..., optax.GradientTransformation], rule: Rule, *before: Any, **arguments: Any) -> Case:
    return Case(lambda: optax.chain(*before, make(CUT, **NUMBERS | arguments)), rule)


CASES = {
    "adam": case(optax.adam, ADAM),
    "adam, defaults": Case(
        lambda: optax.adam(CUT), Rule(0.02, 0.999, 1e-8, 0.9, first_moment=True, bias_correction=True)
    ),
    "adam, eps_root": case(optax.adam, dataclasses.replace(ADAM, eps_inside_sqrt=True), eps=0.0, eps_root=1e-3),
    "adam, L2": case(optax.adam, dataclasses.replace(ADAM, weight_decay=0.1), optax.add_decayed_weights(0.1)),
    "adam, maximize": case(optax.adam, dataclasses.replace(ADAM, maximize=True), optax.scale(-1.0)),
    "adamw": case(optax.adamw, dataclasses.replace(ADAM, **DECOUPLED), weight_decay=0.1),
    "nadam": case(optax.nadam, NADAM),
    "nadamw": case(optax.nadamw, dataclasses.replace(NADAM, **DECOUPLED), weight_decay=0.1),
    "amsgrad, uncorrected": case(optax.amsgrad, AMSGRAD, **UNCORRECTED),
}


@functools.cache
def theirs(name: str) -> NDArray[Any]:
    with jax.enable_x64(True):
        result = trajectory(CASES[name].make())
    assert result.dtype == np.float64
    return result


def ours(rule: Rule) -> NDArray[Any]:
    with jax.enable_x64(True):
        return trajectory(rmsprop.jax.rmsprop(rule, CUT))


@pytest.mark.parametrize("name", CASES)
def test_it_follows_optax_for_1000_steps(name: str) -> None:
    assert distance(ours(CASES[name].rule), theirs(name)) < 1e-12


CHANGES: dict[str, Callable[[Rule], dict[str, Any]]] = {
    "eps elsewhere": lambda rule: {"eps_inside_sqrt": not rule.eps_inside_sqrt},
    "eps 1 % higher": lambda rule: {"eps": rule.eps * 1.01},
    "decay 1 % lower": lambda rule: {"decay": rule.decay * 0.99},
    "decay 1 % higher": lambda rule: {"decay": rule.decay * 1.01},
    "momentum 1 % lower": lambda rule: {"momentum": rule.momentum * 0.99},
    "momentum after the division": lambda rule: {"first_moment": False},
    "the other bias correction": lambda rule: {"bias_correction": not rule.bias_correction},
    "nesterov": lambda rule: {"nesterov": not rule.nesterov},
    "the maximum": lambda rule: {"amsgrad": not rule.amsgrad},
}


@pytest.mark.parametrize("name", ["adam", "nadam", "amsgrad, uncorrected"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_comparison_with_optax_notices_every_change(name: str, change: Callable[[Rule], dict[str, Any]]) -> None:
    rule = CASES[name].rule
    assert distance(ours(dataclasses.replace(rule, **change(rule))), theirs(name)) > 1e-7


def test_a_momentum_schedule_is_not_that_of_optax() -> None:
    assert distance(ours(dataclasses.replace(NADAM, momentum_decay=4e-3)), theirs("nadam")) > 1e-4


def test_the_maximum_of_corrected_averages_is_not_the_corrected_maximum() -> None:
    """With bias correction, optax takes the maximum of v̂. PyTorch, Keras and this package take that of v."""
    with jax.enable_x64(True):
        corrected = trajectory(optax.amsgrad(CUT, **NUMBERS))
    assert distance(ours(dataclasses.replace(AMSGRAD, bias_correction=True)), corrected) > 1e-4


def test_the_averages_are_those_of_optax() -> None:
    value, gradients = cases.problem(np.float64)
    with jax.enable_x64(True):
        _, mine = run(rmsprop.jax.rmsprop(AMSGRAD), jnp.asarray(value), gradients)
        _, (other, *_) = run(optax.amsgrad(0.02, **NUMBERS, **UNCORRECTED), jnp.asarray(value), gradients)
        for name, their_name in {"momentum_buffer": "mu", "square_avg": "nu", "max_square_avg": "nu_max"}.items():
            np.testing.assert_allclose(getattr(mine, name), getattr(other, their_name), rtol=1e-13, atol=1e-15)
    assert int(mine.step) == int(other.count) == cases.STEPS


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_without_momentum_it_does_not_matter_where_momentum_would_act(bias_correction: bool, amsgrad: bool) -> None:
    after = dataclasses.replace(cases.PLAIN, bias_correction=bias_correction, amsgrad=amsgrad)
    before = dataclasses.replace(after, first_moment=True)
    value, gradients = cases.problem(np.float32)
    runs = [run(rmsprop.jax.rmsprop(rule), jnp.asarray(value), gradients) for rule in (after, before)]
    assert runs[1][1].momentum_buffer is None
    for x, y in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_array_equal(x, y)


def test_averages_that_the_state_lacks_start_at_zero() -> None:
    rule = cases.ALL_RULES["everything of Adam"]
    optimizer, params = rmsprop.jax.rmsprop(rule), jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    expected = optimizer.update(params, state, params)
    bare = state._replace(grad_avg=None, momentum_buffer=None, max_square_avg=None)
    for x, y in zip(*map(jax.tree.leaves, (optimizer.update(params, bare, params), expected)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.9999])
@pytest.mark.parametrize("t", [1, 2, 1000])
def test_the_bias_correction_of_the_first_moment_keeps_its_digits_in_float32(
    momentum: float, nesterov: bool, t: int
) -> None:
    """Computed from a power in float32, 1 − 0.9999 has three correct digits."""
    rule = Rule(1.0, 0.999, 0.0, momentum, first_moment=True, bias_correction=True, nesterov=nesterov)
    g = np.array([1e-3, 0.7, 90.0], np.float32)
    state = dataclasses.replace(init(rule, g), step=t - 1, square_avg=0.4 * g * g, momentum_buffer=0.3 * g)
    expected, _ = update(rule, np.zeros_like(g), g, state)
    kept = rmsprop.jax.RMSpropState(
        jnp.int32(t - 1), jnp.asarray(state.square_avg), None, jnp.asarray(state.momentum_buffer)
    )
    updates, _ = jax.jit(rmsprop.jax.rmsprop(rule).update)(jnp.asarray(g), kept)
    np.testing.assert_allclose(updates, expected, rtol=2e-6)


def test_one_step_computes_the_momentum_schedule_once_for_all_parameters() -> None:
    """The schedule takes hundreds of operations; tracing it for each parameter would take seconds."""
    rule = cases.ALL_RULES["NAdam, schedule"]
    counts = []
    for size in (1, 20):
        params = [jnp.ones(2)] * size
        optimizer = rmsprop.jax.rmsprop(rule)
        counts.append(str(jax.make_jaxpr(optimizer.update)(params, optimizer.init(params))).count(" expm1 "))
    assert counts[0] == counts[1] > 60
