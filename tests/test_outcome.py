"""How a training ended: a bad end is reported with a remedy; the tests follow the remedy, and it helps."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from rmsprop import Rule, recipe
from rmsprop.cli.app import run
from rmsprop.lab.examine import examine_run
from rmsprop.lab.findings.remedies import find_lr_command, train_command
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.schema import GivenOptions
from rmsprop.lab.training_run import train

SICK = str(Path(__file__).with_name("sick.py"))


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def summary_of(name: str) -> Any:
    summary = RunDirectory(Path(name)).summary()
    assert summary is not None
    return summary


# -- on the command line: the run, its remedy as printed, and the cured run --------------------------------------------


@pytest.mark.parametrize(
    ("asked", "kind", "status", "remedy"),
    [
        ("digits --lr 1", "learned nothing", 1, "rmsprop train digits --lr 0.001"),
        ("digits --lr 1e-6", "learned nothing", 1, "rmsprop train digits --lr 0.001"),
        ("digits --lr 30", "loss", 1, "rmsprop train digits --lr 0.001"),
        (
            "mnist --momentum 0.9 --epochs 1", "learned nothing", 1,
            "rmsprop train mnist --momentum 0.9 --epochs 1 --lr 0.001",
        ),
        ("mnist --lr 1e-5 --epochs 1", "learned nothing", 1, "rmsprop train mnist --epochs 1 --lr 0.001"),
        ("digits --lr 1e-4 --epochs 5", "slow", 0, "rmsprop train digits --epochs 5 --lr 0.001"),
        (
            "mnist --centered --momentum 0.9 --epochs 3", "first step", 0,
            "rmsprop train mnist --momentum 0.9 --centered --epochs 3 --lr 0.001",
        ),
        ("digits --epochs 1", "first step", 0, "rmsprop train digits --epochs 1 --bias-correction"),
        (f"{SICK}:noisy", "got worse", 0, f"rmsprop train {SICK}:noisy --epochs 4"),
        ("digits --eps 1 --lr 0.1", "eps", 0, "rmsprop train digits --eps 6e-05 --lr 0.001"),
    ],
)  # fmt: skip
def test_a_run_that_came_to_nothing_good_is_told_and_its_first_remedy_cures_it(
    asked: str,
    kind: str,
    status: int,
    remedy: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rmsprop.lab.report.page.write_report", lambda run: run.path)  # takes seconds
    assert run(["train", *asked.split(), "--out", "sick"]) == status
    shown, sick = capsys.readouterr().out, summary_of("sick")
    assert sick["findings"][0]["kind"] == kind
    assert f"{sick['findings'][0]['sentence']}\n" in shown
    assert f"  remedy: {remedy}" in shown
    assert run(["doctor", "sick"]) == 1
    assert remedy in capsys.readouterr().out
    assert (sick["reason"] is not None) == (status == 1)

    assert run([*shlex.split(remedy)[1:], "--out", "cured"]) == 0
    cured = summary_of("cured")
    assert kind not in {f["kind"] for f in cured["findings"]}
    better = cured["validation_metric"] - sick["validation_metric"]
    assert better > 0 if cured["higher_is_better"] else better < 0


@pytest.mark.usefixtures("no_figures")
def test_a_loss_that_exploded_is_told_whatever_the_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{SICK}:separable", "--lr", "1e6", "--out", "sick"]) == 0
    sick, remedy = summary_of("sick"), f"rmsprop train {SICK}:separable --lr 0.001"
    (finding,) = sick["findings"]
    assert sick["validation_metric"] > 0.9
    assert (finding["kind"], finding["cause"]) == (
        "got worse", "steps at lr = 1e+06 are too long: the training loss rose, too",
    )  # fmt: skip
    assert f"  remedy: {remedy}" in capsys.readouterr().out
    assert run([*shlex.split(remedy)[1:], "--out", "cured"]) == 0
    assert summary_of("cured")["findings"] == []
    assert summary_of("cured")["validation_loss"] < finding["evidence"]["before"] < sick["validation_loss"] / 1000


@pytest.mark.parametrize(("task", "seed"), [*(("digits", seed) for seed in range(5)), ("mnist", 0), ("mnist", 1)])
def test_the_default_run_of_a_built_in_task_has_no_finding(task: str, seed: int) -> None:
    directory, summary = train(task, seed=seed)
    assert (summary["reason"], summary["findings"]) == (None, [])
    assert examine_run(directory)["healthy"]
    assert summary["validation_metric"] > 0.9


# -- remedies as commands ----------------------------------------------------------------------------------------------


def config(**rule: Any) -> Any:
    return {"task": "digits", "rule": {**Rule(**rule).__dict__}, "seed": 0, "schedule": "constant"}


GIVEN: GivenOptions = {"epochs": None, "batch_size": None}


@pytest.mark.parametrize(
    ("asked", "change", "command"),
    [
        ({}, {"lr": 0.001}, "rmsprop train digits --lr 0.001"),
        ({"momentum": 0.9, "lr": 1.0}, {"lr": 1e-7}, "rmsprop train digits --momentum 0.9 --lr 1e-07"),
        ({"centered": True}, {"centered": False}, "rmsprop train digits"),
        ({"eps": 0.123456789}, {"bias_correction": True}, "rmsprop train digits --eps 0.123456789 --bias-correction"),
        ({"lr": 0.5}, {"lr": 0.01}, "rmsprop train digits"),
        ({}, {"epochs": 4}, "rmsprop train digits --epochs 4"),
        ({}, {"initial_square_avg": 1.0, "eps": 1e-10}, "rmsprop train digits --initial-square-avg 1 --eps 1e-10"),
        ({}, {"clip": 3.0}, "rmsprop train digits --clip 3"),
        ({}, {"stochastic_rounding": True}, "rmsprop train digits --stochastic-rounding"),
        ({}, {"nonfinite": "skip"}, "rmsprop train digits --nonfinite skip"),
        ({}, {"group": "a", "lr": 1.0}, None),
    ],
)
def test_a_change_is_the_command_of_the_run_with_it(
    asked: dict[str, Any], change: dict[str, Any], command: str | None
) -> None:
    assert train_command(config(**asked), GIVEN, change) == command


def test_a_command_says_all_that_the_run_was_asked_for() -> None:
    asked = config(momentum=0.5, lr=0.1) | {"task": "my task.py:make", "seed": 3, "schedule": "linear"}
    given: GivenOptions = {"epochs": 2, "batch_size": 16}
    assert train_command(asked, given, {"lr": 0.02}) == (
        "rmsprop train 'my task.py:make' --momentum 0.5 --seed 3 --epochs 2 --batch-size 16 --schedule linear --lr 0.02"
    )
    assert find_lr_command(asked, given) == "rmsprop find-lr 'my task.py:make' --momentum 0.5 --batch-size 16"


@pytest.mark.parametrize(
    ("asked", "change", "call"),
    [
        ({}, {"lr": 0.001}, "train(task, Rule(lr=0.001))"),
        ({"momentum": 0.9, "lr": 1.0}, {"lr": 1e-7}, "train(task, Rule(momentum=0.9, lr=1e-07))"),
        ({}, {"epochs": 4}, "train(task, epochs=4)"),
        ({}, {"bias_correction": True, "clip": 3.0}, "train(task, Rule(bias_correction=True), clip=3)"),
        ({}, {"group": "a", "lr": 1.0}, None),
    ],
)
def test_for_a_task_made_in_python_a_change_is_a_call(
    asked: dict[str, Any], change: dict[str, Any], call: str | None
) -> None:
    assert train_command(config(**asked) | {"from_python": True}, GIVEN, change) == call


def test_calls_say_all_that_the_run_was_asked_for() -> None:
    asked = config(momentum=0.5, lr=0.1) | {"from_python": True, "seed": 3, "schedule": "linear"}
    given: GivenOptions = {"epochs": 2, "batch_size": 16}
    options = "seed=3, epochs=2, batch_size=16, schedule='linear'"
    assert train_command(asked, given, {"lr": 0.02}) == f"train(task, Rule(momentum=0.5, lr=0.02), {options})"
    assert find_lr_command(asked, given) == "find_lr(task, Rule(momentum=0.5), batch_size=16)"
    published = asked | {"recipe": "impala-atari", "rule": vars(recipe("impala-atari").rule()) | {"lr": 0.1}}
    call = f"train(task, recipe('impala-atari').changed(lr=0.02), {options})"
    assert train_command(published, given, {"lr": 0.02}) == call


def test_a_finding_of_a_run_that_is_not_finished_has_its_remedy_too() -> None:
    train("digits", epochs=1, out=Path("cut"))
    Path("cut/summary.json").unlink()
    told = examine_run(RunDirectory(Path("cut")))["findings"][0]
    assert told["remedy"].startswith("rmsprop train digits --epochs 1 --batch-size 64 --bias-correction; or rmsprop tr")
    assert json.dumps(told, allow_nan=False)
