"""A made search, as `rmsprop tune` records it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rmsprop import Rule, profile
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.tuning.space import Setting

SPACES: dict[str, Any] = {
    "lr": {"low": 1e-5, "high": 1.0, "least": 0.0, "most": 1e9},
    "decay": {"low": 1e-3, "high": 0.3, "least": 1e-6, "most": 1.0},
    "schedule": {"values": ["constant", "linear", "cosine", "steps"]},
}


def trial(slot: int, score: float | None, reason: str = "", *, optimizer: str = "RMSprop", **changes: Any) -> Any:
    """Return a trial; `changes` are fields of its setting or of its rule."""
    outside = {name: changes.pop(name) for name in ("schedule", "warmup") if name in changes}
    base = Rule() if optimizer == "RMSprop" else profile("adam", lr=0.001)
    rule = dataclasses.replace(base, **changes)
    setting = Setting(rule, **outside, optimizer=optimizer)
    return {
        "optimizer": optimizer,
        "slot": slot,
        "phase": "qmc" if slot else "default",
        "setting": setting.to_json(),
        "point": {},
        "score": score,
        "reason": reason,
        "epochs": 4 if score is None else 10,
        "seconds": 1.0,
        "curve": [],
    }


TRIALS = [
    trial(0, 0.90),
    trial(1, 0.93, lr=0.003),
    trial(2, None, "diverged at step 31", lr=0.5, schedule="linear"),
    trial(3, 0.2, lr=1e-5, decay=0.9),
    trial(4, None, "behind", lr=0.0001, decay=0.9, schedule="cosine"),
    trial(5, 0.95, lr=0.005, decay=0.999, schedule="cosine"),
    trial(6, 0.92, lr=0.02, decay=0.95),
    trial(7, None, "ε governs", lr=0.001),
    trial(8, None, "the time is over", lr=0.7),
    trial(0, 0.91, optimizer="Adam"),
    trial(1, 0.94, optimizer="Adam", lr=0.002),
]


def candidate(setting: Any, median: float | None, difference: float | None, verdict: str, search: float | None) -> Any:
    interval = None if difference is None else [difference - 0.01, difference + 0.01]
    return {
        "setting": setting,
        "scores": [median] * 7,
        "median": median,
        "diverged": 0 if median is not None else 4,
        "difference": difference,
        "interval": interval,
        "verdict": verdict,
        "search_score": search,
        "at_chance": False,
    }


def search(**changes: Any) -> Any:
    """Return the summary of a search with a gain: accuracy, four trials without a score, and Adam beside RMSprop."""
    return {
        "status": "finished",
        "task": "digits",
        "metric": "accuracy",
        "metric_kind": "accuracy",
        "higher_is_better": True,
        "command": "rmsprop tune digits --trials 9",
        "implementation": "",
        "environment": {"rmsprop": "0.1.0"},
        "trials": TRIALS,
        "candidates": [
            candidate(TRIALS[0]["setting"], 0.90, None, "", 0.90),
            candidate(TRIALS[5]["setting"], 0.94, 0.04, "better", 0.95),
            candidate(TRIALS[1]["setting"], 0.905, 0.005, "no difference", 0.93),
            candidate(TRIALS[10]["setting"], 0.93, 0.03, "better", 0.94),
        ],
        "recommended": 1,
        "confidence": 0.95,
        "noise": 0.01,
        "spaces": {"RMSprop": SPACES, "Adam": SPACES},
        "widened": {},
        "at_ends": {},
        "importances": {},
        "failures": [],
        "gradient_rms": None,
        "confirmed_on": "test",
        "seconds": 60.0,
        "workers": 2,
        **changes,
    }


def of_lr_alone(**changes: Any) -> Any:
    """Return the summary of a search that tuned lr alone."""
    trials = [trial(slot, score, lr=0.001 * 2**slot) for slot, score in enumerate((0.90, 0.93, 0.95, 0.92))]
    candidates = [candidate(trials[0]["setting"], 0.9, None, "", 0.9)]
    candidates.append(candidate(trials[2]["setting"], 0.94, 0.04, "better", 0.95))
    spaces = {"RMSprop": {"lr": SPACES["lr"]}}
    return search(trials=trials, candidates=candidates, spaces=spaces, **changes)


def written(summary: Any, path: Path) -> RunDirectory:
    """Write a summary and its configuration as a run."""
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "kind": "tune", "task": "digits", "metric": "accuracy", "metric_kind": "accuracy", "confirmed_on": "test",
        "schedule": None, "made_with": {"torch": "2"}, "seed": 0, "seeds": 7,
        "rule": TRIALS[0]["setting"]["rule"], "sampler": "tpe", "top": 3,
    }  # fmt: skip
    for name, content in (("run.json", config), ("summary.json", summary)):
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    return RunDirectory(path)
