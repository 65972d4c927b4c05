"""The page of `rmsprop page` in a browser: numbers, controls, links, bad input, and what readers need."""

from __future__ import annotations

import dataclasses
import json
import re
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_claims
import pytest
import torch
from page_checks import Part, wait
from playwright.sync_api import Browser, Page

from rmsprop import Rule, init, profile, update
from rmsprop.cli.app import run as run_command
from rmsprop.monitor.findings import find
from rmsprop.monitor.findings.findings_record import findings_record
from rmsprop.page import bundle
from rmsprop.page import run_data as run_data_module
from rmsprop.page.run_data import run_data

PARTS = re.findall(r'"\./parts/(\w+)\.js"', (bundle.STATIC / "parts.js").read_text())
IDS = [re.findall(r'<section id="(\w+)">', (bundle.STATIC / "parts" / f"{name}.html").read_text())[0] for name in PARTS]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    bundle.write(path)
    return path


@pytest.fixture(scope="module")
def shown(file: Path, browser: Browser) -> Iterator[Page]:
    """Show the page, and check at the end that it asked no host and said nothing on the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="no-preference")
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    wait(page, "document.documentElement.dataset.ready")
    yield page
    assert {url.partition("#")[0] for url in asked} == {file.as_uri()}
    assert said == []
    context.close()


def restored(page: Page, fragment: str) -> None:
    """Follow a link to a state of the page that is shown."""
    page.evaluate("fragment => { location.hash = fragment; }", fragment)
    page.evaluate("new Promise(requestAnimationFrame)")


def equal(ours: Any, theirs: Any) -> bool:
    """Return whether two numbers, lists or dicts have the same bits; JSON of JavaScript writes 1.0 as 1."""
    return bool(json.loads(json.dumps(ours), parse_int=float) == json.loads(json.dumps(theirs), parse_int=float))


def test_it_is_one_small_file_with_a_strict_policy(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', text) == []
    assert "default-src 'none'" in text
    assert "unsafe" not in text
    assert "{{" not in text


def test_claims_and_verdicts_are_those_of_the_catalogue(file: Path) -> None:
    assert json.loads(page_claims.COPIED.read_text(encoding="utf-8")) == page_claims.claims()
    text = file.read_text(encoding="utf-8")
    assert set(re.findall(r'href="#(claim-[\w-]+)"', text)) <= set(re.findall(r'id="(claim-[\w-]+)"', text))
    assert len(page_claims.named()) > 20


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["page", "--no-browser"]) == 0
    assert (tmp_path / "runs" / "page.html").read_text(encoding="utf-8") == bundle.page()
    assert run_command(["page", "--no-browser", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "page.html").is_file()
    other = tmp_path / "other.jsonl"
    other.write_text('{"loss": 1}\n')
    capsys.readouterr()
    assert run_command(["page", str(other)]) == 2
    assert "records of statistics" in capsys.readouterr().err


@pytest.mark.parametrize("graphical", [True, False, None])
def test_the_command_opens_a_graphical_browser(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any, graphical: bool | None
) -> None:
    """A browser of the terminal would take the terminal."""
    opened: list[str] = []

    class Graphical(webbrowser.BackgroundBrowser):
        def open(self, url: str, *_: object) -> bool:
            opened.append(url)
            return True

    def get() -> Any:
        if graphical is None:
            raise webbrowser.Error
        return Graphical("chromium") if graphical else webbrowser.GenericBrowser("lynx")

    monkeypatch.setattr(webbrowser, "get", get)
    path, run = tmp_path / "page.html", tmp_path / "run.jsonl"
    run.write_text(json.dumps(record(1, ["a"])) + "\n", encoding="utf-8")
    assert run_command(["page", "--out", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(path), "records": 0, "opened": bool(graphical)}
    assert run_command(["page", str(run), "--out", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(path), "records": 1, "opened": bool(graphical)}
    assert opened == ([path.as_uri(), f"{path.as_uri()}#run"] if graphical else [])


def test_a_long_run_is_thinned_and_its_findings_are_of_all_records(monkeypatch: Any) -> None:
    monkeypatch.setattr(run_data_module, "MOST", 10)
    records = [record(step, ["a", "b"], eps_share=0.9) for step in range(1, 13)]
    data = run_data("run", records)
    assert [each["step"] for each in data["records"]] == [1, 4, 7, 10, 12]
    assert data["name"] == "run (one record in 3)"
    assert data["findings"]["findings"] == [finding.to_dict() for finding in find(records)]
    assert data["findings"]["records"] == 12


@pytest.mark.browser
@pytest.mark.parametrize("name", IDS)
def test_the_numbers_of_a_part_are_those_of_its_python_code(shown: Page, name: str) -> None:
    part = Part(shown, name)
    if not part("Boolean(part.python())"):
        pytest.skip("it shows numbers of the reader's run")
    for preset in range(part("part.section.querySelectorAll('.presets button').length")):
        part(f"part.section.querySelectorAll('.presets button')[{preset}].click()")
        assert equal(part.numbers(), part.python()), preset


VARIANTS: list[dict[str, Any]] = [
    {"mu": 0.9, "nesterov": True, "lr_in": True, "inside": True, "v0": 1, "eps": 0.01, "angle": 33, "adagrad": True},
    {"centered": True, "correction": True, "noise": 0.3, "seed": 7, "adadelta": True, "beta": 0.99, "surface": "beale"},
    {"mu": 0.5, "centered": True, "x": -1.5, "y": 0.3, "surface": "saddle", "lr_sgd": 50, "steps": 300},
]


@pytest.mark.browser
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_on_a_surface_are_those_of_python(shown: Page, variant: dict[str, Any]) -> None:
    """The last has an optimizer that diverges."""
    part = Part(shown, "surface")
    part.reset()
    part.set(**variant)
    assert equal(part.numbers(), part.python())
    part.reset()


def test_the_training_that_is_shown_first_has_what_is_shown_of_a_run() -> None:
    sample = json.loads((bundle.STATIC / "sample_run.json").read_text(encoding="utf-8"))
    shown = run_data("", [record(1, ["a"])])
    assert [set(sample), set(sample["records"][0])] == [set(shown), set(shown["records"][0])]
    assert set(sample["records"][0]["tensors"]["0.weight"]) == set(shown["records"][0]["tensors"]["a"])
    assert sample["findings"]["findings"]


# Drive each control of a part by its own events: change it, keep its link, follow the link of the initial state, and
# then the kept one. Returns [key, changed settings, fragment, settings after either link, same numbers] per control.
DRIVE = """async id => {
  const { settings, numbers, section } = rmsprop[id], results = [];
  const follow = fragment => new Promise(resolve => {
    addEventListener('hashchange', () => resolve(), { once: true });
    location.hash = fragment;
  });
  for (const control of section.querySelectorAll('[data-key]')) {
    settings.set(settings.initial());
    const slider = control.querySelector('input[type=range]:not([hidden])'), box = control.querySelector('input.box');
    const check = control.querySelector('input[type=checkbox]'), list = control.querySelector('select');
    if (slider) {
      slider.value = Number(slider.value) === Number(slider.max) ? slider.max - 1 : Number(slider.value) + 1;
      slider.dispatchEvent(new Event('input'));
    } else if (box) {
      box.value = String(Number(box.value) + 1);
      box.dispatchEvent(new Event('change'));
    } else if (check) {
      check.click();
    } else {
      list.selectedIndex = list.selectedIndex === list.options.length - 1 ? 0 : list.selectedIndex + 1;
      list.dispatchEvent(new Event('change'));
    }
    const changed = settings.changed(), shown = JSON.stringify(numbers());
    document.dispatchEvent(new CustomEvent('address'));
    const fragment = location.hash;
    await follow(`#${id}?`);
    const initial = settings.changed();
    await follow(fragment);
    const again = settings.changed(), same = JSON.stringify(numbers()) === shown;
    results.push([control.dataset.key ?? '', changed, fragment, initial, again, same]);
    await follow(`#${id}?`);
  }
  return results;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("name", IDS)
def test_each_control_changes_the_part_and_its_link_restores_it(shown: Page, name: str) -> None:
    results = shown.evaluate(DRIVE, name)
    kinds = Part(shown, name)("Object.entries(part.settings.fields).map(([key, field]) => [key, field.kind])")
    driven = {key for key, kind in kinds if kind in ("number", "flag", "choice")}
    assert {key for key, *_ in results} == driven
    for key, changed, fragment, initial, again, same in results:
        assert f"{name}.{key}" in [setting for setting, _ in changed]
        assert f"{name}.{key}=" in fragment
        assert initial == []
        assert again == changed
        assert same, key


@pytest.mark.browser
def test_a_wrong_number_is_refused_beside_its_control(shown: Page) -> None:
    part = Part(shown, "two")
    box = shown.locator('#two [data-key="beta"]')
    box.locator(".box").fill("1")
    box.locator(".box").press("Enter")
    assert box.locator(".fault").inner_text() == "Decay β must be a number from 0 to below 1, not 1"
    assert part("part.settings.values.beta") == 0.9
    part.reset()


@pytest.mark.browser
def test_a_wrong_link_is_said_and_the_rest_of_it_holds(shown: Page) -> None:
    restored(shown, "#two?two.beta=2&two.eta=0.5&two.gamma=1&other.x=<b>&two.eps")
    assert Part(shown, "two")("part.settings.changed()") == [["two.eta", "0.5"]]
    notice = shown.locator("#notice")
    for words in ("Decay β must be a number from 0 to below 1, not 2", "two.gamma is no setting", "other.x is no"):
        assert words in notice.inner_text()
    assert notice.locator("b").count() == 0
    restored(shown, "#two?")
    assert not notice.is_visible()


# -- what readers do --------------------------------------------------------------------------------------------------


def first_step(gradient: float) -> float:
    """Return the length of the first step of a parameter at 1, with η = 0.01 and β = 0.9."""
    rule, param = Rule(lr=0.01, decay=0.9), np.ones(1)
    return float(1 - update(rule, param, np.array([gradient]), init(rule, param))[0][0])


def cycle(curvature: float) -> float:
    rule, x = Rule(lr=0.1, decay=0.9, eps=0.0), np.ones(1)
    state = init(rule, x)
    for _ in range(500):
        x, state = update(rule, x, curvature * x, state)
    return abs(float(x[0]))


def test_the_answers_hold() -> None:
    """Ask the rule what the questions ask, but those that a Python code of the page answers."""
    assert first_step(1000.0) == pytest.approx(first_step(10.0))
    rule, param = Rule(lr=1.0, decay=0.9), np.zeros(1)
    state, moves = init(rule, param), []
    for gradient in [1.0] * 150 + [10.0]:
        after, state = update(rule, param, np.array([gradient]), state)
        moves.append(float((param - after)[0]))
        param = after
    assert moves[-1] / moves[-2] == pytest.approx(10 / np.sqrt(10.9), rel=1e-6)
    assert cycle(1.0) == pytest.approx(0.05, rel=1e-3)
    assert cycle(1000.0) == pytest.approx(0.05, rel=1e-3)
    frozen = torch.ones(1, dtype=torch.bfloat16)
    assert (frozen * 0.999).item() == 1


ANSWERS = {
    "two": "1", "average": "3", "surface": "more", "edge": "same", "wrong": "worst", "dial": "same", "bits": "stays",
    "run": "100",
}  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("name", IDS)
def test_a_question_says_what_is_right(shown: Page, name: str) -> None:
    question = shown.locator(f"#{name} .question")
    check, verdict = question.locator("button"), question.locator(".verdict")
    explanation = question.locator(".explanation")
    check.click()
    assert verdict.inner_text() == "Choose an answer first."
    assert not explanation.is_visible()
    right = question.locator(f'input[value="{ANSWERS[name]}"]')
    wrong = question.locator(f'input:not([value="{ANSWERS[name]}"])').first
    wrong.check()
    check.click()
    assert verdict.inner_text().startswith("The answer is: ")
    right.check()
    check.click()
    assert verdict.inner_text() == "Right."
    assert explanation.is_visible()


@pytest.mark.browser
def test_a_film_plays_pauses_and_goes_step_by_step(shown: Page) -> None:
    part = Part(shown, "edge")
    part.reset()
    player = shown.locator("#edge .player")
    player.locator(".play").click()
    film = "rmsprop.edge.settings.values.t > 3 && rmsprop.edge.settings.values.t < 200"
    wait(shown, f"{film} && (rmsprop.edge.section.querySelector('.play').click(), true)")
    t = part("part.settings.values.t")
    assert 3 < t < 200
    assert player.locator(".count").inner_text() == f"step {t} of 200"
    player.get_by_label("One step forward").click()
    assert part("part.settings.values.t") == t + 1
    player.get_by_label("Step shown").press("ArrowLeft")
    assert part("part.settings.values.t") == t
    assert [f"edge.t={t}"] == shown.evaluate(
        "document.dispatchEvent(new CustomEvent('address')), location.hash.split('?')[1].split('&')"
    )
    player.get_by_text("To start").click()
    assert part("part.settings.values.t") == 0
    shown.emulate_media(reduced_motion="reduce")
    player.locator(".play").click()
    assert part("part.settings.values.t === Infinity")
    part.reset()
    shown.emulate_media(reduced_motion="no-preference")


@pytest.mark.browser
def test_the_start_and_the_ravine_are_dragged_and_moved_by_keys(shown: Page) -> None:
    part = Part(shown, "surface")
    part.reset()
    start = shown.locator("#surface .handle:not(.turn)")
    start.scroll_into_view_if_needed()
    box = start.bounding_box()
    assert box
    shown.mouse.move(box["x"] + 8, box["y"] + 8)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 108, box["y"] + 58)
    shown.mouse.up()
    moved = part("part.settings.values")
    assert moved["x"] > -1.8
    assert moved["y"] < 1.1
    shown.evaluate("new Promise(requestAnimationFrame)")
    start.press("ArrowRight")
    assert part("part.settings.values.x") == pytest.approx(moved["x"] + 0.1)
    shown.locator("#surface .handle.turn").press("ArrowUp")
    assert part("part.settings.values.angle") == 5
    profiles = shown.locator("#surface .profile select")
    profiles.select_option("tf1")
    tf1 = profile("tf1", lr=0.1)
    values = part("part.settings.values")
    assert (values["eps"], values["inside"], values["v0"]) == (tf1.eps, True, 1)
    assert equal(part.numbers(), part.python())
    part.reset()


