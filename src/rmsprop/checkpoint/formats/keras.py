"""Keras 3's .keras, .weights.h5 and a whole model's .h5, whose optimizer variables are numbered.

    0 iteration · 1 learning_rate, unless it is a schedule · averages of weights with use_ema · gradients being
    accumulated · v of every variable · M of every variable with momentum · m of every variable if centered

rmsprop.keras.RMSprop has the same order. Only a .keras file says which of them there are.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rmsprop.checkpoint.formats import keras_weights
from rmsprop.checkpoint.formats.archives import check_archive, read_json, replace_entry
from rmsprop.checkpoint.formats.packages import bfloat16, import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.keras_model import variables as trainable_variables
from rmsprop.checkpoint.state import Checkpoint, KerasVariable, ParameterState, agreed_fields
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.hyperparameters import ALIASES
from rmsprop.profiles import FIELDS, KINDS
from rmsprop.rule import Array

_VARS, _WEIGHTS, _CONFIG = "optimizer/vars", "model.weights.h5", "config.json"
_OLD_VARS = "optimizer_weights"  # in a whole model's .h5, where attributes give their order
_BFLOAT16 = "bfloat16"
_EXTRA = ("use_ema", "gradient_accumulation_steps")  # a block of variables each, before the state


class Layout(NamedTuple):
    """Where things stand among the numbered variables."""

    has_lr: bool
    skipped: int  # blocks before v
    fields: tuple[str, ...]  # of ParameterState, a block each
    size: int  # variables in a block

    def numbers(self, field: str) -> range:
        """Return the numbers of a block's variables."""
        start = 1 + self.has_lr + (self.skipped + self.fields.index(field)) * self.size
        return range(start, start + self.size)


def read(path: Path, kind: str | None, known: dict[str, Any], budget: ReadBudget) -> Checkpoint:
    """Return the state of a model's optimizer."""
    content = _content(path, budget)
    variables, whole = _variables(path, content, budget)
    config = _config(path, whole)
    kind = kind or ("rmsprop.keras" if config and "eps_inside_sqrt" in config else "keras")
    stated: dict[str, Any] = dict(KINDS[kind].fixed)
    for name, value in (config or {}).items():
        field = ALIASES.get(name, name)
        if field in FIELDS and field != "lr":
            stated[field] = float(value or 0.0) if field in ("momentum", "weight_decay", "decay", "eps") else value
    layout = _layout(path, variables, config, {**stated, **known})
    if layout.has_lr:
        stated["lr"] = float(variables[1])
    fields = agreed_fields(path, {"momentum": None, "centered": "grad_avg" in layout.fields, **stated}, known)
    step = read_step("the optimizer", variables[0])
    layers = _layers(path, whole, [variables[i].ndim for i in layout.numbers("square_avg")])
    parameters = []
    for i in range(layout.size):
        values: dict[str, Any] = {field: variables[layout.numbers(field)[i]] for field in layout.fields}
        parameters.append(ParameterState(str(i), step=step, layer=layers[i], **values))
    return Checkpoint(kind, tuple(parameters), (fields,))


def with_weights(path: Path, checkpoint: Checkpoint, budget: ReadBudget) -> Checkpoint:
    """Return the state with the weights of the model."""
    return replace(
        checkpoint, parameters=keras_weights.read(path, _content(path, budget), checkpoint.parameters, budget)
    )


