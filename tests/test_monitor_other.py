"""Records of steps with JAX, optax and Keras equal those that the monitor makes of the same steps with PyTorch."""

from __future__ import annotations

import dataclasses
import json
import math
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
from rmsprop.monitor import Monitor, find, from_keras, from_optax, keras_before, probe
from rmsprop.torch import RMSprop

SHAPES = {"dense/bias": (300,), "dense/kernel": (5, 4)}
NAMES = ["plain", "TensorFlow 1", "all of it", "amsgrad"]


def numbers(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    made = {name: generator.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    made["dense/kernel"][2] = 0  # a row without gradient
    return made


def tree(arrays: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
    return {"dense": {name.split("/")[1]: jnp.asarray(x) for name, x in arrays.items()}}


def with_torch(rule: Rule, starts: dict[str, Any], steps: int) -> list[Any]:
    params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in starts.items()}
    optimizer = RMSprop.from_rule(list(params.items()), rule)
    monitor = Monitor(optimizer, every=1)
    for step in range(1, steps + 1):
        for name, g in numbers(step).items():
            params[name].grad = torch.tensor(g)
        optimizer.step()
    return monitor.records


def check(made: list[Any], expected: list[Any]) -> None:
    """Compare records. Where roundings differ, counts may differ by one element, and histograms by its bin."""
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
    rule, steps = dataclasses.replace(RULES[name], lr=2.0**-5), 3  # Keras does not round this rate
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
    """Its state counts no steps, the measured gradient was clipped before, and one parameter has no gradient."""
    rule = profile("optax", lr=0.5)
    schedule = optax.piecewise_constant_schedule(0.5, {1: 0.1})
    transformation = optax.chain(optax.clip(0.5), probe(), optax.rmsprop(schedule))
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
    told: Any = record["tensors"]["w"]
    assert told["gradient_rms"] == pytest.approx(0.5)
    assert told["history_rms"] == pytest.approx(0.5 * np.sqrt(1 - 0.9))  # from the clipped gradient
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
    assert record["tensors"]["w"]["unchanged_share"] == 0.75  # bfloat16 loses three of four steps
    assert (record["groups"][0]["param_dtype"], record["groups"][0]["state_dtype"]) == ("bfloat16", "float32")


def test_a_gradient_that_is_not_finite_is_counted() -> None:
    rule, params = Rule(), {"w": jnp.ones(2)}
    transformation = rmsprop(rule)
    state = transformation.init(params)
    grads = {"w": jnp.array([jnp.nan, 1.0])}
    updates, new_state = transformation.update(grads, state, params)
    record = from_optax(rule, params, optax.apply_updates(params, updates), grads, state, new_state)
    assert (record["nonfinite_steps"], record["gradient_norm"], record["tensors"]["w"]["nonfinite"]) == (1, None, 1)


def steps_of(transformation: Any, rule: Rule, steps: int) -> tuple[list[Any], Any, Any]:
    """Return records of steps with gradients of a norm about 20, the last gradients, and the parameters before them."""
    params = tree(numbers(0))
    state, update = transformation.init(params), jax.jit(transformation.update)
    made: list[Any] = []
    for step in range(1, steps + 1):
        grads, before = tree(numbers(step)), params
        updates, new_state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        made.append(from_optax(rule, before, params, grads, state, new_state, step=step))
        state = new_state
    return made, grads, before


FRONTS: dict[str, Any] = {
    "norm": optax.clip_by_global_norm(1.0),
    "elements": optax.clip(0.1),
    "scale": optax.scale(1000.0),
    "mean": optax.centralize(),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("name", ["optax", "torch", "L2"])
def test_what_a_chain_does_to_gradients_before_rmsprop_is_measured(front: str, name: str) -> None:
    rule = Rule(weight_decay=1e-3, maximize=True) if name == "L2" else profile(name, lr=1e-3)
    ours = optax.rmsprop(1e-3) if name == "optax" else rmsprop(rule)
    made, grads, params = steps_of(optax.chain(FRONTS[front], probe(), ours), rule, 12)
    reached, _ = FRONTS[front].update(grads, FRONTS[front].init(params), params)
    for key, g in reached["dense"].items():
        told = made[-1]["tensors"][f"dense/{key}"]
        assert told["gradient_rms"] == pytest.approx(float(jnp.sqrt(jnp.mean(g**2))), rel=1e-6)
        assert told["zero_gradient_share"] == pytest.approx(float(jnp.mean(g == 0)))
    kinds = {finding.kind for finding in find(made)} - ({"weight decay"} if name == "L2" else set())
    assert kinds == ({"clipping"} if front == "norm" else set())


def test_gradients_that_nothing_changed_are_measured_as_given() -> None:
    """Equal within 1e-12, also where v has two bytes and only rounding moves it."""
    for dtype in (jnp.float32, jnp.bfloat16):
        rule = profile("optax", lr=1e-3, decay=0.999)
        transformation, params = optax.rmsprop(rule.lr, decay=rule.decay), {"w": jnp.ones(300, dtype)}
        state, update = transformation.init(params), jax.jit(transformation.update)
        for step in range(1, 30):
            grads = {"w": jnp.asarray(numbers(step)["dense/bias"] * 0.9**step, dtype)}
            updates, new_state = update(grads, state, params)
            new = optax.apply_updates(params, updates)
            made = from_optax(rule, params, new, grads, state, new_state, step=step)
            expected = np.sqrt(np.mean(np.asarray(grads["w"], np.float64) ** 2))
            assert made["tensors"]["w"]["gradient_rms"] == pytest.approx(expected, rel=1e-12)
            params, state = new, new_state


def test_gradients_that_a_chain_changed_are_refused_without_a_probe() -> None:
    for front in FRONTS.values():
        with pytest.raises(InputError, match=r"got others in 'dense/.*put rmsprop\.monitor\.probe\(\) right before"):
            steps_of(optax.chain(front, rmsprop(Rule())), Rule(), 1)


def test_complex_gradients_that_are_clipped_are_measured_in_two_parts() -> None:
    rule, params = Rule(), {"w": jnp.ones(3, jnp.complex64)}
    transformation = optax.chain(optax.scale(0.01), probe(), rmsprop(rule))
    state, grads = transformation.init(params), {"w": jnp.array([3 + 4j, 0, -1j], jnp.complex64)}
    updates, new_state = transformation.update(grads, state, params)
    made = from_optax(rule, params, optax.apply_updates(params, updates), grads, state, new_state)["tensors"]["w"]
    assert made["gradient_rms"] == pytest.approx(0.01 * np.sqrt(26 / 6), rel=1e-5)
    assert (made["elements"], made["zero_gradient_share"]) == (6, 0.5)


def test_steps_that_optax_skips_or_accumulates_for_are_told_from_others() -> None:
    rule, params = Rule(), {"w": jnp.ones(2)}
    good, bad = {"w": jnp.ones(2)}, {"w": jnp.array([jnp.nan, 1.0])}
    for inner in (rmsprop(rule), optax.rmsprop(0.01, decay=rule.decay)):
        transformation = optax.apply_if_finite(inner, 5)
        _, state = transformation.update(good, transformation.init(params), params)
        _, new_state = transformation.update(bad, state, params)
        made = from_optax(rule, params, params, bad, state, new_state, step=2)
        assert (made["step"], made["nonfinite_steps"], made["skipped_steps"]) == (2, 1, 1)
        assert "skip the whole step" in find([made])[0].sentence
    chain = optax.chain(optax.zero_nans(), probe(), rmsprop(rule))
    _, state = chain.update(good, chain.init(params), params)
    _, new_state = chain.update(bad, state, params)
    made = from_optax(rule, params, params, bad, state, new_state)
    assert (made["nonfinite_steps"], made["skipped_steps"]) == (0, 0)  # RMSprop received finite gradients
    assert made["tensors"]["w"]["zero_gradient_share"] == 0.5
    gathering = optax.MultiSteps(optax.chain(probe(), rmsprop(rule)), 2)
    state = gathering.init(params)
    _, gathered = gathering.update(good, state, params)
    with pytest.raises(InputError, match=r"optax\.MultiSteps has accumulated 1 gradients.*has_updated"):
        from_optax(rule, params, params, good, state, gathered)
    _, stepped = gathering.update({"w": jnp.zeros(2)}, gathered, params)
    made = from_optax(rule, params, params, {"w": jnp.zeros(2)}, gathered, stepped)
    assert made["tensors"]["w"]["gradient_rms"] == pytest.approx(0.5)  # the mean of both gradients


def keras_steps(optimizer: KerasRMSprop, steps: int) -> tuple[Any, list[Any], list[Any]]:
    """Return the last record, its gradients, and the variables before the step."""
    variables = [keras.Variable(x, name=name.replace("/", "_")) for name, x in numbers(0).items()]
    optimizer.build(variables)
    for step in range(1, steps + 1):
        before, gradients = keras_before(optimizer), [jnp.asarray(g) for g in numbers(step).values()]
        optimizer.apply(gradients, variables)
        made = from_keras(optimizer, gradients, before)
    return made, gradients, before["variables"]


@pytest.mark.parametrize(
    "options", [{"global_clipnorm": 1.0}, {"clipvalue": 0.1}, {"loss_scale_factor": 1024.0}], ids=str
)
@pytest.mark.parametrize("rule", [profile("keras"), Rule(weight_decay=0.01)], ids=["keras", "L2"])
def test_what_keras_does_to_gradients_before_the_step_is_measured(options: dict[str, Any], rule: Rule) -> None:
    made, gradients, _ = keras_steps(KerasRMSprop.from_rule(rule, **options), 3)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in gradients))
    for name, g in zip(("dense_bias", "dense_kernel"), gradients, strict=True):
        g = jnp.clip(g, -0.1, 0.1) if "clipvalue" in options else g / options.get("loss_scale_factor", norm)
        told = made["tensors"][name]["gradient_rms"]
        assert told == pytest.approx(float(jnp.sqrt(jnp.mean(g**2))), rel=1e-6)


def test_keras_gradients_that_were_accumulated_are_measured_as_their_mean() -> None:
    variable = keras.Variable([1.0, 1.0], name="w")
    optimizer = KerasRMSprop(gradient_accumulation_steps=2)
    optimizer.build([variable])
    optimizer.apply([jnp.array([1.0, 3.0])], [variable])
    before = keras_before(optimizer)
    optimizer.apply([jnp.array([3.0, 3.0])], [variable])
    made = from_keras(optimizer, [jnp.array([3.0, 3.0])], before)
    assert made["gradient_norm"] == pytest.approx(math.hypot(2.0, 3.0))


def test_keras_variables_without_weight_decay_are_measured_without_it() -> None:
    optimizer = KerasRMSprop.from_rule(Rule(weight_decay=10.0))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    made, gradients, _ = keras_steps(optimizer, 2)
    for name, g in zip(("dense_bias", "dense_kernel"), gradients, strict=True):
        expected = float(jnp.sqrt(jnp.mean(g**2)))
        assert made["tensors"][name]["gradient_rms"] == pytest.approx(expected, rel=1e-6)


def test_keras_steps_that_only_accumulate_gradients_are_refused() -> None:
    with pytest.raises(InputError, match=r"accumulated a gradient .*_steps=2.*; make records of"):
        keras_steps(KerasRMSprop(gradient_accumulation_steps=2), 1)


def test_trees_and_optimizers_that_do_not_fit_are_refused() -> None:
    params, grads = {"w": jnp.ones(2)}, {"w": jnp.ones(2)}
    state = rmsprop(Rule()).init(params)
    for arguments, message in (
        ((0.1, params, params, grads, state, state), "rule must be a rmsprop.Rule"),
        (
            (Rule(), params, params, grads, state, optax.EmptyState()),
            "new_state must be the state of one .* got one with none",
        ),
        ((Rule(), params, params, grads, optax.adam(0.1).init(params), state), "^state must be .* got one with none"),
        ((Rule(), params, params, grads, (state, state), state), "^state must be the state of one .* got one with 2"),
        ((Rule(), {}, params, grads, state, state), "params must be a tree with 'w', as grads are"),
        ((Rule(centered=True), params, params, grads, state, state), "rule must be one with centered=False"),
        ((Rule(amsgrad=True), params, params, grads, state, state), "rule must be one with amsgrad=False"),
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
    with pytest.raises(
        InputError, match="gradients must be a list, one for each of the optimizer's 1 variables, got a list of 2"
    ):
        from_keras(optimizer, [None, None], before)


def test_arguments_that_optax_records_cannot_be_made_of_are_named() -> None:
    rule, params, grads = Rule(), {"w": jnp.ones(2)}, {"w": jnp.array([0.0, 1.0])}
    transformation, theirs = rmsprop(rule), optax.rmsprop(0.01, decay=0.99)
    s1 = transformation.update({"w": jnp.ones(2)}, transformation.init(params), params)[1]
    s2 = transformation.update(grads, s1, params)[1]
    t1 = theirs.update({"w": jnp.ones(2)}, theirs.init(params), params)[1]
    t2 = theirs.update({"w": jnp.array([0.0, 3.0])}, t1, params)[1]
    c0 = optax.rmsprop(0.01, decay=0.99, centered=True).init(params)
    c1 = optax.rmsprop(0.01, decay=0.99, centered=True).update(grads, c0, params)[1]
    good = {"rule": rule, "params": params, "new_params": params, "grads": grads, "state": s1, "new_state": s2}
    from_optax(**good)
    others = r"grads must be the gradients that reached RMSprop, got others in 'w', by its square averages; pass state"
    changes: list[tuple[dict[str, Any], str]] = [
        (
            {"state": s2, "new_state": s1},
            "new_state must be the state one step after state, got one that counts 1, and",
        ),
        ({"new_state": s1}, "got one that counts 1, and state counts 1; pass the states before and after one update"),
        ({"state": t2, "new_state": t1, "step": 2}, others),
        ({"rule": Rule(decay=0.999), "state": t1, "new_state": t2, "step": 2}, others),
        ({"grads": {"w": jnp.ones((2, 1))}}, r"grads must be of the shapes of .*, \(2,\) float32 in 'w', got \(2, 1\)"),
        ({"new_params": {"w": jnp.ones(3)}}, "new_params must be of the shapes of the parameters"),
        ({"grads": {"w": "x"}}, "grads must be arrays of floating-point numbers, got <U1 in 'w'"),
        ({"grads": {"w": jnp.ones(2, int)}}, "grads must be arrays of floating-point numbers, got int32 in 'w'"),
        ({"learning_rate": lambda step: 0.1}, r"learning_rate must be a finite number >= 0, .* for a schedule"),
        ({"learning_rate": jnp.ones(2)}, "learning_rate must be a finite number >= 0"),
        ({"state": c0, "new_state": c1, "step": 1}, "rule must be one with centered=True for this state, got False"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number >= 0"),
        ({"state": t1, "new_state": t2, "step": 0}, "step must be a whole number >= 1, got 0; the first step is 1"),
        ({"state": t1, "new_state": t2, "step": "1"}, "step must be a whole number >= 1, got '1'"),
    ]
    for change, message in changes:
        with pytest.raises(InputError, match=message):
            from_optax(**(good | change))
    with pytest.raises(InputError, match="params must be a tree of arrays, got tracers of"):
        jax.jit(lambda p: from_optax(**(good | {"params": p})))(params)


def test_arguments_that_keras_records_cannot_be_made_of_are_named() -> None:
    variable, optimizer = keras.Variable([1.0]), KerasRMSprop()
    optimizer.build([variable])
    before = keras_before(optimizer)
    with pytest.raises(
        InputError, match="optimizer must be one that has just executed one step, got one with 0 steps since `before`"
    ):
        from_keras(optimizer, [jnp.ones(1)], before)
    optimizer.apply([jnp.ones(1)], [variable])
    cases: list[tuple[Any, Any, str]] = [
        (jnp.ones(()), before, "gradients must be a list, one for each of the optimizer's 1 variables, got a"),
        (None, before, r"gradients must be a list, .* got a NoneType"),
        ({"w": jnp.ones(1)}, before, r"gradients must be a list, .* got a dict"),
        ([jnp.ones(2)], before, r"gradients must be of the shapes of .*, \(1,\) float32 in '.*', got \(2,\) float32"),
        (["x"], before, "variables and gradients must be arrays whose values are known, got a str"),
        (
            [jnp.ones(1)],
            None,
            r"before must be what keras_before\(optimizer\) returned, got a NoneType; call it before",
        ),
        ([jnp.ones(1)], {"rule": Rule()}, r"before must be what .* got another dict"),
        ([jnp.ones(1)], before | {"variables": [np.ones(3)]}, "gradients must be of the shapes of the parameters"),
    ]
    for gradients, given, message in cases:
        with pytest.raises(InputError, match=message):
            from_keras(optimizer, gradients, given)


def test_without_jax_one_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['jax'] = None; from rmsprop import Rule; from rmsprop.monitor import from_optax;"
        "from_optax(Rule(), {}, {}, {}, {}, {})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    message = "ModuleNotFoundError: rmsprop.monitor.from_optax needs JAX and optax: pip install 'rmsprop[jax]'"
    assert done.stderr.splitlines()[-1] == message
