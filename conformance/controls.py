"""Rules with one small error. Every comparison must detect them."""

from __future__ import annotations

import dataclasses

from rmsprop import Rule


def perturbed(rule: Rule) -> dict[str, Rule]:
    """Return copies of a rule with one error each, by the name of the error."""

    def but(**changes: float | bool) -> Rule:
        """Return a copy with changes. NAdam's schedule goes where the copy could not have it."""
        if not {"nesterov", "bias_correction", "first_moment"}.isdisjoint(changes):
            changes = {"momentum_decay": 0.0, **changes}
        return dataclasses.replace(rule, **changes)  # type: ignore[arg-type]

    wrong = {
        "eps place": but(eps_inside_sqrt=not rule.eps_inside_sqrt),
        "decay -1 %": but(decay=0.99 * rule.decay),
        "centered": but(centered=not rule.centered),
        "bias correction": but(bias_correction=not rule.bias_correction),
        "maximize": but(maximize=not rule.maximize),
    }
    if not (rule.amsgrad and rule.bias_correction):
        wrong["start of the average"] = but(initial_square_avg=1 - rule.initial_square_avg)
    if rule.amsgrad or not (rule.initial_square_avg and rule.bias_correction):
        wrong["amsgrad"] = but(amsgrad=not rule.amsgrad)
    if 1.01 * rule.decay < 1:
        wrong["decay +1 %"] = but(decay=1.01 * rule.decay)
    if rule.momentum:
        wrong["momentum before or after the division"] = but(first_moment=not rule.first_moment, lr_in_momentum=False)
        if not rule.first_moment:
            wrong["learning rate in the buffer"] = but(lr_in_momentum=not rule.lr_in_momentum)
        wrong["nesterov"] = but(nesterov=not rule.nesterov)
        wrong["momentum -1 %"] = but(momentum=0.99 * rule.momentum)
    if rule.momentum_decay:
        wrong["momentum_decay -1 %"] = but(momentum_decay=0.99 * rule.momentum_decay)
    if rule.weight_decay:
        wrong["decoupled"] = but(decoupled_weight_decay=not rule.decoupled_weight_decay)
        wrong["weight decay -1 %"] = but(weight_decay=0.99 * rule.weight_decay)
    return wrong
