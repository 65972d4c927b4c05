"""Check a state dict before it is loaded: one InputError for each mismatch, with nothing changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, plain
from rmsprop.names import plain_name
from rmsprop.profiles import (
    KINDS,
    SHAPE_KEY,
    check_loadable,
    check_mu_product,
    group_as_ours,
    is_group_of,
    kind_of_groups,
    state_as_ours,
    state_by_key,
)
from rmsprop.rule import AVERAGES
from rmsprop.torch.groups import check_values
from rmsprop.torch.low_precision import DTYPES, packed_size
from rmsprop.torch.state import state_dtype

Groups: TypeAlias = list[dict[str, Any]]
StateDict: TypeAlias = dict[str, Any]

_IDENTIFIED_BY_GROUPS = ("rmsprop.torch", "torch", "timm", "adam", "nadam")  # a key in their groups identifies them
_OTHER_OPTIMIZERS = {"exp_avg", "acc_delta", "sum", "state2"}  # Adam, Adadelta, Adagrad; Adam of bitsandbytes
_REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_COMPLEX = (torch.complex64, torch.complex128)
_UNCHANGED, _SAME_MODEL = "load the dict that state_dict() returned", "load it for the model that it was saved from"


def checked(groups: Groups, state_dict: Any, source: str | None) -> tuple[StateDict, list[InputError]]:
    """Return the state and groups to load from `state_dict` into `groups`, and the errors that prevent loading.

    `source` names the library if the saved groups do not. The returned dict is empty if `state_dict` is
    malformed or has other sizes than `groups`.
    """
    if error := _form_error(state_dict):
        return {}, [error]
    saved_groups: Groups = state_dict["param_groups"]
    kind, errors = _kind(saved_groups, source)
    if error := _size_error(groups, saved_groups):
        return {}, [*errors, error]
    by_key = state_by_key(state_dict["state"], saved_groups)
    state = {key: _with_python_step(state_as_ours(kind, values)) for key, values in by_key.items()}
    new_groups: Groups = []
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        states = [state.get(key, {}) for key in saved["params"]]
        new, group_errors = _loaded_group(index, group, saved, kind, states)
        new_groups.append(new)
        errors += group_errors
        names = new.get("param_names") or [""] * len(saved["params"])
        for i, (p, values, name) in enumerate(zip(group["params"], states, names, strict=True)):
            where = f"parameter {i} in group {index} of the state dict" + (f" ({name})" if name else "")
            errors += _state_errors(where, p, values, new)
            if kind == "nadam" and not errors:
                try:
                    check_mu_product(where, saved, by_key.get(saved["params"][i], {}))
                except InputError as error:
                    errors.append(error)
    errors += _key_errors(state, saved_groups)
    return {"state": state, "param_groups": new_groups}, errors


def first_error(errors: Sequence[InputError]) -> InputError:
    """Return the first error, with the number of further errors in its remedy."""
    first, others = errors[0], len(errors) - 1
    if not others:
        return first
    remedy = f"{first.remedy} (check_state_dict names {others} more)"
    return InputError(first.name, first.allowed, first.value, remedy)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, "1 group" or "2 groups"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def short_name(dtype: torch.dtype | torch.layout) -> str:
    """Return the name of a dtype or layout without `torch.`."""
    return str(dtype).removeprefix("torch.")


# -- the whole dict ---------------------------------------------------------------------------------------------------


def _form_error(state_dict: Any) -> InputError | None:
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        is_dict = isinstance(state_dict, Mapping)
        got = Received(f"a dict of {', '.join(map(str, state_dict))}" if is_dict else repr(state_dict)[:60])
        return InputError("the state dict", "a dict of state and param_groups", got, _UNCHANGED)
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, Mapping):
        return InputError("state of the state dict", "a dict", Received(f"a {type(state).__name__}"), _UNCHANGED)
    if not isinstance(groups, list | tuple):
        got = Received(f"a {type(groups).__name__}")
        return InputError("param_groups of the state dict", "a list of dicts", got, _UNCHANGED)
    return next(filter(None, (_group_form_error(index, group) for index, group in enumerate(groups))), None)


def _group_form_error(index: int, group: Any) -> InputError | None:
    where = f"group {index} of the state dict"
    if not isinstance(group, Mapping):
        return InputError(where, "a dict", Received(f"a {type(group).__name__}"), _UNCHANGED)
    params, names = group.get("params"), group.get("param_names", ())
    if not isinstance(params, list | tuple) or not _are_distinct(params):
        got = Received(repr(params)[:60])
        return InputError(f"params of {where}", "a list of numbers, each once", got, _UNCHANGED)
    strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if not strings or len(names) not in (0, len(params)):
        allowed = f"a list of {len(params)} names, if present"
        return InputError(f"param_names of {where}", allowed, Received(repr(names)[:60]), _UNCHANGED)
    return None


def _are_distinct(keys: Sequence[Any]) -> bool:
    try:
        return len(set(keys)) == len(keys)
    except TypeError:  # unhashable, as a list is
        return False


def _kind(groups: Groups, source: str | None) -> tuple[str, list[InputError]]:
    """Return the library of a state dict, from its groups or else `source`, and errors in `source`."""
    kind = kind_of_groups(groups)
    if source not in (None, "torch", "sb3"):
        remedy = "omit it if the groups identify the library"
        return kind or "torch", [InputError("source", "'torch' or 'sb3'", source, remedy)]
    if kind in _IDENTIFIED_BY_GROUPS:
        if source in (None, kind):
            return kind, []
        remedy = f"its groups identify {kind}"
        return kind, [InputError("source", "omitted for this state dict", source, remedy)]
    if source is None and all(is_group_of("torch", group) for group in groups):
        remedy = (
            "its groups do not identify the library, and eps has another place in the rule: "
            "pass source='torch' or source='sb3'"
        )
        return "torch", [InputError("source", "'torch' or 'sb3' for this state dict", Received("none"), remedy)]
    return source or "torch", []


def _size_error(groups: Groups, saved_groups: Groups) -> InputError | None:
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved_groups))
    if sizes == saved_sizes:
        return None
    # Programs search messages for these words of torch.
    torch_words = "has a different number of parameter groups"
    if len(sizes) == len(saved_sizes):
        torch_words = "contains a parameter group that doesn't match the size of optimizer's group"
    got = Received(f"{_sizes(saved_sizes)}: it {torch_words}")
    return InputError("the state dict", f"of {_sizes(sizes)}", got, _SAME_MODEL)


def _sizes(sizes: Sequence[int]) -> str:
    if not sizes:
        return "no groups"
    others = f"{', '.join(map(str, sizes[:-1]))}{' and ' if len(sizes) > 1 else ''}"
    return f"{counted(len(sizes), 'group')} with {others}{counted(sizes[-1], 'parameter')}"


def _key_errors(state: Mapping[Any, Any], groups: Groups) -> Iterator[InputError]:
    keys = [key for group in groups for key in group["params"]]
    distinct = set(keys)
    if len(distinct) < len(keys):
        got = Received("one in two groups")
        yield InputError("a number in params of the state dict", "that of one parameter", got, _UNCHANGED)
    for key, values in state.items():
        is_state = isinstance(values, Mapping) and not values.keys().isdisjoint(AVERAGES)
        if key not in distinct and (isinstance(key, int) or is_state):  # other entries belong to the user
            got = Received(repr(key)[:60])
            yield InputError("the state dict", "the state of its groups' parameters", got, _UNCHANGED)


# -- a group ----------------------------------------------------------------------------------------------------------


def _loaded_group(
    index: int, group: dict[str, Any], saved: dict[str, Any], kind: str, states: list[Any]
) -> tuple[dict[str, Any], list[InputError]]:
    """Return the group that replaces `group`, and the errors of the saved one."""
    # The program that builds the optimizer decides on `differentiable`, not the saved run.
    new = {**group, **group_as_ours(kind, saved), "differentiable": group["differentiable"]}
    if not set(saved) <= {"params", "param_names"} and not is_group_of(kind, saved):
        got = Received(f"a group of {', '.join(map(str, saved.keys() - {'params'}))}")
        return new, [InputError("the state dict", "one of RMSprop", got, "load it into its optimizer")]
    errors = []
    if kind in ("adam", "nadam") and not group["first_moment"]:  # else a plain RMSprop would become Adam unasked
        remedy = f'build the optimizer with RMSprop.from_rule(params, profile("{kind}"))'
        errors.append(InputError("first_moment", f"True to continue {KINDS[kind].title}", False, remedy))
    try:
        check_loadable(saved)
        new = check_values(new, restored=True)
        if kind == "torch":
            _check_torch_averages(new, states)
    except InputError as error:
        errors.append(error)
    pairs = zip(group.get("param_names") or (), saved.get("param_names") or (), strict=False)
    for i, (name, saved_name) in enumerate(pairs):
        if plain_name(name) != plain_name(saved_name):
            remedy = f"{_SAME_MODEL}, or remove param_names from its groups to load by order"
            where = f"parameter {i} in group {index} of the state dict"
            errors.append(InputError(where, repr(name), saved_name, remedy))
            break
    return new, errors


def _check_torch_averages(group: dict[str, Any], states: list[Any]) -> None:
    """Raise if a variant of `group` that torch lacks would misread averages saved by torch."""
    started = [values for values in states if values]
    if group["lr_in_momentum"] and any("momentum_buffer" in values for values in started):
        remedy = "build the optimizer without it, or use rmsprop convert"
        raise InputError("lr_in_momentum", "False for the momentum_buffer of torch.optim.RMSprop", True, remedy)
    if group["bias_correction"] and group["initial_square_avg"] and started:
        allowed = "0 with bias_correction for averages of torch.optim.RMSprop"
        raise InputError("initial_square_avg", allowed, group["initial_square_avg"], "build the optimizer without it")


# -- the state of a parameter -----------------------------------------------------------------------------------------


def _with_python_step(values: Any) -> Any:
    """Return the state of a parameter, with a NumPy step count as a Python number."""
    if isinstance(values, dict) and isinstance(values.get("step"), np.generic | np.ndarray):
        return {**values, "step": plain(values["step"])}
    return values


def _state_errors(where: str, p: Tensor, values: Any, group: dict[str, Any]) -> Iterator[InputError]:
    if isinstance(values, dict) and values.keys().isdisjoint({"step", *AVERAGES, SHAPE_KEY, *_OTHER_OPTIMIZERS}):
        return  # no step was executed; other keys belong to a wrapper
    if not isinstance(values, dict) or not {"step", "square_avg"} <= values.keys() or values.keys() & _OTHER_OPTIMIZERS:
        got = Received(f"one with {', '.join(map(str, values))}" if isinstance(values, dict) else type(values).__name__)
        allowed = "one of RMSprop, with step and square_avg"
        yield InputError(f"the state of {where}", allowed, got, "load it into its optimizer")
        return
    step = values["step"]
    count: Any = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    is_number = isinstance(count, Real) and not isinstance(count, bool)  # Real includes NumPy's numbers
    if not (is_number and 0 <= count < 2**63):
        yield InputError(f"step of {where}", "a number of steps", Received(str(step)[:60]), _UNCHANGED)
    if group["state_dtype"] in (None, *DTYPES):  # else the group already has an error
        try:
            state_dtype(group, p)
        except InputError as error:
            yield error
    for name in AVERAGES:
        if name in values:
            yield from _average_errors(f"{name} of {where}", p, values[name], values.get(SHAPE_KEY))


def _average_errors(name: str, p: Tensor, value: Any, shape: Any) -> Iterator[InputError]:
    """Yield the errors of `value` as an average of `p`. `shape` is that of the saved parameter, if packed."""

    def error(allowed: str, got: str, remedy: str) -> InputError:
        return InputError(name, allowed, Received(got), remedy)

    if not isinstance(value, Tensor):
        yield error("a Tensor", f"a {type(value).__name__}", _UNCHANGED)
    elif value.layout != torch.strided:
        yield error("dense", short_name(value.layout).replace("_", " "), "load average.to_dense()")
    elif value.dtype == torch.uint8:
        size = packed_size(p.numel())
        if p.is_complex() or p.dtype == torch.float64:
            yield error(f"of the dtype of {short_name(p.dtype)} parameters", "uint8", "load it for a float32 model")
        elif isinstance(shape, Tensor) and shape.tolist() != list(p.shape):
            got = f"shape {tuple(shape.flatten().tolist())} in eight bits"
            yield error(f"of shape {tuple(p.shape)}", got, _SAME_MODEL)
        elif value.shape != (size,):
            yield error(f"of the {size} bytes of shape {tuple(p.shape)}", f"shape {tuple(value.shape)}", _SAME_MODEL)
    elif value.dtype not in (_COMPLEX if p.is_complex() else _REAL):
        yield error(f"of a dtype for {short_name(p.dtype)} parameters", short_name(value.dtype), _SAME_MODEL)
    elif value.shape != p.shape:
        yield error(f"of shape {tuple(p.shape)}", f"shape {tuple(value.shape)}", _SAME_MODEL)
