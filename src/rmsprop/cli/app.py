"""The command line: parse, call, print. What the commands do is in commands/.

Exit status 0 on success, 1 on failure, 2 on bad input, 130 when stopped, 141 when the reader of its output has left.
"""

from __future__ import annotations

import io
import os
import sys
import warnings

from cyclopts import App, CycloptsError

from rmsprop import __version__
from rmsprop.cli import checks, common, rules, training
from rmsprop.cli.common import Failure, stderr
from rmsprop.errors import InputError

app = App(
    name="rmsprop",
    version=__version__,
    help="RMSprop: train with it, compare it with other optimizers, see what it does.",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # cyclopts would turn it into SystemExit, which is a task's own way to end
    help_epilogue="Start with: rmsprop compare digits\nEvery command explains itself: rmsprop COMMAND --help",
)
for command in (
    training.train, training.compare, training.find_lr, training.report,
    rules.explain, rules.recipes, rules.convert,
    checks.bench, checks.doctor,
):  # fmt: skip
    app.command(command)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    common.arguments[:] = sys.argv[1:] if arguments is None else arguments
    if sys.stderr is None:  # closed by whoever started this; else the first file that is opened would take its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        _complain("standard output must be open, got a closed one; send it to /dev/null to see nothing")
        return 2
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no η shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.showwarning = lambda text, *_: stderr.print(f"rmsprop: note: {text}", markup=False, soft_wrap=True)
    try:
        app(common.arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        _complain(f"{str(error).strip().removesuffix('.')}; see rmsprop --help")
        return 2
    except InputError as error:
        _complain(error)
        return 2
    except ModuleNotFoundError as error:
        if "pip install" not in str(error):
            raise
        _complain(error)
        return 1
    except BrokenPipeError:  # whoever reads has seen enough, as head does
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # whichever it was: Python flushes both once more at its end
            os.dup2(nowhere, stream.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}; what was there before is untouched")
        return 1
    except Failure:
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        _complain(f"the task ended the program with sys.exit({error.code!r}); let it raise an error, or return")
        return 1
    return 0


def _complain(problem: object) -> None:
    text = " ".join(str(problem).split())  # one line, whatever the source
    stderr.print(f"rmsprop: {text}", markup=False, soft_wrap=True)
