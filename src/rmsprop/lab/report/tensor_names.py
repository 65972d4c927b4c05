"""Names of many tensors in few words: blocks that repeat share a pattern, such as encoder.layers.*.weight."""

from __future__ import annotations

import re
from collections.abc import Iterable

LISTED = 6  # names that are listed one by one
_PATTERNS = 8  # patterns that are listed
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a part of a name that is a number


def by_pattern(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names by their patterns, which have * in place of numbers; a name alone is its own pattern."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_NUMBER.sub("*", name), []).append(name)
    return {alike[0] if len(alike) == 1 else pattern: alike for pattern, alike in found.items()}


def names_words(names: list[str]) -> str:
    """Return names as a list; more than `LISTED` as patterns with their numbers of tensors, the most frequent first."""
    if len(names) <= LISTED:
        return ", ".join(names)
    patterns = sorted(by_pattern(names).items(), key=lambda item: -len(item[1]))
    words = [f"{pattern} ({len(alike)})" if len(alike) > 1 else pattern for pattern, alike in patterns[:_PATTERNS]]
    left = sum(len(alike) for _, alike in patterns[_PATTERNS:])
    return ", ".join(words) + (f" and {left} more" if left else "")


def shortened(name: str, most: int = 40) -> str:
    """Return a name in at most so many characters: its end, which tells tensors apart, cut at a dot if there is one."""
    if len(name) <= most:
        return name
    end = name[1 - most :]
    return "…" + end[end.find(".") + 1 :]
