"""The optimizer state in a checkpoint, in one form for all libraries.

All libraries keep the same square average v and gradient average m. Adam's family averages gradients in the momentum
buffer (first_moment). The other momentum buffers differ:

    b ← μ·b + u,      p ← p − η·b       torch, SB3
    M ← μ·M + η·u,    p ← p − M         TensorFlow 1, Keras, timm; optax keeps −M

η is the learning rate of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rmsprop.checkpoint.layout_change import LayoutChange
from rmsprop.errors import InputError, Received, require
from rmsprop.rule import AVERAGES, SQUARES, Array

Fields = Mapping[str, Any]  # values of Rule's fields; unknown fields are absent

WEIGHTS = ("weight", "running_mean", "running_var")
DTYPES = ("bfloat16", "float16", "float32", "float64", "complex64", "complex128")


def agreed_fields(path: Path, stated: Fields, given: Fields) -> dict[str, Any]:
    """Merge the fields that a file states with those of the caller; raise InputError if they contradict."""
    for name, value in given.items():
        agree = stated.get(name) in (None, value)
        require(agree, name, f"the value in {path} or of its library ({stated.get(name)!r})", value, "omit it")
    return {**{name: value for name, value in stated.items() if value is not None}, **given}


@dataclass(frozen=True)
class KerasVariable:
    """A trainable variable of a Keras model, and the change of its layout to PyTorch's.

    Parameters
    ----------
    layer, cls, name
        The layer's name, the layer's class, and the variable's name in the layer.
    ndim
        Number of axes.
    change
        Change from Keras' layout to PyTorch's; None where the layouts agree.
    problem
        Why the variable cannot move between Keras and PyTorch. A layout change in the mapping overrides it.
    final
        Whether the mapping cannot override `problem`.
    ask
        The mapping key whose sizes the configuration does not tell: "flatten" or "reshape".
    note
        What the user must set in PyTorch.
    """

    layer: str
    cls: str
    name: str
    ndim: int
    change: LayoutChange | None = None
    problem: str | None = None
    final: bool = False
    ask: str | None = None
    note: str | None = None

    def __str__(self) -> str:
        return f"{self.layer}/{self.name} ({self.cls})"


@dataclass(frozen=True)
class ParameterState:
    """The state of one parameter; arrays have the parameter's shape and the file's dtype.

    Parameters
    ----------
    name
        Name of the parameter, or its index as text where the file has no names.
    square_avg
        v; None before the first step.
    grad_avg
        m, only when centered.
    momentum_buffer
        b or M (see the module), only with momentum. optax's −M is stored here as M.
    step
        t, the number of executed steps; None if the file does not state it.
    group
        Index of its parameter group.
    layer
        Its Keras variable; None if the file does not describe the layers.
    weight
        The parameter itself, if weights are moved.
    running_mean, running_var
        Running statistics of a batch normalization, kept with its first weight.
    weight_name
        Its name in the PyTorch model's `state_dict()`.
    max_square_avg
        w, only with amsgrad.
    """

    name: str
    square_avg: Array | None
    grad_avg: Array | None = None
    momentum_buffer: Array | None = None
    step: int | None = None
    group: int = 0
    layer: KerasVariable | None = None
    weight: Array | None = None
    running_mean: Array | None = None
    running_var: Array | None = None
    weight_name: str | None = None
    max_square_avg: Array | None = None

    def __post_init__(self) -> None:
        if self.step is not None and not (type(self.step) is int and 0 <= self.step < 2**63):
            remedy = "set it to the number of executed steps, or None"
            raise InputError(f"step of {self.name!r}", "a whole number from 0 to 2**63 - 1", self.step, remedy)
        for field in (*AVERAGES, *WEIGHTS):
            if getattr(self, field) is None:
                continue
            value = np.asarray(getattr(self, field))  # arithmetic on 0-d arrays returns NumPy scalars
            if value.dtype.name not in DTYPES:
                remedy = "cast it to float32 before it is saved"
                raise InputError(f"{field} of {self.name!r}", f"of {', '.join(DTYPES)}", Received(value.dtype), remedy)
            value = value.astype(value.dtype.newbyteorder("="), copy=False)
            object.__setattr__(self, field, value)
            first = self.square_avg if self.square_avg is not None or field in AVERAGES else self.weight
            shape = None if first is None else first.shape
            if value.shape != shape:
                needed, received = f"of square_avg's shape {shape}", Received(f"shape {value.shape}")
                raise InputError(f"{field} of {self.name!r}", needed, received, "check which library wrote the file")
        for field in SQUARES:
            x = getattr(self, field)
            if x is not None and any((part < 0).any() for part in (x.real, x.imag)):
                received = Received("one with negative elements")
                remedy = "this is not RMSprop, or its momentum and centered differ from those given"
                raise InputError(f"{field} of {self.name!r}", "an average of squares", received, remedy)


@dataclass(frozen=True)
class Checkpoint:
    """The state of an optimizer, whatever library wrote it.

    Parameters
    ----------
    kind
        The library, one of `KINDS`.
    parameters
        The state of each parameter, in the file's order.
    groups
        The known fields of `Rule` for each parameter group: from the file, the library or the caller.
        `lr_in_momentum` tells M from b; `centered` tells whether there is a `grad_avg`.
    extras
        The other keys of each parameter group of a PyTorch file, unchanged (initial_lr, name, foreach).
    notes
        Differences between this state and the file, as sentences.
    """

    kind: str
    parameters: tuple[ParameterState, ...]
    groups: tuple[Fields, ...]
    extras: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int | None:
        """The largest step count of all parameters; None if the file has none."""
        return max((p.step for p in self.parameters if p.step is not None), default=None)


class Note(str):
    """A remark that does not prevent the conversion."""

    __slots__ = ()


class Problem(str):
    """A remark that prevents the conversion. Its first word is its category; `Conversion` lists the categories."""

    __slots__ = ()


Remark = Note | Problem


class Conversion(NamedTuple):
    """A converted checkpoint, with notes and problems for the user.

    Attributes
    ----------
    checkpoint
        The target's state; unusable if there are problems.
    notes
        What was computed, dropped or assumed, and what the user must set.
    problems
        What prevents the conversion, one line each. The first word of a line is its category: missing, extra, shape,
        dtype, group, layout, mapping, unknown or impossible.
    mapping
        The mapping that was used, for a next call of `convert`. Values that the user must supply begin with "FILL IN".
    """

    checkpoint: Checkpoint
    notes: tuple[str, ...]
    problems: tuple[str, ...] = ()
    mapping: Mapping[str, Any] = MappingProxyType({})
