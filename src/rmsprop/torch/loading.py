"""State dicts: what is added to one that is saved, and what is done before and after torch loads one.

Before, it is checked and its groups are made ours (`read`). After, its averages are put in as they were saved (`put`),
since torch has cast them to the dtypes of the parameters; what has to change all the same is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, plain
from rmsprop.names import plain_name
from rmsprop.profiles import SHAPE_KEY, check_goes_on, group_as_ours, is_group_of, kind_of_groups, state_by_key
from rmsprop.torch.groups import EXECUTION, FIELDS, check_values
from rmsprop.torch.low_precision import DTYPES, packed_size
from rmsprop.torch.state import STATE, converted, counting, shape_of, state_dtype

Groups: TypeAlias = list[dict[str, Any]]
StateDict: TypeAlias = dict[str, Any]

_TELLING = ("rmsprop.torch", "torch", "timm")  # whose groups tell whose they are
_FOREIGN = {"exp_avg", "acc_delta", "sum", "state2"}  # Adam, Adadelta, Adagrad; Adam of bitsandbytes
_REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_COMPLEX = (torch.complex64, torch.complex128)
_OURS, _SAME_MODEL = "load the dict that state_dict() gave", "load it for the model that made it"


def stamp(groups: Groups, made: StateDict) -> StateDict:
    """Return a state dict of ours with Python's numbers in its groups and the shapes of packed parameters."""
    state = dict(made["state"])
    for group, saved in zip(groups, made["param_groups"], strict=True):
        for name in (*FIELDS, *EXECUTION, "initial_lr"):
            if isinstance(value := saved.get(name), np.generic):  # which torch.load refuses with weights_only
                saved[name] = value.item()
        for p, key in zip(group["params"], saved["params"], strict=True):
            own = state.get(key)
            if isinstance(own, dict) and any(name in own and own[name].dtype == torch.uint8 for name in STATE):
                # On the parameter's device: torch's tools for checkpoints want all of a state on one.
                state[key] = {**own, SHAPE_KEY: own.get(SHAPE_KEY, shape_of(p)).to(p.device)}
    return {**made, "state": state}


def read(groups: Groups, given: Any, source: str | None) -> tuple[StateDict, list[InputError]]:
    """Return the state dict `given` as it will stand in place of `groups` and their state, and what keeps it out."""
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= given.keys():
        found = Received(f"a dict of {', '.join(map(str, given))}" if isinstance(given, Mapping) else repr(given)[:60])
        return {}, [InputError("the state dict", "a dict of state and param_groups", found, _OURS)]
    if misbuilt := _misbuilt(given["state"], given["param_groups"]):
        return {}, [misbuilt]
    saved_groups: Groups = given["param_groups"]
    state = {key: _counted(own) for key, own in state_by_key(given["state"], saved_groups).items()}
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved_groups))
    kind, errors = _kind(saved_groups, source)
    if sizes != saved_sizes:
        # The end is torch's own words, which programs look for.
        other = "has a different number of parameter groups"
        if len(sizes) == len(saved_sizes):
            other = "contains a parameter group that doesn't match the size of optimizer's group"
        found = Received(f"{_sizes(saved_sizes)}: it {other}")
        return {}, [*errors, InputError("the state dict", f"of {_sizes(sizes)}", found, _SAME_MODEL)]
    completed: Groups = []
    keys: set[Any] = set()
    for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        # Whether a step is differentiated is the program's, as it was built, and not of the run that goes on.
        completed.append({**group, **group_as_ours(kind, saved), "differentiable": group["differentiable"]})
        states = [state.get(key, {}) for key in saved["params"]]
        errors += _group_errors(number, group, saved, completed[-1], kind, states)
        names = completed[-1].get("param_names") or [""] * len(saved["params"])
        for i, (p, own, name) in enumerate(zip(group["params"], states, names, strict=True)):
            where = f"parameter {i} in group {number} of the state dict" + (f" ({name})" if name else "")
            errors += _state_errors(where, p, own, completed[-1])
        keys.update(saved["params"])
    if len(keys) < sum(sizes):
        found = Received("one that stands in two groups")
        errors.append(InputError("a number in params of the state dict", "that of one parameter", found, _OURS))
    for key, own in state.items():
        if key not in keys and (isinstance(key, int) or _is_state(own)):  # others are a user's own
            found = Received(repr(key)[:60])
            errors.append(InputError("the state dict", "the state of its groups' parameters", found, _OURS))
    return {"state": state, "param_groups": completed}, errors


def _counted(own: Any) -> Any:
    """Return the state of a parameter with a step count that NumPy holds as a number."""
    if isinstance(own, dict) and isinstance(own.get("step"), np.generic | np.ndarray):
        return {**own, "step": plain(own["step"])}
    return own


def _is_state(own: Any) -> bool:
    """Return whether something is the state of a parameter, to judge by its keys."""
    return isinstance(own, Mapping) and not own.keys().isdisjoint(STATE)


