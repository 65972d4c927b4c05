"""Adam, as its paper has it, to compare RMSprop with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rmsprop.lab.claims.claim import Floats


class Adam(NamedTuple):
    """Hyperparameters of Adam."""

    lr: float
    b1: float
    b2: float
    eps: float


def adam_path(adam: Adam, grads: Floats) -> Floats:
    """Return the parameters after each gradient of `grads`, from 0 on: algorithm 1 of Kingma and Ba."""
    m = v = p = np.zeros_like(grads[0])
    path = []
    for t, g in enumerate(grads, start=1):
        m, v = adam.b1 * m + (1 - adam.b1) * g, adam.b2 * v + (1 - adam.b2) * g * g
        p = p - adam.lr * (m / (1 - adam.b1**t)) / (np.sqrt(v / (1 - adam.b2**t)) + adam.eps)
        path.append(p)
    return np.array(path)
