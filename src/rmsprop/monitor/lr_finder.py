"""A learning-rate range test that knows of the optimizer's state, and leaves no trace.

    1  steps with a rate of 0 let v and m know the gradients: without them the first steps are up to 1/√(1−β) too large
    2  the rate rises by a constant factor a step; the loss after each step is recorded
    3  the same from the same state, with other orders of the data
    4  everything is put back, bit for bit, however the test ends

`rmsprop.monitor.lr_curve` says what the losses mean. Source of the range test: Smith, arXiv:1506.01186 (2015).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rmsprop.errors import InputError, Received, check_count, check_number
from rmsprop.monitor import lr_curve
from rmsprop.monitor.snapshot import Snapshot, generators, restored

Batches: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
Listener: TypeAlias = Callable[[int, int], None]

WARM_LIMIT = 500
STOP = 4.0  # a seed ends when its loss is this many times its lowest
_TOGETHER = 5  # losses whose median is compared with that, so that one bad batch ends nothing


@dataclasses.dataclass(frozen=True)
class Found:
    """What the test found; `str()` says it.

    Parameters
    ----------
    lr
        The suggestion, None if the curve is unclear: for the group with the largest rate.
    lrs
        The same for every parameter group, in the proportions that the groups had.
    reason
        Why, in words.
    notes
        What is to be known of the test besides.
    rates, losses
        The rates, and for each seed the loss after a step with each, as far as it came.
    curve
        Smoothed (see `lr_curve`): rates, middle, low, high.
    warm_steps
        Steps that were made with a rate of 0.
    facts
        Numbers behind the reason: where the loss is lowest for each seed, the fall, the scatter, the band.
    """

    lr: float | None
    lrs: list[float] | None
    reason: str
    notes: list[str]
    rates: list[float]
    losses: list[list[float]]
    curve: lr_curve.Curve
    warm_steps: int
    facts: dict[str, Any]

    def __str__(self) -> str:
        head = "no suggestion" if self.lr is None else f"suggested lr: {self.lr:g}"
        return "\n".join([f"{head}; {self.reason}", *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "curve": {k: x.tolist() for k, x in self.curve._asdict().items()}}


def find_lr(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Batches,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    seeds: int = 3,
    warm: int | None = None,
    listen: Listener = lambda _done, _total: None,
) -> Found:
    """Return a suggestion for the learning rate of `optimizer`; nothing else is changed.

    Parameters
    ----------
    model
        Trained from where it is now, in training mode.
    optimizer
        Any of torch's; its parameters, groups, hooks and state are used as they are. Clipping belongs in a hook:
        `optimizer.register_step_pre_hook`. Rates may be floats or Tensors. With several groups the rate meant is that
        of the group with the largest, and the others keep their proportion (of `initial_lr`, if a scheduler has set
        one).
    loss
        (model, batch) → mean loss of the batch, one element.
    batches
        A DataLoader or other collection, read anew for every seed; or a function: number of the seed → batches.
    lowest, highest, steps
        The rate rises from the one to the other in so many steps, each by the same factor. A seed ends before when its
        loss (the median of the last 5) is above 4 times its lowest, or not finite.
    seeds
        Repetitions from the same start, with other orders of the data: the global generators, and those of a
        DataLoader, are seeded with 1, 2, …
    warm
        Steps with a rate of 0 before; None: 2/(1−β), at most 500, less those that the optimizer has made already.
    listen
        Called after every step with the number of steps done and the number that there will be at most.

    Returns
    -------
    Found
        The suggestion or why there is none, and the curves.

    Raises
    ------
    InputError
        For arguments out of range, for batches that can be read only once, a loss without gradient or that is not
        finite before the first step, and parameters that have no shape yet.

    Notes
    -----
    Put back bit for bit, also after an error or Ctrl-C: parameters, buffers, gradients, and every other Tensor, number
    or container among the modules' attributes; training mode; the optimizer's state, groups and attributes; the
    generators of torch (on the CPU and the devices of the parameters), NumPy and Python; generators, samplers and
    position of a DataLoader. What hooks, or data sets of their own make, change elsewhere is not. Schedulers are not
    asked. A `Monitor` sees none of the steps. The copies take as much memory as model and state do, twice.

    Other finders begin with an empty v, set all groups to one rate, smooth with an average that lags, run one seed and
    always have an answer; see docs/lr-finder.md.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.monitor.lr_finder import find_lr
    >>> from rmsprop.torch import RMSprop
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(512, 20)
    >>> data = torch.utils.data.TensorDataset(x, x.sum(dim=1).sign())
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    >>> optimizer = RMSprop(model.parameters(), lr=0.01, alpha=0.9)
    >>> def loss(model, batch):
    ...     inputs, target = batch
    ...     return (model(inputs).squeeze(1) - target).square().mean()
    >>> found = find_lr(model, optimizer, loss, torch.utils.data.DataLoader(data, 32, shuffle=True))
    >>> 0.001 < found.lr < 0.03
    True
    """
    low = check_number("lowest", lowest, "1e-6 is usual")
    high = check_number("highest", highest, "1 is usual")
    if not 0 < low * 10 <= high:
        raise InputError("highest", "at least 10 times lowest, which is above 0", high, "1e-6 to 1 is usual")
    check_count("steps", steps, "100 is usual", least=20)
    check_count("seeds", seeds, "3 is usual")
    if isinstance(batches, Iterator) or not (isinstance(batches, Iterable) or callable(batches)):
        found = Received(f"a {type(batches).__name__}")
        remedy = "pass the DataLoader itself, or lambda seed: an_iterator"
        raise InputError("batches", "a collection that can be read again, or a function of a seed", found, remedy)
    lazy = [name for name, p in model.named_parameters() if torch.nn.parameter.is_lazy(p)]
    if lazy:
        raise InputError("model", "initialized", Received(f"{lazy[0]} without a shape"), "run one batch through it")
    if warm is not None:
        check_count("warm", warm, "leave warm out for 2/(1−β)", least=0)
    rates = np.geomspace(low, high, steps)
    wanted = _warm_steps(optimizer)
    warm = min(wanted, WARM_LIMIT) if warm is None else warm
    with restored(model, optimizer, batches):
        test = _Test(model, optimizer, loss, batches, lambda done: listen(done, warm + seeds * (steps + 1)))
        test.warm(warm)
        start = Snapshot(model, optimizer, batches)
        losses = []
        for seed in range(1, seeds + 1):
            start.restore()
            losses.append(test.rise(rates, seed))
    verdict = lr_curve.judge(rates, losses)
    return Found(
        lr=verdict.lr,
        lrs=None if verdict.lr is None else [verdict.lr * share for share in test.shares],
        reason=verdict.reason,
        notes=_notes(wanted, warm, losses),
        rates=rates.tolist(),
        losses=losses,
        curve=lr_curve.curve(rates, losses),
        warm_steps=warm,
        facts=verdict.facts,
    )


class _Test:
    """The steps of one test."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[nn.Module, Any], Tensor],
        batches: Batches,
        listen: Callable[[int], None],
    ) -> None:
        self._model, self._optimizer, self._loss, self._listen = model, optimizer, loss, listen
        self._batches = batches
        self._done = 0
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self.shares = _shares(optimizer.param_groups)
        for p in [*model.parameters(), *self._params]:
            p.grad = None
        if run := vars(optimizer).get("_run"):  # of rmsprop.torch.RMSprop
            run.watcher = None
        model.train()

    def warm(self, steps: int) -> None:
        """Let the averages know the gradients."""
        batches = self._order(0)
        self._set(0.0)
        for _ in range(steps):
            _finite(self._backward(next(batches)))
            self._step()

    def rise(self, rates: NDArray[np.float64], seed: int) -> list[float]:
        """Return the loss after a step with each of `rates`, as far as it is finite and not out of hand."""
        batches = self._order(seed)
        losses: list[float] = []
        best = math.inf
        for rate in (*rates.tolist(), 0.0):  # a loss is that of the parameters before its step
            self._set(rate)
            value = self._backward(next(batches))
            if losses and not math.isfinite(value):
                break
            losses.append(_finite(value))
            recent = median(losses[-_TOGETHER:])
            best = min(best, recent)
            if 0 < STOP * best < recent:
                break
            self._step()
        return losses[1:]

    def _order(self, seed: int) -> Iterator[Any]:
        """Return endless batches in the order of `seed`."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        batches: Any = self._batches
        if isinstance(batches, DataLoader):
            for generator in generators(batches):
                generator.manual_seed(seed)
            batches = copy.copy(batches)
            batches._iterator = None  # that of persistent workers, which may be in use
        elif not isinstance(batches, Iterable):
            batches = batches(seed)
        while True:
            empty = True
            for batch in batches:
                empty = False
                yield batch
            if empty:
                raise InputError("batches", "at least one batch, and as many when read again", Received("none"), _MORE)

    def _set(self, rate: float) -> None:
        for group, share in zip(self._optimizer.param_groups, self.shares, strict=True):
            if isinstance(group["lr"], Tensor):
                with torch.no_grad():
                    group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share

    def _backward(self, batch: Any) -> float:
        self._optimizer.zero_grad()
        value = self._loss(self._model, batch)
        if not (isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad):
            found = Received(f"a {type(value).__name__}")
            raise InputError("loss", "a function that returns a one-element Tensor with a gradient", found, _LOSS)
        number = value.item()
        if math.isfinite(number):
            value.backward()  # type: ignore[no-untyped-call]
        return float(number)

    def _step(self) -> None:
        self._optimizer.step()
        self._done += 1
        self._listen(self._done)


_MORE = "a generator is read once: return a new iterator, or an endless one"
_LOSS = "return the mean loss of the batch: lambda model, batch: criterion(model(batch[0]), batch[1])"


def _shares(groups: list[dict[str, Any]]) -> list[float]:
    """Return each group's part of the largest rate; all are equal if no group has one."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    return [rate / max(rates) for rate in rates] if max(rates) > 0 else [1.0] * len(rates)


