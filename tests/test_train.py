"""`train`: what it reports when a run goes wrong, and what a crash leaves."""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sick import WELL

from rmsprop import InputError, Rule
from rmsprop.cli.doctor import show_findings
from rmsprop.cli.train import show_training
from rmsprop.lab.examine import examine_run
from rmsprop.lab.find_task import load_task
from rmsprop.lab.findings.find import find_in_run
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.runaway_loss import RISE_AFTER_FALL, RUNAWAY_FACTOR, find_runaway_loss
from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.sentences import describe_training
from rmsprop.lab.runs import checkpoints
from rmsprop.lab.runs import measured_steps as measured_steps_module
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.interrupts import Interrupted
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer
from rmsprop.lab.training_run import EVERY, _use_threads, train, usual_every
from rmsprop.monitor import Monitor
from rmsprop.torch import RMSprop

MINE = str(Path(__file__).with_name("mine.py"))
SICK = str(Path(__file__).with_name("sick.py"))
RULE = Rule(lr=1e-3)


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save_often(patch: pytest.MonkeyPatch) -> None:
    """Let trainings save after the first step and after every twentieth step."""
    calls = itertools.count()
    patch.setattr(checkpoints.Saver, "due", lambda self: next(calls) % 20 == 0)


@pytest.fixture
def saves_often(monkeypatch: pytest.MonkeyPatch) -> None:
    save_often(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    """Return a run that diverged, and its summary."""
    with pytest.MonkeyPatch.context() as patch:
        save_often(patch)
        return train(f"{SICK}:growing", RULE, every=50, out=tmp_path_factory.mktemp("whole") / "run")


def said_of(run: RunDirectory) -> str:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    show_training(console, run, Path("report.html"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


# -- what a crash leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs_of", [0, 1])
def test_a_run_with_fewer_records_than_its_checkpoint_counts_goes_on(epochs_of: int) -> None:
    """A power cut keeps the synced checkpoint, and may lose records. The last epoch's record has the result."""
    task = f"{MINE}:regression"
    _, summary = train(task, out=Path("whole"), every=4)
    run, _ = train(task, out=Path("run"), every=4)
    (run.path / "summary.json").unlink()
    records = run.path / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    lost = [i for i, line in enumerate(lines) if '"kind": "epoch"' in line][-1] if epochs_of else len(lines) // 2
    records.write_text("".join(lines[:lost] + lines[lost + 1 :]) + lines[0][:40])
    with pytest.warns(UserWarning, match=rf"1 of the {len(lines)} records up to step 12 are not in run.records.jsonl"):
        _, after = train(task, out=Path("run"), every=4, resume=True)
    assert after == {**summary, "lost_records": 1}
    assert len(run.records()) == len(lines) - 1
    assert "A crash has cost this run 1 record: its figures have a gap." in said_of(run)


@pytest.mark.usefixtures("saves_often")
def test_statistics_lost_in_a_crash_are_told() -> None:
    def listen(training: TrainingLoop, _records: list[Any]) -> None:
        if training.step == 9:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(f"{MINE}:regression", out=Path("run"), every=4, listen=listen)
    statistics = Path("run/statistics.jsonl")
    statistics.write_text(statistics.read_text().splitlines(keepends=True)[0])
    with pytest.warns(UserWarning, match=r"2 of the 3 records up to step 9 are not in run.statistics.jsonl"):
        run, summary = train(f"{MINE}:regression", out=Path("run"), every=4, resume=True)
    assert [r["step"] for r in measured_steps(run)] == [1, 12]
    assert summary["status"] == "finished"


def test_records_of_all_steps_are_written_when_a_training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    append = RunDirectory.append

    def counted(self: RunDirectory, new: Any, *name: str) -> None:
        writes.append(len(new))
        append(self, new, *name)

    monkeypatch.setattr(RunDirectory, "append", counted)

    def listen(training: TrainingLoop, _records: list[Any]) -> None:
        if training.step == 9:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        train(f"{MINE}:regression", out=Path("run"), every=0, listen=listen)
    steps = [r["step"] for r in RunDirectory(Path("run")).records()]
    assert steps == [0, *range(1, 5), 4, *range(5, 9), 8, 9]
    assert len(writes) < len(steps)  # opening a file takes as long as a small network's step


# -- where a run diverged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["growing", "forgetful"])
def test_a_run_that_diverged_says_where_it_began_as_if_every_step_had_been_recorded(task: str) -> None:
    """Also for a task whose trainings all differ."""
    run, summary = train(f"{SICK}:{task}", RULE, every=50)
    assert (summary["status"], summary["reason"]) == ("diverged", "not finite")
    found, end = summary["post_mortem"], summary["steps"]
    assert (found["kind"], found["step"], found["after"]) == ("spike", WELL + 1, None)
    assert set(found["tensors"]) == {"weight", "bias"}
    assert found["nonfinite_step"] is not None
    assert found["text"] in said_of(run)
    assert sorted(p.name for p in run.path.glob("*.pt")) == ["checkpoint.pt"]
    assert [r["step"] for r in measured_steps(run)] == [1, *range(50, end, 50)]


def test_a_post_mortem_is_the_one_of_a_monitor_that_records_every_step(
    whole: tuple[RunDirectory, dict[str, Any]],
) -> None:
    training = TrainingLoop(
        load_task(f"{SICK}:growing"), with_optimizer(lambda params: RMSprop.from_rule(params, RULE)), seed=0
    )
    with Monitor(training.optimizer, training.model, every=1, last=1000) as monitor:
        for _ in training.run():
            pass
    seen = monitor.post_mortem()
    assert seen is not None
    assert whole[1]["post_mortem"] == json.loads(json.dumps({**seen.to_dict(), "text": str(seen)}))


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize("stop", [150, WELL + 4])
def test_a_run_that_was_stopped_before_or_while_it_diverged_says_the_same(
    stop: int, whole: tuple[RunDirectory, dict[str, Any]]
) -> None:

    def listen(training: TrainingLoop, _: list[Any]) -> None:
        if training.step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step"):
        train(f"{SICK}:growing", RULE, every=50, out=Path("cut"), listen=listen)
    assert RunDirectory(Path("cut")).summary() is None
    run, summary = train(f"{SICK}:growing", RULE, every=50, out=Path("cut"), resume=True)
    assert summary == whole[1]
    assert (run.path / "statistics.jsonl").read_bytes() == (whole[0].path / "statistics.jsonl").read_bytes()


def test_where_the_steps_of_its_beginning_are_no_longer_kept_the_records_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_steps_module, "KEPT", 5)
    _, summary = train(f"{SICK}:growing", RULE, every=50)
    found = summary["post_mortem"]
    assert found["after"] is not None
    assert found["after"] <= WELL < found["step"]


def test_a_healthy_run_measures_sums_alone_between_records(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[tuple[int, int]] = []
    wanted = Monitor.wanted
    monkeypatch.setattr(Monitor, "wanted", lambda self: levels.append(x := wanted(self)) or x)  # type: ignore[func-returns-value]
    _, summary = train("digits", RULE, epochs=2, every=10)
    assert (summary["status"], summary["reason"], summary["post_mortem"]) == ("finished", None, None)
    records = dict.fromkeys((1, 10, 20, 30), (2, 2))
    assert levels == [records.get(step, (1, 0)) for step in range(1, 35)]


def test_nothing_is_said_of_where_it_began_if_nothing_is_to_be_measured() -> None:
    _, summary = train(f"{SICK}:growing", RULE, every=0)
    assert (summary["status"], summary["reason"]) == ("diverged", "not finite")
    assert "post_mortem" not in summary


@pytest.mark.usefixtures("saves_often")
def test_a_run_of_an_earlier_version_is_read_and_resumed(whole: tuple[RunDirectory, dict[str, Any]]) -> None:
    """Earlier versions recorded checksums of losses, kept older checkpoints, and replayed a divergence."""

    def listen(training: TrainingLoop, _: list[Any]) -> None:
        if training.step == 150:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(f"{SICK}:growing", RULE, every=50, out=Path("old"), listen=listen)
    state = torch.load("old/checkpoint.pt", weights_only=True)
    state["training"]["losses_crc"] = 1
    state["watch"]["monitor"]["ring"] = None
    torch.save(state, "old/checkpoint.pt")
    Path("old/before-120.pt").write_bytes(Path("old/checkpoint.pt").read_bytes())
    records = Path("old/records.jsonl")
    records.write_text(records.read_text().replace('"kind": "loss"', '"losses_crc": 1, "kind": "loss"'))
    run, summary = train(f"{SICK}:growing", RULE, every=50, out=Path("old"), resume=True)
    assert summary["post_mortem"]["step"] == whole[1]["post_mortem"]["step"] == WELL + 1
    replayed = {"first": 102, "last": summary["steps"], "same": True, "went_wrong": True, "tells": True}
    for replay in (replayed, {"failed": "RuntimeError: not again"}):
        (run.path / "summary.json").write_text(json.dumps({**summary, "replay": replay}))
        assert summary["post_mortem"]["text"] in doctor_says(run)
        assert summary["post_mortem"]["text"] in said_of(run)
        assert summary["post_mortem"]["sentences"][0] in html.unescape(write_report(run).read_text(encoding="utf-8"))


def test_one_is_one() -> None:
    run, _ = train(f"{SICK}:growing", RULE, epochs=1, batch_size=100)
    assert said_of(run).startswith("After 1 epoch (1 step) on the validation data: ")


def test_a_run_stopped_before_its_first_step_begins_anew() -> None:
    """A state before the first step would record the evaluation there a second time."""

    def listen(training: TrainingLoop, _: list[Any]) -> None:
        if training.step == 0:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step 0 of 34"):
        train("digits", RULE, epochs=2, out=Path("cut"), listen=listen)
    cut, _ = train("digits", RULE, epochs=2, out=Path("cut"), resume=True)
    whole, _ = train("digits", RULE, epochs=2, out=Path("whole"))
    steps = [[(r["kind"], r["step"], r.get("loss")) for r in run.records()] for run in (cut, whole)]
    assert steps[0] == steps[1]


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (3, 5)])  # 17 and 51 steps
def test_short_runs_have_some_records_too(epochs: int, every: int) -> None:
    run, summary = train("digits", RULE, epochs=epochs)
    assert run.config()["every"] == every == usual_every(summary["steps"])
    assert [record["step"] for record in measured_steps(run)] == sorted({1, *range(every, summary["steps"] + 1, every)})
    assert (usual_every(2400), usual_every(10**6)) == (240, EVERY)


# -- a loss that runs away ---------------------------------------------------------------------------------------------


def test_a_loss_that_runs_away_is_told_as_what_it_is() -> None:
    run, summary = train("digits", Rule(lr=30.0), epochs=3)
    assert (summary["status"], summary["reason"]) == ("diverged", "ran away")
    assert "test_loss" not in summary
    first, *_ = summary["findings"]
    assert (first["kind"], first["step"]) == ("loss", summary["steps"])
    start, one, *_ = run.records()
    before = max(start["validation_loss"], one["first_loss"])
    assert first["evidence"]["times_before"] == pytest.approx(first["evidence"]["last"] / before)
    assert first["evidence"]["times_before"] > RUNAWAY_FACTOR
    assert first["evidence"]["step_above"] == 2  # one step moves every element by 300
    assert summary["post_mortem"]["step"] == 2
    said = said_of(run)
    assert said.startswith("Diverged, after 3 epochs (51 steps) on the validation data: accuracy ")
    assert first["sentence"] in said
    assert "rmsprop find-lr" in said
    examined = examine_run(run)
    assert (examined["status"], examined["healthy"]) == ("diverged", False)
    assert examined["findings"] == summary["findings"]
    assert [f["kind"] for f in summary["findings"]] == [f.kind for f in find_in_run(run, run.summary())]


def test_it_is_told_also_where_nothing_is_measured() -> None:
    run, summary = train("digits", Rule(lr=30.0), epochs=1, every=0)
    assert (summary["status"], [f["kind"] for f in summary["findings"]]) == ("diverged", ["loss"])
    assert summary["findings"][0]["sentence"] in said_of(run)
    console = Console(file=io.StringIO(), width=300, color_system=None)
    show_findings(console, examine_run(run))
    assert "1 finding in the losses; no step was measured." in console.file.getvalue()  # type: ignore[attr-defined]


def test_validation_alone_that_is_not_finite_is_told_as_that() -> None:
    run, summary = train(f"{SICK}:blind", Rule(lr=1e-3), every=5)
    assert (summary["status"], summary["reason"], summary["lost_epoch"]) == ("diverged", "validation not finite", 2)
    assert (summary["post_mortem"], summary["steps"]) == (None, 12)
    said = said_of(run)
    assert "The validation loss was not finite, first after epoch 2, while the training loss was" in said
    assert "the validation data" in said
    assert "eval mode" in said
    assert "learning rate" not in said
    config = run.config() | {"nonfinite": "skip"}
    kept = describe_training(config, summary)
    assert "first after epoch 2, while the weights were: look at" in kept[0]


def test_parameters_that_the_last_step_lost_are_no_matter_of_validation() -> None:
    _, summary = train(f"{SICK}:lost_at_the_end", RULE, every=1)
    assert (summary["steps"], summary["validation_loss"], summary["reason"]) == (12, None, "not finite")


def test_doctor_and_report_of_a_run_that_diverged_without_statistics() -> None:
    run, _ = train(f"{SICK}:growing", RULE, every=0)
    examined = examine_run(run)
    assert (examined["status"], examined["reason"], examined["healthy"]) == ("diverged", "not finite", False)
    assert "The loss stopped being finite at step" in doctor_says(run)
    run, summary = train("digits", Rule(lr=30.0), epochs=1, every=0)
    assert summary["findings"][0]["sentence"] in write_report(run).read_text(encoding="utf-8")


def test_doctor_says_where_a_run_diverged_and_counts_findings_where_they_are(
    whole: tuple[RunDirectory, dict[str, Any]],
) -> None:
    said = doctor_says(whole[0])
    assert said.index("The loss stopped being finite at step") < said.index(whole[1]["post_mortem"]["text"])
    run, _ = train("digits", Rule(lr=30.0), epochs=1, every=50)
    kinds = [f.kind for f in find_in_run(run, run.summary())]
    others = len(kinds) - 1
    assert kinds[0] == "loss"
    assert f"1 finding in the losses; {others} finding{'s' * (others != 1)} in 1 measured step (1)." in doctor_says(run)


def test_doctor_has_nothing_to_say_of_a_comparison() -> None:
    rule = {name: value for name, value in dataclasses.asdict(RULE).items() if name != "lr"}
    config: Any = {"kind": "compare", "task": "digits", "rule": rule, "optimizers": [], "seeds": 5}
    config |= {"schedule": "linear", "made_with": {"torch": "2"}}
    with RunDirectory.create(Path("both"), config) as run:
        pass
    with pytest.raises(
        InputError, match="the run must be one of train, got both, of compare; see it with: rmsprop rep"
    ):
        examine_run(run)


def doctor_says(run: RunDirectory) -> str:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    show_findings(console, examine_run(run))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_a_loss_that_is_merely_high_is_none(lr: float) -> None:
    """At the default rate the loss rises before it falls. At ten times that rate training is poor, but continues."""
    run, summary = train("digits", Rule(lr=lr), epochs=2)
    assert (summary["status"], summary["reason"]) == ("finished", None)
    assert "loss" not in {f.kind for f in find_in_run(run, run.summary())}
    assert describe_training(run.config(), summary)[0].startswith("After 2 epochs")


def losses(before: float | None, *epochs: float | None, first_loss: float | None = 0.0) -> list[Any]:
    """Return records of five losses an epoch; the third is an outlier."""
    records: list[dict[str, Any]] = [{"kind": "epoch", "epoch": 0, "step": 0, "validation_loss": before}]
    for number, loss in enumerate(epochs):
        for part in range(1, 6):
            value = 1e9 if part == 3 else loss
            step, epoch = 10 * (5 * number + part), number + part / 5
            records.append({"kind": "loss", "step": step, "epoch": epoch, "loss": value})
    if epochs:
        records[1]["first_loss"] = first_loss
    return records


@pytest.mark.parametrize(
    ("records", "since"),
    [
        (losses(2.0, 1.0, 5.9), None),
        (losses(2.0, 1.0, 6.1), (20, 30)),
        (losses(2.0, 0.5, 5.0), None),  # higher than before, but never low
        (losses(2.0, 0.19, 0.9), None),
        (losses(2.0, 0.19, 1.1), (50, 60)),  # the progress is lost
        (losses(2.0, 0.21, 1.1), None),
        (losses(2.0, 9.0, 9.0, 0.1), None),  # it recovers
        (losses(0.0, 5.0), None),
        (losses(-1.0, 5.0), None),
        (losses(None, 5.0), None),
        (losses(2.0), None),
        (losses(2.0, 1.0, 1.0)[1:], None),
        (losses(2.0, 5.9, 6.1, first_loss=2.1), None),  # with dropout, the training loss was higher from the start
        (losses(2.0, 5.9, 6.1, first_loss=1.9), (20, 30)),
        (losses(0.008, 0.1, -0.24, 0.1), None),  # a loss that may be negative cannot be judged
        ([*losses(0.008, 0.1), {"kind": "epoch", "epoch": 1, "step": 50, "validation_loss": -0.2}], None),
    ],
)
def test_when_a_loss_has_run_away(records: list[Any], since: tuple[int, int] | None) -> None:
    found = find_runaway_loss(LossHistory(records), 0.1)
    if since is None:
        assert found is None
    else:
        assert found is not None
        assert (found.evidence["step_before"], found.evidence["step_above"]) == since
        assert f"between steps {since[0]} and {since[1]}." in found.sentence
        assert str(RUNAWAY_FACTOR)[0] in found.threshold
        assert f"{RISE_AFTER_FALL:g}" in found.threshold
        assert ("It had fallen to 0.19 in epoch 1." in found.sentence) == (since == (50, 60))


def test_an_objective_that_rises_as_it_should_has_not_run_away(tmp_path: Path) -> None:
    task = f"{Path(__file__).parent / 'mine.py'}:rising"
    run, summary = train(task, Rule(lr=0.05, decay=0.9, maximize=True), out=tmp_path / "run")
    first, *_, last = [record for record in run.records() if record["kind"] == "epoch"]
    assert last["validation_loss"] > 3 * first["validation_loss"] > 0
    assert (summary["status"], summary["reason"], summary["post_mortem"]) == ("finished", None, None)


def test_a_resumed_run_has_the_threads_that_it_began_with() -> None:
    """Sums over other chunks of the data differ in the last bit."""
    threads = torch.get_num_threads()
    try:
        _use_threads({"torch": torch.__version__, "threads": threads + 1})
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
