"""The range test: it changes no bit, finds known rates, and says so when there is nothing to find."""

from __future__ import annotations

import copy
import math
import mmap
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, Subset, TensorDataset

from rmsprop import InputError, profile
from rmsprop.monitor.lr_finder import WARM_LIMIT, curve, find_lr
from rmsprop.monitor.lr_finder.range_test import STOP
from rmsprop.rule import moment_weights
from rmsprop.torch import RMSprop, release_gradients

MINE = str(Path(__file__).with_name("mine.py"))
SHORT: dict[str, Any] = {"lowest": 1e-3, "highest": 0.1, "steps": 28}  # the fewest steps that the tests need


class Net(nn.Module):
    """Has all that a range test can change: buffers, dropout, and a number, a list and a generator as attributes."""

    hidden: Tensor

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8, sparse=sparse)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(8, 1)
        self.calls, self.memory = 0, [torch.zeros(8)]
        self.noise = torch.Generator().manual_seed(3)
        self.register_buffer("hidden", torch.zeros(8), persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        self.calls += 1
        x = self.drop(self.norm(self.table(words).mean(dim=1)))
        x = x + 0.01 * torch.randn(8, generator=self.noise) + 0.01 * self.memory[0]
        self.hidden = 0.5 * self.hidden + x.detach().mean(dim=0)  # assigns a new Tensor
        self.memory.append(self.memory.pop().add(self.hidden))
        out: Tensor = self.out(x)
        return out.squeeze(1)


class Words(Dataset[Any]):
    """Draws from all three global generators and from its own."""

    def __init__(self) -> None:
        self.words = torch.randint(30, (64, 4), generator=torch.Generator().manual_seed(0))
        self.target = (self.words.float().mean(dim=1) - 15) / 8
        self.own = np.random.default_rng(1)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + float(np.random.rand()) + float(self.own.random()) + torch.rand(())
        return self.words[i], self.target[i] + 0.01 * noise


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    words, target = batch
    loss: Tensor = (model(words) - target).square().mean()
    return loss


def loader(own_generator: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5) if own_generator else None
    return DataLoader(Words(), 8, shuffle=True, generator=generator)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    optimizer.zero_grad()
    mean_loss(model, batch).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def everything(model: Net, optimizer: torch.optim.Optimizer, batches: Any) -> list[Any]:
    """Return all that a range test could change, as bytes and plain values, without state_dict, which changes state."""

    def plain(x: Any) -> Any:
        if isinstance(x, Tensor):
            x = x.detach()
            x = x.to_dense() if x.layout != torch.strided else x
            flat = x.contiguous().view(-1)
            return (str(x.dtype), tuple(x.shape), flat.view(torch.uint8).numpy().tobytes()) if x.numel() else ()
        if isinstance(x, dict):
            return [(k if isinstance(k, (str, int)) else plain(k), plain(v)) for k, v in x.items()]
        if isinstance(x, (list, tuple)):
            return [plain(y) for y in x]
        return sorted(x) if isinstance(x, set) else x

    shared = vars(optimizer).get("step_state")
    about_run = [] if shared is None else [len(shared.sparse), plain([lag[1:] for lag in shared.lags.values()])]
    version, numbers, *rest = np.random.get_state(legacy=True)
    return [
        [plain(p) for p in model.parameters()],
        [(name, plain(b)) for name, b in model.named_buffers()],
        [plain(p.grad) for p in model.parameters() if p.grad is not None],
        [m.training for m in model.modules()],
        (model.calls, plain(model.memory), plain(model.noise.get_state())),
        plain(optimizer.state),
        [{k: plain(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        sorted(vars(optimizer)),
        vars(optimizer).get("_opt_called"),
        about_run,
        (random.getstate(), version, np.asarray(numbers).tolist(), rest, plain(torch.get_rng_state())),
        None if batches.generator is None else plain(batches.generator.get_state()),
        batches.dataset.own.bit_generator.state,
    ]


def known_rows(optimizer: torch.optim.Optimizer) -> list[set[int]]:
    """Return the ids by which an optimizer knows sparse parameters and their rows."""
    shared = vars(optimizer).get("step_state")
    return [] if shared is None else [set(shared.sparse), set(shared.lags)]


CASES: dict[str, Callable[[Net], torch.optim.Optimizer]] = {
    "momentum": lambda m: RMSprop(m.parameters(), lr=0.01, alpha=0.9, momentum=0.9),
    "centered, bias correction": lambda m: RMSprop(
        m.parameters(), alpha=0.9, centered=True, bias_correction=True, nonfinite="skip"
    ),
    "uint8": lambda m: RMSprop(m.parameters(), alpha=0.9, momentum=0.5, state_dtype="uint8"),
    "bfloat16": lambda m: RMSprop(m.parameters(), alpha=0.9, centered=True, state_dtype="bfloat16"),
    "sparse": lambda m: RMSprop(m.parameters(), alpha=0.9, centered=True),
    "Tensor lr": lambda m: RMSprop(m.parameters(), lr=torch.tensor(0.01), alpha=0.9, weight_decay=0.1),
    "two groups, one with a Tensor": lambda m: RMSprop(
        [{"params": m.table.parameters(), "lr": torch.tensor(0.02)}, {"params": m.out.parameters(), "lr": 0.005}],
        alpha=0.9,
    ),
    "tensor operations": lambda m: RMSprop(m.parameters(), alpha=0.9, fused=False, momentum=0.9),
    "torch": lambda m: torch.optim.RMSprop(m.parameters(), alpha=0.9, momentum=0.9),
    "Adam": lambda m: torch.optim.Adam(m.parameters(), betas=(0.9, 0.9)),
    "as AMSGrad": lambda m: RMSprop.from_rule(m.parameters(), profile("amsgrad", decay=0.9)),
}


def made(case: str, steps: int, own_generator: bool = True) -> tuple[Net, torch.optim.Optimizer, DataLoader[Any]]:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    model, batches = Net(sparse=case == "sparse"), loader(own_generator)
    optimizer = CASES[case](model)
    for _, batch in zip(range(steps), batches, strict=False):
        step(model, optimizer, batch)
    model.eval()
    return model, optimizer, batches


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_no_bit_is_changed_and_training_goes_on_as_if_nothing_had_been(case: str, steps: int) -> None:
    model, optimizer, batches = made(case, steps)
    before = everything(model, optimizer, batches)
    objects = [id(x) for x in (*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()))]
    rates, lagging = [g["lr"] for g in optimizer.param_groups], known_rows(optimizer)
    find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2)
    assert everything(model, optimizer, batches) == before
    assert known_rows(optimizer) == lagging
    assert [id(x) for x in (*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()))] == objects
    assert all(g["lr"] is rate for g, rate in zip(optimizer.param_groups, rates, strict=True))

    def go_on(model: Net, optimizer: torch.optim.Optimizer, batches: DataLoader[Any]) -> list[Any]:
        model.train()
        for batch in batches:
            step(model, optimizer, batch)
        return everything(model, optimizer, batches)

    after = go_on(model, optimizer, batches)
    assert after == go_on(*made(case, steps))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [0, 3, 25, 45])
