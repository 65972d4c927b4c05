"""Record how the optimizer fares on the installed torch: results of its tests, and steps beside torch's own foreach.

scripts/check-torch runs this in an environment with one version of torch, and adds the version to
benchmarks/results/torch_versions.json. Contenders take turns; a ratio is torch's time divided by ours in the same turn.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from rmsprop import native
from rmsprop.environment import processor
from rmsprop.files import write_atomically
from rmsprop.torch import RMSprop

RESULTS = Path(__file__).resolve().parent / "results" / "torch_versions.json"
CASES = {  # shape, number of tensors, steps per turn
    "one tensor of 100 M elements": ((100_000_000,), 1, 1),
    "160 tensors, 26 M elements": ((400, 400), 160, 2),
    "1000 tensors of 32×32": ((32, 32), 1000, 10),
}
TURNS = 15


def tests(report: Path) -> dict[str, Any]:
    """Return the numbers of passed and failed tests, and how many were skipped for which reason."""
    found: dict[str, Any] = {"passed": 0, "failed": []}
    skipped: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  pytest wrote it
        reason = case.find("skipped")
        if reason is not None:
            skipped[reason.get("message", "")] += 1
        elif case.find("failure") is None and case.find("error") is None:
            found["passed"] += 1
        else:
            found["failed"].append(f"{case.get('classname')}::{case.get('name')}")
    return {**found, "skipped": dict(skipped.most_common())}


def seconds(step: Callable[[], Any], calls: int) -> float:
    """Return the time of one call."""
    began = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - began) / calls


def ratio(shape: tuple[int, ...], count: int, calls: int) -> dict[str, float]:
    """Return our time of a step, the median ratio to torch's foreach, and its quartiles."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for optimizer in (RMSprop, lambda params: torch.optim.RMSprop(params, foreach=True)):
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(count)]
        for p in params:
            p.grad = torch.randn(shape, generator=generator)
        steps.append(optimizer(params).step)
    ours, theirs = steps
    for step in steps:
        seconds(step, 2)
    pairs = [(seconds(ours, calls), seconds(theirs, calls)) for _ in range(TURNS)]
    low, middle, high = quantiles(b / a for a, b in pairs)
    return {"seconds": median(a for a, _ in pairs), "ratio": middle, "low": low, "high": high}


def main() -> None:
    """Measure on one thread, and add this version of torch to the results."""
    torch.set_num_threads(1)
    found = {"python": platform.python_version(), **tests(Path(sys.argv[1]))}
    if native.kernel is not None:
        found["reads"] = "methods of Tensor" if native.kernel.uses_methods() else "DLPack's exchange functions"
    found["steps"] = {name: ratio(*case) for name, case in CASES.items()}
    found["machine"] = processor()
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known[str(torch.__version__)] = found
    write_atomically(RESULTS, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    print(f"torch {torch.__version__}: {found['passed']} passed, {len(found['failed'])} failed")
    for name, step in found["steps"].items():
        print(f"  {name}: {1e3 * step['seconds']:.2f} ms, {step['ratio']:.2f} times as fast as foreach")
    sys.exit(1 if found["failed"] or not found["passed"] else 0)


if __name__ == "__main__":
    main()
