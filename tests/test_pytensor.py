"""rmsprop.pytensor.updates: equal to the rule, and with the profile lasagne to pymc.rmsprop."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cases
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits

from rmsprop import InputError, Rule, State, init, profile, update
from rmsprop.pytensor import FIELDS, updates
from rmsprop.rule import AVERAGES

Array = NDArray[Any]
EPS = float(np.finfo(np.float32).eps)
RULES = cases.having(FIELDS)
# Needs no C compiler and caches nothing. PyMC also compiles functions itself.
MODE = "FAST_COMPILE"


@pytest.fixture(autouse=True)
def without_compiler() -> Iterator[None]:
    with pytensor.config.change_flags(mode=MODE, cxx=""):
        yield


@pytest.fixture(scope="module")
def pymc() -> Any:
    with pytensor.config.change_flags(mode=MODE, cxx=""):
        return pytest.importorskip("pymc")


def training(
    rule: Rule, start: list[Array], learning_rate: Any = None
) -> tuple[list[Any], dict[str, Any], Callable[..., None]]:
    """Return shared parameters, their states by name, and a function that steps with given gradients."""
    params = [pytensor.shared(x, name=f"part{i}") for i, x in enumerate(start)]
    grads = [p.type(f"grad{i}") for i, p in enumerate(params)]
    made = updates(grads, params, rule, learning_rate)
    step = pytensor.function(grads, updates=made, mode=MODE)
    return params, {key.name: key for key in made if key not in params}, step


def cut(x: Array) -> list[Array]:
    return [x[:6].reshape(3, 2), x[6:30].reshape(2, 3, 4), x[30:]]


# -- equal to the rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_variant_equals_the_rule(rule: Rule) -> None:
    """Compare parameters and all state after every step, in float64, while the rate changes."""
    start, gradients = cases.problem(np.float64)
    rate = pytensor.shared(0.0)
    params, states, step = training(rule, cut(start), rate)
    expected = [(p, init(rule, p)) for p in cut(start)]
    for t, g in enumerate(map(cut, gradients), start=1):
        rate.set_value(cases.lr_at(t))
        step(*g)
        current = dataclasses.replace(rule, lr=cases.lr_at(t))
        expected = [update(current, p, x, s) for (p, s), x in zip(expected, g, strict=True)]
        for i, (value, state) in enumerate(expected):
            np.testing.assert_allclose(params[i].get_value(), value, rtol=1e-11, atol=1e-13)
            for name in AVERAGES:
                if getattr(state, name) is None:
                    assert f"part{i}_{name}" not in states
                else:
                    mine = states[f"part{i}_{name}"].get_value()
                    np.testing.assert_allclose(mine, getattr(state, name), rtol=1e-12, atol=1e-14)
            if rule.bias_correction:
                assert states["step"].get_value() == t
    assert ("step" in states) == rule.bias_correction


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_float32_is_within_a_few_units_in_the_last_place_of_the_rule(rule: Rule) -> None:
    """Each step starts from the rule's own state: errors cannot add up or cancel."""
    value, gradients = cases.problem(np.float32)
    (param,), states, step = training(rule, [value])
    state = init(rule, value)
    for g in gradients:
        before, old = value, state
        value, state = update(rule, value, g, state)
        step(g)
        size = np.abs(before) + np.abs(value - before) + cases.moment_size(rule, old, state, g)
        assert param.get_value().dtype == np.float32
        assert np.all(np.abs(param.get_value() - value) <= 8 * EPS * size * lost(rule, state) + 1e-12)
        # g + λ·p also loses digits where the two almost cancel.
        terms = np.square(np.abs(g) + rule.weight_decay * np.abs(before))
        difference = np.abs(states["part0_square_avg"].get_value() - state.square_avg)
        assert np.all(difference <= 4 * EPS * (state.square_avg + (1 - rule.decay) * terms))
        param.set_value(value)
        for name in AVERAGES:
            if getattr(state, name) is not None:
                states[f"part0_{name}"].set_value(getattr(state, name))


