"""A parameter whose size, shape or memory format changes is stepped right, or refused before anything moves."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmsprop import InputError, native
from rmsprop.torch import RMSprop

KERNEL = pytest.param({"fused": None}, marks=pytest.mark.skipif(native.kernel is None, reason=native.missing() or ""))
PATHS = {"kernel": KERNEL, "tensor operations": {"fused": False}, "foreach": {"foreach": True}}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
dtypes = pytest.mark.parametrize("state", [None, "bfloat16", "uint8"])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shrink(p: Tensor) -> None:
    p.data = p.data[:3].clone()


def grow(p: Tensor) -> None:
    p.data = torch.ones(8, 6)


def flatten(p: Tensor) -> None:
    p.data = p.data.view(-1)


def transpose(p: Tensor) -> None:
    p.data = p.data.t().contiguous()


def resize(p: Tensor) -> None:
    with torch.no_grad():
        p.resize_(2, 6)


def set_(p: Tensor) -> None:
    with torch.no_grad():
        p.set_(torch.ones(40).untyped_storage(), 0, (4, 7), (7, 1))


def swap(p: Tensor) -> None:
    torch.utils.swap_tensors(p, torch.ones(2, 2))  # type: ignore[no-untyped-call]


def broadcast(p: Tensor) -> None:
    p.data = torch.ones(6)


@paths
@dtypes
@pytest.mark.parametrize("change", [shrink, grow, flatten, transpose, resize, set_, swap, broadcast])
def test_another_shape_is_refused_before_anything_moves(
    change: Callable[[Tensor], None], state: str | None, path: dict[str, Any]
) -> None:
    """Otherwise a packed average could be read as other codes and exponents: the parameter would stand still."""
    params = [torch.ones(5), torch.ones(4, 6), torch.ones(3)]
    named = zip(("first", "weight", "last"), params, strict=True)
    optimizer = RMSprop(named, momentum=0.5, state_dtype=state, **path)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    params[1].grad = None
    change(params[1])
    shape = tuple(params[1].shape)
    for p in params:
        p.grad = torch.ones_like(p)
    before = copy.deepcopy([(p, optimizer.state[p]) for p in params])
    message = (
        f"square_avg of parameter 1 (weight) must be of its shape {shape}, got (4, 6); "
        "give the parameter its shape back, or forget its averages: optimizer.state.pop(parameter)"
    )
    for act in (optimizer.step, lambda: optimizer.effective_lr(params[1])):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            act()
    for p, (kept, own) in zip(params, before, strict=True):
        assert torch.equal(p, kept)
        assert all(torch.equal(optimizer.state[p][name], x) for name, x in own.items())
    optimizer.state.pop(params[1])
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 1, 2]


@paths
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state dict"])
def test_packed_averages_know_their_shape_wherever_they_go(how: str, path: dict[str, Any]) -> None:
    p = nn.Parameter(torch.ones(4, 6))
    optimizer = RMSprop([p], state_dtype="uint8", **path)
    p.grad = torch.ones(4, 6)
    optimizer.step()
    if how == "state dict":
        other = RMSprop([p], state_dtype="uint8", **path)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        other = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    q = other.param_groups[0]["params"][0]
    q.data = q.data.view(6, 4)
    q.grad = torch.ones(6, 4)
    with pytest.raises(InputError, match=r"must be of its shape \(6, 4\), got \(4, 6\)"):
        other.step()
    # A saved state has the shape of the averages, not of a parameter that has changed.
    assert other.state_dict()["state"][0]["shape"].tolist() == [4, 6]


@paths
@dtypes
def test_another_order_in_memory_is_stepped_element_by_element(state: str | None, path: dict[str, Any]) -> None:
    start, gradients = randn(2, 3, 4, 5), [randn(2, 3, 4, 5, seed=t + 1) for t in range(6)]
    ends = []
    for formats in ([torch.contiguous_format] * 6, [torch.contiguous_format] * 3 + [torch.channels_last] * 3):
        p = start.clone()
        optimizer = RMSprop([p], momentum=0.5, centered=True, state_dtype=state, **path)
        for g, form in zip(gradients, formats, strict=True):
            p.grad = None
            p.data = p.data.to(memory_format=form)
            p.grad = g.to(memory_format=form)
            optimizer.step()
        ends.append(p)
    # The noise that rounds bfloat16 averages belongs to positions in memory.
    far = 0.02 if state == "bfloat16" else 1e-6
    torch.testing.assert_close(*ends, rtol=far, atol=far)


def test_rows_of_another_number_are_refused() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    optimizer = RMSprop(table.parameters())
    for rows in (3, 5):
        table.weight.grad = None
        table.weight.data = torch.ones(rows, 2)
        table(torch.tensor([0, 2])).sum().backward()
        if rows == 3:
            optimizer.step()
    before = table.weight.detach().clone()
    with pytest.raises(InputError, match=r"square_avg of parameter 0 must be of its shape \(5, 2\), got \(3, 2\)"):
        optimizer.step()
    assert torch.equal(table.weight, before)
    assert int(optimizer.state[table.weight]["step"]) == 1


def test_a_state_dict_of_another_shape_is_refused() -> None:
    p, q = torch.ones(4, 6), torch.ones(6, 4)
    optimizer, other = RMSprop([p], state_dtype="uint8"), RMSprop([q], state_dtype="uint8")
    p.grad = torch.ones(4, 6)
    optimizer.step()
    (error,) = other.check_state_dict(optimizer.state_dict())
    assert "must be of shape (6, 4), got shape (4, 6) in eight bits" in error


@paths
@dtypes
def test_lazy_parameters_have_state_in_few_bits_once_they_are_there(state: str | None, path: dict[str, Any]) -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(1))
    optimizer = RMSprop(model.parameters(), state_dtype=state, **path)
    assert ("native kernel" in optimizer.implementation) == (path.get("fused", False) is None)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step()
    assert model[0].weight.shape == (3, 5)
    dtype = {None: torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}[state]
    assert {own["square_avg"].dtype for own in optimizer.state.values()} == {dtype}
    assert len(optimizer.state) == 4
