"""Several processes train as one: the same losses, one run directory, stopped and resumed by any number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import shared_tasks
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from rmsprop import InputError, Rule
from rmsprop.cli.record_files import records_of
from rmsprop.lab import Task, compare, find_lr, train
from rmsprop.lab.data import Share, batches
from rmsprop.lab.processes import Processes, ToldElsewhere, device_of_this_process
from rmsprop.lab.runs.interrupts import Interrupted
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import recipe_of, with_optimizer
from rmsprop.lab.sharding import chosen_sharding, zero_redundancy
from rmsprop.lab_options import TrainOptions
from rmsprop.torch import RMSprop
from rmsprop.torch.distributed import is_sharded

distributed = torch.distributed
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed"),
]
TASKS = Path(shared_tasks.__file__)
RULE = Rule(lr=0.01)
EVERY_STATE = Rule(lr=0.01, momentum=0.5, centered=True, weight_decay=0.01)
SHARDINGS: dict[str, dict[str, Any]] = {name: {name: True, "every": 0, "clip": 1.0} for name in ("fsdp", "zero")}
STOP = 7  # step at which runs are stopped: the first of the second epoch, of six steps each
DIGITS: dict[str, Any] = {"rule": Rule(lr=0.001), "epochs": 1, "best": True, "clip": 1.0, "average": 0.9}


class Stop:
    """Stop a training in step `STOP` by a signal that one process gets."""

    def __init__(self, rank: int) -> None:
        self.rank, self.calls = rank, 0

    def __enter__(self) -> None:
        self.real = Processes.any

        def any_after(processes: Processes, stopped: bool, due: bool) -> list[bool]:
            self.calls += 1  # the first call is before the first step
            if self.calls == STOP + 1 and processes.rank == self.rank:
                os.kill(os.getpid(), signal.SIGINT)
                stopped = True
            return self.real(processes, stopped, due)

        Processes.any = any_after  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        Processes.any = self.real  # type: ignore[method-assign]


def stopped(name: str, out: Path, rank: int, rule: Rule = RULE, **options: Any) -> None:
    with Stop(rank), pytest.raises(Interrupted if is_first() else ToldElsewhere):
        train(f"{TASKS}:{name}", rule, out=out, **options)


def is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def resumed(name: str, out: Path, rule: Rule = RULE, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"the run began with \d process")
        train(f"{TASKS}:{name}", rule, out=out, resume=True, **options)


def on_a_rank(rank: int, folder: str) -> None:
    """Train everything that the tests look at: starting processes takes longer than all of it."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    where = Path(folder)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        run, summary = train("digits", out=where / "digits-2", **DIGITS)
        assert summary == run.summary() is not None
        for name in shared_tasks.NAMES:
            train(f"{TASKS}:{name}", RULE, out=where / f"{name}-2")
        train(f"{TASKS}:overflowing", RULE, out=where / "overflowing-2", nonfinite="skip")
        train(f"{TASKS}:overflowing", RULE, out=where / "overflowing-zero", nonfinite="skip", zero=True, every=0)
        train(f"{TASKS}:noisy", RULE, out=where / "noisy-whole")
        stopped("noisy", where / "noisy-stopped", rank=1)
        resumed("noisy", where / "noisy-stopped")
        stopped("plain", where / "two-one", rank=1)
        resumed("plain", where / "one-two")
        for name, sharding in SHARDINGS.items():
            train(f"{TASKS}:layered", EVERY_STATE, out=where / name, best=True, listen=SHARDED[name], **sharding)
            stopped("layered", where / f"{name}-{name}", 1, EVERY_STATE, **sharding)
            resumed("layered", where / f"{name}-{name}", EVERY_STATE, **sharding)
            stopped("layered", where / f"{name}-one", 1, EVERY_STATE, **sharding)
            resumed("layered", where / f"one-{name}", EVERY_STATE, **sharding)
        error = InputError if rank == 0 else ToldElsewhere
        with pytest.raises(error, match=r"one that calls its model|another process"):
            train(f"{TASKS}:penalty", out=where / "refused", **SHARDINGS["fsdp"])
        with pytest.raises(error, match=r"one that is not finished|another process"):
            train("digits", out=where / "digits-2", **DIGITS)
        skips(rank)
    finally:
        distributed.destroy_process_group()


