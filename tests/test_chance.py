"""The score of the best constant prediction, compared with a search over constants, for each form of target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rmsprop.lab.chance import Constant, no_better
from rmsprop.lab.score import Tally, derive

Loss = Callable[[Any, Any], Tensor]


def constant_of(loss: Loss, output: Tensor, target: Tensor, size: int = 7) -> Constant:
    """Return the best constant of a split in batches of `size`."""
    score = derive(loss, output[:size], target[:size], size)
    tally = Tally(loss, None, score)
    for first in range(0, len(target), size):
        part = target[first : first + size]
        tally.add(output[first : first + size], part, len(part))
    return tally.result().constant


def best(loss: Loss, target: Tensor, shape: tuple[int, ...]) -> float:
    """Return the least loss over the whole split if every example gets the same output of `shape`."""
    constant = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(constant.expand(len(target), *shape), target)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    for _ in range(5):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(loss(constant.detach().expand(len(target), *shape), target))


GENERATOR = torch.Generator().manual_seed(0)
CLASSES = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 60, replacement=True, generator=GENERATOR)
LABELS = (torch.rand(60, 2, generator=GENERATOR) < torch.tensor([0.2, 0.7])).double()
VALUES = torch.randn(61, 2, generator=GENERATOR).double() * torch.tensor([1.0, 5.0])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "target", "shape"),
    [
        (nn.CrossEntropyLoss(), CLASSES, (3,)),
        (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES, (3,)),
        (nn.CrossEntropyLoss(weight=WEIGHTS), CLASSES, (3,)),
        (nn.CrossEntropyLoss(ignore_index=1), CLASSES, (3,)),
        (lambda o, t: F.nll_loss(o.log_softmax(1), t), CLASSES, (3,)),
        (nn.CrossEntropyLoss(), F.one_hot(CLASSES).double() * 0.8 + 0.2 / 3, (3,)),
        (nn.BCEWithLogitsLoss(), LABELS, (2,)),
        (lambda o, t: F.binary_cross_entropy(o.sigmoid(), t), LABELS, (2,)),
        (nn.MSELoss(), VALUES, (2,)),
    ],
)
def test_the_loss_of_the_best_constant(loss: Loss, target: Tensor, shape: tuple[int, ...]) -> None:
    found = constant_of(loss, torch.zeros(len(target), *shape, dtype=torch.float64), target)
    assert found.loss == pytest.approx(best(loss, target, shape), rel=1e-6)


def test_the_best_constant_of_absolute_errors_is_the_median() -> None:
    found = constant_of(nn.L1Loss(), torch.zeros_like(VALUES), VALUES)
    assert found.loss == pytest.approx(float((VALUES - VALUES.median(dim=0).values).abs().mean()))
    for loss in (nn.HuberLoss(delta=0.5), nn.SmoothL1Loss(beta=2.0)):
        near = constant_of(loss, torch.zeros_like(VALUES), VALUES).loss
        assert near is not None
        least = best(loss, VALUES, (2,))
        assert least <= near <= 1.02 * least  # found is the better of mean and median


@pytest.mark.parametrize("soft", [False, True])
def test_a_lone_example_without_a_batch_counts_as_one(soft: bool) -> None:
    """A model that squeezes its output drops the batch dimension of a last batch of one."""
    target = F.one_hot(CLASSES, 3).double() * 0.8 + 0.2 / 3 if soft else CLASSES
    loss, output = nn.CrossEntropyLoss(), torch.randn(60, 3, generator=GENERATOR).double()
    tally = Tally(loss, None, derive(loss, output, target, 60))
    tally.add(output[:59], target[:59], 59)
    tally.add(output[59], target[59], 1)
    found = tally.result()
    assert found.loss == pytest.approx(float(loss(output, target)))
    assert found.constant.loss == pytest.approx(best(loss, target, (3,)), rel=1e-6)
    if not soft:
        assert found.metric == pytest.approx(float((output.argmax(1) == target).double().mean()))


def test_the_share_of_the_most_frequent_class() -> None:
    found = constant_of(nn.CrossEntropyLoss(), torch.zeros(60, 3), CLASSES)
    share = float((CLASSES == 0).double().mean())
    assert found.metric == pytest.approx(share)
    assert found.margin == pytest.approx(math.sqrt(share * (1 - share) / 60))
    left = CLASSES[CLASSES != 0]  # the elements that are not ignored
    found = constant_of(nn.CrossEntropyLoss(ignore_index=0), torch.zeros(60, 3), CLASSES)
    assert found.metric == pytest.approx(float((left == 1).double().mean()))


def test_each_label_has_a_constant_of_its_own() -> None:
    found = constant_of(nn.BCEWithLogitsLoss(), torch.zeros(60, 2), LABELS.float())
    shares = LABELS.mean(dim=0)
    assert found.metric == pytest.approx(float(torch.maximum(shares, 1 - shares).mean()))


def test_what_cannot_be_known_is_none() -> None:
    unknown: list[tuple[Loss, Tensor]] = [
        (lambda o, t: (o - t).square().mean(), VALUES),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 3.0])), LABELS),
        (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1), CLASSES),
    ]
    for loss, target in unknown:
        outputs = torch.zeros(len(target), 3 if target is CLASSES else 2, dtype=torch.float64)
        assert constant_of(loss, outputs, target).loss is None
    assert no_better(0.5, None) is None
    assert no_better(math.nan, 0.5) is None
    assert no_better(0.5, math.nan) is None


def test_a_score_at_chance_is_told_from_a_better_one() -> None:
    assert no_better(0.119, 0.1, 0.01, higher_is_better=True)  # within two standard errors
    assert not no_better(0.121, 0.1, 0.01, higher_is_better=True)
    assert no_better(1.981, 2.0)  # within 1 % of the constant
    assert not no_better(1.979, 2.0)
    assert no_better(-1.019, -1.0 - 0.01) is True
    assert no_better(-2.021, -2.0) is False


def test_a_million_values_are_kept_and_not_more() -> None:
    for size, known in ((2**20, True), (2**20 + 1, False)):
        target = torch.zeros(size, dtype=torch.float64)
        assert (constant_of(nn.MSELoss(), target, target, size).loss is not None) is known
