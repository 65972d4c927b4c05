"""The queue of `rmsprop tune`: each slot is run to its end once, whatever is killed, lost or started twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest

from rmsprop import Rule
from rmsprop.lab import search
from rmsprop.lab.report.page import write_report
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.lock import locked
from rmsprop.lab.tuning import trial_queue
from rmsprop.lab.tuning.draws import SLOT
from rmsprop.lab.tuning.storage import JournalLock, open_storage, shown
from rmsprop.lab.tuning.subject import Subject, config_of, plan_of
from rmsprop.lab.tuning.trial_queue import Queue, ended_slots, given_up, is_settled
from rmsprop.lab_options import TuneOptions


def queue(path: Path) -> Queue:
    """Return the queue as another process would see it."""
    return Queue(open_storage(str(path / "study.journal")), "study", maximize=True)


def counts(found: Queue) -> Counter[str]:
    return Counter(trial.state.name for trial in found.trials())


def test_two_workers_never_get_the_same_trial(tmp_path: Path) -> None:
    first, second = queue(tmp_path), queue(tmp_path)
    first.enqueue(range(6))
    second.enqueue(range(6))  # nothing new
    taken = [each.claim() for _ in range(3) for each in (first, second)]
    assert len(set(taken)) == 6
    assert None not in taken
    assert first.claim() is second.claim() is None
    for identity in taken:
        assert identity is not None
        assert second.finish(identity, 1.0, {})
    assert counts(first) == {"COMPLETE": 6}
    assert is_settled(first.trials(), range(6))


def test_a_slot_that_two_workers_enqueued_at_once_is_run_once(tmp_path: Path) -> None:
    found = queue(tmp_path)
    for _ in range(2):  # as if each had looked before the other wrote
        for slot in range(3):
            found.study.enqueue_trial({}, user_attrs={SLOT: slot})
    ended = []
    while (identity := found.claim()) is not None:
        found.finish(identity, 0.5, {})
        ended.append(identity)
    assert len(ended) == 3
    assert sorted(ended_slots(found.trials())) == [0, 1, 2]
    assert counts(found) == {"COMPLETE": 3, "FAIL": 3}


def test_an_exception_is_tried_once_more_and_then_recorded(tmp_path: Path) -> None:
    found = queue(tmp_path)
    for expected in (set(), {0}):
        found.enqueue(range(1))
        identity = found.claim()
        assert identity is not None
        found.fail(identity, "ValueError: no")
        assert given_up(found.trials()) == expected
    found.enqueue(range(1))
    assert found.claim() is None
    assert is_settled(found.trials(), range(1))


def test_a_trial_whose_process_ended_runs_again(tmp_path: Path) -> None:
    found = queue(tmp_path)
    found.enqueue(range(2))
    lost, kept = found.claim(), found.claim()
    assert lost is not None
    owner = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    found.storage.set_trial_user_attr(
        lost, "owner", {**trial_queue.process_id(), "pid": int(owner.stdout), "start": "1"}
    )
    assert found.fail_lost() == 1
    assert found.fail_lost() == 0
    assert not found.finish(lost, 1.0, {})  # it comes back too late: its result is dropped
    found.enqueue(range(2))
    again = found.claim()
    assert again not in (None, lost, kept)
    assert counts(found) == {"FAIL": 1, "RUNNING": 2}


def test_a_process_of_another_host_is_lost_when_it_falls_silent(tmp_path: Path) -> None:
    found = queue(tmp_path)
    found.enqueue(range(1))
    identity = found.claim()
    assert identity is not None
    found.storage.set_trial_user_attr(identity, "owner", {"host": "elsewhere", "pid": 1, "start": "1"})
    silent = trial_queue.SILENT_SECONDS
    assert found.fail_lost(now=0.0) == 0
    found.beat(identity, 1)
    assert found.fail_lost(now=silent + 1) == 0  # a new sign of life
    assert found.fail_lost(now=2 * silent) == 0
    assert found.fail_lost(now=2 * silent + 2) == 1
    assert found.trials()[0].user_attrs["lost"] == "its process fell silent"


def test_a_process_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    found = queue(tmp_path)
    found.enqueue(range(1))
    identity = found.claim()
    assert identity is not None
    assert found.fail_lost() == 0  # this process runs
    found.storage.set_trial_user_attr(identity, "owner", {**trial_queue.process_id(), "start": "1"})
    assert found.fail_lost() == 1


def test_a_line_that_a_full_disk_cut_short_is_removed(tmp_path: Path) -> None:
    found = queue(tmp_path)
    found.enqueue(range(2))
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 6, "worker')
    other = queue(tmp_path)  # the next writer cleans up
    assert other.claim() is not None
    assert b'"worker\n' not in journal.read_bytes()
    assert len(queue(tmp_path).trials()) == 2
    JournalLock(str(journal)).acquire()


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql+psycopg://me:secret@host/db") == "postgresql+psycopg://me:***@host/db"
    assert shown("postgresql+psycopg://me@host/db") == "postgresql+psycopg://me@host/db"
    assert shown("rmsprop tune a --storage p://me:x@h/d --study b@c") == (
        "rmsprop tune a --storage p://me:***@h/d --study b@c"
    )


SCRIPT = """
import sys, time
from pathlib import Path
if sys.argv[2:] == ["limit"]:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
from rmsprop import Rule
from rmsprop.lab import tune

