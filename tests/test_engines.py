"""The protocol between a step and its engines: another engine, fields that an engine lacks, errors in mid-step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cases
import pytest
import torch
from torch import Tensor

from rmsprop import InputError, Rule, native
from rmsprop.hyperparameters import averages
from rmsprop.rule import AVERAGES, State, update
from rmsprop.torch import RMSprop, compiled
from rmsprop.torch import step as stepping
from rmsprop.torch.engines import arithmetic, cpu_kernel
from rmsprop.torch.engines.cpu_kernel import CpuKernel
from rmsprop.torch.engines.engine import Measured, Remaining, StepInputs
from rmsprop.torch.engines.tensor_ops import TensorOps
from rmsprop.torch.groups import RULE_NAMES, rule_of
from rmsprop.torch.nonfinite import any_nonfinite, either
from rmsprop.torch.state import ParamGroup, complete_state

needs_kernel = pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
FIELDS = frozenset(field.name for field in dataclasses.fields(Rule))
UNCACHED: Any = vars(cpu_kernel.kernel_rule_of)["__wrapped__"]


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the engines that these tests name, whatever others there are."""
    monkeypatch.setattr("rmsprop.torch.step.ENGINES", (CpuKernel, TensorOps))


class NumpyVectors:
    """An engine that steps vectors by `rmsprop.rule`, which has every variant."""

    name = "NumPy"
    fields = FIELDS
    skips_on_device = False

    def __init__(self) -> None:
        self._work: list[tuple[ParamGroup, Tensor, dict[str, Tensor]]] = []

    def __len__(self) -> int:
        return len(self._work)

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def group_refusal(cls, group: ParamGroup) -> str | None:
        return None

    @classmethod
    def param_refusal(cls, p: Tensor) -> str | None:
        return None if p.dim() == 1 else "it is no vector"

    def gather(self, inputs: StepInputs, remaining: Sequence[Remaining]) -> list[Remaining]:
        left = []
        for part in remaining:
            group = inputs.groups[part.group_index]
            for i, p in enumerate(group["params"]):
                if p.grad is None or (part.indices is not None and i not in part.indices):
                    continue
                if reason := self.param_refusal(p):
                    left.append(Remaining(part.group_index, [i], reason))
                else:
                    self._work.append((group, p, complete_state(group, i, inputs.states)))
        return left

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        return either(any_nonfinite(p.grad) for _, p, _ in self._work if p.grad is not None)

    def copy_before(self, inputs: StepInputs) -> None:
        raise NotImplementedError

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        for group, p, state in self._work:
            rule = dataclasses.replace(rule_of(group), lr=group["lr"])
            arrays = {name: state[name].numpy() for name in AVERAGES if name in state}
            new, after = update(rule, p.numpy(), p.grad.numpy(), State(int(state["step"]), **arrays))  # type: ignore[union-attr]
            p.copy_(torch.from_numpy(new))
            for name in arrays:
                state[name].copy_(torch.from_numpy(getattr(after, name)))
            state["step"] += 1
        self.clear()
        return None

    def measured(self, inputs: StepInputs) -> list[Measured]:
        return []

    def clear(self) -> None:
        self._work.clear()


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3,), (2, 3), (4,))]


def train(optimizer: RMSprop, params: list[Tensor], steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def without(engine: Any, field: str, patched: pytest.MonkeyPatch) -> None:
    """Remove a field of Rule from an engine."""
    patched.setattr(engine, "fields", FIELDS - {field})
    patched.setattr(cpu_kernel, "kernel_rule_of", lambda group: UNCACHED(*[group[name] for name in RULE_NAMES]))


@needs_kernel
@pytest.mark.parametrize("name", cases.RULES)
def test_an_engine_is_one_class_and_one_entry_and_the_others_step_what_it_leaves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = cases.RULES[name]
    plain, mixed = parameters(), parameters()
    train(RMSprop.from_rule(plain, rule), plain)
    monkeypatch.setattr(stepping, "ENGINES", (NumpyVectors, *stepping.ENGINES))
    optimizer = RMSprop.from_rule(mixed, rule)
    kernel = CpuKernel().name
    words = f"NumPy, but {kernel} for some (parameter 1 of group 0: it is no vector)"
    assert optimizer.implementation == words
    train(optimizer, mixed)
    assert optimizer.implementation == words
    assert all(torch.equal(p, q) for p, q in zip(plain, mixed, strict=True))
    assert [float(optimizer.state[p]["step"]) for p in mixed] == [3, 3, 3]


@needs_kernel
def test_a_reason_for_several_parameters_stands_once_before_and_after_a_step() -> None:
    params = [torch.ones(3), torch.ones(2)]
    optimizer = RMSprop(params, foreach=True)
    assert optimizer.implementation == "tensor operations (foreach=True)"
    train(optimizer, params, 1)
    assert optimizer.implementation == "tensor operations (foreach=True)"


@needs_kernel
def test_the_reasons_of_all_engines_that_refuse_are_given_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "ENGINES", (NumpyVectors, *stepping.ENGINES))
    kernel = CpuKernel().name
    matrix = torch.ones(2, 3)
    optimizer = RMSprop([matrix], foreach=True)
    both = f"tensor operations (not NumPy: it is no vector; not {kernel}: foreach=True)"
    assert optimizer.implementation == both
    train(optimizer, [matrix], 1)
    assert optimizer.implementation == both
    groups: list[dict[str, Any]] = [{"params": [torch.ones(3)]}, {"params": [matrix], "foreach": True}]
    mixed = RMSprop(groups)
    assert mixed.implementation == (
        f"NumPy, but tensor operations for some (not NumPy: parameter 0 of group 1: it is no vector; "
        f"not {kernel}: parameter 0 of group 1: foreach=True)"
    )
    apart: list[dict[str, Any]] = [{"params": [torch.ones(3)], "fused": False}, {"params": [matrix], "foreach": True}]
    optimizer = RMSprop(apart)
    monkeypatch.setattr(NumpyVectors, "group_refusal", classmethod(lambda _, group: CpuKernel.group_refusal(group)))
    alike = "parameter 0 of group 0: fused=False; parameter 0 of group 1: foreach=True"
    assert optimizer.implementation == f"tensor operations ({alike})"
    del apart[1]["foreach"]
    elsewhere = RMSprop(apart)
    monkeypatch.setattr(CpuKernel, "param_refusal", classmethod(lambda _, p: "it is square" if p.dim() == 2 else None))
    assert elsewhere.implementation == (
        f"tensor operations (parameter 0 of group 0: fused=False; not NumPy: parameter 0 of group 1: it is no vector; "
        f"not {kernel}: parameter 0 of group 1: it is square)"
    )


