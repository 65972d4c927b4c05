"""Reports: the numbers behind the figures, and the page as a browser shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Request, sync_playwright

from rmsprop import Rule, native
from rmsprop.lab import figures
from rmsprop.lab.compare import compare
from rmsprop.lab.report import write_report
from rmsprop.lab.store import RunDirectory
from rmsprop.lab.train import train

MINE = str(Path(__file__).with_name("mine.py"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """A comparison and a training on real data, small."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"learning_rates": (0.001, 0.01, 0.1), "tuning_seeds": 1, "seeds": 5, "epochs": 2}
    compared, _ = compare("digits", out=folder / "c", command="rmsprop compare digits <now>", **options)
    trained, _ = train("digits", Rule(lr=0.003), epochs=2, out=folder / "t", command="rmsprop train digits")
    return {"compare": compared, "train": trained}


def test_curves_are_medians_and_the_middle_half() -> None:
    curves = [[[0.5, float(v)], [1.0, 10.0 * v]] for v in (1, 2, 3, 4, 5)]
    rows: list[dict[str, Any]] = [{"optimizer": "Adam", "diverged": False, "loss_curve": c} for c in curves]
    rows.append({"optimizer": "Adam", "diverged": True, "loss_curve": [[0.5, 1e9]]})
    (band,) = figures.curve_data(rows, "loss_curve", 1)
    assert band == figures.Band("Adam", [0.5, 1.0], [3, 30], [2, 20], [4, 40])


def test_rates_that_diverged_are_left_out_of_the_sensitivity() -> None:
    rows = [
        {"optimizer": "SGD", "lr": lr, "validation_metric": metric, "diverged": diverged}
        for lr, metric, diverged in ((1.0, 0.2, False), (0.1, 0.8, False), (0.1, 0.6, False), (10.0, 0.1, True))
    ]
    assert figures.sensitivity_data(rows)["SGD"] == [(0.1, pytest.approx(0.7)), (1.0, 0.2)]


def test_layers_and_tests_by_seed() -> None:
    layers = figures.layer_data([{"w": [1.0] * 7}, {"w": [3.0] * 7}, {"w": [4.0] * 7}])
    assert layers == [figures.Layer("w", [3.0] * 7)]
    assert figures.layer_data([]) == []
    rows = [{"optimizer": "SGD", "diverged": False, "test_metric": 0.5}, {"optimizer": "SGD", "diverged": True}]
    assert figures.test_data(rows, ["SGD"]) == {"SGD": [0.5]}


def test_a_layer_without_rates_is_drawn_empty() -> None:
    """Where the rate is 0 there is nothing to draw on a logarithmic axis."""
    svg = figures.draw_layers([figures.Layer("dead", [0.0] * 7), figures.Layer("live", [0.0] * 3 + [1.0] * 4)], lr=0.0)
    assert svg.startswith("<svg")
    assert figures.draw_layers([figures.Layer("dead", [0.0] * 7)], lr=0.0).startswith("<svg")
    assert figures.draw_bands([], "loss", log=True).startswith("<svg")
    assert figures.draw_bars({}, "microseconds").startswith("<svg")


class Page(HTMLParser):
    """Collects tags, attributes and text; the report has to be well formed."""

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
def test_a_report_is_one_well_formed_file_that_says_everything(runs: dict[str, RunDirectory], kind: str) -> None:
    path = write_report(runs[kind])
    html = path.read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == (6 if kind == "compare" else 5)
    assert all(image["alt"] for image in images)
    for words in ("v ← 0.99·v + 0.01·g²", "Effective learning rates", "processor", "torch", f"rmsprop {kind} digits"):
        assert words in page.text
    assert native.kernel is None or "native kernel (" in page.text
    if kind == "compare":
        assert "<now>" in page.text  # the command is escaped
        for words in ("no difference", "Adadelta", "Time of one optimizer step", "Test accuracy"):
            assert words in page.text
    assert write_report(runs[kind]).read_text() == html


@pytest.mark.slow
def test_an_unfinished_run_has_a_report(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    for kind, run in runs.items():
        half = RunDirectory(tmp_path / kind)
        half.path.mkdir()
        (half.path / "run.json").write_text((run.path / "run.json").read_text())
        records = (run.path / "records.jsonl").read_text().splitlines(keepends=True)
        for count in (0, 1, len(records) // 2, len(records)):
            (half.path / "records.jsonl").write_text("".join(records[:count]))
            assert "not finished" in write_report(half).read_text()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("kind", ["compare", "train"])
def test_in_a_browser_it_is_readable_and_asks_no_host(
    runs: dict[str, RunDirectory], kind: str, width: int, chromium: str
) -> None:
    path = write_report(runs[kind])
    asked: list[str] = []
    said: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    def listen(message: Any) -> None:
        said.append(message.text)

    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", note)
        page.on("console", listen)
        page.goto(path.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert said == []
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.width > 300)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        # No text is cut off: only the equations and the table of settings may scroll on their own.
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
        browser.close()
