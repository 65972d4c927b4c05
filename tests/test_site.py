"""The documentation site: it builds without a broken link, and opens from a folder without a request to a host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import site_builder
from playwright.sync_api import Browser, expect
from test_public import PUBLIC

ROOT = Path(__file__).resolve().parent.parent
NAV = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]


def test_every_public_module_has_a_page() -> None:
    pages = [name for name in site_builder.pages_of(NAV) if name.startswith("api/")]
    assert sorted(pages) == sorted(f"api/{module}.md" for module in PUBLIC)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="b.html#here">', None),
        ('<a href="https://example.org">', None),
        ('<a href="c.html">', "a.html links to c.html, which does not exist"),
        ('<a href="b.html#there">', "a.html links to b.html#there, which lacks this anchor"),
        ('<a href="#there">', "a.html links to #there, which lacks this anchor"),
        ('<img src="picture.svg">', "a.html links to picture.svg, which does not exist"),
        ('<script src="https://example.org/x.js">', "a.html asks a host for https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "a.html asks a host for //example.org/x.css"),
    ],
)
def test_broken_links_and_requests_are_found(body: str, problem: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(body)
    (tmp_path / "b.html").write_text('<h2 id="here">')
    assert list(site_builder.problems(tmp_path)) == ([problem] if problem else [])


def test_links_between_files_become_links_between_pages() -> None:
    names = {"docs/gpu.md": "gpu.md", "CHANGELOG.md": "changelog.md"}
    text, linked = site_builder.with_links("docs/gpu.md", "gpu.md", names)
    assert "](changelog.md)" in text
    assert "](source/docs/processes.md.md)" in text  # this file is no page here
    assert linked == {"docs/jax.md", "docs/processes.md", "docs/speed.md"}


@pytest.mark.parametrize("text", ["1. one\n   - two", "one:\n- two", "one:\n1. two", "1. one\n\n    two\n2. three"])
def test_lists_that_would_be_shown_as_text_are_refused(text: str) -> None:
    assert site_builder.NO_LIST.search(text)
    assert not site_builder.NO_LIST.search("one:\n\n- two\n  of it\n- three\n    - four\n\n1. five\n2. six")


@pytest.mark.slow  # one build, in which docstrings of the whole package are read
@pytest.mark.browser
def test_the_site_is_built_and_opens_from_a_folder(browser: Browser, capsys: pytest.CaptureFixture[str]) -> None:
    site_builder.main()  # exits if a link, an anchor or a page is missing
    assert "pages" in capsys.readouterr().out
    requests: list[str] = []
    errors: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site_builder.SITE / "index.html").as_uri())
    page.get_by_role("link", name="Five minutes").first.click()
    page.get_by_role("button", name="Search").click()
    page.get_by_placeholder("Search").fill("release_gradients")
    expect(page.get_by_text(re.compile(r"^[1-9]\d* results?$"))).to_be_visible()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