@needs_kernel
def test_the_compiler_traces_tensor_operations_only_where_they_step_all_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vector, matrix = torch.ones(3), torch.ones(2, 3)
    for params, foreach, with_vectors in (([vector], True, False), ([matrix], True, True), ([matrix], None, False)):
        group = RMSprop(params, foreach=foreach).param_groups[0]
        with monkeypatch.context() as patched:
            assert compiled._is_traced(group) == (foreach is not None)
            patched.setattr(stepping, "ENGINES", (NumpyVectors, *stepping.ENGINES))
            assert compiled._is_traced(group) == with_vectors


@needs_kernel
def test_a_gradient_that_is_not_finite_skips_the_step_of_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "ENGINES", (NumpyVectors, *stepping.ENGINES))
    for bad in range(3):
        params = parameters()
        before = [p.clone() for p in params]
        optimizer = RMSprop(params, nonfinite="skip")
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, torch.nan if i == bad else 1.0)
        optimizer.step()
        assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
        assert optimizer.nonfinite_steps == 1


@needs_kernel
def test_a_field_that_the_kernel_lacks_is_stepped_by_tensor_operations_which_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = Rule(lr=0.1, bias_correction=True)
    plain, params, usual = parameters(), parameters(), parameters()
    train(RMSprop.from_rule(plain, rule, foreach=False), plain)
    without(CpuKernel, "bias_correction", monkeypatch)
    optimizer = RMSprop.from_rule(params, rule)
    words = "tensor operations (its rule has bias_correction=True, not implemented by the native kernel)"
    assert optimizer.implementation == words
    train(optimizer, params)
    assert optimizer.implementation == words
    assert all(torch.equal(p, q) for p, q in zip(plain, params, strict=True))
    at_default = RMSprop(usual)
    train(at_default, usual)
    assert at_default.implementation == CpuKernel().name
    with pytest.raises(
        InputError, match=r"^fused must be None or False for group 0, .* not implemented by the native kernel"
    ):
        train(RMSprop.from_rule(params, rule, fused=True), params)


def test_a_field_that_no_engine_knows_is_refused_in_one_line_before_anything_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(CpuKernel, "maximize", monkeypatch)
    without(TensorOps, "maximize", monkeypatch)
    params = parameters()
    before = [p.clone() for p in params]
    groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], "maximize": True}]
    optimizer = RMSprop(groups)
    with pytest.raises(InputError) as caught:
        train(optimizer, params, 1)
    assert str(caught.value) == (
        "the rule must be one that an engine can step for group 1, got its rule has maximize=True, not implemented by "
        "tensor operations; rmsprop.update has every variant"
    )
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    optimizer.param_groups[1]["maximize"] = False
    train(optimizer, params, 1)


def test_engines_declare_fields_of_the_rule_and_tensor_operations_read_what_they_declare() -> None:
    read: set[str] = set()

    class Traced:
        def __init__(self, rule: Rule) -> None:
            self._rule = rule

        def __getattr__(self, name: str) -> Any:
            read.add(name)
            return getattr(self._rule, name)

    assert set(CpuKernel.fields) <= FIELDS
    for rule in cases.having(TensorOps.fields).values():
        averages_ = {name: torch.ones(3) for name in averages(rule)}
        traced: Any = Traced(rule)
        (numbers,) = arithmetic.step_numbers(traced, [torch.ones(1)], capturable=False)
        arithmetic.step(traced, 0.1, torch.ones(3), torch.ones(3), averages_, numbers, 1e-6)
    assert read | {"lr"} == set(TensorOps.fields) <= FIELDS


@needs_kernel
def test_an_error_in_the_second_engine_says_that_the_first_one_has_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    groups: list[dict[str, Any]] = [{"params": params[:2]}, {"params": params[2:], "foreach": True}]
    optimizer = RMSprop(groups)
    train(optimizer, params, 1)

    def broken(*_: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr("rmsprop.torch.engines.tensor_ops.step_params", broken)
    with pytest.raises(MemoryError) as caught:
        train(optimizer, params, 1)
    assert caught.value.__notes__ == [
        f"rmsprop: this step is incomplete: {CpuKernel().name} stepped its parameters before this error"
    ]
    assert [float(optimizer.state[p]["step"]) for p in params] == [2, 2, 1]
