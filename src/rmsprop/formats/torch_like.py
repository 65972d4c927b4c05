"""State dicts of PyTorch optimizers: torch, rmsprop.torch, timm, Stable-Baselines3 and bitsandbytes.

{"state": {index: {"step", "square_avg", "grad_avg", "momentum_buffer"}}, "param_groups": [{"params": indices, …}]}.
All but bitsandbytes use these names; timm's `momentum_buffer` holds M unless its group says lr_in_momentum=False. Ours
may hold averages in bfloat16, or packed in eight bits with the "shape" of the parameter: they are read as float32.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop.checkpoint import AVERAGES, KINDS, Array, Checkpoint, Fields, ParameterState
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.formats import trees
from rmsprop.formats.files import agree, bfloat16, check_archive, package, replace_entry
from rmsprop.profiles import FIELDS, canonical
from rmsprop.state_dicts import SHAPE_KEY, VERSION, VERSION_KEY, check_goes_on, is_of, kind_of, stated

if TYPE_CHECKING:
    from torch import Tensor

_OPTIMIZER = "policy.optimizer.pth"  # in the archive that SB3 saves
_BLOCK = 256  # elements that share a scale in bitsandbytes' 8-bit state
# What else a group of each kind states, with the library's default.
_EXECUTION: Mapping[str, Fields] = {
    "torch": {"capturable": False, "foreach": None, "differentiable": False},
    "rmsprop.torch": {"capturable": False, "foreach": None, "differentiable": False, "fused": None},
    "timm": {"caution": False},
    "sb3": {},
}
_PLAIN = ("lr", "decay", "eps", "momentum", "centered", "weight_decay")
_RULE = {
    "torch": (*_PLAIN, "maximize"),
    "rmsprop.torch": FIELDS,
    "timm": (*_PLAIN, "lr_in_momentum", "decoupled_weight_decay"),
    "sb3": _PLAIN,
}
_NAMES = {"decay": "alpha"}
_TIMM_NAMES = {"decay": "alpha", "decoupled_weight_decay": "decoupled_decay"}
# What a group has that is the rule's, or changes with the parameters; all else is passed on as it is.
_RULE_NAMES = {*FIELDS, "alpha", "decoupled_decay", "betas", "params", "param_names", VERSION_KEY}


def read(path: Path, kind: str | None, known: dict[str, Any]) -> Checkpoint:
    """Return the state in a file of torch.save, in SB3's archive, or in our own form of .safetensors."""
    state_dict, where, _ = _load(path)
    groups = state_dict["param_groups"]
    kind = kind or where or _kind(path, groups)
    indices = [index for group in groups for index in group["params"]]
    if len(set(indices)) != len(indices) or not set(state_dict["state"]) <= set(indices):
        raise InputError(str(path), "state of the parameters in param_groups", Received("other state"), "check it")
    fields, parameters, extras = [], [], []
    small = sorted({str(group["state_dtype"]) for group in groups if group.get("state_dtype")})
    notes = (f"averages in {' and '.join(small)} are read as float32, exactly",) if small else ()
    for number, group in enumerate(groups):
        fields.append(_fields(path, kind, group, known))
        extras.append({name: value for name, value in group.items() if name not in _RULE_NAMES})
        if group.get("state_dtype"):
            extras[-1]["state_dtype"] = None
        names = group.get("param_names") or [str(index) for index in group["params"]]
        for name, index in zip(names, group["params"], strict=True):
            own = dict(state_dict["state"].get(index, {}))
            if group.get("state_dtype") or any(_is_packed(own.get(field)) for field in AVERAGES):
                own = _in_float32(path, name, own)
            parameters.append(_parameter(path, kind, name, own, fields[-1], number))
    return Checkpoint(kind, tuple(parameters), tuple(fields), tuple(extras), notes)


