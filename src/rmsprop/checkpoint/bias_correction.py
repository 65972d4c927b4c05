"""What depends on the side of v's bias correction: ε and AMSGrad's maximum may come before or after it.

    √v̂ + ε            torch, optax, Keras' Nadam, this package
    √v̂ + ε/√(1−βᵗ)    Keras' Adam: √v + ε, and √(1−βᵗ) in the rate
    max v              torch, Keras, this package
    max v̂              optax

The differences vanish as βᵗ does.
"""

from __future__ import annotations

import numpy as np

from rmsprop.checkpoint.state import Checkpoint, Fields, ParameterState, Problem
from rmsprop.profiles import KINDS
from rmsprop.rule import Array

_SIDE = {True: "before", False: "after"}


def differences(source: Checkpoint, to: str, group: Fields) -> list[str]:
    """Return how the steps of kind `to` differ from those of a group of `source`, on account of these sides."""
    ours, theirs = KINDS[source.kind], KINDS[to]
    if not (group.get("bias_correction") and theirs.fixed.get("bias_correction", True)):
        return []
    decay, step = group.get("decay"), source.step
    now = None if decay is None or step is None else 1 - decay**step
    if now == 1:
        return []
    found = []
    if group.get("eps") != 0 and ours.eps_before_correction != theirs.eps_before_correction:
        before, there = _SIDE[ours.eps_before_correction], _SIDE[theirs.eps_before_correction]
        words = f"{source.kind} adds ε {before} the bias correction of v, {to} {there} it"
        if now is not None:
            root = (1 - decay * (1 - now)) ** 0.5
            words += f" (in the next step ε is {root if ours.eps_before_correction else 1 / root:.4g} times as large)"
        found.append(words)
    drops_maximum = not (group.get("amsgrad") and theirs.fixed.get("amsgrad", True))
    if ours.max_after_correction != theirs.max_after_correction and not drops_maximum:
        before, there = _SIDE[not ours.max_after_correction], _SIDE[not theirs.max_after_correction]
        found.append(f"{source.kind} takes the maximum {before} the bias correction of v, {to} {there} it")
    return found


def target_maximum(state: ParameterState, v: Array, kind: str, to: str, decay: float | None) -> Array | Problem:
    """Return AMSGrad's maximum for kind `to`, so that the next step divides by the same; v where `state` has none.

    A maximum of v̂ is multiplied by 1 − βᵗ, one of v divided by it: in float64, rounded once.
    """
    w = state.max_square_avg
    after, there = w is not None and KINDS[kind].max_after_correction, KINDS[to].max_after_correction
    w = v.copy() if w is None else w
    if after == there or not state.step or np.iscomplexobj(w):
        return w
    if decay is None:
        return Problem("unknown: decay, needed to convert max_square_avg; pass --decay")
    weight = 1 - decay**state.step
    with np.errstate(over="ignore"):
        wide = w.astype(np.float64)
        result: Array = np.asarray(wide * weight if after else wide / weight).astype(w.dtype)
    if after and (result < 0.99 * v.astype(np.float64)).any():
        words = "smaller than v̂, as with optax.amsgrad(bias_correction_nu=False), which no rule follows"
        return Problem(f"impossible: max_square_avg of {state.name} is {words}")
    if np.isfinite(w).all() and not np.isfinite(result).all():
        return Problem(f"impossible: max_square_avg of {state.name} after bias correction is beyond {w.dtype}")
    return result
