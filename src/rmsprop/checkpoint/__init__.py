"""Move optimizer state between frameworks: read one library's checkpoint, convert it, write it for another library.

The libraries keep one of two momentum buffers, b or M (see `rmsprop.checkpoint.state`). M = η·b gives the same next
step, where η is the learning rate of that step. All steps stay the same while η is constant. Once η changes, the two
buffers follow different algorithms. Only a target with the source's kind of buffer stays exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmsprop.checkpoint.conversion import convert_state
from rmsprop.checkpoint.files import check_written, read_checkpoint, read_template, write_checkpoint
from rmsprop.checkpoint.state import DTYPES, WEIGHTS, Checkpoint, Conversion, Fields, ParameterState
from rmsprop.checkpoint.target_rule import Request
from rmsprop.errors import InputError, Received, check_number
from rmsprop.profiles import KINDS, Kind
from rmsprop.rule import AVERAGES, Array

__all__ = [
    "AVERAGES", "DTYPES", "KINDS", "WEIGHTS", "Array", "Checkpoint", "Conversion", "Fields", "Kind", "ParameterState",
    "convert", "plan", "read", "write",
]  # fmt: skip


def read(path: str | Path, kind: str | None = None, *, weights: bool = False, **known: Any) -> Checkpoint:
    """Read the optimizer state from a file. Nothing in the file is executed.

    Parameters
    ----------
    path
        PyTorch: a file of torch.save with one optimizer's state dict, a .zip of SB3, or .safetensors.
        Keras: .keras, a whole model's .h5, or .weights.h5. TensorFlow 1: the checkpoint's prefix or .index.
        JAX: .npz, .safetensors or flax's .msgpack.
    kind
        One of `KINDS`. None detects the kind from the file, and raises InputError if the file is ambiguous. The tree of
        optax.adam and the .weights.h5 of Keras' Adam and Nadam need their kind.
    weights
        Also read the model's weights: from a .keras file, or from a model's state_dict() in the file of torch.save.
    **known
        Fields of `Rule` that the file does not state, such as decay=0.9. A .weights.h5 needs momentum, and
        centered=True if the optimizer was centered.

    Raises
    ------
    InputError
        If the file is damaged or foreign, contradicts `known` or `kind`, or holds a value that no rule has.
    """
    return read_checkpoint(Path(path), kind, known, weights=weights).state


def write(checkpoint: Checkpoint, path: str | Path, *, like: str | Path | None = None) -> None:
    """Write a checkpoint as a new file of its kind, whole or not at all.

    Parameters
    ----------
    checkpoint
        From `convert` or `read`.
    path
        The new file; its ending decides the format, as in `read`. An existing file is never replaced.
    like
        The file that was read for `convert`'s `like`. The new file keeps all of it except the optimizer's state.
        Needed for .keras, TensorFlow 1 and SB3's .zip. Also needed for optax chains other than optax.rmsprop's.
    """
    template = None if like is None else read_template(Path(like), checkpoint, checkpoint.kind)
    write_checkpoint(checkpoint, Path(path), template)


def convert(
    source: Checkpoint,
    to: str,
    *,
    lr: float | None = None,
    like: Checkpoint | None = None,
    mapping: Mapping[str, Any] | None = None,
) -> Conversion:
    """Return `source` as the state of another library's RMSprop.

    Parameters
    ----------
    source
        The state to move.
    to
        The target's kind: one of `KINDS` except bitsandbytes.
    lr
        Learning rate η of the next step. Give it if the file does not state η, or if the next step uses another η.
    like
        A checkpoint of the program that will continue. The target takes its names, order, groups, shapes and dtypes,
        and its fields of `Rule` where `source` does not state them.
    mapping
        {name in source: name in target} or {name in source: {"to": name in target, "transpose": axes, …}}. Needed
        if names do not identify the parameters. Also needed for every array of two or more dimensions between
        PyTorch's layout and that of TensorFlow, Keras and JAX, unless a Keras model's configuration describes the
        layers. If the target identifies parameters by order, its names are the indices from 0. The keys:

        - "transpose": axes, as in `numpy.transpose`
        - "flatten": sizes (height, width, channels) that a Flatten joined into a dense layer's inputs
        - "reshape": sizes into which a Reshape splits a dense layer's outputs
        - "blocks": order of equal blocks of the outputs
        - "weight": name in the PyTorch model's state_dict(), for moved weights if `like` has no model

    Raises
    ------
    InputError
        If a problem prevents the conversion. `plan` returns the problems instead.

    Notes
    -----
    Averages are copied bit for bit. M = η·b and b = M/η are computed in float64 and rounded once, to half a unit in
    the last place. dtypes are kept. The dtype of `like` is used if the cast is exact; otherwise it is a problem.

    Examples
    --------
    >>> import numpy as np
    >>> v, M = np.array([4.0, 9.0]), np.array([0.25, -0.5])
    >>> state = ParameterState("w", square_avg=v, momentum_buffer=M, step=7)
    >>> rule = {"lr": 0.125, "decay": 0.9, "eps": 1e-7, "momentum": 0.9, "eps_inside_sqrt": True}
    >>> keras = Checkpoint("keras", (state,), ({**rule, "lr_in_momentum": True, "centered": False},))
    >>> moved = convert(keras, "rmsprop.torch").checkpoint  # accumulates η·u, too: nothing to compute
    >>> moved.parameters[0].momentum_buffer, moved.groups[0]["lr_in_momentum"]
    (array([ 0.25, -0.5 ]), True)
    >>> convert(keras, "sb3").checkpoint.parameters[0].momentum_buffer
    array([ 2., -4.])
    """
    planned = plan(source, to, lr=lr, like=like, mapping=mapping)
    if planned.problems:
        words = Received("; ".join(planned.problems))
        raise InputError(f"{source.kind} state for {to}", "one that can move there", words, "nothing was moved")
    return planned


def plan(
    source: Checkpoint,
    to: str,
    *,
    lr: float | None = None,
    like: Checkpoint | None = None,
    mapping: Mapping[str, Any] | None = None,
) -> Conversion:
    """Return the conversion and list what prevents it in `problems`, instead of raising InputError.

    If there are problems, do not use the checkpoint. The arguments are those of `convert`.
    """
    check_written(to)
    if like is not None and like.kind != to:
        raise InputError("like", f"a checkpoint of kind {to}", like.kind, "give one of the program that will continue")
    if lr is not None:
        lr = check_number("lr", lr, "give the rate of the next step")
    return convert_state(Request(source, to, lr, like), mapping or {})
