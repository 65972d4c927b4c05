"""Write a monitor's state dict, read it, and check it against the model.

A state dict has a few short lists. Large arrays are base64 of their bytes, for two reasons. Lists of numbers take
several times as long to write and to read. Strict JSON has no NaN, and the sums of a diverged run have.
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
    """The content of a state dict."""

    step: int
    skipped_last: int
    nonfinite_steps: int
    skipped_steps: int
    samples: Samples
    ring: Ring
    elements: dict[ParamKey, int]


def pack(numbers: Numbers) -> str:
    """Encode numbers as text: base64 of little-endian float64."""
    return base64.b64encode(numbers.astype("<f8").tobytes()).decode()


def unpack(text: str, *shape: int) -> Numbers:
    """Decode the text of `pack` to an array of this shape; raise InputError if the text has another length."""
    numbers = math.prod(shape)
    expected = 4 * -(-8 * numbers // 3)
    if len(text) != expected:
        found = Received(f"{len(text)} characters for {numbers} numbers, which take {expected}")
        raise InputError("state", "what state_dict() returned, whole", found, "load a complete file")
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
    """Return the steps in a ring as plain values."""
    steps, keys, sums = ring.held()
    return {"steps": steps, "places": list(map(list, keys)), "sums": pack(sums)}


def elements_list(elements: Mapping[ParamKey, int]) -> list[list[int]]:
    """Return the number of elements of each tensor as plain values."""
    return [[*key, count] for key, count in elements.items()]


def read(state: Mapping[str, Any], groups: list[dict[str, Any]], names: Mapping[ParamKey, str], last: int) -> Saved:
    """Read a monitor's state dict; the ring gets room for `last` steps.

    Raises
    ------
    InputError
        If `state` is something else, is truncated, or belongs to a model with other tensors than `groups`.
    """
    try:
        step, skipped_last, nonfinite = (int(state[key]) for key in ("step", "left_out", "nonfinite_steps"))
        skipped = int(state.get("skipped_steps", 0))  # older states do not have this key
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


def _keys(given: Iterable[Any]) -> list[ParamKey]:
    return [(int(index), int(number)) for index, number in given]


def _samples(state: Mapping[str, Any]) -> Samples:
    keys, lengths = _keys(state["places"]), [int(n) for n in state["lengths"]]
    values = unpack(state["values"], sum(lengths))
    pieces = np.split(values, np.cumsum(lengths)[:-1])
    return torch_record.joined(int(state["step"]), dict(zip(keys, pieces, strict=True)))


def _ring(state: Mapping[str, Any], last: int) -> Ring:
    steps, keys = [int(step) for step in state["steps"]], _keys(state["places"])
    ring = Ring(last)
    ring.hold(steps, keys, unpack(state["sums"], len(steps), len(keys), len(Kept._fields)))
    return ring


def _check_model(
    keys: Iterable[ParamKey],
    elements: Mapping[ParamKey, int],
    groups: list[dict[str, Any]],
    names: Mapping[ParamKey, str],
) -> None:
    """Raise InputError for the first tensor that is missing or has another size; 0 stands for a size that varies."""
    for key in keys:
        if key not in names:
            found = f"parameter {key[1]} of group {key[0]}, where groups have {[len(g['params']) for g in groups]}"
        elif elements.get(key, 0) not in (0, actual := torch_record.elements_of(groups[key[0]]["params"][key[1]])):
            found = f"{elements[key]} elements of {names[key]}, which has {actual}"
        else:
            continue
        raise InputError("state", "that of a model with the same tensors", Received(found), "load that of this model")
