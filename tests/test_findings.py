"""Findings: each occurs in a training that provokes it and not in a similar one, and its numbers come true."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import findings
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmsprop import InputError, Rule, init, profile, update
from rmsprop.lab.find_task import load_task
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.runaway_loss import find_runaway_loss
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.task import Task
from rmsprop.lab.tasks.shakespeare import shakespeare
from rmsprop.monitor import Monitor
from rmsprop.monitor.findings import KINDS, Finding, find
from rmsprop.monitor.findings.finding import counted, in_torch
from rmsprop.monitor.findings.history import History, Observation
from rmsprop.monitor.statistics import describe, sums
from rmsprop.torch import RMSprop

CASES = {case.kind: case for case in findings.CASES}
# Kinds that remain where the remedy is followed.
LEFT = {"state stall": {"stall"}}
# Other kinds in the runs that provoke a kind.
BESIDE = {"long steps": {"first step", "oscillation"}, "state stall": {"stall"}}


def follow(gradients: torch.Tensor, start: float = 1.0, **options: Any) -> list[Any]:
    """Step a 2 × 2 matrix with these gradients, one each step; return a record of every step."""
    p = torch.full((2, 2), start, dtype=torch.float64)
    optimizer = RMSprop([p], **options)
    with Monitor(optimizer, every=1) as monitor:
        for g in gradients:
            p.grad = g.double().expand(2, 2).clone()
            optimizer.step()
        return monitor.records


def of_kind(kind: str, records: list[Any]) -> list[Finding]:
    return [finding for finding in find(records) if finding.kind == kind]


# -- every kind: provoked, and silent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CASES)
def test_a_run_provokes_it_one_beside_it_does_not_and_each_remedy_cures_it(kind: str) -> None:
    records = CASES[kind].run()
    found = find(records)
    assert {f.kind for f in found} == {kind} | BESIDE.get(kind, set())
    assert {f.kind for f in KINDS[kind](History(records))} == {kind}
    for finding in found:
        assert (finding.tensor or "norm") in finding.sentence
        assert str(finding).startswith(f"Step {finding.step}: {finding.sentence}\n  Cause: ")
        assert 1 <= finding.step <= records[-1]["step"]
        for change in finding.changes:  # names that `rmsprop train` also takes, and remedies for code
            assert change.keys() <= {*vars(Rule()), "stochastic_rounding", "group", "clip"}
    assert find(json.loads(json.dumps(records, allow_nan=False))) == found
    assert find(CASES[kind].silent[1]()) == []
    worst = next(f for f in found if f.kind == kind)
    runs = findings.cures(CASES[kind], worst)
    assert runs
    for words, cured in runs:
        assert words in worst.remedy
        left = {f.kind for f in find(cured())}
        assert left <= LEFT.get(kind, set()), words


def test_every_kind_is_in_the_table_of_the_page() -> None:
    stored = json.loads(findings.FOUND.read_text())["cases"]
    assert [(c["kind"], c["loud"], c["silent"]) for c in stored] == [
        (c.kind, c.provoked, c.silent[0]) for c in findings.CASES
    ]
    assert list(CASES) == list(KINDS)
    text = findings.PAGE.read_text()
    assert findings.with_table(text) == text


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Rule(bias_correction=True), Rule(lr=1e-3)], ids=["corrected", "slow"])
@pytest.mark.parametrize(
    ("task", "epochs", "bound"),
    [(partial(load_task, "digits"), 3, 0.7), (partial(load_task, "mnist"), 1, 0.7), (partial(shakespeare, 1), 1, 4.5)],
    ids=["digits", "mnist", "shakespeare"],
)
def test_a_healthy_run_has_none(task: Callable[[], Task], epochs: int, bound: float, rule: Rule) -> None:
    training = TrainingLoop(task(), with_optimizer(lambda params: RMSprop.from_rule(params, rule)), 0, epochs)
    with Monitor(training.optimizer, training.model, every=5) as monitor:
        told: list[Any] = [record for records in training.run() for record in records]
    metric = [record for record in told if record["kind"] == "epoch"][-1]["validation_metric"]
    assert metric > bound if training.score.higher_is_better else metric < bound
    assert find(monitor.records) == []
    assert find_runaway_loss(LossHistory(told), rule.lr) is None


def test_a_network_that_died_gets_no_gradient() -> None:
    first = torch.nn.Linear(4, 8)
    torch.nn.init.constant_(first.bias, -100.0)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Linear(8, 2))
    losses = ((model(torch.randn(16, 4)) - torch.randn(16, 2)).square().mean() for _ in range(40))
    found = of_kind("dead rows", findings.train(model, losses))
    assert [f.sentence for f in found] == [
        f"No gradient reaches {name}." for name in ("0.weight", "0.bias", "2.weight")
    ]


# -- the numbers come true ---------------------------------------------------------------------------------------------


def test_where_eps_governs_steps_are_those_of_sgd() -> None:
    for inside in (False, True):
        records = findings.line(noise=0.1, eps=100.0, eps_inside_sqrt=inside)
        for finding in of_kind("eps", records):
            last = records[-1]["tensors"][finding.tensor]
            assert finding.evidence["sgd_lr"] == 1e-3 / (10 if inside else 100)
            assert last["update_rms"] == pytest.approx(finding.evidence["sgd_lr"] * last["gradient_rms"], rel=0.02)
    assert "SGD with momentum" in of_kind("eps", findings.line(eps=1.0, momentum=0.5))[0].sentence


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("first_moment", [False, True])
def test_where_eps_governs_sgd_with_the_named_rate_and_momentum_makes_the_same_steps(
    first_moment: bool, nesterov: bool
) -> None:
    gradients = torch.randn(200)
    options: dict[str, Any] = {"momentum": 0.9, "first_moment": first_moment, "nesterov": nesterov}
    records = follow(gradients, eps=1e4, **options)
    finding = of_kind("eps", records)[0]
    assert ("with rate (1−μ)·η/ε = " in finding.sentence) == first_moment
    p = torch.ones((), dtype=torch.float64)
    sgd = torch.optim.SGD([p], lr=finding.evidence["sgd_lr"], momentum=0.9, nesterov=nesterov)
    for g in gradients:
        p.grad, before = g.double(), p.item()
        sgd.step()
    assert records[-1]["tensors"]["0.0"]["update_rms"] == pytest.approx(abs(p.item() - before), rel=1e-3)


def test_eps_counts_only_where_there_are_gradients() -> None:
    """Half of the elements never get a gradient: v = 0 < ε is no finding there. Dead elements hide no others."""
    g = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert of_kind("eps", follow(g.expand(20, 2, 2))) == []
    found = of_kind("eps", follow(1e-9 * g.expand(20, 2, 2)))
    assert [f.evidence["share"] for f in found] == [1.0]
    assert [f.evidence["eps_share"] for f in found] == [1.0]
    assert [f.evidence["zero_gradient_share"] for f in found] == [0.75]


def test_the_first_step_is_as_long_as_it_says() -> None:
    finding = of_kind("first step", follow(torch.randn(20), start=0.05))[0]
    assert finding.evidence["update_rms"] == pytest.approx(0.1, rel=1e-4)
    assert "10·η" in finding.cause
    assert finding.changes == ({"bias_correction": True}, {"lr": 0.001})
    assert of_kind("first step", follow(torch.randn(20), start=0.5)) == []
    assert of_kind("first step", follow(torch.randn(20), start=0.05, bias_correction=True)) == []
    assert of_kind("first step", follow(torch.randn(20), start=0.05, initial_square_avg=1.0)) == []
    assert of_kind("first step", follow(torch.randn(20), start=0.0)) == []  # a parameter of 0 has nothing to lose


def test_the_first_step_of_a_warm_up_is_short() -> None:
    p = torch.full((2, 2), 0.05)
    optimizer = RMSprop([p])
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 200))
    monitor = Monitor(optimizer, every=50)
    for _ in range(200):
        p.grad = torch.randn(2, 2)
        optimizer.step()
        warm_up.step()
    assert of_kind("first step", monitor.records) == []


def test_centered_with_bias_correction_has_a_first_step_of_its_own() -> None:
    finding = of_kind("first step", follow(torch.randn(20), lr=1e-6, centered=True, bias_correction=True, start=0.01))[
        0
    ]
    assert "variance of the first gradient" in finding.cause
    assert finding.changes == ({"lr": 1e-7},)


def test_centered_gets_no_remedy_that_makes_its_first_step_far_longer() -> None:
    finding = of_kind("first step", follow(torch.randn(20), start=0.05, centered=True))[0]
    assert finding.evidence["update_rms"] == pytest.approx(0.01 / math.sqrt(0.99 * 0.01), rel=1e-4)
    assert "η/√(β·(1−β)) = 10.1·η" in finding.cause
    assert finding.changes == ({"lr": 0.001},)
    early = of_kind("start", follow(torch.full((20,), 1e-3), centered=True, initial_square_avg=1.0))[0]
    assert early.changes == ({"initial_square_avg": 0.0, "lr": 0.001},)
    cured = follow(torch.full((20,), 1e-3), centered=True, **early.changes[0])
    assert of_kind("start", cured) == []


def proposed(finding: Finding) -> float:
    eps: float = finding.changes[0]["eps"]
    return eps


def test_centered_eps_is_compared_with_the_deviation() -> None:
    torch.manual_seed(0)
    g = 1 + 1e-4 * torch.randn(200)
    finding = of_kind("eps", follow(g, centered=True, alpha=0.9, eps=0.01))[0]
    assert "is larger than √s, s = v − m²;" in finding.cause
    assert 2e-7 < proposed(finding) < 2e-6
    assert of_kind("eps", follow(g, centered=True, alpha=0.9, eps=proposed(finding))) == []
    at_floor = findings.constant(0.0, centered=True, alpha=0.9, eps=1e-2)
    assert [f.kind for f in find(at_floor)] == ["variance floor"]


@pytest.mark.parametrize("inside", [False, True])
def test_a_proposed_eps_is_below_the_present_one(inside: bool) -> None:
    """Holds also where a few elements have large gradients."""
    eps, g = 1e-6 if inside else 1e-3, torch.tensor([[1.0, 1e-5], [1e-5, 1e-5]])
    finding = of_kind("eps", follow(g.expand(20, 2, 2), eps=eps, eps_inside_sqrt=inside))[0]
    assert 0 < proposed(finding) < 0.2 * eps


@pytest.mark.parametrize(
    ("k", "alpha", "eps", "inside"),
    [
        (11.0, 0.99, 0.0, False), (40.0, 0.99, 0.0, False), (1e4, 0.9, 1e-8, False), (40.0, 0.99, 1.0, False),
        (40.0, 0.99, 1.0, True), (40.0, 0.99, 100.0, False), (40.0, 0.99, 1e4, True),
    ],
)  # fmt: skip
def test_steps_recover_from_a_spike_when_it_says(k: float, alpha: float, eps: float, inside: bool) -> None:
    gradients = torch.ones(500)
    gradients[19] = k
    records = follow(gradients, alpha=alpha, lr=1e-5, initial_square_avg=1.0, eps=eps, eps_inside_sqrt=inside)
    finding = of_kind("spike", records)[0]
    lengths = {r["step"]: r["tensors"]["0.0"]["update_rms"] / 1e-5 for r in records}
    assert finding.step == 20
    assert finding.evidence["times_history"] == pytest.approx(k, rel=1e-3)
    assert finding.evidence["step_in_lr"] == pytest.approx(lengths[20], rel=1e-3)
    recovered = min(t for t in lengths if t > 20 and lengths[t] >= 0.9 * lengths[19])
    if eps >= 100:
        assert finding.evidence["recovery_steps"] == 0
        assert finding.sentence.endswith("long, and steps after it have 90 % of their usual length at least.")
    else:
        assert finding.evidence["recovery_steps"] > 20
    assert abs(recovered - (20 + finding.evidence["recovery_steps"])) <= 1


def test_the_steps_of_an_average_of_gradients_say_how_far_gradients_agree() -> None:
    """docs/monitor.md: η where they agree, η·√((1−μ)/(1+μ)) where they are noise."""
    torch.manual_seed(0)
    p = torch.zeros(2000)
    optimizer = RMSprop.from_rule([p], profile("adam"))
    monitor = Monitor(optimizer, every=1)
    lengths = {}
    for signal in (0.0, 1.0):
        for _ in range(300):
            p.grad = signal + (1 - signal) * torch.randn(2000)
            optimizer.step()
        update: Any = monitor.records[-1]["tensors"]["0.0"]["update_rms"]
        lengths[signal] = update / 1e-3
    assert lengths[0.0] == pytest.approx(math.sqrt(0.1 / 1.9), rel=0.05)
    assert lengths[1.0] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("rule", ["adam-b1-0", "adam", "nadam"])
@pytest.mark.parametrize(("k", "beta"), [(11.0, 0.999), (40.0, 0.99)])
def test_a_spike_weighs_more_in_a_young_average(rule: str, k: float, beta: float) -> None:
    """Bias correction divides by 1 − βᵗ. An average of gradients has forgotten the spike long before v."""
    gradients = torch.ones(500)
    gradients[19] = k
    records = follow(gradients, **in_torch(vars(profile(rule, lr=1e-5, decay=beta))))
    finding = of_kind("spike", records)[0]
    lengths = {r["step"]: r["tensors"]["0.0"]["update_rms"] for r in records}
    recovered = 1 + max(t for t in lengths if t > 20 and lengths[t] < 0.9 * 1e-5)
    assert finding.evidence["recovery_steps"] == pytest.approx(recovered - 20, abs=1)


@pytest.mark.parametrize(
    "options", [{"initial_square_avg": 1.0}, {}, {"eps": 1.0}, {"eps": 1.0, "eps_inside_sqrt": True}], ids=str
)
def test_a_maximum_keeps_a_spike_and_steps_stay_as_short_as_it_says(options: dict[str, Any]) -> None:
    gradients = torch.ones(900)
    gradients[19] = 40.0
    options = {"bias_correction": not options.get("initial_square_avg"), "eps": 0.0, **options}
    records = follow(gradients, lr=1e-5, alpha=0.98, amsgrad=True, **options)
    finding = of_kind("spike", records)[0]
    lengths = [r["tensors"]["0.0"]["update_rms"] for r in records]
    assert finding.evidence["times_shorter"] == pytest.approx(lengths[18] / lengths[-1], rel=1e-4)
    assert f"in the long run, steps are up to {finding.evidence['times_shorter']:.3g} times shorter" in finding.sentence
    gradients[19] = 11.0
    small = of_kind("spike", follow(gradients, lr=1e-5, amsgrad=True, alpha=0.999, initial_square_avg=1.0))[0]
    assert small.sentence.endswith("long, and steps after it have 90 % of their usual length at least.")


@pytest.mark.parametrize("bias_correction", [False, True])
def test_a_spike_below_an_earlier_maximum_shortens_no_step(bias_correction: bool) -> None:
    gradients = torch.ones(900)
    gradients[:20], gradients[500] = 30.0, 40.0
    options: dict[str, Any] = {"alpha": 0.98, "amsgrad": True, "bias_correction": bias_correction}
    finding = of_kind("spike", follow(gradients, lr=1e-5, **options))[0]
    assert finding.evidence["times_shorter"] == pytest.approx(2, rel=1e-4)  # one bin of the histogram
    gradients[500] = 400.0
    records = follow(gradients, lr=1e-5, **options)
    lengths = [r["tensors"]["0.0"]["update_rms"] for r in records]
    assert lengths[498] / lengths[-1] <= of_kind("spike", records)[0].evidence["times_shorter"] < 8


def test_a_spike_where_eps_is_beyond_measure_shortens_no_step() -> None:
    """ε/√v is infinite in double precision."""
    gradients = torch.full((30,), 1e-150, dtype=torch.float64)
    gradients[19] *= 40
    records = follow(gradients, eps=1e200, bias_correction=True)
    assert of_kind("spike", records)[0].evidence["recovery_steps"] == 0


def test_a_spike_is_measured_against_a_history_that_is_too_young() -> None:
    """After one step v is (1−β)·g², and √v is a tenth of g: an equal second gradient is no spike."""
    assert of_kind("spike", follow(torch.ones(10))) == []
    assert of_kind("spike", follow(9 * torch.arange(1.0, 3.0))) == []
    assert [f.step for f in of_kind("spike", follow(torch.tensor([1.0, 12.0, 12.0])))] == [2]


def test_v_forgets_its_start_when_it_says() -> None:
    size = 1e-3
    records = follow(torch.full((200,), size), initial_square_avg=1.0, alpha=0.9)
    early = of_kind("start", records[:20])[0]
    assert early.evidence["half_life"] == pytest.approx(math.log(2) / -math.log(0.9))
    assert early.evidence["history_rms"] ** 2 == pytest.approx(0.9**19, rel=1e-4)
    at = records[20 + early.evidence["steps_left"]]["tensors"]["0.0"]
    assert at["history_rms"] ** 2 == pytest.approx(2 * size**2, rel=0.2)  # v₀ has as much weight left as g²
    assert of_kind("start", records) == []
    assert of_kind("start", follow(torch.full((20,), size), initial_square_avg=1.0, bias_correction=True)) == []


@pytest.mark.parametrize(("eps", "inside"), [(0.01, False), (1e-4, True)])
def test_steps_become_longer_than_at_the_start_as_it_says(eps: float, inside: bool) -> None:
    size = 1e-3  # below ε
    records = follow(
        torch.full((400,), size), initial_square_avg=1.0, alpha=0.9, eps=eps, eps_inside_sqrt=inside, lr=1e-6
    )
    early = of_kind("start", records[:20])[0]
    lengths = [r["tensors"]["0.0"]["update_rms"] for r in records]
    assert early.evidence["times_shorter"] == pytest.approx(lengths[-1] / lengths[19], rel=1e-3)
    at = records[20 + early.evidence["steps_left"]]["tensors"]["0.0"]
    assert at["history_rms"] == pytest.approx(math.hypot(0.01, size), rel=0.2)  # near the final d
    assert of_kind("start", records[:75]) == []


def test_a_maximum_keeps_its_start() -> None:
    options: dict[str, Any] = {"alpha": 0.9, "amsgrad": True, "lr": 1e-6}
    records = follow(torch.full((400,), 1e-3), initial_square_avg=1.0, **options)
    with_0 = follow(torch.full((400,), 1e-3), **options)
    for until in (20, 400):
        finding = of_kind("start", records[:until])[0]
        assert finding.sentence.startswith("The maximum w of 0.0 keeps v₀ = 1: it is 0.9 where g² is 1e-06. Steps stay")
        lengths = [made[-1]["tensors"]["0.0"]["update_rms"] for made in (with_0, records)]
        assert finding.evidence["times_shorter"] == pytest.approx(lengths[0] / lengths[1], rel=1e-4)
    for change in finding.changes:
        assert of_kind("start", follow(torch.full((400,), 1e-3), **options, **change)) == []
    assert of_kind("start", follow(torch.full((400,), 0.4), initial_square_avg=1.0, **options)) == []


def later(records: list[Any], steps: int, age: bool = True) -> list[Any]:
    """Return the records of a tensor that joined the run after `steps` steps."""
    for record in records:
        record["step"] += steps
        record["tensors"]["0.0"]["age"] = record["step"] - 1 - (steps if age else 0)
    return records


def test_a_tensor_that_joins_late_is_as_old_as_it_is() -> None:
    young = torch.tensor([1.0, 1.2, 1.0, 1.1])  # v is (1−β)·g² after its first step
    assert of_kind("spike", later(follow(young), 500)) == []
    assert of_kind("spike", later(follow(young), 500, age=False)) != []
    options: dict[str, Any] = {"initial_square_avg": 1.0, "alpha": 0.9}
    assert len(of_kind("start", later(follow(torch.full((20,), 1e-3), **options), 500))) == 1


def test_rows_that_got_no_gradient_for_long_are_told_from_those_that_never_got_one() -> None:
    never = of_kind("dead rows", findings.words(50))[0].sentence
    assert never == (
        "50 of the 100 rows of 0.weight (50 %) have had no gradient, or none above a millionth of the "
        "tensor's, for 60 steps."
    )
    g = torch.ones(60, 2, 2)
    g[1:, 1] = 0  # the second row gets a gradient in the first step only
    records = follow(g, alpha=0.5)
    assert of_kind("dead rows", records[:40]) == []
    since = of_kind("dead rows", records)[0].sentence
    assert since == (
        "1 of the 2 rows of 0.0 (50 %) has had no gradient, or none above a millionth of the tensor's, for 40 steps."
    )


def test_a_step_or_two_say_nothing_of_rows() -> None:
    table = torch.nn.Embedding(100, 4)
    optimizer = RMSprop(table.parameters())
    monitor = Monitor(optimizer, every=1)
    for step, many in enumerate([0, 0, 0, 1], start=1):  # three records after step 1 are needed
        optimizer.zero_grad()
        table(torch.arange(10)).square().sum().backward()
        optimizer.step()
        assert len(of_kind("dead rows", monitor.records)) == many, step


@pytest.mark.parametrize("first_moment", [False, True])
def test_l2_decay_goes_through_the_buffer(first_moment: bool) -> None:
    """A buffer of updates makes ten of one; an average of gradients makes one of one."""
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(400)
    options: dict[str, Any] = {
        "lr": 1e-3 if first_moment else 1e-4, "weight_decay": 1e-3, "bias_correction": True, "start": 2.0,
        "momentum": 0.9, "first_moment": first_moment,
    }  # fmt: skip
    records, plain = follow(noise, **options), follow(noise, **{**options, "weight_decay": 0.0})
    finding = of_kind("weight decay", records)[0]
    gap = math.log(plain[-1]["tensors"]["0.0"]["parameter_rms"] / records[-1]["tensors"]["0.0"]["parameter_rms"]) / 400
    assert finding.evidence["shrinkage"] == pytest.approx(gap, rel=0.3)
    assert f"by {finding.evidence['shrinkage']:.2g} of itself" in finding.sentence
    assert ("the buffer makes 1/(1−μ) = 10 of 1" in finding.cause) == (not first_moment)
    assert finding.changes[1]["weight_decay"] * options["lr"] == pytest.approx(gap, rel=0.4)
    for change in finding.changes:
        assert of_kind("weight decay", follow(noise, **{**options, **change})) == []


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"first_moment": True}, "η·(1−μ)/√(1−β) = 2·η"),
        ({"nesterov": True}, "η·(1+μ)/√(1−β) = 18·η"),
        ({"first_moment": True, "nesterov": True}, "η·(1−μ)·(1+μ)/√(1−β) = 3.6·η"),
        ({"first_moment": True, "amsgrad": True, "centered": True}, "η·(1−μ)/√(β·(1−β)) = 2.01·η"),
    ],
    ids=str,
)
def test_the_first_step_with_momentum_is_as_long_as_it_says(options: dict[str, Any], length: str) -> None:
    finding = of_kind("first step", follow(torch.randn(20).sign(), start=0.005, momentum=0.8, **options))[0]
    assert f"the first step is {length} for every element" in finding.cause
    assert finding.evidence["update_rms"] == pytest.approx(0.01 * float(length.split()[2].rstrip("·η")), rel=5e-3)


@pytest.mark.parametrize(
    ("options", "edge", "curvature"),
    [
        ({}, "2/η", 200.0),
        ({"momentum": 0.5, "nesterov": True}, "2(1+μ)/((1+2μ)·η)", 150.0),
        ({"momentum": 0.5}, "2(1+μ)/η", None),  # reaches no cycle of two
        ({"momentum": 0.5, "first_moment": True}, "2(1+μ)/((1−μ)·η)", None),
        ({"momentum": 0.5, "first_moment": True, "nesterov": True}, "2(1+μ)/((1+2μ)·(1−μ)·η)", 300.0),
        (
            {"momentum": 0.5, "first_moment": True, "nesterov": True, "bias_correction": True, "momentum_decay": 0.004},
            "2(1+μ)/((1+μ−2μ·μₜ)·η) at μₜ = 0.347",
            3 / (1.5 - 0.3468) / 0.01,
        ),
    ],
)
def test_an_oscillation_is_at_the_edge_that_it_names(
    options: dict[str, Any], edge: str, curvature: float | None
) -> None:
    p = torch.ones(2, 2, dtype=torch.float64)
    optimizer = RMSprop([p], alpha=0.9, **options)
    with Monitor(optimizer, every=20, last=0) as monitor:
        for _ in range(3000):
            p.grad = p.clone()  # gradient of p²/2
            optimizer.step()
    finding = of_kind("oscillation", monitor.records)[0]
    assert f"divided by d, has reached the edge of stability, {edge} with η = 0.01" in finding.cause
    assert ("is about η/2 wide" in finding.remedy) == (not options)
    if curvature is not None:
        root: Any = monitor.records[-1]["tensors"]["0.0"]["history_rms"]
        assert 1 / root == pytest.approx(curvature, rel=1e-3)


def test_l2_decay_shrinks_as_it_says() -> None:
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(200)
    options: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-3, "bias_correction": True, "start": 2.0}
    records, plain = follow(noise, **options), follow(noise, **{**options, "weight_decay": 0.0})
    finding = of_kind("weight decay", records)[0]
    # The same steps without decay: the difference is the effect of decay.
    gap = math.log(plain[-1]["tensors"]["0.0"]["parameter_rms"] / records[-1]["tensors"]["0.0"]["parameter_rms"]) / 200
    assert finding.evidence["lr_times_weight_decay"] == pytest.approx(1e-6)
    assert finding.evidence["shrinkage"] == pytest.approx(gap, rel=0.5)
    assert finding.evidence["shrinkage"] > 50 * 1e-6
    assert of_kind("weight decay", follow(noise[:30], **options, decoupled_weight_decay=True)) == []
    assert of_kind("weight decay", follow(100 * noise[:30], **options)) == []  # d is about 1
    assert of_kind("weight decay", follow(noise[:30], **options, eps=1.0)) == []  # ε governs: SGD, which decays by η·λ
    strong = {**options, "weight_decay": 1.0}
    assert "times less than" in of_kind("weight decay", follow(1e4 * noise[:30], **strong))[0].sentence


def test_l2_decay_is_found_where_it_matters_or_does_not_act() -> None:
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(40).sign()

    def found(weight_decay: float) -> list[Finding]:
        return of_kind("weight decay", follow(noise, lr=1e-4, bias_correction=True, weight_decay=weight_decay, start=2))

    size = 0.01  # size of a gradient; λ·p is 2·λ
    assert found(0.02 * size / 2)[0].evidence["share_of_gradient"] == pytest.approx(0.02, rel=0.3)
    assert found(0.004 * size / 2) == []  # a hundred times η·λ, but negligible
    weak = found(0.0004 * size / 2)[0]
    assert weak.sentence.startswith("L2 decay does next to nothing to 0.0: λ·p is 0.0")
    assert weak.evidence["share_of_gradient"] == pytest.approx(0.0004, rel=0.3)
    assert found(0.0) == []
    for change in weak.changes:
        options = {"lr": 1e-4, "bias_correction": True, "weight_decay": 0.0004 * size / 2, "start": 2.0, **change}
        assert of_kind("weight decay", follow(noise, **options)) == []


@pytest.mark.parametrize(("dtype", "remedy"), [("bfloat16", "stochastic"), ("float16", "float32"), ("float32", "lr")])
def test_a_stall_names_the_remedy_of_its_dtype(dtype: str, remedy: str) -> None:
    p = torch.ones(4, 4, dtype=getattr(torch, dtype))
    optimizer = RMSprop([p], lr=1e-9)
    monitor = Monitor(optimizer, every=1)
    for _ in range(5):
        p.grad = torch.ones_like(p)
        optimizer.step()
    finding = of_kind("stall", monitor.records)[0]
    assert finding.evidence["share"] == 1.0
    assert remedy in finding.remedy
    assert of_kind("short steps", monitor.records) == []  # reported once


@pytest.mark.parametrize(("stochastic", "stalled"), [(False, {"0.0", "0.1"}), (True, {"0.1"})])
def test_a_stall_names_the_dtype_of_the_tensor_and_not_of_its_group(stochastic: bool, stalled: set[str]) -> None:
    dtypes = {"0.0": torch.bfloat16, "0.1": torch.float32}
    params = [torch.ones(4, 4, dtype=dtype) for dtype in dtypes.values()]
    optimizer = RMSprop(params, lr=1e-9, stochastic_rounding=stochastic)
    monitor = Monitor(optimizer, every=1)
    for _ in range(5):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    found = {f.tensor: f for f in of_kind("stall", monitor.records)}
    assert set(found) == stalled
    assert found["0.1"].evidence["param_dtype"] == "float32"
    assert found["0.1"].changes == ({"lr": 0.001},)
    assert stochastic or found["0.0"].evidence["param_dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_state_stall_is_of_the_tensor_and_not_of_its_group(dtype: str) -> None:
    records = follow(torch.full((20,), 0.1), alpha=0.9, initial_square_avg=1.0)
    for record in records:
        record["groups"][0]["state_dtype"] = "bfloat16, float32"
        record["tensors"]["0.0"].update(state_dtype=dtype, history_rms=1.0)
    assert len(of_kind("state stall", records)) == (dtype == "bfloat16")
    for record in records:
        record["groups"][0]["amsgrad"] = True
    assert of_kind("state stall", records) == []  # the maximum sets the steps


def test_rates_at_the_end_of_a_schedule_are_not_too_small() -> None:
    for end, kinds in ((1e-9, []), (1.0, ["short steps"])):

        def factor(step: int, end: float = end) -> float:
            return end if step > 5 else 1.0

        p = torch.full((2, 2), 3.0, dtype=torch.float64)
        optimizer = RMSprop([p], lr=1e-9 / end)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        monitor = Monitor(optimizer, every=1)
        for _ in range(30):
            p.grad = torch.randn(2, 2, dtype=torch.float64)
            optimizer.step()
            schedule.step()
        assert [f.kind for f in find(monitor.records) if "steps" in f.kind] == kinds


def test_skipped_steps_are_counted() -> None:
    records = findings.digits(nonfinite="skip", before_step=findings.break_down)
    finding = of_kind("nonfinite", records)[0]
    assert finding.tensor is None
    assert finding.evidence == {"nonfinite_steps": 1}


@pytest.mark.parametrize(
    ("mode", "after"),
    [
        ("propagate", "they went into v and stay there."),
        ("skip", "they made the optimizer skip the whole step."),
        ("zero", "they each counted as 0."),
    ],
)
def test_what_became_of_gradients_that_are_not_finite(mode: str, after: str) -> None:
    records = findings.digits(steps=50, nonfinite=mode, before_step=findings.break_down)
    finding = of_kind("nonfinite", records)[0]
    assert after in finding.sentence
    assert f'nonfinite="{mode}"' not in finding.remedy
    assert ("a checkpoint of step 30 or before is free" in finding.cause) == (mode == "propagate")
    assert finding.changes == (({"nonfinite": "skip"},) if mode == "propagate" else ())
    if mode == "propagate":
        for record in records:
            for group in record["groups"]:
                del group["nonfinite"]  # records of optax and Keras lack this key
        assert of_kind("nonfinite", records) == [finding]


@pytest.mark.parametrize(
    ("mode", "after"),
    [
        ("propagate", "it went into v and stays there."),
        ("skip", "it made the optimizer skip the whole step."),
        ("zero", "it counted as 0."),
    ],
)
def test_one_element_that_is_not_finite_is_told_in_the_singular(mode: str, after: str) -> None:
    p = torch.ones(2, 2, dtype=torch.float64)
    optimizer = RMSprop([p], nonfinite="zero")
    monitor = Monitor(optimizer, every=1)
    for value in (1.0, math.inf, 1.0):
        p.grad = torch.ones_like(p)
        p.grad[0, 1] = value
        optimizer.step()
    for record in monitor.records:
        record["groups"][0]["nonfinite"] = mode
    told = of_kind("nonfinite", monitor.records)[0].sentence
    assert told == f"1 element of the gradient of 0.0 was not finite in step 2, the first such step on record; {after}"
    for record in monitor.records:  # as if the skipped step was not measured
        record["tensors"]["0.0"]["nonfinite"] = 0
    assert "were met in 1 step; they" in of_kind("nonfinite", monitor.records)[0].sentence


def test_one_row_and_one_step_are_told_in_the_singular() -> None:
    g = torch.zeros(60, 2, 2)
    g[0] = 1  # v forgets the first gradient in one step at β = 1e-12
    g[:, 0] = 1
    told = of_kind("dead rows", follow(g, alpha=1e-12))[0].sentence
    assert told == (
        "1 of the 2 rows of 0.0 (50 %) has had no gradient, or none above a millionth of the tensor's, for 1 step."
    )
    spiked = torch.ones(40)
    spiked[19] = 20.0
    spike = of_kind("spike", follow(spiked, alpha=1e-4))[0]
    assert spike.sentence.endswith("length again 1 step later.")
    start = of_kind("start", follow(torch.full((2,), 1e-3), initial_square_avg=1.0, alpha=0.5))[0]
    assert "half of it in 1 step, ln 2" in start.cause
    assert [counted(x, "step") for x in (1, "1", 2, "0.5")] == ["1 step", "1 step", "2 steps", "0.5 steps"]


def test_a_cycle_of_two_is_not_taken_for_clipping() -> None:
    """Its norms are also the same at every step."""
    p = torch.ones(2, 2, dtype=torch.float64)
    optimizer = RMSprop([p], alpha=0.9)
    with Monitor(optimizer, every=20, last=0) as monitor:
        for _ in range(1500):
            p.grad = p.clone()  # gradient of p²/2
            optimizer.step()
    newest: list[Any] = monitor.records[-10:]
    assert max(r["gradient_norm"] for r in newest) < 1.001 * min(r["gradient_norm"] for r in newest)
    assert newest[-1]["tensors"]["0.0"]["parameter_rms"] == pytest.approx(0.005, rel=1e-3)  # η/2, as the remedy says
    assert [f.kind for f in find(newest)] == ["long steps", "oscillation"]


def test_a_variance_at_its_floor_because_of_the_start() -> None:
    records = follow(torch.full((30,), 1e-6), initial_square_avg=1.0, bias_correction=True, alpha=0.999)
    found = of_kind("variance floor", [json.loads(json.dumps(r)) for r in records])
    assert not found  # float64 has enough digits
    p = torch.ones(2, 2)
    optimizer = RMSprop([p], initial_square_avg=1.0, bias_correction=True, alpha=0.999)
    monitor = Monitor(optimizer, every=1)
    for _ in range(30):
        p.grad = torch.full((2, 2), 1e-6)
        optimizer.step()
    assert "v₀ = 1" in of_kind("variance floor", monitor.records)[0].cause


@given(
    st.lists(st.sampled_from([0.0, 1e-12, 1e-4, 0.3, 1.0, 7.0, 1e6]), min_size=1, max_size=50),
    st.sampled_from([0.0, 1e-8, 1e-3, 1.0]),
    st.booleans(),
)
def test_the_median_divisor_is_of_the_elements_that_eps_does_not_govern(
    sizes: list[float], eps: float, inside: bool
) -> None:
    g = np.array(sizes)
    rule = Rule(eps=eps, eps_inside_sqrt=inside, bias_correction=True)
    p, state = update(rule, np.ones_like(g), g, init(rule, g))
    row, histogram = sums(
        rule, before=np.ones_like(g), after=p, gradient=g, square_avg_before=np.zeros_like(g),
        square_avg=state.square_avg, step=1,
    )  # fmt: skip
    seen = Observation(1, cast(Any, {}), cast(Any, describe(len(g), row, histogram, rule.lr, centered=False)))
    v = state.square_avg / (1 - rule.decay)
    by_v = (v >= eps if inside else np.sqrt(v) >= eps) & (np.sqrt(v) + eps > 0)
    if not by_v.any():
        assert math.isnan(seen.divisor)
        return
    d = np.sort((np.sqrt(v + eps) if inside else np.sqrt(v) + eps)[by_v])
    median = d[(len(d) - 1) // 2]  # the lower of the two middle elements
    assert median / 1.4143 <= seen.divisor <= median * 1.4143


# -- findings that a healthy run must not get --------------------------------------------------------------------------


def seen_flips(flips: str, elements: int = 1) -> list[Any]:
    """Return records, from step 2 on, of a tensor whose gradient flips its sign for each "-" in `flips`."""
    records = follow(torch.ones(len(flips) + 1))
    for record, letter in zip(records[1:], flips, strict=True):
        cosine = -1.0 if letter == "-" else 1.0
        told = {"elements": elements, "gradient_cosine": cosine, "sign_flips": float(letter == "-")}
        record["tensors"]["0.0"].update(told)
    return records


def test_the_sign_of_few_elements_is_a_coin() -> None:
    """The median of the newest ten coin tosses shows flips in more than a third of all cases."""
    for elements in (1, 2, 7):
        assert of_kind("oscillation", seen_flips("--------+-", elements)) == []
        assert of_kind("oscillation", seen_flips("-" * 9, elements)) == []
        assert len(of_kind("oscillation", seen_flips("-" * 10, elements))) == 1
        assert of_kind("oscillation", seen_flips("-----+" * 5, elements)) == []
        finding = of_kind("oscillation", seen_flips("-----------+" * 5, elements))[0]
        assert finding.evidence["sign_flips"] == pytest.approx(45 / 50)  # of the newest 50 records
        assert "90 % of its gradient" in finding.sentence
    assert len(of_kind("oscillation", seen_flips("---", 8))) == 1
    assert len(of_kind("oscillation", seen_flips("--------+-", 8))) == 1


def regression(seed: int, steps: int, noise: float, **options: Any) -> list[Any]:
    """Fit a linear map of 8 numbers to one number: its bias has one element."""
    torch.manual_seed(seed)
    model, slope = torch.nn.Linear(8, 1), torch.randn(8, 1)
    fixed = torch.randn(32, 8)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            x = torch.randn(32, 8) if noise else fixed
            yield (model(x) - x @ slope - noise * torch.randn(32, 1)).square().mean()

    records: list[Any] = findings.train(model, losses(), bias_correction=True, **options)
    return records


def test_a_bias_of_one_element_oscillates_where_it_does() -> None:
    found = of_kind("oscillation", regression(0, 300, 0.0, lr=0.03))
    assert "bias" in {finding.tensor for finding in found}
    for seed in range(6):
        records = regression(seed, 200, 1.0, lr=1e-3)
        assert [of_kind("oscillation", records[:n]) for n in range(len(records))] == [[]] * len(records)


class Keys(torch.nn.Module):
    """Attention of one head. A key's bias changes no softmax weight, because it adds the same to all scores."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1)
        out: torch.Tensor = self.o(weights @ self.v(x))
        return out


