"""What rmsprop.keras.RMSprop must do on one backend; test_keras.py runs this file for each, with KERAS_BACKEND."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cases
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from keras import ops
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from rmsprop import InputError, Rule, State, init, profile, update
from rmsprop.hyperparameters import EVERYWHERE, HYPERPARAMETERS
from rmsprop.keras import FIELDS, STATE, RMSprop

Array = NDArray[Any]
BACKEND = keras.backend.backend()
EPS = float(np.finfo(np.float32).eps)
RULES = cases.having(FIELDS.values())
# NumPy warns whenever Keras turns one of its variables into an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
# Without jit_compile, Keras trains eagerly on JAX and PyTorch. Compiling on PyTorch takes half a minute.
EXECUTIONS = {
    "tensorflow": [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}],
    "jax": [{"run_eagerly": True}, {"jit_compile": True}],
    "torch": [{"jit_compile": False}],
}[BACKEND]


@pytest.fixture
def double() -> Iterator[None]:
    """Make float64 the default dtype, also of the learning rate."""
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    if BACKEND == "jax":
        jax.config.update("jax_enable_x64", False)  # type: ignore[no-untyped-call]


def cut(x: Array) -> list[Array]:
    """Return three arrays of different shapes."""
    return [x[:6].reshape(3, 2), x[6:30].reshape(2, 3, 4), x[30:]]


def number(x: Any) -> Array:
    """Return a tensor or variable of any backend as a NumPy array; bfloat16 as float32."""
    x = ops.convert_to_tensor(x)
    return np.asarray(ops.convert_to_numpy(ops.cast(x, "float32") if "bfloat16" in str(x.dtype) else x))


def variables(start: Sequence[Array], dtype: str) -> list[Any]:
    return [keras.Variable(x, dtype=dtype, name=f"part{i}") for i, x in enumerate(start)]


def step(optimizer: Any, parts: list[Any], gradients: Sequence[Array]) -> None:
    optimizer.apply([ops.convert_to_tensor(g, p.dtype) for p, g in zip(parts, gradients, strict=True)], parts)


def stepper(optimizer: Any, parts: list[Any]) -> Callable[[Sequence[Array]], None]:
    """Return `step` as a training loop runs it: compiled on TensorFlow and JAX, which is faster for many steps."""
    optimizer.build(parts)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        graph = tf.function(lambda *tensors: optimizer.apply(tensors, parts))
        return lambda gradients: graph(*[tf.constant(g, p.dtype) for g, p in zip(gradients, parts, strict=True)])
    if BACKEND == "jax":
        import jax

        apply = jax.jit(optimizer.stateless_apply)

        def compiled(gradients: Sequence[Array]) -> None:
            own = optimizer.variables
            new = apply([v.value for v in own], gradients, [p.value for p in parts])
            for variable, value in zip([*parts, *own], [*new[0], *new[1]], strict=True):
                variable.assign(value)

        return compiled
    return lambda gradients: step(optimizer, parts, gradients)


def states(optimizer: RMSprop, rule: Rule, count: int) -> dict[str, list[Any]]:
    """Return the state variables by name, and check that they are in Keras' order."""
    kept = {"square_avg": True, "momentum_buffer": rule.momentum > 0, "grad_avg": rule.centered}
    kept["max_square_avg"] = rule.amsgrad
    names = [name for name in STATE if kept[name]]
    mine = optimizer.variables[2:]
    assert len(mine) == count * len(names)
    blocks = {name: mine[i * count : (i + 1) * count] for i, name in enumerate(names)}
    assert all(v.name.endswith(f"part{i}_{name}") for name, block in blocks.items() for i, v in enumerate(block))
    return blocks


