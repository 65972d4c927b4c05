"""Run a script or a module as Python itself would, in this process; spawned workers get the same optimizers."""

from __future__ import annotations

import builtins
import importlib.util
import io
import json
import os
import runpy
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from rmsprop.errors import InputError

_KEY = "RMSPROP_RUN"  # environment variable, for spawned workers
_STUB = Path(__file__).with_name("spawned_main.py")
_OWN = (__file__, str(_STUB), runpy.__file__, "<frozen runpy>")


class Program(NamedTuple):
    """What `rmsprop run` runs: the path of a script, or the name of a module."""

    name: str
    is_module: bool
    arguments: tuple[str, ...]

    def check(self) -> None:
        """Raise InputError unless it exists."""
        if self.is_module:
            package = self.name.partition(".")[0]  # a search for what is in it would import it, before `install`
            sys.path.insert(0, os.getcwd())
            try:
                found = importlib.util.find_spec(package)
            except ValueError:  # of ".name"
                found = None
            finally:
                del sys.path[0]
            if found is None:
                raise InputError("-m", "the name of a module", self.name, "check the name, and the directory")
        elif not Path(self.name).exists():
            raise InputError("SCRIPT", "a file", self.name, "options of rmsprop run come before the script")

    def run(self, settings: dict[str, Any]) -> int | None:
        """Run it as `__main__` and return its exit status, None after Ctrl-C. Prints tracebacks as Python does.

        `settings` are the arguments of `rmsprop.torch.install` for spawned workers.
        """
        sys.argv = [self.name, *self.arguments]
        if not sys.flags.safe_path:
            sys.path[0] = os.getcwd() if self.is_module else str(Path(self.name).resolve().parent)
        main = sys.modules["__main__"] = sys.modules["__mp_main__"] = ModuleType(
            "__main__"
        )  # also for what workers send
        _install_in_spawned(self, settings)
        try:
            if self.is_module:
                runpy._run_module_as_main(self.name)  # type: ignore[attr-defined]  # what `python -m` calls
            else:
                _execute(os.path.abspath(self.name), main.__dict__)
        except SystemExit as end:
            return _status(end)
        except BaseException as error:
            raised = error.with_traceback(_of_program(error.__traceback__))
        else:
            return 0
        return _print_exception(raised)  # out of the except clause, so that an error of a hook has no context


def _execute(path: str, names: dict[str, Any]) -> None:
    if Path(path).is_dir() or zipfile.is_zipfile(path):
        names.update(runpy.run_path(path, run_name=names["__name__"]))
        return
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)  # no __future__ of this module
    names |= {"__file__": path, "__cached__": None, "__builtins__": builtins}  # as Python has them
    names["__loader__"] = SourceFileLoader(names["__name__"], path)
    exec(code, names)  # noqa: S102  (what the user asked for)


def _status(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _print_exception(raised: BaseException) -> int | None:
    """Call `sys.excepthook` as Python does, and return the exit status."""
    sys.last_type, sys.last_value, sys.last_traceback = type(raised), raised, raised.__traceback__
    sys.last_exc = raised  # type: ignore[attr-defined]  # from Python 3.12 on
    try:
        sys.excepthook(type(raised), raised, raised.__traceback__)
    except SystemExit as end:
        return _status(end)
    except BaseException as error:
        for title, each in (("Error in sys.excepthook", error), ("\nOriginal exception was", raised)):
            print(f"{title}:", file=sys.stderr)
            trace = _of_program(each.__traceback__)
            sys.__excepthook__(type(each), each.with_traceback(trace), trace)
    return None if isinstance(raised, KeyboardInterrupt) else 1


def _of_program(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the program's own first frame on."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _OWN:
        trace = trace.tb_next
    return trace


def _install_in_spawned(program: Program, settings: dict[str, Any]) -> None:
    """Let processes that multiprocessing spawns import `spawned_main` in place of the program, which imports it."""
    main = program.name if program.is_module else os.path.abspath(program.name)
    os.environ[_KEY] = json.dumps({"name": main, "is_module": program.is_module, "settings": settings})
    original = spawn.get_preparation_data

    def prepared(name: str) -> dict[str, Any]:
        data: dict[str, Any] = original(name)
        if main in (data.pop("init_main_from_name", None), data.get("init_main_from_path")):
            data["init_main_from_path"] = str(_STUB)
        return data

    spawn.get_preparation_data = prepared


def in_spawned(names: dict[str, Any]) -> None:
    """Replace the optimizers in a spawned process, and execute the program's main module in `names`."""
    from rmsprop.torch.install import replace

    found = json.loads(os.environ[_KEY])
    replace(**found["settings"])
    if found["is_module"]:
        names.update(runpy.run_module(found["name"], run_name=names["__name__"], alter_sys=True))
    else:
        _execute(found["name"], names)
