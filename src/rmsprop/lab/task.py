"""The `Task`: a model with its data, loss and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from rmsprop.errors import InputError, Received, check_count, check_flag, check_number
from rmsprop.lab.compute import Compute
from rmsprop.lab.data import Data, batch_count, batches, example_count, moved, parts
from rmsprop.lab.loss_call import observe
from rmsprop.lab.score import Evaluation, Metric, Score, Tally, derive, described, is_share
from rmsprop.lab.user_code import described_error


class BatchSource(Protocol):
    """What yields the batches of a training, and keeps what they need from epoch to epoch."""

    def batches(self, batch_size: int, order: int) -> Iterator[Any]:
        """Yield the batches of one epoch, in the order of the seed `order`."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""


EXAMPLE = "a task is a function without arguments that returns rmsprop.lab.Task(...)"


@dataclass(frozen=True)
class Task:
    """A model with its data, loss and metric.

    A data set yields tuples or lists, inputs first and target last. Each may be a tensor, or a dict, list or tuple of
    tensors. The model is called with the inputs; `loss` and `metric` with the model's output and the target. Batches of
    any other form, such as dicts, need `forward`, which calls the model.

    Without a metric, the score is derived from the loss of torch that `loss` calls. `loss` may be a module, a function
    of torch, or your own function around one.

    - `cross_entropy`, `nll_loss` with integer targets: accuracy over the elements that the loss does not ignore.
    - `binary_cross_entropy_with_logits`, `binary_cross_entropy` with targets 0 and 1: accuracy. A logit above 0, or a
      probability above 1/2, predicts 1. If an example has several targets, each counts by itself: element accuracy.
    - Anything else, such as `mse_loss` or a loss of your own: the loss itself; lower is better.

    A loss of torch is averaged over all elements of the split that it does not ignore, with its class weights. A
    derived accuracy counts the same elements, without weights. Your own loss or metric is computed for each batch;
    batches are weighted by their number of examples, whatever you mask. A loss that is a sum over the batch is divided
    by the number of examples.

    Parameters
    ----------
    name
        Short name, used for directories.
    model
        Function that returns a new model, drawn from torch's global random generator.
    train, validation, test
        Data sets (`torch.utils.data.Dataset`) or DataLoaders, with a length. A DataLoader keeps its own batches, order,
        workers and `collate_fn`; its generators are seeded anew in every epoch. An IterableDataset keeps its order.
        Learning rates are picked on `validation`. Test data are used once per trained model; only `compare` needs them.
    loss
        Function (output, target) → mean (or sum) over the batch, a tensor of one element.
    metric, metric_name, higher_is_better
        Function (output, target) → mean over the batch; its name, by default the function's; its direction. A metric
        called accuracy is a share from 0 to 1; higher is better.
    batch_size, epochs
        Used unless the command line gives other values. A DataLoader has its own batch size.
    forward
        Function (model, batch) → (output, target): how the model is called. It may return anything that `loss` takes,
        such as several outputs, or a penalty computed from the model's weights.
    metrics
        Other metrics by name, as `metric`: recorded and reported; they decide nothing.
    clip
        Largest norm of all gradients together. Every training of a comparison has it; `train` has it unless a recipe or
        `clip=` takes its place.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from rmsprop.lab import Task
    >>> x = torch.randn(100, 3)
    >>> data = TensorDataset(x, (x.sum(dim=1) > 0).long())
    >>> task = Task("sums", lambda: torch.nn.Linear(3, 2), train=data, validation=data, test=data)
    """

    name: str
    model: Callable[[], nn.Module]
    train: Data
    validation: Data
    test: Data | None = None
    loss: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy
    metric: Metric | None = None
    metric_name: str | None = None
    higher_is_better: bool | None = None
    batch_size: int = 64
    epochs: int = 20
    forward: Callable[[nn.Module, Any], tuple[Any, Any]] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    clip: float | None = None

    generates: ClassVar[bool] = False  # whether the model itself generates what it learns from, as a policy does

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str) or set(self.name) & set("/\\\0"):
            raise InputError("Task.name", "a non-empty string without slashes", self.name, "give it a short name")
        if not callable(self.model) or isinstance(self.model, nn.Module):
            raise InputError("Task.model", "a function", kind_of(self.model), "pass lambda: Model()")
        for name in ("loss", "metric", "forward"):
            function = getattr(self, name)
            if not callable(function) and not (name != "loss" and function is None):
                of = "model and batch" if name == "forward" else "output and target"
                raise InputError(f"Task.{name}", f"a function of {of}", kind_of(function), "see help(Task)")
        if not isinstance(self.metrics, Mapping) or not all(map(callable, self.metrics.values())):
            raise InputError("Task.metrics", "a dict of functions by name", kind_of(self.metrics), "see help(Task)")
        for name in ("metric_name", "higher_is_better"):
            if self.metric is None and getattr(self, name) is not None:
                remedy = "give metric=, or neither: it is derived then from output, target and loss"
                raise InputError(f"Task.{name}", "omitted without metric=", getattr(self, name), remedy)
        if self.metric_name is not None and not (isinstance(self.metric_name, str) and self.metric_name.strip()):
            raise InputError("Task.metric_name", "a non-empty string", self.metric_name, "give it a short name")
        for name in ("train", "validation", "test"):
            data = getattr(self, name)
            if data is None and name == "test":
                continue
            self._check_data(f"Task.{name}", data)
        if self.higher_is_better is not None:
            check_flag("Task.higher_is_better", self.higher_is_better)
        if self.metric is not None:  # raises InputError if its direction is not known
            described(self.metric, self.metric_name, self.higher_is_better, loss_is_sum=False)
        if self.clip is not None and not check_number("Task.clip", self.clip, "None clips nothing"):
            raise InputError("Task.clip", "a number above 0", self.clip, "None clips nothing")
        check_count("Task.batch_size", self.batch_size, "64 is usual")
        check_count("Task.epochs", self.epochs, "try 10")

    @staticmethod
    def _check_data(name: str, data: Any) -> None:
        allowed = "a torch Dataset or DataLoader with a length"
        known = isinstance(data, (IterableDataset, DataLoader)) or hasattr(data, "__getitem__")
        try:
            length = len(data) if known else None
        except TypeError:
            length = None
        if length is None:
            remedy = "define __len__: its number of examples" if known else "see TensorDataset"
            raise InputError(name, allowed, Received("one without a length") if known else kind_of(data), remedy)
        if not length:
            raise InputError(name, allowed, Received("an empty one"), "see TensorDataset")

    @cached_property
    def score(self) -> Score:
        """The score of trained models. Runs a new model on the first batch of the validation data, once."""
        state = torch.get_rng_state()
        try:
            return self._score_of(self.model().eval(), self.batch_size)
        finally:
            torch.set_rng_state(state)

    def _score_of(self, model: nn.Module, size: int) -> Score:
        with torch.no_grad():
            batch = next(batches(self.validation, size))
            output, target = self.apply(model, batch)
            found = derive(self.loss, output, target, example_count(self.validation, size, 0, batch))
        if self.metric is None:
            return found
        return described(self.metric, self.metric_name, self.higher_is_better, loss_is_sum=found.loss_is_sum)

    def apply(self, model: Any, batch: Any) -> tuple[Any, Any]:
        """Call the model on a batch; return its output and the target."""
        if self.forward is not None:
            found = self.forward(model, batch)
            if not isinstance(found, tuple) or len(found) != 2:
                allowed = "a pair: output and target"
                raise InputError("Task.forward()", allowed, kind_of(found), "return output, target")
            return found
        inputs, target = parts(batch)
        return model(*inputs), target

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of training batches in an epoch."""
        return batch_count(self.train, batch_size)

    def batches(self, model: nn.Module, batch_size: int, order: int) -> Iterator[Any]:
        """Return the training batches of one epoch, in the order of the seed `order`."""
        return batches(self.train, batch_size, order=order)

    def source(self, model: nn.Module) -> BatchSource | None:
        """Return the source of a training's batches if they need more than model, batch size and order; else None."""
        return None

    def clamped(self, model: nn.Module) -> Iterable[Tensor]:
        """Return the parameters that a recipe with a weight clamp bounds."""
        return model.parameters()

    def picture(self, model: nn.Module) -> str | None:
        """Return an SVG of what the trained model generates, for the report; None if it generates nothing to see."""
        return None

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, batch_size: int, compute: Compute) -> Evaluation:
        """Return mean loss and scores of the model over the "validation" or "test" data."""
        model.eval()
        tally = Tally(self.loss, self.metric, self.score, self.metrics)
        data = getattr(self, part)
        for index, batch in enumerate(batches(data, batch_size)):
            with compute.autocast():
                output, target = self.apply(model, moved(batch, compute.device))
                tally.add(output, target, example_count(data, batch_size, index, batch))
        return tally.result()

    def try_out(self, batch_size: int | None = None) -> None:
        """Run one batch of each data set through model, loss and metric, to show mistakes before any training.

        The training batch is the last batch of an epoch, which may be smaller than the others.
        """
        remedy = "try it in Python on one batch"
        state = torch.get_rng_state()
        size = batch_size or self.batch_size
        if batch_size is not None and isinstance(self.train, DataLoader):
            raise InputError("--batch-size", "omitted: the task's DataLoader has its own", batch_size, "set it there")
        what = "of the validation data"
        losses, metrics = [], []
        try:
            model = self._new_model().eval()
            vars(self)["score"] = self._score_of(model, size)
            for name, data in (("validation", self.validation), ("test", self.test)):
                if data is not None:
                    what = f"of the {name} data"
                    output, target = self.apply(model, next(batches(data, min(2, size))))
                    losses.append(observe(self.loss, output, target)[0])
                    with torch.no_grad():
                        metrics += [("metric", self.metric(output, target))] if self.metric else []
                        metrics += [(f"metrics[{key!r}]", of(output, target)) for key, of in self.metrics.items()]
            what, last, count = self._last_batch(size)
            if count is not None:
                remedy = f"{remedy}, or use another batch size: the last batch has {count} of {size} examples"
            model.train()
            observe(self.loss, *self.apply(model, last))
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"task {self.name}", f"able to run one batch {what}", described_error(error), remedy
            ) from error
        finally:
            torch.set_rng_state(state)
        for loss in losses:
            self._check_loss(loss)
        for name, metric in metrics:
            try:
                value = float(metric)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(f"Task.{name}()", "one number", kind_of(metric), "return its mean") from None
            if name == "metric" and is_share(self.score.name) and not 0 <= value <= 1:
                allowed = f"a share from 0 to 1 where it is called {self.score.name}"
                remedy = "divide by 100 or by the number of examples, or give it another metric_name="
                raise InputError("Task.metric()", allowed, value, remedy)

    def _new_model(self) -> nn.Module:
        """Return a new model; raise InputError if it cannot be trained."""
        model = self.model()
        if not isinstance(model, nn.Module):
            raise InputError("Task.model()", "a torch.nn.Module", kind_of(model), EXAMPLE)
        if self.model() is model:
            raise InputError("Task.model()", "a new model at every call", Received("the same"), "build it inside")
        if not any(p.requires_grad for p in model.parameters()):
            allowed, remedy = "a model with parameters to train", "try it in Python on one batch"
            raise InputError("Task.model()", allowed, kind_of(model), remedy)
        return model

    @staticmethod
    def _check_loss(loss: Any) -> None:
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
            raise InputError("Task.loss()", "a one-element Tensor with a gradient", kind_of(loss), "return its mean")

    def _last_batch(self, size: int) -> tuple[str, Any, int | None]:
        """Return what to call a training batch, the batch, and its number of examples if it is the last of an epoch.

        It is the last where that is quick to find.
        """
        data = self.train
        if isinstance(data, (DataLoader, IterableDataset)):
            return "of the training data", next(batches(data, size)), None
        count = len(cast(Sized, data))
        last = range(count)[-(count % size or size) :]
        what = f"of the last training data, {len(last)} of {count}"
        return what, next(iter(DataLoader(Subset(data, last), batch_size=len(last)))), len(last)


def kind_of(value: object) -> Received:
    """Return a value's type with its article."""
    article = "an" if type(value).__name__[0] in "aeiouAEIOU" else "a"
    return Received("None" if value is None else f"{article} {type(value).__name__}")
