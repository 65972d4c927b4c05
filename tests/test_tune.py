"""`rmsprop tune`: the space, the draws, the verdict, budgets, and studies from Python and the command line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

from rmsprop import Rule, profile
from rmsprop.cli.app import run as command
from rmsprop.errors import InputError
from rmsprop.lab import Task, tune
from rmsprop.lab.intervals import least_pairs, paired_interval, signed_rank_interval
from rmsprop.lab.runs.interrupts import Interrupted
from rmsprop.lab.tuning.draws import drawn, startup_trials
from rmsprop.lab.tuning.objective import TaskObjective
from rmsprop.lab.tuning.plan import make_plan
from rmsprop.lab.tuning.setting_file import python_line, read_best, write_best
from rmsprop.lab.tuning.space import (
    DIMENSIONS,
    Choices,
    Range,
    Setting,
    Space,
    Value,
    at_ends,
    chosen_space,
    grid,
    point_of,
    setting_of,
    widened,
)
from rmsprop.lab.tuning.trainings import Epoch, Stop, folds, gradient_rms, train_once
from rmsprop.lab.tuning.verdict import recommended
from rmsprop.lab_options import TuneOptions

FULL = chosen_space([], 1000, everything=True)


def task(**changes: Any) -> Task:
    """Return a small task that is learned in a fraction of a second."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(240, 4, generator=generator)
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) > 0).long()
    train, validation, test = (TensorDataset(x[a:b], y[a:b]) for a, b in ((0, 120), (120, 180), (180, 240)))
    values: dict[str, Any] = {"batch_size": 20, "epochs": 3, **changes}
    return Task("sums", lambda: nn.Linear(4, 2), train, validation, test, **values)


# The space


def test_the_budget_decides_what_is_tuned() -> None:
    names = {n: list(chosen_space([], n, everything=False)) for n in (2, 9, 10, 24, 25, 39, 40)}
    assert names[2] == names[9] == ["lr"]
    assert names[10] == names[24] == ["lr", "decay", "schedule"]
    assert names[25] == names[39] == ["lr", "decay", "schedule", "eps", "momentum"]
    assert names[40] == list(DIMENSIONS)
    assert list(chosen_space([], 2, everything=True)) == list(DIMENSIONS)
    assert list(chosen_space(["momentum=0.5,0.9"], 2, everything=False)) == ["lr", "momentum"]


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(1e-5, 1.0),
    decay=st.floats(1e-3, 0.3),
    momentum=st.floats(0.01, 1.0),
    first_moment=st.booleans(),
)
def test_a_point_is_the_rule_whose_coordinates_it_has(
    lr: float, decay: float, momentum: float, first_moment: bool
) -> None:
    base = Setting(Rule(first_moment=first_moment))
    space = {name: FULL[name] for name in ("lr", "decay", "momentum", "eps")}
    point = {"lr": lr, "decay": decay, "momentum": momentum, "eps": 1e-3}
    setting = setting_of(point, base, 0.05)
    mu = setting.rule.momentum
    amplified = setting.rule.lr if first_moment else setting.rule.lr / (1 - mu)  # η or η/(1−μ)
    assert math.isclose(amplified, lr, rel_tol=1e-5)
    assert math.isclose(1 - setting.rule.decay, decay, rel_tol=1e-9)
    assert math.isclose(setting.rule.eps, 5e-5, rel_tol=1e-5)  # ε/√v̂ = 1e-3
    back = point_of(setting, space, 0.05)
    for name, value in point.items():
        assert math.isclose(float(back[name]), value, rel_tol=2e-5), name


def test_eps_inside_the_root_is_the_square() -> None:
    inside = setting_of({"eps": 0.1}, Setting(Rule(eps_inside_sqrt=True)), 0.02)
    assert math.isclose(inside.rule.eps, (0.1 * 0.02) ** 2, rel_tol=1e-9)


