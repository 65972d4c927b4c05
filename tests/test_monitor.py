"""The monitor in real trainings: its records compared with NumPy, its ring, resuming, and its post-mortems."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cases import RULES
from torch import Tensor, nn

from rmsprop import InputError, Rule
from rmsprop.monitor import Monitor
from rmsprop.monitor.gradient_history import GradientHistory, Point
from rmsprop.monitor.post_mortem import LASTING, STUCK, post_mortem
from rmsprop.monitor.record import SAMPLE, UNKNOWN, changes, stride
from rmsprop.monitor.ring import Ring
from rmsprop.monitor.statistics import COLUMNS, describe, sums
from rmsprop.torch import RMSprop

PATHS = pytest.mark.parametrize("fused", [None, False], ids=["kernel", "tensor operations"])


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 3, generator=generator)
    return x, torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)


def backward(model: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    x, y = batch(step)
    loss: Any = nn.functional.mse_loss(model(x), y)
    loss.backward()


def groups_of(*groups: Any, **arguments: Any) -> RMSprop:
    return RMSprop(list(groups), **arguments)


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        backward(model, optimizer, step)
        optimizer.step()


def gradients_of(optimizer: RMSprop, fill: Any) -> None:
    """Give every parameter a gradient: the number `fill`, or what `fill` returns for it."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, fill) if isinstance(fill, int | float) else fill(p)


def histories_of(monitor: Monitor) -> list[GradientHistory]:
    return monitor._recorder.histories(monitor.records, monitor._ring.series(), monitor._counts.executed)


@PATHS
@pytest.mark.parametrize("name", ["plain", "centered", "TensorFlow 1", "all of it"])
def test_a_record_is_what_numpy_makes_of_the_step(name: str, fused: bool | None) -> None:
    rule, model = RULES[name], net()
    optimizer = RMSprop.from_rule(model.parameters(), rule, fused=fused)
    monitor = Monitor(optimizer, model, every=3)
    previous: dict[str, Tensor] = {}
    for step in range(1, 7):
        backward(model, optimizer, step)
        named = dict(model.named_parameters())
        before = {key: p.detach().clone() for key, p in named.items()}
        v0 = {
            key: optimizer.state[p]["square_avg"].clone()
            if p in optimizer.state
            else torch.full_like(p, rule.initial_square_avg)
            for key, p in named.items()
        }
        optimizer.step()
        if step in (1, 3, 6):
            record = monitor.records[-1]
            assert (record["kind"], record["step"]) == ("statistics", step)
            assert list(record["tensors"]) == list(named)
            squares = np.zeros(2)
            for key, p in named.items():
                state = optimizer.state[p]
                assert p.grad is not None
                row, histogram = sums(
                    rule,
                    before=before[key].numpy(),
                    after=p.detach().numpy(),
                    gradient=p.grad.numpy(),
                    square_avg_before=v0[key].detach().numpy(),
                    square_avg=state["square_avg"].numpy(),
                    grad_avg=state["grad_avg"].numpy() if rule.centered else None,
                    step=step,
                )
                squares += row[:2]
                expected: Any = describe(p.numel(), row, histogram, rule.lr, rule.centered)
                told: Any = record["tensors"][key]
                assert (told["group"], told["shape"], told["age"]) == (0, list(p.shape), step - 1)
                assert (told["dtype"], told["state_dtype"]) == ("float32", "float32")
                assert told["effective_lr"] == expected.pop("effective_lr")
                for field, value in expected.items():
                    assert told[field] == (None if value is None else pytest.approx(value, rel=1e-6)), field
                if step > 1:
                    a, b = p.grad.flatten().double(), previous[key].flatten().double()
                    assert told["gradient_cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-12)
                    assert told["sign_flips"] == float((a.sign() != b.sign()).double().mean())
                else:
                    assert told["gradient_cosine"] is None
            assert record["gradient_norm"] == pytest.approx(math.sqrt(squares[0]), rel=1e-6)
            assert record["update_norm"] == pytest.approx(math.sqrt(squares[1]), rel=1e-6)
            assert record["nonfinite_steps"] == 0
            stored = {"state_dtype": "float32", "param_dtype": "float32", "stochastic_rounding": False}
            assert record["groups"] == [{**vars(rule), **stored, "nonfinite": "propagate"}]
            json.dumps(record, allow_nan=False)
        previous = {key: p.grad.clone() for key, p in named.items() if p.grad is not None}
    assert [record["step"] for record in monitor.records] == [1, 3, 6]


def test_it_changes_no_bit_of_the_training() -> None:
    models = [net(), net()]
    optimizers = [RMSprop(model.parameters(), momentum=0.9, centered=True) for model in models]
    Monitor(optimizers[0], models[0], every=2)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(6))
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)


