"""From a rule to Adam, one switch at a time: the rules that `rmsprop compare --ablate` compares."""

from __future__ import annotations

import dataclasses

from rmsprop.errors import InputError, Received
from rmsprop.profiles import profile
from rmsprop.rule import Rule

# Fields that a switch sets to Adam's values, in the order of the switches, and the switch in words.
# A field that is not listed stays as it is: lr, weight decay, the direction.
_SWITCHES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("centered",), "not centered"),
    (("amsgrad",), "no maximum of v"),
    (("nesterov", "momentum_decay"), "no Nesterov"),
    (("initial_square_avg",), "v from {initial_square_avg:g}"),
    (("momentum",), "momentum {momentum:g}"),
    (("first_moment", "lr_in_momentum"), "momentum before division"),
    (("bias_correction",), "bias correction"),
    (("eps", "eps_inside_sqrt"), "ε = {eps:g} after the root"),
    (("decay",), "decay {decay:g}"),
)


def ablation(rule: Rule) -> dict[str, Rule]:
    """Return the rules from `rule`, called RMSprop, to Adam, by the name of the switch that made each.

    Each rule has one switch more than the one before it. Weight decay stays as it is.

    Raises
    ------
    InputError
        If the rule is Adam already.

    Examples
    --------
    >>> for name in ablation(Rule()):
    ...     print(name)
    RMSprop
    + momentum 0.9
    + momentum before division
    + bias correction
    + decay 0.999
    """
    adam = profile("adam")
    rules = {"RMSprop": rule}
    for fields, words in _SWITCHES:
        values = {name: getattr(adam, name) for name in fields}
        changed = dataclasses.replace(rule, **values)
        if changed != rule:
            rules[f"+ {words.format(**values)}"] = rule = changed
    if len(rules) == 1:
        raise InputError("--ablate", "given with a rule that differs from Adam", Received("Adam's"), "try it without")
    return rules
