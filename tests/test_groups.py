"""What a parameter group may hold: keys of wrappers, and numbers of every type."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmsprop import InputError, Rule, profile, update
from rmsprop.recipes import recipe
from rmsprop.rule import init
from rmsprop.torch import RMSprop

Wrap = Callable[[Any], Any]

# Types of numbers from other programs: read from NumPy files, kept as tensors, computed by NumPy.
KINDS: dict[str, Wrap] = {
    "NumPy scalars": lambda x: np.bool_(x) if isinstance(x, bool) else np.float64(x),
    "NumPy arrays": np.array,
    "NumPy arrays of one element": lambda x: np.array([x]),
    "tensors": lambda x: torch.tensor(x, dtype=None if isinstance(x, bool) else torch.float64),
    "tensors of one element": lambda x: torch.tensor([x], dtype=None if isinstance(x, bool) else torch.float64),
    "0 and 1": lambda x: int(x) if isinstance(x, bool) else x,
}
ARGUMENTS: dict[str, Any] = {
    "alpha": 0.8, "eps": 1e-3, "momentum": 0.7, "weight_decay": 0.01, "initial_square_avg": 0.5, "centered": True,
    "nesterov": True, "maximize": False, "bias_correction": True, "eps_inside_sqrt": False, "lr_in_momentum": True,
    "decoupled_weight_decay": True, "capturable": False, "differentiable": False,
}  # fmt: skip
EXECUTIONS: dict[str, dict[str, Any]] = {"default": {}, "operations": {"fused": False}, "foreach": {"foreach": True}}


def trained(p: Tensor, optimizer: RMSprop, steps: int = 3) -> list[float]:
    for t in range(steps):
        p.grad = torch.tensor([1.0, -0.5, 0.1]) * (t + 1)
        optimizer.step()
    return p.tolist()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind_step_as_plain_ones(kind: str, execution: str) -> None:
    """The values are passed to the class, set during a run, or restored from a state dict."""
    plain = {**ARGUMENTS, **EXECUTIONS[execution]}
    other: dict[str, Any] = {name: value if value is None else KINDS[kind](value) for name, value in plain.items()}
    expected_at = trained(p := torch.ones(3), expected := RMSprop([p], lr=0.1, **plain))
    p = torch.ones(3)
    assert trained(p, RMSprop([p], lr=0.1, **other)) == expected_at

    p = torch.ones(3)
    set_later = RMSprop([p], lr=0.1)
    set_later.param_groups[0].update(other)
    assert trained(p, set_later) == expected_at
    assert set_later.rule() == expected.rule()

    saved = expected.state_dict()
    saved["param_groups"][0].update(other)
    restored = RMSprop([p := torch.tensor(expected_at)], lr=0.1)
    assert restored.check_state_dict(saved) == []
    restored.load_state_dict(copy.deepcopy(saved))
    assert {type(value) for value in restored.param_groups[0].values()} <= {float, int, bool, str, type(None), list}
    assert restored.rule() == expected.rule()
    q = torch.tensor(expected_at)
    expected.param_groups[0]["params"] = [q]
    expected.state[q] = copy.deepcopy(expected.state.pop(next(iter(expected.state))))
    assert trained(p, restored) == trained(q, expected)


def test_a_number_in_a_tensor_is_read_at_every_step_as_by_torch() -> None:
    paths = []
    for cls in (RMSprop, torch.optim.RMSprop):
        p = torch.ones(3)
        alpha: Any = torch.tensor(0.9)
        optimizer = cls([p], alpha=alpha)
        for value in (0.9, 0.5, 0.1):
            alpha.fill_(value)
            p.grad = torch.ones(3)
            optimizer.step()
        paths.append(optimizer.state[p]["square_avg"])
    torch.testing.assert_close(*paths)


def test_a_tensor_s_changes_reach_the_rows_that_lag() -> None:
    """A row decays by the alpha of each step."""
    states = []
    for sparse in (True, False):
        table = nn.Embedding(2, 2, sparse=sparse)
        alpha: Any = torch.tensor(0.9)
        optimizer = RMSprop(table.parameters(), alpha=alpha)
        for value, row in ((0.9, 0), (0.9, 1), (0.5, 1), (0.5, 0)):
            alpha.fill_(value)
            optimizer.zero_grad()
            table(torch.tensor([row])).sum().backward()
            optimizer.step()
        states.append(optimizer.state_dict()["state"][0]["square_avg"])
    torch.testing.assert_close(*states)


def test_a_rule_a_profile_and_numpy_take_them_too() -> None:
    for wrap in KINDS.values():
        rule = Rule(decay=wrap(0.8), momentum=wrap(0.5), centered=wrap(True), nesterov=wrap(True))
        assert rule == Rule(decay=0.8, momentum=0.5, centered=True, nesterov=True)
        assert {type(value) for value in vars(rule).values()} == {float, bool}
        assert profile("tf1", lr=wrap(0.1), centered=wrap(False)) == profile("tf1", lr=0.1)
    p = np.ones(2)
    assert update(Rule(centered=np.bool_(True)), p, p, init(Rule(centered=True), p))[1].grad_avg is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [2, -1, 0.5, "yes", None, np.nan, torch.ones(2), np.array([1, 0])])
def test_what_is_no_flag_is_named(bad: Any) -> None:
    with pytest.raises(InputError, match=r"^centered must be True or False, got "):
        Rule(centered=bad)
    with pytest.raises(InputError, match=r"^capturable must be True or False, got "):
        RMSprop([torch.ones(1)], capturable=bad)


TEXTS = {"1e-5": "1.0e-5", "2.5E-4": "0.00025", "1e20": "1.0e+20", "0.1": "0.1", "3": "3", "-1": "-1", " 7.50 ": "7.5"}


@pytest.mark.parametrize("text", TEXTS)
def test_a_number_that_is_text_is_told_so(text: str) -> None:
    """YAML 1.1 reads 1e-5 as text; the message must not complain of its size."""
    remedy = f"; it is text: write {TEXTS[text]}"
    p = torch.nn.Parameter(torch.ones(1))
    for make in (
        lambda: Rule(eps=text),  # type: ignore[arg-type]
        lambda: profile("torch", weight_decay=text),
        lambda: RMSprop([p], lr=text),  # type: ignore[arg-type]
        lambda: recipe("inception-v3").learning_rate(0, steps_per_epoch=text),  # type: ignore[arg-type]
        lambda: RMSprop([{"params": [p], "weight_decay": text}]),
    ):
        with pytest.raises(InputError) as caught:
            make()
        assert remedy in str(caught.value)
        assert str(caught.value).endswith("or convert it with float()")
        assert ("YAML" in str(caught.value)) == ("e" in text.lower())
    optimizer = RMSprop([p])
    optimizer.param_groups[0]["lr"] = text
    p.grad = torch.ones(1)
    with pytest.raises(InputError, match="it is text"):
        optimizer.step()
    for words in ("fast", "nan", "", "1e-5x"):
        with pytest.raises(InputError, match=r"1e-8 is usual$"):
            Rule(eps=words)  # type: ignore[arg-type]


def test_a_rate_of_numpy_is_written_as_a_number_that_torch_reads_safely() -> None:
    optimizer = RMSprop([p := torch.ones(3)], lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: np.float64(0.5))
    trained(p, optimizer)
    assert type(optimizer.param_groups[0]["lr"]) is np.float64
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["param_groups"][0]["lr"] == 0.05


# -- wrappers ---------------------------------------------------------------------------------------------------------


class SAM(torch.optim.Optimizer):
    """The pattern of SAM's published code: an optimizer with its own group keys around another optimizer."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05, adaptive: bool = False, **kwargs: Any) -> None:
        super().__init__(params, dict(rho=rho, adaptive=adaptive, **kwargs))
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        saved = []
        for group in self.param_groups:
            for p in group["params"]:
                saved.append((p, p.clone()))
                p.add_(p.grad * (group["rho"] / (p.grad.norm() + 1e-12)))
        with torch.enable_grad():
            loss = closure()
        for p, old in saved:
            p.copy_(old)
        self.base_optimizer.step()
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


