"""Parameter groups as rules: a group's hyperparameters, checked, under the names that torch gives them."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, check_flag, check_number
from rmsprop.profiles import ALIASES
from rmsprop.rule import Rule

# A rule's fields as a group names them: torch's name for `decay` is `alpha`.
FIELDS = {("alpha" if field.name == "decay" else field.name): field.name for field in dataclasses.fields(Rule)}
EXECUTION = {
    "capturable": False,
    "foreach": None,
    "differentiable": False,
    "fused": None,
    "state_dtype": None,
    "stochastic_rounding": False,
    "sparse": "exact",
    "nonfinite": "propagate",
}
# What an argument may be, and what to do if it is something else.
_CHOICES: dict[str, tuple[tuple[str | None, ...], str]] = {
    "state_dtype": ((None, "bfloat16", "uint8"), "None keeps float32 for float16 and bfloat16 parameters"),
    "sparse": (("exact", "lazy"), "'exact' equals dense gradients, 'lazy' is TensorFlow's rule"),
    "nonfinite": (("propagate", "skip", "zero"), "'skip' leaves out the whole step, 'zero' the elements"),
}
RULE_NAMES = tuple(name for name in FIELDS if name != "lr")
rule_values = itemgetter(*RULE_NAMES)  # a group's hyperparameters other than lr
_OURS = {field: name for name, field in FIELDS.items()}
_OTHER_NAMES = {**{alias: field for alias, field in ALIASES.items() if alias != "alpha"}, "decay": "decay"}


def lr_number(lr: float | Tensor) -> float:
    """Return a learning rate as a float; one that autograd follows is read without a warning."""
    return float(lr.detach()) if isinstance(lr, Tensor) else float(lr)


def rule_of(group: dict[str, Any]) -> Rule:
    """Return the rule of a group, checked; its lr is a placeholder, since a Tensor lr is not read here."""
    check_lr(group)
    if torch.compiler.is_compiling():  # it cannot trace itemgetter, and would trace through the cache
        return rule_from(*[group[name] for name in RULE_NAMES])
    values = rule_values(group)
    try:
        return _cached_rule(*values)
    except TypeError:  # something unhashable, such as a list, which Rule will name
        return rule_from(*values)


def group_of(rule: Rule) -> dict[str, Any]:
    """Return a group's hyperparameters that follow `rule`, run as it is best."""
    return {**{name: getattr(rule, field) for name, field in FIELDS.items()}, **EXECUTION}


def check_lr(group: dict[str, Any]) -> None:
    """Raise InputError if a group's lr is a number out of range."""
    lr = group["lr"]
    if not isinstance(lr, Tensor):
        # A schedule that ends at 0 may end at its rounding noise below 0 (LinearLR does).
        noise = isinstance(lr, float) and -1e-12 * group.get("initial_lr", 0.0) <= lr < 0
        check_number("lr", 0.0 if noise else lr, "1e-4 to 1e-2 is usual")


def rule_from(*values: Any) -> Rule:
    """Return the rule of a group's `rule_values`, checked."""
    try:
        return Rule(**{FIELDS[name]: value for name, value in zip(RULE_NAMES, values, strict=True)})
    except InputError as error:
        if error.name != "decay":
            raise
        raise InputError("alpha", error.allowed, error.value, error.remedy) from None


_cached_rule = lru_cache(maxsize=256, typed=True)(rule_from)


def check_group(group: dict[str, Any]) -> None:
    """Raise InputError if a value of a new `group` is unusable or stands under another library's name."""
    for name, field in _OTHER_NAMES.items():
        if name in group:
            raise InputError(
                "a parameter group's key", "one of this optimizer's arguments", name, f"say {_OURS[field]}"
            )
    check_values(group)


def check_storage(group: dict[str, Any]) -> None:
    """Raise InputError if a group's state_dtype, sparse, nonfinite or stochastic_rounding is none that there is."""
    values = _storage_values(group)
    try:
        _known_storage(*values)
    except TypeError:  # something unhashable
        _check_storage(*values)


def _check_storage(*values: Any) -> None:
    for (name, (choices, remedy)), value in zip(_CHOICES.items(), values, strict=False):
        if not (value is None or isinstance(value, str)) or value not in choices:
            raise InputError(name, ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}", value, remedy)
    seed = values[-1]
    if seed is not False and not (isinstance(seed, int) and 0 < seed < 2**31):
        raise InputError("stochastic_rounding", "False, True or a seed from 1 to 2³¹ − 1", seed, "True is the seed 1")


_storage_values = itemgetter(*_CHOICES, "stochastic_rounding")
_known_storage = lru_cache(maxsize=64, typed=True)(_check_storage)


def check_values(group: dict[str, Any]) -> None:
    """Raise InputError if a value of `group` is unusable; keys that are not ours are its owner's."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        found = Received(f"shape {tuple(lr.shape)}")
        raise InputError("lr", "a number or a one-element Tensor", found, "give each rate a parameter group")
    if isinstance(lr, Tensor) and lr.device.type != "meta":
        check_number("lr", lr_number(lr), "1e-4 to 1e-2 is usual")
    rule_of(group)
    check_flag("capturable", group["capturable"])
    check_flag("differentiable", group["differentiable"])
    if group["foreach"] is not None:
        check_flag("foreach", group["foreach"], "pass True, False or None")
    if group["foreach"] and group["differentiable"]:
        raise InputError("foreach", "None or False with differentiable=True", True, "leave foreach out")
    if group["fused"] is not None:
        check_flag("fused", group["fused"], "pass True, False or None")
    check_storage(group)
    if group["differentiable"]:
        for name in ("state_dtype", "stochastic_rounding"):
            if group[name]:
                raise InputError(name, f"{EXECUTION[name]} with differentiable=True", group[name], f"leave {name} out")
    if group["fused"]:
        for name in ("foreach", "capturable", "differentiable"):
            if group[name]:
                raise InputError("fused", f"None or False with {name}=True", True, f"leave fused or {name} out")
