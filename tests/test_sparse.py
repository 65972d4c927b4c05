"""Sparse gradients: "exact" equals the dense rule, "lazy" equals the rule on the touched rows alone."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import sparse_picture
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rmsprop import InputError, Rule, State, init, native, update
from rmsprop.monitor import Monitor
from rmsprop.rule import AVERAGES
from rmsprop.torch import RMSprop
from rmsprop.torch.engines import cpu_kernel, sparse_rows
from rmsprop.torch.engines.engine import Remaining, StepInputs

ROOT = Path(__file__).resolve().parent.parent
EXACT = {name: rule for name, rule in cases.RULES.items() if not rule.momentum and not rule.weight_decay}
LAZY = {name: rule for name, rule in cases.RULES.items() if not rule.bias_correction}
EXECUTIONS: dict[str, dict[str, Any]] = {
    "native kernel": {},
    "one by one": {"fused": False},
    "foreach": {"foreach": True},
}
ROWS, WIDTH = 12, 5
Array = NDArray[Any]


def coo(shape: Iterable[int], index: Array, values: Array | Tensor) -> Tensor:
    """Return a sparse gradient; `index` has a row for each sparse dimension and a column for each entry."""
    size, values = tuple(shape), torch.as_tensor(values)
    return torch.sparse_coo_tensor(torch.from_numpy(index), values, size, check_invariants=True)


def entries(gradient: Array, touched: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Return rows and values in random order that add up to `gradient` at `touched`; some rows have two entries."""
    split = generator.random((len(touched), 1)) * (generator.random((len(touched), 1)) < 0.5)
    rows = np.concatenate([touched, touched])
    values = np.concatenate([gradient[touched] * split, gradient[touched] * (1 - split)])
    order = generator.permutation(len(rows))
    return rows[order][None], values[order]


def problem(seed: int = 0) -> tuple[Array, list[Array], list[Array]]:
    """Return a table, dense gradients, and the rows that each touches: row 0 once, the last row in each step."""
    generator = np.random.default_rng(seed)
    start, gradients = cases.problem(np.float64, ROWS * WIDTH)
    often = np.linspace(0.0, 1.0, ROWS)
    touched = [np.flatnonzero(generator.random(ROWS) < often) for _ in gradients]
    touched[0], touched[-1] = np.arange(ROWS), np.arange(1, ROWS)  # row 0 lags at the end
    shuffle = generator.permutation(ROWS * WIDTH)  # each row has gradients of all sizes
    return start.reshape(ROWS, WIDTH), [g[shuffle].reshape(ROWS, WIDTH) for g in gradients], touched


def only(gradient: Array, touched: Array) -> Array:
    """Return the gradient with zeros in all rows but `touched`."""
    result = np.zeros_like(gradient)
    result[touched] = gradient[touched]
    return result


def assert_state(mine: dict[str, Any], state: State, rows: Any = slice(None), rtol: float = 1e-12) -> None:
    for name in AVERAGES:
        value = getattr(state, name)
        if value is not None:
            np.testing.assert_allclose(mine[name].numpy()[rows], value[rows], rtol=rtol, atol=1e-14)
    assert mine["step"].item() == state.step


def lag_of(optimizer: RMSprop, p: Tensor) -> sparse_rows.Lag:
    return optimizer.step_state.lags[id(optimizer.state[p])]


# -- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("rule", EXACT.values(), ids=EXACT)
def test_exact_equals_the_rule_with_dense_gradients(rule: Rule, execution: dict[str, Any]) -> None:
    """Compare parameter and touched rows after every step, and all state after state_dict()."""
    start, gradients, touched = problem()
    p, value, state = torch.from_numpy(start.copy()), start, init(rule, start)
    optimizer, generator = RMSprop.from_rule([p], rule, **execution), np.random.default_rng(1)
    for t, (gradient, rows) in enumerate(zip(gradients, touched, strict=True), start=1):
        optimizer.param_groups[0]["lr"] = cases.lr_at(t)
        p.grad = coo(p.shape, *entries(gradient, rows, generator))
        optimizer.step()
        value, state = update(dataclasses.replace(rule, lr=cases.lr_at(t)), value, only(gradient, rows), state)
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-11, atol=1e-13)
        assert_state(optimizer.state[p], state, rows)
        assert (lag_of(optimizer, p).row_step.numpy()[rows] == t).all()
    assert not np.allclose(optimizer.state[p]["square_avg"], state.square_avg)  # row 0 lags
    optimizer.state_dict()
    assert_state(optimizer.state[p], state)


@st.composite
def runs(draw: st.DrawFn) -> list[tuple[list[int] | str, float, bool]]:
    """Draw steps: a list of rows, a dense gradient, or a call of state_dict(); alpha and centered change."""
    rows = st.lists(st.integers(0, 3), max_size=4)
    one = st.tuples(
        rows | st.sampled_from(["dense", "state", "nothing"]), st.sampled_from([0.0, 0.8, 0.95]), st.booleans()
    )
    steps = draw(st.lists(one, min_size=1, max_size=12))
    return [(what, alpha, centered) for what, alpha, centered in steps for _ in range(draw(st.integers(1, 3)))]


@given(runs(), st.sampled_from(list(EXACT)))
def test_any_pattern_of_touches_is_the_dense_run(run: list[tuple[list[int] | str, float, bool]], name: str) -> None:
    """alpha and centered change while rows lag, and dense gradients come in between."""
    generator = np.random.default_rng(len(run))
    value = generator.standard_normal((4, 2))
    p, state = torch.from_numpy(value.copy()), init(dataclasses.replace(EXACT[name], centered=False), value)
    optimizer = RMSprop.from_rule([p], EXACT[name])
    for what, alpha, centered in run:
        optimizer.param_groups[0].update(alpha=alpha, centered=centered)
        rule = dataclasses.replace(EXACT[name], decay=alpha, centered=centered)
        dense = np.zeros_like(value)
        p.grad = None
        if what == "state":
            optimizer.state_dict()
        elif what == "dense":
            dense = generator.standard_normal(value.shape)
            p.grad = torch.from_numpy(dense.copy())
        elif what != "nothing":
            index = np.array(what, dtype=np.int64)
            values = generator.standard_normal((len(index), 2))
            np.add.at(dense, index, values)
            p.grad = coo(p.shape, index[None], values)
        optimizer.step()
        if p.grad is not None:
            value, state = update(rule, value, dense, state)
        # Bias correction and a small variance lose digits by subtraction, in both runs the same ones.
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-9, atol=1e-9)
    if state.step:
        optimizer.state_dict()
        assert_state(optimizer.state[p], state, rtol=1e-11)


