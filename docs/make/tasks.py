"""Train the built-in tasks, three seeds each, and update docs/tasks.md.

OMP_NUM_THREADS=1 .venv/bin/python docs/make/tasks.py          trains the tasks that docs/tasks.json lacks
OMP_NUM_THREADS=1 .venv/bin/python docs/make/tasks.py NAME ... trains these tasks

It runs what `rmsprop train NAME --lr LR --schedule linear --seed SEED` runs, with LR and recipe of the table in
src/rmsprop/lab_tasks.py. Then copy the medians of score and time into that table; tests/test_tasks.py compares them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from blocks import with_block

from rmsprop import Rule, recipe
from rmsprop.environment import environment
from rmsprop.files import finite, write_atomically
from rmsprop.lab.training_run import train
from rmsprop.lab_tasks import BUILT_IN, TaskFacts, score_text

DOCS = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = DOCS / "tasks.json", DOCS / "tasks.md"
NOT_TRAINED = ("cartpole-dqn", "pong", "pong-dqn")


def seeds(name: str) -> range:
    """Return the seeds of a task's trainings."""
    return range(5 if name in ("cartpole", "cartpole-dqn") else 3)


def measure(name: str, seed: int) -> dict[str, Any]:
    """Return scores, CPU seconds and findings of one training."""
    lr, published = BUILT_IN[name].lr, BUILT_IN[name].recipe
    rule = Rule(lr=lr) if published is None else recipe(published).changed(lr=lr)
    with TemporaryDirectory() as directory:
        began = time.process_time()
        run, summary = train(name, rule, seed=seed, schedule="linear", out=Path(directory, "run"))
        seconds = time.process_time() - began
        epochs = [record["validation_metric"] for record in run.records() if record["kind"] == "epoch"]
    return {
        "seed": seed,
        "validation": [epochs[0], epochs[1], epochs[-1]],  # before the first step, after one epoch, at the end
        "test": summary["test_metric"],
        "seconds": round(seconds, 1),
        "findings": sorted({finding["kind"] for finding in summary["findings"]}),
    }


def table(results: dict[str, Any]) -> str:
    """Return the measured trainings as Markdown."""
    lines = [
        "| task | metric | lr | validation: start → one epoch → end | test, each seed | time | findings |",
        "|---|---|---:|---|---|---:|---|",
    ]
    for name, task in BUILT_IN.items():
        runs = results.get(name)
        lines.append(f"| {name} | {task.metric} | {task.lr:g} | {_cells(task, runs)} |")
    return "\n".join(lines) + f"\n\n({results['environment']})\n\n"


def _cells(task: TaskFacts, runs: list[dict[str, Any]] | None) -> str:
    if not runs:
        return "not measured | not measured | – | –"
    middle = [score_text(median(run["validation"][i] for run in runs), task.metric) for i in range(3)]
    tests = ", ".join(score_text(run["test"], task.metric) for run in runs)
    findings = ", ".join(sorted({kind for run in runs for kind in run["findings"]})) or "none"
    return f"{' → '.join(middle)} | {tests} | {median(run['seconds'] for run in runs):.0f} s | {findings}"


def up_to_date(text: str, results: dict[str, Any]) -> str:
    """Return the document with the measured table."""
    return with_block(text, "trainings", table(results))


def main() -> None:
    """Train, and write results and document."""
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    missing = [name for name, task in BUILT_IN.items() if not (name in results or task.variable or name in NOT_TRAINED)]
    for name in sys.argv[1:] or missing:
        results[name] = [measure(name, seed) for seed in seeds(name)]
        results["environment"] = "{processor}, one thread, torch {torch}".format(**environment())
        write_atomically(RESULTS, json.dumps(finite(results), indent=1) + "\n")
    write_atomically(DOCUMENT, up_to_date(DOCUMENT.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