def test_an_error_or_ctrl_c_leaves_no_trace(error: type[BaseException], when: int) -> None:
    model, optimizer, batches = made("sparse", 3, own_generator=False)
    before = everything(model, optimizer, batches)
    count = 0

    def failing(model: nn.Module, batch: Any) -> Tensor:
        nonlocal count
        count += 1
        if count > when:
            raise error("now")
        return mean_loss(model, batch)

    with pytest.raises(error, match="now"):
        find_lr(model, optimizer, failing, batches, **SHORT, seeds=2)
    assert everything(model, optimizer, batches) == before


def test_ctrl_c_while_things_are_restored_puts_back_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, batches = made("momentum", 3)
    before = everything(model, optimizer, batches)
    whole, calls = np.random.set_state, []

    def interrupted(state: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        whole(state)

    monkeypatch.setattr(np.random, "set_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1, warm=0)
    assert len(calls) == 2
    assert everything(model, optimizer, batches) == before


def test_an_epoch_under_way_goes_on_where_it_was() -> None:
    def rest(look: bool) -> list[Any]:
        model, optimizer, batches = made("momentum", 2)
        iterator = iter(batches)
        seen = [next(iterator)[0].tolist() for _ in range(3)]
        if look:
            find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2)
        return seen + [batch[0].tolist() for batch in iterator]

    assert rest(True) == rest(False)


class Holder(Sampler[int]):
    """Changes everything that it holds on each reading."""

    def __init__(self, length: int) -> None:
        self.length, self.rounds = length, 0
        self.last = deque([1, 2], maxlen=3)
        self.weights, self.bits = np.arange(6.0).reshape(2, 3), bytearray(b"abc")
        self.objects = np.array([[1], {"a": 2}], dtype=object)
        self.nested: dict[str, Any] = {"list": [[1], [2, {3}]], "tuple": (torch.zeros(2), deque([np.zeros(2)]))}
        self.order = OrderedDict(a=1, b=2)
        self.numpy, self.torch = np.random.default_rng(1), torch.Generator().manual_seed(1)
        self.python, self.words = random.Random(1), np.random.PCG64(2)
        self.kept = [0, 1]
        self.sparse, self.more = torch.eye(2).to_sparse(), Words()
        self.inner = Subset(self.more, self.kept)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        self.rounds += 1
        self.last.append(self.rounds)
        self.weights += 1
        self.bits.extend(b"d")
        self.sparse.mul_(2)
        self.objects[0].append(self.rounds)
        self.objects[1] = None
        self.nested["list"][0].append(self.rounds)
        self.nested["list"][1][1].add(self.rounds + 10)
        self.nested["tuple"][0].add_(1)
        self.nested["tuple"][1][0][:] += 1
        self.nested["new"] = True
        self.order.move_to_end("a")
        self.words.random_raw()
        self.kept.append(2)
        self.more.own.random()
        self.extra = self.rounds
        start = int(self.numpy.integers(4)) + self.python.randrange(4)
        start += int(torch.randint(4, (), generator=self.torch))
        yield from ((start + i) % self.length for i in range(self.length))


def test_what_a_sampler_or_data_set_holds_is_restored_in_place() -> None:
    model, optimizer, _ = made("momentum", 2)
    data = Words()
    data.seen = deque([1])  # type: ignore[attr-defined]
    sampler = Holder(64)
    batches = DataLoader(data, 8, sampler=sampler)
    held = list(vars(sampler).items())
    inside = [sampler.nested["list"][1][1], sampler.nested["tuple"][0], sampler.nested["tuple"][1][0]]
    first, second = sampler.objects

    def content() -> dict[str, Any]:
        simple = {k: v for k, v in vars(sampler).items() if isinstance(v, int | list | deque | bytearray)}
        return {
            **copy.deepcopy(simple),
            "names": sorted(vars(sampler)),
            "weights": sampler.weights.tolist(),
            "sparse": sampler.sparse.to_dense().tolist(),
            "objects": repr(sampler.objects),
            "nested": repr(sampler.nested),
            "order": list(sampler.order),
            "numpy": sampler.numpy.bit_generator.state,
            "torch": sampler.torch.get_state().tolist(),
            "python": sampler.python.getstate(),
            "words": sampler.words.state,
            "more": sampler.more.own.bit_generator.state,
        }

    def loss(model: nn.Module, batch: Any) -> Tensor:
        data.seen.append(2)  # type: ignore[attr-defined]
        return mean_loss(model, batch)

    before = content()
    found = find_lr(model, optimizer, loss, batches, **SHORT, seeds=2)
    assert content() == before
    assert all(vars(sampler)[name] is value for name, value in held)
    now = [sampler.nested["list"][1][1], sampler.nested["tuple"][0], sampler.nested["tuple"][1][0]]
    assert all(x is y for x, y in zip(now, inside, strict=True))
    assert sampler.objects[0] is first
    assert sampler.objects[1] is second
    assert data.seen == deque([1])  # type: ignore[attr-defined]
    assert not any("not restored" in note for note in found.notes)


@pytest.mark.parametrize("kept", [True, False])
def test_a_data_loader_that_a_function_returns_is_as_one_passed_directly(kept: bool) -> None:
    model, optimizer, batches = made("momentum", 2)
    before = everything(model, optimizer, batches)
    directly = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2)

    def order(_seed: int) -> DataLoader[Any]:
        return batches if kept else DataLoader(batches.dataset, 8, shuffle=True, generator=batches.generator)

    found = find_lr(model, optimizer, mean_loss, order, **SHORT, seeds=2)
    assert found.losses == directly.losses
    assert found.losses[0] != found.losses[1]
    assert found.notes == directly.notes
    assert everything(model, optimizer, batches) == before