def write(checkpoint: Checkpoint, path: Path, like: Path | None) -> None:
    """Write a state dict; with `like` in its place in a copy of that file, which may be SB3's archive."""
    torch = package("torch", "torch", f"a file of {checkpoint.kind}")
    if path.suffix == ".zip" and (like is None or not _holds_optimizer(like)):
        raise InputError("like", "a .zip that SB3 saved, to put the state into", like and str(like), "or write a .pth")
    state_dict: dict[str, Any] = {}
    loaded: Any = state_dict
    extras = checkpoint.extras
    if like is not None:
        state_dict, _, loaded = _load(like)
        extras = tuple(state_dict["param_groups"])
    index = 0
    states: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for number, fields in enumerate(checkpoint.groups):
        own = [p for p in checkpoint.parameters if p.group == number]
        names = _TIMM_NAMES if checkpoint.kind == "timm" else _NAMES
        group = {**_EXECUTION[checkpoint.kind], **(extras[number] if number < len(extras) else {})}
        group |= {names.get(name, name): fields[name] for name in _RULE[checkpoint.kind]}
        if checkpoint.kind == "rmsprop.torch":
            group[VERSION_KEY] = VERSION
        group["params"] = list(range(index, index + len(own)))
        for parameter in own:
            if parameter.square_avg is not None:
                step = parameter.step or 0
                states[index] = {"step": step if checkpoint.kind == "sb3" else torch.tensor(float(step))}
                values = ((name, getattr(parameter, name)) for name in AVERAGES)
                states[index] |= {name: _tensor(value) for name, value in values if value is not None}
            index += 1
        if any(not p.name.isdecimal() for p in own):
            group["param_names"] = [p.name for p in own]
        groups.append(group)
    state_dict |= {"state": states, "param_groups": groups}
    if path.suffix == ".safetensors":
        write_atomically(path, _safetensors(state_dict))
        return
    buffer = io.BytesIO()
    torch.save(loaded, buffer)
    content = buffer.getvalue()
    if path.suffix == ".zip" and like is not None:
        content = replace_entry(like, _OPTIMIZER, content)
    write_atomically(path, content)


def _holds_optimizer(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _OPTIMIZER in archive.namelist()


def _load(path: Path) -> tuple[dict[str, Any], str | None, Any]:
    """Return the state dict in a file, the kind if its place tells, and all that was saved, which it is part of."""
    if path.suffix == ".safetensors":
        flat, metadata = trees.read_safetensors(path)
        groups = json.loads(metadata["param_groups"])
        state: dict[Any, dict[str, Any]] = {}
        for key, value in flat.items():
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
        whole = {"state": state, "param_groups": groups}
        return whole, None, whole
    torch = package("torch", "torch", "a file of PyTorch")
    check_archive(path)
    where = None
    source: Any = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".optimizer.pth")]
            if names and names != [_OPTIMIZER]:
                found = Received(", ".join(names))
                raise InputError(str(path), f"an archive with {_OPTIMIZER}", found, "unpack the one and give that")
            if names:
                source, where = io.BytesIO(archive.read(_OPTIMIZER)), "sb3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch on old forms of files, which it reads
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    dicts = list(_optimizers(loaded))
    if len(dicts) != 1:
        found = Received(f"{len(dicts)} of them")
        raise InputError(str(path), "a file with one optimizer's state_dict()", found, "save that alone")
    groups = dicts[0]["param_groups"]
    if where and any("foreach" in group or "lr_in_momentum" in group for group in groups):
        where = None  # an SB3 model may train with any optimizer
    return dicts[0], where, loaded


def _optimizers(value: Any, depth: int = 3) -> Iterator[dict[str, Any]]:
    """Yield the state dicts of optimizers in what torch.save wrote."""
    if isinstance(value, dict) and depth:
        if isinstance(value.get("param_groups"), list) and isinstance(value.get("state"), dict):
            yield value
            return
        for each in value.values():
            yield from _optimizers(each, depth - 1)


