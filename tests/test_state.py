"""A run goes on bit for bit after a copy, a file or torch's checkpoint tools; what others keep in the state stays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from state_dicts import HALF, PRECISIONS, randn, same_state, saved
from test_torch import step, tensors
from torch import Tensor, nn

from rmsprop import InputError
from rmsprop.torch import RMSprop

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
