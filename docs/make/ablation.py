"""Update docs/ablation.md from stored comparisons. Run directories of `rmsprop compare --ablate` replace them.

.venv/bin/rmsprop compare digits --ablate --out A
.venv/bin/rmsprop compare digits --ablate --profile keras --out B
.venv/bin/rmsprop compare mnist --ablate --out C
.venv/bin/python docs/make/ablation.py A B C
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from blocks import with_block

from rmsprop.lab.report.sentences import describe_comparison, difference_words
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.score import score_words

DOCS = Path(__file__).resolve().parent.parent
PAGE, STORED = DOCS / "ablation.md", DOCS / "ablation.json"


def store(directories: list[str]) -> None:
    """Store configurations and summaries of the comparisons."""
    runs = [RunDirectory(Path(name)) for name in directories]
    kept: list[dict[str, Any]] = [{"config": run.config(), "summary": run.summary()} for run in runs]
    for each in kept:
        each["summary"]["command"] = re.sub(r" --out \S+", "", each["summary"]["command"])
    STORED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def tables(stored: list[dict[str, Any]]) -> str:
    """Return a table of each comparison and its sentences, as Markdown."""
    lines = []
    for kept in stored:
        config, summary = kept["config"], kept["summary"]
        metric, made = summary["metric"], summary["environment"]
        lines += [
            f"`{summary['command']}`",
            "",
            f"| switch | lr | test {metric} | it brings | |",
            "|---|---:|---:|---:|---|",
        ]
        lines += [
            f"| {s['optimizer']} | {s['lr']:g} | {score_words(s['metric'], metric)} | {difference_words(s, metric)} "
            f"| {s['verdict']} |"
            for s in summary["scores"]
        ]
        told = describe_comparison(config, summary)[1:-1]  # without the score of RMSprop and the note on intervals
        lines += [
            "",
            " ".join(told),
            f"({made['processor']}, torch {made['torch']}, {summary['seconds']:.0f} seconds.)",
            "",
        ]
    return "\n".join(lines)


def up_to_date(text: str) -> str:
    """Return the page with its block from the stored comparisons."""
    return with_block(text, "ablation", tables(json.loads(STORED.read_text(encoding="utf-8"))))


def main() -> None:
    """Store the given runs, and rewrite the page."""
    if len(sys.argv) > 1:
        store(sys.argv[1:])
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
