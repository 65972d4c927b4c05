"""Update docs/evidence.md from stored comparisons. Directories of `rmsprop compare` replace those of their tasks.

.venv/bin/rmsprop compare digits vowels --out A
.venv/bin/rmsprop compare fashion --quick --out B
.venv/bin/python docs/make/evidence.py A B
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from blocks import with_block

from rmsprop.lab.report.several import describe_several, verdict_table
from rmsprop.lab.runs.directory import RunDirectory

DOCS = Path(__file__).resolve().parent.parent
PAGE, STORED = DOCS / "evidence.md", DOCS / "evidence.json"
_ORDER = ("better", "no difference", "worse", "not comparable")
_WORDS = {
    "better": "RMSprop loses to",
    "no difference": "ties with",
    "worse": "wins over",
    "not comparable": "cannot be compared with",
}


def store(directories: list[Path]) -> None:
    """Store configurations and summaries of the comparisons, a task each."""
    kept = {each["summary"]["task"]: each for each in json.loads(STORED.read_text(encoding="utf-8"))}
    for run in [run for directory in directories for run in _runs(directory)]:
        summary = run.summary()
        summary["command"] = re.sub(r" --(?:(?:out|jobs) \S+|resume)", "", summary["command"])
        kept[summary["task"]] = {"config": run.config(), "summary": summary}
    STORED.write_text(json.dumps(list(kept.values()), indent=1) + "\n", encoding="utf-8")


def _runs(directory: Path) -> list[RunDirectory]:
    """Return the comparisons in the directory of one task, or of several."""
    several = directory / "tasks.json"
    if not several.exists():
        return [RunDirectory(directory)]
    return [RunDirectory(directory / name) for name in json.loads(several.read_text(encoding="utf-8"))["tasks"]]


def evidence(stored: list[dict[str, Any]]) -> str:
    """Return the table, who wins where, and how it was made, as Markdown."""
    summaries = [kept["summary"] for kept in stored]
    tasks = [summary["task"] for summary in summaries]
    header, rows = verdict_table(summaries)
    rows = [[name, *cells] for name, *cells in zip(*([header[0], *tasks], *rows), strict=True)]
    header, rows = rows[0], rows[1:]
    metrics = {summary["task"]: summary["metric"] for summary in summaries}
    lines = [f"| {' | '.join(['task', 'score', *header[1:]])} |", f"|---|---|{'---:|' * (len(header) - 1)}"]
    lines += [f"| {' | '.join([task, metrics[task], *cells])} |" for task, *cells in rows]
    lines += ["", "“+” is better than RMSprop, “−” worse, “=” no difference shown: medians over the seeds.", ""]
    for summary in summaries:
        found: dict[str, list[str]] = {}
        for score in summary["scores"]:
            found.setdefault(score["verdict"], []).append(score["optimizer"])
        parts = [f"{_WORDS[verdict]} {', '.join(found[verdict])}" for verdict in _ORDER if verdict in found]
        lines.append(f"- **{summary['task']}**: {'; '.join(parts)}.")
    lines += ["", *(f"{line}\n" for line in describe_several(summaries))]
    quick = [kept["summary"]["task"] for kept in stored if kept["config"].get("quick")]
    lines += [f"Few rates and seeds show large differences only: {', '.join(quick)}.", ""]
    lines += ["| task | made by | rates | seeds to pick one | seeds to compare | epochs | minutes |"]
    lines += [f"|---|---|{'---:|' * 5}"]
    for kept in stored:
        config, summary = kept["config"], kept["summary"]
        facts = (len(config["learning_rates"]), config["tuning_seeds"], config["seeds"], config["epochs"])
        minutes = math.ceil(summary["seconds"] / 60)
        lines.append(f"| {summary['task']} | `{summary['command']}` | {' | '.join(map(str, (*facts, minutes)))} |")
    machines = {f"{s['environment']['processor']}, torch {s['environment']['torch']}" for s in summaries}
    return "\n".join([*lines, "", f"({'; '.join(sorted(machines))}.)", ""])


def up_to_date(text: str) -> str:
    """Return the page with its block from the stored comparisons."""
    return with_block(text, "evidence", evidence(json.loads(STORED.read_text(encoding="utf-8"))))


def main() -> None:
    """Store the given comparisons, and rewrite the page."""
    if len(sys.argv) > 1:
        store([Path(name) for name in sys.argv[1:]])
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