def test_names_are_those_of_the_groups_or_of_the_model_or_numbers() -> None:
    model = net()
    other = nn.Parameter(torch.ones(2))

    def names(*arguments: Any) -> list[str]:
        with Monitor(*arguments, every=1) as monitor:
            gradients_of(arguments[0], 1.0)
            arguments[0].step()
            return list(monitor.records[-1]["tensors"])

    assert names(RMSprop(model.parameters())) == ["0.0", "0.1", "0.2", "0.3"]
    plain = groups_of({"params": model.parameters()}, {"params": [other]})
    assert names(plain, model) == ["0.weight", "0.bias", "2.weight", "2.bias", "1.0"]
    named = [(f"mine.{name}", p) for name, p in model.named_parameters()]
    assert names(RMSprop(named), model) == [name for name, _ in named]
    twice = groups_of({"params": [("same", other)]}, {"params": [("same", nn.Parameter(torch.ones(1)))]})
    assert names(twice) == ["same (0.0)", "same (1.0)"]


def test_several_groups_tensors_without_gradient_and_empty_ones() -> None:
    a, b, c = (nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,), (0, 3)))
    optimizer = groups_of(
        {"params": [a], "lr": torch.tensor(0.5), "eps": 1.0}, {"params": [b, c], "alpha": 0.5}, {"params": []}
    )
    monitor = Monitor(optimizer, every=1)
    optimizer.step()  # without gradients there is no step
    assert monitor.records == []
    a.grad, c.grad = torch.ones_like(a), torch.ones_like(c)
    optimizer.step()
    record = monitor.records[0]
    assert (record["step"], record["groups"][2]["param_dtype"]) == (1, None)
    assert {name: told["group"] for name, told in record["tensors"].items()} == {"0.0": 0, "1.1": 1}
    assert [(group["lr"], group["decay"]) for group in record["groups"][:2]] == [(0.5, 0.99), (0.01, 0.5)]
    empty = record["tensors"]["1.1"]
    assert (empty["elements"], empty["gradient_rms"], empty["effective_lr"], empty["dead_rows"]) == (0, None, None, 0)
    assert record["tensors"]["0.0"]["eps_share"] == 1
    a.grad, b.grad = None, torch.ones_like(b)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    optimizer.param_groups[3]["params"][0].grad = torch.ones(1)
    optimizer.step()
    ages = {name: told["age"] for name, told in monitor.records[1]["tensors"].items()}
    assert ages == {"1.0": 0, "1.1": 1, "3.0": 0}
    assert monitor.post_mortem() is None


def test_complex_sparse_and_packed_tensors() -> None:
    z = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    table = nn.Parameter(torch.ones(5, 2))
    packed = nn.Parameter(torch.ones(4, 32))
    optimizer = groups_of({"params": [z, table]}, {"params": [packed], "state_dtype": "uint8"})
    monitor = Monitor(optimizer, every=1)
    for _ in range(2):
        z.grad = torch.tensor([3 + 4j, 1j, 0])
        table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), torch.ones(2, 2), (5, 2), check_invariants=True)
        packed.grad = torch.ones_like(packed)
        optimizer.step()
    record: Any = monitor.records[-1]
    first, rows, last = record["tensors"].values()
    assert (first["elements"], first["zero_gradient_share"], first["gradient_cosine"]) == (6, 0.5, pytest.approx(1))
    assert first["gradient_rms"] == pytest.approx(math.sqrt(26 / 6))
    assert (rows["elements"], rows["shape"], rows["gradient_rms"], rows["dead_rows"]) == (4, [5, 2], 1.0, None)
    assert rows["gradient_cosine"] is None
    assert last["dead_rows"] == 0
    assert [group["state_dtype"] for group in record["groups"]] == ["complex64, float32", "uint8"]
    stored = [(told["dtype"], told["state_dtype"], told["age"]) for told in record["tensors"].values()]
    assert stored == [("complex64", "complex64", 1), ("float32", "float32", 1), ("float32", "uint8", 1)]


@pytest.mark.parametrize("state_dtype", [None, "uint8", "bfloat16"])
def test_dead_rows_have_no_gradient_and_no_history(state_dtype: str | None) -> None:
    table = nn.Parameter(torch.ones(4, 32))
    optimizer = RMSprop([table], alpha=0.5, state_dtype=state_dtype)
    monitor = Monitor(optimizer, every=1)
    masks = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).float()
    for mask in masks:
        table.grad = torch.ones(4, 32) * mask[:, None]
        optimizer.step()
    told = [(record["tensors"]["0.0"]["dead_rows"], record["tensors"]["0.0"]["rows"]) for record in monitor.records]
    assert told == [(1, 4), (1, 4)]  # the third row has a history
    table.grad = torch.zeros(4, 32)
    optimizer.step()
    assert monitor.records[-1]["tensors"]["0.0"]["dead_rows"] == 1
    fresh = nn.Parameter(torch.ones(3, 32))
    other = RMSprop([fresh], state_dtype=state_dtype)
    watching = Monitor(other, every=1)
    fresh.grad = torch.zeros(3, 32)
    other.step()
    assert watching.records[-1]["tensors"]["0.0"]["dead_rows"] == 3


