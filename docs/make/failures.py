"""Measure where RMSprop breaks, in other libraries and here; update docs/numerics.md.

.venv/bin/python docs/make/failures.py           measures (about a minute), writes docs/failures.json and the page
.venv/bin/python docs/make/failures.py --page    writes the page's tables from the stored results only

Needs optax, keras and stable_baselines3. Without timm, its column says "not installed". Keras runs on JAX.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import runpy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from blocks import with_block
from torch import Tensor, nn

from rmsprop.environment import environment
from rmsprop.files import finite, write_atomically
from rmsprop.torch import RMSprop
from rmsprop.torch.low_precision import unpack

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, FOUND = ROOT / "docs" / "numerics.md", ROOT / "docs" / "failures.json"
STATES = ROOT / "benchmarks" / "results" / "state_dtypes.json"
DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
OURS = "rmsprop"


# -- the libraries, behind one interface -------------------------------------------------------------------------------


class Run(Protocol):
    """One tensor under one optimizer."""

    def step(self, gradient: Tensor) -> None:
        """Make a step with `gradient`, rounded to the tensor's dtype."""

    def read(self) -> tuple[Tensor, Tensor]:
        """Return the tensor and its square average, as float64."""


class TorchRun:
    """A run of a class with the interface of `torch.optim`."""

    def __init__(self, make: Callable[..., Any], start: Tensor, options: dict[str, Any]) -> None:
        self.p = nn.Parameter(start.clone())
        self.optimizer = make([self.p], **options)

    def step(self, gradient: Tensor) -> None:
        """Make a step."""
        self.p.grad = gradient.to(self.p.dtype)
        self.optimizer.step()

    def read(self) -> tuple[Tensor, Tensor]:
        """Return parameter and square average."""
        v = self.optimizer.state[self.p]["square_avg"]
        if v.dtype == torch.uint8:
            v = unpack(v, self.p, signed=False)
        return self.p.detach().double(), v.double()


class JaxRun:
    """A run of a compiled function of (parameter, state, gradient) to (parameter, state)."""

    def __init__(self, step: Callable[..., Any], p: Any, state: Any, average: Callable[[Any], Any]) -> None:
        import jax

        self.p, self.state, self.average, self.compiled = p, state, average, jax.jit(step)

    def step(self, gradient: Tensor) -> None:
        """Make a step."""
        import jax.numpy as jnp

        self.p, self.state = self.compiled(self.p, self.state, jnp.asarray(gradient.numpy()).astype(self.p.dtype))

    def read(self) -> tuple[Tensor, Tensor]:
        """Return parameter and square average."""
        import numpy as np

        p, v = (torch.from_numpy(np.array(x, np.float64)) for x in (self.p, self.average(self.state)))
        return p, v


def start_optax(start: Tensor, lr: float, alpha: float, **options: Any) -> Run:
    """Return a run of `optax.rmsprop`."""
    import jax.numpy as jnp
    import optax

    transformation = optax.rmsprop(lr, decay=alpha, **options)

    def step(p: Any, state: Any, gradient: Any) -> Any:
        updates, state = transformation.update(gradient, state, p)
        return optax.apply_updates(p, updates), state

    p = jnp.asarray(start.float().numpy()).astype(DTYPES[start.dtype])
    return JaxRun(step, p, transformation.init(p), lambda state: state[0].nu)


def start_keras(start: Tensor, lr: float, alpha: float, eps: float = 1e-7, **options: Any) -> Run:
    """Return a run of `keras.optimizers.RMSprop`, on JAX."""
    import keras

    keras.config.set_floatx(DTYPES[start.dtype])
    variable = keras.Variable(start.float().numpy(), dtype=DTYPES[start.dtype])
    optimizer = keras.optimizers.RMSprop(lr, rho=alpha, epsilon=eps, **options)
    optimizer.build([variable])
    index = next(i for i, x in enumerate(optimizer.variables) if x is optimizer._velocities[0])

    def step(p: Any, state: Any, gradient: Any) -> Any:
        (p,), state = optimizer.stateless_apply(state, [gradient], [p])
        return p, state

    return JaxRun(step, variable.value, [x.value for x in optimizer.variables], lambda state: state[index])


def _stable_baselines(params: list[nn.Parameter], **options: Any) -> Any:
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    return RMSpropTFLike(params, **options)


def _timm(params: list[nn.Parameter], **options: Any) -> Any:
    sys.path.insert(0, str(ROOT / "conformance" / "generate"))
    try:
        return importlib.import_module("from_timm").RMSpropTF(params, **options)
    finally:
        sys.path.remove(str(ROOT / "conformance" / "generate"))