def convolution() -> torch.nn.Module:
    """Return a convolution whose bias the next BatchNorm subtracts."""
    layers = (torch.nn.Conv1d(8, 8, 3, padding=1), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Conv1d(8, 8, 1))
    return torch.nn.Sequential(*layers)


def of_cancelled_biases(make: Callable[[], torch.nn.Module], **options: Any) -> list[Any]:
    torch.manual_seed(0)
    model = make()

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(120):
            x = torch.randn(16, 8, 8)
            yield (model(x) - x.flip(2)).square().mean()

    records: list[Any] = findings.train(model, losses(), **options)
    return records


@pytest.mark.parametrize(("make", "bias"), [(Keys, "k.bias"), (convolution, "0.bias")])
@pytest.mark.parametrize(
    "options",
    [{"bias_correction": True}, {"eps": 1e-16}, {"eps": 1e-6}, {"initial_square_avg": 1.0, "alpha": 0.9}],
    ids=["usual", "by v", "by eps", "start"],
)
def test_nothing_is_said_of_a_bias_whose_gradient_is_a_rounding_error(
    make: Callable[[], torch.nn.Module], bias: str, options: dict[str, Any]
) -> None:
    records = of_cancelled_biases(make, **options)
    assert 0 < records[-1]["tensors"][bias]["gradient_rms"] < 1e-6
    assert find(records) == []
    for record in records:  # without a model there are no names; the weight beside the bias decides
        record["tensors"] = {f"0.{i}": told for i, told in enumerate(record["tensors"].values())}
    assert find(records) == []


