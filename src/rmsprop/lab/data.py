"""Split data, iterate over batches, and move them to a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from rmsprop.errors import InputError, Received

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes computes."""

    rank: int = 0
    count: int = 1

    def of(self, batch: list[int]) -> list[int]:
        """Return this process's part of a batch of indices. Sizes of the parts differ by one at most."""
        return batch[self._start(len(batch), self.rank) : self._start(len(batch), self.rank + 1)]

    def size(self, batch: int) -> int:
        """Return the size of this process's part of a batch of so many examples."""
        return self._start(batch, self.rank + 1) - self._start(batch, self.rank)

    def _start(self, size: int, rank: int) -> int:
        return size * rank // self.count


WHOLE = Share()


def split(inputs: Tensor, labels: Tensor) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Split data into 60 % for training, 20 % for validation and 20 % for testing.

    Labels have the same shares in all three (stratified). The split is the same in every run.
    """
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=0)
    return (
        TensorDataset(inputs[train], labels[train]),
        TensorDataset(inputs[validation], labels[validation]),
        TensorDataset(inputs[test], labels[test]),
    )


def parts(batch: Any) -> tuple[list[Any], Any]:
    """Return the inputs and the target of a batch.

    Raises
    ------
    InputError
        If the batch is no tuple or list of two or more.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        found = Received(
            f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (list, tuple)) else "")
        )
        remedy = "yield (input, target), or give the task forward=, a function of model and batch"
        raise InputError("an example of the data", "a tuple or list, inputs first and target last", found, remedy)
    return list(batch[:-1]), batch[-1]


def batches(data: Data, batch_size: int, order: int | None = None, share: Share = WHOLE) -> Iterator[Any]:
    """Return an iterator over the batches of `data`, shuffled with the seed `order`; None does not shuffle.

    A DataLoader yields its own batches; its samplers and workers are seeded with `order`. An iterable data set is never
    shuffled.

    `share` is the part of each batch to yield, for a data set with indices. Where the part is empty, the first example
    of the batch stands in for it.
    """
    generator = torch.Generator().manual_seed(order or 0)
    if isinstance(data, DataLoader):
        data.generator = generator
        samplers: list[Any] = [data.sampler, getattr(data.batch_sampler, "sampler", None)]
        for each in samplers:
            if hasattr(each, "generator"):
                each.generator = generator
        return iter(data)
    if isinstance(data, IterableDataset):
        return iter(DataLoader(data, batch_size, generator=generator))
    if type(data) is TensorDataset and share.count == 1:  # a subclass may transform single examples
        return _tensor_batches(data, batch_size, generator, shuffled=order is not None)
    sized = cast(Sized, data)
    sampler: Any = SequentialSampler(sized) if order is None else RandomSampler(sized, generator=generator)
    chosen: Any = BatchSampler(sampler, batch_size, drop_last=False)
    if share.count > 1:
        chosen = _Shared(chosen, share)
    if type(data) is TensorDataset:  # indexed once per batch
        loader = DataLoader(data, sampler=chosen, batch_size=None, generator=generator)
    else:
        loader = DataLoader(data, batch_sampler=chosen, generator=generator)
    return iter(loader)


def _tensor_batches(
    data: TensorDataset, batch_size: int, generator: torch.Generator, *, shuffled: bool
) -> Iterator[list[Tensor]]:
    """Yield the batches of torch's DataLoader, in its order, in a tenth of its time: it works with lists of numbers."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # the DataLoader's seed for workers
    count = len(data)
    indices = torch.randperm(count, generator=generator) if shuffled else torch.arange(count)
    for chosen in torch.split(indices, batch_size):
        yield [tensor[chosen] for tensor in data.tensors]


class _Shared(Sampler[list[int]]):
    def __init__(self, whole: BatchSampler, share: Share) -> None:
        self._whole, self._share = whole, share

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._whole:
            yield self._share.of(batch) or batch[:1]

    def __len__(self) -> int:
        return len(self._whole)


def batch_count(data: Data, batch_size: int) -> int:
    """Return the number of batches in one pass over the data."""
    return len(data) if isinstance(data, DataLoader) else -(-len(cast(Sized, data)) // batch_size)


def example_count(data: Data, batch_size: int, index: int, batch: Any) -> int:
    """Return the number of examples in `batch`, the batch of this index in one pass over the data.

    It follows from the length of the data, so the form of a batch does not matter. If a DataLoader has batches of
    several sizes, it is the length of the first tensor in the batch.
    """
    if not isinstance(data, DataLoader):
        return min(batch_size, len(cast(Sized, data)) - index * batch_size)
    if data.batch_size is not None:
        whole = cast(Sized, data.dataset if isinstance(data.dataset, IterableDataset) else data.sampler)
        return min(data.batch_size, len(whole) - index * data.batch_size)
    sizes: list[int] = []
    map_tensors(lambda tensor: sizes.append(len(tensor) if tensor.ndim else 1), batch)
    return sizes[0] if sizes else 1


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return `value` with the result of `function` for each of its tensors, also inside dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(function, each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        each = [map_tensors(function, one) for one in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    return value


def may_move(device: torch.device) -> bool:
    """Return whether a tensor may be elsewhere than on `device`: False if this machine has a CPU only."""
    return device.type != "cpu" or torch.accelerator.is_available()


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)
