"""State dicts of torch, timm, Stable-Baselines3 and earlier versions are identified and loaded."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import cases
import numpy as np
import pytest
import torch
from cases import STATE
from state_dicts import ALL, HALF, randn, saved
from test_torch import step, tensors

from rmsprop import InputError, Rule, checkpoint
from rmsprop.torch import RMSprop

# -- between classes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"momentum": 0.7, "centered": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("first", [torch.optim.RMSprop, RMSprop])
@pytest.mark.parametrize("second", [torch.optim.RMSprop, RMSprop])
def test_state_dicts_move_both_ways(first: type, second: type, options: dict[str, Any]) -> None:
    """A run that changes its class in the middle continues unchanged."""
    params, gradients = tensors(torch.float64)
    whole = [p.clone() for p in params]
    reference = torch.optim.RMSprop(whole, **options)
    before = first(params, **options)
    for g in gradients[:6]:
        step(before, params, g)
        step(reference, whole, g)
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    buffer.seek(0)
    after = second(params, lr=7.0)  # the saved groups replace 7.0
    after.load_state_dict(torch.load(buffer, weights_only=True))
    for g in gradients[6:]:
        step(after, params, g)
        step(reference, whole, g)
    for p, q in zip(params, whole, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_a_dict_from_torch_leaves_the_variants_as_they_are() -> None:
    p = torch.ones(2)
    theirs = torch.optim.RMSprop([p], lr=0.5)
    step(theirs, [p], [torch.ones(2)])
    ours = RMSprop([p], eps_inside_sqrt=True, initial_square_avg=1.0)
    ours.load_state_dict(theirs.state_dict())
    rule = ours.rule()
    assert (rule.lr, rule.eps_inside_sqrt, rule.initial_square_avg) == (0.5, True, 1.0)


@pytest.mark.parametrize("source", [None, "torch"])
@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (
            {"momentum": 0.5},
            {"lr_in_momentum": True},
            "lr_in_momentum must be False for the momentum_buffer of torch.optim.RMSprop, got True; build the "
            "optimizer without it, or use rmsprop convert",
        ),
        (
            {},
            {"bias_correction": True, "initial_square_avg": 1.0},
            "initial_square_avg must be 0 with bias_correction for averages of torch.optim.RMSprop, got 1.0; build",
        ),
    ],
)
def test_averages_of_torch_are_not_taken_for_others(
    theirs: dict[str, Any], ours: dict[str, Any], message: str, source: str | None
) -> None:
    """torch's b holds g/d, this one's η·g/d; torch's v began at 0."""
    p = torch.ones(2)
    other = torch.optim.RMSprop([p], **theirs)
    optimizer = RMSprop([p], **ours)
    optimizer.load_state_dict(other.state_dict(), source=source)  # no step was executed
    for name, value in ours.items():
        assert optimizer.param_groups[0][name] == value
    step(other, [p], [torch.ones(2)])
    (problem,) = optimizer.check_state_dict(other.state_dict(), source=source)
    assert problem.startswith(message)
    with pytest.raises(InputError) as caught:
        optimizer.load_state_dict(other.state_dict(), source=source)
    assert str(caught.value) == problem
    RMSprop([p]).load_state_dict(other.state_dict(), source=source)


def test_own_state_dict_brings_its_variants() -> None:
    p = torch.ones(2)
    first = RMSprop.from_rule([p], cases.RULES["all of it"])
    step(first, [p], [torch.ones(2)])
    second = RMSprop([p])
    second.load_state_dict(first.state_dict())
    assert second.rule() == cases.RULES["all of it"]


def test_pickles_without_the_newer_options_get_their_defaults() -> None:
    p = torch.ones(2)
    optimizer = RMSprop([p])
    step(optimizer, [p], [torch.ones(2)])
    state = optimizer.__getstate__()
    group = {k: v for k, v in state["param_groups"][0].items() if k in ("params", "lr", "alpha", "eps", "weight_decay")}
    state["state"][p]["step"] = 3  # torch before 1.12 stored a number
    defaults = {k: v for k, v in state["defaults"].items() if k in group}
    optimizer.__setstate__({**state, "param_groups": [group], "defaults": defaults})
    assert optimizer.rule() == Rule()
    assert torch.equal(optimizer.state[p]["step"], torch.tensor(3.0))
    step(optimizer, [p], [torch.ones(2)])
    optimizer.add_param_group({"params": [torch.ones(3)]})
    assert optimizer.rule(1) == Rule()


def test_a_model_moved_to_a_wider_dtype_goes_on_in_it() -> None:
    p = torch.ones(3)
    optimizer = RMSprop([p])
    step(optimizer, [p], [torch.ones(3)])
    p.data = p.data.double()
    optimizer.param_groups[0].update(lr=1e-10, centered=True, momentum=0.5)
    before = p.clone()
    step(optimizer, [p], [torch.ones(3, dtype=torch.float64)])
    assert (p != before).all()
    assert all(optimizer.state[p][name].dtype == torch.float64 for name in STATE)