def test_signs_that_flip_and_gradients_that_are_compared_at_some_elements_only() -> None:
    p = nn.Parameter(torch.ones(1000))
    optimizer = RMSprop([p])
    monitor = Monitor(optimizer, every=4, last=0)  # the samples serve the comparison with the step before only
    for step in range(1, 9):
        p.grad = torch.ones(1000) * (-1.0) ** step
        sampled = torch.arange(0, 1000, 7)  # a stride of 4 would suffice, but 4, 5 and 6 share a factor with 1000
        p.grad[sampled[:50]] = 0.0
        p.grad[sampled + 1 - 1000 * (sampled + 1 >= 1000)] = 7.0  # not in the sample
        optimizer.step()
    told: Any = monitor.records[-1]["tensors"]["0.0"]
    assert (told["gradient_cosine"], told["sign_flips"]) == (pytest.approx(-1.0), 1.0)


def test_a_sample_has_elements_of_every_row_and_column() -> None:
    for shape in [(64, 64), (4096, 512), (1000, 6), (3, 1024), (100, 30, 30)]:
        elements = math.prod(shape)
        places = np.unravel_index(np.arange(0, elements, stride(elements)), shape)
        assert 128 <= len(places[0]) <= SAMPLE
        for axis, size in zip(places, shape, strict=True):
            assert len(np.unique(axis)) == min(size, len(axis))
    assert [stride(n) for n in (0, 1, SAMPLE, SAMPLE + 1)] == [1, 1, 1, 2]


def test_cosines_are_those_of_small_and_large_gradients_or_none() -> None:
    now, before = np.array([3.0, 4.0, 1.0, -1.0, 0.0]), np.array([4.0, 3.0, -1.0, 2.0, 5.0])
    for size in (1e-45, 1.0, 3e38, 1e-70, 1e70):  # the ends of float32, and beyond
        told = changes(size * now, size * before, [0, 2, 4])
        assert [x["gradient_cosine"] for x in told] == [pytest.approx(0.96), pytest.approx(-3 / math.sqrt(10)), None]
        assert [x["sign_flips"] for x in told] == [0.0, 1.0, None]
    for value in (math.inf, math.nan, 1e200):
        assert changes(np.array([value, 1.0]), np.ones(2), [0]) == [UNKNOWN]
    assert changes(np.array([1.0, 0.0]), np.array([0.0, 1.0]), [0]) == [{"gradient_cosine": 0.0, "sign_flips": None}]
    assert changes(np.empty(0), np.empty(0), []) == []


@PATHS
@pytest.mark.parametrize("mode", ["zero", "skip"])
def test_a_record_counts_the_step_that_it_is_of(mode: str, fused: bool | None) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite=mode, fused=fused)
    monitor = Monitor(optimizer, every=3, last=0)
    for value in (1.0, math.nan, math.inf, 1.0, 1.0, 1.0, 1.0):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    told = [(record["step"], record["nonfinite_steps"]) for record in monitor.records]
    assert told == ([(1, 0), (3, 2), (6, 2)] if mode == "zero" else [(1, 0), (3, 2)])
    assert optimizer.nonfinite_steps == 2


def test_gradients_are_compared_where_both_steps_have_one() -> None:
    params = {name: nn.Parameter(torch.ones(size)) for name, size in (("a", 3), ("b", 2), ("c", 4))}
    optimizer = RMSprop(params.items())
    monitor = Monitor(optimizer, every=1)
    for given in ({"a": 1.0, "b": 2.0, "c": 0.0}, {"b": -1.0, "c": 1.0}, {"a": 1.0, "b": math.inf, "c": 5.0}):
        for name, p in params.items():
            p.grad = torch.full_like(p, given[name]) if name in given else None
        optimizer.step()
    cosines = [{name: told["gradient_cosine"] for name, told in x["tensors"].items()} for x in monitor.records]
    assert cosines[1] == {"b": pytest.approx(-1.0), "c": None}
    assert cosines[2] == {"a": None, "b": None, "c": pytest.approx(1.0)}
    assert monitor.records[1]["tensors"]["b"]["sign_flips"] == 1
    assert monitor.records[1]["tensors"]["c"]["sign_flips"] is None


LAST = pytest.mark.parametrize("last", [0, 100])


@LAST
@PATHS
def test_a_step_that_fails_or_has_no_gradient_is_not_counted(fused: bool | None, last: int) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], fused=fused)
    monitor = Monitor(optimizer, every=4, last=last)
    for step in range(1, 10):
        p.grad = None
        optimizer.step()
        p.grad = torch.ones(3)
        optimizer.param_groups[0]["lr"] = -1.0
        for _ in range(2):
            with pytest.raises(InputError, match="lr must be"):
                optimizer.step()
        assert monitor.state_dict()["step"] == step - 1
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        assert monitor.state_dict()["step"] == step == optimizer.state[p]["step"]
    assert [record["step"] for record in monitor.records] == [1, 4, 8]
    assert monitor.records[-1]["tensors"]["0.0"]["age"] == 7
    assert monitor.records[-1]["tensors"]["0.0"]["gradient_cosine"] == pytest.approx(1)


