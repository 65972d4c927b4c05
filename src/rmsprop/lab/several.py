"""Compare on several tasks: one comparison each, and a summary of who wins where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.lab.comparison import Listener, compare
from rmsprop.lab.find_task import load_task
from rmsprop.lab.report.page import write_page
from rmsprop.lab.report.several import several_content
from rmsprop.lab.run import Run
from rmsprop.lab.runs.directory import CONFIG, REPORT, SUMMARY, RunDirectory, is_unused, new_path, to_json
from rmsprop.lab.task import Task
from rmsprop.lab_options import CompareOptions
from rmsprop.rule import Rule

SEVERAL = "tasks.json"  # the summary, beside the comparisons' directories


class Comparisons(NamedTuple):
    """Comparisons on several tasks.

    Attributes
    ----------
    path
        The directory that holds a directory for each task, tasks.json and report.html.
    runs
        The comparison of each task, in their order.
    """

    path: Path
    runs: list[Run]

    @property
    def summaries(self) -> list[Any]:
        """The CompareSummary of each task."""
        return [run.summary for run in self.runs]


def compare_on(
    specs: Sequence[str | Task],
    rule: Rule | None = None,
    options: CompareOptions | None = None,
    *,
    command: str = "",
    listen: Callable[[str], Listener] = lambda _task: lambda _stage, _done, _total, _row: None,
    **keywords: Any,
) -> Comparisons:
    """Compare `rule` with other optimizers on each of the tasks.

    Arguments are those of `compare`; `listen` returns the listener of a task. `out` is the directory of all, and
    `resume` goes on with those that are not finished.

    Raises
    ------
    InputError
        Where `compare` does, for any of the tasks, before the first training; or if two tasks have one name.
    """
    options = dataclasses.replace(options or CompareOptions(), **keywords)
    tasks = [load_task(spec) for spec in specs]
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise InputError("the tasks", "of different names", names, "give each Task a name of its own")
    if options.out is not None and not options.resume and not is_unused(options.out):
        found = Received(f"{options.out}, which holds other files")
        raise InputError("--out", "a new or empty directory", found, "choose another --out, or add --resume")
    for task in tasks:
        task.try_out()
    path = options.out or new_path("compare", "-".join(names), resume=options.resume)
    runs = []
    for spec, name in zip(specs, names, strict=True):
        out = path / name
        if options.resume and (out / SUMMARY).exists():
            directory = RunDirectory(out)
            runs.append(Run(directory, directory.summary()))
            continue
        begun = options.resume and (out / CONFIG).exists()
        accept = options.accept_changes and begun  # a comparison that is new takes any task
        one = dataclasses.replace(options, out=out, resume=begun, accept_changes=accept)
        runs.append(compare(spec, rule, one, command=command, listen=listen(name)))
    facts = {"command": command, "tasks": {name: run.summary for name, run in zip(names, runs, strict=True)}}
    write_atomically(path / SEVERAL, to_json(facts) + "\n")
    write_page(several_content(runs), path / REPORT)
    return Comparisons(path, runs)
