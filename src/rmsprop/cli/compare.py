"""`rmsprop compare`: compare RMSprop with other optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmsprop.cli.common import FLAT, Flag, Invoked, TaskName, check_tasks, lab_run, print_result, print_with_report
from rmsprop.cli.rule_options import RatelessOptions, rule_without_rate
from rmsprop.cli.terminal import Bars, print_table, stderr, stdout
from rmsprop.lab_options import CompareOptions

if TYPE_CHECKING:
    from pathlib import Path

    from rmsprop.lab.comparison import Listener
    from rmsprop.lab.runs.directory import RunDirectory
    from rmsprop.lab.runs.schema import TrialRow
    from rmsprop.lab.several import Comparisons

MoreTasks = Annotated[str, Parameter(help="Other tasks, compared one after the other.")]

_STAGES = {"tune": "picking learning rates", "final": "comparing"}


def compare(
    task: TaskName,
    /,
    *more: MoreTasks,
    rule: RatelessOptions = None,
    options: Annotated[CompareOptions | None, FLAT] = None,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """Compare RMSprop with SGD, momentum, AdaGrad, Adadelta and Adam on TASK.

    On several tasks, a table says who wins where.

    RMSprop follows the rule that you give. The others have PyTorch's defaults;
    momentum is SGD with a momentum of 0.9. With --ablate, the rules from yours
    to Adam are compared instead, one switch at a time.

    All optimizers try the same grid of learning rates. Each gets the rate that
    does best on validation data. Then all train with other seeds. A seed fixes
    the model's start and the order of the data: test scores are compared seed
    by seed.

    Try:
      rmsprop compare digits
      rmsprop compare digits --bias-correction
      rmsprop compare digits letters vowels movies --quick
      rmsprop compare mnist --seeds 5 --epochs 4
      rmsprop compare digits --ablate
      rmsprop compare digits --optimizers Adam AdamW
      rmsprop compare my_task.py:make --lrs 0.001 0.01 0.1 --json

    Parameters
    ----------
    json
        Print the summary as JSON.
    """
    check_tasks(task, *more)
    from rmsprop.lab.comparison import compare as run_comparison

    described = rule_without_rate(rule, "compare picks the rate of every optimizer: give the grid as --lrs")
    with lab_run(json, invocation), ComparisonProgress(stderr) as progress:
        if more:
            from rmsprop.lab.several import compare_on

            found = compare_on(
                [task, *more], described, options, command=invocation.command_line(), listen=progress.on_task
            )
        else:
            run, summary = run_comparison(
                task, described, options, command=invocation.command_line(), listen=progress.listen
            )
    if more:
        facts = {"directory": str(found.path), "tasks": {s["task"]: s for s in found.summaries}}
        print_result(json, facts, lambda: show_several(stdout, found))
        return
    print_with_report(json, run, summary, show_comparison)


class ComparisonProgress(Bars):
    """Show the progress of a comparison: a bar per stage on a terminal, a line per quarter of a stage elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = {stage: self.add_bar(words) for stage, words in _STAGES.items()}

    def on_task(self, task: str) -> Listener:
        """Return the listener of one of several tasks."""
        if not self.console.is_terminal:
            self.console.print(f"{task}:", markup=False)

        def listen(stage: str, done: int, total: int, row: TrialRow | None) -> None:
            self.listen(stage, done, total, row)
            self.update(self._bars[stage], news=task)

        return listen

    def listen(self, stage: str, done: int, total: int, row: TrialRow | None) -> None:
        """Show the number of trainings done in a stage, and the newest."""
        news = f"{row['optimizer']} at {row['lr']:g}" if row and done < total else ""
        self.update(self._bars[stage], completed=done, total=total, news=news)
        if not self.console.is_terminal and (row is None or done % max(1, total // 4) == 0 or done == total):
            self.console.print(f"{_STAGES[stage]}: {done} of {total} trainings")


def show_several(console: Console, found: Comparisons) -> None:
    """Print a table of the scores on each task, who wins where, and the path of the report."""
    from rmsprop.lab.report.several import describe_several, verdict_table

    header, rows = verdict_table(found.summaries)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row), style="bold" if row[0] == "RMSprop" else None)
    print_table(console, table)
    console.print("\n+ better than RMSprop, − worse, = no difference shown\n", markup=False)
    for line in describe_several(found.summaries):
        console.print(line, markup=False)
    console.print(f"details: rmsprop report {found.path}/TASK; report: {found.path / 'report.html'}", markup=False)


def show_comparison(console: Console, run: RunDirectory, report: Path | None) -> None:
    """Print a comparison's table, its results in sentences, and the path of its report."""
    from rmsprop.lab.report.sentences import describe_comparison

    summary = run.summary()
    assert summary is not None  # noqa: S101
    print_table(console, comparison_table(summary))
    console.print()
    for line in describe_comparison(run.config(), summary):
        console.print(line, markup=False)
    if summary and summary.get("implementation"):
        console.print(f"steps of RMSprop: {summary['implementation']}", markup=False)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def comparison_table(summary: dict[str, Any]) -> Table:
    """Return the scores of a comparison as a table; of an ablation, what each switch brings."""
    from rmsprop.lab.report.sentences import difference_words, range_words
    from rmsprop.lab.score import score_words

    metric, ablation = summary["metric"], "all_switches" in summary
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("switch" if ablation else "optimizer")
    table.add_column("lr", justify="right")
    table.add_column(escape(f"test {metric}"), justify="right")
    if not ablation:  # its names leave no room
        table.add_column("worst–best", justify="right")
    table.add_column(f"difference [{summary['confidence']:.0%}]", justify="right")
    table.add_column("" if ablation else "than RMSprop")
    for score in summary["scores"]:
        ends = range_words(score, metric, higher_is_better=summary["higher_is_better"])
        table.add_row(
            score["optimizer"],
            f"{score['lr']:g}{'*' if score['at_edge'] else ''}",
            score_words(score["metric"], metric),
            *([] if ablation else [ends]),
            escape(difference_words(score, metric)),
            score["verdict"] or "–",
            style="bold" if score["optimizer"] == "RMSprop" else None,
        )
    return table
