"""Real training: tasks, single runs, comparisons and their reports."""

from importlib.util import find_spec

try:
    import torch as _torch  # noqa: F401

    if find_spec("sklearn") is None:  # not imported: that takes two seconds, and not every task needs it
        raise ModuleNotFoundError(name="sklearn")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"rmsprop.lab needs {error.name}: pip install 'rmsprop[lab]'", name=error.name) from None

from rmsprop.lab.score import accuracy
from rmsprop.lab.task import Task, load_task

__all__ = ["Task", "accuracy", "load_task"]
