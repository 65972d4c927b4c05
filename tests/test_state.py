"""State dicts of rmsprop.torch.RMSprop: whole, checked, kept in their dtypes, and loaded from other RMSprops."""

from __future__ import annotations

import copy
import importlib
import io
import json
import pickle
import sys
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
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
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_torch import step, tensors
from torch import Tensor, nn

from rmsprop import InputError, Rule, checkpoint
from rmsprop.torch import RMSprop
from rmsprop.torch.low_precision import packed_size, unpack
from rmsprop.torch.state import average

HALF = cases.STEPS // 2
ALL = cases.RULES["all of it"]
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 state": {"state_dtype": "bfloat16"},
    "8-bit state": {"state_dtype": "uint8"},
    "8-bit state, seed 7": {"state_dtype": "uint8", "stochastic_rounding": 7},
}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def same_state(a: RMSprop, b: RMSprop) -> None:
    """Assert that groups and state agree bit for bit, with dtypes."""
    for x, y in zip(a.param_groups, b.param_groups, strict=True):
        assert {k: v for k, v in x.items() if k != "params"} == {k: v for k, v in y.items() if k != "params"}
        for p, q in zip(x["params"], y["params"], strict=True):
            assert a.state[p].keys() == b.state[q].keys()
            for name, value in a.state[p].items():
                assert value.dtype == b.state[q][name].dtype
                assert torch.equal(value, b.state[q][name]), name


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


# -- dtypes -----------------------------------------------------------------------------------------------------------


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


# -- copies and files -------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}


