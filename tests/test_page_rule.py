"""The rule of the page in JavaScript: bit for bit that of rule.py, and of the kernel in fewer bits."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cases
import numpy as np
import page_checks
import pytest
import torch
from playwright.sync_api import Browser

from rmsprop import Rule, init, native, update
from rmsprop.page.bundle import script
from rmsprop.rule import AVERAGES, SQUARES
from rmsprop.torch import RMSprop, low_precision
from rmsprop.torch.state import average

Engine = Callable[[str, Any], Any]

FOLLOW = """vectors => vectors.map(vector => {
  const { Rule, init, update } = $rule, names = ["square_avg", "grad_avg", "momentum_buffer", "max_square_avg"];
  const first = Rule(vector.hyperparameters);
  let params = vector.initial_params, states = params.map(() => init(first));
  return vector.gradients.map((gradient, t) => {
    const rule = { ...first, lr: vector.learning_rates[t] };
    const done = gradient.map((g, i) => update(rule, params[i], g, states[i]));
    params = done.map(x => x.p);
    states = done.map(x => x.state);
    return [params, ...names.map(name => states.map(state => state[name]))];
  });
})"""
STEP = """cases => cases.map(({ rule, kind, params, gradients }) => {
  const { initial, stepStored } = $low_precision;
  let averages = initial(rule, kind, params.length);
  return gradients.map((gradient, t) => {
    ({ params, averages } = stepStored(rule, t + 1, params, gradient, averages, kind));
    return [params, averages.square_avg, averages.grad_avg, averages.momentum_buffer];
  });
})"""


@pytest.fixture(scope="module", params=["Node", pytest.param("Chromium", marks=pytest.mark.browser)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Return a function that calls a function of JavaScript, which may use $rule and $low_precision."""
    if request.param == "Node":
        call: Engine = partial(page_checks.in_node, tmp_path_factory.mktemp("node"))
    else:
        browser: Browser = request.getfixturevalue("browser")
        call = partial(page_checks.in_browser, browser.new_page())
    scripts = script("low_precision.js", "rule.js", "exact.js")
    return lambda code, argument: call(f"argument => {{ {scripts}\nreturn ({code})(argument); }}", argument)


def followed(vector: dict[str, Any]) -> list[dict[str, Any]]:
    """Return parameters and averages after each step of the rule."""
    first, param = Rule(**vector["hyperparameters"]), np.array(vector["initial_params"])
    state, found = init(first, param), []
    for lr, gradient in zip(vector["learning_rates"], vector["gradients"], strict=True):
        param, state = update(dataclasses.replace(first, lr=lr), param, np.array(gradient), state)
        found.append({"params": param, **{name: getattr(state, name) for name in AVERAGES}})
    return found


def compare(expected: list[dict[str, Any]], steps: list[list[Any]]) -> None:
    for record, arrays in zip(expected, steps, strict=True):
        for name, array in zip(("params", *AVERAGES), arrays, strict=True):
            assert record[name] is None or record[name].tolist() == array, name


@pytest.fixture(scope="module")
def known() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the vectors, and what the rule computes. Vectors of sparse rows need no other rule."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "conformance")
    vectors = importlib.import_module("vectors")
    found = [(vector, followed(vector)) for vector in vectors.load_all() if "rows" not in vector]
    monkeypatch.undo()
    assert len(found) > 80
    return found