def write(checkpoint: Checkpoint, path: Path, like: Path | None) -> None:
    """Write the variables of the optimizer: into a copy of `like`, or into an .h5 that holds nothing else."""
    fields = [field for field in ("square_avg", "momentum_buffer", "grad_avg") if _has(checkpoint, field)]
    group = checkpoint.groups[0]
    if like is None:
        if path.suffix != ".h5":
            raise InputError("like", "a .keras file, to put the state into", None, "or write a .weights.h5")
        if any(p.weight is not None for p in checkpoint.parameters):
            raise InputError("like", "a .keras file, to put the weights into", None, "give --like")
        if group.get("lr") is None:
            raise InputError("lr", "known, as Keras keeps it among its variables", None, "say --lr")
        values = [step_array(checkpoint.step or 0, np.int32, checkpoint.kind), np.asarray(group["lr"], np.float32)]
        values += [getattr(p, field) for field in fields for p in checkpoint.parameters]
        write_atomically(path, _h5({f"{_VARS}/{i}": value for i, value in enumerate(values)}))
        return
    if like.suffix != path.suffix:
        raise InputError("the target", f"named with {like.suffix}, as --like is", str(path), "choose another name")
    budget = ReadBudget(like)
    content = _content(like, budget)
    variables, whole = _variables(like, content, budget)
    config = _config(like, whole)
    known = {"momentum": float("momentum_buffer" in fields), "centered": "grad_avg" in fields}
    layout = _layout(like, variables, config, {**known, **_stated(config)})
    changed = {n: getattr(checkpoint.parameters[i], f) for f in layout.fields for i, n in enumerate(layout.numbers(f))}
    if checkpoint.step is not None:
        changed[0] = step_array(checkpoint.step, variables[0].dtype, checkpoint.kind)
    if layout.has_lr and group.get("lr") is not None:
        changed[1] = np.asarray(group["lr"], variables[1].dtype)
    names = _names(whole) or [f"{_VARS}/{i}" for i in range(len(variables))]
    arrays = {names[i]: value for i, value in changed.items()}
    if any(p.weight is not None for p in checkpoint.parameters):
        with import_package("h5py").File(io.BytesIO(content), "r") as file:
            places = keras_weights.places(like, file, checkpoint.parameters, budget)
        for p, where in zip(checkpoint.parameters, places, strict=True):
            arrays |= {name: getattr(p, field) for field, name in where.items() if getattr(p, field) is not None}
    content = _h5(arrays, content)
    write_atomically(path, content if path.suffix == ".h5" else replace_entry(like, _WEIGHTS, content))


def _has(checkpoint: Checkpoint, field: str) -> bool:
    return any(getattr(p, field) is not None for p in checkpoint.parameters)


def _stated(config: dict[str, Any] | None) -> dict[str, Any]:
    return {name: config[name] for name in ("momentum", "centered") if name in config} if config else {}


def _content(path: Path, budget: ReadBudget) -> bytes:
    """Return the HDF5 file that `path` is or holds."""
    if path.suffix == ".h5":
        return path.read_bytes()
    check_archive(path, budget)
    with zipfile.ZipFile(path) as archive:
        return archive.read(_WEIGHTS)


class Whole(NamedTuple):
    """What a whole model in one .h5 says beside its arrays."""

    names: tuple[str, ...]  # of the optimizer's variables, in order
    model: Any
    training: Any


def _names(whole: Whole | None) -> list[str]:
    return [f"{_OLD_VARS}/{name}" for name in whole.names] if whole else []


def _config(path: Path, whole: Whole | None) -> dict[str, Any] | None:
    """Return the configuration of the optimizer that the model was compiled with; None for weights alone."""
    if whole is not None:
        optimizer = whole.training["optimizer_config"]
    elif path.suffix == ".h5":
        return None
    else:
        optimizer = (_model(path, None).get("compile_config") or {}).get("optimizer")
    if not isinstance(optimizer, dict) or "class_name" not in optimizer:
        raise InputError(str(path), "a compiled model", Received("one that is not"), "save it after compile and a step")
    if optimizer["class_name"] != "RMSprop":
        found = Received(f"that of {optimizer['class_name']}"[:80])
        raise InputError(str(path), "the state of RMSprop", found, "give a model that was trained with it")
    config: dict[str, Any] = optimizer["config"]
    return config


def _model(path: Path, whole: Whole | None) -> Any:
    """Return the configuration of the model."""
    if whole is not None:
        return whole.model
    with zipfile.ZipFile(path) as archive:
        return read_json(path, archive.read(_CONFIG))


def _layers(path: Path, whole: Whole | None, ndims: list[int]) -> list[KerasVariable | None]:
    """Return which variable of the model each of the optimizer's belongs to, as far as the file tells."""
    unknown: list[KerasVariable | None] = [None] * len(ndims)
    if path.suffix == ".h5" and whole is None:
        return unknown
    try:
        found = trainable_variables(_model(path, whole))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # of another version: the map has to tell
        return unknown
    return list(found) if found is not None and [each.ndim for each in found] == ndims else unknown


