"""Text of others, such as names of tensors, made safe to show."""

from __future__ import annotations

# Control characters, which may move a terminal's cursor or make an SVG unreadable, and those that turn the direction
# of writing around; not tabs and line breaks.
_UNSAFE = [c for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\t\n"] + [
    *range(0x202A, 0x202F), *range(0x2066, 0x206A),
]  # fmt: skip
_MARKED = dict.fromkeys(_UNSAFE, "\N{REPLACEMENT CHARACTER}")
_ESCAPED = {c: f"\\u{c:04x}" for c in _UNSAFE}


def printable(text: str) -> str:
    """Return `text` with a replacement character for every control character; tabs and line breaks stay."""
    return text if text.isprintable() else text.translate(_MARKED)


def printable_json(text: str) -> str:
    """Return JSON with every control character in its strings escaped: Python's `json` leaves some of them."""
    return text.translate(_ESCAPED)
