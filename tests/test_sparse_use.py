"""Sparse gradients with state dicts, counters, embeddings, compilation, GradScaler and observers; errors."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from sparse_gradients import EXACT, EXECUTIONS, coo, lag_of, only, problem
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rmsprop import InputError, Rule, native
from rmsprop.monitor import Monitor
from rmsprop.torch import RMSprop
from rmsprop.torch.engines import cpu_kernel
from rmsprop.torch.engines.engine import LossScale, Remaining, StepInputs

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
    ({"capturable": True}, f"capturable must be False {ANY_WHERE}, got True; omit capturable"),
    ({"differentiable": True}, f"differentiable must be False {ANY_WHERE}, got True; omit differentiable"),
    ({"state_dtype": "uint8"}, f"state_dtype must be None {ANY_WHERE}, got 'uint8'; omit state_dtype"),
    ({"state_dtype": "bfloat16"}, f"state_dtype must be None {ANY_WHERE}, got 'bfloat16'; omit state_dtype"),
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
    inputs = StepInputs(optimizer, groups, optimizer.state, [0], LossScale(), None, 0, 0, {}, {0})
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
