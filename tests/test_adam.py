"""Adam's family as variants of the rule: torch's own classes, the identities, and AMSGrad's counterexample."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import cases
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rmsprop import Rule, State, init, update
from rmsprop.rule import moment_weights
from rmsprop.torch import RMSprop

Array = NDArray[Any]
Path = dict[str, Array]  # parameters and averages after each step
STEPS, CUT, SIZE = 1000, 500, 24  # the rate falls to a tenth after step CUT
NAMES = {
    "exp_avg": "momentum_buffer",
    "exp_avg_sq": "square_avg",
    "max_exp_avg_sq": "max_square_avg",
}


class Case(NamedTuple):
    """A class of torch with its arguments, and the rule that it is."""

    cls: Callable[..., torch.optim.Optimizer]
    arguments: dict[str, Any]
    rule: Rule


# No value is a default. eps is large enough to matter.
SEEN: dict[str, Any] = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 0.02}
ADAM = Rule(0.03, 0.95, 0.02, 0.8, first_moment=True, bias_correction=True)
NADAM = dataclasses.replace(ADAM, nesterov=True, momentum_decay=0.04)
L2 = dataclasses.replace(ADAM, weight_decay=0.3)
DECOUPLED = dataclasses.replace(L2, decoupled_weight_decay=True)
CASES = {
    "Adam": Case(torch.optim.Adam, SEEN, ADAM),
    "Adam, defaults": Case(
        torch.optim.Adam, {}, Rule(1e-3, 0.999, 1e-8, 0.9, first_moment=True, bias_correction=True)
    ),
    "Adam, L2": Case(torch.optim.Adam, {**SEEN, "weight_decay": 0.3}, L2),
    "Adam, maximize": Case(
        torch.optim.Adam, {**SEEN, "weight_decay": 0.3, "maximize": True}, dataclasses.replace(L2, maximize=True)
    ),
    "Adam, β₁ = 0": Case(torch.optim.Adam, {**SEEN, "betas": (0.0, 0.95)}, dataclasses.replace(ADAM, momentum=0)),
    "AdamW": Case(torch.optim.AdamW, {**SEEN, "weight_decay": 0.3}, DECOUPLED),
    "AMSGrad": Case(torch.optim.Adam, {**SEEN, "amsgrad": True}, dataclasses.replace(ADAM, amsgrad=True)),
    "AMSGrad, decoupled": Case(
        torch.optim.AdamW, {**SEEN, "weight_decay": 0.3, "amsgrad": True}, dataclasses.replace(DECOUPLED, amsgrad=True)
    ),
    "NAdam": Case(torch.optim.NAdam, {**SEEN, "momentum_decay": 0.04}, NADAM),
    "NAdam, defaults": Case(
        torch.optim.NAdam, {},
        Rule(2e-3, 0.999, 1e-8, 0.9, first_moment=True, nesterov=True, bias_correction=True, momentum_decay=4e-3),
    ),
    "NAdam, L2, maximize": Case(
        torch.optim.NAdam, {**SEEN, "momentum_decay": 0.04, "weight_decay": 0.3, "maximize": True},
        dataclasses.replace(NADAM, weight_decay=0.3, maximize=True),
    ),
    "NAdam, decoupled": Case(
        torch.optim.NAdam, {**SEEN, "momentum_decay": 0.04, "weight_decay": 0.3, "decoupled_weight_decay": True},
        dataclasses.replace(NADAM, weight_decay=0.3, decoupled_weight_decay=True),
    ),
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "by default": {},
    "tensor operations": {"fused": False},
    "foreach": {"foreach": True},
    "counters on the device": {"capturable": True},
}

_generator = np.random.default_rng(1412)
_SCALE = np.logspace(-3, 2, SIZE)
_TARGET, START = _generator.standard_normal((2, SIZE))
_NOISE = _generator.standard_normal((STEPS, SIZE))
_PRESENT = _generator.random((STEPS, SIZE)) >= 0.1


def gradient(params: Array, step: int) -> Array:
    """Return the gradient of a noisy quadratic: an error in the parameters changes all later gradients."""
    value: Array = _SCALE * _PRESENT[step - 1] * ((params - _TARGET) / 2 + _NOISE[step - 1])
    return value


def lr_at(rule: Rule, step: int) -> float:
    return rule.lr if step <= CUT else rule.lr / 10


@pytest.fixture(autouse=True)
def _doubles() -> Iterator[None]:
    """Let torch.optim.NAdam keep its product of momenta in double: it takes the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def in_torch(optimizer: torch.optim.Optimizer, param: torch.Tensor, rule: Rule, names: dict[str, str]) -> Path:
    """Return the run of a torch optimizer; `names` maps names in its state to those of the rule."""
    path: dict[str, list[Array]] = {}
    for t in range(1, STEPS + 1):
        param.grad = torch.from_numpy(gradient(param.numpy(), t))
        optimizer.param_groups[0]["lr"] = lr_at(rule, t)
        optimizer.step()
        state = optimizer.state[param]
        values = {"params": param, **{ours: state[name] for name, ours in names.items() if name in state}}
        for name, value in values.items():
            path.setdefault(name, []).append(value.numpy().copy())
    return {name: np.array(values) for name, values in path.items()}


