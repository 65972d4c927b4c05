"""rmsprop.torch under torch.compile: one graph, the same results as without, and no schedule recompiles it."""

from __future__ import annotations

import copy
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import cases
import forked
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import lr_scheduler as schedules
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from rmsprop import InputError, Rule, native
from rmsprop.torch import RMSprop, compiled, keras_lists, private
from rmsprop.torch.groups import RULE_NAMES

pytestmark = [
    pytest.mark.skipif(native.kernel is None, reason=native.missing() or ""),
    pytest.mark.skipif(not private.TRACES, reason="this torch executes compiled steps outside graphs"),
    pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning"),  # torch warns while it compiles
]
RULE = cases.RULES["all of it, the other way"]
SUMS: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}  # the same operations in another order
TRACED: dict[str, dict[str, Any]] = {
    "one by one": {"foreach": False},
    "foreach": {"foreach": True},
    "capturable": {"capturable": True},
    "capturable foreach": {"capturable": True, "foreach": True},
    "differentiable": {"differentiable": True},
    "not fused": {"fused": False},
}
PATHS = {"native kernel": {}, **TRACED}
SHAPES = ((3, 4), (5,), (2, 2))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(rule: Rule = RULE, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[RMSprop, RMSprop]:
    """Return two optimizers of equal parameters; a test compiles one."""
    leaf = (lambda x: x) if options.get("differentiable") else nn.Parameter
    sets = [[leaf(randn(*s, seed=i, dtype=dtype)) for i, s in enumerate(SHAPES)] for _ in range(2)]
    a, b = (RMSprop.from_rule(params, rule, **options) for params in sets)
    return a, b


def params(optimizer: RMSprop) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def give(a: RMSprop, b: RMSprop, seed: int, missing: tuple[int, ...] = ()) -> None:
    """Give both optimizers the same new gradients."""
    for i, (p, q) in enumerate(zip(params(a), params(b), strict=True)):
        p.grad = None if i in missing else randn(*p.shape, seed=100 * seed + i, dtype=p.dtype)
        q.grad = None if p.grad is None else p.grad.clone()


def agree(a: RMSprop, b: RMSprop, *, exactly: bool) -> None:
    how = {"rtol": 0, "atol": 0} if exactly else SUMS
    for p, q in zip(params(a), params(b), strict=True):
        torch.testing.assert_close(p.detach().clone(), q.detach().clone(), **how)
        assert a.state[p].keys() == b.state[q].keys()
        for name, value in a.state[p].items():
            torch.testing.assert_close(value, b.state[q][name], **how)


def counted(
    function: Callable[..., Any], backend: str = "eager"
) -> tuple[Callable[..., Any], CompileCounterWithBackend]:
    """Return `function` compiled into one graph, and the counter of its compilations."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True), counter


# -- the same results -------------------------------------------------------------------------------------------------


def of_paths() -> list[Any]:
    """Pair every path with the two rules that use every variant, and every other rule with one traced path.

    The kernel's operator executes the step as without a compiler: of the rule, only its averages change the graph.
    """
    others = [name for name in cases.RULES if not name.startswith("all of it")]
    found = [(path, name) for path in PATHS for name in cases.RULES if name not in others]
    found += [(list(TRACED)[i % len(TRACED)], name) for i, name in enumerate(others)]
    found += [("native kernel", name) for name in ("plain", "momentum", "centered", "amsgrad", "NAdam, schedule")]
    return [pytest.param(path, cases.RULES[name], id=f"{name}-{path}") for path, name in found]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "rule"), of_paths())
def test_a_compiled_step_is_one_graph_that_does_the_same(path: str, rule: Rule) -> None:
    """The rate changes, and is a Tensor in between."""
    a, b = pair(rule, **PATHS[path])
    step, counter = counted(a.step)
    for t in range(4):
        for group in (*a.param_groups, *b.param_groups):
            group["lr"] = torch.tensor(0.02, dtype=torch.float64) if t == 2 else cases.lr_at(t + 4)
        give(a, b, t)
        step()
        b.step()
        agree(a, b, exactly=path == "native kernel")
    assert counter.frame_count == 1


def test_a_compiled_step_reads_a_schedule_given_as_a_whole_number() -> None:
    a, b = pair(cases.RULES["NAdam, schedule"], **PATHS["foreach"])
    for optimizer in (a, b):
        optimizer.param_groups[0]["momentum_decay"] = 1
    give(a, b, 0)
    torch.compile(a.step, backend="eager", fullgraph=True)()
    b.step()
    agree(a, b, exactly=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "backend"),
    [(path, "aot_eager") for path in ("native kernel", "foreach", "capturable foreach", "differentiable")]
    + [(path, "inductor") for path in ("native kernel", "foreach", "differentiable")],
)
def test_backends_that_rewrite_the_graph_keep_what_it_does(path: str, backend: str) -> None:
    a, b = pair(cases.RULES["all of it"], **PATHS[path])
    step, counter = counted(a.step, backend)
    first = 0
    for t in range(4):
        for group in (*a.param_groups, *b.param_groups):
            group["lr"] = cases.lr_at(t + 4)
        give(a, b, t)
        step()
        first = counter.frame_count if t == 0 else first
        b.step()
    agree(a, b, exactly=path == "native kernel")
    # torch may compile a graph with a float64 number on the CPU, such as a step counter, twice at first.
    assert counter.frame_count == first <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [{"state_dtype": "uint8"}, {"state_dtype": "bfloat16", "foreach": False}, {"nonfinite": "zero", "foreach": True}],
    ids=["uint8", "bfloat16, one by one", "zero, foreach"],
)
def test_options_that_the_host_decides_are_those_of_the_plain_step(options: dict[str, Any], dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16:
        options = {**options, "stochastic_rounding": 7}
    a, b = pair(RULE, dtype, **options)
    step, counter = counted(a.step, "aot_eager")
    for t in range(3):
        give(a, b, t)
        for p in (params(a)[0], params(b)[0]):
            assert p.grad is not None
            p.grad[0, 0] = float("nan") if t == 1 and "nonfinite" in options else 1.0
        step()
        b.step()
    agree(a, b, exactly=True)
    assert a.nonfinite_steps == b.nonfinite_steps == (1 if "nonfinite" in options else 0)
    assert counter.frame_count == 1


@pytest.mark.parametrize("options", [{}, {"foreach": True}], ids=["native kernel", "foreach"])
def test_a_bad_gradient_leaves_out_the_step_of_all_groups(options: dict[str, Any]) -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups: list[dict[str, Any]] = [{"params": [p], "nonfinite": "skip"}, {"params": [q]}]
    optimizer = RMSprop(groups, **options)
    step, _ = counted(optimizer.step)
    for t, bad in enumerate((1.0, float("inf"), 1.0)):
        p.grad, q.grad = torch.tensor([bad, 1.0]), torch.ones(2)
        before = q.detach().clone()
        step()
        assert torch.equal(before, q) == (t == 1)
    assert optimizer.nonfinite_steps == 1
    assert optimizer.state[q]["step"].item() == optimizer.state[p]["step"].item() == 2


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip"}])
def test_grad_scaler_scales_and_skips_and_gradients_are_unscaled_afterwards(
    backend: str, options: dict[str, Any]
) -> None:
    a, b = pair(RULE, torch.float32, fused=True, **options)
    scalers = [torch.amp.GradScaler("cpu", init_scale=3.0) for _ in range(2)]
    a.step = torch.compile(a.step, backend=backend, fullgraph=True)  # type: ignore[method-assign, assignment]
    for t in range(4):
        give(a, b, t)
        for optimizer, scaler in zip((a, b), scalers, strict=True):
            scaler.scale(torch.ones(()))
            grad = params(optimizer)[1].grad
            assert grad is not None
            grad[0] = float("inf") if t == 2 else 1.0
            scaler.step(optimizer)
            scaler.update()
        for p, q in zip(params(a), params(b), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)
    agree(a, b, exactly=True)
    assert a.state[params(a)[0]]["step"].item() == 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"foreach": True}], ids=["native kernel", "foreach"])
def test_a_compiled_training_step_trains_as_the_plain_one_does_while_the_rate_changes(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    other = copy.deepcopy(model)
    a, b = (RMSprop.from_rule(m.parameters(), RULE, **options) for m in (model, other))

    def train(model: nn.Module, optimizer: RMSprop, x: Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    counter = CompileCounterWithBackend("aot_eager")
    compiled_train, counts = torch.compile(train, backend=counter), []
    for t in range(5):
        a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.01 / (t + 1)
        compiled_train(model, a, randn(6, 4, seed=t))
        train(other, b, randn(6, 4, seed=t))
        counts.append(counter.frame_count)
    agree(a, b, exactly=False)
    assert counts[1:] == counts[1:2] * 4  # the second step finds the gradients and the state of the first one


# -- never recompiled -------------------------------------------------------------------------------------------------

Scheduler = Callable[[torch.optim.Optimizer], Any]
SCHEDULERS: dict[str, Scheduler] = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda t: 0.97**t),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda t: 0.97),
    "StepLR": lambda o: schedules.StepLR(o, 3, 0.7),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 20, 60]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.3, 10),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.3, 1.0, 50),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.97),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 100),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 100, 2.0),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, factor=0.7, patience=5),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.001, 0.03, 7, cycle_momentum=True),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.03, 200, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 9),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.ConstantLR(o, 0.1, 20), schedules.ExponentialLR(o, 0.9)], [20]
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, 0.1, 20), schedules.ExponentialLR(o, 0.95)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.001, 30),
}


STEPPED: dict[str, dict[str, Any]] = {"kernel": {}, "one by one": {"foreach": False}, "foreach": {"foreach": True}}


def of_schedulers() -> list[Any]:
    """Pair one scheduler of each kind with every path, with a number and a Tensor rate; the others take turns."""
    whole = ("LambdaLR", "ReduceLROnPlateau", "OneCycleLR")  # these set the rate, set it on request, set momentum too
    found = []
    for i, name in enumerate(SCHEDULERS):
        turn = ((list(STEPPED)[i % len(STEPPED)], i % 2 == 1),)
        every = ((path, tensor_lr) for path in STEPPED for tensor_lr in (False, True))
        for path, tensor_lr in every if name in whole else turn:
            form = "Tensor" if tensor_lr else "number"
            found.append(pytest.param(name, STEPPED[path], tensor_lr, id=f"{name}-{path}-{form}"))
    return found


@pytest.mark.parametrize(("name", "options", "tensor_lr"), of_schedulers())
def test_no_scheduler_compiles_the_step_anew(name: str, options: dict[str, Any], tensor_lr: bool) -> None:
    """The scheduler exists before the step is compiled. In 100 steps, a Tensor rate becomes a number once."""
    lr = torch.tensor(0.03, dtype=torch.float64) if tensor_lr else 0.03
    sets = [[nn.Parameter(randn(3)), nn.Parameter(randn(2, seed=1))] for _ in range(2)]
    a, b = (RMSprop(ps, copy.deepcopy(lr), 0.8, 0.02, momentum=0.6, **options) for ps in sets)
    pairs = [(optimizer, SCHEDULERS[name](optimizer)) for optimizer in (a, b)]
    step, counter = counted(a.step)
    rates = set()
    for t in range(100):
        for p, q in zip(*sets, strict=True):
            p.grad = randn(*p.shape, seed=t)
            q.grad = p.grad.clone()
        rates.add((float(a.param_groups[0]["lr"]), a.param_groups[0]["momentum"]))
        step()
        b.step()
        for optimizer, scheduler in pairs:
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            if t == 50:
                optimizer.param_groups[0]["lr"] = float(optimizer.param_groups[0]["lr"])
    assert len(rates) >= 2
    if name in ("CyclicLR", "OneCycleLR"):
        assert len({momentum for _, momentum in rates}) > 10
    assert counter.frame_count == 1
    agree(a, b, exactly=not options)


# -- never stale ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["native kernel", "foreach"])
def test_what_happens_between_compiled_steps_is_heeded(path: str) -> None:
    """Each change may recompile; none may use old values. Guards depend neither on the backend nor on foreach."""
    a, b = pair(RULE, **PATHS[path])
    step = torch.compile(a.step, backend="aot_eager" if path == "native kernel" else "eager", fullgraph=True)

    def check(seed: int, missing: tuple[int, ...] = ()) -> None:
        give(a, b, seed, missing)
        step()
        b.step()
        agree(a, b, exactly=path == "native kernel")

    check(1)
    check(2, missing=(1,))
    for optimizer in (a, b):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for own in optimizer.state.values():
            own["square_avg"].mul_(2)
    check(3)
    for optimizer in (a, b):
        optimizer.add_param_group(
            {"params": [nn.Parameter(randn(4, seed=9))], "lr": 0.5, "momentum": 0.0, "nesterov": False}
        )
    check(4)
    for names in ({"momentum": 0.0, "nesterov": False}, {"momentum": 0.4}, {"alpha": 0.3}, {"alpha": 0.4, "eps": 0.1}):
        for optimizer in (a, b):
            optimizer.param_groups[0].update(names)
        check(5)
        check(6)
    for optimizer in (a, b):
        optimizer.param_groups[1].update(momentum=0.5, centered=True)
    check(7)
    for optimizer in (a, b):
        optimizer.state.clear()
    check(8)


@pytest.mark.parametrize("path", ["native kernel", "foreach"])
def test_a_copy_steps_its_own_parameters(path: str) -> None:
    a, b = pair(RULE, **PATHS[path])
    step, _ = counted(a.step)
    give(a, b, 1)
    step()
    b.step()
    c = copy.deepcopy(a)
    before = [p.detach().clone() for p in params(a)]
    give(c, b, 2)
    torch.compile(c.step, backend="eager", fullgraph=True)()
    b.step()
    agree(c, b, exactly=path == "native kernel")
    assert all(torch.equal(p, q) for p, q in zip(params(a), before, strict=True))


# -- limits and errors ------------------------------------------------------------------------------------------------


def test_sparse_gradients_break_the_graph_and_are_stepped_as_without_a_compiler() -> None:
    layers = [nn.Embedding(10, 3, sparse=True) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    a, b = (RMSprop(layer.parameters()) for layer in layers)
    step = torch.compile(a.step, backend="eager")
    for t in range(3):
        for layer in layers:
            layer.zero_grad()
            layer(torch.tensor([1, 2, t])).square().sum().backward()
        step()
        b.step()
    assert torch.equal(layers[0].weight, layers[1].weight)
    torch._dynamo.reset()
    with pytest.raises(Unsupported, match=r"torch\.compile does not support sparse Tensors"):
        torch.compile(a.step, backend="eager", fullgraph=True)()


def test_a_rate_that_autograd_follows_is_refused_in_a_compiled_step() -> None:
    """The compiled step would lose its derivative."""
    p = torch.ones(2)
    optimizer = RMSprop([p], differentiable=True)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises(InputError, match="lr must be one that requires no gradient in a compiled step"):
        torch.compile(optimizer.step, backend="eager")()


def test_a_value_out_of_range_is_named_when_the_graph_runs() -> None:
    paths: tuple[dict[str, Any], ...] = ({}, {"foreach": False})
    for options in paths:
        p = nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        optimizer = RMSprop([p], **options)
        step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
        step()
        optimizer.param_groups[0]["lr"] = -1.0
        with pytest.raises(InputError, match=r"lr must be .*, got -1\.0"):
            step()
        assert torch.is_grad_enabled()


def test_hooks_run_in_a_compiled_step() -> None:
    p, seen = torch.ones(3), []
    p.grad = torch.ones(3)
    optimizer = RMSprop([p])
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    torch.compile(lambda: optimizer.step(), backend="eager")()
    assert seen == ["before", "after"]


@pytest.mark.parametrize("everywhere", [False, True], ids=["of one", "of all"])
@pytest.mark.parametrize("path", ["native kernel", "foreach"])
def test_hooks_that_come_and_go_between_compiled_steps_are_called(path: str, everywhere: bool) -> None:
    p, seen = nn.Parameter(torch.ones(3)), []
    p.grad = torch.ones(3)
    optimizer = RMSprop([p], **PATHS[path])
    step = torch.compile(optimizer.step, backend="eager")
    step()
    registers: tuple[Any, ...] = (optimizer.register_step_pre_hook, optimizer.register_step_post_hook)
    if everywhere:
        registers = (register_optimizer_step_pre_hook, register_optimizer_step_post_hook)
    for register in registers:
        handle = register(lambda *_: seen.append(1))
        try:
            for count in (1, 2):
                step()
                assert len(seen) == count
        finally:
            handle.remove()
        step()
        assert len(seen) == 2
        seen.clear()
    assert optimizer.state[p]["step"] == 7


def test_what_a_wrapper_keeps_in_the_state_is_left_alone() -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = RMSprop([p], foreach=False)
    optimizer.state[p]["slow"] = 1.0
    torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert optimizer.state[p]["step"] == 1


@pytest.mark.parametrize("compile_it", [False, True])
def test_a_scheduler_knows_whether_step_was_called(compile_it: bool) -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.warns(UserWarning, match=r"lr_scheduler\.step\(\)` before `optimizer\.step"):
        schedules.ExponentialLR(RMSprop([p]), 0.9).step()
    optimizer = RMSprop([p])
    scheduler = schedules.ExponentialLR(optimizer, 0.9)
    (torch.compile(optimizer.step, backend="eager", fullgraph=True) if compile_it else optimizer.step)()
    scheduler.step()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_is_compiled(set_to_none: bool) -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = RMSprop([p, q])
    zero, counter = counted(optimizer.zero_grad)
    for lr in (0.1, 0.2, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.ones(2)
        zero(set_to_none)
        assert q.grad is None
        assert (p.grad is None) == set_to_none
        assert set_to_none or not p.grad.any()
    assert counter.frame_count == (0 if set_to_none else 1)


# -- the operators ----------------------------------------------------------------------------------------------------


def test_the_operators_of_an_optimizer_keep_their_word_to_torch() -> None:
    """Check which arguments the operators change, what their fakes return, and how torch traces them."""
    a, _ = pair()
    number = compiled._id_of(a)
    own = [p.detach() for p in params(a)]
    grads = [randn(*p.shape, seed=5) for p in own]
    places = [0, 0, 0, 1, 0, 2]
    torch.library.opcheck(torch.ops.rmsprop.step.default, (own, grads, places, number, None))
    for found in (None, torch.tensor(0.0), torch.tensor(1.0)):
        arguments = (own, grads, places, number, found, torch.tensor(4.0))
        torch.library.opcheck(torch.ops.rmsprop.scaled_step.default, arguments)
    value = torch.ops.rmsprop.rates(number, 0, torch.device("cpu"))
    assert value.tolist() == [RULE.lr, RULE.momentum]


def test_a_number_lives_as_long_as_its_optimizer() -> None:
    a, b = pair()
    assert compiled._id_of(a) == compiled._id_of(a) != compiled._id_of(b)
    count = len(compiled._optimizers)
    del a
    assert len(compiled._optimizers) == count - 1


@pytest.mark.parametrize("rule", [Rule(0.1, 0.8, 0.01), RULE, Rule(momentum=0.9, first_moment=True, amsgrad=True)])
def test_the_operator_of_lists_keeps_its_word_to_torch(rule: Rule) -> None:
    group = RMSprop.from_rule([randn(1)], rule).param_groups[0]
    values = [group[name] for name in RULE_NAMES]
    shapes = [(3, 4), (5,)]
    lists = [[randn(*shape, seed=k + 1) for shape in shapes] for k in range(2)]
    lists += [[torch.tensor(2.0) for _ in shapes], [randn(*shape, seed=7).abs() for shape in shapes]]
    lists.append([randn(*shape, seed=8) for shape in shapes] if rule.centered else [])
    lists.append([randn(*shape, seed=9) for shape in shapes] if rule.momentum else [])
    lists.append([randn(*shape, seed=10).abs() for shape in shapes] if rule.amsgrad else [])
    for lr_tensor in (None, torch.tensor(0.5)):
        arguments = (*lists, rule.lr, lr_tensor, [float(value) for value in values])
        torch.library.opcheck(keras_lists.step_lists_operator, arguments)


_TRAINING = """
import sys, torch
from rmsprop.torch import RMSprop
def train(optimizer, x, step):
    for set_to_none in (False, True):
        optimizer.zero_grad(set_to_none=set_to_none)
        (x**2).sum().backward()
        step()
    optimizer.load_state_dict(optimizer.state_dict())
params = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
optimizers = [RMSprop([x], lr=0.1, momentum=0.9, fused=fused) for x, fused in zip(params, (None, None, False, False))]
for i in (0, 2):
    train(optimizers[i], params[i], optimizers[i].step)
assert "torch._dynamo" not in sys.modules
for i in (1, 3):
    train(optimizers[i], params[i], torch.compile(optimizers[i].step, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(params[i - 1], params[i])
"""


def test_torchs_compiler_is_imported_by_those_who_compile() -> None:
    """Its import takes seconds. What the compiler needs from this library is imported during tracing."""
    done = forked.python("import warnings; warnings.simplefilter('ignore')  # torch's own\n" + _TRAINING)
    assert done.returncode == 0, done.stderr


def test_what_somebody_has_put_in_place_of_a_method_of_torch_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        torchs = getattr(torch.optim.Optimizer, name)

        @functools.wraps(torchs)
        def noted(self: Any, *arguments: Any, torchs: Any = torchs, name: str = name, **others: Any) -> Any:
            seen.append(name)
            return torchs(self, *arguments, **others)

        monkeypatch.setattr(torch.optim.Optimizer, name, noted)
    modules = {name: module for name, module in sys.modules.items() if name != "torch._dynamo"}
    monkeypatch.setattr(private, "sys", types.SimpleNamespace(modules=modules))
    optimizer = RMSprop([nn.Parameter(torch.ones(2))])
    optimizer.zero_grad(set_to_none=False)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["add_param_group", "zero_grad", "state_dict", "load_state_dict"]
