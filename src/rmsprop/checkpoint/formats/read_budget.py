"""What reading one file may cost: checked before memory is allocated, in every format."""

from __future__ import annotations

import os
from pathlib import Path

from rmsprop.errors import InputError, Received

_VARIABLE = "RMSPROP_READ_LIMIT"
# Optimizer state is noise to a compressor, and hardly any file holds more than twice its size. Tables of zeros do, and
# compress to nothing: small files may unfold to the free part.
_FREE_BYTES, _BYTES_PER_BYTE = 2**28, 8
_FREE_VISITS, _BYTES_PER_VISIT = 2**21, 8


class ReadBudget:
    """Memory and visits that reading one file may take: a free part, and a part in proportion to its size.

    Parameters
    ----------
    path
        The file, as errors name it.
    size
        Its bytes on disk; those of `path` if None.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        size = path.stat().st_size if size is None else size
        text = os.environ.get(_VARIABLE, "1")
        times = int(text) if text.isdecimal() and 1 <= len(text) <= 6 else 0
        if times < 1:
            raise InputError(
                _VARIABLE, "a whole number from 1 to 999999", text, "unset it, or say how many times as much"
            )
        self._bytes = self._most_bytes = times * (_FREE_BYTES + _BYTES_PER_BYTE * size)
        self._visits = self._most_visits = times * (_FREE_VISITS + size // _BYTES_PER_VISIT)

    def spend(self, size: int, what: str) -> None:
        """Take `size` bytes for `what`, or raise InputError."""
        self.check(size, what)
        self._bytes -= size

    def check(self, size: int, what: str) -> None:
        """Raise InputError if `size` bytes for `what` are more than is left."""
        if size > self._bytes:
            limit = f"a file that unfolds to at most {self._most_bytes} bytes (2**28, and 8 times its size)"
            raise self._over(limit, f"one whose {what} brings it to {self._most_bytes - self._bytes + size}")

    def visit(self, count: int = 1) -> None:
        """Count `count` entries that are looked at, or raise InputError."""
        self._visits -= count
        if self._visits < 0:
            raise self._over(f"a file of at most {self._most_visits} entries", "one of more")

    def _over(self, limit: str, found: str) -> InputError:
        remedy = f"if you trust it, set {_VARIABLE}=10 in the environment for ten times as much"
        return InputError(str(self.path), limit, Received(found), remedy)
