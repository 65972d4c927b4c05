"""Draw docs/architecture.svg: the rooms of the package, in the layers of the contract that `make lint` checks.

.venv/bin/python docs/make/architecture.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, ROW, GAP, LEFT = 440, 50, 7, 34
# What a layer is for, by its first module.
PURPOSES = {
    "cli": "a file for each command",
    "lab": "training, comparison, tuning, reports",
    "environment": "versions, options, the interactive page",
    "lab_tasks": "the table of built-in tasks",
    "checkpoint": "files, diagnosis, published trainings",
    "keras": "adapters on top of torch and JAX",
    "torch": "the rule behind each framework",
    "native": "the kernel, names of libraries, batch sizes, sums",
    "explain": "equations and words; the table of libraries",
    "rule": "THE ALGORITHM",
    "hyperparameters": "the table of its fields",
    "errors": "one line for bad input; atomic files",
}


def layers() -> list[list[str]]:
    """Return the modules of each layer, from the top."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"] if layer != "__main__"]


def picture() -> str:
    """Return the picture as SVG."""
    rows = layers()
    height = len(rows) * (ROW + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="14" role="img"><title>Layers of rmsprop; imports run downwards</title>',
        f'<path d="M18 {GAP + 6}V{height - GAP - 12}m-6 0l6 10 6-10z" stroke="#555" stroke-width="2" fill="#555"/>',
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle" fill="#555" '
        'dy="-2">imports</text>',
    ]
    for number, row in enumerate(rows):
        top = GAP + number * (ROW + GAP)
        fill, stroke = ("#fde7c8", "#c77f10") if "rule" in row else ("#eef2f7", "#9aa7b8")
        parts += [
            f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 6}" height="{ROW}" rx="5" fill="{fill}" '
            f'stroke="{stroke}"/>',
            f'<text x="{LEFT + 12}" y="{top + 20}" font-weight="bold">{escape(" · ".join(row))}</text>',
            f'<text x="{LEFT + 12}" y="{top + 39}" fill="#333">{escape(PURPOSES[row[0]])}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
