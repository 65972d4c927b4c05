"""The page of `rmsprop page` in a browser: numbers, controls, links, bad input, and what readers need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_checks import Part
from playwright.sync_api import Browser, Page

from rmsprop.cli.app import run as run_command
from rmsprop.page import bundle

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
    page.wait_for_function("document.documentElement.dataset.ready")
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


@pytest.mark.browser
@pytest.mark.parametrize("name", IDS)
def test_the_numbers_of_a_part_are_those_of_its_python_code(shown: Page, name: str) -> None:
    part = Part(shown, name)
    if not part("Boolean(part.python())"):
        pytest.skip("it shows numbers of the reader's run")
    for preset in range(part("part.section.querySelectorAll('.presets button').length")):
        part(f"part.section.querySelectorAll('.presets button')[{preset}].click()")
        assert equal(part.numbers(), part.python()), preset


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
    await follow(`#${id}`);
    const initial = settings.changed();
    await follow(fragment);
    const again = settings.changed(), same = JSON.stringify(numbers()) === shown;
    results.push([control.dataset.key ?? '', changed, fragment, initial, again, same]);
    await follow(`#${id}`);
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
    restored(shown, "#two")
    assert not notice.is_visible()
