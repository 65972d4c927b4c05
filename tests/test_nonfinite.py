"""Gradients that are not finite: kept in the averages, skipped, or counted as 0, on every path and every rank."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.utils._python_dispatch import TorchDispatchMode

from rmsprop import InputError, native
from rmsprop.torch import RMSprop
from rmsprop.torch.engines import engine

EXECUTIONS: dict[str, dict[str, Any]] = {
    **({} if native.kernel is None else {"native kernel": {"fused": True}}),
    "one by one": {"foreach": False},
    "foreach": {"foreach": True},
    "capturable": {"capturable": True},
    "capturable foreach": {"capturable": True, "foreach": True},
}
RULE = cases.RULES["all of it"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
# The largest numbers with a finite square.
BORDER = {torch.float32: 2.0**64 * (1 - 2.0**-24), torch.float64: math.nextafter(2.0**512, 0)}


def bad_numbers(dtype: torch.dtype) -> list[float]:
    large = [2.0**512] if dtype == torch.float64 else [] if dtype == torch.float16 else [2.0**64, -(2.0**100)]
    return [math.inf, -math.inf, math.nan, *large]


def pair(dtype: torch.dtype, **options: Any) -> tuple[list[Tensor], RMSprop, list[Tensor], RMSprop]:
    """Return an optimizer with two groups, and one of copies that gets clean gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(n, generator=generator).to(dtype) for n in (5, 40, 700)]
    copies = [p.clone() for p in params]

    def groups(ps: list[Tensor]) -> Any:
        return [{"params": ps[:2]}, {"params": ps[2:], "lr": 0.5}]

    plain = {name: value for name, value in options.items() if name != "nonfinite"}
    return (
        params,
        RMSprop.from_rule(groups(params), RULE, **options),
        copies,
        RMSprop.from_rule(groups(copies), RULE, **plain),
    )


