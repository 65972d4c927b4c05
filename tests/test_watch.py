"""`rmsprop watch`: findings from the file that a monitor writes."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rmsprop.cli import app
from rmsprop.cli.record_files import records_of
from rmsprop.monitor import Monitor
from rmsprop.monitor.sinks import JSONL, RECORD, TensorBoard, WandB
from rmsprop.torch import RMSprop


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    """Return a file of a run in which ε governs."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = RMSprop(model.parameters(), eps=1.0)
    with Monitor(optimizer, model, every=5, sinks=[JSONL(tmp_path / "statistics.jsonl")]):
        for _ in range(20):
            optimizer.zero_grad()
            (1e-3 * model(torch.randn(4, 3))).square().mean().backward()
            optimizer.step()
    return tmp_path / "statistics.jsonl"


def test_findings_are_printed_with_cause_and_remedy(statistics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with statistics.open("a") as file:
        file.write('{"kind": "other"}\n{"kind": "statistics", "st')  # of another program, and cut short
    assert app.run(["watch", str(statistics.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, _, sentence, cause, remedy = lines[:5]
    assert re.fullmatch(rf"{re.escape(str(statistics))}: [12] findings? in 5 measured steps \(1 to 20\)\.", first)
    assert re.match("Step 20: ε governs .* % of the elements of", sentence)
    assert cause.startswith("  Cause: ")
    assert remedy.startswith("  Remedy: RMSprop(..., eps=")
    assert app.run(["watch", str(statistics), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["records"], facts["first"], facts["last"], facts["findings"][0]["kind"]) == (5, 1, 20, "eps")


@pytest.mark.parametrize(
    ("words", "status"),
    [(["eps"], 1), (["spike,eps"], 1), (["spike", "eps"], 1), (["any"], 1), (["spike,dead rows"], 0)],
)
def test_findings_that_are_named_fail(statistics: Path, words: list[str], status: int) -> None:
    assert app.run(["watch", str(statistics), "--fail-on", *words]) == status


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("{}\n", ["--fail-on", "epsilon"], "--fail-on must be some of nonfinite, .*, or any, got 'epsilon'"),
        ("text\n", [], "line 1 of .* must be a JSON object, got other text; give the statistics.jsonl of a run"),
        ('{"kind": "statistics"}\n', [], "in line 1 of .* must be there, got none"),
        ("{}\n", ["--follow", "--json"], "--json must be given without --follow"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    content: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "statistics.jsonl").write_text(content)
    assert app.run(["watch", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


def test_other_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["watch", str(tmp_path / "no")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "x.csv").write_text("Step,loss\n1,2\n")
    for name, message in (
        ("binary", "must be a file of JSON lines, of TensorBoard or of W&B, got"),
        ("x.csv", "FILE must be an export of one run with the column rmsprop/record, got 0 columns of this name"),
    ):
        assert app.run(["watch", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


def found(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert app.run(["watch", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert isinstance(facts, dict)
    assert facts.pop("file") == str(path)
    return facts


def test_exports_of_wandb_show_the_same(statistics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = records_of(statistics)
    logged: list[dict[str, Any]] = []
    sink = WandB(SimpleNamespace(log=logged.append, define_metric=lambda *_, **__: None))
    for record in records:
        sink(record)
    history = statistics.with_name("history.jsonl")
    lines = [{"loss": 1.0, RECORD: None}, *logged, {"loss": 1.0}]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    export = statistics.with_name("export.csv")
    with export.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Step", f"fast-sun-1 - {RECORD}"])
        rows.writerows([[0, ""], *([line["rmsprop/step"], line[RECORD]] for line in logged)])
    assert found(history, capsys) == found(export, capsys) == found(statistics, capsys)


def test_a_history_that_wandb_wrote_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run of ours with wandb 0.31.0, offline: 60 steps, the losses of each, a record of every 20th."""
    facts = found(Path(__file__).with_name("wandb_history.csv"), capsys)
    assert (facts["records"], facts["first"], facts["last"]) == (4, 1, 60)
    assert [each["tensor"] for each in facts["findings"] if each["kind"] == "eps"] == ["weight", "bias"]


def test_event_files_of_tensorboard_show_the_same(
    statistics: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where TensorBoard finds this module, it does not import TensorFlow, which takes seconds.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
    pytest.importorskip("tensorboard")
    sink = TensorBoard(statistics.parent / "logs")
    for record in records_of(statistics):
        sink(record)
    sink.close()
    (events,) = (statistics.parent / "logs").iterdir()
    assert found(events, capsys) == found(statistics, capsys)
    events.write_bytes(events.read_bytes()[:-4000])  # still being written
    assert 0 < found(events, capsys)["records"] < 5
    assert app.run(["watch", str(events.with_name("no.tfevents.1"))]) == 1
    assert "No such file" in capsys.readouterr().err


def test_steps_that_a_loaded_state_undid_are_left_out(statistics: Path, tmp_path: Path) -> None:
    *lines, _ = statistics.read_text().splitlines(keepends=True)  # the last line has the findings
    again = tmp_path / "again.jsonl"
    again.write_text("".join([*lines, *lines[2:4]]))
    assert records_of(again) == list(map(json.loads, lines[:4]))


def test_event_files_need_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    (tmp_path / "events.out.tfevents.1").touch()
    assert app.run(["watch", str(tmp_path / "events.out.tfevents.1")]) == 1
    assert "rmsprop watch needs TensorBoard for event files: pip install tensorboard" in capsys.readouterr().err


# Shells start background jobs, in which tests may run, without SIGINT.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
MAIN = f"{HEARS_CTRL_C}; import sys; from rmsprop.__main__ import main; sys.exit(main())"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_a_growing_file_is_followed_until_ctrl_c(statistics: Path) -> None:
    lines = statistics.read_text().splitlines(keepends=True)
    statistics.write_text(lines[0])
    command = [sys.executable, "-c", MAIN, "watch", str(statistics), "--follow", "--fail-on", "eps"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        statistics.write_text("".join(lines))
        assert "ε governs" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (1, "")
    assert output.count("Step") == 0  # said once
