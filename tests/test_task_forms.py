"""What a Task can say, and the lab called from Python with one: forms of data, models, losses and metrics."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from rmsprop import InputError, Rule
from rmsprop.lab import Task, find_lr, train
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer
from rmsprop.torch import RMSprop

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 3, generator=GENERATOR)
Y = (X.sum(dim=1) > 0).long()
PLAIN = TensorDataset(X, Y)
SUMS = TensorDataset(X, X.sum(dim=1, keepdim=True))


LIST: Any = [PLAIN[i] for i in range(len(PLAIN))]


class TwoOutputs(nn.Module):
    """A model that returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(x), "size": self.linear.weight.square().sum()}


class Dicts(Dataset[dict[str, Tensor]]):
    """Examples as dicts."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": X[i], "label": Y[i]}


class Stream(IterableDataset[Any]):
    """Examples in a fixed order, `missing` fewer than its length says."""

    def __init__(self, missing: int = 0) -> None:
        self.missing = missing

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Iterator[Any]:
        return iter([(X[i], Y[i]) for i in range(len(X) - self.missing)])


class Endless(IterableDataset[Any]):
    """Examples without a known number."""

    def __iter__(self) -> Iterator[Any]:
        return iter(PLAIN)


class Augmented(Dataset[Any]):
    """Examples with noise from the global generator."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i] + 0.1 * torch.randn(3), Y[i]


def pairs(items: list[Any]) -> tuple[Tensor, Tensor]:
    """Collate examples by hand."""
    return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])


