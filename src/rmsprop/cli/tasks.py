"""`rmsprop tasks`: list the built-in tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.terminal import stdout

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from rmsprop.lab_tasks import TaskFacts

_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("task", "left"), ("model", "left"), ("training data", "right"), ("lr", "right"), ("test score", "right"),
    ("time", "right"),
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
    """Print a table with two lines for each task, for a window of 80 columns."""
    from rmsprop.lab_tasks import score_text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)
    for name, each in built_in.items():
        score = score_text(each.score, each.metric)
        seconds = "–" if each.seconds is None else f"{each.seconds:.0f} s"
        table.add_row(name, each.model, f"{each.examples[0]:,}", f"{each.lr:g}", score, seconds)
    lines = console.render_lines(table, pad=False)
    console.print(Text("".join(part.text for part in lines[0]).rstrip(), style="bold"))
    for line, each in zip(lines[1:], built_in.values(), strict=True):
        console.print("".join(part.text for part in line).rstrip(), markup=False)
        needs = each.needs().removeprefix("rmsprop[lab], ")
        console.print(f"  {each.predicts}; needs {needs}", markup=False, style="dim")
    console.print(
        "\nscore and time: median of three trainings in one thread:\n"
        "  rmsprop train TASK --lr LR --schedule linear\n"
        "with the recipe that --json names, if any; policies: steps of environments\n"
        "needs: pip install 'rmsprop[...]', and apt-get install what is Debian's\n"
        "rmsprop tasks --json has validation and test data, sources, licences and\n"
        "published scores.",
        markup=False,
    )
