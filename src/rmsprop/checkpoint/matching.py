"""Matching of the source's parameters with the target's, and the layout change of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from rmsprop.checkpoint.layout_change import LayoutChange
from rmsprop.checkpoint.state import Checkpoint, KerasVariable, Note, ParameterState, Problem, Remark
from rmsprop.checkpoint.tree_paths import keys_of
from rmsprop.profiles import KINDS


class Move(NamedTuple):
    """One parameter of the source, its name in the target, and its layout change."""

    state: ParameterState
    target: str
    change: LayoutChange
    group: int
    counterpart: ParameterState | None  # the parameter of `like` with the name `target`
    weight_name: str | None = None
    unknown: Mapping[str, str] = MappingProxyType({})  # {key of the mapping that the user must supply: hint}


class Entry(NamedTuple):
    """The mapping's entry for one parameter."""

    target: str
    change: LayoutChange
    keys: frozenset[str]  # keys of _CHANGES in the entry
    weight: str | None = None  # name in the target model's state_dict()


_CHANGES = {"transpose": "axes", "flatten": "inputs", "reshape": "outputs", "blocks": "blocks"}
_USUAL = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}  # axes from Keras' layout to PyTorch's
_SIZES = "[height, width, channels], or null if it does not"


def match(
    source: Checkpoint, to: str, like: Checkpoint | None, mapping: Mapping[str, Any]
) -> tuple[list[Move], list[Remark]]:
    """Return a move for each parameter, in the target's order, and remarks."""
    entries, remarks = _entries(mapping)
    names = {state.name for state in source.parameters}
    extra = [name for name in entries if name not in names]
    remarks += [Problem(f"extra: the mapping names {name}, which is not in the source") for name in extra]
    states, dropped = _movable(source, to)
    targets = {name: entries[name].target for name in states if name in entries}
    if like is None:
        targets, order, name_remarks = _named_by_source(source.kind, to, targets, list(states))
    else:
        targets, order, name_remarks = _named_by_like(source.kind, to, targets, list(states), like)
    remarks += [*dropped, *name_remarks, *_conflicts(to, targets)]
    counterparts = {state.name: state for state in like.parameters} if like else {}
    sources = {target: name for name, target in targets.items()}
    joined = {math.prod(entry.change.inputs) for entry in entries.values() if entry.change.inputs}
    moves = []
    for target in dict.fromkeys(order):
        if target in sources:
            state, entry = states[sources[target]], entries.get(sources[target])
            move, move_remarks = _move(source, to, state, target, entry, counterparts.get(target), joined)
            moves.append(move)
            remarks += move_remarks
    late = next((b.target for a, b in pairwise(moves) if a.group > b.group), None)
    if late is not None and KINDS[to].states_rule:
        remarks.append(Problem(f"group: {late} would stand in another group than those around it; give --like"))
    return moves, remarks


def _movable(source: Checkpoint, to: str) -> tuple[dict[str, ParameterState], list[Remark]]:
    """Return the parameters that the target can hold. Only PyTorch files hold parameters without state."""
    states = {state.name: state for state in source.parameters}
    if KINDS[source.kind].states_rule and KINDS[to].states_rule:
        return states, []
    remarks: list[Remark] = []
    for name in [name for name, state in states.items() if state.square_avg is None]:
        if states[name].weight is not None:
            remarks.append(Problem(f"missing: {name} has no state yet, and {to} keeps no weight without state"))
        remarks.append(Note(f"{name} has no state yet and is skipped"))
        del states[name]
    return states, remarks


def _named_by_source(
    kind: str, to: str, targets: dict[str, str], names: Sequence[str]
) -> tuple[dict[str, str], list[str], list[Remark]]:
    """Return {source name: target name} and the target's order. Parameters outside the mapping keep their names."""
    rest = [name for name in names if name not in targets]
    unclear = rest and KINDS[to].ordered != KINDS[kind].ordered
    remarks: list[Remark] = []
    if unclear:
        lack = "no parameter order" if KINDS[to].ordered else "no parameter names"
        remarks.append(
            Problem(f"mapping: {kind} has {lack}, which {to} needs; state targets in --map for {_shortened(rest)}")
        )
    targets = targets | {name: name for name in rest}
    order = [targets[name] for name in names]
    renamed = not (KINDS[kind].ordered and KINDS[to].ordered) or any(name != new for name, new in targets.items())
    if KINDS[to].ordered and renamed and not unclear:  # names give no order: require the indices
        indices = [str(i) for i in range(len(order))]
        if sorted(order) == sorted(indices):
            return targets, indices, remarks
        last = len(order) - 1
        remarks.append(
            Problem(f"mapping: targets of {to} are indices from 0 to {last}, not {_shortened(order)}; or give --like")
        )
    return targets, order, remarks