def test_the_rule_has_the_bits_of_the_rule_on_every_vector(
    engine: Engine, known: list[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> None:
    for (_, expected), steps in zip(known, engine(FOLLOW, [vector for vector, _ in known]), strict=True):
        compare(expected, steps)


def test_every_variant_has_the_bits_of_the_rule(engine: Engine) -> None:
    start, gradients = cases.problem(np.float64, size=12)
    made = {
        "learning_rates": [cases.lr_at(step) for step in range(1, cases.STEPS + 1)],
        "initial_params": start.tolist(),
        "gradients": [gradient.tolist() for gradient in gradients[: cases.STEPS]],
    }
    problems = [{"hyperparameters": dataclasses.asdict(rule), **made} for rule in cases.ALL_RULES.values()]
    # v is its start but for noise: the floor of E5 bounds the step.
    still = [[0.0] * 12] * 8 + [[1e-12] * 12] * (cases.STEPS - 8)
    started = Rule(decay=0.8, eps=0.0, initial_square_avg=0.7, bias_correction=True)
    problems.append({"hyperparameters": dataclasses.asdict(started), **made, "gradients": still})
    for problem, steps in zip(problems, engine(FOLLOW, problems), strict=True):
        compare(followed(problem), steps)


def test_powers_and_logarithms_are_rounded_to_the_nearest_double(engine: Engine) -> None:
    generator = np.random.default_rng(0)
    bases, exponents = generator.random(300).tolist(), generator.integers(1, 200, 300).tolist()
    numbers = np.exp(generator.uniform(-8, 8, 300)).tolist()
    code = "({ bases, exponents, numbers }) => ({ powers: bases.map((base, i) => $exact.power(base, exponents[i])), "
    code += "logs: numbers.map($exact.log), exps: bases.map(x => $exact.exp(-20 * x)) })"
    got = engine(code, {"bases": bases, "exponents": exponents, "numbers": numbers})
    powers = [float(Fraction(base) ** exponent) for base, exponent in zip(bases, exponents, strict=True)]
    assert [x for x, exact in zip(got["powers"], powers, strict=True) if x != exact and exact > 1e-280] == []
    with localcontext(prec=60):
        assert got["logs"] == [float(Decimal(x).ln()) for x in numbers]
        assert got["exps"] == [float(Decimal(-20 * x).exp()) for x in bases]


RULES = [rule for rule in cases.RULES.values() if not (rule.first_moment or rule.amsgrad)]


def _stepped(rule: Rule, kind: str, start: list[float], gradients: list[list[float]]) -> list[list[Any]]:
    """Return parameters and averages after each step of the library's kernel."""
    p = torch.tensor(start, requires_grad=True)
    optimizer = RMSprop.from_rule([p], rule, state_dtype=None if kind == "float32" else kind)
    steps = []
    for gradient in gradients:
        p.grad = torch.tensor(gradient)
        optimizer.step()
        state = optimizer.state[p]
        found: list[Any] = [p.tolist()]
        for name in AVERAGES[:3]:
            if name not in state:
                found.append(None)
            elif kind == "uint8":
                found.append(low_precision.unpack(state[name], p.detach(), signed=name not in SQUARES).tolist())
            else:
                found.append(average(state, name, p).float().tolist())
        steps.append(found)
    return steps


@pytest.mark.skipif(native.kernel is None, reason="no kernel")
def test_fewer_bits_are_those_of_the_kernel(engine: Engine) -> None:
    generator = torch.Generator().manual_seed(0)

    def wide() -> Any:
        return (torch.randn(40, generator=generator) * 10 ** torch.randn(40, generator=generator)).tolist()

    problems: list[dict[str, Any]] = [
        {"rule": rule, "kind": kind, "params": wide(), "gradients": [wide() for _ in range(12)]}
        for rule in RULES
        for kind in ("float32", "bfloat16", "uint8")
    ]
    expected = [_stepped(*case.values()) for case in problems]
    got = engine(STEP, [{**case, "rule": dataclasses.asdict(case["rule"])} for case in problems])
    for case, ours, theirs in zip(problems, expected, got, strict=True):
        for kernel_step, page_step in zip(ours, theirs, strict=True):
            for known, found in zip(kernel_step, page_step, strict=True):
                assert known is None or known == found, case["kind"]


RATES = """() => {
  const { SURFACES } = $surfaces, { OTHERS } = $optimizers, { Rule } = $rule, { race } = $descent;
  const grid = [-4, -3, -2, -1, 0, 1].flatMap(e => [1, 2, 5].map(digit => Number(`${digit}e${e}`)));
  const none = Object.keys(OTHERS), found = {};
  for (const [name, surface] of Object.entries(SURFACES)) {
    const prepared = surface.prepare(0), options = { start: surface.start, steps: 300 };
    const runs = grid.map(lr => race(Rule({ lr, decay: 0.9 }), surface, prepared, options,
      Object.fromEntries(none.map(other => [other, lr]))));
    const score = run => run.losses.length === 301 && run.losses.every(Number.isFinite)
      ? run.losses.reduce((sum, loss) => sum + Math.log(1 + loss), 0) : Infinity;
    const best = id => grid[runs.map(all => score(all[id])).reduce((at, x, i, all) => x < all[at] ? i : at, 0)];
    found[name] = Object.fromEntries(["rmsprop", ...none].map(id => [id, [best(id), surface.rates[id]]]));
  }
  return found;
}"""


def test_each_optimizer_starts_with_the_best_rate_of_the_grid(tmp_path: Path) -> None:
    code = f"() => {{ {script('surfaces.js', 'optimizers.js', 'rule.js', 'descent.js')} return ({RATES})(); }}"
    found = page_checks.in_node(tmp_path, code, None)
    rates = [(name, optimizer, *both) for name, of in found.items() for optimizer, both in of.items()]
    assert [each for each in rates if each[2] != each[3]] == []