# -- equal to the rule ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_variant_equals_the_rule(rule: Rule) -> None:
    """Compare variables and all state after every step, in float64, while the rate changes."""
    start, gradients = cases.problem(np.float64)
    parts, optimizer = variables(cut(start), "float64"), RMSprop.from_rule(rule)
    expected = [(p, init(rule, p)) for p in cut(start)]
    for t, g in enumerate(map(cut, gradients), start=1):
        optimizer.learning_rate = cases.lr_at(t)
        step(optimizer, parts, g)
        current = dataclasses.replace(rule, lr=cases.lr_at(t))
        assert optimizer.rule() == current
        expected = [update(current, p, x, s) for (p, s), x in zip(expected, g, strict=True)]
        blocks = states(optimizer, rule, len(parts))
        for i, (value, state) in enumerate(expected):
            np.testing.assert_allclose(number(parts[i]), value, rtol=2e-12, atol=1e-13)
            for name, block in blocks.items():
                np.testing.assert_allclose(number(block[i]), getattr(state, name), rtol=1e-12, atol=1e-14)
    assert int(number(optimizer.iterations)) == cases.STEPS


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_float32_is_within_a_few_units_in_the_last_place_of_the_rule(rule: Rule) -> None:
    """Each step starts from the rule's own state: errors cannot add up or cancel."""
    start, gradients = cases.problem(np.float32)
    parts, optimizer = variables(cut(start), "float32"), RMSprop.from_rule(rule)
    expected = [(p, init(rule, p)) for p in cut(start)]
    for t, g in enumerate(map(cut, gradients), start=1):
        optimizer.learning_rate = cases.lr_at(t)
        before, old = zip(*expected, strict=True)
        expected = [update(optimizer.rule(), p, x, s) for (p, s), x in zip(expected, g, strict=True)]
        step(optimizer, parts, g)
        blocks = states(optimizer, rule, len(parts))
        for i, (value, state) in enumerate(expected):
            size = np.abs(before[i]) + np.abs(value - before[i])
            size += cases.moment_size(optimizer.rule(), old[i], state, g[i])
            assert np.all(np.abs(number(parts[i]) - value) <= 8 * EPS * size * lost(rule, state) + 1e-12)
            # g + λ·p also loses digits where the two almost cancel.
            terms = np.square(np.abs(g[i]) + rule.weight_decay * np.abs(before[i]))
            difference = np.abs(number(blocks["square_avg"][i]) - state.square_avg)
            assert np.all(difference <= 4 * EPS * (state.square_avg + (1 - rule.decay) * terms))
            parts[i].assign(value)
            for name, block in blocks.items():
                block[i].assign(getattr(state, name))


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


def test_updates_are_counted_beyond_what_float32_holds() -> None:
    rule, far = Rule(lr=1.0, decay=1 - 2.0**-24, eps=0.0, bias_correction=True), 2**24 - 2
    parts, optimizer = variables([np.zeros(2, np.float32)], "float32"), RMSprop.from_rule(rule)
    optimizer.build(parts)
    optimizer.iterations.assign(far)
    states(optimizer, rule, 1)["square_avg"][0].assign(np.full(2, 0.25, np.float32))
    for t in range(4):
        parts[0].assign(np.zeros(2, np.float32))
        step(optimizer, parts, [np.ones(2, np.float32)])
        assert int(number(optimizer.iterations)) == far + t + 1
        length = np.sqrt(1 - rule.decay ** (far + t + 1)) / 0.5
        np.testing.assert_allclose(number(parts[0]), -length, rtol=1e-5)


@pytest.mark.parametrize("centered", [False, True])
def test_steps_have_their_length_where_v0_is_subtracted_from_tiny_gradients(centered: bool) -> None:
    """Rounding noise decides these steps, and E5's floors bound them; test_floor.py tests the rule's own."""
    rule = Rule(lr=1e-3, centered=centered, bias_correction=True, initial_square_avg=1.0)
    generator, scale = np.random.default_rng(0), np.logspace(-6, 1, 80)
    parts, optimizer = variables([np.zeros(80, np.float32)], "float32"), RMSprop.from_rule(rule)
    state = init(rule, np.zeros(80, np.float32))
    for _ in range(6):
        g = (generator.standard_normal(80) * scale).astype(np.float32)
        parts[0].assign(np.zeros(80, np.float32))
        step(optimizer, parts, [g])
        value, state = update(rule, np.zeros(80, np.float32), g, state)
        assert np.all(np.abs(number(parts[0]) - value) <= 0.5 * np.abs(value))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "decoupled", "TensorFlow 1", "all of it", "everything of Adam"])
def test_half_precision_is_the_float32_rule_rounded_once(dtype: str, name: str) -> None:
    rule = RULES[name]
    start, gradients = cases.problem(np.float32)
    parts, optimizer = variables(cut(start), dtype), RMSprop.from_rule(rule)
    kept = [init(rule, number(p).astype(np.float32)) for p in parts]
    unit = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
    for g in map(cut, gradients[:4]):
        before = [number(p).astype(np.float32) for p in parts]
        rounded = [number(ops.cast(x, dtype)).astype(np.float32) for x in g]
        step(optimizer, parts, rounded)
        for i, p in enumerate(parts):
            value, kept[i] = update(optimizer.rule(), before[i], rounded[i], kept[i])
            # A value halfway between two half numbers may round either way: hence one unit of the half dtype.
            np.testing.assert_allclose(number(p).astype(np.float32), value, rtol=unit, atol=1e-6)
            assert keras.backend.standardize_dtype(p.dtype) == dtype
    assert {v.dtype for block in states(optimizer, rule, 3).values() for v in block} == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@given(rule=cases.rules(moments=True), gradients=cases.gradients())
@settings(max_examples=25)
def test_finite_gradients_give_finite_variables(dtype: str, rule: Rule, gradients: list[float]) -> None:
    # In half precision the steps must be finite, too: at the floor of the variance they are 1e3 times lr or more.
    optimizer = RMSprop.from_rule(dataclasses.replace(rule, lr=1e-6) if dtype == "float16" else rule)
    parts = variables([np.ones(2, np.float32)], dtype)
    for x in gradients:
        step(optimizer, parts, [np.full(2, min(max(x, -6e4), 6e4) if dtype == "float16" else x, np.float32)])
        assert all(np.isfinite(number(v)).all() for v in [*parts, *optimizer.variables])


