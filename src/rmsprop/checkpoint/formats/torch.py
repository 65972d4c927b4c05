"""State dicts of PyTorch optimizers: torch, rmsprop.torch, timm, Stable-Baselines3 and bitsandbytes.

{"state": {index: {"step", "square_avg", "grad_avg", "momentum_buffer"}}, "param_groups": [{"params": indices, …}]}.
All but bitsandbytes use these names; timm's `momentum_buffer` holds M unless its group says lr_in_momentum=False. Ours
may hold averages in bfloat16, or packed in eight bits with the "shape" of the parameter: they are read as float32.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats import torch_weights, trees
from rmsprop.checkpoint.formats.archives import check_unique, replace_entry
from rmsprop.checkpoint.formats.packages import import_package
from rmsprop.checkpoint.formats.pickled_values import plain
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.formats.torch_averages import (
    averages_in_float32,
    bitsandbytes_square_avg,
    is_packed,
    to_array,
    to_tensor,
)
from rmsprop.checkpoint.formats.torch_file import Stored, TorchFile
from rmsprop.checkpoint.formats.torch_search import OPTIMIZER, archived, holds_optimizer, loaded_by_torch, saved_state
from rmsprop.checkpoint.state import AVERAGES, Checkpoint, Fields, ParameterState, agreed_fields
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.profiles import (
    FIELD_OF_KEY,
    FIELDS,
    GROUPS,
    KINDS,
    VERSION,
    VERSION_KEY,
    canonical,
    check_goes_on,
    group_fields,
    is_group_of,
    kind_of_groups,
)
from rmsprop.rule import Array

_STOPS = {"bfloat16": 2**8, "float16": 2**11}  # where adding 1 changes nothing
# What a group has that is the rule's, or changes with the parameters; all else is passed on as it is.
_RULE_NAMES = {*FIELDS, *FIELD_OF_KEY, "betas", "params", "param_names", VERSION_KEY}


def read(path: Path, kind: str | None, known: dict[str, Any], budget: ReadBudget) -> Checkpoint:
    """Return the state in a file of torch.save, in SB3's archive, or in our own form of .safetensors."""
    saved, where = saved_state(path, budget)
    groups, notes = _groups(path, saved["param_groups"], budget)
    kind = kind or where or _kind(path, groups)
    indices = [index for group in groups for index in group["params"]]
    state = saved["state"]
    if "0" in state and 0 in indices:  # a store of text keys turns numbers into text
        check_unique(path, [str(index) for index in state])
        state = {int(index) if str(index).isdecimal() else index: own for index, own in state.items()}
    if len(set(indices)) != len(indices) or not set(state) <= set(indices):
        raise InputError(str(path), "state of the parameters in param_groups", Received("other state"), "check it")
    fields, parameters, extras = [], [], []
    small = sorted({str(group["state_dtype"]) for group in groups if group.get("state_dtype")})
    notes += [f"averages in {' and '.join(small)} are read as float32, exactly"] if small else []
    for number, group in enumerate(groups):
        fields.append(_fields(path, kind, group, known))
        extras.append({name: value for name, value in group.items() if name not in _RULE_NAMES})
        if group.get("state_dtype"):
            extras[-1]["state_dtype"] = None
        names = group.get("param_names") or [str(index) for index in group["params"]]
        if not all(isinstance(name, str) for name in names) or len(names) != len(group["params"]):
            raise InputError(str(path), "a name as text of each parameter", Received("other param_names"), "check it")
        for name, index in zip(names, group["params"], strict=True):
            own = _own(path, name, state.get(index, {}), budget)
            if group.get("state_dtype") or any(is_packed(own.get(field)) for field in AVERAGES):
                own = averages_in_float32(path, name, own, budget)
            parameters.append(_parameter(path, kind, name, own, fields[-1], number))
            if own and np.asarray(own["step"]).dtype.name in _STOPS and parameters[-1].step is not None:
                notes += _stopped(path, name, np.asarray(own["step"]), fields[-1])
    check_unique(path, [parameter.name for parameter in parameters])
    return Checkpoint(kind, tuple(parameters), tuple(fields), tuple(extras), tuple(dict.fromkeys(notes)))


