"""One training: the seed decides everything, and a run resumes after any step bit for bit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset

from rmsprop import InputError, Rule
from rmsprop.lab import Task, load_task
from rmsprop.lab.data import batches, split
from rmsprop.lab.runs.effective_rates import QUANTILES
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import SCHEDULES, ConstantRate, recipe_of, with_optimizer, with_recipe
from rmsprop.lab_options import TrainOptions
from rmsprop.torch import RMSprop

RULE = Rule(lr=0.01, momentum=0.5, centered=True)


class Noisy(Dataset[Any]):
    """Examples that change at random on each reading, by all three global generators."""

    def __init__(self, size: int) -> None:
        self.x = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
        self.y = (self.x.sum(dim=1) > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + float(np.random.rand()) + torch.rand(4)
        return self.x[i] + 0.1 * noise, self.y[i]


def noisy_task() -> Task:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))

    data = Noisy(37)
    return Task("noisy", model, train=data, validation=data, test=data, batch_size=8, epochs=3)


def start(task: Task, schedule: str = "linear", seed: int = 3) -> TrainingLoop:
    return TrainingLoop(task, with_optimizer(lambda params: RMSprop.from_rule(params, RULE), SCHEDULES[schedule]), seed)


def finish(training: TrainingLoop) -> tuple[dict[str, Tensor], list[Any]]:
    records: list[Any] = [r for new in training.run() for r in new]
    for r in records:  # times differ between runs
        for key in ("seconds", "step_us", "optimizer_us"):
            r.pop(key, None)
    return training.model.state_dict(), records


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("make", [noisy_task, lambda: load_task("digits")], ids=["noisy", "digits"])
def test_the_seed_decides_everything(make: Callable[[], Task]) -> None:
    task = make()
    a, b = (TrainingLoop(task, with_optimizer(RMSprop), seed=5, epochs=2) for _ in range(2))
    weights, records = finish(a)
    torch.manual_seed(99)  # must have no effect
    b = TrainingLoop(task, with_optimizer(RMSprop), seed=5, epochs=2)
    again, records_again = finish(b)
    assert equal(weights, again)
    assert records == records_again
    other, _ = finish(TrainingLoop(task, with_optimizer(RMSprop), seed=6, epochs=2))
    assert not equal(weights, other)


@pytest.mark.parametrize("stop", range(1, 16))
def test_a_run_stopped_after_any_step_goes_on_bit_for_bit(stop: int, tmp_path: Any) -> None:
    """With dropout, batch norm, a falling rate, and data from three generators: 15 steps in 3 epochs."""
    whole, records = finish(start(noisy_task()))
    before: list[Any] = []
    first = start(noisy_task())
    for new in first.run():
        before += new
        if first.step == stop:
            break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    del first
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    second = start(noisy_task())
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed, after = finish(second)
    assert equal(whole, resumed)
    for r in before:
        for key in ("seconds", "step_us", "optimizer_us"):
            r.pop(key, None)
    assert before + after == records


def test_losses_since_the_last_record_are_kept(tmp_path: Any) -> None:
    """Every third of 37 steps has a record: the mean over the steps before it must not change."""
    task = dataclasses.replace(noisy_task(), batch_size=1, model=lambda: nn.Linear(4, 2), epochs=1)
    _, records = finish(start(task))
    losses = [r for r in records if r["kind"] == "loss"]
    assert losses[1]["step"] - losses[0]["step"] > 1
    stop = losses[1]["step"] - 1
    first, before = start(task), []
    for new in first.run():
        before += new
        if first.step == stop:
            break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = start(task)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    _, after = finish(second)
    assert [r for r in before + after if r["kind"] == "loss"] == losses


def test_every_epoch_has_an_order_of_its_own() -> None:
    seen: list[float] = []

    class Seeing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.extend(x[:, 0].tolist())
            return super().forward(x)

    x = torch.arange(30.0)[:, None]
    data = TensorDataset(x, x)
    task = Task(
        "seen", lambda: Seeing(1, 1), train=data, validation=data, test=data, loss=nn.functional.mse_loss,
        metric=nn.functional.l1_loss, batch_size=10, epochs=3,
    )  # fmt: skip
    finish(TrainingLoop(task, with_optimizer(lambda params: RMSprop(params, lr=0.0)), seed=1))
    orders = [tuple(seen[i : i + 30]) for i in (0, 30, 60)]
    assert len(set(orders)) == 3
    assert all(set(order) == set(range(30)) for order in orders)


def test_schedules_set_the_rate() -> None:
    for schedule, last in (("constant", 0.01), ("linear", 0.0), ("cosine", 0.0), ("steps", 0.0001)):
        training = start(noisy_task(), schedule)
        rates = [training.optimizer.param_groups[0]["lr"] for _ in training.run()]
        assert rates[0] == 0.01
        assert rates[-1] == pytest.approx(last)
    with pytest.raises(InputError, match="--schedule must be one of constant, linear, cosine, steps, got 'step'"):
        TrainOptions(schedule="step")  # type: ignore[arg-type]


def test_a_constant_rate_is_that_of_torchs_scheduler() -> None:
    rates = []
    for make in (ConstantRate, lambda optimizer: LambdaLR(optimizer, lambda step: 1.0)):
        optimizer = RMSprop([torch.ones(1)], lr=0.1)
        scheduler: Any = make(optimizer)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
        rates.append(
            (scheduler.last_epoch, scheduler.get_last_lr(), scheduler.base_lrs, optimizer.param_groups[0]["lr"])
        )
    assert rates[0] == rates[1]
    assert type(start(noisy_task(), "constant").scheduler) is ConstantRate
    assert type(start(noisy_task(), "linear").scheduler) is LambdaLR
    by_recipe = TrainingLoop(noisy_task(), with_recipe(recipe_of(RULE, TrainOptions())), seed=0)
    assert type(by_recipe.scheduler) is ConstantRate


def test_records_hold_losses_validation_and_effective_rates() -> None:
    training = start(noisy_task())
    records = [r for new in training.run() for r in new]
    epochs: list[Any] = [r for r in records if r["kind"] == "epoch"]
    assert [r["epoch"] for r in epochs] == [0, 1, 2, 3]
    assert [r["step"] for r in epochs] == [0, 5, 10, 15]
    assert epochs[0]["effective_lr"] == {}
    assert list(epochs[1]["effective_lr"]) == [name for name, _ in training.model.named_parameters()]
    for quantiles in epochs[1]["effective_lr"].values():
        assert len(quantiles) == len(QUANTILES)
        assert quantiles == sorted(quantiles)
        assert quantiles[0] > 0
    assert [r["epoch"] for r in records if r["kind"] == "loss"][-1] == 3
    assert all(r["step_us"] >= r["optimizer_us"] > 0 for r in epochs[1:])


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    training = TrainingLoop(load_task("digits"), with_optimizer(lambda p: torch.optim.SGD(p, lr=1e6)), seed=0)
    records = [r for new in training.run() for r in new]
    assert training.diverged
    assert training.step < training.total_steps
    assert records[-1]["kind"] == "loss"


def test_evaluate_is_the_mean_over_examples() -> None:
    task = noisy_task()
    x, y = torch.randn(2500, 4), torch.randint(2, (2500,))
    data = TensorDataset(x, y)
    training = start(Task("plain", task.model, train=data, validation=data))
    loss, accuracy, *_ = training.evaluate("validation")
    with torch.no_grad():
        output = training.model(x)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(output, y)), rel=1e-5)
    assert accuracy == pytest.approx(float((output.argmax(1) == y).double().mean()))


def test_batches_hold_every_example_once_in_an_order_the_seed_decides() -> None:
    for data in (TensorDataset(torch.arange(10)), [(i,) for i in range(10)]):

        def read(order: int | None, data: Any = data) -> list[int]:
            return [int(x) for batch in batches(data, 3, order) for x in batch[0]]

        assert read(None) == list(range(10))
        assert sorted(read(1)) == list(range(10))
        assert read(1) == read(1) != read(2)


@pytest.mark.parametrize("order", [None, 0, 7])
@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_batches_of_tensors_are_those_of_torchs_loader(order: int | None, size: int) -> None:
    data = TensorDataset(torch.randn(10, 2), torch.arange(10))
    generator = torch.Generator().manual_seed(order or 0)
    sampler: Any = SequentialSampler(data) if order is None else RandomSampler(data, generator=generator)
    chosen: Any = BatchSampler(sampler, size, drop_last=False)
    loader = DataLoader(data, sampler=chosen, batch_size=None, generator=generator)
    random_before = torch.get_rng_state()
    for batch, expected in zip(batches(data, size, order), loader, strict=True):
        assert type(batch) is type(expected)
        assert all(torch.equal(x, y) for x, y in zip(batch, expected, strict=True))
        batch[0].zero_()  # a copy: the data stay as they are
    assert torch.equal(torch.get_rng_state(), random_before)


def test_a_subclass_of_tensor_dataset_reads_its_examples_one_by_one() -> None:
    class Augmented(TensorDataset):
        def __getitem__(self, i: Any) -> Any:
            assert isinstance(i, int)
            return tuple(tensor[i] for tensor in self.tensors)

    assert sum(len(x) for (x,) in batches(Augmented(torch.arange(10)), 4, order=0)) == 10


def test_split_keeps_the_shares_of_the_labels_and_every_example_once() -> None:
    labels = torch.tensor([0] * 50 + [1] * 100)
    parts = split(torch.arange(150), labels)
    assert [len(p) for p in parts] == [90, 30, 30]
    assert sorted(int(i) for p in parts for i in p.tensors[0]) == list(range(150))
    for p in parts:
        assert float(p.tensors[1].double().mean()) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [("digits", (1077, 360, 360), (64,), 10), ("mnist", (3000, 1000, 1000), (1, 28, 28), 10)],
)
def test_built_in_tasks_hold_real_data(name: str, sizes: tuple[int, ...], shape: tuple[int, ...], classes: int) -> None:
    task = load_task(name)
    task.try_out()
    parts = (task.train, task.validation, task.test)
    for part, size in zip(parts, sizes, strict=True):
        assert isinstance(part, TensorDataset)
        inputs, labels = part.tensors
        assert inputs.shape == (size, *shape)
        assert set(labels.tolist()) == set(range(classes))
        if name in ("digits", "mnist"):  # images
            assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)


def test_shakespeare_holds_the_six_tragedies() -> None:
    task = load_task("shakespeare")
    task.try_out()
    parts = (task.train, task.validation, task.test)
    for part, size in zip(parts, (11153, 1392, 1392), strict=True):
        assert isinstance(part, TensorDataset)
        inputs, target = part.tensors
        assert inputs.shape == target.shape == (size, 64)
        assert torch.equal(inputs[:, 1:], target[:, :-1])  # the target is the next character
    symbols = task.model()(torch.zeros(1, 64, dtype=torch.long)).shape[1]
    assert isinstance(task.train, TensorDataset)
    assert set(task.train.tensors[0].flatten().tolist()) <= set(range(symbols))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lr", "least"), [("digits", 0.003, 0.93), ("mnist", 0.001, 0.9)])
def test_built_in_tasks_are_learned(name: str, lr: float, least: float) -> None:
    training = TrainingLoop(load_task(name), with_optimizer(lambda p: RMSprop(p, lr=lr), SCHEDULES["linear"]), seed=0)
    for _ in training.run():
        pass
    assert training.evaluate("test").metric > least
