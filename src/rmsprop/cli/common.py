"""Shared code of the commands: invocation, failure, and printing of results."""

from __future__ import annotations

import codecs
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from rmsprop.cli.terminal import stderr, stdout
from rmsprop.errors import InputError
from rmsprop.files import finite
from rmsprop.lab_options import TASKS, option_name
from rmsprop.lab_tasks import check_task_name
from rmsprop.text import printable_json

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rmsprop.lab.runs.directory import RunDirectory

# Annotations of a command's parameters: an option without a value, and the task to train.
Flag = Annotated[bool, Parameter(negative="")]
TaskName = Annotated[
    str,
    Parameter(
        help=f"A built-in task ({', '.join(TASKS)}; rmsprop tasks describes them), or path/to/file.py:function, which "
        "returns a rmsprop.lab.Task."
    ),
]


def check_tasks(*names: str) -> None:
    """Refuse a wrong name at once, before torch is imported. Of several processes, the first refuses it later."""
    if "RANK" not in os.environ:
        for name in names:
            check_task_name(name)


# For a parameter whose type is a dataclass of `rmsprop.lab_options`: each field is an option.
FLAT = Parameter(name="*", negative="", consume_multiple=True, name_transform=option_name)


class Failure(Exception):  # noqa: N818  (stands for an exit status, not an error)
    """The command ran, but its result is a failure that it has printed: exit status 1."""


class ToldByFirst(Exception):  # noqa: N818  (stands for an exit status, not an error)
    """Rank 0 of several processes says why the command ended, and has its exit status: exit status 0 here.

    torchrun ends the others as soon as one fails, and rank 0 may have more to write.
    """


class ScriptEnded(Exception):  # noqa: N818  (stands for an exit status, not an error)
    """A script under `rmsprop run` has ended."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass(frozen=True)
class Invocation:
    """The arguments that a command was called with."""

    words: tuple[str, ...]

    def command_line(self) -> str:
        """Return the command as a line for a shell.

        Raises InputError if an argument is no text: runs keep this line in UTF-8.
        """
        for word in self.words:
            try:
                word.encode()
            except UnicodeEncodeError:
                raise InputError("every argument", "text in UTF-8", word, "rename the file or directory") from None
        return shlex.join(["rmsprop", *self.words])

    def to_resume(self) -> str:
        """Return the command line that resumes the run of this command, under torchrun if that has started it."""
        words = [word for word in self.words if word not in ("--resume", "--accept-changes")]
        count = os.environ.get("LOCAL_WORLD_SIZE", "1")  # set by torchrun; another host may have another number
        started = ["rmsprop"] if count == "1" else ["torchrun", "--nproc-per-node", count, "-m", "rmsprop"]
        return shlex.join([*started, *words, "--resume"])


# A parameter of this type receives the command's invocation and is no option.
Invoked: TypeAlias = Annotated[Invocation, Parameter(parse=False)]


@contextmanager
def lab_run(as_json: bool, invocation: Invocation | None = None) -> Iterator[None]:
    """Run the lab in this context. If a run is interrupted, print the command that resumes it.

    Leave `invocation` out if the run cannot be resumed. With `as_json`, prints of the lab go to standard error.
    """
    from rmsprop.lab.processes import ProcessLost, ToldElsewhere, end_gently, several
    from rmsprop.lab.runs.interrupts import Interrupted
    from rmsprop.lab.runs.workers import WorkerLost

    if several():
        end_gently()
    resume = f"; go on with: {invocation.to_resume()}" if invocation else ""
    try:
        with results_alone(as_json):
            yield
    except ToldElsewhere as told:
        raise (Failure if told.lost else ToldByFirst) from None
    except (Interrupted, ProcessLost, WorkerLost) as stop:
        complain(f"{stop}{resume}")
        raise (KeyboardInterrupt if isinstance(stop, Interrupted) else Failure) from None


def complain(problem: object) -> None:
    """Print a problem to standard error, on one line."""
    stderr.print(f"rmsprop: {' '.join(str(problem).split())}", markup=False)


@contextmanager
def results_alone(as_json: bool) -> Iterator[None]:
    """With `as_json`, send prints of a task and its workers to standard error: standard output is for the result."""
    if not as_json:
        yield
        return
    output = os.dup(1)
    os.dup2(2, 1)  # for other processes, and for libraries that are not Python
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(output, 1)
        os.close(output)


def print_result(as_json: bool, facts: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Print the facts as JSON, or call `show`."""
    if not as_json:
        show()
        return
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    text = json.dumps(finite(dict(facts)), ensure_ascii=encoding != "utf-8", indent=2, allow_nan=False)
    print(printable_json(text))


def print_with_report(
    as_json: bool,
    run: RunDirectory,
    summary: Mapping[str, Any],
    show: Callable[[Console, RunDirectory, Path | None], None],
) -> None:
    """Write the report of a run and print the run's result. If writing fails, raise the error after printing."""
    from rmsprop.lab.report.page import write_report

    report, failed = None, None
    try:
        report = write_report(run)
    except OSError as error:
        failed = error
    facts = {**summary, "directory": str(run.path), "report": None if report is None else str(report)}
    print_result(as_json, facts, lambda: show(stdout, run, report))
    if failed is not None:
        raise failed