@pytest.mark.parametrize("copier", [*COPIES.values(), None], ids=[*COPIES, "torch.save"])
@pytest.mark.parametrize("name", ["plain", "all of it", "TensorFlow 1"])
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        *((PRECISIONS[x], torch.float32) for x in list(PRECISIONS)[:3]),
        *((x, torch.bfloat16) for x in PRECISIONS.values()),
    ],
)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(
    copier: Callable[[Any], Any] | None, name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    params, gradients = tensors(torch.float32)
    params = [nn.Parameter(p.to(dtype)) for p in params]
    optimizer = RMSprop.from_rule(params, cases.RULES[name], **options)

    def go_on(params: list[Tensor], optimizer: RMSprop, first: int, last: int) -> None:
        for t in range(first, last):
            optimizer.param_groups[0]["lr"] = cases.lr_at(t + 1)
            step(optimizer, params, [g.to(dtype) for g in gradients[t]])

    go_on(list(params), optimizer, 0, HALF)
    if copier is not None:
        others, other = copier((params, optimizer))
    else:
        others = [nn.Parameter(p.detach().clone()) for p in params]
        other = RMSprop(others, state_dtype=options.get("state_dtype"))
        other.load_state_dict(saved(optimizer))
    same_state(optimizer, other)
    go_on(list(params), optimizer, HALF, cases.STEPS)
    go_on(list(others), other, HALF, cases.STEPS)
    same_state(optimizer, other)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """Start a process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


FORMS: dict[str, dict[str, Any]] = {
    "nested": {},
    "full": {"full_state_dict": True},
    "flat": {"flatten_optimizer_state_dict": True},
}
Make = tuple[Any, dict[str, Any]]
THEIRS: Make = (torch.optim.RMSprop, {})
# Pairs of classes between which torch's tools accept keys that torch's groups lack.
BETWEEN: list[tuple[str, Make, Make]] = [
    *((form, (RMSprop, options), (RMSprop, options)) for form in FORMS for options in PRECISIONS.values()),
    *((form, (RMSprop, {}), THEIRS) for form in ("nested", "flat")),
    *((form, THEIRS, (RMSprop, {})) for form in ("nested", "full")),
]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("form", "first", "second"), BETWEEN)
def test_torch_s_tools_for_checkpoints_move_it(form: str, first: Make, second: Make) -> None:
    from torch.distributed.checkpoint import state_dict as tools

    options, same = tools.StateDictOptions(**FORMS[form]), first == second
    dtype = torch.bfloat16 if same else torch.float64

    def make(which: Make) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).to(dtype)
        for seed, p in enumerate(model.parameters()):
            p.data = randn(*p.shape, seed=seed).to(dtype)
        return model, which[0](model.parameters(), lr=0.1, momentum=0.5, **which[1])

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for seed in range(2):
            optimizer.zero_grad()
            model(randn(8, 4, seed=seed).to(dtype)).square().sum().backward()
            optimizer.step()

    a, b = make(first), make(second)
    train(*a)
    b[0].load_state_dict(a[0].state_dict())
    tools.set_optimizer_state_dict(
        *b, copy.deepcopy(tools.get_optimizer_state_dict(*a, options=options)), options=options
    )
    train(*a)
    train(*b)
    for p, q in zip(a[0].parameters(), b[0].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0 if same else 1e-12, atol=0 if same else 1e-14)


# -- mismatches -------------------------------------------------------------------------------------------------------


def broken(**changes: Any) -> dict[str, Any]:
    """Return a state dict for weight (2, 3) and bias (2,) with `changes` in the state of the weight."""
    params = [torch.ones(2, 3), torch.ones(2)]
    optimizer = RMSprop(params)
    step(optimizer, params, [torch.ones(2, 3), torch.ones(2)])
    made = saved(optimizer)
    made["state"][0] |= changes
    made["state"][0] = {name: value for name, value in made["state"][0].items() if value is not None}
    return made


def with_group(**changes: Any) -> dict[str, Any]:
    made = broken()
    made["param_groups"][0] |= changes
    return made


WEIGHT = "parameter 0 in group 0 of the state dict"
MISFITS: dict[str, tuple[Any, str]] = {
    "a number": (5, "the state dict must be a dict of state and param_groups, got 5; load the dict that"),
    "a model": ({"weight": 1}, "the state dict must be a dict of state and param_groups, got a dict of weight;"),
    "groups": (
        {"state": {}, "param_groups": broken()["param_groups"] * 2},
        "the state dict must be of 1 group with 2 parameters, got 2 groups with 2 and 2 parameters: it has a different",
    ),
    "sizes": (
        with_group(params=[0]),
        "the state dict must be of 1 group with 2 parameters, got 1 group with 1 parameter: it contains a parameter "
        "group that doesn't match the size of optimizer's group; load it for the model that it was saved from",
    ),
    "shape": (
        broken(square_avg=torch.ones(3, 2)),
        f"square_avg of {WEIGHT} must be of shape (2, 3), got shape (3, 2); load it for the model",
    ),
    "eight bits of another size": (
        broken(square_avg=torch.zeros(9, dtype=torch.uint8)),
        f"square_avg of {WEIGHT} must be of the 7 bytes of shape (2, 3), got shape (9,);",
    ),
    "eight bits of another shape": (
        broken(square_avg=torch.zeros(packed_size(6), dtype=torch.uint8), shape=torch.tensor([3, 2])),
        f"square_avg of {WEIGHT} must be of shape (2, 3), got shape (3, 2) in eight bits;",
    ),
    "integers": (
        broken(square_avg=torch.ones(2, 3, dtype=torch.int8)),
        f"square_avg of {WEIGHT} must be of a dtype for float32 parameters, got int8;",
    ),
    "complex": (
        broken(momentum_buffer=torch.ones(2, 3, dtype=torch.complex64)),
        f"momentum_buffer of {WEIGHT} must be of a dtype for float32 parameters, got complex64;",
    ),
    "a list": (broken(square_avg=[1.0]), f"square_avg of {WEIGHT} must be a Tensor, got a list; load the dict that"),
    "no average": (
        broken(square_avg=None),
        f"the state of {WEIGHT} must be one of RMSprop, with step and square_avg, got one with step; load it into its",
    ),
    "Adadelta's": (
        broken(acc_delta=torch.ones(2, 3)),
        f"the state of {WEIGHT} must be one of RMSprop, with step and square_avg, got one with step, square_avg, acc_d",
    ),
    "steps": (broken(step=torch.tensor(-1.0)), f"step of {WEIGHT} must be a number of steps, got tensor(-1.);"),
    "endless steps": (broken(step=10**400), f"step of {WEIGHT} must be a number of steps, got 1000"),
    "NaN steps": (broken(step=float("nan")), f"step of {WEIGHT} must be a number of steps, got nan;"),
    "nobody's": (
        {**broken(), "state": {**broken()["state"], 7: {}}},
        "the state dict must be the state of its groups' parameters, got 7; load the dict that state_dict() returned",
    ),
    "no state": (
        {**broken(), "state": None},
        "state of the state dict must be a dict, got a NoneType; load the dict that state_dict() returned",
    ),
    "no groups": (
        {**broken(), "param_groups": None},
        "param_groups of the state dict must be a list of dicts, got a NoneType;",
    ),
    "a group": ({**broken(), "param_groups": [5]}, "group 0 of the state dict must be a dict, got a int;"),
    "no params": (
        {**broken(), "param_groups": [{"lr": 0.1}]},
        "params of group 0 of the state dict must be a list of numbers, each once, got None;",
    ),
    "params": (
        with_group(params=[[0], [1]]),
        "params of group 0 of the state dict must be a list of numbers, each once, got [[0], [1]];",
    ),
    "params twice": (
        with_group(params=[0, 0]),
        "params of group 0 of the state dict must be a list of numbers, each once, got [0, 0];",
    ),
    "names": (
        with_group(param_names=["a"]),
        "param_names of group 0 of the state dict must be a list of 2 names, if present, got ['a'];",
    ),
    "names of another type": (
        with_group(param_names=5),
        "param_names of group 0 of the state dict must be a list of 2 names, if present, got 5;",
    ),
    "numbers for names": (
        with_group(param_names=[0, 1]),
        "param_names of group 0 of the state dict must be a list of 2 names, if present, got [0, 1];",
    ),
    "a state that is None": (
        {**broken(), "state": {0: None}},
        f"the state of {WEIGHT} must be one of RMSprop, with step and square_avg, got NoneType;",
    ),
    "a state that is a list": (
        {**broken(), "state": {0: []}},
        f"the state of {WEIGHT} must be one of RMSprop, with step and square_avg, got list;",
    ),
    "a value": (with_group(alpha=1.5), "alpha must be a number in [0, 1), got 1.5;"),
    "an execution": (with_group(state_dtype="int4"), "state_dtype must be None, 'bfloat16' or 'uint8', got 'int4';"),
    "a newer version": (with_group(state_version=9), "state_version of the state dict must be at most 1 here, got 9;"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(case: str) -> None:
    given, message = MISFITS[case]
    params = [torch.ones(2, 3), torch.ones(2)]
    optimizer = RMSprop(params, lr=0.5)
    step(optimizer, params, [torch.ones(2, 3), torch.ones(2)])
    before = copy.deepcopy(optimizer.state_dict())
    problems = optimizer.check_state_dict(given)
    assert len(problems) == 1
    assert problems[0].startswith(message)
    with pytest.raises(InputError) as caught:
        optimizer.load_state_dict(given)
    assert str(caught.value) == problems[0]
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key in before["state"]:
        for name, value in before["state"][key].items():
            assert torch.equal(after["state"][key][name], value)
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_every_mismatch_is_named_and_the_first_is_raised_with_the_number_of_the_others() -> None:
    made = broken(square_avg=torch.ones(4), step=-1)
    made["state"][1]["square_avg"] = torch.ones(9)
    made["param_groups"][0]["alpha"] = 2.0
    optimizer = RMSprop([torch.ones(2, 3), torch.ones(2)])
    problems = optimizer.check_state_dict(made)
    assert [each.partition(" must be")[0] for each in problems] == [
        "alpha",
        f"step of {WEIGHT}",
        f"square_avg of {WEIGHT}",
        "square_avg of parameter 1 in group 0 of the state dict",
    ]
    with pytest.raises(InputError, match=r"^alpha must be .* \(check_state_dict names 3 more\)$"):
        optimizer.load_state_dict(made)


@pytest.mark.parametrize("cls", [torch.optim.Adamax, torch.optim.SGD, torch.optim.Adadelta, torch.optim.Adagrad])
def test_another_optimizers_state_dict_is_refused(cls: Any) -> None:
    p = torch.ones(2)
    other = cls([p], lr=0.1)
    step(other, [p], [torch.ones(2)])
    ours = RMSprop([p])
    for source in (None, "torch"):
        problems = ours.check_state_dict(other.state_dict(), source=source)
        assert problems[0].startswith("the state dict must be one of RMSprop, got a group of ")
        with pytest.raises(InputError, match="load it into its optimizer"):
            ours.load_state_dict(other.state_dict(), source=source)


def test_eight_bits_are_not_for_double_precision() -> None:
    p = torch.ones(3)
    optimizer = RMSprop([p], state_dtype="uint8")
    step(optimizer, [p], [torch.ones(3)])
    problems = RMSprop([p.double()]).check_state_dict(saved(optimizer))
    assert problems[0].startswith("state_dtype must be None for parameters that are not float32, bfloat16 or float16")
    assert (
        "square_avg of parameter 0 in group 0 of the state dict must be of the dtype of float64 parameters"
        in problems[1]
    )


def test_a_number_in_two_groups_is_named() -> None:
    params = [torch.ones(2), torch.ones(2)]
    made = (optimizer := RMSprop([{"params": [p]} for p in params])).state_dict()
    made["param_groups"][1]["params"] = [0]
    (problem,) = optimizer.check_state_dict(made)
    assert problem.startswith(
        "a number in params of the state dict must be that of one parameter, got one in two groups"
    )


def test_any_mapping_is_a_state_dict() -> None:
    params = [torch.ones(2, 3), torch.ones(2)]
    optimizer = RMSprop(params)
    assert optimizer.check_state_dict(UserDict(broken())) == []
    optimizer.load_state_dict(UserDict(broken()))
    assert torch.equal(optimizer.state[params[0]]["square_avg"], broken()["state"][0]["square_avg"])


KEYS: dict[str, Callable[[int], Any]] = {
    "text": str,
    "NumPy's numbers": np.int64,
    "NumPy's text": lambda i: np.str_(i),
    "names": lambda i: ("weight", "bias")[i],
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["state", "state and groups"])
@pytest.mark.parametrize("kind", KEYS)
def test_state_under_other_keys_is_that_of_its_parameters(kind: str, wrapped: bool) -> None:
    """Stores turn numbers into text, and torch.distributed.checkpoint uses names."""
    made = broken()
    groups = made["param_groups"]
    groups[0]["param_names"] = ["weight", "bias"]
    made["state"] = {KEYS[kind](i): own for i, own in made["state"].items()}
    if wrapped:
        groups[0]["params"] = [KEYS[kind](i) for i in groups[0]["params"]]
    params = [torch.ones(2, 3), torch.ones(2)]
    optimizer = RMSprop(params)
    assert optimizer.check_state_dict(made) == []
    optimizer.load_state_dict(made)
    for i, p in enumerate(params):
        assert torch.equal(optimizer.state[p]["square_avg"], broken()["state"][i]["square_avg"])
    step(optimizer, params, [torch.ones(2, 3), torch.ones(2)])
    assert optimizer.state_dict()["state"].keys() == {0, 1}


@pytest.mark.parametrize("key", ["01", "2", "weight", (0, "weight"), 2, -1])
def test_state_of_no_parameter_is_named_and_not_dropped(key: Any) -> None:
    made = broken()
    made["state"][key] = made["state"].pop(0)
    optimizer = RMSprop([torch.ones(2, 3), torch.ones(2)])
    (problem,) = optimizer.check_state_dict(made)
    assert problem.startswith(f"the state dict must be the state of its groups' parameters, got {key!r}; ")
    with pytest.raises(InputError):
        optimizer.load_state_dict(made)
    assert not optimizer.state


def test_state_that_is_there_twice_is_not_guessed() -> None:
    made = broken()
    made["state"]["0"] = {**made["state"][0], "square_avg": torch.zeros(2, 3)}
    (problem,) = RMSprop([torch.ones(2, 3), torch.ones(2)]).check_state_dict(made)
    assert "got '0'; " in problem


@pytest.mark.parametrize("count", [np.array(3), np.array([3.0], np.float32), np.int64(3), np.longdouble(3)], ids=str)
def test_a_step_count_of_numpy_is_a_number(count: Any) -> None:
    params = [torch.ones(2, 3), torch.ones(2)]
    optimizer = RMSprop(params)
    assert optimizer.check_state_dict(broken(step=count)) == []
    optimizer.load_state_dict(broken(step=count))
    assert optimizer.state[params[0]]["step"].item() == 3
    step(optimizer, params, [torch.ones(2, 3), torch.ones(2)])
    assert optimizer.state[params[0]]["step"].item() == 4


@pytest.mark.parametrize("count", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor([3.0])], ids=str)
def test_steps_may_be_any_number(count: Any) -> None:
    p = torch.ones(2, 3)
    made = broken(step=count)
    optimizer = RMSprop([p, torch.ones(2)])
    optimizer.load_state_dict(made)
    step(optimizer, [p], [torch.ones(2, 3)])
    assert optimizer.state[p]["step"] == 4


def test_what_users_and_wrappers_keep_in_the_state_is_carried_along() -> None:
    """Lookahead keeps its slow weights in the state, even before the first step."""
    table, p = nn.Parameter(torch.ones(5, 2)), nn.Parameter(torch.ones(2))
    optimizer = RMSprop([table, p])
    optimizer.state["ema"] = 1.0  # type: ignore[index]
    for q in (table, p):
        optimizer.state[q]["lookahead_slow_buff"] = q.detach().clone()
    again = RMSprop([table, p])
    again.load_state_dict(saved(optimizer))
    with pytest.raises(InputError, match="param must be a parameter that this optimizer has stepped"):
        again.effective_lr(p)
    for row in (1, 2):
        grad = torch.sparse_coo_tensor(torch.tensor([[row]]), torch.ones(1, 2), (5, 2), check_invariants=False)
        step(again, [table, p], [grad, torch.ones(2)])
    step(again, [table, p], [torch.ones(5, 2), torch.ones(2)])  # lagging rows are caught up
    third = RMSprop([table, p])
    third.load_state_dict(saved(again))
    same_state(again, third)
    assert third.state_dict()["state"]["ema"] == again.state_dict()["state"]["ema"] == 1.0
    assert torch.equal(third.state[p]["lookahead_slow_buff"], torch.ones(2))
    copy.deepcopy(again)


def test_a_wrapper_that_copies_attributes_knows_of_the_run() -> None:
    """Lightning Fabric wraps an optimizer like this: the wrapper is asked, the inner optimizer steps."""

    class Wrapped(RMSprop):
        def __init__(self, optimizer: RMSprop) -> None:
            self.__dict__ = dict(optimizer.__dict__)

    p = torch.ones(3)
    optimizer = RMSprop([p], nonfinite="zero", foreach=False)
    wrapper = Wrapped(optimizer)
    step(optimizer, [p], [torch.tensor([1.0, float("nan"), 1.0])])
    assert wrapper.nonfinite_steps == optimizer.nonfinite_steps == 1
    table = torch.ones(4, 2)
    optimizer = RMSprop([table])
    wrapper = Wrapped(optimizer)
    grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=False)
    step(optimizer, [table], [grad])
    step(optimizer, [table], [grad])
    assert wrapper.implementation == optimizer.implementation
    step(wrapper, [table], [torch.ones(4, 2)])
    assert "row_step" not in optimizer.state[table]  # the wrapper knew of lagging rows
    assert copy.deepcopy(optimizer).step_state is not optimizer.step_state


def test_hooks_see_a_closure_as_torch_gives_it() -> None:
    """Programs pass the closure by name."""
    seen: list[dict[str, Any]] = []
    for cls in (torch.optim.RMSprop, RMSprop):
        optimizer = cls([torch.ones(2)])
        for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
            register(lambda _, args, kwargs: seen.append(kwargs) if len(args) == 1 else None)
        assert optimizer.step(closure=float) == 0
    assert seen == [{"closure": float}] * 4


def named(*names: str) -> RMSprop:
    return RMSprop([(name, torch.ones(2)) for name in names])


def test_named_parameters_go_by_name() -> None:
    ours = named("a.weight", "b.weight")
    assert ours.check_state_dict(saved(named("a.weight", "b.weight"))) == []
    assert ours.check_state_dict(saved(named("module.a.weight", "_orig_mod.b.weight"))) == []  # wrapped
    swapped = saved(named("b.weight", "a.weight"))
    (problem,) = ours.check_state_dict(swapped)
    assert problem.startswith(
        f"{WEIGHT} must be 'a.weight', got 'b.weight'; load it for the model that it was saved from"
    )
    with pytest.raises(InputError, match="remove param_names from its groups to load by order"):
        ours.load_state_dict(swapped)
    del swapped["param_groups"][0]["param_names"]
    ours.load_state_dict(swapped)
    assert ours.param_groups[0]["param_names"] == ["a.weight", "b.weight"]
    assert RMSprop([torch.ones(2), torch.ones(2)]).check_state_dict(saved(named("b", "a"))) == []


def test_names_stand_in_what_is_said() -> None:
    made = saved(ours := named("a.weight", "b.weight"))
    made["state"][1] = {"step": 1}
    assert "parameter 1 in group 0 of the state dict (b.weight) must be" in ours.check_state_dict(made)[0]


def test_hooks_may_make_a_dict_fit() -> None:
    """torch documents that the hook runs before any check."""
    p = torch.ones(2, 3)
    optimizer = RMSprop([p])
    given = broken()

    def without_bias(_: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        groups = [{**given["param_groups"][0], "params": [0]}]
        return {"state": {0: given["state"][0]}, "param_groups": groups}

    seen: list[torch.dtype] = []
    optimizer.register_load_state_dict_pre_hook(without_bias)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state[p]["square_avg"].dtype))
    optimizer.load_state_dict(given)
    assert torch.equal(optimizer.state[p]["square_avg"], given["state"][0]["square_avg"])
    assert seen == [torch.float32]


@given(st.data())
def test_whatever_stands_in_a_state_dict_it_loads_or_is_named(data: st.DataObject) -> None:
    """check_state_dict and load_state_dict agree, and a loaded state can be stepped."""
    values: st.SearchStrategy[Any] = st.sampled_from(
        [torch.ones(2, 3), torch.ones(3, 2), torch.ones(2, 3).double(), torch.ones(2, 3).bfloat16(), torch.ones(()),
         torch.zeros(7, dtype=torch.uint8), torch.zeros(6, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.int64),
         torch.ones(2, 3, dtype=torch.bool), 1.0, None, "x", [1], {}]
    )  # fmt: skip
    state = data.draw(
        st.dictionaries(st.sampled_from(["step", *STATE, "shape", "exp_avg", "slow"]), values, max_size=4)
    )
    group = data.draw(
        st.dictionaries(
            st.sampled_from(["alpha", "lr", "momentum", "state_dtype", "nonfinite", "foreach", "state_version"]),
            st.sampled_from([0.5, 1, "uint8", "bfloat16", "zero", None, True, -1.0]),
            max_size=2,
        )
    )
    p = torch.ones(2, 3)
    optimizer = RMSprop([p])
    made = RMSprop([p]).state_dict()
    parts: dict[str, Any] = {"params": [0], "param_names": ["a"], "state": {0: state}, "groups": 1}
    odd: st.SearchStrategy[Any] = st.sampled_from(
        [None, [], [0, 0], [[0]], ["a"], {}, {0: None}, {0: []}, {0: UserDict()}, {1: {}}, {"ema": 1.0}, 0, 5, "x"]
    )
    parts |= data.draw(st.dictionaries(st.sampled_from(list(parts)), odd, max_size=2))
    whole = {**made["param_groups"][0], **group, "params": parts["params"], "param_names": parts["param_names"]}
    groups = [whole] if parts["groups"] == 1 else parts["groups"]
    given = UserDict({"state": parts["state"], "param_groups": groups})
    problems = optimizer.check_state_dict(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if problems:
            with pytest.raises(InputError) as caught:
                optimizer.load_state_dict(given)
            assert str(caught.value).startswith(problems[0].rpartition(";")[0])
        else:
            optimizer.load_state_dict(given)
            step(optimizer, [p], [torch.ones(2, 3)])
            assert p.isfinite().all()


# -- conversion as a checkpoint ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("version", [2, "new"])
def test_a_newer_version_is_refused_where_it_is_converted_too(version: Any, tmp_path: Path) -> None:
    made = RMSprop([randn(2)]).state_dict()
    made["param_groups"][0]["state_version"] = version
    torch.save(made, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"state_version of the state dict must be at most 1 here, got '?{version}"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_user_s_decay_is_not_read_as_alpha(tmp_path: Path) -> None:
    made = torch.optim.RMSprop([randn(2)], alpha=0.9).state_dict()
    made["param_groups"][0]["decay"] = 0.5
    torch.save(made, tmp_path / "a.pt")
    assert checkpoint.read(tmp_path / "a.pt").groups[0]["decay"] == 0.9


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
