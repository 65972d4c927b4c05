"""Which parameter of the source is which of the target, and how its axes go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from rmsprop.checkpoint.layout_change import LayoutChange
from rmsprop.checkpoint.state import Checkpoint, KerasVariable, ParameterState
from rmsprop.checkpoint.tree_paths import keys_of
from rmsprop.profiles import KINDS


class Move(NamedTuple):
    """One parameter's way."""

    state: ParameterState
    target: str
    turn: LayoutChange
    group: int
    wanted: ParameterState | None  # what the target has in its place
    weight_name: str | None = None
    open: Mapping[str, str] = {}  # what only the map can tell: key of its entry, and what to put there


class Entry(NamedTuple):
    """What a mapping says of one parameter."""

    target: str
    turn: LayoutChange
    said: frozenset[str]  # which of _TURNS it has
    weight: str | None = None  # name in the target's model


_TURNS = {"transpose": "axes", "flatten": "inputs", "reshape": "outputs", "blocks": "blocks"}
_USUAL = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}  # from Keras' layout to PyTorch's
_SIZES = "[height, width, channels], or null where it does not"


def match(
    source: Checkpoint,
    to: str,
    like: Checkpoint | None,
    mapping: Mapping[str, Any],
    found: list[str],
    note: Callable[[str], None],
) -> list[Move]:
    """Return a move per parameter in the target's order; what does not fit goes into `found`."""
    entries = _entries(mapping, found)
    states = {state.name: state for state in source.parameters}
    found += [f"extra: the mapping names {name}, which the source has not" for name in entries if name not in states]
    if not (KINDS[source.kind].states_rule and KINDS[to].states_rule):
        for name in [name for name, state in states.items() if state.square_avg is None]:
            if states[name].weight is not None:
                found.append(f"missing: {name} has made no step yet, and {to} keeps no weight without state")
            note(f"{name} has made no step yet and is left out")
            del states[name]
    targets = {name: entries[name].target for name in states if name in entries}
    rest = [name for name in states if name not in entries]
    ordered = KINDS[source.kind].ordered and KINDS[to].ordered
    if like is None:
        unclear = rest and KINDS[to].ordered != KINDS[source.kind].ordered
        if unclear:
            what = "no order" if KINDS[to].ordered else "no names"
            found.append(
                f"mapping: parameters of {source.kind} have {what} that {to} needs; tell in --map, of {_some(rest)}"
            )
        targets |= {name: name for name in rest}
        order = [targets[name] for name in states]
        renamed = not ordered or any(name != target for name, target in targets.items())
        if KINDS[to].ordered and renamed and not unclear:  # the file goes by order, and names alone give none
            numbers = [str(i) for i in range(len(order))]
            if sorted(order) != sorted(numbers):
                last = len(order) - 1
                found.append(
                    f"mapping: targets of {to} are numbers from 0 to {last}, not {_some(order)}; or give --like"
                )
            else:
                order = numbers
    else:
        order = [state.name for state in like.parameters]
        free = [name for name in order if name not in targets.values()]
        if ordered and not set(rest) & set(free) and len(rest) == len(free):
            note("parameters are matched by their order")
            targets |= dict(zip(rest, free, strict=True))
        else:
            targets |= {name: name for name in rest if name in free}
        missing = [name for name in order if name not in targets.values()]
        extra = [name for name in states if targets.get(name) not in order]
        if missing:
            found.append(f"missing: nothing in the source is for {_some(missing)}")
        if extra:
            found.append(f"extra: nothing in the target is for {_some(extra)}")
        order = [name for name in order if name not in missing]
        targets = {name: target for name, target in targets.items() if target in order}
    twice = sorted({target for target in targets.values() if list(targets.values()).count(target) > 1})
    if twice:
        found.append(f"mapping: more than one parameter goes to {_some(twice)}")
    if to in ("optax", "rmsprop.jax"):
        places = {keys_of(target): target for target in targets.values()}
        above = {keys[:i] for keys in places for i in range(len(keys))}
        both = sorted(target for keys, target in places.items() if keys in above)
        if both:
            found.append(f"mapping: {_some(both)} cannot be a parameter and hold others")
    wanted = {state.name: state for state in like.parameters} if like else {}
    origins = {target: name for name, target in targets.items()}
    joined = {math.prod(entry.turn.inputs) for entry in entries.values() if entry.turn.inputs}
    moves = [
        _move(source, to, states[origins[t]], t, entries.get(origins[t]), wanted.get(t), joined, found)
        for t in dict.fromkeys(order)
        if t in origins
    ]
    late = next((b.target for a, b in pairwise(moves) if a.group > b.group), None)
    if late is not None and KINDS[to].states_rule:
        found.append(f"group: {late} would stand in another group than those around it; give --like")
    return moves


