"""Measure the distances that the score of wgan is held against, draw generated images, and update docs/tasks.md.

OMP_NUM_THREADS=1 .venv/bin/python docs/make/wgan.py

It trains once, with seed 0, as docs/make/tasks.py does. The distances of trained generators are in docs/tasks.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from blocks import with_block
from torch import Tensor

from rmsprop import recipe
from rmsprop.files import write_atomically
from rmsprop.lab.adversarial import WassersteinTask, frechet_distance
from rmsprop.lab.compute import Compute
from rmsprop.lab.find_task import load_task
from rmsprop.lab.training_run import train

DOCS = Path(__file__).resolve().parent.parent
DISTANCES, TRAINED, DOCUMENT = DOCS / "wgan.json", DOCS / "tasks.json", DOCS / "tasks.md"
PICTURE = DOCS / "wgan.svg"


def measure() -> dict[str, float]:
    """Return distances to the test images, by what is compared with them."""
    task = load_task("wgan")
    assert isinstance(task, WassersteinTask)
    (images,), (validation,), (real,) = (part.tensors for part in (task.train, task.validation, task.test))
    torch.manual_seed(0)
    shuffled = torch.stack([pixel[torch.randperm(len(pixel))] for pixel in images.T], dim=1)
    untrained = task.evaluate(task.model(), "test", task.batch_size, Compute())
    assert untrained.constant.metric is not None

    def distance(other: Tensor) -> float:
        return frechet_distance(task.features(other), task.features(real))

    return {
        "the real training images": distance(images),
        "the real validation images": distance(validation),
        "training images whose pixels are shuffled among the images, each place by itself": distance(shuffled),
        "one image, always the same, with the mean features": untrained.constant.metric,
        "noise: pixels drawn uniformly": distance(torch.rand(real.shape)),
        "the generator before its training, seed 0": untrained.metric,
    }


def table(distances: dict[str, float], trained: list[float]) -> str:
    """Return the distances as Markdown, the nearest first."""
    rows = [(name, [value]) for name, value in distances.items()]
    rows.append((f"images of trained generators, of {len(trained)} seeds", sorted(trained)))
    lines = ["| compared with the real test images | distance |", "|---|---:|"]
    for name, values in sorted(rows, key=lambda row: row[1]):
        lines.append(f"| {name} | {' to '.join(f'{x:.3g}' for x in dict.fromkeys((values[0], values[-1])))} |")
    return "\n".join(lines) + "\n\n"


def up_to_date(text: str) -> str:
    """Return the document with the measured distances."""
    trained = json.loads(TRAINED.read_text(encoding="utf-8"))["wgan"]
    distances = json.loads(DISTANCES.read_text(encoding="utf-8"))
    return with_block(text, "distances", table(distances, [run["test"] for run in trained]))


def main() -> None:
    """Measure, train, and write distances, picture and document."""
    torch.set_num_threads(1)
    write_atomically(DISTANCES, json.dumps(measure(), indent=1) + "\n")
    with TemporaryDirectory() as directory:
        run = train("wgan", recipe("wgan-2017"), seed=0, schedule="linear", out=Path(directory, "run"))
        write_atomically(PICTURE, (run.path / "picture.svg").read_text(encoding="utf-8"))
    write_atomically(DOCUMENT, up_to_date(DOCUMENT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