def _named_by_like(
    kind: str, to: str, targets: dict[str, str], names: Sequence[str], like: Checkpoint
) -> tuple[dict[str, str], list[str], list[Remark]]:
    """Return {source name: target name} and the target's order. Target names are those of `like`."""
    rest = [name for name in names if name not in targets]
    order = [state.name for state in like.parameters]
    free = [name for name in order if name not in targets.values()]
    by_order = KINDS[kind].ordered and KINDS[to].ordered and not set(rest) & set(free) and len(rest) == len(free)
    remarks: list[Remark] = [Note("parameters are matched by their order")] if by_order else []
    targets = targets | (
        dict(zip(rest, free, strict=True)) if by_order else {name: name for name in rest if name in free}
    )
    missing = [name for name in order if name not in targets.values()]
    extra = [name for name in names if targets.get(name) not in order]
    if missing:
        remarks.append(Problem(f"missing: nothing in the source is for {_shortened(missing)}"))
    if extra:
        remarks.append(Problem(f"extra: nothing in the target is for {_shortened(extra)}"))
    order = [name for name in order if name not in missing]
    return {name: target for name, target in targets.items() if target in order}, order, remarks


def _conflicts(to: str, targets: Mapping[str, str]) -> Iterator[Problem]:
    """Yield problems of target names that one file cannot hold."""
    names = list(targets.values())
    twice = sorted({target for target in names if names.count(target) > 1})
    if twice:
        yield Problem(f"mapping: more than one parameter goes to {_shortened(twice)}")
    if KINDS[to].format == "jax":
        paths = {keys_of(target): target for target in names}
        parents = {keys[:i] for keys in paths for i in range(len(keys))}
        both = sorted(target for keys, target in paths.items() if keys in parents)
        if both:
            yield Problem(f"mapping: {_shortened(both)} cannot be a parameter and hold others")


def _move(
    source: Checkpoint,
    to: str,
    state: ParameterState,
    target: str,
    entry: Entry | None,
    counterpart: ParameterState | None,
    joined: Collection[int],
) -> tuple[Move, list[Remark]]:
    """Return the move of one parameter. `joined` are the lengths of all flattened axes in the mapping."""
    change, keys = (entry.change, entry.keys) if entry else (LayoutChange(), frozenset())
    array = state.square_avg if state.square_avg is not None else state.weight
    group = counterpart.group if counterpart else state.group
    if array is None:
        return Move(state, target, change, group, counterpart), []
    remarks: list[Remark] = []
    unknown: dict[str, str] = {}
    channels_last = KINDS[source.kind].channels_last
    if channels_last != KINDS[to].channels_last:
        layer = state.layer if channels_last else counterpart.layer if counterpart else None
        change, unknown, remarks = _between_layouts(source, state, change, keys, layer, joined)
    elif keys - {"transpose"}:
        words = ", ".join(sorted(keys - {"transpose"}))
        remarks.append(Problem(f"mapping: {state.name} has {words}, but source and target have the same layout"))
        change = LayoutChange(change.axes)
    problem = change.problem(array.shape, channels_last)
    if problem:
        remarks.append(Problem(f"mapping: {problem} of {state.name}"))
        change = LayoutChange()
    expected = counterpart.square_avg if counterpart else None
    shape = array.shape if change.axes is None else tuple(array.shape[axis] for axis in change.axes)
    if expected is not None and shape != expected.shape:
        remarks.append(Problem(f"shape: {state.name} is {shape}, {target} {expected.shape}"))
    name = None
    if state.weight is not None and KINDS[to].states_rule:
        name = (entry.weight if entry else None) or (counterpart.weight_name if counterpart else None)
        name = name or (None if target.isdecimal() else target)
        if name is None:
            unknown["weight"] = "its name in model.state_dict()"
            words = f'the name of {target} in model.state_dict(); say "weight" in --map, or give --like'
            remarks.append(Problem(f"missing: {words}"))
    return Move(state, target, change, group, counterpart, name, unknown), remarks


