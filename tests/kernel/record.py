"""Record steps of the rule in NumPy for replay.cpp: python tests/kernel/record.py FILE.

A case is, in this order:

    4 doubles   lr, βᵗ (0 without bias correction), a and c of E7 (1 and 0 without first_moment)
    5 doubles   decay, eps, momentum, weight_decay, initial_square_avg
    9 flags     those of _FLAGS
    2 flags     whether parameters are rounded stochastically; whether gradients are cleaned
    2 types     of p and g; of the averages: float32, float64, bfloat16, float16, uint8 = 0 … 4
    1 byte      how many steps v, m and w lag: they catch up first
    2 bytes     unused
    int64       the size
    6 arrays    p, g, v, m, b and w before the step
    6 arrays    the same after the step
    12 doubles, 128 int64    the sums and the histogram of rmsprop.statistics

Flags and types are bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cases
import rounding

from rmsprop import Rule, State, native, update
from rmsprop.hyperparameters import averages
from rmsprop.monitor import statistics
from rmsprop.rule import AVERAGES, moment_weights

RULES = cases.having(native.FIELDS)
MOST = list(RULES).index("all of it")  # recorded in more sizes, as the first rule is
TYPES = ("float32", "float64", "bfloat16", "float16", "uint8")
NOISE = (3, 5, 7)  # seed, parameter index and step of the noise; the same in replay.cpp
SIZES = (*range(18), 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
_FLAGS = (
    "centered",
    "nesterov",
    "eps_inside_sqrt",
    "lr_in_momentum",
    "bias_correction",
    "decoupled_weight_decay",
    "maximize",
    "first_moment",
    "amsgrad",
)
Arrays = tuple[NDArray[Any], ...]


class Case(NamedTuple):
    """A step of `rule`, with p and g stored as `param`, and the averages stored as `state`."""

    rule: Rule
    step: int
    param: str
    state: str
    before: Arrays
    after: Arrays
    measured: tuple[NDArray[np.float64], NDArray[np.int64]]
    stochastic: bool = False
    cleaned: bool = False
    lag: int = 0


def to_half(x: NDArray[np.float32], name: str) -> NDArray[np.uint16]:
    """Return the bits of `x` rounded to bfloat16 or float16, to nearest, ties to even."""
    if name == "float16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def from_half(bits: NDArray[np.uint16], name: str) -> NDArray[np.float32]:
    """Return the numbers that the bits of bfloat16 or float16 stand for, in float32."""
    if name == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def values(generator: np.random.Generator, size: int, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Return numbers of every kind: usual, huge, tiny, subnormal, ±0, infinite, NaN."""
    x = generator.standard_normal(size) * 10.0 ** generator.uniform(-6, 3, size)
    small, large = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    odd = np.array([0.0, -0.0, small, -small, 3 * small, 1e-30, -1e-30, large, -large, 1e19, 1e-20, np.inf, np.nan, 1])
    where = generator.random(size) < 0.3
    with np.errstate(over="ignore"):
        return np.where(where, generator.choice(odd, size), x).astype(dtype)


Measured = tuple[NDArray[np.float64], NDArray[np.int64]]


def measure(
    rule: Rule, step: int, change: Arrays, v0: NDArray[Any], after: Arrays, g: NDArray[Any], kappa: float | None = None
) -> Measured:
    """Return the statistics of a step: `change` is p before and after it, `v0` v before it, `after` the averages."""
    own = dict(zip(AVERAGES, after, strict=True))
    p0, p1 = change
    return statistics.sums(rule, before=p0, after=p1, gradient=g, square_avg_before=v0, step=step, kappa=kappa, **own)