def has_shards(training: TrainingLoop, _records: Any) -> None:
    assert all(is_sharded(p) for p in training.model.parameters())
    averages = [state["square_avg"] for state in training.optimizer.state.values()]
    assert all(is_sharded(average) for average in averages)
    assert bool(averages) == bool(training.step)


def has_part_of_the_state(training: TrainingLoop, _records: Any) -> None:
    optimizer: Any = training.optimizer
    assert isinstance(optimizer.optim, RMSprop)
    assert bool(training.step) <= len(optimizer.optim.state) < len(list(training.model.parameters()))


SHARDED: dict[str, Any] = {"fsdp": has_shards, "zero": has_part_of_the_state}


def skips(rank: int) -> None:
    """A gradient that is not finite, from an example of rank 1, skips the step on both ranks."""
    x = torch.ones(8, 1)
    x[2:4] = 1e25  # rank 1's share of the first batch of 4
    data = TensorDataset(x, torch.zeros(8, 1))
    task = Task("huge", lambda: nn.Linear(1, 1, bias=False), data, data, loss=nn.functional.l1_loss, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmsprop.lab.data.RandomSampler", lambda data, generator: range(len(data)))
        for make in (RMSprop.from_rule, zero_redundancy):  # with ZeRO, rank 1 has nothing to step
            setup = with_optimizer(partial(make, rule=RULE, nonfinite="skip"))
            training = TrainingLoop(task, setup, seed=0, epochs=1, processes=processes())
            (p,) = training.model.parameters()
            before = p.detach().clone()
            run = training.run()
            next(run), next(run)
            assert torch.equal(p, before)
            next(run)
            assert not torch.equal(p, before)
            both = processes().gathered(p.detach())
            assert torch.equal(*both)


def processes() -> Processes:
    return Processes(distributed.get_rank(), 2, distributed.group.WORLD)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("runs")
    stopped("plain", where / "one-two", rank=0)
    for name in SHARDINGS:
        stopped("layered", where / f"one-{name}", 0, EVERY_STATE, every=0, clip=1.0)
    starter: Any = torch.multiprocessing
    starter.start_processes(on_a_rank, (str(where),), nprocs=2, start_method="forkserver")
    resumed("plain", where / "two-one")
    for name in SHARDINGS:
        resumed("layered", where / f"{name}-one", EVERY_STATE, every=0, clip=1.0)
    return where


def losses(run: Path) -> list[tuple[Any, ...]]:
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    names = ("loss", "validation_loss", "validation_metric")
    return [(r["kind"] == "loss", r["step"], *(r[name] for name in names if r.get(name) is not None)) for r in records]


def assert_same_run(run: Path, other: Path, rel: float) -> None:
    for one, two in zip(losses(run), losses(other), strict=True):
        assert one == pytest.approx(two, rel=rel)
    summaries = [json.loads((each / "summary.json").read_text()) for each in (run, other)]
    for name in ("test_loss", "validation_loss", "validation_metric"):
        assert summaries[0][name] == pytest.approx(summaries[1][name], rel=rel)


def test_the_losses_of_digits_are_those_of_one_process(runs: Path) -> None:
    train("digits", out=runs / "digits-1", **DIGITS)
    assert_same_run(runs / "digits-2", runs / "digits-1", rel=1e-5)
    one, two = (torch.load(runs / name / "checkpoint.pt", weights_only=True) for name in ("digits-1", "digits-2"))
    assert one["training"]["model"].keys() == two["training"]["model"].keys()
    measured = [records_of(runs / f"digits-{n}" / "statistics.jsonl")[-1] for n in (1, 2)]
    assert measured[0]["update_norm"] == pytest.approx(measured[1]["update_norm"], rel=1e-4)


@pytest.mark.parametrize("name", shared_tasks.NAMES)
def test_every_share_counts_as_it_does_in_the_whole_batch(runs: Path, name: str) -> None:
    """Class weights, ignored words, sums, penalties, parts of a model: also where a process has no example."""
    train(f"{TASKS}:{name}", RULE, out=runs / f"{name}-1")
    assert_same_run(runs / f"{name}-2", runs / f"{name}-1", rel=1e-9)


@pytest.mark.parametrize("other", ["2", "zero"])
def test_a_step_is_skipped_by_all_for_an_example_of_one(runs: Path, other: str) -> None:
    if not (runs / "overflowing").exists():
        train(f"{TASKS}:overflowing", RULE, out=runs / "overflowing", nonfinite="skip")
    assert_same_run(runs / f"overflowing-{other}", runs / "overflowing", rel=1e-9)
    summary = json.loads((runs / f"overflowing-{other}" / "summary.json").read_text())
    assert (summary["status"], summary["nonfinite_losses"]) == ("finished", 2)


def test_a_run_that_two_processes_stopped_goes_on_in_one_and_the_other_way_round(runs: Path) -> None:
    train(f"{TASKS}:plain", RULE, out=runs / "plain")
    for name in ("two-one", "one-two"):
        assert_same_run(runs / name, runs / "plain", rel=1e-9)


@pytest.mark.parametrize("name", SHARDINGS)
def test_a_sharded_run_is_that_of_one_process_and_goes_on_in_one_and_the_other_way_round(runs: Path, name: str) -> None:
    if not (runs / "layered").exists():
        train(f"{TASKS}:layered", EVERY_STATE, out=runs / "layered", every=0, clip=1.0)
    for other in (name, f"{name}-one", f"one-{name}", f"{name}-{name}"):
        assert_same_run(runs / other, runs / "layered", rel=1e-9)
    assert losses(runs / f"{name}-{name}") == losses(runs / name)
    mine, one = (torch.load(runs / each / "checkpoint.pt", weights_only=True)["training"] for each in (name, "layered"))
    assert mine["optimizer"]["state"].keys() == one["optimizer"]["state"].keys()
    for key, expected in one["model"].items():
        torch.testing.assert_close(mine["model"][key], expected)
        torch.testing.assert_close(mine["best"][2][key], expected)  # the last epoch was the best


def test_a_run_that_two_processes_resume_has_the_bits_of_one_that_was_not_stopped(runs: Path) -> None:
    assert losses(runs / "noisy-stopped") == losses(runs / "noisy-whole")
    made_with = json.loads((runs / "noisy-whole" / "run.json").read_text())["made_with"]
    assert made_with == {"torch": torch.__version__, "threads": 1, "processes": 2}


def test_a_run_says_that_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    stopped("plain", tmp_path / "run", rank=0)
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    config["made_with"]["processes"] = 2
    (tmp_path / "run" / "run.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="began with 2 processes and goes on with 1: it may differ in the last bits"):
        train(f"{TASKS}:plain", RULE, out=tmp_path / "run", resume=True)


# -- shares ------------------------------------------------------------------------------------------------------------


class Single(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index])


@pytest.mark.parametrize("data", [TensorDataset(torch.arange(11)[:, None]), Single()])
@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_a_batch_are_the_batch_in_its_order(data: Any, count: int) -> None:
    def indices(share: Share) -> list[list[int]]:
        return [(x[0] if isinstance(x, list) else x).flatten().tolist() for x in batches(data, 5, order=3, share=share)]

    whole = indices(Share())
    shares = [indices(Share(rank, count)) for rank in range(count)]
    for number, batch in enumerate(whole):
        sizes = [Share(rank, count).size(len(batch)) for rank in range(count)]
        parts = [shares[rank][number] for rank in range(count)]
        assert [index for part, size in zip(parts, sizes, strict=True) for index in part[:size]] == batch
        assert max(sizes) - min(sizes) <= 1
        assert all(part == batch[:1] for part, size in zip(parts, sizes, strict=True) if not size)
    assert len(whole[-1]) == 1


class Batched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Stream(torch.utils.data.IterableDataset[Any]):
    def __len__(self) -> int:
        return shared_tasks.EXAMPLES

    def __iter__(self) -> Iterator[Any]:
        return iter(shared_tasks.plain().train)


@pytest.mark.parametrize(
    ("changes", "batch_size", "message"),
    [
        ({}, 5, r"--batch-size must be a multiple of the 2 processes, got 5; try 4"),
        ({}, 1, r"--batch-size must be a multiple of the 2 processes, got 1; try 2"),
        ({"train": "loader"}, 4, r"Task.train is a data set, got a DataLoader; pass its data set instead"),
        ({"train": "stream"}, 4, r"Task.train has indices, got an IterableDataset; define __getitem__"),
        ({"generates": True}, 4, r"a data set to share, got one that generates its data; train it alone"),
        ({"model": Batched}, 4, r"without batch normalization, got BatchNorm1d in layers.1; train it on GPUs"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(changes: Any, batch_size: int, message: str) -> None:
    task = shared_tasks.plain()
    data: Any = task.train
    train_data: Any = {"loader": DataLoader(data, 4), "stream": Stream()}.get(changes.get("train"), data)
    task = Task("t", changes.get("model", task.model), train_data, task.validation)
    object.__setattr__(task, "generates", changes.get("generates", False))
    vars(task)["score"] = shared_tasks.plain().score
    with pytest.raises(InputError, match=message):
        TrainingLoop(task, with_optimizer(RMSprop), 0, batch_size=batch_size, processes=Processes(0, 2))


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [
        ({"fsdp": True, "every": 0}, 1, r"--fsdp must be given to several processes, got one; torchrun --nproc-per-"),
        ({"zero": True}, 2, r"--every must be 0 with --zero, got none; add --every 0, or omit --zero"),
        ({"fsdp": True, "every": 9}, 2, r"--every must be 0 with --fsdp, got 9"),
        ({"fsdp": True, "every": 0, "average": 0.9}, 2, r"--average must be omitted with --fsdp"),
        ({"fsdp": True, "every": 0, "amp": "float16"}, 2, r"--amp must be bfloat16 or omitted with --fsdp, got 'float"),
        ({"fsdp": True, "zero": True}, 2, r"--zero must be omitted with --fsdp, got True"),
    ],
)
def test_options_that_shards_cannot_obey_are_refused(options: Any, count: int, message: str) -> None:
    def choose() -> object:
        given = TrainOptions(**options)
        return chosen_sharding(given, recipe_of(RULE, given), Processes(0, count))

    with pytest.raises(InputError, match=message):
        choose()


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_several_processes_share_no_device_but_the_cpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started_by_torchrun(monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (device_of_this_process("cpu"), device_of_this_process("cuda")) == ("cpu", "cuda:3")
    with pytest.raises(InputError, match=f"--device must be cpu, cuda or auto for several processes, got '{device}'"):
        device_of_this_process(device)


# -- torchrun ----------------------------------------------------------------------------------------------------------


def started_by_torchrun(patch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        patch.setenv(name, value)


@pytest.mark.parametrize("command", [compare, find_lr])
def test_other_commands_are_refused_under_torchrun(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started_by_torchrun(monkeypatch)
    with pytest.raises(InputError, match=r"the processes of (compare|find-lr) must be one, got 2; start it without"):
        command("digits")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ToldElsewhere):
        command("digits")


def under_torchrun(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rmsprop"]
    started = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TASKS.parent), **environment}
    return subprocess.run(
        [*command, *words], cwd=folder, env=started, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_killed_process_ends_all_in_one_line_and_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    words = ["train", f"{TASKS}:signalled", "--lr", "0.01", "--out", "run"]
    killed = under_torchrun(tmp_path, *words, KILLED_RANK="1", KILLED_AT="4", KILLED_BY=str(int(signal.SIGKILL)))
    assert killed.returncode != 0
    said = [line for line in killed.stderr.splitlines() if line.startswith("rmsprop: ")]
    resume = f"torchrun --nproc-per-node 2 -m rmsprop {' '.join(words)} --resume"
    assert said == [f"rmsprop: another of the 2 processes has ended; go on with: {resume}"]
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["training"]["position"] == [3, 0, 3]
    resumed("signalled", tmp_path / "run")
    train(f"{TASKS}:plain", RULE, out=tmp_path / "plain")
    assert_same_run(tmp_path / "run", tmp_path / "plain", rel=1e-9)