def test_warm_up_is_in_units_of_what_the_average_remembers() -> None:
    assert setting_of({"warmup": 3.0, "decay": 0.02}, Setting(Rule()), None).warmup == 150
    assert setting_of({"warmup": 3.0}, Setting(Rule(decay=0.9)), None).warmup == 30


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("rate=1e-4:1e-1", "--space must be about one of lr, decay"),
        ("lr=0:1", "--space lr must be a range of two different numbers above 0"),
        ("lr=0.1:0.1", "--space lr must be a range of two different numbers"),
        ("lr=1:2:3", "--space lr must be a range LOW:HIGH"),
        ("decay=0.9:1", r"--space decay must be numbers in \[0, 1\), got 1"),
        ("momentum=-0.1", "--space momentum must be numbers in"),
        ("lr=nan", "--space lr must be finite numbers >= 0, got nan"),
        ("lr=fast", "--space lr must be finite numbers >= 0, got 'fast'"),
        ("schedule=0.1:0.2", "--space schedule must be values to choose from"),
        ("schedule=sine", "--space schedule must be among constant, linear, cosine, steps, got 'sine'"),
        ("centered=maybe", "--space centered must be among False, True, got 'maybe'"),
        ("missing.toml", "--space must be NAME=VALUES or a readable TOML file, got missing.toml: No such file"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(item: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        chosen_space([item], 10, everything=False)
    assert "\n" not in str(error.value)


def test_a_space_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('lr = {from = 1e-3, to = 1e-1}\nmomentum = [0, 0.9]\nschedule = ["cosine"]\ndecay = 0.95\n')
    space = chosen_space([str(file)], 2, everything=False)
    assert space["lr"] == Range(1e-3, 1e-1)
    assert space["schedule"] == Choices(("cosine",))
    rules = [setting_of(point, Setting(Rule()), None).rule for point in grid({**space, "lr": Choices((0.1,))}, 4)]
    assert {rule.momentum for rule in rules} == {0.0, 0.9}
    assert {rule.decay for rule in rules} == {0.95}
    file.write_text("lr = [")
    with pytest.raises(InputError, match="--space must be a file in TOML"):
        chosen_space([str(file)], 2, everything=False)


def test_a_range_is_widened_at_the_end_where_the_best_lies() -> None:
    space: Space = {"lr": Range(1e-3, 1e-1), "momentum": FULL["momentum"], "schedule": FULL["schedule"]}
    inside: dict[str, Value] = {"lr": 1e-2, "momentum": 0.1, "schedule": "cosine"}
    assert widened(space, inside) == space
    assert at_ends(space, inside) == []
    high = widened(space, {**inside, "lr": 0.09})["lr"]
    assert isinstance(high, Range)
    assert high.low == 1e-3
    assert high.high == pytest.approx(1e-1 * 100 ** (1 / 3))
    low = widened(space, {**inside, "lr": 1.05e-3})["lr"]
    assert isinstance(low, Range)
    assert low.high == 1e-1
    assert low.low == pytest.approx(1e-3 / 100 ** (1 / 3))
    no_momentum: dict[str, Value] = {**inside, "momentum": 1.0}  # μ = 0: there is nothing beyond
    assert widened(space, no_momentum)["momentum"] == space["momentum"]


def test_a_grid_fits_the_budget() -> None:
    space: Space = {"lr": Range(1e-3, 1e-1), "centered": Choices((False, True))}
    points = grid(space, 7)
    assert len(points) == 6
    assert [p["lr"] for p in points[::2]] == pytest.approx([1e-3, 1e-2, 1e-1])
    with pytest.raises(InputError, match="--trials must be at least 5 for this grid of 4 points"):
        grid(space, 3)


# The draws


@pytest.mark.parametrize("name", ["qmc", "random"])
def test_the_draw_of_a_slot_depends_on_seed_and_slot_only(name: str) -> None:
    again = [drawn(name, FULL, slot, 20, 3) for slot in reversed(range(20))][::-1]
    points = [drawn(name, FULL, slot, 20, 3) for slot in range(20)]
    assert points == again
    assert len({tuple(p.values()) for p in points}) == 20
    assert points != [drawn(name, FULL, slot, 20, 4) for slot in range(20)]
    for point in points:
        for key, domain in FULL.items():
            inside = point[key] in domain.values if isinstance(domain, Choices) else True
            assert inside, key
            if isinstance(domain, Range):
                assert domain.low <= float(point[key]) <= domain.high


def test_quasi_random_points_are_spread_more_evenly_than_random_ones() -> None:
    ranges = {"lr": Range(1e-4, 1.0), "decay": Range(1e-3, 0.3)}

    def holes(name: str) -> float:
        """Return the mean number of empty cells of a 4 × 4 grid with 16 points in it."""
        empty = []
        for seed in range(20):
            points = [drawn(name, {**ranges}, slot, 16, seed) for slot in range(16)]
            cells = {tuple(min(int(4 * ranges[k].share(float(p[k]))), 3) for k in ranges) for p in points}
            empty.append(16 - len(cells))
        return float(np.mean(empty))

    assert holes("qmc") < 0.8 * holes("random")


# Trainings


def test_folds_hold_out_each_example_once_and_share_the_classes() -> None:
    made: list[Any] = list(folds(task(), 4, seed=0))
    held = [sorted(each.validation.indices) for each in made]
    assert sorted(itertools.chain(*held)) == list(range(180))  # training and validation data; the test data stay aside
    for each in made:
        assert not set(each.train.indices) & set(each.validation.indices)
        assert each.test is made[0].test
    shares = [np.mean([int(each.validation[k][1]) for k in range(len(each.validation))]) for each in made]
    assert np.ptp(shares) < 0.03
    again: list[Any] = list(folds(task(), 4, seed=0))
    assert held == [sorted(each.validation.indices) for each in again]


def test_with_folds_a_decision_to_stop_never_sees_held_out_data() -> None:
    shown: list[Epoch] = []
    objective = TaskObjective(task(), None, 3, 0)
    objective.search(Setting(Rule(lr=0.01)), 0, shown.append)
    assert [epoch.number for epoch in shown] == list(range(1, 10))
    # Other targets in the held-out data of a fold change its score, and nothing that is shown.
    made: Any = folds(task(), 3, 0)[0]
    losses: list[list[float]] = []
    scores = []
    for flip in (False, True):
        held = TensorDataset(*(torch.stack([made.validation[k][i] for k in range(60)]) for i in (0, 1)))
        if flip:
            held.tensors[1][:] = 1 - held.tensors[1]
        changed = dataclasses.replace(made, validation=held)
        found: list[Epoch] = []
        done = train_once(changed, Setting(Rule(lr=0.05)), 0, None, found.append, by_training_loss=True)
        losses.append([epoch.loss for epoch in found])
        scores.append(done.score)
    assert losses[0] == losses[1]
    assert scores[0] != scores[1]


def test_a_training_that_diverges_has_no_score_and_says_where() -> None:
    done = train_once(task(), Setting(Rule(lr=1e38)), 0, None)
    assert done.score is None
    assert re.fullmatch(r"diverged at step \d+", done.reason)


def test_the_probe_measures_the_root_of_v() -> None:
    measured = gradient_rms(task(), Rule(lr=1e-8, decay=0.9), None)  # at this rate, gradients stay those of the start
    assert measured is not None
    torch.manual_seed(0)
    model, data = nn.Linear(4, 2), cast(Any, task().train)
    (gradient,) = torch.autograd.grad(
        nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1]), model.weight
    )
    assert 0.1 < measured / float(gradient.square().mean().sqrt()) < 10


