"""Vectors from optax: optax.rmsprop, adam, adamw, nadam and amsgrad, compiled by jax.jit, as they are used.

The compiler may contract a product and a sum into one operation: the last digits depend on the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

import optax  # noqa: E402
from shared import Array, Family, Step, main  # noqa: E402


def start(arguments: dict[str, Any], params: Array) -> Step:
    """Build one transformation per learning rate. The state does not depend on the rate."""
    compiled: dict[float, Callable[..., Any]] = {}
    values = jax.numpy.asarray(params)
    state = optax.rmsprop(**arguments).init(values)

    def step(gradient: Array, lr: float) -> dict[str, Array]:
        nonlocal values, state
        if lr not in compiled:
            compiled[lr] = jax.jit(optax.rmsprop(**{**arguments, "learning_rate": lr}).update)
        updates, state = compiled[lr](jax.numpy.asarray(gradient), state, values)
        values = optax.apply_updates(values, updates)
        result = {"params": np.array(values), "square_avg": np.array(optax.tree_utils.tree_get(state, "nu"))}
        if arguments.get("centered"):
            result["grad_avg"] = np.array(optax.tree_utils.tree_get(state, "mu"))
        if arguments.get("momentum"):
            # optax adds its trace to the parameters; the buffer of a vector is subtracted.
            result["momentum_buffer"] = 0.0 - np.array(optax.tree_utils.tree_get(state, "trace"))
        return result

    return step


def start_adam(function: Callable[..., Any]) -> Callable[[dict[str, Any], Array], Step]:
    """Return the start of a function of Adam's family."""

    def start(arguments: dict[str, Any], params: Array) -> Step:
        compiled: dict[float, Callable[..., Any]] = {}
        values = jax.numpy.asarray(params)
        state = function(**arguments).init(values)

        def step(gradient: Array, lr: float) -> dict[str, Array]:
            nonlocal values, state
            if lr not in compiled:
                compiled[lr] = jax.jit(function(**{**arguments, "learning_rate": lr}).update)
            updates, state = compiled[lr](jax.numpy.asarray(gradient), state, values)
            values = optax.apply_updates(values, updates)
            names = {"mu": "momentum_buffer", "nu": "square_avg", "nu_max": "max_square_avg"}
            found = {ours: optax.tree_utils.tree_get(state, name, None) for name, ours in names.items()}
            return {"params": np.array(values), **{k: np.array(x) for k, x in found.items() if x is not None}}

        return step

    return start


def amsgrad(learning_rate: float, **arguments: float) -> Any:
    """Return AMSGrad as in the paper. optax.amsgrad takes the maximum of corrected averages, which Rule has not."""
    scale = optax.scale_by_amsgrad(**arguments, bias_correction_mu=False, bias_correction_nu=False)
    return optax.chain(scale, optax.scale_by_learning_rate(learning_rate))


SEEN: dict[str, Any] = {"learning_rate": 0.03, "decay": 0.8, "eps": 0.02}
ADAM: dict[str, Any] = {"learning_rate": 0.03, "b1": 0.8, "b2": 0.9, "eps": 0.02}
FAMILIES = [
    Family(
        "optax", "optax.rmsprop", version("optax"), "optax", start,
        {
            "default": {"learning_rate": 0.01},
            "plain": SEEN,
            "eps-outside": {**SEEN, "eps_in_sqrt": False},
            "momentum": {**SEEN, "momentum": 0.8},
            "momentum-eps-outside": {**SEEN, "momentum": 0.8, "eps_in_sqrt": False},
            "nesterov": {**SEEN, "momentum": 0.8, "nesterov": True},
            "initial-scale": {**SEEN, "initial_scale": 1.0, "momentum": 0.8},
            "centered": {**SEEN, "centered": True},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
            "bias-correction": {**SEEN, "bias_correction": True},
            "bias-correction-momentum": {**SEEN, "bias_correction": True, "momentum": 0.8, "nesterov": True},
            "bias-correction-centered": {**SEEN, "bias_correction": True, "centered": True},
        },
    ),
    Family(
        "optax-adam", "optax.adam", version("optax"), "adam", start_adam(optax.adam),
        {"default": {"learning_rate": 1e-3}, "plain": ADAM},
    ),
    Family(
        "optax-adamw", "optax.adamw", version("optax"), "adamw", start_adam(optax.adamw),
        {
            "default": {"learning_rate": 1e-3, "weight_decay": 1e-4},
            "plain": {**ADAM, "weight_decay": 0.3},
        },
    ),
    Family(
        "optax-nadam", "optax.nadam", version("optax"), "nadam", start_adam(optax.nadam),
        {"default": {"learning_rate": 1e-3}, "plain": ADAM},
        implied={"momentum_decay": 0.0},
    ),
    Family(
        "optax-amsgrad", "optax.scale_by_amsgrad without bias corrections", version("optax"), "amsgrad",
        start_adam(amsgrad),
        {"plain": ADAM},
        implied={"bias_correction": False},
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