@dataclass(frozen=True)
class Library:
    """A library's RMSprop: `optimizer` builds it for torch, `start_other` starts a run elsewhere."""

    name: str
    package: str
    optimizer: Callable[..., Any] | None = None
    start_other: Callable[..., Run] | None = None

    def start(self, start: Tensor, **options: Any) -> Run:
        """Return a run that begins at `start`."""
        if self.start_other is not None:
            return self.start_other(start, **options)
        assert self.optimizer is not None
        return TorchRun(self.optimizer, start, options)


LIBRARIES = {
    each.name: each
    for each in (
        Library("torch", "torch", torch.optim.RMSprop),
        Library("timm", "timm", _timm),
        Library("SB3", "stable-baselines3", _stable_baselines),
        Library("optax", "optax", start_other=start_optax),
        Library("Keras", "keras", start_other=start_keras),
        Library(OURS, "rmsprop", RMSprop),
    )
}


# -- the failures ------------------------------------------------------------------------------------------------------

Value = Any  # a number, several numbers, or text
Measure = Callable[[Library, dict[str, Any]], Value]


@dataclass(frozen=True)
class Row:
    """One way to break: what is measured, and which values are failures."""

    name: str
    title: str
    wanted: str
    measure: Measure
    words: Callable[[Value], str]
    fails: Callable[[Value], bool]
    torch_only: bool = False
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})  # options of our optimizer, by name


def number(x: float) -> str:
    """Return a number in three digits, for a table."""
    return "NaN" if math.isnan(x) else f"{x:.3g}".replace("inf", "∞").replace("-", "−")


def share(x: float) -> str:
    """Return a share in percent, with two digits where it would otherwise read as 0 % or 100 %."""
    if x in (0, 1) or 0.005 <= x < 0.995:
        return f"{100 * x:.0f} %"
    if x < 0.5:
        return f"{100 * x:.2g} %"
    return f"{100 * x:.{1 - math.floor(math.log10(100 * (1 - x)))}f} %"  # two digits of what lacks to 100 %


def after_one_step(gradient: float, dtype: torch.dtype, **options: Any) -> Measure:
    """Return a measure: the parameter after one step from 1."""

    def measure(library: Library, variant: dict[str, Any]) -> Value:
        run = library.start(torch.ones(8, dtype=dtype), lr=1e-3, alpha=0.99, **options, **variant)
        run.step(torch.full((8,), gradient))
        return float(run.read()[0][0])

    return measure


def centered(library: Library, variant: dict[str, Any]) -> Value:
    """Return the shares of elements that are NaN after 3000 steps, by the relative noise of their gradients.

    The sizes of gradients are spread evenly in log scale from 0.001 to 1000: an eps inside the root hides the failure
    at small gradients.
    """
    noises, sizes = torch.tensor(NOISES)[:, None], torch.logspace(-3, 3, 500)
    generator = torch.Generator().manual_seed(0)
    run = library.start(torch.zeros(len(NOISES), 500), lr=1e-3, alpha=0.99, centered=True, **variant)
    for _ in range(3000):
        run.step(sizes * (1 + noises * torch.randn(len(NOISES), 500, generator=generator)))
    return run.read()[0].isnan().double().mean(dim=1).tolist()


NOISES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)


def bfloat16_average(gradient: Callable[[torch.Generator], Tensor], steps: int, idle: int = 0) -> Measure:
    """Return a measure: mean and spread of v after `steps` gradients, and `idle` gradients of 0, at β = 0.999."""

    def measure(library: Library, variant: dict[str, Any]) -> Value:
        generator = torch.Generator().manual_seed(0)
        run = library.start(torch.zeros(4096, dtype=torch.bfloat16), lr=1e-3, alpha=0.999, **variant)
        for _ in range(steps):
            run.step(gradient(generator))
        for _ in range(idle):
            run.step(torch.zeros(4096))
        v = run.read()[1]
        return [float(v.mean()), float(v.std())]

    return measure


def average_words(value: Value) -> str:
    """Return mean and spread of v in words."""
    middle, spread = value
    return number(middle) if spread == 0 else f"{number(middle)} ± {spread:.1g}"


def far_from(wanted: float, relative: float) -> Callable[[Value], bool]:
    """Return a predicate: the mean differs from `wanted` by more than the share `relative`."""
    return lambda x: not abs(x[0] - wanted) <= relative * wanted


def after_bad_gradient(bad: float) -> Measure:
    """Return a measure: how far 1000 gradients of 1 move the parameter after one bad gradient, and v then."""

    def measure(library: Library, variant: dict[str, Any]) -> Value:
        run = library.start(torch.zeros(8), lr=1e-3, alpha=0.9, **variant)
        good = torch.ones(8)
        for _ in range(100):
            run.step(good)
        run.step(torch.full((8,), bad))
        before = run.read()[0]
        for _ in range(1000):
            run.step(good)
        p, v = run.read()
        return [float((before - p)[0]), float(v[0])]

    return measure