@pytest.mark.browser
def test_gradients_are_drawn_with_a_pointer_and_with_keys(shown: Page) -> None:
    part = Part(shown, "average")
    part.reset()
    chart = shown.locator("#average-gradients svg.chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    shown.mouse.down()
    shown.mouse.up()
    gradients = part("part.settings.values.g")
    (changed,) = [k for k, g in enumerate(gradients) if g not in (1, 10)]
    assert gradients[changed] > 5
    editor = shown.locator("#average .editor")
    editor.press("ArrowRight")
    editor.press("ArrowUp")
    assert part("part.settings.values.g")[changed + 1] == pytest.approx(1.1)
    assert equal(part.numbers(), part.python())
    part.reset()


@pytest.mark.browser
def test_links_and_code_are_copied(shown: Page) -> None:
    shown.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    Part(shown, "dial").set(eps=10)
    shown.locator("#dial .copy-python").click()
    assert shown.evaluate("window.copied") == Part(shown, "dial")("part.python()")
    shown.locator("#dial .copy-link").click()
    assert shown.evaluate("window.copied").endswith("#dial?dial.eps=10")
    Part(shown, "dial").reset()


# -- a run of the reader ----------------------------------------------------------------------------------------------


def record(step: int, names: list[str], **changes: Any) -> dict[str, Any]:
    tensor = {
        "group": 0, "shape": [2], "elements": 2, "gradient_rms": 0.1, "update_rms": 0.01, "parameter_rms": 1.0,
        "update_ratio": 0.01, "history_rms": 0.1, "largest_update": 0.01, "eps_share": 0.0, "nonfinite": 0,
        "zero_gradient_share": 0.0, "effective_lr": None, "effective_lr_median": 0.5, "gradient_cosine": None,
        "sign_flips": None, "dead_rows": None, **changes,
    }  # fmt: skip
    group = {**dataclasses.asdict(Rule()), "state_dtype": "float32", "param_dtype": "float32"}
    return {
        "kind": "statistics", "step": step, "groups": [{**group, "stochastic_rounding": False}],
        "tensors": dict.fromkeys(names, tensor), "gradient_norm": 1.0, "update_norm": 0.1, "nonfinite_steps": 0,
        "skipped_steps": 0,
    }  # fmt: skip


HOSTILE = ['<img src=x onerror="said(1)">', "__proto__", "constructor", "</script><b>", "x" * 400]


@pytest.mark.browser
def test_a_file_of_a_run_is_shown_and_its_names_are_text(shown: Page, tmp_path: Path, monkeypatch: Any) -> None:
    part, box = Part(shown, "run"), shown.locator("#run input[type=file]")
    file = tmp_path / "statistics.jsonl"
    lines = [json.dumps(record(step, HOSTILE, effective_lr_median=0.5 * step, eps_share=0.9)) for step in (1, 9, 2, 3)]
    file.write_text("\n".join(lines) + '\n{"kind": "loss"}\n{"kind": "stat', encoding="utf-8")
    box.set_input_files(file)
    wait(shown, "document.querySelector('#run .said').textContent")
    said = shown.locator("#run .said").inner_text()
    assert said == "statistics.jsonl: 3 measured steps. Its last line is cut off and left out."
    assert shown.locator("#run select option").all_inner_texts() == HOSTILE
    assert shown.locator("#run img, #run b").count() == 0
    shown.locator("#run .player").get_by_text("To start").click()
    wait(shown, "document.querySelector('#run caption').textContent === 'Step 1'")
    part.set(tensor=1)
    assert part.numbers() == {"rates": [0.5, 1.0, 1.5]}
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert equal(part.numbers(), part.python())


BAD = {
    "other.jsonl": ('{"loss": 0.5}\n', "other.jsonl has no record of statistics: another program wrote it."),
    "text.jsonl": ("epoch 1\nepoch 2\n", "Line 1 of text.jsonl is not JSON."),
    "list.jsonl": ("[1]\n2\n", "list.jsonl has no record of statistics"),
    "empty.jsonl": ("", "empty.jsonl has no record of statistics"),
    "step.jsonl": (json.dumps({**record(1, ["a"]), "step": "1"}) + "\n", "Line 1 of step.jsonl is no record"),
    "text-rate.jsonl": (json.dumps(record(1, ["a"], effective_lr_median="1")) + "\n", "statistics must be numbers"),
    "tensors.jsonl": (json.dumps({**record(1, []), "tensors": {"a": None}}) + "\n", "each tensor must be an object"),
    "findings.jsonl": ('{"kind": "findings", "records": 1, "findings": [{}]}\n', "no record of findings: each"),
}


@pytest.mark.browser
def test_a_file_that_is_no_run_is_refused_and_the_last_run_stays(shown: Page, tmp_path: Path) -> None:
    box, said = shown.locator("#run input[type=file]"), shown.locator("#run .said")
    before = shown.locator("#run .run-name").inner_text()
    for name, (text, words) in BAD.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        box.set_input_files(tmp_path / name)
        wait(shown, f"document.querySelector('#run .said').textContent.includes({name!r})")
        assert words in said.inner_text()
        assert shown.locator("#run .run-name").inner_text() == before
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    box.set_input_files(large)
    wait(shown, "document.querySelector('#run .said').textContent.includes('large.jsonl')")
    assert "large.jsonl has 100 MB. The page reads up to 50 MB" in said.inner_text()


@pytest.mark.browser
def test_the_command_opens_the_page_with_a_run_and_its_findings(tmp_path: Path, browser: Browser) -> None:
    run = tmp_path / "run"
    run.mkdir()
    names = ["a<script>said(1)</script>", "b"]
    lines = [json.dumps(record(step, names, eps_share=0.9, gradient_rms=1e-9)) for step in range(1, 7)]
    (run / "statistics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run_command(["page", str(run), "--no-browser"]) == 0
    page = browser.new_page()
    page.goto((run / "page.html").as_uri())
    wait(page, "document.documentElement.dataset.ready")
    assert page.locator("#run .run-name").inner_text() == f"Shown: {run}."
    expected = [finding.sentence for finding in find(map(json.loads, lines))]
    shown = page.locator("#run .findings strong").all_inner_texts()
    assert expected
    assert [text.partition(": ")[2] for text in shown] == expected
    assert page.locator("#run select option").all_inner_texts() == names
    without, whole = tmp_path / "without.jsonl", tmp_path / "whole.jsonl"
    without.write_text(lines[0] + "\n", encoding="utf-8")
    last = json.dumps(findings_record([json.loads(line) for line in lines]))
    whole.write_text("\n".join([*lines, last]) + "\n", encoding="utf-8")
    for file, texts in ((without, []), (whole, shown)):
        page.locator("#run input[type=file]").set_input_files(file)
        wait(page, f"document.querySelector('#run .run-name').textContent === 'Shown: {file.name}.'")
        assert page.locator("#run .findings strong").all_inner_texts() == texts
        assert ("rmsprop page FILE finds them" in page.locator("#run .findings").inner_text()) is (file is without)
    page.close()


# -- for people -------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_something_moves_after_150_words_at_most(shown: Page) -> None:
    words = shown.evaluate(
        "(() => { const range = document.createRange(); range.setStart(document.querySelector('header'), 0);"
        " range.setEndBefore(document.querySelector('#two .bench')); return range.toString().split(/\\s+/).length; })()"
    )
    assert words <= 150


@pytest.mark.browser
def test_terms_explain_themselves_and_every_term_is_explained(shown: Page) -> None:
    term = shown.locator("#average .term").first
    tip = shown.locator("#average .tip").first
    shown.mouse.move(0, 0)
    assert not tip.is_visible()
    term.hover()
    assert tip.is_visible()
    term.press("Escape")
    assert not tip.is_visible()
    shown.mouse.move(0, 0)
    term.blur()
    term.focus()
    assert tip.is_visible()
    assert tip.inner_text().startswith("The running average of g²")
    assert term.get_attribute("aria-describedby") == tip.get_attribute("id")
    term.press("Escape")
    assert not tip.is_visible()
    assert shown.evaluate("[...document.querySelectorAll('.tip')].filter(tip => !tip.textContent).length") == 0


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768, 2560])
def test_it_fits_every_width(shown: Page, width: int) -> None:
    shown.set_viewport_size({"width": width, "height": 900})
    shown.evaluate("new Promise(requestAnimationFrame)")
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    shown.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.browser
def test_on_paper_there_are_answers_and_no_controls(shown: Page) -> None:
    shown.emulate_media(media="print")
    assert not shown.locator("#two .settings").is_visible()
    assert not shown.locator("#edge .player").is_visible()
    assert shown.locator("#edge .explanation").is_visible()
    shown.emulate_media(media="screen")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(shown: Page, scheme: Any) -> None:
    """axe-core checks names, roles and contrast. In the dark, contrast alone is another."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown.emulate_media(color_scheme=scheme)
    shown.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if scheme == "dark":
        options["runOnly"] = ["color-contrast"]
    violations = axe.run(shown, options=options).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
    shown.emulate_media(color_scheme="light")
