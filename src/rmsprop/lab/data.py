"""Split data, and iterate over batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset

from rmsprop.errors import InputError, Received


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
        remedy = "yield (input, target); each may be a dict"
        raise InputError("an example of the data", "a tuple or list, inputs first and target last", found, remedy)
    return list(batch[:-1]), batch[-1]


def batches(data: Dataset[Any], batch_size: int, order: int | None = None) -> Iterator[Any]:
    """Return an iterator over the batches of `data`, shuffled with the seed `order`; None does not shuffle."""
    generator = torch.Generator().manual_seed(order or 0)
    if type(data) is TensorDataset:  # indexed once per batch; a subclass may transform single examples
        sampler = SequentialSampler(data) if order is None else RandomSampler(data, generator=generator)
        loader = DataLoader(
            data, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None, generator=generator
        )
    else:
        loader = DataLoader(data, batch_size, shuffle=order is not None, generator=generator)
    return iter(loader)