def give(params: list[Tensor], seed: int, bad: float | None = None, at: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    if bad is not None:
        params[at].grad[3] = bad  # type: ignore[index]


def same(a: list[Tensor], x: RMSprop, b: list[Tensor], y: RMSprop) -> None:
    for p, q in zip(a, b, strict=True):
        assert torch.equal(p, q)
        assert x.state[p].keys() == y.state[q].keys()
        assert all(torch.equal(value, y.state[q][name]) for name, value in x.state[p].items())


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_skip_leaves_the_whole_step_out(dtype: torch.dtype, execution: dict[str, Any]) -> None:
    """Also skips the other group's parameters and the counters. The run continues as if there had been no step."""
    a, x, b, y = pair(dtype, nonfinite="skip", **execution)
    for seed, bad in enumerate([None, *bad_numbers(dtype), None]):
        give(a, seed, bad, at=seed % 3)
        x.step()
        if bad is None:
            give(b, seed)
            y.step()
    same(a, x, b, y)
    assert x.nonfinite_steps == len(bad_numbers(dtype))
    assert y.nonfinite_steps == 0


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_counts_the_elements_as_zero(dtype: torch.dtype, execution: dict[str, Any]) -> None:
    a, x, b, y = pair(dtype, nonfinite="zero", **execution)
    for seed, bad in enumerate([None, *bad_numbers(dtype), None]):
        give(a, seed, bad)
        give(b, seed, None if bad is None else 0.0)
        x.step()
        y.step()
    same(a, x, b, y)
    assert x.nonfinite_steps == len(bad_numbers(dtype))


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_propagate_is_the_default_and_goes_into_the_averages(execution: dict[str, Any]) -> None:
    p = torch.ones(4)
    optimizer = RMSprop([p], **execution)
    p.grad = torch.tensor([1.0, math.inf, math.nan, 1.0])
    optimizer.step()
    assert optimizer.state[p]["square_avg"].isfinite().tolist() == [True, False, False, True]
    assert optimizer.nonfinite_steps == 0


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("mode", ["skip", "zero"])
@pytest.mark.parametrize("dtype", BORDER, ids=str)
def test_what_is_finite_is_used(dtype: torch.dtype, mode: str, execution: dict[str, Any]) -> None:
    p = torch.ones(40, dtype=dtype)
    optimizer = RMSprop([p], nonfinite=mode, **execution)
    p.grad = torch.full_like(p, BORDER[dtype])
    optimizer.step()
    assert optimizer.nonfinite_steps == 0
    assert optimizer.state[p]["square_avg"].isfinite().all()
    assert (p < 1).all()


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_groups_have_their_own_way(execution: dict[str, Any]) -> None:
    p, q = torch.ones(5), torch.ones(5)
    optimizer = RMSprop([{"params": [p], "nonfinite": "skip"}, {"params": [q], "nonfinite": "zero"}], **execution)
    for mine, other, moved in ((math.inf, 1.0, False), (1.0, math.inf, True)):
        before = q.clone()
        p.grad, q.grad = torch.full((5,), mine), torch.full((5,), other)
        q.grad[0] = 1.0
        optimizer.step()
        assert bool((p != 1).all()) == moved
        assert bool(q[0] != before[0]) == moved
    assert torch.equal(q[1:], torch.ones(4))
    assert optimizer.nonfinite_steps == 2


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that make the host wait for a device, because they read a number from a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        result = function(*args, **(kwargs or {}))
        devices = {x.device for x in (*args, result) if isinstance(x, Tensor) and x.dim()}
        self.count += len(devices) > 1 or (
            function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
            and len({x.device for x in (*args, result) if isinstance(x, Tensor)}) > 1
        )
        return result


@pytest.mark.parametrize("mode", ["skip", "zero"])
@pytest.mark.parametrize("state", [None, "bfloat16", "uint8"])
@pytest.mark.parametrize("foreach", [False, True])
def test_a_device_is_not_waited_for(mode: str, state: str | None, foreach: bool) -> None:
    p = torch.ones(40, dtype=torch.bfloat16)
    options: dict[str, Any] = {"state_dtype": state, "stochastic_rounding": True, "bias_correction": True}
    optimizer = RMSprop([p], nonfinite=mode, capturable=True, foreach=foreach, **options)
    for bad in (1.0, math.nan, 1.0):
        p.grad = torch.ones_like(p)
        p.grad[3] = bad
        with Reads() as reads:
            optimizer.step()
        assert reads.count == 0
    assert optimizer.nonfinite_steps == 1
    assert float(optimizer.state[p]["step"]) == (2 if mode == "skip" else 3)
    assert p.isfinite().all()


@pytest.mark.parametrize("mode", ["skip", "zero"])
@pytest.mark.parametrize("capturable", [False, True])
def test_nothing_goes_to_a_device_or_comes_from_it(mode: str, capturable: bool) -> None:
    """The device has no memory: no number can be read."""
    p = torch.ones(40, device="meta")
    optimizer = RMSprop([p], nonfinite=mode, capturable=capturable, momentum=0.5, bias_correction=capturable)
    p.grad = torch.ones_like(p)
    optimizer.step()  # creates the state
    with Reads() as reads:
        optimizer.step()
    assert reads.count == 0
    assert optimizer.state[p]["step"].device.type == ("meta" if capturable or mode == "skip" else "cpu")


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_several_bad_gradients_are_one_bad_step(execution: dict[str, Any]) -> None:
    """Groups differ in what they do, and one has no gradients."""
    params = [torch.ones(3) for _ in range(4)]
    modes = ("skip", "zero", "zero", "skip")
    groups: list[dict[str, Any]] = [{"params": [p], "nonfinite": mode} for p, mode in zip(params, modes, strict=True)]
    optimizer = RMSprop(groups, **execution)
    for p in (params[0], params[1], params[3]):
        p.grad = torch.full((3,), math.inf)
    optimizer.step()
    assert optimizer.nonfinite_steps == 1
    assert all(torch.equal(p, torch.ones(3)) for p in params)


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
def test_a_step_by_the_kernel_is_left_out_with_one_for_a_graph() -> None:
    p, q = torch.ones(3), torch.ones(3)
    groups: list[dict[str, Any]] = [{"params": [p]}, {"params": [q], "capturable": True}]
    optimizer = RMSprop(groups, nonfinite="skip")
    p.grad, q.grad = torch.ones(3), torch.full((3,), math.nan)
    optimizer.step()
    assert torch.equal(p, q)
    assert optimizer.nonfinite_steps == 1
    p.grad, q.grad = torch.full((3,), math.nan), torch.ones(3)
    optimizer.step()
    assert torch.equal(p, torch.ones(3))
    assert torch.equal(q, torch.ones(3))


@pytest.mark.parametrize("mode", ["skip", "zero"])
@pytest.mark.parametrize("state", ["bfloat16", "uint8"])
def test_small_state_stays_finite(mode: str, state: str) -> None:
    p = torch.ones(100, dtype=torch.bfloat16)
    optimizer = RMSprop([p], nonfinite=mode, state_dtype=state, stochastic_rounding=True, momentum=0.5)
    other = copy.deepcopy(optimizer)
    other.param_groups[0]["fused"] = False
    for which in (optimizer, other):
        (q,) = which.param_groups[0]["params"]
        for bad in (1.0, math.inf, 1.0):
            q.grad = torch.ones_like(q)
            q.grad[50] = bad
            which.step()
        assert q.isfinite().all()
        assert which.nonfinite_steps == 1
    (q,) = other.param_groups[0]["params"]
    assert torch.equal(p, q)


def test_a_loss_scale_is_taken_off_before_the_gradient_is_judged() -> None:
    """With fused=True, GradScaler passes scaled gradients."""
    p = torch.ones(4)
    optimizer = RMSprop([p], nonfinite="zero", fused=None if native.kernel is None else True)
    for size, bad in ((2.0**70, 0), (2.0**90, 1)):
        p.grad = torch.tensor([size, 1.0, 1.0, 1.0])
        optimizer.grad_scale = torch.tensor(2.0**16)  # type: ignore[attr-defined]
        optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
        optimizer.step()
        assert optimizer.nonfinite_steps == bad
        assert optimizer.state[p]["square_avg"].isfinite().all()


class Skips:
    """An observer that keeps what it was told of skipped steps."""

    def __init__(self) -> None:
        self.skips: list[Any] = []

    def wanted(self) -> tuple[int, int]:
        return 0, 0

    def measured(self, *_: Any) -> None:
        pass

    def skipped(self, *told: Any) -> None:
        self.skips.append(told)


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
@pytest.mark.parametrize("mode", ["propagate", "skip"])
def test_an_engine_of_the_host_skips_by_a_scaler_s_flag_on_a_device(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native kernel cannot skip on a device: the host reads the flag, and the observer hears of the skip."""
    monkeypatch.setattr(engine, "HOST", "none")
    p, observer = torch.ones(4), Skips()
    optimizer = RMSprop([p], nonfinite=mode, fused=True)
    optimizer.watch(observer)
    for t, found in enumerate((0.0, 1.0, 0.0)):
        p.grad, before = torch.full((4,), 8.0), p.clone()
        if found:
            p.grad[0] = torch.inf
        scale, flag = torch.tensor(4.0), torch.tensor(found)
        optimizer.grad_scale, optimizer.found_inf = scale, flag  # type: ignore[attr-defined]
        optimizer.step()
        assert torch.equal(p, before) == bool(found), t
        assert p.grad[1] == (8.0 if found else 2.0)
    assert optimizer.implementation.startswith("native kernel")
    assert observer.skips == [([], [])]
    assert optimizer.nonfinite_steps == 0
    assert optimizer.state[p]["step"] == 2


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
@pytest.mark.parametrize("mode", ["skip", "zero"])
def test_a_scaled_gradient_is_finite_if_it_is_so_without_the_scale(mode: str) -> None:
    p = torch.ones(4)
    optimizer = RMSprop([p], nonfinite=mode, fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0**16), torch.tensor(0.0)  # type: ignore[attr-defined]
    p.grad = torch.full((4,), 2.0**70)
    optimizer.step()
    assert optimizer.nonfinite_steps == 0
    assert (p < 1).all()
    assert torch.equal(p.grad, torch.full((4,), 2.0**54))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler_from_end_to_end(dtype: torch.dtype, fused: bool | None) -> None:
    """A float32 network trains under autocast. A step with an infinite gradient is skipped, and the scale falls."""
    if fused and native.kernel is None:
        pytest.skip(native.missing() or "")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(64, 8)
    y = x.sum(1, keepdim=True)
    optimizer = RMSprop(model.parameters(), lr=1e-2, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10)
    losses = []
    for t in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = (model(x).float() - y).square().mean()
        scaler.scale(loss).backward()
        before = [p.detach().clone() for p in model.parameters()]
        if t == 30:
            next(model.parameters()).grad[0, 0] = math.inf  # type: ignore[index]
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if t == 30:
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
            assert scaler.get_scale() == scale / 2
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert all(p.isfinite().all() for p in model.parameters())


def on_two_ranks(train: Callable[[int, str], None], folder: Path) -> list[Any]:
    """Return what each of two processes reports at its end, in files: a manager would fork a process with threads."""
    start_processes(train, (str(folder / "store"),), 2, start_method="forkserver")  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def train_on_rank(rank: int, file: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    p = torch.ones(4)
    optimizer = RMSprop([p], nonfinite="skip")
    for t in range(4):
        p.grad = torch.ones(4)
        if t == 1 and rank == 1:
            p.grad[0] = math.nan
        if t == 2:
            p.grad = None if rank == 0 else p.grad * math.inf
        optimizer.step()
    told = [p.tolist(), float(optimizer.state[p]["step"]), optimizer.nonfinite_steps]
    Path(file).with_name(f"{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_a_step_is_left_out_on_every_rank(tmp_path: Path) -> None:
    first, second = on_two_ranks(train_on_rank, tmp_path)
    assert first == second
    assert first[1:] == [2.0, 2]


def train_shards_on_rank(rank: int, file: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    told = []
    options: list[dict[str, Any]] = [
        {"nonfinite": "skip"},
        {"nonfinite": "zero", "foreach": True},
        {"nonfinite": "skip", "state_dtype": "bfloat16", "stochastic_rounding": True},
        {"nonfinite": "skip", "capturable": True, "stochastic_rounding": True},
        {"nonfinite": "zero", "foreach": True, "stochastic_rounding": True},
    ]
    for own in options:
        torch.manual_seed(0)
        half = torch.bfloat16 if "stochastic_rounding" in own else torch.float32
        model = nn.Sequential(nn.Linear(8, 6), nn.Linear(8, 6).to(half))
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        optimizer = RMSprop(model.parameters(), lr=0.01, momentum=0.5, **own)
        for t in range(4):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            if t == 1 and rank == 1:
                gradient: Any = next(model.parameters()).grad
                gradient.to_local()[0] = math.nan
            optimizer.step()
        own_weight: Any = model[1].weight
        weight = own_weight.full_tensor()
        told.append((weight.isfinite().all().item(), bool((weight < 0.36).any()), float(weight.float().sum())))
        told[-1] += (float(optimizer.state[own_weight]["step"]),)  # type: ignore[assignment]
    Path(file).with_name(f"{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_shards_are_stepped_together_or_not_at_all(tmp_path: Path) -> None:
    """FSDP2: each rank rounds its own shard. One rank's bad gradient skips the step on both."""
    first, second = on_two_ranks(train_shards_on_rank, tmp_path)
    assert first == second
    assert [steps for *_, steps in first] == [3, 4, 3, 3, 4]
    assert all(finite for finite, *_ in first)


@pytest.mark.parametrize("value", ["ignore", None, True])
def test_a_mode_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^nonfinite must be 'propagate', 'skip' or 'zero', got"):
        RMSprop([torch.ones(1)], nonfinite=value)