def first_of(errors: Sequence[InputError]) -> InputError:
    """Return the first error, with the number of the others."""
    first, others = errors[0], len(errors) - 1
    if not others:
        return first
    remedy = f"{first.remedy} (check_state_dict names {others} more)"
    return InputError(first.name, first.allowed, first.value, remedy)


def put(groups: Groups, states: dict[Tensor, Any], loaded: StateDict, before: Sequence[Any]) -> str:
    """Put the averages of the state dict `loaded` in as they were saved; return in words what had to change.

    `before` are the values of state_dtype of the groups until then.
    """
    changes: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
    for group, saved in zip(groups, loaded["param_groups"], strict=True):
        for p, key in zip(group["params"], saved["params"], strict=True):
            own = loaded["state"].get(key, {})
            dtype = state_dtype(group, p)
            averages = {name: own[name] for name in STATE if name in own}
            changes.update({(value.dtype, dtype) for value in averages.values() if value.dtype != dtype})
            for name, value in averages.items():
                value = value if value.dtype == dtype else converted(value, name, p, dtype)
                if dtype != torch.uint8 and type(value) is Tensor and value.stride() != p.stride():
                    # The kernel steps what lies in memory as the parameter does.
                    value = torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(value)
                states[p][name] = value.to(p.device)
            if own:
                states[p].pop(SHAPE_KEY, None)
            if averages and dtype == torch.uint8:
                states[p][SHAPE_KEY] = shape_of(p)
            if isinstance(own.get("step"), Tensor):  # torch may have made float32 of it, which cannot hold every count
                states[p]["step"] = counting(own["step"], states[p]["step"].device)
    return "; ".join([*_words(changes), *_replaced(before, groups)])


def _misbuilt(state: Any, groups: Any) -> InputError | None:
    """Return None for what is built as a state dict is, else what is not so."""
    if not isinstance(state, Mapping):
        return InputError("state of the state dict", "a dict", Received(f"a {type(state).__name__}"), _OURS)
    if not isinstance(groups, list | tuple):
        found = Received(f"a {type(groups).__name__}")
        return InputError("param_groups of the state dict", "a list of dicts", found, _OURS)
    for number, group in enumerate(groups):
        where = f"group {number} of the state dict"
        if not isinstance(group, Mapping):
            return InputError(where, "a dict", Received(f"a {type(group).__name__}"), _OURS)
        params, names = group.get("params"), group.get("param_names", ())
        if not isinstance(params, list | tuple) or len(params) != _distinct(params):
            return InputError(f"params of {where}", "a list of numbers, each once", Received(repr(params)[:60]), _OURS)
        strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not strings or len(names) not in (0, len(params)):
            needed = f"a list of {len(params)} names, if it is there"
            return InputError(f"param_names of {where}", needed, Received(repr(names)[:60]), _OURS)
    return None


def _distinct(keys: Sequence[Any]) -> int:
    """Return the number of different keys, 0 if they can be none."""
    try:
        return len(set(keys))
    except TypeError:
        return 0


def _kind(groups: Groups, source: str | None) -> tuple[str, list[InputError]]:
    """Return whose state dict it is: as the groups tell, or as the caller says where they do not."""
    told = kind_of_groups(groups)
    if source not in (None, "torch", "sb3"):
        return told or "torch", [InputError("source", "'torch' or 'sb3'", source, "leave it out where groups tell")]
    if told in _TELLING:
        wrong = InputError("source", "left out for this state dict", source, f"its groups tell that it is of {told}")
        return told, [wrong] if source not in (None, told) else []
    if source is None and all(is_group_of("torch", group) for group in groups):
        remedy = "its groups do not tell, and eps stands elsewhere: say source='torch' or source='sb3'"
        return "torch", [InputError("source", "'torch' or 'sb3' for this state dict", Received("none"), remedy)]
    return source or "torch", []


def _group_errors(
    number: int, group: dict[str, Any], saved: dict[str, Any], whole: dict[str, Any], kind: str, states: list[Any]
) -> Iterator[InputError]:
    if not set(saved) <= {"params", "param_names"} and not is_group_of(kind, saved):
        found = Received(f"a group of {', '.join(map(str, saved.keys() - {'params'}))}")
        yield InputError("the state dict", "one of RMSprop", found, "load it into its optimizer")
        return
    try:
        check_goes_on(saved)
        whole.update(check_values(whole, restored=True))
        if kind == "torch":
            _check_meaning(whole, states)
    except InputError as error:
        yield error
    names, there = group.get("param_names"), saved.get("param_names")
    for i, (ours, theirs) in enumerate(zip(names or (), there or (), strict=False)):
        if plain_name(ours) != plain_name(theirs):
            remedy = f"{_SAME_MODEL}, or take param_names out of its groups to go by order"
            yield InputError(f"parameter {i} in group {number} of the state dict", repr(ours), theirs, remedy)
            return


