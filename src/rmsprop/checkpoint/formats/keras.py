"""Keras 3's .keras and .weights.h5, and a whole model's .h5."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rmsprop.checkpoint.formats import keras_weights
from rmsprop.checkpoint.formats.archives import check_archive, read_json, replace_entry
from rmsprop.checkpoint.formats.checkpoint_file import CheckpointFile
from rmsprop.checkpoint.formats.keras_layout import blocks_of, has_product, layout
from rmsprop.checkpoint.formats.packages import bfloat16, import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.keras_model import variables as trainable_variables
from rmsprop.checkpoint.state import Checkpoint, Fields, KerasVariable, ParameterState, agreed_fields
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.hyperparameters import ALIASES, HYPERPARAMETERS
from rmsprop.profiles import FIELDS, KINDS, check_mu_product, mu_product
from rmsprop.rule import AVERAGES, Array

_VARIABLES, _WEIGHTS, _CONFIG = "optimizer/vars", "model.weights.h5", "config.json"
_H5_VARIABLES = "optimizer_weights"  # in a whole model's .h5; the attribute weight_names gives the order
_BFLOAT16 = "bfloat16"
_CLASSES = {"RMSprop": "keras", "Adam": "keras-adam", "AdamW": "keras-adam", "Nadam": "keras-nadam"}


class WholeModel(NamedTuple):
    """The names and configurations in a whole model's .h5."""

    names: tuple[str, ...]  # of the optimizer's variables, in order
    model: Any  # configuration
    training: Any  # configuration


