"""Small tasks without a metric, one for each shape of data, and the evaluation of each by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import TensorDataset

from rmsprop.lab import Task

SIZE, BATCH = 41, 8  # the last batch of each part has one example
By = Callable[[nn.Module, Any], tuple[float, float]]  # model, whole split → loss, score


@dataclass
class Out:
    """An output as libraries return it."""

    logits: Tensor


def _x(part: int, *shape: int) -> Tensor:
    return torch.randn(SIZE, *shape, generator=torch.Generator().manual_seed(part))


def _examples(*columns: Any) -> list[Any]:
    """Return a data set as a list of examples; a dict or tuple of tensors is split into one per example."""

    def pick(value: Any, i: int) -> Any:
        if isinstance(value, dict):
            return {key: pick(each, i) for key, each in value.items()}
        return tuple(pick(each, i) for each in value) if isinstance(value, tuple) else value[i]

    return [tuple(pick(column, i) for column in columns) for i in range(SIZE)]


def _task(name: str, model: Callable[[], nn.Module], part: Callable[[int], Any], loss: Any) -> Task:
    data = [part(i) for i in range(3)]
    return Task(name, model, train=data[0], validation=data[1], test=data[2], loss=loss, batch_size=BATCH, epochs=2)


def _binary_target(x: Tensor) -> Tensor:
    return (x.sum(dim=1, keepdim=True) > 0.5).float()


def binary() -> Task:
    def part(i: int) -> TensorDataset:
        return TensorDataset(_x(i, 3), _binary_target(_x(i, 3)))

    return _task("binary", lambda: nn.Linear(3, 1), part, nn.BCEWithLogitsLoss())


def classes() -> Task:
    """One of three classes, weighted in the loss."""

    def part(i: int) -> TensorDataset:
        return TensorDataset(_x(i, 3), _x(i, 3).argmax(dim=1))

    return _task("classes", lambda: nn.Linear(3, 3), part, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0])))


def labels() -> Task:
    """Three independent labels."""

    def part(i: int) -> TensorDataset:
        return TensorDataset(_x(i, 3), (_x(i, 3) > 0.5).float())

    return _task("labels", lambda: nn.Linear(3, 3), part, F.binary_cross_entropy_with_logits)


def regression() -> Task:
    """A real value; the loss is the sum of squares over the batch."""

    def part(i: int) -> TensorDataset:
        return TensorDataset(_x(i, 3), _x(i, 3).sum(dim=1, keepdim=True))

    return _task("regression", lambda: nn.Linear(3, 1), part, nn.MSELoss(reduction="sum"))


class _Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(x).transpose(1, 2)
        return scores


def sequence() -> Task:
    """A class at each of five positions; positions beyond an example's length are ignored."""

    def part(i: int) -> TensorDataset:
        x = _x(i, 5, 3)
        ignored = torch.arange(5) >= 1 + torch.arange(SIZE)[:, None] % 5
        return TensorDataset(x, x.sum(dim=2).long().clamp(0, 3).masked_fill(ignored, -1))

    return _task("sequence", _Sequence, part, nn.CrossEntropyLoss(ignore_index=-1))


class _Dictionaries(nn.Linear):
    def forward(self, x: Any) -> Any:
        return Out(super().forward(torch.cat([x["a"], x["b"]], dim=1)))