@LAST
def test_where_the_optimizer_loads_a_state_the_count_follows_it(last: int) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite="zero")
    monitor = Monitor(optimizer, every=5, last=last)
    saved: Any = None
    for step in range(1, 10):
        p.grad = torch.full_like(p, math.nan if step == 8 else 1.0)
        optimizer.step()
        if step == 6:
            saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert monitor.state_dict()["step"] == 6
    assert monitor.state_dict()["samples"] is None  # those of step 9 are dropped
    assert monitor.post_mortem() is None
    for _ in range(4):
        p.grad = torch.ones(3)
        optimizer.step()
    assert [record["step"] for record in monitor.records] == [1, 5, 10]
    assert monitor.records[-1]["nonfinite_steps"] == 1
    (series,) = histories_of(monitor)
    assert [point.step for point in series.points] == ([1, 5, 7, 8, 9, 10] if last else [1, 5, 10])
    monitor.close()
    optimizer.load_state_dict(saved)
    assert monitor.state_dict()["step"] == 10


@pytest.mark.parametrize("last", [0, 5])
def test_steps_that_only_a_device_knows_to_be_left_out_are_not_counted(last: int) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite="skip", capturable=True)
    monitor = Monitor(optimizer, every=6, last=last)
    for value in (1.0, math.nan, 1.0, math.inf, 1.0, 1.0, 1.0, 1.0, 1.0):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    told = [(record["step"], record["nonfinite_steps"]) for record in monitor.records]
    assert told == [(1, 0), (6, 2)]
    assert monitor.records[-1]["tensors"]["0.0"]["age"] == 5
    assert monitor.state_dict()["step"] == optimizer.state[p]["step"] == 7
    p.grad.fill_(math.nan)  # type: ignore[union-attr]
    for _ in range(STUCK):
        optimizer.step()
    found = monitor.post_mortem()
    assert found is not None
    assert (found.kind, found.step) == ("stuck", 8)