@functools.cache
def theirs(name: str) -> Path:
    """Return the run of torch's own class."""
    case, param = CASES[name], torch.from_numpy(START.copy())
    return in_torch(case.cls([param], foreach=False, **case.arguments), param, case.rule, NAMES)


def in_numpy(rule: Rule, scheduled: Rule, steps: int = STEPS) -> Path:
    """Return the run of `rule`, with the learning rates of `scheduled`."""
    params, state, path = START, init(rule, START), dict[str, list[Array]]()
    for t in range(1, steps + 1):
        params, state = update(dataclasses.replace(rule, lr=lr_at(scheduled, t)), params, gradient(params, t), state)
        for name, value in {"params": params, **vars(state)}.items():
            if name != "step" and value is not None:
                path.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in path.items()}


def error(found: Path, expected: Path) -> float:
    """Return the largest error, relative to the largest magnitude that each number has had so far."""
    largest = 0.0
    for name, values in expected.items():
        if name in found:
            steps = len(found[name])
            size = np.maximum.accumulate(np.maximum(np.abs(values[:steps]), 1e-30))
            largest = max(largest, float(np.max(np.abs(found[name] - values[:steps]) / size)))
    return largest


# -- torch's own classes ----------------------------------------------------------------------------------------------


def averages(rule: Rule) -> set[str]:
    formed = {"momentum_buffer": rule.momentum, "max_square_avg": rule.amsgrad}
    return {"params", "square_avg", *(name for name, wanted in formed.items() if wanted)}


@pytest.mark.parametrize("name", CASES)
def test_a_thousand_steps_of_the_rule_are_those_of_torch(name: str) -> None:
    rule = CASES[name].rule
    ours = in_numpy(rule, rule)
    assert set(ours) == averages(rule) <= set(theirs(name))
    assert error(ours, theirs(name)) <= 1e-12


def of_ways() -> list[tuple[str, str]]:
    """Pair every case with every way. Counters on the device change only the weights of averages."""
    weighted = ("Adam", "Adam, β₁ = 0", "AMSGrad, decoupled", "NAdam, defaults", "NAdam, decoupled")
    return [(name, way) for name in CASES for way in WAYS if way != "counters on the device" or name in weighted]


@pytest.mark.parametrize(("name", "way"), of_ways())
def test_a_thousand_steps_of_our_optimizer_are_those_of_torch(name: str, way: str) -> None:
    rule, param = CASES[name].rule, torch.from_numpy(START.copy())
    ours = in_torch(RMSprop.from_rule([param], rule, **WAYS[way]), param, rule, {x: x for x in NAMES.values()})
    assert set(ours) == averages(rule)
    assert error(ours, theirs(name)) <= 1e-12


