"""Sparse gradients: "exact" equals the dense rule, "lazy" equals the rule on the touched rows alone."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from typing import Any

import cases
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparse_gradients import EXACT, EXECUTIONS, LAZY, assert_state, coo, entries, lag_of, only, problem
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rmsprop import Rule, State, init, native, update
from rmsprop.rule import AVERAGES
from rmsprop.torch import RMSprop
from rmsprop.torch.engines import cpu_kernel, sparse_rows
from rmsprop.torch.groups import FIELDS

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
def runs(draw: st.DrawFn) -> list[tuple[list[int] | str, dict[str, Any]]]:
    """Draw steps: a list of rows, a dense gradient, or a call of state_dict(); and the options that change."""
    rows = st.lists(st.integers(0, 3), max_size=4)
    options = st.fixed_dictionaries(
        {"decay": st.sampled_from([0.0, 0.8, 0.95]), "centered": st.booleans(), "amsgrad": st.booleans()}
    )
    one = st.tuples(rows | st.sampled_from(["dense", "state", "nothing"]), options)
    steps = draw(st.lists(one, min_size=1, max_size=12))
    return [each for each in steps for _ in range(draw(st.integers(1, 3)))]


@given(runs(), st.sampled_from(list(EXACT)))
def test_any_pattern_of_touches_is_the_dense_run(run: list[tuple[list[int] | str, dict[str, Any]]], name: str) -> None:
    """alpha, centered and amsgrad change while rows lag, and dense gradients come in between."""
    generator = np.random.default_rng(len(run))
    value = generator.standard_normal((4, 2))
    p, state = (
        torch.from_numpy(value.copy()),
        init(dataclasses.replace(EXACT[name], centered=False, amsgrad=False), value),
    )
    optimizer = RMSprop.from_rule([p], EXACT[name])
    for what, options in run:
        if EXACT[name].bias_correction and EXACT[name].initial_square_avg:
            options = {**options, "amsgrad": False}
        rule = dataclasses.replace(EXACT[name], **options)
        optimizer.param_groups[0].update({key: getattr(rule, field) for key, field in FIELDS.items()})
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
    given = (p, index, torch.ones(count, 1), state["step"], state["square_avg"], None, None, None, None, 0)
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
