"""Split data, iterate over batches, and move them to a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
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
    SequentialSampler,
    TensorDataset,
)

from rmsprop.errors import InputError, Received

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"


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


def batches(data: Data, batch_size: int, order: int | None = None) -> Iterator[Any]:
    """Return an iterator over the batches of `data`, shuffled with the seed `order`; None does not shuffle.

    A DataLoader yields its own batches; its samplers and workers are seeded with `order`. An iterable data set is never
    shuffled.
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
    if type(data) is TensorDataset:  # indexed once per batch; a subclass may transform single examples
        sampler = SequentialSampler(data) if order is None else RandomSampler(data, generator=generator)
        loader = DataLoader(
            data, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None, generator=generator
        )
    else:
        loader = DataLoader(data, batch_size, shuffle=order is not None, generator=generator)
    return iter(loader)


def batch_count(data: Data, batch_size: int) -> int:
    """Return the number of batches in one pass over the data."""
    return len(data) if isinstance(data, DataLoader) else -(-len(cast(Sized, data)) // batch_size)


def example_count(batch: Any) -> int:
    """Return the number of examples in a batch: the length of its last tensor, usually the target.

    Values of a dict count in their order.
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    for each in reversed(list(batch.values()) if isinstance(batch, Mapping) else batch):
        if isinstance(each, (Tensor, Mapping, list, tuple)) and len(each):
            return example_count(each)
    return 1


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on `device`, also inside dicts, lists and tuples."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: moved(each, device) for name, each in batch.items()}
    if isinstance(batch, (list, tuple)):
        each = [moved(one, device) for one in batch]
        return type(batch)(*each) if hasattr(batch, "_fields") else type(batch)(each)
    return batch
