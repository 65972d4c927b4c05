"""Python in a process of its own that has torch: forked from a server, it starts in milliseconds instead of seconds."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType


class Python:
    """A process that runs `code` as `python -c code arguments` does, in this folder, with more environment variables.

    The server imports torch, see conftest.py. The code's own imports of torch find it.
    """

    def __init__(self, code: str, *arguments: str, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        given = code, arguments, os.getcwd(), {**os.environ, **environment}, *map(str, self._outputs)
        self._process = multiprocessing.get_context("forkserver").Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or None as long as the process runs."""
        return self._process.exitcode

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end. Return the exit status, standard output and standard error."""
        self._process.join()
        assert self._process.exitcode is not None
        done = subprocess.CompletedProcess(
            "python", self._process.exitcode, *(path.read_text() for path in self._outputs)
        )
        self._folder.cleanup()
        return done


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return how `code` ended. Every warning is an error."""
    return Python("import warnings; warnings.simplefilter('error')\n" + code, **environment).finish()


def _run(code: str, arguments: tuple[str, ...], folder: str, environment: dict[str, str], *outputs: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
    sys.argv = ["-c", *arguments]
    sys.modules["__main__"] = main = ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(main))
