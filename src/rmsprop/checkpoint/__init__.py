"""Optimizer state between frameworks: read a checkpoint of one library, convert it, write it as another's.

M = η·b (see `rmsprop.checkpoint.state`) gives the same next step, η being the learning rate of that step. While η stays
constant, so do all steps after it. Once η changes, the two are different algorithms: only a target that can gather η·u
as the source does stays exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmsprop.checkpoint.conversion import convert_state
from rmsprop.checkpoint.files import check_written, read_checkpoint, read_template, write_checkpoint
from rmsprop.checkpoint.state import AVERAGES, DTYPES, WEIGHTS, Checkpoint, Conversion, Fields, ParameterState
from rmsprop.checkpoint.target_rule import Request
from rmsprop.errors import InputError, Received, check_number
from rmsprop.profiles import KINDS, Kind
from rmsprop.rule import Array

__all__ = [
    "AVERAGES", "DTYPES", "KINDS", "WEIGHTS", "Array", "Checkpoint", "Conversion", "Fields", "Kind", "ParameterState",
    "convert", "plan", "read", "write",
]  # fmt: skip


def read(path: str | Path, kind: str | None = None, *, weights: bool = False, **known: Any) -> Checkpoint:
    """Return the optimizer state in a file.

    Parameters
    ----------
    path
        torch, timm, sb3, bitsandbytes: what torch.save wrote (alone or in a dict), a .zip that SB3 saved, or
        .safetensors. keras: .keras, a whole model's .h5, or .weights.h5. tf1: the checkpoint's prefix or .index.
        optax, rmsprop.jax: .npz, .safetensors or flax's .msgpack. Nothing in the file is executed.
    kind
        One of `KINDS`; None to tell by the file, which fails where that is ambiguous.
    weights
        Read the model's weights, too: from a .keras file, or from the model's state_dict() beside the optimizer's in a
        file of torch.save.
    **known
        Fields of `Rule` that the file does not state, such as decay=0.9; momentum and centered for a .weights.h5.

    Raises
    ------
    InputError
        If the file is damaged or foreign, contradicts `known` or `kind`, or holds a value that no RMSprop has.
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
        The file of the checkpoint that was `convert`'s `like`: all of it is kept except the optimizer's state. Needed
        for .keras, TensorFlow 1 and SB3's .zip, and for optax where the chain is not that of optax.rmsprop alone.
    """
    template = None if like is None else read_template(Path(like), checkpoint)
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
        One of `KINDS` except bitsandbytes.
    lr
        η of the next step, if the file does not state it or the next step has another one.
    like
        A checkpoint of the program that will go on. The target takes its names, order, groups, shapes and dtypes, and
        its fields of `Rule` where `source` does not state them.
    mapping
        {name in source: name in target, or {"to": name, "transpose": axes, "flatten": sizes}}. Needed where names do
        not tell which parameter is which. Also needed for every array of two or more dimensions between PyTorch's
        layout and that of TensorFlow, Keras and JAX, unless a .keras file describes the layers. "transpose" has axes
        as in `numpy.transpose`. "flatten" has the sizes (height, width, channels) that a Flatten joined into a dense
        layer's inputs, "reshape" those into which its outputs are split. "blocks" is the order of equal parts of the
        outputs. "weight" is the name in the PyTorch model's state_dict(), where weights are moved and `like` has no
        model. Where the target goes by order, its names are the indices from 0 on.

    Raises
    ------
    InputError
        If the state cannot move; `plan` returns every problem.

    Notes
    -----
    Averages are copied bit for bit. M = η·b and b = M/η are computed in float64 and rounded once, to half a unit in
    the last place. dtypes are kept. Where `like` has another dtype, only an exact change is allowed.

    Examples
    --------
    >>> import numpy as np
    >>> v, M = np.array([4.0, 9.0]), np.array([0.25, -0.5])
    >>> state = ParameterState("w", square_avg=v, momentum_buffer=M, step=7)
    >>> rule = {"lr": 0.125, "decay": 0.9, "eps": 1e-7, "momentum": 0.9, "eps_inside_sqrt": True}
    >>> keras = Checkpoint("keras", (state,), ({**rule, "lr_in_momentum": True, "centered": False},))
    >>> moved = convert(keras, "rmsprop.torch").checkpoint  # gathers η·u, too: nothing to compute
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
    """Return what `convert` would, with everything that prevents the conversion in `problems`.

    Do not use the checkpoint if there are problems. The arguments are those of `convert`.
    """
    check_written(to)
    if like is not None and like.kind != to:
        raise InputError("like", f"a checkpoint of kind {to}", like.kind, "give one of the program that will go on")
    if lr is not None:
        lr = check_number("lr", lr, "give the rate of the next step")
    return convert_state(Request(source, to, lr, like), mapping or {})
