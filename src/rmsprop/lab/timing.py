"""Time steps of several optimizers in turn: what `bench` and `bench_gpu` share.

The contenders of a case take turns within every repeat. A ratio is the contender's time divided by our time in the
same repeat: other work of the machine slows both alike.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch

Step = Callable[[], Any]
OURS = "rmsprop"
IDLE_SHARE, IDLE_SPREAD = 0.9, 0.25  # of an idle machine: at least, at most; see `machine_load`
LOOKS = 3
POLICY = ((64, 4), (64,), (64, 64), (64,), (2, 64), (2,))


class Case(NamedTuple):
    """One measurement: contenders, calls per repeat, and number of repeats."""

    title: str
    contenders: Callable[[float], dict[str, Step]]  # argument: factor on the sizes
    calls: int
    repeats: int


def compiled(optimizer: torch.optim.Optimizer) -> Step:
    """Return the step, compiled by torch.compile. Compiling may take minutes: attribute `wait`, in seconds."""
    logging.getLogger("torch").setLevel(logging.ERROR)
    step: Any = torch.compile(optimizer.step)
    began = time.perf_counter()
    for _ in range(3):
        step()
    step.wait = time.perf_counter() - began
    return step  # type: ignore[no-any-return]


def machine_load() -> dict[str, float]:
    """Return how far other work disturbs this process: two numbers from a loop over memory, in a tenth of a second.

    An idle machine may look busy for a moment: up to `LOOKS` loops run, and the last one counts.

    `share` is the processor time of the loop's threads divided by their wall time: 1 if no other process runs. `spread`
    is the middle half of the loop's times divided by their median. It also sees other work on the same memory.
    """
    load = _loop()
    for _ in range(LOOKS - 1):
        if is_busy(load):
            load = _loop()
    return load


def _loop() -> dict[str, float]:
    to, added = torch.zeros(4_000_000), torch.zeros(4_000_000)
    to.add_(added)
    seconds, processor = [], time.process_time()
    for _ in range(21):
        began = time.perf_counter()
        to.add_(added)
        seconds.append(time.perf_counter() - began)
    share = (time.process_time() - processor) / (sum(seconds) * torch.get_num_threads())
    low, middle, high = quantiles(seconds, n=4)
    return {"share": share, "spread": (high - low) / middle}


def worse(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """Return the less favourable numbers of two calls of `machine_load`."""
    return {"share": min(a["share"], b["share"]), "spread": max(a["spread"], b["spread"])}


def is_busy(load: dict[str, float]) -> bool:
    """Return whether ratios measured under this load mean little."""
    return load["share"] < IDLE_SHARE or load["spread"] > IDLE_SPREAD


def measure(
    steps: dict[str, Step],
    case: Case,
    listen: Callable[[str, int, int], None],
    wait: Callable[[], Any] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds per step of each contender in each repeat. One more repeat before them is the warm-up.

    `wait` waits for the device: a time ends when the device is done.
    """
    wait = wait or (lambda: None)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(case.repeats + 1):
        for name, step in steps.items():
            wait()
            began = time.perf_counter()
            for _ in range(case.calls):
                step()
            wait()
            if repeat:
                seconds[name].append((time.perf_counter() - began) / case.calls)
        listen(case.title, repeat, case.repeats)
    return seconds


def rows(steps: dict[str, Step], seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return each contender's median time, and the median and quartiles of its ratio to ours."""
    result = []
    for name, times in seconds.items():
        low, ratio, high = quantiles([x / y for x, y in zip(times, seconds[OURS], strict=True)], n=4)
        row = {"contender": name, "seconds": median(times), "ratio": ratio, "low": low, "high": high}
        wait = getattr(steps[name], "wait", None)
        result.append(row if wait is None else {**row, "compile_seconds": wait})
    return result