def wrong(rule: Rule) -> dict[str, Rule]:
    """Return copies of a rule with one error each."""

    def but(**changes: Any) -> Rule:
        return dataclasses.replace(rule, **changes)

    errors = {
        "eps inside": but(eps_inside_sqrt=True),
        "eps +1 %": but(eps=1.01 * rule.eps),
        "decay -1 %": but(decay=0.99 * rule.decay),
        "no bias correction": but(bias_correction=False, momentum_decay=0.0),
        "the maximum": but(amsgrad=not rule.amsgrad),
        "maximize": but(maximize=not rule.maximize),
    }
    if 1.01 * rule.decay < 1:
        errors["decay +1 %"] = but(decay=1.01 * rule.decay)
    if rule.momentum:
        errors["momentum after the division"] = but(first_moment=False, momentum_decay=0.0)
        errors["nesterov"] = but(nesterov=not rule.nesterov, momentum_decay=0.0)
        errors |= {f"momentum {x:+} %": but(momentum=rule.momentum * (1 + x / 100)) for x in (-1, 1)}
    if rule.momentum_decay:
        errors |= {f"momentum_decay {x:+} %": but(momentum_decay=rule.momentum_decay * (1 + x / 100)) for x in (-1, 1)}
    if rule.weight_decay:
        errors["weight decay -1 %"] = but(weight_decay=0.99 * rule.weight_decay)
        errors["the other weight decay"] = but(decoupled_weight_decay=not rule.decoupled_weight_decay)
    return errors


@pytest.mark.parametrize("name", CASES)
def test_a_small_error_shows(name: str) -> None:
    """Each error costs more than ten thousand times the tolerance within 200 steps."""
    rule = CASES[name].rule
    for what, other in wrong(rule).items():
        assert error(in_numpy(other, rule, 200), theirs(name)) > 1e-8, what


# -- NAdam's schedule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("psi", [1e-9, 4e-3, 0.7, 1.0, 300.0])
@pytest.mark.parametrize("mu", [0.1, 0.9, 0.999])
def test_the_product_of_momenta_needs_no_memory_of_them(mu: float, psi: float) -> None:
    """a and c of E7 at steps far apart, against the product in fifty digits."""
    rule = Rule(momentum=mu, momentum_decay=psi, first_moment=True, nesterov=True, bias_correction=True)
    with localcontext() as context:
        context.prec = 50
        product, q = Decimal(1), Decimal("0.96") ** Decimal(psi)
        power = q
        for t in range(1, 3001):
            now, power = Decimal(mu) * (1 - power / 2), power * q
            product *= now
            if t in (1, 2, 10, 100, 3000):
                after = Decimal(mu) * (1 - power / 2)
                a, c = moment_weights(rule, t)
                assert a == pytest.approx(float(after / (1 - product * after)), rel=1e-13)
                assert c == pytest.approx(float((1 - now) / (1 - product)), rel=1e-13)


# -- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_without_momentum_it_does_not_matter_where_momentum_would_act(
    dtype: type[np.floating], bias_correction: bool, amsgrad: bool
) -> None:
    """Adam with β₁ = 0 is bias-corrected RMSprop, bit for bit."""
    after = dataclasses.replace(cases.PLAIN, bias_correction=bias_correction, amsgrad=amsgrad)
    before = dataclasses.replace(after, first_moment=True)
    start, gradients = cases.problem(dtype)
    runs = []
    for rule in (after, before):
        param, state = start, init(rule, start)
        for g in gradients:
            param, state = update(rule, param, g, state)
        runs.append((param, state))
    (p, s), (q, r) = runs
    np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(s.square_avg, r.square_avg)
    assert s.momentum_buffer is r.momentum_buffer is None

    for way in WAYS.values():
        tensors = [torch.from_numpy(start.copy()) for _ in runs]
        for x, rule in zip(tensors, (after, before), strict=True):
            optimizer = RMSprop.from_rule([x], rule, **way)
            for g in gradients:
                x.grad = torch.from_numpy(g)
                optimizer.step()
            assert "momentum_buffer" not in optimizer.state[x]
        np.testing.assert_array_equal(tensors[0].numpy(), tensors[1].numpy())
        assert not np.array_equal(tensors[0].numpy(), start)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_first_step_of_adam_is_that_of_bias_corrected_rmsprop(nesterov: bool) -> None:
    """m̂ = g at step 1 whatever μ, so every element moves by η·g/(|g| + ε); NAdam adds what it looks ahead."""
    start, (g, *_) = cases.problem(np.float64)
    rmsprop = dataclasses.replace(cases.PLAIN, bias_correction=True)
    expected, _ = update(rmsprop, start, g, init(rmsprop, start))
    for mu in (0.5, 0.9, 0.999):
        rule = dataclasses.replace(rmsprop, momentum=mu, first_moment=True, nesterov=nesterov)
        # Nesterov: a·b + c·g = μ·(1−μ)/(1−μ²)·g + (1−μ)/(1−μ)·g.
        longer = 1 + mu / (1 + mu) if nesterov else 1.0
        param, _ = update(rule, start, g, init(rule, start))
        np.testing.assert_allclose(param - start, longer * (expected - start), rtol=1e-12)


