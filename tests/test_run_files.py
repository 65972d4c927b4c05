"""A run's files, changed by hand: every reader names the wrong file, line and field, or reads on."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import lighter
import pytest
from rich.console import Console

from rmsprop import InputError, Rule
from rmsprop.cli.compare import show_comparison
from rmsprop.cli.doctor import show_findings
from rmsprop.cli.train import show_training
from rmsprop.lab.comparison import compare
from rmsprop.lab.examine import examine_run
from rmsprop.lab.report.page import write_report
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.typed_json import NOT_EMPTY, NOT_NEGATIVE, checker
from rmsprop.lab.training_run import train

TESTS = Path(__file__).parent
DELETED = object()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """Return a training that diverged, and a comparison."""
    folder = tmp_path_factory.mktemp("runs")
    diverged, summary = train(f"{TESTS / 'sick.py'}:growing", Rule(lr=1e-3), every=50, out=folder / "train")
    assert summary["findings"]
    assert summary["post_mortem"]
    options: dict[str, Any] = {"learning_rates": (0.1, 0.2, 0.3), "tuning_seeds": 1, "seeds": 5, "epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        lighter.without_workers(patch)
        compared, _ = compare(f"{TESTS / 'mine.py'}:regression", out=folder / "compare", **options)
    return {"train": diverged, "compare": compared}


def read(path: Path) -> None:
    """Read a run in every way."""
    run, console = RunDirectory(path), Console(file=io.StringIO())
    write_report(run)
    if run.config()["kind"] == "train":
        show_findings(console, examine_run(run))
        show_training(console, run, None)
    else:
        show_comparison(console, run, None)


def refusal(path: Path) -> InputError | None:
    """Return the error that refuses the run, or None."""
    try:
        read(path)
    except InputError as error:
        return error
    return None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each field; of lists, and of dicts whose values have equal keys, to the first entry only."""
    if isinstance(value, dict):
        fields = list(value.items())
        alike = all(isinstance(x, dict) and x.keys() == fields[0][1].keys() for x in value.values())
        fields = fields[:1] if alike else fields
    else:
        fields = list(enumerate(value))[:1] if isinstance(value, list) else []
    for key, inside in fields:
        yield (*path, key)
        yield from places(inside, (*path, key))


def wrong(value: Any) -> tuple[Any, ...]:
    """Return replacements for `value`: deleted, null, a number that is too low, and a value of another type."""
    return DELETED, None, -1, "text" if isinstance(value, list | dict) else []


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    result = copy.deepcopy(value)
    inside = at(result, path[:-1])
    if new is DELETED:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return result


def last_of_each_kind(lines: list[str]) -> Iterator[int]:
    """Yield the index of the last line of each kind."""
    kinds = {}
    for number, line in enumerate(lines):
        record = json.loads(line)
        kinds[record.get("kind"), record.get("stage")] = number
    yield from kinds.values()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("train", "run.json"),
        ("train", "summary.json"),
        ("train", "records.jsonl"),
        ("train", "statistics.jsonl"),
        ("compare", "run.json"),
        ("compare", "summary.json"),
        ("compare", "records.jsonl"),
    ],
)
def test_every_field_that_is_wrong_is_named_in_one_line(
    runs: dict[str, RunDirectory], kind: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(runs[kind].path, path)
    text = (path / name).read_text()
    lines = text.splitlines() if name.endswith("l") else [text]
    refused = 0
    for number in last_of_each_kind(lines):
        value = json.loads(lines[number])
        for place in places(value):
            for new in wrong(at(value, place)):
                there = json.dumps(changed(value, place, new))
                (path / name).write_text("\n".join([*lines[:number], there, *lines[number + 1 :]]) + "\n")
                error = refusal(path)
                if error is not None:
                    where = f"line {number + 1} of {path / name}" if name.endswith("l") else str(path / name)
                    assert where in str(error), (place, new)
                    assert "\n" not in str(error)
                    assert any(str(key) in error.name for key in place), (place, new, error)
                    refused += 1
    assert refused > 20


def test_messages_name_file_line_and_field(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(runs["train"].path, path)
    for name, old, new, message in (
        ("run.json", '"rule"', '"role"', f"rule in {path}/run.json must be there, got none; restore the file from a"),
        ("run.json", '"decay": 0.99', '"decay": 2', f"rule.decay in {path}/run.json must be a number in [0, 1), got 2"),
        ("run.json", '"eps"', '"espilon": 1, "eps"', f"rule.espilon in {path}/run.json must be omitted, got 1; rest"),
        ("run.json", '"train"', '"tone"', f"kind in {path}/run.json must be one of train, compare, tune, got 'tone'"),
        (
            "records.jsonl",
            '"kind": "epoch"',
            '"x": 1',
            f"kind in line 1 of {path}/records.jsonl must be one of loss, e",
        ),
        (
            "records.jsonl",
            '"step": 0',
            '"step": -1',
            f"step in line 1 of {path}/records.jsonl must be a whole number t",
        ),
        ("statistics.jsonl", '"step": 1', '"step": 0.5', f"step in line 1 of {path}/statistics.jsonl must be a whole "),
        (
            "summary.json",
            '"steps": ',
            '"steps": {}, "x": ',
            f"steps in {path}/summary.json must be a whole number that",
        ),
        (
            "summary.json",
            '"metric": "error"',
            '"metric": null',
            f"metric in {path}/summary.json must be text, got None",
        ),
        ("summary.json", "}", "[" * 100_000, f"{path}/summary.json must be a JSON object, got damaged text; start a"),
    ):
        text = (path / name).read_text()
        (path / name).write_text(text.replace(old, new, 1))
        with pytest.raises(InputError) as caught:
            read(path)
        assert message in str(caught.value)
        (path / name).write_text(text)
    read(path)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, True, "x must be a whole number, got True"),
        (float, float("nan"), "x must be a number, got nan"),
        pytest.param(float, 10**400, "x must be a number, got 1000", id="huge"),
        (int | None, "1", "x must be a whole number or null, got '1'"),
        (tuple[int, float], [1], r"x must be a list of 2 values, got a list"),
        (dict[str, list[int]], {"a": [1, None]}, "a.1 in x must be a whole number, got None"),
        (list[str] | None, ["a", 1], "1 in x must be text, got 1"),
    ],
)
def test_values_are_held_against_types(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        checker(kind)(value, "x")
    assert str(caught.value).startswith(message)


def test_limits_are_those_that_are_said() -> None:
    check = checker(Annotated[float, NOT_NEGATIVE])
    check(0.0, "x")
    with pytest.raises(InputError, match="x must be a number that is not negative, got -1e-300"):
        check(-1e-300, "x")
    with pytest.raises(InputError, match="x must be a list that is not empty, got "):
        checker(Annotated[list[int], NOT_EMPTY])([], "x")
