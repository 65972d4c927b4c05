"""Checkpoints of TensorFlow 1's Saver: slots by name, beside the variables.

    <variable>/RMSProp                              v (RMSProp is the optimizer's name)
    uncentered: <variable>/RMSProp_1                M
    centered:   <variable>/RMSProp_1, …/RMSProp_2   m, M

M is always there; without momentum it is the last update and of no use.
"""

from __future__ import annotations

import glob
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats.packages import import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.state import Checkpoint, ParameterState, agreed_fields
from rmsprop.errors import InputError, Received
from rmsprop.profiles import KINDS
from rmsprop.rule import Array

_STEP = "global_step"
_OTHERS = {"Adam", "Adadelta", "Ftrl", "AdaMax", "NAdam"}  # whose slots look alike


def index(path: Path) -> Path:
    """Return the index file of the checkpoint that `path` is the prefix or the index file of."""
    return path if path.suffix == ".index" else path.with_name(f"{path.name}.index")


def exists(path: Path) -> bool:
    """Return whether any file of the checkpoint that `path` names is there."""
    prefix = index(path).with_suffix("")
    return index(path).exists() or any(path.parent.glob(f"{glob.escape(prefix.name)}.data-*"))


def size(path: Path) -> int:
    """Return the bytes of all files of the checkpoint."""
    prefix = index(path).with_suffix("")
    return sum(each.stat().st_size for each in path.parent.glob(f"{glob.escape(prefix.name)}.*") if each.is_file())


def read(path: Path, kind: str | None, known: dict[str, Any], budget: ReadBudget) -> Checkpoint:
    """Return the state in a checkpoint; `kind` is tf1."""
    tensors, slot = _read(path, budget)
    variables = [name for name in tensors if f"{name}/{slot}" in tensors]
    centered = {f"{name}/{slot}_2" in tensors for name in variables}
    if len(centered) > 1 or any(f"{name}/{slot}_1" not in tensors for name in variables):
        found = Received("one where some variables lack slots")
        raise InputError(str(path), f"a checkpoint with {slot} and {slot}_1 of each variable", found, "check it")
    is_centered = centered == {True}
    fields = agreed_fields(path, {"centered": is_centered, **KINDS["tf1"].fixed}, known)
    step = read_step(_STEP, tensors[_STEP]) if _STEP in tensors and tensors[_STEP].ndim == 0 else None
    buffer = f"{slot}_2" if is_centered else f"{slot}_1"
    parameters = tuple(
        ParameterState(
            name,
            tensors[f"{name}/{slot}"],
            tensors[f"{name}/{slot}_1"] if is_centered else None,
            tensors[f"{name}/{buffer}"] if fields.get("momentum") != 0 else None,
            step,
        )
        for name in variables
    )
    return Checkpoint("tf1", parameters, (fields,))


def write(checkpoint: Checkpoint, path: Path, like: Path | None) -> None:
    """Write the slots under the names that `Saver` reads, and all else that is in `like`."""
    if like is None:
        raise InputError("like", "a checkpoint with the variables, which the slots stand beside", None, "give --like")
    tensors, slot = _read(like, ReadBudget(like, size(like)))
    for p in checkpoint.parameters:
        values = [p.square_avg, *([p.grad_avg] if p.grad_avg is not None else []), p.momentum_buffer]
        for number, value in enumerate(values):
            assert value is not None  # noqa: S101  (a Plan gives TensorFlow 1 every slot)
            tensors[f"{p.name}/{slot}" + (f"_{number}" if number else "")] = value
    if checkpoint.step is not None:
        dtype = tensors[_STEP].dtype if _STEP in tensors else np.dtype(np.int64)
        tensors[_STEP] = step_array(checkpoint.step, dtype, "tf1")
    tf = _tensorflow()
    prefix = index(path).with_suffix("")
    with tempfile.TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
        names, contents = list(tensors), list(tensors.values())
        written = os.path.join(folder, "x")
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # wherever the caller stands, eager or not
            held = [tf.compat.v1.placeholder(tf.as_dtype(tensor.dtype), tensor.shape) for tensor in contents]
            save = tf.raw_ops.SaveV2(
                prefix=written, tensor_names=names, shape_and_slices=[""] * len(names), tensors=held
            )
            session.run(save, dict(zip(held, contents, strict=True)))
        # The index comes last: without it there is no checkpoint.
        for ending in (".data-00000-of-00001", ".index"):
            Path(written + ending).rename(f"{prefix}{ending}")


def _read(path: Path, budget: ReadBudget) -> tuple[dict[str, Array], str]:
    """Return the tensors of a checkpoint, and the name of its RMSprop."""
    tf = _tensorflow()
    reader = tf.train.load_checkpoint(str(index(path).with_suffix("")))
    shapes = reader.get_variable_to_shape_map()
    slots = {
        match[1] for name in shapes if (match := re.fullmatch(r"(?:.*)/([^/]+)_1", name))
        and f"{name[: -len(match[1]) - 3]}" in shapes and f"{name[:-2]}" in shapes
        and shapes[name] == shapes[name[:-2]] == shapes[name[: -len(match[1]) - 3]]
    }  # fmt: skip
    if len(slots) != 1 or slots & _OTHERS:
        found = Received(f"one with the slots {', '.join(sorted(slots))}" if slots else "one with no slots")
        raise InputError(str(path), "a checkpoint of one RMSPropOptimizer", found, "check it")
    dtypes = reader.get_variable_to_dtype_map()
    budget.visit(len(shapes))
    for name, shape in shapes.items():
        budget.spend(math.prod(shape) * max(dtypes[name].size, 1), f"variable {name}")
    return {name: np.asarray(reader.get_tensor(name)) for name in sorted(shapes)}, slots.pop()


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else it talks of its compilation
    return import_package("tensorflow", "conformance", "a TensorFlow 1 checkpoint")
