"""Records of steps with JAX, optax and Keras: those that the monitor makes of the same steps with PyTorch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import torch
from cases import RULES

from rmsprop import InputError, Rule, profile
from rmsprop.jax import rmsprop
from rmsprop.keras import RMSprop as KerasRMSprop
from rmsprop.monitor import Monitor, from_keras, from_optax, keras_before
from rmsprop.torch import RMSprop

SHAPES = {"dense/bias": (300,), "dense/kernel": (5, 4)}
NAMES = ["plain", "TensorFlow 1", "all of it"]


def numbers(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    made = {name: generator.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    made["dense/kernel"][2] = 0  # a row without gradient
    return made


def tree(arrays: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
    return {"dense": {name.split("/")[1]: jnp.asarray(x) for name, x in arrays.items()}}


def with_torch(rule: Rule, starts: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    """Return the records of a run with PyTorch."""
    params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in starts.items()}
    optimizer = RMSprop.from_rule(list(params.items()), rule)
    monitor = Monitor(optimizer, every=1)
    for step in range(1, steps + 1):
        for name, g in numbers(step).items():
            params[name].grad = torch.tensor(g)
        optimizer.step()
    return monitor.records


def check(made: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare records; counts may differ by one element and histograms by its bin, where roundings differ."""
    assert len(made) == len(expected)
    for ours, theirs in zip(made, expected, strict=True):
        json.dumps(ours, allow_nan=False)
        assert ours.keys() == theirs.keys()
        assert (ours["step"], ours["groups"]) == (theirs["step"], theirs["groups"])
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-6)
        assert ours["update_norm"] == pytest.approx(theirs["update_norm"], rel=1e-4)
        assert ours["tensors"].keys() == theirs["tensors"].keys()
        for name, told in theirs["tensors"].items():
            got = ours["tensors"][name]
            assert got.keys() == told.keys()
            for field, value in told.items():
                if value is None or isinstance(value, int | list | str):
                    assert got[field] == value, field
                elif field == "effective_lr":
                    assert (got[field]["lr"], sum(got[field]["counts"])) == (value["lr"], sum(value["counts"]))
                elif field.endswith("_share"):
                    assert got[field] == pytest.approx(value, abs=1.01 / told["elements"]), field
                elif field == "effective_lr_median":
                    assert got[field] in (value / 2, value, value * 2)
                else:
                    assert got[field] == pytest.approx(value, rel=1e-4, abs=1e-12), field


@pytest.mark.parametrize("name", NAMES)
def test_records_of_jax_are_those_of_pytorch(name: str) -> None:
    rule, steps = RULES[name], 3
    params, transformation = tree(numbers(0)), rmsprop(rule)
    state, made, previous = transformation.init(params), [], None
    for step in range(1, steps + 1):
        grads = tree(numbers(step))
        updates, new_state = transformation.update(grads, state, params)
        new = optax.apply_updates(params, updates)
        made.append(from_optax(rule, params, new, grads, state, new_state, previous_grads=previous))
        params, state, previous = new, new_state, grads
    check(made, with_torch(rule, numbers(0), steps))
    assert made[-1]["tensors"]["dense/kernel"]["rows"] == 5
    assert made[-1]["tensors"]["dense/kernel"]["dead_rows"] == int(
        rule.initial_square_avg == 0 and not rule.weight_decay
    )
    assert made[-1]["tensors"]["dense/bias"]["gradient_cosine"] is not None


@pytest.mark.parametrize("name", NAMES)
def test_records_of_keras_are_those_of_pytorch(name: str) -> None:
    rule, steps = dataclasses.replace(RULES[name], lr=2.0**-5), 3  # a rate that Keras does not round
    variables = [keras.Variable(x, name=name.replace("/", "_")) for name, x in numbers(0).items()]
    optimizer = KerasRMSprop.from_rule(rule)
    optimizer.build(variables)
    made, previous = [], None
    for step in range(1, steps + 1):
        before, gradients = keras_before(optimizer), [jnp.asarray(g) for g in numbers(step).values()]
        optimizer.apply(gradients, variables)
        made.append(from_keras(optimizer, gradients, before, previous_gradients=previous))
        previous = gradients
    expected = with_torch(rule, numbers(0), steps)
    for record in expected:
        record["tensors"] = {name.replace("/", "_"): told for name, told in record["tensors"].items()}
    check(made, expected)


