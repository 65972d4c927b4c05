"""The command line: parse, call, print. Exit status 0 on success, 1 on failure, 2 on bad input, 130 when stopped."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from rmsprop import __version__
from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule

RuleOptions = Annotated[Rule, Parameter(name="*", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Schedule = Literal["constant", "linear"]

app = App(
    name="rmsprop",
    version=__version__,
    help="RMSprop: train with it, compare it with other optimizers, see what it does.",
    help_format="plaintext",
    help_epilogue="Start with: rmsprop compare digits\nEvery command explains itself: rmsprop COMMAND --help",
)
stdout, stderr = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)


_arguments: list[str] = []  # of this invocation: what a report says it was made by, and how a run is resumed


class Failure(Exception):  # noqa: N818  (it carries an exit status, not an error)
    """The command did its work and the answer is no; what there is to say has been said."""


@app.command
def train(
    task: str,
    /,
    *,
    rule: RuleOptions = Rule(),  # noqa: B008  (frozen)
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    schedule: Schedule = "constant",
    out: Path | None = None,
    resume: Flag = False,
    json: Flag = False,
) -> None:
    """Train TASK with RMSprop: live progress, checkpoints, a report at the end.

    Ctrl-C, or a crash, leaves a run that goes on with --resume, bit for bit
    as if nothing had happened.

    Try:
      rmsprop train digits
      rmsprop train mnist --lr 0.001 --decay 0.9 --centered
      rmsprop train my_task.py:make --out runs/mine
      rmsprop train my_task.py:make --out runs/mine --resume

    Parameters
    ----------
    task
        A built-in task (digits, mnist), or path/to/file.py:function of yours that returns a rmsprop.lab.Task.
    seed
        Decides the model's start and the order of the data.
    epochs
        Passes over the training data; the task's own number if left out.
    batch_size
        Examples per step; the task's own number if left out.
    schedule
        Learning rate over the run: constant, or falling linearly to 0.
    out
        Directory of the run; runs/train-TASK, numbered, if left out.
    resume
        Go on with the run in --out (or the last one of this task), given the same options.
    json
        Print the summary as JSON.
    """
    from rmsprop.console import show_training, training_progress
    from rmsprop.lab.report import write_report
    from rmsprop.lab.stopping import Interrupted
    from rmsprop.lab.train import train as run_training

    try:
        with training_progress(stderr) as listen:
            run, summary = run_training(
                task, rule, seed=seed, epochs=epochs, batch_size=batch_size, schedule=schedule,
                out=out, resume=resume, command=_command(), listen=listen,
            )  # fmt: skip
    except Interrupted as stop:
        _say_how_to_resume(stop)
        raise KeyboardInterrupt from None
    report = write_report(run)
    facts = {**summary, "directory": str(run.path), "report": str(report)}
    _print(json, facts, lambda: show_training(stdout, run, report))
    if summary["status"] == "diverged":
        raise Failure


@app.command
def compare(
    task: str,
    /,
    *,
    rule: RuleOptions = Rule(),  # noqa: B008  (frozen)
    lrs: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative="")] = (),
    tuning_seeds: int = 2,
    seeds: int = 10,
    epochs: int | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    resume: Flag = False,
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
        A built-in task (digits, mnist), or path/to/file.py:function of yours that returns a rmsprop.lab.Task.
    lrs
        The grid of learning rates; 1e-4 to 10 in half decades if left out.
    tuning_seeds
        Seeds that the rates are picked with.
    seeds
        Other seeds that the optimizers are compared with, at least 5.
    epochs
        Passes over the training data; the task's own number if left out.
    jobs
        Trainings at a time; one per core if left out. Changes no result.
    out
        Directory of the run; runs/compare-TASK, numbered, if left out.
    resume
        Go on with the comparison in --out (or the last one of this task), given the same options.
    json
        Print the summary as JSON.
    """
    from rmsprop.console import comparison_progress, show_comparison
    from rmsprop.lab.compare import LEARNING_RATES
    from rmsprop.lab.compare import compare as run_comparison
    from rmsprop.lab.report import write_report
    from rmsprop.lab.stopping import Interrupted

    if any(word.partition("=")[0] == "--lr" for word in _arguments):
        raise InputError(
            "--lr", "left out", Received("one"), "every optimizer's rate is picked: give the grid as --lrs"
        )
    try:
        with comparison_progress(stderr) as listen:
            run, summary = run_comparison(
                task, rule, learning_rates=lrs or LEARNING_RATES, tuning_seeds=tuning_seeds, seeds=seeds,
                epochs=epochs, jobs=jobs, out=out, resume=resume, command=_command(), listen=listen,
            )  # fmt: skip
    except Interrupted as stop:
        _say_how_to_resume(stop)
        raise KeyboardInterrupt from None
    report = write_report(run)
    facts = {**summary, "directory": str(run.path), "report": str(report)}
    _print(json, facts, lambda: show_comparison(stdout, run, report))


