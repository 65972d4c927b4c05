"""Conversion of a checkpoint to another kind: its groups, its parameters and its momentum buffers.

Functions return their result and their remarks (notes and problems). They read and write no files.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rmsprop.checkpoint.bias_correction import target_maximum
from rmsprop.checkpoint.matching import Move, match, template
from rmsprop.checkpoint.state import (
    WEIGHTS,
    Checkpoint,
    Conversion,
    Fields,
    Note,
    ParameterState,
    Problem,
    Remark,
)
from rmsprop.checkpoint.target_rule import Request, TargetGroup, rule_remarks, target_group
from rmsprop.profiles import GROUPS
from rmsprop.rule import AVERAGES, Array

# Group keys that only one library has, such as foreach. They are dropped between libraries.
_LIBRARY_KEYS = {key for groups in GROUPS.values() for key in (*groups.defaults, *groups.optional)}


def convert_state(request: Request, mapping: Mapping[str, Any]) -> Conversion:
    """Return the conversion. Its `problems` list everything that prevents it."""
    source, kind = request.source, request.target_kind
    moves, match_remarks = match(source, request.to, request.like, mapping)
    remarks: list[Remark] = [*map(Note, source.notes), *_request_problems(request), *match_remarks]
    for move in moves:
        remarks += _layout_notes(request, move)
    members: dict[int, list[Move]] = {}
    for move in moves:
        members.setdefault(move.group if kind.states_rule else 0, []).append(move)
    count = len(request.like.groups) if request.like else len(source.groups) if request.keeps_groups else 1
    groups: list[Fields] = []
    states: dict[str, ParameterState] = {}
    for index in range(count):
        moved = members.get(index, [])
        group, group_remarks = target_group(request, index, moved)
        groups.append(group.fields)
        remarks += group_remarks
        for move in moved:
            states[move.target], state_remarks = _target_state(request, move, index, group)
            remarks += state_remarks
    remarks += rule_remarks(request, groups[0])
    extras = [
        {key: value for key, value in extra.items() if request.to == source.kind or key not in _LIBRARY_KEYS}
        for extra in (source.extras if request.keeps_groups else ())
    ]
    target = Checkpoint(request.to, tuple(states[move.target] for move in moves), tuple(groups), tuple(extras))
    unclear = request.like is None and request.source_kind.ordered != kind.ordered and not mapping
    notes = tuple(dict.fromkeys(str(each) for each in remarks if isinstance(each, Note)))
    problems = tuple(dict.fromkeys(str(each) for each in remarks if isinstance(each, Problem)))
    return Conversion(target, notes, problems, template(source, moves, unclear))


def convert_buffer(buffer: Array, from_: bool | None, to: bool | None, lr: float | None) -> Array | Problem:
    """Convert a momentum buffer between b and M; return a Problem if that is impossible.

    Parameters
    ----------
    buffer
        The source's buffer.
    from_, to
        `lr_in_momentum` of the source and of the target: True for M, False for b, None if unknown.
    lr
        Learning rate η of the next step.
    """
    if from_ == to:
        return buffer
    if from_ is None:
        options = "--lr-in-momentum or --no-lr-in-momentum"
        return Problem(f"unknown: whether the momentum buffer accumulates η·u or u; pass {options}")
    if lr is None:
        return Problem("unknown: lr, needed to convert the momentum buffer; pass --lr")
    if lr == 0:
        if not buffer.any():
            return buffer
        why = "cannot be divided by it" if from_ else "would be lost"
        return Problem(f"impossible: at a learning rate of 0 the momentum buffer {why}; pass --lr")
    change = operator.truediv if from_ else operator.mul
    wide = np.complex128 if np.iscomplexobj(buffer) else np.float64
    with np.errstate(over="ignore"):
        result: Array = np.asarray(change(buffer.astype(wide), lr)).astype(buffer.dtype)
    if not np.isfinite(result).all() and np.isfinite(buffer).all():
        return Problem(f"impossible: the momentum buffer at rate {lr:g} is beyond {buffer.dtype}")
    return result


def _request_problems(request: Request) -> Iterator[Remark]:
    """Yield problems of the request as a whole."""
    source, to = request.source, request.to
    if request.lr is not None and len({group.get("lr") for group in source.groups}) > 1:
        yield Problem("group: the source's groups have different rates; omit lr")
    if any(p.weight is not None for p in source.parameters) and request.target_kind.format in ("tf1", "jax"):
        yield Problem(f"impossible: weights go between files of Keras and PyTorch, and {to} keeps them elsewhere")


def _layout_notes(request: Request, move: Move) -> Iterator[Remark]:
    """Yield notes on one parameter from the Keras model's configuration."""
    channels_last = request.source_kind.channels_last
    layer = move.state.layer if channels_last else move.counterpart.layer if move.counterpart else None
    if layer is None or channels_last == request.target_kind.channels_last:
        return
    for side, sizes in (("inputs", move.change.inputs), ("outputs", move.change.outputs)):
        if sizes is not None:
            words = f"{layer}: {side} of {list(sizes)} are reordered"
            yield Note(f"{words} between (height, width, channels) and PyTorch's channels first")
    if layer.note:
        yield Note(layer.note)