def dictionaries() -> Task:
    """Inputs and targets by name, the output in a dataclass."""

    def part(i: int) -> list[Any]:
        return _examples({"a": _x(i, 1), "b": _x(i, 2)}, {"label": (_x(i, 1) > 0).long()[:, 0], "weight": _x(i)})

    def loss(output: Out, target: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(output.logits, target["label"])

    return _task("dictionaries", lambda: _Dictionaries(3, 2), part, loss)


class _Tuples(nn.Linear):
    def forward(self, a: Tensor, b: Any = ()) -> Any:
        y = super().forward(torch.cat([a, *b], dim=1))
        return y[:, :1], y[:, 1:]


def tuples() -> Task:
    """Two inputs, one of them a pair of tensors, and two targets."""

    def part(i: int) -> list[Any]:
        return _examples(_x(i, 1), (_x(i, 1), _x(i, 1)), (_x(i, 1), (_x(i, 1), _x(i, 2))))

    def loss(output: Any, target: Any) -> Tensor:
        return F.mse_loss(output[0], target[0]) + F.l1_loss(output[1], target[1][0])

    return _task("tuples", lambda: _Tuples(3, 2), part, loss)


def masked() -> Task:
    """The user's own mean over the errors that a mask in the target selects."""

    def part(i: int) -> list[Any]:
        mask = torch.arange(4) <= torch.arange(SIZE)[:, None] % 4
        return _examples(_x(i, 3), {"value": _x(i, 4), "mask": mask.float()})

    def loss(output: Tensor, target: dict[str, Tensor]) -> Tensor:
        return ((output - target["value"]).square() * target["mask"]).sum() / target["mask"].sum()

    return _task("masked", lambda: nn.Linear(3, 4), part, loss)


def left_over() -> Task:
    """A split whose last example is far off and alone in its batch."""

    def part(i: int) -> list[Any]:
        y = _x(i, 3).sum(dim=1, keepdim=True)
        y[-1] = 100.0
        return _examples(_x(i, 3), y)

    return _task("left_over", lambda: nn.Linear(3, 1), part, nn.L1Loss())


def imbalanced() -> Task:
    """One example in twenty is of the other class; the input does not tell which."""

    def part(i: int) -> TensorDataset:
        return TensorDataset(_x(i, 3), (torch.arange(SIZE) % 20 == 0).float())

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(output.sigmoid().squeeze(1), target)

    return _task("imbalanced", lambda: nn.Linear(3, 1), part, loss)


# -- by hand ----------------------------------------------------------------------------------------------------------


def _in_batches(data: Any, loss: Callable[[slice], Tensor]) -> tuple[float, float]:
    """Return the mean over batches, weighted by their number of examples, as loss and as score."""
    sizes = [len(range(SIZE)[first : first + BATCH]) for first in range(0, SIZE, BATCH)]
    losses = [float(loss(slice(first, first + BATCH))) for first in range(0, SIZE, BATCH)]
    mean = sum(size * each for size, each in zip(sizes, losses, strict=True)) / len(data)
    return mean, mean


def _by_binary(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y = data.tensors
    p = torch.sigmoid(model(x))
    loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return float(loss), sum(bool(a > 0.5) == bool(b) for a, b in zip(p, y, strict=True)) / SIZE


def _by_classes(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y = data.tensors
    weights = [(1.0, 2.0, 4.0)[c] for c in y]
    scores = model(x).log_softmax(1)
    loss = sum(-w * float(s[c]) for w, s, c in zip(weights, scores, y, strict=True)) / sum(weights)
    return loss, sum(int(s.argmax()) == int(c) for s, c in zip(scores, y, strict=True)) / SIZE


def _by_labels(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y = data.tensors
    p = torch.sigmoid(model(x))
    loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return float(loss), sum(bool(p[i, j] > 0.5) == bool(y[i, j]) for i in range(SIZE) for j in range(3)) / (3 * SIZE)


def _by_regression(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y = data.tensors
    loss = float(((model(x) - y) ** 2).sum()) / SIZE
    return loss, loss


def _by_sequence(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y = data.tensors
    scores = model(x).log_softmax(1)
    told = [(i, j) for i in range(SIZE) for j in range(5) if y[i, j] >= 0]
    loss = sum(-float(scores[i, y[i, j], j]) for i, j in told) / len(told)
    return loss, sum(int(scores[i, :, j].argmax()) == int(y[i, j]) for i, j in told) / len(told)


def _by_dictionaries(model: nn.Module, data: Any) -> tuple[float, float]:
    rows = [torch.cat([x["a"], x["b"]]) @ model.weight.T + model.bias for x, _ in data]  # type: ignore[operator]
    losses = [-float(row.log_softmax(0)[t["label"]]) for row, (_, t) in zip(rows, data, strict=True)]
    right = [int(row.argmax()) == int(t["label"]) for row, (_, t) in zip(rows, data, strict=True)]
    return sum(losses) / SIZE, sum(right) / SIZE


def _by_tuples(model: nn.Module, data: Any) -> tuple[float, float]:
    total = 0.0
    for a, b, (first, (second, _)) in data:
        y = torch.cat([a, *b]) @ model.weight.T + model.bias  # type: ignore[operator]
        total += float((y[0] - first) ** 2 + (y[1] - second).abs())
    return total / SIZE, total / SIZE


def _by_masked(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y, m = (torch.stack(column) for column in zip(*((x, t["value"], t["mask"]) for x, t in data), strict=True))
    errors = (model(x) - y) ** 2 * m
    return _in_batches(data, lambda rows: errors[rows].sum() / m[rows].sum())


def _by_left_over(model: nn.Module, data: Any) -> tuple[float, float]:
    loss = sum(abs(float(model(x[None])[0, 0] - y[0])) for x, y in data) / SIZE
    return loss, loss


def _by_imbalanced(model: nn.Module, data: Any) -> tuple[float, float]:
    x, y = data.tensors
    p = torch.sigmoid(model(x))[:, 0]
    loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return float(loss), sum(bool(a > 0.5) == bool(b) for a, b in zip(p, y, strict=True)) / SIZE


SHAPES: dict[str, tuple[str, bool, By]] = {  # name of the score, whether higher is better, by hand
    "binary": ("accuracy", True, _by_binary),
    "classes": ("accuracy", True, _by_classes),
    "labels": ("element accuracy", True, _by_labels),
    "regression": ("loss", False, _by_regression),
    "sequence": ("accuracy", True, _by_sequence),
    "dictionaries": ("accuracy", True, _by_dictionaries),
    "tuples": ("loss", False, _by_tuples),
    "masked": ("loss", False, _by_masked),
    "left_over": ("mean absolute error", False, _by_left_over),
    "imbalanced": ("accuracy", True, _by_imbalanced),
}
