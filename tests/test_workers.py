"""Worker processes that are killed, run out of memory, or exit by themselves."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rmsprop.cli.app import run
from rmsprop.lab import comparison as compare_
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.workers import WorkerLost, Workers, _cause

MINE = str(Path(__file__).with_name("mine.py"))
Job = tuple[str, Path | None, int]  # what to do once, the file that marks it as done, the result


def do(job: Job) -> tuple[int, int]:
    """Do what the job does once; return its number and this process."""
    what, once, number = job
    if once is not None and not once.exists():
        once.touch()
        if what == "allocate":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        if what == "exit":
            sys.exit(0)
        os.kill(os.getpid(), getattr(signal, what))
    return number, os.getpid()


def results(workers: Workers, jobs: list[Job]) -> list[int]:
    return sorted(number for number, _ in workers.results(do, jobs, check=lambda: None))


def threads(_: int) -> int:
    return torch.get_num_threads()


def test_a_worker_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # a new process reads it
    with Workers(1) as workers:
        assert list(workers.results(threads, [0], check=lambda: None)) == [1]


def test_where_one_is_killed_half_as_many_go_on(tmp_path: Path) -> None:
    words = "a worker process was killed by SIGKILL; this happens when memory runs out: going on with 1 of 2 workers"
    jobs = [("SIGKILL", tmp_path / "once" if i == 2 else None, i) for i in range(5)]
    with Workers(2) as workers:
        with pytest.warns(UserWarning, match=f"^{words}$"):
            assert results(workers, jobs) == [0, 1, 2, 3, 4]
        assert workers.count == 1
        after = list(workers.results(do, [("", None, i) for i in range(3)], check=lambda: None))
        assert len({process for _, process in after}) == 1


def test_each_time_half_of_them_go_on() -> None:
    workers = Workers(11)
    for fewer, count in ((5, 11), (2, 5), (1, 2)):
        with pytest.warns(UserWarning, match=f"killed: going on with {fewer} of {count} workers"):
            workers._fewer("killed", True)
    with pytest.raises(WorkerLost, match="killed; it was the only one"):
        workers._fewer("killed", True)


def test_an_interrupted_pool_ends_its_thread() -> None:
    """Python's own end, while that thread ends, fails with "Bad file descriptor"."""

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        list(workers.results(time.sleep, [600, 600, 600], check))
    assert not [t for t in threading.enumerate() if "ExecutorManager" in type(t).__name__]


def test_where_fewer_would_not_help_the_cause_is_said(tmp_path: Path) -> None:
    with Workers(1) as workers:
        with pytest.raises(
            WorkerLost, match=r"the task ended a training with sys.exit\(0\)"
        ):  # not an exit of this process
            results(workers, [("exit", tmp_path / "exit", 0)])
        with pytest.raises(AttributeError, match="NO_SUCH_SIGNAL"):
            results(workers, [("NO_SUCH_SIGNAL", tmp_path / "error", 0)])
        with pytest.raises(WorkerLost, match="could not allocate memory; it was the only one, so memory may not"):
            results(workers, [("allocate", tmp_path / "allocate", 0)])


@pytest.mark.parametrize(
    ("codes", "words", "memory"),
    [
        ([-15, -9, None], "killed by SIGKILL", True),
        ([-15, -11], "was killed by SIGSEGV", False),
        ([0, 3, -15], "ended with exit status 3", False),
        ([-15, None], "was killed by SIGTERM", False),
    ],
)
def test_exit_codes_say_how_a_worker_ended(codes: list[int | None], words: str, memory: bool) -> None:
    cause, as_for_memory = _cause([SimpleNamespace(exitcode=code) for code in codes])  # type: ignore[misc]
    assert words in cause
    assert as_for_memory is memory


def test_compare_says_in_one_line_that_its_only_worker_was_killed_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    monkeypatch.setattr(compare_, "USUAL_OPTIMIZERS", ("RMSprop", "SGD"))
    command = ["compare", f"{MINE}:killed_once", "--lrs", "0.3", "0.03", "0.003", "--tuning-seeds", "1", "--seeds", "5"]
    command += ["--epochs", "1", "--jobs", "1", "--out", str(tmp_path / "run")]
    assert run(command) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "rmsprop: a worker process was killed by SIGKILL; this happens when memory runs out; it was "
    )
    assert last.endswith("; go on with: " + shlex.join(["rmsprop", *command, "--resume"]))
    before = RunDirectory(tmp_path / "run").records()
    assert len(before) == 4
    resumed, summary = compare_.compare(
        f"{MINE}:killed_once", learning_rates=(0.3, 0.03, 0.003), tuning_seeds=1, seeds=5, epochs=1, jobs=1,
        out=tmp_path / "run", resume=True,
    )  # fmt: skip
    after = resumed.records()
    assert summary["status"] == "finished"
    assert after[:4] == before
    assert (
        len(after)
        == len({(r["stage"], r["optimizer"], r["lr"], r["seed"]) for r in after})
        == 2 * (3 + len(summary["widened"]) + 5)
    )


def test_a_note_of_the_command_line_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(["word"] * 60)

    def warn(*_: object, **__: object) -> None:
        warnings.warn(words, stacklevel=2)
        raise WorkerLost("a worker process ended with exit status 3")

    monkeypatch.setattr(compare_, "compare", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(["compare", "digits"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"rmsprop: note: {words}"
    assert lines[1].startswith("rmsprop: a worker process ended with exit status 3; go on with: rmsprop compare digits")
