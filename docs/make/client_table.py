"""Run the examples with this library and as they were before it, and update docs/clients.md.

OMP_NUM_THREADS=1 .venv/bin/python docs/make/client_table.py          runs all examples
OMP_NUM_THREADS=1 .venv/bin/python docs/make/client_table.py NAME ... runs these
OMP_NUM_THREADS=1 .venv/bin/python docs/make/client_table.py --page   runs none, and writes the page from the last
                                                                      results, those of benchmarks/watch.py,
                                                                      client_steps.py and sb3_a2c.py included
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from blocks import with_block

ROOT = Path(__file__).resolve().parents[2]
RESULTS, DOCUMENT = ROOT / "docs" / "clients.json", ROOT / "docs" / "clients.md"
sys.path.append(str(ROOT / "conformance"))

MEASURED = ROOT / "benchmarks" / "results"

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


def cost() -> str:
    """Return what `rmsprop run` costs, as Markdown."""
    found = json.loads((MEASURED / "watch.json").read_text())
    ms = {kind: f"{1e3 * seconds:.2g} ms" for kind, seconds in found["seconds"].items()}
    return (
        f"`rmsprop run` adds {100 * found['cost']:.1f} % to a training step of 10 ms. For a network of "
        f"{found['parameters'] / 1e6:.1f} million parameters, a step of the optimizer\ntakes {ms['plain']} "
        f"({ms['torch']} with torch's RMSprop), {ms['watched']} between records, {ms['before record']} before a record "
        f"and {ms['record']} with one.\nOne step in {found['every']} has a record.\n\n"
        f"({found['environment']['processor']}, one thread, load {found['load']:.0f})\n\n"
    )


def steps() -> str:
    """Return the times of unchanged scripts with and without `rmsprop run`, as Markdown."""
    found = json.loads((MEASURED / "client_steps.json").read_text())
    lines = [
        "| client | steps measured | torch's, ms | `rmsprop run`, ms | paired | largest difference |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in found["clients"].items():
        low, middle, high = quantiles(one["ratios"], n=4)
        difference = f"{one['difference']:.0e}" if one["difference"] else "0"
        times = " | ".join(f"{one['ms'][way]:.2f}" for way in ("torch", "ours"))
        ratio = f"{middle:.2f} × [{low:.2f}, {high:.2f}]"
        lines.append(f"| {clients.CLIENTS[name][0]} | {one['steps']} | {times} | {ratio} | {difference} |")
    where = f"({found['environment']['processor']}, one thread, load {found['load']:.0f})"
    return "\n".join(lines) + f"\n\n{where}\n\n"


def a2c() -> str:
    """Return the trainings of A2C as Markdown."""
    found = json.loads((MEASURED / "sb3_a2c.json").read_text())
    ways = {"torch": "torch.optim.RMSprop", "ours": "`rmsprop run`", "sb3": "`RMSpropTFLike`, eps=1e-5"}
    lines = ["| optimizer | reward of each seed | steps per second | beside torch's |", "|---|---|---:|---:|"]
    for way, title in ways.items():
        rewards = ", ".join(f"{reward:.0f}" for reward in found["rewards"][way])
        speeds = found["speeds"][way]
        ratio = median(x / y for x, y in zip(speeds, found["speeds"]["torch"], strict=True))
        lines.append(f"| {title} | {rewards} | {median(speeds):.0f} | {ratio:.2f} × |")
    return "\n".join(lines) + f"\n\n({found['environment']['processor']}, one thread)\n\n"


def up_to_date(text: str, found: dict[str, Any]) -> str:
    """Return the document with its blocks."""
    for name, content in {"clients": table(found), "cost": cost(), "steps": steps(), "a2c": a2c()}.items():
        text = with_block(text, name, content)
    return text


def main() -> None:
    """Run the examples, and write results and page."""
    found = results()
    names = [] if sys.argv[1:] == ["--page"] else sys.argv[1:] or [*clients.CLIENTS]
    for name in names:
        found[name] = measure(name)
        print(name, found[name])
    RESULTS.write_text(json.dumps({name: found[name] for name in clients.CLIENTS}, indent=1) + "\n")
    DOCUMENT.write_text(up_to_date(DOCUMENT.read_text(), found))


if __name__ == "__main__":
    main()
