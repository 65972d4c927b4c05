"""Step counters count beyond 2²⁴, where float32 stops: from any dtype, on every path, to torch and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytensor
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

import rmsprop.jax
from rmsprop import Rule, State, native, update
from rmsprop.pytensor import updates
from rmsprop.torch import RMSprop

FAR = 2**24 - 2
KERNEL = pytest.param({"fused": True}, marks=pytest.mark.skipif(native.kernel is None, reason=native.missing() or ""))
PATHS = {"kernel": KERNEL, "tensor operations": {"fused": False}, "foreach": {"foreach": True}}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def started(p: Tensor, at: Any = FAR, **options: Any) -> RMSprop:
    """Return an optimizer of `p` that has made a step with a gradient of 1; its counter is then set to `at`."""
    optimizer = RMSprop([p], **options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    if isinstance(at, Tensor):
        optimizer.state[p]["step"] = at
    else:
        optimizer.state[p]["step"].fill_(at)
    return optimizer


@paths
def test_steps_are_counted_beyond_float32(path: dict[str, Any]) -> None:
    p, q = torch.ones(3), torch.ones(2)
    optimizer = RMSprop([p, q], **path)
    for t in range(8):
        p.grad, q.grad = torch.ones(3), torch.ones(2)
        optimizer.step()
        if t == 0:
            optimizer.state[p]["step"].fill_(FAR)
    assert int(optimizer.state[p]["step"]) == FAR + 7
    assert int(optimizer.state[q]["step"]) == 8


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}, {}], ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_steps_are_counted_beyond_float32(options: dict[str, Any]) -> None:
    p = torch.ones(3)
    optimizer = started(p, **options)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for _ in range(4):
        p.grad = torch.ones(3)
        step()
    assert int(optimizer.state[p]["step"]) == FAR + 4


@paths
def test_noise_goes_on_from_step_to_step(path: dict[str, Any]) -> None:
    """A counter that stands still repeats its noise: a fortieth of the elements moved, each far too far."""
    p = torch.ones(4000, dtype=torch.bfloat16)
    optimizer = started(p, FAR + 2, lr=0.0, alpha=0.0, stochastic_rounding=True, **path)
    optimizer.param_groups[0]["lr"] = 1e-4
    for _ in range(200):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert float(p.double().mean()) == pytest.approx(1 - 200 * 1e-4, abs=0.001)
    assert float((p < 1).double().mean()) > 0.97


@paths
def test_averages_in_eight_bits_go_on(path: dict[str, Any]) -> None:
    p = torch.zeros(640)
    optimizer = started(p, FAR + 2, alpha=0.99, lr=0.0, state_dtype="uint8", **path)
    for _ in range(300):
        p.grad = torch.ones(640)
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    v = optimizer.effective_lr(p).double() ** -2
    assert float(v.mean()) == pytest.approx(1 - 0.99**301, abs=0.02)


@pytest.mark.parametrize("at", [2**24, 2**31 - 3, 2**32 - 3])
@paths
def test_rows_left_alone_decay_by_the_steps_in_between(path: dict[str, Any], at: int) -> None:
    if "foreach" in path:
        path = {"fused": False}
    p = torch.zeros(3, 2)
    optimizer = RMSprop([p], alpha=0.9, lr=0.0, **({} if path.get("fused") else path))

    def touch(row: int, value: float) -> None:
        p.grad = torch.sparse_coo_tensor(
            torch.tensor([[row]]), torch.full((1, 2), value), (3, 2), check_invariants=False
        )
        optimizer.step()

    touch(0, 1.0)
    optimizer.state[p]["step"].fill_(at)
    touch(0, 1.0)
    v = float(optimizer.state[p]["square_avg"][0, 0])
    assert v == pytest.approx(0.1 * 0.9 + 0.1)
    for _ in range(10):
        touch(1, 1.0)
    touch(0, 0.0)
    assert float(optimizer.state[p]["square_avg"][0, 0]) == pytest.approx(v * 0.9**11, rel=1e-6)
    assert int(optimizer.state[p]["step"]) == at + 12


@paths
def test_bias_is_corrected_by_the_steps_that_were_made(path: dict[str, Any]) -> None:
    rule = Rule(lr=1.0, decay=1 - 1e-8, eps=0.0, bias_correction=True)
    v = torch.full((4,), 0.25, dtype=torch.float64)
    p = torch.zeros(4, dtype=torch.float64)
    optimizer = RMSprop.from_rule([p], rule, **path)
    p.grad = torch.ones_like(p)
    optimizer.step()
    value, state = p.numpy().copy(), State(FAR, v.numpy())
    optimizer.state[p].update(square_avg=v.clone(), step=torch.tensor(float(FAR)))
    for _ in range(6):
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        value, state = update(rule, value, p.grad.numpy(), state)
    np.testing.assert_allclose(p.numpy(), value, rtol=1e-14)


@pytest.mark.parametrize(
    "at",
    [
        torch.tensor(256, dtype=torch.bfloat16),
        torch.tensor(2048, dtype=torch.float16),
        torch.tensor(2.0**24),
        torch.tensor(2**40, dtype=torch.int64),
        torch.tensor(77, dtype=torch.int32),
    ],
    ids=lambda x: str(x.dtype),
)
@pytest.mark.parametrize("how", ["by hand", "state dict"])
@paths
def test_counters_of_other_dtypes_count_on(path: dict[str, Any], how: str, at: Tensor) -> None:
    p, count = torch.ones(3), int(at)
    optimizer = started(p, at.clone(), **path)
    if how == "state dict":
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert optimizer.state[p]["step"].dtype == torch.float64
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step()
    assert int(optimizer.state[p]["step"]) == count + 3
    if path.get("fused"):
        assert optimizer.implementation.startswith("native kernel (")


@pytest.mark.parametrize("capturable", [False, True])
def test_a_loaded_count_is_whole(capturable: bool) -> None:
    """torch's load_state_dict casts counters of capturable groups to float32."""
    p = torch.ones(3)
    saved = started(torch.ones(3), FAR + 5, capturable=capturable).state_dict()
    optimizer = RMSprop([p], capturable=capturable)
    optimizer.load_state_dict(saved)
    p.grad = torch.ones(3)
    optimizer.step()
    assert int(optimizer.state[p]["step"]) == FAR + 6


