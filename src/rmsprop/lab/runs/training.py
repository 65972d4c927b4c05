"""Train a model. The result depends on task, optimizer, seed and options alone, also after an interruption."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.errors import InputError
from rmsprop.lab.data import batches, parts
from rmsprop.lab.runs.schema import ConstantScore, EpochRecord, LossRecord, TrainRecord
from rmsprop.lab.score import Evaluation, Tally
from rmsprop.lab.task import Task, seed_everything
from rmsprop.names import plain_name

MakeOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

SCHEDULES = ("constant", "linear")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LOSSES_PER_EPOCH = 10
_SAMPLE = 1_000_000  # quantiles of a larger layer use evenly spaced elements: at least this many, at most twice as many


class TrainingLoop:
    """A model, its optimizer and the position in the data.

    Parameters
    ----------
    task
        Model, data, loss and score.
    make_optimizer
        Function of the parameters that returns their optimizer.
    seed
        Decides the model's start, and the order of the data in each epoch.
    epochs, batch_size
        None takes the task's value.
    schedule
        "constant", or "linear": the learning rate falls by the same amount every step, to 0 at the end.
    """

    def __init__(
        self,
        task: Task,
        make_optimizer: MakeOptimizer,
        seed: int,
        epochs: int | None = None,
        batch_size: int | None = None,
        schedule: str = "constant",
    ) -> None:
        if schedule not in SCHEDULES:
            raise InputError("schedule", f"one of {', '.join(SCHEDULES)}", schedule, "linear ends with less noise")
        self.task, self.seed, self.score = task, seed, task.score
        self.epochs, self.batch_size = epochs or task.epochs, batch_size or task.batch_size
        seed_everything(seed)
        self.model = task.model()
        self.optimizer = make_optimizer(self.model.parameters())
        self.step, self.epoch, self.batch = 0, 0, 0  # steps executed, epochs finished, batches done in this epoch
        self.diverged = False
        self._losses: list[float] = []  # of the steps since the last record
        self.steps_per_epoch = math.ceil(len(task.train) / self.batch_size)  # type: ignore[arg-type]
        self._every = max(1, self.steps_per_epoch // _LOSSES_PER_EPOCH)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 - step / self.total_steps if schedule == "linear" else 1.0
        )

    @property
    def total_steps(self) -> int:
        """Number of steps in the whole training."""
        return self.epochs * self.steps_per_epoch

    def run(self) -> Iterator[list[TrainRecord]]:
        """Train to the end. After every step, yield the new records; a step may have none.

        A LossRecord comes about ten times an epoch. An EpochRecord comes at the end of each epoch, and once before the
        first step. Training stops early, with `diverged` set, when a loss is not finite. State may be saved after each
        step.
        """
        if self.step == 0:
            yield [self._epoch_record([], [], 0.0)]
        while self.epoch < self.epochs and not self.diverged:
            yield from self._run_epoch()

    def _run_epoch(self) -> Iterator[list[TrainRecord]]:
        start, skip = time.perf_counter(), self.batch
        whole, inside = [], []
        random_state = _random_state()
        iterator = batches(self.task.train, self.batch_size, order=order_of(self.seed, self.epoch))
        for _ in range(skip):
            next(iterator)
        if skip:
            _set_random_state(random_state)  # the skipped batches drew random numbers before the interruption
        self.model.train()
        began = time.perf_counter()
        for batch in iterator:
            inputs, target = parts(batch)
            self.optimizer.zero_grad()
            loss = self.task.loss(self.model(*inputs), target)
            loss.backward()  # type: ignore[no-untyped-call]
            before = time.perf_counter()
            self.optimizer.step()
            ended = time.perf_counter()
            self.scheduler.step()
            whole.append(ended - began)
            inside.append(ended - before)
            self.step += 1
            self.batch += 1
            self._losses.append(loss.item() / (self._examples(self.batch - 1) if self.score.loss_is_sum else 1))
            records: list[TrainRecord] = []
            self.diverged = not math.isfinite(self._losses[-1])
            last = self.batch == self.steps_per_epoch
            if self.diverged or last or self.step % self._every == 0:
                records.append(self._loss_record())
                self._losses = []
            if last and not self.diverged:
                self.epoch, self.batch = self.epoch + 1, 0
                records.append(self._epoch_record(whole, inside, time.perf_counter() - start))
            yield records
            if self.diverged:
                return
            began = time.perf_counter()

    def _position(self) -> float:
        return self.epoch + self.batch / self.steps_per_epoch

    def _examples(self, batch: int) -> int:
        """Return the number of examples in the training batch of this index; the last batch may be smaller."""
        return min(self.batch_size, len(self.task.train) - batch * self.batch_size)  # type: ignore[arg-type]

    def _loss_record(self) -> LossRecord:
        mean = sum(self._losses) / len(self._losses)
        record: LossRecord = {"kind": "loss", "step": self.step, "epoch": self._position(), "loss": mean}
        if len(self._losses) == self.step:
            record["first_loss"] = self._losses[0]
        return record

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
        if self.step == 0:
            record["constant"] = cast(ConstantScore, found.constant._asdict())
        return record

    @torch.no_grad()
    def evaluate(self, part: str) -> Evaluation:
        """Return mean loss and score over the task's "validation" or "test" data."""
        self.model.eval()
        data = getattr(self.task, part)
        size = 1024 if type(data) is TensorDataset else self.batch_size
        tally, left = Tally(self.task.loss, self.task.metric, self.score), len(data)
        for batch in batches(data, size):
            inputs, target = parts(batch)
            tally.add(self.model(*inputs), target, min(size, left))
            left -= size
        return tally.result()

    def effective_lr(self) -> dict[str, list[float | None]]:
        """Return the `QUANTILES` of each layer's effective learning rates; empty if the optimizer has none."""
        measure: Callable[[Tensor], Tensor] | None = getattr(self.optimizer, "effective_lr", None)
        if measure is None:
            return {}
        layers: dict[str, list[float | None]] = {}
        for name, p in self.model.named_parameters():
            if self.optimizer.state.get(p) and p.numel():
                rates = measure(p).flatten()
                rates = rates[:: max(1, len(rates) // _SAMPLE)].double()
                # NumPy, since torch.quantile sorts all elements. Interpolation between infinities is invalid.
                with np.errstate(invalid="ignore"):
                    layers[plain_name(name)] = np.quantile(rates.numpy(), QUANTILES).tolist()
        return layers

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `run` goes on bit for bit: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch, "_last_lr": self.scheduler.get_last_lr()},
            "position": [self.step, self.epoch, self.batch],
            "diverged": self.diverged,
            "losses": self._losses,
            "random": _random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **state["scheduler"]})
        self.step, self.epoch, self.batch = state["position"]
        self.diverged, self._losses = state["diverged"], list(state["losses"])
        _set_random_state(state["random"])


def order_of(seed: int, epoch: int) -> int:
    """Return the seed of the data's order in one epoch. It is the same for every optimizer."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
