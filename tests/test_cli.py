"""The command line: what it prints, its exit status, and the files it leaves."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import lighter
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from rmsprop import Rule, native, profile, recipe
from rmsprop.cli import app, terminal
from rmsprop.cli.app import run
from rmsprop.cli.terminal import stdout
from rmsprop.cli.train import show_training
from rmsprop.lab.report.page import write_report
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.lock import locked
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.training_run import train
from rmsprop.lab_options import TASKS
from rmsprop.recipes import RECIPES

MINE = str(Path(__file__).with_name("mine.py"))
LIGHT = [sys.executable, str(Path(__file__).with_name("light_rmsprop.py"))]


pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    checkpoint: dict[str, Any] = torch.load(Path(path) / "checkpoint.pt", weights_only=True)
    model: dict[str, torch.Tensor] = checkpoint["training"]["model"]
    return model


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def command(*arguments: str) -> forked.Python:
    """Start the command in a process of its own; the task `slow` is slow there."""
    return forked.Python(Path(LIGHT[1]).read_text(), *arguments, STEP_SECONDS="0.02")


def wait_for_checkpoint(path: Path, process: forked.Python) -> None:
    deadline = time.monotonic() + 600  # only a command that hangs takes so long
    while not (path / "checkpoint.pt").exists():
        assert process.poll() is None, process.finish()
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- what works -------------------------------------------------------------------------------------------------------


def test_train_prints_the_result_and_leaves_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "digits", "--epochs", "2", "--lr", "0.003", "--momentum", "0.5", "--centered"]) == 0
    shown = capsys.readouterr()
    assert "After 2 epochs (34 steps) on the validation data: accuracy " in shown.out
    assert "report: runs/train-digits/report.html" in shown.out
    assert native.kernel is None or "steps of RMSprop: native kernel (" in shown.out
    assert "epoch 2 of 2: validation loss" in shown.err
    files = {p.name for p in Path("runs/train-digits").iterdir()}
    assert files == {
        "run.json", "records.jsonl", "statistics.jsonl", "checkpoint.pt", "summary.json", "report.html",
    }  # fmt: skip
    rule = RunDirectory(Path("runs/train-digits")).config()["rule"]
    assert (rule["lr"], rule["momentum"], rule["centered"]) == (0.003, 0.5, True)
    assert run(["train", "digits", "--epochs", "1"]) == 0
    assert Path("runs/train-digits-2/report.html").exists()


def test_a_path_with_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{MINE}:regression", "--out", "x[lr]"]) == 0
    assert "report: x[lr]/report.html" in capsys.readouterr().out


def test_train_measures_at_an_interval_and_prints_its_findings(capsys: pytest.CaptureFixture[str]) -> None:
    """The defaults' first step is 10·η for every weight, most of the size of digits' weights."""
    assert run(["train", "digits", "--epochs", "1", "--every", "7", "--out", "seven"]) == 0
    shown = capsys.readouterr().out
    assert [r["step"] for r in measured_steps(RunDirectory(Path("seven")))] == [1, 7, 14]
    summary = RunDirectory(Path("seven")).summary()
    assert summary is not None
    found = summary["findings"]
    assert {f["kind"] for f in found} == {"first step"}
    assert summary["post_mortem"] is None
    for finding in found:
        assert finding["sentence"] in shown
    assert shown.count(f"remedy: {found[0]['remedy']}\n") == 1
    assert "causes and evidence: rmsprop doctor seven\n" in shown
    train("digits", Rule(), epochs=1, every=0, out=Path("none"))
    assert not Path("none/statistics.jsonl").exists()
    assert "findings" not in json.loads(Path("none/summary.json").read_text())
    assert same(weights("seven"), weights("none"))  # monitoring changes nothing


def test_train_prints_the_first_five_findings(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"cause": "c", "threshold": "t", "remedy": "r", "evidence": {}}
    several = [{**one, "sentence": f"Sentence {i}."} for i in range(7)]
    train(f"{MINE}:regression", out=Path("run"))
    summary = json.loads(Path("run/summary.json").read_text())
    Path("run/summary.json").write_text(json.dumps({**summary, "findings": several}))
    capsys.readouterr()
    show_training(stdout, RunDirectory(Path("run")), Path("report.html"))
    assert "Sentence 4.\n  remedy: r\nand 2 more: rmsprop doctor run\nreport:" in capsys.readouterr().out


def test_doctor_prints_the_findings_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    train("digits", epochs=1, every=50, out=Path("hasty"))
    train("digits", Rule(lr=0.003, bias_correction=True), epochs=1, every=5, out=Path("calm"))
    assert run(["doctor", "calm"]) == 0
    assert capsys.readouterr().out == "calm: finished\n\nNothing found in 4 measured steps (1 to 15).\n"
    assert run(["doctor", "hasty"]) == 1
    shown = capsys.readouterr().out
    for words in ("hasty: finished", "in 1 measured step (1).", "The first step changed", "  cause ", "  found "):
        assert words in shown
    assert run(["doctor", "hasty", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["measured"]) == ("finished", {"count": 1, "first": 1, "last": 1})
    assert all(f["sentence"] in shown and f["remedy"] in shown for f in found["findings"])
    Path("hasty/summary.json").unlink()
    assert run(["doctor", "hasty"]) == 1
    assert capsys.readouterr().out.startswith("hasty: not finished\n")
    damaged = Path("calm/statistics.jsonl")
    *lines, _ = damaged.read_text().splitlines(keepends=True)  # the last line has the findings
    damaged.write_text("".join(lines)[:-20])  # cut off by a crash
    assert run(["doctor", "calm"]) == 0
    assert "in 3 measured steps (1 to 10)" in capsys.readouterr().out
    damaged.write_text("{\n" + damaged.read_text())
    assert run(["doctor", "calm"]) == 2
    assert "line 1 of calm/statistics.jsonl must be a JSON object, got damaged text" in capsys.readouterr().err
    damaged.unlink()
    assert run(["doctor", "calm"]) == 2
    assert capsys.readouterr().err == (
        "rmsprop: the run must be one with statistics, got calm, which has none; "
        "they come from: rmsprop train TASK, without --every 0\n"
    )


def test_with_json_standard_output_holds_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{MINE}:regression", "--json", "--out", "here"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["status"], summary["task"], summary["metric"], summary["steps"]) == (
        "finished", "regression", "error", 12,
    )  # fmt: skip
    assert summary["report"] == "here/report.html"
    assert run(["report", "here", "--out", "elsewhere.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == "elsewhere.html"
    assert found["summary"]["steps"] == found["records"][-1]["step"] == 12
    assert Path("elsewhere.html").read_text() == Path("here/report.html").read_text()
    assert run(["explain", "--json", "--worked-example", "--decay", "0.9"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rule"]["decay"] == 0.9
    assert facts["worked_example"][0]["square_avg"] == pytest.approx(10)
    assert run(["explain", "--json", "--lr", "1e308"]) == 0
    assert json.loads(capsys.readouterr().out)["first_step"] is None
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True


def test_explain_prints_the_equations_and_the_worked_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--lr", "0.01", "--decay", "0.9", "--worked-example"]) == 0
    text = capsys.readouterr().out
    assert "v ← 0.9·v + 0.1·g²" in text
    assert text.splitlines()[-4].split() == ["1", "x", "10", "10", "0.00316228", "-0.0316228"]
    assert text.splitlines()[-1].split() == ["2", "y", "0.02", "4.9e-05", "1.42857", "-0.0285714"]


def test_explain_takes_a_recipe_and_names_the_values_missing_in_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--recipe", "impala-atari"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("impala-atari: IMPALA on Atari")
    assert "p ← p − 0.0006·g/d" in text
    assert run(["explain", "--recipe", "impala-atari", "--lr", "0.1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Rule(**facts["rule"]) == recipe("impala-atari").rule(lr=0.1)
    assert facts["recipe"] == {**recipe("impala-atari").changed(lr=0.1).facts(), "changed": ["lr"]}
    assert run(["explain", "--recipe", "a3c-2016", "--lr", "0.001"]) == 0
    assert capsys.readouterr().out.endswith("the source leaves open: --eps, --initial-square-avg\n")
    assert run(["explain", "--recipe", "efficientnet-v1", "--eps", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "eps 0.5 inside the root" in text
    assert "Not as published, but as given here: eps" in text
    assert "eps 0.001" not in text
    for arguments, message in (
        (["--recipe", "a3c-2016", "--lr", "-1"], "lr must be a finite number >= 0, got -1.0"),
        (["--recipe", "a3c-2016", "--worked-example"], "--worked-example must be given with --lr, --eps, --initial-sq"),
        (["--recipe", ""], "recipe must be one of graves-2013,"),
        (["--profile", ""], "profile must be one of torch,"),
    ):
        assert run(["explain", *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert run(["explain", "--recipe", "impala-atari", "--profile", "tf1"]) == 2
    assert "--profile must be omitted with --recipe, got 'tf1'" in capsys.readouterr().err


@pytest.mark.usefixtures("no_workers")
def test_compare_takes_a_profile_that_demands_a_rate(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", f"{MINE}:regression", "--profile", "tf1", "--lrs", "0.1", "0.2", "0.3", "--seeds", "5"]
    assert run([*arguments, "--tuning-seeds", "1", "--epochs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rule = Rule(**RunDirectory(Path(found["directory"])).config()["rule"])
    assert rule == profile("tf1", lr=Rule.lr)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_formulas_are_spelled_where_a_terminal_has_no_greek_letters(encoding: str) -> None:
    """Letters are replaced before tables and help are laid out: columns and borders stay aligned."""
    lines = ("explain --centered --bias-correction", "explain --worked-example", "explain --help", "train x --lr η")
    done = rmsprop_in_shell("; ".join(f"rmsprop {line}" for line in lines), PYTHONIOENCODING=encoding, COLUMNS="80")
    for words in (
        "\n    v <- 0.99*v + 0.01*g^2\n", "s <- max(v_hat - m_hat^2, kappa*v_hat)\n", "1/(1-beta)",
        "\nstep  parameter  gradient         v  rate eta/d  change of p\n",
        "\n   1  x                10         1        0.01         -0.1\n", "Learning rate eta. ",
        "sqrt(v + eps) (TensorFlow",
    ):  # fmt: skip
        assert words in done.stdout
    assert 'unable to convert "eta" into float' in done.stderr
    assert "?" not in done.stdout + done.stderr
    assert {len(line) for line in done.stdout.splitlines() if line.startswith("| ")} == {80}


def test_a_narrow_window_folds_no_table(tmp_path: Path) -> None:
    demo = json.loads((Path(__file__).parent.parent / "docs" / "demo.json").read_text())["plain"]
    (tmp_path / "summary.json").write_text(json.dumps(demo["summary"]))
    code = """
