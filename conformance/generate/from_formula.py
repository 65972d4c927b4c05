"""Vectors from two sources without a library: Graves 2013, and DQN as released in Lua. Plain floats, term by term."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from shared import Array, Family, Step, main


def start_graves(arguments: dict[str, Any], params: Array) -> Step:
    """Follow equations 38 to 45 of arXiv:1308.0850. ℵ is the decay, ℶ the momentum, ℷ the learning rate and ℸ eps.

    n_i ← ℵ n_i + (1 − ℵ) ε_i²        g_i ← ℵ g_i + (1 − ℵ) ε_i
    Δ_i ← ℶ Δ_i − ℷ ε_i / √(n_i − g_i² + ℸ)        w_i ← w_i + Δ_i
    with ℵ = 0.95, ℶ = 0.9, ℷ = 0.0001, ℸ = 0.0001.
    """
    aleph, beth = arguments.get("decay", 0.95), arguments.get("momentum", 0.9)
    daleth = arguments.get("eps", 0.0001)
    size = len(params)
    w, n, g, delta = params.tolist(), [0.0] * size, [0.0] * size, [0.0] * size

    def step(gradient: Array, gimel: float) -> dict[str, Array]:
        for i, epsilon in enumerate(gradient.tolist()):
            n[i] = aleph * n[i] + (1 - aleph) * epsilon**2
            g[i] = aleph * g[i] + (1 - aleph) * epsilon
            delta[i] = beth * delta[i] - gimel * epsilon / sqrt(n[i] - g[i] ** 2 + daleth)
            w[i] = w[i] + delta[i]
        # The buffer is subtracted from the parameters, Δ is added.
        return _arrays(params=w, square_avg=n, grad_avg=g, momentum_buffer=[0.0 - x for x in delta])

    return step


def start_dqn(arguments: dict[str, Any], params: Array) -> Step:
    """Follow `qLearnMinibatch` of dqn/NeuralQLearner.lua, from "add weight cost to gradient" on.

    It ascends along dw = −gradient. With wc the weight cost and the released constants 0.95, 0.05 and 0.01:

    dw ← dw − wc·w        g ← 0.95 g + 0.05 dw        g2 ← 0.95 g2 + 0.05 dw²
    tmp ← √(g2 − g² + 0.01)        deltas ← 0·deltas + lr·dw/tmp        w ← w + deltas
    """
    wc = arguments.get("weight_decay", 0.0)
    size = len(params)
    w, g, g2 = params.tolist(), [0.0] * size, [0.0] * size

    def step(gradient: Array, lr: float) -> dict[str, Array]:
        for i, x in enumerate(gradient.tolist()):
            dw = -x - wc * w[i]
            g[i] = 0.95 * g[i] + 0.05 * dw
            g2[i] = 0.95 * g2[i] + 0.05 * dw * dw
            w[i] = w[i] + lr * dw / sqrt(g2[i] - g[i] * g[i] + 0.01)
        return _arrays(params=w, square_avg=g2, grad_avg=[0.0 - x for x in g])  # average of −dw

    return step


def _arrays(**values: list[float]) -> dict[str, Array]:
    return {name: np.array(value) for name, value in values.items()}


GRAVES = "Graves, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850 (2013), eq. 38-45"
DQN = "kuz/DeepMind-Atari-Deep-Q-Learner: dqn/NeuralQLearner.lua (Mnih et al., Nature 518, 2015)"
FAMILIES = [
    Family(
        "graves", "formula", "2013", "graves", start_graves,
        {"default": {}, "larger": {"lr": 0.03, "decay": 0.8, "momentum": 0.6, "eps": 0.02}},
        source=GRAVES,
    ),
    Family(
        "dqn", "formula", "2015", "dqn", start_dqn,
        {"default": {}, "larger": {"lr": 0.03}, "weight-cost": {"lr": 0.03, "weight_decay": 0.3}},
        source=DQN,
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
