"""The optimizer inside of what trainers put around it."""

from __future__ import annotations

from typing import Any

from rmsprop.errors import InputError, Received

_TRAINERS = {"accelerate", "lightning", "lightning_fabric", "pytorch_lightning"}


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside of wrappers: Lightning's keep it as `_optimizer`, Accelerate's as `optimizer`.

    Others that have such an attribute, schedulers and optimizers around an optimizer, are returned as they are.
    """
    while any(cls.__module__.partition(".")[0] in _TRAINERS for cls in type(optimizer).__mro__):
        inner = vars(optimizer).get("_optimizer", vars(optimizer).get("optimizer"))
        if inner is None:
            break
        optimizer = inner
    return optimizer


def watchable(optimizer: Any) -> Any:
    """Return the `rmsprop.torch.RMSprop` that `optimizer` is or wraps, else raise InputError."""
    own = unwrapped(optimizer)
    if callable(getattr(own, "watch", None)) and hasattr(own, "param_groups"):
        return own
    found = Received(f"one of {type(own).__module__.partition('.')[0]}, {type(own).__name__}")
    remedy = "make that, or use rmsprop.monitor.from_optax or from_keras with JAX and Keras"
    raise InputError("optimizer", "a rmsprop.torch.RMSprop", found, remedy)
