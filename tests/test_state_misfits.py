"""A state dict that does not fit is refused by name, and nothing changes; any other is loaded."""

from __future__ import annotations

import copy
import warnings
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import STATE
from hypothesis import given
from hypothesis import strategies as st
from state_dicts import WEIGHT, broken, saved
from test_torch import step

from rmsprop import InputError
from rmsprop.torch import RMSprop
from rmsprop.torch.low_precision import packed_size


def with_group(**changes: Any) -> dict[str, Any]:
    made = broken()
    made["param_groups"][0] |= changes
    return made


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
