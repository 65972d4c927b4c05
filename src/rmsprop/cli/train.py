"""`rmsprop train`: run one training with RMSprop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from rmsprop.cli.common import (
    FLAT,
    Failure,
    Flag,
    Invoked,
    TaskName,
    ToldByFirst,
    check_tasks,
    lab_run,
    print_with_report,
)
from rmsprop.cli.rule_options import RuleOptions, chosen_profile, chosen_recipe, given_values
from rmsprop.cli.terminal import Bars, stderr
from rmsprop.errors import InputError
from rmsprop.lab_options import TrainOptions
from rmsprop.recipes import Recipe
from rmsprop.rule import Rule

if TYPE_CHECKING:
    from rmsprop.lab.runs.directory import RunDirectory
    from rmsprop.lab.runs.schema import EpochRecord, TrainRecord, TrainSummary
    from rmsprop.lab.runs.training import TrainingLoop

_SILENCE = 20.0  # longest silence of a training without a terminal, in seconds
_SHOWN = 5  # largest number of findings printed after a training; rmsprop doctor prints all


def train(
    task: TaskName,
    /,
    *,
    recipe: str | None = None,
    rule_file: Annotated[Path | None, Parameter(name="--rule")] = None,
    rule: RuleOptions = None,
    options: Annotated[TrainOptions | None, FLAT] = None,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """Train TASK with RMSprop: live progress, checkpoints, a report at the end.

    The report and the last lines say what the optimizer did and what to change.
    If the loss ran away, they say where that began. After Ctrl-C or a crash
    --resume goes on with the run, bit for bit as if nothing had happened.

    Exit status 1 if the training diverged or learned nothing: the model
    predicts no better than before the training, or than a constant.

    Try:
      rmsprop train digits
      rmsprop train mnist --lr 0.001 --decay 0.9 --centered
      rmsprop train mnist --lr 0.003 --schedule cosine --warmup 50 --best
      rmsprop train shakespeare --recipe char-rnn-2015
      rmsprop train digits --rule runs/tune-digits/best.toml
      rmsprop train my_task.py:make --out runs/mine
      rmsprop train my_task.py:make --out runs/mine --resume

    Parameters
    ----------
    recipe
        A published training (rmsprop recipes): its rule, schedule, clipping and average; options given here replace
        its own.
    rule_file
        The best.toml of rmsprop tune: its rule, schedule and warm-up; options given here replace its own.
    json
        Print the summary as JSON.
    """
    check_tasks(task)
    from rmsprop.lab.processes import is_first
    from rmsprop.lab.training_run import train as run_training

    chosen, options = _chosen(recipe, rule_file, rule, options or TrainOptions())
    with lab_run(json, invocation), TrainingProgress(stderr if is_first() else Console(quiet=True)) as progress:
        run, summary = run_training(task, chosen, options, command=invocation.command_line(), listen=progress.listen)
    if not is_first():
        raise ToldByFirst
    print_with_report(json, run, summary, show_training)
    if summary["reason"] is not None:
        raise Failure


def _chosen(
    recipe: str | None, rule_file: Path | None, rule: RuleOptions, options: TrainOptions
) -> tuple[Rule | Recipe, TrainOptions]:
    """Return the rule or recipe, and the options with what the file of a search adds."""
    if rule_file is None:
        return chosen_recipe(recipe, rule), options
    from rmsprop.lab.tuning.setting_file import read_best

    for name, value in (("--recipe", recipe), ("--profile", chosen_profile(rule))):
        if value is not None:
            raise InputError(name, "omitted with --rule", value, "the file has a whole rule")
    best = read_best(rule_file)
    schedule: Any = options.schedule or best.schedule
    warmup = best.warmup if options.warmup is None else options.warmup
    used = dataclasses.replace(options, schedule=schedule, warmup=warmup)
    return dataclasses.replace(best.rule, **given_values(rule)), used


class TrainingProgress(Bars):
    """Show the progress of a training: a bar of steps on a terminal, a line per tenth of the epochs elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = self.add_bar("training")
        self._said = monotonic()

    def listen(self, training: TrainingLoop, records: list[TrainRecord]) -> None:
        """Show the position of the training, and the losses and scores in its new records."""
        self.on_step(training)
        for record in records:
            if record["kind"] == "loss" and not self.console.is_terminal and monotonic() - self._said > _SILENCE:
                self._said = monotonic()
                where = f"step {training.step} of {training.total_steps}"
                self.console.print(f"{where}: training loss {record['loss']:.4g}", markup=False)
        for record in records:
            if record["kind"] == "epoch":
                self.on_epoch(training, record)

    def on_step(self, training: TrainingLoop) -> None:
        """Move the bar to the newest step."""
        self.update(self._bar, completed=training.step, total=training.total_steps)

    def on_epoch(self, training: TrainingLoop, record: EpochRecord) -> None:
        """Show the scores after an epoch."""
        words = _epoch_words(training, record)
        self.update(self._bar, news=words)
        if not self.console.is_terminal and record["epoch"] % max(1, training.epochs // 10) == 0:
            self.console.print(f"epoch {record['epoch']} of {training.epochs}: {words}", markup=False)


def _epoch_words(training: TrainingLoop, record: EpochRecord) -> str:
    from rmsprop.lab.score import IN_PLACE_OF_LOSS, score_words

    name = training.score.name
    metric = score_words(record["validation_metric"], name)
    if training.score.kind in ("loss", *IN_PLACE_OF_LOSS):
        return f"validation {name} {metric}"
    return f"validation loss {record['validation_loss']:.4g}, {name} {metric}"


def show_training(console: Console, run: RunDirectory, report: Path | None) -> None:
    """Print how a training ended, its first findings, and the path of its report."""
    from rmsprop.lab.report.sentences import describe_training

    summary = run.summary()
    for line in describe_training(run.config(), summary):
        console.print(line, markup=False)
    if summary and summary.get("implementation"):
        device = summary.get("device", "cpu")
        where = "" if device == "cpu" else f", on {device}"
        console.print(f"steps of RMSprop: {summary['implementation']}{where}", markup=False)
    if summary and "findings" in summary:
        _show_findings(console, run, summary)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def _show_findings(console: Console, run: RunDirectory, summary: TrainSummary) -> None:
    from rmsprop.lab.report.sentences import findings_by_advice

    post_mortem = summary.get("post_mortem")
    if post_mortem:
        console.print(f"\n{post_mortem['text']}\n", markup=False)
    found = summary["findings"]
    for alike in findings_by_advice(found[:_SHOWN]):
        for finding in alike:
            console.print(finding["sentence"], markup=False)
        console.print(f"  remedy: {alike[0]['remedy']}", markup=False)
    if found:
        more = f"and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "causes and evidence"
        console.print(f"{more}: rmsprop doctor {run.path}", markup=False)
