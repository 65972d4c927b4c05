"""Test the LR finder on the built-in tasks: python scripts/lr_finder.py; an interrupted run goes on where it was.

For each task and rule: the suggestion, then trainings at a third of it, once and three times it, with two seeds each.
Writes docs/lr-finder.json, docs/lr-finder-TASK.svg and the tables of docs/lr-finder.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from rmsprop import Rule
from rmsprop.files import finite, write_atomically
from rmsprop.lab import load_task
from rmsprop.lab.find_lr import on_task
from rmsprop.lab.find_lr_figure import draw_range_test
from rmsprop.lab.task import Task
from rmsprop.lab.training import Training
from rmsprop.lab.words import score_words
from rmsprop.torch import RMSprop

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, DOCUMENT = DOCS / "lr-finder.json", DOCS / "lr-finder.md"
EPOCHS = {"digits": 10, "mnist": 4, "shakespeare": 1}
RULES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "decay 0.9": {"decay": 0.9},
    "decay 0.9, momentum 0.9": {"decay": 0.9, "momentum": 0.9},
}
FACTORS = {"a third": 1 / 3, "once": 1.0, "three times": 3.0}
SEEDS = (1, 2)  # not that of the finder's start, which is 0


def find(task: Task, rule: Rule) -> dict[str, Any]:
    """Return what the finder says; for the rule without options, also draw it."""
    found = on_task(task, rule, listen=lambda _done, _total: None)
    if rule == Rule():
        write_atomically(DOCS / f"lr-finder-{task.name}.svg", draw_range_test(found))
    return {"lr": found.lr, "reason": found.reason, "warm_steps": found.warm_steps, **found.facts}


def train(task: Task, rule: dict[str, Any], lr: float, seed: int) -> dict[str, Any]:
    """Return the validation loss and metric after a training with a constant rate."""
    training = Training(task, lambda p: RMSprop.from_rule(p, Rule(lr=lr, **rule)), seed, EPOCHS[task.name])
    for _ in training.run():
        pass
    loss, metric = training.evaluate("validation")
    return {"seed": seed, "loss": loss, "metric": metric}


def main() -> None:
    """Run what the results lack, and write the document."""
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for label, options in RULES.items():
        for name in EPOCHS:
            task = load_task(name)
            row = results.setdefault(f"{name}, {label}", {"metric": task.metric_name, "trainings": {}})
            if "found" not in row:
                row["found"] = find(task, Rule(**options))
            for words, factor in FACTORS.items():
                own = row["trainings"].setdefault(words, [])
                for seed in SEEDS[len(own) :]:
                    own.append(train(task, options, row["found"]["lr"] * factor, seed))
                    write_atomically(RESULTS, json.dumps(finite(results), indent=1) + "\n")
    write_atomically(DOCUMENT, up_to_date(DOCUMENT.read_text(encoding="utf-8"), results))


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| task, rule | lowest at (each seed) | steepest at | suggested | a third | once | three times |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.items():
        found = row["found"]
        seeds = ", ".join(f"{x:.2g}" for x in found["lowest_at_by_seed"])
        cells = [_cell(own, row["metric"]) for own in row["trainings"].values()]
        lines.append(
            f"| {name} | {found['lowest_at']:.2g} ({seeds}) | {found['steepest_at']:.2g} | {found['lr']:g} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(trainings: list[dict[str, Any]], metric: str) -> str:
    if any(x["loss"] is None for x in trainings):
        return "diverged"
    loss = mean(x["loss"] for x in trainings)
    return f"{loss:.3g} ({score_words(mean(x['metric'] for x in trainings), metric)})"


def up_to_date(text: str, results: dict[str, Any]) -> str:
    """Return the document with its table as it was measured."""
    pattern = r"(<!-- trainings: [^\n]* -->\n).*?(<!-- end of trainings -->)"
    new, count = re.subn(pattern, lambda match: match.group(1) + table(results) + match.group(2), text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{DOCUMENT} has {count} blocks of trainings")
    return new


if __name__ == "__main__":
    main()
