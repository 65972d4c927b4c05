"""`rmsprop tune`: search for hyperparameters."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmsprop.cli.common import FLAT, Flag, Invoked, TaskName, lab_run, print_with_report
from rmsprop.cli.rule_options import RuleOptions, chosen_rule
from rmsprop.cli.terminal import Bars, print_table, stderr
from rmsprop.lab_options import TuneOptions

if TYPE_CHECKING:
    from pathlib import Path

    from rmsprop.lab.runs.directory import RunDirectory
    from rmsprop.lab.search import Progress

_SHOWN = 8  # trials in the table
_SILENCE = 20.0  # longest silence without a terminal, in seconds


def tune(
    task: TaskName,
    /,
    *,
    rule: RuleOptions = None,
    options: Annotated[TuneOptions | None, FLAT] = None,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """Search for the hyperparameters of RMSprop on TASK, and say how sure the result is.

    The rule that you give is the default, which the search starts from and has
    to beat. The best trials and the default are trained again on new seeds.
    "No gain" is a possible answer; then keep the default.

    Ctrl-C leaves a study that --resume finishes. The same command in another
    shell joins the study and shares its trials.

    Try:
      rmsprop tune digits --trials 12
      rmsprop tune mnist --minutes 10 --baseline Adam
      rmsprop tune digits --sampler grid --space lr=0.001,0.01 decay=0.9,0.99
      rmsprop tune digits --folds 5 --trials 25
      rmsprop train digits --rule runs/tune-digits/best.toml

    Parameters
    ----------
    json
        Print the summary as JSON.
    """
    from rmsprop.lab.search import tune as run_search

    with lab_run(json, invocation), TuningProgress(stderr) as progress:
        tuned = run_search(task, chosen_rule(rule), options, command=invocation.command_line(), listen=progress.listen)
    print_with_report(json, tuned.directory, tuned.summary, show_tuning)


class TuningProgress(Bars):
    """Show the progress of a search: a bar per stage on a terminal, a line per quarter of a stage elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = {False: self.add_bar("searching"), True: self.add_bar("confirming")}
        self._said: tuple[bool, int] | None = None
        self._when = monotonic()
        self._metric = ""

    def listen(self, progress: Progress) -> None:
        """Show how far the study is, the best score and its distance to the default."""
        if progress.confirming:  # the search may have ended without a word
            self.update(self._bars[False], completed=1, total=1, news="")
        words = progress_words(progress)
        self.update(self._bars[progress.confirming], completed=progress.done, total=progress.total, news=words)
        if self.console.is_terminal:
            return
        said = (progress.confirming, progress.done // max(1, progress.total // 4))
        late = monotonic() - self._when > _SILENCE and self._said is not None
        if said != self._said or late:
            self._said, self._when = said, monotonic()
            stage = "confirming" if progress.confirming else "searching"
            what = "trainings" if progress.confirming else "trials"
            self.console.print(f"{stage}: {progress.done} of {progress.total} {what}; {words}", markup=False)


def progress_words(progress: Progress) -> str:
    """Return the best score, its distance to the default in units of seed noise, and the newest trial."""
    if progress.best is None:
        return progress.news or "no score yet"
    words = f"best {progress.best:.4g}"
    if progress.default is not None and progress.noise:
        words += f", {(progress.best - progress.default) / progress.noise:+.1f} × seed noise from the default"
    return f"{words}; {progress.news}" if progress.news and not progress.confirming else words


def show_tuning(console: Console, run: RunDirectory, report: Path | None) -> None:
    """Print the best trials, what was confirmed, the verdict in sentences, and where the files are."""
    from rmsprop.lab.report.tuning_sentences import describe_tuning
    from rmsprop.lab.tuning.setting_file import BEST

    summary = run.summary()
    print_table(console, trials_table(summary))
    console.print()
    print_table(console, candidates_table(summary))
    console.print()
    for line in describe_tuning(run.config(), summary):
        console.print(line, markup=False)
    if not run.config().get("from_python"):
        console.print(f"or: rmsprop train {run.config()['task']} --rule {run.path / BEST}", markup=False)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def trials_table(summary: dict[str, Any]) -> Table:
    """Return the best trials of the search."""
    from rmsprop.lab.report.tuning_sentences import setting_words
    from rmsprop.lab.score import score_words

    default = summary["candidates"][0]["setting"]
    sign = -1 if summary["higher_is_better"] else 1
    scored = sorted((t for t in summary["trials"] if t["score"] is not None), key=lambda t: sign * t["score"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right")
    table.add_column("drawn")
    table.add_column(escape(f"{summary['metric']}"), justify="right")
    table.add_column("setting")
    for trial in scored[:_SHOWN]:
        table.add_row(
            str(trial["slot"] + 1),
            trial["phase"],
            score_words(trial["score"], summary["metric"]),
            escape(setting_words(trial["setting"], default)),
        )
    return table


def candidates_table(summary: dict[str, Any]) -> Table:
    """Return the settings that were trained again on new seeds."""
    from rmsprop.lab.report.sentences import difference_words
    from rmsprop.lab.report.tuning_sentences import setting_words
    from rmsprop.lab.score import score_words

    default, metric = summary["candidates"][0]["setting"], summary["metric"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("confirmed on new seeds")
    table.add_column(escape(f"{summary['confirmed_on']} {metric}"), justify="right")
    table.add_column(escape(f"difference [{summary['confidence']:.0%}]"), justify="right")
    table.add_column("than the default")
    for number, candidate in enumerate(summary["candidates"]):
        words = setting_words(candidate["setting"], default) if number else "the default"
        table.add_row(
            escape(words),
            score_words(candidate["mean"], metric),
            escape(difference_words(candidate, metric)),
            candidate["verdict"] or "–",
            style="bold" if number == summary["recommended"] else None,
        )
    return table