# -- from timm and Stable-Baselines3 ----------------------------------------------------------------------------------


@contextmanager
def rmsprop_tf(name: str) -> Iterator[Any]:
    """Yield timm's or SB3's class without importing the packages around it, which import much else."""
    package, inner, file, cls = {
        "timm": ("timm", "timm.optim", "rmsprop_tf", "RMSpropTF"),
        "sb3": ("stable_baselines3", "stable_baselines3.common.sb2_compat", "rmsprop_tf_like", "RMSpropTFLike"),
    }[name]
    found = PathFinder.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    root = Path(next(iter(found.submodule_search_locations)))
    names = [inner.rsplit(".", i)[0] for i in range(inner.count("."), -1, -1)]
    before = {key: module for key, module in sys.modules.items() if key.split(".")[0] == package}
    for key in before:
        del sys.modules[key]
    for each in names:
        sys.modules[each] = module = ModuleType(each)
        module.__path__ = [str(root.joinpath(*each.split(".")[1:]))]
    try:
        yield getattr(importlib.import_module(f"{inner}.{file}"), cls)
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == package]:
            del sys.modules[key]
        sys.modules.update(before)


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "timm": ("timm", {"momentum": 0.6}),
    "timm, rate outside": ("timm", {"momentum": 0.6, "lr_in_momentum": False, "weight_decay": 0.3}),
    "timm, decoupled": ("timm", {"weight_decay": 0.3, "decoupled_decay": True, "centered": True, "momentum": 0.6}),
    "timm, plain": ("timm", {}),
    "SB3": ("sb3", {"momentum": 0.6, "weight_decay": 0.3}),
    "SB3, centered": ("sb3", {"centered": True}),
}


