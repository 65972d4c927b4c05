"""Types of the contents of a run's files. `rmsprop.lab.runs.checks` checks a file against them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, NotRequired, TypeAlias, TypedDict

from rmsprop.lab.runs.typed_json import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, SEVEN
from rmsprop.rule import Rule

Count = Annotated[int, NOT_NEGATIVE]
Size = Annotated[float, NOT_NEGATIVE]
Rate = Annotated[float, POSITIVE]
Quantiles = dict[str, Annotated[list[float | None], SEVEN]]

RuleFields = TypedDict("RuleFields", {f.name: type(f.default) for f in dataclasses.fields(Rule) if f.name != "lr"})  # type: ignore[misc]


class TrainedRule(RuleFields):
    """All fields of a Rule, lr included."""

    lr: float


class MadeWith(TypedDict):
    """What changes the last bits of a run's sums."""

    torch: str
    threads: NotRequired[Annotated[int, AT_LEAST_ONE]]
    processes: NotRequired[Annotated[int, AT_LEAST_ONE]]  # 1 if missing


class RunConfig(TypedDict):
    """Configuration in run.json: the fields of every run."""

    task: str
    task_code: NotRequired[dict[str, dict[str, str]] | None]
    from_python: NotRequired[bool]  # the task was made in Python: `task` is its name only
    accepted_changes: NotRequired[list[str]]  # changes of the task's code that --accept-changes accepted
    schedule: str | None
    made_with: MadeWith


class TrainConfig(RunConfig):
    """Configuration of a run of train."""

    kind: Literal["train"]
    seed: Count
    batch_size: Count
    rule: TrainedRule
    epochs: Count
    every: NotRequired[Count]
    recipe: NotRequired[str | None]
    warmup: NotRequired[Count | None]
    clip: NotRequired[Rate | None]
    average: NotRequired[Size | None]
    evaluate_every: NotRequired[Annotated[int, AT_LEAST_ONE]]
    patience: NotRequired[Count | None]
    best: NotRequired[bool]
    device: NotRequired[str]
    amp: NotRequired[str | None]
    compile: NotRequired[bool]
    state_dtype: NotRequired[str | None]
    stochastic_rounding: NotRequired[bool]
    nonfinite: NotRequired[str]


class CompareConfig(RunConfig):
    """Configuration of a comparison."""

    kind: Literal["compare"]
    rule: RuleFields
    optimizers: list[str]
    quick: NotRequired[bool]
    ablate: NotRequired[bool]
    learning_rates: NotRequired[list[Rate]]
    tuning_seeds: NotRequired[Count]
    seeds: Count
    epochs: NotRequired[Count]


class LossRecord(TypedDict):
    """The mean training loss of the steps since the previous record.

    With --nonfinite skip or zero, the mean of the losses that are finite.
    """

    kind: Literal["loss"]
    step: Count
    epoch: Size
    loss: float | None
    first_loss: NotRequired[float | None]  # loss of the first step, on the untrained model; in the first record only
    nonfinite: NotRequired[Count]  # number of losses that the mean leaves out


class ConstantScore(TypedDict):
    """A `rmsprop.lab.chance.Constant`."""

    loss: float | None
    metric: float | None
    margin: Size


class EpochRecord(TypedDict):
    """Results on the validation data after an epoch, or before the first step."""

    kind: Literal["epoch"]
    step: Count
    epoch: Count
    validation_loss: float | None
    validation_metric: float | None
    seconds: NotRequired[Size]
    step_us: Rate | None
    optimizer_us: Size | None
    effective_lr: Quantiles
    constant: NotRequired[ConstantScore]
    separate_losses: NotRequired[bool]  # the validation loss is another function than the training loss
    metrics: NotRequired[dict[str, float | None]]


TrainRecord: TypeAlias = LossRecord | EpochRecord


class TrialRow(TypedDict):
    """One training of a comparison, and its results."""

    stage: Literal["tune", "final"]
    optimizer: str
    lr: Rate
    seed: Count
    diverged: bool
    validation_loss: float | None
    validation_metric: float | None


class FinalRow(TrialRow):
    """One training of a comparison's second stage, with curves and test scores."""

    test_loss: NotRequired[float | None]
    test_metric: float | None
    constant: NotRequired[ConstantScore | None]
    loss_curve: list[tuple[float, float | None]]
    validation_curve: list[tuple[float, float | None, float | None]]
    step_us: NotRequired[Size | None]
    optimizer_us: Size | None
    effective_lr: Quantiles
    implementation: str | None


class _PostMortemRow(TypedDict):
    step: Count
    gradient_rms: float | None
    history_rms: float | None
    update_ratio: float | None
    nonfinite: Count | None


class PostMortemFacts(TypedDict):
    """A `rmsprop.monitor.PostMortem` with its text."""

    sentences: list[str]
    table: dict[str, list[_PostMortemRow]]
    text: str


