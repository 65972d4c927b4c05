"""Test the LR finder on the built-in tasks: python docs/make/lr_finder.py. An interrupted run continues.

For each task and rule: the suggestion, a second one after one more warm-up step, and trainings at a third, once and
three times the first suggestion, with two seeds each. Finally, how often noise gets a suggestion. Writes
docs/lr-finder.json, docs/lr-finder-TASK.svg and the marked blocks of docs/lr-finder.md.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from blocks import with_block

from rmsprop import Rule
from rmsprop.files import finite, write_atomically
from rmsprop.lab import load_task
from rmsprop.lab.range_test import on_task
from rmsprop.lab.report.range_test_figure import draw_range_test
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.score import score_words
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.task import Task
from rmsprop.monitor.lr_finder.curve import suggest
from rmsprop.torch import RMSprop

DOCS = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = DOCS / "lr-finder.json", DOCS / "lr-finder.md"
EPOCHS = {"digits": 10, "mnist": 4, "shakespeare": 1}
RULES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "decay 0.9": {"decay": 0.9},
    "decay 0.9, momentum 0.9": {"decay": 0.9, "momentum": 0.9},
}
FACTORS = {"a third": 1 / 3, "once": 1.0, "three times": 3.0}
SEEDS = (1, 2)  # the finder itself uses seed 0
NOISE = "white noise"
RANGES = ((2, 28), (6, 81), (6, 100), (6, 200))  # (powers of ten, steps): the least allowed, and more
TESTS = {1: 500, 3: 100}  # number of seeds: number of tests


def find(task: Task, rule: Rule) -> dict[str, Any]:
    """Return the finder's results, also after one more warm-up step. For the default rule, draw the curve."""
    found = on_task(task, rule, listen=lambda _done, _total: None)
    if rule == Rule():
        write_atomically(DOCS / f"lr-finder-{task.name}.svg", draw_range_test(found))
    again = on_task(task, rule, warm=found.warm_steps + 1, listen=lambda _done, _total: None)
    own = {"lr": found.lr, "again": again.lr, "reason": found.reason, "notes": found.notes}
    return {**own, "warm_steps": found.warm_steps, **found.facts}


def train(task: Task, rule: dict[str, Any], lr: float, seed: int) -> dict[str, Any]:
    """Return the validation loss and metric after a training with a constant rate."""
    training = TrainingLoop(
        task, with_optimizer(lambda p: RMSprop.from_rule(p, Rule(lr=lr, **rule))), seed, EPOCHS[task.name]
    )
    for _ in training.run():
        pass
    found = training.evaluate("validation")
    return {"seed": seed, "loss": found.loss, "metric": found.metric}


def main() -> None:
    """Run the missing parts of the results and write the document."""
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for label, options in RULES.items():
        for name in EPOCHS:
            task = load_task(name)
            row = results.setdefault(f"{name}, {label}", {"metric": task.score.name, "trainings": {}})
            if "found" not in row:
                row["found"] = find(task, Rule(**options))
            lr = row["found"]["lr"]
            for words, factor in FACTORS.items() if lr is not None else ():
                own = row["trainings"].setdefault(words, [])
                for seed in SEEDS[len(own) :]:
                    own.append(train(task, options, lr * factor, seed))
                    write_atomically(RESULTS, json.dumps(finite(results), indent=1) + "\n")
    if NOISE not in results:
        results[NOISE] = [{"decades": d, "steps": n, **suggested_for_noise(d, n)} for d, n in RANGES]
        write_atomically(RESULTS, json.dumps(finite(results), indent=1) + "\n")
    write_atomically(DOCUMENT, up_to_date(DOCUMENT.read_text(encoding="utf-8"), results))


def suggested_for_noise(decades: int, steps: int) -> dict[str, float]:
    """Return the share of tests on independent normal losses that get a suggestion, by number of seeds."""
    rates, source = np.geomspace(10.0**-decades, 1.0, steps), np.random.default_rng(0)

    def suggested(seeds: int) -> bool:
        return suggest(rates, source.normal(size=(seeds, steps)).tolist()).lr is not None

    return {str(seeds): sum(suggested(seeds) for _ in range(tests)) / tests for seeds, tests in TESTS.items()}


def table(results: dict[str, Any]) -> str:
    """Return the trainings as Markdown, and how often each factor was best."""
    results = {name: row for name, row in results.items() if name != NOISE}
    lines = [
        "| task, rule | lowest at (each seed) | steepest at | suggested (again) | a third | once | three times |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.items():
        found = row["found"]
        seeds = ", ".join(f"{x:.2g}" for x in found["lowest_at_by_seed"])
        cells = [_cell(row["trainings"].get(words), row["metric"]) for words in FACTORS]
        lines.append(
            f"| {name} | {found['lowest_at']:.2g} ({seeds}) | {found['steepest_at']:.2g} | "
            f"{_rate(found['lr'])} ({_rate(found['again'])}) | {' | '.join(cells)} |"
        )
    best = Counter(min(losses, key=lambda words: losses[words]) for losses in map(_losses, results.values()) if losses)
    told = ", ".join(f"{words} in {best[words]}" for words in FACTORS)
    behind = [losses["once"] / min(losses.values()) - 1 for losses in map(_losses, results.values()) if losses]
    apart = [
        max(a, b) / min(a, b) for row in results.values() if (a := row["found"]["lr"]) and (b := row["found"]["again"])
    ]
    return "\n".join(lines) + (
        f"\n\nLowest validation loss of the three, of {len(behind)} rows: {told}. The suggestion's loss is "
        f"{100 * median(behind):.0f} % above the lowest in the median row, {100 * max(behind):.0f} % at most. One more "
        f"step of warming changes the suggestion by a factor of {median(apart):.2g} in the median row, "
        f"{max(apart):.2g} at most.\n"
    )


def noise_table(rows: list[dict[str, Any]]) -> str:
    """Return as Markdown how often noise gets a suggestion."""
    heads = [f"{seeds} seed{'s' * (seeds > 1)}, {tests} tests" for seeds, tests in TESTS.items()]
    lines = [f"| white noise | {' | '.join(heads)} |", "|---|---:|---:|"]
    for row in rows:
        shares = " | ".join(f"{100 * row[str(seeds)]:.1f} %" for seeds in TESTS)
        lines.append(f"| {row['steps']} steps over {row['decades']} powers of ten | {shares} |")
    return "\n".join(lines) + "\n"


def _losses(row: dict[str, Any]) -> dict[str, float]:
    """Return the mean validation loss for each factor, infinite where a training diverged."""
    return {
        words: mean(math.inf if x["loss"] is None else x["loss"] for x in own)
        for words, own in row["trainings"].items()
    }


def _rate(lr: float | None) -> str:
    return "none" if lr is None else f"{lr:g}"


def _cell(trainings: list[dict[str, Any]] | None, metric: str) -> str:
    if not trainings:
        return "-"
    if any(x["loss"] is None for x in trainings):
        return "diverged"
    loss = mean(x["loss"] for x in trainings)
    return f"{loss:.3g} ({score_words(mean(x['metric'] for x in trainings), metric)})"


def up_to_date(text: str, results: dict[str, Any]) -> str:
    """Return the document with the measured tables."""
    for name, new in (("trainings", table(results)), ("noise", noise_table(results[NOISE]))):
        text = with_block(text, name, new)
    return text


if __name__ == "__main__":
    main()