def _groups(path: Path, saved: list[Any], budget: ReadBudget) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the parameter groups in plain values, and notes on what of them is none."""
    groups, notes = [], []
    for each in saved:
        if not isinstance(each, dict) or not isinstance(each.get("params"), (list, tuple)):
            raise InputError(str(path), "groups with params", Received("another thing"), "save state_dict() again")
        group: dict[str, Any] = {}
        for name, value in each.items():
            if not isinstance(name, str):
                found = Received(f"one of {type(name).__name__}")
                raise InputError(f"a key of a group in {path}", "text", found, "save the group under a name")
            try:
                group[name] = plain(value, budget)
            except LookupError as error:
                notes.append(f"{name} of a group is left out: it holds a {error.args[0]}")
        if not all(isinstance(index, (int, str)) for index in group["params"]):
            raise InputError(str(path), "groups of parameter numbers", Received("other params"), "check it")
        groups.append(group)
    return groups, notes


def _own(path: Path, parameter: str, saved: Any, budget: ReadBudget) -> dict[str, Any]:
    """Return the state of one parameter in plain values; what is none, and no average, is left out."""
    if not isinstance(saved, dict):
        raise TypeError("the state of a parameter is no dict")
    own = {}
    for name, value in saved.items():
        try:
            own[name] = value.array() if isinstance(value, Stored) else plain(value, budget)
        except LookupError as error:
            if name in ("step", *AVERAGES):
                where, found = f"{name} of {parameter} in {path}", Received(f"a {error.args[0]}")
                remedy = "gather it first, as by full_tensor() of a DTensor"
                raise InputError(where, "a tensor of numbers", found, remedy) from None
    return own


def _stopped(path: Path, name: str, step: Array, fields: Fields) -> list[str]:
    """Return a note on a count that may have stopped; where bias correction needs it the count is refused."""
    most = _STOPS[step.dtype.name]
    if float(step.reshape(())[()]) < most:
        return []
    if fields.get("bias_correction"):
        found = Received(f"{int(step.reshape(())[()])} in {step.dtype}")
        raise InputError(
            f"step of {name} in {path}",
            f"below {most} in this dtype, which counts no further",
            found,
            "set step to the true count in float32, and save it again",
        )
    return [f"step was kept in {step.dtype}, which counts no further than {most}: the true count is unknown"]


def with_weights(path: Path, checkpoint: Checkpoint, budget: ReadBudget) -> Checkpoint:
    """Return the state with the weights of the model that is saved beside it."""
    if path.suffix == ".safetensors":
        raise InputError("--weights", "used with what torch.save wrote", str(path), "leave it out")
    content, _ = archived(path, budget)
    several = len(checkpoint.groups) > 1
    saved = TorchFile(content, budget).value
    return replace(checkpoint, parameters=torch_weights.read(path, saved, checkpoint.parameters, several, budget))


def write(checkpoint: Checkpoint, path: Path, like: Path | None) -> None:
    """Write a state dict; with `like` in its place in a copy of that file, which may be SB3's archive."""
    torch = import_package("torch", "torch", f"a file of {checkpoint.kind}")
    if path.suffix == ".zip" and (like is None or not holds_optimizer(like)):
        raise InputError("like", "a .zip that SB3 saved, to put the state into", like and str(like), "or write a .pth")
    state_dict: dict[str, Any] = {}
    loaded: Any = state_dict
    extras = checkpoint.extras
    if like is not None:
        state_dict, loaded = loaded_by_torch(like)
        extras = tuple(state_dict["param_groups"])
    stated = GROUPS[checkpoint.kind]
    index = 0
    states: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for number, fields in enumerate(checkpoint.groups):
        own = [p for p in checkpoint.parameters if p.group == number]
        kept = extras[number] if number < len(extras) else {}
        kept = {name: to_tensor(value) if isinstance(value, np.ndarray) else value for name, value in kept.items()}
        group = {**stated.defaults, **kept}
        group |= {stated.keys.get(field, field): fields[field] for field in stated.fields}
        if checkpoint.kind == "rmsprop.torch":
            group[VERSION_KEY] = VERSION
        group["params"] = list(range(index, index + len(own)))
        for parameter in own:
            if parameter.square_avg is not None:
                step = parameter.step or 0
                wide = torch.float64 if step > 2**24 else torch.float32  # where float32 counts no further
                told = torch.tensor(float(step_array(step, np.float64, checkpoint.kind)), dtype=wide)
                states[index] = {"step": step if checkpoint.kind == "sb3" else told}
                values = ((name, getattr(parameter, name)) for name in AVERAGES)
                states[index] |= {name: to_tensor(value) for name, value in values if value is not None}
            index += 1
        if any(not p.name.isdecimal() for p in own):
            group["param_names"] = [p.name for p in own]
        groups.append(group)
    state_dict |= {"state": states, "param_groups": groups}
    if any(p.weight is not None for p in checkpoint.parameters):
        if path.suffix in (".zip", ".safetensors"):
            raise InputError("the target", "a .pt, which holds a model beside its optimizer", str(path), "name it so")
        if like is None:
            model: dict[str, Any] = {}
            loaded = {"model": model, "optimizer": state_dict}
        else:
            model = torch_weights.find(like, loaded, ReadBudget(like))
        torch_weights.fill(model, checkpoint.parameters, to_tensor)
    if path.suffix == ".safetensors":
        write_atomically(path, _safetensors(state_dict))
        return
    buffer = io.BytesIO()
    torch.save(loaded, buffer)
    content = buffer.getvalue()
    if path.suffix == ".zip" and like is not None:
        content = replace_entry(like, OPTIMIZER, content)
    write_atomically(path, content)


