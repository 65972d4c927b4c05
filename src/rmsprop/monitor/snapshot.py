"""What a model, its optimizer and its source of batches are at one moment, to go back to bit for bit.

Tensors, containers and random generators are the same objects afterwards, with the content they had: whoever else
holds one sees what it was. Objects of other kinds are kept as they are, without a look inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Snapshot:
    """The attributes of the modules of `model`, of `optimizer` and of a DataLoader `batches`, as they are now."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any = None) -> None:
        self._back: dict[int, tuple[Any, Callable[[], None]]] = {}  # by id of an object, which is held
        self._loader: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for module in model.modules():
            self._keep(vars(module))
        self._keep([*model.parameters(), *model.buffers()])  # a compiled module has some that are no attributes
        self._keep(vars(optimizer))
        if run := vars(optimizer).get("_run"):  # of rmsprop.torch.RMSprop: rows that lag, counts, the watcher
            self._keep(vars(run))
        for part in _parts(batches):
            for value in vars(part).values():
                self._keep_generator(value)
            if part is not getattr(batches, "dataset", None):
                self._loader.append((vars(part), dict(vars(part))))

    def restore(self) -> None:
        """Go back; may be called more than once."""
        for _, back in self._back.values():
            back()
        for now, then in self._loader:
            _refill(now, then)

    def _keep(self, value: Any) -> None:
        if id(value) in self._back:
            return
        if isinstance(value, Tensor):
            self._back[id(value)] = (value, _tensor(value))
        elif isinstance(value, dict):
            items = dict(value)
            self._back[id(value)] = (value, partial(_refill, value, items))
            self._keep_all(items.values())
        elif isinstance(value, list):
            elements = list(value)
            self._back[id(value)] = (value, lambda: value.__setitem__(slice(None), elements))
            self._keep_all(elements)
        elif isinstance(value, set):
            members = set(value)
            self._back[id(value)] = (value, partial(_refill, value, members))
        elif isinstance(value, tuple):
            self._back[id(value)] = (value, lambda: None)
            self._keep_all(value)
        else:
            self._keep_generator(value)

    def _keep_all(self, values: Any) -> None:
        for value in values:
            self._keep(value)

    def _keep_generator(self, value: Any) -> None:
        if back := _generator(value):
            self._back.setdefault(id(value), (value, back))


def _refill(now: Any, then: Any) -> None:
    now.clear()
    now.update(then)


def _tensor(x: Tensor) -> Callable[[], None]:
    grad = x.grad if x.is_leaf else None
    overlapping = x.layout == torch.strided and any(
        size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)
    )  # nobody can have written into it
    with torch.no_grad():
        content = None if overlapping or x.device.type == "meta" else x.detach().clone()

    def back() -> None:
        if content is not None:
            with torch.no_grad():
                x.copy_(content)
        if x.is_leaf:
            x.grad = grad

    return back


def _generator(value: Any) -> Callable[[], None] | None:
    """Return how to bring a random generator back to where it is, None for what is none."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: (value.set_state(state), None)[1]
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        words = bits.state
        return lambda: setattr(bits, "state", words)
    if isinstance(value, np.random.RandomState):
        numbers = value.get_state()
        return lambda: value.set_state(numbers)
    if isinstance(value, random.Random):
        inner = value.getstate()
        return lambda: value.setstate(inner)
    return None


def _parts(batches: Any) -> list[Any]:
    """Return the objects of a DataLoader whose attributes change while it is read, and its data set."""
    if not isinstance(batches, DataLoader):
        return []
    samplers: list[Any] = [x for x in (batches.sampler, batches.batch_sampler) if x is not None]
    samplers += [x.sampler for x in samplers if hasattr(x, "sampler")]
    return [x for x in (batches, *samplers, batches.dataset) if hasattr(x, "__dict__")]


def generators(batches: DataLoader[Any]) -> list[torch.Generator]:
    """Return torch's generators that a DataLoader and its samplers have of their own."""
    values = [x for part in _parts(batches) if part is not batches.dataset for x in vars(part).values()]
    return [x for x in values if isinstance(x, torch.Generator)]


@contextmanager
def restored(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any = None) -> Iterator[None]:
    """Restore model, optimizer, batches and the global random generators at the end of the block, however it ends.

    The generators are those of torch, on the CPU and the devices of the parameters, of NumPy and of Python.
    """
    before = Snapshot(model, optimizer, batches)
    python, numpy = random.getstate(), np.random.get_state()
    tensors = [*model.parameters(), *model.buffers()]
    devices = {x.device for x in tensors if x.device.type not in ("cpu", "meta")}
    kinds = {device.type for device in devices} or {"cuda"}

    def back() -> None:
        before.restore()
        random.setstate(python)
        np.random.set_state(numpy)

    with torch.random.fork_rng(devices, device_type=kinds.pop()):
        try:
            yield
        finally:
            _finish(back)


def _finish(back: Callable[[], None]) -> None:
    """Call `back`, from its start again when Ctrl-C interrupts it."""
    try:
        back()
    except KeyboardInterrupt:
        back()
        raise
