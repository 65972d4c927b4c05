"""The learning-rate finder on the built-in tasks, and its command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rmsprop import Rule
from rmsprop.cli.app import run
from rmsprop.lab.find_task import load_task
from rmsprop.lab.range_test import on_task, wider_range
from rmsprop.lab.tasks.shakespeare import shakespeare
from rmsprop.lab_options import FindLrOptions
from rmsprop.monitor.lr_finder import curve, find_lr
from rmsprop.torch import RMSprop


def test_digits_gets_a_rate_that_trains_well() -> None:
    task = load_task("digits")
    found = on_task(task, Rule(decay=0.9), listen=lambda _done, _total: None)
    assert found.lr is not None
    assert 0.002 < found.lr < 0.02


def test_shakespeare_is_split_by_position() -> None:
    task = shakespeare(1)
    task.try_out()
    parts = [p.tensors for p in (task.train, task.validation, task.test) if isinstance(p, TensorDataset)]
    sizes = [x.numel() for x, _ in parts]
    assert [size / sum(sizes) for size in sizes] == pytest.approx([0.8, 0.1, 0.1], abs=0.001)
    for x, y in parts:
        assert x.shape[1] == 64
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert torch.equal(x[1:, 0], y[:-1, -1])
    starts = {tuple(row) for row in parts[0][0].tolist()}
    assert not starts & {tuple(row) for row in parts[2][0].tolist()}
    assert task.metric_name == "bits per character"
    output = torch.zeros(2, 10, 64)
    assert task.metric is not None
    assert float(task.metric(output, torch.zeros(2, 64, dtype=torch.long))) == pytest.approx(np.log2(10))


def without_command(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k != "command"}


def test_the_command_writes_a_figure_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    arguments = ["find-lr", "digits", "--decay", "0.9", "--seeds", "2"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("suggested lr: 0.0")
    assert "figure: runs/find-lr-digits/find-lr.svg" in shown
    assert {p.name for p in Path("runs/find-lr-digits").iterdir()} == {"find-lr.json", "find-lr.svg"}
    saved = json.loads(Path("runs/find-lr-digits/find-lr.json").read_text())
    assert run([*arguments, "--json", "--out", "here"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("directory") == "here"
    assert without_command(printed) == without_command(saved)
    assert (saved["rule"]["decay"], len(saved["losses"]), saved["warm_steps"]) == (0.9, 2, 20)
    assert Path("here/find-lr.svg").read_text().startswith("<svg")
    assert run([*arguments, "--out", "here"]) == 2
    assert run([*arguments, "--lr", "0.1"]) == 2
    assert "--lr must be omitted" in capsys.readouterr().err
    for command in ("report", "doctor"):
        assert run([command, "here"]) == 2
        line = (
            "rmsprop: the run must be one of train or compare, got here, a range test; its figure is here/find-lr.svg"
        )
        assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("out", ["file", "file/new", "file/new/newer", "link"])
def test_a_place_that_cannot_be_made_is_found_before_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rmsprop.lab.range_test.on_task", None)
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    assert run(["find-lr", "digits", "--out", out]) == 2
    there = out.partition("/")[0]
    line = f"--out must be a new or empty directory, got {out}, where {there} is no directory that can be written to"
    assert capsys.readouterr().err == f"rmsprop: {line}; choose another --out\n"


def test_a_place_that_may_not_be_written_is_found_before_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rmsprop.lab.range_test.on_task", None)
    monkeypatch.setattr("os.access", lambda path, _mode: path != Path("locked"))  # root may write anywhere
    Path("locked").mkdir()
    assert run(["find-lr", "digits", "--out", "locked/new"]) == 2
    assert "got locked/new, where locked is no directory that can be written to" in capsys.readouterr().err


def test_the_command_fails_where_it_has_no_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["find-lr", "digits", "--from", "1e-12", "--to", "1e-10", "--steps", "30", "--seeds", "1"]) == 1
    shown = capsys.readouterr().out
    assert "no suggestion: the curve is unclear" in shown
    assert "the loss does not fall at any rate" in shown
    assert (tmp_path / "runs" / "find-lr-digits" / "find-lr.svg").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_task_whose_best_rate_is_beyond_the_range_is_tested_once_more_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["find-lr", "digits", "--decay", "0.9", "--to", "1e-3", "--steps", "60", "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "suggested lr: 0.0" in shown
    words = (
        "the range was widened once, to 1e-06 to 0.1: the loss still falls at 0.001, the highest rate: raise it to 0.1"
    )
    assert words in " ".join(shown.split())
    saved = json.loads(Path("runs/find-lr-digits/find-lr.json").read_text())
    assert (saved["widened"], saved["beyond"], saved["notes"][0]) == ([1e-6, 0.1], None, words)
    assert (saved["rates"][0], saved["rates"][-1], len(saved["rates"])) == (1e-6, pytest.approx(0.1), 100)


def test_a_range_is_widened_once_and_keeps_its_steps_a_decade() -> None:
    options = FindLrOptions(lowest=1e-4, highest=1e-2, steps=41)
    lower, higher = wider_range("lower", options), wider_range("higher", options)
    assert lower is not None
    assert higher is not None
    assert (lower.lowest, lower.highest, lower.steps) == (1e-6, 1e-2, 81)
    assert (higher.lowest, higher.highest, higher.steps) == (1e-4, 1.0, 81)
    assert wider_range(None, options) is None


@pytest.mark.slow
def test_ctrl_c_ends_the_command_with_nothing_left(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rmsprop", "find-lr", "digits", "--steps", "1000"], cwd=tmp_path, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "testing rates: 800 of at most 3203 steps\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "of at most 3203 steps; nothing was written" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [False, True])
def test_an_easy_task_gets_a_rate_where_every_one_lowers_the_loss(network: bool) -> None:
    """The classes are far apart: the loss falls at every rate. A wider range would only move the question."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 4, generator=generator)
    data = TensorDataset(x + torch.tensor([3.0, 0, 0, 0]) * x[:, :1].sign(), (x[:, 0] > 0).long())

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    found = {}
    for highest in (0.01, 1.0, 100.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)) if network else nn.Linear(4, 2)
        batches = DataLoader(data, 32, shuffle=True)
        found[highest] = find_lr(model, RMSprop(model.parameters()), loss, batches, highest=highest, steps=120)
    assert found[0.01].lr is None
    assert found[0.01].reason == "the loss still falls at 0.01, the highest rate: raise it to 1"
    for highest in (1.0, 100.0):
        told = found[highest]
        assert told.lr is not None
        assert f"every rate up to {highest:g}, the highest, lowers the loss" in told.reason
        assert "90 % of the fall is done at a rate of" in told.reason
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)) if network else nn.Linear(4, 2)
    optimizer = RMSprop(model.parameters(), lr=found[100.0].lr or 0.0)
    for _ in range(20):
        for batch in DataLoader(data, 32, shuffle=True):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert value < 0.01


@pytest.mark.parametrize(("above", "suggests"), [(9.0, False), (11.0, True)])
def test_a_slow_end_of_the_fall_is_told_from_one_that_goes_on(above: float, suggests: bool) -> None:
    """A suggestion needs 90 % of the fall to be done at a tenth of the highest rate, or before."""
    rates = np.geomspace(1e-6, 1.0, 200)
    done = np.log(rates * 1e6) / np.log(1e6 / above)  # 0 at the lowest rate, 1 at the highest rate divided by `above`
    losses = 2 - np.where(done < 1, 0.9 * done, 0.9 + 0.1 * (done - 1) / (done[-1] - 1))
    verdict = curve.suggest(rates, [losses.tolist()] * 3)
    assert (verdict.lr is not None) == suggests
    if verdict.lr is not None:
        assert verdict.lr == pytest.approx(1 / above / 2, rel=0.2)
