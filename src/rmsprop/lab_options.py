"""Options of a training, a comparison and a range test: one dataclass each.

The command line shows the fields as options, the functions of `rmsprop.lab` take them, and run.json keeps them.
This module needs no framework: help is shown without loading one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rmsprop.errors import InputError, check_count, check_number
from rmsprop.lab_tasks import BUILT_IN

# Built-in tasks. Each is a module in lab/tasks/, and the function of the same name in it.
TASKS = tuple(BUILT_IN)
# Optimizers that a comparison knows, and those that it compares unless told otherwise. RMSprop is always among them.
OPTIMIZERS = ("RMSprop", "SGD", "momentum", "AdaGrad", "Adadelta", "Adam", "AdamW")
USUAL_OPTIMIZERS = OPTIMIZERS[:-1]
ScheduleName: TypeAlias = Literal["constant", "linear", "cosine", "steps"]
# Fields whose option has another name.
_OPTIONS = {"learning_rates": "lrs", "lowest": "from", "highest": "to", "all_parameters": "all"}
# Fields that change no result.
_NO_RESULT = (
    "out", "resume", "accept_changes", "jobs", "tensorboard", "wandb", "fsdp", "zero", "workers", "storage", "study",
    "cluster", "address",
)  # fmt: skip


def option_name(field: str) -> str:
    """Return the name of a field on the command line, without the dashes before it."""
    return _OPTIONS.get(field, field).replace("_", "-")


@dataclass(frozen=True, eq=False)
class TrainOptions:
    """Options of one training.

    Parameters
    ----------
    seed
        Decides the model's start and the order of the data.
    epochs
        Passes over the training data; the task's own number if omitted. With --resume, a larger number goes on longer,
        if the schedule does not depend on the length of the run.
    batch_size
        Examples per step; the task's own number if omitted.
    schedule
        Learning rate over the run, if not the recipe's: constant, falling linearly or as a cosine to 0, or in steps
        (× 0.1 after 50 % and 75 %).
    warmup
        Steps in which the rate rises linearly from about 0; none if omitted.
    clip
        Largest norm of all gradients together; that of the recipe, or else of the task, if omitted.
    average
        Decay of a running average of the weights, such as 0.999; after step n at most (1 + n)/(10 + n), so that the
        average forgets its start. The average is evaluated.
    evaluate_every
        Epochs from one evaluation on the validation data to the next.
    patience
        Stop after so many evaluations without a better validation score.
    best
        Keep the weights with the best validation score; the test data score them. Otherwise the last weights.
    device
        Where to train: cpu, cuda, cuda:1, mps or auto, which takes the fastest.
    amp
        Compute forward passes in this dtype (torch.autocast). float16 scales the loss.
    compile
        Run the model through torch.compile.
    state_dtype
        Dtype of the optimizer's averages.
    stochastic_rounding
        Round bfloat16 parameters up or down at random.
    nonfinite
        What gradients that are not finite do: propagate lets them into the averages, skip skips the step, zero counts
        their elements as 0. With skip and zero, a loss that is not finite does not end the training, unless all losses
        of a pass over the data are so.
    fsdp
        Under torchrun: shard model and optimizer state over the processes (FSDP2). Needs --every 0.
    zero
        Under torchrun: shard the optimizer's state over the processes (ZeroRedundancyOptimizer). Needs --every 0.
    tensorboard
        Write losses, scores and statistics to the folder tensorboard of the run, too.
    wandb
        Write them to this project of Weights & Biases, too.
    every
        Steps between two measurements of the optimizer. A tenth of the run, at most 250, if omitted. 0 measures none,
        and a run that diverges then does not say where that began.
    out
        Directory of the run; runs/train-TASK, numbered, if omitted.
    resume
        Go on with the run in --out, or with the last one of this task; give the same options.
    accept_changes
        With --resume: go on although the task's code has changed. The report says what has.
    """

    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    schedule: ScheduleName | None = None
    warmup: int | None = None
    clip: float | None = None
    average: float | None = None
    evaluate_every: int = 1
    patience: int | None = None
    best: bool = False
    device: str = "cpu"
    amp: Literal["bfloat16", "float16"] | None = None
    compile: bool = False
    state_dtype: Literal["float32", "bfloat16", "uint8"] | None = None
    stochastic_rounding: bool = False
    nonfinite: Literal["propagate", "skip", "zero"] = "propagate"
    fsdp: bool = False
    zero: bool = False
    tensorboard: bool = False
    wandb: str | None = None
    every: int | None = None
    out: Path | None = None
    resume: bool = False
    accept_changes: bool = False

    def __post_init__(self) -> None:
        _as_path(self)
        _check_count(self, "seed", "any whole number will do", least=0)
        _check_count(self, "epochs", "omit it for the task's own")
        _check_count(self, "batch_size", "omit it for the task's own")
        _check_count(self, "warmup", "0 has none", least=0)
        _check_schedule(self.schedule)
        if self.clip is not None and not check_number("--clip", self.clip, "1 is usual"):
            raise InputError("--clip", "a number above 0", self.clip, "1 is usual")
        if self.average is not None:
            check_number("--average", self.average, "0.999 is usual", below=1)
        if self.fsdp and self.zero:
            raise InputError("--zero", "omitted with --fsdp", self.zero, "--fsdp shards the optimizer's state, too")
        _check_count(self, "evaluate_every", "1 evaluates after each epoch")
        _check_count(self, "patience", "omit it to train to the end")
        _check_count(self, "every", "omit it for a tenth of the run; 0 measures nothing", least=0)


@dataclass(frozen=True, eq=False)
class CompareOptions:
    """Options of a comparison.

    Parameters
    ----------
    optimizers
        Optimizers to compare with RMSprop: SGD, momentum, AdaGrad, Adadelta, Adam, AdamW; all but AdamW if omitted.
    quick
        A small budget: whole decades of rates, 1 seed to pick them, 5 to compare. Shows large differences only.
    ablate
        Compare the rules from this one to Adam instead, one switch at a time: momentum, its place, bias correction, …
    learning_rates
        The grid of learning rates; 1e-4 to 10 in half decades if omitted, with --quick in whole ones. Where the best
        rate of an optimizer is at its end, all optimizers get two more rates beyond it.
    tuning_seeds
        Number of seeds for picking the rates; 2 if omitted, with --quick 1.
    seeds
        Number of other seeds for comparing the optimizers, at least 5; 10 if omitted, with --quick 5.
    epochs
        Passes over the training data; the task's own number if omitted.
    schedule
        Learning rate over each training: linear, which falls to 0; constant, cosine or steps. With a constant rate, the
        noise of the last steps may decide the comparison.
    jobs
        Number of trainings at a time, which changes no result; one per core if omitted. Halved when memory runs out.
    out
        Directory of the run; runs/compare-TASK, numbered, if omitted.
    resume
        Go on with the comparison in --out, or with the last one of this task; give the same options.
    accept_changes
        With --resume: go on although the task's code has changed. The report says what has.
    """

    optimizers: tuple[str, ...] | None = None
    quick: bool = False
    ablate: bool = False
    learning_rates: tuple[float, ...] | None = None
    tuning_seeds: int | None = None
    seeds: int | None = None
    epochs: int | None = None
    schedule: ScheduleName = "linear"
    jobs: int | None = None
    out: Path | None = None
    resume: bool = False
    accept_changes: bool = False

    def __post_init__(self) -> None:
        _as_path(self)
        _check_names("--optimizers", self.optimizers or (), OPTIMIZERS)
        if self.optimizers is not None and not set(self.optimizers) - {"RMSprop"}:
            raise InputError("--optimizers", "at least one beside RMSprop", list(self.optimizers), "add Adam")
        if self.ablate and self.optimizers is not None:
            remedy = "--ablate compares rules of RMSprop: leave one of them out"
            raise InputError("--optimizers", "omitted with --ablate", list(self.optimizers), remedy)
        if self.learning_rates is not None:
            for lr in self.learning_rates:
                check_number("--lrs", lr, "1e-4 to 10 covers the optimizers' usual rates")
            if len(set(self.learning_rates)) < 3:
                raise InputError("--lrs", "at least 3 different rates", list(self.learning_rates), "give a wider grid")
        _check_count(self, "tuning_seeds", "2 is usual")
        _check_count(self, "seeds", "fewer say too little about the spread", least=5)
        _check_count(self, "epochs", "omit it for the task's own")
        _check_schedule(self.schedule)
        _check_count(self, "jobs", "omit it for one per core")


@dataclass(frozen=True, eq=False)
class FindLrOptions:
    """Options of a range test.

    Parameters
    ----------
    lowest
        Lowest rate.
    highest
        Highest rate, at least 100 times the lowest.
    steps
        Steps from the lowest rate to the highest, for each seed; from 1e-6 to 1 at least 81.
    seeds
        Number of times that the rate rises, each with another order of the data.
    warm
        Steps with a rate of 0 before the test; if omitted the larger of 2/(1-decay) and 2/(1-momentum), at most 500.
        With --bias-correction, decay counts only if --centered.
    batch_size
        Examples per step; the task's own number if omitted.
    out
        Directory of find-lr.json and find-lr.svg; runs/find-lr-TASK, numbered, if omitted.
    """

    lowest: float = 1e-6
    highest: float = 1.0
    steps: int = 100
    seeds: int = 3
    warm: int | None = None
    batch_size: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        _as_path(self)
        _check_count(self, "batch_size", "omit it for the task's own")
        if not 0 < self.lowest < math.inf:
            raise InputError("--from", "above 0 and finite", self.lowest, "1e-6 is usual")
        least = 100 * self.lowest
        if not least * (1 - 1e-9) <= self.highest < math.inf:
            raise InputError("--to", f"at least {least:g}, 100 times --from", self.highest, "1 is usual")


@dataclass(frozen=True, eq=False)
class TuneOptions:
    """Options of a search for hyperparameters.

    Parameters
    ----------
    trials
        Budget: number of trials of each optimizer; 40 if no budget is given. Confirming the best comes after them.
    total_epochs
        Budget: epochs of all trainings together, confirming included. A trial that is stopped counts what it took.
    minutes
        Budget: minutes in all, confirming included.
    sampler
        How values are drawn: tpe (quasi-random first), qmc (quasi-random), random or grid.
    space
        What is tuned: NAME=LOW:HIGH, NAME=VALUE,VALUE or a TOML file; names are lr, decay, schedule, eps (relative to
        √v̂), momentum, centered, bias_correction, weight_decay, warmup (in units of 1/(1-decay) steps). lr is the rate
        that momentum amounts to, η/(1-μ).
    all_parameters
        Tune everything, whatever the budget. Otherwise under 10 trials tune lr only, from 10 decay and schedule, too,
        from 25 eps and momentum, from 40 the rest.
    pruner
        Stop trials that fall behind: by the median of the others, hyperband, or none.
    folds
        Cross-validation: train each trial so many times, each with another share of the data held out.
    top
        Number of the best trials that are trained again, beside the default, to confirm the best.
    seeds
        Number of new seeds for that, at least 6; more settings to confirm need more.
    baseline
        Other optimizers, with the same budget each: Adam, AdamW, SGD, momentum, AdaGrad, Adadelta.
    epochs
        Passes over the training data in one training; the task's own number if omitted.
    schedule
        Learning rate over each training: constant, linear, cosine or steps. If omitted, the default has a constant one,
        and from 10 trials the schedule is tuned.
    seed
        Decides the draws and the trainings.
    workers
        Number of processes on this host, of one thread each; one per core if omitted.
    storage
        URL of a database for workers on many hosts, such as postgresql+psycopg://USER@HOST/DATABASE.
    study
        Name of the study in that database; tune-TASK if omitted.
    cluster
        ray: place the workers as tasks of Ray.
    address
        Address of the Ray cluster; a local one is started if omitted.
    out
        Directory of the run; runs/tune-TASK, numbered, if omitted. The same command in another shell joins a study that
        is running.
    resume
        Go on with the study in --out, or with the last one of this task; give the same options.
    accept_changes
        With --resume: go on although the task's code has changed.
    """

    trials: int | None = None
    total_epochs: int | None = None
    minutes: float | None = None
    sampler: Literal["tpe", "qmc", "random", "grid"] = "tpe"
    space: tuple[str, ...] | None = None
    all_parameters: bool = False
    pruner: Literal["median", "hyperband", "none"] = "median"
    folds: int | None = None
    top: int = 3
    seeds: int = 8
    baseline: tuple[str, ...] | None = None
    epochs: int | None = None
    schedule: ScheduleName | None = None
    seed: int = 0
    workers: int | None = None
    storage: str | None = None
    study: str | None = None
    cluster: Literal["ray"] | None = None
    address: str | None = None
    out: Path | None = None
    resume: bool = False
    accept_changes: bool = False

    def __post_init__(self) -> None:
        _as_path(self)
        budgets = {n: v for n in ("trials", "total_epochs", "minutes") if (v := getattr(self, n)) is not None}
        if len(budgets) > 1:
            names = ", ".join(f"--{option_name(name)}" for name in budgets)
            raise InputError("the budget", "one of --trials, --total-epochs, --minutes", names, "give one of them")
        _check_count(self, "trials", "40 is usual", least=2)
        _check_count(self, "total_epochs", "or give --trials")
        if self.minutes is not None and not check_number("--minutes", self.minutes, "or give --trials"):
            raise InputError("--minutes", "a number above 0", self.minutes, "or give --trials")
        for name, known in (
            ("sampler", ("tpe", "qmc", "random", "grid")),
            ("pruner", ("median", "hyperband", "none")),
            ("cluster", (None, "ray")),
        ):
            if getattr(self, name) not in known:
                allowed = f"one of {', '.join(str(k) for k in known if k)}"
                raise InputError(f"--{name}", allowed, getattr(self, name), f"{known[0]} is usual" if known[0] else "")
        _check_names("--baseline", self.baseline or (), [name for name in OPTIMIZERS if name != "RMSprop"])
        _check_count(self, "folds", "5 is usual", least=2)
        _check_count(self, "top", "3 is usual")
        _check_count(self, "seeds", "fewer cannot show that a setting is better", least=6)
        _check_count(self, "epochs", "omit it for the task's own")
        _check_schedule(self.schedule)
        _check_count(self, "seed", "any whole number will do", least=0)
        _check_count(self, "workers", "omit it for one per core")
        if self.address is not None and self.cluster is None:
            raise InputError("--address", "given with --cluster ray", self.address, "add --cluster ray")
        if self.study is not None and self.storage is None:
            raise InputError("--study", "given with --storage", self.study, "a study of one host is named by --out")


Options: TypeAlias = TrainOptions | CompareOptions | FindLrOptions | TuneOptions


def result_options(options: Options) -> dict[str, Any]:
    """Return the options that affect a run's result. run.json keeps them; a resumed run must have the same."""
    return {name: value for name, value in vars(options).items() if name not in _NO_RESULT}


def _as_path(options: Options) -> None:
    """Turn `out` into a Path: from Python, it may be text."""
    if options.out is not None:
        object.__setattr__(options, "out", Path(options.out))


def _check_schedule(value: object) -> None:
    known = get_args(ScheduleName)
    if value is not None and value not in known:
        raise InputError("--schedule", f"one of {', '.join(known)}", value, "cosine is usual")


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError unless each name is among the known ones; suggest the one that was probably meant."""
    for name in names:
        if name not in known:
            by_lower = {each.lower(): each for each in known}
            close = difflib.get_close_matches(name.lower(), by_lower, n=1)
            remedy = f"did you mean {by_lower[close[0]]}?" if close else ""
            raise InputError(option, f"names among {', '.join(known)}", name, remedy)


def _check_count(options: Options, field: str, remedy: str, *, least: int = 1) -> None:
    """Raise InputError unless a field is None or a whole number of at least `least`."""
    value = getattr(options, field)
    if value is not None:
        check_count(f"--{option_name(field)}", value, remedy, least=least)
