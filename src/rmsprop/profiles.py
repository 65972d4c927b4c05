"""Rules by the names of libraries and papers, and detection of the library that wrote a PyTorch state dict.

`profile("tf1", lr=0.045, momentum=0.9)` returns TensorFlow 1's rule. The facts are in the table of `rmsprop.libraries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from rmsprop.errors import InputError, Received, plain
from rmsprop.hyperparameters import ALIASES
from rmsprop.libraries import FIELDS, LIBRARIES, WITH_MOMENTUM, Groups, Kind, Profile
from rmsprop.rule import Rule, moment_weights

__all__ = [
    "ALIASES", "FIELDS", "FIELD_OF_KEY", "GROUPS", "KINDS", "PROFILES", "SHAPE_KEY", "VERSION", "VERSION_KEY",
    "WITH_MOMENTUM", "Groups", "Kind", "Profile", "canonical", "check_loadable", "check_mu_product",
    "group_as_ours", "group_fields", "is_group_of", "kind_of_groups", "mu_product", "profile", "state_as_ours",
    "state_by_key",
]  # fmt: skip

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {name: library.profile for name, library in LIBRARIES.items() if library.profile}
)
KINDS: Mapping[str, Kind] = MappingProxyType(
    {name: library.kind for name, library in LIBRARIES.items() if library.kind}
)


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rename `values` to the fields of `Rule`; raise InputError for an unknown name or a field given twice."""
    result: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in values.items():
        field = ALIASES.get(name, name)
        if field not in FIELDS:
            allowed = f"one of {', '.join(FIELDS)} (or {', '.join(ALIASES)})"
            raise InputError("an argument of a rule", allowed, name, "see rmsprop.Rule")
        if field in result:
            raise InputError(field, "given once", Received(f"{names[field]} and {name}"), f"omit {name}")
        result[field], names[field] = value, name
    return result


def profile(name: str, **overrides: Any) -> Rule:
    """Return the rule that a library or paper calls RMSprop: its defaults, changed by `overrides`.

    Parameters
    ----------
    name
        One of `PROFILES`: torch, tf1, keras, keras-legacy, optax, timm, sb3, graves, dqn, lasagne, adam, adamw,
        amsgrad, nadam, adam-b1-0.
    **overrides
        Fields of `Rule`, under its names or those of other libraries (alpha, rho, beta2: decay; learning_rate: lr;
        epsilon: eps; eps_in_sqrt: eps_inside_sqrt; initial_scale: initial_square_avg; decoupled_decay).

    Raises
    ------
    InputError
        For an unknown profile or argument, an argument given under two names, a value out of range, and
        where the library has no default learning rate and none is given (tf1, optax).

    Notes
    -----
    The rule follows the library while all numbers are finite. The library computes NaN if its variance turns negative
    or it divides by zero; the rule does not (E5 and E7 in `rmsprop.rule`). `docs/conventions.md` has a table of all
    profiles.

    Examples
    --------
    >>> profile("tf1", learning_rate=0.045, momentum=0.9, epsilon=1.0).initial_square_avg
    1.0
    >>> profile("keras-legacy").eps_inside_sqrt, profile("keras-legacy", momentum=0.9).eps_inside_sqrt
    (False, True)
    """
    if name not in PROFILES:
        raise InputError("profile", f"one of {', '.join(PROFILES)}", name, "rmsprop explain --profile NAME shows one")
    library = PROFILES[name]
    given = canonical(overrides)
    values = {**library.defaults, **given}
    if values.get("lr", Rule.lr) is None and "lr" not in given:
        remedy = f"{library.title} has no default; pass lr=0.001"
        raise InputError("lr", f"given with profile {name!r}", Received("none"), remedy)
    if values.get("eps_inside_sqrt") == WITH_MOMENTUM:
        values["eps_inside_sqrt"] = bool(values.get("momentum", 0))
        if values.get("eps") == 0:
            remedy = f"the library would take {library.default('eps'):g} instead; say so, or omit eps"
            raise InputError("eps", f"> 0 with profile {name!r}", values["eps"], remedy)
    return Rule(**values)


# -- state dicts of PyTorch optimizers ---------------------------------------------------------------------------------

VERSION = 1  # of the format of rmsprop.torch's state dicts; the first format had no version
VERSION_KEY = "state_version"  # in a group: torch's checkpoint tools drop keys outside of groups
SHAPE_KEY = "shape"  # in a parameter's state: packed averages do not have the parameter's shape

GROUPS: Mapping[str, Groups] = {name: kind.groups for name, kind in KINDS.items() if kind.groups}
FIELD_OF_KEY = {key: field for groups in GROUPS.values() for field, key in groups.keys.items()}
WHOLE_RULE = ("timm", "sb3", "adam", "nadam")  # kinds whose groups determine every field of the rule
# Libraries with more fields come first: their groups also have the markers of libraries with fewer fields.
_MARKED = sorted(
    (name for name, groups in GROUPS.items() if groups.marker),
    key=lambda name: len(GROUPS[name].fields),
    reverse=True,
)


def kind_of_groups(groups: Sequence[Mapping[str, Any]]) -> str | None:
    """Detect the kind of a state dict from the keys of its groups; return None if they do not tell."""
    keys = next((set(group) for group in groups if not set(group) <= {"params", "param_names"}), set())
    return next((name for name in _MARKED if GROUPS[name].marker in keys), None)


