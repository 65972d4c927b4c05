"""Provoke every finding of rmsprop.monitor in a small training, and run a similar training without the finding.

.venv/bin/python docs/make/findings.py           trains (half a minute), writes docs/findings.json and docs/monitor.md
.venv/bin/python docs/make/findings.py --page    writes the page's tables from the stored results only, those of
                                               benchmarks/monitor.py included

tests/test_findings.py trains the same runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from blocks import with_block
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from rmsprop.environment import environment
from rmsprop.files import finite, write_atomically
from rmsprop.lab.find_task import load_task
from rmsprop.monitor import Monitor
from rmsprop.monitor.findings import Finding, find
from rmsprop.monitor.findings.finding import in_python, in_torch
from rmsprop.torch import RMSprop

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, FOUND = ROOT / "docs" / "monitor.md", ROOT / "docs" / "findings.json"
COST = ROOT / "benchmarks" / "results" / "monitor.json"

Records = list[Any]


# -- trainings ---------------------------------------------------------------------------------------------------------


def train(
    model: nn.Module,
    losses: Iterator[Tensor],
    *,
    every: int = 10,
    before_step: Callable[[int, nn.Module], object] = lambda step, model: None,
    clip: float = torch.inf,
    groups: Iterable[Any] | None = None,
    **options: Any,
) -> Records:
    """Step `model` on `losses` with RMSprop(**options), learning rate 0.001 unless given; return the records.

    Gradients are clipped to a norm of `clip`. `groups` replaces the model's parameters.
    """
    optimizer = RMSprop(model.parameters() if groups is None else groups, **{"lr": 1e-3, **options})
    with Monitor(optimizer, model, every=every) as monitor:
        for step, loss in enumerate(losses, start=1):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            before_step(step, model)
            if clip < torch.inf:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        return monitor.records


def digits(
    steps: int = 60,
    dtype: torch.dtype = torch.float32,
    loss: Callable[[int, Tensor], Tensor] = lambda step, mean: mean,
    **options: Any,
) -> Records:
    """Train the network of the task digits on batches of 64; `loss` may change each step's loss."""
    task = load_task("digits")
    assert isinstance(task.train, TensorDataset)
    images, labels = task.train[:]
    torch.manual_seed(0)
    model = task.model().to(dtype)

    def losses() -> Iterator[Tensor]:
        for step in range(1, steps + 1):
            batch = torch.randint(len(images), (64,))
            mean = cross_entropy(model(images[batch].to(dtype)).float(), labels[batch])
            yield loss(step, mean)

    return train(model, losses(), **options)


def line(steps: int = 60, noise: float = 0.0, dtype: torch.dtype = torch.float32, **options: Any) -> Records:
    """Fit a linear map of 8 numbers to 4, with slopes of about 0.3, to 64 points; targets have `noise`."""
    torch.manual_seed(0)
    x, model = torch.randn(64, 8, dtype=dtype), nn.Linear(8, 4).to(dtype)
    y = x @ (0.3 * torch.randn(8, 4, dtype=dtype))
    losses = ((model(x) - y - noise * torch.randn_like(y)).square().mean() for _ in range(steps))
    return train(model, losses, **options)


def scaled(scale: float, group: str | None = None, lr: float = 1e-3, **options: Any) -> Records:
    """Fit the sum of three linear maps, the third one multiplied by `scale`, to noisy data; `lr` is for `group`."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(8, 4, bias=False) for _ in range(3)])
    x = torch.randn(64, 8)

    def losses() -> Iterator[Tensor]:
        for _ in range(60):
            a, b, c = (layer(x) for layer in model)
            yield (a + b + scale * c - x[:, :4] - torch.randn(64, 4)).square().mean()

    if group is None:
        return train(model, losses(), lr=lr, **options)
    own, named = model.get_parameter(group), [{"params": [p]} for p in model.parameters()]
    groups = [{**each, "lr": lr} if each["params"][0] is own else each for each in named]
    return train(model, losses(), groups=groups, **options)


def words(used: int, known: int = 100, **options: Any) -> Records:
    """Learn embeddings of `known` words. Only the first `used` occur."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(known, 8), nn.Linear(8, 2))

    def losses() -> Iterator[Tensor]:
        for _ in range(60):
            word = torch.randint(used, (256,))
            yield cross_entropy(model(word), word % 2)

    return train(model, losses(), **options)


def constant(noise: float, **options: Any) -> Records:
    """Follow a constant gradient of 1 with relative `noise`."""
    torch.manual_seed(0)
    model = nn.Linear(8, 4, bias=False)
    losses = ((model.weight * (1 + noise * torch.randn(4, 8))).sum() for _ in range(300))
    return train(model, losses, **options)