class Around:
    """Counts the rounds over the batches of a loader."""

    def __init__(self, batches: DataLoader[Any]) -> None:
        self.batches, self.rounds = batches, 0

    def __iter__(self) -> Iterator[Any]:
        self.rounds += 1
        return iter(self.batches)


@pytest.mark.parametrize("directly", [True, False])
def test_batches_of_another_class_are_named_as_not_restored(directly: bool) -> None:
    model, optimizer, batches = made("momentum", 0)
    around = Around(batches)
    found = find_lr(model, optimizer, mean_loss, around if directly else lambda _: around, **SHORT, seeds=2)
    assert found.notes[-1] == "not restored: the attributes of batches, a Around, should the reading change them"
    assert sum("not restored" in note for note in found.notes) == 1
    assert around.rounds > 0


def test_the_gradient_of_a_tensor_that_is_no_parameter_is_restored() -> None:
    model, optimizer, batches = made("momentum", 2)
    model.scale = scale = torch.ones((), requires_grad=True)
    grad = scale.grad = torch.tensor(3.0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = mean_loss(model, batch) * scale
        return value

    find_lr(model, optimizer, loss, batches, **SHORT, seeds=1, warm=2)
    assert scale.grad is grad
    assert grad.item() == 3.0


def test_what_cannot_be_restored_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, batches = made("momentum", 0)
    data = batches.dataset
    assert isinstance(data, Words)
    data.rest = iter([1, 2])  # type: ignore[attr-defined]
    monkeypatch.setattr("rmsprop.monitor.lr_finder.snapshot.DATA_LIMIT", data.words.nbytes - 1)
    notes = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2).notes
    assert notes[-2:] == [
        "not restored: Tensors or arrays of batches.dataset.words, 0 MiB, should the reading change them",
        "not restored: the position of batches.dataset.rest, which is a list_iterator",
    ]
    plain = DataLoader(TensorDataset(data.words.repeat(9, 1), torch.ones(9 * len(data.words))), 2)
    assert find_lr(model, optimizer, mean_loss, lambda seed: iter(plain), **SHORT, seeds=2).notes[-1] == (
        "not restored: generators, sampler and data set of the DataLoader that batches reads; pass it itself"
    )


def test_a_data_set_in_memory_that_is_only_to_be_read_is_not_written(tmp_path: Path) -> None:
    """Writing into it would end the process."""
    (tmp_path / "words").write_bytes(np.arange(256).astype(np.int64).tobytes())
    with (tmp_path / "words").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that the buffer is read-only
            words = torch.frombuffer(memory, dtype=torch.int64).view(64, 4)
        model, optimizer, _ = made("momentum", 0)
        batches = DataLoader(TensorDataset(words % 30, words.float().mean(dim=1) / 256), 8)
        batches.dataset.source = words  # type: ignore[attr-defined]
        find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2)
        assert words[63, 3] == 255
        del words, batches.dataset.source  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # from JAX, if an earlier test used it
