"""The optimizer inside of what trainers put around it."""

from __future__ import annotations

from typing import Any


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside of wrappers: Lightning's keep it as `_optimizer`, Accelerate's as `optimizer`."""
    for _ in range(8):
        inner = getattr(optimizer, "__dict__", {})
        inner = inner.get("_optimizer", inner.get("optimizer"))
        if inner is None:
            break
        optimizer = inner
    return optimizer
