"""Vectors from Keras 3: keras.optimizers.RMSprop on the TensorFlow backend (or the one that KERAS_BACKEND names)."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if os.environ["KERAS_BACKEND"] == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

import keras
from shared import Array, Family, Step, main


def start(arguments: dict[str, Any], params: Array) -> Step:
    """Set `floatx`, the dtype of the learning rate, to the parameters' dtype.

    The TensorFlow backend rounds weight_decay to float32, whatever the parameters are. 0.25 is exact there.
    """
    keras.config.set_floatx(params.dtype.name)
    param = keras.Variable(params, dtype=params.dtype.name)
    optimizer = keras.optimizers.RMSprop(**arguments)
    optimizer.build([param])
    slots = {"params": param, "square_avg": optimizer._velocities[0]}
    if arguments.get("centered"):
        slots["grad_avg"] = optimizer._average_gradients[0]
    if arguments.get("momentum"):
        slots["momentum_buffer"] = optimizer._momentums[0]

    def apply(gradient: Any) -> None:
        optimizer.apply([gradient], [param])

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        apply = tf.function(apply)

    def step(gradient: Array, lr: float) -> dict[str, Array]:
        optimizer.learning_rate = lr
        apply(keras.ops.convert_to_tensor(gradient))
        return {name: keras.ops.convert_to_numpy(variable.value).copy() for name, variable in slots.items()}

    return step


SEEN: dict[str, Any] = {"learning_rate": 0.03, "rho": 0.8, "epsilon": 0.02}
FAMILIES = [
    Family(
        "keras", f"keras.optimizers.RMSprop, {keras.backend.backend()} backend", keras.__version__, "keras", start,
        {
            "default": {},
            "plain": SEEN,
            "momentum": {**SEEN, "momentum": 0.8},
            "centered": {**SEEN, "centered": True},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
            "weight-decay": {**SEEN, "weight_decay": 0.25},
            "all": {**SEEN, "centered": True, "momentum": 0.8, "weight_decay": 0.25},
        },
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
