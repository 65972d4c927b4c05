"""What every format provides: a checkpoint file that is read once, for its state and for what a new file keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.state import Checkpoint, Fields
from rmsprop.errors import InputError


class CheckpointFile(ABC):
    """The content of a checkpoint file.

    Parameters
    ----------
    path
        The file, as errors name it.
    budget
        What reading it may take.
    """

    endings: ClassVar[tuple[str, ...]]
    named_freely: ClassVar[bool] = False  # whether a new file may have any other ending, too

    def __init__(self, path: Path, budget: ReadBudget) -> None:
        self.path, self.budget = path, budget

    @abstractmethod
    def state(self, kind: str | None, given: Fields) -> Checkpoint:
        """Return the optimizer's state; `given` are the fields of `Rule` that the caller knows."""

    def with_weights(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the state with the weights of the model."""
        raise InputError("--weights", "used with files of Keras and PyTorch", str(self.path), "leave it out")

    @abstractmethod
    def write_changed(self, checkpoint: Checkpoint, target: Path) -> None:
        """Write all that this file holds, with another state of its optimizer."""

    @classmethod
    @abstractmethod
    def write_new(cls, checkpoint: Checkpoint, target: Path) -> None:
        """Write a file that holds nothing but the state."""

    @classmethod
    def size(cls, path: Path) -> int | None:
        """Return the bytes of the checkpoint on disk; None if there is none."""
        return path.stat().st_size if path.is_file() else None

    @classmethod
    def is_taken(cls, path: Path) -> bool:
        """Return whether writing to `path` would replace a file."""
        return path.exists()
