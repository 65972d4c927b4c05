"""Measure the batch-size scaling rule, on a noisy parabola and on real digits; update docs/scaling.md.

.venv/bin/python docs/make/scaling.py          measures (about six minutes), writes docs/scaling.json, .svg and the page
.venv/bin/python docs/make/scaling.py --page   writes the figure and the page's blocks from the stored results only
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from blocks import with_block
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from rmsprop import Rule, init, update
from rmsprop.environment import environment
from rmsprop.files import write_atomically
from rmsprop.lab.find_task import load_task
from rmsprop.lab.report.figures import to_svg
from rmsprop.lab.task import Task
from rmsprop.scaling import scale_batch_size
from rmsprop.torch import RMSprop

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, FOUND, PICTURE = (ROOT / "docs" / f"scaling.{kind}" for kind in ("md", "json", "svg"))

# The parabola: f = x²/2 from x = 1. The gradients have normal noise, ten times the first gradient.
NOISE, SAMPLES, COPIES = 10.0, 8192, 500
PARABOLA = Rule(lr=5e-3, decay=0.998, eps=5.0, initial_square_avg=50 * NOISE**2)  # v starts far off: β matters

# Real digits: a small batch, and a β that averages over many steps even at sixteen times the batch.
DIGITS = Rule(lr=5e-4, decay=0.995, eps=1e-8, bias_correction=True)
BATCH, FACTORS, SEEDS, EPOCHS = 8, (0.25, 4, 16), 5, 8
EVERY = 768  # examples between two measurements: whole batches at every factor
LOOKED_AT = 1000  # training examples on which loss and noise are measured
WAYS = ("the rule", "rate × κ", "rate × √κ only", "nothing changed")
STYLE: dict[str, tuple[str, Any]] = {
    "the rule": ("#0072B2", (0, (5, 1))),
    "rate × κ": ("#D55E00", (0, (6, 1, 1, 1))),
    "rate × √κ only": ("#009E73", (0, (1, 1))),
    "nothing changed": ("#CC79A7", (0, (3, 1, 1, 1))),
}


def scaled(rule: Rule, kappa: float, way: str) -> Rule:
    """Return the rule for a batch κ times as large, in one of the WAYS."""
    if way == "the rule":
        return scale_batch_size(rule, BATCH, round(kappa * BATCH)).rule
    return replace(
        rule, lr=rule.lr * {"rate × κ": kappa, "rate × √κ only": math.sqrt(kappa), "nothing changed": 1}[way]
    )


# -- the parabola ------------------------------------------------------------------------------------------------------


def parabola(rule: Rule, kappa: int, *, slope: float | None = None, seed: int = 0) -> NDArray[np.float64]:
    """Return x (steps × COPIES) after each step of `rule`. Each gradient is the mean of κ noisy ones.

    The noise depends on the seed alone: with κ = 4, the first step has the mean of the first four draws of κ = 1. The
    function is x²/2, or slope·x.
    """
    generator = np.random.default_rng(seed)
    x, path = np.ones(COPIES), []
    state = init(rule, x)
    for _ in range(SAMPLES // kappa):
        noise = NOISE * generator.standard_normal((kappa, COPIES)).mean(axis=0)
        x, state = update(rule, x, (x if slope is None else slope) + noise, state)
        path.append(x)
    return np.array(path)


def beside(path: NDArray[np.float64], base: NDArray[np.float64]) -> dict[str, float]:
    """Compare two runs on the same noise: mean x² divided by that of the base, and distance."""
    base = base[len(base) // len(path) - 1 :: len(base) // len(path)]
    late = len(path) // 2
    return {
        "early": float((path[len(path) // 4] ** 2).mean() / (base[len(path) // 4] ** 2).mean()),
        "late": float((path[late:] ** 2).mean() / (base[late:] ** 2).mean()),
        "distance": float(np.sqrt(((path - base) ** 2).mean() / (base**2).mean())),
    }


def parabolas() -> list[dict[str, Any]]:
    """Compare each factor and way with κ = 1, for v that starts at rest and for v that starts far off."""
    starts = {"rest": replace(PARABOLA, initial_square_avg=NOISE**2), "far": PARABOLA}
    bases = {name: parabola(start, 1) for name, start in starts.items()}
    rows = []
    for kappa in (4, 16):
        for way in (*WAYS, "the rule, β kept", "the rule, ε kept"):
            row: dict[str, Any] = {"kappa": kappa, "way": way}
            for name, start in starts.items():
                tried = ruled = scaled(start, kappa, "the rule")
                if way in WAYS:
                    tried = replace(scaled(start, kappa, way), initial_square_avg=ruled.initial_square_avg)
                elif way == "the rule, β kept":
                    tried = replace(ruled, decay=start.decay)
                else:
                    tried = replace(ruled, eps=start.eps)
                row[name] = beside(parabola(tried, kappa), bases[name])
            rows.append(row)
    return rows


# -- real digits -------------------------------------------------------------------------------------------------------


def digits(task: Task, kappa: float, way: str, seed: int) -> dict[str, list[float]]:
    """Return the training loss of `task` every EVERY examples, and for κ = 1 also the noise scale."""
    assert isinstance(task.train, TensorDataset)
    images, labels = task.train.tensors
    torch.manual_seed(seed)
    model = task.model()
    optimizer = RMSprop.from_rule(model.parameters(), scaled(DIGITS, kappa, way))
    order = torch.Generator().manual_seed(seed)
    largest, seen = round(BATCH * max(FACTORS)), 0
    losses, noise = [], []
    for _ in range(EPOCHS):
        permutation = torch.randperm(len(labels), generator=order)
        permutation = permutation[: len(labels) // largest * largest]  # the same examples for every factor
        for chosen in permutation.view(-1, round(BATCH * kappa)):
            if seen % EVERY == 0:
                with torch.no_grad():
                    losses.append(float(task.loss(model(images[:LOOKED_AT]), labels[:LOOKED_AT])))
                if kappa == 1:
                    noise.append(noise_scale(task, model))
            optimizer.zero_grad()
            task.loss(model(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen += len(chosen)
    return {"loss": [round(x, 5) for x in losses], "noise": [round(x, 2) for x in noise]}


def noise_scale(task: Task, model: nn.Module) -> float:
    """Return the variance of an example's gradient over the square of the mean gradient, all parameters together.

    At this batch size, noise and mean gradient are equally large (McCandlish et al. 2018, arXiv:1812.06162).
    """
    assert isinstance(task.train, TensorDataset)
    images, labels = (part[:LOOKED_AT] for part in task.train.tensors)
    gradients = []
    for x, y in zip(images.view(-1, BATCH, *images.shape[1:]), labels.view(-1, BATCH), strict=True):
        parts = torch.autograd.grad(task.loss(model(x), y), list(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    every = torch.stack(gradients).double()
    variance = BATCH * every.var(dim=0).sum()
    signal = every.mean(dim=0).square().sum() - variance / len(labels)  # the mean has noise of its own
    return float(variance / signal)


def measure() -> dict[str, Any]:
    """Measure everything and return the content of docs/scaling.json."""
    torch.set_num_threads(1)  # with more threads, sums depend on their number
    task = load_task("mnist")
    base = [digits(task, 1, "the rule", seed) for seed in range(SEEDS)]
    runs = [
        {"kappa": kappa, "way": way, "loss": [digits(task, kappa, way, seed)["loss"] for seed in range(SEEDS)]}
        for kappa in FACTORS
        for way in (WAYS if kappa > 1 else WAYS[:1])  # small batches take long
    ]
    return {
        "environment": environment(),
        "parabola": parabolas(),
        "digits": {"base": [run["loss"] for run in base], "noise": [run["noise"] for run in base], "runs": runs},
    }


# -- what the curves say -----------------------------------------------------------------------------------------------


def delay(curves: list[list[float]], base: list[list[float]], point: int) -> float:
    """Return how many examples later the mean curve reaches the loss of the base at `point`."""
    ours, goal = np.log(curves).mean(axis=0), np.log(base).mean(axis=0)[point]
    after = int(np.argmax(ours <= goal))  # the first point that is as low
    if not after:
        raise ValueError(f"a loss of {math.exp(goal):.3g} is never reached")
    return float((after - (goal - ours[after]) / (ours[after - 1] - ours[after]) - point) * EVERY)


def spread(curves: list[list[float]], first: int) -> float:
    """Return the standard deviation of log loss over the seeds, root mean square over the points from `first` on."""
    return float(np.sqrt(np.log(curves)[:, first:].var(axis=0, ddof=1).mean()))


# -- figure and page ---------------------------------------------------------------------------------------------------


class Distance(NamedTuple):
    """How far the curves of one way are from those of κ = 1, over a part of the run."""

    largest: float  # of the mean log loss at one point, divided by the spread of the seeds
    ratio: float  # of the losses, geometric mean


def distance(curves: list[list[float]], base: list[list[float]], first: int) -> Distance:
    """Return the distance of curves (seeds × points) from the base's, from the point `first` on.

    The spread is that of the base's seeds.
    """
    ours, theirs = np.log(curves)[:, first:], np.log(base)[:, first:]
    apart = ours.mean(axis=0) - theirs.mean(axis=0)
    return Distance(float(abs(apart).max() / spread(base, first)), float(np.exp(apart.mean())))


def picture(found: dict[str, Any]) -> str:
    """Return the figure of losses and noise over the examples seen, as SVG."""
    figure = Figure(figsize=(7.4, 6.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    noise = panels[1, 1]
    data = found["digits"]
    x = np.arange(len(data["base"][0])) * EVERY

    def band(where: Axes, curves: list[list[float]], colour: str, dashes: Any, label: str) -> None:
        values = np.array(curves)
        where.plot(x, np.exp(np.log(values).mean(axis=0)), color=colour, linestyle=dashes, linewidth=1.5, label=label)
        where.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)

    for kappa, panel in zip(FACTORS, panels.flat, strict=False):
        band(panel, data["base"], "#222222", "-", f"batch {BATCH}")
        for run in data["runs"]:
            if run["kappa"] == kappa:
                band(panel, run["loss"], *STYLE[run["way"]], run["way"])
        panel.set_title(f"κ = {kappa:g}: batch {BATCH * kappa:g}", fontsize=10)
        panel.set_ylim(0.035, 2.5)
        panel.set_ylabel("training loss")
    low, middle, high = np.quantile(data["noise"], (0.25, 0.5, 0.75), axis=0)  # single values are outliers
    noise.plot(x, middle, color="#222222", linewidth=1.5)
    noise.fill_between(x, low, high, color="#222222", alpha=0.15, linewidth=0)
    noise.set_title(f"noise scale, batch {BATCH}", fontsize=10)
    noise.set_ylabel("examples")
    for kappa in (*FACTORS, 1):
        noise.axhline(BATCH * kappa, color="#555555", linewidth=0.8, linestyle=(0, (4, 2)))
        noise.text(x[-1], BATCH * kappa, f"batch {BATCH * kappa:g}", fontsize=8, va="bottom", ha="right")
    for panel in panels.flat:
        panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#dddddd", linewidth=0.5)
    for panel in panels[1]:
        panel.set_xlabel("examples seen")
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", fontsize=8, frameon=False, ncols=5)
    return to_svg(figure)


def parabola_block(found: dict[str, Any]) -> str:
    """Return the table of the parabola, as Markdown."""
    lines = [
        "| κ | | v at rest: x² after a quarter | second half | distance | v far off: x² after a quarter | second half "
        "| distance |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["parabola"]:
        cells = [f"{row[start][name]:.3f}" for start in ("rest", "far") for name in ("early", "late", "distance")]
        lines.append(f"| {row['kappa']} | {row['way']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def digits_block(found: dict[str, Any]) -> str:
    """Return the table of the digits, as Markdown."""
    lines = [
        "| κ | | whole run: largest distance | loss | second half: largest distance | loss |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    base = found["digits"]["base"]
    for run in found["digits"]["runs"]:
        cells = []
        for first in (1, len(base[0]) // 2):
            far = distance(run["loss"], base, first)
            cells.append(f"{far.largest:.1f} | × {far.ratio:.2f}")
        lines.append(f"| {run['kappa']:g} | {run['way']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def words_block(found: dict[str, Any]) -> str:
    """Return the findings on the digits in words, as Markdown."""
    base, noise = found["digits"]["base"], np.median(found["digits"]["noise"], axis=0)
    runs = {(run["kappa"], run["way"]): run["loss"] for run in found["digits"]["runs"]}
    half, early, late = len(base[0]) // 2, 3, 15  # early: in the steep part; late: after it
    four, sixteen = ([distance(runs[k, "the rule"], base, first).ratio for first in (half, 1)] for k in (4, 16))
    lost = {point: delay(runs[16, "the rule"], base, point) for point in (early, late)}
    during = noise[late : late + math.ceil(lost[late] / EVERY) + 1]
    wider = spread(runs[16, "rate × κ"], half) / spread(base, half)
    percent = " to ".join(f"{100 * (x - 1):.0f}" for x in sorted(four))
    behind = " to ".join(f"{x:.2f}" for x in sorted(sixteen))
    low, high = (round(float(x), -1) for x in (during.min(), during.max()))
    text = f"""
        At a quarter of the batch, the rule repeats the run. At four times the batch, its loss is {percent} % higher. At
        sixteen times it does not repeat the run: its loss is {behind} times as large. The batch of {16 * BATCH} is then
        above the noise scale, which falls to about {noise.min():.0f} when learning begins. The loss that batch {BATCH}
        has after {early * EVERY:,} examples comes {round(lost[early], -2):,.0f} examples later, half of the final
        delay: the loss after {late * EVERY:,} examples comes {round(lost[late], -2):,.0f} later. Meanwhile the noise
        scale is {low:.0f} to {high:.0f}, and {16 * BATCH} is not small beside that. Changing nothing is far slower at
        both batch sizes. Changing β made no difference here, as on the parabola with v at rest: β matters after
        gradients have changed their size.

        The learning rate times κ gives another run. It gets ahead of the run that it should repeat, since η = 5·10⁻⁴ is
        not the best rate for batches of {BATCH}. At κ = 16 the spread between seeds is {wider:.1f} times as wide. A
        rule that repeats a run repeats its mistakes. Where only the result counts, begin with the rule and search
        around it. The closer the batch is to the noise scale, the nearer the best rate is to κ·η.
        """
    return "".join(textwrap.fill(" ".join(part.split()), 120) + "\n\n" for part in text.split("\n\n"))


def up_to_date(text: str, found: dict[str, Any]) -> str:
    """Return the page with its measured blocks."""
    for name, block in (("parabola", parabola_block), ("digits", digits_block), ("words", words_block)):
        text = with_block(text, name, block(found))
    return text


def main() -> None:
    """Measure, unless --page is given; rewrite the figure and the page's blocks."""
    if "--page" not in sys.argv[1:]:
        write_atomically(FOUND, json.dumps(measure()) + "\n")
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    write_atomically(PICTURE, picture(found))
    write_atomically(PAGE, up_to_date(PAGE.read_text(encoding="utf-8"), found))


if __name__ == "__main__":
    main()
