"""Real training: tasks, single runs, comparisons and their reports."""

try:
    import sklearn as _sklearn  # noqa: F401
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"rmsprop.lab needs {error.name}: pip install 'rmsprop[lab]'", name=error.name) from None

from rmsprop.lab.task import Task, accuracy, load_task

__all__ = ["Task", "accuracy", "load_task"]
