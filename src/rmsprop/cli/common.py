"""What the commands share: where they print, their failure, and the words they were called with."""

from __future__ import annotations

import codecs
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from rmsprop.errors import InputError
from rmsprop.files import finite
from rmsprop.text import printable, printable_json

Flag = Annotated[bool, Parameter(negative="")]


class _Console(Console):
    """A console that shows no control characters in text of others."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments to be written. Rich adds its own control codes later."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is handled here, as other files do; rich's own way is to exit."""
        raise


# Results are as wide as they are: no table loses digits in a narrow window, or in a file.
stdout = _Console(highlight=False, soft_wrap=True, width=10_000)
stderr = _Console(stderr=True, highlight=False)
if stderr.width < 1:  # COLUMNS=0, in which rich shows nothing at all
    stderr.width = 80

arguments: list[str] = []  # of this invocation: what a report says it was made by, and how a run is resumed


class Failure(Exception):  # noqa: N818  (it carries an exit status, not an error)
    """The command did its work and the answer is no; what there is to say has been said."""


def command_line() -> str:
    """Return this invocation as a shell takes it; it is kept with what the command leaves, as UTF-8."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError("every argument", "text in UTF-8", word, "rename the file or directory") from None
    return shlex.join(["rmsprop", *arguments])


def say_how_to_resume(stop: BaseException) -> None:
    """Print why the command stopped, and the line that goes on."""
    words = [word for word in arguments if word not in ("--resume", "--accept-changes")]
    command = shlex.join(["rmsprop", *words, "--resume"])
    stderr.print(f"rmsprop: {stop}; go on with: {command}", markup=False, soft_wrap=True)


@contextmanager
def results_alone(as_json: bool) -> Iterator[None]:
    """With --json, send what a task or its workers print to standard error: standard output is for the result."""
    if not as_json:
        yield
        return
    output = os.dup(1)
    os.dup2(2, 1)  # of other processes and of libraries that are no Python
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(output, 1)
        os.close(output)


def print_result(as_json: bool, facts: dict[str, Any], show: Any) -> None:
    """Print the facts as JSON, or call `show`."""
    if not as_json:
        show()
        return
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    text = json.dumps(finite(facts), ensure_ascii=encoding != "utf-8", indent=2, allow_nan=False)
    print(printable_json(text))
