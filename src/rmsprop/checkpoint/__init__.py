"""Optimizer state between frameworks: what a checkpoint holds, whatever wrote it, and how it becomes another's.

Every library keeps the same square average v and gradient average m. They differ in the momentum buffer,

    b ← μ·b + u,      p ← p − η·b       torch, SB3
    M ← μ·M + η·u,    p ← p − M         TensorFlow 1, Keras, timm; optax keeps −M

and M = η·b gives the same next step, η being the rate of that step. While η stays constant so do all steps after it.
Once η changes the two are different algorithms: only a target that can gather η·u as the source does stays exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received, check_number

if TYPE_CHECKING:
    from rmsprop.checkpoint.keras_layers import Variable

Array = npt.NDArray[Any]
Fields = Mapping[str, Any]  # fields of Rule, those that are known

AVERAGES = ("square_avg", "grad_avg", "momentum_buffer")
WEIGHTS = ("weight", "running_mean", "running_var")
DTYPES = ("bfloat16", "float16", "float32", "float64", "complex64", "complex128")  # of averages


@dataclass(frozen=True)
class Kind:
    """What a library's RMSprop cannot choose, and what its files hold."""

    title: str
    fixed: Fields  # fields of Rule that are always so there
    channels_last: bool = False  # kernels are stored (…, in, out) as in TensorFlow, not (out, in, …) as in PyTorch
    ordered: bool = False  # parameters stand in the model's order, so that their number can be their name
    states_rule: bool = False  # each group states its hyperparameters, and there may be several
    written: bool = True


_PLAIN = {"nesterov": False, "bias_correction": False, "decoupled_weight_decay": False, "maximize": False}
_TORCH = {**_PLAIN, "eps_inside_sqrt": False, "lr_in_momentum": False}
_TF = {**_PLAIN, "eps_inside_sqrt": True, "lr_in_momentum": True}
_TIMM = {name: _TF[name] for name in ("nesterov", "bias_correction", "maximize", "eps_inside_sqrt")}
_OPTAX = {"decoupled_weight_decay": False, "maximize": False, "lr_in_momentum": True}
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "torch": Kind(
            "torch.optim.RMSprop", {k: v for k, v in _TORCH.items() if k != "maximize"}, ordered=True, states_rule=True
        ),
        "rmsprop.torch": Kind("rmsprop.torch.RMSprop", {}, ordered=True, states_rule=True),
        "timm": Kind("timm.optim.RMSpropTF", _TIMM, ordered=True, states_rule=True),
        "sb3": Kind(
            "Stable-Baselines3's RMSpropTFLike", {**_TORCH, "eps_inside_sqrt": True}, ordered=True, states_rule=True
        ),
        "bitsandbytes": Kind(
            "bitsandbytes.optim.RMSprop", {**_TORCH, "momentum": 0.0}, ordered=True, states_rule=True, written=False
        ),
        "keras": Kind(
            "keras.optimizers.RMSprop", {**_TF, "decoupled_weight_decay": True}, channels_last=True, ordered=True
        ),
        "rmsprop.keras": Kind("rmsprop.keras.RMSprop", {}, channels_last=True, ordered=True),
        "tf1": Kind("tf.compat.v1.train.RMSPropOptimizer", _TF, channels_last=True),
        "optax": Kind("optax.rmsprop", _OPTAX, channels_last=True),
        "rmsprop.jax": Kind("rmsprop.jax.rmsprop", {}, channels_last=True),
    }
)


@dataclass(frozen=True)
class ParameterState:
    """What is remembered of one parameter; arrays have its shape and the dtype that the file has.

    Parameters
    ----------
    name
        Its name, or its number where the file has no names.
    square_avg
        v; None for a parameter that has made no step yet.
    grad_avg
        m, only when centered.
    momentum_buffer
        b or M (see the module), only with momentum; optax's trace is −M.
    step
        t, None where the file does not say.
    group
        Number of its parameter group.
    layer
        Which variable of which Keras layer it is, where the file tells.
    weight
        The parameter itself, where weights are moved, too.
    running_mean, running_var
        Statistics of the batch normalization whose weight it is.
    weight_name
        Its name in the model's state_dict() of PyTorch.
    """

    name: str
    square_avg: Array | None
    grad_avg: Array | None = None
    momentum_buffer: Array | None = None
    step: int | None = None
    group: int = 0
    layer: Variable | None = None
    weight: Array | None = None
    running_mean: Array | None = None
    running_var: Array | None = None
    weight_name: str | None = None

    def __post_init__(self) -> None:
        if self.step is not None and not (type(self.step) is int and 0 <= self.step < 2**63):
            remedy = "set it to the number of steps made, or None"
            raise InputError(f"step of {self.name!r}", "a whole number from 0 to 2**63 - 1", self.step, remedy)
        for field in (*AVERAGES, *WEIGHTS):
            if getattr(self, field) is None:
                continue
            value = np.asarray(getattr(self, field))  # a NumPy scalar comes from arithmetic without dimensions
            if value.dtype.name not in DTYPES:
                remedy = "cast it to float32 before it is saved"
                raise InputError(f"{field} of {self.name!r}", f"of {', '.join(DTYPES)}", Received(value.dtype), remedy)
            value = value.astype(value.dtype.newbyteorder("="), copy=False)
            object.__setattr__(self, field, value)
            first = self.square_avg if self.square_avg is not None or field in AVERAGES else self.weight
            shape = None if first is None else first.shape
            if value.shape != shape:
                needed, found = f"of square_avg's shape {shape}", Received(f"shape {value.shape}")
                raise InputError(f"{field} of {self.name!r}", needed, found, "check what the file was written by")
        v = self.square_avg
        if v is not None and any((part < 0).any() for part in (v.real, v.imag)):
            found = Received("one with negative elements")
            remedy = "this is no RMSprop, or its momentum and centered are other than was said"
            raise InputError(f"square_avg of {self.name!r}", "an average of squares", found, remedy)