def _check_meaning(group: dict[str, Any], states: list[Any]) -> None:
    """Raise if a variant that is only ours, which a dict of torch leaves as it is, would mistake its averages."""
    begun = [own for own in states if own]
    if group["lr_in_momentum"] and any("momentum_buffer" in own for own in begun):
        remedy = "build the optimizer without it, or use rmsprop convert"
        raise InputError("lr_in_momentum", "False for the momentum_buffer of torch.optim.RMSprop", True, remedy)
    if group["bias_correction"] and group["initial_square_avg"] and begun:
        allowed = "0 with bias_correction for averages of torch.optim.RMSprop"
        raise InputError("initial_square_avg", allowed, group["initial_square_avg"], "build the optimizer without it")


def _state_errors(where: str, p: Tensor, own: Any, group: dict[str, Any]) -> Iterator[InputError]:
    if isinstance(own, dict) and own.keys().isdisjoint({"step", *STATE, SHAPE_KEY, *_FOREIGN}):
        return  # no step was made; what else is there is a wrapper's
    if not isinstance(own, dict) or not {"step", "square_avg"} <= own.keys() or own.keys() & _FOREIGN:
        found = Received(f"one with {', '.join(map(str, own))}" if isinstance(own, dict) else type(own).__name__)
        allowed = "one of RMSprop, with step and square_avg"
        yield InputError(f"the state of {where}", allowed, found, "load it into its optimizer")
        return
    step = own["step"]
    count: Any = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    is_number = isinstance(count, Real) and not isinstance(count, bool)  # Real: NumPy's, too
    if not (is_number and 0 <= count < 2**63):
        yield InputError(f"step of {where}", "a number of steps", Received(str(step)[:60]), _OURS)
    if group["state_dtype"] in (None, *DTYPES):  # else the group is named already
        try:
            state_dtype(group, p)
        except InputError as error:
            yield error
    for name in STATE:
        if name in own and (wrong := _wrong(p, own[name], own.get(SHAPE_KEY))):
            yield InputError(f"{name} of {where}", wrong[0], Received(wrong[1]), wrong[2])


def _wrong(p: Tensor, value: Any, shape: Any) -> tuple[str, str, str] | None:
    """Return None for an average that `p` can have, else what it has to be, what it is, and a remedy."""
    if not isinstance(value, Tensor):
        return "a Tensor", f"a {type(value).__name__}", _OURS
    if value.layout != torch.strided:
        return "dense", _short(value.layout).replace("_", " "), "load average.to_dense()"
    if value.dtype == torch.uint8:
        if p.is_complex() or p.dtype == torch.float64:
            return f"of the dtype of {_short(p.dtype)} parameters", "uint8", "load it for a float32 model"
        if isinstance(shape, Tensor) and shape.tolist() != list(p.shape):
            return f"of shape {tuple(p.shape)}", f"shape {tuple(shape.flatten().tolist())} in eight bits", _SAME_MODEL
        if value.shape != (packed_size(p.numel()),):
            needed = f"of the {packed_size(p.numel())} bytes of shape {tuple(p.shape)}"
            return needed, f"shape {tuple(value.shape)}", _SAME_MODEL
        return None
    if value.dtype not in (_COMPLEX if p.is_complex() else _REAL):
        return f"of a dtype for {_short(p.dtype)} parameters", _short(value.dtype), _SAME_MODEL
    if value.shape != p.shape:
        return f"of shape {tuple(p.shape)}", f"shape {tuple(value.shape)}", _SAME_MODEL
    return None


def _words(changes: Counter[tuple[torch.dtype, torch.dtype]]) -> Iterator[str]:
    for (old, new), count in changes.items():
        if old in (torch.bfloat16, torch.uint8):
            other = f"state_dtype={_short(old)!r} keeps them"
        elif new in (torch.bfloat16, torch.uint8):
            other = "state_dtype=None keeps them"
        else:
            other = f"a model in {_short(old)} keeps them"
        yield f"the averages of {_parameters(count)} change from {_short(old)} to {_short(new)} ({other})"


def _replaced(before: Sequence[Any], groups: Groups) -> Iterator[str]:
    now = [group["state_dtype"] for group in groups]
    for (old, new), count in Counter(zip(before, now, strict=True)).items():
        if old != new:
            where = "the group" if len(now) == 1 else f"{count} of {len(now)} groups"
            other = f"for the other, set group['state_dtype'] = {old!r} in optimizer.param_groups"
            yield f"state_dtype={new!r} of the state dict replaces {old!r} in {where} ({other})"


def _sizes(sizes: Sequence[int]) -> str:
    if not sizes:
        return "no groups"
    groups = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
    return f"{groups} with {', '.join(map(str, sizes[:-1]))}{' and ' if len(sizes) > 1 else ''}{_parameters(sizes[-1])}"


def _parameters(count: int) -> str:
    return f"{count} parameter{'' if count == 1 else 's'}"


def _short(dtype: torch.dtype | torch.layout) -> str:
    return str(dtype).removeprefix("torch.")
