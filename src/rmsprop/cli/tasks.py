"""`rmsprop tasks`: list the built-in tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.terminal import print_table, stdout

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from rmsprop.lab_tasks import TaskFacts

_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("task", "left"), ("predicts", "left"), ("model", "left"), ("train, validation, test", "right"), ("lr", "right"),
    ("test score", "right"), ("time", "right"), ("needs", "left"),
)  # fmt: skip


def tasks(*, json: Flag = False) -> None:
    """List the built-in tasks: data, model, size, and the score that RMSprop reaches.

    Any of them is a TASK of train, compare and find-lr.

    Try:
      rmsprop tasks
      rmsprop train vowels --lr 0.01 --schedule linear

    Parameters
    ----------
    json
        Print the tasks with sources, licences and published scores as JSON.
    """
    from rmsprop.lab_tasks import BUILT_IN

    print_result(json, {name: each.facts() for name, each in BUILT_IN.items()}, lambda: show_tasks(stdout, BUILT_IN))


def show_tasks(console: Console, built_in: Mapping[str, TaskFacts]) -> None:
    """Print a table with a line for each task."""
    from rmsprop.lab_tasks import score_text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)
    for name, each in built_in.items():
        examples = ", ".join(f"{count:,}" for count in each.examples)
        score = score_text(each.score, each.metric)
        seconds = "–" if each.seconds is None else f"{each.seconds:.0f} s"
        table.add_row(name, each.predicts, each.model, examples, f"{each.lr:g}", score, seconds, escape(each.needs()))
    print_table(console, table)
    console.print(
        "\nscore and time: median of three trainings in one thread, rmsprop train TASK --lr LR --schedule linear\n"
        "policies (return): beside --recipe a2c-baselines; sizes are steps of the environments, and episodes\n"
        "needs: pip install 'rmsprop[...]' and apt-get install what is Debian's\n"
        "rmsprop tasks --json has sources, licences and published scores.",
        markup=False,
    )
