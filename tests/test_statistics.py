"""What an observer receives of a step equals `rmsprop.statistics`, on every path; observing changes no bit."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import rounding
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rmsprop import InputError, Rule, native
from rmsprop import statistics as definition
from rmsprop.rule import SQUARES
from rmsprop.torch import RMSprop, low_precision, release_gradients
from rmsprop.torch.engines import sparse_rows
from rmsprop.torch.private import TRACES
from rmsprop.torch.state import kappa_of

PATHS = [pytest.param(None, id="kernel"), pytest.param(False, id="tensor operations")]
KINDS = ("float32", "float64", "bfloat16", "float16", "complex64", "complex128")
COUNTS = slice(definition.COLUMNS.index("eps"), None)


class Recorder:
    """An observer that keeps copies of what it receives."""

    def __init__(self, kernel: int = 2, others: int = 2) -> None:
        self.levels, self.asked = (kernel, others), 0
        self.measurements: list[tuple[list[Any], NDArray[Any], NDArray[Any] | None]] = []
        self.skips: list[tuple[list[Any], list[int]]] = []

    def wanted(self) -> tuple[int, int]:
        self.asked += 1
        return self.levels

    def measured(self, places: Any, sums: NDArray[Any], histograms: NDArray[Any] | None) -> None:
        self.measurements.append((list(places), sums.copy(), None if histograms is None else histograms.copy()))

    def skipped(self, places: Any, nonfinite: list[int]) -> None:
        self.skips.append((list(places), nonfinite))


def watched(params: Any, rule: Rule = cases.PLAIN, **options: Any) -> tuple[RMSprop, Recorder]:
    optimizer, recorder = RMSprop.from_rule(params, rule, **options), Recorder()
    optimizer.watch(recorder)
    return optimizer, recorder


def numbers(x: torch.Tensor) -> NDArray[Any]:
    """Return a tensor's numbers in the compute dtype."""
    x = torch.view_as_real(x.detach()) if x.is_complex() else x.detach()
    return (x if x.dtype == torch.float64 else x.float()).numpy().reshape(-1).copy()


MEASURED = ("square_avg", "grad_avg", "max_square_avg")  # the averages that statistics read


def averages_of(state: dict[str, Any], p: torch.Tensor) -> dict[str, NDArray[Any]]:
    found = {}
    for name in MEASURED:
        if name in state:
            x, signed = state[name], name not in SQUARES
            is_packed = x.dtype == torch.uint8
            found[name] = rounding.unpack(x.numpy(), p.numel(), signed).reshape(-1).copy() if is_packed else numbers(x)
    return found