def test_the_monitor_stops_a_trial_that_is_behind_the_default() -> None:
    problems: list[str] = []
    train_once(task(), Setting(Rule(lr=0.01, eps=100.0)), 0, None, lambda epoch: problems.append(epoch.problem))
    assert "ε governs" in problems


def test_a_stop_ends_the_training_at_once() -> None:
    seen = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch.number)
        raise Stop("enough")

    with pytest.raises(Stop):
        train_once(task(), Setting(Rule()), 0, None, stop)
    assert seen == [1]


# Budgets


def plan(options: TuneOptions, **changes: Any) -> Any:
    values: dict[str, Any] = {"cost": 3, "confirming_cost": 3, "higher_is_better": True, "seconds_of_epoch": 1.0}
    return make_plan(Rule(), options, **{**values, "workers": 1, **changes})


def test_what_an_option_fixes_is_not_tuned() -> None:
    made = plan(TuneOptions(trials=50, schedule="cosine"))
    assert made.defaults["RMSprop"].schedule == "cosine"
    assert "schedule" not in made.spaces["RMSprop"]
    with pytest.raises(InputError, match=r"--space must be about one of lr, decay, eps.* here, got 'schedule'"):
        plan(TuneOptions(schedule="cosine", space=("schedule=linear",)))
    with pytest.raises(InputError, match=r"--space must be about one of lr, decay, momentum.* here, got 'eps'"):
        plan(TuneOptions(space=("eps=1e-3:1",)), trains=False)
    both = plan(TuneOptions(trials=10, space=("momentum=0.5:0.9",), baseline=("SGD",)))
    assert list(both.spaces["SGD"]) == ["lr", "schedule"]  # torch's SGD is tuned by its rate alone
    assert "momentum" in both.spaces["RMSprop"]
    adam = plan(TuneOptions(trials=50, baseline=("Adam",))).spaces["Adam"]
    assert set(DIMENSIONS) - set(adam) == {"centered", "bias_correction"}  # without them it would not be Adam