def score(rule: Rule, seed: int) -> float:
    time.sleep(0.2)
    while Path(sys.argv[1], "wait").exists():
        time.sleep(0.05)
    with open(sys.argv[1] + "/calls", "a") as file:
        file.write(f"{rule.lr} {seed}\\n")
    return -abs(rule.lr - 0.1)

if __name__ == "__main__":
    options = {"trials": 30, "workers": 3, "seeds": 6, "top": 1, "higher_is_better": True, "sampler": "qmc"}
    tuned = tune(score, out=sys.argv[1] + "/run", resume=sys.argv[2:] == ["resume"], **options)
"""


def workers_of(pid: int) -> list[int]:
    """Return the processes that run trials: the children of children of `pid` that have claimed one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found.append((int(entry.name), int(fields[1])))
    children = {child for child, parent in found if parent == pid}
    return [child for child, parent in found if parent in children]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, script, folder, *more], text=True, **pipes)


def busy(folder: Path) -> set[int]:
    """Return the processes that run a trial."""
    if not (folder / "run" / "study.journal").exists():
        return set()
    return {
        t.user_attrs["owner"]["pid"] for t in states(folder) if t.state.name == "RUNNING" and "owner" in t.user_attrs
    }


def states(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return Queue(open_storage(str(folder / "run" / "study.journal")), "study/RMSprop", maximize=True).trials()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_twenty_killed_workers_lose_nothing(tmp_path: Path) -> None:
    running = start(tmp_path)
    chance, killed = random.Random(0), 0
    while killed < 20 and running.poll() is None:
        time.sleep(0.1)
        workers = workers_of(running.pid)
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            killed += 1
            time.sleep(chance.uniform(0.0, 0.3))
    _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    assert killed == 20
    done = Counter(t.user_attrs[SLOT] for t in states(tmp_path) if t.state == optuna.trial.TrialState.COMPLETE)
    assert done == dict.fromkeys(range(30), 1)  # none lost, none twice, none too many
    assert len(RunDirectory(tmp_path / "run").summary()["trials"]) == 30


@pytest.mark.slow
def test_the_same_command_joins_a_study_that_runs(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    first, second = start(tmp_path), start(tmp_path)  # at the same time
    while len(busy(tmp_path)) < 6:
        time.sleep(0.2)
        ended = [each.communicate()[1] for each in (first, second) if each.poll() is not None]
        assert not ended
    (tmp_path / "wait").unlink()
    errors = [each.communicate(timeout=120)[1] for each in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], errors
    done = [t for t in states(tmp_path) if t.state == optuna.trial.TrialState.COMPLETE]
    assert Counter(t.user_attrs[SLOT] for t in done) == dict.fromkeys(range(30), 1)


def test_a_study_is_joined_while_its_leader_has_only_the_lock(tmp_path: Path) -> None:
    def score(rule: Rule, seed: int) -> float:
        return rule.lr + seed

    options = TuneOptions(trials=9, seeds=6, top=1, out=tmp_path / "run")
    subject = Subject.of(score, options, True)
    config, plan = config_of(subject, Rule(), options), plan_of(subject, Rule(), options)
    with locked(tmp_path / "run"):  # by a leader that writes run.json later
        writing = threading.Timer(0.5, RunDirectory(tmp_path / "run")._write_config, (config,))
        writing.start()
        process = search._Search(subject, Rule(), options, config, plan, time.time(), "", lambda _: None)
        run, leads = process._opened(ExitStack())
        writing.join()
    assert not leads
    assert run.config() == config


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_study_goes_on_after_a_full_disk_ctrl_c_and_a_kill(tmp_path: Path) -> None:
    running = start(tmp_path, "limit")
    _, error = running.communicate(timeout=120)
    assert error.splitlines()[-1] == (
        "rmsprop.lab.runs.workers.WorkerLost: a worker could not write a file: File too large"
    )
    assert error.count("Traceback") == 1  # of the script itself

    running = resumed(tmp_path)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "Interrupted: stopped after" in error
    assert error.count("Traceback") == 1  # of the script itself: workers are silent
    assert not (tmp_path / "run" / "summary.json").exists()
    page = write_report(RunDirectory(tmp_path / "run")).read_text()
    assert "not finished; what follows is what it has recorded so far: no setting is confirmed." in page
    assert re.search(r"\d trials so far", page)
    assert "Is the budget enough?" in page
    assert "Confirmed on new seeds" not in page

    running = resumed(tmp_path)
    running.kill()
    running.communicate()
    time.sleep(1.0)  # its workers end by themselves
    before = ended(tmp_path)
    assert len(before) >= 5
    running = start(tmp_path, "resume")
    _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    done = [t.user_attrs[SLOT] for t in states(tmp_path) if t.state == optuna.trial.TrialState.COMPLETE]
    assert Counter(done) == dict.fromkeys(range(30), 1)
    assert ended(tmp_path).items() >= before.items()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def resumed(folder: Path) -> subprocess.Popen[str]:
    """Resume the study, and wait for three more calls of the objective."""
    calls = folder / "calls"
    enough = len(calls.read_text().splitlines()) + 3
    running = start(folder, "resume")
    while len(calls.read_text().splitlines()) < enough:
        time.sleep(0.05)
        assert running.poll() is None
    return running


def ended(folder: Path) -> dict[int, list[float]]:
    """Return the values of the trials that have ended, by slot."""
    return {t.user_attrs[SLOT]: t.values for t in states(folder) if t.state == optuna.trial.TrialState.COMPLETE}
