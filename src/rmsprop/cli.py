"""The command line: parse, call, print.

Exit status 0 on success, 1 on failure, 2 on bad input, 130 when stopped, 141 when the reader of its output has left.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from rmsprop import __version__
from rmsprop.errors import InputError, Received
from rmsprop.files import finite
from rmsprop.profiles import PROFILES, profile
from rmsprop.rule import Rule


def _rule_options(*, rate: bool) -> Any:
    """Return a class with an option for every field of Rule, None where it is not given, and one for the profile.

    Without `rate` help does not show --lr, which the command refuses in its own words.
    """
    chosen = Parameter(
        help=f"Whose RMSprop, for what is not given below: {', '.join(PROFILES)}. [default: torch, as shown]"
    )
    options: list[tuple[str, Any, Any]] = [("profile", Annotated[str | None, chosen], None)]
    for field in dataclasses.fields(Rule):
        default = Parameter(
            show=rate or field.name != "lr",
            show_default=lambda _, value=field.default: value or None,  # type: ignore[misc]
        )
        options.append((field.name, Annotated[type(field.default) | None, default], None))
    named = {"__doc__": Rule.__doc__, "__module__": __name__}
    return dataclasses.make_dataclass("RuleOptions", options, frozen=True, namespace=named)


_Options, _RatelessOptions = _rule_options(rate=True), _rule_options(rate=False)
# What is known of a rule: an option for every field but lr, which convert has itself.
_Known = dataclasses.make_dataclass(
    "KnownOptions",
    [(field.name, type(field.default) | None, None) for field in dataclasses.fields(Rule) if field.name != "lr"],
    frozen=True,
    namespace={"__doc__": Rule.__doc__, "__module__": __name__},
)
if TYPE_CHECKING:
    RuleOptions: TypeAlias = Any
    RatelessOptions: TypeAlias = Any
    KnownOptions: TypeAlias = Any
else:
    RuleOptions = Annotated[_Options, Parameter(name="*")]
    RatelessOptions = Annotated[_RatelessOptions, Parameter(name="*")]
    KnownOptions = Annotated[_Known, Parameter(name="*")]
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
    options: RuleOptions = _Options(),  # noqa: B008  (frozen)
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    schedule: Schedule = "constant",
    every: int = 50,
    out: Path | None = None,
    resume: Flag = False,
    json: Flag = False,
) -> None:
    """Train TASK with RMSprop: live progress, checkpoints, a report at the end.

    The report and the last lines say what the optimizer did, and what to
    change. Ctrl-C, or a crash, leaves a run that goes on with --resume, bit
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
        Measure what the optimizer does once in so many steps, for the report and rmsprop doctor; 0 never does.
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
                task, _rule(options), seed=seed, epochs=epochs, batch_size=batch_size, schedule=schedule,
                every=every, out=out, resume=resume, command=_command(), listen=listen,
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
    options: RatelessOptions = _RatelessOptions(),  # noqa: B008  (frozen)
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
    rule = _rule(dataclasses.replace(options, lr=Rule.lr))  # some profiles demand a rate
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
def find_lr(
    task: str,
    /,
    *,
    options: RatelessOptions = _RatelessOptions(),  # noqa: B008  (frozen)
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
        Highest rate.
    steps
        Steps from the one to the other, for each seed.
    seeds
        How often the rate rises.
    warm
        Steps with a rate of 0; 2/(1-decay), at most 500, if left out.
    batch_size
        Examples per step; the task's own number if left out.
    out
        Directory of find-lr.json and find-lr.svg; runs/find-lr-TASK, numbered, if left out.
    json
        Print the result as JSON.
    """
    from rmsprop.console import range_test_progress, show_range_test
    from rmsprop.lab.find_lr import find_lr as test_range
    from rmsprop.lab.stopping import Interrupted

    if options.lr is not None:
        raise InputError("--lr", "left out", options.lr, "it is what is looked for: give the range as --from and --to")
    rule = _rule(dataclasses.replace(options, lr=Rule.lr))  # some profiles demand a rate
    try:
        with range_test_progress(stderr) as listen:
            directory, found = test_range(
                task, rule, lowest=from_, highest=to, steps=steps, seeds=seeds, warm=warm, batch_size=batch_size,
                out=out, command=_command(), listen=listen,
            )  # fmt: skip
    except Interrupted as stop:
        stderr.print(f"rmsprop: {stop}", markup=False, soft_wrap=True)
        raise KeyboardInterrupt from None
    _print(json, {**found, "directory": str(directory)}, lambda: show_range_test(stdout, found, directory))
    if found["lr"] is None:
        raise Failure


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
    recipe: str | None = None,
    options: RuleOptions = _Options(),  # noqa: B008  (frozen)
    worked_example: Flag = False,
    json: Flag = False,
) -> None:
    """Print a rule in equations and numbers.

    Try:
      rmsprop explain
      rmsprop explain --lr 0.01 --decay 0.9 --worked-example
      rmsprop explain --profile tf1 --lr 0.045 --momentum 0.9 --eps 1
      rmsprop explain --recipe impala-atari

    Parameters
    ----------
    recipe
        A published training in place of a profile; rmsprop recipes lists them.
    worked_example
        Add two steps, by hand, of two parameters whose gradients differ a thousandfold.
    json
        Print the numbers as JSON.
    """
    from rmsprop.explain import equations, numbers
    from rmsprop.explain import worked_example as work
    from rmsprop.recipes import recipe as published

    given = _given(options)
    whole = None if recipe is None else published(recipe).changed(**given)
    if whole and options.profile is not None:
        raise InputError("--profile", "left out with --recipe", options.profile, "a recipe has its profile")
    unsaid = ["--" + name.replace("_", "-") for name in whole.open] if whole else []
    if unsaid and worked_example:
        raise InputError("--worked-example", f"given with {', '.join(unsaid)}", True, "the source leaves them open")
    rule = None if unsaid else whole.rule() if whole else _rule(options)
    steps = work(rule) if worked_example and rule else []
    facts: dict[str, Any] = {}
    about: list[str] = []
    if options.profile is not None:
        whose = PROFILES[options.profile]
        facts["profile"] = {"title": whose.title, "differs": whose.differs, "source": whose.source}
        about += [whose.title, whose.differs, f"Source: {whose.source}", ""]
    if whole:
        facts["recipe"] = {**whole.facts(), "changed": sorted(given)}
        about += [whole.explain(), ""]
        about += [f"Not as published, but as given here: {', '.join(given)}", ""] if given else []
    if rule:
        facts |= {"rule": dataclasses.asdict(rule), "equations": equations(rule), **numbers(rule)._asdict()}
        about.append(rule.explain())
    else:
        about.append(f"For the equations give what the source leaves open: {', '.join(unsaid)}")
    if worked_example:
        facts["worked_example"] = [step._asdict() for step in steps]

    def show() -> None:
        stdout.print("\n".join(about), markup=False)
        if steps:
            from rmsprop.console import worked_table

            stdout.print()
            stdout.print(worked_table(steps))

    _print(json, facts, show)


@app.command
def recipes(*, json: Flag = False) -> None:
    """List the published trainings that explain --recipe knows.

    In a program, rmsprop.recipe(NAME) makes them ready to use.

    Try:
      rmsprop recipes
      rmsprop explain --recipe efficientnet-v1

    Parameters
    ----------
    json
        Print all of them, with every number and source, as JSON.
    """
    from rmsprop.console import show_recipes
    from rmsprop.recipes import RECIPES

    _print(json, {name: each.facts() for name, each in RECIPES.items()}, lambda: show_recipes(stdout, RECIPES))


@app.command
def convert(
    source: Path,
    target: Path,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    lr: float | None = None,
    like: Path | None = None,
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    dry_run: Flag = False,
    known: KnownOptions = _Known(),  # noqa: B008  (frozen)
    json: Flag = False,
) -> None:
    """Move an optimizer's state from one library's checkpoint to another's.

    Kinds: torch, rmsprop.torch, timm, sb3, bitsandbytes (read only), keras,
    rmsprop.keras, tf1, optax, rmsprop.jax. Weights are not moved.

    The options from --decay to --maximize say of the source's rule what its
    file does not state; --momentum and --centered for a Keras .weights.h5.

    Try:
      rmsprop convert model.keras state.pt --to rmsprop.torch --map axes.json
      rmsprop convert state.pt new.keras --like old.keras --map axes.json
      rmsprop convert state.pt new.keras --like old.keras --dry-run
      rmsprop convert model.ckpt-100 state.msgpack --from tf1 --to optax

    Parameters
    ----------
    source
        Checkpoint to read. Nothing in it is executed.
    target
        Checkpoint to write; must not exist.
    from_
        Kind of the source; told by the file if left out.
    to
        Kind of the target; that of --like, else told by its name, if left out.
    lr
        Learning rate of the next step; the file's if left out.
    like
        A checkpoint of the program that will go on: its names, order, groups and shapes, and all else in it, are kept.
    map_
        JSON of {source name: target name, or {"to": name, "transpose": [axes]}}.
    dry_run
        Write nothing; name every mismatch, and fail if there is one.
    json
        Print what was done as JSON.
    """
    from rmsprop.checkpoint import convert as convert_checkpoint
    from rmsprop.checkpoint import plan, read, write
    from rmsprop.console import conversion_facts, show_conversion
    from rmsprop.formats import read_mapping, target_kind

    state = read(source, from_, **_given(known))
    template = None
    if like is not None:
        said = state.groups[0] if like.suffix == ".h5" else {}  # such a file holds the same variables as the source
        template = read(like, to, **{name: said[name] for name in ("momentum", "centered") if name in said})
        to = template.kind
    to = to or target_kind(target)
    if to is None:
        raise InputError("--to", "given where the target's name does not tell", Received("none"), "say --to optax")
    mapping = None if map_ is None else read_mapping(map_)
    make = plan if dry_run else convert_checkpoint
    conversion = make(state, to, lr=lr, like=template, mapping=mapping)
    if not dry_run:
        write(conversion.checkpoint, target, like=like)
    facts = conversion_facts(state, conversion, None if dry_run else target)
    _print(json, facts, lambda: show_conversion(stdout, facts))
    if conversion.problems:
        raise Failure


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
        Of large, rich, many, policy (these also with -statistics: what watching costs), policy-training,
        language-training; all if left out.
    json
        Print the measurements as JSON.
    """
    from rmsprop.console import bench_progress, show_bench
    from rmsprop.lab.bench import bench as measure

    with bench_progress(stderr) as listen:
        found = measure(cases, listen)
    _print(json, found, lambda: show_bench(stdout, found))


@app.command
def doctor(run: Path | None = None, /, *, json: Flag = False) -> None:
    """Check the installation, or what the optimizer did in a training.

    Without RUN: versions, and real steps held against the rule. With RUN,
    be it finished, interrupted or diverged: what its statistics show, with
    causes and remedies. Exit status 1 if there is anything to mend.

    Try:
      rmsprop doctor
      rmsprop doctor runs/train-digits

    Parameters
    ----------
    run
        Directory of a run of train with its statistics; the installation is checked if left out.
    json
        Print the findings as JSON.
    """
    from rmsprop.console import show_examined, show_findings

    if run is None:
        from rmsprop.doctor import examine

        findings = examine()
        _print(json, findings, lambda: show_findings(stdout, findings))
    else:
        from rmsprop.lab.store import RunDirectory
        from rmsprop.lab.watch import examine as examine_run

        findings = examine_run(RunDirectory(run))
        _print(json, findings, lambda: show_examined(stdout, findings))
    if not findings["healthy"]:
        raise Failure


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    _arguments[:] = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no η shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.showwarning = lambda text, *_: stderr.print(f"rmsprop: note: {text}", markup=False)
    try:
        app(_arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
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
    except BrokenPipeError:  # whoever reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        return 141
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


def _rule(options: Any) -> Rule:
    """Return the rule that the options describe: the profile's, with the values that are given."""
    return profile("torch" if options.profile is None else options.profile, **_given(options))


def _given(options: Any) -> dict[str, Any]:
    """Return the values of the rule's fields that are given."""
    values = dataclasses.asdict(options)
    return {name: value for name, value in values.items() if value is not None and name != "profile"}


def _command() -> str:
    return shlex.join(["rmsprop", *_arguments])


def _say_how_to_resume(stop: BaseException) -> None:
    command = _command() + ("" if "--resume" in _arguments else " --resume")
    stderr.print(f"rmsprop: {stop}; go on with: {command}", markup=False, soft_wrap=True)


def _print(as_json: bool, facts: dict[str, Any], show: Any) -> None:
    if not as_json:
        show()
        return
    print(json.dumps(finite(facts), ensure_ascii=False, indent=2, allow_nan=False))
