"""A run stopped in torch.optim.Adam, AdamW or NAdam continues here, and back, by load_state_dict and by conversion."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rmsprop import InputError, profile
from rmsprop.checkpoint import convert, plan, read, write
from rmsprop.torch import RMSprop

RUNS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "Adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}, "adam"),
    "amsgrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}, "amsgrad"),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.2}, "adamw"),
    "NAdam": (torch.optim.NAdam, {"lr": 0.01, "momentum_decay": 0.02}, "nadam"),
}
STEPS = 60


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    """NAdam keeps its product of momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5,), (3, 2))]


def train(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** (step % 5 - 2)
        optimizer.step()


def values(params: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def uninterrupted(cls: Any, options: dict[str, Any]) -> list[torch.Tensor]:
    params = parameters()
    train(cls(params, **options), params, range(2 * STEPS))
    return values(params)


def agree(params: list[torch.nn.Parameter], expected: list[torch.Tensor]) -> None:
    for p, q in zip(values(params), expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def moved(optimizer: torch.optim.Optimizer, kind: str, folder: Path) -> Any:
    """Return the state dict that a conversion to `kind` writes."""
    source, target = folder / "source.pt", folder / f"{kind}.pt"
    torch.save(optimizer.state_dict(), source)
    write(convert(read(source), kind).checkpoint, target)
    return torch.load(target)


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_torch_continues_here_and_back_as_if_uninterrupted(name: str, by_file: bool, tmp_path: Path) -> None:
    cls, options, profile_name = RUNS[name]
    params = parameters()
    theirs = cls(params, **options)
    train(theirs, params, range(STEPS // 2))
    ours = RMSprop.from_rule(params, profile(profile_name))
    saved = moved(theirs, "rmsprop.torch", tmp_path) if by_file else copy.deepcopy(theirs.state_dict())
    ours.load_state_dict(saved)
    train(ours, params, range(STEPS // 2, STEPS))
    back = cls(params, **options)
    back.load_state_dict(moved(ours, "nadam" if cls is torch.optim.NAdam else "adam", tmp_path))
    train(back, params, range(STEPS, 2 * STEPS))
    agree(params, uninterrupted(cls, options))


def test_plain_rmsprop_from_adam_keeps_v_and_says_what_is_dropped(tmp_path: Path) -> None:
    params = parameters()
    adam = torch.optim.Adam(params, amsgrad=True)
    train(adam, params, range(STEPS))
    source = tmp_path / "adam.pt"
    torch.save(adam.state_dict(), source)
    conversion = convert(read(source), "torch")
    assert not conversion.problems
    dropped = [note.partition(":")[0] for note in conversion.notes]
    factor = math.sqrt(1 - 0.999**STEPS)
    assert dropped == [
        "momentum_buffer is dropped, as it averages gradients",
        "max_square_avg is dropped, as the target divides by square_avg",
        "torch has no bias correction",
    ]
    assert f"√v is {factor:.4g} times as large as √v̂" in conversion.notes[2]
    write(conversion.checkpoint, tmp_path / "plain.pt")
    plain = torch.optim.RMSprop(params)
    plain.load_state_dict(torch.load(tmp_path / "plain.pt"))
    assert (plain.param_groups[0]["alpha"], plain.param_groups[0]["momentum"]) == (0.999, 0.0)
    for p in params:
        assert torch.equal(plain.state[p]["square_avg"], adam.state[p]["exp_avg_sq"])


def test_a_plain_rmsprop_does_not_become_adam_unasked() -> None:
    params = parameters()
    adam = torch.optim.Adam(params)
    train(adam, params, range(3))
    ours = RMSprop(params)
    with pytest.raises(
        InputError, match=r"^first_moment must be True to continue torch.optim.Adam or AdamW, got False; "
    ):
        ours.load_state_dict(adam.state_dict())
    assert not ours.state


def test_what_a_library_cannot_follow_prevents_the_conversion(tmp_path: Path) -> None:
    params = parameters()
    nadam = torch.optim.NAdam(params)
    train(nadam, params, range(3))
    torch.save(nadam.state_dict(), tmp_path / "nadam.pt")
    assert plan(read(tmp_path / "nadam.pt"), "adam").problems == (
        "impossible: adam has no schedule of momentum",
        "impossible: adam has no Nesterov momentum",
    )
    assert not plan(read(tmp_path / "nadam.pt"), "torch").problems  # its momentum is dropped


def test_momentum_of_updates_is_not_taken_for_an_average_of_gradients(tmp_path: Path) -> None:
    params = parameters()
    heavy_ball = torch.optim.RMSprop(params, momentum=0.9)
    train(heavy_ball, params, range(3))
    torch.save(heavy_ball.state_dict(), tmp_path / "heavy.pt")
    conversion = convert(read(tmp_path / "heavy.pt"), "adam")
    assert any(note.startswith("momentum_buffer is dropped, as it sums updates") for note in conversion.notes)
    buffers = [p.momentum_buffer for p in conversion.checkpoint.parameters]
    assert all(b is not None and not b.any() for b in buffers)


def test_a_schedule_that_changed_during_the_run_is_refused(tmp_path: Path) -> None:
    """NAdam's product holds the betas of the steps before; the rule computes the product from the step count."""
    params = parameters()
    nadam = torch.optim.NAdam(params)
    train(nadam, params, range(2))
    nadam.param_groups[0]["betas"] = (0.5, 0.999)
    ours = RMSprop.from_rule(params, profile("nadam"))
    message = r"^mu_product of .* must be 0\.\d+ after 2 steps, got 0\.2.*; its betas or momentum_decay changed during"
    with pytest.raises(InputError, match=message):
        ours.load_state_dict(nadam.state_dict())
    torch.save(nadam.state_dict(), tmp_path / "nadam.pt")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "nadam.pt")


def test_nadam_without_a_schedule_is_no_rule_of_torch(tmp_path: Path) -> None:
    """At momentum_decay=0 torch.optim.NAdam halves its momentum."""
    params = parameters()
    nadam = torch.optim.NAdam(params, momentum_decay=0.0)
    train(nadam, params, range(2))
    ours = RMSprop.from_rule(params, profile("nadam", momentum_decay=0.0))
    with pytest.raises(InputError, match=r"^momentum_decay must be > 0, got 0\.0; at 0 torch.optim.NAdam halves"):
        ours.load_state_dict(nadam.state_dict())
    train(ours, params, range(2))
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    assert "impossible: torch.optim.NAdam halves a momentum without schedule" in (
        plan(read(tmp_path / "ours.pt"), "nadam").problems
    )
