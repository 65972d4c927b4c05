"""Names of the arrays in a tree: the keys from the root to an array, joined as text."""

from __future__ import annotations

import re
from typing import TypeAlias

Keys: TypeAlias = tuple[str, ...]
_KEYSTR = re.compile(r"\['((?:[^'\\]|\\.)*)'\]|\[(\d+)\]|\.(\w+)")


def name_of(keys: Keys) -> str:
    """Return the name for `keys`: "a/w", or "['a/b']['w']" where a key holds a "/"."""
    return "".join(f"['{key}']" for key in keys) if any("/" in key for key in keys) else "/".join(keys)


def keys_of(name: str) -> Keys:
    """Return the keys in a name such as "0/nu/w" or, as `jax.tree_util.keystr` writes it, "[0].nu['w']"."""
    if name[:1] in "[." and "".join(match.group() for match in _KEYSTR.finditer(name)) == name:
        return tuple(next(part for part in match.groups() if part is not None) for match in _KEYSTR.finditer(name))
    return tuple(name.split("/"))
