"""What is done to a state dict before and after torch loads it: completed, checked, and not rounded."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from rmsprop.errors import InputError, Received
from rmsprop.torch.groups import check_group
from rmsprop.torch.slots import COMPUTE, STATE


def completed(groups: list[dict[str, Any]], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of the state dict `given`, what they leave out taken from `groups`; check all of it."""
    saved_groups = given["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in saved_groups]:
        return cast("list[dict[str, Any]]", saved_groups)  # torch refuses it
    completed = []
    for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        completed.append({**group, **saved})
        check_group(completed[-1])
        for i, (p, key) in enumerate(zip(group["params"], saved["params"], strict=True)):
            own = given["state"].get(key, {})
            if own and not {"step", "square_avg"} <= own.keys():
                found = Received(f"one with {', '.join(map(str, own))}")
                raise InputError(
                    "the state dict", "one of RMSprop, with step and square_avg", found, "load it into its optimizer"
                )
            for name, value in own.items():
                where = f"{name} of parameter {i} in group {number} of the state dict"
                if name in STATE and not isinstance(value, Tensor):
                    found = Received(f"a {type(value).__name__}")
                    raise InputError(where, "a Tensor", found, "load the dict that state_dict() gave")
                if name in STATE and value.shape != p.shape:
                    found = Received(f"shape {tuple(value.shape)}")
                    raise InputError(where, f"of shape {tuple(p.shape)}", found, "load it for the model that made it")
    return completed


def reload_unrounded(groups: list[dict[str, Any]], states: dict[Tensor, Any], loaded: dict[str, Any]) -> None:
    """Put the averages of float16 and bfloat16 parameters in again: torch has cast them to the parameter's dtype."""
    for group, saved in zip(groups, loaded["param_groups"], strict=True):
        for p, key in zip(group["params"], saved["params"], strict=True):
            if p.dtype in COMPUTE:
                for name, value in loaded["state"].get(key, {}).items():
                    if name in STATE:
                        states[p][name] = value.to(device=p.device, dtype=COMPUTE[p.dtype])
