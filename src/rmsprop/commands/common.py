"""What the commands share: where they print, their failure, and the words they were called with."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from rmsprop.files import finite

Flag = Annotated[bool, Parameter(negative="")]
stdout, stderr = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)

arguments: list[str] = []  # of this invocation: what a report says it was made by, and how a run is resumed


class Failure(Exception):  # noqa: N818  (it carries an exit status, not an error)
    """The command did its work and the answer is no; what there is to say has been said."""


def command_line() -> str:
    """Return this invocation as a shell takes it."""
    return shlex.join(["rmsprop", *arguments])


def say_how_to_resume(stop: BaseException) -> None:
    """Print why the command stopped, and the line that goes on."""
    command = command_line() + ("" if "--resume" in arguments else " --resume")
    stderr.print(f"rmsprop: {stop}; go on with: {command}", markup=False, soft_wrap=True)


def print_result(as_json: bool, facts: dict[str, Any], show: Any) -> None:
    """Print the facts as JSON, or call `show`."""
    if not as_json:
        show()
        return
    print(json.dumps(finite(facts), ensure_ascii=False, indent=2, allow_nan=False))
