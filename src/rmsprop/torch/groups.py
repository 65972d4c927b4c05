"""Parameter groups as rules: a group's hyperparameters, checked, under the names that torch gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, check_flag, check_number, may_change, plain
from rmsprop.hyperparameters import ALIASES, EVERYWHERE, HYPERPARAMETERS, names_in
from rmsprop.rule import Rule
from rmsprop.torch.private import dispatch_modes

# The fields of Rule that tensor operations implement, under the keys that they have in a parameter group.
FIELDS = names_in("torch", EVERYWHERE)
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
_FLAGS = tuple(name for name, field in FIELDS.items() if HYPERPARAMETERS[field].below is None)
rule_values = itemgetter(*RULE_NAMES)  # a group's hyperparameters other than lr
_TORCH_NAMES = {field: name for name, field in FIELDS.items()}
# What a user may write for a key of a group: another library's name, or Rule's.
_OTHER_NAMES = {
    name: _TORCH_NAMES[field]
    for name, field in {**ALIASES, **{field: field for field in _TORCH_NAMES}}.items()
    if field in _TORCH_NAMES and name not in FIELDS
}


def lr_number(lr: float | Tensor) -> float:
    """Return a learning rate as a float."""
    return float(lr.item()) if isinstance(lr, Tensor) else float(lr)


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
    """Raise InputError if a group's lr is out of range; a Tensor is read only where no device has to be waited for."""
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.device.type != "cpu" or torch.compiler.is_compiling() or dispatch_modes():
            return
        try:
            lr = lr.item()
        except RuntimeError:
            if lr.numel() == 1:  # only a transform of torch.func knows it
                return
            found = Received(f"shape {tuple(lr.shape)}")
            raise InputError(
                "lr", "a number or a one-element Tensor", found, "give each rate a parameter group"
            ) from None
        if 0 <= lr < math.inf:
            return
    # A schedule that ends at 0 may end at its rounding noise below 0 (LinearLR does).
    noise = isinstance(lr, float) and -1e-12 * group.get("initial_lr", 0.0) <= lr < 0
    check_number("lr", 0.0 if noise else lr, "1e-4 to 1e-2 is usual")


def rule_from(*values: Any) -> Rule:
    """Return the rule of a group's `rule_values`, checked."""
    try:
        return Rule(**{FIELDS[name]: value for name, value in zip(RULE_NAMES, values, strict=True)})
    except InputError as error:
        raise InputError(_TORCH_NAMES[error.name], error.allowed, error.value, error.remedy) from None


@lru_cache(maxsize=256, typed=True)
def _cached_rule(*values: Any) -> Rule:
    check_constant(values)
    return rule_from(*values)


def check_constant(values: Iterable[Any]) -> None:
    """Raise TypeError, as for what is unhashable, if one of `values` may change in place: no cache may hold it."""
    if any(map(may_change, values)):
        raise TypeError("a number that may change in place")


def other_names(group: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of a group that are another library's names for arguments which it lacks, with our names."""
    return {name: ours for name, ours in _OTHER_NAMES.items() if name in group and ours not in group}


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
    seed = plain(values[-1])
    if seed is not False and not (isinstance(seed, int) and 0 < seed < 2**31):
        raise InputError("stochastic_rounding", "False, True or a seed from 1 to 2³¹ − 1", seed, "True is the seed 1")


_storage_values = itemgetter(*_CHOICES, "stochastic_rounding")


@lru_cache(maxsize=64, typed=True)
def _known_storage(*values: Any) -> None:
    check_constant(values)
    _check_storage(*values)


def check_values(group: dict[str, Any], *, restored: bool = False) -> dict[str, Any]:
    """Return `group` with its hyperparameters as Python's numbers, else raise InputError; other keys are its owner's.

    A number in a Tensor stays there, since its owner may change it, unless it was `restored` from a file. A Tensor lr
    always stays.
    """
    group = dict(group)
    for name in (*FIELDS, *EXECUTION):
        is_kept = isinstance(group[name], Tensor) if name == "lr" else may_change(group[name]) and not restored
        if not is_kept:
            group[name] = plain(group[name])
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        found = Received(f"shape {tuple(lr.shape)}")
        raise InputError("lr", "a number or a one-element Tensor", found, "give each rate a parameter group")
    if isinstance(lr, Tensor) and lr.device.type not in ("cpu", "meta"):  # nothing runs yet: a device may be read
        check_number("lr", lr, "1e-4 to 1e-2 is usual")
    rule = rule_of(group)
    group |= {name: getattr(rule, FIELDS[name]) for name in _FLAGS}
    for name in ("capturable", "differentiable"):
        group[name] = check_flag(name, group[name])
    for name in ("foreach", "fused"):
        if group[name] is not None:
            group[name] = check_flag(name, group[name], "pass True, False or None")
    if group["foreach"] and group["differentiable"]:
        raise InputError("foreach", "None or False with differentiable=True", True, "leave foreach out")
    check_storage(group)
    if group["differentiable"]:
        for name in ("state_dtype", "stochastic_rounding"):
            if group[name]:
                raise InputError(name, f"{EXECUTION[name]} with differentiable=True", group[name], f"leave {name} out")
    if group["fused"]:
        for name in ("foreach", "capturable", "differentiable"):
            if group[name]:
                raise InputError("fused", f"None or False with {name}=True", True, f"leave fused or {name} out")
    return group