@pytest.mark.parametrize("begun", [0, HALF], ids=["new", "begun"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_run_of_timm_or_sb3_goes_on_as_it_would_have_there(other: str, begun: int) -> None:
    """The rate changes; the optimizer here was built with other options; state may be empty."""
    kind, options = OTHERS[other]
    start, gradients = cases.problem(np.float64)
    with rmsprop_tf(kind) as cls:
        params = [torch.from_numpy(start.copy())]
        theirs = cls(params, lr=cases.lr_at(1), alpha=0.8, eps=0.02, **options)
        for t in range(begun):
            theirs.param_groups[0]["lr"] = cases.lr_at(t + 1)
            step(theirs, params, [torch.from_numpy(gradients[t])])
        mine = [params[0].clone()]
        ours = RMSprop(mine, momentum=0.3, nesterov=True, bias_correction=True, maximize=True)
        assert ours.check_state_dict(saved(theirs), source=None if kind == "timm" else "sb3") == []
        ours.load_state_dict(saved(theirs), source=None if kind == "timm" else "sb3")
        for t in range(begun, cases.STEPS):
            for optimizer, ps in ((theirs, params), (ours, mine)):
                optimizer.param_groups[0]["lr"] = cases.lr_at(t + 1)
                step(optimizer, ps, [torch.from_numpy(gradients[t])])
            torch.testing.assert_close(mine[0], params[0], rtol=1e-12, atol=1e-14)
        for name in STATE:
            if name in theirs.state[params[0]]:
                torch.testing.assert_close(
                    ours.state[mine[0]][name], theirs.state[params[0]][name], rtol=1e-12, atol=1e-14
                )
    assert not {"decoupled_decay", "caution", "max_lr_snapshot"} & ours.param_groups[0].keys()


def timm_group(**changes: Any) -> dict[str, Any]:
    return {
        "lr": 0.1, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "centered": False, "weight_decay": 0.1,
        "decoupled_decay": True, "corrected_weight_decay": False, "max_lr_snapshot": 0.1, "lr_in_momentum": True,
        "caution": False, "foreach": None, "params": [0], **changes,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["caution", "corrected_weight_decay"])
def test_what_only_timm_does_cannot_go_on(name: str) -> None:
    given = {"state": {}, "param_groups": [timm_group(**{name: True})]}
    with pytest.raises(InputError, match=f"^{name} must be False, got True; no other RMSprop"):
        RMSprop([torch.zeros(1)]).load_state_dict(given)


SB3_GROUP = {"lr": 0.1, "momentum": 0.0, "alpha": 0.9, "eps": 1e-5, "centered": False, "weight_decay": 0.0}


def test_groups_that_do_not_tell_whose_they_are_are_not_guessed() -> None:
    optimizer = RMSprop([torch.zeros(1)])
    given: dict[str, Any] = {"state": {}, "param_groups": [{**SB3_GROUP, "params": [0]}]}
    message = "source must be 'torch' or 'sb3' for this state dict, got none; its groups do not identify the library"
    with pytest.raises(InputError, match=f"^{message}"):
        optimizer.load_state_dict(given)
    assert optimizer.rule() == Rule()
    optimizer.load_state_dict(given, source="torch")
    assert optimizer.rule() == Rule(lr=0.1, decay=0.9, eps=1e-5)
    optimizer.load_state_dict(given, source="sb3")
    assert optimizer.rule() == Rule(lr=0.1, decay=0.9, eps=1e-5, eps_inside_sqrt=True, initial_square_avg=1.0)
    (problem,) = optimizer.check_state_dict({"state": {}, "param_groups": [timm_group()]}, source="sb3")
    assert problem.startswith("source must be omitted for this state dict, got 'sb3'; its groups identify timm")
    for source in ("keras", "timm", "rmsprop.torch"):
        (problem,) = optimizer.check_state_dict(given, source=source)
        assert problem.startswith(
            f"source must be 'torch' or 'sb3', got {source!r}; omit it if the groups identify the library"
        )


@pytest.mark.parametrize("kind", ["torch", "timm", "sb3", "rmsprop.torch"])
def test_a_key_that_is_its_owner_s_is_kept_and_means_nothing(kind: str) -> None:
    """Users' schedules keep values in groups; "decay" is another library's name for alpha."""
    p = torch.ones(2)
    groups = {
        "torch": torch.optim.RMSprop([p], alpha=0.9).param_groups[0],
        "timm": timm_group(),
        "sb3": SB3_GROUP,
        "rmsprop.torch": RMSprop([p], alpha=0.9).param_groups[0],
    }
    optimizer = RMSprop([p])
    given = {"state": {}, "param_groups": [{**groups[kind], "params": [0], "decay": 0.5}]}
    optimizer.load_state_dict(given, source="sb3" if kind == "sb3" else None)
    assert optimizer.rule().decay == 0.9
    assert optimizer.param_groups[0]["decay"] == 0.5
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_user_s_decay_is_not_read_as_alpha(tmp_path: Path) -> None:
    made = torch.optim.RMSprop([randn(2)], alpha=0.9).state_dict()
    made["param_groups"][0]["decay"] = 0.5
    torch.save(made, tmp_path / "a.pt")
    assert checkpoint.read(tmp_path / "a.pt").groups[0]["decay"] == 0.9


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_state_dict_states_its_version_and_a_newer_one_is_refused() -> None:
    p = torch.ones(2)
    optimizer = RMSprop([p])
    seen: list[Any] = []
    optimizer.register_state_dict_post_hook(lambda _, made: seen.append(made["param_groups"][0]["state_version"]))
    made = optimizer.state_dict()
    assert made.keys() == {"state", "param_groups"}  # the keys of torch
    assert seen == [1]  # other hooks see the version
    assert len(optimizer._optimizer_state_dict_post_hooks) == 1
    assert made["param_groups"][0].keys() == optimizer.param_groups[0].keys()  # torch's tools compare them
    for version in (0, 1, torch.tensor(1), np.int64(1), 1.0):
        made["param_groups"][0]["state_version"] = version
        optimizer.load_state_dict(made)
        assert optimizer.param_groups[0]["state_version"] == 1
    newer: Any
    for newer in (2, "new"):
        made["param_groups"][0]["state_version"] = newer
        with pytest.raises(InputError, match=f"state_version of the state dict must be at most 1 here, got '?{newer}"):
            optimizer.load_state_dict(made)


# Group keys of earlier versions, beside those of torch.
FIRST = ("nesterov", "eps_inside_sqrt", "initial_square_avg", "lr_in_momentum", "bias_correction")
TORCH = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "capturable", "foreach", "maximize")
EARLIER = {
    "before low precision": (*TORCH, "differentiable", *FIRST, "decoupled_weight_decay", "fused", "params"),
    "before the kernel": (*TORCH, "differentiable", *FIRST, "decoupled_weight_decay", "params"),
}


@pytest.mark.parametrize("keys", EARLIER.values(), ids=EARLIER)
def test_state_dicts_of_earlier_versions_are_read(keys: tuple[str, ...]) -> None:
    p, q = randn(3), randn(3)
    first, whole = RMSprop.from_rule([p], ALL), RMSprop.from_rule([q], ALL)
    step(first, [p], [torch.ones(3)])
    step(whole, [q], [torch.ones(3)])
    made = first.state_dict()
    made["param_groups"] = [{name: group[name] for name in keys} for group in made["param_groups"]]
    second = RMSprop([p], nonfinite="zero")
    second.load_state_dict(made)
    assert second.rule() == ALL
    assert second.param_groups[0]["nonfinite"] == "zero"  # a key that the state dict lacks keeps its value
    for optimizer, x in ((second, p), (whole, q)):
        step(optimizer, [x], [torch.full((3,), 2.0)])
    assert torch.equal(p, q)


@pytest.mark.parametrize("version", [2, "new"])
def test_a_newer_version_is_refused_where_it_is_converted_too(version: Any, tmp_path: Path) -> None:
    made = RMSprop([randn(2)]).state_dict()
    made["param_groups"][0]["state_version"] = version
    torch.save(made, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"state_version of the state dict must be at most 1 here, got '?{version}"):
        checkpoint.read(tmp_path / "a.pt")
