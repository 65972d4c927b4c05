"""Real training: tasks, single runs, comparisons and their reports.

`train`, `compare` and `find_lr` do what the commands of the same names do, and take a Task as well as a task's name.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

try:
    import torch as _torch  # noqa: F401

    if find_spec("sklearn") is None:  # not imported: that takes two seconds, and not every task needs it
        raise ModuleNotFoundError(name="sklearn")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"rmsprop.lab needs {error.name}: pip install 'rmsprop[lab]'", name=error.name) from None

from rmsprop.lab.find_task import load_task
from rmsprop.lab.q_learning import QLearningTask, TDLoss
from rmsprop.lab.reinforcement import ActorCriticLoss, PolicyTask
from rmsprop.lab.score import accuracy
from rmsprop.lab.task import Task

if TYPE_CHECKING:
    from rmsprop.lab.comparison import compare
    from rmsprop.lab.range_test import find_lr
    from rmsprop.lab.run import RangeTest, Run
    from rmsprop.lab.search import tune
    from rmsprop.lab.training_run import train
    from rmsprop.lab.tuned import Tuned

__all__ = [
    "ActorCriticLoss",
    "PolicyTask",
    "QLearningTask",
    "RangeTest",
    "Run",
    "TDLoss",
    "Task",
    "Tuned",
    "accuracy",
    "compare",
    "find_lr",
    "load_task",
    "train",
    "tune",
]

# Imported when first used: they bring figures and reports, which a file with a task does not need.
_LAZY = {
    "compare": "comparison",
    "find_lr": "range_test",
    "RangeTest": "run",
    "Run": "run",
    "train": "training_run",
    "tune": "search",
    "Tuned": "tuned",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"rmsprop.lab.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