def test_persistent_workers_and_samplers_keep_their_place() -> None:
    data = TensorDataset(torch.arange(12).view(12, 1).repeat(1, 4), torch.ones(12))
    own = torch.Generator().manual_seed(2)
    batches = DataLoader(data, 3, sampler=RandomSampler(data, generator=own), num_workers=1, persistent_workers=True)
    model = Net()
    optimizer = RMSprop(model.parameters(), alpha=0.5)
    iterator = iter(batches)
    first = next(iterator)[0]
    state = own.get_state()
    find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1, warm=2)
    assert torch.equal(own.get_state(), state)
    assert sorted(torch.cat([first, *(x for x, _ in iterator)])[:, 0].tolist()) == list(range(12))


def test_to_ascend_is_to_descend_minus_the_objective() -> None:
    found = []
    for sign, maximize in ((1.0, False), (-1.0, True)):
        model, optimizer, batches = made("momentum", 0)
        optimizer.param_groups[0]["maximize"] = maximize

        def objective(model: nn.Module, batch: Any, sign: float = sign) -> Tensor:
            return sign * mean_loss(model, batch)

        found.append(find_lr(model, optimizer, objective, batches, **SHORT, seeds=2))
    down, up = found
    assert up.losses == down.losses
    assert (up.lr, up.reason) == (down.lr, down.reason)
    assert set(up.notes) - set(down.notes) == {"maximize=True: losses here are minus the objective"}
    optimizer.add_param_group({"params": [torch.ones(1)], "maximize": False})
    with pytest.raises(InputError, match="maximize must be the same in all groups, got True in some groups"):
        find_lr(model, optimizer, mean_loss, batches, **SHORT)


def test_schedulers_are_not_advanced_and_give_the_proportions() -> None:
    model, _, batches = made("momentum", 0)
    groups = [{"params": model.table.parameters(), "lr": 0.04}, {"params": model.out.parameters(), "lr": 0.01}]
    optimizer = RMSprop(groups, alpha=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step else 0.0)
    state = copy.deepcopy(scheduler.state_dict())
    seen: list[list[float]] = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
    found = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1, warm=2)
    assert scheduler.state_dict() == state
    assert found.notes[-1].startswith("a scheduler keeps the rate that it began with: set the rate, then create")
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.0]
    assert seen[:2] == [[0, 0], [0, 0]]
    assert seen[2:4] == [[pytest.approx(x), pytest.approx(x / 4)] for x in found.rates[:2]]
    assert found.lr is None or found.lrs == pytest.approx([found.lr, found.lr / 4])


class Spy:
    """Counts the steps that an observer is asked for; none may reach it."""

    steps = 0

    def wanted(self) -> tuple[int, int]:
        self.steps += 1
        return 0, 0

    def measured(self, *_: Any) -> None: ...
    def skipped(self, *_: Any) -> None: ...


def test_a_watcher_sees_none_of_the_steps() -> None:
    model, optimizer, batches = made("momentum", 0)
    assert isinstance(optimizer, RMSprop)
    spy = Spy()
    optimizer.watch(spy)
    find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1, warm=2)
    assert spy.steps == 0
    step(model, optimizer, next(iter(batches)))
    assert spy.steps == 1


class Lookahead(torch.optim.Optimizer):
    """Steps another optimizer, and on every third step goes back half of the way."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.calls = optimizer, 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step()
        self.calls += 1
        self.seen()
        for p in (p for group in self.param_groups for p in group["params"]):
            slow = self.state[p].setdefault("slow", p.detach().clone())
            if self.calls % 3 == 0:
                slow.lerp_(p.detach(), 0.5)
                p.data.copy_(slow)

    def seen(self) -> None: ...


@pytest.mark.parametrize("steps", [0, 5])
def test_an_optimizer_around_another_is_stepped_itself_and_both_are_restored(steps: int) -> None:
    model, optimizer, batches = made("momentum", steps)
    assert isinstance(optimizer, RMSprop)
    around, spy, calls = Lookahead(optimizer), Spy(), []
    optimizer.watch(spy)
    around.seen = lambda: calls.append(1)  # type: ignore[method-assign]
    before = everything(model, optimizer, batches), everything(model, around, batches)
    losses = find_lr(model, around, mean_loss, batches, **SHORT, seeds=1, warm=2).losses
    assert (len(calls), around.calls, spy.steps) == (2 + 28 + (len(losses[0]) == 28), 0, 0)
    assert (everything(model, optimizer, batches), everything(model, around, batches)) == before
    assert losses != find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1, warm=2).losses


def test_of_adam_the_second_beta_needs_no_steps() -> None:
    """Adam as a rule of ours has the warm-up, the losses and the suggestion of torch's Adam."""
    theirs: dict[str, Any] = {"amsgrad": torch.optim.Adam, "adam": torch.optim.Adam, "nadam": torch.optim.NAdam}
    for name, optimizer_class in theirs.items():
        found = []
        for ours in (False, True):
            model, _, batches = made("Adam", 0)
            options = {"amsgrad": True} if name == "amsgrad" else {}
            optimizer = optimizer_class(model.parameters(), **options)
            if ours:
                optimizer = RMSprop.from_rule(model.parameters(), profile(name))
            found.append(find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2))
            assert found[-1].warm_steps == 20
            assert not any("warm-up steps" in note for note in found[-1].notes)
        assert found[0].notes == found[1].notes
        assert found[0].lr == found[1].lr
        for a, b in zip(found[0].losses, found[1].losses, strict=True):
            assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize(("made_before", "now"), [(0, "0.45"), (4000, "0.67"), (20000, "")])
