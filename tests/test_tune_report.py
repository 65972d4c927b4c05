"""The report of `rmsprop tune`: numbers behind its figures, importances, tables, and what is said with few trials."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from made_search import SPACES, candidate, of_lr_alone, search, trial, written
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmsprop import Rule
from rmsprop.cli.terminal import Terminal, print_table
from rmsprop.cli.tune import TuningProgress, candidates_table, duration_words, progress_words
from rmsprop.cli.tune import trials_table as trials_table_of
from rmsprop.lab import tune
from rmsprop.lab.report import figures, tuning_figures, tuning_slices
from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.tuning import confirmed_table, trials_table, tuning_content
from rmsprop.lab.report.tuning_axes import axis_of, cut
from rmsprop.lab.report.tuning_figures import draw_progress, last_third_words, progress_data
from rmsprop.lab.report.tuning_sentences import describe_tuning, missing_importances
from rmsprop.lab.report.tuning_slices import parallel_data, score_cut, slice_data
from rmsprop.lab.report.tuning_words import plain, setting_words, value_words
from rmsprop.lab.runs.checks import check_summary
from rmsprop.lab.tuning.draws import SLOT, distribution
from rmsprop.lab.tuning.importances import importances
from rmsprop.lab.tuning.progress import Progress
from rmsprop.lab.tuning.space import Choices, Range, Setting, Space
from rmsprop.lab.verdicts import LEAST_SCORED

CONFIG: Any = {"kind": "tune", "task": "digits", "rule": Setting(Rule()).to_json()["rule"], "seeds": 7, "top": 3}


def drawn_axes(monkeypatch: pytest.MonkeyPatch, module: Any, draw: Callable[[], str]) -> Axes:
    """Return the axes of the figure that `draw` draws."""
    made: list[Figure] = []

    def noted(figure: Figure) -> str:
        made.append(figure)
        return "<svg"

    monkeypatch.setattr(module, "to_svg", noted)
    draw()
    return made[0].axes[0]


def titles(summary: Any) -> list[str]:
    return [each.title for each in tuning_content(CONFIG, summary)["figures"]]


# The best score so far


def test_the_best_so_far_and_the_band_of_random_orders() -> None:
    ours, adam = progress_data(search())
    assert (ours.label, adam.label) == ("RMSprop", "Adam")
    assert ours.best == [0.90, 0.93, 0.93, 0.93, 0.93, 0.95, 0.95, 0.95, 0.95]
    assert adam.best == [0.91, 0.94]
    for better, sign in ((True, 1), (False, -1)):
        scores = [0.3, None, 0.1, 0.9, 0.5, 0.7]
        summary = search(trials=[trial(k, s) for k, s in enumerate(scores)], higher_is_better=better)
        (band,) = progress_data(summary)
        for n in range(1, 7):
            found = []
            for order in itertools.permutations(scores, n):  # all orders are equally likely
                known = [sign * score for score in order if score is not None]
                found.append(max(known) if known else -math.inf)
            low, high = (-math.inf if math.isnan(x) else sign * x for x in (band.low[n - 1], band.high[n - 1]))
            for end, quantile in ((min(low, high), 0.05), (max(low, high), 0.95)):
                assert np.mean([x < end for x in found]) <= quantile + 1e-9, n
                assert np.mean([x <= end for x in found]) >= quantile - 1e-9, n


def test_the_caption_says_what_the_last_third_gained() -> None:
    def said(*scores: float | None, noise: float | None = 0.01) -> str:
        return last_third_words(search(trials=[trial(k, s) for k, s in enumerate(scores)], noise=noise))

    assert said(0.9, 0.8, 0.7, 0.85, 0.6, 0.9) == "The last 2 of 6 trials found nothing better."
    assert said(0.9, 0.8, 0.7, 0.85, 0.6, 0.93) == (
        "The last 2 of 6 trials improved the best score from 90.0 % to 93.0 %, 3.0 times the seed noise: "
        "more trials may bring more."
    )
    assert said(0.9, 0.8, 0.904).endswith("to 90.4 %, 0.4 times the seed noise: less than another seed changes.")
    assert said(0.9, 0.8, 0.904, noise=None).endswith("from 90.0 % to 90.4 %.")
    assert said(None, None, 0.9).startswith("The last of 3 trials found the first score")
    assert said(0.9, 0.8) == said(None, None, None) == ""


def test_the_axis_of_the_best_so_far_is_not_stretched_by_first_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.1, 0.95, 0.951, 0.952, 0.96, 0.955]
    summary = search(trials=[trial(k, s) for k, s in enumerate(scores)])
    for default, lowest in ((None, 0.9), (0.1, -0.05)):  # the default is always seen
        axes = drawn_axes(monkeypatch, tuning_figures, partial(draw_progress, progress_data(summary), default, summary))
        assert lowest < axes.get_ylim()[0] < (default or 0.95)


# Axes and slices


def test_axes_are_in_plain_units() -> None:
    settings = [trial(0, 1.0, lr=lr, decay=d, weight_decay=w)["setting"] for lr, d, w in
                ((1e-3, 0.9, 0.0), (1e-2, 0.99, 1e-4), (1.0, 0.999, 1e-2))]  # fmt: skip
    lr, decay, shrink = (axis_of(name, settings) for name in ("lr", "decay", "weight_decay"))
    assert [lr.positions[plain(s, "lr")] for s in settings] == pytest.approx([-3, -2, 0])
    assert [label for _, label in decay.ticks] == ["0.9", "0.99", "0.999"]
    assert [decay.positions[x] for x in (0.9, 0.99, 0.999)] == pytest.approx([1, 2, 3])  # more β lies to the right
    assert shrink.positions[0.0] < shrink.positions[1e-4] < shrink.positions[1e-2]
    assert shrink.ticks[0] == (shrink.positions[0.0], "0")
    tiny = axis_of("lr", [trial(0, 1.0, lr=x)["setting"] for x in (1e-6, 1e-2)])
    assert tiny.ticks[0][1] == "10⁻⁶"
    flags = [trial(0, 1.0, centered=c, schedule=s)["setting"] for c, s in ((True, "steps"), (False, "linear"))]
    assert axis_of("centered", flags).positions == {"no": 0, "yes": 1}
    assert axis_of("schedule", flags).positions == {"linear": 0, "steps": 1}
    listed = axis_of("decay", [trial(0, 1.0, decay=d)["setting"] for d in (0.9, 0.95) * 4])
    assert listed.is_choice
    assert [label for _, label in listed.ticks] == ["0.9", "0.95"]


@pytest.mark.parametrize("values", [[0.01], [0.011, 0.012], [0.0], [1e-9, 1e3], [0.2, 0.5, 0.9]])
def test_every_axis_has_ticks_inside_its_ends(values: list[float]) -> None:
    for name in ("lr", "momentum", "eps"):
        usable = [min(x, 0.99) if name == "momentum" else x for x in values]
        changes: list[dict[str, Any]] = [{name: x} for x in usable]
        axis = axis_of(name, [trial(0, 1.0, **each)["setting"] for each in changes])
        low, high = axis.ends
        assert low < high
        assert min(2, len(set(usable))) <= len(axis.ticks) <= 6
        assert all(low <= at <= high for at, _ in axis.ticks)


def test_slices_show_where_trials_failed() -> None:
    lr = slice_data(search(), "lr")
    place = lr.axis.positions
    assert lr.diverged == [place[0.5]]
    assert lr.stopped == [place[0.0001], place[0.001]]
    assert 0.7 not in place  # the time was over: that says nothing about the rate
    assert lr.worse == [place[1e-5]]
    assert lr.points == [(place[0.003], 0.93), (place[0.02], 0.92)]  # besides the two that are marked
    assert lr.default == (place[0.01], 0.90)
    assert lr.recommended == (place[0.005], 0.95)
    kept = search(recommended=0)
    assert slice_data(kept, "lr").recommended is None
    schedule = slice_data(search(), "schedule")
    assert len({round(x) for x, _ in schedule.points} | {round(x) for x in schedule.diverged}) == 2
    assert all(abs(x - round(x)) <= 0.25 for x in schedule.stopped)


def test_crosses_of_one_choice_lie_side_by_side() -> None:
    failed = [trial(k, None, "behind", schedule="linear") for k in range(1, 5)]
    found = slice_data(search(trials=[trial(0, 0.9), *failed]), "schedule")
    assert len(set(found.stopped)) == 4


def test_a_few_bad_trials_do_not_hide_the_good_ones() -> None:
    assert score_cut(search()) == pytest.approx(
        0.90 - 0.025
    )  # the default is kept, and half of its distance to the best
    near = [trial(k, s) for k, s in enumerate((0.90, 0.91, 0.92))]
    assert score_cut(search(trials=near, recommended=0)) is None
    losses: Any = search(higher_is_better=False, metric="loss")
    assert cut(losses, [0.01, 0.02, 0.5], [0.02]) is None  # two decades fit a logarithmic axis
    assert cut(losses, [0.01, 0.02, 50.0], [0.02]) == pytest.approx(1.0)
    assert cut(losses, [0.01, 0.02, 50.0], [50.0]) is None
    assert cut(losses, [-1.0, -0.9, 50.0], [-0.9]) == pytest.approx(-0.85)


@pytest.mark.parametrize("better", [True, False])
def test_the_edge_of_a_slice_is_that_of_bad_scores(better: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = search(higher_is_better=better, metric="accuracy" if better else "error")
    axes = drawn_axes(monkeypatch, tuning_slices, lambda: tuning_slices.draw_slice(slice_data(summary, "lr"), summary))
    lines = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in axes.lines}
    assert {"trial", "stopped", "diverged", "default", "recommended"} <= set(lines)
    assert set(lines["diverged"]) == {0.04 if better else 0.96}  # a share of the axis
    shares = [axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1] for y in lines["trial"]]
    assert all(share > 0.08 if better else share < 0.92 for share in shares)  # no score reaches the crosses


def test_parallel_coordinates_draw_the_best_last() -> None:
    axes, lines = parallel_data(search(), ["lr", "decay", "schedule"])
    assert [axis.name for axis in axes] == ["lr", "decay", "schedule"]
    assert [line.score for line in lines] == [None, None, None, 0.2, 0.90, 0.92, 0.93, 0.95]
    assert all(0 <= share <= 1 for line in lines for share in line.shares)
    _, losses = parallel_data(search(higher_is_better=False), ["lr", "decay"])
    assert losses[-1].score == 0.2


def test_the_report_of_a_search_has_its_figures() -> None:
    found = {"lr": {"share": 0.8, "chance": 0.3}, "decay": {"share": 0.2, "chance": 1.4}}
    slices = ["Score by learning rate η", "Score by decay β", "Score by schedule"]
    first = ["Is the budget enough?", "Difference to the default"]
    assert titles(search()) == [*first, *slices, "All coordinates"]
    assert titles(search(importances=found)) == [*first, "Importances", *slices, "All coordinates"]
    assert titles(of_lr_alone()) == [*first, slices[0]]
    assert titles(search(recommended=0)) == [*first, *slices, "All coordinates"]
    content = tuning_content(CONFIG, search())
    assert "Crosses at the edge: 3 of 8 trials, without a score." in content["figures"][2].caption
    assert "The last 3 of 9 trials found nothing better." in content["figures"][0].caption


def test_a_search_without_any_score_has_a_report(tmp_path: Path) -> None:
    trials = [trial(k, None, "diverged at step 1", lr=1.0 + k) for k in range(4)]
    summary = search(trials=trials, candidates=[candidate(trials[0]["setting"], None, None, "", None)], recommended=0)
    assert titles(summary) == []
    page = write_report(written(summary, tmp_path)).read_text()
    assert "No trial has a score" in page
    assert "<h2>Figures" not in page


def test_each_optimizer_has_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def noted(found: Any, _metric: str) -> str:
        drawn.extend(found)
        return "<svg"

    monkeypatch.setattr(figures, "draw_differences", noted)
    titles(search())
    assert [(each.label, each.optimizer) for each in drawn] == [
        ("trial 6", "RMSprop"), ("trial 2", "RMSprop"), ("Adam, trial 2", "Adam"),
    ]  # fmt: skip
    assert (drawn[0].difference, drawn[0].low, drawn[0].high) == (0.04, 0.03, 0.05)


# Importances

SPACE: Space = {"lr": Range(1e-4, 1.0), "decay": Range(1e-3, 0.3), "schedule": Choices(("constant", "cosine"))}


def ended(points: list[dict[str, Any]], scores: list[float | None], space: Space = SPACE) -> list[Any]:
    domains = {name: distribution(domain) for name, domain in space.items()}
    return [
        optuna.trial.create_trial(
            state=TrialState.PRUNED if score is None else TrialState.COMPLETE,
            params=point,
            distributions=domains,
            values=None if score is None else [score],
            user_attrs={SLOT: slot, "reason": "" if score is not None else "behind"},
        )
        for slot, (point, score) in enumerate(zip(points, scores, strict=True))
    ]


def points(count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        {
            "lr": float(10 ** draw.uniform(-4, 0)),
            "decay": float(10 ** draw.uniform(-3, -0.6)),
            "schedule": ("constant", "cosine")[draw.integers(2)],
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("maximize", [True, False])
def test_the_coordinate_that_decides_is_the_most_important(maximize: bool) -> None:
    drawn = points(30)
    losses = [abs(math.log10(p["lr"]) + 2) for p in drawn]
    trials = ended(drawn, [-x if maximize else x for x in losses])
    found = importances(trials, SPACE, maximize=maximize, seed=0)
    assert next(iter(found)) == "lr"
    assert found["lr"]["share"] > 0.6
    assert sum(each["share"] for each in found.values()) == pytest.approx(1)
    assert found["lr"]["share"] > found["lr"]["chance"]
    assert found["schedule"]["share"] < found["schedule"]["chance"]
    assert found == importances(trials, SPACE, maximize=maximize, seed=0)


def test_where_trials_fail_is_important() -> None:
    """Scores are noise; but no trial with a large rate has one."""
    drawn, noise = points(40), np.random.default_rng(1).normal(size=40)
    scores = [None if p["lr"] > 0.02 else float(x) for p, x in zip(drawn, noise, strict=True)]
    found = importances(ended(drawn, scores), SPACE, maximize=True, seed=0)
    assert [name for name, each in found.items() if each["share"] > each["chance"]] == ["lr"]
    alone = importances(ended(drawn, [float(x) for x in noise]), SPACE, maximize=True, seed=0)
    assert all(each["share"] <= each["chance"] for each in alone.values())


def test_what_is_important_beyond_chance_is_said() -> None:
    found = {"lr": {"share": 0.8, "chance": 0.3}, "decay": {"share": 0.2, "chance": 1.4}}
    said = "What decides, more than chance, whether a trial is among the best: lr (80 %)."
    assert said in describe_tuning(CONFIG, search(importances=found))
    del found["lr"]
    none = "No coordinate decides more than chance whether a trial is among the best."
    assert none in describe_tuning(CONFIG, search(importances=found))


def test_ranges_that_were_widened_and_narrowed_again_count_together() -> None:
    drawn = sorted(points(30), key=lambda p: abs(math.log10(p["lr"]) + 2))
    scores: list[float | None] = [-abs(math.log10(p["lr"]) + 2) for p in drawn]
    narrow: Space = {**SPACE, "lr": Range(1e-3, 1e-1)}
    inside = sum(1e-3 < p["lr"] < 1e-1 for p in drawn)
    mixed = ended(drawn[:inside], scores[:inside], narrow) + ended(drawn, scores)[inside:]
    whole = importances(ended(drawn, scores), SPACE, maximize=True, seed=0)
    assert importances(mixed, SPACE, maximize=True, seed=0) == whole
    shrunk = importances(mixed, narrow, maximize=True, seed=0)  # as if the best trial had left the end
    assert shrunk["lr"]["share"] == pytest.approx(whole["lr"]["share"], abs=0.05)


def test_too_few_trials_have_no_importances() -> None:
    drawn = points(30)
    scores: list[float | None] = [p["lr"] for p in drawn]
    few: list[float | None] = [*scores[: LEAST_SCORED - 1], *[None] * (31 - LEAST_SCORED)]
    enough: list[float | None] = [*scores[:LEAST_SCORED], *[None] * (30 - LEAST_SCORED)]
    assert importances(ended(drawn, few), SPACE, maximize=True, seed=0) == {}
    assert importances(ended(drawn, enough), SPACE, maximize=True, seed=0)
    assert importances(ended(drawn, [0.5] * 30), SPACE, maximize=True, seed=0) == {}  # nothing tells them apart
    assert importances(ended(drawn, scores), {"lr": SPACE["lr"]}, maximize=True, seed=0) == {}
    fixed: Space = {"lr": SPACE["lr"], "schedule": Choices(("constant",))}
    assert importances(ended(drawn, scores), fixed, maximize=True, seed=0) == {}


def test_the_report_says_why_importances_are_missing() -> None:
    assert missing_importances(search()) == (
        "Importances of the coordinates are not shown: they need 10 trials with a score, and this search has 5."
    )
    assert missing_importances(search()) in tuning_content(CONFIG, search())["lines"]
    alike = search(trials=[trial(k, 0.5) for k in range(LEAST_SCORED)])
    assert missing_importances(alike).endswith("the scores do not tell the trials apart.")
    assert missing_importances(of_lr_alone()) == ""
    assert missing_importances(search(importances={"lr": {"share": 1.0, "chance": 0.1}})) == ""


def slope(rule: Rule, seed: int) -> float:
    return rule.lr + 1e-3 * rule.decay + 1e-6 * seed


def test_a_search_records_importances(tmp_path: Path) -> None:
    space = ("lr=0.001:0.1", "decay=0.9,0.99")
    tuned = tune(slope, trials=12, seeds=7, space=space, higher_is_better=True, out=tmp_path, workers=1)
    assert next(iter(tuned.summary["importances"])) == "lr"
    check_summary(tuned.summary, "tune", "here")
    assert "Importances" in titles(tuned.summary)
    assert "calls" in " ".join(tuned.sentences)


# Tables and sentences


def test_the_table_of_trials_has_the_reasons() -> None:
    table = trials_table(search())
    assert table.header == ["optimizer", "trial", "drawn", "setting", "epochs", "accuracy, or why it ended"]
    assert table.title == "All 11 trials"
    assert table.folded
    assert table.rows[0] == ["RMSprop", "6", "qmc", "lr 0.005, decay 0.999, schedule cosine", "10", "95.0 %"]
    assert [row[-1] for row in table.rows[5:9]] == [
        "diverged at step 31",
        "stopped (behind the others)",
        "stopped (ε governs the divisor)",
        "not finished (time ran out)",
    ]
    assert table.rows[9] == ["Adam", "2", "qmc", "lr 0.002", "10", "94.0 %"]
    alone = trials_table(of_lr_alone())
    assert alone.header[0] == "trial"
    assert [row[0] for row in alone.rows] == ["3", "2", "4", "1"]
    assert trials_table(search(higher_is_better=False)).rows[0][1] == "4"


def test_the_table_of_what_was_confirmed() -> None:
    table = confirmed_table(search())
    assert table.own == 1
    assert [row[0] for row in table.rows] == ["the default", "trial 6", "trial 2", "Adam, trial 2"]
    assert table.rows[1][2:] == ["94.0 %", "+4.0 [+3.0, +5.0]", "better"]
    assert table.rows[3][1] == "Adam with lr 0.002"


def test_settings_in_words() -> None:
    default = Setting(Rule()).to_json()
    setting = Setting(
        Rule(lr=0.0119616, eps=1.67073e-10, centered=True, decay=0.99799, weight_decay=1.23e-5), "cosine", 30
    )
    assert setting_words(setting.to_json(), default) == (
        "lr 0.012, decay 0.99799, eps 1.67e-10, weight decay 1.23e-05, centered, schedule cosine, warm-up of 30 steps"
    )
    shown = {name: value_words(setting.to_json(), name) for name in ("lr", "decay", "eps", "centered", "warmup")}
    assert list(shown.values()) == ["0.012", "0.99799", "1.67e-10", "yes", "30"]
    assert setting_words(default, setting.to_json()).endswith("no centered, schedule constant, warm-up of 0 steps")


def test_sentences_of_searches() -> None:
    lines = describe_tuning(CONFIG, search())
    assert lines[0] == (
        "Gain: lr 0.005, decay 0.999, schedule cosine reaches a test accuracy of 94.0 %, the default 90.0 % "
        "(+4.0 points [+3.0, +5.0]; medians of 7 new seeds)."
    )
    assert lines[1] == (
        "Adam with lr 0.002, tuned with the same budget, is better than RMSprop's default: 93.0 % "
        "(+3.0 points [+2.0, +4.0])."
    )
    assert lines[2] == (
        "11 trials took 86 epochs. Without a score: 1 diverged, 1 stopped (behind the others), "
        "1 stopped (ε governs the divisor), 1 not finished (time ran out)."
    )
    assert "lr=0.005, alpha=0.999), with schedule cosine" in " ".join(lines)
    losses = search(higher_is_better=False, metric="loss", confirmed_on="")
    assert (
        "reaches a loss of 0.94, the default 0.9 (+0.04 [+0.03, +0.05]; medians of 7 new seeds; lower"
        in (describe_tuning(CONFIG, losses)[0])
    )


def test_sentences_of_candidates_that_diverged() -> None:
    base = search(recommended=0)["candidates"]
    lost = [base[0], candidate(base[1]["setting"], None, None, "not comparable", 0.95)]
    assert describe_tuning(CONFIG, search(candidates=lost, recommended=0))[0] == (
        "No gain over the default shown: each of the tuned settings diverged on half of the new seeds or more. "
        "Keep the default."
    )
    default = candidate(base[0]["setting"], None, None, "", None)
    found = describe_tuning(CONFIG, search(candidates=[default, base[1] | {"difference": None}], recommended=0))[0]
    assert found == (
        "No gain over the default shown: it diverged on 4 of 7 new seeds, the best of the tuned settings (lr 0.005, "
        "decay 0.999, schedule cosine; 94.0 %) on 0."
    )
    better = base[1] | {"difference": None, "interval": None}
    found = describe_tuning(CONFIG, search(candidates=[default, better], recommended=1))[0]
    assert found.endswith("94.0 % (median of 7 new seeds). The default diverged on 4 of them.")
    adam = search(candidates=[*base[:2], candidate(base[3]["setting"], None, None, "not comparable", 0.9)])
    assert "cannot be compared with RMSprop's default." in " ".join(describe_tuning(CONFIG, adam))


# The terminal


def lines_of(table: Table) -> list[str]:
    console = Console(file=io.StringIO(), width=10_000)
    print_table(console, table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def wide(**changes: Any) -> Any:
    """Return a search of all coordinates with long numbers, and long differences."""
    values: dict[str, Any] = {
        "lr": 1.23456e-05, "decay": 0.99789, "eps": 1.23456e-10, "momentum": 0.9789, "weight_decay": 1.23456e-06,
        "bias_correction": True, "centered": True, "schedule": "constant", "warmup": 1395,
    }  # fmt: skip
    spaces = {name: {"low": 1e-5, "high": 1.0} for name in values if name != "schedule"}
    spaces["schedule"] = SPACES["schedule"]
    trials = [trial(slot, 0.0123456 + 1e-6 * slot, **values) for slot in range(100, 104)]
    trials = [trial(0, 0.02), *trials, trial(122, 0.0123456, optimizer="Adadelta")]
    others = [
        candidate(t["setting"], -0.0123456, -0.001234567, "not comparable", 0.01) for t in (trials[1], trials[-1])
    ]
    return search(
        trials=trials,
        candidates=[candidate(trials[0]["setting"], 0.02, None, "", 0.02), *others],
        spaces={"RMSprop": spaces},
        **changes,
    )


@pytest.mark.parametrize("metric", ["accuracy", "mean squared error", "score"])
@pytest.mark.parametrize("confirmed_on", ["test", "validation", ""])
def test_tables_fit_into_80_columns(metric: str, confirmed_on: str) -> None:
    for made in (wide, search, of_lr_alone):
        summary = made(metric=metric, higher_is_better=metric == "accuracy", confirmed_on=confirmed_on)
        for table in (trials_table_of(summary), candidates_table(summary)):
            assert max(map(len, lines_of(table))) <= 80


def test_the_table_of_trials_has_a_column_for_each_of_the_best() -> None:
    lines = lines_of(trials_table_of(search()))
    assert [line.split() for line in lines] == [
        ["trial", "1", "6", "2", "7", "4"],
        ["drawn", "default", *["qmc"] * 4],
        ["accuracy", "90.0", "%", "95.0", "%", "93.0", "%", "92.0", "%", "20.0", "%"],
        ["lr", "0.01", "0.005", "0.003", "0.02", "1e-05"],
        ["decay", "0.99", "0.999", "0.99", "0.95", "0.9"],
        ["schedule", "constant", "cosine", *["constant"] * 3],
    ]
    worst = lines_of(trials_table_of(search(higher_is_better=False)))[0]
    assert worst.split() == ["trial", "1", "4", "7", "2", "6"]


PROGRESS = Progress(
    confirming=False, done=25, total=120, best=0.964, default=0.953, noise=0.01, seconds_left=190.0,
    news="tpe: lr 0.002, stopped (behind the others)", metric="accuracy",
)  # fmt: skip


def test_progress_in_words() -> None:
    assert progress_words(PROGRESS) == "best 96.4 %, default + 1.1 × seed noise"
    assert progress_words(PROGRESS._replace(best=0.01, default=0.02, metric="loss")) == (
        "best 0.01, default − 1.0 × seed noise"
    )
    assert progress_words(PROGRESS._replace(best=0.953)) == "best 95.3 %, the default"
    for noise in (None, 0.0, 1e-5):
        assert progress_words(PROGRESS._replace(noise=noise)) == "best 96.4 %, default 95.3 %"
    assert progress_words(PROGRESS._replace(default=None)) == "best 96.4 %"
    assert progress_words(PROGRESS._replace(best=None)) == "no score yet"
    assert [duration_words(x) for x in (41.7, 130, 8000)] == ["42 s", "2 min", "2 h 13 min"]


def shown(width: int | None, *listened: Progress) -> list[str]:
    """Return what a terminal of a width shows last, or with None a pipe."""
    file = io.StringIO()
    console = Terminal(file=file, width=width or 80, soft_wrap=True, highlight=False, force_terminal=width is not None)
    with TuningProgress(console) as progress:
        for each in listened:
            progress.listen(each)
    lines = (Text.from_ansi(line).plain.rstrip() for line in file.getvalue().splitlines())
    return [line for line in lines if line]


def test_progress_fits_into_a_terminal() -> None:
    searching, confirming = shown(80, PROGRESS)[-2:]
    assert searching.startswith("searching  ━")
    assert searching.endswith("25/120 0:03:10 best 96.4 %, default + 1.1 × seed noise")
    assert len(searching) <= 80
    assert confirming.startswith("confirming ━")
    (searching, _) = shown(160, PROGRESS)[-2:]
    assert searching.endswith("× seed noise; tpe: lr 0.002, stopped (behind the others)")
    later = PROGRESS._replace(confirming=True, done=3, total=30, seconds_left=70.0)
    searching, confirming = shown(80, PROGRESS, later)[-2:]
    assert "120/120 0:00:00" in searching
    assert " 3/30 " in confirming
    assert "0:01:10 best" in confirming


def test_progress_without_a_terminal_is_a_line_per_quarter() -> None:
    quarters = [PROGRESS._replace(done=done) for done in range(25, 121)]
    assert len(shown(None, *quarters)) == 5
    assert shown(None, PROGRESS) == [
        "searching: 25 of 120 trials, about 3 min left; best 96.4 %, default + 1.1 × seed noise; "
        "tpe: lr 0.002, stopped (behind the others)"
    ]


def test_a_report_needs_no_optuna(tmp_path: Path) -> None:
    found = {"lr": {"share": 0.8, "chance": 0.3}, "decay": {"share": 0.2, "chance": 1.4}}
    written(search(importances=found, spaces={"RMSprop": SPACES}), tmp_path / "run")
    program = (
        "import sys\nsys.modules['optuna'] = None\nfrom rmsprop.cli.app import run\nsys.exit(run(['report', 'run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Importances" in page
    assert page.count("<img") == 7
    assert "diverged at step 31" in page
