"""Options of the lab: Python keywords and the command line agree; run.json holds the options that decide a result."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rmsprop import InputError
from rmsprop.cli.app import run
from rmsprop.lab.runs.schema import CompareConfig, TrainConfig
from rmsprop.lab.training_run import train
from rmsprop.lab_options import CompareOptions, FindLrOptions, TrainOptions, option_name, result_options

MINE = str(Path(__file__).with_name("mine.py"))


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rmsprop.lab.report.page.write_report", lambda run: run.path)  # figures take seconds


def test_options_keywords_and_the_command_line_make_the_same_run() -> None:
    asked: dict[str, Any] = {"seed": 3, "epochs": 2, "batch_size": 50, "schedule": "linear", "every": 4}
    train(f"{MINE}:regression", out=Path("keywords"), **asked)
    train(f"{MINE}:regression", options=TrainOptions(**asked, out=Path("options")))
    train(f"{MINE}:regression", options=TrainOptions(**asked | {"seed": 9}), seed=3, out=Path("both"))
    words = [word for name, value in asked.items() for word in (f"--{option_name(name)}", str(value))]
    assert run(["train", f"{MINE}:regression", "--out", "command", *words]) == 0
    configs = [json.loads(Path(name, "run.json").read_text()) for name in ("keywords", "options", "both", "command")]
    assert configs.count(configs[0]) == 4
    assert {name: configs[0][name] for name in asked} == asked


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        train(f"{MINE}:regression", epoch=3)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"epochs": 2}, {"batch_size": 7}, {"schedule": "linear"}, {"every": 9}, {"clip": 2.0}]
)
def test_a_resumed_run_must_have_the_options_that_decide_its_result(change: dict[str, Any]) -> None:
    directory, _ = train(f"{MINE}:regression", out=Path("run"))
    Path("run/summary.json").unlink()
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=rf"the one asked for \({name} .*\), got {name} {value!r}"):
        train(f"{MINE}:regression", out=directory.path, resume=True, **change)


def test_a_run_goes_on_for_more_epochs_if_its_rates_do_not_depend_on_their_number() -> None:
    task = f"{MINE}:regression"
    options: Any = {"warmup": 4, "average": 0.9, "clip": 1.0, "best": True}
    whole = train(task, epochs=5, out="whole", **options)
    assert train(task, epochs=2, out="part", **options).summary["epochs"] == 2
    with pytest.raises(InputError, match="the run must be one that is not finished"):
        train(task, epochs=2, out="part", resume=True, **options)
    part = train(task, epochs=5, out="part", resume=True, **options)
    assert part.summary["test_loss"] == whole.summary["test_loss"]
    assert [r["step"] for r in part.records] == [r["step"] for r in whole.records]
    train(task, epochs=2, out="linear", schedule="linear")
    with pytest.raises(InputError, match="got epochs 5; choose another --out: the rates of its schedule depend on"):
        train(task, epochs=5, out="linear", schedule="linear", resume=True)


@pytest.mark.parametrize(("options", "config"), [(TrainOptions, TrainConfig), (CompareOptions, CompareConfig)])
def test_run_json_has_a_type_for_every_option_that_decides_a_result(options: Any, config: Any) -> None:
    assert result_options(options()).keys() <= config.__annotations__.keys()


@pytest.mark.parametrize("options", [TrainOptions, CompareOptions, FindLrOptions])
def test_every_option_is_described(options: Any) -> None:
    described = re.findall(r"^    (\w+)\n        ", options.__doc__, re.MULTILINE)
    assert described == [field.name for field in dataclasses.fields(options)]