def test_a_note_says_how_far_the_momentum_of_nadam_has_risen(made_before: int, now: str) -> None:
    model, _, batches = made("Adam", 0)
    rule = profile("nadam")
    optimizer = RMSprop.from_rule(model.parameters(), rule)
    if made_before:
        step(model, optimizer, next(iter(batches)))
        for p in model.parameters():
            optimizer.state[p]["step"].fill_(float(made_before))
    notes = [note for note in find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2).notes if "NAdam" in note]
    assert notes == bool(now) * [
        f"NAdam's μ was {now} when the rate began to rise, and comes near 0.9 after 9857 steps: later steps bear "
        "higher rates"
    ]
    assert 1 - moment_weights(rule, 9857)[1] == pytest.approx(0.9 * 0.9, rel=1e-4)  # μₜ


def test_what_a_maximum_keeps_is_not_switched_off() -> None:
    """A training with amsgrad never forgets v₀, so the test keeps v₀ and its steps are those of the training."""
    first = {}
    for amsgrad in (False, True):
        weight = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(weight.weight)
        optimizer = RMSprop(weight.parameters(), alpha=0.5, initial_square_avg=100.0, amsgrad=amsgrad)
        moved: list[float] = []
        optimizer.register_step_post_hook(lambda *_, w=weight, moved=moved: moved.append(w.weight.item()))
        found = find_lr(weight, optimizer, lambda m, x: m(x).sum(), [torch.ones(1, 1)], **SHORT, seeds=1)
        first[amsgrad] = abs(moved[found.warm_steps])
        assert any("began with v = 0" in note for note in found.notes) == (not amsgrad)
    assert first[False] == pytest.approx(1e-3, rel=0.05)
    assert first[True] == pytest.approx(1e-3 / math.sqrt(50.5), rel=1e-4)


def test_released_gradients_give_the_same_losses() -> None:
    found = []
    for release in (False, True):
        model, optimizer, batches = made("momentum", 0)
        assert isinstance(optimizer, RMSprop)
        if release:
            release_gradients(optimizer)
        found.append(find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1).losses)
    assert found[0] == found[1]


# -- the steps of a test ----------------------------------------------------------------------------------------------


def test_the_losses_are_those_of_a_loop_by_hand() -> None:
    """Warm-up steps have a rate of 0; then each rate gets one step, from the first batch on.

    A loss belongs to the step before it.
    """
    torch.manual_seed(0)
    data = [torch.randn(4, 3) for _ in range(7)]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = (model(batch) - 1).square().mean()
        return value

    model = nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    found = find_lr(
        model, RMSprop(model.parameters(), alpha=0.8, momentum=0.5), loss, data, lowest=1e-4, highest=1e-2, steps=28,
        seeds=1, warm=9,
    )  # fmt: skip
    assert found.rates == pytest.approx([1e-4 * 100 ** (i / 27) for i in range(28)])
    optimizer = RMSprop(twin.parameters(), alpha=0.8, momentum=0.5)
    by_hand = []
    for number, rate in enumerate([*[0.0] * 9, *found.rates, 0.0]):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        value = loss(twin, data[(number if number < 9 else number - 9) % 7])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        by_hand.append(value.item())
    assert found.losses == [by_hand[10:]]


def test_warming_takes_two_windows_less_what_is_there() -> None:
    for steps, alpha, momentum, warm in (
        (0, 0.9, 0.0, 20), (5, 0.9, 0.0, 15), (0, 0.5, 0.0, 4), (0, 0.0, 0.0, 0), (0, 0.999, 0.0, WARM_LIMIT),
        (0, 0.5, 0.8, 10),
    ):  # fmt: skip
        model, optimizer, batches = made("centered, bias correction", steps)
        optimizer.param_groups[0].update(alpha=alpha, momentum=momentum)
        seen: list[float] = []
        optimizer.register_step_pre_hook(lambda o, *_, seen=seen: seen.append(o.param_groups[0]["lr"]))
        found = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=1)
        assert found.warm_steps == warm
        assert seen[:warm] == [0.0] * warm
        assert seen[warm] == pytest.approx(1e-3)
        assert any("only 500 of 2000 warm-up steps were run" in note for note in found.notes) == (alpha == 0.999)


def test_a_note_counts_the_steps_that_are_missing() -> None:
    """Of 20 steps, training made 5 and the test 7."""
    model, optimizer, batches = made("momentum", 5)
    found = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2, warm=7)
    assert found.notes[0].startswith("only 12 of 20 warm-up steps were run: low rates may look better")