def moved_words(value: Value) -> str:
    """Return a move, and the v after the move, in words."""
    move, v = value
    return f"{'parameter NaN' if math.isnan(move) else f'moved {number(move)}'}, v = {number(v)}"


def sparse(library: Library, variant: dict[str, Any]) -> Value:
    """Return the relative distance of 20 steps with sparse from steps with dense gradients, or the error."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(50, (20, 8), generator=generator)
    assert library.optimizer is not None
    ends = []
    for as_sparse in (False, True):
        table = nn.Embedding(50, 4, sparse=as_sparse)
        nn.init.zeros_(table.weight)
        optimizer = library.optimizer(table.parameters(), lr=1e-3, alpha=0.9, **variant)
        try:
            for chosen in rows:
                optimizer.zero_grad()
                (table(chosen) * (1.0 + chosen[:, None])).sum().backward()
                optimizer.step()
        except RuntimeError:
            return "raises RuntimeError"
        ends.append(table.weight.detach().double())
    return float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())


def recompilations(library: Library, variant: dict[str, Any]) -> Value:
    """Return the number of recompilations of a compiled step while its learning rate changes ten times."""
    assert library.optimizer is not None
    graphs = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph

    p = nn.Parameter(torch.ones(8))
    p.grad = torch.ones(8)
    optimizer = library.optimizer([p], lr=1e-2, **variant)
    torch.compiler.reset()
    step: Any = torch.compile(optimizer.step, backend=backend)
    step()
    first = graphs
    for change in range(10):
        optimizer.param_groups[0]["lr"] = 1e-2 / (change + 2)
        step()
    torch.compiler.reset()
    return graphs - first


def loaded(library: Library, variant: dict[str, Any]) -> Value:
    """Return dtype and relative error of v after state of float32 parameters is loaded for bfloat16 ones."""
    assert library.optimizer is not None
    source = TorchRun(library.optimizer, torch.ones(1000), {"lr": 1e-3})
    source.step(torch.linspace(1, 2, 1000))
    p = nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    target = library.optimizer([p], lr=1e-3, **variant)
    target.load_state_dict(source.optimizer.state_dict())
    v, exact = target.state[p]["square_avg"], source.read()[1]
    return [str(v.dtype).removeprefix("torch."), float((v.double() / exact - 1).abs().max())]


def momentum_switched_on(library: Library, variant: dict[str, Any]) -> Value:
    """Return the momentum buffer after a step without and a step with momentum, or the error."""
    assert library.optimizer is not None
    run = TorchRun(library.optimizer, torch.ones(8), {"lr": 1e-3, "alpha": 0.0, "eps": 0.0, **variant})
    run.step(torch.ones(8))
    run.optimizer.param_groups[0]["momentum"] = 0.9
    try:
        run.step(torch.ones(8))
    except KeyError:
        return "raises KeyError"
    return float(run.optimizer.state[run.p]["momentum_buffer"][0])


STATE_DTYPES: dict[str, dict[str, Any]] = {
    "float32 state": {}, "bfloat16": {"state_dtype": "bfloat16"}, "uint8": {"state_dtype": "uint8"}
}  # fmt: skip
ANSWERS = {answer: {"nonfinite": answer} for answer in ("propagate", "skip", "zero")}


def _ones(_: torch.Generator) -> Tensor:
    return torch.ones(4096)


def _normal(generator: torch.Generator) -> Tensor:
    return torch.randn(4096, generator=generator)


def _plainly(value: Value) -> str:
    return value if isinstance(value, str) else number(value)


def _distance(value: Value) -> str:
    return "< 10⁻⁶" if isinstance(value, float) and value < 1e-6 else _plainly(value)


ROWS = (
    Row("float16-zero", "float16, first gradient 0: parameter, 1 before", "1",
        after_one_step(0.0, torch.float16), number, lambda x: x != 1),
    Row("float16-small", "float16, first gradient 0.0001: parameter, 1 before", "0.99 (nearer 1 where v₀ or ε says so)",
        after_one_step(1e-4, torch.float16), number, lambda x: not 0.98 < x <= 1),
    Row("eps-zero", "eps = 0, first gradient 0: parameter, 1 before", "1",
        after_one_step(0.0, torch.float32, eps=0.0), number, lambda x: x != 1),
    Row("centered", "centered, 3000 steps, gradients constant, or with noise of 10⁻⁵, 10⁻⁴, 10⁻³, 10⁻²: elements NaN",
        "0 %", centered, lambda shares: " / ".join(map(share, shares)), any),
    Row("bfloat16-ones", "bfloat16, β = 0.999, 8000 gradients of 1: v", "1",
        bfloat16_average(_ones, 8000), average_words, far_from(1, 0.02), variants=STATE_DTYPES),
    Row("bfloat16-idle", "… then 8000 gradients of 0: v", "0.00034",
        bfloat16_average(_ones, 8000, 8000), average_words, far_from(0.999**8000, 0.1), variants=STATE_DTYPES),
    Row("bfloat16-normal", "bfloat16, β = 0.999, 10,000 normal gradients of variance 1: v, mean ± spread", "1 ± 0.03",
        bfloat16_average(_normal, 10_000), average_words, far_from(1, 0.02), variants=STATE_DTYPES),
    Row("infinite", "one infinite gradient among ones: move in the 1000 steps after it, and v", "1, v = 1",
        after_bad_gradient(math.inf), moved_words, lambda x: not abs(x[0] - 1) < 0.1, variants=ANSWERS),
    Row("huge", "one gradient of 10²⁰, whose square is infinite: the same", "1, v = 1",
        after_bad_gradient(1e20), moved_words, lambda x: not abs(x[0] - 1) < 0.1, variants=ANSWERS),
    Row("sparse", "sparse gradients: distance from dense ones, relative", "0",
        sparse, _distance, lambda x: _distance(x) != "< 10⁻⁶", torch_only=True),
    Row("recompiles", "torch.compile, learning rate changed 10 times: compiled anew", "0",
        recompilations, lambda x: f"{x} ×", lambda x: x > 0, torch_only=True),
    Row("loaded", "float32 state loaded beside bfloat16 parameters: dtype, largest relative error of v", "float32, 0",
        loaded, lambda x: f"{x[0]}, {number(x[1])}", lambda x: x[1] > 0, torch_only=True),
    Row("momentum", "momentum switched on during a run: its buffer after a step of 1", "1",
        momentum_switched_on, _plainly, lambda x: x != 1, torch_only=True),
)  # fmt: skip


def measure(row: Row, library: Library) -> list[dict[str, Any]]:
    """Measure `row` on `library`; return name, value, words and failure for each variant."""
    found = []
    for variant, options in row.variants.items() if library.name == OURS else [("", {})]:
        value = row.measure(library, options)
        found.append({"variant": variant, "value": value, "words": row.words(value), "fails": bool(row.fails(value))})
    return found


def measure_all() -> dict[str, Any]:
    """Measure all rows on all libraries."""
    os.environ["KERAS_BACKEND"] = "jax"
    warnings.simplefilter("ignore")  # the other libraries warn about their own use of torch
    torch.set_num_threads(1)  # the tensors are small
    libraries = [x for x in LIBRARIES.values() if x.name != "timm" or importlib.util.find_spec("timm") is not None]
    rows = {}
    for row in ROWS:
        print(f"{row.title} …", file=sys.stderr)
        cells = {x.name: measure(row, x) for x in libraries if x.optimizer is not None or not row.torch_only}
        rows[row.name] = {"title": row.title, "wanted": row.wanted, "cells": cells}
    versions = {x.name: version(x.package) for x in libraries if x.name != OURS}
    return {"environment": environment(), "versions": versions, "rows": rows}


# -- the page ----------------------------------------------------------------------------------------------------------


def failures_block(found: dict[str, Any]) -> str:
    """Return the table of failures as Markdown; what fails is bold."""

    def cell(row: dict[str, Any], name: str) -> str:
        if name not in found["versions"] and name != OURS:
            return "not installed"
        if name not in row["cells"]:
            return "–"
        parts = []
        for each in row["cells"][name]:
            words = f"**{each['words']}**" if each["fails"] else each["words"]
            parts.append(f"{each['variant']}: {words}" if each["variant"] else words)
        return "<br>".join(parts)

    names = list(LIBRARIES)
    head = [name if name not in found["versions"] else f"{name} {found['versions'][name]}" for name in names]
    lines = [f"| | right | {' | '.join(head)} |", "|---|---|" + "---|" * len(names)]
    for row in found["rows"].values():
        lines.append(f"| {row['title']} | {row['wanted']} | {' | '.join(cell(row, name) for name in names)} |")
    return "\n".join(lines) + "\n\n"


def with_tables(text: str) -> str:
    """Return docs/numerics.md with its tables from the stored results."""
    states = runpy.run_path(str(ROOT / "benchmarks" / "state_dtypes.py"))
    found = json.loads(STATES.read_text(encoding="utf-8"))
    text = with_block(text, "failures", failures_block(json.loads(FOUND.read_text(encoding="utf-8"))))
    text = with_block(text, "states", states["losses_block"](found))
    return with_block(text, "state-steps", states["steps_block"](found))


def main() -> None:
    """Measure, unless --page is given; write the page."""
    if sys.argv[1:] not in ([], ["--page"]):
        raise SystemExit(__doc__)
    if not sys.argv[1:]:
        found = finite(measure_all())  # JSON has no NaN and ∞; the cells have them in words
        write_atomically(FOUND, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