def test_bias_correction_is_accurate_in_float32_for_a_long_average() -> None:
    """1 − βᵗ is 1e-6 at the first step; computed as 1 − exp(…) in float32 it would be 5 % off."""
    rule = Rule(lr=0.5, decay=1 - 1e-6, eps=0.0, bias_correction=True)
    parts, optimizer = variables([np.zeros(3, np.float32)], "float32"), RMSprop.from_rule(rule)
    step(optimizer, parts, [np.array([1e-3, 1.0, -1e3], np.float32)])
    np.testing.assert_allclose(number(parts[0]), [-0.5, -0.5, 0.5], rtol=4 * EPS)


# -- equal to keras.optimizers.RMSprop --------------------------------------------------------------------------------

# TensorFlow's Keras rounds the decay to float32; this decay is a float32 number.
LIKE_KERAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True},
    "weight decay": {"weight_decay": 2.0**-6},
    "all of it": {"momentum": 0.9, "centered": True, "weight_decay": 2.0**-6},
}
OTHERS: dict[str, dict[str, Any]] = {
    "eps outside the root": {"eps_inside_sqrt": False},
    "v0": {"initial_square_avg": 1.0},
    "decay 1 % up": {"rho": 0.909},
    "decay 1 % down": {"rho": 0.891},
    "lr outside the buffer": {"momentum": 0.9, "lr_in_momentum": False},
}


STEPS = 200 if BACKEND == "torch" else 1000  # compiled elsewhere


