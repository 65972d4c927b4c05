"""Time unchanged scripts with and without `rmsprop run`: python benchmarks/client_steps.py [--json FILE].

Scripts of five libraries, the files of examples/ as they were before this library, run in turns: as they are, and as
under `rmsprop run`, watched. The time of a training step is the processor time from the start of one step of the
optimizer to the start of the next, on one thread. docs/clients.md shows benchmarks/results/client_steps.json;
`docs/make/client_table.py --page` writes it there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rmsprop.environment import environment
from rmsprop.files import write_atomically
from rmsprop.monitor.watch import Watch

sys.path.append(str(Path(__file__).resolve().parents[1] / "conformance"))
import clients

NAMES = ("stable_baselines3_a2c", "transformers_by_name", "accelerate_loop", "lightning_module", "skorch_classifier")
REPEATS, EVERY = 9, 50  # the first runs are not counted


def timed(name: str, *, ours: bool) -> tuple[list[float], clients.Outcome]:
    """Run a script; return the seconds of its training steps, and what it computed."""
    began: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda *_: began.append(time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        watched: Any = Watch(lambda: Path(folder), EVERY) if ours else contextlib.nullcontext()
        try:
            with watched:
                outcome = clients.run(name, ours=ours, changed=False)
        finally:
            hook.remove()
    return list(np.diff(began)), outcome


def measure(name: str) -> dict[str, Any]:
    """Return the median time of a step of both, the ratios of paired runs, and how far the weights differ."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    outcomes: dict[bool, clients.Outcome] = {}
    ratios = []
    for repeat in range(REPEATS):
        found = {}
        for ours in (True, False) if repeat % 2 else (False, True):
            found[ours], outcomes[ours] = timed(name, ours=ours)
        if repeat:
            ratios.append(median(found[True]) / median(found[False]))
            for ours, x in found.items():
                seconds[ours] += x
    if not outcomes[True].ours or outcomes[False].ours:
        raise RuntimeError(f"{name}: the optimizer was not replaced, or was replaced in both")
    ours, theirs = outcomes[True].weights, outcomes[False].weights
    return {
        "steps": len(seconds[True]),
        "ms": {"torch": 1e3 * median(seconds[False]), "ours": 1e3 * median(seconds[True])},
        "ratios": ratios,
        "difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    }


def main() -> None:
    """Measure and print; with --json, also write a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in NAMES:
        found[name] = measure(name)
        print(name, found[name], flush=True)
    if given.json:
        facts = {"environment": environment(), "load": os.getloadavg()[0], "clients": found}
        write_atomically(given.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
