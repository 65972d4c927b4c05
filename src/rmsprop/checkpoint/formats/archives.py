"""Checks for zip archives and JSON: the read budget, and no duplicate names."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.errors import InputError, Received


def check_archive(source: Path | IO[bytes], budget: ReadBudget) -> None:
    """Raise InputError if a zip archive unpacks to more than the budget, or has duplicate names."""
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
    budget.visit(len(entries))
    budget.check(sum(entry.file_size for entry in entries), "archive")
    check_unique(budget.path, [entry.filename for entry in entries])


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Raise InputError for duplicate names: readers disagree on which of the two counts."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(str(path), "a file with each name once", Received(f"{twice[:80]!r} again"), "save it again")


def read_json(path: Path, text: str | bytes) -> Any:
    """Parse JSON; raise InputError for duplicate names."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_unique(path, [name for name, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def replace_entry(like: Path, name: str, content: bytes) -> bytes:
    """Return the zip archive `like` with its entry `name` replaced by `content`."""
    check_archive(like, ReadBudget(like))
    buffer = io.BytesIO()
    with zipfile.ZipFile(like) as old, zipfile.ZipFile(buffer, "w") as new:
        if name not in old.namelist():
            raise InputError("like", f"an archive with {name}", str(like), "give a saved model of that kind")
        for entry in old.infolist():
            new.writestr(entry, content if entry.filename == name else old.read(entry))
    return buffer.getvalue()