def caught_up(rule: Rule, lag: int, averages: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return v, m, b and w after `lag` steps without gradient: v and m times βᵏ, and w at least β·v.

    If βᵏ is 0, infinity stays, as if multiplied by β k times.
    """
    v, m, b, w = averages
    weight = v.dtype.type(rule.decay**lag)
    with np.errstate(all="ignore"):
        w = np.maximum(w, v * v.dtype.type(rule.decay)) if lag and rule.amsgrad else w
        v, m = (np.where(np.isinf(x) & (weight == 0) & (rule.decay != 0), x, x * weight) for x in (v, m))
    return [v, m, b, w]


def record(
    rule: Rule, step: int, name: str, size: int, generator: np.random.Generator, lag: int = 0
) -> tuple[Arrays, Arrays, Measured]:
    """Return p, g, v, m, b, w before and after a step of `rule`, as stored, and its statistics."""
    dtype = np.float64 if name == "float64" else np.float32
    half = name in ("bfloat16", "float16")
    p, g, m, b = (values(generator, size, dtype) for _ in range(4))
    v, w = (np.abs(values(generator, size, dtype)) for _ in range(2))
    stored = (to_half(p, name), to_half(g, name)) if half else (p, g)
    if half:
        p, g = (from_half(x, name) for x in stored)
    now = caught_up(rule, lag, (v, m, b, w))
    used = averages(rule)
    state = State(step - 1, *(x if name in used else None for name, x in zip(AVERAGES, now, strict=True)))  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        new, state = update(rule, p, g, state)
    after = tuple(getattr(state, name) if name in used else x for name, x in zip(AVERAGES, (v, m, b, w), strict=True))
    result = to_half(new, name) if half else new
    end = from_half(result, name) if half else new
    measured = measure(rule, step, (p, end), now[0], after, g)
    return (*stored, v, m, b, w), (result, stored[1], *after), measured


def record_reduced(
    rule: Rule,
    step: int,
    param: str,
    state: str | None,
    flags: tuple[bool, bool],
    numbers: list[NDArray[np.float32]],
    lag: int = 0,
) -> Case:
    """Return a step with averages in bfloat16 or 8 bits, parameters rounded stochastically, or gradients cleaned."""
    stochastic, cleaned = flags
    p, g, v, m, b, w = numbers
    size = p.size
    if param != "float32":
        p, g = (from_half(to_half(x, param), param) for x in (p, g))
    start = [rounding.stored(x, i, state, *NOISE) for i, x in enumerate((np.abs(v), m, b, np.abs(w)), start=1)]
    read = [rounding.read(x, i, state, size) for i, x in enumerate(start, start=1)]
    given = np.where(np.abs(g) < 2.0**64, g, np.float32(0)) if cleaned else g
    now = caught_up(rule, lag, read)
    new, results = rounding.step(rule, step, p, given, now, rounding.KAPPA[state])
    used = [name in averages(rule) for name in AVERAGES]
    end = [
        rounding.stored(x, i, state, *NOISE) if use else old
        for i, (x, old, use) in enumerate(zip(results, start, used, strict=True), start=1)
    ]
    if stochastic:
        new = rounding.bfloat16(new, rounding.key(*NOISE, 0))
    p1 = new if param == "float32" else from_half(to_half(new, param), param)
    measured = measure(rule, step, (p, p1), now[0], tuple(results), g, rounding.KAPPA[state])
    stored: Arrays = p, g, new
    if param != "float32":
        stored = tuple(to_half(x, param) for x in (p, g, new))
    if state == "bfloat16":  # exact: the numbers are rounded already
        start, end = ([to_half(x, "bfloat16") for x in xs] for xs in (start, end))
    before, after = (stored[0], stored[1], *start), (stored[2], stored[1], *end)
    return Case(rule, step, param, state or "float32", before, after, measured, stochastic, cleaned, lag)


def recordings() -> Iterator[Case]:
    """Yield every rule of RULES with every kind of storage; two of the rules in more sizes."""
    generator = np.random.default_rng(0)
    yield from map(ties, ("bfloat16", "float16"))
    for number, rule in enumerate(RULES.values()):
        for kind, name in enumerate(TYPES[:4]):
            sizes = SIZES if number in (0, MOST) else SIZES[(number + kind) % 3 :: 3]
            for size in sizes:
                step = int(generator.integers(1, 20))
                own = "float64" if name == "float64" else "float32"
                yield Case(rule, step, name, own, *record(rule, step, name, size, generator))
        for kind, (param, state, stochastic, cleaned) in enumerate(REDUCED):
            for size in SIZES[(number + kind) % 5 :: 5] if size_matters(number) else (65,):
                step = int(generator.integers(1, 20))
                numbers = [values(generator, size, np.float32) for _ in range(6)]
                yield record_reduced(rule, step, param, state, (stochastic, cleaned), numbers)
    # More than two chunks, and enough for eight threads.
    for param, state, stochastic, cleaned in REDUCED:
        numbers = [values(generator, 1300, np.float32) for _ in range(6)]
        yield record_reduced(rule, 9, param, state, (stochastic, cleaned), numbers)
    # Rows that lag by a few steps, or by so many that βᵏ is 0. 1300 numbers give rows of more than one chunk.
    rules = [rule for rule in RULES.values() if not rule.momentum and not rule.weight_decay]
    for number, lagging in enumerate([*rules, Rule(decay=0.5, centered=True), Rule(decay=0.0)]):
        for lag, size in ((1, 60), (7, 45), (255, 1300)):
            for name in TYPES[:4]:
                own, step = "float64" if name == "float64" else "float32", number + 1
                yield Case(lagging, step, name, own, *record(lagging, step, name, size, generator, lag), lag=lag)
            for param, _, stochastic, cleaned in (case for case in REDUCED if case[1] is None):
                numbers = [values(generator, size, np.float32) for _ in range(6)]
                yield record_reduced(lagging, number + 1, param, None, (stochastic, cleaned), numbers, lag)
    # Every 8-bit code, with a large one in each block; then numbers that may round above the largest bfloat16.
    codes = np.concatenate([np.arange(256).reshape(32, 8).T.reshape(-1), np.full(8, 127)]).astype(np.uint8)
    every = [rounding.unpack(codes, 256, signed) for signed in (False, True)]
    zero, large = np.zeros(256, np.float32), np.full(256, -3.398e38, np.float32)
    yield record_reduced(
        rule, 9, "float32", "uint8", (False, False), [zero, zero + 1, every[0], every[1], every[1], every[0]]
    )
    heavy = Rule(lr=1.0, eps=0.0, momentum=0.999)
    yield record_reduced(heavy, 1, "bfloat16", None, (True, False), [zero, zero, zero, zero, large, zero])


# dtype of p and g; dtype of v, m and b; whether p is rounded stochastically; whether gradients are cleaned.
REDUCED: tuple[tuple[str, str | None, bool, bool], ...] = (
    *((param, state, False, False) for param in ("float32", "bfloat16", "float16") for state in ("bfloat16", "uint8")),
    *(("bfloat16", state, True, False) for state in (None, "bfloat16", "uint8")),
    *((param, None, False, True) for param in ("float32", "bfloat16", "float16")),
    ("bfloat16", "uint8", True, True),
)


def size_matters(number: int) -> bool:
    """Return whether the rule at index `number` of RULES is recorded in many sizes."""
    return number in (0, MOST)


def ties(name: str) -> Case:
    """Return a step that results in ties, halfway between two numbers of the half dtype, and in numbers beside them."""
    bits = np.arange(0, 0x7F00 if name == "bfloat16" else 0x7C00, 37, dtype=np.uint16)
    exact = from_half(bits, name)
    halfway = (exact + from_half(bits + np.uint16(1), name)) / 2
    wanted = np.concatenate([halfway, np.nextafter(halfway, np.float32(np.inf)), np.nextafter(halfway, np.float32(0))])
    rule, zero = Rule(lr=1.0, eps=0.0, momentum=0.5), np.zeros_like(wanted)
    half = to_half(zero, name)
    before = (half, half, zero, zero, -2 * wanted, zero)
    stored = to_half(wanted, name)
    measured = measure(rule, 1, (zero, from_half(stored, name)), zero, (zero, zero, -wanted, zero), zero)
    return Case(rule, 1, name, "float32", before, (stored, half, zero, zero, -wanted, zero), measured)


def header(case: Case) -> bytes:
    rule, step = case.rule, case.step
    power = rule.decay**step if rule.bias_correction else 0.0
    weights = moment_weights(rule, step) if rule.first_moment else (1.0, 0.0)
    numbers = rule.lr, power, *weights, rule.decay, rule.eps, rule.momentum, rule.weight_decay, rule.initial_square_avg
    flags = (getattr(rule, flag) for flag in _FLAGS)
    types = TYPES.index(case.param), TYPES.index(case.state)
    rest = case.stochastic, case.cleaned, *types, case.lag, case.before[0].size
    return struct.pack("<9d14B2xq", *numbers, *flags, *rest)


def main(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for case in recordings():
            file.write(header(case))
            file.writelines(array.tobytes() for array in (*case.before, *case.after, *case.measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
