"""Loaded averages keep their dtype, or a warning names the change."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import STATE
from safetensors.torch import save_file
from state_dicts import ALL, PRECISIONS, randn, same_state, saved
from test_torch import step
from torch import nn

from rmsprop import InputError, checkpoint
from rmsprop.torch import RMSprop
from rmsprop.torch.low_precision import unpack
from rmsprop.torch.state import average


@pytest.mark.parametrize("options", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("built", [{}, {"state_dtype": "bfloat16"}, {"state_dtype": "uint8"}], ids=str)
def test_averages_keep_their_dtype_and_the_saved_state_dtype_wins(
    options: dict[str, Any], dtype: torch.dtype, built: dict[str, Any]
) -> None:
    if options.get("stochastic_rounding") and dtype != torch.bfloat16:
        options = {"state_dtype": options["state_dtype"]}
    p = randn(5, 7).to(dtype)
    first = RMSprop.from_rule([p], ALL, **options)
    for seed in range(3):
        step(first, [p], [randn(5, 7, seed=seed).to(dtype)])
    q = p.clone()
    second = RMSprop([q], **built)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        second.load_state_dict(saved(first))
    wanted, present = options.get("state_dtype"), built.get("state_dtype")
    texts = [str(each.message) for each in caught]
    assert texts == (
        []
        if wanted == present
        else [
            f"rmsprop: state_dtype={wanted!r} of the state dict replaces {present!r} in the group (for the other, set "
            f"group['state_dtype'] = {present!r} in optimizer.param_groups)"
        ]
    )
    same_state(first, second)
    for optimizer, x in ((first, p), (second, q)):
        step(optimizer, [x], [randn(5, 7, seed=9).to(dtype)])
    assert torch.equal(p, q)
    same_state(first, second)
    if wanted != present:  # follow the warning
        for group in second.param_groups:
            group["state_dtype"] = present
        step(second, [q], [torch.zeros_like(q)])
        stored = {None: torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}[present]
        assert all(second.state[q][name].dtype == stored for name in STATE)


def test_a_dtype_that_has_to_change_is_said_once() -> None:
    params = [randn(4, dtype=torch.float64), randn(3, 2, dtype=torch.float64)]
    first = RMSprop(params, momentum=0.5)
    step(first, params, [p.clone() for p in params])
    second = RMSprop([p.float() for p in params])
    words = r"the averages of 2 parameters change from float64 to float32 \(a model in float64 keeps them\)$"
    with pytest.warns(UserWarning, match=words) as caught:
        second.load_state_dict(saved(first))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for p, q in zip(params, second.param_groups[0]["params"], strict=True):
        for name in ("square_avg", "momentum_buffer"):
            assert torch.equal(second.state[q][name], first.state[p][name].float())


def test_torch_s_bfloat16_averages_become_float32_and_it_is_said() -> None:
    p = torch.rand(5).bfloat16()
    theirs = torch.optim.RMSprop([p])
    step(theirs, [p], [torch.rand(5).bfloat16()])
    ours = RMSprop([p])
    with pytest.warns(UserWarning, match=r"1 parameter change from bfloat16 to float32 \(state_dtype='bfloat16' keeps"):
        ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.state[p]["square_avg"], theirs.state[p]["square_avg"].float())
    kept = RMSprop([p], state_dtype="bfloat16")
    kept.load_state_dict(theirs.state_dict())  # no warning
    assert torch.equal(kept.state[p]["square_avg"], theirs.state[p]["square_avg"])


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_a_dict_of_torch_for_an_optimizer_with_small_state(state_dtype: str) -> None:
    p = torch.rand(40)
    theirs = torch.optim.RMSprop([p])
    step(theirs, [p], [torch.rand(40)])
    ours = RMSprop([p], state_dtype=state_dtype)
    words = rf"1 parameter change from float32 to {state_dtype} \(state_dtype=None keeps them\)"
    with pytest.warns(UserWarning, match=words):
        ours.load_state_dict(theirs.state_dict())
    v = ours.state[p]["square_avg"]
    assert str(v.dtype) == f"torch.{state_dtype}"
    close = unpack(v, p, signed=False) if state_dtype == "uint8" else v.float()
    torch.testing.assert_close(close, theirs.state[p]["square_avg"], rtol=1 / 16, atol=0)
    step(ours, [p], [torch.rand(40)])


def test_complex_averages_follow_a_complex_model() -> None:
    """torch keeps them in complex128."""
    p = torch.view_as_complex(randn(3, 2, dtype=torch.float64))
    first = RMSprop([p])
    step(first, [p], [p.clone()])
    second = RMSprop([p.to(torch.complex64)])
    with pytest.warns(UserWarning, match="from complex128 to complex64"):
        second.load_state_dict(saved(first))
    (own,) = second.state.values()
    assert own["square_avg"].dtype == torch.complex64


MOVES = {
    "half and back": (torch.float16, torch.float32),
    "bfloat16 and back": (torch.bfloat16, torch.float32),
    "double and back": (torch.float64, torch.float32),
    "float16 to bfloat16": (torch.float16, torch.bfloat16),
}


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("dtypes", MOVES.values(), ids=MOVES)
def test_state_follows_a_model_that_is_moved_between_steps(dtypes: tuple[torch.dtype, ...], fused: bool | None) -> None:
    """With zero gradients the averages only shrink by β: any loss in a move would show."""
    module = nn.Linear(5, 3)
    optimizer = RMSprop(module.parameters(), alpha=0.5, momentum=0.5, centered=True, fused=fused)
    (p, _), start = module.parameters(), randn(3, 5, seed=3)
    step(optimizer, list(module.parameters()), [start, torch.ones(3)])
    expected = {name: optimizer.state[p][name].double() for name in STATE}
    for dtype in dtypes:
        module.to(dtype)
        step(optimizer, list(module.parameters()), [torch.zeros_like(x) for x in module.parameters()])
        assert p.dtype == dtype
        for name in STATE:
            expected[name] = expected[name] / 2  # exact
            assert torch.equal(optimizer.state[p][name].double(), expected[name]), name
    assert torch.promote_types(optimizer.state[p]["square_avg"].dtype, torch.float32) == (
        torch.float64 if torch.float64 in dtypes else torch.float32
    )


def test_averages_lie_in_memory_as_their_parameter_does() -> None:
    """The kernel steps no other layout: state in another memory format is copied."""
    p, q = (nn.Conv2d(2, 3, 3).weight for _ in range(2))
    q.data = q.detach().to(memory_format=torch.channels_last)
    first, second = RMSprop([p], momentum=0.5), RMSprop([q])
    p.grad = randn(3, 2, 3, 3)
    first.step()
    second.load_state_dict(first.state_dict())
    for name in ("square_avg", "momentum_buffer"):
        assert second.state[q][name].stride() == q.stride()
        assert torch.equal(second.state[q][name], first.state[p][name])


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_small_state_is_read_as_float32_and_it_is_said(state_dtype: str, ending: str, tmp_path: Path) -> None:
    params = [randn(5, 7), randn(3)]
    optimizer = RMSprop(params, momentum=0.5, centered=True, state_dtype=state_dtype)
    step(optimizer, params, [randn(5, 7, seed=1), randn(3, seed=2)])
    if ending == ".pt":
        torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    else:
        made = optimizer.state_dict()
        save_file(
            {f"state/{i}/{name}": value for i, own in made["state"].items() for name, value in own.items()},
            tmp_path / "a.safetensors",
            {"param_groups": json.dumps(made["param_groups"])},
        )
    source = checkpoint.read(tmp_path / f"a{ending}")
    for p, read in zip(params, source.parameters, strict=True):
        for name in STATE:
            value = getattr(read, name)
            assert value.dtype == np.float32
            assert np.array_equal(value, average(optimizer.state[p], name, p).numpy())
    moved = checkpoint.convert(source, "torch")
    assert f"averages in {state_dtype} are read as float32, exactly" in moved.notes
    checkpoint.write(moved.checkpoint, tmp_path / "b.pt")
    theirs = torch.optim.RMSprop([p.clone() for p in params])
    theirs.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    step(theirs, theirs.param_groups[0]["params"], params)
    assert not {"state_dtype", "stochastic_rounding", "sparse", "nonfinite"} & theirs.param_groups[0].keys()
    checkpoint.write(checkpoint.convert(source, "rmsprop.torch").checkpoint, tmp_path / "c.pt")
    again = torch.load(tmp_path / "c.pt", weights_only=True)
    assert again["param_groups"][0]["state_version"] == 1
    ours = RMSprop([p.clone() for p in params])
    ours.load_state_dict(again)  # loads without a warning
    for p, q in zip(params, ours.param_groups[0]["params"], strict=True):
        for name in STATE:
            assert torch.equal(ours.state[q][name], average(optimizer.state[p], name, p))


def test_eight_bits_without_the_shape_of_their_parameter_are_not_read(tmp_path: Path) -> None:
    p = randn(5, 7)
    optimizer = RMSprop([p], state_dtype="uint8")
    step(optimizer, [p], [randn(5, 7, seed=1)])
    made = optimizer.state_dict()
    shape = made["state"][0].pop("shape")
    torch.save(made, tmp_path / "a.pt")
    with pytest.raises(
        InputError, match="must be averages with the shape of their parameter, got square_avg of 0 in ei"
    ):
        checkpoint.read(tmp_path / "a.pt")
    made["state"][0]["shape"] = shape + 1
    torch.save(made, tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"must be 50 bytes there, got square_avg of 0 of 37 bytes for shape \(6, 8\)"):
        checkpoint.read(tmp_path / "b.pt")