@app.command
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
    from rmsprop.lab.report import write_report
    from rmsprop.lab.store import RunDirectory

    path = write_report(RunDirectory(run), out)
    _print(json, {"report": str(path)}, lambda: stdout.print(f"report: {path}", markup=False))


@app.command
def explain(
    *,
    rule: RuleOptions = Rule(),  # noqa: B008  (frozen)
    worked_example: Flag = False,
    json: Flag = False,
) -> None:
    """Print a rule in equations and numbers.

    Try:
      rmsprop explain
      rmsprop explain --lr 0.01 --decay 0.9 --worked-example
      rmsprop explain --momentum 0.9 --nesterov --eps-inside-sqrt --initial-square-avg 1

    Parameters
    ----------
    worked_example
        Add two steps, by hand, of two parameters whose gradients differ a thousandfold.
    json
        Print the numbers as JSON.
    """
    from rmsprop.explain import equations, numbers
    from rmsprop.explain import worked_example as work

    steps = work(rule) if worked_example else []
    facts: dict[str, Any] = {"rule": dataclasses.asdict(rule), "equations": equations(rule), **numbers(rule)._asdict()}
    if worked_example:
        facts["worked_example"] = [step._asdict() for step in steps]

    def show() -> None:
        stdout.print(rule.explain(), markup=False)
        if steps:
            from rmsprop.console import worked_table

            stdout.print()
            stdout.print(worked_table(steps))

    _print(json, facts, show)


@app.command
def bench(*cases: str, json: Flag = False) -> None:
    """Time a step here beside torch's steps and the memory limit.

    Contenders take turns; ratios are medians over pairs, with the middle half.
    All cases take about ten minutes, most of them for torch.compile, and 6 GB
    of memory.

    Try:
      rmsprop bench policy
      rmsprop bench
      rmsprop bench large rich --json

    Parameters
    ----------
    cases
        Of large, rich, many, policy, policy-training, language-training; all if left out.
    json
        Print the measurements as JSON.
    """
    from rmsprop.console import bench_progress, show_bench
    from rmsprop.lab.bench import bench as measure

    with bench_progress(stderr) as listen:
        found = measure(cases, listen)
    _print(json, found, lambda: show_bench(stdout, found))


@app.command
def doctor(*, json: Flag = False) -> None:
    """Check the installation: versions, and real steps held against the rule.

    Try:
      rmsprop doctor

    Parameters
    ----------
    json
        Print the findings as JSON.
    """
    from rmsprop.console import show_findings
    from rmsprop.doctor import examine

    findings = examine()
    _print(json, findings, lambda: show_findings(stdout, findings))
    if not findings["healthy"]:
        raise Failure


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    _arguments[:] = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = lambda text, *_: stderr.print(f"rmsprop: note: {text}", markup=False)
    try:
        app(_arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        _complain(f"{str(error).strip().removesuffix('.')}; see rmsprop --help")
        return 2
    except InputError as error:
        _complain(error)
        return 2
    except ModuleNotFoundError as error:
        if "pip install" not in str(error):
            raise
        _complain(error)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}; what was there before is untouched")
        return 1
    except Failure:
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _complain(problem: object) -> None:
    text = " ".join(str(problem).split())  # one line, whatever the source
    stderr.print(f"rmsprop: {text}", markup=False, soft_wrap=True)


def _command() -> str:
    return shlex.join(["rmsprop", *_arguments])


def _say_how_to_resume(stop: BaseException) -> None:
    command = _command() + ("" if "--resume" in _arguments else " --resume")
    stderr.print(f"rmsprop: {stop}; go on with: {command}", markup=False, soft_wrap=True)


def _print(as_json: bool, facts: dict[str, Any], show: Any) -> None:
    if not as_json:
        show()
        return
    print(json.dumps(facts, ensure_ascii=False, indent=2, allow_nan=False))
