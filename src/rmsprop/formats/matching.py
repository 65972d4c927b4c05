"""Which parameter of the source is which of the target, and how its axes go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from rmsprop.checkpoint import KINDS, Checkpoint, ParameterState
from rmsprop.formats.trees import keys_of


class Move(NamedTuple):
    """One parameter's way."""

    state: ParameterState
    target: str
    axes: tuple[int, ...] | None  # as numpy.transpose takes them
    group: int
    dtype: np.dtype[Any] | None  # of the target, None to keep the source's


class Entry(NamedTuple):
    """What a mapping says of one parameter."""

    target: str
    axes: tuple[int, ...] | None


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
    moves = [_move(source, to, states[origins[t]], t, entries.get(origins[t]), wanted.get(t), found) for t in
             dict.fromkeys(order) if t in origins]  # fmt: skip
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
    found: list[str],
) -> Move:
    axes = entry.axes if entry else None
    v = state.square_avg
    group = wanted.group if wanted else state.group
    if v is None:
        return Move(state, target, None, group, None)
    if axes is not None and sorted(axes) != list(range(v.ndim)):
        found.append(f"mapping: transpose {list(axes)} of {state.name} is no order of its {v.ndim} axes")
        axes = None
    elif axes is None and v.ndim > 1 and KINDS[source.kind].channels_last != KINDS[to].channels_last:
        usual = {2: [1, 0], 3: [2, 1, 0], 4: [3, 2, 0, 1], 5: [4, 3, 0, 1, 2]}
        if KINDS[to].channels_last:
            usual |= {4: [2, 3, 1, 0], 5: [2, 3, 4, 1, 0]}
        example = usual.get(v.ndim, list(range(v.ndim)))
        found.append(
            f"layout: {state.name} {v.shape} needs its axes told in --map, for a dense layer or a convolution "
            f'"transpose": {example}, where nothing turns {list(range(v.ndim))}'
        )
    expected = None if wanted is None or wanted.square_avg is None else wanted.square_avg
    shape = v.shape if axes is None else tuple(v.shape[axis] for axis in axes)
    if expected is not None and shape != expected.shape:
        found.append(f"shape: {state.name} is {shape}, {target} {expected.shape}")
    return Move(state, target, axes, group, None if expected is None else expected.dtype)


def _entries(mapping: Mapping[str, Any], found: list[str]) -> dict[str, Entry]:
    entries = {}
    for name, value in mapping.items():
        said = {"to": value} if isinstance(value, str) else value
        good = isinstance(said, dict) and said.keys() <= {"to", "transpose"} and isinstance(said.get("to", name), str)
        axes = said.get("transpose") if good else None
        if not good or not (
            axes is None or (isinstance(axes, (list, tuple)) and all(type(axis) is int for axis in axes))
        ):
            found.append(f'mapping: {name} must have a name or {{"to": name, "transpose": [axes]}}')
            continue
        entries[name] = Entry(said.get("to", name), None if axes is None else tuple(axes))
    return entries


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
