"""Run the examples with this library and as they were before it, and update docs/clients.md.

OMP_NUM_THREADS=1 .venv/bin/python docs/make/client_table.py          runs all examples
OMP_NUM_THREADS=1 .venv/bin/python docs/make/client_table.py NAME ... runs these
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from blocks import with_block

ROOT = Path(__file__).resolve().parents[2]
RESULTS, DOCUMENT = ROOT / "docs" / "clients.json", ROOT / "docs" / "clients.md"
sys.path.append(str(ROOT / "conformance"))

import clients  # noqa: E402  (in conformance)


def results() -> dict[str, Any]:
    """Return what the last runs of the examples gave."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def measure(name: str) -> dict[str, Any]:
    """Return versions, date, and the largest difference between the weights with and without this library."""
    ours, theirs = (clients.run(name, ours=ours) for ours in (True, False))
    if not ours.ours or theirs.ours:
        raise RuntimeError(f"{name}: {ours.ours} and {theirs.ours} optimizers of this library stepped")
    return {
        "versions": {package: version(package).partition("+")[0] for package in clients.CLIENTS[name][1]},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "difference": float(np.abs(ours.weights - theirs.weights).max() / np.abs(theirs.weights).max()),
    }


def table(found: dict[str, Any]) -> str:
    """Return the runs as Markdown."""
    lines = ["| client | version | line that changes | largest difference | tested |", "|---|---|---|---:|---|"]
    for name, (client, _) in clients.CLIENTS.items():
        one = found[name]
        code = "<br>".join(f"`{line}`" for line in clients.changed_lines(name)) or "none: `rmsprop run`"
        versions = ", ".join(one["versions"].values())
        link = f"[{client}](../examples/{name}.py)"
        difference = f"{one['difference']:.0e}" if one["difference"] else "0"
        lines.append(f"| {link} | {versions} | {code} | {difference} | {one['date']} |")
    return "\n".join(lines) + "\n\n"


def up_to_date(text: str, found: dict[str, Any]) -> str:
    """Return the document with the table."""
    return with_block(text, "clients", table(found))


def main() -> None:
    """Run the examples, and write results and page."""
    found = results()
    for name in sys.argv[1:] or clients.CLIENTS:
        found[name] = measure(name)
        print(name, found[name])
    RESULTS.write_text(json.dumps({name: found[name] for name in clients.CLIENTS}, indent=1) + "\n")
    DOCUMENT.write_text(up_to_date(DOCUMENT.read_text(), found))


if __name__ == "__main__":
    main()
