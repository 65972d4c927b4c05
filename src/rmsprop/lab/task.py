"""The `Task`: a model with its data. `load_task` finds one by name or in a file."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import random
import sys
from collections.abc import Callable, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from rmsprop.errors import InputError, Received, check_count, check_flag
from rmsprop.lab.data import batches, parts
from rmsprop.lab.loss_call import observe
from rmsprop.lab.score import Metric, Score, derive, described, is_share
from rmsprop.lab_options import TASKS

_EXAMPLE = "a task is a function without arguments that returns rmsprop.lab.Task(...)"


@dataclass(frozen=True)
class Task:
    """A model with its data, loss and metric.

    A data set yields tuples or lists, inputs first and target last. Each may be a tensor, or a dict, list or tuple of
    tensors. The model is called with the inputs; `loss` and `metric` with the model's output and the target.

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
        Data sets (`torch.utils.data.Dataset` with a length). Learning rates are picked on `validation`. Test data are
        used once per trained model; only `compare` needs them.
    loss
        Function (output, target) → mean (or sum) over the batch, a tensor of one element.
    metric, metric_name, higher_is_better
        Function (output, target) → mean over the batch; its name, by default the function's; its direction. A metric
        called accuracy is a share from 0 to 1; higher is better.
    batch_size, epochs
        Used unless the command line gives other values.

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
    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any] | None = None
    loss: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy
    metric: Metric | None = None
    metric_name: str | None = None
    higher_is_better: bool | None = None
    batch_size: int = 64
    epochs: int = 20

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str) or set(self.name) & set("/\\\0"):
            raise InputError("Task.name", "a non-empty string without slashes", self.name, "give it a short name")
        if not callable(self.model) or isinstance(self.model, nn.Module):
            raise InputError("Task.model", "a function", _kind(self.model), "pass lambda: Model()")
        for name in ("loss", "metric"):
            function = getattr(self, name)
            if not callable(function) and not (name == "metric" and function is None):
                raise InputError(f"Task.{name}", "a function of output and target", _kind(function), "see help(Task)")
        for name in ("metric_name", "higher_is_better"):
            if self.metric is None and getattr(self, name) is not None:
                remedy = "give metric=, or neither: it is derived then from output, target and loss"
                raise InputError(f"Task.{name}", "left out without metric=", getattr(self, name), remedy)
        if self.metric_name is not None and not (isinstance(self.metric_name, str) and self.metric_name.strip()):
            raise InputError("Task.metric_name", "a non-empty string", self.metric_name, "give it a short name")
        for name in ("train", "validation", "test"):
            data = getattr(self, name)
            if data is None and name == "test":
                continue
            if not (isinstance(data, Sized) and hasattr(data, "__getitem__") and len(data)):
                found = Received("an empty one") if isinstance(data, Sized) and not len(data) else _kind(data)
                raise InputError(f"Task.{name}", "a torch Dataset with a length", found, "see TensorDataset")
        if self.higher_is_better is not None:
            check_flag("Task.higher_is_better", self.higher_is_better)
        if self.metric is not None:  # raises InputError if its direction is not known
            described(self.metric, self.metric_name, self.higher_is_better, loss_is_sum=False)
        check_count("Task.batch_size", self.batch_size, "64 is usual")
        check_count("Task.epochs", self.epochs, "try 10")

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
            inputs, target = parts(next(batches(self.validation, size)))
            output, examples = model(*inputs), min(size, len(self.validation))  # type: ignore[arg-type]
            found = derive(self.loss, output, target, examples)
        if self.metric is None:
            return found
        return described(self.metric, self.metric_name, self.higher_is_better, loss_is_sum=found.loss_is_sum)

    def try_out(self, batch_size: int | None = None) -> None:
        """Run one batch of each data set through model, loss and metric, to show mistakes before any training.

        The training batch is the last batch of an epoch, which may be smaller than the others.
        """
        remedy = "try it in Python on one batch"
        state = torch.get_rng_state()
        size = batch_size or self.batch_size
        last = range(len(self.train))[-(len(self.train) % size or size) :]  # type: ignore[arg-type]
        what = "of the validation data"
        losses, metrics = [], []
        try:
            model = self.model()
            if not isinstance(model, nn.Module):
                raise InputError("Task.model()", "a torch.nn.Module", _kind(model), _EXAMPLE)
            if self.model() is model:
                raise InputError("Task.model()", "a new model at every call", Received("the same"), "build it inside")
            if not any(p.requires_grad for p in model.parameters()):
                raise InputError("Task.model()", "a model with parameters to train", _kind(model), remedy)
            model.eval()
            vars(self)["score"] = self._score_of(model, size)
            for name, data in (("validation", self.validation), ("test", self.test)):
                if data is not None:
                    what = f"of the {name} data"
                    inputs, target = parts(next(iter(DataLoader(data, batch_size=min(2, size)))))
                    output = model(*inputs)
                    losses.append(observe(self.loss, output, target)[0])
                    if self.metric is not None:
                        with torch.no_grad():
                            metrics.append(self.metric(output, target))
            what = f"of the last training data, {len(last)} of {len(self.train)}"  # type: ignore[arg-type]
            remedy = f"{remedy}, or use another batch size: the last batch has {len(last)} of {size} examples"
            inputs, target = parts(next(iter(DataLoader(Subset(self.train, last), batch_size=len(last)))))
            model.train()
            observe(self.loss, model(*inputs), target)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            found = Received(f"{type(error).__name__}: {first_line(error)}")
            raise InputError(f"task {self.name}", f"able to run one batch {what}", found, remedy) from error
        finally:
            torch.set_rng_state(state)
        for loss in losses:
            if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
                raise InputError("Task.loss()", "a one-element Tensor with a gradient", _kind(loss), "return its mean")
        for metric in metrics:
            try:
                value = float(metric)
            except (TypeError, ValueError, RuntimeError):
                raise InputError("Task.metric()", "one number", _kind(metric), "return its mean") from None
            if is_share(self.score.name) and not 0 <= value <= 1:
                allowed = f"a share from 0 to 1 where it is called {self.score.name}"
                remedy = "divide by 100 or by the number of examples, or give it another metric_name="
                raise InputError("Task.metric()", allowed, value, remedy)


