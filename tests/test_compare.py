"""Comparisons: the choice of rates and the verdicts; neither the number of processes nor a resume changes a result."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mine import regression
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

from rmsprop import Rule
from rmsprop.lab import Task
from rmsprop.lab import comparison as compare_module
from rmsprop.lab.comparison import compare
from rmsprop.lab.intervals import paired_interval
from rmsprop.lab.learning_rates import Choice, choose
from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.sentences import (
    describe_comparison,
    describe_training,
    difference_words,
    range_words,
)
from rmsprop.lab.runs import trial as trial_module
from rmsprop.lab.runs.directory import RunDirectory, to_json
from rmsprop.lab.runs.trial import OTHERS, Trial, run_trial, sent_to_workers
from rmsprop.lab.score import score_words
from rmsprop.lab.training_run import train
from rmsprop.lab.verdicts import judge
from rmsprop.lab_options import USUAL_OPTIMIZERS

MINE = str(Path(__file__).with_name("mine.py"))


def tuned(lr: float, metric: float, loss: float = 1.0, *, diverged: bool = False) -> Any:
    return {"lr": lr, "validation_metric": metric, "validation_loss": loss, "diverged": diverged}


def test_the_rate_with_the_best_mean_wins() -> None:
    rows = [tuned(0.1, 0.9), tuned(0.1, 0.7), tuned(0.01, 0.85), tuned(0.01, 0.85), tuned(0.001, 0.1)]
    assert choose(True, rows) == Choice(0.01, at_edge=False)
    assert choose(False, rows) == Choice(0.001, at_edge=True)


def test_ties_go_to_the_lower_loss_and_diverged_rates_come_last() -> None:
    rows = [tuned(1.0, 0.9, 0.3), tuned(2.0, 0.9, 0.2), tuned(3.0, 0.9, 0.4)]
    assert choose(True, rows).lr == 2.0
    rows.append(tuned(2.0, 1.0, 0.0, diverged=True))
    assert choose(True, rows).lr == 1.0
    assert choose(True, rows).at_edge


def final(optimizer: str, metrics: list[float | None]) -> list[Any]:
    return [
        {
            "optimizer": optimizer,
            "seed": seed,
            "test_metric": metric,
            "diverged": metric is None,
            "validation_loss": 0.5,
            "optimizer_us": 9.0,
        }
        for seed, metric in enumerate(metrics)
    ]


CHOICES = {name: Choice(0.1, at_edge=False) for name in ("RMSprop", "SGD", "Adam", "AdaGrad")}
ROWS: list[Any] = [
    *final("RMSprop", [0.80, 0.82, 0.84, 0.86, 0.88]),
    *final("SGD", [0.70, 0.73, 0.74, 0.77, 0.78]),  # lower with every seed
    *final("Adam", [0.90, 0.92, 0.95, 0.96, 0.99]),  # higher with every seed
    *final("AdaGrad", [0.88, 0.78, 0.86, 0.80, 0.89]),  # about as high
]


def test_verdicts_follow_the_paired_intervals() -> None:
    scores = judge(True, CHOICES, ROWS)
    assert [s.optimizer for s in scores] == ["RMSprop", "Adam", "AdaGrad", "SGD"]
    assert [s.verdict for s in scores] == ["", "better", "no difference", "worse"]
    assert [s.verdict for s in judge(False, CHOICES, ROWS)] == ["", "better", "no difference", "worse"]
    assert [s.optimizer for s in judge(False, CHOICES, ROWS)] == ["RMSprop", "SGD", "AdaGrad", "Adam"]
    rmsprop, adam = scores[:2]
    assert (rmsprop.metric, rmsprop.low, rmsprop.high, rmsprop.difference) == (0.84, 0.80, 0.88, None)
    assert adam.difference == pytest.approx(0.104)
    assert adam.metric == 0.95  # the median; the mean differs


class Canned:
    """Workers that train nothing: `metric` returns the result of a trial."""

    def __init__(self, metric: Callable[[Trial], float]) -> None:
        self.count, self.metric, self.trials = 1, metric, list[Trial]()

    def __call__(self, _: int) -> Canned:
        return self

    def __enter__(self) -> Canned:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def results(self, _: object, trials: list[Trial], check: Callable[[], None]) -> Iterator[dict[str, Any]]:
        for trial in trials:
            check()
            self.trials.append(trial)
            metric = self.metric(trial)
            row = {"validation_metric": metric, "validation_loss": 1.0, "test_metric": metric, "optimizer_us": 1.0}
            curves = {"loss_curve": [(1, 1.0)], "validation_curve": [(1, 1.0, metric)], "effective_lr": {}}
            what = {name: getattr(trial, name) for name in ("stage", "optimizer", "lr", "seed")}
            yield {**what, **row, **curves, "implementation": "", "diverged": False}

    def rates(self, optimizer: str) -> list[float]:
        """Return the rates that were tried for an optimizer with the first seed."""
        return [t.lr for t in self.trials if (t.stage, t.optimizer, t.seed) == ("tune", optimizer, 0)]


def compare_canned(
    monkeypatch: pytest.MonkeyPatch, metric: Callable[[Trial], float], **options: Any
) -> tuple[Canned, RunDirectory, Any]:
    canned = Canned(metric)
    monkeypatch.setattr(compare_module, "Workers", canned)
    rates = (0.01, 0.03, 0.1, 0.3, 1.0)
    return canned, *compare(f"{MINE}:regression", learning_rates=rates, tuning_seeds=2, seeds=5, **options)


def test_final_trainings_have_other_seeds_than_those_that_chose_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canned, _, _ = compare_canned(monkeypatch, lambda trial: abs(trial.lr - 0.1), out=tmp_path / "run")
    seeds = {stage: {trial.seed for trial in canned.trials if trial.stage == stage} for stage in ("tune", "final")}
    assert seeds == {"tune": {0, 1}, "final": {2, 3, 4, 5, 6}}


@pytest.mark.parametrize(
    ("best", "widened", "picked", "said"),
    [
        ({}, [], 0.1, None),
        ({"SGD": 30.0}, [3.0, 10.0], 10.0, "all were tried at 3, 10, too.; Picked at the end of the widened grid"),
        ({"SGD": 3.0}, [3.0, 10.0], 3.0, "all were tried at 3, 10, too."),
        ({"SGD": 1e-3}, [1e-3, 3e-3], 1e-3, "all were tried at 0.001, 0.003, too.; Picked at the end of the widened"),
        ({"SGD": 3e-3, "Adam": 3.0}, [1e-3, 3e-3, 3.0, 10.0], 3e-3, "all were tried at 0.001, 0.003, 3, 10, too."),
    ],
)
def test_a_grid_is_widened_once_where_a_rate_at_its_end_is_best_and_for_all_optimizers_alike(
    best: dict[str, float],
    widened: list[float],
    picked: float,
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def error(trial: Trial) -> float:
        return abs(math.log(trial.lr / best.get(trial.optimizer, 0.1)))

    canned, run, summary = compare_canned(monkeypatch, error, out=tmp_path / "run")
    assert summary["widened"] == widened
    for optimizer in USUAL_OPTIMIZERS:
        assert canned.rates(optimizer) == [0.01, 0.03, 0.1, 0.3, 1.0, *widened]
    scores = {score["optimizer"]: score for score in summary["scores"]}
    assert (scores["SGD"]["lr"], scores["RMSprop"]["lr"]) == (picked, 0.1)
    assert scores["SGD"]["at_edge"] == (said is not None and "Picked at the end" in said)
    lines = describe_comparison(run.config(), summary)
    assert [line for line in lines if "all were tried" in line or "the end of the widened" in line] == [
        line for line in lines if said is not None and any(part in line for part in said.split("; "))
    ]
    assert said is None or all(any(part in line for line in lines) for part in said.split("; "))


def test_a_widened_comparison_is_resumed_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(trial: Trial) -> float:
        return abs(math.log(trial.lr / 30.0))

    _, whole, summary = compare_canned(monkeypatch, error, out=tmp_path / "whole")
    rows = whole.records()
    for kept in (7, 5 * 2 * 6 + 3, len(rows) - 4):  # in the grid, in its extension, in the final stage
        part = RunDirectory(tmp_path / str(kept))
        part.path.mkdir()
        (part.path / "run.json").write_bytes((whole.path / "run.json").read_bytes())
        part.append(rows[:kept])
        canned, resumed, again = compare_canned(monkeypatch, error, out=part.path, resume=True)
        assert len(canned.trials) == len(rows) - kept
        assert (again["widened"], again["scores"]) == (summary["widened"], summary["scores"])
        assert sorted(map(str, resumed.records())) == sorted(map(str, rows))


def test_a_comparison_that_goes_on_with_another_torch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run, _ = compare_canned(monkeypatch, lambda _: 1.0, out=tmp_path / "run")
    (run.path / "summary.json").unlink()
    text = (run.path / "run.json").read_text()
    (run.path / "run.json").write_text(text.replace(f'"torch": "{torch.__version__}"', '"torch": "2.0"'))
    with pytest.warns(UserWarning, match="^the run began with torch 2.0 and goes on with .*: it may differ"):
        compare_canned(monkeypatch, lambda _: 1.0, out=tmp_path / "run", resume=True)


def test_a_training_is_judged_by_its_last_epoch_and_not_by_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = [0.5, 0.9, 0.7]

    class Short:
        diverged = False

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self) -> list[list[dict[str, Any]]]:
            epochs = [{"kind": "epoch", "validation_loss": 1 - x, "validation_metric": x} for x in metrics]
            return [[epoch] for epoch in epochs]

    monkeypatch.setattr(trial_module, "TrainingLoop", Short)
    row: Any = run_trial(Trial("tune", "RMSprop", 0.1, seed=0, source=f"{MINE}:regression", rule=Rule(), epochs=None))
    assert (row["validation_metric"], row["validation_loss"]) == (0.7, pytest.approx(0.3))


@pytest.mark.usefixtures("no_workers")
def test_every_training_clips_as_the_task_says(tmp_path: Path) -> None:
    """Gradients that are clipped to almost nothing move SGD nowhere; those of RMSprop are still divided by √v."""
    options: Any = {"learning_rates": (0.01, 0.02, 0.03), "tuning_seeds": 1, "seeds": 5, "optimizers": ("SGD",)}
    task = regression()
    for clip in (None, 1e-12):
        run = compare(dataclasses.replace(task, clip=clip), Rule(eps=0), out=tmp_path / str(clip), **options)
        rows = {r["optimizer"]: r["validation_curve"] for r in run.records if r["stage"] == "final" and r["seed"] == 1}
        before, after = rows["SGD"][0][1], rows["SGD"][-1][1]
        assert after == pytest.approx(before, rel=1e-6) if clip else after < 0.5 * before
        assert rows["RMSprop"][-1][1] < 0.9 * rows["RMSprop"][0][1]
        clips = "All trainings clip the norm of the gradients to 1e-12, as the task says." in run.sentences
        assert (run.summary.get("clip"), clips) == (clip, clip is not None)


def test_a_seed_that_diverged_leaves_no_verdict_but_a_count() -> None:
    rows = [r for r in ROWS if r["optimizer"] != "SGD"] + final("SGD", [0.7, None, 0.7, 0.7, 0.7])
    sgd = next(s for s in judge(True, CHOICES, rows) if s.optimizer == "SGD")
    assert (sgd.diverged, sgd.interval, sgd.verdict) == (1, None, "not comparable")
    assert sgd.low == -math.inf
    stored = json.loads(to_json(sgd._asdict()))
    assert range_words(stored, "accuracy", higher_is_better=True) == "diverged–70.0"
    assert difference_words(stored, "accuracy") == "–"


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    differences = generator.normal(0.1, 1, 12)
    center, interval = paired_interval(differences.tolist(), 0.99)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.99)
    assert center == pytest.approx(differences.mean())
    assert interval == pytest.approx((expected.low, expected.high))
    assert paired_interval([0.0] * 5, 0.99) == (0.0, (0.0, 0.0))


def test_intervals_hold_jointly() -> None:
    """If all optimizers were the same, at most 5 % of comparisons would find any difference."""
    generator = np.random.default_rng(1)
    names = ["RMSprop", "a", "b", "c", "d", "e"]
    choices = {name: Choice(0.1, at_edge=False) for name in names}
    wrong = 0
    for _ in range(400):
        rows = [r for name in names for r in final(name, list(generator.normal(size=6)))]
        wrong += any(s.verdict in ("better", "worse") for s in judge(True, choices, rows))
    assert wrong <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_results_in_words() -> None:
    scores = [s._asdict() for s in judge(True, CHOICES, ROWS)]
    scores[2]["at_edge"] = True
    config: Any = {"seeds": 5, "rule": {}, "task": "t"}
    summary: Any = {"metric": "accuracy", "higher_is_better": True, "scores": scores, "confidence": 0.95}
    lines = describe_comparison(config, summary)
    assert (
        lines[0] == "RMSprop reaches a test accuracy of 84.0 % at lr 0.1 (median of 5 seeds; worst to best 80.0–88.0)."
    )
    assert lines[1].startswith("Better than RMSprop: Adam (+10.4 points [+")
    assert lines[2].startswith("Worse than RMSprop: SGD (-9.6 points [-")
    assert lines[3].startswith("No difference to RMSprop shown: AdaGrad (+0.2 points [-")
    assert lines[4] == "Picked at the end of the grid, so a better rate may lie beyond it: AdaGrad (0.1)."
    assert describe_comparison(config, None) == [
        "This comparison is not finished; what follows is what it has recorded so far."
    ]
    assert describe_training(config, None) == ["This run is not finished; what follows is what it has recorded so far."]
    assert score_words(0.5, "error") == "0.5"
    assert score_words(None, "error") == "–"
    difference: Any = {"difference": 0.5, "interval": (0.25, 0.75)}
    assert difference_words(difference, "error") == "+0.5 [+0.25, +0.75]"


@pytest.mark.slow
@pytest.mark.usefixtures("no_workers")
def test_a_task_that_is_never_finite_is_compared_to_the_end(tmp_path: Path) -> None:
    run, summary = compare(
        f"{MINE}:not_finite", learning_rates=(0.1, 0.2, 0.3), tuning_seeds=1, seeds=5, epochs=1, out=tmp_path / "run"
    )
    assert all(s["diverged"] == 5 and s["verdict"] in ("", "not comparable") for s in summary["scores"])
    assert "RMSprop (5 of 5)" in " ".join(describe_comparison(run.config(), summary))
    assert write_report(run).exists()


@pytest.mark.slow
def test_the_number_of_processes_changes_no_result(tmp_path: Path) -> None:
    """With the same seed, all optimizers get the same start and the same order of the data."""
    rule = Rule(decay=0.9, bias_correction=True)
    results = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        rates = (0.3, 0.03, 0.003)
        run, summary = compare(
            f"{MINE}:regression", rule, learning_rates=rates, tuning_seeds=1, seeds=5, epochs=1, jobs=jobs, out=out
        )
        rows = {(r["stage"], r["optimizer"], r["lr"], r["seed"]): r for r in run.records()}
        for r in rows.values():
            r.pop("step_us", None)
            r.pop("optimizer_us", None)
        results.append(rows)
        assert summary["scores"][0]["optimizer"] == "RMSprop"
        assert {s["optimizer"] for s in summary["scores"]} == set(USUAL_OPTIMIZERS)
    assert results[0] == results[1]
    # compare used the rule it was given: a run of train with that rule ends with the same loss.
    key = next(k for k in results[0] if k[:2] == ("final", "RMSprop"))
    asked = dataclasses.replace(rule, lr=key[2])
    _, alone = train(f"{MINE}:regression", asked, seed=key[3], schedule="linear", epochs=1, out=tmp_path / "alone")
    assert alone["validation_loss"] == results[0][key]["validation_loss"]
    assert alone["test_metric"] == results[0][key]["test_metric"]
    first: dict[int, set[Any]] = {r["seed"]: set() for r in results[0].values() if r["stage"] == "final"}
    for r in results[0].values():
        if r["stage"] == "final":
            first[r["seed"]].add(tuple(r["validation_curve"][0]))
    assert all(len(starts) == 1 for starts in first.values())
    assert len({next(iter(s)) for s in first.values()}) == 5


def test_what_to_try_next_helps() -> None:
    """On the digits RMSprop loses. The comparison proposes bias correction, whose comparison is stored, too."""
    demo = json.loads((Path(__file__).parent.parent / "docs" / "demo.json").read_text())
    plain, corrected = demo["plain"], demo["corrected"]
    (line,) = [each for each in describe_comparison(plain["config"], plain["summary"]) if each.startswith("Try next")]
    assert line == (
        "Try next: rmsprop compare digits --bias-correction (the first steps of this rule are 10 times its rate, which "
        "can rule larger rates out); or rmsprop compare digits --ablate (what each part of Adam brings)."
    )
    before, after = (
        next(s for s in each["summary"]["scores"] if s["optimizer"] == "RMSprop") for each in (plain, corrected)
    )
    assert after["low"] > before["metric"]  # the worst seed is better than the median was
    assert after["lr"] > before["lr"]
    (line,) = [x for x in describe_comparison(corrected["config"], corrected["summary"]) if x.startswith("Try next")]
    assert line.startswith("Try next: rmsprop compare digits --bias-correction --momentum 0.9 (what is better has")
    assert demo["momentum"]["summary"]["command"] in line
    scores = {s["optimizer"]: s for s in demo["momentum"]["summary"]["scores"]}
    assert scores["RMSprop"]["low"] > after["metric"]
    assert not any(score["verdict"] == "better" for score in scores.values())  # and nothing is left to try
    in_python = corrected["config"] | {"from_python": True}
    (line,) = [x for x in describe_comparison(in_python, corrected["summary"]) if x.startswith("Try next")]
    assert line.startswith("Try next: compare(task, Rule(bias_correction=True, momentum=0.9)) (what is better has")


def test_other_optimizers_take_sparse_gradients_as_dense_ones() -> None:
    """Adadelta refuses sparse gradients, and SGD with momentum would leave untouched rows alone."""

    def task(sparse: bool) -> Task:
        x = torch.arange(40).remainder(7)[:, None]
        data = TensorDataset(x, (x[:, 0] > 3).long())
        return Task("rows", lambda: nn.EmbeddingBag(7, 2, sparse=sparse), data, data, data, batch_size=8, epochs=2)

    for optimizer in OTHERS:
        results = []
        for sparse in (True, False):
            with sent_to_workers(task(sparse)) as source:
                results.append(run_trial(Trial("tune", optimizer, 0.1, 0, source, Rule(), None)))
        assert results[0] == results[1]


def test_the_schedule_of_a_comparison_is_that_of_its_trainings(tmp_path: Path) -> None:
    rows = {}
    for schedule in ("linear", "constant"):
        trial = Trial("tune", "RMSprop", 0.1, 0, f"{MINE}:regression", Rule(), 2, schedule)
        rows[schedule] = run_trial(trial)["validation_loss"]
        _, alone = train(f"{MINE}:regression", Rule(lr=0.1), schedule=schedule, epochs=2, out=tmp_path / schedule)
        assert rows[schedule] == alone["validation_loss"]
    assert rows["linear"] != rows["constant"]
