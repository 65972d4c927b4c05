"""`rmsprop train`: one training, watched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from rmsprop.cli.common import Failure, Flag, Invoked, lab_run, print_with_report
from rmsprop.cli.rule_options import NO_OPTIONS, RuleOptions, chosen_rule
from rmsprop.cli.terminal import Bars, stderr

if TYPE_CHECKING:
    from rmsprop.lab.runs.directory import RunDirectory
    from rmsprop.lab.runs.training import Record, Training

Schedule = Literal["constant", "linear"]
_SHOWN = 5  # findings at the end of a training


def train(
    task: str,
    /,
    *,
    options: RuleOptions = NO_OPTIONS,
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    schedule: Schedule = "constant",
    every: int | None = None,
    out: Path | None = None,
    resume: Flag = False,
    accept_changes: Flag = False,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """Train TASK with RMSprop: live progress, checkpoints, a report at the end.

    The report and the last lines say what the optimizer did, what to change
    and, if the loss ran away, where that began. Exit status 1 if the training
    diverged or learned nothing: predicts no better than before it, or than a
    constant. Ctrl-C, or a crash, leaves a run that goes on with --resume, bit
    for bit as if nothing had happened.

    Try:
      rmsprop train digits
      rmsprop train mnist --lr 0.001 --decay 0.9 --centered
      rmsprop train my_task.py:make --out runs/mine
      rmsprop train my_task.py:make --out runs/mine --resume

    Parameters
    ----------
    task
        A built-in task (digits, mnist, shakespeare), or path/to/file.py:function, which returns a rmsprop.lab.Task.
    seed
        Decides the model's start and the order of the data.
    epochs
        Passes over the training data; the task's own number if left out.
    batch_size
        Examples per step; the task's own number if left out.
    schedule
        Learning rate over the run: constant, or falling linearly to 0.
    every
        Measure what the optimizer does once in so many steps, for the report and rmsprop doctor; 0 never does. A tenth
        of the run, at most 250, if left out. A run that diverges is replayed around where that began, or at its end,
        with every step measured.
    out
        Directory of the run; runs/train-TASK, numbered, if left out.
    resume
        Go on with the run in --out (or the last one of this task), given the same options.
    accept_changes
        With --resume: go on although the task's code has changed; the report says what.
    json
        Print the summary as JSON.
    """
    from rmsprop.lab.train import train as run_training

    with lab_run(json, invocation), TrainingProgress(stderr) as progress:
        run, summary = run_training(
            task, chosen_rule(options), seed=seed, epochs=epochs, batch_size=batch_size, schedule=schedule,
            every=every, out=out, resume=resume, accept_changes=accept_changes,
            command=invocation.command_line(), listen=progress.listen,
        )  # fmt: skip
    print_with_report(json, run, summary, show_training)
    if summary["reason"] is not None:
        raise Failure


class TrainingProgress(Bars):
    """The progress of a training: a bar of steps on a terminal, elsewhere a line for every tenth of the epochs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = self.add_task("training", total=None, news="")

    def listen(self, training: Training, records: list[Record]) -> None:
        """Show where the training is, and what its new records say."""
        self.on_step(training)
        for record in records:
            if record["kind"] == "epoch":
                self.on_epoch(training, record)
            elif record["kind"] == "replay":
                self.on_replay(record)

    def on_step(self, training: Training) -> None:
        """Move the bar."""
        self.update(self._bar, completed=training.step, total=training.total_steps)

    def on_epoch(self, training: Training, record: Record) -> None:
        """Show the scores after an epoch."""
        words = _epoch_words(training, record)
        self.update(self._bar, news=words)
        if not self.console.is_terminal and record["epoch"] % max(1, training.epochs // 10) == 0:
            self.console.print(f"epoch {record['epoch']} of {training.epochs}: {words}", markup=False)

    def on_replay(self, record: Record) -> None:
        """Say that steps are replayed, and which."""
        from rmsprop.lab.report.sentences import steps_words

        steps = steps_words(record["step"] + 1, record["step"] + record["steps"])
        self.console.print(f"replaying {steps} to see where it began", markup=False)
        self.update(self._bar, description="replaying", news="")


def _epoch_words(training: Training, record: Record) -> str:
    from rmsprop.lab.report.sentences import score_words

    name = training.score.name
    metric = score_words(record["validation_metric"], name)
    if training.score.kind == "loss":
        return f"validation {name} {metric}"
    return f"validation loss {record['validation_loss']:.4g}, {name} {metric}"


def show_training(console: Console, run: RunDirectory, report: Path | None) -> None:
    """Print how a training ended and where its report is."""
    from rmsprop.lab.report.sentences import describe_training

    summary = run.summary()
    for line in describe_training(run.config(), summary):
        console.print(line, markup=False)
    if summary and summary.get("implementation"):
        console.print(f"steps of RMSprop: {summary['implementation']}", markup=False)
    if summary and "findings" in summary:
        _show_watched(console, run, summary)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def _show_watched(console: Console, run: RunDirectory, summary: dict[str, Any]) -> None:
    """Print how a divergence began, and the first findings."""
    from rmsprop.lab.report.sentences import findings_by_advice

    if summary.get("post_mortem"):
        console.print(f"\n{summary['post_mortem']['text']}\n", markup=False)
    found = summary["findings"]
    for alike in findings_by_advice(found[:_SHOWN]):
        for finding in alike:
            console.print(finding["sentence"], markup=False)
        console.print(f"  remedy: {alike[0]['remedy']}", markup=False)
    if found:
        more = f"and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "causes and evidence"
        console.print(f"{more}: rmsprop doctor {run.path}", markup=False)
