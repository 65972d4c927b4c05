"""`rmsprop run`: a script behaves as under Python itself, with this RMSprop, and its optimizers are watched."""

from __future__ import annotations

import copy
import gc
import json
import math
import re
import signal
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from test_state_sources import rmsprop_tf
from torch import nn

from rmsprop import InputError
from rmsprop.cli import app
from rmsprop.cli.run import separated
from rmsprop.monitor import Monitor
from rmsprop.monitor.watch import Watch
from rmsprop.torch import RMSprop, release_gradients

TRAIN = """
import sys
import torch
from torch import nn

if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.DataParallel(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1)))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001, eps=1.0)
    for step in range(120):
        optimizer.zero_grad()
        loss = model(torch.randn(32, 10)).square().mean()
        loss.backward()
        optimizer.step()
        if "slow" in sys.argv:
            print(step, flush=True)
            import time; time.sleep(0.02)
    print(sys.argv[1:], __name__, __file__, sys.path[0], sys.stdin.read(), round(float(loss.detach()), 5))
"""
ENDS = {
    "an error": "def f():\n    raise ValueError('no')\nf()",
    "a message": "import sys\nsys.exit('a message')",
    "a status below 0": "import sys\nsys.exit(-1)",
    "a terminated worker": "import multiprocessing, time\nc = multiprocessing.get_context('fork')\n"
    "p = c.Process(target=time.sleep, args=(60,))\np.start()\ntime.sleep(0.2)\np.terminate()\np.join()\n"
    "print(p.exitcode)",
    "a status": "import sys, warnings\nwarnings.warn('careful')\nsys.exit(3)",
    "a syntax error": "def f(:",
    "Ctrl-C": "raise KeyboardInterrupt",
    "annotations": "def f(x: int): pass\nprint(f.__annotations__, type(__loader__), __cached__)",
    "a handler that calls the one before": "import os, signal\nbefore = signal.getsignal(signal.SIGTERM)\n"
    "signal.signal(signal.SIGTERM, lambda *a: before(*a) if callable(before) else None)\n"
    "os.kill(os.getpid(), signal.SIGTERM)\nprint('saved')",
    "a hook that ends it": "import sys\nsys.excepthook = lambda *_: sys.exit(3)\nraise ValueError(sys)",
    "a hook that fails": "import sys\nsys.excepthook = lambda *_: 1 / 0\nraise ValueError('no')",
    "closed streams": "import sys\nsys.stdout.close()\nsys.stderr.close()",
    "no streams": "import sys\nsys.stdout = sys.stderr = None",
    "its own streams": "import sys\nprint(sys.stdout.errors, sys.stderr.errors)\nsys.stdout.buffer.write(b'~')",
}
NONE = "rmsprop: this process created no RMSprop, so nothing was watched"
SPAWNS = """
import multiprocessing
import torch

class Made:
    def __init__(self):
        self.module = type(torch.optim.RMSprop([torch.ones(2)])).__mro__[1].__module__

def made(_):
    return Made()

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(made, (0,)).module)
"""


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **options)


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return python("-m", "rmsprop", "run", *words, **options)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_script_trains_with_this_rmsprop_and_is_watched() -> None:
    Path("sub").mkdir()
    Path("sub/train.py").write_text(TRAIN)
    plain = python("sub/train.py", "--out", "x", "--json", input="typed")
    done = run("--every", "20", "sub/train.py", "--out", "x", "--json", input="typed")
    assert done.returncode == plain.returncode == 0
    assert done.stdout.rsplit(" ", 1)[0] == plain.stdout.rsplit(" ", 1)[0]
    assert float(done.stdout.split()[-1]) == pytest.approx(float(plain.stdout.split()[-1]), rel=1e-3)
    first, *said = done.stderr.splitlines()
    assert first == "rmsprop: this package's RMSprop replaces torch.optim.RMSprop"
    assert said[0] == "rmsprop: RMSprop (runs/run-train/statistics.jsonl): 1 finding in 7 measured steps (1 to 120)."
    assert said[1].startswith(
        "Step 120: ε governs 100 % of the elements of 0.weight"
    )  # without the wrapper's "module."
    records = records_in(Path("runs/run-train/statistics.jsonl"))
    assert [record["step"] for record in records] == [1, 20, 40, 60, 80, 100, 120]


@pytest.mark.parametrize("name", ENDS)
def test_a_script_ends_as_under_python(name: str) -> None:
    Path("script.py").write_text(ENDS[name])
    plain, done = python("script.py"), run("script.py")
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
    said = "rmsprop: this package's RMSprop replaces torch.optim.RMSprop\n", f"{NONE}\n"
    assert done.stderr.removeprefix(said[0]).removesuffix(said[1]) == plain.stderr


