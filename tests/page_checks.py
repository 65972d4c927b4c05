"""Drive the page of `rmsprop page` in a browser, and run its JavaScript modules without the page."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page


def in_node(folder: Path, code: str, argument: Any) -> Any:
    """Return what the function `code` returns for `argument`, in the Node that Playwright brings along."""
    file = folder / "code.mjs"
    main = "import { readFileSync } from 'node:fs'; const read = JSON.parse(readFileSync(0, 'utf8'));"
    file.write_text(f"{main}\nconsole.log(JSON.stringify(({code})(read)));")
    node = Path(compute_driver_executable()[0])
    done = subprocess.run([node, file], input=json.dumps(argument), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def in_browser(page: Page, code: str, argument: Any) -> Any:
    """Return what the function `code` returns for `argument`, in Chromium."""
    # Playwright takes seconds for large values, but not for text.
    return json.loads(page.evaluate(f"text => JSON.stringify(({code})(JSON.parse(text)))", json.dumps(argument)))


def wait(page: Page, condition: str) -> None:
    """Wait until an expression is true; the page's policy refuses Playwright's own way, which evaluates text."""
    page.evaluate(f"async () => {{ while (!({condition})) await new Promise(done => setTimeout(done, 20)); }}")


class Part:
    """A part of the page that is open in `page`."""

    def __init__(self, page: Page, name: str) -> None:
        self.page, self.name = page, name

    def __call__(self, expression: str) -> Any:
        """Return an expression of `part`, which is the part in JavaScript."""
        return self.page.evaluate(f"(() => {{ const part = rmsprop[{self.name!r}]; return {expression}; }})()")

    def set(self, **changes: Any) -> None:
        """Change settings as the controls do."""
        text = json.dumps(changes)
        self(f"part.settings.set({text})")

    def reset(self) -> None:
        """Return to the initial settings, and wait until they are drawn."""
        self("part.settings.set(part.settings.initial())")
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def numbers(self) -> Any:
        """Return the numbers that the part shows."""
        return self("part.numbers()")

    def python(self) -> Any:
        """Execute the part's Python code and return the numbers that it prints."""
        names: dict[str, Any] = {"print": lambda *_, **__: None}
        exec(self("part.python()"), names)
        return names["shown"]