import importlib, json, os
from rmsprop.cli import compare, terminal
table = compare.comparison_table(json.load(open("summary.json")))
for columns in ("40", "80", "120"):
    os.environ["COLUMNS"] = columns  # read where consoles are made
    importlib.reload(terminal)
    terminal.print_table(terminal.stdout, table)
"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    names = ["optimizer", *(s["optimizer"] for s in demo["summary"]["scores"])]
    assert [line.split()[0] for line in lines] == 3 * names
    widths = [lines[i : i + len(names)] for i in range(0, len(lines), len(names))]
    assert widths[0] == widths[1] == widths[2]
    assert lines[2] == "momentum    0.3         96.7 %   95.6–97.5  +2.2 [+1.5, +2.9]  better"


def test_a_closed_pipe_is_no_error() -> None:
    command = [sys.executable, "-m", "rmsprop", "recipes", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)


def rmsprop_in_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which `rmsprop` is this command, and `light` is this command without figures."""
    define = f'rmsprop() {{ "{sys.executable}" -m rmsprop "$@"; }}; light() {{ {shlex.join(LIGHT)} "$@"; }}; '
    return subprocess.run(
        define + line, shell=True, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_without_width_shows_everything(columns: str) -> None:
    done = rmsprop_in_shell("rmsprop explain --worked-example --lr 0.01; rmsprop train x", COLUMNS=columns)
    assert done.stdout.endswith("2  y              0.02  4.99e-06    4.47659   -0.0895319\n")
    assert done.stderr.startswith(f"rmsprop: task must be one of {', '.join(TASKS)} or ")
    assert (done.stderr.count("\n"), done.returncode) == (1, 2)


def test_a_closed_standard_output_is_refused_at_once(tmp_path: Path) -> None:
    done = rmsprop_in_shell(f"rmsprop train {MINE}:regression >&-")
    line = "rmsprop: standard output must be open, got a closed one; send it to /dev/null to see nothing\n"
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (2, line, [])
    done = rmsprop_in_shell(f"light train {MINE}:regression --json 2>&-")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "finished")
    assert "Traceback" not in Path("runs/train-regression/records.jsonl").read_text()


def test_a_closed_pipe_of_progress_stops_the_command() -> None:
    done = rmsprop_in_shell(f"(light train {MINE}:regression --out run; echo $? >&3) 3>status 2>&1 | head -1")
    assert (done.stdout.count("\n"), done.stderr, Path("status").read_text()) == (1, "", "141\n")
    assert run(["train", f"{MINE}:regression", "--out", "run", "--resume"]) == 0
    for line in ("rmsprop explain", "rmsprop train --help"):
        done = rmsprop_in_shell(f"({line}; echo $? >&3) 3>status | true")
        assert (done.stderr, Path("status").read_text()) == ("", "141\n")


def test_a_bar_moves_some_times_a_second_and_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[int | None, str | None]] = []
    monkeypatch.setattr(
        Progress, "update", lambda self, bar, completed, total, news=None: moves.append((completed, news))
    )
    now = iter(x / 1000 for x in range(10_000))  # a millisecond from one move to the next
    monkeypatch.setattr(terminal, "monotonic", lambda: next(now))
    with terminal.Bars(Console(file=io.StringIO(), force_terminal=True, width=100)) as bars:
        bar = bars.add_bar("training")
        for step in range(1, 1001):
            bars.update(bar, completed=step, total=1000)
            if step == 500:
                bars.update(bar, news="half")
    steps = [step for step, _ in moves if step is not None]
    assert 18 <= len(steps) <= 22
    assert (None, "half") in moves
    assert steps[-1] == 1000
    moves.clear()
    with terminal.Bars(Console(file=io.StringIO(), force_terminal=False)) as bars:
        bars.update(bars.add_bar("training"), completed=1, total=1)
    assert moves == []  # no bar is drawn


def test_json_is_ascii_where_a_terminal_has_no_greek_letters() -> None:
    done = rmsprop_in_shell("rmsprop recipes --json", PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout) == {name: each.facts() for name, each in RECIPES.items()}


NOISY = f"""
import dataclasses, os, sys
sys.path.insert(0, {str(Path(MINE).parent)!r})
import mine, torch
print("imported")
os.system("echo from another program")

