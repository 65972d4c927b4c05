"""Whose RMSprop a PyTorch state dict is of: told by the keys of its parameter groups, and what these mean.

Every library's groups have lr, alpha, eps, momentum, centered and weight_decay. What else they have tells whose they
are; those of Stable-Baselines3 have nothing else, as those of an early torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmsprop.errors import InputError, plain
from rmsprop.profiles import FIELDS, PROFILES

VERSION = 1  # of the form of rmsprop.torch's state dicts; those before had none
VERSION_KEY = "state_version"  # of a group: torch's tools for checkpoints drop what stands outside of groups
SHAPE_KEY = "shape"  # in a parameter's state: that of the parameter, where the averages are packed

_TELLING = (
    ("rmsprop.torch", "eps_inside_sqrt"),
    ("timm", "lr_in_momentum"),
    ("torch", "foreach"),
    ("bitsandbytes", "betas"),
)
# Fields of Rule under the names of groups: torch's, and where timm's is another.
_NAMES = {"alpha": "decay", "decoupled_decay": "decoupled_weight_decay"}
_EVERYWHERE = ("lr", "decay", "eps", "momentum", "weight_decay", "centered")
_TIMM_ONLY = ("decoupled_decay", "corrected_weight_decay", "max_lr_snapshot", "caution")


def kind_of(groups: Sequence[Mapping[str, Any]]) -> str | None:
    """Return which of `rmsprop.checkpoint.KINDS` a state dict's groups are of; None if they do not tell."""
    keys = next((set(group) for group in groups if not set(group) <= {"params", "param_names"}), set())
    return next((kind for kind, key in _TELLING if key in keys), None)


def is_of(kind: str, group: Mapping[str, Any]) -> bool:
    """Return whether a group can be one of `kind`, and not of another optimizer."""
    if kind == "bitsandbytes":
        return "betas" in group and group["betas"][0] != 0  # its Adagrad has (0, 0)
    lacking = {"alpha", "eps", *(("lr_in_momentum",) if kind == "timm" else ())} - group.keys()
    return not lacking and not (kind == "sb3" and "foreach" in group)


def keyed(state: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]]) -> dict[Any, Any]:
    """Return a state dict's state under the keys that its groups have for parameters; what belongs to none stays.

    Stores make text of numbers: state under "0" is that of parameter 0. State under names is that of `param_names`.
    """
    found = dict(state)
    keys = {key for group in groups for key in group["params"]}
    for group in groups:
        names = group.get("param_names") or [None] * len(group["params"])
        for key, name in zip(group["params"], names, strict=True):
            number = int(key) if isinstance(key, str) and key.isdecimal() else None
            for other in (number, str(key), name):
                if key not in found and other in found and other not in keys:
                    found[key] = found.pop(other)
    return found


def check_goes_on(group: Mapping[str, Any]) -> None:
    """Raise InputError for a group of a newer version, or of a rule which is timm's alone."""
    version = plain(group.get(VERSION_KEY, 0))
    if not isinstance(version, int | float) or version > VERSION:
        name = f"{VERSION_KEY} of the state dict"
        raise InputError(name, f"at most {VERSION} here", version, "it is of a newer rmsprop: install that one")
    if kind_of([group]) != "timm":  # these keys are a wrapper's own there
        return
    if group.get("caution") and group.get("momentum"):
        remedy = "no other RMSprop masks its momentum: the run cannot go on elsewhere"
        raise InputError("caution", "False", True, remedy)
    if group.get("corrected_weight_decay") and group.get("weight_decay"):
        remedy = "no other RMSprop scales its weight decay by lr: the run cannot go on elsewhere"
        raise InputError("corrected_weight_decay", "False", True, remedy)


def stated(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Rule` that a group states, under their names there."""
    said = {"decay": group["betas"][0]} if "betas" in group else {}
    # "decay" is no library's name in a group: a user's own.
    fields = ((_NAMES.get(name, name), value) for name, value in group.items() if name != "decay")
    return said | {field: value for field, value in fields if field in FIELDS}


def as_ours(kind: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of `kind` as one of rmsprop.torch, as far as it tells.

    The group of timm and SB3 tells everything of the rule: what they cannot choose is theirs. That of torch leaves
    open what torch does not know.
    """
    if kind not in ("timm", "sb3"):
        return {name: value for name, value in group.items() if name != VERSION_KEY}
    profile = PROFILES[kind]
    traits = {field: profile.default(field) for field in FIELDS if field not in _EVERYWHERE}
    rule = {("alpha" if field == "decay" else field): value for field, value in (traits | stated(group)).items()}
    return {name: value for name, value in group.items() if name not in _TIMM_ONLY} | rule
