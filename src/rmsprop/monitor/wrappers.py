"""Unwrap the optimizers of Lightning and Accelerate."""

from __future__ import annotations

from typing import Any

from rmsprop.errors import InputError, Received

_TRAINERS = {"accelerate", "lightning", "lightning_fabric", "pytorch_lightning"}


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside wrappers of Lightning (attribute `_optimizer`) and Accelerate (`optimizer`).

    Other objects with such an attribute, such as schedulers, are returned as they are.
    """
    while any(cls.__module__.partition(".")[0] in _TRAINERS for cls in type(optimizer).__mro__):
        inner = vars(optimizer).get("_optimizer", vars(optimizer).get("optimizer"))
        if inner is None:
            break
        optimizer = inner
    return optimizer


def watchable(optimizer: Any) -> Any:
    """Return the `rmsprop.torch.RMSprop` that `optimizer` is or wraps; raise InputError if there is none."""
    inner = unwrapped(optimizer)
    if callable(getattr(inner, "watch", None)) and hasattr(inner, "param_groups"):
        return inner
    found = Received(f"one of {type(inner).__module__.partition('.')[0]}, {type(inner).__name__}")
    remedy = "create one, or use rmsprop.monitor.from_optax or from_keras with JAX and Keras"
    raise InputError("optimizer", "a rmsprop.torch.RMSprop", found, remedy)
