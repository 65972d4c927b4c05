"""Text for terminals and figures: control characters replaced, formulas in ASCII."""

from __future__ import annotations

import re
import unicodedata

# Control characters except tab and line break. They may move a terminal's cursor, break an SVG or reverse the direction
# of writing.
_UNSAFE = [c for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\t\n"] + [
    *range(0x202A, 0x202F), *range(0x2066, 0x206A),
]  # fmt: skip
_MARKED = dict.fromkeys(_UNSAFE, "\N{REPLACEMENT CHARACTER}")
_ESCAPED = {c: f"\\u{c:04x}" for c in _UNSAFE}


def printable(text: str) -> str:
    """Return `text` with a replacement character for every control character except tab and line break."""
    return text if text.isprintable() else text.translate(_MARKED)


def printable_json(text: str) -> str:
    """Return JSON with every control character in its strings escaped; Python's `json` leaves some of them."""
    return text.translate(_ESCAPED)


# ASCII forms of characters in formulas. Greek letters become their names, other characters their Unicode NFKD form.
_ASCII = {
    "ε": "eps", "λ": "lambda", "µ": "u", "·": "*", "×": "x", "−": "-", "–": "-", "—": "-", "±": "+-", "∞": "inf",
    "√": "sqrt ", "←": "<-", "→": "->", "≤": "<=", "≥": ">=", "≠": "!=", "½": "1/2", "⋯": "...", "′": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "_hat", "\N{COMBINING MACRON}": "_mean",
}  # fmt: skip
_ROOT = re.compile(r"√(?=\()|√(\w++\u0302?)(?!\()")
_POWER = re.compile("[⁰¹²³⁴-⁹⁺⁻ʲᵉᵏᵗ]+")
_INDEX = re.compile("[₀-₉₊ᵢₜ]+")


def in_ascii(text: str) -> str:
    """Return `text` with formulas spelled in ASCII.

    >>> in_ascii("d ← √v̂ + ε, n ← μₜ₊₁·b/(1 − μ₁⋯μₜ₊₁), βᵗ⁺¹")
    'd <- sqrt(v_hat) + eps, n <- mu_(t+1)*b/(1 - mu_1...mu_(t+1)), beta^(t+1)'
    >>> in_ascii("v ← 0.9·v + 0.1·g², d ← √v + ε, p ← p − η·g/d, βᵗ, 10⁻⁸, √(s + 1)")
    'v <- 0.9*v + 0.1*g^2, d <- sqrt(v) + eps, p <- p - eta*g/d, beta^t, 10^-8, sqrt(s + 1)'
    """
    if text.isascii():
        return text
    text = _ROOT.sub(lambda root: f"sqrt({root[1]})" if root[1] else "sqrt", text)
    text = _POWER.sub(lambda power: f"^{_on_the_line(power[0])}", text)
    text = _INDEX.sub(lambda index: f"_{_on_the_line(index[0])}", text)
    return "".join(c if c.isascii() else _ASCII.get(c) or _spelled(c) for c in text)


def _on_the_line(script: str) -> str:
    """Return a superscript or subscript as ordinary text, a sum in parentheses."""
    text = unicodedata.normalize("NFKD", script)
    return f"({text})" if "+" in text else text


def _spelled(c: str) -> str:
    """Return the name of a Greek letter, the ASCII form of another character, or its escape."""
    name = unicodedata.name(c, "").split(" LETTER ")
    if name[0] in ("GREEK SMALL", "GREEK CAPITAL"):
        return name[1].capitalize() if name[0] == "GREEK CAPITAL" else name[1].lower()
    plain = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
    return plain or c.encode("ascii", "backslashreplace").decode()