@pytest.mark.parametrize(
    ("rule", "same"),
    [
        ({"initial_square_avg": 1.0}, {}),
        ({"lr_in_momentum": True, "momentum": 0.9}, {"momentum": 0.9}),
        (
            {"initial_square_avg": 1.0, "lr_in_momentum": True, "momentum": 0.9, "nesterov": True},
            {"momentum": 0.9, "nesterov": True},
        ),
    ],
)
def test_what_a_long_training_at_a_constant_rate_forgets_makes_no_difference(
    rule: dict[str, Any], same: dict[str, Any]
) -> None:
    found = []
    for options in (rule, same):
        model, _, batches = made("momentum", 0)
        optimizer = RMSprop(model.parameters(), alpha=0.9, eps=1e-10, **options)
        before = copy.deepcopy(optimizer.param_groups[0])
        found.append(find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2))
        after = optimizer.param_groups[0]
        assert {k: after[k] for k in rule} == {k: before[k] for k in rule}
        assert not optimizer.state
    assert found[0].losses == found[1].losses
    assert found[0].lr == found[1].lr
    assert [note for note in found[0].notes if note not in found[1].notes] == (
        [
            "the test began with v = 0 instead of 1: where squared gradients are below that, a training's first steps "
            "are shorter (v has 1 % of it left after 44 steps)"
        ]
        if "initial_square_avg" in rule
        else []
    )


def test_one_step_is_not_called_steps() -> None:
    model, _, batches = made("momentum", 0)
    optimizer = RMSprop(model.parameters(), alpha=0.0, initial_square_avg=1.0)
    notes = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2).notes
    assert [note.endswith("(v has 1 % of it left after 1 step)") for note in notes] == [True]


def test_a_start_that_is_not_forgotten_is_noted_with_its_share() -> None:
    for correction, warm, share in ((False, None, ""), (False, 10, "20.6 %"), (True, 10, "")):
        model, _, batches = made("momentum", 0)
        optimizer = RMSprop(model.parameters(), alpha=0.9, initial_square_avg=1.0, bias_correction=correction)
        for _, batch in zip(range(5), batches, strict=False):
            step(model, optimizer, batch)
        found = find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2, warm=warm)
        notes = [note for note in found.notes if "of its start, 1, when the rate began to rise" in note]
        assert len(notes) == bool(share)
        assert all(f"v still had {share.replace('20.6', '21')}" in note for note in notes)
        if not correction and warm is None:
            assert found.warm_steps == 88 - 5  # 0.9⁸⁸ < 1e-4


def test_warm_averages_begin_with_steps_of_the_size_of_the_rate() -> None:
    """From an empty v the first step is 1/√(1−β) times too long: the reason for warming up."""
    first = {}
    for warm in (0, 200):
        weight = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(weight.weight)
        optimizer = RMSprop(weight.parameters(), alpha=0.99)
        moved: list[float] = []
        optimizer.register_step_post_hook(lambda *_, w=weight, moved=moved: moved.append(w.weight.item()))
        data = [torch.ones(1, 1)]
        find_lr(weight, optimizer, lambda m, x: m(x).sum(), data, **SHORT, seeds=1, warm=warm)
        first[warm] = abs(moved[warm])
    assert first[0] == pytest.approx(10e-3, rel=1e-4)
    assert first[200] == pytest.approx(1e-3, rel=0.08)  # 1/√(1 − 0.99²⁰¹) = 1.07


def test_seeds_are_orders_of_the_data() -> None:
    model, optimizer, batches = made("momentum", 0)
    a, b = (find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=2) for _ in range(2))
    assert a.losses == b.losses
    assert a.losses[0] != a.losses[1]
    seeds: list[int] = []

    def order(seed: int) -> Iterator[Any]:
        seeds.append(seed)
        while True:
            yield from loader()

    find_lr(model, optimizer, mean_loss, order, **SHORT, seeds=2)
    assert seeds == [0, 1, 2]


def test_a_seed_ends_when_its_loss_is_out_of_hand() -> None:
    def quadratic(curvature: float) -> list[float]:
        p = nn.Linear(1, 1, bias=False)
        nn.init.ones_(p.weight)
        optimizer = torch.optim.SGD(p.parameters(), lr=1.0)
        return find_lr(
            p, optimizer, lambda m, x: curvature * m(x).square().sum() + 0.01, [torch.ones(1, 1)], lowest=1e-3,
            highest=1e3, steps=81, seeds=1,
        ).losses[0]  # fmt: skip

    losses = quadratic(1.0)
    assert 10 < len(losses) < 81
    middles = [float(np.median(losses[i - 4 : i + 1])) for i in range(4, len(losses))]
    assert middles[-1] > STOP * min(middles)
    assert all(m <= STOP * min(middles[: i + 1]) for i, m in enumerate(middles[:-1]))


def test_a_lucky_first_batch_ends_nothing() -> None:
    weight = nn.Linear(1, 1, bias=False)
    data = [torch.full((1, 1), size) for size in (1e-3, *[1.0] * 40)]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = batch.mean() + 0 * model(batch).sum()
        return value

    found = find_lr(weight, RMSprop(weight.parameters(), alpha=0.5), loss, data, **SHORT, seeds=1)
    assert len(found.losses[0]) == 28
    assert not any("ended at" in note for note in found.notes)


