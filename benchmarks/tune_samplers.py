"""How `rmsprop tune` finds and judges on the digits: four samplers at equal budget, and verdicts tried on other seeds.

.venv/bin/python benchmarks/tune_samplers.py > benchmarks/results/tune_samplers.json

Each sampler searches with the same trials over five seeds. A verdict "gain" is tried again on 20 other seeds, paired
with the default. Then the best setting of all becomes the default of further studies, which should find no gain.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from rmsprop.environment import environment
from rmsprop.lab import load_task, tune
from rmsprop.lab.intervals import paired_interval
from rmsprop.lab.tuned import Tuned
from rmsprop.lab.tuning.space import Setting
from rmsprop.lab.tuning.trainings import train_once

TASK, TRIALS, SEEDS = "digits", 24, 5
SAMPLERS = ("tpe", "qmc", "random", "grid")
OTHER_SEEDS = range(5000, 5020)


def study(folder: Path, **keywords: Any) -> Tuned:
    """Return a search of learning rate and decay, with a rate that falls linearly."""
    return tune(TASK, trials=TRIALS, schedule="linear", workers=2, out=folder / "run", **keywords)


def test_score(setting: Setting, seed: int) -> float:
    """Return the test accuracy of a training; 0 if it diverged."""
    return train_once(load_task(TASK), setting, seed, None, part="test").score or 0.0


def row(tuned: Tuned, seconds: float) -> dict[str, Any]:
    """Return what a study found; for a gain, its mean difference on other seeds."""
    summary = tuned.summary
    best = max(trial["score"] for trial in summary["trials"] if trial["score"] is not None)
    default = summary["candidates"][0]
    confirmed = [c["median"] for c in summary["candidates"][1:] if c["median"] is not None]
    found = {
        "search": best,
        "default": default["median"],
        "confirmed": max(confirmed, default=None),
        "gain": tuned.gain,
        "epochs": sum(trial["epochs"] for trial in summary["trials"]),
        "seconds": seconds,
        "rule": dataclasses.asdict(tuned.rule),
    }
    if tuned.gain:
        start = Setting.from_json(default["setting"])
        pairs = [test_score(tuned.setting, seed) - test_score(start, seed) for seed in OTHER_SEEDS]
        found["later_difference"], found["later_interval"] = paired_interval(pairs, 0.95)
    return found


def main() -> None:
    """Run all studies and print the results as JSON."""
    rows: dict[str, list[dict[str, Any]]] = {sampler: [] for sampler in SAMPLERS}
    best: tuple[float, Setting] | None = None
    for seed in range(SEEDS):
        for sampler in SAMPLERS:
            print(f"{sampler}, seed {seed}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                tuned = study(Path(folder), sampler=sampler, seed=seed)
                rows[sampler].append(row(tuned, time.monotonic() - began))
            reached = tuned.summary["candidates"][tuned.summary["recommended"]]["median"]
            if best is None or reached > best[0]:
                best = reached, tuned.setting
    assert best is not None  # noqa: S101
    again = []
    for seed in range(SEEDS):
        print(f"from the best, seed {seed}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            tuned = study(Path(folder), rule=best[1].rule, seed=100 + seed)
            again.append(row(tuned, time.monotonic() - began))
    print(
        json.dumps(
            {
                "environment": environment(),
                "task": TASK,
                "trials": TRIALS,
                "samplers": rows,
                "from_best": again,
                "best_mean": mean(r["confirmed"] for rows_ in rows.values() for r in rows_ if r["confirmed"]),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