@pytest.mark.parametrize("foreach", [False, True])
def test_torch_goes_on_from_here_and_this_from_torch(foreach: bool) -> None:
    p, q = torch.ones(3), torch.ones(3)
    ours, theirs = started(p, FAR + 5), torch.optim.RMSprop([q], foreach=foreach)
    saved = {name: x.clone() for name, x in ours.state_dict()["state"][0].items()}
    groups = [{**theirs.state_dict()["param_groups"][0]}]
    theirs.load_state_dict({"state": {0: saved}, "param_groups": groups})
    for _ in range(3):
        q.grad = torch.ones(3)
        theirs.step()
    assert int(theirs.state[q]["step"]) == FAR + 8
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    p.grad = torch.ones(3)
    ours.step()
    assert int(ours.state[p]["step"]) == FAR + 9
    fresh = torch.optim.RMSprop([q])
    q.grad = torch.ones(3)
    fresh.step()
    assert fresh.state[q]["step"].dtype == torch.float32
    fresh.state[q]["step"].fill_(FAR + 2)
    ours.load_state_dict(fresh.state_dict())
    p.grad = torch.ones(3)
    ours.step()
    assert int(ours.state[p]["step"]) == FAR + 3


@pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed", "ignore::FutureWarning:torch")
def test_a_distributed_checkpoint_of_torch_fills_a_counter_that_counts(tmp_path: Path) -> None:
    p, q = torch.ones(3), torch.ones(3)
    theirs = torch.optim.RMSprop([q])
    q.grad = torch.ones(3)
    theirs.step()
    theirs.state[q]["step"].fill_(FAR)
    save({"step": theirs.state[q]["step"]}, checkpoint_id=tmp_path, no_dist=True)
    ours = started(p, 1)
    target = {"step": ours.state[p]["step"]}
    load(target, checkpoint_id=tmp_path, no_dist=True)
    ours.state[p]["step"] = target["step"]
    for _ in range(4):
        p.grad = torch.ones(3)
        ours.step()
    assert int(ours.state[p]["step"]) == FAR + 4


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
@pytest.mark.parametrize("at", [FAR, 2**32 - 2, 2**40])
@pytest.mark.parametrize("state", ["bfloat16", "uint8"])
def test_kernel_and_tensor_operations_have_the_same_noise_however_far(state: str, at: int) -> None:
    runs = []
    for fused in (True, False):
        p = torch.ones(70)
        optimizer = started(p, at, state_dtype=state, fused=fused, momentum=0.9)
        for t in range(4):
            p.grad = torch.linspace(-1, 1, 70) * (t + 1)
            optimizer.step()
        runs.append({**optimizer.state[p], "p": p})
    for name, x in runs[0].items():
        assert torch.equal(x, runs[1][name]), name


def test_jax_and_pytensor_count_in_integers() -> None:
    optimizer = rmsprop.jax.rmsprop(Rule(bias_correction=True))
    state = optimizer.init(jax.numpy.ones(2))._replace(step=jax.numpy.int32(FAR))
    for _ in range(4):
        _, state = optimizer.update(jax.numpy.ones(2), state)
    assert int(state.step) == FAR + 4
    # The counter stays at its last number, as optax's do; βᵗ is 0 long before.
    state = state._replace(step=jax.numpy.int32(2**31 - 2))
    for _ in range(3):
        _, state = optimizer.update(jax.numpy.ones(2), state)
    assert int(state.step) == 2**31 - 1
    with pytensor.config.change_flags(cxx=""):
        p = pytensor.shared(np.ones(2, np.float32))
        made = updates([p * 0 + 1], [p], Rule(bias_correction=True))
        counter = next(x for x in made if x.name == "step")
        counter.set_value(np.int64(2**31))
        step = pytensor.function([], updates=made, mode="FAST_COMPILE")
        step()
        step()
        assert int(counter.get_value()) == 2**31 + 2


def test_a_module_in_another_dtype_leaves_the_counter_alone() -> None:
    model = nn.Linear(2, 1)
    optimizer = RMSprop(model.parameters())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model.to(dtype)
        optimizer.zero_grad()
        model(torch.ones(1, 2, dtype=dtype)).sum().backward()
        optimizer.step()
    assert [int(own["step"]) for own in optimizer.state.values()] == [3, 3]