def optax_line(decay: float, *, ours: bool = False) -> Records:
    """Fit a line with bfloat16 parameters, by optax.rmsprop (bfloat16 square average) or by `ours`."""
    import jax
    import jax.numpy as jnp
    import optax

    from rmsprop import profile
    from rmsprop.jax import rmsprop
    from rmsprop.monitor import from_optax

    rule = profile("optax", lr=1e-2, decay=decay)
    optimizer = rmsprop(rule) if ours else optax.rmsprop(rule.lr, decay=decay)
    x = jax.random.normal(jax.random.key(0), (64, 8))
    params = {"w": jnp.zeros((8, 4), jnp.bfloat16)}
    state = optimizer.init(params)
    slope = jax.jit(jax.grad(lambda p: ((x @ p["w"] - x[:, :4]) ** 2).mean()))
    records = []
    for step in range(1, 601):
        grads = slope(params)
        updates, new_state = optimizer.update(grads, state, params)
        new_params = optax.apply_updates(params, updates)
        if step % 50 == 0:
            records.append(from_optax(rule, params, new_params, grads, state, new_state, step=step))
        params, state = new_params, new_state
    return records


def spike(step: int, loss: Tensor) -> Tensor:
    """Return the loss, multiplied by 100 in step 40."""
    return loss * 100 if step == 40 else loss


def break_down(step: int, model: nn.Module) -> None:
    """Put an infinite gradient into step 40."""
    if step == 40:
        parameter = next(model.parameters())
        assert parameter.grad is not None
        parameter.grad[0] = torch.inf


# -- what provokes a finding, and where it is silent -------------------------------------------------------------------


class Case(NamedTuple):
    """A kind of finding, a run that provokes it, and a similar run that does not. `run` takes changed options."""

    kind: str
    provoked: str
    run: Callable[..., Records]
    silent: tuple[str, Callable[[], Records]]
    by_hand: Callable[[], Records] | None = None  # follows advice that no option covers


def of(run: Callable[..., Records], **options: Any) -> Callable[..., Records]:
    """Return `run` with options that its caller can change."""
    return lambda **changes: run(**{**options, **changes})


CASES = (
    Case(
        "nonfinite",
        "digits, an infinite gradient in step 40, `nonfinite=\"zero\"`",
        of(digits, nonfinite="zero", before_step=break_down),
        ("the same without it", of(digits, nonfinite="zero")),
        by_hand=of(digits, nonfinite="zero"),
    ),
    Case(
        "spike",
        "digits, the loss multiplied by 100 in step 40",
        of(digits, loss=spike),
        ("the same, gradients clipped to a norm of 3", of(digits, loss=spike, clip=3.0)),
        by_hand=digits,
    ),
    Case(
        "dead rows",
        "embeddings of 100 words, 50 of which come up",
        of(words, used=50),
        ("all 100 come up", of(words, used=100)),
        by_hand=of(words, used=50, known=50),
    ),
    Case(
        "first step",
        "digits, `lr=0.01`, PyTorch's default",
        of(digits, lr=0.01),
        ("the same with `bias_correction=True`", of(digits, lr=0.01, bias_correction=True)),
    ),
    Case(
        "long steps",
        "linear fit, slopes of 0.3, `lr=0.5`",
        of(line, noise=0.1, lr=0.5),
        ("`lr=0.003`", of(line, noise=0.1, lr=0.003)),
    ),
    Case(
        "oscillation",
        "linear fit, all data in each step, `lr=0.01`, `bias_correction=True`, 300 steps",
        of(line, steps=300, lr=0.01, bias_correction=True),
        ("the same with noise of 1 in the targets", of(line, steps=300, lr=0.01, noise=1.0, bias_correction=True)),
    ),
    Case("eps", "digits, `eps=1`", of(digits, eps=1.0), ("`eps=1e-8`", digits)),
    Case(
        "start",
        "digits, `initial_square_avg=1`, `alpha=0.99`",
        of(digits, initial_square_avg=1.0),
        ("`alpha=0.8`", of(digits, initial_square_avg=1.0, alpha=0.8)),
    ),
    Case(
        "variance floor",
        "a constant gradient, `centered=True`, `alpha=0.9`, 300 steps",
        of(constant, noise=0.0, centered=True, alpha=0.9),
        ("with noise of 10 %", of(constant, noise=0.1, centered=True, alpha=0.9)),
    ),
    Case(
        "stall",
        "digits, bfloat16 parameters, `lr=3e-5`",
        of(digits, dtype=torch.bfloat16, lr=3e-5),
        ("the same with `stochastic_rounding=True`",
         of(digits, dtype=torch.bfloat16, lr=3e-5, stochastic_rounding=True)),
        by_hand=of(digits, lr=3e-5),
    ),
    Case(
        "state stall",
        "linear fit by `optax.rmsprop`, bfloat16 parameters and state, `decay=0.999`",
        of(optax_line, decay=0.999),
        ("`decay=0.9`", of(optax_line, decay=0.9)),
        by_hand=of(optax_line, decay=0.999, ours=True),
    ),
    Case(
        "effective lr",
        "the sum of three linear maps, one of them multiplied by 0.001",
        of(scaled, scale=0.001),
        ("multiplied by 1", of(scaled, scale=1.0)),
        by_hand=of(scaled, scale=1.0),
    ),
    Case(
        "short steps",
        "linear fit, `lr=1e-8`, float64",
        of(line, noise=0.1, lr=1e-8, dtype=torch.float64),
        ("`lr=1e-5`", of(line, noise=0.1, lr=1e-5, dtype=torch.float64)),
    ),
    Case(
        "weight decay",
        "digits, `weight_decay=0.01`",
        of(digits, weight_decay=0.01),
        ("the same with `decoupled_weight_decay=True`", of(digits, weight_decay=0.01, decoupled_weight_decay=True)),
    ),
    Case(
        "clipping",
        "digits, gradients clipped to a norm of 0.01",
        of(digits, clip=0.01),
        ("to a norm of 10", of(digits, clip=10.0)),
        by_hand=digits,
    ),
)  # fmt: skip


