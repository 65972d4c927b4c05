"""Time the parts of a step: python benchmarks/parts.py [--json]. docs/speed.md shows the figures.

Small parts are the best mean of 9 × 2000 calls, in µs. The training step of the language model of `rmsprop bench` is
timed part by part, in ms: its optimizers take turns, times are medians. "started" is our step on threads started for
it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import timeit
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from rmsprop import native
from rmsprop.environment import environment
from rmsprop.lab.bench import Language
from rmsprop.lab.timing import POLICY
from rmsprop.torch import RMSprop
from rmsprop.torch.engines.cpu_kernel import CpuKernel
from rmsprop.torch.engines.engine import LossScale, Remaining, StepInputs

REPEATS = 25


def _best(call: Callable[[], Any]) -> float:
    number = 2000
    return 1e6 * min(timeit.repeat(call, number=number, repeat=9)) / number


def small() -> dict[str, float]:
    """Return the µs of the parts in and around the step of a small network."""
    params = [nn.Parameter(torch.randn(shape)) for shape in POLICY]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer, counter = RMSprop(params), torch.tensor(0.0)
    optimizer.step()
    engine, everything = CpuKernel(), [Remaining(0, None, "")]
    inputs = StepInputs(optimizer, optimizer.param_groups, optimizer.state, [0], LossScale(), None, 0, 0, {}, set())

    def gather() -> None:
        engine.gather(inputs, everything)
        engine.clear()

    def record() -> None:
        with torch.autograd.profiler.record_function("step"):
            pass

    return {
        "a record for the profiler": _best(record),
        "1 added to a counter": _best(lambda: counter.add_(1)),
        "p.grad": _best(lambda: params[0].grad),
        "p.data_ptr()": _best(params[0].data_ptr),
        "gathering, a parameter": _best(gather) / len(params),
        "the whole step": _best(optimizer.step),
    }


def language() -> dict[str, dict[str, float]]:
    """Return the ms of the parts of a training step of the language model, by optimizer."""
    words, data = 10_000, torch.randint(10_000, (20, 20))
    target = torch.randint(words, (400,))
    times: dict[str, dict[str, list[float]]] = {}

    def timed(part: str, into: dict[str, list[float]], call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        into.setdefault(part, []).append(1e3 * (time.perf_counter() - began))
        return result

    contenders: dict[str, Callable[[list[Tensor]], Any]] = {
        "rmsprop": lambda params: RMSprop(params, lr=1e-4),
        "rmsprop, started": lambda params: RMSprop(params, lr=1e-4),
        "torch": lambda params: torch.optim.RMSprop(params, lr=1e-4),
    }
    runs = []
    for name, make in contenders.items():
        torch.manual_seed(0)
        model = Language(words)
        runs.append((name, model, make(list(model.parameters()))))
    for _ in range(REPEATS):
        for name, model, optimizer in runs:
            into = times.setdefault(name, {})
            optimizer.zero_grad()
            loss = timed("forward", into, lambda m=model: nn.functional.cross_entropy(m(data), target))
            timed("backward", into, loss.backward)
            native.kernel.use_own_threads(name.endswith("started"))  # type: ignore[union-attr]
            timed("step", into, optimizer.step)
    native.kernel.use_own_threads(False)  # type: ignore[union-attr]
    return {name: {part: median(values[3:]) for part, values in into.items()} for name, into in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    as_json = parser.parse_args().json
    found = {"environment": environment(), "small_us": small(), "language_ms": language()}
    if as_json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return
    for name, value in found["small_us"].items():
        print(f"{name:<28} {value:7.2f} µs")
    for name, parts in found["language_ms"].items():
        print(f"{name:<28} " + ", ".join(f"{part} {value:.2f} ms" for part, value in parts.items()))


if __name__ == "__main__":
    main()