@dataclass(frozen=True)
class Checkpoint:
    """The state of an optimizer, whatever wrote it.

    Parameters
    ----------
    kind
        The library, one of `KINDS`.
    parameters
        The state of each parameter, in the file's order.
    groups
        For each parameter group the fields of `Rule` that are known: from the file, from the library, or said by
        the caller. `lr_in_momentum` says what `momentum_buffer` gathers, `centered` whether there is `grad_avg`.
    extras
        What else each parameter group of a PyTorch file says (initial_lr, name, foreach), as it stands there.
    notes
        In words, what is not here as it is in the file.
    """

    kind: str
    parameters: tuple[ParameterState, ...]
    groups: tuple[Fields, ...]
    extras: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int | None:
        """The number of steps made: the largest of the parameters', None if the file does not say."""
        return max((p.step for p in self.parameters if p.step is not None), default=None)


class Conversion(NamedTuple):
    """What `convert` made, and in words what moved how exactly, what was dropped, and what to mind.

    `problems` is what keeps it from being done, a line each, and empty where `convert` returns: missing, extra, shape,
    dtype, group, layout, mapping, unknown or impossible is each line's first word. `mapping` is one as `convert` takes
    it, with all that is known; "FILL IN" begins what is not.
    """

    checkpoint: Checkpoint
    notes: tuple[str, ...]
    problems: tuple[str, ...] = ()
    mapping: Mapping[str, Any] = MappingProxyType({})


def read(path: str | Path, kind: str | None = None, *, weights: bool = False, **known: Any) -> Checkpoint:
    """Return the optimizer state in a file.

    Parameters
    ----------
    path
        torch, timm, sb3, bitsandbytes: what torch.save wrote (alone or in a dict), a .zip that SB3 saved, or
        .safetensors. keras: .keras or .weights.h5. tf1: the checkpoint's prefix or .index. optax, rmsprop.jax:
        .npz, .safetensors or flax's .msgpack. Nothing in it is executed.
    kind
        One of `KINDS`; None to tell by the file, which fails where that is ambiguous.
    weights
        Read the model's weights, too: those of a .keras file, or of the model's state_dict() beside the optimizer's in
        a file of torch.save.
    **known
        Fields of `Rule` that the file does not state, such as decay=0.9; momentum and centered for a .weights.h5.

    Raises
    ------
    InputError
        If the file is damaged or foreign, states something else than `known` or than `kind` can be, or a value that
        no RMSprop has.
    """
    from rmsprop.checkpoint.files import read_file

    return read_file(Path(path), kind, known, weights)


def write(checkpoint: Checkpoint, path: str | Path, *, like: str | Path | None = None) -> None:
    """Write a checkpoint as its kind's file, under a temporary name first; an existing file is not replaced.

    Parameters
    ----------
    checkpoint
        From `convert` or `read`.
    path
        Where to; its ending decides the format as in `read`.
    like
        The checkpoint that was `convert`'s `like`: all of it is kept but the optimizer's state. Needed for .keras,
        TensorFlow 1 and SB3's .zip, and for optax where the chain is not that of optax.rmsprop alone.
    """
    from rmsprop.checkpoint.files import write_file

    write_file(checkpoint, Path(path), None if like is None else Path(like))


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
        One of `KINDS` but bitsandbytes.
    lr
        η of the next step, if the file does not state it or the next step takes another one.
    like
        A checkpoint of the program that will go on: its names, order, groups, shapes and dtypes are the target's.
        What it states of the rule counts where `source` does not.
    mapping
        {name in source: name in target, or {"to": name, "transpose": axes, "flatten": sizes}}; axes as in
        `numpy.transpose`, sizes (height, width, channels) that a Flatten joined into a dense layer's inputs; "reshape"
        the same of outputs that are taken apart, "blocks" the order of equal parts of the outputs. Needed for every
        array of two or more dimensions between PyTorch's layout and that of TensorFlow, Keras and JAX, unless a .keras
        file tells its layers, and where names do not tell which parameter is which. "weight" is the name in the
        model's state_dict() of PyTorch, where weights are moved and `like` has no model. Where the target goes by
        order, the names in it are the numbers from 0 on.

    Raises
    ------
    InputError
        If the state cannot move; `plan` has the whole list.

    Notes
    -----
    Averages are copied bit for bit. M = η·b and b = M/η are computed in float64 and rounded once, to half a unit in
    the last place. dtypes are kept; where `like` has another one, only an exact change is made.

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
    """Return what `convert` would, and with `problems` everything that keeps it from moving `source`.

    Where there are problems the checkpoint is not to be used. The arguments are those of `convert`.
    """
    from rmsprop.checkpoint.conversion import Plan

    check_written(to)
    if like is not None and like.kind != to:
        raise InputError("like", f"a checkpoint of kind {to}", like.kind, "give one of the program that will go on")
    if lr is not None:
        lr = check_number("lr", lr, "give the rate of the next step")
    worked_out = Plan(source, to, lr, like, mapping)
    return Conversion(worked_out.checkpoint, tuple(worked_out.notes), tuple(worked_out.found), worked_out.mapping)


def check_written(kind: str) -> None:
    """Raise InputError unless `kind` is one of `KINDS` that files are written of."""
    if kind not in KINDS or not KINDS[kind].written:
        allowed = ", ".join(name for name, each in KINDS.items() if each.written)
        raise InputError("to", f"one of {allowed}", kind, "bitsandbytes is only read")
