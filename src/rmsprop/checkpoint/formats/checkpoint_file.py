"""The base class of all formats: a file that is read once, for its state and for the content a new file keeps."""

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
        The limits on memory and work for reading the file.
    """

    endings: ClassVar[tuple[str, ...]]
    named_freely: ClassVar[bool] = False  # whether a new file may have any ending
    states_rule: bool = True  # False if the file holds averages and no hyperparameters

    def __init__(self, path: Path, budget: ReadBudget) -> None:
        self.path, self.budget = path, budget

    @abstractmethod
    def state(self, kind: str | None, given: Fields) -> Checkpoint:
        """Return the optimizer's state. `given` are the caller's fields of `Rule`."""

    def with_weights(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the state with the model's weights; raise InputError if the format cannot hold them."""
        raise InputError("--weights", "used with files of Keras and PyTorch", str(self.path), "omit it")

    @abstractmethod
    def write_changed(self, checkpoint: Checkpoint, target: Path) -> None:
        """Write this file's content with another optimizer state."""

    @classmethod
    @abstractmethod
    def write_new(cls, checkpoint: Checkpoint, target: Path) -> None:
        """Write a file of the optimizer state alone."""

    @classmethod
    def size(cls, path: Path) -> int | None:
        """Return the checkpoint's size in bytes; None if there is no file."""
        return path.stat().st_size if path.is_file() else None

    @classmethod
    def is_taken(cls, path: Path) -> bool:
        """Return whether writing to `path` would replace a file."""
        return path.exists()
