"""Run directories: configuration (run.json), records (JSON lines), checkpoint.pt and summary.json."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from rmsprop.errors import InputError, Received
from rmsprop.files import finite, remove_temporary, temporary_files, write_atomically
from rmsprop.lab.runs.checks import check_config, check_record, check_statistics, check_summary
from rmsprop.lab.runs.lock import LOCK, locked
from rmsprop.lab.runs.resuming import changed_code, check_same_run, has_more_epochs, warn_of_other_bits
from rmsprop.lab.runs.schema import CompareSummary, RunConfig, TrainSummary, TuneSummary
from rmsprop.monitor.findings.findings_record import FINDINGS

CONFIG = "run.json"
CHECKPOINT = "checkpoint.pt"
RECORDS = "records.jsonl"
SUMMARY = "summary.json"
REPORT = "report.html"
PICTURE = "picture.svg"  # what the trained model generates
RANGE_TEST, RANGE_FIGURE = "find-lr.json", "find-lr.svg"  # files of a range test; its directory holds no run


def to_json(value: Any) -> str:
    """Return strict JSON: NaN and infinities become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # rare: a search for such values before each dump would take longer than the dump
        return json.dumps(finite(value), ensure_ascii=False, allow_nan=False)


class RunDirectory:
    """One run on disk.

    `RunDirectory(path)` reads a run. To write one, use `create`, `resume` or `open` as a context. They hold the
    directory's lock until the context ends, and remove files that a killed process left half-written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(
        cls, path: Path, config: RunConfig, *, resume: bool, accept_changes: bool = False, may_grow: bool = False
    ) -> AbstractContextManager[RunDirectory]:
        """Create a new run of `config` in `path`, or with `resume` go on with the run there."""
        if resume:
            return cls.resume(path, config, accept_changes=accept_changes, may_grow=may_grow)
        if accept_changes:
            raise InputError("--accept-changes", "given with --resume", Received("none"), "a new run takes any task")
        return cls.create(path, config)

    @classmethod
    @contextmanager
    def create(cls, path: Path, config: RunConfig) -> Iterator[RunDirectory]:
        """Begin a new run of `config`; `path` is a new or empty directory."""
        run = cls(path)
        run._check_is_new(config)  # before anything is written, the lock included
        with locked(path):
            run._check_is_new(config)  # another process may have begun a run before this one held the lock
            run._remove_temporary()
            run._write_config(config)
            yield run

    @classmethod
    @contextmanager
    def resume(
        cls, path: Path, config: RunConfig, *, accept_changes: bool = False, may_grow: bool = False
    ) -> Iterator[RunDirectory]:
        """Go on with the run in `path`, which must have the same `config` and must not be finished.

        With `accept_changes` the task's code may differ; run.json then lists the changes. With `may_grow`, `config` may
        have more epochs; the run may then be finished, too. Another version of torch is a warning.
        """
        run = cls(path)
        run._check_goes_on(config, accept_changes=accept_changes, may_grow=may_grow)
        with locked(path):
            changed = run._check_goes_on(config, accept_changes=accept_changes, may_grow=may_grow)
            run._remove_temporary()
            if not run._has_config():
                run._write_config(config)
            elif changed:
                saved = run.config()
                noted = [*saved.get("accepted_changes", []), *changed]
                run._write_config({**saved, "task_code": config.get("task_code"), "accepted_changes": noted})
            if has_more_epochs(config, run.config()):  # which has been found to be allowed
                (path / SUMMARY).unlink(missing_ok=True)  # first: a crash here leaves the run as it was, unfinished
                run._write_config({**run.config(), "epochs": config.get("epochs")})
            warn_of_other_bits(run.config()["made_with"], config["made_with"])
            yield run

    def _has_config(self) -> bool:
        return (self.path / CONFIG).exists()

    def _write_config(self, config: Mapping[str, Any]) -> None:
        write_atomically(self.path / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    def _remove_temporary(self) -> None:
        """Remove half-written files, except those of a report: another process may write one without the lock."""
        remove_temporary(p for p in temporary_files(self.path) if not p.name.startswith(f".{REPORT}."))

    def _check_is_new(self, config: RunConfig) -> None:
        self._check_is_for_runs()
        if self._has_config():
            self._check_is_unfinished_run_of(config)
            found = Received(f"{self.path}, which holds this run already")
            raise InputError("--out", "a new or empty directory", found, "add --resume to go on with it")

    def _check_goes_on(self, config: RunConfig, *, accept_changes: bool, may_grow: bool) -> list[str]:
        """Return the accepted changes of the task's code; raise InputError unless the run of `config` can go on."""
        self._check_is_for_runs()
        if not self._has_config():
            if not self.path.exists():  # an empty directory is accepted: a run that was killed at once leaves one
                found = Received(f"{self.path}, where there is none")
                raise InputError("--resume", "given for a run that was begun", found, "omit --resume")
            return []
        self._check_is_unfinished_run_of(config, may_grow=may_grow)
        return changed_code(self.path, self.config(), config, accept_changes=accept_changes)

    def _check_is_for_runs(self) -> None:
        """Raise InputError unless the path holds a run, is an unused directory, or does not exist."""
        if self.path.exists() and not self.path.is_dir():
            allowed = "a directory, or a path that does not exist"
            raise InputError("--out", allowed, str(self.path), "choose another --out")
        if not self._has_config() and not is_unused(self.path):
            found = Received(f"{self.path}, which holds other files")
            raise InputError("--out", "a new or empty directory", found, "choose another --out")

    def _check_is_unfinished_run_of(self, config: RunConfig, *, may_grow: bool = False) -> None:
        """Raise InputError if the run here has another configuration than `config`, or is finished.

        With `may_grow`, `config` may have more epochs, and the run may then be finished.
        """
        check_same_run(self.path, self.config(), config, finished=(self.path / SUMMARY).exists(), may_grow=may_grow)

    def check_same(self, config: RunConfig) -> None:
        """Raise InputError unless the run here has this configuration and is not finished."""
        self._check_goes_on(config, accept_changes=False, may_grow=False)

    def config(self) -> Any:
        """Return the run's configuration, of the kind of its command."""
        config = self._json(CONFIG)
        check_config(config, str(self.path / CONFIG))
        return config

    def summary(self) -> Any:
        """Return how the run ended: a TrainSummary or a CompareSummary; None if it has not ended."""
        if not (self.path / SUMMARY).exists():
            return None
        summary = self._json(SUMMARY)
        check_summary(summary, self.config()["kind"], str(self.path / SUMMARY))
        return summary

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return _object((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if (self.path / RANGE_TEST).exists():
                found, remedy = Received(f"{self.path}, a range test"), f"its figure is {self.path / RANGE_FIGURE}"
                raise InputError("the run", "one of train or compare", found, remedy) from None
            found = Received(f"{self.path}, which has no {name}")
            raise InputError("the run", "a directory that rmsprop wrote", found, "check the path") from None
        except ValueError:
            damaged = Received("damaged text")
            raise InputError(str(self.path / name), "a JSON object", damaged, "start a new run") from None

    def records(self, name: str = RECORDS) -> list[Any]:
        """Return the records in the file `name`, without a last line that a crash cut short.

        They are TrainRecords, TrialRows or, in statistics.jsonl, records of `rmsprop.monitor.Monitor` without the
        findings at its end.
        """
        lines = self._lines(name)
        if lines and lines[-1] is None:
            lines.pop()
        if None in lines:
            where = f"line {lines.index(None) + 1} of {self.path / name}"
            raise InputError(where, "a JSON object", Received("damaged text"), "start a new run")
        return [record for record in lines if record is not None]

    def _lines(self, name: str) -> list[dict[str, Any] | None]:
        """Return the record in each line of the file `name`; None for a damaged line."""
        path = self.path / name
        if not path.exists():
            return []
        kind = self.config()["kind"]
        records: list[dict[str, Any] | None] = []
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")):
            try:
                record = _object(line)
            except ValueError:
                records.append(None)
                continue
            if name != RECORDS and record.get("kind") == FINDINGS:
                continue
            where = f"line {number + 1} of {path}"
            check_record(record, kind, where) if name == RECORDS else check_statistics(record, where)
            records.append(record)
        return records

    def append(self, records: Iterable[Mapping[str, Any]], name: str = RECORDS) -> None:
        """Add records to the file `name`, one JSON object per line."""
        text = "".join(to_json(record) + "\n" for record in records)
        if text:
            path = self.path / name
            try:
                with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error

    def keep_records(self, which: Callable[[Any], Hashable], name: str = RECORDS) -> int:
        """Keep the first record of each key, drop the others, and return the number kept.

        `which` returns the key of a record; records with the key None are dropped. Keys repeat if two processes wrote
        to one run. Damaged lines, as after a power cut, are dropped, too.
        """
        kept: dict[Hashable, dict[str, Any]] = {}
        for record in self._lines(name):
            key = None if record is None else which(record)
            if record is not None and key is not None:
                kept.setdefault(key, record)
        write_atomically(self.path / name, "".join(to_json(record) + "\n" for record in kept.values()))
        return len(kept)

    def keep_records_until(self, step: int, count: int, name: str = RECORDS) -> None:
        """Keep the records up to `step`. Warn if they are fewer than `count`, the number in the checkpoint."""
        kept = self.keep_records(lambda r: (r["kind"], r["step"]) if r["step"] <= step else None, name)
        if kept < count:
            lost = f"{count - kept} of the {count} records up to step {step} are not in {self.path / name}"
            warnings.warn(f"{lost}: the run goes on without them, and figures have a gap", stacklevel=3)

    def _sync_records(self) -> None:
        """Flush all records to disk. Call this before writing a file that counts them."""
        for path in self.path.glob("*.jsonl"):
            with path.open("ab") as file:
                os.fsync(file.fileno())

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the run's checkpoint by `state`."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._sync_records()
        write_atomically(self.path / CHECKPOINT, buffer.getbuffer())  # no copy: a replay memory has gigabytes

    def load_checkpoint(self, use: Callable[[dict[str, Any]], None], location: str | None = None) -> bool:
        """Pass the checkpoint to `use` and return True; return False if there is no checkpoint.

        Loads tensors and plain values only: no code in the file is executed. `location` is the device of the tensors;
        None takes that from which they were saved.

        Raises
        ------
        InputError
            If the checkpoint is damaged, or belongs to another model or run.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return False
        with self.checking_checkpoint():
            use(torch.load(path, weights_only=True, map_location=location))
        return True

    @contextmanager
    def checking_checkpoint(self) -> Iterator[None]:
        """Raise InputError, which names the checkpoint, if it turns out in this context that it cannot be used."""
        path = self.path / CHECKPOINT
        try:
            yield
        except InputError as error:  # undamaged, but from another model or run
            raise InputError(f"{path}: {error.name}", error.allowed, error.value, error.remedy) from error
        except (
            OSError,
            RuntimeError,
            pickle.UnpicklingError,
            EOFError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            remedy = "restore it from a copy, or start again with another --out"
            found = Received(f"one that fails with {type(error).__name__}")
            raise InputError(str(path), "an undamaged checkpoint of this run", found, remedy) from error

    def last_step(self) -> int:
        """Return the step of the checkpoint; 0 without one."""
        steps: list[int] = [0]
        self.load_checkpoint(lambda state: steps.append(state["training"]["position"][0]))
        return steps[-1]

    def finish(self, summary: TrainSummary | CompareSummary | TuneSummary) -> Any:
        """Write the summary, which ends the run for good, and return the summary as read from its file."""
        self._sync_records()
        write_atomically(self.path / SUMMARY, to_json(summary) + "\n")
        return self._json(SUMMARY)


def _object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`; raise ValueError if `text` is anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def is_unused(path: Path) -> bool:
    """Return whether a directory is missing, or empty except for files that a killed process left."""
    if not path.exists():
        return True
    left = {*temporary_files(path), path / LOCK}
    return all(each in left for each in path.iterdir())


def new_path(kind: str, task: str, *, resume: bool) -> Path:
    """Make the first free directory runs/KIND-TASK, runs/KIND-TASK-2, …; with `resume` return the last existing one.

    If none exists, `resume` returns the first path.
    """
    path, number = Path("runs") / f"{kind}-{task}", 1
    last = path
    while True:
        try:
            if not resume:  # made at once: otherwise another command that starts now would use the same path
                path.mkdir(parents=True)
                return path
        except FileExistsError:
            pass
        if resume and not path.exists():
            return last
        number += 1
        last, path = path, path.with_name(f"{kind}-{task}-{number}")
