"""Batches of which each process computes a share: the gradient is that of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from rmsprop.errors import InputError, Received
from rmsprop.lab.data import Share, batches
from rmsprop.lab.loss_call import observe
from rmsprop.lab.processes import Processes
from rmsprop.lab.random_state import random_state, set_random_state
from rmsprop.lab.sharding import check_sharded_forward, shard_model
from rmsprop.lab.task import Task


class SharedBatches:
    """The shares of a training's batches that one process computes.

    Each process's loss is scaled so that the average of all gradients, which DDP and FSDP2 compute, is the gradient of
    the whole batch. The scale is that of torch's own mean: the number of elements that the loss does not ignore, with
    their class weights. For your own loss, it is the number of examples. A sum is scaled by the number of processes.

    Parameters
    ----------
    task, batch_size
        What is trained, in batches of so many examples in all processes together.
    call
        The task's model, or its compiled form.
    processes
        The processes that share the batches.
    sharded
        The model is sharded by FSDP2, and needs no DDP.
    """

    def __init__(
        self, task: Task, batch_size: int, call: nn.Module, processes: Processes, *, sharded: bool = False
    ) -> None:
        self._task, self._batch_size, self._processes = task, batch_size, processes
        self._share = Share(processes.rank, processes.count)
        self._examples = len(cast(Sized, task.train))
        self._is_sum = task.score.loss_is_sum
        self._call: nn.Module = BatchLoss(task, call)
        if not sharded:
            unused = _leaves_parameters_out(task)
            self._call = DistributedDataParallel(self._call, find_unused_parameters=unused)

    def batches(self, order: int) -> Iterator[Any]:
        """Return this process's shares of the batches of an epoch, in the order of the seed `order`."""
        return batches(self._task.train, self._batch_size, order, self._share)

    def loss(self, batch: Any, done: int) -> tuple[Tensor, Tensor]:
        """Return the loss to differentiate, and the mean loss of the whole batch. Collective.

        `batch` is a share, on the device of the model; `done` batches of the epoch come before.
        """
        size = min(self._batch_size, self._examples - done * self._batch_size)
        examples = self._share.size(size)  # 0 if `batch` only stands in for an empty share
        loss, weight = self._call(batch, examples)
        found = loss.detach().double()
        if not self._is_sum:
            found = found * weight
        # An average over no element is NaN, and counts for nothing.
        totals = torch.stack([found.masked_fill(weight == 0, 0.0), weight])
        total, whole = self._processes.sum(totals)
        share = (weight > 0) if self._is_sum else weight / whole
        return loss * (share * self._processes.count).to(loss.dtype), total / whole


class BatchLoss(nn.Module):
    """The loss of a batch, and its weight among the shares of the whole batch.

    A module, so that DDP sees every use of the model's parameters: a task's `forward` may call parts of the model.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, batch: Any, examples: int) -> tuple[Tensor, Tensor]:
        """Return loss and weight."""
        output, target = self._task.apply(self.model, batch)
        loss, call = observe(self._task.loss, output, target)
        weight: Any = examples
        if examples and call is not None and not self._task.score.loss_is_sum:
            weight = call.weights.sum() if call.form == "classes" else call.divisor()
        return loss.reshape(()), torch.as_tensor(weight, dtype=torch.float64, device=loss.device)


def _leaves_parameters_out(task: Task) -> bool:
    """Return whether a parameter to train has no part in the loss of the first example."""
    before = random_state()
    try:
        model = task.model().eval()  # in training, a normalization over one example would fail
        loss = observe(task.loss, *task.apply(model, next(batches(task.train, 1))))[0]
        params = [p for p in model.parameters() if p.requires_grad]
        return any(g is None for g in torch.autograd.grad(loss.sum(), params, allow_unused=True))
    finally:
        set_random_state(before)


def check_shareable(task: Task, batch_size: int, processes: Processes) -> None:
    """Raise InputError unless several processes can share every batch of the task's training data."""
    if processes.count == 1:
        return
    what = f"a task for {processes.count} processes"
    if task.generates:
        raise InputError(
            what, "one with a data set to share", Received("one that generates its data"), "train it alone"
        )
    if isinstance(task.train, DataLoader):
        remedy = "pass its data set instead: each process takes its share of every batch"
        raise InputError(what, "one whose Task.train is a data set", Received("a DataLoader"), remedy)
    if isinstance(task.train, IterableDataset):
        remedy = "define __getitem__: each process takes its share of every batch"
        raise InputError(what, "one whose Task.train has indices", Received("an IterableDataset"), remedy)
    if batch_size % processes.count:
        near = max(1, batch_size // processes.count) * processes.count
        raise InputError("--batch-size", f"a multiple of the {processes.count} processes", batch_size, f"try {near}")


def shared_model(
    task: Task, model: nn.Module, device: torch.device, processes: Processes, *, sharded: bool = False
) -> nn.Module:
    """Return a task's model as these processes train it together.

    Batch normalization is over the whole batch. With `sharded`, FSDP2 spreads the model over the processes.

    Raises
    ------
    InputError
        If the model has batch normalization and is on the CPU, or if its task cannot use a sharded model.
    """
    if processes.count > 1:
        model = _normalized_together(model, device)
    if sharded:
        shard_model(model)
        check_sharded_forward(task, model, device)
    return model


def _normalized_together(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with batch normalization over the whole batch, which torch has for GPUs only."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            if device.type != "cuda":
                found = Received(f"{type(module).__name__} in {name or 'the model'}")
                remedy = "train it on GPUs, where torch.nn.SyncBatchNorm takes its place, or in one process"
                raise InputError("a model for several processes", "one without batch normalization", found, remedy)
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return converted
    return model