def test_a_bias_is_judged_where_its_weight_is_no_better() -> None:
    records = of_cancelled_biases(Keys, eps=1e-16)
    for record in records:
        record["tensors"]["k.weight"]["gradient_rms"] = record["tensors"]["k.bias"]["gradient_rms"]
    assert [f.tensor for f in of_kind("effective lr", records)] == ["k.bias"]


def faint(scale: float, **options: Any) -> list[Finding]:
    """Return the findings of one of three linear maps, whose gradient is `scale` times that of the others."""
    return [f for f in find(findings.scaled(scale, **options)) if f.tensor == "2.weight"]


def test_a_smaller_eps_is_no_remedy_for_a_gradient_that_is_far_smaller_than_others() -> None:
    """With a smaller ε, the next run would be told that its effective lr is too high, and to raise ε."""
    governed = faint(1e-9)[0]
    assert governed.kind == "eps"
    assert governed.changes == ()
    assert governed.remedy.startswith("check that a signal reaches it")
    by_v = faint(1e-9, eps=1e-20)[0]
    assert by_v.kind == "effective lr"
    assert by_v.advice.startswith("check that a signal reaches it")
    times = governed.evidence["gradient_rms"] / governed.evidence["median_gradient"]
    assert f"{times:.1g} of the median" in governed.cause
    assert all(proposed(finding) > 0 for finding in of_kind("eps", findings.scaled(1.0, eps=1.0)))