@LAST
def test_a_good_step_between_those_left_out_is_seen_also_between_records(last: int) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite="skip")
    monitor = Monitor(optimizer, every=1000, last=last)
    for _ in range(4):
        for value in (*[math.nan] * (STUCK // 2), 1.0):
            p.grad = torch.full_like(p, value)
            optimizer.step()
    assert monitor.post_mortem() is None


@pytest.mark.filterwarnings("ignore:DTensor random operators:UserWarning")  # in torch 2.6, of every mesh of CPUs
@PATHS
def test_a_rank_that_holds_nothing_of_a_tensor(fused: bool | None) -> None:
    """The fourth of four ranks has no row of the first parameter and one row of the second."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    # Split on each rank. torch 2.6 sends the parts; the fake group sends nothing.
    local: dict[str, Any] = {"src_data_rank": None} if torch.__version__ >= "2.7" else {}
    torch.distributed.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (4,))
        whole = [torch.ones(rows, 2) for rows in (3, 4, 2)]
        spread = [distribute_tensor(x, mesh, [Shard(0)], **local) for x in whole]
        params = [nn.Parameter(x) for x in spread]
        optimizer = RMSprop(params, fused=fused)
        monitor = Monitor(optimizer, every=1)
        for sign in (1.0, -1.0):
            for p in params:
                p.grad = torch.ones_like(p) * sign
            optimizer.step()
    finally:
        torch.distributed.destroy_process_group()
    told = monitor.records[-1]["tensors"]
    assert [x["elements"] for x in told.values()] == [0, 2, 0]
    assert [x["gradient_cosine"] for x in told.values()] == [None, pytest.approx(-1), None]
    assert [x["rows"] for x in told.values()] == [0, 1, 0]


def test_a_post_mortem_reads_every_step_of_every_tensor_a_few_times() -> None:
    reads = 0

    class Counted(list[Point]):
        def __iter__(self) -> Iterator[Point]:
            nonlocal reads
            reads += 1
            return super().__iter__()

    def point(step: int) -> Point:
        gradient = 1.0 if step < 50 else 1e6
        return Point(step, gradient, 1.0, 1.0, math.sqrt(gradient), 0.01, 0, False)

    series = [GradientHistory(f"{i}", True, Counted(point(step) for step in range(1, 101))) for i in range(40)]
    found = post_mortem(series, 100)
    assert found is not None
    assert (found.kind, found.step, len(found.tensors)) == ("spike", 50, 40)
    assert "in 0, and in 39 of 39 other tensors" in str(found)
    two = post_mortem(series[:2], 100)
    assert two is not None
    assert "in 0, and in 1 of 1 other tensor:" in str(two)
    assert reads <= 10 * len(series)


@PATHS
def test_a_resumed_run_makes_the_records_of_an_uninterrupted_one(fused: bool | None) -> None:
    def start(seed: int) -> tuple[Any, RMSprop, Monitor]:
        model = net(seed)
        optimizer = RMSprop(model.parameters(), fused=fused, nonfinite="zero")
        return model, optimizer, Monitor(optimizer, model, every=4)

    model, optimizer, whole = start(0)
    train(model, optimizer, range(2))
    backward(model, optimizer, 2)
    model[0].weight.grad.fill_(math.nan)
    optimizer.step()
    saved = [copy.deepcopy(x.state_dict()) for x in (model, optimizer)]
    plain = json.loads(json.dumps(whole.state_dict()))
    train(model, optimizer, range(3, 13))
    model, optimizer, resumed = start(1)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(plain)
    train(model, optimizer, range(3, 13))
    assert [record["step"] for record in resumed.records] == [4, 8, 12]
    assert resumed.records == whole.records[1:]
    assert resumed.records[0]["nonfinite_steps"] == 1
    assert resumed.records[0]["tensors"]["2.bias"]["gradient_cosine"] is not None


def test_without_a_state_of_its_own_it_counts_from_the_steps_of_the_optimizer() -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    train(model, optimizer, range(5))
    other = net()
    loaded = RMSprop(other.parameters())
    monitor = Monitor(loaded, other, every=4)
    loaded.load_state_dict(optimizer.state_dict())
    train(other, loaded, range(5, 9))
    assert [record["step"] for record in monitor.records] == [8]
    with pytest.raises(InputError, match="state must be what state_dict"):
        monitor.load_state_dict({"step": 3})


def test_records_of_steps_that_are_undone_are_dropped() -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    monitor = Monitor(optimizer, model, every=3)
    train(model, optimizer, range(4))
    saved, known = copy.deepcopy(optimizer.state_dict()), monitor.state_dict()
    train(model, optimizer, range(4, 10))
    assert [record["step"] for record in monitor.records] == [1, 3, 6, 9]
    records = monitor.records
    optimizer.load_state_dict(saved)
    assert [record["step"] for record in monitor.records] == [1, 3]
    train(model, optimizer, range(4, 7))
    assert [record["step"] for record in monitor.records] == [1, 3, 6]
    monitor.load_state_dict(known)
    assert [record["step"] for record in monitor.records] == [1, 3]
    assert monitor.records is records  # a list that a user holds is updated


@PATHS
def test_a_post_mortem_after_a_resume_knows_the_steps_before_it(fused: bool | None) -> None:
    """A gradient counts as 0 in step 4, another rises from step 18 on, and the run stops after step 20."""

    def start() -> tuple[Any, RMSprop, Monitor]:
        model = net()
        optimizer = RMSprop(model.parameters(), lr=1e-3, fused=fused, nonfinite="zero")
        return model, optimizer, Monitor(optimizer, model, every=1 if fused is False else 1000)

    def go_on(model: Any, optimizer: RMSprop, steps: range) -> None:
        for step in steps:
            backward(model, optimizer, step)
            if step == 4:
                model[0].bias.grad.fill_(math.nan)  # counts as 0
            if step >= 18:
                model[2].weight.grad *= 1e3 ** (step - 17)
            optimizer.step()

    model, optimizer, whole = start()
    go_on(model, optimizer, range(1, 21))
    states = [copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())]
    known = json.loads(json.dumps(whole.state_dict()))
    records = json.loads(json.dumps(whole.records))
    go_on(model, optimizer, range(21, 24))
    model, optimizer, resumed = start()
    model.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    resumed.load_state_dict(known)
    resumed.records[:] = records
    go_on(model, optimizer, range(21, 24))
    found = resumed.post_mortem()
    assert found is not None
    assert (found.kind, found.step, found.tensors) == ("spike", 18, ("2.weight",))
    assert found == whole.post_mortem()
    assert json.dumps(resumed.state_dict()) == json.dumps(whole.state_dict())  # as text: there NaN equals NaN
    assert resumed.state_dict()["nonfinite_steps"] == 1


def test_a_smaller_ring_takes_the_newest_steps_of_a_state() -> None:
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = RMSprop([a, b])
    monitor = Monitor(optimizer, every=1000, last=10)
    for step in range(1, 8):
        a.grad = torch.full_like(a, float(step))
        b.grad = torch.full_like(b, -float(step)) if step % 2 else None
        optimizer.step()
    known = monitor.state_dict()
    monitor.close()
    for last in (0, 1, 3, 20):
        with Monitor(optimizer, every=1000, last=last) as other:
            other.load_state_dict(known)
            series = histories_of(other)[1]
            assert [point.step for point in series.points] == [s for s in (1, 3, 5, 7) if s > 7 - max(last, 1)]
            assert other.state_dict()["ring"] is None or last


def test_records_that_are_handed_back_are_enough_for_a_post_mortem() -> None:
    def start() -> tuple[nn.Parameter, RMSprop, Monitor]:
        p = nn.Parameter(torch.ones(3))
        optimizer = RMSprop([p])
        return p, optimizer, Monitor(optimizer, every=10, last=0)

    def go_on(p: nn.Parameter, optimizer: RMSprop, steps: range) -> None:
        for step in steps:
            p.grad = torch.full_like(p, 1.0 if step < 30 else 1e6)
            optimizer.step()

    p, optimizer, monitor = start()
    go_on(p, optimizer, range(1, 80))
    state, records = optimizer.state_dict(), monitor.records
    p, optimizer, resumed = start()
    assert resumed.post_mortem() is None
    optimizer.load_state_dict(state)
    assert resumed.post_mortem() is None
    resumed.records[:] = records
    found = resumed.post_mortem()
    assert found is not None
    assert (found.kind, found.step, found.after) == ("spike", 30, 20)


def test_the_first_record_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmsprop.monitor.monitor.KEPT_RECORDS", 4)
    model = net()
    optimizer = RMSprop(model.parameters())
    monitor = Monitor(optimizer, model, every=1)
    train(model, optimizer, range(9))
    assert [record["step"] for record in monitor.records] == [1, 7, 8, 9]
    monkeypatch.setattr("rmsprop.monitor.monitor.KEPT_TENSORS", 12)  # three records of four tensors
    train(model, optimizer, range(9, 10))
    assert [record["step"] for record in monitor.records] == [1, 9, 10]


def test_the_ring_holds_the_newest_steps() -> None:
    ring = Ring(3)
    nonfinite = COLUMNS.index("nonfinite")

    def row(value: float, bad: int = 0) -> list[float]:
        values = [value] * len(COLUMNS)
        values[nonfinite] = bad
        return values

    places = [(0, 0), (0, 1)]
    sums_of = np.array([row(1, bad=2), row(1.5)])
    ring.put(1, places, sums_of)
    sums_of[:] = -7  # the ring must have copied the optimizer's arrays
    ring.put(2, [(0, 1)], np.array([row(2.0)]))
    places.append((1, 0))
    for step in (3, 4, 5):
        ring.put(step, places, np.array([row(step), row(step + 0.5), row(-step, bad=step == 4)], float))
        if step == 3:
            seen = {place: [(at, x.gradient_sq) for at, x in kept] for place, kept in ring.series().items()}
            assert seen == {(0, 0): [(1, 1), (3, 3)], (0, 1): [(1, 1.5), (2, 2), (3, 3.5)], (1, 0): [(3, -3)]}
    assert [at for at, _ in ring.series()[0, 0]] == [3, 4, 5]
    assert [x.gradient_sq for _, x in ring.series()[0, 1]] == [3.5, 4.5, 5.5]
    assert ring.nonfinite_steps() == 2  # includes steps that left the ring
    assert ring.nonfinite_steps() == 2


@PATHS
def test_a_nan_in_one_layer_is_found_with_its_step(fused: bool | None) -> None:
    model = net()
    optimizer = RMSprop(model.parameters(), lr=1e-3, fused=fused)
    monitor = Monitor(optimizer, model, every=1 if fused is False else 50)
    train(model, optimizer, range(20))
    backward(model, optimizer, 20)
    model[2].weight.grad[1, 3] = math.nan
    optimizer.step()
    train(model, optimizer, range(21, 25))
    found = monitor.post_mortem()
    assert found is not None
    assert (found.kind, found.step, found.after) == ("nonfinite", 21, None)
    assert (found.tensors, found.nonfinite_step) == (("2.weight",), 21)
    text = str(found)
    assert text.startswith("It began at step 21 in 2.weight: 1 element of its gradient was not finite.")
    assert [row["step"] for row in found.table["2.weight"]] == [17, 18, 19, 20, 21, 22, 23]
    assert found.table["2.weight"][3]["nonfinite"] == 0
    assert found.table["2.weight"][4]["nonfinite"] == 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_where_few_steps_are_measured_it_says_between_which_two_it_began() -> None:
    model = net()
    optimizer = RMSprop(model.parameters(), lr=1e-3, fused=False)
    monitor = Monitor(optimizer, model, every=5)
    train(model, optimizer, range(11))
    backward(model, optimizer, 11)
    model[0].bias.grad[0] = math.inf
    optimizer.step()
    train(model, optimizer, range(12, 17))
    found = monitor.post_mortem()
    assert found is not None
    assert (found.step, found.after) == (15, 10)
    assert "between step 10 and step 15: by then, all 4 tensors were not finite" in str(found)
    assert "every=1" in str(found)


def test_a_rate_that_is_too_large_is_found_where_the_gradients_left_their_history() -> None:
    model = net()
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    monitor = Monitor(optimizer, model, every=10)
    train(model, optimizer, range(30))
    assert monitor.post_mortem() is None
    optimizer.param_groups[0]["lr"] = 30.0
    train(model, optimizer, range(30, 34 + LASTING))
    found = monitor.post_mortem()
    assert found is not None
    assert (found.kind, found.nonfinite_step, found.after) == ("spike", None, None)
    assert found.step in (32, 33)  # step 31 uses the large rate; step 32 has the first gradient after it
    assert "times its history, and has not come back" in str(found)


def test_the_rise_before_what_is_not_finite_is_its_beginning() -> None:
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = RMSprop([("p", p), ("q", q)])
    monitor = Monitor(optimizer)
    for step in range(1, 15):
        p.grad, q.grad = torch.full_like(p, 1.0), torch.full_like(q, 1.0)
        if step == 3:
            p.grad *= 500  # passes after one step
        if step >= 9:
            q.grad *= 100.0 ** (step - 8)
        if step == 12:
            p.grad.fill_(math.inf)
        optimizer.step()
    found = monitor.post_mortem()
    assert found is not None
    assert (found.kind, found.step, found.tensors, found.nonfinite_step) == ("spike", 9, ("q",), 12)
    assert "in q: its gradient was 100 times its history" in str(found)


@pytest.mark.parametrize("v0", [0.0, 1.0])
def test_a_healthy_run_has_no_post_mortem(v0: float) -> None:
    """One passing spike, a tensor that joins late and gradients that count as 0 cause none."""
    model = net()
    late = nn.Parameter(torch.ones(4))
    optimizer = groups_of(
        {"params": model.parameters()}, {"params": [late]}, lr=1e-3, initial_square_avg=v0, nonfinite="zero"
    )
    monitor = Monitor(optimizer, model)
    assert monitor.post_mortem() is None
    for step in range(60):
        backward(model, optimizer, step)
        if step >= 20:
            late.grad = torch.randn(4, generator=torch.Generator().manual_seed(step))
        if step == 30:
            for p in model.parameters():
                p.grad *= 100
        if step == 40:
            late.grad.fill_(math.nan)  # type: ignore[union-attr]
        optimizer.step()
    assert monitor.post_mortem() is None
    assert monitor.records[-1]["nonfinite_steps"] == 1


def test_skipped_steps_are_not_counted_and_told_when_there_is_no_other() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite="skip")
    monitor = Monitor(optimizer, every=2)
    for step in range(4):
        p.grad = torch.full_like(p, math.nan if step == 1 else 1.0)
        optimizer.step()
    assert [(record["step"], record["nonfinite_steps"]) for record in monitor.records] == [(1, 0), (2, 1)]
    p.grad = torch.full_like(p, math.nan)
    for _ in range(STUCK - 1):
        optimizer.step()
    assert monitor.post_mortem() is None
    optimizer.step()
    found = monitor.post_mortem()
    assert found is not None
    assert (found.kind, found.step) == ("stuck", 4)
    assert f"The last {STUCK} steps were all skipped" in str(found)
    p.grad = torch.ones(3)
    optimizer.step()
    assert monitor.post_mortem() is None


def test_steps_left_out_before_an_interruption_count_after_it() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite="skip")
    monitor = Monitor(optimizer)
    for value in (1.0, *[math.nan] * (STUCK + 5)):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    resumed = RMSprop([p], nonfinite="skip")
    resumed.load_state_dict(optimizer.state_dict())
    other = Monitor(resumed)
    other.load_state_dict(monitor.state_dict())
    assert other.post_mortem() == monitor.post_mortem() is not None
    resumed.step()
    found = other.post_mortem()
    assert found is not None
    assert f"The last {STUCK + 6} steps were all skipped" in str(found)


def saved_state(extra: int = 0) -> tuple[Monitor, dict[str, Any]]:
    """Return a monitor after four steps of two tensors, and its state. The last two gradients are not finite."""
    params = [nn.Parameter(torch.ones(size)) for size in (3 + extra, 5)]
    optimizer = RMSprop(params)
    monitor = Monitor(optimizer, every=1, last=3)
    for value in (1.0, 2.0, math.inf, math.nan):
        gradients_of(optimizer, value)
        optimizer.step()
    return monitor, monitor.state_dict()


def test_its_state_is_small_and_goes_through_strict_json_and_torch_load(tmp_path: Any) -> None:
    monitor, state = saved_state()
    through_json = json.loads(json.dumps(state, allow_nan=False))
    torch.save(state, tmp_path / "monitor.pt")
    for known in (through_json, torch.load(tmp_path / "monitor.pt", weights_only=True)):
        other = Monitor(RMSprop([nn.Parameter(torch.ones(size)) for size in (3, 5)]), every=1, last=3)
        other.load_state_dict(known)
        assert other.state_dict() == state
        for place in ((0, 0), (0, 1)):
            held = other._ring.series()[place]
            assert [step for step, _ in held] == [2, 3, 4]
            assert repr(held) == repr(monitor._ring.series()[place])  # as text: there NaN equals NaN
    bytes_of_sums = 3 * 2 * 5 * 8  # steps, tensors, columns
    assert len(state["ring"]["sums"]) == 4 * bytes_of_sums / 3
    assert len(state["samples"]["values"]) == 4 * -(-8 * 8 // 3)  # eight sampled elements


def test_a_state_of_another_model_or_one_that_is_cut_off_is_refused_by_name() -> None:
    monitor, state = saved_state()
    _, wider = saved_state(extra=1)
    ring, samples = state["ring"], state["samples"]
    refused: list[tuple[dict[str, Any], str]] = [
        (wider, "state must be that of a model with the same tensors, got 4 elements of 0.0, which has 3; load"),
        ({"elements": [[0, 9, 3]]}, r"got parameter 9 of group 0, where groups have \[2\]"),
        ({"elements": [[0, -1, 3]]}, "got parameter -1 of group 0"),
        ({"ring": {**ring, "places": [[0, 0], [1, 0]]}}, "got parameter 0 of group 1"),
        ({"samples": {**samples, "places": [[0, 0], [0, 2]]}}, "got parameter 2 of group 0"),
        ({"ring": {**ring, "sums": ring["sums"][:-1]}}, "got 319 characters for 30 numbers, which take 320"),
        ({"samples": {**samples, "lengths": [3, 6]}}, "got 88 characters for 9 numbers, which take 96"),
        ({"ring": {**ring, "sums": "*" + ring["sums"][1:]}}, r"state must be what state_dict\(\) returned, got a dict"),
        ({"left_out": None}, r"state must be what state_dict\(\) returned, got a dict"),
    ]
    for wrong, message in refused:
        with pytest.raises(InputError, match=message):
            monitor.load_state_dict({**state, "step": 77, **wrong})
        assert monitor.state_dict() == state
    named = Monitor(RMSprop([("wide", nn.Parameter(torch.ones(4))), ("b", nn.Parameter(torch.ones(5)))]))
    with pytest.raises(InputError, match="got 3 elements of wide, which has 4"):
        named.load_state_dict(state)


def test_samples_that_the_next_step_is_not_compared_with_are_not_saved() -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    monitor = Monitor(optimizer, model, every=4)
    kept = []
    for step in range(6):
        kept.append(monitor.state_dict()["samples"] is not None)
        train(model, optimizer, range(step, step + 1))
    assert kept == [False, True, False, True, True, False]  # the samples of steps 1, 3 and 4


def test_copies_of_a_watched_optimizer_are_not_watched() -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    monitor = Monitor(optimizer, model, every=1)
    train(model, optimizer, range(1))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        gradients_of(other, 1.0)
        other.step()
        Monitor(other)
    assert len(monitor.records) == 1


class LightningLike:
    """Wraps as LightningOptimizer does: has the wrapped class, forwards to the optimizer, and steps with a closure."""

    __module__ = "pytorch_lightning.core.optimizer"

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.__class__ = type("Lightning", (type(self), type(optimizer)), {})

    @property
    def optimizer(self) -> Any:
        return self._optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step(closure)


class AcceleratedLike(torch.optim.Optimizer):
    """Wraps as AcceleratedOptimizer does: an Optimizer whose __init__ was never called, with another one's state."""

    __module__ = "accelerate.optimizer"

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [LightningLike, AcceleratedLike, lambda x: LightningLike(AcceleratedLike(x))])
def test_wrappers_of_trainers(wrap: Any) -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    wrapped = wrap(optimizer)
    monitor = Monitor(wrapped, model, every=2)

    def closure() -> Any:
        optimizer.zero_grad()
        x, y = batch(0)
        loss: Any = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(2):
        wrapped.step(closure)
    assert [record["step"] for record in monitor.records] == [1, 2]
    with pytest.raises(InputError, match="without an observer for another one"):
        Monitor(optimizer)
    monitor.close()
    monitor.close()
    wrapped.step(closure)
    assert len(monitor.records) == 2
    Monitor(wrapped)


def test_what_cannot_be_monitored_is_said_in_one_line() -> None:
    model = net()
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(
        InputError, match=r"must be a rmsprop\.torch\.RMSprop, got one of torch, Adam; create one, or use"
    ):
        Monitor(adam)
    optimizer = RMSprop(model.parameters())
    refused: list[tuple[dict[str, Any], str]] = [
        ({"every": 0}, "every must be a whole number >= 1"),
        ({"last": -1}, "last must be a whole number >= 0"),
        ({"sinks": ["file"]}, "sinks must be callables"),
        ({"model": net()}, "model must be a module with parameters of the optimizer, got a Sequential with none"),
        ({"model": "net"}, "model must be a torch.nn.Module"),
    ]
    for arguments, message in refused:
        with pytest.raises(InputError, match=message):
            Monitor(optimizer, **arguments)
    Monitor(optimizer).close()  # no refused monitor left an observer


def test_it_has_findings_of_its_records() -> None:
    model = net()
    optimizer = RMSprop(model.parameters(), eps=100.0)
    monitor = Monitor(optimizer, model, every=1)
    train(model, optimizer, range(4))
    assert any("ε" in str(finding) for finding in monitor.findings())


def test_importing_it_imports_no_framework() -> None:
    code = "import sys, rmsprop.monitor; print([m for m in ('torch', 'jax', 'keras') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_rule_is_what_the_step_had() -> None:
    """A scheduler changes the rate after the step; the record has the rate of the step."""
    model = net()
    optimizer = RMSprop(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    monitor = Monitor(optimizer, model, every=1)
    for step in range(3):
        train(model, optimizer, range(step, step + 1))
        schedule.step()
    assert [record["groups"][0]["lr"] for record in monitor.records] == [1.0, 0.5, 0.25]
    assert isinstance(optimizer.rule(), Rule)