def test_float32_equals_the_dense_run_to_one_millionth_over_200_random_steps() -> None:
    torch.manual_seed(0)
    start = torch.randn(500, 16)
    for arguments in (
        {},
        {"centered": True},
        {"bias_correction": True},
        {"initial_square_avg": 1.0, "eps_inside_sqrt": True},
    ):
        sparse, dense = start.clone(), start.clone()
        a, b = RMSprop([sparse], lr=1e-3, **arguments), RMSprop([dense], lr=1e-3, **arguments)
        for _ in range(200):
            rows = torch.randint(500, (20,))
            sparse.grad = coo((500, 16), rows[None].numpy(), torch.randn(20, 16))
            dense.grad = sparse.grad.to_dense()
            a.step()
            b.step()
        assert (sparse - dense).abs().max() < 1e-6
        assert (sparse - start).abs().max() > 1e-3
        a.state_dict()
        torch.testing.assert_close(a.state[sparse]["square_avg"], b.state[dense]["square_avg"], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_entries_of_one_row_are_added_before_they_are_squared(mode: str) -> None:
    p = torch.zeros(3, 1, dtype=torch.float64)
    optimizer = RMSprop([p], alpha=0.75, sparse=mode)
    p.grad = coo((3, 1), np.array([[1, 2, 1]]), np.array([[1.0], [5.0], [3.0]]))
    optimizer.step()
    assert optimizer.state[p]["square_avg"].flatten().tolist() == [0, 4, 6.25]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-8, 8)), max_size=12),
    st.randoms(),
    st.sampled_from(["exact", "lazy"]),
)
def test_order_and_splitting_of_the_entries_change_no_bit(
    entries: list[tuple[int, int]], random: Any, mode: str
) -> None:
    results = []
    halves = [(row, value / 2) for row, value in entries for _ in range(2)]
    random.shuffle(halves)
    for split in (entries, halves):
        p = torch.ones(6, 4)
        optimizer = RMSprop([p], sparse=mode)
        index = np.array([[row for row, _ in split]], dtype=np.int64).reshape(1, -1)
        for coalesced in (False, True):
            p.grad = coo((6, 4), index, torch.tensor([[float(x)] * 4 for _, x in split]).reshape(-1, 4))
            p.grad = p.grad.coalesce() if coalesced else p.grad
            optimizer.step()
        results.append((p, optimizer.state[p]["square_avg"]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_gradient_without_entries_counts_as_a_step() -> None:
    for p in (torch.ones(4, 3), torch.ones(0, 3)):
        optimizer = RMSprop([p], alpha=0.5, initial_square_avg=1.0)
        for _ in range(3):
            p.grad = coo(p.shape, np.zeros((1, 0), dtype=np.int64), torch.zeros(0, 3))
            optimizer.step()
        assert optimizer.state_dict()["state"][0]["step"] == 3
        assert torch.equal(optimizer.state[p]["square_avg"], torch.full_like(p, 0.125))
        assert torch.equal(p, torch.ones_like(p))


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "with gaps", "at an odd address"])
@pytest.mark.parametrize("sparse_dim", [0, 1, 2, 3])
def test_any_number_of_sparse_dimensions_and_any_layout(
    sparse_dim: int, layout: str, execution: dict[str, Any]
) -> None:
    generator, shape = np.random.default_rng(0), (3, 2, 4)
    value = generator.standard_normal(shape)
    p = {
        "contiguous": lambda: torch.empty(shape, dtype=torch.float64),
        "transposed": lambda: torch.empty(shape[::-1], dtype=torch.float64).permute(2, 1, 0),
        "with gaps": lambda: torch.empty(3, 4, 8, dtype=torch.float64)[:, ::2, ::2],
        "at an odd address": lambda: torch.empty(25, dtype=torch.float64)[1:].view(shape),
    }[layout]()
    p.copy_(torch.from_numpy(value))
    for rule in (EXACT["centered"], dataclasses.replace(EXACT["plain"], momentum=0.5)):
        optimizer = RMSprop.from_rule([p], rule, sparse="lazy" if rule.momentum else "exact", **execution)
        value, state = p.numpy().copy(), init(rule, value)
        for entry_count in (4, 0, 3, 5):
            index = np.array([generator.integers(0, n, entry_count) for n in shape[:sparse_dim]], dtype=np.int64)
            index = index.reshape(sparse_dim, entry_count)
            values = generator.standard_normal((entry_count, *shape[sparse_dim:]))
            dense, touched = np.zeros(shape), np.zeros(shape, dtype=bool)
            np.add.at(dense, tuple(index) or np.zeros(0, dtype=int), values) if sparse_dim else dense.__iadd__(
                values.sum(0)
            )
            if entry_count:
                touched[tuple(index)] = True
            p.grad = coo(shape, index, values)
            optimizer.step()
            new, after = update(rule, value, dense, state)
            if rule.momentum:  # lazy keeps the other rows' momentum
                kept = [
                    np.where(touched, getattr(after, k), getattr(state, k)) for k in ("square_avg", "momentum_buffer")
                ]
                new, after = np.where(touched, new, value), State(after.step, kept[0], None, kept[1])
            value, state = new, after
            np.testing.assert_allclose(p.numpy(), value, rtol=1e-12, atol=1e-14)
        optimizer.state_dict()
        assert_state(optimizer.state[p], state)


