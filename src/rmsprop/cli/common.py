"""What commands share: their invocation, their failure, and how their results are printed."""

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
        help=f"A built-in task ({', '.join(TASKS)}), or path/to/file.py:function, which returns a rmsprop.lab.Task."
    ),
]
# Each field of a dataclass of `rmsprop.lab_options` is an option.
FLAT = Parameter(name="*", negative="", consume_multiple=True, name_transform=option_name)


class Failure(Exception):  # noqa: N818  (it carries an exit status, not an error)
    """The command ran, and its answer is no. Everything about that is printed already."""


@dataclass(frozen=True)
class Invocation:
    """The words that a command was called with."""

    words: tuple[str, ...]

    def command_line(self) -> str:
        """Return the words as a line for a shell, which a run keeps in UTF-8; InputError if a word is not text."""
        for word in self.words:
            try:
                word.encode()
            except UnicodeEncodeError:
                raise InputError("every argument", "text in UTF-8", word, "rename the file or directory") from None
        return shlex.join(["rmsprop", *self.words])

    def to_resume(self) -> str:
        """Return the command line that resumes the run of this one."""
        words = [word for word in self.words if word not in ("--resume", "--accept-changes")]
        return shlex.join(["rmsprop", *words, "--resume"])


# A command gets its invocation in a parameter of this type, which is no option.
Invoked: TypeAlias = Annotated[Invocation, Parameter(parse=False)]


@contextmanager
def lab_run(as_json: bool, invocation: Invocation | None = None) -> Iterator[None]:
    """Run the lab in this context; when it is interrupted, print the command that resumes the run of `invocation`.

    With --json the lab's own prints go to standard error. Leave `invocation` out if the run cannot be resumed.
    """
    from rmsprop.lab.runs.interrupts import Interrupted
    from rmsprop.lab.runs.workers import WorkerLost

    resume = f"; go on with: {invocation.to_resume()}" if invocation else ""
    try:
        with results_alone(as_json):
            yield
    except (Interrupted, WorkerLost) as stop:
        complain(f"{stop}{resume}")
        raise (KeyboardInterrupt if isinstance(stop, Interrupted) else Failure) from None


def complain(problem: object) -> None:
    """Print what went wrong, on one line."""
    stderr.print(f"rmsprop: {' '.join(str(problem).split())}", markup=False)


@contextmanager
def results_alone(as_json: bool) -> Iterator[None]:
    """With --json, send what a task and its workers print to standard error: standard output is for the result."""
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
    """Write the report of a run and print its result. On a full disk the result comes first, then the error."""
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
