"""Find a task: by name, in a file, or one that was made in Python."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from rmsprop.errors import InputError, Received
from rmsprop.lab.random_state import seed_everything
from rmsprop.lab.task import EXAMPLE, Task, kind_of
from rmsprop.lab.user_code import described_error
from rmsprop.lab_options import TASKS
from rmsprop.lab_tasks import check_task_name


def load_task(spec: str | Task) -> Task:
    """Return the task that `spec` names: a built-in one, or `path/to/file.py:function`. A Task is returned as it is.

    The global random generators are seeded with 0 before the file and the function run. A task with random data is
    therefore the same in every process, and when a run is resumed.

    Raises
    ------
    InputError
        If there is no such task, or its file or function fails.
    """
    if isinstance(spec, Task):
        return spec
    seed_everything(0)
    if spec in TASKS:
        name = spec.replace("-", "_")
        task = getattr(importlib.import_module(f"rmsprop.lab.tasks.{name}"), name)()
        assert isinstance(task, Task)  # noqa: S101
        return task
    check_task_name(spec)
    path, _, function = spec.rpartition(":")
    module_ = import_file(Path(path), "the task's file")
    made = getattr(module_, function, None)
    if not callable(made):
        functions = [
            k for k, v in vars(module_).items() if callable(v) and getattr(v, "__module__", "") == module_.__name__
        ]
        found = Received(f"{function!r}; it defines {', '.join(functions) or 'none'}")
        raise InputError(f"the function after {path}:", "one that the file defines", found, EXAMPLE)
    try:
        task = made()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        allowed = "a function that runs without arguments"
        raise InputError(f"task {spec}", allowed, described_error(error), EXAMPLE) from error
    if not isinstance(task, Task):
        raise InputError(f"what {spec} returns", "a rmsprop.lab.Task", kind_of(task), EXAMPLE)
    return task


def import_file(path: Path, described: str) -> Any:
    """Return the module of a user's file, which messages call `described`; InputError if it cannot be imported."""
    try:
        path.read_bytes()
    except OSError as error:
        found = Received(f"{path}: {error.strerror}")
        raise InputError(described, "a readable Python file", found, "check the path") from None
    name = f"rmsprop_task_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    found_spec = importlib.util.spec_from_file_location(name, path)
    assert found_spec is not None  # noqa: S101
    assert found_spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(found_spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as for a script: the file and its functions may import modules beside it
    try:
        found_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        allowed = "one that Python can import"
        raise InputError(f"{described} {path}", allowed, described_error(error), "correct the file") from error
    return module