def test_seeds_that_ended_are_counted_in_a_note() -> None:
    weight = nn.Linear(1, 1, bias=False)
    values = {1: math.nan, 2: 1.0, 3: 100.0}

    def order(seed: int) -> Iterator[Any]:
        yield from [torch.ones(1, 1)] * 12
        while True:
            yield torch.full((1, 1), values.get(seed, 1.0))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = batch.mean() + 0 * model(torch.ones(1, 1)).sum()
        return value

    found = find_lr(weight, RMSprop(weight.parameters(), alpha=0.5), loss, order, **SHORT)
    assert [len(own) for own in found.losses] == [11, 28, 14]  # three of five losses over the limit end a seed
    assert found.notes[0] == (
        f"2 of 3 seeds ended at {found.rates[10]:.2g}, {found.rates[13]:.2g}: the loss was above 4 times its lowest, "
        "or not finite; the curve ends at the lowest of these rates"
    )
    assert len(found.curve.rates) == 11


# -- suggestions and reasons ------------------------------------------------------------------------------------------

RATES = np.geomspace(1e-6, 1.0, 100)


def valley(lowest: float, *, depth: float = 1.5, noise: float = 0.01, seed: int = 0, rise: float = 1.0) -> list[float]:
    """Return losses that fall from 2 to the rate `lowest`, and rise beyond it."""
    x = np.log10(RATES / lowest)
    y = (
        2
        - depth * np.exp(-np.where(x < 0, x**2, rise * 4 * x**2))
        + noise * np.random.default_rng(seed).normal(size=100)
    )
    return list(y)


def test_half_of_the_rate_where_the_median_curve_is_lowest() -> None:
    verdict = curve.suggest(RATES, [valley(x, seed=i) for i, x in enumerate((0.01, 0.012, 0.03))])
    assert verdict.facts["lowest_at"] == pytest.approx(0.012 / 2**0.5, rel=0.2)  # see the next test
    assert verdict.lr == pytest.approx(verdict.facts["lowest_at"] / 2, rel=0.05)
    assert verdict.facts["fall"] == pytest.approx(1.5, rel=0.1)
    assert "the loss falls from 2 to 0.5" in verdict.reason
    assert 1e-3 < verdict.facts["steepest_at"] < verdict.facts["lowest_at"]


def test_smoothing_takes_rates_within_a_factor_of_two_and_does_not_lag() -> None:
    steps = curve.smoothed(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), [1.0, 9.0, 2.0, 7.0, 3.0])
    assert steps.tolist() == [5.0, 2.0, 7.0, 3.0, 5.0]
    spiked = valley(0.01, noise=0.0)
    spiked[40] = 1000.0
    found = curve.curve(RATES, [spiked, valley(0.01, noise=0.0)])
    assert found.high.max() < 2.1
    # At the bottom of a valley the running median is flat, from half a window before the lowest point to half behind
    # it.
    assert RATES[int(found.middle.argmin())] == pytest.approx(0.01 / 2**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([valley(0.01, depth=0.0, noise=0.1, seed=i) for i in range(3)], "does not fall at any rate"),
        ([list(np.linspace(2, 3, 100))], "does not fall at any rate"),
        ([valley(1.0, rise=0.0, seed=i) for i in range(3)], "still falls at 1, the highest rate"),
        ([valley(x, noise=0.0) for x in (1e-4, 1e-3, 3e-2)], "disagree on where the loss is lowest"),
        ([valley(0.01), [2 + y for y in valley(0.01)]], "differ by 2"),
        ([valley(5e-6, seed=i) for i in range(3)], "falls from the lowest rate on: begin lower"),
        ([[2.0, 3.0]], "the loss is too high or not finite already at 1.15e-06: begin lower"),
        ([[2.0, 9.0, 2.0, 9.0, 9.0, 2.0]], "from 1e-06 to 2.01e-06, where the first seed ended: begin lower"),
        ([[2.0, 3.0], [2.0] * 100], "already at 1.15e-06, for 1 of 2 seeds"),
    ],
)
def test_an_unclear_curve_has_no_suggestion_but_a_reason(losses: list[list[float]], words: str) -> None:
    verdict = curve.suggest(RATES, losses)
    assert verdict.lr is None
    assert words in verdict.reason
    assert (verdict.beyond == "higher") == ("still falls" in words)
    assert (verdict.beyond == "lower") == ("begin lower" in verdict.reason)


def test_where_one_seed_was_stopped_the_others_are_not_judged_beyond() -> None:
    whole = [valley(0.02, seed=i) for i in range(3)]
    end = int(np.searchsorted(RATES, 0.005))
    cut = [whole[0][:end], *whole[1:]]
    verdict = curve.suggest(RATES, cut)
    assert curve.suggest(RATES, whole).lr is not None
    assert verdict.lr is None
    assert "where 1 of 3 seeds were stopped and the others went on" in verdict.reason
    assert max(verdict.facts["lowest_at_by_seed"]) <= RATES[end - 1]
    assert len(curve.curve(RATES, cut).rates) == end
    assert curve.stops(RATES, cut) == [RATES[end - 1]]
    most = curve.suggest(RATES, [own[:end] for own in whole])  # all seeds end where the loss rises
    assert most.lr == pytest.approx(RATES[end - 1] / 2, rel=0.3)
    assert ", where 3 of 3 seeds ended; half of that rate suits a whole training" in most.reason
    assert ", and no further; half of that rate" in curve.suggest(RATES, whole).reason


