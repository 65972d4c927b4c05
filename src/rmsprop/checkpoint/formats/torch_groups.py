"""Parameter groups in PyTorch state dicts: reads and writes the rule that each group states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats.pickled_values import plain
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.torch_averages import to_tensor
from rmsprop.checkpoint.state import Fields, agreed_fields
from rmsprop.errors import InputError, Received
from rmsprop.profiles import (
    FIELD_OF_KEY,
    FIELDS,
    GROUPS,
    KINDS,
    VERSION,
    VERSION_KEY,
    check_loadable,
    group_fields,
    is_group_of,
    kind_of_groups,
)

Group = dict[str, Any]  # a parameter group of torch: keys of its library and of the user's program
# Keys that follow from the rule or the parameters. All other keys are kept.
_DERIVED = {*FIELDS, *FIELD_OF_KEY, "betas", "params", "param_names", VERSION_KEY}


def plain_groups(path: Path, saved: Sequence[Any], budget: ReadBudget) -> tuple[list[Group], list[str]]:
    """Return the parameter groups of a file in plain values, and notes on dropped values."""
    groups: list[Group] = []
    notes = []
    for each in saved:
        if not isinstance(each, dict) or not isinstance(each.get("params"), (list, tuple)):
            raise InputError(str(path), "groups with params", Received("another thing"), "save state_dict() again")
        group: Group = {}
        for name, value in each.items():
            if not isinstance(name, str):
                received = Received(f"one of {type(name).__name__}")
                raise InputError(f"a key of a group in {path}", "text", received, "save the group under a name")
            try:
                group[name] = plain(value, budget)
            except LookupError as error:
                notes.append(f"{name} of a group is dropped: it holds a {error.args[0]}")
        if not all(isinstance(index, (int, str)) for index in group["params"]):
            raise InputError(
                str(path), "groups of parameter indices", Received("other params"), "save the optimizer again"
            )
        groups.append(group)
    return groups, notes


def kind_in_file(path: Path, groups: Sequence[Group]) -> str:
    """Detect the kind from the keys of a file's groups; raise InputError if they do not tell."""
    kind = kind_of_groups(groups)
    if kind is None:
        keys = set(groups[0]) if groups else set()
        received = Received(f"groups with {', '.join(sorted(map(str, keys - {'params'})))}")
        remedy = "pass --from torch or --from sb3 (for --like: --to), whose groups look alike"
        raise InputError(str(path), "a file that tells its library", received, remedy)
    return kind


def fields_in_file(path: Path, kind: str, group: Group, given: Fields) -> Fields:
    """Return the fields of `Rule` that a group of `kind` states; raise InputError for a group of another kind."""
    if not is_group_of(kind, group):
        raise another_optimizer(path, kind)
    check_loadable(group)
    stated = {name: value.item() if hasattr(value, "item") else value for name, value in group_fields(group).items()}
    for name in ("lr", "decay", "eps", "momentum", "weight_decay"):
        if isinstance(stated.get(name), (int, np.number)) and not isinstance(stated[name], bool):
            stated[name] = float(stated[name])  # other values are refused by `Rule`
    lr, start = stated.get("lr"), group.get("initial_lr", 0.0)
    if isinstance(lr, float) and isinstance(start, float) and -1e-12 * start <= lr < 0:
        stated["lr"] = 0.0  # rounding error of a schedule that ends at 0
    stated["centered"] = bool(stated.get("centered", False))
    for name, value in KINDS[kind].fixed.items():
        if stated.get(name, value) != value:
            received = Received(f"one with {name}={stated[name]}")
            raise InputError(str(path), f"state of {KINDS[kind].title}", received, "check --from")
    return agreed_fields(path, {**stated, **KINDS[kind].fixed}, given)


def other_keys(group: Group) -> Group:
    """Return the keys of a group that are neither of its rule nor of its parameters."""
    extras = {name: value for name, value in group.items() if name not in _DERIVED}
    if group.get("state_dtype"):
        extras["state_dtype"] = None  # its averages are read as float32
    return extras


def group_of_fields(kind: str, fields: Fields, extras: Mapping[str, Any]) -> Group:
    """Return a parameter group of `kind` without its parameters. `extras` are its other keys."""
    groups = GROUPS[kind]
    kept = {name: to_tensor(value) if isinstance(value, np.ndarray) else value for name, value in extras.items()}
    rule = {groups.keys.get(field, field): fields[field] for field in groups.fields if field not in groups.betas}
    if groups.betas:
        rule["betas"] = tuple(fields[field] for field in groups.betas)
    version = {VERSION_KEY: VERSION} if kind == "rmsprop.torch" else {}
    return {**groups.defaults, **kept, **rule, **version}


def another_optimizer(path: Path, kind: str) -> InputError:
    """Return the error for the state of an optimizer that is not RMSprop."""
    remedy = "only the state of RMSprop moves; check --from"
    return InputError(str(path), f"state of {KINDS[kind].title}", Received("another optimizer's"), remedy)