def _between_layouts(
    source: Checkpoint,
    state: ParameterState,
    change: LayoutChange,
    keys: frozenset[str],
    layer: KerasVariable | None,
    joined: Collection[int],
) -> tuple[LayoutChange, dict[str, str], list[Remark]]:
    """Return the change between Keras' and PyTorch's layout, {mapping key still needed: hint}, and remarks."""
    channels_last = KINDS[source.kind].channels_last
    array = state.square_avg if state.square_avg is not None else state.weight
    shape = () if array is None else array.shape
    unknown: list[str] = []
    remarks: list[Remark] = []
    if layer is not None:
        if layer.problem and (layer.final or not keys):
            remarks.append(Problem(f"impossible: {state.name}, {layer}: {layer.problem}"))
        usual = layer.change or LayoutChange()
        usual = usual if channels_last else usual.inverse()
        change = replace(change, **{field: getattr(usual, field) for key, field in _CHANGES.items() if key not in keys})
        unknown = [layer.ask] if layer.ask and layer.ask not in keys else []
    elif change.axes is None and len(shape) > 1:
        usual = LayoutChange(_USUAL.get(len(shape)))
        example = list((usual if channels_last else usual.inverse()).axes or range(len(shape)))
        words = f"{example} for a dense layer or a convolution, {list(range(len(shape)))} if the layouts are equal"
        problem = Problem(f'layout: {state.name} {shape} needs its axes in --map: "transpose": {words}')
        return change, {"transpose": words}, [problem]
    elif change.axes == (1, 0):
        sides = (("flatten", 0 if channels_last else 1), ("reshape", 1 if channels_last else 0))
        unknown = [key for key, axis in sides if key not in keys and _may_be_joined(source, state, shape[axis], key)]
    elif len(shape) == 1 and shape[0] in joined and not keys & {"flatten", "reshape"}:
        unknown = ["flatten"]
    for key in unknown:
        where = "may come from a Flatten" if key == "flatten" else "may go into a Reshape"
        words = f"{state.name}, {layer or shape}, {where}, which joins axes in a different order in Keras and PyTorch"
        remarks.append(Problem(f'layout: {words}; give in --map "{key}": {_SIZES}'))
    return change, dict.fromkeys(unknown, _SIZES), remarks


def _may_be_joined(source: Checkpoint, state: ParameterState, size: int, key: str) -> bool:
    """Return whether an axis of a dense layer may join the positions and channels of a convolution."""
    channels_last, ordered = KINDS[source.kind].channels_last, KINDS[source.kind].ordered
    index = [p.name for p in source.parameters].index(state.name)
    for i, p in enumerate(source.parameters):
        shape = () if p.square_avg is None else p.square_avg.shape
        if len(shape) < 3 or (ordered and (i > index) == (key == "flatten")):
            continue
        channels = set(shape[-2:] if channels_last else shape[:2]) - {1}
        if any(size > c and size % c == 0 for c in channels):
            return True
    return False


def _entries(mapping: Mapping[str, Any]) -> tuple[dict[str, Entry], list[Remark]]:
    """Parse a mapping into {source name: entry}."""
    entries: dict[str, Entry] = {}
    remarks: list[Remark] = []
    for name, value in mapping.items():
        entry = {"to": value} if isinstance(value, str) else value
        good = isinstance(entry, dict) and entry.keys() <= {"to", "weight", *_CHANGES}
        good = good and all(isinstance(entry.get(key, name), str) for key in ("to", "weight"))
        changes = {key: entry[key] for key in _CHANGES if key in entry} if good else {}
        if not good or not all(_is_list(e) or (e is None and key != "transpose") for key, e in changes.items()):
            words = f"must have a name or an object with the keys {', '.join(('to', 'weight', *_CHANGES))}"
            remarks.append(Problem(f"mapping: {name} {words}"))
            continue
        change = LayoutChange(**{_CHANGES[key]: None if e is None else tuple(e) for key, e in changes.items()})
        entries[name] = Entry(entry.get("to", name), change, frozenset(changes), entry.get("weight"))
    return entries, remarks


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(type(each) is int and each >= 0 for each in value)


def template(source: Checkpoint, moves: Sequence[Move], unclear: bool) -> dict[str, Any]:
    """Return the mapping of `moves`. Unknown values begin with "FILL IN"; if `unclear`, all targets do."""
    by_name = {move.state.name: move for move in moves}
    mapping: dict[str, Any] = {}
    for state in source.parameters:
        move = by_name.get(state.name)
        if move is None:
            mapping[state.name] = {"to": "FILL IN: its name in the target"}
            continue
        entry: dict[str, Any] = {"to": "FILL IN: its name in the target" if unclear else move.target}
        for key, field in _CHANGES.items():
            value = getattr(move.change, field)
            if key in move.unknown:
                entry[key] = f"FILL IN: {move.unknown[key]}"
            elif value is not None:
                entry[key] = list(value)
        if "weight" in move.unknown:
            entry["weight"] = f"FILL IN: {move.unknown['weight']}"
        elif move.weight_name is not None:
            entry["weight"] = move.weight_name
        mapping[state.name] = entry
    return mapping


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