def _target_state(request: Request, move: Move, index: int, group: TargetGroup) -> tuple[ParameterState, list[Remark]]:
    """Return the target's state of one parameter."""
    state, lr = move.state, group.fields.get("lr")
    values: dict[str, Array | None] = {name: getattr(state, name) for name in (*AVERAGES, *WEIGHTS)}
    remarks: list[Remark] = []
    v, b = state.square_avg, state.momentum_buffer
    if v is not None:
        if np.iscomplexobj(v) and request.to not in ("torch", "rmsprop.torch"):
            words = "torch keeps the squares of real and imaginary parts apart, as no other kind does"
            remarks.append(Problem(f"impossible: {state.name} is complex; {words}"))
        if not group.fields.get("centered"):
            values["grad_avg"] = None
        if not group.fields.get("amsgrad"):
            values["max_square_avg"] = None
        else:
            maximum = target_maximum(state, v, request.source.kind, request.to, group.fields.get("decay"))
            if isinstance(maximum, Problem):
                remarks.append(maximum)
            else:
                values["max_square_avg"] = maximum
        if not group.has_buffers:
            values["momentum_buffer"] = None
        elif b is None or not group.same_momentum:
            values["momentum_buffer"] = np.zeros_like(v)
        else:
            buffer = convert_buffer(b, group.from_, group.to, lr)
            if isinstance(buffer, Problem):
                remarks.append(buffer)
            else:
                values["momentum_buffer"] = buffer
    for name, value in values.items():
        if value is not None:
            values[name], array_remarks = _in_target_layout(request, move, name, value)
            remarks += array_remarks
    layer = move.counterpart.layer if move.counterpart else None
    more: dict[str, Any] = {"layer": layer, "weight_name": move.weight_name, **values}
    return ParameterState(move.target, step=state.step, group=index, **more), remarks


def _in_target_layout(request: Request, move: Move, name: str, value: Array) -> tuple[Array, list[Remark]]:
    """Return one array of a parameter in the target's layout and dtype."""
    remarks: list[Remark] = []
    if not np.isfinite(value).all():
        remarks.append(Note(f"{name} of {move.state.name} holds NaN or infinity: the run had diverged"))
    value = move.change.apply(value, request.source_kind.channels_last)
    expected: Array | None = getattr(move.counterpart, name if name in WEIGHTS else "square_avg", None)
    if expected is not None and value.dtype != expected.dtype:
        if not np.can_cast(value.dtype, expected.dtype):
            words = f"{name} of {move.state.name} is {value.dtype}, of {move.target} {expected.dtype}"
            remarks.append(Problem(f"dtype: {words}"))
        remarks.append(Note(f"{value.dtype} becomes {expected.dtype}, exactly"))
        value = value.astype(expected.dtype)
    return value, remarks