@pytest.mark.parametrize("words", [["script.py"], ["-m", "package.script"]])
def test_processes_that_a_script_spawns_have_this_rmsprop(words: list[str]) -> None:
    Path("package").mkdir()
    Path("package/__init__.py").write_text("from torch.optim import RMSprop\nassert 'rmsprop' in RMSprop.__module__\n")
    for path in ("script.py", "package/script.py"):
        Path(path).write_text(SPAWNS)
    done = run(*words)
    assert done.stdout == "rmsprop.torch.optimizer\n", done.stderr
    assert done.stderr.splitlines() == [
        "rmsprop: this package's RMSprop replaces torch.optim.RMSprop",
        NONE,
    ]


# Shells start background jobs, in which tests may run, without SIGINT.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
MAIN = f"{HEARS_CTRL_C}; import sys; from rmsprop.__main__ import main; sys.exit(main())"


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_script_after_what_was_found_is_said(number: signal.Signals) -> None:
    Path("train.py").write_text(TRAIN)
    command = [sys.executable, "-c", MAIN, "run", "train.py", "slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "60\n":
            assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == -number
    assert "rmsprop: RMSprop (runs/run-train/statistics.jsonl): 1 finding in 2 measured steps (1 to 50)." in error
    assert error.count("Traceback") == (number == signal.SIGINT)
    assert "cli/script.py" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.py"], "SCRIPT must be a file, got 'no.py'; options of rmsprop run come before the script"),
        (["-m", "no.such"], "-m must be the name of a module, got 'no.such'; check the name, and the directory"),
        (["--profile", "tf7", "s.py"], "--profile must be one of torch, tf1, .*, got 'tf7'"),
        (["--every", "0", "s.py"], "--every must be 1 or more, got 0; 50 measures one step in fifty"),
        (["--out", "full", "s.py"], "--out must be a new or empty directory, got 'full'; choose another --out"),
        (["--nonfinite", "maybe", "s.py"], "maybe"),
    ],
)
def test_what_cannot_be_run_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.py").touch()
    Path("full").mkdir()
    Path("full/file").touch()
    assert app.run(["run", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert torch.optim.RMSprop.__module__ == "torch.optim.rmsprop"


def test_dry_run_says_what_would_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.py").write_text("raise ValueError")
    assert app.run(["run", "--dry-run", "--profile", "sb3", "--no-fused", "s.py"]) == 0
    assert capsys.readouterr().out == (
        "rmsprop would replace torch.optim.RMSprop, with eps_inside_sqrt=True, initial_square_avg=1.0, fused=False\n"
    )
    assert torch.optim.RMSprop.__module__ == "torch.optim.rmsprop"


def test_classes_of_timm_and_stable_baselines3_are_replaced_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.py").touch()
    factory = ModuleType("timm.optim._optim_factory")  # timm itself needs torchvision
    factory.default_registry = SimpleNamespace(_optimizers={})  # type: ignore[attr-defined]
    with rmsprop_tf("timm"), rmsprop_tf("sb3"), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, factory.__name__, factory)
        assert app.run(["run", "--dry-run", "--timm", "--sb3", "s.py"]) == 0
    assert capsys.readouterr().out == (
        "rmsprop would replace torch.optim.RMSprop, timm.optim.RMSpropTF, stable_baselines3's RMSpropTFLike\n"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run s.py --out x", "run -- s.py --out x"),
        ("run --out y --fused s.py -m", "run --out y --fused -- s.py -m"),
        ("run -m pkg --out x", "run -m -- pkg --out x"),
        ("run --module pkg --out x", "run --module -- pkg --out x"),
        ("run --out=y s.py", "run --out=y -- s.py"),
        ("run --no-watch -- s.py -- x", "run --no-watch -- s.py -- x"),
        ("run --help", "run --help"),
    ],
)
def test_what_follows_the_script_is_its_own(line: str, expected: str) -> None:
    assert separated(line.split()) == expected.split()


# -- watching ---------------------------------------------------------------------------------------------------------


def steps(optimizer: Any, model: nn.Module, count: int = 3, step: Any = None) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        (step or optimizer.step)()


def recorded(watch: Watch) -> list[list[dict[str, Any]]]:
    """Return the records in the file of each optimizer."""
    files = [each.path for each in watch.watched if each.path is not None]
    return [records_in(path) for path in files]