def of_kind(kind: str, records: Records) -> list[Finding]:
    """Return the findings of one kind."""
    return [finding for finding in find(records) if finding.kind == kind]


def measure(case: Case) -> dict[str, Any]:
    """Run a case and return its row of the page."""
    loud, silent = of_kind(case.kind, case.run()), of_kind(case.kind, case.silent[1]())
    assert loud, case.kind
    assert not silent, silent
    for words, cured in cures(case, loud[0]):
        left = of_kind(case.kind, cured())
        assert not left, f"{words} does not cure: {left[0]}"
    print(f"{case.kind}\n{loud[0]}\n")
    return {"kind": case.kind, "loud": case.provoked, "silent": case.silent[0], "finding": loud[0].to_dict()}


def cures(case: Case, finding: Finding) -> list[tuple[str, Callable[[], Records]]]:
    """Return the runs of a case that follow each remedy of its finding exactly, and the advice."""
    runs: list[tuple[str, Callable[[], Records]]] = [
        (in_python(change), lambda change=change: case.run(**in_torch(change)))  # type: ignore[misc]
        for change in finding.changes
    ]
    return runs + ([] if case.by_hand is None else [(finding.advice, case.by_hand)])


def block(found: dict[str, Any]) -> str:
    """Return the table of the page."""
    lines = ["| kind | provoked by | the finding | from where on | silent in |", "|---|---|---|---|---|"]
    for case in found["cases"]:
        finding = case["finding"]
        words = f"{finding['sentence']} Remedy: {finding['remedy']}."
        lines.append(f"| {case['kind']} | {case['loud']} | {words} | {finding['threshold']} | {case['silent']} |")
    return "\n".join(lines) + "\n\n"


def cost_block(found: dict[str, Any]) -> str:
    """Return the cost of monitoring in `rmsprop train`, as Markdown."""
    lines = [
        "| task | a step | added between records | added by a record | in this run | in a long run |",
        "|---|" + "---:|" * 5,
    ]
    for task, row in found["tasks"].items():
        step, between, record = 1e3 * row["step"], 1e6 * row["between"], 1e3 * row["record"]
        more = row["run_steps"] * row["step"] * row["run_cost"]
        run = f"{more:.2g} s, {100 * row['run_cost']:.1f} % of {row['run_steps']} steps"
        long = f"{100 * row['cost']:.1f} %"
        lines.append(f"| {task} | {step:.2g} ms | {between:.1f} µs | {record:.1f} ms | {run} | {long} |")
    lines += [
        "",
        f"On one thread of: {found['environment']['processor']}. A long run has one record in {found['every']} steps.",
    ]
    return "\n".join(lines) + "\n\n"


def with_table(text: str) -> str:
    """Return docs/monitor.md with its tables from the stored results."""
    text = with_block(text, "findings", block(json.loads(FOUND.read_text(encoding="utf-8"))))
    return with_block(text, "cost", cost_block(json.loads(COST.read_text(encoding="utf-8"))))


def main() -> None:
    """Train, unless --page is given; write the page."""
    if sys.argv[1:] not in ([], ["--page"]):
        raise SystemExit(__doc__)
    if not sys.argv[1:]:
        torch.set_num_threads(1)
        found = finite({"cases": [measure(case) for case in CASES], "environment": environment()})
        write_atomically(FOUND, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(PAGE, with_table(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
