"""Update docs/tuning.md from stored studies. Directories of `rmsprop tune` replace them.

.venv/bin/rmsprop tune digits --trials 40 --baseline Adam --out A
.venv/bin/python docs/make/tuning.py A B
.venv/bin/python benchmarks/tune_samplers.py > benchmarks/results/tune_samplers.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from blocks import with_block

from rmsprop.lab.report.sentences import difference_words
from rmsprop.lab.report.tuning_sentences import describe_tuning
from rmsprop.lab.report.tuning_words import setting_words
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.score import score_words

DOCS = Path(__file__).resolve().parent.parent
PAGE, STORED = DOCS / "tuning.md", DOCS / "tuning.json"
SAMPLERS = DOCS.parent / "benchmarks" / "results" / "tune_samplers.json"
_NAMES = {"tpe": "quasi-random, then TPE", "qmc": "quasi-random", "random": "random", "grid": "grid"}


def store(directories: list[Path]) -> None:
    """Store configurations and summaries of the studies, of their trials the defaults only."""
    kept = []
    for run in map(RunDirectory, directories):
        summary = run.summary()
        summary["command"] = re.sub(r" --((out|workers) \S+|resume)", "", summary["command"])
        summary["trials"] = [trial | {"curve": []} for trial in summary["trials"] if trial["slot"] == 0]
        kept.append({"config": run.config(), "summary": summary})
    STORED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def studies(stored: list[dict[str, Any]]) -> str:
    """Return a table for each stored study, and what it found, as Markdown."""
    lines = ["## What it found here", ""]
    for kept in stored:
        summary = kept["summary"]
        metric, default = summary["metric"], summary["candidates"][0]["setting"]
        lines += [f"`{summary['command']}`", ""]
        lines += [f"| setting | test {metric} | difference to the default | |", "|---|---:|---:|---|"]
        for number, each in enumerate(summary["candidates"]):
            words = setting_words(each["setting"], default) if number else "the default"
            shown = difference_words(each, metric)
            lines.append(f"| {words} | {score_words(each['median'], metric)} | {shown} | {each['verdict'] or '–'} |")
        lines += ["", *describe_tuning(kept["config"], summary)[:1], ""]
    made = stored[0]["summary"]["environment"]
    lines += [f"({made['processor']}, torch {made['torch']}.)", ""]
    return "\n".join(lines)


def samplers(found: dict[str, Any]) -> str:
    """Return the samplers at equal budget, and how many verdicts held on other seeds, as Markdown."""
    rows = found["samplers"]
    seeds = len(next(iter(rows.values())))
    lines = [
        "## Which sampler",
        "",
        f"`benchmarks/tune_samplers.py`: {found['trials']} trials of learning rate and decay on the {found['task']}, "
        f"mean ± standard deviation over {seeds} searches. Confirmed: the best test score on new seeds.",
        "",
        "| sampler | best in the search | confirmed | gain found | epochs |",
        "|---|---:|---:|---:|---:|",
    ]
    for sampler, results in rows.items():
        best, confirmed = ([r[key] for r in results if r[key] is not None] for key in ("search", "confirmed"))
        gains = sum(r["gain"] for r in results)
        lines.append(
            f"| {_NAMES[sampler]} | {_spread(best)} | {_spread(confirmed)} | {gains} of {len(results)} "
            f"| {mean(r['epochs'] for r in results):.0f} |"
        )
    gains = [r for results in rows.values() for r in results if r["gain"]]
    held = sum(r["later_difference"] is not None and r["later_difference"] > 0 for r in gains)
    again = found["from_best"]
    none = sum(not r["gain"] for r in again)
    lines += [
        "",
        f"The verdict was a gain in {len(gains)} of {sum(map(len, rows.values()))} searches. On 20 other seeds "
        f"{held} of these {len(gains)} were better than the default again. With the best setting as the default, "
        f"{none} of {len(again)} further searches found no gain.",
        "",
    ]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f} %"


def up_to_date(text: str) -> str:
    """Return the page with its block from the stored results."""
    block = studies(json.loads(STORED.read_text(encoding="utf-8")))
    return with_block(text, "tuning", block + "\n" + samplers(json.loads(SAMPLERS.read_text(encoding="utf-8"))))


def main() -> None:
    """Store the given studies, and rewrite the page."""
    if len(sys.argv) > 1:
        store([Path(word) for word in sys.argv[1:]])
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
