"""The commands that train: train, compare, find-lr; and report, which shows what they left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rmsprop.cli.common import (
    Failure,
    Flag,
    arguments,
    command_line,
    print_result,
    results_alone,
    say_how_to_resume,
    stderr,
    stdout,
)
from rmsprop.cli.rule_options import NO_OPTIONS, NO_RATELESS, RatelessOptions, RuleOptions, chosen_rule
from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule

if TYPE_CHECKING:
    from rmsprop.lab.runs.directory import RunDirectory

Schedule = Literal["constant", "linear"]


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
    from rmsprop.cli.terminal import show_training, training_progress
    from rmsprop.lab.runs.interrupts import Interrupted
    from rmsprop.lab.train import train as run_training

    try:
        with results_alone(json), training_progress(stderr) as listen:
            run, summary = run_training(
                task, chosen_rule(options), seed=seed, epochs=epochs, batch_size=batch_size, schedule=schedule,
                every=every, out=out, resume=resume, accept_changes=accept_changes, command=command_line(),
                listen=listen,
            )  # fmt: skip
    except Interrupted as stop:
        say_how_to_resume(stop)
        raise KeyboardInterrupt from None
    _print_with_report(json, run, summary, show_training)
    if summary["reason"] is not None:
        raise Failure


def compare(
    task: str,
    /,
    *,
    options: RatelessOptions = NO_RATELESS,
    lrs: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative="")] = None,
    tuning_seeds: int = 2,
    seeds: int = 10,
    epochs: int | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    resume: Flag = False,
    accept_changes: Flag = False,
    json: Flag = False,
) -> None:
    """Compare RMSprop with SGD, momentum, AdaGrad, Adadelta and Adam on TASK.

    RMSprop is the one you describe; the others have PyTorch's defaults.

    Every optimizer gets the learning rate of one common grid that does best
    on validation data. Then all train with other seeds, each seed fixing the
    start and the order of the data; test scores are compared seed by seed.

    Try:
      rmsprop compare digits
      rmsprop compare digits --bias-correction
      rmsprop compare mnist --seeds 5 --epochs 4
      rmsprop compare my_task.py:make --lrs 0.001 0.01 0.1 --json

    Parameters
    ----------
    task
        A built-in task (digits, mnist, shakespeare), or path/to/file.py:function, which returns a rmsprop.lab.Task.
    lrs
        The grid of learning rates; 1e-4 to 10 in half decades if left out.
    tuning_seeds
        Seeds that the rates are picked with.
    seeds
        Other seeds that the optimizers are compared with, at least 5.
    epochs
        Passes over the training data; the task's own number if left out.
    jobs
        Trainings at a time; one per core if left out. Changes no result. Halved when memory runs out.
    out
        Directory of the run; runs/compare-TASK, numbered, if left out.
    resume
        Go on with the comparison in --out (or the last one of this task), given the same options.
    accept_changes
        With --resume: go on although the task's code has changed; the report says what.
    json
        Print the summary as JSON.
    """
    from rmsprop.cli.terminal import comparison_progress, show_comparison
    from rmsprop.lab.compare import compare as run_comparison
    from rmsprop.lab.learning_rates import LEARNING_RATES
    from rmsprop.lab.runs.interrupts import Interrupted
    from rmsprop.lab.runs.workers import WorkerLost

    if any(word.partition("=")[0] == "--lr" for word in arguments):
        raise InputError(
            "--lr", "left out", Received("one"), "every optimizer's rate is picked: give the grid as --lrs"
        )
    rule = chosen_rule(dataclasses.replace(options, lr=Rule.lr))  # some profiles demand a rate
    try:
        with results_alone(json), comparison_progress(stderr) as listen:
            run, summary = run_comparison(
                task, rule, learning_rates=LEARNING_RATES if lrs is None else lrs, tuning_seeds=tuning_seeds,
                seeds=seeds, epochs=epochs, jobs=jobs, out=out, resume=resume, accept_changes=accept_changes,
                command=command_line(), listen=listen,
            )  # fmt: skip
    except Interrupted as stop:
        say_how_to_resume(stop)
        raise KeyboardInterrupt from None
    except WorkerLost as lost:
        say_how_to_resume(lost)
        raise Failure from None
    _print_with_report(json, run, summary, show_comparison)


def _print_with_report(as_json: bool, run: RunDirectory, summary: dict[str, Any], show: Callable[..., None]) -> None:
    """Write the report of a run and print its result; should the disk be full, that first, and then what failed."""
    from rmsprop.lab.report.page import write_report

    report, failed = None, None
    try:
        report = write_report(run)
    except OSError as error:
        failed = error
    facts = {**summary, "directory": str(run.path), "report": None if report is None else str(report)}
    print_result(as_json, facts, lambda: show(stdout, run, report))
    if failed is not None:
        raise failed


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
    from rmsprop.cli.terminal import range_test_progress, show_range_test
    from rmsprop.lab.find_lr import find_lr as test_range
    from rmsprop.lab.runs.interrupts import Interrupted

    if options.lr is not None:
        raise InputError("--lr", "left out", options.lr, "it is what is looked for: give the range as --from and --to")
    rule = chosen_rule(dataclasses.replace(options, lr=Rule.lr))  # some profiles demand a rate
    try:
        with results_alone(json), range_test_progress(stderr) as listen:
            directory, found = test_range(
                task, rule, lowest=from_, highest=to, steps=steps, seeds=seeds, warm=warm, batch_size=batch_size,
                out=out, command=command_line(), listen=listen,
            )  # fmt: skip
    except Interrupted as stop:
        stderr.print(f"rmsprop: {stop}", markup=False, soft_wrap=True)
        raise KeyboardInterrupt from None
    print_result(json, {**found, "directory": str(directory)}, lambda: show_range_test(stdout, found, directory))
    if found["lr"] is None:
        raise Failure


def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    json: Flag = False,
) -> None:
    """Write the HTML report of the run in directory RUN again.

    A run that was interrupted has a report, too.

    Try:
      rmsprop report runs/compare-digits
      rmsprop report runs/train-mnist --out mnist.html

    Parameters
    ----------
    run
        Directory of a run of train or compare.
    out
        File to write; report.html in the run's directory if left out.
    json
        Print the path as JSON.
    """
    from rmsprop.lab.report.page import write_report
    from rmsprop.lab.runs.directory import RunDirectory

    path = write_report(RunDirectory(run), out)
    print_result(json, {"report": str(path)}, lambda: stdout.print(f"report: {path}", markup=False))
