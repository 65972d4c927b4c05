"""A recipe's rule, weight decay and rates in words, for `Recipe.explain`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rmsprop.recipes.schedules import Exponential, RunFacts

_STEPS = 1000  # steps per epoch in `milestones`; the rates are the same for any long epoch


def rule_words(values: Mapping[str, Any]) -> str:
    """Return decay, ε, momentum and start of a rule in words. `values` lacks the open values."""
    inside = values["eps_inside_sqrt"]
    side = "inside" if inside else "outside"
    eps = f"eps open, {side} the root"
    if "eps" in values:
        floor = math.sqrt(values["eps"]) if inside else values["eps"]
        eps = f"eps {values['eps']:g} {side} the root (smallest denominator {floor:.3g})"
    words = [f"decay {values['decay']:g}", eps]
    if values["momentum"]:
        where = "the rate in its buffer" if values["lr_in_momentum"] else "the rate outside its buffer"
        words.append(f"momentum {values['momentum']:g}, {where}")
    if values["centered"]:
        words.append("centered")
    start = values.get("initial_square_avg")
    words.append("start of the average open" if start is None else f"the average starts at {start:g}")
    return ", ".join(words)


def decay_words(values: Mapping[str, Any], not_decayed: Sequence[str]) -> str:
    """Return weight decay and the parameters exempt from it, in words; empty without weight decay."""
    if not values["weight_decay"]:
        return ""
    kind = "decoupled" if values["decoupled_weight_decay"] else "L2"
    without = f", without {', '.join(not_decayed)}" if not_decayed else ", on every parameter"
    return f"{values['weight_decay']:g}, {kind}{without}"


def milestones(schedule: Exponential, peak: float, epochs: int) -> str:
    """Return the rates at the ends of the warm-up and of the run."""
    run = RunFacts(peak, _STEPS)

    def rate(step: int) -> float:
        return float(peak * schedule.fraction(step, run))

    end = f"{rate(epochs * _STEPS - 1):.3g} at the end"
    if not schedule.warmup_epochs:
        return end
    return f"{rate(0):g} at the first step, {rate(schedule.warmup_epochs * _STEPS):.4g} after the warm-up, {end}"
