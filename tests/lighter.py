"""Skip the slow parts of a test of commands that other tests cover: worker processes and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    from rmsprop.lab.report import figures, monitor_figures, tuning_figures, tuning_slices

    for module in (figures, monitor_figures, tuning_figures, tuning_slices):
        for name in (name for name in vars(module) if name.startswith("draw_")):
            patch.setattr(module, name, lambda *_, **__: "<svg></svg>")
    patch.setattr("rmsprop.lab.range_test.draw_range_test", lambda *_, **__: "<svg></svg>")
