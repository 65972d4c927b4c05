"""Run directories: no file is half written, no record is lost, and runs are not mixed up."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from rmsprop import InputError, Rule
from rmsprop.files import write_atomically
from rmsprop.lab.runs.directory import RunDirectory, new_path, to_json
from rmsprop.lab.runs.lock import LOCK, locked, try_lock
from rmsprop.lab.runs.schema import TrainConfig, TrainedRule, TrainSummary
from rmsprop.torch import RMSprop

CONFIG: TrainConfig = {
    "kind": "train", "task": "digits", "rule": cast(TrainedRule, dataclasses.asdict(Rule())), "seed": 1, "epochs": 1,
    "batch_size": 1, "schedule": "constant", "made_with": {"torch": "1", "threads": 1},
}  # fmt: skip
ENDED: TrainSummary = {
    "status": "finished", "reason": None, "task": "digits", "metric": "accuracy", "higher_is_better": True,
    "epochs": 1, "steps": 17, "validation_loss": 0.5, "validation_metric": None, "command": "", "implementation": "",
    "environment": {},
}  # fmt: skip


def record(step: int, kind: str = "loss", **more: Any) -> dict[str, Any]:
    """Return a record of a training: a loss or an epoch."""
    if kind == "loss":
        return {"kind": kind, "step": step, "epoch": 0.5, "loss": 1.0, "losses_crc": 0, **more}
    epoch = {"epoch": 0, "validation_loss": 1.0, "validation_metric": None, "step_us": None, "optimizer_us": None}
    return {"kind": kind, "step": step, **epoch, "effective_lr": {}, **more}


def statistics(step: int) -> dict[str, Any]:
    """Return the record of a measured step without tensors."""
    group = {**dataclasses.asdict(Rule()), "param_dtype": "float32", "stochastic_rounding": False}
    return {"kind": "statistics", "step": step, "groups": [group], "tensors": {}, "gradient_norm": None}


def begun(path: Path, config: TrainConfig = CONFIG, *, resume: bool = False) -> RunDirectory:
    """Return a run directory that was opened and then unlocked."""
    with RunDirectory.open(path, config, resume=resume) as run:
        return run


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict() -> None:
    assert json.loads(to_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": "é"})) == {
        "a": None,
        "b": [None, 1.5],
        "c": "é",
    }


def test_a_run_is_created_resumed_and_finished(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    run = begun(path)
    run.append([record(1), record(2)])
    run = begun(path, resume=True)
    assert run.records() == [record(1), record(2)]
    assert run.keep_records(lambda r: r["step"] if r["step"] < 2 else None) == 1
    assert run.records() == [record(1)]
    assert run.summary() is None
    run.finish(ENDED)
    assert run.summary() == ENDED
    with pytest.raises(InputError, match="the run must be one that is not finished"):
        begun(path, resume=True)


def test_a_last_line_cut_short_by_a_crash_does_not_count_but_damage_elsewhere_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.append([record(1)])
    with (run.path / "records.jsonl").open("a") as file:
        file.write('{"n": 2')
    assert run.records() == [record(1)]
    run.keep_records(lambda r: r["step"])
    run.append([record(3)])
    assert run.records() == [record(1), record(3)]
    (run.path / "records.jsonl").write_text('{"n"\n' + to_json(record(2)))
    with pytest.raises(InputError, match=r"line 1 of .*records.jsonl must be a JSON object, got damaged text"):
        run.records()


@pytest.mark.parametrize("damaged", [b"null", b"\xff\xfe", b"[1]", b"[" * 10**5])
def test_records_are_objects_in_utf_8(damaged: bytes, tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    (run.path / "records.jsonl").write_bytes(damaged + b"\n" + to_json(record(1)).encode())
    with pytest.raises(InputError, match=r"line 1 of .*records.jsonl must be a JSON object, got damaged text"):
        run.records()


def test_records_are_those_up_to_the_checkpoint_each_once(tmp_path: Path) -> None:
    """A file may hold records twice, if two processes continued one run without a lock."""
    run = begun(tmp_path / "run")
    run.append([record(0, "epoch"), record(4), record(8), record(4, by=2), record(8, "epoch"), record(8), record(9)])
    run.keep_records_until(8, 4)
    assert run.records() == [record(0, "epoch"), record(4), record(8), record(8, "epoch")]
    run.keep_records_until(-1, 0)
    assert run.records() == []


@pytest.mark.parametrize("tear", ['{"kind": "los', "\0" * 100, '{"kind": "los{"kind": "loss", "step": 6}\n\0\0'])
def test_records_lost_in_a_power_cut_are_told_and_the_run_goes_on(tmp_path: Path, tear: str) -> None:
    run = begun(tmp_path / "run")
    run.append([record(2), record(4)])
    with (run.path / "records.jsonl").open("a") as file:
        file.write(tear)
    with pytest.warns(
        UserWarning, match=r"2 of the 4 records up to step 8 are not in .*records.jsonl: the run goes on"
    ):
        run.keep_records_until(8, 4)
    assert run.records() == [record(2), record(4)]


def test_records_are_on_the_disk_before_the_file_that_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    run.append([record(2)])
    run.append([record(2)], "statistics.jsonl")
    files = {path.stat().st_ino: path.name for path in run.path.iterdir()}
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(files.get(os.fstat(number).st_ino, "a new file")))
    run.save_checkpoint({"x": torch.ones(2)})
    run.finish(ENDED)
    assert sorted(synced[:2]) == sorted(synced[3:5]) == ["records.jsonl", "statistics.jsonl"]
    assert synced[2] == synced[5] == "a new file"


@pytest.mark.parametrize(("name", "text"), [("run.json", "{"), ("summary.json", "null"), ("run.json", "[]")])
def test_what_a_run_is_and_how_it_ended_is_whole_or_damaged(name: str, text: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    (run.path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name} must be a JSON object, got damaged text"):
        run.config() if name == "run.json" else run.summary()


def test_each_file_of_records_is_kept_apart(tmp_path: Path) -> None:
    run, other = begun(tmp_path / "run"), "statistics.jsonl"
    run.append([statistics(1), statistics(2)], other)
    run.append([record(3)])
    run.keep_records(lambda r: r["step"] if r["step"] < 2 else None, other)
    assert (run.records(other), run.records(), run.records("none.jsonl")) == ([statistics(1)], [record(3)], [])
    with (run.path / other).open("a") as file:
        file.write("{\n" + to_json(statistics(3)))
    with pytest.raises(InputError, match=r"line 2 of .*statistics.jsonl must be a JSON object, got damaged text"):
        run.records(other)


@pytest.mark.parametrize(
    ("prepare", "resume", "message"),
    [
        (lambda p: p.write_text("x"), False, "--out must be a directory, or a path that does not exist"),
        (lambda p: (p.mkdir(), (p / "thesis.tex").write_text("x")), False, "--out must be a new or empty directory"),
        (lambda p: None, True, "--resume must be given for a run that was begun"),
        (begun, False, "go on with it"),
        (lambda p: begun(p, {**CONFIG, "seed": 2}), True, r"\(seed 2\), got seed 1"),
        (lambda p: (p.mkdir(), (p / "run.json").write_text("{")), True, r"run.json must be a JSON object"),
    ],
)  # fmt: skip
def test_a_directory_that_does_not_fit_is_refused_and_left_alone(
    tmp_path: Path, prepare: Any, resume: bool, message: str
) -> None:
    path = tmp_path / "run"
    prepare(path)
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(InputError, match=message):
        begun(path, resume=resume)
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()) == before


def test_another_torch_is_warned_of_and_other_threads_are_not(tmp_path: Path) -> None:
    begun(tmp_path / "run", CONFIG)
    begun(tmp_path / "run", {**CONFIG, "made_with": {"torch": "1", "threads": 2}}, resume=True)
    with pytest.warns(
        UserWarning, match=r"^the run began with torch 1 and goes on with 2: it may differ in the last b"
    ):
        begun(tmp_path / "run", {**CONFIG, "made_with": {"torch": "2", "threads": 2}}, resume=True)


def test_checkpoints_hold_tensors_and_are_checked(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    seen: list[dict[str, Any]] = []
    assert run.load_checkpoint(seen.append) is False
    run.save_checkpoint({"x": torch.ones(2)})
    assert run.load_checkpoint(seen.append) is True
    assert torch.equal(seen[0]["x"], torch.ones(2))
    path = run.path / "checkpoint.pt"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * len(whole), whole[:-100] + b"x" * 100, b"hello"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint.pt must be an undamaged checkpoint of this run"):
            run.load_checkpoint(seen.append)
    run.save_checkpoint({"x": torch.ones(20_000)})
    path.write_bytes(path.read_bytes()[:5000])  # torch takes the end of the file for that of a zip file
    with pytest.raises(InputError, match=r"checkpoint.pt must be an undamaged checkpoint of this run"):
        run.load_checkpoint(seen.append)


def test_what_does_not_fit_in_an_undamaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.save_checkpoint({"optimizer": RMSprop([torch.ones(3)]).state_dict()})
    other = RMSprop([torch.ones(2), torch.ones(2)])
    message = r"checkpoint.pt: the state dict must be of 1 group with 2 parameters, got 1 group with 1 parameter"
    with pytest.raises(InputError, match=message):
        run.load_checkpoint(lambda state: other.load_state_dict(state["optimizer"]))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = begun(tmp_path / "run")
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))):
        save(Evil(), run.path / "checkpoint.pt")
        with pytest.raises(InputError, match="undamaged checkpoint"):
            run.load_checkpoint(lambda _: None)
    assert not (tmp_path / "evil").exists()


def test_new_paths_are_numbered_and_resuming_finds_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second, third = (Path("runs") / name for name in ("train-x", "train-x-2", "train-x-3"))
    assert new_path("train", "x", resume=True) == first
    assert new_path("train", "x", resume=False) == first
    assert new_path("train", "x", resume=True) == first
    assert new_path("train", "x", resume=False) == second  # each path is created: no two commands get the same
    assert new_path("train", "x", resume=True) == second
    assert new_path("train", "x", resume=False) == third
    assert new_path("train", "x", resume=True) == third


# -- killed processes, and two at once ---------------------------------------------------------------------------------


def leave_temporary(folder: Path, name: str, process: int, age: float = 0) -> Path:
    """Leave the file of a process that was killed in the middle of a write."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.{process}.tmp"
    path.write_text("{")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("process", [77, os.getpid(), 2**40], ids=["dead", "alive", "impossible"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_kill_while_the_first_file_is_written_blocks_nothing(tmp_path: Path, process: int, resume: bool) -> None:
    leave_temporary(tmp_path / "run", "run.json", process)
    (tmp_path / "run" / ".lock").write_text("process 77 on nowhere")
    run = begun(tmp_path / "run", resume=resume)
    assert [p.name for p in run.path.iterdir()] == ["run.json"]


def test_temporary_files_of_a_run_are_removed_when_it_goes_on_but_for_those_of_a_report(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    for name in ("checkpoint.pt", "before-100.pt", "summary.json", "records.jsonl"):
        leave_temporary(run.path, name, os.getpid())
    kept = {leave_temporary(run.path, "report.html", 1).name, "run.json", ".mine.tmp", "notes.tmp"}
    for name in (".mine.tmp", "notes.tmp"):
        (run.path / name).touch()
    begun(run.path, resume=True)
    assert {p.name for p in run.path.iterdir()} == kept


def test_a_write_removes_old_temporary_files_of_its_own_file_by_dead_processes(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave_temporary(tmp_path, "file", dead.pid, 3600)
    kept = {
        leave_temporary(tmp_path, "file", dead.pid + 10**9, 60).name,  # may belong to another machine
        leave_temporary(tmp_path, "file", os.getppid(), 3600).name,
        leave_temporary(tmp_path, "other", dead.pid, 3600).name,
    }
    write_atomically(tmp_path / "file", "x")
    assert {p.name for p in tmp_path.iterdir()} == {*kept, "file"}


def test_a_run_is_opened_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run"
    message = rf"one in which no other process works, got {path}, where process {os.getpid()} on .* is running; wait"
    with RunDirectory.open(path, CONFIG, resume=False):
        before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
        with pytest.raises(InputError, match=message):
            begun(path, resume=True)
        assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()) == before
    begun(path, resume=True)
    assert [p.name for p in path.iterdir()] == ["run.json"]


def test_a_lock_waits_for_a_process_that_looks_whether_it_is_held(tmp_path: Path) -> None:
    handle = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    assert try_lock(handle)  # as is_held does
    closing = threading.Timer(0.05, os.close, (handle,))
    closing.start()
    with locked(tmp_path):
        closing.join()


def test_a_lock_that_is_given_up_while_another_waits_for_it_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder may remove the file between another's open and lock: two processes would hold two locks."""
    first, opened = locked(tmp_path), os.open
    first.__enter__()

    def slow(path: Any, *rest: Any) -> int:
        handle = opened(path, *rest)
        monkeypatch.undo()
        first.__exit__(None, None, None)
        return handle

    monkeypatch.setattr(os, "open", slow)
    with locked(tmp_path), pytest.raises(InputError, match="no other process works"), locked(tmp_path):
        pass


def test_a_directory_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "deep" / "new"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills, and forks")
@pytest.mark.parametrize("worker", ["", "forked", "spawned"])
def test_a_killed_process_leaves_no_lock_although_its_workers_live(tmp_path: Path, worker: str) -> None:
    code = f"""
import os, subprocess, sys, time
from pathlib import Path
from rmsprop.lab.runs.lock import locked
with locked(Path({str(tmp_path)!r})):
    worker = 0
    if {worker!r} == "spawned":
        worker = subprocess.Popen(["sleep", "600"]).pid
    elif {worker!r} == "forked":
        worker = os.fork() or time.sleep(600)
    print(worker, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(InputError, match=f"process {process.pid} on "), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if child:
            os.kill(child, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []
