"""`train`: what is done when a run goes wrong, and that a healthy one pays nothing for it."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sick import WELL

from rmsprop import Rule
from rmsprop.console import show_examined, show_training, training_progress
from rmsprop.lab import saving
from rmsprop.lab.losses import LOST, TIMES, ran_away
from rmsprop.lab.replay import MOST
from rmsprop.lab.stopping import Interrupted
from rmsprop.lab.store import RunDirectory
from rmsprop.lab.task import load_task
from rmsprop.lab.train import train
from rmsprop.lab.training import Training
from rmsprop.lab.watch import examine, findings_of, measured
from rmsprop.lab.words import describe_training
from rmsprop.monitor import Monitor
from rmsprop.torch import RMSprop

SICK = str(Path(__file__).with_name("sick.py"))
RULE = Rule(lr=1e-3)


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save_often(patch: pytest.MonkeyPatch) -> None:
    """Let trainings save before the first step and after every twentieth."""
    calls = itertools.count()
    patch.setattr(saving.Saver, "due", lambda self: next(calls) % 20 == 0)


@pytest.fixture
def saves_often(monkeypatch: pytest.MonkeyPatch) -> None:
    save_often(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any], list[Any]]:
    """A run that diverged, its summary, and what its listener was told."""
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        save_often(patch)
        out = tmp_path_factory.mktemp("whole") / "run"
        run, summary = train(f"{SICK}:growing", RULE, every=50, out=out, listen=lambda _, new: told.extend(new))
    return run, summary, told


def said_of(run: RunDirectory) -> str:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    show_training(console, run, Path("report.html"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


# -- replay ------------------------------------------------------------------------------------------------------------


def test_a_run_that_diverged_is_replayed_and_every_step_of_its_end_is_known(
    whole: tuple[RunDirectory, dict[str, Any], list[Any]],
) -> None:
    run, summary, told = whole
    assert (summary["status"], summary["reason"]) == ("diverged", "not finite")
    end = summary["steps"]
    assert summary["replay"] == {"first": 101, "last": end, "same": True}  # from the older one of two checkpoints
    assert [r for r in told if r["kind"] == "replay"] == [{"kind": "replay", "step": 100, "steps": end - 100}]
    found = summary["post_mortem"]
    assert (found["kind"], found["step"], found["after"]) == ("spike", WELL + 1, None)
    assert found["nonfinite_step"] is not None

    task = load_task(f"{SICK}:growing")  # the same with every step measured while it is trained
    training = Training(task, lambda params: RMSprop.from_rule(params, RULE), seed=0)
    with Monitor(training.optimizer, training.model, every=1, last=1000) as monitor:
        for _ in training.run():
            pass
    seen = monitor.post_mortem()
    assert seen is not None
    assert found == json.loads(json.dumps({**seen.to_dict(), "text": str(seen)}))

    assert found["text"] in said_of(run)
    assert f"Steps 101 to {end} were replayed, each of them measured: they met the same losses" in said_of(run)
    assert sorted(p.name for p in run.path.glob("*.pt")) == ["checkpoint.pt"]
    assert [r["step"] for r in measured(run)] == [1, *range(50, end, 50)]  # the replay writes nothing


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize("stop", [WELL + 4, "replay"])
def test_it_is_found_also_after_a_stop_in_the_middle_of_trouble_or_of_the_replay(
    stop: int | str, whole: tuple[RunDirectory, dict[str, Any], list[Any]]
) -> None:

    def listen(training: Training, records: list[Any]) -> None:
        if stop in (training.step, *(r["kind"] for r in records)):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step"):
        train(f"{SICK}:growing", RULE, every=50, out=Path("cut"), listen=listen)
    assert RunDirectory(Path("cut")).summary() is None
    run, summary = train(f"{SICK}:growing", RULE, every=50, out=Path("cut"), resume=True)
    assert summary == whole[1]
    assert (run.path / "statistics.jsonl").read_bytes() == (whole[0].path / "statistics.jsonl").read_bytes()
    assert sorted(p.name for p in run.path.glob("*.pt")) == ["checkpoint.pt"]


@pytest.mark.usefixtures("saves_often")
def test_a_replay_that_meets_other_losses_says_so() -> None:
    run, summary = train(f"{SICK}:forgetful", RULE)
    assert (summary["reason"], summary["replay"]["same"]) == ("not finite", False)
    assert "they met other losses than before, so this task is not the same each time" in said_of(run)


def test_the_losses_of_two_trainings_agree_to_the_bit_or_not() -> None:
    task = load_task("digits")
    seen: list[list[int]] = []
    for lr in (0.01, 0.01, 0.01 * (1 + 1e-6)):
        training = Training(task, lambda params, lr=lr: RMSprop(params, lr=lr), seed=0, epochs=1)  # type: ignore[misc]
        seen.append([training.losses_crc for _ in training.run()])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == len(seen[0])
    assert seen[0][:2] == seen[2][:2]  # the first loss is that of the same start
    assert all(a != b for a, b in zip(seen[0][2:], seen[2][2:], strict=True))


def test_a_healthy_run_is_not_replayed_and_measures_nothing_between_records(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[tuple[int, int]] = []
    wanted = Monitor.wanted
    monkeypatch.setattr(Monitor, "wanted", lambda self: levels.append(x := wanted(self)) or x)  # type: ignore[func-returns-value]
    told: list[Any] = []
    _, summary = train("digits", RULE, epochs=2, every=10, listen=lambda _, records: told.extend(records))
    assert (summary["status"], summary["reason"], summary["replay"]) == ("finished", None, None)
    assert {r["kind"] for r in told} == {"loss", "epoch"}
    measured_ones = {1: (2, 2)} | dict.fromkeys((10, 20, 30), (2, 2)) | dict.fromkeys((9, 19, 29), (1, 0))
    assert levels == [measured_ones.get(step, (0, 0)) for step in range(1, 35)]


def test_the_terminal_says_that_it_replays() -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with training_progress(console) as listen:
        train(f"{SICK}:growing", RULE, every=1000, listen=listen)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"\nreplaying the last \d+ steps to see where it began\n$", said)


def test_nothing_is_replayed_where_nothing_is_to_be_measured() -> None:
    _, summary = train(f"{SICK}:growing", RULE, every=0)
    assert (summary["status"], summary["reason"]) == ("diverged", "not finite")
    assert not {"replay", "post_mortem"} & summary.keys()
    assert not list(Path().glob("*/before-*.pt"))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 250), min_size=1, max_size=60), st.integers(0, 20_000))
def test_a_checkpoint_of_a_hundred_steps_ago_is_always_there(gaps: list[int], good: int) -> None:
    """Or the start, which is then no more than one gap farther."""

    class Named(RunDirectory):
        def __init__(self) -> None:
            super().__init__(Path())

        def save_checkpoint(self, state: dict[str, Any], *names: str) -> None:
            for name in names:
                Path(name).touch()

    run = Named()
    saving.forget(run)
    saver, step, saved = saving.Saver(run), 0, []
    for gap in gaps:
        step += gap
        saver.save({}, step)
        saved.append(step)
        assert len(list(Path().glob("before-*.pt"))) <= 2
        begin, name = saving.before(run, step, step)
        assert (name is None) == (begin == 0)
        assert name is None or Path(name).exists()
        assert begin == 0 or (begin in saved and begin <= step - saving.APART)
        assert step - begin < 2 * (saving.APART + 250)
    begin, _ = saving.before(run, step, good)
    kept = [int(path.stem.partition("-")[2]) for path in Path().glob("before-*.pt")]
    far = [at for at in kept if at <= step - saving.APART]
    assert begin <= good or not far or (step > saving.NEAR and begin == min(far))
    saving.forget(run)
    assert not list(Path().iterdir())


# -- a loss that runs away ---------------------------------------------------------------------------------------------


def test_a_loss_that_runs_away_is_told_as_what_it_is() -> None:
    run, summary = train("digits", Rule(lr=30.0), epochs=3)
    assert (summary["status"], summary["reason"]) == ("diverged", "ran away")
    assert "test_loss" not in summary
    first, *_ = summary["findings"]
    assert (first["kind"], first["step"]) == ("loss", summary["steps"])
    before = run.records()[0]["validation_loss"]
    assert first["evidence"]["times_before"] == pytest.approx(first["evidence"]["last"] / before)
    assert first["evidence"]["times_before"] > TIMES
    assert first["evidence"]["step_above"] == 2  # after one step of 300 for every element
    assert summary["replay"] == {"first": 1, "last": summary["steps"], "same": True}
    assert summary["steps"] <= MOST
    said = said_of(run)
    assert said.startswith("Diverged, after 3 epochs (51 steps) on the validation data: accuracy ")
    assert first["sentence"] in said
    assert "rmsprop find-lr" in said
    examined = examine(run)
    assert (examined["status"], examined["healthy"]) == ("diverged", False)
    assert examined["findings"] == summary["findings"] == [f.to_dict() for f in findings_of(run)]


def test_it_is_told_also_where_nothing_is_measured() -> None:
    run, summary = train("digits", Rule(lr=30.0), epochs=1, every=0)
    assert (summary["status"], [f["kind"] for f in summary["findings"]]) == ("diverged", ["loss"])
    assert summary["findings"][0]["sentence"] in said_of(run)
    console = Console(file=io.StringIO(), width=300, color_system=None)
    show_examined(console, examine(run))
    assert "1 finding in the losses; no step was measured." in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_a_loss_that_is_merely_high_is_none(lr: float) -> None:
    """At the default rate the loss rises before it falls; at ten times it, training is poor, and still is training."""
    run, summary = train("digits", Rule(lr=lr), epochs=2)
    assert (summary["status"], summary["reason"]) == ("finished", None)
    assert "loss" not in {f.kind for f in findings_of(run)}
    assert describe_training(run.config(), summary)[0].startswith("After 2 epochs")


def losses(before: float | None, *epochs: float | None) -> list[dict[str, Any]]:
    """Return records of five losses an epoch, one of which is an outlier."""
    records: list[dict[str, Any]] = [{"kind": "epoch", "epoch": 0, "step": 0, "validation_loss": before}]
    for number, loss in enumerate(epochs):
        for part in range(1, 6):
            value = 1e9 if part == 3 else loss
            step, epoch = 10 * (5 * number + part), number + part / 5
            records.append({"kind": "loss", "step": step, "epoch": epoch, "loss": value})
    return records


@pytest.mark.parametrize(
    ("records", "since"),
    [
        (losses(2.0, 1.0, 5.9), None),
        (losses(2.0, 1.0, 6.1), (20, 30)),
        (losses(2.0, 0.5, 5.0), None),  # higher than before, and never low
        (losses(2.0, 0.19, 0.9), None),
        (losses(2.0, 0.19, 1.1), (50, 60)),  # what was learned is lost
        (losses(2.0, 0.21, 1.1), None),
        (losses(2.0, 9.0, 9.0, 0.1), None),  # it came back
        (losses(0.0, 5.0), None),
        (losses(-1.0, 5.0), None),
        (losses(None, 5.0), None),
        (losses(2.0), None),
        (losses(2.0, 1.0, 1.0)[1:], None),
    ],
)
def test_when_a_loss_has_run_away(records: list[dict[str, Any]], since: tuple[int, int] | None) -> None:
    found = ran_away(records, 0.1)
    if since is None:
        assert found is None
    else:
        assert found is not None
        assert (found.evidence["step_before"], found.evidence["step_above"]) == since
        assert f"between steps {since[0]} and {since[1]}." in found.sentence
        assert str(TIMES)[0] in found.threshold
        assert f"{LOST[0]:g}" in found.threshold
        assert ("It had fallen to 0.19 in epoch 1." in found.sentence) == (since == (50, 60))


def test_bit_for_bit_is_of_torch_numbers() -> None:
    """A checkpoint of a run with other losses has another sum, and it is loaded with the weights."""
    training = Training(load_task("digits"), RMSprop, seed=0, epochs=1)
    for _ in zip(range(4), training.run(), strict=False):
        pass
    state = training.state_dict()
    torch.save(state, "state.pt")
    other = Training(load_task("digits"), RMSprop, seed=1, epochs=1)
    other.load_state_dict(torch.load("state.pt", weights_only=True))
    assert other.losses_crc == training.losses_crc != 0
