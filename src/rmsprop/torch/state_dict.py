"""State dicts of an optimizer, made and loaded by torch's own methods, with what is ours put in by hooks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.torch.loading import first_of, put, read, stamp
from rmsprop.torch.state import Group
from rmsprop.torch.step import catch_up
from rmsprop.torch.step_state import step_state


def make(optimizer: Optimizer, plain: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the state dict of `optimizer`, of which `plain` makes torch's part; see `RMSprop.state_dict`."""

    def stamped(_: Optimizer, made: dict[str, Any]) -> dict[str, Any]:
        made = stamp(optimizer.param_groups, made)
        for group, saved in zip(optimizer.param_groups, made["param_groups"], strict=True):
            for p, key in zip(group["params"], saved["params"], strict=True):
                if key in made["state"] and _may_lag(optimizer, group, p):
                    made["state"][key] = {
                        name: x.clone() if isinstance(x, Tensor) else x for name, x in made["state"][key].items()
                    }
        return made

    catch_up(step_state(optimizer), optimizer.state)
    handle = optimizer.register_state_dict_post_hook(stamped, prepend=True)  # other hooks see what it made
    try:
        return plain()
    finally:
        handle.remove()


def load(
    optimizer: Optimizer, state_dict: Mapping[str, Any], source: str | None, plain: Callable[[dict[str, Any]], None]
) -> None:
    """Load a state dict into `optimizer`, of which `plain` does torch's part; see `RMSprop.load_state_dict`."""
    if not isinstance(state_dict, Mapping):
        raise first_of(read(optimizer.param_groups, state_dict, source)[1])
    loaded: dict[str, Any] = {}
    before = [group["state_dtype"] for group in optimizer.param_groups]
    changed: list[str] = []

    def complete(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        made, errors = read(optimizer.param_groups, given, source)
        if errors:
            raise first_of(errors)
        loaded.update({**given, **made})
        return loaded

    def put_in(_: Optimizer) -> None:
        changed.append(put(optimizer.param_groups, optimizer.state, loaded, before))

    # The one sees what the other hooks made of the dict, the others see what the second one made of the state.
    handles = (
        optimizer.register_load_state_dict_pre_hook(complete),
        optimizer.register_load_state_dict_post_hook(put_in, prepend=True),
    )
    present = optimizer.state, optimizer.param_groups, dict(step_state(optimizer).lags)
    try:
        plain(dict(state_dict))
    except BaseException:  # of what was replaced, everything is restored
        optimizer.state, optimizer.param_groups = present[:2]
        step_state(optimizer).lags.update(present[2])
        raise
    finally:
        for handle in handles:
            handle.remove()
    if any(changed):
        warnings.warn(f"rmsprop: {changed[0]}", stacklevel=3)  # where load_state_dict was called


def _may_lag(optimizer: Optimizer, group: Group, p: Tensor) -> bool:
    """Return whether rows of the state of `p` may lag after the next step."""
    is_sparse = p.grad is not None and p.grad.layout != torch.strided
    return group["sparse"] == "exact" and (is_sparse or id(optimizer.state.get(p)) in step_state(optimizer).sparse)