def _warm_steps(optimizer: torch.optim.Optimizer) -> int:
    """Return how many steps the averages lack until they know the gradients: 2/(1−β) in all, for the slowest."""
    lacking = 0
    for group in optimizer.param_groups:
        decay = group.get("alpha", (group.get("betas") or (0.0,))[-1])
        needed = round(2 / (1 - float(decay))) if 0 < decay < 1 else 0
        for p in group["params"]:
            made = float(optimizer.state[p].get("step", 0)) if p in optimizer.state else 0.0
            lacking = max(lacking, needed - int(made)) if p.requires_grad else lacking
    return lacking


def _finite(loss: float) -> float:
    if math.isfinite(loss):
        return loss
    raise InputError("loss", "finite before the rate rises", loss, "look for bad data or parameters first")


def _notes(wanted: int, warm: int, losses: list[list[float]]) -> list[str]:
    notes = []
    if warm < wanted:
        notes.append(
            f"the averages have seen {warm} of the {wanted} steps, 2/(1−β), that they need to forget their start: the "
            "first steps are larger than those of a long training"
        )
    if len(losses) == 1:
        notes.append("one seed says nothing of how far seeds differ")
    elif all(own == losses[0] for own in losses[1:]):
        notes.append("all seeds gave the same losses, since the order of the batches never changed: the band is empty")
    return notes
