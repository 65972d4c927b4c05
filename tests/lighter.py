"""Skip the slow parts of a test of commands that other tests cover: worker processes and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest


class InThisProcess:
    """Stands in for `Workers`: executes the tasks here, one after another."""

    count = 1

    def __init__(self, count: int) -> None:
        pass

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def results(self, function: Any, tasks: Sequence[Any], check: Callable[[], None]) -> Iterator[Any]:
        for task in tasks:
            check()
            yield function(task)


def without_workers(patch: pytest.MonkeyPatch) -> None:
    """Compare in this process: no worker imports torch again. test_compare.py checks that results are the same."""
    patch.setattr("rmsprop.lab.comparison.Workers", InThisProcess)


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """Write reports without figures, but with their numbers; test_report.py draws the figures."""
    from rmsprop.lab import range_test, report

    modules = [import_module(f"rmsprop.lab.report.{each.name}") for each in iter_modules(report.__path__)]
    for module in (*modules, range_test):
        for name in (name for name in vars(module) if name.startswith("draw_")):
            patch.setattr(module, name, lambda *_, **__: "<svg></svg>")