def lost(rule: Rule, state: State) -> Array | float:
    """Return how much s magnifies errors of v and m: the subtraction loses the digits that its terms share."""
    if state.grad_avg is None and not (rule.bias_correction and rule.initial_square_avg):
        return 1.0
    v = state.square_avg if state.max_square_avg is None else state.max_square_avg
    power = rule.decay**state.step if rule.bias_correction else 0.0
    m = 0.0 if state.grad_avg is None else state.grad_avg / (1 - power)
    s = (v - power * rule.initial_square_avg) / (1 - power) - m * m
    magnified: Array = np.minimum(1 + v / (1 - power) / np.maximum(np.abs(s), 1e-30), 1 / (4 * EPS))
    return magnified * (1e3 if rule.bias_correction else 1)


@pytest.mark.parametrize("name", ["plain", "decoupled", "TensorFlow 1", "all of it", "everything of Adam"])
def test_float16_is_the_float32_rule_rounded_once(name: str) -> None:
    rule = RULES[name]
    start, gradients = cases.problem(np.float16)
    (param,), states, step = training(rule, [start])
    state = init(rule, start.astype(np.float32))
    for g in gradients[:4]:
        before = param.get_value()
        step(g)
        value, state = update(rule, before.astype(np.float32), g.astype(np.float32), state)
        # A value halfway between two half numbers may round either way: hence one unit of the half dtype.
        np.testing.assert_allclose(param.get_value().astype(np.float32), value, rtol=2**-10, atol=1e-6)
        assert param.get_value().dtype == np.float16
    assert {str(s.type.dtype) for n, s in states.items() if n != "step"} == {"float32"}


@pytest.mark.slow
@given(
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    rule=cases.rules(moments=True),
    gradients=cases.gradients(),
)
@settings(max_examples=20)
def test_finite_gradients_give_finite_parameters(dtype: str, rule: Rule, gradients: list[float]) -> None:
    # In half precision the steps must be finite, too: at the floor of the variance they are 1e3 times lr or more.
    half = dtype == "float16"
    rule = dataclasses.replace(rule, lr=1e-6) if half else rule
    (param,), states, step = training(rule, [np.ones(2, dtype)])
    with np.errstate(all="ignore"):
        for x in gradients:
            step(np.full(2, min(max(x, -6e4), 6e4) if half else x, dtype))
            assert all(np.isfinite(s.get_value()).all() for s in [param, *states.values()])


@pytest.mark.parametrize("decay", [0.004, 30.0, 290.0, 400.0, 1e6])
def test_a_schedule_of_any_length_compiles(decay: float) -> None:
    """PyTensor joins sums with subnormal factors, and without a compiler adds at most 32 numbers at once."""
    rule = dataclasses.replace(RULES["NAdam, schedule"], momentum_decay=decay)
    (param,), _, step = training(rule, [np.ones(2)])
    step(np.ones(2))
    np.testing.assert_allclose(param.get_value(), update(rule, np.ones(2), np.ones(2), init(rule, np.ones(2)))[0])


@pytest.mark.parametrize("name", ["Adam", "NAdam, schedule"])
def test_the_weights_of_the_moment_do_not_depend_on_floatx(name: str) -> None:
    """PyTensor rounds Python's numbers to floatX."""
    rule, g = RULES[name], np.array([1e-3, 1.0, -1e3])
    with pytensor.config.change_flags(floatX="float32"):
        (param,), _, step = training(rule, [np.zeros(3)])
        step(g)
    value, _ = update(rule, np.zeros(3), g, init(rule, np.zeros(3)))
    np.testing.assert_allclose(param.get_value(), value, rtol=1e-14)


