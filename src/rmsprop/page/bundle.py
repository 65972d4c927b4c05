"""Bundle the page into one self-contained HTML file: `python -m rmsprop.page.bundle FILE`.

Browsers refuse modules of a page that was opened from a file. The script of the bundle has the modules as functions:

    import { a as b } from "./x.js";     becomes     const { a: b } = $x;
    export const c = 1;                  becomes     const c = 1;, and its function returns { c }

Each import and export stands on a line of its own, which is all that this needs to know of JavaScript.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from rmsprop import __version__
from rmsprop.files import write_atomically
from rmsprop.profiles import PROFILES

STATIC = Path(__file__).with_name("static")
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "(.*)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_SECTION = re.compile(r'<section id="(\w+)">\n<h2>(.*)</h2>')


def page(data: Mapping[str, Any] | None = None) -> str:
    """Return the page as HTML. `data` is what it shows at first: {"run": what `run_data` returns}."""
    style, code = (STATIC / "style.css").read_text(encoding="utf-8"), script("main.js")
    # The parser of HTML turns no character of these into another, so the hashes are those of the texts.
    sources = {"script-src": code, "style-src": style}
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:" + "".join(
        f"; {kind} '{_hash(text)}'" for kind, text in sources.items()
    )
    sample = (STATIC / "sample_run.json").read_text(encoding="utf-8")
    parts = "\n".join(
        (STATIC / path.removeprefix("./")).with_suffix(".html").read_text(encoding="utf-8").strip()
        for path in re.findall(r'"(\./parts/\w+\.js)"', (STATIC / "parts.js").read_text(encoding="utf-8"))
    )
    parts = re.sub(r"\{\{claims (.*)\}\}", lambda match: _claims(match[1].split()), parts)
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _SECTION.findall(parts))
    texts = {
        "policy": policy,
        "style": style,
        "contents": contents,
        "parts": parts,
        "version": escape(__version__),
        "data": _data({"profiles": _profiles(), "sample": json.loads(sample), **(data or {})}),
        "script": code,
    }
    template = (STATIC / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], template)


def _claims(names: list[str]) -> str:
    """Return the claims of a part and their verdicts as HTML; docs/make/page_claims.py has copied them."""
    known = json.loads((STATIC / "claims.json").read_text(encoding="utf-8"))
    rows = "".join(
        f'<li id="claim-{name}">{escape(known[name]["sentence"])} <strong>{escape(known[name]["verdict"])}</strong> '
        f"<code>rmsprop claims {name}</code></li>"
        for name in names
    )
    return f'<details class="claims"><summary>Claims about this, each tested</summary><ul>{rows}</ul></details>'


def script(*entries: str) -> str:
    """Return modules of static/ and all that they import as one script."""
    done: dict[str, str] = {}  # in the order in which they run

    def add(path: str) -> None:
        if path in done:
            return
        text = (STATIC / path).read_text(encoding="utf-8")
        for _, target in _IMPORT.findall(text):
            add(_resolved(path, target))
        names = ", ".join(_EXPORT.findall(text))
        body = _IMPORT.sub(lambda match: f"const {_renamed(match[1])} = {_variable(_resolved(path, match[2]))};", text)
        body = _EXPORT.sub("", body)
        if leftover := re.search(r"^(import [{*\"]|export\b).*|</script|<!--", body, re.MULTILINE):
            raise ValueError(f"{path}: {leftover[0]!r} must be one line of the forms in the docstring of this module")
        done[path] = f"const {_variable(path)} = (() => {{\n{body}return {{ {names} }};\n}})();\n"

    for entry in entries:
        add(entry)
    return "".join(done.values())


def _renamed(names: str) -> str:
    """Return the names of an import as names of a destructuring: { a as b } becomes { a: b }."""
    return names.replace(" as ", ": ")


def _resolved(path: str, target: str) -> str:
    parts: list[str] = []
    for part in (PurePosixPath(path).parent / target).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _variable(path: str) -> str:
    return "$" + re.sub(r"\W", "_", path.removesuffix(".js"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _profiles() -> dict[str, dict[str, Any]]:
    """Return the fields of each profile's rule, without lr, and its title."""
    return {
        name: {"title": each.title, "fields": {f: each.default(f) for f in _fields()}}
        for name, each in PROFILES.items()
    }


def _fields() -> list[str]:
    from rmsprop.rule import Rule

    return [field.name for field in dataclasses.fields(Rule) if field.name != "lr"]


def _data(data: Mapping[str, Any]) -> str:
    """Return elements that hold `data` as JSON; a browser does not execute them."""
    return "\n".join(
        f'<script type="application/json" id="data-{name}">{_json(value)}</script>' for name, value in data.items()
    )


def _json(value: Any) -> str:
    """Return JSON without the character that could end the element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def write(path: Path, data: Mapping[str, Any] | None = None) -> None:
    """Write the page to a file."""
    write_atomically(path, page(data))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
