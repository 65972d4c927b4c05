"""Train a model. The result depends on task, setup, seed and options alone, also after an interruption."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rmsprop.errors import InputError, Received
from rmsprop.lab.compute import Compute
from rmsprop.lab.data import example_count, may_move, moved
from rmsprop.lab.processes import Processes
from rmsprop.lab.random_state import random_state, seed_everything, set_random_state
from rmsprop.lab.runs.effective_rates import effective_rates
from rmsprop.lab.runs.recent_losses import RecentLosses
from rmsprop.lab.runs.schema import ConstantScore, EpochRecord, TrainRecord
from rmsprop.lab.runs.selection import Best, Selection
from rmsprop.lab.runs.shared_batches import SharedBatches, check_shareable, shared_model
from rmsprop.lab.score import Evaluation
from rmsprop.lab.setup import RunLength, Setup
from rmsprop.lab.sharding import gathered, gathered_state, load_model, load_optimizer, reshard
from rmsprop.lab.task import Task
from rmsprop.torch.distributed import local_shard

_LOSSES_PER_EPOCH = 10


class TrainingLoop:
    """A model, its optimizer and the position in the data.

    Parameters
    ----------
    task
        Model, data, loss and score.
    setup
        Function of the model and the run's length that returns optimizer, schedule and what else a recipe has.
    seed
        Decides the model's start, and the order of the data in each epoch.
    epochs, batch_size
        None takes the task's value.
    compute, selection
        Where and how precisely to compute; what to evaluate and keep.
    processes
        The processes that share the training. Each computes a share of every batch, and has a replica of the model.
    sharded
        Spread the model over the processes instead, with FSDP2.
    """

    def __init__(
        self,
        task: Task,
        setup: Setup,
        seed: int,
        epochs: int | None = None,
        batch_size: int | None = None,
        compute: Compute | None = None,
        selection: Selection | None = None,
        processes: Processes | None = None,
        *,
        sharded: bool = False,
    ) -> None:
        self.task, self.seed, self.score = task, seed, task.score
        self.compute, self.selection = compute or Compute(), selection or Selection()
        self.epochs, self.batch_size = epochs or task.epochs, batch_size or task.batch_size
        self.processes = processes or Processes()
        check_shareable(task, self.batch_size, self.processes)
        seed_everything(seed)
        self._sharded = sharded
        model = task.model().to(self.compute.device)
        self.model = shared_model(task, model, self.compute.device, self.processes, sharded=sharded)
        self.steps_per_epoch = task.steps_per_epoch(self.batch_size)
        self.recipe = setup(self.model, RunLength(self.steps_per_epoch, self.total_steps, self._examples_of_a_step()))
        self.optimizer, self.scheduler = self.recipe.optimizer, self.recipe.scheduler
        self._scaler = self.compute.scaler()
        self._may_move = may_move(self.compute.device)  # asked once: the question takes as long as a layer
        self._call = self.compute.callable_of(self.model)
        self._source = task.source(self.model)
        self._shared = None
        if self.processes.count > 1:
            self._shared = SharedBatches(task, self.batch_size, self._call, self.processes, sharded=sharded)
        self.step, self.epoch, self.batch = 0, 0, 0  # steps executed, epochs finished, batches done in this epoch
        self.diverged = self.stopped = False  # stopped: before the last epoch, for lack of progress
        self._best = Best(self.selection, higher_is_better=self.score.higher_is_better)
        groups = self.optimizer.param_groups
        keeps_weights = all(group.get("nonfinite", "propagate") != "propagate" for group in groups)
        self._losses = RecentLosses(keeps_weights=keeps_weights)
        self._at_epoch_start: dict[str, Any] = {}  # random generators
        self._every = max(1, self.steps_per_epoch // _LOSSES_PER_EPOCH)
        if not self.processes.is_first:
            seed_everything(self._own_seed())  # for dropout and augmentation: examples of another process

    @property
    def total_steps(self) -> int:
        """Number of steps in the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def resumable(self) -> bool:
        """Whether `run` can go on from here: within an epoch, batches that the model itself generates cannot repeat."""
        return not (self.task.generates and self.batch)

    def _examples_of_a_step(self) -> int | None:
        loader = self.task.train
        return loader.batch_size if isinstance(loader, DataLoader) else self.batch_size

    def _own_seed(self) -> int:
        """Return a seed that no other process has, and that another step has not."""
        words = np.random.SeedSequence([self.seed, self.processes.rank, self.step]).generate_state(1, np.uint64)
        return int(words[0] >> 1)

    def run(self) -> Iterator[list[TrainRecord]]:
        """Train to the end. After every step, yield the new records; a step may have none.

        A LossRecord comes about ten times an epoch. An EpochRecord comes with each evaluation, and once before the
        first step. Training stops early, with `diverged` set, when a loss is not finite. If the optimizer skips or
        zeroes gradients that are not finite, it stops when no loss of a whole epoch is finite. State may be saved after
        each step.
        """
        if self.step == 0:
            yield [self._epoch_record([], [], 0.0)]
        while self.epoch < self.epochs and not self.diverged and not self.stopped:
            yield from self._run_epoch()

    def _run_epoch(self) -> Iterator[list[TrainRecord]]:
        start = began = time.perf_counter()
        whole, inside = [], []
        for batch in self._batches():
            loss, seconds = self._train_on(batch)
            whole.append(time.perf_counter() - began)
            inside.append(seconds)
            self.step += 1
            self.batch += 1
            records: list[TrainRecord] = []
            self.diverged = self._losses.add(loss, self.steps_per_epoch)
            last = self.batch == self.steps_per_epoch
            if self.diverged or last or self.step % self._every == 0:
                records.append(self._losses.record(self.step, self._position()))
            if last and not self.diverged:
                self.epoch, self.batch = self.epoch + 1, 0
                if self.epoch % self.selection.evaluate_every == 0 or self.epoch == self.epochs:
                    records.append(self._epoch_record(whole, inside, time.perf_counter() - start))
            yield records
            if self.diverged or last:
                return
            began = time.perf_counter()
        found = Received(f"{self.batch} of {self.steps_per_epoch} batches")
        raise InputError("the training data", "as long as len() says", found, "correct __len__")

    def _batches(self) -> Iterator[Any]:
        """Return the batches of this epoch that are left."""
        order = order_of(self.seed, self.epoch)
        if not self.batch:
            self._at_epoch_start = random_state()
            iterator = self._batches_of(order)
        else:  # the order and the batches before may have drawn from the global generators
            now = random_state()
            set_random_state(self._at_epoch_start)
            iterator = self._batches_of(order)
            for _ in range(self.batch):
                next(iterator)
            set_random_state(now)
        self.model.train()
        return iterator

    def _batches_of(self, order: int) -> Iterator[Any]:
        if self._shared is not None:
            return self._shared.batches(order)
        if self._source is not None:
            return self._source.batches(self.batch_size, order)
        return self.task.batches(self.model, self.batch_size, order)

    def _loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Return the loss to differentiate; and a loss and its divisor, for the mean loss of the batch."""
        if self._may_move:
            batch = moved(batch, self.compute.device)
        if self._shared is not None:
            return *self._shared.loss(batch, self.batch), 1
        output, target = self.task.apply(self._call, batch)
        loss = self.task.loss(output, target)
        if not self.score.loss_is_sum:
            return loss, loss, 1
        return loss, loss, example_count(self.task.train, self.batch_size, self.batch, batch)

    def _train_on(self, batch: Any) -> tuple[float, float]:
        """Execute one step; return the loss, and the seconds spent in the optimizer."""
        recipe, scaler = self.recipe, self._scaler
        if recipe.clamp is not None:
            recipe.clamp(self.task.clamped(self.model))
        self.optimizer.zero_grad()
        with self.compute.autocast():
            loss, shown, divisor = self._loss(batch)
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        if recipe.clip is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            recipe.clip(self.model.parameters())
        began = time.perf_counter()
        executed = True
        if scaler is None:
            self.optimizer.step()
        else:
            scale = scaler.get_scale()
            scaler.step(self.optimizer)
            scaler.update()
            executed = scaler.get_scale() >= scale  # a gradient beyond float16 skips the step and lowers the scale
        ended = time.perf_counter()
        if executed:
            self.scheduler.step()
            if recipe.ema is not None:
                recipe.ema.update_parameters(self.model)
        return shown.item() / divisor, ended - began

    def _position(self) -> float:
        return self.epoch + self.batch / self.steps_per_epoch

    def _epoch_record(self, whole: list[float], inside: list[float], seconds: float) -> EpochRecord:
        found = self.evaluate("validation")
        record: EpochRecord = {
            "kind": "epoch",
            "epoch": self.epoch,
            "step": self.step,
            "validation_loss": found.loss,
            "validation_metric": found.metric,
            "seconds": seconds,
            "step_us": 1e6 * median(whole) if whole else None,
            "optimizer_us": 1e6 * median(inside) if inside else None,
            "effective_lr": self.effective_lr() if self.step else {},
        }
        if found.metrics:
            record["metrics"] = dict(found.metrics)
        if self.step == 0:
            record["constant"] = cast(ConstantScore, found.constant._asdict())
            if self.task.generates:
                record["separate_losses"] = True
        else:
            self.stopped = self._best.add(self.epoch, found.metric, self.evaluated_model)
        return record

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation score."""
        return self._best.epoch

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated: the average of the weights if the recipe has one."""
        return self.model if self.recipe.ema is None else self.recipe.ema.module

    def use_best(self) -> None:
        """Give the evaluated model the weights with the best validation score, if they were kept."""
        if self._best.weights:
            load_model(self.evaluated_model, self._best.weights)

    def evaluate(self, part: str) -> Evaluation:
        """Return mean loss and scores over the task's "validation" or "test" data. Collective.

        Every process evaluates all data; the result is that of rank 0, so that all decide alike.
        """
        found = self.task.evaluate(self.evaluated_model, part, self.batch_size, self.compute)
        if self._sharded:
            reshard(self.model)
        return self.processes.on_first(lambda: found)

    def has_lost_weights(self) -> bool:
        """Return whether a weight is not finite. Collective."""
        finite = all(local_shard(p).isfinite().all() for p in self.model.parameters())
        return self.processes.any(not finite)[0]

    def effective_lr(self) -> dict[str, list[float | None]]:
        """Return quantiles of each layer's effective learning rates; empty if the optimizer has none. Collective."""
        return effective_rates(self.model, self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `run` goes on bit for bit: tensors and plain values. Collective."""
        return {
            "model": gathered(self.model.state_dict()),
            "optimizer": gathered_state(self.optimizer, self.processes),
            "scheduler": {"last_epoch": self.scheduler.last_epoch, "_last_lr": self.scheduler.get_last_lr()},
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "ema": None if self.recipe.ema is None else self.recipe.ema.state_dict(),
            **({} if self._source is None else {"source": self._source.state_dict()}),
            "position": [self.step, self.epoch, self.batch],
            "diverged": self.diverged,
            "stopped": self.stopped,
            "best": [self._best.epoch, self._best.score, gathered(self._best.weights)],
            "losses": self._losses.values,
            "lost": self._losses.lost,
            **self._random_states(),
        }

    def _random_states(self) -> dict[str, Any]:
        """Return the state of the random generators now and at the start of the epoch, on all ranks. Collective."""
        first, *others = self.processes.gathered({"random": random_state(), "epoch_random": self._at_epoch_start})
        return {**first, "other_ranks": others} if others else first

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        load_model(self.model, state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **state["scheduler"]})
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
        if self.recipe.ema is not None:
            self.recipe.ema.load_state_dict(state["ema"])
        if self._source is not None:
            self._source.load_state_dict(state["source"])
        self.step, self.epoch, self.batch = state["position"]
        self.diverged, self.stopped = state["diverged"], state["stopped"]
        self._losses.values, self._losses.lost = list(state["losses"]), state.get("lost", 0)  # none in earlier versions
        self._best.epoch, self._best.score, self._best.weights = state["best"]
        ranks = [state, *state.get("other_ranks", [])]
        if self.processes.rank < len(ranks):
            self._at_epoch_start = ranks[self.processes.rank]["epoch_random"]
            set_random_state(ranks[self.processes.rank]["random"])
        else:  # saved by fewer processes
            seed_everything(self._own_seed())
            self._at_epoch_start = random_state()


def order_of(seed: int, epoch: int) -> int:
    """Return the seed of the data's order in one epoch. It is the same for every optimizer."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
