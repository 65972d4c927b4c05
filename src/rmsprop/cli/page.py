"""`rmsprop page`: the interactive page that shows how RMSprop works, with a run's records if wanted."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.terminal import stdout
from rmsprop.errors import InputError, Received


def page(run: Path | None = None, /, *, out: Path | None = None, no_browser: Flag = False, json: Flag = False) -> None:
    """Write the page that shows how RMSprop works, and open it in a browser if there is one.

    The page is one HTML file. It works offline. With RUN, its last part shows
    the records of that run: effective rates, update sizes, findings.

    Try:
      rmsprop page
      rmsprop page runs/train-digits
      rmsprop page --out rmsprop.html --no-browser

    Parameters
    ----------
    run
        A directory with statistics.jsonl, or a file of JSON lines, as for rmsprop watch.
    out
        File to write; runs/page.html, or page.html in the directory RUN, if omitted.
    no_browser
        Write the file and open nothing.
    json
        Print the path, the number of records and whether a browser was opened as JSON.
    """
    from rmsprop.page.bundle import write
    from rmsprop.page.run_data import run_data

    data: dict[str, Any] = {}
    if run is not None:
        from rmsprop.cli.record_files import records_of

        source = run / "statistics.jsonl" if run.is_dir() else run
        records = records_of(source)
        if not records:
            found = Received(f"{source}, without any")
            raise InputError("RUN", "a run with records of statistics", found, "rmsprop run SCRIPT writes them")
        data = {"run": run_data(str(run), records)}
    folder = run if run is not None and run.is_dir() else Path("runs")
    path = out or folder / "page.html"
    if path.is_dir():
        path /= "page.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data)
    opened = not no_browser and _open(path.resolve().as_uri() + ("#run" if data else ""))
    facts = {"page": str(path), "records": len(data["run"]["records"]) if data else 0, "opened": opened}
    how = "opened in a browser" if opened else "open it in a browser"
    print_result(json, facts, lambda: stdout.print(f"page: {path} ({how})", markup=False))


def _open(address: str) -> bool:
    """Open an address in a graphical browser; a browser of the terminal would take the terminal."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    return type(browser) is not webbrowser.GenericBrowser and browser.open(address)