def test_a_gradient_is_called_small_only_where_it_is() -> None:
    """One of three tensors has a thousandth of the others' gradient."""

    def found(size: float, late: bool = False) -> list[Finding]:
        params = [torch.ones(4, 4, dtype=torch.float64) for _ in range(3)]
        optimizer = RMSprop(params, bias_correction=True, lr=1e-3)
        monitor = Monitor(optimizer, every=1)
        for _ in range(20):
            for p, times in zip(params, (1.0, 1.0, 1e-3), strict=True):
                p.grad = size * times * torch.randn(4, 4, dtype=torch.float64)
            optimizer.step()
        if late:  # v holds small old gradients; the newest are like the others'
            for record in monitor.records:
                record["tensors"]["0.2"]["gradient_rms"] = record["tensors"]["0.1"]["gradient_rms"]
        return of_kind("effective lr", monitor.records)

    torch.manual_seed(0)
    assert found(1.0, late=True) == []
    assert found(1e10) == []  # where all tensors have run away, a step of 1e-12 is not large
    small = found(1.0)[0]
    median = small.evidence["median_gradient"]
    assert median == pytest.approx(1.0, rel=0.5)
    assert f"the median of the tensors {median:.3g};" in small.cause


# -- gradients that are not finite: where they began, and their effect -------------------------------------------------


