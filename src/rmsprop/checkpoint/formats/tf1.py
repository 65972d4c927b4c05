"""Checkpoints of TensorFlow 1's Saver: slots by name, beside the variables.

    <variable>/RMSProp                              v (RMSProp is the optimizer's name)
    uncentered: <variable>/RMSProp_1                M
    centered:   <variable>/RMSProp_1, …/RMSProp_2   m, M

M is always stored. Without momentum, M is the last update, and no step needs it.
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

from rmsprop.checkpoint.formats.checkpoint_file import CheckpointFile
from rmsprop.checkpoint.formats.packages import import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.state import Checkpoint, Fields, ParameterState, agreed_fields
from rmsprop.errors import InputError, Received
from rmsprop.profiles import KINDS
from rmsprop.rule import Array

_STEP = "global_step"
_OTHERS = {"Adam", "Adadelta", "Ftrl", "AdaMax", "NAdam"}  # other optimizers with slots NAME and NAME_1


class Tf1File(CheckpointFile):
    """A checkpoint of TensorFlow 1: `path` is its prefix or its index file."""

    endings = (".index",)
    named_freely = True

    def __init__(self, path: Path, budget: ReadBudget) -> None:
        super().__init__(path, budget)
        self._tensors, self._slot = _read_tensors(path, budget)

    def state(self, kind: str | None, given: Fields) -> Checkpoint:
        """Return the state of the one RMSPropOptimizer."""
        tensors, slot = self._tensors, self._slot
        variables = [name for name in tensors if f"{name}/{slot}" in tensors]
        centered = {f"{name}/{slot}_2" in tensors for name in variables}
        if len(centered) > 1 or any(f"{name}/{slot}_1" not in tensors for name in variables):
            allowed = f"a checkpoint with {slot} and {slot}_1 of each variable"
            received = Received("one where some variables lack slots")
            raise InputError(str(self.path), allowed, received, "save it again with Saver")
        is_centered = centered == {True}
        fields = agreed_fields(self.path, {"centered": is_centered, **KINDS["tf1"].fixed}, given)
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

    def write_changed(self, checkpoint: Checkpoint, target: Path) -> None:
        """Write all variables unchanged, and the new slots under the names that `Saver` reads."""
        tensors = dict(self._tensors)
        for p in checkpoint.parameters:
            slots = [p.square_avg, *([p.grad_avg] if p.grad_avg is not None else []), p.momentum_buffer]
            for i, value in enumerate(slots):
                assert value is not None  # noqa: S101  (a conversion gives TensorFlow 1 every slot)
                tensors[f"{p.name}/{self._slot}" + (f"_{i}" if i else "")] = value
        if checkpoint.step is not None:
            dtype = tensors[_STEP].dtype if _STEP in tensors else np.dtype(np.int64)
            tensors[_STEP] = step_array(checkpoint.step, dtype, "tf1")
        tf = _tensorflow()
        prefix = _index(target).with_suffix("")
        with tempfile.TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
            names, contents = list(tensors), list(tensors.values())
            written = os.path.join(folder, "x")
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # works in the caller's eager mode, too
                inputs = [tf.compat.v1.placeholder(tf.as_dtype(tensor.dtype), tensor.shape) for tensor in contents]
                slices = [""] * len(names)
                save = tf.raw_ops.SaveV2(prefix=written, tensor_names=names, shape_and_slices=slices, tensors=inputs)
                session.run(save, dict(zip(inputs, contents, strict=True)))
            # The index comes last: without it there is no checkpoint.
            for ending in (".data-00000-of-00001", ".index"):
                Path(written + ending).rename(f"{prefix}{ending}")

    @classmethod
    def write_new(cls, checkpoint: Checkpoint, target: Path) -> None:
        """Raise InputError: the file must also hold the model's variables."""
        allowed = "a checkpoint with the variables, which the slots stand beside"
        raise InputError("like", allowed, None, "give --like")

    @classmethod
    def size(cls, path: Path) -> int | None:
        """Return the bytes of all files of the checkpoint."""
        if not _index(path).is_file():
            return None
        prefix = _index(path).with_suffix("")
        return sum(each.stat().st_size for each in path.parent.glob(f"{glob.escape(prefix.name)}.*") if each.is_file())

    @classmethod
    def is_taken(cls, path: Path) -> bool:
        """Return whether any file of the checkpoint that `path` names exists."""
        prefix = _index(path).with_suffix("")
        data = path.parent.glob(f"{glob.escape(prefix.name)}.data-*")
        return path.exists() or _index(path).exists() or any(data)


def _index(path: Path) -> Path:
    """Return the index file of a checkpoint. `path` is its prefix or the index file itself."""
    return path if path.suffix == ".index" else path.with_name(f"{path.name}.index")


def _read_tensors(path: Path, budget: ReadBudget) -> tuple[dict[str, Array], str]:
    """Return the tensors of a checkpoint, and the name of its RMSprop."""
    tf = _tensorflow()
    reader = tf.train.load_checkpoint(str(_index(path).with_suffix("")))
    shapes = reader.get_variable_to_shape_map()
    slots = {
        match[1] for name in shapes if (match := re.fullmatch(r"(?:.*)/([^/]+)_1", name))
        and f"{name[: -len(match[1]) - 3]}" in shapes and f"{name[:-2]}" in shapes
        and shapes[name] == shapes[name[:-2]] == shapes[name[: -len(match[1]) - 3]]
    }  # fmt: skip
    if len(slots) != 1 or slots & _OTHERS:
        received = Received(f"one with the slots {', '.join(sorted(slots))}" if slots else "one with no slots")
        raise InputError(str(path), "a checkpoint of one RMSPropOptimizer", received, "save one RMSPropOptimizer alone")
    dtypes = reader.get_variable_to_dtype_map()
    budget.visit(len(shapes))
    for name, shape in shapes.items():
        budget.spend(math.prod(shape) * max(dtypes[name].size, 1), f"variable {name}")
    return {name: np.asarray(reader.get_tensor(name)) for name in sorted(shapes)}, slots.pop()


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow logs how it was compiled
    return import_package("tensorflow", "conformance", "a TensorFlow 1 checkpoint")