class FindingFacts(TypedDict):
    """A `rmsprop.monitor.findings.Finding` with its remedy as commands."""

    kind: NotRequired[str]  # always written, but never read from a file
    tensor: NotRequired[str | None]
    sentence: str
    cause: str
    threshold: str
    remedy: str
    evidence: NotRequired[dict[str, Any]]  # always written, but never read from a file


class GivenOptions(TypedDict):
    """Options as given on the command line; None if omitted."""

    epochs: Count | None
    batch_size: Count | None


class _Summary(TypedDict):
    status: str
    task: str
    metric: str
    metric_kind: NotRequired[str | None]
    higher_is_better: bool
    command: str
    implementation: str
    environment: dict[str, str]


class TrainSummary(_Summary):
    """How a training ended: its summary.json."""

    reason: str | None
    epochs: Count
    steps: Count
    validation_loss: float | None
    validation_metric: float | None
    test_loss: NotRequired[float | None]
    test_metric: NotRequired[float | None]
    metrics: NotRequired[dict[str, float | None]]
    test_metrics: NotRequired[dict[str, float | None]]
    best_epoch: NotRequired[Count]  # whose weights are kept
    stopped_early: NotRequired[bool]
    device: NotRequired[str]
    lost_epoch: NotRequired[Count]
    nonfinite_losses: NotRequired[Count]  # steps whose loss was not finite, with --nonfinite skip or zero
    lost_records: NotRequired[Count]
    given: NotRequired[GivenOptions | None]
    findings: NotRequired[list[FindingFacts]]
    post_mortem: NotRequired[PostMortemFacts | None]


class ScoreFacts(TypedDict):
    """A `rmsprop.lab.verdicts.Score`."""

    optimizer: str
    lr: Size
    at_edge: bool
    metric: float | None
    low: float | None
    high: float | None
    validation_loss: float | None
    optimizer_us: Size | None
    diverged: Count
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str
    at_chance: NotRequired[bool | None]


class Difference(TypedDict):
    """The paired difference of two optimizers' scores, its interval, and the verdict."""

    difference: float | None
    interval: tuple[float, float] | None
    verdict: str


class CompareSummary(_Summary):
    """How a comparison ended: its summary.json."""

    confidence: Size
    constant: ConstantScore
    widened: NotRequired[list[Rate]]  # rates added to the grid of run.json
    clip: NotRequired[Rate]  # largest norm of all gradients together, in every training
    scores: Annotated[list[ScoreFacts], NOT_EMPTY]
    all_switches: NotRequired[Difference]  # of an ablation: its last rule against its first
    jobs: Count
    seconds: NotRequired[Size]


class TuneConfig(RunConfig):
    """Configuration of a search."""

    kind: Literal["tune"]
    rule: TrainedRule
    metric: str
    metric_kind: str
    confirmed_on: str  # "test" or "validation" data; "" for a function of the user
    sampler: str
    seed: Count
    seeds: Count
    top: Count
    folds: NotRequired[Count | None]
    baseline: NotRequired[list[str] | None]


class SettingFacts(TypedDict):
    """A `rmsprop.lab.tuning.space.Setting`."""

    rule: TrainedRule
    schedule: str
    warmup: Count
    optimizer: str


TIME_OVER = "the time is over"  # reason of a trial that the budget in minutes ended


class TrialFacts(TypedDict):
    """A trial of a search that has ended."""

    optimizer: str
    slot: Count
    phase: str
    setting: SettingFacts
    point: dict[str, Any]
    score: float | None  # None if it was stopped or diverged; `reason` says why
    reason: str
    epochs: Count
    seconds: Size
    curve: list[list[float]]  # epoch, minus the loss if higher scores are better


class CandidateFacts(TypedDict):
    """A setting that was trained again on new seeds; the first is the default."""

    setting: SettingFacts
    scores: list[float | None]
    median: float | None  # None if half of the seeds or more diverged
    diverged: Count
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str
    search_score: float | None
    at_chance: bool | None


class ImportanceFacts(TypedDict):
    """How much a coordinate decides whether a trial is among the best."""

    share: Size  # of 1, over all coordinates
    chance: Size  # 5 % of shuffles of the scores reach more


class TuneSummary(_Summary):
    """How a search ended: its summary.json."""

    trials: list[TrialFacts]
    candidates: Annotated[list[CandidateFacts], NOT_EMPTY]
    recommended: Count  # index in candidates
    confidence: Size
    noise: float | None  # standard deviation of the default's scores over seeds
    spaces: dict[str, dict[str, Any]]  # domains as they were at the end, by optimizer
    widened: dict[str, list[float]]
    at_ends: dict[str, list[str]]
    importances: NotRequired[dict[str, ImportanceFacts]]  # of RMSprop; empty if the trials are too few
    failures: list[str]
    gradient_rms: float | None
    confirmed_on: str  # "test" or "validation" data; "" for a function of the user
    seconds: Size
    workers: Count
