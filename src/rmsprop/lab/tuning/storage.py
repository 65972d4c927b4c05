"""Where the trials of a study are kept: a journal file for the processes of one host, or a database for many hosts.

Optuna's storage is the only truth: all processes see the same trials, and a killed process loses none that had ended.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from rmsprop.errors import InputError, Received
from rmsprop.lab.runs.lock import try_lock

JOURNAL = "study.journal"
PATIENCE_SECONDS = 300.0  # for a database that does not answer


def open_storage(location: str) -> BaseStorage:
    """Return the storage at a URL of SQLAlchemy, or in a journal file at a path.

    Raises
    ------
    InputError
        If the database cannot be reached. The message has no password.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in location:
        return JournalStorage(Journal(location))
    if location.startswith("sqlite"):
        remedy = "omit --storage on one host; for many hosts: postgresql+psycopg://USER@HOST/DATABASE"
        raise InputError("--storage", "a database made for several processes", shown(location), remedy)
    try:
        return _database(location)
    except ModuleNotFoundError as error:
        remedy = "install its driver; for PostgreSQL: pip install 'psycopg[binary]'"
        raise InputError("--storage", "the URL of a database", Received(f"{error}"), remedy) from None
    except Exception as error:  # SQLAlchemy's, the driver's and Optuna's errors have no common class
        found = Received(f"{shown(location)}: {_first_line(error, location)}")
        raise InputError("--storage", "the URL of a database that answers", found, "check host, user, name") from None


@contextmanager
def opened(location: str) -> Iterator[BaseStorage]:
    """Yield `open_storage`, and close its connections at the end."""
    storage = open_storage(location)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _database(location: str) -> BaseStorage:
    """Return the storage in a database, whose tables are made if it has none."""
    for last in (False, False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of SQLAlchemy's drivers
                return _PatientStorage(
                    location,
                    engine_kwargs={"pool_pre_ping": True},  # a restarted database is a new connection, not an error
                    skip_table_creation=False,
                    heartbeat_interval=None,  # workers beat in their trials' attributes, in every storage alike
                )
        except Exception as error:
            if last or "already exists" not in str(error):
                raise
            time.sleep(1.0)  # another process made the tables at this moment
    raise AssertionError


def shown(text: str) -> str:
    """Return a URL, or a text with URLs, without passwords.

    >>> shown("postgresql+psycopg://me:secret@host/runs")
    'postgresql+psycopg://me:***@host/runs'
    """
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def _first_line(error: BaseException, location: str) -> str:
    """Return the innermost cause of a database error in one line, without the password."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split()) or type(error).__name__
    password = re.search(r"://[^:/@]*:([^@]*)@", location)
    return line.replace(password.group(1), "***") if password and password.group(1) else line


class _PatientStorage(RDBStorage):
    """Optuna's storage in a database. Operations are repeated while the database is away, as in a restart."""


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def repeated(*args: Any, **keywords: Any) -> Any:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return method(*args, **keywords)
            except StorageInternalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    return repeated


for _name, _method in vars(RDBStorage).items():
    # The others run inside a session of one of these, which is lost with the connection.
    if inspect.isfunction(_method) and _name[:2] != "__" and "session" not in inspect.signature(_method).parameters:
        setattr(_PatientStorage, _name, _patient(_method))


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk, of a quota and of a limit of file sizes


class Journal(JournalFileBackend):
    """Optuna's journal file, in which only the states of trials wait for the disk.

    Optuna waits at every line: about 25 times for each trial, 10 ms on a busy disk. What a killed process has written
    is not lost without waiting; after a power cut, a trial without its end runs again.
    """

    def __init__(self, path: str) -> None:
        self._path, self._locks = Path(path), JournalLock(path)
        super().__init__(path, lock_obj=self._locks)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line for each log. An OSError, as of a full disk, names the file."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._locks.acquire()
        try:
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                if any("state" in log for log in logs):
                    os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        finally:
            self._locks.release()


class JournalLock(JournalFileOpenLock):
    """Optuna's lock of a journal, by the system: a killed process releases it at once.

    Optuna's own locks are files, which outlive a killed process by 30 seconds. A line that was cut short, by a full
    disk or a crash, is removed: Optuna would refuse the journal after the next line.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._handle = -1

    def acquire(self) -> bool:
        """Wait for the lock, then remove a last line without an end."""
        handle = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        while not try_lock(handle):
            time.sleep(0.002)
        self._handle = handle
        _remove_cut_line(self._path)
        return True

    def release(self) -> None:
        """Release the lock."""
        handle, self._handle = self._handle, -1
        os.close(handle)


def _remove_cut_line(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        start = max(0, end - 1_000_000)
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)