def with_penalty(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Return a loss that sees the model's weights through the output."""
    logits, size = output
    return nn.functional.cross_entropy(logits, target) + 1e-3 * size


def called(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Call a model that returns a dict on a batch that is a dict."""
    return model(batch["x"])["logits"], batch["label"]


def penalized(model: nn.Module, batch: dict[str, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return output and penalty."""
    found = model(batch["x"])
    return (found["logits"], found["size"]), batch["label"]


def linear() -> nn.Module:
    return nn.Linear(3, 2)


def share_right(output: Any, target: Tensor) -> Tensor:
    logits = output[0] if isinstance(output, tuple) else output
    return torch.mean((logits.argmax(1) == target).double())


def loader(data: Any = PLAIN, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=16, **options)


FORMS: dict[str, Any] = {
    "dicts in and out": lambda: Task("t", TwoOutputs, Dicts(), Dicts(), Dicts(), forward=called),
    "a loss that sees the weights": lambda: Task(
        "t", TwoOutputs, Dicts(), Dicts(), Dicts(), forward=penalized, loss=with_penalty,
        metric=share_right, metric_name="accuracy",
    ),
    "a DataLoader": lambda: Task("t", linear, loader(shuffle=True), loader(), loader()),
    "collate_fn": lambda: Task("t", linear, loader(shuffle=True, collate_fn=pairs), loader(collate_fn=pairs), PLAIN),
    "a sampler": lambda: Task(
        "t", linear, loader(sampler=WeightedRandomSampler((1 + Y).tolist(), 240)), PLAIN, PLAIN
    ),
    "a list": lambda: Task("t", linear, LIST, LIST, LIST),
    "an iterable data set": lambda: Task("t", linear, Stream(), Stream(), Stream()),
    "augmentation": lambda: Task("t", linear, Augmented(), PLAIN, PLAIN),
    "class weights": lambda: Task("t", linear, PLAIN, PLAIN, PLAIN, loss=nn.CrossEntropyLoss(torch.tensor([1.0, 1.5]))),
    "regression": lambda: Task(
        "t", lambda: nn.Linear(3, 1), SUMS, SUMS, SUMS, loss=nn.functional.mse_loss
    ),
}  # fmt: skip


def loop(task: Task) -> TrainingLoop:
    return TrainingLoop(task, with_optimizer(lambda params: RMSprop(params, lr=0.03)), seed=1, epochs=6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_task_is_learned_and_goes_on_after_an_interruption(form: str) -> None:
    """Stopped in the middle of an epoch, saved and restored, a training ends with the same weights."""
    task = FORMS[form]()
    task.try_out()
    whole = loop(task)
    first = whole.evaluate("validation").metric
    for _ in whole.run():
        pass
    last = whole.evaluate("test").metric
    assert last > 0.9 if whole.score.higher_is_better else last < first / 2
    part = loop(FORMS[form]())
    for _ in part.run():
        if part.step == part.steps_per_epoch + 2:
            saved = part.state_dict()
            break
    torch.randn(5)  # other work between
    resumed = loop(FORMS[form]())
    resumed.load_state_dict(saved)
    for _ in resumed.run():
        pass
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_seed_decides_the_order_of_a_loader() -> None:
    def order(seed: int) -> list[Tensor]:
        task = Task("t", linear, loader(shuffle=True), PLAIN)
        training = TrainingLoop(task, with_optimizer(RMSprop), seed)
        return [y for _, y in training._batches()]

    assert all(torch.equal(a, b) for a, b in zip(order(1), order(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(order(1), order(2), strict=True))


OTHERS: Any = {"right": share_right, "ones": lambda output, _: output.argmax(1).sum()}


def test_other_metrics_are_recorded_and_decide_nothing(tmp_path: Path) -> None:
    task = Task(
        "t", linear, PLAIN, PLAIN, PLAIN, metrics={"right": share_right, "ones": lambda o, _: o.argmax(1).sum()}
    )
    run = train(task, Rule(lr=0.03), epochs=2, out=tmp_path / "run")
    assert run.summary["metrics"]["right"] == pytest.approx(run.summary["validation_metric"])
    assert run.summary["test_metrics"].keys() == {"right", "ones"}
    assert [r["metrics"].keys() for r in run.records if r["kind"] == "epoch"] == [{"right", "ones"}] * 3


def test_what_a_task_cannot_say_is_one_line() -> None:
    for wrong, message in (
        (lambda: Task("t", TwoOutputs, Dicts(), Dicts()).try_out(),
         "an example of the data must be a tuple or list, inputs first and target last, got a dict; yield "
         r"\(input, target\), or give the task forward=, a function of model and batch"),
        (lambda: Task("t", linear, PLAIN, PLAIN, forward=lambda m, b: m(b[0])).try_out(),
         r"Task.forward\(\) must be a pair: output and target, got a Tensor; return output, target"),
        (lambda: Task("t", linear, PLAIN, PLAIN, metrics={"f": 3}),  # type: ignore[dict-item]
         "Task.metrics must be a dict of functions by name"),
        (lambda: Task("t", linear, PLAIN, PLAIN, clip=0), "Task.clip must be a number above 0, got 0; None"),
        (lambda: Task("t", linear, loader(), PLAIN).try_out(batch_size=8),
         "--batch-size must be omitted: the task's DataLoader has its own, got 8; set it there"),
        (lambda: Task("t", linear, Endless(), PLAIN),
         "Task.train must be a torch Dataset or DataLoader with a length, got one without a length; define __len__"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            wrong()
    short = loop(Task("t", linear, Stream(missing=60), PLAIN))
    with pytest.raises(InputError, match=r"the training data must be as long as len\(\) says, got 1 of 2 batches"):
        for _ in short.run():
            pass


def test_an_error_of_the_task_names_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make():\n    raise KeyError('x')\n")
    done = subprocess.run(
        [sys.executable, "-m", "rmsprop", "train", f"{tmp_path}/mine.py:make"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "got KeyError: 'x' (mine.py, line 2); " in done.stderr


def test_a_script_without_a_guard_compares_a_task_of_its_own(tmp_path: Path) -> None:
    """Its lambdas and classes reach the workers, which do not run the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "from rmsprop.lab import Task, compare\n"
        "print('started')\n"
        "class Own(torch.nn.Linear):\n    pass\n"
        "x = torch.randn(60, 3)\n"
        "data = TensorDataset(x, (x.sum(dim=1) > 0).long())\n"
        "task = Task('sums', lambda: Own(3, 2), data, data, data, epochs=1)\n"
        "run = compare(task, optimizers=('SGD',), learning_rates=(0.01, 0.1, 1), seeds=5, tuning_seeds=1, jobs=1)\n"
        "print(len(run.summary['scores']), run.directory.config()['task'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.stdout == "started\n2 sums\n"


def test_a_run_gives_its_model_records_findings_and_report(tmp_path: Path) -> None:
    task = FORMS["dicts in and out"]()
    run = train(task, Rule(lr=0.03), epochs=3, out=tmp_path / "run")
    model = run.load_model(task)
    with torch.no_grad():
        accuracy = float((model(X)["logits"].argmax(1) == Y).double().mean())
    assert accuracy == pytest.approx(run.summary["validation_metric"])
    assert not model.training
    assert {r["kind"] for r in run.records} == {"loss", "epoch"}
    assert run.findings == run.summary["findings"]
    assert run.report().read_text(encoding="utf-8").startswith("<!")
    assert run.sentences[0] in run._repr_html_()
    assert repr(run) == f"<Run {run.path}: finished>"
    with pytest.raises(InputError, match=r"pass the Task: run.load_model\(task\)"):
        run.load_model()
    directory, result = found = find_lr(task, out=tmp_path / "test", seeds=1)
    assert found.lr == result["lr"]
    assert "<svg" in found._repr_html_()
    assert repr(found) == f"<RangeTest {directory}: lr {found.lr}>"
    assert (directory / "find-lr.json").exists()
