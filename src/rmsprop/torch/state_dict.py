"""Make and load the state dict of an optimizer: by torch's methods, with hooks for what these lose.

`state_dict_checks` finds the errors that prevent loading.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.profiles import SHAPE_KEY, VERSION, VERSION_KEY
from rmsprop.rule import AVERAGES, Rule
from rmsprop.torch.engines.sparse_rows import catch_up_all
from rmsprop.torch.groups import EXECUTION, FIELDS, complete_groups
from rmsprop.torch.state import ParamGroup, as_counter, converted, shape_of, state_dtype, step_counter
from rmsprop.torch.state_dict_checks import Groups, StateDict, checked, counted, first_error, short_name
from rmsprop.torch.step_state import step_state


def upgrade(optimizer: Optimizer) -> None:
    """Add what an unpickled optimizer of an earlier version lacks."""
    for values in (optimizer.defaults, *optimizer.param_groups):
        for name, field in FIELDS.items():
            values.setdefault(name, getattr(Rule, field))
        for name, default in EXECUTION.items():
            values.setdefault(name, default)
    for group in optimizer.param_groups:
        group[VERSION_KEY] = VERSION
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            if "step" in state and not isinstance(state["step"], Tensor):
                state["step"] = step_counter(p, group["capturable"], float(state["step"]))


# -- making -----------------------------------------------------------------------------------------------------------


def make(optimizer: Optimizer, torch_state_dict: Callable[[], StateDict]) -> StateDict:
    """Return the state dict of `optimizer` (see `RMSprop.state_dict`); `torch_state_dict` is torch's method."""

    def complete(_: Optimizer, torch_dict: StateDict) -> StateDict:
        return _completed(optimizer, torch_dict)

    complete_groups(optimizer.param_groups, optimizer.defaults)
    catch_up_all(optimizer.state, step_state(optimizer).lags)
    handle = optimizer.register_state_dict_post_hook(complete, prepend=True)  # other hooks see the completed dict
    try:
        return torch_state_dict()
    finally:
        handle.remove()


def _completed(optimizer: Optimizer, torch_dict: StateDict) -> StateDict:
    """Return torch's dict with Python numbers, the shapes of packed parameters, and copies of state that may lag."""
    state = dict(torch_dict["state"])
    for group, saved in zip(optimizer.param_groups, torch_dict["param_groups"], strict=True):
        for name in (*FIELDS, *EXECUTION, "initial_lr"):
            if isinstance(value := saved.get(name), np.generic):  # torch.load refuses it with weights_only
                saved[name] = value.item()
        for p, key in zip(group["params"], saved["params"], strict=True):
            values = state.get(key)
            if not isinstance(values, dict):
                continue
            if any(name in values and values[name].dtype == torch.uint8 for name in AVERAGES):
                # torch's checkpoint tools need all tensors of a state on one device.
                values = {**values, SHAPE_KEY: values.get(SHAPE_KEY, shape_of(p)).to(p.device)}
            if _may_lag(optimizer, group, p):
                values = {name: x.clone() if isinstance(x, Tensor) else x for name, x in values.items()}
            state[key] = values
    return {**torch_dict, "state": state}


def _may_lag(optimizer: Optimizer, group: ParamGroup, p: Tensor) -> bool:
    """Return whether rows of the state of `p` may lag after the next step."""
    is_sparse = p.grad is not None and p.grad.layout != torch.strided
    return group["sparse"] == "exact" and (is_sparse or id(optimizer.state.get(p)) in step_state(optimizer).sparse)


# -- loading ----------------------------------------------------------------------------------------------------------