class KerasFile(CheckpointFile):
    """A Keras file with an optimizer's variables."""

    endings = (".keras", ".h5")

    def __init__(self, path: Path, budget: ReadBudget) -> None:
        super().__init__(path, budget)
        self._content = _hdf5_content(path, budget)
        self._variables, self._whole = _read_variables(path, self._content, budget)
        self._class = ""
        self._config = self._optimizer_config()
        self._batches = (self._config or {}).get("gradient_accumulation_steps") or 1  # in a step; iteration counts them
        self.states_rule = self._config is not None

    def state(self, kind: str | None, given: Fields) -> Checkpoint:
        """Return the state of the model's optimizer."""
        config = self._config or {}
        kind = self._kind(kind)
        stated: dict[str, Any] = dict(KINDS[kind].fixed)
        names = {**ALIASES, **KINDS[kind].names}
        for name, value in config.items():
            field = names.get(name, name)
            if field in FIELDS and field != "lr":
                stated[field] = float(value or 0.0) if field in ("momentum", "weight_decay", "decay", "eps") else value
        found = layout(self.path, kind, self._variables, config, {**stated, **given})
        if found.has_lr:
            stated["lr"] = float(self._variables[1])
        held = {"centered": "grad_avg" in found.fields, "amsgrad": "max_square_avg" in found.fields}
        fields = agreed_fields(self.path, {"momentum": None, **held, **stated}, given)
        step, rest = divmod(read_step("the optimizer", self._variables[0]), self._batches)
        if has_product(kind) and self._variables[-1].dtype.itemsize >= 4 and fields.get("momentum") is not None:
            group = {"betas": (fields["momentum"],), "momentum_decay": fields["momentum_decay"]}
            check_mu_product(str(self.path), group, {"mu_product": self._variables[-1], "step": step})
        layers = self._layers([self._variables[i].ndim for i in found.indices("square_avg")])
        parameters = []
        for i in range(found.size):
            arrays: dict[str, Any] = {field: self._variables[found.indices(field)[i]] for field in found.fields}
            parameters.append(ParameterState(str(i), step=step, layer=layers[i], **arrays))
        notes = (f"gradients accumulated over {rest} of {self._batches} batches are dropped",) if rest else ()
        return Checkpoint(kind, tuple(parameters), (fields,), notes=notes)

    def with_weights(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the state with the model's weights."""
        parameters = keras_weights.read(self.path, self._content, checkpoint.parameters, self.budget)
        return replace(checkpoint, parameters=parameters)

    def write_changed(self, checkpoint: Checkpoint, target: Path) -> None:
        """Write the file with other optimizer state, and with other weights if `checkpoint` has weights."""
        if self.path.suffix != target.suffix:
            allowed = f"named with {self.path.suffix}, as --like is"
            raise InputError("the target", allowed, str(target), "choose another name")
        kind, config, group = checkpoint.kind, self._config or {}, checkpoint.groups[0]
        averages = {each.name: each.average for each in HYPERPARAMETERS.values() if each.average}
        held = {name: config.get(name, _has(checkpoint, average)) for name, average in averages.items()}
        found = layout(self.path, kind, self._variables, config, held)
        changed: dict[int, Any] = {i: np.zeros_like(self._variables[i]) for i in found.accumulators}
        for field in found.fields:
            changed |= zip(found.indices(field), (getattr(p, field) for p in checkpoint.parameters), strict=True)
        if checkpoint.step is not None:
            changed[0] = step_array(checkpoint.step * self._batches, self._variables[0].dtype, kind)
        if has_product(kind):
            changed[len(self._variables) - 1] = _product(checkpoint, self._variables[-1].dtype)
        if found.has_lr and group.get("lr") is not None:
            changed[1] = np.asarray(group["lr"], self._variables[1].dtype)
        names = [f"{_VARIABLES}/{i}" for i in range(len(self._variables))]
        if self._whole:
            names = [f"{_H5_VARIABLES}/{name}" for name in self._whole.names]
        arrays = {names[i]: value for i, value in changed.items()}
        if any(p.weight is not None for p in checkpoint.parameters):
            paths = keras_weights.paths(self.path, self._content, checkpoint.parameters, self.budget)
            for p, weights in zip(checkpoint.parameters, paths, strict=True):
                arrays |= {name: getattr(p, field) for field, name in weights.items() if getattr(p, field) is not None}
        content = _hdf5_bytes(arrays, self._content)
        if target.suffix != ".h5":
            content = replace_entry(self.path, _WEIGHTS, content)
        write_atomically(target, content)

    @classmethod
    def write_new(cls, checkpoint: Checkpoint, target: Path) -> None:
        """Write an .h5 that holds the optimizer's variables alone."""
        lr = checkpoint.groups[0].get("lr")
        if target.suffix != ".h5":
            raise InputError("like", "a .keras file, to put the state into", None, "or write a .weights.h5")
        if any(p.weight is not None for p in checkpoint.parameters):
            raise InputError("like", "a .keras file, to put the weights into", None, "give --like")
        if lr is None:
            raise InputError("lr", "known, as Keras keeps it among its variables", None, "pass --lr")
        kind = checkpoint.kind
        arrays = [step_array(checkpoint.step or 0, np.int32, kind), np.asarray(lr, np.float32)]
        for block in blocks_of(kind, {field: _has(checkpoint, field) for field in AVERAGES}):
            arrays += [getattr(p, field) for p in checkpoint.parameters for field in block]
        if has_product(kind):
            arrays.append(_product(checkpoint, arrays[-1].dtype))
        write_atomically(target, _hdf5_bytes({f"{_VARIABLES}/{i}": array for i, array in enumerate(arrays)}))

    def _optimizer_config(self) -> dict[str, Any] | None:
        """Return the configuration of the optimizer that the model was compiled with; None for weights alone."""
        if self._whole is not None:
            optimizer = self._whole.training["optimizer_config"]
        elif self.path.suffix == ".h5":
            return None
        else:
            optimizer = (self._model_config().get("compile_config") or {}).get("optimizer")
        if not isinstance(optimizer, dict) or "class_name" not in optimizer:
            remedy = "save it after compile and a step"
            raise InputError(str(self.path), "a compiled model", Received("one that is not"), remedy)
        self._class = str(optimizer["class_name"])
        if self._class not in _CLASSES:
            received = Received(f"that of {self._class}"[:80])
            allowed = f"the state of {', '.join(_CLASSES)}"
            raise InputError(str(self.path), allowed, received, "give a model that was trained with it")
        config: dict[str, Any] = optimizer["config"]
        return config

    def _kind(self, given: str | None) -> str:
        """Return the kind of the file; raise InputError if `given` contradicts the file."""
        if self._config is None:
            return given or "keras"
        kind = _CLASSES[self._class]
        if given is None:
            return "rmsprop.keras" if "eps_inside_sqrt" in self._config else kind
        if (kind if given == "rmsprop.keras" else given) != kind:
            received = Received(f"that of {self._class}")
            raise InputError(str(self.path), f"the state of {KINDS[given].title}", received, "check --from")
        return given

    def _model_config(self) -> Any:
        if self._whole is not None:
            return self._whole.model
        with zipfile.ZipFile(self.path) as archive:
            return read_json(self.path, archive.read(_CONFIG))

    def _layers(self, ndims: list[int]) -> list[KerasVariable | None]:
        """Return the model's variable for each parameter; None if the file does not describe the layers."""
        unknown: list[KerasVariable | None] = [None] * len(ndims)
        if self.path.suffix == ".h5" and self._whole is None:
            return unknown
        try:
            layers = trainable_variables(self._model_config())
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # an unknown version of Keras
            return unknown
        return list(layers) if layers is not None and [each.ndim for each in layers] == ndims else unknown


def _has(checkpoint: Checkpoint, field: str) -> bool:
    return any(getattr(p, field) is not None for p in checkpoint.parameters)


def _product(checkpoint: Checkpoint, dtype: Any) -> Array:
    """Return Nadam's product of momenta, which follows from the step count."""
    fields = checkpoint.groups[0]
    if fields.get("momentum") is None:
        raise InputError("momentum", "known, as Keras keeps a product of momenta", None, "pass --momentum")
    return np.asarray(mu_product(fields["momentum"], fields["momentum_decay"], checkpoint.step or 0), dtype)


def _hdf5_content(path: Path, budget: ReadBudget) -> bytes:
    """Return the bytes of the HDF5 file: `path` itself, or the weights in a .keras archive."""
    if path.suffix == ".h5":
        return path.read_bytes()
    check_archive(path, budget)
    with zipfile.ZipFile(path) as archive:
        return archive.read(_WEIGHTS)


def _read_variables(path: Path, content: bytes, budget: ReadBudget) -> tuple[list[Array], WholeModel | None]:
    """Return the optimizer's variables in order. Refuse datasets whose numbers are outside the file."""
    h5py = import_package("h5py")
    with h5py.File(io.BytesIO(content), "r") as file:
        whole = _whole_model(path, file, budget)
        node = _child(file, _H5_VARIABLES if whole else _VARIABLES)
        if not isinstance(node, h5py.Group) or not len(node):
            remedy = "save the model after compile, and after optimizer.build or a step"
            raise InputError(str(path), "a Keras file with its optimizer's state", Received("one without"), remedy)
        budget.visit(len(node))
        datasets = []
        for name in whole.names if whole else [str(i) for i in range(len(node))]:
            dataset = _child(node, name)
            budget.visit()
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                received = Received(f"another thing as variable {name}")
                raise InputError(str(path), "one of arrays", received, "save it again with Keras")
            size = dataset.size * dataset.dtype.itemsize
            budget.spend(size, f"variable {name} of {dataset.shape}")  # all, before the first is read
            if size > dataset.id.get_storage_size():
                received = Received(f"variable {name} of {dataset.shape}, which it does not hold whole, or compressed")
                raise InputError(str(path), "a file with all its numbers", received, "unpack it: h5repack -f NONE")
            datasets.append(dataset)
        variables: list[Array] = []
        for dataset in datasets:
            value = np.asarray(dataset[()])
            variables.append(value.view(bfloat16()) if dataset.attrs.get("dtype") == _BFLOAT16 else value)
    if not variables or variables[0].shape != () or variables[0].dtype.kind not in "iu":
        raise InputError(str(path), "one whose first variable is iteration", Received("another"), "save it with Keras")
    return variables, whole


def _child(node: Any, path: str) -> Any:
    """Return the node at `path`, or None. Only hard links are followed: other links may leave the file."""
    h5py = import_package("h5py")
    for name in path.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(name, getlink=True), h5py.HardLink):
            return None
        node = node[name]
    return node


def _whole_model(path: Path, file: Any, budget: ReadBudget) -> WholeModel | None:
    """Return the names and configurations that model.save("….h5") wrote; None for other files."""
    if "training_config" not in file.attrs or "model_config" not in file.attrs:
        return None
    model, training = (read_json(path, file.attrs[name]) for name in ("model_config", "training_config"))
    group = _child(file, _H5_VARIABLES)
    if group is None:
        return WholeModel((), model, training)
    names = group.attrs.get("weight_names", [])
    budget.visit(len(names))
    return WholeModel(tuple(name if isinstance(name, str) else name.decode() for name in names), model, training)


def _hdf5_bytes(arrays: dict[str, Array], content: bytes = b"") -> bytes:
    """Return the bytes of the HDF5 file `content`, or of a new one, with `arrays` as datasets."""
    buffer = io.BytesIO(content)
    with import_package("h5py").File(buffer, "r+" if content else "w") as file:
        for name, array in arrays.items():
            if name in file:
                file[name][...] = array
            else:
                file[name] = array
            if array.dtype.name == _BFLOAT16:  # HDF5 lacks this type; Keras reads the attribute
                file[name].attrs["dtype"] = _BFLOAT16
    return buffer.getvalue()