def _kind(path: Path, groups: list[dict[str, Any]]) -> str:
    kind = kind_of(groups)
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
    if not is_of(kind, group):
        raise _foreign(path, kind)
    check_goes_on(group)
    said = {field: value.item() if hasattr(value, "item") else value for field, value in stated(group).items()}
    for name in ("lr", "decay", "eps", "momentum", "weight_decay"):
        if name in said:
            said[name] = float(said[name])
    if -1e-12 * group.get("initial_lr", 0.0) <= said.get("lr", 0.0) < 0:  # a schedule that ends at 0, rounded
        said["lr"] = 0.0
    said["centered"] = bool(said.get("centered", False))
    for name, value in KINDS[kind].fixed.items():
        if said.get(name, value) != value:
            found = Received(f"one with {name}={said[name]}")
            raise InputError(str(path), f"state of {KINDS[kind].title}", found, "check --from")
    return agree(path, {**said, **KINDS[kind].fixed}, canonical(known))


def _parameter(path: Path, kind: str, name: str, own: dict[str, Any], fields: Fields, group: int) -> ParameterState:
    if not own:
        return ParameterState(name, None, group=group)
    step = int(own["step"])
    if "acc_delta" in own or "state2" in own:  # Adadelta; Adam of bitsandbytes
        raise _foreign(path, kind)
    if kind == "bitsandbytes":
        return ParameterState(name, _bitsandbytes(own), step=step, group=group)
    values: dict[str, Any] = {field: _array(own[field]) for field in AVERAGES if field in own}
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


def _is_packed(value: Any) -> bool:
    return value is not None and str(value.dtype).removeprefix("torch.") == "uint8"


def _in_float32(path: Path, name: str, own: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with averages in bfloat16 or eight bits as float32."""
    torch = package("torch", "torch", "a file of rmsprop.torch")
    from rmsprop.torch.low_precision import packed_size, unpack

    for field in AVERAGES:
        if field not in own:
            continue
        value = own[field] if isinstance(own[field], torch.Tensor) else _tensor(own[field])
        if value.dtype == torch.uint8:
            if SHAPE_KEY not in own:
                found = Received(f"{field} of {name} in eight bits alone")
                raise InputError(str(path), "averages with the shape of their parameter", found, "save state_dict()")
            shape = torch.empty([int(size) for size in own[SHAPE_KEY]], device="meta")
            if value.shape != (packed_size(shape.numel()),):
                found = Received(f"{field} of {name} of {value.numel()} bytes for shape {tuple(shape.shape)}")
                raise InputError(str(path), f"{packed_size(shape.numel())} bytes there", found, "save or copy it again")
            value = unpack(value, shape, signed=field != "square_avg")
        own[field] = value.float() if value.dtype == torch.bfloat16 else value
    return own


def _bitsandbytes(own: dict[str, Any]) -> Array:
    """Return v, from 8 bits by the table qmap1 and the scale of each block absmax1."""
    own = own.get("__bnb_optimizer_quant_state__", own)
    state = _array(own["state1"])
    if state.dtype != np.uint8:
        return state
    table, scales = _array(own["qmap1"]), _array(own["absmax1"])
    blocks = np.arange(state.size) // _BLOCK
    v = table[state.reshape(-1)] * scales[blocks]
    return v.reshape(state.shape)


def _array(tensor: Any) -> Array:
    """Return a torch tensor as an array; bfloat16, which NumPy alone lacks, too."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if str(tensor.dtype) == "torch.bfloat16":
        import torch

        return np.asarray(tensor.view(torch.int16).numpy()).view(bfloat16())
    array: Array = tensor.numpy()
    return array


def _tensor(array: Array) -> Tensor:
    import torch

    array = array.copy(order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _safetensors(state_dict: dict[str, Any]) -> bytes:
    flat = {
        f"state/{index}/{name}": np.asarray(value) if name == "step" else _array(value)
        for index, state in state_dict["state"].items()
        for name, value in state.items()
    }
    return trees.safetensors_bytes(flat, {"param_groups": json.dumps(state_dict["param_groups"])})
