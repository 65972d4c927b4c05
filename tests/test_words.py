"""Plain words: terms that need a second reading do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [
    ROOT / "README.md",
    *(path for ending in ("md", "py") for path in sorted((ROOT / "docs").rglob(f"*.{ending}"))),
    *(path for ending in ("py", "pyi", "hpp", "cpp", "j2") for path in sorted((ROOT / "src").rglob(f"*.{ending}"))),
]
# Refused words, and what to write instead.
INSTEAD = {
    r"firsts": "offsets",
    r"fresh": "one_minus_beta, corrected, new",
    r"untold": "what is not reported",
    r"watcher|watching": "observer",
    r"type that computes": "compute dtype",
    r"(put|puts|putting|brought) back": "restored, written",
    r"that which": "the noun",
    r"of which those": "two sentences",
    r"where (it|they) lies?": "in place",
    r"at hand": "available",
    r"for ever": "forever",
    r"somebody|whoever": "who it is",
    r"no news": "says nothing",
}


@pytest.mark.parametrize("words", INSTEAD)
def test_a_word_with_a_plainer_one_does_not_occur(words: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(rf"\b({words})\b", line, re.IGNORECASE)
    ]
    assert found == [], f"instead of {words}: {INSTEAD[words]}"