def trajectory(make: Callable[..., Any], steps: int = STEPS, **arguments: Any) -> Array:
    """Return every variable after every step; the rate drops to a tenth half-way."""
    generator = np.random.default_rng(0)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([steps // 2], [1e-3, 1e-4])
    parts = variables([generator.standard_normal(20)], "float64")
    advance, path = stepper(make(schedule, **arguments), parts), []
    for _ in range(steps):
        advance([generator.standard_normal(20) * np.logspace(-4, 2, 20)])
        path.append(number(parts[0]))
    return np.array(path)


def distance(path: Array, other: Array) -> float:
    """Return the largest difference, relative to how far the parameters have moved by then."""
    way = np.maximum.accumulate(np.abs(other - other[0]) + 1e-3, axis=0)
    return float(np.max(np.abs(path - other) / way))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("arguments", LIKE_KERAS.values(), ids=LIKE_KERAS)
def test_many_steps_are_those_of_keras(arguments: dict[str, Any]) -> None:
    theirs = trajectory(keras.optimizers.RMSprop, **arguments)
    assert distance(trajectory(RMSprop, **arguments), theirs) < 1e-10


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_rule_that_is_not_that_of_keras_is_noticed(change: dict[str, Any]) -> None:
    same = {"momentum": 0.9} if "momentum" in change else {}
    assert distance(trajectory(RMSprop, 60, **change), trajectory(keras.optimizers.RMSprop, 60, **same)) > 1e-6


# -- equal to Keras' Adam, AdamW and Nadam ----------------------------------------------------------------------------

ADAM: dict[str, Any] = {
    "momentum": 0.875, "rho": 1 - 2.0**-8, "first_moment": True, "bias_correction": True, "eps_inside_sqrt": False,
    "lr_in_momentum": False,
}  # fmt: skip
NADAM = {**ADAM, "nesterov": True, "momentum_decay": 1.0}
THEIR_ADAM: dict[str, Any] = {"beta_1": 0.875, "beta_2": 1 - 2.0**-8}
# Keras' class, its arguments and ours. Keras' Adam adds ε to √v: only ε = 0 is the same.
LIKE_ADAM: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "Adam": (keras.optimizers.Adam, {"epsilon": 0.0}, {**ADAM, "epsilon": 0.0}),
    "AdamW": (
        keras.optimizers.AdamW, {"epsilon": 0.0, "weight_decay": 2.0**-6},
        {**ADAM, "epsilon": 0.0, "weight_decay": 2.0**-6},
    ),
    "AMSGrad": (keras.optimizers.Adam, {"epsilon": 0.0, "amsgrad": True}, {**ADAM, "epsilon": 0.0, "amsgrad": True}),
    "Nadam": (keras.optimizers.Nadam, {"epsilon": 2.0**-10}, {**NADAM, "epsilon": 2.0**-10}),
    "Nadam, decay": (
        keras.optimizers.Nadam, {"epsilon": 2.0**-10, "weight_decay": 2.0**-6},
        {**NADAM, "epsilon": 2.0**-10, "weight_decay": 2.0**-6},
    ),
}  # fmt: skip
NOT_ADAM: dict[str, dict[str, Any]] = {
    "eps": {"epsilon": 1e-5},
    "decay 1 % down": {"rho": 0.99 * ADAM["rho"]},
    "momentum 1 % down": {"momentum": 0.99 * ADAM["momentum"]},
    "momentum after the division": {"first_moment": False},
    "no bias correction": {"bias_correction": False},
    "the maximum": {"amsgrad": True},
    "nesterov": {"nesterov": True},
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", LIKE_ADAM)
def test_many_steps_are_those_of_keras_adam(name: str) -> None:
    cls, arguments, own = LIKE_ADAM[name]
    theirs = trajectory(cls, **THEIR_ADAM, **arguments)
    # TensorFlow's Keras rounds the 0.96 of the schedule to float32, and 1 − βᵗ near t = 1 loses digits everywhere.
    bound = 1e-6 if BACKEND == "tensorflow" and "Nadam" in name else 1e-10
    assert distance(trajectory(RMSprop, **own), theirs) < bound


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("change", NOT_ADAM.values(), ids=NOT_ADAM)
def test_a_rule_that_is_not_keras_adam_is_noticed(change: dict[str, Any]) -> None:
    theirs = trajectory(keras.optimizers.Adam, 60, **THEIR_ADAM, epsilon=0.0)
    assert distance(trajectory(RMSprop, 60, **ADAM | {"epsilon": 0.0} | change), theirs) > 1e-5


@pytest.mark.usefixtures("double")
def test_the_momentum_schedule_is_that_of_nadam() -> None:
    theirs = trajectory(keras.optimizers.Nadam, 60, **THEIR_ADAM, epsilon=2.0**-10)
    for psi in (0.0, 0.99, 1.01):
        assert distance(trajectory(RMSprop, 60, **NADAM | {"epsilon": 2.0**-10, "momentum_decay": psi}), theirs) > 1e-5


@pytest.mark.usefixtures("double")
def test_the_eps_of_keras_adam_shrinks_with_the_bias() -> None:
    """Keras' ε is ours times √(1−βᵗ): with that ε at each step, both are the same."""
    start, gradients = cases.problem(np.float64)
    runs = [
        (keras.optimizers.Adam(0.25, **THEIR_ADAM, epsilon=0.125), variables(cut(start), "float64")),
        (RMSprop(0.25, **ADAM, epsilon=0.125), variables(cut(start), "float64")),
    ]
    for t, g in enumerate(map(cut, gradients), start=1):
        runs[1][0].epsilon = 0.125 / np.sqrt(1 - ADAM["rho"] ** t)
        for optimizer, parts in runs:
            step(optimizer, parts, g)
        for a, b in zip(runs[0][1], runs[1][1], strict=True):
            np.testing.assert_allclose(number(b), number(a), rtol=1e-12, atol=1e-13)
    other = RMSprop(0.25, **ADAM, epsilon=0.125)
    parts = variables(cut(start), "float64")
    for g in map(cut, gradients):
        step(other, parts, g)
    apart = max(float(np.max(np.abs(number(a) - number(b)))) for a, b in zip(runs[0][1], parts, strict=True))
    assert apart > 1e-2


@pytest.mark.parametrize("amsgrad", [False, True])
def test_without_momentum_it_does_not_matter_where_momentum_would_act(
    amsgrad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if BACKEND == "torch":
        from rmsprop.torch.engines import cpu_kernel

        monkeypatch.setattr(cpu_kernel, "UNAVAILABLE", "one engine for both rules")
    start, gradients = cases.problem(np.float32)
    runs = []
    for first_moment in (False, True):
        rule = dataclasses.replace(cases.PLAIN, first_moment=first_moment, bias_correction=True, amsgrad=amsgrad)
        parts, optimizer = variables(cut(start), "float32"), RMSprop.from_rule(rule)
        for g in map(cut, gradients):
            step(optimizer, parts, g)
        runs.append([number(x) for x in (*parts, *optimizer.variables)])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_maximum_does_not_hide_what_is_not_finite() -> None:
    parts, optimizer = variables([np.ones(3)], "float32"), RMSprop.from_rule(cases.ALL_RULES["amsgrad"])
    for g in ([1.0, np.nan, np.inf], [1.0, 1.0, 1.0]):
        step(optimizer, parts, [np.array(g, np.float32)])
        assert np.isnan(number(parts[0])).tolist() == [False, True, True]
    assert np.isnan(number(optimizer.averages["max_square_avg"][0])).tolist() == [False, True, False]


@pytest.mark.skipif(BACKEND != "jax", reason="the operations of a step are counted in JAX's program")
def test_one_step_computes_the_momentum_schedule_once_for_all_variables() -> None:
    """The schedule takes hundreds of operations; TensorFlow and JAX trace each of them."""
    import jax

    counts = []
    for size in (1, 20):
        parts = variables([np.ones(2)] * size, "float32")
        optimizer = RMSprop.from_rule(cases.ALL_RULES["NAdam, schedule"])
        optimizer.build(parts)
        values = [p.value for p in parts]
        program = jax.make_jaxpr(optimizer.stateless_apply)([v.value for v in optimizer.variables], values, values)
        counts.append(str(program).count(" expm1 "))
    assert counts[1] - counts[0] == 19  # 1 − βᵗ of each variable
    assert counts[0] > 60


def test_keras_arguments_come_first_with_its_defaults() -> None:
    theirs = list(inspect.signature(keras.optimizers.RMSprop.__init__).parameters.values())[:-1]  # all but **kwargs
    ours = list(inspect.signature(RMSprop.__init__).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert {p.name for p in ours[len(theirs) :]} | {p.name for p in theirs} >= set(FIELDS)
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    assert RMSprop().rule() == profile("keras", lr=float(np.float32(1e-3)))
    assert set(EVERYWHERE) <= set(FIELDS.values()) <= {field.name for field in dataclasses.fields(Rule)}


def test_a_variant_that_it_lacks_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HYPERPARAMETERS, "clip", cases.CLIP)
    lacks = r"^clip must be 0.0 in rmsprop.keras, got 0.5; rmsprop.keras lacks this variant; rmsprop.update has all$"
    with pytest.raises(InputError, match=lacks):
        RMSprop.from_rule(cases.Variant(clip=0.5))
    assert RMSprop.from_rule(cases.Variant()).rho == Rule.decay


@pytest.mark.parametrize(
    "arguments",
    [
        {"clipnorm": 0.5}, {"clipvalue": 0.1}, {"global_clipnorm": 0.5}, {"loss_scale_factor": 8.0},
        {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3},
        {"gradient_accumulation_steps": 3, "momentum": 0.5, "weight_decay": 0.25},
        {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5, "clipnorm": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_the_arguments_of_every_keras_optimizer_work_as_in_keras(arguments: dict[str, Any]) -> None:
    start, gradients = cases.problem(np.float32)
    results = []
    for cls, own in ((RMSprop, arguments), (keras.optimizers.RMSprop, arguments), (RMSprop, {})):
        parts, optimizer = variables(cut(start), "float32"), cls(0.03, **own)
        advance = stepper(optimizer, parts)
        for g in map(cut, gradients):
            advance(g)
        results.append([number(p) for p in parts])
        if own:
            optimizer.finalize_variable_values(parts)
            results[-1] += [number(p) for p in parts] + [number(v) for v in optimizer.variables[2:]]
    ours, theirs, without = results
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if arguments != {"loss_scale_factor": 8.0}:  # without eps, RMSprop does not depend on the scale of the loss
        assert not all(np.allclose(a, b, rtol=1e-3) for a, b in zip(ours, without, strict=False))


# -- weight decay, counting, skipped steps ----------------------------------------------------------------------------


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("by", ["name", "variable"])
def test_exclusions_from_weight_decay_are_heeded(decoupled: bool, by: str) -> None:
    start, gradients = cases.problem(np.float32)
    rule = dataclasses.replace(cases.RULES["L2"], decoupled_weight_decay=decoupled)
    parts, optimizer = variables(cut(start), "float32"), RMSprop.from_rule(rule)
    if by == "name":
        optimizer.exclude_from_weight_decay(var_names=["part1"])
    else:
        optimizer.exclude_from_weight_decay(var_list=[parts[1]])
    step(optimizer, parts, cut(gradients[0]))
    for i, (p, g) in enumerate(zip(cut(start), cut(gradients[0]), strict=True)):
        own = dataclasses.replace(optimizer.rule(), weight_decay=0.0) if i == 1 else optimizer.rule()
        np.testing.assert_allclose(number(parts[i]), update(own, p, g, init(own, p))[0], rtol=1e-5, atol=1e-7)


def test_bias_correction_counts_updates_not_accumulated_gradients() -> None:
    rule = cases.RULES["bias correction, v0"]
    start, gradients = cases.problem(np.float32)
    parts = variables([start], "float32")
    optimizer = RMSprop.from_rule(rule, gradient_accumulation_steps=4)
    advance = stepper(optimizer, parts)
    value, state = start, init(rule, start)
    for t, g in enumerate(gradients, start=1):
        advance([g])
        if t % 4 == 0:
            mean = np.stack(gradients[t - 4 : t]).mean(axis=0)
            value, state = update(optimizer.rule(), value, mean, state)
        np.testing.assert_allclose(number(parts[0]), value, rtol=1e-4, atol=1e-5)


def test_a_step_that_loss_scaling_skips_is_not_counted() -> None:
    rule = cases.RULES["bias correction"]
    start, gradients = cases.problem(np.float32)
    parts, inner = variables([start], "float32"), RMSprop.from_rule(rule)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    advance = stepper(optimizer, parts)
    value, state = start, init(rule, start)
    for t, g in enumerate(gradients):
        bad = t in (0, 3)
        advance([np.full_like(g, np.inf) if bad else g * number(optimizer.dynamic_scale)])
        if not bad:
            value, state = update(inner.rule(), value, g, state)
        np.testing.assert_allclose(number(parts[0]), value, rtol=1e-4, atol=1e-5)
    assert state.step == int(number(inner.iterations)) == cases.STEPS - 2


def test_a_callable_learning_rate_is_read_at_every_step() -> None:
    now = [0.5]
    optimizer = RMSprop(lambda: now[0], rho=0.0, epsilon=0.0)
    parts = variables([np.zeros(1, np.float32)], "float32")
    for now[0] in (0.5, 0.25):
        step(optimizer, parts, [np.ones(1, np.float32)])
        assert optimizer.rule().lr == now[0]
    assert number(parts[0]) == -0.75


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1}, "learning_rate must be a finite number >= 0, got -1; 1e-4 to 1e-2 is usual"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number >= 0, got 'fast'; 1e-4 to 1e-2 is usual"),
        ({"rho": 1.0}, r"rho must be a number in \[0, 1\), got 1.0; 0.9 averages over about 10 steps"),
        ({"rho": [0.9]}, r"rho must be a number in \[0, 1\), got \[0.9\]"),
        ({"momentum": 1.5}, r"momentum must be a number in \[0, 1\), got 1.5"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number >= 0, got nan; 1e-8 is usual"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number >= 0, got -0.1"),
        ({"centered": "no"}, "centered must be True or False, got 'no'; pass True or False"),
        ({"nesterov": True}, "momentum must be > 0 with nesterov=True, got 0.0; set momentum"),
        ({"initial_square_avg": -1.0}, "initial_square_avg must be a finite number >= 0"),
        ({"maximize": 2}, "maximize must be True or False, got 2"),
        (
            {"first_moment": True},
            "lr_in_momentum must be False with first_moment=True, got True; omit it: the average of",
        ),
        (
            {"momentum_decay": 1.0},
            "momentum_decay must be 0 unless first_moment, nesterov and bias_correction are True",
        ),
        ({"momentum_decay": -1.0}, "momentum_decay must be a finite number >= 0, got -1.0; 0 keeps momentum constant"),
        ({"learning_rate": "1e-5"}, r"learning_rate must be .*, got '1e-5'; it is text: write 1.0e-5 \(YAML"),
        ({"epsilon": "1e-7"}, r"epsilon must be .*, got '1e-7'; it is text: write 1.0e-7 \(YAML"),
        ({"weight_decay": "0.1"}, "weight_decay must be .*, got '0.1'; it is text: write 0.1, or convert it"),
    ],
    ids=str,
)
def test_unusable_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        RMSprop(**arguments)


def test_unknown_arguments_and_rule_fields_given_twice_raise() -> None:
    with pytest.raises(TypeError, match="decay"):
        RMSprop(decay=0.9)  # type: ignore[call-arg]  # keras.optimizers.RMSprop ignores it
    with pytest.raises(TypeError, match="rho"):
        RMSprop.from_rule(Rule(), rho=0.5)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    assert RMSprop.from_rule(Rule(), learning_rate=schedule).rule() == Rule(lr=0.5)


def test_a_learning_rate_that_is_set_later_is_checked() -> None:
    optimizer = RMSprop(0.1)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="learning_rate must be a finite number >= 0"):
            optimizer.learning_rate = bad
    optimizer.learning_rate = np.float32(0.25)
    assert optimizer.rule().lr == 0.25


@pytest.mark.parametrize("change", [{"momentum": 0.9}, {"centered": True}, {"amsgrad": True}], ids=str)
def test_state_that_was_not_built_is_missed_by_name(change: dict[str, Any]) -> None:
    variable, optimizer = keras.Variable(np.ones(2, np.float32)), RMSprop(0.1)
    optimizer.build([variable])
    optimizer.build([variable])  # nothing new
    assert len(optimizer.variables) == 3
    for name, value in change.items():
        setattr(optimizer, name, value)
    missed = r"^momentum, centered and amsgrad must be with and without state as when .*; build a new optimizer$"
    with pytest.raises(InputError, match=missed):
        optimizer.apply([ops.ones(2)], [variable])


def test_from_rule_takes_a_rule() -> None:
    with pytest.raises(InputError, match=r"rule must be a rmsprop\.Rule, got 'tf1'; say"):
        RMSprop.from_rule("tf1")  # type: ignore[arg-type]


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere every variable is stepped by itself")
def test_on_pytorch_the_native_kernel_makes_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor operations step where the kernel cannot, with the same numbers."""
    from rmsprop import native
    from rmsprop.torch import keras_lists
    from rmsprop.torch.engines import cpu_kernel

    assert native.kernel is not None
    calls: list[int] = []
    kernel, found = keras_lists.kernel_step, []

    def counted(*lists: Any) -> None:
        calls.append(len(lists[0]))
        kernel(*lists)

    monkeypatch.setattr(keras_lists, "kernel_step", counted)
    for reason in (None, "no kernel today"):
        monkeypatch.setattr(cpu_kernel, "UNAVAILABLE", reason)
        excluded, *rest = variables([np.ones(3), np.ones(4), np.ones(5)], "float32")
        optimizer = RMSprop.from_rule(dataclasses.replace(RICH, maximize=True))
        optimizer.exclude_from_weight_decay(var_list=[excluded])
        for g in (1.0, -2.0, 3.0):  # with constant gradients, rounding would decide the variance
            optimizer.apply([g * ops.ones(3), g * ops.ones(4), g * ops.ones(5)], [excluded, *rest])
        found.append([number(v) for v in (excluded, *rest)])
    assert sorted(calls) == [1, 1, 1, 2, 2, 2]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="these are gradients of PyTorch")
def test_on_pytorch_sparse_gradients_and_those_of_another_dtype_are_taken() -> None:
    dense = ops.reshape(ops.arange(8.0), (4, 2)) / 3
    found = []
    for gradient in (dense, dense.to_sparse(), dense.double()):
        (variable,) = variables([np.ones((4, 2))], "float32")
        optimizer = RMSprop.from_rule(RICH)
        for _ in range(3):
            optimizer.apply([gradient], [variable])
        found.append(number(variable))
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)


def test_a_variable_that_is_not_real_is_refused() -> None:
    with pytest.raises(InputError, match=r"a variable's dtype must be float16 or .* got 'int32'; do not train count"):
        RMSprop().build([keras.Variable(np.zeros(2), dtype="int32", trainable=False, name="count")])


# -- saving -----------------------------------------------------------------------------------------------------------

RICH = Rule(
    1e-3, 0.8, 1e-4, 0.6, 0.01, centered=True, nesterov=True, eps_inside_sqrt=True, initial_square_avg=0.25,
    bias_correction=True, lr_in_momentum=True,
)  # fmt: skip


ADAM_RULE = cases.ALL_RULES["everything of Adam"]


@pytest.mark.parametrize(
    "rule", [RICH, dataclasses.replace(RICH, maximize=True, decoupled_weight_decay=True), ADAM_RULE]
)
def test_the_configuration_makes_the_same_optimizer(rule: Rule) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.5)
    for rate in (rule.lr, schedule):
        optimizer = RMSprop.from_rule(rule, learning_rate=rate, clipnorm=2.0, name="mine")
        config = optimizer.get_config()
        assert config["rho"] == rule.decay
        assert config["clipnorm"] == 2.0
        whole = keras.saving.serialize_keras_object(optimizer)
        for again in (
            RMSprop.from_config(optimizer.get_config()),
            keras.saving.deserialize_keras_object(whole),
            keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
        ):
            assert type(again) is RMSprop
            assert again.rule() == optimizer.rule()
            assert again.get_config() == config


def test_numbers_of_numpy_are_numbers_and_can_be_written() -> None:
    values: dict[str, Any] = {"rho": np.float32(0.5), "momentum": np.array(0.25), "epsilon": np.float64(1e-3)}
    values |= {"centered": np.bool_(True), "nesterov": 1, "maximize": 0, "weight_decay": np.float32(0.5)}
    optimizer = RMSprop(**values)
    expected = RMSprop(
        rho=0.5, momentum=0.25, epsilon=1e-3, centered=True, nesterov=True, maximize=False, weight_decay=0.5
    )
    assert optimizer.rule() == expected.rule()
    written = json.dumps(optimizer.get_config() | {"name": None})
    assert written == json.dumps(expected.get_config() | {"name": None})
    assert RMSprop.from_config(json.loads(written)).rule() == expected.rule()


def digits() -> tuple[Array, Array]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y.astype(np.int32)


def network(optimizer: Any, **execution: Any) -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], **execution)
    return model


def fit(model: Any, x: Array, y: Array, epochs: int = 1) -> None:
    model.fit(x, y, batch_size=128, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.parametrize("rule", [RICH, dataclasses.replace(ADAM_RULE, lr=1e-3, maximize=False)])
def test_training_goes_on_bit_for_bit_after_a_model_was_saved_and_loaded(rule: Rule, tmp_path: Path) -> None:
    x, y = (a[:512] for a in digits())
    whole = network(RMSprop.from_rule(rule))
    fit(whole, x, y)
    whole.save(tmp_path / "model.keras")
    whole.save_weights(tmp_path / "model.weights.h5")
    fit(whole, x, y)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is RMSprop
    weights = network(RMSprop.from_rule(rule))
    weights.optimizer.build(weights.trainable_variables)
    weights.load_weights(tmp_path / "model.weights.h5")
    for model in (loaded, weights):
        fit(model, x, y)
        for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(model.optimizer.variables, whole.optimizer.variables, strict=True):
            np.testing.assert_array_equal(number(a), number(b))


def test_state_saved_by_one_loads_into_the_other(tmp_path: Path) -> None:
    """Half of a training in each class equals the whole training in one, whichever class comes first."""
    x, y = (a[:512] for a in digits())
    arguments: dict[str, Any] = {"learning_rate": 1e-3, "momentum": 0.5, "centered": True, "epsilon": 1e-3}
    for first, second in ((RMSprop, keras.optimizers.RMSprop), (keras.optimizers.RMSprop, RMSprop)):
        whole = network(first(**arguments))
        fit(whole, x, y)
        whole.save_weights(tmp_path / "half.weights.h5")
        other = network(second(**arguments))
        other.optimizer.build(other.trainable_variables)
        other.load_weights(tmp_path / "half.weights.h5")
        for a, b in zip(other.optimizer.variables, whole.optimizer.variables, strict=True):
            np.testing.assert_array_equal(number(a), number(b))
        fit(whole, x, y)
        fit(other, x, y)
        for a, b in zip(other.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_training_on_digits_is_that_of_keras_and_learns(execution: dict[str, Any]) -> None:
    x, y = digits()
    ours, theirs = (network(cls(3e-3), **execution) for cls in (RMSprop, keras.optimizers.RMSprop))
    eager = "run_eagerly" in execution  # eager execution is slow and learns the same
    rows = 256 if eager else 1280
    for model in (ours, theirs):
        fit(model, x[:rows], y[:rows])
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    if not eager:
        fit(ours, x[:1280], y[:1280], epochs=12)
        assert ours.evaluate(x[1280:], y[1280:], verbose=0)[1] > 0.85


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch's gradient of Keras' Embedding is dense")
@pytest.mark.parametrize("name", ["L2", "decoupled", "TensorFlow 1"])
def test_gradients_in_sparse_form_give_what_the_dense_ones_give(name: str) -> None:
    """Repeated rows are added up first; keras.optimizers.RMSprop squares each on its own."""
    start, slices = np.ones((4, 2), np.float32), np.arange(1.0, 7.0, dtype=np.float32).reshape(3, 2)
    rows = np.array([1, 1, 2])
    dense = np.zeros_like(start)
    np.add.at(dense, rows, slices)
    rule = cases.RULES[name]
    parts, optimizer = variables([start], "float32"), RMSprop.from_rule(rule)
    value, state = start, init(rule, start)
    for _ in range(4):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            sparse: Any = tf.IndexedSlices(tf.constant(slices), tf.constant(rows), tf.constant([4, 2]))
        else:
            import jax.numpy as jnp
            from jax.experimental.sparse import BCOO

            sparse = BCOO((jnp.asarray(slices), jnp.asarray(rows[:, None])), shape=(4, 2))
        optimizer.apply([sparse], parts)
        value, state = update(optimizer.rule(), value, dense, state)
        np.testing.assert_allclose(number(parts[0]), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_an_embedding_is_trained_in_every_row_that_it_uses(execution: dict[str, Any]) -> None:
    """TensorFlow's fit passes IndexedSlices. The other backends are compared with the rule."""
    rule = profile("keras", lr=0.01)
    keras.utils.set_random_seed(0)
    embedding = keras.layers.Embedding(5, 3)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), embedding, keras.layers.GlobalAveragePooling1D()])
    model.compile(optimizer=RMSprop.from_rule(rule), loss="mse", **execution)
    x, y = np.array([[1, 1, 2, 3], [3, 1, 2, 2]], np.int32), np.ones((2, 3), np.float32)
    value = model.get_weights()[0]
    state = init(rule, value)
    counts = np.stack([np.bincount(row, minlength=5) for row in x]).astype(np.float32) / 4
    for _ in range(3):
        model.train_on_batch(x, y)
        gradient = counts.T @ (counts @ value - y) * np.float32(2 / y.size)
        value, state = update(rule, value, gradient.astype(np.float32), state)
    np.testing.assert_allclose(model.get_weights()[0], value, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="stateless_apply is how JAX programs call a Keras optimizer")
def test_stateless_apply_under_jit_is_apply_and_compiles_once() -> None:
    import jax

    start, gradients = cases.problem(np.float32)
    rule, traced = cases.RULES["TensorFlow 1"], []
    parts, optimizer = variables(cut(start), "float32"), RMSprop.from_rule(rule)
    other, pure = variables(cut(start), "float32"), RMSprop.from_rule(rule)
    pure.build(other)

    @jax.jit
    def jitted(own: Any, g: Any, values: Any) -> Any:
        traced.append(1)
        return pure.stateless_apply(own, g, values)

    values, own = [v.value for v in other], [v.value for v in pure.variables]
    for g in map(cut, gradients):
        step(optimizer, parts, g)
        values, own = jitted(own, g, values)
    assert len(traced) == 1
    for a, b in zip([*values, *own], [*parts, *optimizer.variables], strict=True):
        np.testing.assert_allclose(number(a), number(b), rtol=1e-5, atol=1e-6)