def records_in(path: Path) -> list[dict[str, Any]]:
    """Return the measured steps in a file, which may end with findings."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record["kind"] == "statistics"]


def test_a_monitor_of_the_programs_own_takes_the_place() -> None:
    with Watch(lambda: Path("runs"), every=1) as watch:
        model = nn.Linear(2, 1)
        optimizer = RMSprop(model.parameters())
        steps(optimizer, model)
        own = Monitor(optimizer, model, every=1)
        steps(optimizer, model)
    assert [record["step"] for record in recorded(watch)[0]] == [1, 2, 3]
    assert [record["step"] for record in own.records] == [4, 5, 6]


def test_compiled_steps_and_released_gradients_go_on_without() -> None:
    with Watch(lambda: Path("runs"), every=1) as watch:
        model = nn.Linear(2, 1)
        optimizer = RMSprop(model.parameters())
        steps(optimizer, model)
        steps(optimizer, model, step=torch.compile(optimizer.step, backend="eager"))
        other = RMSprop(model.parameters())
        with release_gradients(other):
            model(torch.ones(4, 2)).square().mean().backward()
    assert [(each.count, each.path) for each in watch.watched] == [
        (3, Path("runs/statistics.jsonl")),
        (0, Path("runs/statistics-2.jsonl")),
    ]


class Trainer:
    """A model and its optimizer, which may be in a cycle."""

    def __init__(self, *, cycle: bool) -> None:
        self.model = nn.Linear(2, 1)
        self.optimizer = RMSprop(self.model.parameters(), lr=1e-3)
        if cycle:
            self.optimizer.zero_grad = partial(RMSprop.zero_grad, self.optimizer)  # type: ignore[method-assign]


@pytest.mark.parametrize("cycle", [False, True])
def test_an_optimizer_dies_with_its_program_s_last_reference_and_is_known_at_the_end(cycle: bool) -> None:
    """Without a cycle at once, as without a monitor: the garbage collector may come late for tensors."""
    with Watch(lambda: Path("runs"), every=1) as watch:
        trainer = Trainer(cycle=cycle)
        steps(trainer.optimizer, trainer.model)
        trainer.model.bias.grad = torch.full((1,), math.nan)
        trainer.optimizer.step()
        optimizer, weight = weakref.ref(trainer.optimizer), weakref.ref(trainer.model.weight)
        del trainer
        if cycle:
            assert optimizer() is not None
            gc.collect()
        assert optimizer() is None
        assert weight() is None
        (only,) = watch.watched
        assert (only.count, [record["step"] for record in only.records]) == (4, [1, 4])
    assert only.findings[0].kind == "nonfinite"
    assert only.post_mortem is not None
    assert only.post_mortem.tensors == ("bias",)


def test_a_model_may_die_before_its_optimizer_and_a_state_may_be_loaded() -> None:
    with Watch(lambda: Path("runs"), every=1) as watch:
        model = nn.Linear(2, 1)
        optimizer = RMSprop([model.weight])
        torch.utils.swap_tensors(model.bias, nn.Parameter(torch.ones(1)))  # type: ignore[no-untyped-call]
        steps(optimizer, model)
        state = copy.deepcopy(optimizer.state_dict())
        dead = weakref.ref(model)
        steps(optimizer, model)
        weight = model.weight
        del model
        assert dead() is None
        optimizer.load_state_dict(state)
        weight.grad = torch.ones(1, 2)
        optimizer.step()
    assert [record["step"] for record in recorded(watch)[0]] == [1, 2, 3, 4, 5, 6, 4]
    assert list(recorded(watch)[0][-1]["tensors"]) == ["weight"]


def test_a_directory_that_cannot_be_written_is_said_and_the_program_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    with Watch(lambda: Path("file"), every=1) as watch:
        model = nn.Linear(2, 1)
        steps(RMSprop(model.parameters()), model)
    assert "statistics are not written" in capsys.readouterr().err
    assert watch.watched[0].count == 3


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of Unix")
@pytest.mark.parametrize(("room", "written"), [(100, 0), (2000, 1)])
def test_a_full_disk_is_said_once_and_the_program_goes_on(
    room: int, written: int, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = nn.Linear(2, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with Watch(lambda: Path("runs"), every=1) as watch:
            steps(RMSprop(model.parameters()), model, count=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err == (
        f"rmsprop: runs/statistics.jsonl: File too large; statistics end before step {written + 1}\n"
    )
    assert watch.watched[0].count == 4
    assert Path("runs/statistics.jsonl").read_text().count("\n") == written


def test_nothing_is_watched_after_the_context() -> None:
    with Watch(lambda: Path("runs"), every=1):
        pass
    optimizer = RMSprop(nn.Linear(2, 1).parameters())
    assert optimizer.step_state.observer is None
    with pytest.raises(InputError):
        Monitor(optimizer, nn.Linear(2, 1))


def test_modules_that_are_not_complete_and_forked_processes_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Incomplete(nn.Module):
        def __init__(self) -> None:
            pass

    kept = Incomplete()
    with Watch(lambda: Path("runs"), every=1) as watch:
        model = nn.Linear(2, 1)
        steps(RMSprop(model.parameters()), model)
        monkeypatch.setattr("os.getpid", lambda: -1)
        RMSprop(model.parameters())
    assert kept is not None
    assert [list(records[0]["tensors"]) for records in recorded(watch)] == [["weight", "bias"]]
