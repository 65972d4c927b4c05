"""State dicts of PyTorch optimizers: torch, rmsprop.torch, timm, Stable-Baselines3 and bitsandbytes.

{"state": {index: {"step", "square_avg", "grad_avg", "momentum_buffer"}}, "param_groups": [{"params": indices, …}]}.
All but bitsandbytes use these names. timm's `momentum_buffer` holds M unless its group says lr_in_momentum=False.
Averages of rmsprop.torch may be in bfloat16, or packed in 8 bits beside the "shape" of the parameter. Both are read as
float32.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats import torch_search, torch_weights, trees
from rmsprop.checkpoint.formats.archives import check_unique, read_json, replace_entry
from rmsprop.checkpoint.formats.checkpoint_file import CheckpointFile
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
from rmsprop.checkpoint.formats.torch_groups import (
    another_optimizer,
    fields_in_file,
    group_of_fields,
    kind_in_file,
    other_keys,
    plain_groups,
)
from rmsprop.checkpoint.state import Checkpoint, Fields, ParameterState
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.hyperparameters import HYPERPARAMETERS
from rmsprop.profiles import GROUPS, check_mu_product, mu_product, state_as_ours
from rmsprop.rule import AVERAGES, Array

_STOPS = {"bfloat16": 2**8, "float16": 2**11}  # from here, adding 1 changes nothing


class StateDictFile(CheckpointFile):
    """A file of torch.save, an archive of SB3 that contains one, or a .safetensors that this package wrote."""

    endings = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".zip", ".safetensors")

    def __init__(self, path: Path, budget: ReadBudget) -> None:
        super().__init__(path, budget)
        self._is_sb3 = False  # whether it is an archive that SB3 saved
        self._content: Path | io.BytesIO = path  # what torch.save wrote
        if path.suffix == ".safetensors":
            self._saved: Any = _from_safetensors(path, budget)
        else:
            self._content, self._is_sb3 = torch_search.unpacked(path, budget)
            self._saved = TorchFile(self._content, budget).value
        self._state_dict = torch_search.only_state_dict(path, self._saved, budget)

    def state(self, kind: str | None, given: Fields) -> Checkpoint:
        """Return the state in the only optimizer state dict of the file."""
        path, budget = self.path, self.budget
        groups, notes = plain_groups(path, self._state_dict["param_groups"], budget)
        if kind is None and self._is_sb3 and not any("foreach" in g or "lr_in_momentum" in g for g in groups):
            kind = "sb3"  # an SB3 model with torch's or timm's optimizer has these keys
        kind = kind or kind_in_file(path, groups)
        states = _states(path, self._state_dict["state"], [index for group in groups for index in group["params"]])
        small = sorted({str(group["state_dtype"]) for group in groups if group.get("state_dtype")})
        notes += [f"averages in {' and '.join(small)} are read as float32, exactly"] if small else []
        fields: list[Fields] = []
        parameters: list[ParameterState] = []
        for group_index, group in enumerate(groups):
            fields.append(fields_in_file(path, kind, group, given))
            names = group.get("param_names") or [str(index) for index in group["params"]]
            if not all(isinstance(name, str) for name in names) or len(names) != len(group["params"]):
                received = Received("other param_names")
                raise InputError(str(path), "a name as text for each parameter", received, "save state_dict() again")
            for name, index in zip(names, group["params"], strict=True):
                saved = _plain_state(path, name, states.get(index, {}), budget)
                check_mu_product(f"{name} in {path}", group, saved)
                state = state_as_ours(kind, saved)
                if group.get("state_dtype") or any(is_packed(state.get(field)) for field in AVERAGES):
                    state = averages_in_float32(path, name, state, budget)
                parameters.append(_parameter(path, kind, name, state, fields[-1], group_index))
                notes += _stopped(path, name, state, fields[-1])
        check_unique(path, [parameter.name for parameter in parameters])
        extras = tuple(other_keys(group) for group in groups)
        return Checkpoint(kind, tuple(parameters), tuple(fields), extras, tuple(dict.fromkeys(notes)))

    def with_weights(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the state with the weights of the model saved beside it."""
        if self.path.suffix == ".safetensors":
            raise InputError("--weights", "used with what torch.save wrote", str(self.path), "omit it")
        several = len(checkpoint.groups) > 1
        weights = torch_weights.read(self.path, self._saved, checkpoint.parameters, several, self.budget)
        return replace(checkpoint, parameters=weights)

    def write_changed(self, checkpoint: Checkpoint, target: Path) -> None:
        """Write the file's content, loaded by torch, with another optimizer state dict."""
        if target.suffix == ".zip" and not self._is_sb3:
            raise _needs_archive(str(self.path))
        _check_holds_weights(checkpoint, target)
        if self.path.suffix == ".safetensors":
            saved = state_dict = dict(self._state_dict)
        else:
            saved = torch_search.loaded_by_torch(self._content)
            state_dict = torch_search.only_state_dict(self.path, saved, ReadBudget(self.path))
        state_dict |= _state_dict(checkpoint, state_dict["param_groups"])
        if any(p.weight is not None for p in checkpoint.parameters):
            model = torch_weights.find(self.path, saved, ReadBudget(self.path))
            torch_weights.fill(model, checkpoint.parameters, to_tensor)
        if target.suffix == ".safetensors":
            write_atomically(target, _to_safetensors(state_dict))
            return
        content = _torch_bytes(saved)
        if target.suffix == ".zip":
            content = replace_entry(self.path, torch_search.OPTIMIZER, content)
        write_atomically(target, content)

    @classmethod
    def write_new(cls, checkpoint: Checkpoint, target: Path) -> None:
        """Write the optimizer's state dict alone; with weights, {"model": …, "optimizer": …}."""
        if target.suffix == ".zip":
            raise _needs_archive(None)
        _check_holds_weights(checkpoint, target)
        state_dict = _state_dict(checkpoint, checkpoint.extras)
        if target.suffix == ".safetensors":
            write_atomically(target, _to_safetensors(state_dict))
            return
        saved = state_dict
        if any(p.weight is not None for p in checkpoint.parameters):
            saved = {"model": {}, "optimizer": state_dict}
            torch_weights.fill(saved["model"], checkpoint.parameters, to_tensor)
        write_atomically(target, _torch_bytes(saved))


