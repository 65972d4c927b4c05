"""The rule of the page in JavaScript: bit for bit that of rule.py, and of the kernel in fewer bits."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import page_checks
import pytest
import torch
from playwright.sync_api import Browser

from rmsprop import Rule, native
from rmsprop.page.bundle import script
from rmsprop.rule import AVERAGES, SQUARES
from rmsprop.torch import RMSprop, low_precision
from rmsprop.torch.state import average

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "conformance"))
vectors, implementations = importlib.import_module("vectors"), importlib.import_module("implementations")

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
    scripts = script("low_precision.js", "rule.js")
    return lambda code, argument: call(f"argument => {{ {scripts}\nreturn ({code})(argument); }}", argument)


@pytest.fixture(scope="module")
def known() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the vectors, and what the rule computes. Vectors of sparse rows need no other rule."""
    found = []
    for vector in vectors.load_all():
        if "rows" not in vector:
            start, gradients = np.array(vector["initial_params"]), [np.array(g) for g in vector["gradients"]]
            rule, rates = vector["hyperparameters"], vector["learning_rates"]
            found.append((vector, implementations.numpy_rule(rule, rates, start, gradients)))
    assert len(found) > 80
    return found


def test_the_rule_has_the_bits_of_the_rule_on_every_vector(
    engine: Engine, known: list[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> None:
    for (vector, expected), steps in zip(known, engine(FOLLOW, [vector for vector, _ in known]), strict=True):
        for record, arrays in zip(expected, steps, strict=True):
            for name, array in zip(("params", *AVERAGES), arrays, strict=True):
                assert name not in record or record[name].tolist() == array, (vector["name"], name)


RULES = [
    Rule(decay=0.9),
    Rule(momentum=0.9, initial_square_avg=1.0, eps=0.1),
    Rule(decay=0.9, centered=True, momentum=0.9, nesterov=True, eps_inside_sqrt=True, eps=1e-3),
    Rule(bias_correction=True, weight_decay=0.1, lr_in_momentum=True, momentum=0.5, initial_square_avg=0.3),
    Rule(decay=0.9, decoupled_weight_decay=True, weight_decay=0.1, centered=True, bias_correction=True, maximize=True),
]


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

    cases: list[dict[str, Any]] = [
        {"rule": rule, "kind": kind, "params": wide(), "gradients": [wide() for _ in range(12)]}
        for rule in RULES
        for kind in ("float32", "bfloat16", "uint8")
    ]
    expected = [_stepped(*case.values()) for case in cases]
    got = engine(STEP, [{**case, "rule": dataclasses.asdict(case["rule"])} for case in cases])
    for case, ours, theirs in zip(cases, expected, got, strict=True):
        for kernel_step, page_step in zip(ours, theirs, strict=True):
            for known, found in zip(kernel_step, page_step, strict=True):
                assert known is None or known == found, case["kind"]