def test_under_a_constant_gradient_both_places_of_momentum_end_alike_up_to_its_sum() -> None:
    """After the division momentum sums 1/(1−μ) updates; before it, it averages: the steps end 1/(1−μ) times apart."""
    steps = {}
    for first_moment in (False, True):
        rule = Rule(lr=0.1, decay=0.9, eps=0.02, momentum=0.75, first_moment=first_moment)
        param, state = np.zeros(3), init(rule, np.zeros(3))
        for _ in range(400):
            before = param
            param, state = update(rule, param, np.array([1e-2, 1.0, -30.0]), state)
        steps[first_moment] = param - before
    np.testing.assert_allclose(steps[False], steps[True] / (1 - 0.75), rtol=1e-9)


def test_the_maximum_is_that_of_all_averages_so_far() -> None:
    start, gradients = cases.problem(np.float64)
    rule = cases.ALL_RULES["amsgrad, v0, centered"]
    param, state, seen = start, init(rule, start), []
    for g in gradients:
        param, state = update(rule, param, g, state)
        seen.append(state.square_avg)
        assert state.max_square_avg is not None
        np.testing.assert_array_equal(state.max_square_avg, np.max(seen, axis=0))
    assert np.any(state.max_square_avg > state.square_avg)


# -- the counterexample of Reddi, Kale and Kumar ----------------------------------------------------------------------


class Counterexample(NamedTuple):
    """f(x) = large·x once in `period` steps, else −small·x, for x in [−1, 1]: the sum over a period is least at −1."""

    rule: Rule
    large: float
    small: float
    period: int
    steps: int


COUNTEREXAMPLES = {
    # Theorem 1: β₁ = 0, β₂ = 1/(1 + C²), C = 3.
    "RMSprop": Counterexample(Rule(lr=0.5, decay=0.1, eps=1e-8), 3, 1, 3, 3000),
    # Theorem 2: β₁ < √β₂.
    "Adam": Counterexample(
        Rule(lr=0.5, decay=0.5, eps=1e-8, momentum=0.5, first_moment=True, bias_correction=True), 12, 1, 11, 3300
    ),
}


def end_of(example: Counterexample, step: Callable[[Array, Array, float], Array]) -> tuple[float, float]:
    """Return the last x and the average regret over the last period. `step(x, gradient, lr)` returns the next x."""
    x, regret = np.zeros(1), []
    for t in range(1, example.steps + 1):
        slope = example.large if t % example.period == 1 else -example.small
        regret.append(slope * (x[0] + 1))
        x = np.clip(step(x, np.full(1, float(slope)), example.rule.lr / math.sqrt(t)), -1, 1)
    return float(x[0]), float(np.mean(regret[-example.period :]))


def stepper(rule: Rule) -> Callable[[Array, Array, float], Array]:
    state: State = init(rule, np.zeros(1))

    def step(x: Array, g: Array, lr: float) -> Array:
        nonlocal state
        x, state = update(dataclasses.replace(rule, lr=lr), x, g, state)
        return x

    return step


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
def test_the_maximum_repairs_the_counterexample(name: str) -> None:
    """Without the maximum the run goes to the worst point, +1; with it, to the best, −1."""
    example = COUNTEREXAMPLES[name]
    x, regret = end_of(example, stepper(example.rule))
    gain = example.large - (example.period - 1) * example.small  # slope of a period's sum
    assert x > 0.98
    assert regret > 0.98 * 2 * gain / example.period
    x, regret = end_of(example, stepper(dataclasses.replace(example.rule, amsgrad=True)))
    assert x < -0.98
    assert regret < 0.02 * 2 * gain / example.period