@pytest.mark.parametrize(("decades", "steps"), [(2, 28), (6, 81)])
def test_noise_gets_no_suggestion(decades: int, steps: int) -> None:
    rates = np.geomspace(10.0**-decades, 1.0, steps)
    assert steps >= curve.least_steps(rates[0], 1.0)
    noise = np.random.default_rng(steps).normal(size=(100, steps))
    verdicts = [curve.suggest(rates, [list(own)]) for own in noise]
    assert sum(verdict.lr is not None for verdict in verdicts) <= 2  # 1 expected, and 1 for chance
    scatters = [verdict.facts["scatter"] for verdict in verdicts]
    assert np.median(scatters) == pytest.approx(1, rel=0.1)


def test_a_trained_model_has_nothing_left_to_find() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 3)
    data = DataLoader(TensorDataset(x, torch.randn(256)), 16, shuffle=True)  # pure noise: 0 predicts best
    model = nn.Linear(3, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]).squeeze(1), batch[1])

    found = find_lr(model, RMSprop(model.parameters(), alpha=0.9), loss, data)
    assert found.lr is None
    assert str(found).startswith("no suggestion; ")


def test_notes_tell_of_one_seed_and_of_one_order() -> None:
    model = nn.Linear(4, 1)
    data = TensorDataset(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.ones(32))

    def notes(shuffle: bool, seeds: int) -> list[str]:
        optimizer, batches = RMSprop(model.parameters(), alpha=0.5), DataLoader(data, 4, shuffle=shuffle)
        return find_lr(model, optimizer, mean_loss, batches, **SHORT, seeds=seeds).notes

    assert notes(True, 2) == []
    assert [note.split(",")[0] for note in notes(True, 1)] == ["one seed does not show how much seeds differ"]
    expected = "all seeds gave the same losses: the order of the data makes no difference, and there is no band"
    assert notes(False, 2) == [expected]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lowest": 0.0}, "lowest must be above 0, got 0.0"),
        ({"lowest": -1.0}, "lowest must be a finite number >= 0, got -1.0"),
        ({"highest": 9e-5}, "highest must be at least 100 times lowest, got 9e-05"),
        ({"steps": 80}, "steps must be a whole number >= 81, got 80; take 81 or more, or a narrower range: with"),
        ({"steps": 27, "lowest": 0.01}, "steps must be a whole number >= 28, got 27"),
        ({"seeds": 0}, "seeds must be a whole number >= 1, got 0"),
        ({"warm": -1}, "warm must be a whole number >= 0, got -1"),
        ({"batches": iter([1])}, "batches must be a collection that can be read again"),
        ({"batches": 3}, "batches must be a collection that can be read again"),
        ({"batches": []}, "batches must be at least one batch.* none; pass a collection with batches in it"),
        (
            {"batches": lambda: loader()},
            "or a function of a seed, got a function that cannot be called",
        ),
        ({"batches": lambda seed: iter([])}, "batches must be at least one batch.* none; a generator is read once"),
        (
            {"batches": DataLoader(Words(), 65, drop_last=True)},
            "got none; take more data or a smaller batch_size, or",
        ),
        ({"loss": None}, "loss must be a function of the model and a batch, got None; return the mean loss"),
        ({"loss": lambda m, b: 1.0}, "a one-element Tensor with a gradient, got a float; return the mean loss"),
        ({"loss": lambda m, b: m(b[0])}, r"got a Tensor of shape \(8,\); return the mean loss of the batch"),
        (
            {"loss": lambda m, b: mean_loss(m, b).detach()},
            r"got a Tensor of shape \(\) without a gradient; leave out no_grad and detach",
        ),
        ({"model": nn.Linear(1, 1)}, "model must be a module with parameters of the optimizer, got a Linear with none"),
        ({"model": mean_loss}, "model must be a torch.nn.Module, got a function"),
        ({"optimizer": None}, "optimizer must be a torch.optim.Optimizer, got a NoneType"),
        ({"loss": lambda m, b: mean_loss(m, b) * float("nan")}, "loss must be finite before the rate rises, got nan"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], words: str) -> None:
    model, optimizer, batches = made("momentum", 0)
    before = everything(model, optimizer, batches)
    arguments: dict[str, Any] = {
        "model": model, "optimizer": optimizer, "loss": mean_loss, "batches": batches, **change,
    }  # fmt: skip
    with pytest.raises(InputError, match=words):
        find_lr(**arguments)
    assert everything(model, optimizer, batches) == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda own: torch.optim.LBFGS(own.param_groups[0]["params"]),
            "got LBFGS, which needs a closure;",
        ),
        (
            lambda own: torch.optim.Rprop(own.param_groups[0]["params"]),
            "got Rprop, which uses its rate in the first",
        ),
        (lambda own: torch.optim.lr_scheduler.ExponentialLR(own, 0.9), "a torch.optim.Optimizer, got a ExponentialLR;"),
    ],
)
def test_what_is_not_stepped_by_its_rate_is_refused(make: Callable[[Any], Any], words: str) -> None:
    model, optimizer, batches = made("momentum", 0)
    with pytest.raises(InputError, match=words):
        find_lr(model, make(optimizer), mean_loss, batches, **SHORT)


def test_a_model_without_shapes_is_refused() -> None:
    model = nn.LazyLinear(2)
    with pytest.raises(InputError, match="model must be initialized, got weight without a shape"):
        find_lr(model, RMSprop(nn.Linear(1, 1).parameters()), mean_loss, loader())