def _variables(path: Path, content: bytes, budget: ReadBudget) -> tuple[list[Array], Whole | None]:
    """Return the optimizer's variables in order; only plain datasets whose numbers are in the file itself are read."""
    h5py = import_package("h5py")
    with h5py.File(io.BytesIO(content), "r") as file:
        whole = _whole(path, file, budget)
        node = _within(file, _OLD_VARS if whole else _VARS)
        if not isinstance(node, h5py.Group) or not len(node):
            remedy = "save the model after compile, and after optimizer.build or a step"
            raise InputError(str(path), "a Keras file with its optimizer's state", Received("one without"), remedy)
        budget.visit(len(node))
        datasets = []
        for name in whole.names if whole else [str(i) for i in range(len(node))]:
            dataset = _within(node, name)
            budget.visit()
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                found = Received(f"another thing as variable {name}")
                raise InputError(str(path), "one of arrays", found, "check it")
            size = dataset.size * dataset.dtype.itemsize
            budget.spend(size, f"variable {name} of {dataset.shape}")  # of all, before one of them is read
            if size > dataset.id.get_storage_size():
                found = Received(f"variable {name} of {dataset.shape}, which it does not hold whole, or compressed")
                raise InputError(str(path), "a file with all its numbers", found, "unpack it: h5repack -f NONE")
            datasets.append(dataset)
        variables: list[Array] = []
        for dataset in datasets:
            value = np.asarray(dataset[()])
            variables.append(value.view(bfloat16()) if dataset.attrs.get("dtype") == _BFLOAT16 else value)
    if not variables or variables[0].shape != () or variables[0].dtype.kind not in "iu":
        raise InputError(str(path), "one whose first variable is iteration", Received("another"), "check it")
    return variables, whole


def _within(node: Any, path: str) -> Any:
    """Return what stands at `path` by hard links alone, which lead nowhere else; None if nothing does."""
    h5py = import_package("h5py")
    for name in path.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(name, getlink=True), h5py.HardLink):
            return None
        node = node[name]
    return node


def _whole(path: Path, file: Any, budget: ReadBudget) -> Whole | None:
    """Return what model.save("….h5") says beside its arrays; None for another file."""
    if "training_config" not in file.attrs or "model_config" not in file.attrs:
        return None
    model, training = (read_json(path, file.attrs[name]) for name in ("model_config", "training_config"))
    group = _within(file, _OLD_VARS)
    if group is None:
        return Whole((), model, training)
    names = group.attrs.get("weight_names", [])
    budget.visit(len(names))
    return Whole(tuple(name if isinstance(name, str) else name.decode() for name in names), model, training)


def _layout(path: Path, variables: list[Array], config: dict[str, Any] | None, said: dict[str, Any]) -> Layout:
    """Return where things stand; `said` must tell whether there is momentum, and centered."""
    if "momentum" not in said:
        found = Received("neither in the file nor said")
        raise InputError("momentum", f"known to tell the variables of {path} apart", found, "say --momentum (or 0)")
    fields = ["square_avg", *(["momentum_buffer"] if said["momentum"] else [])]
    fields += ["grad_avg"] if said.get("centered") else []
    skipped = sum(bool(config and config.get(name)) for name in _EXTRA)
    # A learning rate that is a schedule has no variable; one that has comes before every state.
    schedule = config is not None and isinstance(config.get("learning_rate"), dict)
    has_lr = not schedule and len(variables) > 1 and variables[1].shape == ()
    rest = [variable.shape for variable in variables[1 + has_lr :]]
    count, left_over = divmod(len(rest), skipped + len(fields))
    shapes = rest[:count]
    if left_over or any(rest[i : i + count] != shapes for i in range(0, len(rest), max(count, 1))):
        words = ", ".join(fields)
        found = Received(f"{len(rest)} that do not fall into {skipped + len(fields)} equal blocks")
        raise InputError(
            f"the optimizer's variables in {path}",
            f"{words} of each variable",
            found,
            "check --momentum and --centered",
        )
    return Layout(has_lr, skipped, tuple(fields), count)


def _h5(values: dict[str, Array], content: bytes = b"") -> bytes:
    """Return the HDF5 file `content`, or a new one, with these datasets."""
    buffer = io.BytesIO(content)
    with import_package("h5py").File(buffer, "r+" if content else "w") as file:
        for name, value in values.items():
            if name in file:
                file[name][...] = value
            else:
                file[name] = value
            if value.dtype.name == _BFLOAT16:  # HDF5 has no such type, and Keras reads this
                file[name].attrs["dtype"] = _BFLOAT16
    return buffer.getvalue()
