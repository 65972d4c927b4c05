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
from rmsprop.commands import checks, common, rules, training
from rmsprop.commands.common import Failure, stderr
from rmsprop.errors import InputError

app = App(
    name="rmsprop",
    version=__version__,
    help="RMSprop: train with it, compare it with other optimizers, see what it does.",
    help_format="plaintext",
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
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no η shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.showwarning = lambda text, *_: stderr.print(f"rmsprop: note: {text}", markup=False)
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}; what was there before is untouched")
        return 1
    except Failure:
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _complain(problem: object) -> None:
    text = " ".join(str(problem).split())  # one line, whatever the source
    stderr.print(f"rmsprop: {text}", markup=False, soft_wrap=True)