def after_e4(rule: Rule, p: NDArray[Any], g: NDArray[Any], before: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return v, m and w after E3 and E4, written a second time."""
    one = p.dtype.type
    with np.errstate(all="ignore"):
        g = -g if rule.maximize else g
        if rule.weight_decay and not rule.decoupled_weight_decay:
            g = g + one(rule.weight_decay) * p
        one_minus_beta = one(1 - rule.decay)
        found = {"square_avg": one(rule.decay) * before["square_avg"] + (one_minus_beta * g) * g}
        if rule.centered:
            found["grad_avg"] = before["grad_avg"] + one_minus_beta * (g - before["grad_avg"])
        if rule.amsgrad:
            found["max_square_avg"] = np.maximum(before["max_square_avg"], found["square_avg"])
    return found


def check(
    found: NDArray[Any],
    histogram: NDArray[Any],
    wanted: tuple[NDArray[Any], NDArray[Any]],
    exact: bool,
    tolerance: float,
) -> None:
    """Compare a row with NumPy's. Counts may differ at borders, if bits of the numbers differ."""
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(found[: COUNTS.start], wanted[0][: COUNTS.start], rtol=tolerance, atol=0)
    if exact:
        np.testing.assert_array_equal(found[COUNTS], wanted[0][COUNTS])
        np.testing.assert_array_equal(histogram, wanted[1])
    else:
        assert np.abs(found[COUNTS] - wanted[0][COUNTS]).max(initial=0) <= max(1, 1e-3 * wanted[1].sum())
        assert np.abs(histogram.cumsum() - wanted[1].cumsum()).max() <= max(1, 1e-3 * wanted[1].sum())


def odd_numbers(generator: np.random.Generator, size: int, bad: bool) -> NDArray[np.float64]:
    """Return numbers of many sizes, with zeros and subnormals; if `bad`, some are not finite."""
    x: NDArray[np.float64] = generator.standard_normal(size) * 10.0 ** generator.uniform(-8, 2)
    x[generator.random(size) < 0.1] = 0
    x[generator.random(size) < 0.05] = 1e-41
    x[generator.random(size) < 0.05] *= 1e-25
    if bad and size:
        where = generator.random(size) < 0.02
        x[where] = generator.choice([np.nan, np.inf, -np.inf, 1e30], int(where.sum()))
    return x


@st.composite
def problems(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw a rule, dtypes of parameters and averages, a size, a seed, whether gradients are bad, and threads."""
    name = draw(st.sampled_from(sorted(cases.RULES)))
    kind = draw(st.sampled_from(KINDS))
    state = draw(st.sampled_from([None, "bfloat16", "uint8"])) if kind in KINDS[:1] + KINDS[2:4] else None
    size = draw(st.integers(0, 40) | st.sampled_from([127, 513, 2048, 2049, 5000]))
    return name, kind, state, size, draw(st.integers(0, 2**31)), draw(st.booleans()), draw(st.integers(1, 4))


@pytest.mark.parametrize("fused", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_hides_no_other(odd: float, dtype: torch.dtype, fused: bool | None) -> None:
    """Nor does the sign of a NaN, which decides where only bits are compared."""
    rule = Rule(lr=1e-30, decay=0.5, eps=1e-3)
    odd_p, odd_g = (torch.nn.Parameter(torch.arange(1, 41, dtype=dtype)) for _ in range(2))
    odd_p.data[0] = odd
    odd_p.grad, odd_g.grad = torch.full_like(odd_p, -2.0), torch.full_like(odd_g, -2.0)
    odd_g.grad[0], odd_g.grad[1] = odd, 0
    optimizer, recorder = watched([odd_p, odd_g], rule, fused=fused)
    optimizer.step()
    ((_, sums, histograms),) = recorder.measurements
    of_p, of_g = (dict(zip(definition.COLUMNS[COUNTS], row.tolist(), strict=True)) for row in sums[:, COUNTS])
    assert of_p == {"eps": 0, "floor": 0, "nonfinite": 0, "zero": 0, "unchanged": 39}
    assert of_g == {"eps": 1, "floor": 0, "nonfinite": 1, "zero": 1, "unchanged": 38}
    assert np.isnan(sums[:, definition.COLUMNS.index("largest_update")]).all()
    assert histograms is not None
    assert histograms.sum(1).tolist() == [40, 39]


@pytest.mark.parametrize("fused", PATHS)
@settings(deadline=None, max_examples=60)
@example(("TensorFlow 1", "complex64", None, 2048, 0, False, 1))  # 4096 equal averages of 0.8
@given(problems())
def test_every_number_is_that_of_numpy(fused: bool | None, problem: tuple[Any, ...]) -> None:
    name, kind, state_dtype, size, seed, bad, threads = problem
    rule, dtype = cases.RULES[name], getattr(torch, kind)
    generator = np.random.default_rng(seed)
    by_kernel = fused is None and native.kernel is not None

    def tensor(bad: bool) -> torch.Tensor:
        x = torch.from_numpy(odd_numbers(generator, 2 * size if dtype.is_complex else size, bad))
        if dtype.is_complex:
            return torch.view_as_complex(x.view(-1, 2)).to(dtype)
        return x.to(dtype)

    p = torch.nn.Parameter(tensor(False))
    optimizer, recorder = watched([p], rule, fused=fused, state_dtype=state_dtype)
    kept = torch.get_num_threads()
    grain, native.GRAIN = native.GRAIN, 100
    torch.set_num_threads(threads)
    try:
        for step in (1, 2, 3):
            p.grad = tensor(bad and step == 3)
            before, g = numbers(p), numbers(p.grad)
            if step > 1:
                known = averages_of(optimizer.state[p], p)
            optimizer.step()
            state = optimizer.state[p]
            if step == 1:
                start = torch.tensor(np.full_like(before, rule.initial_square_avg))
                if state_dtype == "uint8":
                    packed = low_precision.pack(start, signed=False, key=None)
                    start = low_precision.unpack(packed, start, signed=False)
                elif state_dtype is not None:
                    start = start.bfloat16()
                known = {name: np.zeros_like(before) for name in MEASURED} | {"square_avg": numbers(start)}
            averages = averages_of(state, p) if state_dtype is None else after_e4(rule, before, g, known)
            with np.errstate(all="ignore"):
                wanted = definition.sums(
                    rule,
                    before=before,
                    after=numbers(p),
                    gradient=g,
                    square_avg_before=known["square_avg"],
                    step=step,
                    **averages,
                    kappa=kappa_of(state["square_avg"].dtype if not dtype.is_complex else dtype.to_real()),
                )
            places, sums, histograms = recorder.measurements[-1]
            assert places == [(0, 0)]
            assert histograms is not None
            wide = before.dtype == np.float64
            # The kernel adds float32 numbers of a chunk in float32. Equal numbers round the same way each time.
            check(sums[0], histograms[0], wanted, by_kernel, 1e-12 if wide else 1e-5 if by_kernel else 1e-6)
    finally:
        native.GRAIN = grain
        torch.set_num_threads(kept)


def test_the_kernel_has_the_columns_and_bins_of_the_definition() -> None:
    source = Path(__file__).resolve().parent.parent / "src" / "rmsprop"
    header = (source / "kernel" / "sweep.hpp").read_text(encoding="utf-8")
    (enum,) = re.findall(r"enum Column \{(.*?)\}", header, re.S)
    words = [re.sub(r"\W", "", name).removeprefix("k").lower() for name in enum.split(",")]
    assert words.pop() == "columns"
    assert [name.split("_")[0] for name in definition.COLUMNS] == words
    assert f"kBins = {definition.BINS}, kFirstBin = {definition.FIRST};" in header


def stepped(rule: Rule, kind: str, options: dict[str, Any], recorder: Recorder | None) -> list[torch.Tensor]:
    """Return parameters and state after three steps of 1300 and 7 numbers."""
    generator, dtype = np.random.default_rng(1), getattr(torch, kind)
    params = [torch.nn.Parameter(torch.from_numpy(odd_numbers(generator, n, False)).to(dtype)) for n in (1300, 7)]
    optimizer = RMSprop.from_rule(params, rule, **options)
    optimizer.watch(recorder)
    for step in range(3):
        for p in params:
            p.grad = torch.from_numpy(odd_numbers(generator, p.numel(), step == 2)).to(dtype)
        optimizer.step()
    return [x.detach() for p in params for x in (p, *optimizer.state[p].values())]


@pytest.mark.parametrize("fused", PATHS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("float32", {}), ("float64", {}), ("bfloat16", {"stochastic_rounding": True}), ("float16", {"nonfinite": "zero"}),
     ("float32", {"state_dtype": "uint8"}), ("bfloat16", {"state_dtype": "bfloat16", "nonfinite": "zero"})],
)  # fmt: skip
def test_watching_changes_no_bit(fused: bool | None, kind: str, options: dict[str, Any]) -> None:
    for rule in cases.RULES.values():
        alone = stepped(rule, kind, {"fused": fused, **options}, None)
        together = stepped(rule, kind, {"fused": fused, **options}, Recorder())
        for x, y in zip(alone, together, strict=True):
            assert torch.equal(x.view(torch.uint8) if x.dim() else x, y.view(torch.uint8) if y.dim() else y)


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
def test_threads_change_no_bit_and_instruction_sets_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, best = torch.get_num_threads(), native.kernel.instruction_set()  # type: ignore[union-attr]
    found = []
    try:
        for isa in native.kernel.instruction_sets():  # type: ignore[union-attr]
            native.kernel.use_instruction_set(isa)  # type: ignore[union-attr]
            for threads, grain in ((1, 0), (2, 1), (3, 100), (4, 700)):
                torch.set_num_threads(threads)
                monkeypatch.setattr(native, "GRAIN", grain)
                torch.manual_seed(0)
                params = [torch.nn.Parameter(torch.randn(n)) for n in (5000, 100, 0, 3333)]
                optimizer, recorder = watched(params, cases.RULES["all of it"])
                for _ in range(2):
                    for p in params:
                        p.grad = torch.randn_like(p)
                    optimizer.step()
                found.append((isa, *recorder.measurements[-1][1:]))
    finally:
        native.kernel.use_instruction_set(best)  # type: ignore[union-attr]
        torch.set_num_threads(kept)
    first: dict[str, Any] = {}
    for isa, sums, histograms in found:
        assert histograms is not None
        assert sums.tobytes() == first.setdefault(isa, sums).tobytes()
        np.testing.assert_allclose(sums, found[0][1], rtol=1e-6)
        assert (sums[:, COUNTS] == found[0][1][:, COUNTS]).all()
        assert (histograms == found[0][2]).all()


@pytest.mark.parametrize("fused", PATHS)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-30), (torch.float64, 1e-170), (torch.float64, 1e-300)])
def test_the_largest_change_is_exact_where_its_square_is_too_small(
    fused: bool | None, dtype: torch.dtype, size: float
) -> None:
    p = torch.nn.Parameter(torch.zeros(700, dtype=dtype))
    optimizer, recorder = watched([p], Rule(lr=size), fused=fused)
    p.grad = torch.linspace(1, 2, 700, dtype=dtype)
    optimizer.step()
    (row,) = recorder.measurements[-1][1]
    assert dict(zip(definition.COLUMNS, row, strict=True))["largest_update"] == float(p.detach().abs().max()) > 0


@pytest.mark.parametrize("fused", PATHS)
@pytest.mark.parametrize("size", [1e-30, 3e19])
def test_squares_that_float_cannot_hold_are_added_up(fused: bool | None, size: float) -> None:
    """Squares of gradients, parameters and updates neither overflow nor vanish; v and s are summed as they are."""
    p = torch.nn.Parameter(torch.full((700,), size))
    optimizer, recorder = watched([p], Rule(lr=0.0, centered=True), fused=fused)
    p.grad = torch.full((700,), -size)
    optimizer.step()
    optimizer.step()
    first, row = (dict(zip(definition.COLUMNS, x[1][0], strict=True)) for x in recorder.measurements)
    square = 700 * float(np.float32(size)) ** 2
    assert row["gradient_sq"] == pytest.approx(square, rel=1e-6)
    assert row["parameter_sq"] == pytest.approx(square, rel=1e-6)
    assert first["signal_sq"] == pytest.approx(square * 1e-4, rel=1e-5)
    assert row["history_sq"] == pytest.approx(square * 1e-2, rel=1e-5, abs=1e-40)
    assert row["nonfinite"] == (700 if size > 2.0**64 else 0)


@pytest.mark.parametrize("fused", PATHS)
def test_what_is_wanted_is_measured_and_nothing_else(fused: bool | None) -> None:
    fast, slow = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(4))
    groups: list[dict[str, Any]] = [{"params": [torch.ones(2), fast]}, {"params": [slow], "foreach": True}]
    optimizer = RMSprop(groups, fused=fused)
    kernel = [(0, 1)] if optimizer.implementation.startswith("native kernel") else []
    others = [(1, 0)] if kernel else [(0, 1), (1, 0)]
    recorder = Recorder()
    optimizer.watch(recorder)
    fast.grad, slow.grad = torch.ones(3), torch.ones(4)
    for levels in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (2, 1)):
        recorder.levels = levels
        recorder.measurements.clear()
        optimizer.step()
        ((places, sums, histograms),) = recorder.measurements
        if not any(levels):
            assert (places, sums.shape, histograms) == ([], (0, len(definition.COLUMNS)), None)
            continue
        assert places == (kernel if levels[0] else []) + (others if levels[1] else [])
        assert sums.shape == (len(places), len(definition.COLUMNS))
        assert (histograms is None) == (max(levels) == 1)
        if histograms is not None:
            assert histograms.sum(1).tolist() == [{(0, 1): 3, (1, 0): 4}[place] for place in places]
    assert recorder.asked == 7


def test_gradients_come_and_go() -> None:
    params = [torch.nn.Parameter(torch.ones(n + 1)) for n in range(4)]
    optimizer, recorder = watched(params)
    for have in ((0, 1, 2, 3), (1, 3), (), (0, 2), (1, 3)):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if i in have else None
        recorder.measurements.clear()
        optimizer.step()
        assert len(recorder.measurements) == (1 if have else 0)  # without gradients there is no step
        if not have:
            continue
        places, sums, _ = recorder.measurements[-1]
        assert places == [(0, i) for i in have]
        assert sums[:, 0].tolist() == [i + 1 for i in have]
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(9))]})
    # A parameter changes its group; the number of parameters does not change.
    optimizer.param_groups[1]["params"].insert(0, optimizer.param_groups[0]["params"].pop())
    optimizer.step()
    assert recorder.measurements[-1][0] == [(0, 1), (1, 0)]


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
def test_places_stay_the_same_object_and_arrays_are_read_before_another_thread_takes_them() -> None:
    params = [torch.nn.Parameter(torch.ones(n + 1)) for n in range(3)]
    optimizer = RMSprop(params)
    seen: list[Any] = []
    spare: list[int] = []

    class Keeper(Recorder):
        def measured(self, places: Any, sums: NDArray[Any], histograms: NDArray[Any] | None) -> None:
            seen.append(places)
            spare.append(len(optimizer.step_state.spare_engines))

    optimizer.watch(Keeper(1, 0))
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(3):
        optimizer.step()
    assert seen[0] == ((0, 0), (0, 1), (0, 2))
    assert all(places is seen[0] for places in seen)
    assert spare == [0, 0, 0]  # the observer reads their arrays
    assert len(optimizer.step_state.spare_engines) == 1
    optimizer.param_groups[0]["params"].pop()
    optimizer.step()
    assert seen[-1] == ((0, 0), (0, 1))


@pytest.mark.parametrize("level", [0, 1])
def test_a_device_is_asked_whether_it_left_out_a_step_only_to_measure_it(
    level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], nonfinite="skip", capturable=True)
    recorder = Recorder(level, 0)
    optimizer.watch(recorder)
    asked: list[torch.Tensor] = []
    whether = torch.Tensor.__bool__

    def ask(x: torch.Tensor) -> bool:
        asked.append(x)
        return whether(x)

    monkeypatch.setattr(torch.Tensor, "__bool__", ask)
    for value in (1.0, torch.nan, 1.0):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    monkeypatch.undo()
    assert len(asked) == (3 if level else 0)
    assert recorder.skips == ([([(0, 0)], [3])] if level else [])
    assert len(recorder.measurements) == (2 if level else 3)
    unsynced = optimizer.step_state.unsynced_skips
    assert unsynced is None if level else int(unsynced or 0) == 1


def test_the_loss_scale_is_divided_out() -> None:
    for fused in (True, False) if native.kernel else (False,):
        p = torch.nn.Parameter(torch.ones(600))
        optimizer: Any
        optimizer, recorder = watched([p], fused=fused)
        p.grad = torch.full((600,), 2.0**70)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0**70), torch.tensor(0.0)
        optimizer.step()
        row = dict(zip(definition.COLUMNS, recorder.measurements[0][1][0], strict=True))
        assert row["gradient_sq"] == 600
        assert row["nonfinite"] == 0
        optimizer.found_inf = torch.tensor(1.0)
        optimizer.step()
        assert recorder.skips == [([], [])]
        assert (recorder.asked, len(recorder.measurements)) == (2, 1)


@pytest.mark.parametrize("fused", PATHS)
def test_a_step_left_out_is_told_with_its_reason(fused: bool | None) -> None:
    params = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4, 5)]
    optimizer, recorder = watched(params, fused=fused, nonfinite="skip")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    params[1].grad[1:] = torch.tensor([torch.inf, torch.nan, 1e25])  # type: ignore[index]
    optimizer.step()
    assert recorder.skips == [([(0, 1)], [3])]
    assert len(recorder.measurements) == 1
    assert optimizer.state[params[0]]["step"] == 1


@pytest.mark.parametrize("fused", PATHS)
def test_gradients_that_count_as_0_are_told_as_they_are(fused: bool | None) -> None:
    p = torch.nn.Parameter(torch.ones(600))
    optimizer, recorder = watched([p], fused=fused, nonfinite="zero")
    p.grad = torch.ones(600)
    p.grad[[3, 5]] = torch.tensor([torch.nan, torch.inf])
    optimizer.step()
    row = dict(zip(definition.COLUMNS, recorder.measurements[0][1][0], strict=True))
    assert row["nonfinite"] == 2
    assert row["zero"] == 0
    assert row["unchanged"] == 2
    assert np.isnan(row["gradient_sq"])
    assert np.isfinite(row["update_sq"])


@pytest.mark.parametrize("fused", PATHS)
def test_sparse_gradients_tell_of_the_rows_they_touch(fused: bool | None) -> None:
    table = torch.nn.Parameter(torch.arange(12.0).view(6, 2))
    optimizer, recorder = watched([table], Rule(lr=0.1), fused=fused)
    values = torch.tensor([[1.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 4, 1]]), values, (6, 2), check_invariants=True)
    before = table.detach().clone()
    optimizer.step()
    ((places, sums, histograms),) = recorder.measurements
    row = dict(zip(definition.COLUMNS, sums[0], strict=True))
    assert places == [(0, 0)]
    assert row["gradient_sq"] == 17
    assert row["zero"] == 1
    assert row["update_sq"] == pytest.approx(float((table.detach() - before).double().square().sum()), rel=1e-6)
    assert row["parameter_sq"] == pytest.approx(float(table.detach()[[1, 4]].double().square().sum()), rel=1e-6)
    assert histograms is not None
    assert histograms.sum() == 4


@pytest.mark.parametrize(
    ("levels", "places"), [((2, 0), [(0, 1)]), ((0, 1), [(0, 0)]), ((2, 2), [(0, 1), (0, 0)]), ((0, 0), None)]
)
def test_touched_rows_are_copied_only_to_be_measured(
    levels: tuple[int, int], places: list[Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.kernel is None:
        pytest.skip("needs the native kernel")
    copies: list[sparse_rows.RowCopies] = []
    original = sparse_rows.gather

    def gather(*args: Any, **kwargs: Any) -> sparse_rows.RowCopies:
        copies.append(original(*args, **kwargs))
        return copies[-1]

    monkeypatch.setattr(sparse_rows, "gather", gather)
    sides = [[torch.nn.Parameter(torch.arange(12.0).view(6, 2)), torch.nn.Parameter(torch.ones(3))] for _ in range(2)]
    plain, other = (RMSprop(params, lr=0.1, alpha=0.5, centered=True) for params in sides)  # all αᵏ are exact
    recorder = Recorder(*levels)
    other.watch(recorder)
    for index in ([[1, 4, 1]], [[0, 2, 5]], [[4, 1, 0]]):
        for optimizer, (table, p) in zip((plain, other), sides, strict=True):
            table.grad = torch.sparse_coo_tensor(
                torch.tensor(index), torch.tensor([[1.0, 2.0], [0.5, 3.0], [0.1, 0.2]]), (6, 2), check_invariants=True
            )
            p.grad = torch.ones(3)
            optimizer.step()
    assert len(copies) == (3 if levels[1] else 0)
    assert [found for found, *_ in recorder.measurements] == [places or []] * 3
    for a, b in zip(*sides, strict=True):
        assert torch.equal(a, b)
        for name in ("square_avg", "grad_avg"):
            assert torch.equal(plain.state[a][name], other.state[b][name])


def test_who_is_asked_of_a_step_is_told_of_it() -> None:
    """Although the observer leaves meanwhile, and another one comes that was not asked."""
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer, recorder = watched(params)
    another, ask = Recorder(1, 1), recorder.wanted

    def leave() -> tuple[int, int]:
        optimizer.watch(None)
        optimizer.watch(another)
        return ask()

    recorder.wanted = leave  # type: ignore[method-assign]
    params[0].grad = torch.ones(3)
    optimizer.step()
    assert (len(recorder.measurements), len(another.measurements)) == (1, 0)
    optimizer.step()
    assert (len(recorder.measurements), len(another.measurements)) == (1, 1)


def test_one_watcher_at_a_time_and_none_on_a_copy() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, recorder = watched([p])
    with pytest.raises(InputError, match=r"^optimizer must be one without an observer .*watch\(None\)"):
        optimizer.watch(Recorder())
    with pytest.raises(InputError, match=r"^observer must be an object with wanted"):
        RMSprop([p]).watch("loud")  # type: ignore[arg-type]
    p.grad = torch.ones(3)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.step()
    assert recorder.asked == 0
    optimizer.watch(None)
    optimizer.step()
    assert recorder.asked == 0


def test_a_watched_optimizer_releases_no_gradients() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, recorder = watched([p])
    with pytest.raises(InputError, match=r"^optimizer must be one without an observer for released gradients"):
        release_gradients(optimizer)
    optimizer.watch(None)
    with (
        release_gradients(optimizer),
        pytest.raises(InputError, match=r"^optimizer must be one without released gradients"),
    ):
        optimizer.watch(recorder)


@pytest.mark.parametrize("options", [{}, {"fused": False}], ids=["whole step", "traced"])
def test_a_compiled_step_refuses_a_watcher(options: dict[str, Any]) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = RMSprop([p], **options)
    step = torch.compile(optimizer.step, backend="eager")
    step()
    recorder = Recorder()
    optimizer.watch(recorder)
    if not TRACES:  # the step is executed outside graphs
        step()
        assert len(recorder.measurements) == 1
        return
    with pytest.raises(InputError, match=r"^optimizer must be one without an observer for torch\.compile"):
        step()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("fused", PATHS)
def test_roots_of_what_is_negative_are_not_below_epsilon(fused: bool | None) -> None:
    """No step makes such a v, but an edited state may hold one."""
    p = torch.nn.Parameter(torch.ones(4))
    optimizer, recorder = watched([p], Rule(eps=0.5), fused=fused)
    p.grad = torch.zeros(4)
    optimizer.step()
    optimizer.state[p]["square_avg"].copy_(torch.tensor([-1.0, 1.0, 0.0, torch.nan]))
    optimizer.step()
    (row,) = recorder.measurements[-1][1]
    assert dict(zip(definition.COLUMNS, row, strict=True))["eps"] == 1


@pytest.mark.parametrize("fused", PATHS)
def test_a_watcher_that_raises_leaves_a_whole_step(fused: bool | None) -> None:
    class Broken(Recorder):
        def measured(self, *_: Any) -> None:
            raise RuntimeError("the observer is broken")

    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for p in params:
        optimizer: Any = RMSprop([p], fused=fused)
        p.grad = torch.full((3,), 16.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
        if p is params[1]:
            optimizer.watch(Broken())
            with pytest.raises(RuntimeError, match="broken"):
                optimizer.step()
        else:
            optimizer.step()
    assert torch.equal(params[0].detach(), params[1].detach())
    assert [p.grad.tolist() for p in params if p.grad is not None] == [[2.0] * 3] * 2