@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_complex_parameters_are_two_reals(mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 3, dtype=torch.complex128, generator=generator)
    pairs = torch.view_as_real(start).clone()
    for arguments in EXECUTIONS.values():
        a, b = start.clone(), pairs.clone()
        pair = (
            RMSprop([a], sparse=mode, centered=True, **arguments),
            RMSprop([b], sparse=mode, centered=True, **arguments),
        )
        for _ in range(5):
            rows = torch.randint(6, (1, 3), generator=generator)
            a.grad = coo(a.shape, rows.numpy(), torch.randn(3, 3, dtype=torch.complex128, generator=generator))
            b.grad = coo(b.shape, rows.numpy(), torch.view_as_real(a.grad._values()).contiguous())
            for optimizer in pair:
                optimizer.step()
        for optimizer in pair:
            optimizer.state_dict()
        torch.testing.assert_close(torch.view_as_real(a), b, rtol=1e-13, atol=0)
        for name in ("square_avg", "grad_avg"):
            found = torch.view_as_real(pair[0].state[a][name])
            torch.testing.assert_close(found, pair[1].state[b][name], rtol=1e-13, atol=0)


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_float32_rule_rounded_once(dtype: torch.dtype, execution: dict[str, Any]) -> None:
    """Entries of one row are also added in float32: in either half type, 1 + 2⁻¹² would be 1."""
    rule = dataclasses.replace(EXACT["centered"], lr=0.5)
    p = torch.linspace(-1, 1, 32).view(8, 4).to(dtype)
    optimizer, state = RMSprop.from_rule([p], rule, **execution), init(rule, p.float().numpy())
    for rows in ([0, 0, 3], [1, 0, 0], [7, 3, 2]):
        values = torch.tensor([1.0, 2.0**-12, -3.0]).to(dtype)[:, None].expand(3, 4)
        p.grad = coo(p.shape, np.array([rows]), values)
        dense = np.zeros((8, 4), dtype=np.float32)
        np.add.at(dense, np.array(rows), values.float().numpy())
        value, state = update(rule, p.float().numpy(), dense, state)
        optimizer.step()
        torch.testing.assert_close(p, torch.from_numpy(value).to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    optimizer.state_dict()
    assert_state(optimizer.state[p], state, rtol=1e-6)
    assert optimizer.state[p]["square_avg"].dtype == torch.float32


LAYOUTS = {
    "row-major": lambda: torch.empty(6, 5, 2, dtype=torch.bfloat16),
    "transposed": lambda: torch.empty(2, 5, 6, dtype=torch.bfloat16).permute(2, 1, 0),
    "channels last": lambda: torch.empty(6, 2, 5, dtype=torch.bfloat16).permute(0, 2, 1),
    "with gaps": lambda: torch.empty(6, 5, 4, dtype=torch.bfloat16)[:, :, ::2],
}


@pytest.mark.parametrize("sparse_dim", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_stochastic_rounding_takes_the_noise_of_a_dense_step(
    execution: dict[str, Any], layout: str, sparse_dim: int
) -> None:
    """Rows that lag by at most one step have the same averages to the bit, and so the same parameters."""
    start = torch.linspace(-1, 1, 60).view(6, 5, 2).bfloat16()
    sparse, dense, other = (LAYOUTS[layout]().copy_(start) for _ in range(3))
    optimizers = [
        RMSprop([{"params": [torch.zeros(1).bfloat16(), p]}], lr=1e-3, stochastic_rounding=seed, **execution)
        for p, seed in ((sparse, 7), (dense, 7), (other, 8))
    ]
    for t in range(8):
        values = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(t)).bfloat16()
        dense.grad = torch.zeros_like(dense)
        dense.grad[t % 2 :: 2] = values
        sparse.grad = other.grad = dense.grad.to_sparse(sparse_dim)
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(sparse, dense)
    assert not torch.equal(sparse, start)
    assert not torch.equal(sparse, other)


def test_infinite_averages_stay_infinite_however_long_a_row_lags() -> None:
    p = torch.ones(2, 1)
    optimizer = RMSprop([p], alpha=0.5)
    for rows, value in [([0], torch.inf), *[([1], 1.0)] * 200, ([0], 1.0)]:
        p.grad = coo((2, 1), np.array([rows]), torch.tensor([[value]]))
        optimizer.step()
    assert optimizer.state[p]["square_avg"][0] == torch.inf


@pytest.mark.parametrize("alpha", [0.5, 0.0])
@pytest.mark.parametrize("sparse_dim", [1, 2])
def test_powers_that_are_0_need_no_mask_of_the_whole_table(
    alpha: float, sparse_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_rows, "_CHUNK", 8)

    class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.dtype == torch.bool:
                self.largest = max(self.largest, result.numel())
            return result

    p = torch.ones(9, 3, 4)
    optimizer = RMSprop([p], alpha=alpha, centered=True)
    for rows, value in [([0] * 4, torch.inf), ([1] * 4, torch.nan), *[([2] * 4, 1.0)] * 200]:
        index = np.array([rows, range(4)][:sparse_dim]) % 3 if sparse_dim == 2 else np.array([rows])
        p.grad = coo(p.shape, index, torch.full((4, *p.shape[sparse_dim:]), value))
        optimizer.step()
    with Seen() as seen:  # type: ignore[no-untyped-call]
        optimizer.state_dict()
    assert 0 < seen.largest <= 27 or not alpha
    for name in ("square_avg", "grad_avg"):
        average = optimizer.state[p][name]
        assert torch.isnan(average[1]).all()
        assert (torch.isinf if alpha else torch.isnan)(average[0]).all()
        assert not average[3:].any()


@pytest.mark.parametrize("mode", ["exact", "lazy"])
@pytest.mark.parametrize("sparse_dim", [1, 2])
def test_a_default_device_changes_nothing(sparse_dim: int, mode: str) -> None:
    """A model may be built on another device while this one trains on the CPU."""
    results = []
    for device in ("cpu", "meta"):
        p = torch.ones(4, 3, 2, dtype=torch.bfloat16)
        optimizer = RMSprop([p], sparse=mode, stochastic_rounding=3)
        for _ in range(3):
            index = np.array([[1, 2, 1], [0, 1, 0]])[:sparse_dim]
            p.grad = coo(p.shape, index, torch.ones(3, *p.shape[sparse_dim:]).bfloat16())
            with torch.device(device):
                optimizer.step()
                state = optimizer.state_dict()["state"][0]
        results.append((p, state["square_avg"], optimizer.effective_lr(p)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_more_rows_than_numbers_can_be_packed_with_are_summed() -> None:
    index = torch.tensor([[2**40 - 1, 5, 2**40 - 1], [1, 2, 1]])
    grad = torch.sparse_coo_tensor(index, torch.tensor([1.0, 2.0, 3.0]), (2**40, 2**22), check_invariants=True)
    with torch.device("meta"):
        rows, total = sparse_rows.summed(grad, torch.float64)
    assert [x.tolist() for x in rows] == [[5, 2**40 - 1], [2, 1]]
    assert total.tolist() == [2, 4]


# -- rows stepped in place --------------------------------------------------------------------------------------------


RULES_OF_ROWS: list[dict[str, Any]] = [
    {},
    {"centered": True, "eps_inside_sqrt": True},
    {"bias_correction": True, "initial_square_avg": 1.0, "alpha": 0.5, "maximize": True},
    {"centered": True, "alpha": 0.0},
    {"sparse": "lazy", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"sparse": "lazy", "momentum": 0.5, "lr_in_momentum": True, "decoupled_weight_decay": True, "weight_decay": 0.1},
]


@given(
    rule=st.sampled_from(RULES_OF_ROWS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]),
    shape=st.sampled_from([(7, 3), (5, 2, 40), (3, 1030), (300, 1), (4, 0), (6,)]),
    dims=st.integers(1, 3),
    nonfinite=st.sampled_from(["propagate", "skip", "zero"]),
    odd=st.sampled_from([0.0, 0.02]),
    scale=st.sampled_from([1.0, 8.0]),
    seed=st.integers(1, 99),
)
def test_rows_stepped_where_they_lie_are_the_bits_of_rows_stepped_as_a_small_parameter(
    rule: dict[str, Any],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    dims: int,
    nonfinite: str,
    odd: float,
    scale: float,
    seed: int,
) -> None:
    if native.kernel is None:
        pytest.skip("needs the native kernel")
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape, dtype=dtype, generator=generator)
    dims = min(dims, len(shape)) if start.numel() else 1
    arguments = {**rule, "nonfinite": nonfinite, "stochastic_rounding": seed if dtype == torch.bfloat16 else False}
    params, beside = [start.clone(), start.clone()], [torch.ones(3), torch.ones(3)]
    sides = [RMSprop([p, q], lr=0.1, **arguments) for p, q in zip(params, beside, strict=True)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(native, "GRAIN", 1 if seed % 2 else 0)
        for t in range(8):
            count = int(torch.randint(9, (1,), generator=generator))
            index = [torch.randint(max(1, n // (1 + t % 3)), (count,), generator=generator) for n in shape[:dims]]
            values = torch.randn(count, *shape[dims:], dtype=dtype, generator=generator)
            values[torch.rand(values.shape, generator=generator) < odd] = torch.inf if t % 2 else torch.nan
            grad = torch.sparse_coo_tensor(torch.stack(index), values, shape, check_invariants=True)
            for number, (p, q, optimizer) in enumerate(zip(params, beside, sides, strict=True)):
                p.grad, q.grad = grad.clone(), torch.ones(3)
                vars(optimizer)["grad_scale"] = torch.tensor(scale)  # as GradScaler does
                with pytest.MonkeyPatch.context() as copied:
                    if number:
                        copied.setattr(cpu_kernel.CpuKernel, "_add_in_place", lambda *_: False)
                    optimizer.step()
                assert optimizer.implementation.startswith("native kernel")
                assert "tensor operations" not in optimizer.implementation
            assert_same_bits(*params)
            assert torch.equal(*beside)
    assert sides[0].nonfinite_steps == sides[1].nonfinite_steps
    states = [optimizer.state[p] for optimizer, p in zip(sides, params, strict=True)]
    for name in states[0]:
        assert_same_bits(states[0][name], states[1][name])
    if rule.get("sparse") != "lazy":
        assert torch.equal(*(lag_of(optimizer, p).row_step for optimizer, p in zip(sides, params, strict=True)))


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    """Assert equal bits: signs of 0 count, all NaNs are equal."""
    a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (a, b))
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan())


def test_an_index_outside_of_the_table_raises_before_anything_changes() -> None:
    p, q = torch.ones(3, 2), torch.ones(2)
    optimizer = RMSprop([q, p])
    q.grad = torch.ones(2)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), torch.ones(2, 2), (3, 2), check_invariants=False)
    with pytest.raises(IndexError):
        optimizer.step()
    assert torch.equal(p, torch.ones(3, 2))
    assert torch.equal(q, torch.ones(2))
    assert optimizer.state[q]["step"] == optimizer.state[p]["step"] == 0


@pytest.mark.parametrize(("count", "size", "width"), [(3000, 5000, 64), (40_000, 7, 8)])
def test_rows_are_the_same_bits_on_any_number_of_threads(count: int, size: int, width: int) -> None:
    """One table is large; the rows of the other have many entries each."""
    if native.kernel is None:
        pytest.skip("needs the native kernel")
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            generator = torch.Generator().manual_seed(0)
            p = torch.randn(size, width, generator=generator)
            optimizer = RMSprop([p], centered=True)
            for _ in range(3):
                rows = torch.randint(size, (1, count), generator=generator)
                p.grad = coo(p.shape, rows.numpy(), torch.randn(count, width, generator=generator))
                optimizer.step()
            results.append((p, optimizer.state_dict()["state"][0]["square_avg"]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
def test_other_threads_run_while_entries_are_put_in_order() -> None:
    p, count = torch.zeros(1000, 1), 1_000_000
    optimizer = RMSprop([p])
    p.grad = torch.zeros(1000, 1)
    optimizer.step()  # creates the state
    group, state = optimizer.param_groups[0], optimizer.state[p]
    index = torch.randint(1000, (1, count), generator=torch.Generator().manual_seed(0)).numpy()
    given = (p, index, torch.ones(count, 1), state["step"], state["square_avg"], None, None, None, 0)
    batch, rule, precision = (
        native.kernel.Batch(),  # type: ignore[union-attr]
        cpu_kernel.kernel_rule_of(group).rule,
        cpu_kernel.kernel_precision_of(group),
    )
    turns, ended = 0, threading.Event()

    def work() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            time.sleep(0)  # offers the interpreter, which no thread is forced to release meanwhile

    other, interval = threading.Thread(target=work), sys.getswitchinterval()
    sys.setswitchinterval(60)
    other.start()
    try:
        before = turns
        refused = batch.add_rows(rule, precision, 0.01, *given)
        turned = turns - before
    finally:
        ended.set()
        sys.setswitchinterval(interval)
        other.join()
    assert refused is None
    assert turned > 0


# -- lazy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("rule", LAZY.values(), ids=LAZY)
def test_lazy_is_the_rule_for_each_touched_row_alone(rule: Rule, execution: dict[str, Any]) -> None:
    start, gradients, touched = problem()
    p, generator = torch.from_numpy(start.copy()), np.random.default_rng(1)
    optimizer = RMSprop.from_rule([p], rule, sparse="lazy", **execution)
    alone = [(row, init(rule, row)) for row in start]
    for t, (gradient, rows) in enumerate(zip(gradients, touched, strict=True), start=1):
        optimizer.param_groups[0]["lr"] = cases.lr_at(t)
        p.grad = coo(p.shape, *entries(gradient, rows, generator))
        optimizer.step()
        current = dataclasses.replace(rule, lr=cases.lr_at(t))
        for row in rows:
            alone[row] = update(current, alone[row][0], gradient[row], alone[row][1])
        np.testing.assert_allclose(p.numpy(), np.stack([value for value, _ in alone]), rtol=1e-11, atol=1e-13)
        for name in AVERAGES:
            if name in optimizer.state[p]:
                expected = np.stack([getattr(state, name) for _, state in alone])
                np.testing.assert_allclose(optimizer.state[p][name].numpy(), expected, rtol=1e-11, atol=1e-13)
    assert optimizer.state[p]["step"].item() == len(gradients)
    assert set(optimizer.state[p]) <= {"step", *AVERAGES}


def test_lazy_after_exact_starts_from_rows_that_do_not_lag() -> None:
    p = torch.ones(3, 2)
    optimizer = RMSprop([p], alpha=0.5, initial_square_avg=1.0)
    for mode, row in (("exact", 0), ("exact", 0), ("lazy", 1)):
        optimizer.param_groups[0]["sparse"] = mode
        p.grad = coo((3, 2), np.array([[row]]), torch.zeros(1, 2))
        optimizer.step()
    assert optimizer.state[p]["square_avg"].tolist() == [[0.25] * 2, [0.125] * 2, [0.25] * 2]


# -- with everything around -------------------------------------------------------------------------------------------


def continued(optimizer: RMSprop, p: Tensor, how: str) -> tuple[torch.optim.Optimizer, Tensor]:
    """Return an optimizer that continues from `optimizer`, and its parameter."""
    if how == "state_dict":
        optimizer.state_dict()
    elif how in ("ours", "torch"):
        q = p.clone()
        made = {"ours": RMSprop, "torch": torch.optim.RMSprop}[how]([q])
        made.load_state_dict(optimizer.state_dict())
        return made, q
    elif how in ("deepcopy", "pickle"):
        both: dict[str, Any] = {"optimizer": optimizer, "p": p}
        both = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
        return both["optimizer"], both["p"]
    return optimizer, p


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("how", ["nothing", "state_dict", "ours", "torch", "deepcopy", "pickle"])
def test_a_run_goes_on_the_same_from_state_that_does_not_lag(how: str, centered: bool) -> None:
    start, gradients, touched = problem()
    a, b = (torch.from_numpy(start.copy()) for _ in range(2))
    one, whole = RMSprop([a], centered=centered), RMSprop([b], centered=centered)
    one_now: torch.optim.Optimizer = one
    for t, (gradient, rows) in enumerate(zip(gradients, touched, strict=True)):
        if t == 6:
            assert lag_of(one, a).row_step.min() < t
            one_now, a = continued(one, a, how)
            assert set(one_now.state_dict()["state"][0]) == {"step", "square_avg", *["grad_avg"] * centered}
            if how != "nothing":
                assert not isinstance(one_now, RMSprop) or not one_now.step_state.lags
                torch.testing.assert_close(
                    one_now.state[a]["square_avg"], whole.state[b]["square_avg"], rtol=1e-13, atol=0
                )
        b.grad = torch.from_numpy(only(gradient, rows))
        a.grad = b.grad.to_sparse(1) if isinstance(one_now, RMSprop) else b.grad.clone()
        one_now.step()
        whole.step()
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def touched(optimizer: RMSprop, p: Tensor, row: int) -> None:
    p.grad = coo(p.shape, np.array([[row]]), torch.ones(1, *p.shape[1:], dtype=p.dtype))
    optimizer.step()


@pytest.mark.parametrize("when", ["after a step", "again", "before the first step of this object"])
def test_a_state_dict_that_someone_holds_stays_loadable_and_right(when: str) -> None:
    """Its table's state is a copy, because rows soon lag; dense parameters have the live tensors, as in torch."""
    dense, table = torch.ones(2), torch.ones(4, 2, dtype=torch.float64)
    optimizer = RMSprop([dense, table], alpha=0.5, bias_correction=True)
    dense.grad = torch.ones(2)
    for row in (0, 1, 1):
        touched(optimizer, table, row)
    held = optimizer.state_dict()
    if when == "again":
        table.grad = None
        held = optimizer.state_dict()
    elif when != "after a step":
        made = RMSprop([dense, table], alpha=0.5, bias_correction=True)
        made.load_state_dict(held)
        optimizer, held = made, made.state_dict()  # the gradient is still set
    expected = copy.deepcopy(held)
    table.grad = None
    for row in (2, 2, 3):
        touched(optimizer, table, row)
    assert set(held["state"][1]) == {"step", "square_avg"}
    assert all(torch.equal(value, expected["state"][1][name]) for name, value in held["state"][1].items())
    assert held["state"][1]["step"] == 3
    assert held["state"][0]["square_avg"] is optimizer.state[dense]["square_avg"]
    other = RMSprop([torch.ones(2), torch.ones(4, 2, dtype=torch.float64)], alpha=0.5, bias_correction=True)
    other.load_state_dict(held)
    torch.optim.RMSprop([torch.ones(2), torch.ones(4, 2, dtype=torch.float64)]).load_state_dict(held)
    touched(other, other.param_groups[0]["params"][1], 0)
    assert other.state_dict()["state"][1]["square_avg"][:, 0].tolist() == [0.5625, 0.375, 0, 0]


def test_lazy_tables_are_handed_out_live_as_dense_parameters_are() -> None:
    p = torch.ones(4, 2)
    optimizer = RMSprop([p], sparse="lazy")
    touched(optimizer, p, 0)
    assert optimizer.state_dict()["state"][0]["square_avg"] is optimizer.state[p]["square_avg"]


def test_state_given_to_another_parameter_takes_its_lag_along_and_new_state_has_none() -> None:
    p, q = torch.ones(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    optimizer = RMSprop([p], alpha=0.5, initial_square_avg=1.0)
    for _ in range(3):
        touched(optimizer, p, 0)
    optimizer.state[q] = optimizer.state.pop(p)
    optimizer.param_groups[0]["params"] = [q]
    touched(optimizer, q, 1)
    assert optimizer.state[q]["square_avg"][1] == 0.0625 + 0.5
    touched(optimizer, q, 0)
    optimizer.state.clear()
    touched(optimizer, q, 1)
    touched(optimizer, q, 0)
    assert optimizer.state[q]["square_avg"].flatten().tolist() == [0.75, 1.0]


def test_a_loaded_state_does_not_lag() -> None:
    p = torch.ones(2, 1)
    optimizer = RMSprop([p], alpha=0.5, initial_square_avg=1.0)
    touched(optimizer, p, 0)
    saved = copy.deepcopy(optimizer.state_dict())
    for _ in range(3):
        touched(optimizer, p, 0)
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["state"][0]["square_avg"].flatten().tolist() == [1.0, 0.5]


def test_rows_that_lag_in_state_that_no_longer_fits_are_said_and_kept() -> None:
    """Also where only the second average does not fit: then neither is changed."""
    p = torch.ones(3, 2)
    optimizer = RMSprop([p], alpha=0.5, initial_square_avg=1.0, centered=True)
    touched(optimizer, p, 0)
    touched(optimizer, p, 0)
    state = optimizer.state[p]
    for name, average in (("square_avg", torch.ones(4, 2)), ("grad_avg", torch.ones(5, 2))):
        kept, before = state[name], copy.deepcopy(state)
        state[name] = average
        message = f"{name} must be of (3,) rows while rows lag, got shape {tuple(average.shape)}; call state_dict()"
        for look in (optimizer.state_dict, lambda: optimizer.effective_lr(p)):
            with pytest.raises(InputError, match=f"^{re.escape(message)}") as raised:
                look()
            assert "\n" not in str(raised.value)
        state[name] = kept
        assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert optimizer.state_dict()["state"][0]["square_avg"][1:].tolist() == [[0.25] * 2] * 2


@pytest.mark.parametrize("counter", [0, 1, 40, 99, 250])
@pytest.mark.parametrize("how", ["a step", "state_dict", "a dense step"])
@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_a_counter_that_is_set_while_rows_lag_changes_no_average(
    execution: dict[str, Any], how: str, counter: int
) -> None:
    """Averages decay by executed steps. Dividing v by βᵏ after a reset to 0 would give 33,883 instead of 1."""
    p = torch.zeros(3, 2)
    optimizer = RMSprop([p], alpha=0.9, lr=0.0, initial_square_avg=1.0, centered=True, **execution)
    state = optimizer.state[p]
    for _ in range(60):
        touched(optimizer, p, 0)
    for _ in range(40):
        touched(optimizer, p, 1)
    touched(optimizer, p, 1)
    v = [0.9**101 + (1 - 0.9**60) * 0.9**41, 0.9**101 + 1 - 0.9**41, 0.9**101]
    m = [(1 - 0.9**60) * 0.9**41, 1 - 0.9**41, 0.0]
    state["step"].fill_(counter)
    made = 0
    if how == "a step":
        touched(optimizer, p, 0)
        touched(optimizer, p, 2)
        made = 2
        v = [(0.9 * v[0] + 0.1) * 0.9, v[1] * 0.81, 0.9 * v[2] * 0.9 + 0.1]
        m = [(0.9 * m[0] + 0.1) * 0.9, m[1] * 0.81, 0.1]
    elif how == "a dense step":
        p.grad, made = torch.ones(3, 2), 1
        optimizer.step()
        v, m = [0.9 * x + 0.1 for x in v], [0.9 * x + 0.1 for x in m]
    saved = optimizer.state_dict()["state"][0]
    torch.testing.assert_close(saved["square_avg"][:, 0], torch.tensor(v), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(saved["grad_avg"][:, 0], torch.tensor(m), rtol=1e-4, atol=1e-6)
    assert int(saved["step"]) == counter + made


def test_a_counter_that_is_set_back_by_one_divides_nothing() -> None:
    """The missing step may have been skipped: a row touched in it is ahead of the counter."""
    for native_or_not in (None, False):
        p = torch.zeros(3, 2)
        optimizer = RMSprop([p], alpha=0.5, lr=0.0, fused=native_or_not)
        touched(optimizer, p, 0)
        optimizer.state[p]["step"].zero_()
        touched(optimizer, p, 0)
        assert optimizer.state_dict()["state"][0]["square_avg"][:, 0].tolist() == [0.75, 0.0, 0.0]


@pytest.mark.parametrize("rule", [EXACT["plain"], EXACT["centered"], EXACT["bias correction, v0"]])
def test_effective_lr_is_that_of_the_dense_run(rule: Rule) -> None:
    start, gradients, touched = problem()
    a, b = (torch.from_numpy(start.copy()) for _ in range(2))
    sparse, dense = RMSprop.from_rule([a], rule), RMSprop.from_rule([b], rule)
    for gradient, rows in zip(gradients, touched, strict=True):
        b.grad = torch.from_numpy(only(gradient, rows))
        a.grad = b.grad.to_sparse(1)
        sparse.step()
        dense.step()
        torch.testing.assert_close(sparse.effective_lr(a), dense.effective_lr(b), rtol=1e-9, atol=0)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embeddings_train_as_with_dense_gradients(mode: str) -> None:
    """Gradients of nn.Embedding and nn.EmbeddingBag are not coalesced; dense parameters train beside them."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.one = nn.Embedding(40, 6, sparse=sparse, padding_idx=0)
            self.bag = nn.EmbeddingBag(40, 6, sparse=sparse, mode=mode)
            self.head = nn.Linear(6, 1)

        def forward(self, words: Tensor) -> Tensor:
            output: Tensor = self.head(torch.tanh(self.one(words).mean(1) + self.bag(words)))
            return output

    models = [Model(sparse).double() for sparse in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [RMSprop(model.parameters(), lr=1e-3, centered=True) for model in models]
    for _ in range(15):
        words, target = torch.randint(40, (4, 3)), torch.randn(4, 1).double()
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=False)
            torch.autograd.backward(nn.functional.mse_loss(model(words), target))
            optimizer.step()
    assert models[0].one.weight.grad is not None
    assert models[0].one.weight.grad.is_sparse
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    if native.kernel is not None:
        assert optimizers[0].implementation == optimizers[1].implementation
        assert "tensor operations" not in optimizers[0].implementation


def test_the_kernel_is_said_to_step_the_rows_that_it_steps() -> None:
    if native.kernel is None:
        pytest.skip("needs the native kernel")
    dense, table = torch.ones(2), torch.ones(4, 2)
    optimizer = RMSprop([dense, table])
    dense.grad = torch.ones(2)
    kernel = f"native kernel ({native.kernel.instruction_set()})"
    for _ in range(2):
        touched(optimizer, table, 1)
        assert optimizer.implementation == kernel
    optimizer.add_param_group({"params": [torch.ones(4, 2)], "fused": False})
    touched(optimizer, optimizer.param_groups[1]["params"][0], 1)
    assert optimizer.implementation == f"{kernel}, but tensor operations for some (group 1: fused=False)"


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_compiled_step_is_the_step(count: int, execution: dict[str, Any]) -> None:
    """Sparse and dense gradients alternate: lagging rows are caught up, whatever was traced before."""
    torch._dynamo.reset()
    starts = [torch.linspace(-1, 1, 8).view(4, 2).double(), torch.ones(3).double()][:count]
    sides = [[start.clone() for start in starts] for _ in range(2)]
    optimizers = [RMSprop(params, alpha=0.5, centered=True, **execution) for params in sides]
    steps = [torch.compile(optimizers[0].step, backend="eager"), optimizers[1].step]
    for kind in ("dense", "sparse", "sparse", "dense", "dense", "sparse", "sparse", "dense"):
        for params, step in zip(sides, steps, strict=True):
            for p in params:
                p.grad = torch.ones_like(p)
            if kind == "sparse":
                params[0].grad = coo((4, 2), np.array([[1, 2, 1]]), torch.ones(3, 2).double())
            step()
        for p, q in zip(*sides, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    for name in ("step", "square_avg", "grad_avg"):
        torch.testing.assert_close(optimizers[0].state[sides[0][0]][name], optimizers[1].state[sides[1][0]][name])


def test_grad_scaler_unscales_and_skips() -> None:
    a, b = torch.ones(5, 2), torch.ones(5, 2)
    scaled, plain = RMSprop([a]), RMSprop([b])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(torch.zeros(1))
    for rows, value in (([0, 0], 1.0), ([1, 2], 2.0), ([0, 1], torch.inf), ([3, 0], 3.0)):
        b.grad = coo((5, 2), np.array([rows]), torch.full((2, 2), value))
        a.grad = b.grad * scaler.get_scale()
        scaler.step(scaled)
        scaler.update()
        if value < torch.inf:
            plain.step()
    assert torch.equal(a, b)
    assert scaled.state_dict()["state"][0]["step"] == 3
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "zero"])
def test_gradients_that_are_not_finite_do_what_dense_ones_do(nonfinite: str, execution: dict[str, Any]) -> None:
    """Sums decide, not entries. A skipped step leaves the other parameters unchanged, too."""
    sparse, dense, beside = torch.ones(4, 2), torch.ones(4, 2), [torch.ones(2), torch.ones(2)]
    optimizers = [
        RMSprop([p, q], nonfinite=nonfinite, **execution) for p, q in ((sparse, beside[0]), (dense, beside[1]))
    ]
    for rows, values in (
        ([0, 1], [1.0, 2.0]),
        ([1, 1], [torch.inf, -torch.inf]),
        ([2, 0], [torch.nan, 1.0]),
        ([1, 2], [3.0, 1.0]),
    ):
        sparse.grad = coo((4, 2), np.array([rows]), torch.tensor(values)[:, None].expand(2, 2))
        dense.grad = sparse.grad.to_dense()
        for p, optimizer in zip(beside, optimizers, strict=True):
            p.grad = torch.ones(2)
            optimizer.step()
    torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert torch.equal(beside[0], beside[1])
    assert optimizers[0].nonfinite_steps == (0 if nonfinite == "propagate" else 2)
    for name in ("step", "square_avg"):
        found = [optimizer.state_dict()["state"][0][name] for optimizer in optimizers]
        torch.testing.assert_close(*found, rtol=1e-6, atol=0, equal_nan=True)


def test_what_is_read_and_written_grows_with_the_touched_rows_only() -> None:
    """Of all operations of a step, only those that take or put rows see the table."""

    class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.whole: set[str] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            tensors = [x for x in (*args, result) if isinstance(x, Tensor) and x.layout == torch.strided]
            if any(x.numel() >= 1000 for x in tensors):
                self.whole.add(func._schema.name)
            return result

    for arguments in ({"centered": True}, {"sparse": "lazy", "momentum": 0.9, "weight_decay": 0.1}):
        p = torch.ones(1000, 4)
        optimizer = RMSprop([p], **arguments)
        for t in range(3):
            p.grad = coo(p.shape, np.array([[5, 7 + t, 5]]), torch.ones(3, 4))
            with Seen() as seen:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
        assert seen.whole <= {
            "aten::detach",
            "aten::view",
            "aten::index_select",
            "aten::index_copy_",
            "aten::index_put_",
        }
        assert "aten::index_copy_" in seen.whole


def test_autograd_is_told_that_the_table_has_changed() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    loss = weight.square().sum()
    weight.grad = coo((4, 4), np.array([[1]]), torch.ones(1, 4))
    RMSprop([weight]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


@pytest.mark.slow
def test_the_document_says_what_its_scripts_found() -> None:
    """Recompute the moves of its table and picture. Times come from the stored results."""
    exact, lazy = sparse_picture.moves("exact"), sparse_picture.moves("lazy")
    assert exact == pytest.approx([sparse_picture.formula(period) for period in sparse_picture.PERIODS], rel=1e-6)
    assert lazy == pytest.approx([1.0] * len(sparse_picture.PERIODS), rel=1e-12)
    text = sparse_picture.DOCUMENT.read_text()
    assert sparse_picture.up_to_date(text, exact, lazy) == text
    assert sparse_picture.PICTURE.read_text() == sparse_picture.picture(exact, lazy)


# -- errors -----------------------------------------------------------------------------------------------------------

WHERE = "with sparse gradients{} for parameter 0 of shape (5, 2)"
EXACT_WHERE, LAZY_WHERE, ANY_WHERE = (WHERE.format(x) for x in (" and sparse='exact'", " and sparse='lazy'", ""))
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"momentum": 0.9}, f"momentum must be 0 {EXACT_WHERE}, got 0.9; pass sparse='lazy' or dense"),
    ({"weight_decay": 0.1}, f"weight_decay must be 0 {EXACT_WHERE}, got 0.1; pass sparse='lazy'"),
    (
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        f"weight_decay must be 0 {EXACT_WHERE}, got 0.1; pass sparse='lazy'",
    ),
    (
        {"sparse": "lazy", "bias_correction": True},
        f"bias_correction must be False {LAZY_WHERE}, got True; pass sparse='exact'",
    ),
    ({"capturable": True}, f"capturable must be False {ANY_WHERE}, got True; leave capturable out"),
    ({"differentiable": True}, f"differentiable must be False {ANY_WHERE}, got True; leave differentiable out"),
    ({"state_dtype": "uint8"}, f"state_dtype must be None {ANY_WHERE}, got 'uint8'; leave state_dtype out"),
    ({"state_dtype": "bfloat16"}, f"state_dtype must be None {ANY_WHERE}, got 'bfloat16'; leave state_dtype out"),
    ({"fused": True}, "fused must be None or False for parameter 0 of group 1, got True; its gradient is sparse"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_what_cannot_be_done_is_said_before_anything_changes(arguments: dict[str, Any], message: str) -> None:
    if arguments.get("fused") and native.kernel is None:
        pytest.skip("needs the native kernel")
    dense, table = torch.ones(2), torch.ones(5, 2)
    optimizer = RMSprop([{"params": [dense]}, {"params": [table]}])
    optimizer.param_groups[1].update(arguments)
    for step in range(2):  # without state, and with it
        dense.grad, table.grad = torch.ones(2), coo((5, 2), np.array([[1, 1]]), torch.ones(2, 2))
        before = copy.deepcopy((dense.data, table.data, optimizer.state_dict()["state"]))
        with pytest.raises(InputError, match=f"^{re.escape(message)}") as raised:
            optimizer.step()
        assert "\n" not in str(raised.value)
        after = optimizer.state_dict()["state"]
        assert torch.equal(dense, before[0])
        assert torch.equal(table, before[1])
        for number, state in before[2].items():
            assert all(torch.equal(value, after[number][name]) for name, value in state.items())
        if step == 0:
            kept = {name: optimizer.param_groups[1][name] for name in arguments}
            optimizer.param_groups[1].update({name: optimizer.param_groups[0][name] for name in arguments})
            optimizer.step()
            optimizer.param_groups[1].update(kept)


@pytest.mark.parametrize("beside", ["dense", "sparse"])
def test_state_is_made_when_all_gradients_are_known_to_be_usable(beside: str) -> None:
    good, bad = torch.ones(3, 2), torch.ones(3, 2)
    groups: list[dict[str, Any]] = [{"params": [good]}, {"params": [bad], "momentum": 0.9}]
    optimizer = RMSprop(groups, fused=False)
    bad.grad = coo((3, 2), np.array([[1]]), torch.ones(1, 2))
    good.grad = bad.grad.to_dense() if beside == "dense" else bad.grad.clone()
    with pytest.raises(InputError, match=r"^momentum must be 0"):
        optimizer.step()
    assert not optimizer.state
    assert not optimizer.step_state.lags


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse (CSR tensor support is in beta|invariant checks are implicitly):UserWarning")
def test_parameters_that_are_sparse_themselves_are_refused_in_one_line(layout: str) -> None:
    p = torch.eye(3, 2).to_sparse(layout=getattr(torch, layout))
    p.grad = p.clone()
    message = (
        rf"^RMSprop needs dense parameters with dense or sparse_coo gradients, got torch.{layout} with torch.{layout}"
    )
    with pytest.raises(RuntimeError, match=message):
        RMSprop([p]).step()


def test_rows_of_a_bfloat16_table_with_the_state_of_a_wider_one_are_rounded_stochastically() -> None:
    """After model.double() and model.bfloat16() the average is float64, and so is the value that is rounded."""
    table, dense = (torch.ones(4, 8, dtype=torch.float64) for _ in range(2))
    optimizers = [RMSprop([p], lr=1e-3) for p in (table, dense)]
    for dtype, seed in ((torch.float64, False), (torch.bfloat16, 3)):
        for p, optimizer in zip((table, dense), optimizers, strict=True):
            p.grad = None
            p.data = p.data.to(dtype)
            optimizer.param_groups[0]["stochastic_rounding"] = seed
            p.grad = torch.zeros_like(p)
            p.grad[1] = 2.0
            if p is table:
                p.grad = p.grad.to_sparse(1)
            optimizer.step()
    assert optimizers[0].state[table]["square_avg"].dtype == torch.float64
    assert torch.equal(table, dense)


def test_rows_on_another_device_are_left_to_tensor_operations() -> None:
    p = torch.nn.Parameter(torch.zeros(5, 2, device="meta"))
    where, values = torch.zeros(1, 2, dtype=torch.long, device="meta"), torch.zeros(2, 2, device="meta")
    p.grad = torch.sparse_coo_tensor(where, values, (5, 2), device="meta", check_invariants=False)
    optimizer = RMSprop([p], sparse="lazy")
    groups, all_of_it = optimizer.param_groups, [Remaining(0, None, "")]
    inputs = StepInputs(optimizer, groups, optimizer.state, [0], 1.0, 0, 0, {}, {0})
    left = cpu_kernel.CpuKernel().gather(inputs, all_of_it)
    assert [(part.group_index, part.indices) for part in left] == ([(0, [0])] if native.kernel else [(0, None)])


def test_watching_changes_no_bit_of_rows_that_lag() -> None:
    """Observed rows are copied; other rows are stepped in place."""
    generator = torch.Generator().manual_seed(0)
    watched, alone = (torch.zeros(50, 3, dtype=torch.float64) for _ in range(2))
    optimizers = [RMSprop([x], lr=0.01, alpha=0.97) for x in (watched, alone)]
    Monitor(optimizers[0], every=1)
    for _ in range(200):
        rows = torch.randint(50, (1, 4), generator=generator)
        values = torch.randn(4, 3, dtype=torch.float64, generator=generator)
        for x, optimizer in zip((watched, alone), optimizers, strict=True):
            x.grad = torch.sparse_coo_tensor(rows, values, (50, 3), check_invariants=True)
            optimizer.step()
    assert torch.equal(watched, alone)
    states = [optimizer.state_dict()["state"][0]["square_avg"] for optimizer in optimizers]
    assert torch.equal(*states)
