"""Draw docs/sparse.svg and write the tables of docs/sparse.md: python docs/make/sparse_picture.py.

The optimizer runs the steps. The times come from benchmarks/results/sparse.json.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from blocks import with_block

from rmsprop.files import write_atomically
from rmsprop.lab.report.figures import STYLES, add_legend, new_axes, to_svg
from rmsprop.torch import RMSprop

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT, PICTURE = ROOT / "docs" / "sparse.md", ROOT / "docs" / "sparse.svg"
RESULTS = ROOT / "benchmarks" / "results" / "sparse.json"
PERIODS = [1, 2, 5, 10, 20, 50, 100, 200, 500]
ALPHA, GRADIENT = 0.99, 0.3
STEPS = 2000  # βᵗ is 2·10⁻⁹ then: the average has forgotten its start


def moves(mode: str) -> list[float]:
    """Return the last step of a row that is touched every 1, 2, 5, … steps, in learning rates."""
    table = torch.zeros(len(PERIODS), 1, dtype=torch.float64)
    start = GRADIENT**2  # the lazy average stays here, however rarely its row is touched
    optimizer = RMSprop([table], lr=1.0, alpha=ALPHA, eps=0.0, sparse=mode, initial_square_avg=start)
    result = [0.0] * len(PERIODS)
    for t in range(1, STEPS + 1):
        rows = [row for row, period in enumerate(PERIODS) if t % period == 0]
        before = table[rows, 0].tolist()
        gradient = torch.full((len(rows), 1), GRADIENT, dtype=torch.float64)
        table.grad = torch.sparse_coo_tensor(torch.tensor([rows]), gradient, table.shape, check_invariants=True)
        optimizer.step()
        for row, old in zip(rows, before, strict=True):
            result[row] = old - table[row, 0].item()
    return result


def formula(period: int) -> float:
    """Return √((1−βᵏ)/(1−β))."""
    return math.sqrt((1 - ALPHA**period) / (1 - ALPHA))


def picture(exact: list[float], lazy: list[float]) -> str:
    """Return the figure of the step against the number of steps between touches."""
    figure, axes = new_axes()
    periods = [10 ** (i / 50) for i in range(136)]
    axes.plot(periods, [math.sqrt((1 - ALPHA**k) / (1 - ALPHA)) for k in periods], color="#999999", linewidth=1)
    for label, values, style in (
        ("exact, as dense gradients", exact, "RMSprop"),
        ("lazy, as TensorFlow", lazy, "Adam"),
    ):
        colour, dashes = STYLES[style]
        axes.plot(PERIODS, values, color=colour, linestyle=dashes if style == "Adam" else "", marker="o", markersize=4,
                  label=label)  # fmt: skip
    axes.axhline(1 / math.sqrt(1 - ALPHA), color="#555555", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.text(1, 1 / math.sqrt(1 - ALPHA), "η/√(1−β)", fontsize=8, va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("k: the row is touched every k steps")
    axes.set_ylabel("step, in learning rates")
    axes.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.minorticks_off()
    add_legend(figure)
    return to_svg(figure)


def moves_block(exact: list[float], lazy: list[float]) -> str:
    """Return the table of steps, as Markdown."""
    head = "| k | exact | √((1−βᵏ)/(1−β)) | lazy |\n|---:|---:|---:|---:|\n"
    rows = [
        f"| {k} | {a:.4f} η | {formula(k):.4f} | {b:.4f} η |\n" for k, a, b in zip(PERIODS, exact, lazy, strict=True)
    ]
    return head + "".join(rows) + "\n"


def times_block(found: dict[str, Any]) -> str:
    """Return the results of benchmarks/sparse.py as Markdown."""
    lines = [
        "| table | exact | lazy | dense, rmsprop | dense, torch | speed of exact against dense |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["tables"]:
        ms = row["ms"]
        times = [ms[name] / ms["exact"] for name in ("dense, rmsprop", "dense, torch")]
        ratios = " and ".join(f"{float(f'{x:.2g}'):g}" for x in times)
        ratios += " times as fast"
        cells = " | ".join(f"{ms[name]:.3g} ms" for name in ("exact", "lazy", "dense, rmsprop", "dense, torch"))
        rows = f"{row['rows']:,}".replace(",", " ")
        lines.append(f"| {rows} × {row['width']} | {cells} | {ratios} |")
    equal = found["equal"]
    return "\n".join(lines) + (
        f"\n\nAfter {equal['steps']} random steps of the largest table, sparse and dense parameters differ by at most "
        f"{equal['largest_difference']:.1g}.\n\n"
    )


def up_to_date(text: str, exact: list[float], lazy: list[float]) -> str:
    """Return the document with the measured tables."""
    text = with_block(text, "moves", moves_block(exact, lazy))
    return with_block(text, "times", times_block(json.loads(RESULTS.read_text(encoding="utf-8"))))


def main() -> None:
    """Rewrite the document and the figure."""
    exact, lazy = moves("exact"), moves("lazy")
    write_atomically(PICTURE, picture(exact, lazy))
    write_atomically(DOCUMENT, up_to_date(DOCUMENT.read_text(encoding="utf-8"), exact, lazy))


if __name__ == "__main__":
    main()
