"""Search unpickled values for state dicts, and reduce them to plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.safe_pickle import SCALARS, Name, PickledArray, Record
from rmsprop.checkpoint.formats.torch_file import Stored

_VISITS_OF_A_COPY = 8  # a value that is pickled once may occur many times


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (expression, child) for each child of `value`, such as ("[0]", value[0])."""
    if isinstance(value, dict):
        yield from (
            (f"[{key!r}]" if isinstance(key, SCALARS) else f"[{type(key).__name__}]", each)
            for key, each in value.items()
        )
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", each) for i, each in enumerate(value))
    elif isinstance(value, Record) and isinstance(value.state, dict):
        yield from ((f".{key}", each) for key, each in value.state.items())


def search(
    value: Any, budget: ReadBudget, wanted: Callable[[Any], bool | None], depth: int
) -> list[tuple[str, dict[str, Any]]]:
    """Return (expression, match) for each match in `value`, nearest to the root first.

    `wanted` returns True for a match, False to search within a value, and None to skip it.
    """
    matches, visited, layer = [], {id(value)}, [("", value)]
    for _ in range(depth):
        deeper: list[tuple[str, Any]] = []
        for where, each in layer:
            answer = wanted(each)
            if answer:
                matches.append((where, each))
            if answer is not False:
                continue
            for key, inner in children(each):
                budget.visit()
                if id(inner) not in visited and isinstance(inner, (dict, list, tuple, Record)):
                    visited.add(id(inner))
                    deeper.append((where + key[:80], inner))
        layer = deeper
    return matches


def plain(value: Any, budget: ReadBudget, depth: int = 8) -> Any:
    """Reduce a value to numbers, text, arrays, lists and dicts. For anything else, raise LookupError with its class."""
    budget.visit(_VISITS_OF_A_COPY)
    if isinstance(value, (*SCALARS, np.ndarray)):
        return value
    if isinstance(value, Stored):
        array = value.array()
        return array.item() if array.ndim == 0 and array.dtype.kind in "fiub" else array
    if isinstance(value, PickledArray) and value.value is not None:
        return value.value
    if isinstance(value, (list, tuple)) and not isinstance(value, Name) and depth:
        return type(value)(plain(each, budget, depth - 1) for each in value)
    if isinstance(value, dict) and depth and all(isinstance(key, SCALARS) for key in value):
        return {key: plain(each, budget, depth - 1) for key, each in value.items()}
    raise LookupError(
        str(value.cls if isinstance(value, Record) else value if isinstance(value, Name) else type(value))
    )