def broken(steps: int, **bad: tuple[int, int]) -> list[Any]:
    """Train three tensors, with a record of each step. `bad` maps a tensor to a step and its number of NaNs there."""
    params = {name: torch.nn.Parameter(torch.ones(size)) for name, size in (("a", 64), ("b", 4), ("c", 16))}
    optimizer = RMSprop(params.items())
    monitor = Monitor(optimizer, every=1)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        torch.stack([p.square().sum() for p in params.values()]).prod().backward()  # type: ignore[no-untyped-call]
        for name, (at, count) in bad.items():
            if at == step:
                grad = params[name].grad
                assert grad is not None
                grad[:count] = math.nan
        optimizer.step()
    return monitor.records


def test_it_names_the_tensor_and_the_step_where_it_began_and_not_the_largest() -> None:
    found = of_kind("nonfinite", broken(9, b=(4, 1)))
    assert [(f.tensor, f.step) for f in found] == [("b", 4)]
    assert found[0].sentence == (
        "1 element of the gradient of b was not finite in step 4, the first such step on record; it went into v and "
        "stays there. By step 5 it had reached all 3 tensors."
    )
    assert found[0].evidence == {"elements": 1, "first_step": 4, "nonfinite_steps": 6, "tensors": ["b", "a", "c"]}
    several = of_kind("nonfinite", broken(9, b=(4, 2), c=(4, 3)))[0]
    assert several.tensor == "c"  # the tensor with more NaNs
    assert several.sentence.startswith(
        "Gradients of 2 of 3 tensors were not finite in step 4, the first such step on record, 3 elements in c; they"
    )
    assert several.evidence["tensors"] == ["c", "b", "a"]