def _needs_archive(like: str | None) -> InputError:
    return InputError("like", "a .zip that SB3 saved, to put the state into", like, "or write a .pth")


def _check_holds_weights(checkpoint: Checkpoint, target: Path) -> None:
    if target.suffix in (".zip", ".safetensors") and any(p.weight is not None for p in checkpoint.parameters):
        raise InputError("the target", "a .pt, which holds a model beside its optimizer", str(target), "name it so")


def _states(path: Path, state: Mapping[Any, Any], indices: Sequence[Any]) -> dict[Any, Any]:
    """Return each parameter's state by its index in the groups. Indices that were saved as text become numbers."""
    states = dict(state)
    if "0" in states and 0 in indices:
        check_unique(path, [str(index) for index in states])
        states = {int(index) if str(index).isdecimal() else index: each for index, each in states.items()}
    if len(set(indices)) != len(indices) or not set(states) <= set(indices):
        raise InputError(str(path), "state of the parameters in param_groups", Received("other state"), "save it again")
    return states


def _plain_state(path: Path, parameter: str, saved: Any, budget: ReadBudget) -> dict[str, Any]:
    """Return one parameter's state in plain values. Drop other values; raise InputError for averages and step."""
    if not isinstance(saved, dict):
        raise TypeError("the state of a parameter is no dict")
    state = {}
    for name, value in saved.items():
        try:
            state[name] = value.array() if isinstance(value, Stored) else plain(value, budget)
        except LookupError as error:
            if name in ("step", *AVERAGES):
                received, remedy = f"a {error.args[0]}", "gather it first, as by full_tensor() of a DTensor"
                where = f"{name} of {parameter} in {path}"
                raise InputError(where, "a tensor of numbers", Received(received), remedy) from None
    return state


