"""This project's implementations, with the signature that README.md describes."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
from vectors import Implementation, Result

from rmsprop import Rule, State, init, native, update
from rmsprop.hyperparameters import HYPERPARAMETERS, missing_fields
from rmsprop.rule import AVERAGES, Array

KERAS_BACKEND = "torch"  # unless the environment names another
Update = Callable[[Rule, Array, Array, State], tuple[Array, State]]


def numpy_rule(
    hyperparameters: dict[str, Any],
    learning_rates: list[float],
    params: Array,
    gradients: list[Array],
    rows: list[Array] | None = None,
    *,
    update: Update = update,
    fields: Collection[str] = HYPERPARAMETERS,
) -> list[Result]:
    """Run the rule. With `rows`, step those rows only; gradients of a repeated row are added first."""
    rule, results = rule_of(hyperparameters, fields), []
    state = init(rule, params)
    for t, (lr, gradient) in enumerate(zip(learning_rates, gradients, strict=True)):
        rule = dataclasses.replace(rule, lr=lr)
        if rows is None:
            params, state = update(rule, params, gradient, state)
        else:
            touched, position = np.unique(rows[t], return_inverse=True)
            total = np.zeros((len(touched), *gradient.shape[1:]))
            np.add.at(total, position, gradient)
            part = _state(state.step, [None if x is None else x[touched] for x in _arrays(state)])
            new, part = update(rule, params[touched], total, part)
            params = params.copy()
            state = _state(part.step, [None if x is None else x.copy() for x in _arrays(state)])
            params[touched] = new
            for whole, piece in zip(_arrays(state), _arrays(part), strict=True):
                if whole is not None:
                    whole[touched] = piece
        results.append(_result(params, state))
    return results


def rule_of(hyperparameters: dict[str, Any], fields: Collection[str]) -> Rule:
    """Return the rule of a vector; NotImplementedError for an implementation of `fields` that lacks the variant."""
    rule = Rule(**hyperparameters)
    if lacking := missing_fields(rule, fields):
        raise NotImplementedError(", ".join(lacking))
    return rule


def _arrays(state: State) -> list[Any]:
    return [getattr(state, name) for name in AVERAGES]


def _state(step: int, arrays: list[Any]) -> State:
    return State(step, **dict(zip(AVERAGES, arrays, strict=True)))


def _result(params: Array, state: State) -> Result:
    found = {"params": params, **{name: getattr(state, name, None) for name in AVERAGES}}
    return {name: np.array(value) for name, value in found.items() if value is not None}


def _update_in_kernel(rule: Rule, params: Array, gradient: Array, state: State) -> tuple[Array, State]:
    target = np.empty_like(params), _state(0, [None if x is None else np.empty_like(x) for x in _arrays(state)])
    return update(rule, params, gradient, state, out=target)


def torch_optimizer(
    hyperparameters: dict[str, Any],
    learning_rates: list[float],
    params: Array,
    gradients: list[Array],
    rows: list[Array] | None = None,
    *,
    execution: dict[str, Any],
) -> list[Result]:
    """Run `rmsprop.torch.RMSprop` on one tensor. With `rows`, gradients are sparse and rows are stepped lazily."""
    import torch

    from rmsprop.torch import RMSprop
    from rmsprop.torch.groups import FIELDS

    rule = rule_of(hyperparameters, native.FIELDS if execution.get("fused") else FIELDS.values())
    param = torch.from_numpy(params.copy())
    if rows is not None:  # fused=True refuses sparse gradients, though the kernel steps their rows
        execution = {**execution, "fused": None if execution.get("fused") else False, "sparse": "lazy"}
    optimizer = RMSprop.from_rule([param], rule, **execution)
    results = []
    for t, (lr, gradient) in enumerate(zip(learning_rates, gradients, strict=True)):
        values = torch.from_numpy(gradient)
        if rows is None:
            param.grad = values
        else:
            index = torch.from_numpy(rows[t])[None]
            param.grad = torch.sparse_coo_tensor(index, values, param.shape, check_invariants=True)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        state = {name: optimizer.state[param][name] for name in AVERAGES if name in optimizer.state[param]}
        results.append({"params": param.numpy().copy(), **{name: x.numpy().copy() for name, x in state.items()}})
    return results


def jax_transformation(
    hyperparameters: dict[str, Any], learning_rates: list[float], params: Array, gradients: list[Array]
) -> list[Result]:
    """Run `rmsprop.jax.rmsprop` under jax.jit, with the learning rate as an argument."""
    import jax
    import optax

    from rmsprop.jax import FIELDS, rmsprop

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    rule = rule_of(hyperparameters, FIELDS)

    @jax.jit
    def step(lr: Any, gradient: Any, state: Any, values: Any) -> tuple[Any, Any]:
        updates, state = rmsprop(rule, lr).update(gradient, state, values)
        return optax.apply_updates(values, updates), state

    values, results = jax.numpy.asarray(params), []
    state = rmsprop(rule).init(values)
    for lr, gradient in zip(learning_rates, gradients, strict=True):
        values, state = step(np.float64(lr), jax.numpy.asarray(gradient), state, values)
        results.append(_result(np.asarray(values), state))
    return results


def keras_optimizer(
    hyperparameters: dict[str, Any], learning_rates: list[float], params: Array, gradients: list[Array]
) -> list[Result]:
    """Run `rmsprop.keras.RMSprop` on one variable. floatx, the dtype of the learning rate, is float64."""
    os.environ.setdefault("KERAS_BACKEND", KERAS_BACKEND)  # read when Keras is imported
    import keras

    from rmsprop.keras import FIELDS, RMSprop

    rule = rule_of(hyperparameters, FIELDS.values())
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        param = keras.Variable(params, dtype="float64")
        optimizer = RMSprop.from_rule(rule)
        optimizer.build([param])
        names = {name: (f"_{name}", f"_max_{name}") for name in AVERAGES}
        kept = {
            name: [v for v in optimizer.variables if v.name.endswith(own) and not v.name.endswith(other)]
            for name, (own, other) in names.items()
        }
        results = []
        for lr, gradient in zip(learning_rates, gradients, strict=True):
            optimizer.learning_rate = lr
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [param])
            now = {"params": param, **{name: found[0] for name, found in kept.items() if found}}
            results.append({name: np.array(keras.ops.convert_to_numpy(v)) for name, v in now.items()})
        return results
    finally:
        keras.config.set_floatx(before)


def pytensor_updates(
    hyperparameters: dict[str, Any], learning_rates: list[float], params: Array, gradients: list[Array]
) -> list[Result]:
    """Run `rmsprop.pytensor.updates` in a function that PyTensor runs without compiling C."""
    import pytensor

    from rmsprop.pytensor import FIELDS, updates

    pytensor.config.floatX = "float64"
    param, lr = pytensor.shared(params.copy(), name="param"), pytensor.shared(0.0)
    gradient = pytensor.tensor.vector(dtype="float64")
    changes = updates([gradient], [param], rule_of(hyperparameters, FIELDS), learning_rate=lr)
    step = pytensor.function([gradient], [], updates=changes, mode="FAST_COMPILE")
    names = {"param": "params", **{f"param_{name}": name for name in AVERAGES}}
    kept = {names[variable.name]: variable for variable in changes if variable.name in names}
    results = []
    for rate, value in zip(learning_rates, gradients, strict=True):
        lr.set_value(rate)
        step(value)
        results.append({name: variable.get_value() for name, variable in kept.items()})
    return results


def implementations() -> tuple[dict[str, Implementation], dict[str, str]]:
    """Return the implementations whose framework is installed, and how to install the other frameworks."""
    found: dict[str, Implementation] = {"rule": numpy_rule}
    missing: dict[str, str] = {}
    backend = os.environ.get("KERAS_BACKEND", KERAS_BACKEND)
    if native.kernel is None:
        missing["kernel"] = str(native.missing())
    else:
        found["kernel"] = partial(numpy_rule, update=_update_in_kernel, fields=native.FIELDS)
    extras: dict[str, tuple[list[str], dict[str, Implementation]]] = {
        "torch": (
            ["torch"],
            {
                "torch": partial(torch_optimizer, execution={"foreach": False}),
                "torch foreach": partial(torch_optimizer, execution={"foreach": True}),
                "torch kernel": partial(torch_optimizer, execution={"fused": True}),
            },
        ),
        "jax": (["jax", "optax"], {"jax": jax_transformation}),
        "keras": (["keras", backend], {f"keras ({backend})": keras_optimizer}),
        "pytensor": (["pytensor"], {"pytensor": pytensor_updates}),
    }
    for extra, (needed, ways) in extras.items():
        absent = [name for name in needed if importlib.util.find_spec(name) is None]
        if absent:
            missing[extra] = f"needs {' and '.join(absent)}: pip install 'rmsprop[{extra}]'"
        else:
            found |= {name: way for name, way in ways.items() if name != "torch kernel" or native.kernel is not None}
    return found, missing
