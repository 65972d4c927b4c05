"""The command line: parse the arguments, call the command, return an exit status.

Exit status: 0 success, 1 failure, 2 bad input, 130 interrupted, 141 broken pipe.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from importlib import import_module

from cyclopts import App, CycloptsError, UnknownOptionError

from rmsprop import __version__
from rmsprop.cli.common import Failure, Invocation, ScriptEnded, ToldByFirst, complain
from rmsprop.cli.help_text import joined
from rmsprop.cli.run import separated
from rmsprop.cli.terminal import IN_ASCII, Terminal, stderr
from rmsprop.cli.unknown_option import described
from rmsprop.errors import InputError
from rmsprop.lab_options import CompareOptions, FindLrOptions, TrainOptions, TuneOptions

# Each command is the function of this name, in the module of this name beside this one.
COMMANDS = (
    "train",
    "compare",
    "tune",
    "find_lr",
    "report",
    "explain",
    "recipes",
    "tasks",
    "claims",
    "convert",
    "bench",
    "doctor",
    "run",
    "watch",
    "page",
)
app = App(
    name="rmsprop",
    version=__version__,
    help="RMSprop: train with it, compare it with other optimizers, see what it does.",
    help_format="plaintext",
    console=Terminal(),
    help_epilogue="Start with: rmsprop compare digits\nEvery command explains itself: rmsprop COMMAND --help",
)
for _options in (TrainOptions, CompareOptions, FindLrOptions, TuneOptions):
    _options.__doc__ = joined(_options.__doc__)
for _name in COMMANDS:
    _command = getattr(import_module(f"rmsprop.cli.{_name}"), _name)
    _command.__doc__ = joined(_command.__doc__)
    app.command(_command)
app.register_install_completion_command(help="Install completion of commands and options for this shell.")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    if sys.stderr is None:  # closed: the next opened file would get its file descriptor
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        complain("standard output must be open, got a closed one; send it to /dev/null to see nothing")
        return 2
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] != ["run"]:  # a script has its own streams and warnings
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=IN_ASCII)
        warnings.showwarning = lambda text, *_: stderr.print(f"rmsprop: note: {text}", markup=False)
    try:
        _call(words)
        sys.stdout.flush()
    except CycloptsError as error:
        what = described(error) if isinstance(error, UnknownOptionError) else str(error).strip().removesuffix(".")
        complain(f"{what}; see rmsprop --help")
        return 2
    except InputError as error:
        complain(error)
        return 2
    except ModuleNotFoundError as error:
        if "pip install" not in str(error):
            raise
        complain(error)
        return 1
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # Python flushes both when it ends, which would fail again
            os.dup2(nowhere, stream.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}; existing files are unchanged")
        return 1
    except ScriptEnded as end:
        return end.status
    except Failure:
        return 1
    except ToldByFirst:
        return 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        complain(f"the task ended the program with sys.exit({error.code!r}); let it raise an error, or return")
        return 1
    return 0


def _call(words: list[str]) -> None:
    """Call the command of these arguments with its options, and with its `Invocation` if it has such a parameter."""
    words = separated(words) if words[:1] == ["run"] else words
    command, bound, unparsed = app.parse_args(words, exit_on_error=False, print_error=False)
    for name in unparsed:
        bound.arguments[name] = Invocation(tuple(words))
    command(*bound.args, **bound.kwargs)
