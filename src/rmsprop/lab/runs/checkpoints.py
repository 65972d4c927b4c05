"""How often a training saves its checkpoint."""

from __future__ import annotations

import time
from typing import Any

from rmsprop.lab.runs.directory import RunDirectory


class Saver:
    """Save checkpoints at most once a second, and less often if saving would take over a twentieth of the time."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._pause, self._saved = 1.0, time.monotonic()

    def due(self) -> bool:
        """Return whether a checkpoint is due."""
        return time.monotonic() - self._saved > self._pause

    def save(self, state: dict[str, Any]) -> None:
        """Save `state` as the run's checkpoint."""
        began = time.monotonic()
        self._run.save_checkpoint(state)
        self._saved = time.monotonic()
        self._pause = max(1.0, 20 * (self._saved - began))
