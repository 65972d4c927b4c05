"""The description that a package index shows: README without what holds only in the project's folder.

pyproject.toml names this file; the build backend calls `dynamic_metadata`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"


def description(readme: str) -> str:
    """Return the text without the parts marked in README; links to files become their text, `.` the package's name."""
    text = re.sub(r"<!-- in the project's folder -->\n.*?<!-- end of it -->\n+", "", readme, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\((?!https://)[^)]*\)", r"\1", text)
    text = re.sub(r"<!-- .*? -->\n+", "", text)
    return re.sub(r"(?m)^(pip install '?)\.", r"\1rmsprop", text)


def dynamic_metadata(_settings: dict[str, Any], _project: dict[str, Any]) -> dict[str, Any]:
    """Return the field `readme` of the project's metadata."""
    return {"readme": {"text": description(README.read_text(encoding="utf-8")), "content-type": "text/markdown"}}
