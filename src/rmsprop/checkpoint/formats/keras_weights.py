"""The weights of a Keras model beside its optimizer's state, in a .keras file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats.packages import bfloat16, import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.state import WEIGHTS, KerasVariable, ParameterState
from rmsprop.errors import InputError, Received

_SEEDS = "seed_generator"  # holds no weights
_CELL = "cell"  # holds the variables of a recurrent layer


def read(
    path: Path, content: bytes, parameters: Sequence[ParameterState], budget: ReadBudget
) -> tuple[ParameterState, ...]:
    """Return the parameters with their weights. A batch normalization's first weight also gets its statistics."""
    filled = []
    with import_package("h5py").File(io.BytesIO(content), "r") as file:
        for parameter, names in zip(parameters, _paths(path, file, parameters, budget), strict=True):
            arrays: dict[str, Any] = {}
            for field, name in names.items():
                dataset = file[name]
                budget.spend(dataset.size * dataset.dtype.itemsize, name)
                value = np.asarray(dataset[()])
                arrays[field] = value.view(bfloat16()) if dataset.attrs.get("dtype") == "bfloat16" else value
            filled.append(replace(parameter, **arrays))
    return tuple(filled)


def paths(path: Path, content: bytes, parameters: Sequence[ParameterState], budget: ReadBudget) -> list[dict[str, str]]:
    """Return {field of ParameterState: path in the HDF5 file `content`} for each parameter."""
    with import_package("h5py").File(io.BytesIO(content), "r") as file:
        return _paths(path, file, parameters, budget)


def _paths(path: Path, file: Any, parameters: Sequence[ParameterState], budget: ReadBudget) -> list[dict[str, str]]:
    """Return `paths` of an open file; raise InputError if the model has weights that the optimizer lacks."""
    layers: list[KerasVariable] = [parameter.layer for parameter in parameters if parameter.layer is not None]
    if len(layers) < len(parameters) or not layers:
        received = Received("layers that are not known, or weights alone")
        remedy = "save a Sequential or Functional model of Keras' own layers as .keras"
        raise InputError(str(path), "a model whose weights can be told apart", received, remedy)
    stored = {name: (where, count) for where, name, count in _stored(file, budget)}
    result: list[dict[str, str]] = []
    taken: dict[str, int] = {}
    for variable in layers:
        if variable.layer not in stored:
            received = Received(f"none of {variable.layer}")
            raise InputError(str(path), "a file with the weights of each layer", received, "save it with a newer Keras")
        where, count = stored[variable.layer]
        index = taken.get(variable.layer, 0)
        taken[variable.layer] = index + 1
        names = {"weight": f"{where}/{index}"}
        if variable.cls == "BatchNormalization" and index == 0:
            names |= {field: f"{where}/{count - 2 + i}" for i, field in enumerate(WEIGHTS[1:])}
        result.append(names)
    counts = {each.layer: taken[each.layer] + 2 * (each.cls == "BatchNormalization") for each in layers}
    other = next((name for name, (_, count) in stored.items() if count != counts.get(name, 0)), None)
    if other is not None:
        remedy = "a frozen layer is not the optimizer's: make it trainable, build the optimizer, and save it again"
        raise InputError(str(path), "a model whose optimizer trains all layers", Received(f"also {other}"), remedy)
    return result


def _stored(file: Any, budget: ReadBudget) -> Iterator[tuple[str, str, int]]:
    """Yield the path of each layer's variables, the layer's name, and the number of variables."""
    h5py = import_package("h5py")
    layers = file.get("layers")
    for key in layers if isinstance(layers, h5py.Group) else ():
        budget.visit(2)
        group = layers[key] if isinstance(layers.get(key, getlink=True), h5py.HardLink) else None
        if not isinstance(group, h5py.Group) or not isinstance(group.get("vars"), h5py.Group):
            continue
        name = group["vars"].attrs.get("name")
        inner = [each for each in group if each not in ("vars", _SEEDS)]
        where = f"layers/{key}/vars"
        if inner == [_CELL] and not len(group["vars"]):
            where = f"layers/{key}/{_CELL}/vars"
        elif inner:
            name = f"{name}/{inner[0]}"  # a nested model; no configuration has this name
        count = len(file[where])
        budget.visit(count)
        if any(not isinstance(file[where].get(str(i), getlink=True), h5py.HardLink) for i in range(count)):
            raise ValueError("weights that are no numbers of the file's own")
        if count:
            yield where, str(name), count
