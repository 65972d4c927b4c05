"""Bring README.md up to date: outputs of its console blocks, and with a run's directory the demo's table and figure.

make demo && .venv/bin/python scripts/readme.py runs/compare-digits
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from rmsprop.console import comparison_table
from rmsprop.lab import figures
from rmsprop.lab.store import RunDirectory
from rmsprop.lab.words import describe_comparison

ROOT = Path(__file__).resolve().parent.parent
README, DEMO, PICTURE = ROOT / "README.md", ROOT / "docs" / "demo.json", ROOT / "docs" / "learning-rates.svg"
_START, _END = "<!-- demo: scripts/readme.py writes this block from docs/demo.json -->\n", "<!-- end of demo -->"


def store_demo(runs: list[RunDirectory]) -> None:
    """Keep what README needs of the two comparisons: configurations, summaries, and the tuning curves of the first."""
    kept = [{"config": run.config(), "summary": run.summary()} for run in runs]
    curves = figures.sensitivity_data([r for r in runs[0].records() if r["stage"] == "tune"])
    DEMO.write_text(json.dumps({"plain": kept[0], "corrected": kept[1], "curves": curves}, indent=1) + "\n")


def picture(demo: dict[str, Any]) -> str:
    """Return the figure of validation accuracy against the learning rate."""
    curves = {name: [(x, y) for x, y in points] for name, points in demo["curves"].items()}
    return figures.draw_sensitivity(curves, "validation accuracy")


def demo_block(demo: dict[str, Any]) -> str:
    """Return the table of the demo, and what both comparisons found, as Markdown."""
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    console.print(comparison_table(demo["plain"]["summary"]))
    table = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    plain, corrected = (describe_comparison(d["config"], d["summary"]) for d in (demo["plain"], demo["corrected"]))
    machine = demo["plain"]["summary"]["environment"]
    made = f"{machine['processor']}, torch {machine['torch']}, {demo['plain']['summary']['seconds']:.0f} seconds"
    command = demo["corrected"]["summary"]["command"]
    return (
        f"```text\n{table}\n```\n\n{plain[-1]} ({made}.)\n\n"
        "RMSprop as PyTorch has it does not win here: its first steps are 1/√(1−β) = 10 times the learning rate, which "
        f"rules larger rates out. Without that surge, in `{command}`: {' '.join(corrected[:-1])}\n\n"
    )


def with_demo(text: str, demo: dict[str, Any]) -> str:
    """Return the README with the demo's block brought up to date."""
    before, _, rest = text.partition(_START)
    return before + _START + demo_block(demo) + _END + rest.partition(_END)[2]


def with_outputs(text: str) -> str:
    """Return the README with the output of every `$ rmsprop` line of its console blocks."""

    def run(match: re.Match[str]) -> str:
        command = match.group(1)
        arguments = [sys.executable, "-m", *command.split()]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={"COLUMNS": "100"})
        output = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
        return f"```console\n$ {command}\n{output}\n```"

    return re.sub(r"```console\n\$ (rmsprop [^\n]*)\n.*?```", run, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite README.md and the figure."""
    if len(sys.argv) > 1:
        store_demo([RunDirectory(Path(name)) for name in sys.argv[1:]])
    demo = json.loads(DEMO.read_text(encoding="utf-8"))
    PICTURE.write_text(picture(demo), encoding="utf-8")
    README.write_text(with_outputs(with_demo(README.read_text(encoding="utf-8"), demo)), encoding="utf-8")


if __name__ == "__main__":
    main()
