"""Comparisons on several tasks: their table, their sentences, their report, and how they go on."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_compare import MINE, Canned

from rmsprop import InputError
from rmsprop.cli.compare import show_several
from rmsprop.lab import comparison
from rmsprop.lab.runs.trial import Trial
from rmsprop.lab.several import Comparisons, compare_on

OPTIONS: Any = {"learning_rates": (0.01, 0.03, 0.1), "tuning_seeds": 1, "seeds": 5, "optimizers": ("SGD", "Adam")}
TASKS = ("digits", f"{MINE}:regression")


def score(trial: Trial) -> float:
    """Return a score by which SGD is worst, and Adam differs from RMSprop on the regression only."""
    lower_is_better = trial.source != "digits"
    ahead = {"SGD": -0.1, "Adam": 0.05 if lower_is_better else 0.0, "RMSprop": 0.0}[trial.optimizer]
    return 0.5 + (-ahead if lower_is_better else ahead) + 0.001 * trial.seed


def compare_canned(monkeypatch: pytest.MonkeyPatch, out: Path, **options: Any) -> tuple[Canned, Comparisons]:
    canned = Canned(score)
    monkeypatch.setattr(comparison, "Workers", canned)
    return canned, compare_on(TASKS, out=out, **OPTIONS, **options)


def test_who_wins_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, found = compare_canned(monkeypatch, tmp_path / "run")
    console = Console(file=io.StringIO(), width=80, color_system=None)
    show_several(console, found)
    lines = [re.sub(" +", " ", line) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[:4] == [
        "optimizer digits (accuracy) regression (error)",
        "RMSprop 50.3 % 0.503",
        "Adam 50.3 % = 0.453 +",
        "SGD 40.3 % − 0.603 −",
    ]
    text = " ".join(" ".join(lines).split())
    assert "Adam, beside RMSprop: better on regression (-0.05 [-0.05, -0.05]); no difference on digits (+0.0" in text
    assert "SGD, beside RMSprop: worse on digits (-10.0 points [-10.0, -10.0]), regression (+0.1 [+0.1, +0.1])." in text
    page = (found.path / "report.html").read_text(encoding="utf-8")
    assert "RMSprop compared on digits, regression" in page
    assert page.count("<figure>") == 2
    kept = json.loads((found.path / "tasks.json").read_text())
    assert list(kept["tasks"]) == ["digits", "regression"]
    assert (found.path / "digits" / "summary.json").exists()


def test_comparisons_go_on_where_they_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, whole = compare_canned(monkeypatch, tmp_path / "run")
    (tmp_path / "run" / "regression" / "summary.json").unlink()
    records = tmp_path / "run" / "regression" / "records.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:-3]))
    canned, again = compare_canned(monkeypatch, tmp_path / "run", resume=True)
    assert len(canned.trials) == 3
    shutil.rmtree(tmp_path / "run" / "digits")  # not begun: --accept-changes is for those that were
    canned, _ = compare_canned(monkeypatch, tmp_path / "run", resume=True, accept_changes=True)
    assert {trial.source for trial in canned.trials} == {"digits"}
    assert [s["scores"] for s in again.summaries] == [s["scores"] for s in whole.summaries]


def test_nothing_is_trained_before_every_task_is_known_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comparison, "Workers", None)
    for tasks, message in (
        (("digits", "digits"), "the tasks must be of different names"),
        (("digits", f"{MINE}:wrong_shape"), "able to run one batch"),
        (("digits", "digit"), "did you mean digits"),
    ):
        with pytest.raises(InputError, match=message):
            compare_on(tasks, out=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("kept")
    with pytest.raises(InputError, match="--out must be a new or empty directory"):
        compare_on(TASKS, out=tmp_path / "mine", **OPTIONS)
    assert (tmp_path / "mine" / "report.html").read_text() == "kept"
