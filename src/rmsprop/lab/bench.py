"""`rmsprop bench`: time a step on this machine, and torch's steps beside it.

`timing` says how contenders are measured. The table shows the median ratio over the repeats, unless the machine was
busy before or after a case. The cases here are those on the CPU; `bench_gpu` has those on GPUs.

The contender "memory limit" reads and writes the 20 bytes per element that a plain step must: it reads p, g and v and
writes p and v. A step as Adam also reads and writes b: 28 bytes. Its limit is the same loop over 1.4 times as many
elements. Both do hardly any arithmetic, and use the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rmsprop import native
from rmsprop.environment import environment
from rmsprop.errors import InputError, Received
from rmsprop.lab import bench_gpu, timing
from rmsprop.lab.compute import CPU, Compute
from rmsprop.lab.timing import OURS, POLICY, Case, Step, compiled, measure, rows
from rmsprop.profiles import profile
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Make = Callable[[list[Tensor]], Step]
PLAIN, ADAM = Rule(), profile("adam")
RICH = {"centered": True, "momentum": 0.9, "weight_decay": 1e-4}


def _rmsprop(params: list[Tensor], **options: Any) -> Step:
    return torch.optim.RMSprop(params, **options).step


def _memory_limit(params: list[Tensor], bytes_per_element: int) -> Step:
    size = sum(p.numel() for p in params) * bytes_per_element // 20  # `move` moves 20 bytes per element
    arrays = [torch.zeros(size).numpy() for _ in range(3)]
    threads = torch.get_num_threads()
    return lambda: native.kernel.move(*arrays, threads, native.GRAIN)  # type: ignore[union-attr]


THEIRS: dict[str, Make] = {
    "torch": _rmsprop,
    "torch, foreach": lambda params: _rmsprop(params, foreach=True),
    "torch, compiled": lambda params: compiled(torch.optim.RMSprop(params)),
    "torch, fused Adam": lambda params: torch.optim.Adam(params, fused=True).step,
    "torch, foreach Adam": lambda params: torch.optim.Adam(params, foreach=True).step,
    "torch, compiled Adam": lambda params: compiled(torch.optim.Adam(params)),
    "memory limit": lambda params: _memory_limit(params, 20),
    "memory limit, 28 bytes": lambda params: _memory_limit(params, 28),
}
ADAMS = ("torch, fused Adam", "torch, foreach Adam", "torch, compiled Adam")


def _steps(shapes: Iterable[tuple[int, ...]], theirs: Iterable[str], rule: Rule = PLAIN) -> dict[str, Step]:
    """Return our step of `rule` and the steps of `theirs`. Each has its own parameters; all share the gradients."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]

    def params() -> list[Tensor]:
        copies = [nn.Parameter(p.clone()) for p in start]
        for p, g in zip(copies, gradients, strict=True):
            p.grad = g
        return list(copies)

    return {OURS: RMSprop.from_rule(params(), rule).step, **{name: THEIRS[name](params()) for name in theirs}}


def _large(scale: float) -> dict[str, Step]:
    return _steps([(int(1e8 * scale),)], ("torch", "torch, foreach", "torch, compiled", "memory limit"))


def _rich(scale: float) -> dict[str, Step]:
    size = int(1e8 * scale)
    p, g = torch.randn(size), torch.randn(size)
    q = p.clone()
    p.grad = q.grad = g
    return {OURS: RMSprop([p], **RICH).step, "torch, foreach": _rmsprop([q], foreach=True, **RICH)}  # type: ignore[arg-type]


def _many(scale: float) -> dict[str, Step]:
    names = ("torch", "torch, foreach", "torch, fused Adam", "torch, compiled")
    return _steps([(32, 32)] * max(1, int(1000 * scale)), names)


def _policy(scale: float) -> dict[str, Step]:
    return _steps(POLICY, ("torch", "torch, foreach", "torch, fused Adam", "torch, compiled"))


def _large_adam(scale: float) -> dict[str, Step]:
    return _steps([(int(1e8 * scale),)], (*ADAMS, "memory limit, 28 bytes"), ADAM)


def _many_adam(scale: float) -> dict[str, Step]:
    eager = ADAMS[:2]  # torch.compile of 1000 tensors' Adam takes more than eight minutes
    return _steps([(32, 32)] * max(1, int(1000 * scale)), eager, ADAM)


def _policy_adam(scale: float) -> dict[str, Step]:
    return _steps(POLICY, ADAMS, ADAM)


class _Statistics:
    """An observer that requests statistics of every step and ignores them."""

    def __init__(self, level: int) -> None:
        self.levels = level, 0

    def wanted(self) -> tuple[int, int]:
        return self.levels

    def measured(self, *_: Any) -> None:
        pass

    def skipped(self, *_: Any) -> None:
        pass