def seed_everything(seed: int) -> None:
    """Seed the global random generators of torch, NumPy and Python. Models and data may draw from them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_task(spec: str) -> Task:
    """Return the task that `spec` names: a built-in one, or `path/to/file.py:function`.

    The global random generators are seeded with 0 before the file and the function run. A task with random data is
    therefore the same in every process, and when a run is resumed.

    Raises
    ------
    InputError
        If there is no such task, or its file or function fails.
    """
    seed_everything(0)
    if spec in TASKS:
        task = getattr(importlib.import_module(f"rmsprop.lab.tasks.{spec}"), spec)()
        assert isinstance(task, Task)  # noqa: S101
        return task
    path, colon, function = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        close = difflib.get_close_matches(spec, TASKS, n=1)
        allowed = f"one of {', '.join(TASKS)} or path/to/file.py:function"
        raise InputError("task", allowed, spec, f"did you mean {close[0]}?" if close else "see rmsprop train --help")
    module_ = _import_file(Path(path))
    made = getattr(module_, function, None)
    if not callable(made):
        functions = [
            k for k, v in vars(module_).items() if callable(v) and getattr(v, "__module__", "") == module_.__name__
        ]
        found = Received(f"{function!r}; it defines {', '.join(functions) or 'none'}")
        raise InputError(f"the function after {path}:", "one that the file defines", found, _EXAMPLE)
    try:
        task = made()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        found = Received(f"{type(error).__name__}: {first_line(error)}")
        raise InputError(f"task {spec}", "a function that runs without arguments", found, _EXAMPLE) from error
    if not isinstance(task, Task):
        raise InputError(f"what {spec} returns", "a rmsprop.lab.Task", _kind(task), _EXAMPLE)
    return task


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]


def _import_file(path: Path) -> Any:
    try:
        path.read_bytes()
    except OSError as error:
        found = Received(f"{path}: {error.strerror}")
        raise InputError("the task's file", "a readable Python file", found, "check the path") from None
    name = f"rmsprop_task_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    found_spec = importlib.util.spec_from_file_location(name, path)
    assert found_spec is not None  # noqa: S101
    assert found_spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(found_spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as for a script: the file and its functions may import modules beside it
    try:
        found_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        found = Received(f"{type(error).__name__}{line}: {first_line(error)}")
        raise InputError(f"the task's file {path}", "one that Python can import", found, "correct the file") from error
    return module


def _kind(value: object) -> Received:
    article = "an" if type(value).__name__[0] in "aeiouAEIOU" else "a"
    return Received("None" if value is None else f"{article} {type(value).__name__}")