def test_where_it_began_is_not_told_where_steps_before_have_no_record() -> None:
    records = broken(9, b=(4, 1))
    kept = [record for record in records if record["step"] in (1, 3, 8)]
    found = of_kind("nonfinite", kept)[0]
    assert (found.tensor, found.step) == (None, 8)
    assert found.sentence == (
        "Gradients of all 3 tensors were not finite in step 8, the first such step on record; they went into v and "
        "stay there. Steps 4 to 7 have no record, so the tensor where it began is unknown."
    )
    one = of_kind("nonfinite", [record for record in records if record["step"] in (3, 5)])[0].sentence
    assert "Step 4 has no record, so the tensor" in one
    first = of_kind("nonfinite", [record for record in records if record["step"] == 8])[0].sentence
    assert "Steps before it have no record, so the tensor" in first


def test_elements_that_count_as_0_are_told_of_each_tensor_and_step() -> None:
    records = broken(12, a=(3, 2), b=(9, 1))
    for record in records:
        for name, told in record["tensors"].items():
            told["nonfinite"] = {("a", 3): 2, ("b", 9): 1}.get((name, record["step"]), 0)
        record["groups"][0]["nonfinite"] = "zero"
        record["nonfinite_steps"] = (record["step"] >= 3) + (record["step"] >= 9)
    told = of_kind("nonfinite", records)[0].sentence
    assert told == (
        "2 elements of the gradient of a were not finite in step 3, the first such step on record; they each "
        "counted as 0. By step 9 it had reached 2 of 3 tensors. In all there were 2 such steps."
    )


