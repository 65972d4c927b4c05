"""Snapshot of a model, its optimizer and its source of batches, from which a range test restores them bit for bit.

Tensors, arrays, containers and random generators are restored in place, so other references to them stay valid.
Modules, samplers and data sets are searched; objects of other classes are not. `Snapshot.not_restored` names what is
known to be lost.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from rmsprop.torch.private import DataLoaderIterator

DATA_LIMIT = 2**28  # bytes of a DataLoader's Tensors and arrays that are copied; the rest is assumed not to change
_DATA = "batches"
_READ = {f"{_DATA}.{name}" for name in ("dataset", "sampler", "batch_sampler", "batch_sampler.sampler")}
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})  # immutable
_Restore = Callable[[], Any]


class Snapshot:
    """Keeps the current attributes of the modules of `model`, of `optimizer` and of `sources` of batches.

    `not_restored` names what `restore` cannot restore.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, sources: Iterable[Any] = ()) -> None:
        self.not_restored: list[str] = []
        self._kept: dict[int, tuple[Any, _Restore]] = {}  # by id of the object, which the entry keeps alive
        self._room = DATA_LIMIT
        for module in model.modules():
            self._keep_attributes(module, "model")
        self._keep_all([*model.parameters(), *model.buffers()], "model")  # in a compiled module, some are no attributes
        self._keep_optimizer(optimizer)
        for batches in sources:
            self.add(batches)

    def add(self, batches: Any) -> None:
        """Keep the current state of a source of batches, too. A source that is kept already stays as it was."""
        if isinstance(batches, DataLoader | Dataset | Sampler):
            self._keep_attributes(batches, _DATA)
        elif isinstance(batches, DataLoaderIterator):  # it does not expose its DataLoader
            self._give_up(f"generators, sampler and data set of the DataLoader that {_DATA} reads; pass it itself")
        elif not isinstance(batches, Iterator) and getattr(batches, "__dict__", None):
            self._give_up(f"the attributes of {_DATA}, a {type(batches).__name__}, should the reading change them")

    def restore(self) -> None:
        """Restore everything that is kept. May be called more than once."""
        for _, restore in self._kept.values():
            restore()

    def _give_up(self, what: str) -> None:
        if what not in self.not_restored:  # arrays in a list share one name
            self.not_restored.append(what)

    def _keep_optimizer(self, optimizer: Optimizer) -> None:
        self._keep_attributes(optimizer, "optimizer")
        if shared := vars(optimizer).get("step_state"):  # rmsprop.torch.RMSprop: rows that lag, counts, the observer
            self._keep_attributes(shared, "optimizer")

    def _keep_attributes(self, owner: Any, name: str) -> None:
        own = vars(owner)
        if id(own) not in self._kept:
            self._kept[id(own)] = (own, partial(_refill, own, dict(own)))
            for key, value in own.items():
                self._keep(value, f"{name}.{key}")

    def _keep(self, value: Any, name: str) -> None:
        if type(value) in _PLAIN or id(value) in self._kept:
            return
        if isinstance(value, Tensor | np.ndarray):
            if self._fits(value, name):
                self._kept[id(value)] = (value, _tensor(value) if isinstance(value, Tensor) else _array(value))
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                self._keep_all(value.ravel().tolist(), name)
        elif isinstance(value, dict | list | tuple | deque | set | bytearray):
            if not isinstance(value, tuple):
                content = dict(value) if isinstance(value, dict) else list(value)
                self._kept[id(value)] = (value, partial(_refill, value, content))
            if not isinstance(value, set | bytearray):
                self._keep_all(value.values() if isinstance(value, dict) else value, name)
        elif restore := _generator(value):
            self._kept[id(value)] = (value, restore)
        elif hasattr(value, "__dict__") and (name in _READ or isinstance(value, Dataset | Sampler)):
            self._keep_attributes(value, name)
        elif isinstance(value, Optimizer):  # a wrapped optimizer
            self._keep_optimizer(value)
        elif isinstance(value, Iterator) and name != f"{_DATA}._iterator":  # persistent workers' is not read
            self._give_up(f"the position of {name}, which is a {type(value).__name__}")

    def _keep_all(self, values: Iterable[Any], name: str) -> None:
        for value in values:
            self._keep(value, name)

    def _fits(self, x: Tensor | np.ndarray[Any, Any], name: str) -> bool:
        """Return whether to copy `x`: always for a model, up to DATA_LIMIT for a DataLoader."""
        if not name.startswith(_DATA):
            return True
        size = int(x.nbytes) if isinstance(x, np.ndarray) or x.layout == torch.strided else 0  # sparse: small
        if size > self._room:
            self._give_up(f"Tensors or arrays of {name}, {size / 2**20:.0f} MiB, should the reading change them")
            return False
        self._room -= size
        return True