def test_optax_itself_inside_of_a_chain_with_a_schedule() -> None:
    """Its state counts no steps; clipping comes after what is measured; a parameter has no gradient."""
    rule = profile("optax", lr=0.5)
    schedule = optax.piecewise_constant_schedule(0.5, {1: 0.1})
    transformation = optax.chain(optax.clip(0.5), optax.rmsprop(schedule))
    params = {"w": jnp.array([1.0, 2.0]), "frozen": jnp.ones(3)}
    state = transformation.init(params)
    for step in (1, 2):
        grads = {"w": jnp.array([3.0, 4.0]), "frozen": jnp.zeros(3)}
        updates, new_state = transformation.update(grads, state, params)
        new = optax.apply_updates(params, updates)
        rate = float(schedule(step - 1))
        given = {**grads, "frozen": None}
        record = from_optax(rule, params, new, given, state, new_state, learning_rate=rate, step=step)
        params, state = new, new_state
    assert (record["step"], list(record["tensors"])) == (2, ["w"])
    told = record["tensors"]["w"]
    assert told["gradient_rms"] == pytest.approx(np.sqrt(12.5))
    assert told["history_rms"] == pytest.approx(0.5 * np.sqrt(1 - 0.9))  # of what was clipped
    assert told["effective_lr"]["lr"] == record["groups"][0]["lr"] == pytest.approx(0.05)
    assert told["largest_update"] == pytest.approx(0.05 / np.sqrt(1 - 0.9**2), rel=1e-4)
    with pytest.raises(InputError, match="step must be the number of the step, from 1, got none"):
        from_optax(rule, params, new, grads, state, new_state)


def test_halves_are_measured_as_they_are_stored() -> None:
    rule, params = Rule(lr=2.0**-20, eps=1e-6), {"w": jnp.ones(4, jnp.bfloat16)}
    transformation = rmsprop(rule)
    state = transformation.init(params)
    grads = {"w": jnp.array([1.0, 1.0, 0.0, 1.0], jnp.bfloat16)}
    updates, new_state = transformation.update(grads, state, params)
    record = from_optax(rule, params, optax.apply_updates(params, updates), grads, state, new_state)
    assert record["tensors"]["w"]["unchanged_share"] == 0.75  # the steps are lost in bfloat16
    assert (record["groups"][0]["param_dtype"], record["groups"][0]["state_dtype"]) == ("bfloat16", "float32")


def test_a_gradient_that_is_not_finite_is_counted() -> None:
    rule, params = Rule(), {"w": jnp.ones(2)}
    transformation = rmsprop(rule)
    state = transformation.init(params)
    grads = {"w": jnp.array([jnp.nan, 1.0])}
    updates, new_state = transformation.update(grads, state, params)
    record = from_optax(rule, params, optax.apply_updates(params, updates), grads, state, new_state)
    assert (record["nonfinite_steps"], record["gradient_norm"], record["tensors"]["w"]["nonfinite"]) == (1, None, 1)


def test_trees_and_optimizers_that_do_not_fit_are_refused() -> None:
    params, grads = {"w": jnp.ones(2)}, {"w": jnp.ones(2)}
    state = rmsprop(Rule()).init(params)
    for arguments, message in (
        ((0.1, params, params, grads, state, state), "rule must be a rmsprop.Rule"),
        (
            (Rule(), params, params, grads, state, optax.EmptyState()),
            "new_state must be the state of one .* got one with 0",
        ),
        ((Rule(), params, params, grads, optax.adam(0.1).init(params), state), "^state must be .* got one with 0"),
        ((Rule(), params, params, grads, (state, state), state), "^state must be the state of one .* got one with 2"),
        ((Rule(), {}, params, grads, state, state), "params must be a tree with 'w', as grads are"),
        ((Rule(centered=True), params, params, grads, state, state), "rule must be one with centered=False"),
    ):
        with pytest.raises(InputError, match=message):
            from_optax(*arguments)
    for optimizer, message in (
        (keras.optimizers.RMSprop(), "a rmsprop.keras.RMSprop, got a RMSprop of another library"),
        (KerasRMSprop(), "got one that is not built"),
    ):
        with pytest.raises(InputError, match=message):
            keras_before(optimizer)
    variable, optimizer = keras.Variable([1.0]), KerasRMSprop()
    optimizer.build([variable])
    before = keras_before(optimizer)
    optimizer.apply([jnp.ones(1)], [variable])
    with pytest.raises(InputError, match="gradients must be of the optimizer's 1 variables, got 2"):
        from_keras(optimizer, [None, None], before)


def test_without_jax_one_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['jax'] = None; from rmsprop import Rule; from rmsprop.monitor import from_optax;"
        "from_optax(Rule(), {}, {}, {}, {}, {})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    message = "ModuleNotFoundError: rmsprop.monitor.from_optax needs JAX and optax: pip install 'rmsprop[jax]'"
    assert done.stderr.splitlines()[-1] == message