def scaled_loss(bad: float, **options: Any) -> tuple[Monitor, Any]:
    """Train `RMSprop(fused=True)` with a GradScaler, which skips a step."""
    model = torch.nn.Linear(3, 2)
    optimizer = RMSprop(model.parameters(), lr=1e-3, fused=True, **options)
    monitor = Monitor(optimizer, model, every=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(6):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean() * (bad if step == 3 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return monitor, optimizer


def test_a_step_that_a_loss_scaler_skips_is_no_finding() -> None:
    monitor, optimizer = scaled_loss(math.inf)
    assert monitor.records[-1]["nonfinite_steps"] == monitor.records[-1]["skipped_steps"] == 1
    assert find(monitor.records) == []
    assert find(json.loads(json.dumps(monitor.records))) == []
    resumed = Monitor(copy.deepcopy(optimizer))
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert resumed.state_dict() == monitor.state_dict()
    assert resumed.state_dict()["skipped_steps"] == 1
    with pytest.raises(InputError, match="state must be"):
        resumed.load_state_dict({**monitor.state_dict(), "skipped_steps": None})
    for record in monitor.records:  # as older versions wrote records
        del record["skipped_steps"]
    assert "were met in 1 step; they went into v" in find(monitor.records)[0].sentence
    old = monitor.state_dict()
    del old["skipped_steps"]
    resumed.load_state_dict(old)
    assert resumed.state_dict()["skipped_steps"] == 0


def test_skipped_and_executed_steps_are_told_apart() -> None:
    skipped, _ = scaled_loss(math.inf, nonfinite="skip")
    told = of_kind("nonfinite", skipped.records)[0].sentence
    assert told.endswith("met in 1 step; they made the optimizer skip the whole step.")
    monitor, _ = scaled_loss(math.inf)
    monitor.records[-1]["nonfinite_steps"] = 3  # two steps without a record, beside the skipped one
    finding = of_kind("nonfinite", monitor.records)[0]
    assert "were met in 2 steps; they went into v and stay there" in finding.sentence
    assert "a checkpoint of step 4 or before" in finding.cause  # the record of step 5 counts the skipped step


# -- many of one kind, and records of every sort -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_more_than_three_of_a_kind_are_one_finding(count: int) -> None:
    params = [torch.ones(2, 2) for _ in range(count)]
    optimizer = RMSprop(params, eps=1.0)
    monitor = Monitor(optimizer, every=1)
    for _ in range(5):
        for p in params:
            p.grad = torch.full((2, 2), 1e-3)
        optimizer.step()
    found = of_kind("eps", monitor.records)
    if count <= 3:
        assert [f.tensor for f in found] == [f"0.{i}" for i in range(count)]
    else:
        assert [f.tensor for f in found] == ["0.0"]
        assert f" The same holds for 0.1, 0.2 and {count - 3} more tensor{'s' * (count > 4)}." in found[0].sentence
        assert found[0].evidence["also"] == [f"0.{i}" for i in range(1, count)]


def test_no_records_no_findings() -> None:
    assert find([]) == []
    assert find([{"kind": "loss", "step": 1, "loss": 2.0}]) == []


@pytest.mark.parametrize(
    ("given_records", "got"),
    [
        (None, "None"), ("x", "'x'"), (5, "5"), ([None], "None among them"), ({"kind": "statistics"}, "a dict"),
        ([{"kind": "statistics"}], "one without 'step'"),
        ([{"kind": "statistics", "step": 1, "groups": [], "tensors": {}}], "one without 'gradient_norm'"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_records_is_refused(given_records: Any, got: str) -> None:
    with pytest.raises(InputError, match=f"records must be a list of records, got {got}.*monitor.records"):
        find(given_records)


numbers = st.none() | st.floats() | st.floats(0, 1) | st.sampled_from([0.0, 1e-300, 1e-9, 0.5, 1.0, 1e300])
shares = st.none() | st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
counts = st.integers(0, 2**40)
groups = st.builds(
    lambda rule, dtype, state, stochastic, nonfinite, of_adam: {
        **rule.__dict__, "param_dtype": dtype, "state_dtype": state, "stochastic_rounding": stochastic, **nonfinite,
        **of_adam,
    },
    st.builds(
        Rule, lr=st.floats(0, 1e300), decay=st.floats(0, 1, exclude_max=True), eps=st.floats(0, 1e300),
        momentum=st.sampled_from([0.0, 0.9]), weight_decay=st.floats(0, 1e300), initial_square_avg=st.floats(0, 1e300),
        centered=st.booleans(), eps_inside_sqrt=st.booleans(), bias_correction=st.booleans(),
        decoupled_weight_decay=st.booleans(),
    ),
    st.sampled_from(["float32", "bfloat16", "float16", "bfloat16, float32", "complex64"]),
    st.sampled_from(["float32", "bfloat16", "uint8", None]),
    st.booleans(),
    st.sampled_from([{}, {"nonfinite": "propagate"}, {"nonfinite": "skip"}, {"nonfinite": "zero"}]),
    st.sampled_from([{}, {"first_moment": True}, {"amsgrad": True}, {"first_moment": True, "momentum_decay": 0.004}]),
)  # fmt: skip
tensors = st.fixed_dictionaries(
    {
        "group": st.integers(0, 1), "shape": st.lists(st.integers(0, 9), max_size=3), "elements": counts,
        **dict.fromkeys(("gradient_rms", "update_rms", "parameter_rms", "update_ratio", "history_rms"), numbers),
        **dict.fromkeys(("largest_update", "signal_to_noise", "effective_lr_median", "gradient_cosine"), numbers),
        **dict.fromkeys(("eps_share", "floor_share", "zero_gradient_share", "unchanged_share", "sign_flips"), shares),
        "age": counts, "dtype": st.sampled_from(["float32", "bfloat16"]),
        "state_dtype": st.none() | st.just("bfloat16"),
        "nonfinite": counts, "dead_rows": st.none() | counts, "rows": st.none() | counts,
        "effective_lr": st.none() | st.builds(
            lambda lr, first, many: {"lr": lr, "first": first, "counts": many},
            numbers, st.integers(-64, 0), st.lists(counts, min_size=1, max_size=8),
        ),
    }
)  # fmt: skip
records_of_every_sort = st.lists(
    st.fixed_dictionaries(
        {
            "groups": st.lists(groups, min_size=2, max_size=2),
            "tensors": st.dictionaries(st.sampled_from(list("abcd")), tensors),
            "gradient_norm": numbers, "update_norm": numbers, "nonfinite_steps": st.integers(0, 9),
        }
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(records_of_every_sort, st.integers(1, 1000))
def test_no_record_makes_it_stumble_or_repeat_itself(records: list[Any], every: int) -> None:
    for i, record in enumerate(records):
        record.update(kind="statistics", step=1 if i == 0 else i * every + 1)
    found = find(records)
    assert len({(f.kind, f.tensor) for f in found}) == len(found)
    kinds = [f.kind for f in found]
    assert all(kinds.count(kind) <= 3 for kind in kinds)
    for finding in found:
        assert str(finding)
        assert json.loads(json.dumps(finding.to_dict(), allow_nan=False))["kind"] == finding.kind


# -- remedies ----------------------------------------------------------------------------------------------------------


def test_gradients_that_are_not_finite_and_are_skipped_leave_the_parameters_finite() -> None:
    """Follow the remedy of a run in which these gradients went into v."""
    broken_down = partial(findings.digits, steps=50, before_step=findings.break_down)
    told = of_kind("nonfinite", broken_down(nonfinite="propagate"))[0]
    for change in told.changes:
        cured = broken_down(**change)[-1]
        assert cured["skipped_steps"] == 1
        assert all(math.isfinite(t["parameter_rms"]) for t in cured["tensors"].values())


def test_a_network_that_a_long_step_killed_lives_with_the_rate_that_is_told() -> None:
    def found(**options: Any) -> list[Finding]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        losses = ((model(torch.rand(64, 8)) + 1).square().mean() for _ in range(100))
        return of_kind("dead rows", findings.train(model, losses, **{"lr": 3.0, **options}))

    dead = found()
    assert "0.weight" in {f.tensor for f in dead}
    for change in dead[0].changes:
        assert found(**change) == []


def test_a_tensor_without_a_gradient_is_not_said_to_need_a_larger_rate() -> None:
    """Its steps are short because the buffer decays, not because of lr."""
    gradients = torch.zeros(200)
    gradients[:3] = 1
    records = follow(gradients, momentum=0.9)
    assert 0 < records[-1]["tensors"]["0.0"]["update_ratio"] < 1e-6
    assert [f.kind for f in find(records)] == ["dead rows"]