def test_a_budget_in_epochs_leaves_room_to_confirm() -> None:
    made = plan(TuneOptions(total_epochs=200, seeds=7))
    assert made.trials == (200 - (3 + 1) * 7 * 3) // 3 - 2
    with pytest.raises(InputError, match="--total-epochs must be at least 96 here, got 60; 84 of them confirm"):
        plan(TuneOptions(total_epochs=60, seeds=7))


def test_too_few_seeds_to_confirm_anything_are_refused() -> None:
    plan(TuneOptions(seeds=7, top=3))
    with pytest.raises(InputError, match=r"--seeds must be at least 7 here, got 6; fewer cannot show that one of 3"):
        plan(TuneOptions(seeds=6, top=3))
    plan(TuneOptions(seeds=6, top=1))
    with pytest.raises(InputError, match="--seeds must be at least 8 here"):
        plan(TuneOptions(seeds=7, top=3, baseline=("Adam",)))


def test_outliers_and_diverged_seeds_do_not_hide_a_gain() -> None:
    pairs = [0.01, 0.02, 0.015, 0.012, 0.6, 0.011, 0.013, math.inf]  # the default failed on two seeds
    estimate, interval = signed_rank_interval(pairs, 1 - 0.05 / 4)
    assert interval is not None
    assert 0 < interval[0] <= estimate < 0.4
    _, student = paired_interval(pairs[:-1], 1 - 0.05 / 4)
    assert student is not None
    assert student[0] < 0


@pytest.mark.parametrize(("count", "confidence"), [(6, 0.95), (8, 0.95), (8, 1 - 0.05 / 3), (12, 0.99)])
def test_the_interval_of_signed_ranks_is_that_of_scipys_test(count: int, confidence: float) -> None:
    """A shift lies in the interval exactly if Wilcoxon's exact test does not reject it."""
    values = list(np.random.default_rng(count).normal(0.3, 1.0, count))
    assert count >= least_pairs(confidence)
    _, interval = signed_rank_interval(values, confidence)
    assert interval is not None
    for end, outwards in zip(interval, (-1e-9, 1e-9), strict=True):
        inside, outside = (
            stats.wilcoxon([v - end - shift for v in values], mode="exact").pvalue for shift in (-outwards, outwards)
        )
        assert outside <= 1 - confidence + 1e-9 < inside
    short = values[: least_pairs(confidence) - 1]
    assert signed_rank_interval(short, confidence)[1] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 3, "minutes": 1}, "the budget must be one of --trials, --total-epochs, --minutes"),
        ({"trials": 1}, "--trials must be a whole number >= 2"),
        ({"minutes": 0}, "--minutes must be a number above 0"),
        ({"minutes": math.nan}, "--minutes must be a finite number"),
        ({"sampler": "bayes"}, "--sampler must be one of tpe, qmc, random, grid"),
        ({"pruner": "some"}, "--pruner must be one of median, hyperband, none"),
        ({"folds": 1}, "--folds must be a whole number >= 2"),
        ({"seeds": 5}, "--seeds must be a whole number >= 6"),
        ({"top": 0}, "--top must be a whole number >= 1"),
        ({"baseline": ("adam",)}, "--baseline must be names among .*did you mean Adam"),
        ({"cluster": "slurm"}, "--cluster must be one of ray"),
        ({"address": "auto"}, "--address must be given with --cluster ray"),
        ({"study": "a"}, "--study must be given with --storage"),
    ],
)
def test_options_that_cannot_be_are_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TuneOptions(**changes)


