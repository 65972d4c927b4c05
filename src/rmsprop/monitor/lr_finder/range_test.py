"""The steps of a learning-rate range test: the warm-up, and the steps of one seed at rising rates."""

from __future__ import annotations

import copy
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

from rmsprop.errors import InputError, Received
from rmsprop.monitor.lr_finder.snapshot import Snapshot, generators
from rmsprop.monitor.lr_finder.warm_start import forget_start

Batches: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]

STOP = 4.0  # a seed ends when its loss is above this many times its lowest
RETURN_LOSS = "return the mean loss of the batch: lambda model, batch: criterion(model(batch[0]), batch[1])"
_TOGETHER = 5  # losses whose median is compared: one bad batch, or a lucky first one, must not end a seed
_MORE = "a generator is read once: return a new iterator, or an endless one"
_GRADIENT = "leave out no_grad and detach, and let parameters require gradients"


class Steps:
    """Executes the steps of one test."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[nn.Module, Any], Tensor],
        ascends: bool,
        batches: Batches,
        before: Snapshot,
        listen: Callable[[int], None],
    ) -> None:
        self._model, self._optimizer, self._loss, self._listen = model, optimizer, loss, listen
        self._sign = -1.0 if ascends else 1.0
        self._batches = batches
        self._snapshots, self._sources = [before], list[Any]()  # sources: the collections read so far
        self._done = 0
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self.shares = _shares(optimizer.param_groups)
        for p in [*model.parameters(), *self._params]:
            p.grad = None
        for group in optimizer.param_groups:
            forget_start(group)
        for own in (optimizer, *vars(optimizer).values()):  # an optimizer may wrap another one
            if isinstance(own, torch.optim.Optimizer) and (shared := vars(own).get("step_state")):
                shared.observer = None  # a Monitor sees none of the steps
        model.train()

    def warm(self, steps: int) -> None:
        """Fill the averages by steps at a rate of 0."""
        batches = self._order(0)
        self._set(0.0)
        for _ in range(steps):
            _finite(self._backward(next(batches)))
            self._step()

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the current state. Sources of batches are added to it when they are first read."""
        self._snapshots.append(Snapshot(self._model, self._optimizer, self._sources))
        return self._snapshots[-1]

    def rise(self, rates: NDArray[np.float64], seed: int) -> list[float]:
        """Return the loss after a step at each of `rates`, up to a loss that is not finite or too high (see STOP)."""
        batches = self._order(seed)
        losses: list[float] = []
        best = math.inf
        for rate in (*rates.tolist(), 0.0):  # a loss is of the parameters before its step: one more is needed
            self._set(rate)
            value = self._sign * self._backward(next(batches))
            if losses and not math.isfinite(value):
                break
            losses.append(_finite(value))
            if len(losses) >= _TOGETHER:
                recent = median(losses[-_TOGETHER:])
                best = min(best, recent)
                if 0 < STOP * best < recent:
                    break
            self._step()
        return losses[1:]

    def _order(self, seed: int) -> Iterator[Any]:
        """Yield batches without end, in the order of `seed`."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        source = self._batches
        batches: Any = source if isinstance(source, Iterable) else source(seed)
        if not isinstance(batches, Iterator):
            self._sources.append(batches)
        for snapshot in self._snapshots:
            snapshot.add(batches)
        remedy = _MORE if isinstance(batches, Iterator) else "pass a collection with batches in it"
        if isinstance(batches, DataLoader):
            remedy = "take more data or a smaller batch_size, or drop_last=False"
            for generator in generators(batches):
                generator.manual_seed(seed)
            batches = copy.copy(batches)
            batches._iterator = None  # the iterator of persistent workers may be in use
        while True:
            empty = True
            for batch in batches:
                empty = False
                yield batch
            if empty:
                raise InputError("batches", "at least one batch, and as many when read again", Received("none"), remedy)

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
            found, remedy = Received(f"a {type(value).__name__}"), RETURN_LOSS
            if isinstance(value, Tensor):
                bare = "" if value.requires_grad else " without a gradient"
                found = Received(f"a Tensor of shape {tuple(value.shape)}{bare}")
                remedy = RETURN_LOSS if value.requires_grad else _GRADIENT
            raise InputError("loss", "a function that returns a one-element Tensor with a gradient", found, remedy)
        number = value.item()
        if math.isfinite(number):
            value.backward()  # type: ignore[no-untyped-call]
        return float(number)

    def _step(self) -> None:
        self._optimizer.step()
        self._done += 1
        self._listen(self._done)


def _shares(groups: list[dict[str, Any]]) -> list[float]:
    """Return each group's rate relative to the largest; 1 for all groups if all rates are 0."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    return [rate / max(rates) for rate in rates] if max(rates) > 0 else [1.0] * len(rates)


def _finite(loss: float) -> float:
    if math.isfinite(loss):
        return loss
    raise InputError("loss", "finite before the rate rises", loss, "look for bad data or parameters first")
