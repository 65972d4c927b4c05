"""What a model, its optimizer and its source of batches are at one moment, to go back to bit for bit.

Tensors, arrays, containers and random generators are the same objects afterwards, with the content they had: whoever
else holds one sees what it was. Objects of other kinds are kept as they are, without a look inside, except modules,
samplers and data sets. What there is no way back for is named in `Snapshot.left_out`.
"""

from __future__ import annotations

import array
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
from torch.utils.data.dataloader import _BaseDataLoaderIter

DATA_LIMIT = 2**28  # bytes of a DataLoader's Tensors and arrays that are copied; what is beyond is taken for data
_DATA = "batches"
_READ = {f"{_DATA}.{name}" for name in ("dataset", "sampler", "batch_sampler", "batch_sampler.sampler")}
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})  # nothing in these can change
_Back = Callable[[], Any]


class Snapshot:
    """The attributes of the modules of `model`, of `optimizer` and of `sources` of batches, as they are now.

    `left_out` says in words what cannot be brought back.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, sources: Iterable[Any] = ()) -> None:
        self.left_out: list[str] = []
        self._back: dict[int, tuple[Any, _Back]] = {}  # by id of an object, which is held
        self._room = DATA_LIMIT
        for module in model.modules():
            self._keep_attributes(module, "model")
        self._keep_all([*model.parameters(), *model.buffers()], "model")  # a compiled module: some are no attributes
        self._keep_optimizer(optimizer)
        for batches in sources:
            self.add(batches)

    def add(self, batches: Any) -> None:
        """Keep a source of batches, too, as it is now; one that is kept already stays as it was."""
        if isinstance(batches, DataLoader | Dataset | Sampler):
            self._keep_attributes(batches, _DATA)
        elif isinstance(batches, _BaseDataLoaderIter):  # its DataLoader is not to be had from it
            self._leave_out(f"generators, sampler and data set of the DataLoader that {_DATA} reads; pass it itself")
        elif not isinstance(batches, Iterator) and getattr(batches, "__dict__", None):
            self._leave_out(f"the attributes of {_DATA}, a {type(batches).__name__}, should the reading change them")

    def restore(self) -> None:
        """Go back; may be called more than once."""
        for _, back in self._back.values():
            back()

    def _leave_out(self, what: str) -> None:
        if what not in self.left_out:  # a list of arrays has one name
            self.left_out.append(what)

    def _keep_optimizer(self, optimizer: Optimizer) -> None:
        self._keep_attributes(optimizer, "optimizer")
        if shared := vars(optimizer).get("step_state"):  # of rmsprop.torch.RMSprop: rows that lag, counts, the observer
            self._keep_attributes(shared, "optimizer")

    def _keep_attributes(self, owner: Any, name: str) -> None:
        own = vars(owner)
        if id(own) not in self._back:
            self._back[id(own)] = (own, partial(_refill, own, dict(own)))
            for key, value in own.items():
                self._keep(value, f"{name}.{key}")

    def _keep(self, value: Any, name: str) -> None:
        if type(value) in _PLAIN or id(value) in self._back:
            return
        if isinstance(value, Tensor | np.ndarray):
            if self._fits(value, name):
                self._back[id(value)] = (value, _tensor(value) if isinstance(value, Tensor) else _array(value))
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                self._keep_all(value.ravel().tolist(), name)
        elif isinstance(value, dict | list | tuple | deque):
            self._back[id(value)] = (value, _container(value))
            self._keep_all(value.values() if isinstance(value, dict) else value, name)
        elif back := _leaf(value):
            self._back[id(value)] = (value, back)
        elif hasattr(value, "__dict__") and (name in _READ or isinstance(value, Dataset | Sampler)):
            self._keep_attributes(value, name)
        elif isinstance(value, Optimizer):  # one around another
            self._keep_optimizer(value)
        elif isinstance(value, Iterator) and name != f"{_DATA}._iterator":  # that of persistent workers is not read
            self._leave_out(f"the position of {name}, which is a {type(value).__name__}")

    def _keep_all(self, values: Iterable[Any], name: str) -> None:
        for value in values:
            self._keep(value, name)

    def _fits(self, x: Tensor | np.ndarray[Any, Any], name: str) -> bool:
        """Return whether to copy `x`: all of a model, of a DataLoader as much as the limit allows."""
        if not name.startswith(_DATA):
            return True
        size = int(x.nbytes) if isinstance(x, np.ndarray) or x.layout == torch.strided else 0  # sparse: small
        if size > self._room:
            self._leave_out(f"Tensors or arrays of {name}, {size / 2**20:.0f} MiB, should the reading change them")
            return False
        self._room -= size
        return True


def _container(value: Any) -> _Back:
    if isinstance(value, dict):
        return partial(_refill, value, dict(value))
    if isinstance(value, list):
        return partial(value.__setitem__, slice(None), list(value))
    return partial(_refill_deque, value, list(value)) if isinstance(value, deque) else lambda: None


def _leaf(value: Any) -> _Back | None:
    """Return how to bring a set, packed numbers or a random generator back, None for what is none of them."""
    if isinstance(value, set):
        members = set(value)
        return partial(_refill_set, value, members)
    if isinstance(value, bytearray | array.array):
        return partial(value.__setitem__, slice(None), value[:])
    return _generator(value)


def _refill(now: Any, then: Any) -> None:
    now.clear()
    now.update(then)


def _refill_set(now: set[Any], then: set[Any]) -> None:
    if now != then:  # one that is filled anew may have another order
        _refill(now, then)


def _refill_deque(now: deque[Any], then: list[Any]) -> None:
    now.clear()
    now.extend(then)


def _array(x: np.ndarray[Any, Any]) -> _Back:
    if not x.flags.writeable:  # nobody can have written into it
        return lambda: None
    return partial(x.__setitem__, ..., x.copy())


def _tensor(x: Tensor) -> _Back:
    grad = x.grad if x.is_leaf else None
    grad_back = (lambda: None) if grad is None else _tensor(grad)  # backward adds to it in place
    overlapping = x.layout == torch.strided and any(
        size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)
    )  # nobody can have written into it
    with torch.no_grad():
        content = None if overlapping or x.device.type == "meta" else x.detach().clone()

    def back() -> None:
        if content is not None and not _same(x, content):
            with torch.no_grad():
                x.copy_(content)
        if x.is_leaf:
            x.grad = grad
            grad_back()

    return back


def _same(x: Tensor, content: Tensor) -> bool:
    """Return whether a plain Tensor on the CPU has the bits of its copy.

    It is then not written: it may be a file in memory that is only to be read, or a Tensor of inference mode.
    """
    if x.layout != torch.strided or x.device.type != "cpu" or x.shape != content.shape or x.dtype != content.dtype:
        return False
    if x.is_quantized or x.is_conj() or x.is_neg() or type(x) not in (Tensor, nn.Parameter):
        return False
    bits = (y.detach().contiguous().view(-1).view(torch.uint8) for y in (x, content))
    return torch.equal(*bits)


def _generator(value: Any) -> _Back | None:
    """Return how to bring a random generator back to where it is, None for what is none."""
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
    """Return torch's generators that a DataLoader and its samplers have of their own."""
    values = [x for part in _parts(batches) for x in vars(part).values()]
    return [x for x in values if isinstance(x, torch.Generator)]


@contextmanager
def restored(model: nn.Module, optimizer: Optimizer) -> Iterator[Snapshot]:
    """Restore model, optimizer and the global random generators at the end of the block, however it ends.

    The generators are those of torch, on the CPU and the devices of the parameters, of NumPy and of Python. What is
    restored is yielded: sources of batches can be added.
    """
    before = Snapshot(model, optimizer)
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
            yield before
        finally:
            _finish(back)


def _finish(back: Callable[[], None]) -> None:
    """Call `back`, from its start again when Ctrl-C interrupts it."""
    try:
        back()
    except KeyboardInterrupt:
        back()
        raise
