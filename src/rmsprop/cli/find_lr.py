"""`rmsprop find-lr`: a learning rate for a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from rmsprop.cli.common import Failure, Flag, Invoked, lab_run, print_result
from rmsprop.cli.rule_options import NO_RATELESS, RatelessOptions, rule_without_rate
from rmsprop.cli.terminal import Bars, stderr, stdout


def find_lr(
    task: str,
    /,
    *,
    options: RatelessOptions = NO_RATELESS,
    from_: Annotated[float, Parameter(name="--from")] = 1e-6,
    to: float = 1.0,
    steps: int = 100,
    seeds: int = 3,
    warm: int | None = None,
    batch_size: int | None = None,
    out: Path | None = None,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """Find a learning rate for TASK: train a little with ever higher ones.

    First steps with a rate of 0 fill the averages. Then the rate rises, again
    and again from the same start, each time with another order of the data.
    Where the losses give no clear answer, it says why; exit status 1.

    Try:
      rmsprop find-lr digits
      rmsprop find-lr mnist --decay 0.9 --momentum 0.9
      rmsprop find-lr my_task.py:make --from 1e-8 --to 0.1 --seeds 5

    Parameters
    ----------
    task
        A built-in task (digits, mnist, shakespeare), or path/to/file.py:function, which returns a rmsprop.lab.Task.
    from_
        Lowest rate.
    to
        Highest rate, at least 100 times the lowest.
    steps
        Steps from the one to the other, for each seed; from 1e-6 to 1 at least 81.
    seeds
        How often the rate rises.
    warm
        Steps with a rate of 0; 2/(1-decay), or 2/(1-momentum) if more, at most 500, if left out.
    batch_size
        Examples per step; the task's own number if left out.
    out
        Directory of find-lr.json and find-lr.svg; runs/find-lr-TASK, numbered, if left out.
    json
        Print the result as JSON.
    """
    from rmsprop.lab.find_lr import find_lr as test_range

    rule = rule_without_rate(options, "it is what is looked for: give the range as --from and --to")
    with lab_run(json), RangeTestProgress(stderr) as progress:
        directory, found = test_range(
            task, rule, lowest=from_, highest=to, steps=steps, seeds=seeds, warm=warm, batch_size=batch_size,
            out=out, command=invocation.command_line(), listen=progress.listen,
        )  # fmt: skip
    print_result(json, {**found, "directory": str(directory)}, lambda: show_range_test(stdout, found, directory))
    if found["lr"] is None:
        raise Failure


class RangeTestProgress(Bars):
    """The progress of a range test: a bar of steps on a terminal, elsewhere a line for every quarter of them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = self.add_task("testing rates", total=None, news="")

    def listen(self, done: int, total: int) -> None:
        """Show how many steps are done."""
        self.update(self._bar, completed=done, total=total)
        if not self.console.is_terminal and done % max(1, total // 4) == 0:
            self.console.print(f"testing rates: {done} of at most {total} steps")


def show_range_test(console: Console, found: dict[str, Any], directory: Path) -> None:
    """Print which rate `find-lr` suggests and why, or why none."""
    head = "no suggestion: the curve is unclear" if found["lr"] is None else f"suggested lr: {found['lr']:g}"
    console.print(head, markup=False, style="bold")
    console.print(found["reason"], markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"steps with a rate of 0 before: {found['warm_steps']}", markup=False)
    console.print(f"figure: {directory / 'find-lr.svg'}", markup=False)