def is_group_of(kind: str, group: Mapping[str, Any]) -> bool:
    """Return whether a group may be of `kind`, judged by its keys and, for bitsandbytes, its betas."""
    groups = GROUPS[kind]
    if kind == "bitsandbytes" and group.get("betas", (0,))[0] == 0:  # its Adagrad has (0, 0)
        return False
    return set(groups.required) <= group.keys() and not set(groups.foreign) & group.keys()


def state_by_key(state: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]]) -> dict[Any, Any]:
    """Return a state dict's state under the keys of its groups' "params". Other entries keep their keys.

    Numbers may have been saved as text: state under "0" belongs to parameter 0. A name is looked up in `param_names`.
    """
    result = dict(state)
    keys = {key for group in groups for key in group["params"]}
    for group in groups:
        names = group.get("param_names") or [None] * len(group["params"])
        for key, name in zip(group["params"], names, strict=True):
            index = int(key) if isinstance(key, str) and key.isdecimal() else None
            for other in (index, str(key), name):
                if key not in result and other in result and other not in keys:
                    result[key] = result.pop(other)
    return result


def check_loadable(group: Mapping[str, Any]) -> None:
    """Raise InputError for a group of a newer version, or with options of the rule that only timm has."""
    version = plain(group.get(VERSION_KEY, 0))
    if not isinstance(version, int | float) or version > VERSION:
        name = f"{VERSION_KEY} of the state dict"
        raise InputError(name, f"at most {VERSION} here", version, "it is of a newer rmsprop: install that one")
    kind = kind_of_groups([group])
    if kind == "nadam" and not group.get("momentum_decay"):
        remedy = "at 0 torch.optim.NAdam halves its momentum, and no Rule does: the run cannot continue here"
        raise InputError("momentum_decay", "> 0", group.get("momentum_decay"), remedy)
    if kind != "timm":  # in other groups, these keys belong to the program
        return
    if group.get("caution") and group.get("momentum"):
        remedy = "no other RMSprop masks its momentum: the run cannot continue in another optimizer"
        raise InputError("caution", "False", True, remedy)
    if group.get("corrected_weight_decay") and group.get("weight_decay"):
        remedy = "no other RMSprop scales its weight decay by lr: the run cannot continue in another optimizer"
        raise InputError("corrected_weight_decay", "False", True, remedy)


def group_fields(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Rule` that a group of any library states."""
    betas = GROUPS[kind_of_groups([group]) or "bitsandbytes"].betas
    stated = dict(zip(betas, group.get("betas", ()), strict=False))
    # No library's group has a key "decay": such a key belongs to the program.
    fields = ((FIELD_OF_KEY.get(key, key), value) for key, value in group.items() if key != "decay")
    return stated | {field: value for field, value in fields if field in FIELDS}


def group_as_ours(kind: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of `kind` as a group of rmsprop.torch.

    A group of timm, SB3 or Adam's family determines the whole rule: fields that it does not state have fixed values.
    Other groups keep only the fields that they state.
    """
    if kind not in WHOLE_RULE:
        return {key: value for key, value in group.items() if key != VERSION_KEY}
    theirs, ours = GROUPS[kind], GROUPS["rmsprop.torch"]
    unstated = set(FIELDS) - set((GROUPS["sb3"] if kind in ("timm", "sb3") else theirs).fields)
    traits = {field: PROFILES[kind].default(field) for field in FIELDS if field in unstated}
    rule = {ours.keys.get(field, field): value for field, value in (traits | group_fields(group)).items()}
    own_keys = {"betas", *theirs.keys.values(), *theirs.defaults, *theirs.optional} - set(ours.keys.values())
    return {key: value for key, value in group.items() if key not in own_keys} | rule


def mu_product(momentum: float, momentum_decay: float, step: int) -> float:
    """Return the product μ₁⋯μₜ of NAdam's momenta, which torch keeps for each parameter."""
    if not step or not momentum:
        return 1.0 if not step else 0.0
    adam: dict[str, Any] = {"first_moment": True, "nesterov": True, "bias_correction": True}
    weights = moment_weights(Rule(momentum=momentum, momentum_decay=momentum_decay, **adam), step)
    mu = momentum * (1 - 0.5 * 0.96 ** (momentum_decay * step))
    product: float = 1 - (1 - mu) / weights[1]
    return product


def check_mu_product(where: str, group: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise InputError if NAdam's betas or momentum_decay changed during a run: its product then holds the old ones."""
    if "mu_product" not in state:
        return
    try:
        saved, step = (float(np.asarray(state[name])) for name in ("mu_product", "step"))
    except (KeyError, TypeError, ValueError):
        found, remedy = Received("another value"), "load the dict that state_dict() returned"
        raise InputError(f"mu_product of {where}", "a number", found, remedy) from None
    expected = mu_product(float(group["betas"][0]), float(group["momentum_decay"]), int(step))
    if abs(saved - expected) > 1e-4:  # float32 rounds the product; 1 − μ₁⋯μₜ is what steps divide by
        remedy = "its betas or momentum_decay changed during the run: continue it in the optimizer that wrote it"
        raise InputError(f"mu_product of {where}", f"{expected:.6g} after {step:g} steps", saved, remedy)


def state_as_ours(kind: str, state: Any) -> Any:
    """Return a parameter's state with the names of rmsprop.torch. NAdam's mu_product follows from its step."""
    names = {theirs: ours for ours, theirs in GROUPS[kind].averages.items()}
    if not names or not isinstance(state, Mapping):
        return state
    return {names.get(name, name): value for name, value in state.items() if name != "mu_product"}