def load(
    optimizer: Optimizer,
    state_dict: Mapping[str, Any],
    source: str | None,
    torch_load_state_dict: Callable[[StateDict], None],
) -> None:
    """Load a state dict into `optimizer` (see `RMSprop.load_state_dict`); `torch_load_state_dict` is torch's method."""
    complete_groups(optimizer.param_groups, optimizer.defaults)
    if not isinstance(state_dict, Mapping):
        raise first_error(checked(optimizer.param_groups, state_dict, source)[1])
    loaded: StateDict = {}
    old_dtypes = [group["state_dtype"] for group in optimizer.param_groups]
    changes: list[str] = []

    def check(_: Optimizer, received: StateDict) -> StateDict:
        ours, errors = checked(optimizer.param_groups, received, source)
        if errors:
            raise first_error(errors)
        loaded.update({**received, **ours})
        return loaded

    def restore(_: Optimizer) -> None:
        changes.extend(_dtype_changes(_restore_averages(optimizer, loaded)))
        changes.extend(_replaced_dtypes(old_dtypes, optimizer.param_groups))

    # `check` sees the dict after other hooks changed it. Other hooks see the state after `restore`.
    handles = (
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    before = optimizer.state, optimizer.param_groups, dict(step_state(optimizer).lags)
    try:
        torch_load_state_dict(dict(state_dict))
    except BaseException:
        optimizer.state, optimizer.param_groups = before[:2]
        step_state(optimizer).lags.update(before[2])
        raise
    finally:
        for handle in handles:
            handle.remove()
    if changes:
        warnings.warn(f"rmsprop: {'; '.join(changes)}", stacklevel=3)  # where load_state_dict was called


def _restore_averages(optimizer: Optimizer, loaded: StateDict) -> Counter[tuple[torch.dtype, torch.dtype]]:
    """Restore the averages, which torch has cast. Return the number of parameters for each (old, new) dtype."""
    changes: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
    for group, saved in zip(optimizer.param_groups, loaded["param_groups"], strict=True):
        for p, key in zip(group["params"], saved["params"], strict=True):
            values = loaded["state"].get(key, {})
            if not values:
                continue
            state, dtype = optimizer.state[p], state_dtype(group, p)
            averages = {name: values[name] for name in AVERAGES if name in values}
            changes.update({(value.dtype, dtype) for value in averages.values() if value.dtype != dtype})
            for name, value in averages.items():
                value = value if value.dtype == dtype else converted(value, name, p, dtype)
                if dtype != torch.uint8 and type(value) is Tensor and value.stride() != p.stride():
                    # The kernel steps only averages with the strides of their parameter.
                    value = torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(value)
                state[name] = value.to(p.device)
            state.pop(SHAPE_KEY, None)
            if averages and dtype == torch.uint8:
                state[SHAPE_KEY] = shape_of(p)
            if isinstance(values.get("step"), Tensor):  # torch may have cast it to float32, which counts to 2²⁴
                state["step"] = as_counter(values["step"], state["step"].device)
    return changes


def _dtype_changes(changes: Counter[tuple[torch.dtype, torch.dtype]]) -> Iterator[str]:
    for (old, new), count in changes.items():
        if old in (torch.bfloat16, torch.uint8):
            remedy = f"state_dtype={short_name(old)!r} keeps them"
        elif new in (torch.bfloat16, torch.uint8):
            remedy = "state_dtype=None keeps them"
        else:
            remedy = f"a model in {short_name(old)} keeps them"
        averages = f"the averages of {counted(count, 'parameter')}"
        yield f"{averages} change from {short_name(old)} to {short_name(new)} ({remedy})"


def _replaced_dtypes(old_dtypes: Sequence[Any], groups: Groups) -> Iterator[str]:
    """Yield a phrase for each `state_dtype` that the loaded groups have replaced."""
    new_dtypes = [group["state_dtype"] for group in groups]
    for (old, new), count in Counter(zip(old_dtypes, new_dtypes, strict=True)).items():
        if old != new:
            where = "the group" if len(groups) == 1 else f"{count} of {len(groups)} groups"
            remedy = f"for the other, set group['state_dtype'] = {old!r} in optimizer.param_groups"
            yield f"state_dtype={new!r} of the state dict replaces {old!r} in {where} ({remedy})"
