"""How a task is scored: derived from output, target and loss, or else asked for; means are over the whole split."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import shapes
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import TensorDataset

from rmsprop import InputError, Rule
from rmsprop.cli.compare import show_comparison
from rmsprop.cli.train import TrainingProgress, show_training
from rmsprop.lab import Task, accuracy, load_task
from rmsprop.lab import comparison as compare_
from rmsprop.lab.learning_rates import Choice
from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.sentences import describe_comparison
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.score import Score
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.training_run import train
from rmsprop.lab.verdicts import judge
from rmsprop.torch import RMSprop

SHAPES = str(Path(__file__).with_name("shapes.py"))


@pytest.fixture
def compared(no_workers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Return `compare` of two optimizers in this process."""
    monkeypatch.setattr(compare_, "USUAL_OPTIMIZERS", ("RMSprop", "SGD"))
    return functools.partial(
        compare_.compare, learning_rates=(0.003, 0.03, 0.3), tuning_seeds=1, seeds=5, out=tmp_path / "compared"
    )


def printed(show: Any, *arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    show(console, *arguments)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def by_hand(name: str, run: Any, part: str) -> tuple[float, float]:
    """Return loss and score of a finished training on a part of the data, evaluated by hand."""
    task = load_task(f"{SHAPES}:{name}")
    model = task.model()
    model.load_state_dict(torch.load(run.path / "checkpoint.pt", weights_only=True)["training"]["model"])
    with torch.no_grad():
        return shapes.SHAPES[name][2](model, getattr(task, part))


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_a_task_of_any_shape_is_scored_as_by_hand(name: str, tmp_path: Path, compared: Callable[..., Any]) -> None:
    metric, higher, _ = shapes.SHAPES[name]
    task = load_task(f"{SHAPES}:{name}")
    assert (task.score.name, task.score.higher_is_better) == (metric, higher)
    run, summary = compared(f"{SHAPES}:{name}")
    assert (summary["metric"], summary["higher_is_better"]) == (metric, higher)
    rows = [r for r in run.records() if r["optimizer"] == "RMSprop" and r["stage"] == "tune"]
    best = (max if higher else min)(r["validation_metric"] for r in rows)
    lr = min((r for r in rows if r["validation_metric"] == best), key=lambda r: r["validation_loss"])["lr"]
    chosen = next(s for s in summary["scores"] if s["optimizer"] == "RMSprop")
    assert chosen["lr"] == lr  # the best in the score's direction

    alone, ended = train(f"{SHAPES}:{name}", Rule(lr=lr), seed=1, schedule="linear", out=tmp_path / "alone")
    loss, score = by_hand(name, alone, "validation")
    assert ended["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert ended["validation_metric"] == pytest.approx(score, rel=1e-5)
    loss, score = by_hand(name, alone, "test")
    assert ended["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert ended["test_metric"] == pytest.approx(score, rel=1e-5)
    final = next(r for r in run.records() if r["stage"] == "final" and r["optimizer"] == "RMSprop" and r["seed"] == 1)
    assert final["test_metric"] == ended["test_metric"]
    assert final["validation_loss"] == ended["validation_loss"]

    told = printed(show_training, alone, None) + printed(show_comparison, run, None)
    value = f"{100 * score:.1f} %" if higher else f"{score:.4g}"
    assert f"On the test data: {metric} {value}.\n" in told
    assert f"RMSprop reaches a test {metric} of " in told
    assert ("; lower is better)." in told) is not higher
    if name in ("binary", "left_over"):  # one score is a share, one a loss
        page = write_report(alone).read_text()
        assert (f"Validation {metric}" in page) is higher  # the loss is not drawn twice
        assert f"test {metric}" in write_report(run).read_text()


def test_the_losses_of_a_sum_are_recorded_for_one_example() -> None:
    """Steps use the sum; records have the mean, comparable with the validation loss."""
    task = load_task(f"{SHAPES}:regression")
    training = TrainingLoop(task, with_optimizer(lambda params: torch.optim.SGD(params, lr=0.0)), seed=0, epochs=1)
    records: list[Any] = [r for new in training.run() for r in new]
    losses = [r["loss"] for r in records if r["kind"] == "loss"]
    assert isinstance(task.train, TensorDataset)
    x, y = task.train.tensors
    with torch.no_grad():
        errors = (training.model(x) - y).square()
    sizes = [shapes.BATCH] * 5 + [1]
    assert sum(size * loss for size, loss in zip(sizes, losses, strict=True)) == pytest.approx(float(errors.sum()))


def task_of(loss: Any, target: Tensor, outputs: int = 3, **options: Any) -> Task:
    data = TensorDataset(torch.randn(len(target), 3, generator=torch.Generator().manual_seed(0)), target)
    return Task("t", lambda: nn.Linear(3, outputs), train=data, validation=data, loss=loss, batch_size=8, **options)


INTEGERS = torch.arange(20) % 3
ONES = (torch.arange(20) % 3 == 0).float()[:, None]
VALUES = torch.linspace(-1, 3, 60).reshape(20, 3)


@pytest.mark.parametrize(
    ("loss", "target", "outputs", "name", "kind"),
    [
        (nn.NLLLoss(), INTEGERS, 3, "accuracy", "accuracy"),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), INTEGERS, 3, "accuracy", "accuracy"),
        (nn.CrossEntropyLoss(reduction="sum"), INTEGERS, 3, "accuracy", "accuracy"),
        (lambda o, t: F.cross_entropy(o[t != 1], t[t != 1]), INTEGERS, 3, "accuracy", "accuracy"),
        (nn.CrossEntropyLoss(), F.one_hot(INTEGERS).float(), 3, "cross-entropy", "loss"),
        (lambda o, t: nn.BCELoss()(o.sigmoid(), t), ONES, 1, "accuracy", "accuracy"),
        (nn.BCEWithLogitsLoss(), 0.8 * ONES + 0.1, 1, "cross-entropy", "loss"),  # soft targets are no classes
        (nn.MSELoss(), VALUES, 3, "mean squared error", "loss"),
        (F.l1_loss, VALUES, 3, "mean absolute error", "loss"),
        (nn.HuberLoss(), VALUES, 3, "Huber loss", "loss"),
        (nn.SmoothL1Loss(), VALUES, 3, "smooth L1 loss", "loss"),
        (nn.MSELoss(reduction="sum"), VALUES, 3, "loss", "loss"),
        (lambda o, t: F.mse_loss(o, t).sqrt(), VALUES, 3, "loss", "loss"),
        (lambda o, t: F.cross_entropy(o, t) + 0.1 * o.square().mean(), INTEGERS, 3, "loss", "loss"),
        (lambda o, t: (F.cross_entropy(o, t, reduction="none") * (t != 1)).mean(), INTEGERS, 3, "loss", "loss"),
        (nn.SoftMarginLoss(), VALUES.sign(), 3, "loss", "loss"),
    ],
)
def test_what_a_score_is_derived_from(loss: Any, target: Tensor, outputs: int, name: str, kind: str) -> None:
    score = task_of(loss, target, outputs).score
    assert (score.name, score.higher_is_better, score.kind) == (name, kind == "accuracy", kind)


@pytest.mark.parametrize(
    ("loss", "target", "outputs", "is_sum"),
    [
        (lambda o, t: (o - t).square().sum(), VALUES, 3, True),
        (lambda o, t: (o - t).square().mean(), VALUES, 3, False),
        (lambda o, t: (o - t).square().mean().sqrt(), VALUES, 3, False),
        (lambda o, t: F.mse_loss(o, t, reduction="sum") / 2, VALUES, 3, True),
        (lambda o, t: F.mse_loss(o, t, reduction="sum") / len(t), VALUES, 3, False),
        (nn.CrossEntropyLoss(reduction="sum"), INTEGERS, 3, True),
    ],
)
def test_a_sum_over_the_batch_is_told_from_a_mean(loss: Any, target: Tensor, outputs: int, is_sum: bool) -> None:
    assert task_of(loss, target, outputs).score.loss_is_sum is is_sum


def test_accuracy_and_loss_count_what_the_loss_counts() -> None:
    """A batch whose targets are all ignored has a loss that is not finite. It counts for nothing."""
    target = INTEGERS.clone()
    target[:9] = -100  # the first batch of eight, and one example more
    data = torch.utils.data.Subset(
        cast(Any, task_of(nn.CrossEntropyLoss(), target).validation), range(20)
    )  # in batches of 8
    task = Task("t", lambda: nn.Linear(3, 3), train=data, validation=data, batch_size=8)
    training = TrainingLoop(task, with_optimizer(RMSprop), seed=0)
    found = training.evaluate("validation")
    x = torch.stack([x for x, _ in (data[i] for i in range(9, 20))])
    with torch.no_grad():
        output = training.model(x)
    assert found.loss == pytest.approx(float(F.cross_entropy(output, target[9:])), rel=1e-5)
    assert found.metric == pytest.approx(float((output.argmax(1) == target[9:]).double().mean()))


def refused(expected: str, loss: Any, target: Tensor, outputs: int = 3, **options: Any) -> None:
    with pytest.raises(InputError, match=expected):
        task_of(loss, target, outputs, **options).try_out()


def test_what_does_not_fit_is_refused() -> None:
    two = r"the target in the loss must be of the output's shape, got \(8,\) beside \(8, 1\)"
    refused(two, nn.MSELoss(), VALUES[:, 0], 1)
    refused(two, nn.MSELoss(), VALUES[:, 0], 1, metric=F.l1_loss)
    refused("class scores must be two or more, got one", nn.CrossEntropyLoss(), INTEGERS, 1)
    refused(r"metric accuracy must be given scores \(N, C, ...\)", nn.BCEWithLogitsLoss(), ONES, 1, metric=accuracy)
    refused(
        r"a share from 0 to 1 where it is called accuracy, got 50.0; divide by 100", nn.MSELoss(), VALUES,
        metric=lambda o, t: 50.0, metric_name="accuracy",
    )  # fmt: skip
    refused(
        "higher_is_better must be True or False beside metric=, got None", nn.MSELoss(), VALUES, metric=lambda o, t: 1
    )
    refused("metric_name must be omitted without metric=", nn.MSELoss(), VALUES, metric_name="error")
    refused("higher_is_better must be omitted without", nn.MSELoss(), VALUES, higher_is_better=False)
    refused("metric_name must be a non-empty string, got ''", nn.MSELoss(), VALUES, metric=F.l1_loss, metric_name="")
    refused("Task.metric must be a function of output and target, got an int", nn.MSELoss(), VALUES, metric=3)


def test_a_last_example_squeezed_to_a_number_is_scored() -> None:
    class Squeezed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze()

    data: Any = [(torch.ones(3), torch.tensor(float(i))) for i in range(9)]
    task = Task("t", lambda: Squeezed(3, 1), train=data, validation=data, loss=nn.MSELoss(), batch_size=4)
    training = TrainingLoop(task, with_optimizer(RMSprop), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the shapes () and (1,), which hold the same number
        task.try_out()
        found = training.evaluate("validation")
    with torch.no_grad():
        y = float(training.model(torch.ones(1, 3)))
    assert found.metric == pytest.approx(sum((y - i) ** 2 for i in range(9)) / 9, rel=1e-5)
    assert found.constant.metric == pytest.approx(60 / 9)


def test_the_test_data_are_tried_before_any_training() -> None:
    task = task_of(nn.MSELoss(), VALUES)
    wrong = dataclasses.replace(task, test=TensorDataset(torch.zeros(4, 3), torch.zeros(4)))
    with pytest.raises(InputError, match="the target in the loss must be of the output's shape"):
        wrong.try_out()


@pytest.mark.parametrize(
    ("example", "found"),
    [(torch.zeros(2), "a Tensor"), ({"x": torch.zeros(2)}, "a dict"), ((torch.zeros(2),), "a list of 1")],
)
def test_an_example_without_a_target_is_refused(example: Any, found: str) -> None:
    data: Any = [example] * 4
    task = Task("t", lambda: nn.Linear(2, 2), train=data, validation=data)
    with pytest.raises(InputError, match=f"an example of the data must be a tuple or list, .*, got {found}"):
        task.try_out()


def test_a_metric_of_ones_own_has_its_name_and_direction() -> None:
    def macro_f1(output: Tensor, target: Tensor) -> float:
        return 0.5

    loss = nn.MSELoss()
    assert task_of(loss, VALUES, metric=macro_f1, higher_is_better=True).score == Score(
        "macro f1", True, "metric", False
    )
    assert task_of(loss, VALUES, metric=F.l1_loss).score == Score("l1 loss", False, "metric", False)
    assert task_of(loss, VALUES, metric=nn.HuberLoss()).score == Score("HuberLoss", False, "metric", False)
    assert task_of(nn.CrossEntropyLoss(), INTEGERS, metric=accuracy).score == Score("accuracy", True, "metric", False)
    mine = task_of(loss, VALUES, metric=macro_f1, metric_name="accuracy").score
    assert (mine.name, mine.higher_is_better) == ("accuracy", True)


def test_deriving_a_score_draws_nothing_and_leaves_no_trace() -> None:
    task = task_of(nn.CrossEntropyLoss(), INTEGERS)
    before = torch.get_rng_state()
    assert task.score is task.score
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "told"), [("imbalanced", "accuracy"), ("left_over", None)])
def test_a_comparison_of_equals_or_at_chance_says_so(name: str, told: str | None, compared: Callable[..., Any]) -> None:
    run, summary = compared(f"{SHAPES}:{name}", learning_rates=(1e-6, 2e-6, 3e-6))
    text = printed(show_comparison, run, None)
    assert summary["constant"]["metric"] is not None
    equal = f"All optimizers have exactly the same {told} in every seed: it cannot rank them."
    assert (equal in text) is (told is not None)
    assert all(s["at_chance"] for s in summary["scores"])
    assert "No optimizer does better than a prediction that is the same for every input (" in text


