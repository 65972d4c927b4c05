"""Names of arrays in a tree: the keys from the root to an array, joined as text."""

from __future__ import annotations

import re
from typing import TypeAlias

Keys: TypeAlias = tuple[str, ...]
_KEYSTR = re.compile(r"\['((?:[^'\\]|\\.)*)'\]|\[(\d+)\]|\.(\w+)")


def name_of(keys: Keys) -> str:
    """Join `keys` to a name: "a/w", or "['a/b']['w']" if a key contains a "/"."""
    return "".join(f"['{key}']" for key in keys) if any("/" in key for key in keys) else "/".join(keys)


def keys_of(name: str) -> Keys:
    """Split a name into keys: "0/nu/w", or "[0].nu['w']" as `jax.tree_util.keystr` writes it."""
    if name[:1] in "[." and "".join(match.group() for match in _KEYSTR.finditer(name)) == name:
        return tuple(next(part for part in match.groups() if part is not None) for match in _KEYSTR.finditer(name))
    return tuple(name.split("/"))
