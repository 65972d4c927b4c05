"""Vectors from legacy Keras: tf_keras.optimizers.legacy.RMSprop, with eps inside the root only with momentum."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from shared import Array, Family, Step, main


def start(arguments: dict[str, Any], params: Array) -> Step:
    """Pass hyperparameters as tensors and functions: legacy Keras would store Python floats in float32."""
    rate = tf.Variable(0.0, dtype=params.dtype)
    numbers = {"rho": 0.9, **arguments, "learning_rate": lambda: rate}
    for name in {"rho", "momentum"} & set(numbers):
        numbers[name] = tf.constant(numbers[name], params.dtype)
    param = tf.Variable(params)
    optimizer = tf_keras.optimizers.legacy.RMSprop(**numbers)
    slots = {"square_avg": "rms"}
    if arguments.get("centered"):
        slots["grad_avg"] = "mg"
    if arguments.get("momentum"):
        slots["momentum_buffer"] = "momentum"

    @tf.function  # type: ignore[untyped-decorator]
    def apply(gradient: tf.Tensor) -> None:
        optimizer.apply_gradients([(gradient, param)])

    def step(gradient: Array, lr: float) -> dict[str, Array]:
        rate.assign(lr)
        apply(tf.constant(gradient))
        state = {ours: optimizer.get_slot(param, theirs).numpy() for ours, theirs in slots.items()}
        return {"params": param.numpy(), **state}

    return step


SEEN: dict[str, Any] = {"learning_rate": 0.03, "rho": 0.8, "epsilon": 0.02}
FAMILIES = [
    Family(
        "keras-legacy", "tf_keras.optimizers.legacy.RMSprop", tf_keras.__version__, "keras-legacy", start,
        {
            "default": {},
            "plain": SEEN,
            "momentum": {**SEEN, "momentum": 0.8},
            "momentum-default-eps": {"learning_rate": 0.01, "momentum": 0.9},
            "centered": {**SEEN, "centered": True},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
        },
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
