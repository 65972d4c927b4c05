"""`rmsprop find-lr`: find a learning rate for a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console

from rmsprop.cli.common import FLAT, Failure, Flag, Invoked, TaskName, check_tasks, lab_run, print_result
from rmsprop.cli.rule_options import RatelessOptions, rule_without_rate
from rmsprop.cli.terminal import Bars, stderr, stdout
from rmsprop.lab_options import FindLrOptions

if TYPE_CHECKING:
    from pathlib import Path


def find_lr(
    task: TaskName,
    /,
    *,
    rule: RatelessOptions = None,
    options: Annotated[FindLrOptions | None, FLAT] = None,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """Find a learning rate for TASK: train while the rate rises.

    First, steps with a rate of 0 fill the averages. Then the rate rises, several
    times from the same start, each time with another order of the data.

    Exit status 1 if the losses give no clear answer; the output says why.

    Try:
      rmsprop find-lr digits
      rmsprop find-lr mnist --decay 0.9 --momentum 0.9
      rmsprop find-lr my_task.py:make --from 1e-8 --to 0.1 --seeds 5

    Parameters
    ----------
    json
        Print the result as JSON.
    """
    check_tasks(task)
    from rmsprop.lab.range_test import find_lr as test_range

    described = rule_without_rate(rule, "find-lr looks for it: give the range as --from and --to")
    with lab_run(json), RangeTestProgress(stderr) as progress:
        directory, found = test_range(
            task, described, options, command=invocation.command_line(), listen=progress.listen
        )
    print_result(json, {**found, "directory": str(directory)}, lambda: show_range_test(stdout, found, directory))
    if found["lr"] is None:
        raise Failure


class RangeTestProgress(Bars):
    """Show the progress of a range test: a bar on a terminal, a line per quarter of the steps elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = self.add_bar("testing rates")

    def listen(self, done: int, total: int) -> None:
        """Show the number of steps done."""
        self.update(self._bar, completed=done, total=total)
        if not self.console.is_terminal and done % max(1, total // 4) == 0:
            self.console.print(f"testing rates: {done} of at most {total} steps")


def show_range_test(console: Console, found: dict[str, Any], directory: Path) -> None:
    """Print the suggested rate and its reason, or why there is none."""
    head = "no suggestion: the curve is unclear" if found["lr"] is None else f"suggested lr: {found['lr']:g}"
    console.print(head, markup=False, style="bold")
    console.print(found["reason"], markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"warm-up steps at a rate of 0: {found['warm_steps']}", markup=False)
    console.print(f"figure: {directory / 'find-lr.svg'}", markup=False)
