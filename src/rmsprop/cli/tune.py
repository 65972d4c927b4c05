"""`rmsprop tune`: search for hyperparameters."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmsprop.cli.common import FLAT, Flag, Invoked, TaskName, check_tasks, lab_run, print_with_report
from rmsprop.cli.rule_options import RuleOptions, chosen_rule
from rmsprop.cli.terminal import Bars, print_table, stderr
from rmsprop.lab_options import TuneOptions

if TYPE_CHECKING:
    from pathlib import Path

    from rmsprop.lab.runs.directory import RunDirectory
    from rmsprop.lab.runs.schema import TuneSummary
    from rmsprop.lab.tuning.progress import Progress

_SHOWN = 4  # best trials in the table, beside the default
_LONGEST_HEAD = 13  # characters of a column of scores
_WIDTH_WITH_NEWEST = 150  # columns of a terminal that has room for the newest trial beside a bar
_SILENCE = 20.0  # longest silence without a terminal, in seconds
_MOST_NOISE = 100  # times the seed noise; a noise that small says nothing, as of seeds that all fail alike


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
    check_tasks(task)
    from rmsprop.lab.search import tune as run_search

    with lab_run(json, invocation), TuningProgress(stderr) as progress:
        tuned = run_search(task, chosen_rule(rule), options, command=invocation.command_line(), listen=progress.listen)
    print_with_report(json, tuned.directory, tuned.summary, show_tuning)


class TuningProgress(Bars):
    """Show the progress of a search: a bar per stage on a terminal, a line per quarter of a stage elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = {False: self.add_bar("searching"), True: self.add_bar("confirming")}
        self._searched = 1  # trials; a process that joins late does not know them
        self._said: tuple[bool, int] | None = None
        self._when = monotonic()

    def listen(self, progress: Progress) -> None:
        """Show how far the study is, the best score and its distance to the default."""
        if progress.confirming:
            self.update(self._bars[False], completed=self._searched, total=self._searched, news="")
        else:
            self._searched = progress.total
        words = progress_words(progress)
        if progress.news and not progress.confirming and self._has_room():
            words += f"; {progress.news}"
        self.update(
            self._bars[progress.confirming],
            completed=progress.done,
            total=progress.total,
            news=words,
            seconds_left=progress.seconds_left,
        )
        if self.console.is_terminal:
            return
        said = (progress.confirming, progress.done // max(1, progress.total // 4))
        late = monotonic() - self._when > _SILENCE and self._said is not None
        if said != self._said or late:
            self._said, self._when = said, monotonic()
            stage = "confirming" if progress.confirming else "searching"
            what = "trainings" if progress.confirming else "trials"
            left = "" if progress.seconds_left is None else f", about {duration_words(progress.seconds_left)} left"
            self.console.print(f"{stage}: {progress.done} of {progress.total} {what}{left}; {words}", markup=False)

    def _has_room(self) -> bool:
        """Return whether the newest trial fits beside the rest."""
        return not self.console.is_terminal or self.console.width >= _WIDTH_WITH_NEWEST


def progress_words(progress: Progress) -> str:
    """Return the best score, and its distance to the default in units of seed noise."""
    from rmsprop.lab.score import score_words

    if progress.best is None:
        return "no score yet"
    words = f"best {score_words(progress.best, progress.metric)}"
    if progress.default is None:
        return words
    if progress.best == progress.default:
        return f"{words}, the default"
    distance = (progress.best - progress.default) / progress.noise if progress.noise else math.inf
    if abs(distance) > _MOST_NOISE:
        return f"{words}, default {score_words(progress.default, progress.metric)}"
    return f"{words}, default {'−' if distance < 0 else '+'} {abs(distance):.1f} × seed noise"


def duration_words(seconds: float) -> str:
    """Return a duration in words.

    >>> duration_words(41.7), duration_words(130), duration_words(8000)
    ('42 s', '2 min', '2 h 13 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


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
        console.print(f"Train with it: rmsprop train {run.config()['task']} --rule {run.path / BEST}", markup=False)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def trials_table(summary: TuneSummary) -> Table:
    """Return the default and the best trials of RMSprop, a column each: all coordinates fit into 80 characters."""
    from rmsprop.lab.report.tuning_words import tuned, value_words
    from rmsprop.lab.score import score_words

    own = [trial for trial in summary["trials"] if trial["optimizer"] == "RMSprop"]
    sign = -1 if summary["higher_is_better"] else 1
    scored = [(sign * trial["score"], trial["slot"], trial) for trial in own if trial["score"] is not None]
    best = sorted((each for each in scored if each[1]), key=lambda each: each[:2])
    shown = [*(trial for trial in own if trial["slot"] == 0), *(trial for _, _, trial in best[:_SHOWN])]
    chosen = summary["candidates"][summary["recommended"]]["setting"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial")
    for trial in shown:
        style = "bold" if trial["setting"] == chosen else None
        table.add_column(str(trial["slot"] + 1), justify="right", style=style)
    table.add_row("drawn", *(trial["phase"] for trial in shown))
    table.add_row(escape(summary["metric"]), *(score_words(trial["score"], summary["metric"]) for trial in shown))
    for name in tuned(summary):
        table.add_row(name.replace("_", " "), *(escape(value_words(trial["setting"], name)) for trial in shown))
    return table


def candidates_table(summary: TuneSummary) -> Table:
    """Return the results of the settings that were trained again on new seeds, in 80 characters."""
    from rmsprop.lab.report.sentences import difference_words
    from rmsprop.lab.report.tuning_words import candidate_words
    from rmsprop.lab.score import score_words

    metric = summary["metric"]
    score = f"{summary['confirmed_on']} {metric}".strip()
    if len(score) > _LONGEST_HEAD:  # the other table has the name
        score = summary["confirmed_on"] or "score"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"on {len(summary['candidates'][0]['scores'])} new seeds")
    table.add_column(escape(score), justify="right")
    table.add_column(escape(f"difference [{summary['confidence']:.0%}]"), justify="right")
    table.add_column("verdict")
    for number, candidate in enumerate(summary["candidates"]):
        table.add_row(
            candidate_words(number, summary),
            score_words(candidate["median"], metric),
            escape(difference_words(candidate, metric)),
            candidate["verdict"] or "–",
            style="bold" if number == summary["recommended"] else None,
        )
    return table
