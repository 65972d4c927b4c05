"""Build the documentation site: stage its pages in build/docs, run Zensical, check what it wrote to build/site.

.venv/bin/python docs/make/site_builder.py

Pages are docs/*.md, a few files from elsewhere (PAGES), and the generated reference. A link to another file of the
project leads to a page with its text. Every broken link or anchor, every request to a host, and every page that the
navigation lacks is an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import reference

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
# Pages from outside docs/: their file, and its name on the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "conformance/README.md": "conformance.md",
}
LANGUAGES = {".py": "python", ".hpp": "cpp", ".cpp": "cpp", ".toml": "toml", ".json": "json"}
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
# Lists that the site does not show as lists: nested by fewer than four spaces, or right after a paragraph.
NO_LIST = re.compile(
    r"^ {1,3}(?:[-*+]|\d+\.) .*"
    r"|^(?![-*+] |\d+\. |[ |<])[^\n]+\n(?:[-*+]|\d+\.) .*"
    r"|\n\n +(?![-*+] |\d+\. )\S[^\n]*(?:\n +\S[^\n]*)*\n(?:[-*+]|\d+\.) .*",
    re.MULTILINE,
)
FENCE = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2 *$", re.DOTALL | re.MULTILINE)


def stage() -> None:
    """Write the pages into build/docs."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    names = {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")} | PAGES
    linked: set[str] = set()
    for source, name in names.items():
        text, targets = with_links(source, name, names)
        linked |= targets
        (STAGE / name).write_text(text, encoding="utf-8")
    for target in sorted(linked):
        write_linked(target)
    shutil.copytree(ROOT / "docs" / "assets", STAGE / "assets")
    (STAGE / "assets" / "iframe-worker.js").touch()  # filled after the build, see `local_search`
    listed = pages_of(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    for name, text in reference.pages(listed):
        (STAGE / name).parent.mkdir(exist_ok=True)
        (STAGE / name).write_text(text, encoding="utf-8")
    staged = {str(path.relative_to(STAGE)) for path in STAGE.rglob("*.md")} - {staged_name(name) for name in linked}
    if missing := staged ^ set(listed):
        raise SystemExit(f"zensical.toml: its nav and the pages differ by {', '.join(sorted(missing))}")


def pages_of(nav: list[dict[str, Any]]) -> list[str]:
    """Return the pages of the navigation."""
    listed: list[str] = []
    for entry in nav:
        for value in entry.values():
            listed += pages_of(value) if isinstance(value, list) else [value]
    return listed


def with_links(source: str, name: str, names: dict[str, str]) -> tuple[str, set[str]]:
    """Return the text of a page with its links as they are on the site, and the other files that they lead to."""
    linked: set[str] = set()

    def relative(match: re.Match[str]) -> str:
        target, mark, anchor = match.group().partition("#")
        if not target or "://" in target:
            return match.group()
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if path not in names:
            linked.add(path)
        return os.path.relpath(names.get(path) or staged_name(path), os.path.dirname(name) or ".") + mark + anchor

    text = (ROOT / source).read_text(encoding="utf-8")
    if found := NO_LIST.search(FENCE.sub("", text)):
        raise SystemExit(f"{source}: indent nested lists by four spaces, begin lists after an empty line: {found[0]}")
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(relative, text[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*parts, LINK.sub(relative, text[end:])]), linked


def staged_name(path: str) -> str:
    """Return the name on the site of a file that is no page: source files become pages, pictures stay files."""
    if path.endswith((".svg", ".ipynb")):
        return path.removeprefix("docs/")
    return f"source/{path}.md"


def write_linked(path: str) -> None:
    """Copy a picture or notebook; write a page with the text of another file."""
    target = STAGE / staged_name(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix != ".md":
        shutil.copy(ROOT / path, target)
        return
    language = LANGUAGES.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text(encoding="utf-8")
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {Path(path).name}\n\n`{path}`\n\n"
    target.write_text(f"{head}`````{language}\n{text}`````\n", encoding="utf-8")


def local_search() -> None:
    """Give the search of pages opened from a folder its worker as text: browsers load no worker from a file."""
    (worker,) = (SITE / "assets" / "javascripts" / "workers").glob("search.*.js")
    text = json.dumps(worker.read_text(encoding="utf-8"))
    (SITE / "assets" / "iframe-worker.js").write_text(
        'if (location.protocol === "file:") {\n'
        f'  const url = URL.createObjectURL(new Blob([{text}], {{ type: "text/javascript" }}));\n'
        "  const Original = Worker;\n"
        "  self.Worker = class extends Original { constructor() { super(url); } };\n"
        "}\n",
        encoding="utf-8",
    )


def end_colons() -> None:
    """End paragraphs of docstrings with one colon: the second one marks the code below."""
    for path in (SITE / "api").glob("*.html"):
        path.write_text(path.read_text(encoding="utf-8").replace("::</p>", ":</p>"), encoding="utf-8")


class Links(HTMLParser):
    """The anchors of a page, what it links to, and what the browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links, self.loads = {"", "__skip"}, set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what one tag has."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in ("a", "area") and "href" in given:
            self.links.add(given["href"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loads.add(given.get("href", ""))
        elif "src" in given:
            self.loads.add(given["src"])


def problems(site: Path) -> Iterator[str]:
    """Yield what is wrong with a site: links and anchors that lead nowhere, and requests to a host."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        name = path.relative_to(site)
        for target in sorted(page.links | page.loads):
            if re.match(r"https?:|//", target):
                if target in page.loads:
                    yield f"{name} asks a host for {target}"
                continue
            if target.startswith(("mailto:", "data:")):
                continue
            file, _, anchor = unquote(target).partition("#")
            found = Path(os.path.normpath(path.parent / file)) if file else path
            found = found / "index.html" if found.is_dir() else found
            if not found.is_file():
                yield f"{name} links to {target}, which does not exist"
            elif found in pages and anchor not in pages[found].anchors:
                yield f"{name} links to {target}, which lacks this anchor"


def undocumented() -> Iterator[str]:
    """Yield the public names that a page of the API lacks: mkdocstrings leaves out names without a docstring."""
    for page in sorted((STAGE / "api").glob("*.md")):
        _, *names = re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = Links((SITE / "api" / f"{page.stem}.html").read_text(encoding="utf-8")).anchors
        yield from (f"api/{page.stem}.html lacks {name}" for name in names if name not in anchors)


def main() -> None:
    """Build the site. Exit with status 1 if anything is wrong."""
    stage()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(re.sub("\x1b\\[[0-9;]*m", "", done.stdout + done.stderr))
    local_search()
    end_colons()
    if found := [*problems(SITE), *undocumented()]:
        raise SystemExit("\n".join(found))
    print(f"build/site/index.html: {len(list(SITE.rglob('*.html')))} pages")


if __name__ == "__main__":
    main()