def _refill(now: Any, then: Any) -> None:
    now.clear()
    (now.extend if hasattr(now, "extend") else now.update)(then)


def _array(x: np.ndarray[Any, Any]) -> _Restore:
    if not x.flags.writeable:  # nobody can write into it
        return lambda: None
    return partial(x.__setitem__, ..., x.copy())


def _tensor(x: Tensor) -> _Restore:
    grad = x.grad if x.is_leaf else None
    restore_grad = (lambda: None) if grad is None else _tensor(grad)  # backward adds to it in place
    overlapping = x.layout == torch.strided and any(
        size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)
    )  # torch refuses to write into it in place
    with torch.no_grad():
        content = None if overlapping or x.device.type == "meta" else x.detach().clone()

    def restore() -> None:
        if content is not None and not _same(x, content):
            with torch.no_grad():
                x.copy_(content)
        if x.is_leaf:
            x.grad = grad
            restore_grad()

    return restore


def _same(x: Tensor, content: Tensor) -> bool:
    """Return whether a plain Tensor on the CPU has the bits of its copy.

    An unchanged Tensor must not be written: it may be a read-only memory map of a file.
    """
    if x.layout != torch.strided or x.device.type != "cpu" or x.shape != content.shape or x.dtype != content.dtype:
        return False
    if x.is_quantized or x.is_conj() or x.is_neg() or type(x) not in (Tensor, nn.Parameter):
        return False
    bits = (y.detach().contiguous().view(-1).view(torch.uint8) for y in (x, content))
    return torch.equal(*bits)


def _generator(value: Any) -> _Restore | None:
    """Return a function that restores a random generator, None for anything else."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, np.random.Generator | np.random.BitGenerator):
        bits = value.bit_generator if isinstance(value, np.random.Generator) else value
        words = bits.state
        return lambda: setattr(bits, "state", words)
    if isinstance(value, np.random.RandomState):
        numbers = value.get_state()
        return lambda: value.set_state(numbers)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        inner = value.getstate()
        return lambda: value.setstate(inner)
    return None


def _parts(batches: Any) -> list[Any]:
    """Return a DataLoader and its samplers, none for other sources."""
    if not isinstance(batches, DataLoader):
        return []
    samplers: list[Any] = [x for x in (batches.sampler, batches.batch_sampler) if x is not None]
    samplers += [x.sampler for x in samplers if hasattr(x, "sampler")]
    return [x for x in (batches, *samplers) if hasattr(x, "__dict__")]


def generators(batches: DataLoader[Any]) -> list[torch.Generator]:
    """Return the torch generators that a DataLoader and its samplers hold."""
    values = [x for part in _parts(batches) for x in vars(part).values()]
    return [x for x in values if isinstance(x, torch.Generator)]


@contextmanager
def restored(model: nn.Module, optimizer: Optimizer) -> Iterator[Snapshot]:
    """Restore model, optimizer and the global random generators at the end of the block, even after an error.

    The generators are those of torch (on the CPU and the devices of the parameters), NumPy and Python. The block
    receives the snapshot and may add sources of batches to it.
    """
    before = Snapshot(model, optimizer)
    python, numpy = random.getstate(), np.random.get_state()
    tensors = [*model.parameters(), *model.buffers()]
    devices = {x.device for x in tensors if x.device.type not in ("cpu", "meta")}
    kinds = {device.type for device in devices} or {"cuda"}

    def restore() -> None:
        before.restore()
        random.setstate(python)
        np.random.set_state(numpy)

    with torch.random.fork_rng(devices, device_type=kinds.pop()):
        try:
            yield before
        finally:
            _finish(restore)


def _finish(restore: Callable[[], None]) -> None:
    """Call `restore`, and once more from its start if Ctrl-C interrupts it."""
    try:
        restore()
    except KeyboardInterrupt:
        restore()
        raise
