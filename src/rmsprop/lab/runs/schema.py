"""What the files of a run hold, and the check that they do: whoever reads them afterwards need not look again.

Fields that are not named here are let through: they are shown, or of a newer version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from rmsprop.errors import InputError, Received
from rmsprop.lab.runs.typed_json import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, SEVEN, checker
from rmsprop.rule import Rule

Count = Annotated[int, NOT_NEGATIVE]
Size = Annotated[float, NOT_NEGATIVE]
Rate = Annotated[float, POSITIVE]
Quantiles = dict[str, Annotated[list[float | None], SEVEN]]
Optimizer = Literal["RMSprop", "SGD", "momentum", "AdaGrad", "Adadelta", "Adam"]

_FIELDS = {field.name for field in dataclasses.fields(Rule)}
_RULE = TypedDict("_RULE", {f.name: type(f.default) for f in dataclasses.fields(Rule) if f.name != "lr"})  # type: ignore[misc]


class _TrainedRule(_RULE):
    lr: float


class _Config(TypedDict):
    task: str
    task_code: NotRequired[dict[str, dict[str, str]] | None]
    accepted_changes: NotRequired[list[str]]
    schedule: str
    made_with: _MadeWith


class _Constant(TypedDict):
    loss: float | None
    metric: float | None
    margin: Size


class _Given(TypedDict):
    epochs: Count | None
    batch_size: Count | None


class _TrainConfig(_Config):
    seed: Count
    batch_size: Count
    rule: _TrainedRule
    epochs: Count


class _MadeWith(TypedDict):
    torch: str
    threads: NotRequired[Annotated[int, AT_LEAST_ONE]]


class _CompareConfig(_Config):
    rule: _RULE
    optimizers: list[Optimizer]
    seeds: Count


class _Loss(TypedDict):
    step: Count
    epoch: Size
    loss: float | None
    losses_crc: Count
    first_loss: NotRequired[float | None]


class _Epoch(TypedDict):
    step: Count
    epoch: Count
    validation_loss: float | None
    validation_metric: float | None
    step_us: Rate | None
    optimizer_us: Size | None
    effective_lr: Quantiles
    constant: NotRequired[_Constant]


class _Tuned(TypedDict):
    optimizer: Optimizer
    lr: Rate
    seed: Count
    diverged: bool
    validation_loss: float | None
    validation_metric: float | None


class _Final(_Tuned):
    test_metric: float | None
    loss_curve: list[tuple[float, float | None]]
    validation_curve: list[tuple[float, float | None, float | None]]
    optimizer_us: Size | None
    effective_lr: Quantiles
    implementation: str | None


class _Rates(TypedDict):
    lr: Size
    first: int
    counts: Annotated[list[Count], NOT_EMPTY]


class _Tensor(TypedDict):
    group: Count
    shape: list[Count]
    elements: Count
    gradient_rms: Size | None
    update_rms: Size | None
    parameter_rms: Size | None
    update_ratio: Size | None
    history_rms: NotRequired[Size | None]
    largest_update: NotRequired[Size | None]
    eps_share: Size | None
    floor_share: NotRequired[Size | None]
    nonfinite: Count
    zero_gradient_share: Size | None
    unchanged_share: NotRequired[Size | None]
    signal_to_noise: NotRequired[float | None]
    effective_lr: _Rates | None
    effective_lr_median: Size | None
    gradient_cosine: NotRequired[float | None]
    sign_flips: NotRequired[Size | None]
    dead_rows: NotRequired[Count | None]
    rows: NotRequired[Count | None]
    age: NotRequired[Count | None]
    dtype: NotRequired[str]
    state_dtype: NotRequired[str]


class _Group(_TrainedRule):
    state_dtype: NotRequired[str]
    param_dtype: str
    stochastic_rounding: bool
    nonfinite: NotRequired[str]


class _Statistics(TypedDict):
    kind: Literal["statistics"]
    step: Count
    groups: Annotated[list[_Group], NOT_EMPTY]
    tensors: dict[str, _Tensor]
    gradient_norm: Size | None
    update_norm: NotRequired[Size | None]
    nonfinite_steps: NotRequired[Count]
    skipped_steps: NotRequired[Count]


class _Row(TypedDict):
    step: Count
    gradient_rms: float | None
    history_rms: float | None
    update_ratio: float | None
    nonfinite: Count | None


class _PostMortem(TypedDict):
    sentences: list[str]
    table: dict[str, list[_Row]]
    text: str


class _Replay(TypedDict):
    first: Count
    last: Count
    same: bool
    went_wrong: bool
    tells: bool


class _FailedReplay(TypedDict):
    failed: str


class _Ended(TypedDict):
    status: str
    task: str
    metric: str
    metric_kind: NotRequired[str | None]
    higher_is_better: bool
    command: str
    implementation: str
    environment: dict[str, str]


class _Finding(TypedDict):
    sentence: str
    cause: str
    threshold: str
    remedy: str


class _TrainSummary(_Ended):
    reason: str | None
    epochs: Count
    steps: Count
    validation_loss: float | None
    validation_metric: float | None
    test_metric: NotRequired[float | None]
    lost_epoch: NotRequired[Count]
    lost_records: NotRequired[Count]
    given: NotRequired[_Given | None]
    findings: NotRequired[list[_Finding]]
    post_mortem: NotRequired[_PostMortem | None]
    replay: NotRequired[_Replay | _FailedReplay | None]


class _Score(TypedDict):
    optimizer: Optimizer
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


class _CompareSummary(_Ended):
    confidence: Size
    constant: _Constant
    scores: Annotated[list[_Score], NOT_EMPTY]
    jobs: Count


_CONFIGS = {"train": checker(_TrainConfig), "compare": checker(_CompareConfig)}
_SUMMARIES = {"train": checker(_TrainSummary), "compare": checker(_CompareSummary)}
_RECORDS = {
    ("train", "kind"): {"loss": checker(_Loss), "epoch": checker(_Epoch)},
    ("compare", "stage"): {"tune": checker(_Tuned), "final": checker(_Final)},
}
_STATISTICS = checker(_Statistics)


def check_config(value: dict[str, Any], where: str) -> None:
    """Raise InputError unless `value` is what a run is, as run.json has it."""
    _of_kind(_CONFIGS, value, "kind", where)
    _check_rule(value["rule"], "rule", where)
    unknown = sorted(set(value["rule"]) - _FIELDS)
    if unknown:
        _refuse(where, f"rule.{unknown[0]}", "left out", value["rule"][unknown[0]])


def check_summary(value: dict[str, Any], kind: str, where: str) -> None:
    """Raise InputError unless `value` is how a run of `kind` ended, as summary.json has it."""
    _SUMMARIES[kind](value, where)
    if kind == "compare" and "RMSprop" not in [score["optimizer"] for score in value["scores"]]:
        _refuse(where, "scores", "a list with RMSprop's", Received("one without"))
    if value.get("replay") is not None and "post_mortem" not in value:
        _refuse(where, "post_mortem", "there beside replay", Received("none"))
    if value.get("reason") == "validation not finite" and "lost_epoch" not in value:
        _refuse(where, "lost_epoch", "there with this reason", Received("none"))
    for number, score in enumerate(value.get("scores", [])):
        if score["interval"] is not None and score["difference"] is None:
            _refuse(where, f"scores.{number}.difference", "a number beside its interval", None)


def check_record(value: dict[str, Any], kind: str, where: str) -> None:
    """Raise InputError unless `value` is a record of a run of `kind`, as records.jsonl has it."""
    field = "kind" if kind == "train" else "stage"
    _of_kind(_RECORDS[kind, field], value, field, where)
    if kind == "compare" and not value["diverged"]:
        for name in ("validation_loss", "validation_metric", "test_metric", "loss_curve", "validation_curve"):
            lost = name in value and value[name] in (None, [])
            if lost or any(None in point for point in _points(value.get(name))):
                _refuse(where, name, "there, without null, where diverged is false", Received("null or nothing"))


def _points(value: Any) -> list[list[float | None]]:
    return value if isinstance(value, list) else []


def check_statistics(value: dict[str, Any], where: str) -> None:
    """Raise InputError unless `value` is a measured step of a training, as statistics.jsonl has it."""
    _STATISTICS(value, where)
    for number, group in enumerate(value["groups"]):
        _check_rule(group, f"groups.{number}", where)
    for name, tensor in value["tensors"].items():
        if tensor["group"] >= len(value["groups"]):
            _refuse(where, f"tensors.{name}.group", f"below {len(value['groups'])}", tensor["group"])


def _check_rule(values: dict[str, Any], field: str, where: str) -> None:
    try:
        Rule(**{name: value for name, value in values.items() if name in _FIELDS})
    except InputError as error:
        _refuse(where, f"{field}.{error.name}", error.allowed, error.value)


def _of_kind(kinds: dict[str, Callable[[Any, str], None]], value: dict[str, Any], field: str, where: str) -> None:
    kind = value.get(field, Received("none"))
    if not isinstance(kind, str) or kind not in kinds:
        _refuse(where, field, f"one of {', '.join(kinds)}", kind)
    kinds[kind](value, where)


def _refuse(where: str, field: str, allowed: str, value: object) -> None:
    raise InputError(f"{field} in {where}", allowed, value, "restore the file from a copy, or start a new run")
