"""`rmsprop tune` with a real PostgreSQL that is restarted in mid-study, and on a real Ray cluster that loses a node."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest

from rmsprop.errors import InputError
from rmsprop.lab.tuning.draws import SLOT
from rmsprop.lab.tuning.storage import opened
from rmsprop.lab.tuning.trial_queue import Queue

COMPLETE = optuna.trial.TrialState.COMPLETE
TRIALS = 24

SCRIPT = """
import sys, time
from pathlib import Path
from rmsprop import Rule
from rmsprop.lab import tune

folder = Path(sys.argv[1])

def score(rule: Rule, seed: int) -> float:
    time.sleep(0.25)
    with open(folder / "calls", "a") as file:
        file.write(f"{rule.lr} {seed}\\n")
    return -abs(rule.lr - 0.1)

if __name__ == "__main__":
    more = dict(word.split("=", 1) for word in sys.argv[3:])
    options = {"trials": 24, "workers": 2, "seeds": 6, "top": 1, "sampler": "qmc", **more}
    tuned = tune(score, higher_is_better=True, out=folder / sys.argv[2], **options)
    print(len(tuned.trials))
"""


def start(folder: Path, out: str, **more: str) -> subprocess.Popen[str]:
    """Start a search in a process of its own, as a user's script would."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(folder), out, *(f"{name}={value}" for name, value in more.items())]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, text=True, **pipes)


def calls(folder: Path) -> int:
    file = folder / "calls"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for(folder: Path, count: int, running: list[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + 120
    while calls(folder) < count:
        assert time.monotonic() < until, "no trial ended"
        for each in running:
            assert each.poll() is None, each.communicate()
        time.sleep(0.05)


def finished(location: str, name: str) -> Counter[int]:
    """Return how often each slot was run to its end."""
    with opened(location) as storage:
        trials = Queue(storage, name, maximize=True).trials()
    return Counter(trial.user_attrs[SLOT] for trial in trials if trial.state == COMPLETE)


def folder_of(name: str) -> str | None:
    """Return the folder of a program of PostgreSQL."""
    found = shutil.which(name)
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(debian[-1].parent) if debian else None if found is None else str(Path(found).parent)


class PostgreSQL:
    """A server of its own, in a folder. PostgreSQL refuses to run as root: it then runs as the user nobody."""

    def __init__(self, folder: Path) -> None:
        programs = folder_of("initdb")
        if programs is None:
            (pytest.fail if "CI" in os.environ else pytest.skip)("no PostgreSQL: run scripts/install-postgresql")
        self._programs, self._folder = programs, folder / "server"
        self._folder.mkdir()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            folder.chmod(0o755)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        password = self._folder / "password"
        password.write_text("secret\n")
        password.chmod(0o644)
        self._run("initdb", "-D", "data", "-U", "me", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://me:secret@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [f"{self._programs}/{program}", *words], cwd=self._folder, capture_output=True, text=True, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    with TemporaryDirectory() as folder:  # that of pytest is closed to other users
        made = PostgreSQL(Path(folder))
        try:
            yield made
        finally:
            made.stop()


def test_a_database_that_restarts_in_mid_study_loses_nothing(tmp_path: Path, server: PostgreSQL) -> None:
    running = [start(tmp_path, name, storage=server.url) for name in ("one", "two")]  # as on two hosts
    wait_for(tmp_path, 6, running)
    server.stop()
    time.sleep(2)
    server.start()
    wait_for(tmp_path, 12, running)
    victim = running[0]
    victim.send_signal(signal.SIGKILL)  # one "host" dies
    victim.communicate()
    output, error = running[1].communicate(timeout=240)
    assert running[1].returncode == 0, error
    assert output.split() == [str(TRIALS)]
    assert finished(server.url, "tune-score/RMSprop") == dict.fromkeys(range(TRIALS), 1)


def test_a_study_of_another_space_is_refused_in_a_line(tmp_path: Path, server: PostgreSQL) -> None:
    first = start(tmp_path, "one", storage=server.url)
    assert first.communicate(timeout=240)[0].split() == [str(TRIALS)]
    second = start(tmp_path, "two", storage=server.url, pruner="none")
    _, error = second.communicate(timeout=120)
    assert second.returncode == 1
    assert error.splitlines()[-1] == (
        "rmsprop.errors.InputError: the study 'tune-score' must be the one asked for (pruner 'median'), got pruner "
        "'none'; choose another --study, or another --out"
    )
    assert not (tmp_path / "two" / "summary.json").exists()


def test_a_database_that_cannot_be_used_is_one_line_without_the_password(server: PostgreSQL) -> None:
    wrong = server.url.replace("secret", "guessed")
    with pytest.raises(InputError, match="password authentication failed") as error:
        opened(wrong).__enter__()
    assert "guessed" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="--storage must be the URL of a database that answers") as error:
        opened("postgresql+psycopg://me:guessed@127.0.0.1:1/postgres").__enter__()
    assert "guessed" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="--storage must be the URL of a database"):
        opened("nonsense://x").__enter__()
    with pytest.raises(InputError, match="--storage must be a database made for several processes"):
        opened("sqlite:///x.db").__enter__()


# Ray's programs are started by a fork that at once becomes another program. JAX, where a test before imported it,
# warns of every fork.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_ray_cluster_that_loses_a_node_loses_no_trial(tmp_path: Path) -> None:
    ray_cluster = pytest.importorskip("ray.cluster_utils")
    cluster = ray_cluster.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        running = start(tmp_path, "run", cluster="ray", address=cluster.address)
        wait_for(tmp_path, 8, [running])
        cluster.remove_node(second, allow_graceful=False)
        output, error = running.communicate(timeout=300)
        assert running.returncode == 0, error
        assert output.split() == [str(TRIALS)]
        journal = str(tmp_path / "run" / "study.journal")
        assert finished(journal, "study/RMSprop") == dict.fromkeys(range(TRIALS), 1)
    finally:
        cluster.shutdown()


def test_a_ray_address_that_refuses_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    running = start(tmp_path, "run", cluster="ray", address="127.0.0.1:1")
    _, error = running.communicate(timeout=240)
    assert running.returncode == 1
    assert error.splitlines()[-1].startswith(
        "rmsprop.errors.InputError: --address must be that of a running Ray cluster"
    )
    assert not (tmp_path / "run" / "summary.json").exists()