@pytest.mark.parametrize("bias_correction", [False, True])
def test_without_momentum_it_does_not_matter_where_momentum_would_act(bias_correction: bool) -> None:
    start, gradients = cases.problem(np.float32)
    found = []
    for first_moment in (False, True):
        rule = dataclasses.replace(cases.PLAIN, bias_correction=bias_correction, first_moment=first_moment)
        (param,), states, step = training(rule, [start])
        for g in gradients:
            step(g)
        found.append([param.get_value(), *(x.get_value() for x in states.values())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bias_correction_is_accurate_in_float32_for_a_long_average() -> None:
    (param,), _, step = training(Rule(lr=0.5, decay=1 - 1e-6, eps=0.0, bias_correction=True), [np.zeros(3, np.float32)])
    step(np.array([1e-3, 1.0, -1e3], np.float32))
    np.testing.assert_allclose(param.get_value(), [-0.5, -0.5, 0.5], rtol=4 * EPS)


# -- PyMC -------------------------------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "eps outside the root": {"eps_inside_sqrt": False},
    "v0": {"initial_square_avg": 1.0},
    "decay 1 % up": {"decay": 0.909},
    "decay 1 % down": {"decay": 0.891},
}


def trajectory(make: Callable[..., Any], steps: int) -> Array:
    """Return the parameter after every step; the rate drops to a tenth half-way."""
    generator = np.random.default_rng(0)
    rate, param = pytensor.shared(0.01), pytensor.shared(generator.standard_normal(20))
    grad, path = pt.dvector(), []
    step = pytensor.function([grad], updates=make([grad], [param], learning_rate=rate), mode=MODE)
    for t in range(steps):
        rate.set_value(0.01 if t < steps // 2 else 0.001)
        step(generator.standard_normal(20) * np.logspace(-5, 1, 20))
        path.append(param.get_value())
    return np.array(path)


def test_a_thousand_steps_are_those_of_pymc(pymc: Any) -> None:
    """Parameters end hundreds of steps from their start. A change of the rule shows in the fifth digit."""
    theirs = trajectory(pymc.rmsprop, 1000)
    np.testing.assert_allclose(trajectory(updates_like(), 1000), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_rule_that_is_not_that_of_pymc_is_noticed(pymc: Any, change: dict[str, Any]) -> None:
    assert np.max(np.abs(trajectory(updates_like(**change), 50) - trajectory(pymc.rmsprop, 50))) > 1e-5


ADAM = Rule(decay=0.999, eps=0.0, momentum=0.9, first_moment=True, bias_correction=True)
NOT_ADAM: dict[str, dict[str, Any]] = {
    "eps": {"eps": 1e-5},
    "decay 1 % down": {"decay": 0.98901},
    "momentum 1 % down": {"momentum": 0.891},
    "momentum after the division": {"first_moment": False},
    "no bias correction": {"bias_correction": False},
    "the maximum": {"amsgrad": True},
}


def adam_of(pymc: Any) -> Callable[..., Any]:
    """Return pymc.adam with ε = 0: it adds ε to √v, this package to √v̂."""
    return partial(pymc.adam, epsilon=0.0)


def test_a_thousand_steps_are_those_of_adam_in_pymc(pymc: Any) -> None:
    mine = trajectory(partial(updates, rule=ADAM), 1000)
    np.testing.assert_allclose(mine, trajectory(adam_of(pymc), 1000), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("change", NOT_ADAM.values(), ids=NOT_ADAM)
def test_a_rule_that_is_not_adam_is_noticed(pymc: Any, change: dict[str, Any]) -> None:
    mine = trajectory(partial(updates, rule=dataclasses.replace(ADAM, **change)), 50)
    assert np.max(np.abs(mine - trajectory(adam_of(pymc), 50))) > 1e-6


def updates_like(**change: Any) -> Callable[..., Any]:
    optimizer = updates(rule=profile("lasagne", **change))
    assert callable(optimizer)
    return optimizer


def test_pymc_fits_a_model_with_it_as_with_its_own(pymc: Any) -> None:
    """Variational inference of a mean: the same numbers with the same seed, close to the exact posterior."""
    data = np.random.default_rng(0).normal(3.0, 1.0, 50)
    results = []
    for optimizer in (
        updates(rule=profile("lasagne", lr=0.1, rho=0.8, epsilon=1e-3)),
        pymc.rmsprop(learning_rate=0.1, rho=0.8, epsilon=1e-3),
        updates(rule=profile("lasagne", lr=0.1, rho=0.8, epsilon=1e-3, momentum=0.9)),
    ):
        with pymc.Model():
            mean = pymc.Normal("mean", 0.0, 10.0)
            pymc.Normal("seen", mean, 1.0, observed=data)
            approximation = pymc.fit(60, obj_optimizer=optimizer, progressbar=False, random_seed=1)
        results.append((approximation.hist, approximation.mean.eval()))
    (history, own), (their_history, theirs), (other, _) = results
    np.testing.assert_allclose(history, their_history, rtol=1e-9)
    np.testing.assert_allclose(own, theirs, rtol=1e-9)
    assert not np.allclose(history, other, rtol=1e-3)
    assert abs(own[0] - data.mean()) < 0.1


# -- use --------------------------------------------------------------------------------------------------------------


def test_a_classifier_learns_digits() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    generator = np.random.default_rng(0)
    sizes = [(64, 32), (32, 10)]
    weights = [pytensor.shared((generator.standard_normal(s) * 0.2).astype(np.float32), name="w") for s in sizes]
    biases = [pytensor.shared(np.zeros(s[1], np.float32), name="b") for s in sizes]
    inputs, labels = pt.fmatrix(), pt.lvector()
    hidden = pt.maximum(inputs @ weights[0] + biases[0], 0)
    logits = hidden @ weights[1] + biases[1]
    chances = pt.special.log_softmax(logits, axis=1)
    loss = -chances[pt.arange(labels.shape[0]), labels].mean()
    rule = Rule(lr=5e-3, decay=0.9, momentum=0.5, nesterov=True)
    made = updates(loss, [*weights, *biases], rule)
    assert all(value.type.dtype == key.type.dtype == "float32" for key, value in made.items())
    step = pytensor.function([inputs, labels], loss, updates=made, mode=MODE)
    losses = [float(step(x[i : i + 128], y[i : i + 128])) for _ in range(4) for i in range(0, 1280, 128)]
    right = pytensor.function([inputs, labels], pt.eq(logits.argmax(axis=1), labels).mean(), mode=MODE)
    assert losses[-1] < 0.2 < 2 < losses[0]
    assert right(x[1280:], y[1280:]) > 0.85


def test_the_optimized_graph_gives_the_same_numbers() -> None:
    """Under every rewrite that PyTensor has, still without a compiler."""
    start, gradients = cases.problem(np.float64)
    mode = pytensor.compile.mode.Mode(linker="py", optimizer="fast_run")
    for rule in (cases.RULES["all of it"], cases.RULES["no eps"]):
        param, grad = pytensor.shared(start), pt.dvector()
        step = pytensor.function([grad], updates=updates([grad], [param], rule), mode=mode)
        value, state = start, init(rule, start)
        for g in gradients:
            step(g)
            value, state = update(rule, value, g, state)
            np.testing.assert_allclose(param.get_value(), value, rtol=1e-11, atol=1e-13)


def test_a_parameter_keeps_its_dtype_and_shape_whatever_the_rate_and_the_gradient_are() -> None:
    row = pytensor.shared(np.ones((1, 3), np.float32), name="row", shape=(1, None))
    grad = pt.dmatrix()
    for rate in (0.1, np.float64(0.1), pytensor.shared(0.1), pytensor.shared(np.float32(0.1)), pt.constant(1) / 10):
        made = updates([grad], [row], Rule(eps=0.0), rate)
        assert [key.name for key in made] == ["row_square_avg", "row"]
        assert all(key.type == row.type for key in made)
        row.set_value(np.ones((1, 3), np.float32))
        pytensor.function([grad], updates=made, mode=MODE)(np.array([[2.0, 0.0, -5.0]]))
        np.testing.assert_allclose(row.get_value(), [[0.0, 1.0, 2.0]], atol=2e-7)
        assert row.get_value().dtype == np.float32


def test_a_shared_learning_rate_replaces_that_of_the_rule() -> None:
    scalar, grad = pytensor.shared(np.float64(1.0)), pt.dscalar()
    rate = pytensor.shared(0.5)
    step = pytensor.function([grad], updates=updates([grad], [scalar], Rule(decay=0.0, eps=0.0), rate), mode=MODE)
    for now, value in ((0.5, 0.5), (0.25, 0.25)):
        rate.set_value(now)
        step(3.0)
        assert scalar.get_value() == value


@pytest.mark.parametrize("optimizer", ["fast_compile", "fast_run"])
@pytest.mark.parametrize(("shape", "wrong"), [((4, 3), (4, 1)), ((1, 3), (4, 3)), ((4, 3), (4, 2))])
def test_a_gradient_that_turns_out_to_have_another_shape_stops_the_step(
    optimizer: str, shape: tuple[int, int], wrong: tuple[int, int]
) -> None:
    param, grad = pytensor.shared(np.ones(shape)), pt.dmatrix()
    mode = pytensor.compile.mode.Mode(linker="py", optimizer=optimizer)
    step = pytensor.function([grad], updates=updates([grad * 2], [param]), mode=mode)
    with pytest.raises(AssertionError, match=rf"Got shape {re.escape(str(wrong))}, expected {re.escape(str(shape))}"):
        step(np.ones(wrong))
    assert np.all(param.get_value() == 1)
    step(np.ones(shape))
    assert np.all(param.get_value() < 1)


def test_unusable_input_is_named() -> None:
    param, other = pytensor.shared(np.ones(2), name="w"), pytensor.shared(np.ones(2, np.int64), name="n")
    wide, sparse = pytensor.shared(np.ones((4, 3))), pytensor.shared(csr_matrix(np.eye(3)))
    grad, loss = pt.dvector(), (param**2).sum()
    for arguments, message in (
        ((loss, None), r"params must be given with loss_or_grads, got none; omit both"),
        ((None, [param]), r"loss_or_grads must be given with params, got none"),
        ((loss, [pt.dvector()]), r"params\[0\] must be a dense shared variable of dtype float16 or float32 or float64"),
        (([pt.dmatrix()], [sparse]), r"params\[0\] must be a dense shared variable .*, got one of type Sparse"),
        (([grad, grad], [param, other]), r"params\[1\] must be a dense shared variable .* one of type Vector\(int64"),
        (
            ([grad, grad], [param, param]),
            r"params\[1\] must be a parameter that occurs once, got w; remove the duplicate",
        ),
        (([grad], [param, pytensor.shared(1.0)]), r"loss_or_grads must be 2 gradients, .*, got 1; "),
        (([grad.sum()], [param]), r"the shape of loss_or_grads\[0\] must be \(2,\), got \(\); reshape the gradient"),
        (([pt.vector(shape=(3,))], [param]), r"the shape of loss_or_grads\[0\] must be \(2,\), got \(3,\)"),
        (([pt.col()], [wide]), r"the shape of loss_or_grads\[0\] must be \(4, 3\), got \(None, 1\)"),
        ((grad, [param]), r"loss_or_grads must be a symbolic scalar or a list of gradients, got one of type Vector"),
        ((1.5, [param]), r"loss_or_grads must be a symbolic scalar or a list of gradients, got one of type float"),
        ((loss, [param], "lasagne"), r"rule must be a rmsprop.Rule, got 'lasagne'; say Rule"),
        ((loss, [param], Rule(), -1.0), r"learning_rate must be a finite number >= 0, got -1.0; 1e-4 to 1e-2 is usual"),
        ((loss, [param], Rule(), grad), r"learning_rate must be a number or a symbolic scalar, got one of type Vector"),
        ((None, None, Rule(), "fast"), r"learning_rate must be a finite number >= 0, got 'fast'"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            updates(*arguments)


def test_without_pytensor_one_line_says_what_to_install() -> None:
    program = "import sys; sys.modules['pytensor'] = None; import rmsprop.pytensor"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: rmsprop.pytensor needs PyTensor: pip install 'rmsprop[pytensor]'"