def _kind(path: Path, groups: list[dict[str, Any]]) -> str:
    kind = kind_of_groups(groups)
    if kind is None:
        keys = set(groups[0]) if groups else set()
        found = Received(f"groups with {', '.join(sorted(map(str, keys - {'params'})))}")
        remedy = "say --from torch or --from sb3 (of --like: --to), whose groups look alike"
        raise InputError(str(path), "a file that tells its library", found, remedy)
    return kind


def _foreign(path: Path, kind: str) -> InputError:
    remedy = "only the state of RMSprop moves; check --from"
    return InputError(str(path), f"state of {KINDS[kind].title}", Received("another optimizer's"), remedy)


def _fields(path: Path, kind: str, group: dict[str, Any], known: dict[str, Any]) -> Fields:
    """Return the rule of a parameter group as far as it is stated."""
    if not is_group_of(kind, group):
        raise _foreign(path, kind)
    check_goes_on(group)
    said = {field: value.item() if hasattr(value, "item") else value for field, value in group_fields(group).items()}
    for name in ("lr", "decay", "eps", "momentum", "weight_decay"):
        if isinstance(said.get(name), (int, np.number)) and not isinstance(said[name], bool):
            said[name] = float(said[name])  # else the rule's check names it
    lr, start = said.get("lr"), group.get("initial_lr", 0.0)
    if isinstance(lr, float) and isinstance(start, float) and -1e-12 * start <= lr < 0:
        said["lr"] = 0.0  # of a schedule that ends at 0, rounded
    said["centered"] = bool(said.get("centered", False))
    for name, value in KINDS[kind].fixed.items():
        if said.get(name, value) != value:
            found = Received(f"one with {name}={said[name]}")
            raise InputError(str(path), f"state of {KINDS[kind].title}", found, "check --from")
    return agreed_fields(path, {**said, **KINDS[kind].fixed}, canonical(known))


def _parameter(path: Path, kind: str, name: str, own: dict[str, Any], fields: Fields, group: int) -> ParameterState:
    if not own:
        return ParameterState(name, None, group=group)
    step = read_step(name, own["step"])
    if "acc_delta" in own or "state2" in own:  # Adadelta; Adam of bitsandbytes
        raise _foreign(path, kind)
    if kind == "bitsandbytes":
        return ParameterState(name, bitsandbytes_square_avg(own), step=step, group=group)
    values: dict[str, Any] = {field: to_array(own[field]) for field in AVERAGES if field in own}
    if "square_avg" not in values:
        found = Received(f"a state of {', '.join(map(str, own))}")
        raise InputError(str(path), "state of RMSprop, with square_avg", found, "check --from")
    for field, used in (("grad_avg", fields["centered"]), ("momentum_buffer", fields.get("momentum"))):
        if not used:
            values.pop(field, None)
        elif field not in values:
            found = Received(f"{name} without {field}")
            raise InputError(str(path), "state for its hyperparameters", found, "check it")
    return ParameterState(name, step=step, group=group, **values)


def _safetensors(state_dict: dict[str, Any]) -> bytes:
    flat = {
        f"state/{index}/{name}": np.asarray(value) if name == "step" else to_array(value)
        for index, state in state_dict["state"].items()
        for name, value in state.items()
    }
    return trees.safetensors_bytes(flat, {"param_groups": json.dumps(state_dict["param_groups"])})
