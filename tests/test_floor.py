"""E5's floors in float32: where rounding could make a denominator anything, the floors decide, on every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cases
import jax
import numpy as np
import pytensor
import pytest
import torch
from numpy.typing import NDArray

import rmsprop.jax
from rmsprop import Rule, State, init, update
from rmsprop.pytensor import updates
from rmsprop.rule import denominator
from rmsprop.torch import RMSprop

Array = NDArray[np.float32]
KAPPA = 2.0**-21  # of float32
HARD = Rule(lr=1e-3, centered=True, bias_correction=True, initial_square_avg=1.0)
SUBTRACTING = {
    "centered, bias correction, v₀": HARD,
    "bias correction, v₀": dataclasses.replace(HARD, centered=False),
    "centered, bias correction": dataclasses.replace(HARD, initial_square_avg=0.0),
    "centered, v₀": dataclasses.replace(HARD, bias_correction=False),
    "centered": dataclasses.replace(HARD, bias_correction=False, initial_square_avg=0.0),
}
# Relative change that rounding may cause in steps. All others agree to a hundredth.
FAR = {"centered, bias correction, v₀": 0.5, "bias correction, v₀": 0.4}


def gradients(size: int = 80, steps: int = 12) -> list[Array]:
    """Return gradients from far below the rounding noise of v₀ = 1 to far above it; a third are constant."""
    generator = np.random.default_rng(0)
    scale, constant = np.logspace(-6, 1, size), np.arange(size) % 3 == 0
    return [(np.where(constant, 1, generator.standard_normal(size)) * scale).astype(np.float32) for _ in range(steps)]


def apart(steps: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest relative error of steps."""
    return float(np.max(np.abs(steps - expected) / np.abs(expected)))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", SUBTRACTING)
def test_float32_divides_by_what_fifty_digits_give(name: str, decay: float, inside: bool) -> None:
    """A floor of κ·s would leave noise in place of v₀: steps up to 1400 times too long."""
    rule = dataclasses.replace(SUBTRACTING[name], decay=decay, eps_inside_sqrt=inside)
    given = gradients()
    param, state, found = np.zeros(80, np.float32), init(rule, np.zeros(80, np.float32)), []
    for g in given:
        param, state = update(rule, param, g, state)
        d = denominator(rule, state)
        found.append(rule.lr * g.astype(float) / d)
    for i in range(80):
        path = cases.oracle(rule, 0.0, [float(g[i]) for g in given], kappa=KAPPA, lr=lambda _: rule.lr)
        expected = -np.diff([0.0, *(row[0] for row in path)])
        assert apart(np.array(found)[:, i], expected) < FAR.get(name, 0.01)


@pytest.mark.parametrize(("decay", "shortest", "longest"), [(0.9, 0.9, 2.8), (0.99, 0.2, 1.1), (0.999, 0.06, 1.1)])
def test_roundings_that_add_up_change_the_length_of_steps_by_a_bounded_factor(
    decay: float, shortest: float, longest: float
) -> None:
    """Run until v has forgotten v₀; compare with the same floors and float64 averages."""
    rule, generator, size = (
        dataclasses.replace(HARD, decay=decay, eps=0.0),
        np.random.default_rng(0),
        np.logspace(-5, 0),
    )
    v, m = np.ones(50, np.float32), np.zeros(50, np.float32)
    exact_v, exact_m = np.ones(50), np.zeros(50)
    for t in range(1, round(8 / (1 - decay))):
        g = (generator.standard_normal(50) * size).astype(np.float32)
        v, m = decay * v + (1 - decay) * g * g, m + (1 - decay) * (g - m)
        exact_v += (1 - decay) * (g.astype(float) ** 2 - exact_v)
        exact_m += (1 - decay) * (g - exact_m)
        weight = 1 - decay**t
        s = np.maximum(exact_v - decay**t, KAPPA * exact_v) / weight
        s = np.maximum(s - (exact_m / weight) ** 2, KAPPA * exact_v / weight)
        length = np.sqrt(s) / denominator(rule, State(t, v, m))
        assert np.all((length > shortest) & (length < longest))


def by_torch(**options: Any) -> Callable[[Rule, list[Array]], list[Array]]:
    def run(rule: Rule, given: list[Array]) -> list[Array]:
        p, steps = torch.zeros(80), []
        optimizer = RMSprop.from_rule([p], rule, **options)
        for g in given:
            p.zero_()
            p.grad = torch.from_numpy(g)
            optimizer.step()
            steps.append(-p.numpy().copy())
        return steps

    return run


def by_jax(rule: Rule, given: list[Array]) -> list[Array]:
    optimizer, steps = rmsprop.jax.rmsprop(rule), []
    state, step = optimizer.init(jax.numpy.zeros(80)), jax.jit(optimizer.update)
    for g in given:
        change, state = step(g, state)
        steps.append(-np.asarray(change))
    return steps


def by_pytensor(rule: Rule, given: list[Array]) -> list[Array]:
    with pytensor.config.change_flags(cxx=""):
        p, g, steps = pytensor.shared(np.zeros(80, np.float32)), pytensor.tensor.fvector(), []
        step = pytensor.function([g], updates=updates([g], [p], rule), mode="FAST_COMPILE")
        for x in given:
            p.set_value(np.zeros(80, np.float32))
            step(x)
            steps.append(-p.get_value())
    return steps


ENGINES = {
    "kernel": by_torch(fused=True),
    "tensor operations": by_torch(fused=False),
    "foreach": by_torch(foreach=True),
    "JAX": by_jax,
    "PyTensor": by_pytensor,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [name for name in SUBTRACTING if name in FAR])
def test_engines_agree_where_rounding_decides(name: str, engine: str) -> None:
    """One unit in the last place of v may make a step of 1e-7 in one engine and of 0.9 in another."""
    rule, given = SUBTRACTING[name], gradients()
    state = init(rule, np.zeros(80, np.float32))
    for g, found in zip(given, ENGINES[engine](rule, given), strict=True):
        param, state = update(rule, np.zeros(80, np.float32), g, state)
        if engine == "kernel":
            np.testing.assert_array_equal(-found, param)
        assert apart(found, -param) < FAR[name]


def test_the_variance_keeps_the_floor_of_v_by_hand() -> None:
    # β = 0.5, v₀ = 1, g = 2⁻¹²: v = 0.5 + 2⁻²⁵, which float32 rounds to 0.5; s = 0 before the floors, v̂ = 1.
    rule = dataclasses.replace(HARD, lr=1.0, decay=0.5, eps=0.0)
    zero = np.zeros(1, np.float32)
    param, _ = update(rule, zero, np.full(1, 2.0**-12, np.float32), init(rule, zero))
    assert param[0] == pytest.approx(-(2.0**-12) / 2.0**-10.5)


def test_where_nothing_was_subtracted_no_bit_changes() -> None:
    """Without v₀, κ·v̂ is κ·s: the floor is that of the variance itself."""
    for decay in (0.9, 0.99):
        v, m = (np.array(x, np.float32) for x in ([1e-30, 1e-8, 1.0, 3.0], [1e-15, 1e-4, 1.0, 1.0]))
        rule = Rule(decay=decay, eps=0.0, centered=True, bias_correction=True)
        weight = 1 - decay**3
        s = np.maximum(v / weight - (m / weight) ** 2, KAPPA * (v / weight))
        np.testing.assert_array_equal(denominator(rule, State(3, v, m)), np.sqrt(s.astype(np.float32)))