def _move(
    source: Checkpoint,
    to: str,
    state: ParameterState,
    target: str,
    entry: Entry | None,
    wanted: ParameterState | None,
    joined: set[int],
    found: list[str],
) -> Move:
    turn, said = (entry.turn, entry.said) if entry else (LayoutChange(), frozenset())
    v = state.square_avg if state.square_avg is not None else state.weight
    group = wanted.group if wanted else state.group
    if v is None:
        return Move(state, target, turn, group, wanted)
    last = KINDS[source.kind].channels_last
    unsure: dict[str, str] = {}
    if last != KINDS[to].channels_last:
        layer = state.layer if last else wanted.layer if wanted else None
        turn, unsure = _between_layouts(source, state, turn, said, layer, joined, found)
    elif said - {"transpose"}:
        found.append(f"mapping: {state.name} says {', '.join(sorted(said - {'transpose'}))}, and both have one layout")
        turn = LayoutChange(turn.axes)
    problem = turn.problem(v.shape, last)
    if problem:
        found.append(f"mapping: {problem} of {state.name}")
        turn = LayoutChange()
    expected = None if wanted is None or wanted.square_avg is None else wanted.square_avg
    shape = v.shape if turn.axes is None else tuple(v.shape[axis] for axis in turn.axes)
    if expected is not None and shape != expected.shape:
        found.append(f"shape: {state.name} is {shape}, {target} {expected.shape}")
    name = None
    if state.weight is not None and KINDS[to].states_rule:
        name = (entry.weight if entry else None) or (wanted.weight_name if wanted else None)
        name = name or (None if target.isdecimal() else target)
        if name is None:
            unsure["weight"] = "its name in model.state_dict()"
            found.append(f'missing: the name of {target} in model.state_dict(); say "weight" in --map, or give --like')
    return Move(state, target, turn, group, wanted, name, unsure)


def _between_layouts(
    source: Checkpoint,
    state: ParameterState,
    turn: LayoutChange,
    said: frozenset[str],
    layer: KerasVariable | None,
    joined: set[int],
    found: list[str],
) -> tuple[LayoutChange, dict[str, str]]:
    """Return how an array goes between Keras' layout and PyTorch's, and what only the map can tell."""
    last = KINDS[source.kind].channels_last
    array = state.square_avg if state.square_avg is not None else state.weight
    shape = () if array is None else array.shape
    unsure = []
    if layer is not None:
        if layer.problem and (layer.final or not said):
            found.append(f"impossible: {state.name}, {layer}: {layer.problem}")
        usual = layer.change or LayoutChange()
        usual = usual if last else usual.inverse()
        turn = replace(turn, **{field: getattr(usual, field) for key, field in _TURNS.items() if key not in said})
        unsure = [layer.ask] if layer.ask and layer.ask not in said else []
    elif turn.axes is None and len(shape) > 1:
        turned = LayoutChange(_USUAL.get(len(shape)))
        example = list((turned if last else turned.inverse()).axes or range(len(shape)))
        words = f"{example} for a dense layer or a convolution, {list(range(len(shape)))} where nothing turns"
        found.append(f'layout: {state.name} {shape} needs its axes told in --map: "transpose": {words}')
        return turn, {"transpose": words}
    elif turn.axes == (1, 0):
        sides = (("flatten", 0 if last else 1), ("reshape", 1 if last else 0))
        unsure = [key for key, axis in sides if key not in said and _may_be_joined(source, state, shape[axis], key)]
    elif len(shape) == 1 and shape[0] in joined and not said & {"flatten", "reshape"}:
        unsure = ["flatten"]
    for key in unsure:
        where = "may come from a Flatten" if key == "flatten" else "may go into a Reshape"
        what = f"{state.name}, {layer or shape}, {where}, which joins other orders in Keras and in PyTorch"
        found.append(f'layout: {what}; say in --map "{key}": {_SIZES}')
    return turn, dict.fromkeys(unsure, _SIZES)


def _may_be_joined(source: Checkpoint, state: ParameterState, size: int, key: str) -> bool:
    """Return whether an axis of a dense layer may consist of the channels of a convolution at several places."""
    last, ordered = KINDS[source.kind].channels_last, KINDS[source.kind].ordered
    names = [p.name for p in source.parameters]
    here = names.index(state.name)
    for i, p in enumerate(source.parameters):
        shape = () if p.square_avg is None else p.square_avg.shape
        if len(shape) < 3 or (ordered and (i > here) == (key == "flatten")):
            continue
        channels = set(shape[-2:] if last else shape[:2]) - {1}
        if any(size > c and size % c == 0 for c in channels):
            return True
    return False


def _entries(mapping: Mapping[str, Any], found: list[str]) -> dict[str, Entry]:
    entries = {}
    for name, value in mapping.items():
        said = {"to": value} if isinstance(value, str) else value
        good = isinstance(said, dict) and said.keys() <= {"to", "weight", *_TURNS}
        good = good and all(isinstance(said.get(key, name), str) for key in ("to", "weight"))
        turns = {key: said[key] for key in _TURNS if key in said} if good else {}
        if not good or not all(_is_list(each) or (each is None and key != "transpose") for key, each in turns.items()):
            found.append(f'mapping: {name} must have a name or {{"to": name, "transpose": [axes], "flatten": [sizes]}}')
            continue
        turn = LayoutChange(**{_TURNS[key]: None if each is None else tuple(each) for key, each in turns.items()})
        entries[name] = Entry(said.get("to", name), turn, frozenset(turns), said.get("weight"))
    return entries


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(type(each) is int and each >= 0 for each in value)


def template(source: Checkpoint, moves: list[Move], unclear: bool) -> dict[str, Any]:
    """Return a mapping that says all that is known of the moves; what is left to be filled in is in words."""
    known = {move.state.name: move for move in moves}
    whole: dict[str, Any] = {}
    for state in source.parameters:
        move = known.get(state.name)
        entry: dict[str, Any] = {"to": move.target if move and not unclear else "FILL IN: its name in the target"}
        for key, field in _TURNS.items() if move else ():
            value = getattr(move.turn, field) if move else None
            if move and key in move.open:
                entry[key] = f"FILL IN: {move.open[key]}"
            elif value is not None:
                entry[key] = list(value)
        if move and "weight" in move.open:
            entry["weight"] = f"FILL IN: {move.open['weight']}"
        elif move and move.weight_name is not None:
            entry["weight"] = move.weight_name
        whole[state.name] = entry
    return whole


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
