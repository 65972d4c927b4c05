"""Quantiles of the effective learning rates of each layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from rmsprop.lab.sharding import gathered
from rmsprop.names import plain_name

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SAMPLE = 1_000_000  # quantiles of a larger layer use evenly spaced elements: at least this many, at most twice as many


def effective_rates(model: nn.Module, optimizer: Optimizer) -> dict[str, list[float | None]]:
    """Return the `QUANTILES` of each layer's effective rates; empty if the optimizer has none. Collective."""
    measure: Callable[[Tensor], Tensor] | None = getattr(optimizer, "effective_lr", None)
    if measure is None:
        return {}
    layers: dict[str, list[float | None]] = {}
    for name, p in model.named_parameters():
        if optimizer.state.get(p) and p.numel():
            rates = gathered(measure(p)).flatten()
            rates = rates[:: max(1, len(rates) // _SAMPLE)].double().cpu()
            # NumPy, since torch.quantile sorts all elements. Interpolation between infinities is invalid.
            with np.errstate(invalid="ignore"):
                layers[plain_name(name)] = np.quantile(rates.numpy(), QUANTILES).tolist()
    return layers
