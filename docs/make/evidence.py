"""Update docs/evidence.md from stored comparisons. The directory of `rmsprop compare` on several tasks replaces them.

.venv/bin/rmsprop compare digits vowels --out A
.venv/bin/python docs/make/evidence.py A
"""

from __future__ import annotations

import json
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


def store(directory: Path) -> None:
    """Store configurations and summaries of the comparisons."""
    names = list(json.loads((directory / "tasks.json").read_text(encoding="utf-8"))["tasks"])
    runs = [RunDirectory(directory / name) for name in names]
    kept: list[dict[str, Any]] = [{"config": run.config(), "summary": run.summary()} for run in runs]
    for each in kept:
        each["summary"]["command"] = re.sub(r" --out \S+", "", each["summary"]["command"])
    STORED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def evidence(stored: list[dict[str, Any]]) -> str:
    """Return the table, who wins where, and how it was made, as Markdown."""
    summaries = [kept["summary"] for kept in stored]
    header, rows = verdict_table(summaries)
    lines = [f"`{summaries[0]['command']}`", "", f"| {' | '.join(header)} |", f"|---|{'---:|' * len(summaries)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", "+ is better than RMSprop, − worse, = no difference shown: medians over the seeds.", ""]
    for summary in summaries:
        found: dict[str, list[str]] = {}
        for score in summary["scores"]:
            found.setdefault(score["verdict"], []).append(score["optimizer"])
        parts = [f"{_WORDS[verdict]} {', '.join(found[verdict])}" for verdict in _ORDER if verdict in found]
        lines.append(f"- **{summary['task']}**: {'; '.join(parts)}.")
    lines += ["", *describe_several(summaries)]
    made, seconds = summaries[0]["environment"], sum(summary["seconds"] for summary in summaries)
    lines += ["", f"({made['processor']}, torch {made['torch']}, {seconds:.0f} seconds.)", ""]
    return "\n".join(lines)


def up_to_date(text: str) -> str:
    """Return the page with its block from the stored comparisons."""
    return with_block(text, "evidence", evidence(json.loads(STORED.read_text(encoding="utf-8"))))


def main() -> None:
    """Store the given comparisons, and rewrite the page."""
    if len(sys.argv) > 1:
        store(Path(sys.argv[1]))
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
