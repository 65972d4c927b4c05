"""Reports: the numbers behind the figures, and the page as a browser shows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lighter
import made_search
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from playwright.sync_api import Browser, Request

from rmsprop import Rule, native
from rmsprop.cli.app import run as run_command
from rmsprop.lab.comparison import compare
from rmsprop.lab.report import figures, layer_figure, monitor_figures
from rmsprop.lab.report.monitor_figures import Series, extremes_words, heat_data, series_data
from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.sentences import describe_findings, evidence_words, findings_by_advice
from rmsprop.lab.report.tensor_names import by_pattern, names_words, shortened
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.training_run import train
from rmsprop.lab_options import USUAL_OPTIMIZERS

MINE = str(Path(__file__).with_name("mine.py"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """Return a small comparison and a small training on real data."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"learning_rates": (0.001, 0.01, 0.1), "tuning_seeds": 1, "seeds": 5, "epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        lighter.without_workers(patch)
        compared, _ = compare("digits", out=folder / "c", command="rmsprop compare digits <now>", **options)
    trained, _ = train("digits", Rule(), epochs=2, every=5, out=folder / "t", command="rmsprop train digits")
    return {"compare": compared, "train": trained}


@pytest.fixture(scope="module")
def pages(runs: dict[str, RunDirectory], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = made_search.written(made_search.search(), tmp_path_factory.mktemp("tune"))
    return {kind: write_report(run) for kind, run in {**runs, "tune": made}.items()}


def test_curves_are_medians_and_the_middle_half() -> None:
    curves = [[[0.5, float(v)], [1.0, 10.0 * v]] for v in (1, 2, 3, 4, 5)]
    rows: list[Any] = [{"optimizer": "Adam", "diverged": False, "loss_curve": c} for c in curves]
    rows.append({"optimizer": "Adam", "diverged": True, "loss_curve": [[0.5, 1e9]]})
    (band,) = figures.curve_data(rows, "loss_curve", 1, ["SGD", "Adam"])
    assert band == figures.Band("Adam", [0.5, 1.0], [3, 30], [2, 20], [4, 40])


def test_rates_that_diverged_are_left_out_of_the_sensitivity() -> None:
    rows: list[Any] = [
        {"optimizer": "SGD", "lr": lr, "validation_metric": metric, "diverged": diverged}
        for lr, metric, diverged in ((1.0, 0.2, False), (0.1, 0.8, False), (0.1, 0.6, False), (10.0, 0.1, True))
    ]
    assert figures.sensitivity_data(rows, USUAL_OPTIMIZERS)["SGD"] == [(0.1, pytest.approx(0.7)), (1.0, 0.2)]


def test_layers_and_tests_by_seed() -> None:
    layers = layer_figure.layer_data([{"w": [1.0] * 7}, {"w": [3.0] * 7}, {"w": [4.0] * 7}])
    assert layers == [layer_figure.Layer("w", [3.0] * 7)]
    assert layer_figure.layer_data([]) == []
    rows: list[Any] = [
        {"optimizer": "SGD", "diverged": False, "test_metric": 0.5},
        {"optimizer": "SGD", "diverged": True},
    ]
    assert figures.test_data(rows, ["SGD"]) == {"SGD": [0.5]}


def test_a_layer_without_rates_is_drawn_empty() -> None:
    """A rate of 0 has no place on a logarithmic axis."""
    svg = layer_figure.draw_layers(
        [layer_figure.Layer("dead", [0.0] * 7), layer_figure.Layer("live", [0.0] * 3 + [1.0] * 4)], lr=0.0
    )
    assert svg.startswith("<svg")
    assert layer_figure.draw_layers([layer_figure.Layer("dead", [0.0] * 7)], lr=0.0).startswith("<svg")
    assert figures.draw_bands([], "loss", log=True).startswith("<svg")
    assert figures.draw_bars({}, "microseconds").startswith("<svg")


def record(step: int, lrs: tuple[float, ...] = (1.0,), **tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a monitor's record that figures read."""
    return {"step": step, "groups": [{"lr": lr} for lr in lrs], "tensors": tensors}


def test_a_series_has_a_gap_where_a_tensor_was_not_measured() -> None:
    records = [record(1, w={"x": 2.0}, b={"x": None}), record(5, w={"x": None}), record(9, w={"x": 4}, c={"x": 1})]
    w, c = series_data(records, "x")
    assert (w.name, c.name, w.steps) == ("w", "c", [1, 5, 9])
    np.testing.assert_array_equal([w.values, c.values], [[2, math.nan, 4], [math.nan, math.nan, 1]])
    assert w.middle == 3
    assert series_data(records, "y") == series_data([], "x") == []
    assert extremes_words([w, c], ".2g") == "At the end w is highest (4) and c lowest (1)."
    assert extremes_words([w], ".2g") == "w ends at 4."
    assert extremes_words([w, w], ".2g") == "At the end all are at 4."


def test_heat_puts_every_element_where_its_rate_is() -> None:
    """Bin e holds the elements with 2ᵉ ≤ d < 2ᵉ⁺¹: rates from η·2⁻ᵉ⁻¹ to η·2⁻ᵉ."""
    w = {"effective_lr": {"lr": 0.25, "first": -1, "counts": [3, 0, 1]}}  # 3 at 1/4 to 1/2, 1 at 1/16 to 1/8
    b = {"effective_lr": {"lr": 1.0, "first": 2, "counts": [4]}}  # 1/8 to 1/4
    heat = heat_data([record(7, w=w, b=b)])
    assert heat is not None
    assert (heat.steps, heat.lowest, heat.lrs) == ([7], -4, [1.0])
    np.testing.assert_array_equal(heat.shares[::4, 0], [1 / 8, 4 / 8, 3 / 8])  # of 1/16, 1/8 and 1/4
    for quarter in range(4):
        np.testing.assert_array_equal(heat.shares[quarter::4, 0], heat.shares[::4, 0])
    own = heat_data([record(7, w=w, b=b)], "b")
    assert own is not None
    np.testing.assert_array_equal(own.shares, np.ones((4, 1)))


def test_heat_follows_a_rate_that_falls() -> None:
    """η = 1, then 0.6: the rates of the same d fall to 0.6, three quarters of a factor of 2."""
    bins = {"first": 0, "counts": [1]}
    heat = heat_data([record(t, (lr,), w={"effective_lr": {"lr": lr, **bins}}) for t, lr in ((1, 1.0), (2, 0.6))])
    assert heat is not None
    assert (heat.lowest, heat.lrs) == (-2, [1.0, 0.6])
    np.testing.assert_array_equal(heat.shares[:, 0], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(heat.shares[:, 1], [0, 1, 1, 1, 1, 0, 0, 0])
    assert heat_data([]) is heat_data([record(1, w={"effective_lr": None})]) is None
    stopped = {"effective_lr": {"lr": 0.0, **bins}}  # η = 0 has no logarithm, and nothing moves
    assert heat_data([record(1, w=stopped)]) is None
    many = heat_data([record(t, w={"effective_lr": {"lr": 1.0, **bins}}) for t in range(1, 1001)])
    assert many is not None
    assert len(many.steps) == 250
    assert many.shares.shape == (4, 250)


def test_many_tensors_are_drawn_as_range_median_and_extremes() -> None:
    series = [Series(f"{i}.weight", [1, 2, 3], [float(i), i + 1.0, math.nan]) for i in range(1, 31)]
    axes = Figure().subplots()
    monitor_figures._draw_many(axes, series)
    assert [line.get_label() for line in axes.lines] == ["30.weight", "1.weight", "median of 30"]
    np.testing.assert_array_equal(axes.lines[2].get_xydata(), [[1, 15.5], [2, 16.5]])
    (band,) = axes.collections
    assert (band.get_datalim(axes.transData).y0, band.get_datalim(axes.transData).y1) == (1, 31)
    few, many = (monitor_figures.draw_series(series[:n], "x", log=True).count('id="line2d_') for n in (9, 30))
    assert many < few
    axes = Figure().subplots()
    monitor_figures._draw_many(axes, series, ["7.weight", "1.weight", "not measured", "9.weight", "8.weight"])
    found = [line.get_label() for line in axes.lines]
    assert found == ["30.weight", "1.weight", "7.weight", "9.weight", "median of 30"]
    axes = Figure().subplots()
    monitor_figures._draw_many(
        axes, [Series(name, [1, 2, 3], [last, 0.0, 0.0]) for name, last in zip("abc", (0, 2, 1), strict=True)]
    )
    assert [line.get_label() for line in axes.lines][:2] == ["b", "a"]  # of equal medians, the largest value decides


MANY = [f"body.{i}.{part}" for i in range(60) for part in ("query", "key", "value", "out", "norm")]  # 300 tensors


def test_of_many_layers_those_that_matter_have_rows_of_their_own_and_the_others_share_rows() -> None:
    layers = [layer_figure.Layer(name, [0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 2.0]) for name in MANY]
    layers[7] = layers[7]._replace(quantiles=[1e3] * 7)
    layers[250] = layers[250]._replace(quantiles=[1e-4] * 7)
    layers[33] = layers[33]._replace(quantiles=[0.0] * 7)  # its rates have no logarithm
    assert layer_figure.layer_rows(layers[: layer_figure.ROWS]) == layers[: layer_figure.ROWS]
    rows = layer_figure.layer_rows(layers, [MANY[100], "no layer", MANY[33]])
    alone, shared = ([row for row in rows if (row.number > 1) is many] for many in (False, True))
    assert {MANY[100], MANY[33], MANY[7], MANY[250]} <= {row.name for row in alone}
    assert [row.name for row in alone] == [name for name in MANY if any(name == row.name for row in alone)]
    assert {row.name for row in shared} == {f"body.*.{part}" for part in ("query", "key", "value", "out", "norm")}
    assert sum(row.number for row in rows) == 300
    assert shared[0].quantiles == layers[0].quantiles
    assert "12 of the 300 layers have a row" in layer_figure.rows_words(rows)
    assert "the other 288" in layer_figure.rows_words(rows)
    assert layer_figure.rows_words(layers) == ""
    different = [layer_figure.Layer("x" * i, [float(i)] * 7) for i in range(1, 301)]
    rows = layer_figure.layer_rows(different)
    assert len(rows) == layer_figure.ROWS
    (others,) = [row for row in rows if row.number > 1]
    assert (others.name, others.number) == ("others", 300 - layer_figure.ROWS + 1)
    wide = max(row.quantiles[-1] for row in different if row.name not in {row.name for row in rows})
    assert others.quantiles[-1] == wide


def test_a_layer_of_a_narrow_range_is_seen() -> None:
    svg = layer_figure.draw_layers([layer_figure.Layer("w", [1.0] * 7), layer_figure.Layer("v", [1e-5] * 7)], 0.0)
    assert svg.count("fill: #0072b2") >= 2  # its median; a line of no length is not seen


def test_names_of_many_tensors_are_told_by_pattern() -> None:
    assert names_words(MANY[:6]) == ", ".join(MANY[:6])
    assert names_words(["head.weight", *MANY[:120]]).startswith("body.*.query (24), body.*.key (24), ")
    assert names_words(["head.weight", *MANY[:120]]).endswith("(24), head.weight")
    assert names_words([f"{letter}.w" for letter in "abcdefghijkl"]) == (
        "a.w, b.w, c.w, d.w, e.w, f.w, g.w, h.w and 4 more"
    )
    assert evidence_words({"also": MANY[:10]}) == (
        "also body.*.query (2), body.*.key (2), body.*.value (2), body.*.out (2), body.*.norm (2)"
    )
    assert list(by_pattern(["2.weight", "layer2.weight", "v1.0.b"])) == ["2.weight", "layer2.weight", "v1.0.b"]
    assert list(by_pattern(["a.0", "a.1", "a1.0"])) == ["a.*", "a1.0"]
    assert shortened("encoder.layers.12.self_attention.query.weight") == "…layers.12.self_attention.query.weight"
    assert shortened("x" * 50) == "…" + "x" * 39
    assert shortened("short") == "short"


def test_the_report_of_a_model_of_300_tensors_is_small(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("run.json", "summary.json"):
        (tmp_path / name).write_bytes((runs["train"].path / name).read_bytes())
    records = runs["train"].records()
    for each in records:
        if each.get("effective_lr"):
            each["effective_lr"] = {name: [0.01 * (2 + i % 7) * q for q in range(1, 8)] for i, name in enumerate(MANY)}
    run.append(records)
    statistics: list[Any] = measured_steps(runs["train"])
    for each in statistics:
        (usual, *_) = each["tensors"].values()
        each["tensors"] = dict.fromkeys(MANY, usual)
    run.append(statistics, "statistics.jsonl")
    page = write_report(run)
    assert page.stat().st_size < 800_000
    assert "12 of the 300 layers have a row" in page.read_text()
    assert "Of the 300 tensors: the range, the median, those that are mostly highest" in page.read_text()
    assert page.read_text().count("body.59.") < 60


@pytest.mark.parametrize(
    ("ends", "powers", "between"),
    [
        ((2e-6, 3.0), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰", "10¹"], []),
        ((0.15, 0.5), ["0.1"], ["0.2", "0.3", "0.4", "0.6"]),
        ((2e-6, 5e-6), ["10⁻⁶", "10⁻⁵"], ["2×10⁻⁶", "3×10⁻⁶", "4×10⁻⁶", "6×10⁻⁶"]),
    ],
)
def test_logarithmic_axes_have_readable_labels(
    ends: tuple[float, float], powers: list[str], between: list[str]
) -> None:
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.add_subplot()
    figures.log_scale(axes, "y")
    axes.set_ylim(*ends)
    figure.draw_without_rendering()
    axis = axes.yaxis
    assert {t.get_text() for t in axis.get_ticklabels()} >= set(powers)
    labels = {t.get_text() for t in axis.get_ticklabels(minor=True)}
    assert labels >= set(between)
    assert between or not labels


def test_what_is_empty_zero_or_alone_is_drawn() -> None:
    nothing = Series("w", [1, 2], [math.nan, 0.0])
    alone = Series("w", [1], [1e-3])
    for log in (True, False):
        for series in ([], [nothing], [alone], [nothing] * 12, [alone] * 12):
            assert monitor_figures.draw_series(series, "x", log=log, mark=1e-3).startswith("<svg")
    one = heat_data([record(1, w={"effective_lr": {"lr": 0.1, "first": -3, "counts": [2]}})])
    assert one is not None
    assert monitor_figures.draw_heat({"w": one, "v": one, "u": one}).startswith("<svg")


def legend_of(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], str]) -> list[str]:
    """Return the texts of the legend that `draw` draws, and check that the SVG is well formed."""
    made: list[Legend] = []
    legend = Figure.legend

    def noted(self: Figure, *rest: Any, **more: Any) -> Legend:
        made.append(legend(self, *rest, **more))
        return made[-1]

    monkeypatch.setattr(Figure, "legend", noted)
    ElementTree.fromstring(draw())
    return [text.get_text() for each in made for text in each.get_texts()]


def test_names_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Matplotlib reads $...$ as a formula, drops labels that begin with _, and writes \x1b into the SVG."""
    names = ["_orig_mod.0.weight", "a$b$c", "$\\frac{$", r"\$x\$", "50 % of_{it}", "bell\x07\x1b[31m"]
    shown = [*names[:-1], "bell\ufffd\ufffd[31m"]
    series = [Series(name, [1, 2], [1.0, 2.0]) for name in names]
    assert legend_of(monkeypatch, lambda: monitor_figures.draw_series(series, "$a$ b$", log=True, mark=1.5)) == shown
    many = [Series("_least", [1, 2], [0.1, 0.1]), *series, *(Series(f"_{i}", [1, 2], [3.0 + i] * 2) for i in range(9))]
    wanted = ["_8", "_least", "median of 16"]
    assert legend_of(monkeypatch, lambda: monitor_figures.draw_series(many, "x", log=True)) == wanted
    bands = [figures.Band(name, [1.0], [1.0], [1.0], [1.0]) for name in ("RMSprop", "SGD")]
    assert legend_of(monkeypatch, lambda: figures.draw_bands(bands, "validation $x$", log=False)) == ["RMSprop", "SGD"]
    heat = heat_data([record(1, w={"effective_lr": {"lr": 0.1, "first": -3, "counts": [2]}})])
    assert heat is not None
    draws: tuple[Callable[[], str], ...] = (
        lambda: monitor_figures.draw_heat(dict.fromkeys(names, heat)),
        lambda: layer_figure.draw_layers([layer_figure.Layer(name, [1.0] * 7) for name in names], 0.1),
        lambda: figures.draw_test({"SGD": [1.0]}, "test $\\frac{$"),
        lambda: figures.draw_sensitivity({"SGD": [(1.0, 1.0)]}, "validation $\\frac{$"),
        lambda: figures.draw_bars({"$\\frac{$": 1.0}, "$\\frac{$"),
    )
    for draw in draws:
        ElementTree.fromstring(draw())


def test_findings_in_words() -> None:
    finding: Any = {"kind": "eps", "cause": "c", "threshold": "t", "remedy": "r"}
    assert describe_findings([], 1, 1, 1) == "Nothing found in 1 measured step (1)."
    assert describe_findings([finding], 3, 1, 100) == "1 finding in 3 measured steps (1 to 100)."
    assert describe_findings([finding] * 2, 3, 1, 100) == "2 findings in 3 measured steps (1 to 100)."
    other: Any = {**finding, "remedy": "s"}
    assert findings_by_advice([finding, finding, other, finding]) == [[finding] * 2, [other], [finding]]
    evidence = {"update_rms": 0.012345, "also": ["a", "b"], "lr": None, "records": 3, "by": {"w": 1.0}}
    assert evidence_words(evidence) == "update rms 0.0123, also a, b, records 3, by (w 1)"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that the report is well formed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compare", "train"])
def test_a_report_is_one_well_formed_file_that_says_everything(
    runs: dict[str, RunDirectory], pages: dict[str, Path], kind: str
) -> None:
    html = pages[kind].read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == (7 if kind == "compare" else 10)
    assert all(image["alt"] for image in images)
    for words in ("v ← 0.99·v + 0.01·g²", "Effective learning rates", "processor", "torch", f"rmsprop {kind} digits"):
        assert words in page.text
    assert native.kernel is None or "native kernel (" in page.text
    if kind == "compare":
        assert "<now>" in page.text  # the command is escaped
        for words in ("no difference", "Adadelta", "Time of one optimizer step", "Test accuracy"):
            assert words in page.text
    else:
        first: Any = measured_steps(runs[kind])[0]
        at_most = max(first["tensors"], key=lambda name: first["tensors"][name]["update_ratio"])
        for words in ("What the optimizer did", "findings in 7 measured steps (1 to 30).", "The first step", at_most):
            assert words in page.text
        assert page.text.index("The first step") < page.text.index("Update beside weight")  # text first
        assert any("At the end" in str(image["alt"]) for image in images)
    assert write_report(runs[kind]).read_text() == html


def diverged(run: RunDirectory, path: Path, post_mortem: dict[str, Any] | None) -> RunDirectory:
    """Return a copy of a training without findings, with this post-mortem."""
    for name in ("run.json", "records.jsonl"):
        (path / name).write_bytes((run.path / name).read_bytes())
    records = measured_steps(run)
    for tensor in (t for r in records for t in r["tensors"].values()):
        tensor["update_ratio"] = 1e-3  # so that the first step is no finding
    (path / "statistics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = json.loads((run.path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "post_mortem": post_mortem}))
    return RunDirectory(path)


def row(step: int) -> dict[str, Any]:
    """Return a row of a post-mortem's table with the widest numbers."""
    return {
        "step": 1000 + step,
        "gradient_rms": 1.234e-10,
        "history_rms": None,
        "update_ratio": 4.321e-07,
        "nonfinite": 10**9,
    }


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_a_report_says_that_nothing_was_found_or_how_it_diverged(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    run = diverged(runs["train"], tmp_path, None)
    assert "Nothing found in 7 measured steps (1 to 30)." in write_report(run).read_text()
    words = "It began at step 30 in 0.weight <script>"
    diverged(runs["train"], tmp_path, {"sentences": [words], "table": {"<b>": [row(1)]}, "text": words})
    page = write_report(run).read_text()
    assert words.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "Beside that, nothing found in 7 measured steps (1 to 30)." in page
    for shown in ("<caption>&lt;b&gt;</caption>", "<td>1.23e-10</td><td>–</td>", "<td>1001</td>"):
        assert shown in page
    (tmp_path / "statistics.jsonl").unlink()
    assert "What the optimizer did" not in write_report(run).read_text()


@pytest.mark.usefixtures("no_figures")
def test_what_a_training_came_to_stands_at_the_top_of_its_report(tmp_path: Path) -> None:
    run = train("digits", Rule(lr=1e-6), epochs=1, out=tmp_path / "run")
    page = write_report(run.directory).read_text()
    told = "Nothing was learned: the validation loss went from"
    assert 0 < page.index(told) < page.index("<h2>Figures")
    assert told in run._repr_html_()


@pytest.mark.slow
def test_an_unfinished_run_has_a_report(
    runs: dict[str, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, run in runs.items():
        half = RunDirectory(tmp_path / kind)
        half.path.mkdir()
        (half.path / "run.json").write_text((run.path / "run.json").read_text())
        records = (run.path / "records.jsonl").read_text().splitlines(keepends=True)
        for count in (0, 1, len(records) // 2, len(records)):
            (half.path / "records.jsonl").write_text("".join(records[:count]))
            with monkeypatch.context() as patch:
                if count > 1:  # more records draw the same figures
                    lighter.without_figures(patch)
                assert "not finished" in write_report(half).read_text()


def test_odd_tasks_train_and_have_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["train", f"{MINE}:odd"]) == 0
    assert run_command(["train", f"{MINE}:not_finite"]) == 1
    assert "The validation loss was not finite, first before the first step" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("kind", ["compare", "train", "tune"])
def test_in_a_browser_it_is_readable_and_asks_no_host(pages: dict[str, Path], kind: str, browser: Browser) -> None:
    """On a desktop and on a telephone."""
    asked: list[str] = []
    said: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    def listen(message: Any) -> None:
        said.append(message.text)

    for width in (1280, 400):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", note)
        page.on("console", listen)
        page.goto(pages[kind].as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
        assert said == []
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.width > 300)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        # No text is cut off. Only the equations and the table of settings may scroll by themselves.
        cut = page.evaluate(
            "[...document.querySelectorAll('h1, h2, h3, p, figcaption, td, th')].filter(e => e.offsetParent"
            " && !e.closest('.scroll') && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
        )
        assert cut == []
        smallest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('p, td, pre')].map("
            "e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert smallest >= 13
        page.close()
        asked.clear()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.usefixtures("no_figures")
def test_on_a_telephone_the_whole_of_a_post_mortem_is_seen(
    runs: dict[str, RunDirectory], tmp_path: Path, browser: Browser
) -> None:
    words = ["It began at step 1002 in layers.0.self_attention.weight, and in 5 of 5 other tensors: its gradient was"]
    found = {"sentences": words, "table": {"layers.0.self_attention.weight": [row(1), row(2)]}}
    found["text"] = "\n".join(words)
    path = write_report(diverged(runs["train"], tmp_path, found))
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    for text in (words[0], "update / weight", "4.32e-07", "1000000000"):
        shown = page.get_by_text(text).last  # no element around it scrolls
        assert (
            shown.evaluate(
                "e => { for (; e; e = e.parentElement) if (e.scrollWidth > e.clientWidth + 1) return e.tagName }"
            )
            is None
        )
    page.close()