def test_each_optimizer_at_chance_is_named() -> None:
    config: Any = {"seeds": 5, "rule": {}, "task": "t"}
    choices = {name: Choice(0.1, at_edge=False) for name in ("RMSprop", "SGD")}
    constant = {"loss": math.log(2), "metric": 0.5, "margin": 0.01}
    rows: list[Any] = [
        {"optimizer": o, "seed": s, "test_metric": m, "diverged": False, "validation_loss": 0.5, "optimizer_us": 9.0}
        | {"constant": constant}
        for o, m in (("RMSprop", 0.9), ("SGD", 0.515))
        for s in range(5)
    ]
    scores = [s._asdict() for s in judge(True, choices, rows)]
    assert [s["at_chance"] for s in scores] == [False, True]
    summary: Any = {
        "metric": "accuracy",
        "higher_is_better": True,
        "scores": scores,
        "confidence": 0.95,
        "constant": constant,
    }
    lines = describe_comparison(config, summary)
    assert lines[1] == "No better than a prediction that is the same for every input (accuracy 50.0 %): SGD (51.5 %)."


def test_where_the_metric_has_no_level_of_chance_the_loss_has() -> None:
    config: Any = {"seeds": 5, "rule": {}, "task": "t"}
    choices = {name: Choice(0.1, at_edge=False) for name in ("RMSprop", "SGD")}
    rows: list[Any] = [
        {"optimizer": o, "seed": s, "test_metric": 0.5, "test_loss": loss, "diverged": False, "validation_loss": 0.5}
        | {"optimizer_us": 9.0, "constant": {"loss": 2.0, "metric": None, "margin": 0.0}}
        for o, loss in (("RMSprop", 1.0), ("SGD", 2.0))
        for s in range(5)
    ]
    scores = [s._asdict() for s in judge(True, choices, rows)]
    assert [s["at_chance"] for s in scores] == [False, True]
    summary: Any = {"metric": "macro f1", "higher_is_better": True, "scores": scores, "confidence": 0.95}
    lines = describe_comparison(config, summary | {"constant": rows[0]["constant"]})
    assert "No better than a prediction that is the same for every input (loss 2): SGD (0.5)." in lines


def test_progress_names_the_score() -> None:
    for name, words in (("binary", "validation loss 0."), ("left_over", "validation mean absolute error ")):
        console = Console(file=io.StringIO(), width=300, color_system=None)
        training = TrainingLoop(load_task(f"{SHAPES}:{name}"), with_optimizer(RMSprop), seed=0, epochs=1)
        with TrainingProgress(console) as progress:
            for new in training.run():
                progress.listen(training, new)
        assert f"epoch 1 of 1: {words}" in console.file.getvalue()  # type: ignore[attr-defined]