def noisy():
    print("made")
    def loss(output, target):
        print("a loss")
        return torch.nn.functional.mse_loss(output, target)
    return dataclasses.replace(mine.regression(), loss=loss)

def ends():
    losses = []
    def loss(output, target):
        losses.append(1)
        if len(losses) > 6:
            sys.exit(0)
        return torch.nn.functional.mse_loss(output, target)
    return dataclasses.replace(mine.regression(), loss=loss)

def ends_at_once():
    sys.exit(0)

def ends_in_the_model():
    return dataclasses.replace(mine.regression(), model=lambda: sys.exit(0))
"""
SHORT = ["--seeds", "5", "--tuning-seeds", "1", "--epochs", "1", "--lrs", "0.1", "0.2", "0.3", "--jobs", "1"]


@pytest.mark.parametrize(
    "arguments",
    [["train", "own.py:noisy"], ["compare", "own.py:noisy", *SHORT], ["find-lr", "own.py:noisy", "--seeds", "1"]],
    ids=["train", "compare", "find-lr"],
)
def test_prints_of_a_task_go_to_standard_error_with_json(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Also those of other programs and of worker processes, which have this process' file descriptors."""
    Path("own.py").write_text(NOISY)
    assert run([*arguments, "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["task"] == "regression", shown.err
    for words in ("imported\n", "from another program\n", "made\n", "a loss\n"):
        assert words in shown.err


def test_prints_of_a_task_go_to_standard_output_without_json(capfd: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(NOISY)
    assert run(["train", "own.py:noisy", "--out", "x"]) == 0
    assert "a loss\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (
            ["train", "gone.py:make"],
            2,
            "that Python can import, got SystemExit: 0 (gone.py, line 1); correct",
        ),
        (
            ["train", "own.py:ends_at_once"],
            2,
            "that runs without arguments, got SystemExit: 0 (own.py, line 25); a",
        ),
        (["train", "own.py:ends_in_the_model"], 2, "must be able to run one batch of the validation data, got System"),
        (["train", "own.py:ends"], 1, "the task ended the program with sys.exit(0); let it raise an error, or return"),
        (
            ["compare", "own.py:ends", *SHORT],
            1,
            "the task ended a training with sys.exit(0); let it raise an error, or",
        ),
    ],
)
def test_a_task_that_calls_exit_fails(
    arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(NOISY)
    Path("gone.py").write_text("exit(0)\n")
    assert run(arguments) == status
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("rmsprop: "))
    assert words in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits", "--out", "bad\udcff"],
        ["compare", "digits", "--out", "bad\udcff"],
        ["find-lr", "digits", "--out", "bad\udcff"],
        ["train", "bad\udcff.py:make"],
    ],
)
def test_a_path_that_is_not_text_is_refused_at_once(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(arguments) == 2
    assert "rmsprop: every argument must be text in UTF-8, got 'bad\\udcff" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_text_is_escaped_in_json(tmp_path: Path) -> None:
    run_, _ = train(f"{MINE}:regression", out=tmp_path / "bad\udcff", command="rmsprop train bad\udcff")
    summary = run_.summary()
    assert summary is not None
    assert summary["command"] == "rmsprop train bad\udcff"
    assert write_report(run_).exists()


def test_control_characters_in_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train("digits", epochs=1, every=50, out=Path("run"))
    evil = "\x1b]0;gone\x07\x9b31m\u202e"
    statistics = Path("run/statistics.jsonl")
    statistics.write_text(statistics.read_text().replace('"0.weight"', json.dumps(evil)))
    for arguments in (["doctor", "run"], ["doctor", "run", "--json"]):
        assert run(arguments) == 1
        shown = capsys.readouterr().out
        assert "]0;gone" in shown
        assert not set("\x1b\x07\x9b\u202e") & set(shown)
    assert any(evil in finding["sentence"] for finding in json.loads(shown)["findings"])
    stdout.print(Text(evil))  # rich itself removes the bell
    assert capsys.readouterr().out == "\ufffd]0;gone\ufffd31m\ufffd\n"


def test_recipes_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(RECIPES) + 1]] == list(RECIPES)
    assert lines[-1] == "rmsprop explain --recipe NAME has schedule, clipping, averaging, sources and notes."
    assert run(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {name: each.facts() for name, each in RECIPES.items()}


def test_doctor_finds_a_wrong_path(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["doctor"]) == 0
    sound = capsys.readouterr().out
    assert "torch, cpu, foreach" in sound
    assert sound.endswith(f"\nAll {sound.count('ok: ')} paths agree with the rule.\n")
    from rmsprop.torch.engines import arithmetic

    right = arithmetic.step
    monkeypatch.setattr(arithmetic, "step", lambda rule, lr, *rest: right(rule, 1.03 * lr, *rest))
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert text.count("WRONG") == 9
    assert text.endswith(f"\n9 of {sound.count('ok: ')} paths are wrong.\n")


def test_doctor_prints_why_the_kernel_does_not_step_torch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmsprop.cli import installation
    from rmsprop.torch.engines import cpu_kernel

    monkeypatch.setattr(installation, "_FRAMEWORKS", {"torch": installation._FRAMEWORKS["torch"]})
    monkeypatch.setattr(cpu_kernel, "UNAVAILABLE", "torch 2.9.1 lacks …")
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "torch 2.9.1 lacks …" in told["notes"]
    assert not any("kernel" in path["path"] for path in told["paths"])


def test_doctor_continues_after_a_broken_framework(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmsprop.cli import installation

    def absent(*_: object) -> Iterator[installation.Stepped]:
        raise ModuleNotFoundError("rmsprop.jax needs JAX and optax: pip install 'rmsprop[jax]'")

    def broken(*_: object) -> Iterator[installation.Stepped]:
        raise ValueError("Unable to import\nbackend : foo")

    monkeypatch.setattr(installation, "_FRAMEWORKS", {"jax": absent, "numpy": installation._FRAMEWORKS["numpy"]})
    assert run(["doctor"]) == 0
    assert "rmsprop.jax was not tried: rmsprop.jax needs JAX" in capsys.readouterr().out
    monkeypatch.setitem(installation._FRAMEWORKS, "keras", broken)
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "rmsprop.keras failed: ValueError: Unable to import backend : foo" in text
    assert "ok: 0 ulp" in text


def test_a_misspelt_task_is_refused_before_torch_is_imported() -> None:
    code = """
import sys
from rmsprop.cli.app import run
for words in (["train"], ["compare", "digits"], ["find-lr"], ["tune"]):
    assert run([*words, "digit"]) == 2
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr.count("got 'digit'; did you mean digits?") == 4


def test_help_lists_every_command_shows_examples_and_loads_no_framework() -> None:
    files = {path.stem for path in Path(app.__file__).parent.glob("*.py")}
    shared = {"__init__", "app", "common", "help_text", "installation", "rule_options", "terminal", "unknown_option"}
    shared |= {"record_files", "script", "spawned_main"}
    assert files - shared == set(app.COMMANDS)
    code = f"""
import sys
from rmsprop.cli import app
from rmsprop.cli.app import run
for words in [[], *([name.replace("_", "-")] for name in {app.COMMANDS})]:
    assert run([*words, "--help"]) == 0
    print("next")
print("torch" in sys.modules)
"""
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *helps, last = text.split("next\n")
    assert last == "False\n"
    for name, shown in zip(app.COMMANDS, helps[1:], strict=True):
        assert f" {name.replace('_', '-')} " in helps[0]
        assert re.search(rf"Try:\n  rmsprop {name.replace('_', '-')}\b", shown), name


@pytest.mark.parametrize("command", ["train", "compare", "tune", "find-lr"])
def test_help_fills_its_lines(command: str) -> None:
    """A line of a description ends where the next word does not fit, not where the docstring's line does."""
    words = ["rmsprop", command, "--help"]
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"}
    )
    lines = done.stdout.splitlines()
    options = [
        line[2:-2] for line in lines[lines.index(next(x for x in lines if "─ Parameters" in x)) :] if "│" in line
    ]
    start = min(len(m[0]) for line in options if (m := re.match(r"--\S+( [A-Z.]+)? +(?=\S)", line)))
    texts = [(bool(line[:start].strip()), line[start:].rstrip()) for line in options]
    width = max(len(text) for _, text in texts)
    short = [
        text
        for (_, text), (begins, after) in itertools.pairwise(texts)
        if not begins and after and not text.endswith("]") and len(text) + 1 + len(after.split()[0]) < width
    ]
    assert short == []


def test_random_data_are_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("width = 3\n")
    (tmp_path / "own.py").write_text(
        Path(MINE).read_text()
        + "\n\ndef late():\n    from neighbour import width\n    assert width == 3\n    return random_data()\n"
    )
    assert run(["train", "own.py:late", "--out", "here"]) == 0
    process = command("train", "own.py:late", "--out", "there")
    done = process.finish()
    assert done.returncode == 0, done
    assert same(weights("here"), weights("there"))


# -- interrupting and resuming ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits() -> None:
    arguments = ["train", f"{MINE}:slow", "--every", "7"]
    assert run([*arguments, "--out", "whole"]) == 0
    process = command(*arguments, "--out", "cut")
    wait_for_checkpoint(Path("cut"), process)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.finish()
    assert RunDirectory(Path("cut")).summary() is None
    assert run(["report", "cut"]) == 0  # an unfinished run has a report, too
    assert run(["doctor", "cut"]) in (0, 1)
    assert run([*arguments, "--out", "cut", "--resume"]) == 0
    assert same(weights("whole"), weights("cut"))
    untimed = ("seconds", "step_us", "optimizer_us")
    a, b = (
        [{k: v for k, v in r.items() if k not in untimed} for r in RunDirectory(Path(name)).records()]
        for name in ("whole", "cut")
    )
    assert a == b
    assert Path("whole/statistics.jsonl").read_bytes() == Path("cut/statistics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_prints_the_command_that_resumes_it(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    process = command("train", f"{MINE}:slow", "--out", "cut", "--epochs", "20")
    wait_for_checkpoint(Path("cut"), process)
    os.kill(process.pid, number)
    done = process.finish()
    assert done.returncode == 130
    last = done.stderr.splitlines()[-1]
    assert last.startswith("rmsprop: stopped after step ")
    assert "Traceback" not in done.stderr
    words = last.partition("go on with: rmsprop ")[2].split()
    assert words == ["train", f"{MINE}:slow", "--out", "cut", "--epochs", "20", "--resume"]
    assert run(words) == 0
    assert run(["train", f"{MINE}:slow", "--out", "whole", "--epochs", "20"]) == 0
    assert same(weights("whole"), weights("cut"))
    assert Path("whole/statistics.jsonl").read_bytes() == Path("cut/statistics.jsonl").read_bytes()


def processes_below(pid: int) -> set[int]:
    """Return the descendants of process `pid`, read from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = set(), [pid]
    while todo:
        todo = [child for parent in todo for child in children.get(parent, [])]
        found.update(todo)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_comparison_resumes_without_repeating_trainings(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "compare",
        f"{MINE}:slow",
        "--epochs",
        "1",
        "--seeds",
        "5",
        "--lrs",
        "0.01",
        "0.1",
        "1",
        "--jobs",
        "2" if number == signal.SIGINT else "1",
        "--out",
        "cut",
    ]
    process = command(*arguments)
    deadline = time.monotonic() + 600  # only a command that hangs takes so long
    while not (Path("cut/records.jsonl").exists() and len(Path("cut/records.jsonl").read_text().splitlines()) > 3):
        assert process.poll() is None, process.finish()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = processes_below(process.pid)
    os.kill(process.pid, number)
    if number == signal.SIGINT:
        for worker in workers:  # a terminal signals the whole process group
            os.kill(worker, number)
    done = process.finish()
    if number != signal.SIGKILL:
        assert done.returncode == 130
        assert "Traceback" not in done.stderr
        assert "of 36 trainings of this stage; go on with: rmsprop compare" in done.stderr
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # no worker outlives the command
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = RunDirectory(Path("cut")).records()
    lighter.without_workers(monkeypatch)
    assert run([*arguments, "--resume"]) == 0
    after = RunDirectory(Path("cut")).records()
    assert after[: len(before)] == before
    rates = {r["lr"] for r in after}
    assert {0.01, 0.1, 1.0} < rates  # and those of the wider grid
    assert len(after) == 6 * (2 * len(rates) + 5)
    identities = [(r["stage"], r["optimizer"], r["lr"], r["seed"]) for r in after]
    assert len(set(identities)) == len(identities)


# -- bad input --------------------------------------------------------------------------------------------------------

BAD: list[tuple[list[str], str]] = [
    (["train", "digit"], f"task must be one of {', '.join(TASKS)} or path/to/file.py:function, got 'digit'"),
    (["train", "x.py:make"], "the task's file must be a readable Python file, got x.py: No such file or directory"),
    (["train", "folder.py:make"], "the task's file must be a readable Python file, got folder.py: Is a directory"),
    (["train", "syntax.py:make"], "the task's file syntax.py must be one that Python can import, got SyntaxError"),
    (["train", "raises.py:make"], "the task's file raises.py must be one that Python can import, got ZeroDivision"),
    (["train", f"{MINE}:absent"], "must be one that the file defines, got 'absent'; it defines regression, slow,"),
    (["train", f"{MINE}:NOT_A_FUNCTION"], "must be one that the file defines, got 'NOT_A_FUNCTION'"),
    (["train", f"{MINE}:nothing"], "mine.py:nothing returns must be a rmsprop.lab.Task, got None; a task"),
    (["train", f"{MINE}:needs_arguments"], "must be a function that runs without arguments, got TypeError:"),
    (["train", f"{MINE}:breaks"], "got FileNotFoundError: no data in /nowhere"),
    (["train", f"{MINE}:wrong_shape"], "task regression must be able to run one batch of the validation data, got"),
    (
        ["train", f"{MINE}:lone_last"],
        "task regression must be able to run one batch of the last training data, 1 of 100, got ValueError: Expected "
        "more than 1 value per channel when training, got input size torch.Size([1, 4]); try it in Python on one "
        "batch, or use another batch size: the last batch has 1 of 33 examples",
    ),
    (["train", f"{MINE}:lone_last", "--batch-size", "99"], "of the last training data, 1 of 100, got ValueError:"),
    (["find-lr", f"{MINE}:lone_last", "--batch-size", "99"], "of the last training data, 1 of 100, got ValueError:"),
    (["train", f"{MINE}:module_not_function"], "Task.model must be a function, got a Linear; pass lambda: Model()"),
    (["train", f"{MINE}:empty"], "Task.train must be a torch Dataset or DataLoader with a length, got an empty one"),
    (["train", f"{MINE}:list_of_losses"], "Task.loss() must be a one-element Tensor with a gradient, got a Tensor"),
    (["train", f"{MINE}:metric_of_words"], "Task.metric() must be one number, got a str; return its mean"),
    (["train", f"{MINE}:one_model_for_all"], "Task.model() must be a new model at every call, got the same; build it"),
    (["train", f"{MINE}:no_parameters"], "Task.model() must be a model with parameters to train, got a Flatten"),
    (["compare", f"{MINE}:without_test"], "Task.test must be a torch Dataset for a comparison, got None; hold some"),
    (["train", "digits", "--lr", "-1"], "lr must be a finite number >= 0, got -1.0; 1e-4 to 1e-2 is usual"),
    (["train", "digits", "--lr", "nan"], "lr must be a finite number >= 0, got nan; 1e-4 to 1e-2 is usual"),
    (["train", "digits", "--decay", "1"], "decay must be a number in [0, 1), got 1.0; 0.9 averages"),
    (["train", "digits", "--eps", "inf"], "eps must be a finite number >= 0, got inf; 1e-8 is usual"),
    (["train", "digits", "--nesterov"], "momentum must be > 0 with nesterov=True, got 0.0; set momentum"),
    (["train", "digits", "--epochs", "0"], "--epochs must be a whole number >= 1, got 0; omit it"),
    (["train", "digits", "--batch-size", "-4"], "--batch-size must be a whole number >= 1, got -4; omit it"),
    (["train", "digits", "--seed", "9" * 20], "--seed must be a whole number from 0 to 2147483647, got 999999"),
    (["train", "digits", "--seed", "-1"], "--seed must be a whole number >= 0, got -1"),
    (["train", "digits", "--every", "-1"], "--every must be a whole number >= 0, got -1; omit it for a tenth"),
    (["train", "digits", "--schedule", "step"], "--schedule"),
    (["train", "digits", "--lr", "fast"], '--lr: unable to convert "fast" into float; see rmsprop --help'),
    (["train", "digits", "--learning-rate", "1"], "unknown option --learning-rate: it is called --lr here"),
    (["train", "digits", "--optimizer", "adam"], "to compare it with others: rmsprop compare TASK --optimizers Adam"),
    (["train", "digits", "--devic", "cpu"], "Unknown option: --devic. Did you mean --device?"),
    (["train", "digits", "--device", "tpu"], "--device must be auto or one of cpu"),
    (["train"], "requires an argument"),
    (["trian"], 'Unknown command "trian"'),
    (["train", "digits", "--resume"], "--resume must be given for a run that was begun, got runs/train-digits, where"),
    (["train", "digits", "--out", "a-file"], "--out must be a directory, or a path that does not exist, got 'a-file'"),
    (["train", "digits", "--out", "folder.py"], "--out must be a new or empty directory, got folder.py, which holds"),
    (["compare", "digits", "--seeds", "3"], "--seeds must be a whole number >= 5, got 3; fewer say too little"),
    (["compare", "digits", "--tuning-seeds", "0"], "--tuning-seeds must be a whole number >= 1, got 0"),
    (["compare", "digits", "--lr", "0.01"], "--lr must be omitted, got 0.01; compare picks the rate of every"),
    (["compare", "digits", "--jobs", "0"], "--jobs must be a whole number >= 1, got 0"),
    (["compare", "digits", "--lrs", "1"], "--lrs must be at least 3 different rates, got [1.0]; give a"),
    (["compare", "digits", "--lrs"], "--lrs must be at least 3 different rates, got []; give a wider grid"),
    (["compare", "digits", "--maximize"], "--maximize must be omitted, got True; return minus the quantity to"),
    (["compare", "digits", "--lrs", "1", "2", "nan"], "--lrs must be a finite number >= 0, got nan"),
    (["doctor", "nowhere"], "the run must be a directory that rmsprop wrote, got nowhere, which has no run.json"),
    (["report", "nowhere"], "the run must be a directory that rmsprop wrote, got nowhere, which has no run.json"),
    (["explain", "--momentum", "0.9", "--worked-example"], "momentum must be 0 in the worked example, got 0.9; omit"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_gets_one_line_and_changes_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "folder.py" / "mine.txt").write_text("kept")
    (tmp_path / "a-file").write_text("kept")
    (tmp_path / "syntax.py").write_text("def make():\n  return (\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    before = sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in str(p))
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.startswith("rmsprop: ")
    assert shown.err.count("\n") == 1
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in str(p)) == before


def test_a_directory_of_another_run_is_refused_with_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{MINE}:regression", "--out", "run"]) == 0
    before = {p: p.read_bytes() for p in Path("run").iterdir()}
    capsys.readouterr()
    for extra in ([], ["--resume"]):
        assert run(["train", f"{MINE}:regression", "--out", "run", "--lr", "0.5", *extra]) == 2
        assert (
            "rmsprop: the run in run must be the one asked for (rule {'lr': 0.01}), got rule {'lr': 0.5}; choose"
            in capsys.readouterr().err
        )
    assert run(["train", f"{MINE}:regression", "--out", "run"]) == 2
    assert (
        "the run must be one that is not finished, got run; see it with: rmsprop report run" in capsys.readouterr().err
    )
    assert {p: p.read_bytes() for p in Path("run").iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", f"{MINE}:regression"],
        ["train", f"{MINE}:regression", "--resume"],
        ["compare", f"{MINE}:regression"],
        ["compare", f"{MINE}:regression", "--resume"],
        ["find-lr", "digits"],
    ],
)
def test_a_locked_directory_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with locked(Path("run")):
        assert run([*arguments, "--out", "run"]) == 2
        shown = capsys.readouterr()
        assert shown.err == (
            "rmsprop: the directory of a run must be one in which no other process works, got run, where process "
            f"{os.getpid()} on {platform.node()} is running; wait until it has ended, or choose another --out\n"
        )
        assert [p.name for p in Path("run").iterdir()] == [".lock"]


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    "arguments", [["train", "own.py:make"], ["compare", "own.py:make", *SHORT]], ids=["train", "compare"]
)
def test_a_changed_task_is_refused_unless_changes_are_accepted(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own, nearby = tmp_path / "own.py", tmp_path / f"nearby_{arguments[0]}.py"
    nearby.write_text("import torch\n\ndef act(x):\n    return torch.tanh(x)\n")
    text = Path(MINE).read_text()
    text += f"\n\ndef make():\n    from {nearby.stem} import act  # late\n    return regression()\n"
    own.write_text(text)
    arguments = [*arguments, "--out", "run"]
    assert run([*arguments, "--accept-changes"]) == 2
    assert "--accept-changes must be given with --resume, got none; a new run takes any" in capsys.readouterr().err
    assert run(arguments) == 0
    (tmp_path / "run" / "summary.json").unlink()  # as if interrupted at the end
    config = Path("run/run.json").read_text()
    own.write_text(text.replace("# late", "# later, in other words"))
    assert run([*arguments, "--resume"]) == 0
    (tmp_path / "run" / "summary.json").unlink()
    assert Path("run/run.json").read_text() == config
    nearby.write_text(nearby.read_text().replace("tanh", "relu"))
    capsys.readouterr()
    assert run([*arguments, "--resume"]) == 2
    changed = f"act in {nearby.stem} has changed"
    assert capsys.readouterr().err == (
        f"rmsprop: the task of the run in run must be the one that it began with, got another one: {changed}; "
        "add --accept-changes to go on with it, or choose another --out for a new run\n"
    )
    assert Path("run/run.json").read_text() == config
    assert run([*arguments, "--resume", "--accept-changes"]) == 0
    assert json.loads(Path("run/run.json").read_text())["accepted_changes"] == [changed]
    assert changed in Path("run/report.html").read_text()
    (tmp_path / "run" / "summary.json").unlink()
    assert run([*arguments, "--resume"]) == 0  # nothing has changed since


def test_a_damaged_checkpoint_is_named_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{MINE}:regression", "--out", "run"]) == 0
    Path("run/summary.json").unlink()
    checkpoint = Path("run/checkpoint.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    records = Path("run/records.jsonl").read_bytes()
    capsys.readouterr()
    assert run(["train", f"{MINE}:regression", "--out", "run", "--resume"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(
        "rmsprop: run/checkpoint.pt must be an undamaged checkpoint of this run, got one that fails"
    )
    assert shown.count("\n") == 1
    assert Path("run/records.jsonl").read_bytes() == records
    assert checkpoint.stat().st_size == 1000


def test_a_full_disk_gives_one_line_and_keeps_the_last_checkpoint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["train", f"{MINE}:regression", "--out", "run"]) == 0
    Path("run/summary.json").unlink()
    before = Path("run/checkpoint.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run(["train", f"{MINE}:regression", "--out", "run", "--resume"]) == 1
        assert run(["train", f"{MINE}:regression", "--out", "new"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("rmsprop: ")] == [
        "rmsprop: run/records.jsonl: No space left on device; existing files are unchanged",
        "rmsprop: new/run.json: No space left on device; existing files are unchanged",
    ]
    assert Path("run/checkpoint.pt").read_bytes() == before
    assert not [p for p in Path("run").iterdir() if p.name.endswith(".tmp")]
    assert run(["train", f"{MINE}:regression", "--out", "run", "--resume"]) == 0


def test_a_disk_full_at_the_end_still_prints_the_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: RunDirectory) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.path / "report.html"))

    monkeypatch.setattr("rmsprop.lab.report.page.write_report", full)
    assert run(["train", f"{MINE}:regression", "--out", "run"]) == 1
    shown = capsys.readouterr()
    assert "After 3 epochs (12 steps) on the validation data: error " in shown.out
    assert "report:" not in shown.out
    assert "rmsprop: run/report.html: No space left on device" in shown.err
    assert run(["train", f"{MINE}:regression", "--out", "other", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["report"] is None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that not even root can write to")
def test_a_directory_that_cannot_be_written_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{MINE}:regression", "--out", "/proc/self/run"]) == 1
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rmsprop:")]
    assert shown == ["rmsprop: /proc/self/run: No such file or directory; existing files are unchanged"]


def test_a_diverged_training_fails_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"{MINE}:regression", "--lr", "1e30", "--decay", "0"]) == 1
    shown = capsys.readouterr().out
    assert "The loss stopped being finite at step" in shown
    (began,) = re.findall(r"^It began at step \d+ in .*", shown, re.MULTILINE)
    assert began in Path("runs/train-regression/report.html").read_text()
    assert run(["doctor", "runs/train-regression"]) == 1
    assert began in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_install_command() -> None:
    hide = (
        "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]: raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    command = "import rmsprop.__main__ as m; sys.exit(m.main())"
    train = "from rmsprop.cli.app import run; sys.exit(run(['train', 'digits']))"
    for name, use, line in (
        ("cyclopts", command, "rmsprop: the command line needs cyclopts: pip install 'rmsprop[lab]'"),
        ("torch", train, "rmsprop: rmsprop.lab needs torch: pip install 'rmsprop[lab]'"),
        ("sklearn", train, "rmsprop: rmsprop.lab needs sklearn: pip install 'rmsprop[lab]'"),
        (
            "torch",
            "import rmsprop.torch",
            "ModuleNotFoundError: rmsprop.torch needs PyTorch: pip install 'rmsprop[torch]'",
        ),
    ):
        done = subprocess.run([sys.executable, "-c", hide + use, name], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == line