# Studies


def valley(rule: Rule, seed: int) -> float:
    """A score whose best rate is 0.3, and whose noise is the same for all rules of a seed."""
    noise = np.random.default_rng(seed).normal(scale=0.05)
    return float(-abs(math.log10(rule.lr / 0.3)) + noise)


def flat(rule: Rule, seed: int) -> float:
    """A score of noise alone: another one for each rule and seed."""
    return float(np.random.default_rng([seed, int(1e9 * rule.lr)]).normal())


def test_a_function_is_tuned_and_the_gain_confirmed_on_new_seeds(tmp_path: Path) -> None:
    command = "rmsprop tune --storage p://me:secret@host/db"
    tuned = tune(valley, trials=16, higher_is_better=True, out=tmp_path / "run", workers=2, command=command)
    assert tuned.gain
    for file in ("run.json", "summary.json", "best.toml", "study.journal"):
        assert "secret" not in (tmp_path / "run" / file).read_text()
    assert 0.1 < tuned.rule.lr < 0.9
    assert len(tuned.trials) == 16
    assert [trial["slot"] for trial in tuned.trials] == list(range(16))
    assert tuned.trials[0]["setting"]["rule"]["lr"] == Rule().lr
    default, best = tuned.summary["candidates"][0], tuned.summary["candidates"][tuned.summary["recommended"]]
    seeds = [1000 + seed for seed in range(8)]
    assert default["scores"] == [valley(Rule(), seed) for seed in seeds]
    assert best["scores"] == [valley(tuned.rule, seed) for seed in seeds]
    assert best["interval"][0] > 0
    assert tuned.sentences[0].startswith(f"Gain: lr {tuned.rule.lr:g}")
    assert read_best(tuned.path / "best.toml") == tuned.setting
    assert f"RMSprop(model.parameters(), lr={tuned.rule.lr!r}" in " ".join(tuned.sentences)


