"""Time a step with sparse gradients against a dense one: python benchmarks/sparse.py [--json]; docs/sparse.md shows it.

Each step touches random rows, some of them twice, as nn.Embedding(sparse=True) does. The contenders take turns; times
are medians. Finally the largest table is trained with sparse and with dense gradients, and the results are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from rmsprop.environment import environment
from rmsprop.torch import RMSprop

TABLES = ((10_000, 64), (100_000, 64), (1_000_000, 64))
TOUCHED = 4096
ROUNDS = 15  # in each, every contender runs an untimed and a timed step
EQUAL_STEPS = 200

CONTENDERS: dict[str, Callable[[Tensor], torch.optim.Optimizer]] = {
    "exact": lambda p: RMSprop([p]),
    "exact, centered": lambda p: RMSprop([p], centered=True),
    "lazy": lambda p: RMSprop([p], sparse="lazy"),
    "exact, no kernel": lambda p: RMSprop([p], fused=False),
    "dense, rmsprop": lambda p: RMSprop([p]),
    "dense, torch": lambda p: torch.optim.RMSprop([p]),
}


def gradient(rows: int, width: int) -> Tensor:
    """Return a gradient with TOUCHED entries, not coalesced."""
    index, values = torch.randint(rows, (1, TOUCHED)), torch.randn(TOUCHED, width)
    return torch.sparse_coo_tensor(index, values, (rows, width), check_invariants=True)


def times(rows: int, width: int) -> dict[str, float]:
    """Return the ms of a step by contender. All step the same table, each with its own state."""
    table = torch.randn(rows, width)
    optimizers = {name: make(table) for name, make in CONTENDERS.items()}
    dense = torch.randn_like(table)
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, optimizer in optimizers.items():
            for _ in range(2):
                table.grad = dense if name.startswith("dense") else gradient(rows, width)
                began = time.perf_counter()
                optimizer.step()
                took = time.perf_counter() - began
            found[name].append(1e3 * took)
    return {name: median(values) for name, values in found.items()}


def equality(rows: int, width: int) -> dict[str, Any]:
    """Return the largest difference of two tables after the same steps with sparse and with dense gradients."""
    torch.manual_seed(0)
    sparse = torch.randn(rows, width)
    dense = sparse.clone()
    start = sparse.clone()
    optimizers = RMSprop([sparse], lr=1e-3), RMSprop([dense], lr=1e-3)
    for _ in range(EQUAL_STEPS):
        sparse.grad = gradient(rows, width)
        dense.grad = sparse.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    largest, moved = (sparse - dense).abs().max().item(), (sparse - start).abs().max().item()
    return {"steps": EQUAL_STEPS, "lr": 1e-3, "largest_difference": largest, "largest_move": moved}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    as_json = parser.parse_args().json
    torch.manual_seed(0)
    tables = [{"rows": rows, "width": width, "ms": times(rows, width)} for rows, width in TABLES]
    found = {
        "environment": environment(), "touched": TOUCHED, "threads": torch.get_num_threads(), "tables": tables,
        "equal": equality(*TABLES[-1]),
    }  # fmt: skip
    if as_json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return
    for table in tables:
        print(f"{table['rows']} × {table['width']}")
        for name, value in table["ms"].items():
            print(f"  {name:<18} {value:8.2f} ms")
    print(found["equal"])


if __name__ == "__main__":
    main()
