"""What a monitor saves: numbers in one string, which JSON and `torch.load` take; on loading, held against the model.

A state dict has a few short lists, and the many numbers as base64 of their bytes: lists of them take several times as
long to write and to read, and strict JSON has no NaN, which is in them where a run has diverged.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.monitor import torch_record
from rmsprop.monitor.ring import Kept, Ring
from rmsprop.monitor.torch_record import Samples

if TYPE_CHECKING:
    from rmsprop.torch.observer import ParamKey

Numbers = npt.NDArray[np.float64]


class Saved(NamedTuple):
    """What a state dict says, as `Monitor` has it."""

    step: int
    skipped_last: int
    nonfinite_steps: int
    skipped_steps: int
    samples: Samples
    ring: Ring
    elements: dict[ParamKey, int]


def pack(numbers: Numbers) -> str:
    """Return numbers as text: base64 of their eight bytes each, the lowest first."""
    return base64.b64encode(numbers.astype("<f8").tobytes()).decode()


def unpack(text: str, *shape: int) -> Numbers:
    """Return what `pack` was given, an array of this shape; raise InputError if the text is not as long."""
    numbers = math.prod(shape)
    expected = 4 * -(-8 * numbers // 3)
    if len(text) != expected:
        found = Received(f"{len(text)} characters for {numbers} numbers, which take {expected}")
        raise InputError("state", "what state_dict() returned, whole", found, "take a file that was written to its end")
    return np.frombuffer(base64.b64decode(text, validate=True), "<f8").reshape(shape).astype(np.float64)


def samples_dict(samples: Samples) -> dict[str, Any]:
    """Return samples of gradients as plain values."""
    lengths = [len(x) for x in samples.pieces().values()]
    return {
        "step": samples.step,
        "places": list(map(list, samples.starts)),
        "lengths": lengths,
        "values": pack(samples.values),
    }


def ring_dict(ring: Ring) -> dict[str, Any]:
    """Return the steps that a ring holds as plain values."""
    steps, places, sums = ring.held()
    return {"steps": steps, "places": list(map(list, places)), "sums": pack(sums)}


def elements_list(elements: Mapping[ParamKey, int]) -> list[list[int]]:
    """Return the number of elements at each place as plain values."""
    return [[*place, count] for place, count in elements.items()]


def read(state: Mapping[str, Any], groups: list[dict[str, Any]], names: Mapping[ParamKey, str], last: int) -> Saved:
    """Return what a monitor's state dict says, with a ring of `last` steps.

    Raises
    ------
    InputError
        If it is something else or not whole, or if it is of a model with other tensors than those in `groups`.
    """
    try:
        step, skipped_last, nonfinite = (int(state[key]) for key in ("step", "left_out", "nonfinite_steps"))
        skipped = int(state.get("skipped_steps", 0))  # older ones do not have it
        elements = {(int(index), int(number)): int(count) for index, number, count in state["elements"]}
        samples = torch_record.joined(0, {}) if state["samples"] is None else _samples(state["samples"])
        ring = Ring(last) if state["ring"] is None else _ring(state["ring"], last)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        found = Received(
            f"a {type(state).__name__} with {sorted(map(str, state)) if isinstance(state, Mapping) else 'others'}"
        )
        raise InputError("state", "what state_dict() returned", found, "save monitor.state_dict()") from None
    _check_model([*elements, *ring.held()[1], *samples.starts], elements, groups, names)
    return Saved(step, skipped_last, nonfinite, skipped, samples, ring, elements)


def _places(given: Iterable[Any]) -> list[ParamKey]:
    return [(int(index), int(number)) for index, number in given]


def _samples(state: Mapping[str, Any]) -> Samples:
    places, lengths = _places(state["places"]), [int(n) for n in state["lengths"]]
    values = unpack(state["values"], sum(lengths))
    pieces = np.split(values, np.cumsum(lengths)[:-1])
    return torch_record.joined(int(state["step"]), dict(zip(places, pieces, strict=True)))


def _ring(state: Mapping[str, Any], last: int) -> Ring:
    steps, places = [int(step) for step in state["steps"]], _places(state["places"])
    ring = Ring(last)
    ring.hold(steps, places, unpack(state["sums"], len(steps), len(places), len(Kept._fields)))
    return ring


def _check_model(
    places: Iterable[ParamKey],
    elements: Mapping[ParamKey, int],
    groups: list[dict[str, Any]],
    names: Mapping[ParamKey, str],
) -> None:
    """Raise InputError at the first tensor that is not there, or has another size; 0 stands for one that varies."""
    for place in places:
        if place not in names:
            found = f"parameter {place[1]} of group {place[0]}, where groups have {[len(g['params']) for g in groups]}"
        elif elements.get(place, 0) not in (0, own := torch_record.elements_of(groups[place[0]]["params"][place[1]])):
            found = f"{elements[place]} elements of {names[place]}, which has {own}"
        else:
            continue
        raise InputError("state", "that of a model with the same tensors", Received(found), "load that of this model")