def test_a_grid_that_is_smaller_than_the_budget_is_run_to_its_end(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampler": "grid", "space": ("lr=0.001:1", "centered=false,true"), "workers": 1}
    tuned = tune(valley, trials=8, higher_is_better=True, out=tmp_path / "run", **options)
    assert tuned.summary["failures"] == []
    drawn_points = [tuple(trial["point"].values()) for trial in tuned.trials[1:]]
    assert len(drawn_points) == 6  # of 7 that the budget allows beside the default: 3 rates with and without centering
    assert {point[0] for point in drawn_points} == {0.001, 0.0316, 1.0}
    assert {point[1] for point in drawn_points} == {False, True}


def test_noise_alone_is_no_gain(tmp_path: Path) -> None:
    tuned = tune(flat, trials=12, higher_is_better=True, out=tmp_path / "run", workers=2)
    best = max(trial["score"] for trial in tuned.trials)
    assert best > tuned.trials[0]["score"]  # the luckiest looks better
    assert not tuned.gain
    assert tuned.rule == Rule()
    assert tuned.sentences[0].startswith("No gain over the default shown")
    assert tuned.sentences[0].endswith("Keep the default.")


def test_the_number_of_workers_changes_no_quasi_random_result(tmp_path: Path) -> None:
    runs = [
        tune(valley, trials=9, sampler="qmc", higher_is_better=True, out=tmp_path / str(n), workers=n) for n in (1, 2)
    ]
    points = [[(t["slot"], t["setting"], t["score"]) for t in run.trials] for run in runs]
    assert points[0][:4] == points[1][:4]  # in the second half, ranges may be widened when more is known


def test_the_default_wins_where_it_is_best(tmp_path: Path) -> None:
    tuned = tune(valley, Rule(lr=0.3), trials=10, higher_is_better=True, out=tmp_path / "run", workers=2)
    assert not tuned.gain
    assert tuned.rule == Rule(lr=0.3)


def test_a_task_is_tuned_with_its_schedule_and_trained_from_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\nfrom rmsprop.lab import Task\n\n\n"
        "def make():\n    x = torch.randn(240, 4)\n    y = (x.sum(dim=1) > 0).long()\n"
        "    parts = [TensorDataset(x[a:a + 80], y[a:a + 80]) for a in (0, 80, 160)]\n"
        "    return Task('mine', lambda: torch.nn.Linear(4, 2), *parts, batch_size=20, epochs=2)\n"
    )
    spec, out = f"{file}:make", tmp_path / "run"
    words = ["tune", spec, "--lr", "0.0001", "--trials", "12", "--seeds", "8", "--baseline", "Adam", "momentum"]
    assert command([*words, "--workers", "2", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {trial["optimizer"] for trial in found["trials"]} == {"RMSprop", "Adam", "momentum"}
    assert sum(trial["optimizer"] == "Adam" for trial in found["trials"]) == 12
    assert found["recommended"] > 0
    best = read_best(out / "best.toml")
    assert command(["train", spec, "--rule", str(out / "best.toml"), "--out", str(tmp_path / "train")]) == 0
    config = json.loads((tmp_path / "train" / "run.json").read_text())
    assert config["rule"] == dataclasses.asdict(best.rule)
    assert (config["schedule"], config["warmup"]) == (best.schedule, best.warmup)
    write_best(dataclasses.replace(best, schedule="cosine", warmup=3), tmp_path / "mine.toml", "changed")
    for number, (more, expected) in enumerate({(): 3, ("--warmup", "0"): 0, ("--warmup", "2"): 2}.items()):
        again = tmp_path / f"again-{number}"
        assert command(["train", spec, "--rule", str(tmp_path / "mine.toml"), *more, "--out", str(again)]) == 0
        config = json.loads((again / "run.json").read_text())
        assert (config["schedule"], config["warmup"]) == ("cosine", expected)
    capsys.readouterr()
    assert command(["train", spec, "--rule", str(out / "best.toml"), "--recipe", "dqn-2015"]) == 2
    assert "--recipe must be omitted with --rule" in capsys.readouterr().err


def test_epochs_are_never_overspent(tmp_path: Path) -> None:
    tuned = tune(task(), total_epochs=170, seeds=7, workers=2, out=tmp_path / "run", pruner="median")
    searched = sum(trial["epochs"] for trial in tuned.trials)
    confirmed = sum(len(c["scores"]) for c in tuned.summary["candidates"]) * 3
    assert searched + confirmed <= 170
    assert searched > 75  # what stopped trials left over was used


def test_a_task_that_always_diverges_says_so(tmp_path: Path) -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target) * torch.where(output.detach().isnan().any(), 1.0, math.nan)

    with pytest.raises(InputError):  # the very first loss is not finite: the task cannot be run at all
        tune(task(loss=loss, metric=lambda o, t: o.mean(), metric_name="m", higher_is_better=True), out=tmp_path / "a")
    tuned = tune(lambda rule, seed: math.nan, trials=4, higher_is_better=True, out=tmp_path / "b", workers=1)
    assert not tuned.gain
    assert tuned.sentences[0].startswith("No trial has a score, the default's included")


def test_a_default_that_always_diverges_is_beaten_by_one_that_never_does(tmp_path: Path) -> None:
    def wild(rule: Rule, seed: int) -> float:
        return math.nan if rule.lr > 0.1 else 1.0 - rule.lr

    tuned = tune(wild, Rule(lr=0.5), trials=6, seeds=7, higher_is_better=True, out=tmp_path / "a", workers=1)
    assert tuned.gain
    assert tuned.rule.lr <= 0.1
    assert tuned.sentences[0].endswith("(median of 7 new seeds). The default diverged on 7 of them.")

    def sometimes(rule: Rule, seed: int) -> float:
        return math.nan if rule.lr > 0.1 and seed % 2 else 1.0 if rule.lr > 0.1 else 0.5

    tuned = tune(sometimes, Rule(lr=0.5), trials=6, seeds=7, higher_is_better=True, out=tmp_path / "b", workers=1)
    assert not tuned.gain  # the default is better on the seeds on which it does not diverge
    assert tuned.summary["candidates"][0]["diverged"] == 3


def test_another_schedule_is_another_study(tmp_path: Path) -> None:
    options: dict[str, Any] = {"trials": 2, "seeds": 6, "top": 1, "workers": 1, "out": tmp_path / "run"}
    tuned = tune(task(epochs=1), schedule="cosine", **options)
    assert {trial["setting"]["schedule"] for trial in tuned.trials} == {"cosine"}
    with pytest.raises(InputError, match="schedule"):
        tune(task(epochs=1), schedule="linear", resume=True, **options)
    with pytest.raises(InputError, match="--schedule must be omitted for a function"):
        tune(valley, schedule="linear", higher_is_better=True)


def test_an_error_of_the_user_is_recorded_with_its_line(tmp_path: Path) -> None:
    def faulty(rule: Rule, seed: int) -> float:
        if rule.lr > 0.01:
            raise ZeroDivisionError("of mine")
        return rule.lr

    tuned = tune(faulty, trials=6, higher_is_better=True, out=tmp_path / "run", workers=2)
    assert [trial["score"] for trial in tuned.trials if trial["setting"]["rule"]["lr"] > 0.01] == []
    failed = [line for line in tuned.sentences if line.startswith("Failed for good: ZeroDivisionError: of mine")]
    assert len(failed) == 1
    assert re.search(r"\(in faulty, line \d+\)", failed[0])


def test_a_setting_that_fails_on_new_seeds_is_no_gain_and_leaves_a_verdict(tmp_path: Path) -> None:
    def faulty(rule: Rule, seed: int) -> float:
        if rule.lr > 0.1 and seed >= 1000:
            raise ZeroDivisionError("of mine")
        return rule.lr

    tuned = tune(faulty, trials=9, higher_is_better=True, out=tmp_path / "run", workers=1)
    failed, *others = sorted(tuned.summary["candidates"][1:], key=lambda c: -c["setting"]["rule"]["lr"])
    assert failed["setting"]["rule"]["lr"] > 0.1
    assert (failed["verdict"], failed["median"], failed["diverged"]) == ("worse", None, 8)
    assert all(len(each["scores"]) == 8 for each in others)
    assert tuned.gain
    assert tuned.rule.lr <= 0.1


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_better_of_two_gains_is_recommended_also_below_zero(higher_is_better: bool) -> None:
    sign = 1 if higher_is_better else -1
    setting = Setting(Rule()).to_json()
    medians = [-9 * sign, -2 * sign, -1 * sign, None]  # None: half of the seeds diverged, and more of the default's
    candidates: Any = [
        {"setting": setting, "median": m, "verdict": "better" if k else ""} for k, m in enumerate(medians)
    ]
    assert recommended(candidates, higher_is_better=higher_is_better) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"space": ("rate=1:2",)}, "--space must be about"),
        ({"seeds": 6}, "--seeds must be at least 7"),
        ({"total_epochs": 10}, "--total-epochs must be at least"),
        ({"sampler": "grid", "trials": 3, "space": ("decay=0.9:0.99",)}, "--trials must be at least"),
        ({"folds": 500}, "--folds must be at most 180"),
        ({"cluster": "ray", "address": "127.0.0.1:1"}, "--address must be that of a running Ray cluster|needs ray"),
        ({"storage": "postgresql+psycopg://me:secret@127.0.0.1:1/db"}, "--storage must be the URL"),
    ],
)
def test_what_is_refused_leaves_no_file(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises((InputError, ModuleNotFoundError), match=said):
        tune(task(), out=tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_study_goes_on_with_changed_code_only_if_that_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    code = (
        "import torch\nfrom torch.utils.data import TensorDataset\nfrom rmsprop.lab import Task\n\n\ndef make():\n"
        "    data = TensorDataset(torch.randn(40, 4), torch.randn(40, 1))\n"
        "    return Task('mine', lambda: torch.nn.Linear(4, 1), data, data, loss=torch.nn.functional.EPOCHS)\n"
    )
    file.write_text(code.replace("EPOCHS", "mse_loss, epochs=1"))
    options: dict[str, Any] = {"trials": 2, "seeds": 6, "top": 1, "workers": 1, "out": tmp_path / "run"}

    def interrupted(*_: Any) -> None:
        raise Interrupted("now")

    with pytest.raises(Interrupted):
        tune(f"{file}:make", listen=interrupted, **options)
    file.write_text(code.replace("EPOCHS", "mse_loss, epochs=2"))
    with pytest.raises(InputError, match="the task of the run in"):
        tune(f"{file}:make", resume=True, **options)
    tuned = tune(f"{file}:make", resume=True, accept_changes=True, **options)
    assert len(tuned.trials) == 2
    assert any("make" in change for change in tuned.directory.config()["accepted_changes"])


def seen(folder: Path, **options: Any) -> Any:
    """Return what a small study tried and found."""
    values = {"trials": 12, "sampler": "qmc", "seeds": 7, "workers": 1, "out": folder / "run", **options}
    tuned = tune(task(epochs=4), Rule(lr=0.02), **values)
    trials = [(t["score"], t["epochs"], t["reason"], t["point"]) for t in tuned.trials]
    return trials, len(tuned.summary["candidates"])


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return seen(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize(
    "change",
    [
        {"pruner": "none"},
        {"pruner": "hyperband"},
        {"seed": 5},
        {"sampler": "random"},
        {"folds": 3},
        {"top": 1},
        {"epochs": 2},
        {"all_parameters": True},
    ],
)
def test_every_option_changes_a_study(tmp_path: Path, usual: Any, change: dict[str, Any]) -> None:
    assert seen(tmp_path, **change) != usual


def test_minutes_end_the_search_and_what_confirms(tmp_path: Path) -> None:
    def slow(rule: Rule, seed: int) -> float:
        time.sleep(0.1)
        return rule.lr

    began = time.monotonic()
    tuned = tune(slow, minutes=0.2, higher_is_better=True, out=tmp_path / "run", workers=1)
    assert time.monotonic() - began > 6  # of 12 seconds, the search takes 60 %
    assert tuned.summary["seconds"] < 12 + 3
    assert tuned.trials  # about 60 on an idle machine


def test_a_setting_is_written_read_and_shown(tmp_path: Path) -> None:
    setting = Setting(profile("keras", centered=True, lr=0.003), "cosine", 30)
    write_best(setting, tmp_path / "best.toml", "a comment")
    assert read_best(tmp_path / "best.toml") == setting
    assert python_line(Setting(Rule(lr=0.003, decay=0.9))) == "RMSprop(model.parameters(), lr=0.003, alpha=0.9)"
    line = python_line(setting)
    assert line.startswith("RMSprop.from_rule(model.parameters(), Rule(")
    assert eval(line.partition(", ")[2][:-1], {"Rule": Rule}) == setting.rule


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[rule]\nlr = 'x'\n", "lr must be"),
        ("[rule]\nrate = 1\n", "rate in .* must be omitted"),
        ("rule = 3\n", "--rule must be a file with the tables"),
        ("[rule", "--rule must be a file in TOML"),
    ],
)
def test_a_file_that_holds_no_setting_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "best.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=said):
        read_best(file)


def test_only_a_search_needs_optuna() -> None:
    program = (
        "import sys\nsys.modules['optuna'] = None\nfrom rmsprop.lab.report.page import write_report\n"
        "from rmsprop.cli.app import run\nsys.exit(run(['tune', 'digits']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "rmsprop: rmsprop tune needs optuna: pip install 'rmsprop[tune]'\n"


def test_tpe_starts_quasi_randomly() -> None:
    assert startup_trials(12) == 8
    assert startup_trials(90) == 30