def _parameter(
    path: Path, kind: str, name: str, state: Mapping[str, Any], fields: Fields, group: int
) -> ParameterState:
    if not state:
        return ParameterState(name, None, group=group)
    step = read_step(name, state["step"])
    if "acc_delta" in state or "state2" in state:  # Adadelta; Adam of bitsandbytes
        raise another_optimizer(path, kind)
    if kind == "bitsandbytes":
        return ParameterState(name, bitsandbytes_square_avg(state), step=step, group=group)
    averages: dict[str, Any] = {field: to_array(state[field]) for field in AVERAGES if field in state}
    if "square_avg" not in averages:
        received = Received(f"a state of {', '.join(map(str, state))}")
        raise InputError(str(path), "state of RMSprop, with square_avg", received, "check --from")
    for field, needed_by in ((each.average, each.name) for each in HYPERPARAMETERS.values() if each.average):
        if not fields.get(needed_by):
            averages.pop(field, None)
        elif field not in averages:
            received = Received(f"{name} without {field}")
            raise InputError(str(path), "state for its hyperparameters", received, "save state_dict() again")
    return ParameterState(name, step=step, group=group, **averages)


def _stopped(path: Path, name: str, state: Mapping[str, Any], fields: Fields) -> list[str]:
    """Return a note if the dtype may have stopped the step count; raise InputError if a step needs the true count."""
    step: Array = np.asarray(state.get("step", 0))
    most = _STOPS.get(step.dtype.name)
    if most is None or float(step.reshape(())[()]) < most:
        return []
    if fields.get("bias_correction"):
        allowed = f"below {most} in this dtype, which counts no further"
        received = Received(f"{int(step.reshape(())[()])} in {step.dtype}")
        remedy = "set step to the true count in float32, and save it again"
        raise InputError(f"step of {name} in {path}", allowed, received, remedy)
    return [f"step was kept in {step.dtype}, which counts no further than {most}: the true count is unknown"]


def _state_dict(checkpoint: Checkpoint, extras: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a state dict of torch tensors. `extras` has the other keys of each group."""
    torch = import_package("torch", "torch", f"a file of {checkpoint.kind}")
    states: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    offset = 0
    for group_index, fields in enumerate(checkpoint.groups):
        members = [p for p in checkpoint.parameters if p.group == group_index]
        group = group_of_fields(checkpoint.kind, fields, extras[group_index] if group_index < len(extras) else {})
        group["params"] = list(range(offset, offset + len(members)))
        offset += len(members)
        if any(not p.name.isdecimal() for p in members):
            group["param_names"] = [p.name for p in members]
        groups.append(group)
        for index, p in zip(group["params"], members, strict=True):
            if p.square_avg is not None:
                step = p.step or 0
                wide = torch.float64 if step > 2**24 else torch.float32  # float32 counts no further
                count = torch.tensor(float(step_array(step, np.float64, checkpoint.kind)), dtype=wide)
                averages = {name: getattr(p, name) for name in AVERAGES if getattr(p, name) is not None}
                states[index] = {"step": step if checkpoint.kind == "sb3" else count}
                names = GROUPS[checkpoint.kind].averages
                states[index] |= {names.get(name, name): to_tensor(value) for name, value in averages.items()}
                if checkpoint.kind == "nadam":
                    states[index]["mu_product"] = torch.tensor(
                        mu_product(fields["momentum"], fields["momentum_decay"], step), dtype=torch.float64
                    )
    return {"state": states, "param_groups": groups}


def _torch_bytes(saved: Any) -> bytes:
    buffer = io.BytesIO()
    import_package("torch").save(saved, buffer)
    return buffer.getvalue()


def _to_safetensors(state_dict: Mapping[str, Any]) -> bytes:
    flat = {
        f"state/{index}/{name}": np.asarray(value) if name == "step" else to_array(value)
        for index, state in state_dict["state"].items()
        for name, value in state.items()
    }
    return trees.safetensors_bytes(flat, {"param_groups": json.dumps(state_dict["param_groups"])})


def _from_safetensors(path: Path, budget: ReadBudget) -> dict[str, Any]:
    flat, metadata = trees.read_safetensors(path, budget)
    groups = read_json(path, metadata["param_groups"])
    state: dict[Any, dict[str, Any]] = {}
    for key, value in flat.items():
        _, index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}
