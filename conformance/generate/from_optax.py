"""Vectors from optax: optax.rmsprop, compiled by jax.jit, as it is used.

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


SEEN: dict[str, Any] = {"learning_rate": 0.03, "decay": 0.8, "eps": 0.02}
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
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
