"""What a run that is resumed must share with the saved one, by their configurations in run.json."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmsprop.errors import InputError, Received
from rmsprop.lab.runs.schema import MadeWith, RunConfig
from rmsprop.lab.runs.task_code import changes

_MAY_DIFFER = ("made_with", "task_code", "accepted_changes")  # fields that a resumed run need not share with run.json
_SHOWN = 5  # largest number of a task's changes in a message


def check_same_run(path: Path, saved: Mapping[str, Any], asked: RunConfig, *, finished: bool, may_grow: bool) -> None:
    """Raise InputError if the run in `path` has another configuration than the one asked for, or is finished.

    With `may_grow`, the one asked for may have more epochs, and the run may then be finished.
    """
    differing = _differences(saved, asked)
    longer = has_more_epochs(asked, saved)
    grows = may_grow and longer
    if grows:
        differing = [each for each in differing if each[0] != "epochs"]
    if differing:
        there = ", ".join(f"{name} {value!r}" for name, value, _ in differing)
        found = Received(", ".join(f"{name} {value!r}" for name, _, value in differing))
        remedy = "choose another --out"
        if longer and [name for name, _, _ in differing] == ["epochs"]:
            remedy += ": the rates of its schedule depend on the length of the run"
        raise InputError(f"the run in {path}", f"the one asked for ({there})", found, remedy)
    if finished and not grows:
        remedy = f"see it with: rmsprop report {path}; or choose another --out"
        raise InputError("the run", "one that is not finished", Received(str(path)), remedy)


def changed_code(path: Path, saved: Mapping[str, Any], asked: RunConfig, *, accept_changes: bool) -> list[str]:
    """Return how the task's code differs from the code that the run began with. Unless accepted, raise InputError."""
    changed = changes(saved.get("task_code") or {}, asked.get("task_code") or {})
    if changed and not accept_changes:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        found = Received(f"another one: {'; '.join(changed[:_SHOWN])}{more}")
        remedy = "add --accept-changes to go on with it, or choose another --out for a new run"
        raise InputError(f"the task of the run in {path}", "the one that it began with", found, remedy)
    return changed


def has_more_epochs(asked: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Return whether the run that is asked for has more epochs than the saved one."""
    before, now = saved.get("epochs"), asked.get("epochs")
    return isinstance(before, int) and isinstance(now, int) and before < now


def warn_of_other_bits(began: MadeWith, now: MadeWith) -> None:
    """Warn if the run goes on with another torch or number of processes than it began with."""
    if began["torch"] != now["torch"]:
        text = f"the run began with torch {began['torch']} and goes on with {now['torch']}"
        warnings.warn(f"{text}: it may differ in the last bits", stacklevel=2)
    counts = began.get("processes", 1), now.get("processes", 1)
    if counts[0] != counts[1]:
        text = "the run began with {} process{} and goes on with {}".format(
            counts[0], "es" * (counts[0] > 1), counts[1]
        )
        warnings.warn(f"{text}: it may differ in the last bits", stacklevel=2)


def _differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return name, saved and asked value of each field that makes the configurations different runs.

    Of fields that are dicts, such as the rule, only the differing keys are returned.
    """
    differing = []
    for name in {**saved, **asked}:
        a, b = saved.get(name), asked.get(name)
        if name in _MAY_DIFFER or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
            a, b = {key: a.get(key) for key in keys}, {key: b.get(key) for key in keys}
        differing.append((name, a, b))
    return differing