def sam_run(base: Any, steps: int = 3) -> tuple[list[Any], SAM]:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = SAM([p], base, rho=0.5, lr=0.1, alpha=0.9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**4).sum()
        torch.autograd.backward([loss])
        return loss

    for _ in range(steps):
        closure()
        optimizer.step(closure)
    return p.tolist(), optimizer


def test_sam_steps_and_its_groups_keep_their_keys() -> None:
    (ours, optimizer), (theirs, _) = (sam_run(cls) for cls in (RMSprop, torch.optim.RMSprop))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert (optimizer.param_groups[0]["rho"], optimizer.param_groups[0]["adaptive"]) == (0.5, False)
    assert optimizer.param_groups[0]["alpha"] == 0.9
    saved = optimizer.base_optimizer.state_dict()
    assert saved["param_groups"][0]["rho"] == 0.5
    other = sam_run(RMSprop, 0)[1].base_optimizer
    saved["param_groups"][0]["rho"] = 0.25
    other.load_state_dict(saved)
    assert other.param_groups[0]["rho"] == 0.25


@pytest.mark.parametrize("ours_first", [False, True])
def test_keys_of_wrappers_pass_through_state_dicts_both_ways(ours_first: bool) -> None:
    """Keys of SAM, Lookahead, schedule-free, layer-wise rates, schedulers and trainers; some are also names of timm."""
    keys: dict[str, Any] = {
        "rho": 0.05, "adaptive": True, "eta": 0.01, "counter": 3, "lookahead_alpha": 0.5, "k": 6, "train_mode": True,
        "weight_sum": 0.25, "lr_scale": 0.7, "initial_lr": 0.5, "max_lr": 1.0, "name": "head", "swa_lr": 0.1,
        "caution": True, "corrected_weight_decay": True, "first": 7, "decay": 0.1, "shape": (2,),
    }  # fmt: skip
    classes: list[Any] = [torch.optim.RMSprop, RMSprop]
    first, second = classes[::-1] if ours_first else classes
    source = first([torch.ones(2)], momentum=0.9, weight_decay=0.1)
    source.param_groups[0].update(keys)
    trained_by(source)
    target = second([torch.ones(2)])
    target.load_state_dict(source.state_dict())
    assert {name: target.param_groups[0][name] for name in keys} == keys
    again = target.state_dict()["param_groups"][0]
    assert {name: again[name] for name in keys} == keys
    trained_by(target)


def trained_by(optimizer: Any) -> None:
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_a_wrapper_s_key_changes_no_step() -> None:
    """Nor the noise of stochastic rounding, which depends on a parameter's index."""
    results = []
    for keys in ({}, {"first": 5, "number": 3, "scale": 2.0, "shape": 1}):
        p = torch.ones(64, dtype=torch.bfloat16)
        optimizer = RMSprop([{"params": [p], **keys}], lr=1e-3, stochastic_rounding=True)
        for _ in range(5):
            p.grad = torch.full_like(p, 0.1)
            optimizer.step()
        results.append(p)
    assert torch.equal(*results)


def test_a_key_beside_our_own_name_for_it_is_not_warned_of() -> None:
    optimizer = RMSprop([{"params": [torch.ones(1)], "rho": 0.05, "alpha": 0.9, "epsilon": 1.0, "eps": 0.1}])
    assert (optimizer.rule().decay, optimizer.rule().eps) == (0.9, 0.1)