def _with_statistics(shapes: Iterable[tuple[int, ...]], **options: Any) -> dict[str, Step]:
    """Return our step without and with statistics. Each has its own parameters; all share the gradients."""
    gradients = [torch.randn(shape) for shape in shapes]
    steps = {}
    for name, level in ((OURS, None), ("with sums", 1), ("with sums and histograms", 2)):
        params = [nn.Parameter(torch.randn_like(g)) for g in gradients]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer = RMSprop(params, **options)
        if level is not None:
            optimizer.watch(_Statistics(level))
        steps[name] = optimizer.step
    return steps  # type: ignore[return-value]


def _training(make: Callable[[], nn.Module], data: tuple[Tensor, Tensor]) -> dict[str, Step]:
    """Return a training step (forward, backward, step) with our optimizer and one with torch's."""

    def step_with(optimizer_class: Any) -> Step:
        torch.manual_seed(0)
        model = make()
        optimizer = optimizer_class(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return {OURS: step_with(RMSprop), "torch": step_with(torch.optim.RMSprop)}


def _policy_training(scale: float) -> dict[str, Step]:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    return _training(make, (torch.randn(32, 4), torch.randint(2, (32,))))


class Language(nn.Module):
    """A word-level language model: two LSTM layers of 200 units."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(words, 200), nn.LSTM(200, 200, num_layers=2)
        self.out = nn.Linear(200, words)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each next word, shape (length × batch, words)."""
        return self.out(self.lstm(self.embed(x))[0]).flatten(0, 1)  # type: ignore[no-any-return]


def _language_training(scale: float) -> dict[str, Step]:
    words = max(10, int(1e4 * scale))
    return _training(lambda: Language(words), (torch.randint(words, (20, 20)), torch.randint(words, (400,))))


CASES = {
    "large": Case("one tensor, 100 M elements", _large, 1, 9),
    "rich": Case("the same, centered, momentum, L2", _rich, 1, 9),
    "many": Case("1000 tensors of 32 × 32", _many, 20, 11),
    "policy": Case("policy network: 6 tensors, 4.6 k", _policy, 100, 31),
    "large-adam": Case("as Adam, one tensor, 100 M elements", _large_adam, 1, 9),
    "many-adam": Case("as Adam, 1000 tensors of 32 × 32", _many_adam, 20, 11),
    "policy-adam": Case("as Adam, policy network", _policy_adam, 100, 31),
    "policy-training": Case("training step, policy, batch 32", _policy_training, 50, 31),
    "language-training": Case("training step, LSTM, 10 k words", _language_training, 1, 15),
    "large-statistics": Case("statistics, one tensor, 100 M", lambda s: _with_statistics([(int(1e8 * s),)]), 1, 9),
    "rich-statistics": Case(
        "statistics, the same, centered, momentum, L2", lambda s: _with_statistics([(int(1e8 * s),)], **RICH), 1, 9
    ),
    "many-statistics": Case(
        "statistics, 1000 tensors of 32 × 32", lambda s: _with_statistics([(32, 32)] * max(1, int(1000 * s))), 20, 11
    ),
    "policy-statistics": Case("statistics, policy network", lambda _: _with_statistics(POLICY), 100, 31),
}


def bench(
    names: Iterable[str] = (),
    listen: Callable[[str, int, int], None] = lambda *_: None,
    scale: float = 1.0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure the cases `names`, or all, and return the times as plain values for JSON.

    `listen` is called with the case's title, the repeats done and their total. `scale` multiplies the sizes: small
    ones try out the measurement. `device` is cpu or a GPU, such as cuda or cuda:1.

    Raises
    ------
    InputError
        If a name is no case, the device is not here, or the native kernel is missing, which steps on the CPU.
    """
    chosen, names = Compute.chosen(device, None, compiled=False).device, list(names)
    cases = CASES if chosen == CPU else bench_gpu.cases(chosen)
    if unknown := [name for name in names if name not in cases]:
        raise InputError("a case", f"one of {', '.join(cases)}", unknown[0], "omit it to measure them all")
    facts: dict[str, Any] = {**environment(), "threads": torch.get_num_threads()}
    wait: Callable[[], Any] | None = None
    if chosen != CPU:
        facts |= bench_gpu.facts(chosen)
        wait = partial(torch.cuda.synchronize, chosen)
    elif native.kernel is None:
        raise InputError("the installation", "one with the native kernel", Received("none"), native.missing() or "")
    else:
        facts["kernel"] = native.kernel.instruction_set()
    measured = {}
    for name in names or cases:
        case = cases[name]
        listen(case.title, 0, case.repeats)
        steps = case.contenders(scale)
        before = timing.machine_load()
        seconds = measure(steps, case, listen, wait)
        load = timing.worse(before, timing.machine_load())
        measured[name] = {"title": case.title, "rows": rows(steps, seconds), "load": load}
    return {"environment": facts, "cases": measured}
