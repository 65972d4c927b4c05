"""Every threshold of a finding from both sides: silent a tenth below it, reported a tenth above it.

A threshold that moves by a quarter fails here. The records are written by hand; nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from rmsprop import Rule
from rmsprop.lab.chance import SHARE
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.outcome import Judged, harmless, outcome
from rmsprop.monitor.findings import KINDS, Finding, find
from rmsprop.monitor.findings.finding import higher, lower

Records = list[dict[str, Any]]


def tensor(step: int = 2, **values: Any) -> dict[str, Any]:
    """Return a healthy 4 × 4 tensor of a record, changed by `values`; `d` is the median divisor."""
    usual = {
        "group": 0, "shape": [4, 4], "elements": 16, "gradient_rms": 1.0, "history_rms": 1.0, "update_rms": 1e-3,
        "parameter_rms": 1.0, "update_ratio": 1e-3, "eps_share": 0.0, "floor_share": 0.0, "zero_gradient_share": 0.0,
        "unchanged_share": 0.0, "nonfinite": 0, "gradient_cosine": 0.0, "sign_flips": 0.5, "signal_to_noise": None,
        "dead_rows": 0, "rows": 100, "age": step - 1, "dtype": "float32", "state_dtype": "float32",
    }  # fmt: skip
    exponent = round(math.log2(values.pop("d", 1.0) / math.sqrt(2)))
    histogram = {"lr": 1e-3, "first": exponent, "counts": [16]}
    return {**usual, "effective_lr": histogram, **values}


def records(
    count: int = 12, *, norm: Callable[[int], float] = float, group: dict[str, Any] | None = None, **named: Any
) -> Records:
    """Return records of steps 2, 3, … for the tensors `named`: values, or a function of the step."""
    rule = {**Rule(lr=1e-3).__dict__, "stochastic_rounding": False, "param_dtype": "float32", "state_dtype": "float32"}
    made = []
    for step in range(2, count + 2):
        of = {name: values(step) if callable(values) else values for name, values in named.items()}
        made.append(
            {
                "kind": "statistics", "step": step, "groups": [{**rule, **(group or {})}], "gradient_norm": norm(step),
                "tensors": {name: tensor(step, **values) for name, values in of.items()},
            }
        )  # fmt: skip
    return made


def kinds(made: Records) -> set[str]:
    return {finding.kind for finding in find(made)}


def one(**values: Any) -> Records:
    return records(a=values)


def at(step: int, **values: Any) -> Records:
    return records(a=lambda now: values if now == step else {})


def first(ratio: float, times: float) -> Records:
    """Return records after a first step: `ratio` of the parameter, and `times` as long as later steps."""
    made = records(a={"update_rms": 1.0})
    begin = {**made[0], "step": 1}
    begin["tensors"] = {"a": tensor(1, update_ratio=ratio, update_rms=times)}
    return [begin, *made]


def three(**values: Any) -> Records:
    """Return records of three tensors, one of them with other values."""
    return records(a={}, b={}, c=values)


def decay(share: float, d: float, momentum: float = 0.0) -> Records:
    """Return records in which L2 decay is this share of the gradient."""
    return records(a={"parameter_rms": share, "d": d}, group={"weight_decay": 1.0, "momentum": momentum})


def state(due: float, made_of_it: float, young: float = 0.1) -> Records:
    """Return records in which v should fall by `due` and falls by `made_of_it` of that."""
    decayed = 1 - due / (1 - young**2)
    beta, fell = decayed ** (1 / 9), math.sqrt(1 - due * made_of_it)

    def falls(step: int) -> dict[str, Any]:
        history = 1.0 if step < 12 else fell  # the newest ten records are of steps 4 to 13
        return {"history_rms": fell if step == 13 else history, "gradient_rms": young, "state_dtype": "bfloat16"}

    return records(a=falls, group={"decay": beta, "state_dtype": "bfloat16"})


def signs(negative: int, count: int, elements: int = 1) -> Records:
    """Return `count` records, `negative` of them with negative cosines. Up to four of the others come last."""
    positive = count - negative
    end = count - min(positive // 2, 4)

    def values(step: int) -> dict[str, Any]:
        i = step - 2
        opposed = end - negative <= i < end
        return {"elements": elements, "gradient_cosine": -1.0 if opposed else 1.0, "sign_flips": float(opposed)}

    return records(count, a=values)


def later(made: Records, steps: int) -> Records:
    """Return the records, moved by `steps` steps."""
    return [{**record, "step": record["step"] + steps} for record in made]


def started(left: float, far: float) -> Records:
    """Return records in which v₀ is the share `left` of v, and d is `far` times that of the gradient."""
    beta, age = 0.9, 12
    v0 = 1.0
    rest = v0 * beta**age  # the last record is of step 13
    root = math.sqrt(rest * beta)
    values = {"history_rms": math.sqrt(rest / left), "gradient_rms": root / far}
    return records(a=values, group={"decay": beta, "initial_square_avg": v0, "eps": 0.0})


def clipped(alike: int, count: int, apart: float = 0.0) -> Records:
    """Return `count` records; the first `alike` have the same norm within the share `apart`."""
    return records(
        count,
        norm=lambda step: 1 + apart * (step % 2) if step < alike + 2 else 1.0 * step,
        a=lambda step: {"gradient_rms": 1.0 + step},
    )


# Just below and just above each threshold.
THRESHOLDS = [
    ("spike", at(8, gradient_rms=9.0, age=9999), at(8, gradient_rms=11.0, age=9999)),
    ("oscillation", one(gradient_cosine=-0.81, sign_flips=1.0), one(gradient_cosine=-0.99, sign_flips=1.0)),
    ("oscillation", one(gradient_cosine=-1.0, sign_flips=0.72), one(gradient_cosine=-1.0, sign_flips=0.88)),
    ("oscillation", signs(9, 10), signs(10, 10)),
    ("oscillation", signs(9, 10, elements=7), signs(9, 10, elements=8)),
    ("oscillation", signs(41, 50), signs(42, 50)),
    ("oscillation", [*signs(12, 12), *later(signs(40, 50), 12)], signs(42, 50)),
    ("clipping", clipped(17, 20), clipped(19, 20)),
    ("clipping", clipped(4, 4), clipped(5, 5)),
    ("clipping", clipped(20, 20, apart=2.4e-3), clipped(20, 20, apart=1.6e-3)),
    ("dead rows", one(dead_rows=23), one(dead_rows=27)),
    (
        "dead rows",
        records(a=lambda step: {"zero_gradient_share": float(step > 9)}),
        records(a=lambda step: {"zero_gradient_share": float(step > 8)}),
    ),
    ("dead rows", records(2, a={"dead_rows": 90}), records(3, a={"dead_rows": 90})),
    ("first step", first(0.45, 9.0), first(0.55, 9.0)),
    ("first step", first(0.9, 1.8), first(0.9, 2.2)),
    ("long steps", one(update_ratio=0.18), one(update_ratio=0.22)),
    ("long steps", records(2, a={"update_ratio": 0.5}), records(3, a={"update_ratio": 0.5})),
    ("short steps", one(update_ratio=1.1e-6), one(update_ratio=0.9e-6)),
    ("short steps", one(update_ratio=1e-7, update_rms=0.9e-6), one(update_ratio=1e-7, update_rms=1.1e-6)),
    (
        "short steps",
        one(update_ratio=1e-7, unchanged_share=0.55),
        one(update_ratio=1e-7, unchanged_share=0.45),
    ),
    ("stall", one(unchanged_share=0.45), one(unchanged_share=0.55)),
    ("eps", one(eps_share=0.45), one(eps_share=0.55)),
    ("variance floor", one(floor_share=0.45), one(floor_share=0.55)),
    ("start", started(0.45, 9.0), started(0.55, 9.0)),
    ("start", started(0.9, 2.7), started(0.9, 3.3)),
    ("state stall", state(0.18, 0.0), state(0.22, 0.0)),
    ("state stall", state(0.5, 0.11), state(0.5, 0.09)),
    ("state stall", state(0.3, 0.0, young=0.74), state(0.3, 0.0, young=0.67)),
    ("weight decay", decay(0.009, 1 / 64), decay(0.011, 1 / 64)),
    ("weight decay", decay(0.0011, 1 / 64), decay(0.0009, 1 / 64)),
    ("effective lr", three(gradient_rms=0.11, d=2.0**-8), three(gradient_rms=0.09, d=2.0**-8)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "silent", "loud"), THRESHOLDS)
def test_a_finding_begins_at_its_threshold(kind: str, silent: Records, loud: Records) -> None:
    assert kind not in kinds(silent)
    assert kind in kinds(loud)


def test_every_kind_has_a_threshold_here() -> None:
    assert {kind for kind, *_ in THRESHOLDS} == KINDS.keys() - {"nonfinite"}  # one element is its threshold


@pytest.mark.parametrize(("lr", "says"), [(0.09e-3, False), (0.11e-3, True)])
def test_a_rate_at_the_end_of_a_schedule_is_a_tenth_of_its_largest_or_less(lr: float, says: bool) -> None:
    made = one(update_ratio=1e-7)
    made[-1] = {**made[-1], "groups": [{**made[-1]["groups"][0], "lr": lr}]}
    assert ("short steps" in kinds(made)) == says


@pytest.mark.parametrize(("lr", "says"), [(0.9, False), (1.1, True)])
def test_an_effective_rate_is_far_above_others_at_a_hundred_times_them(lr: float, says: bool) -> None:
    made = three(gradient_rms=0.01)
    for record in made:
        own = record["tensors"]["c"]
        own["group"] = 1
        own["effective_lr"] = {"lr": lr, "first": -7, "counts": [16]}
        record["groups"].append({**record["groups"][0], "lr": 100 * 2.0**-6 * lr * 1e-3})
    assert ("effective lr" in kinds(made)) == says


@pytest.mark.parametrize(("times", "says"), [(9.0, False), (11.0, True)])
def test_decay_is_another_one_where_it_shrinks_ten_times_as_much(times: float, says: bool) -> None:
    d = 2.0**-2.5
    assert ("weight decay" in kinds(decay(0.5, d, momentum=1 - 1 / (times * d)))) == says


@pytest.mark.parametrize(("factor", "cancelled"), [(1 / 90, False), (1 / 110, True)])
def test_a_bias_is_cancelled_by_a_hundredth_of_its_weights_gradient(factor: float, cancelled: bool) -> None:
    bias = {"shape": [4], "elements": 4, "gradient_rms": factor, "eps_share": 1.0}
    named: dict[str, Any] = {"m.weight": {}, "m.bias": bias}
    made = records(**named)
    assert (kinds(made) == set()) == cancelled


def test_rates_that_are_proposed() -> None:
    assert [lower(lr) for lr in (1.0, 0.01, 0.005, 1e-4)] == [1e-3, 1e-3, 5e-4, 1e-5]
    assert [higher(lr) for lr in (1e-8, 1e-4, 5e-4, 0.01)] == [1e-3, 1e-3, 5e-3, 0.1]
    long, short = find(one(update_ratio=0.5))[0], find(one(update_ratio=1e-7))[0]
    assert long.changes == ({"lr": 1e-5},)
    assert short.changes == ({"lr": 50.0},)
    assert [f.changes for f in find(one(eps_share=1.0, gradient_rms=0.01))] == [({"eps": 1e-9},)]


@pytest.mark.parametrize(("size", "corrects"), [(0.0105, False), (0.0125, True)])
def test_a_smaller_rate_comes_first_where_later_steps_are_long_too(size: float, corrects: bool) -> None:
    """Long: over a fifth of the parameter before the first step, which is 0.436 times its size after it."""
    made = first(0.9, 9.0)
    made[0]["tensors"]["a"]["parameter_rms"] = size
    rate = {"lr": 1e-4}
    assert find(made)[0].changes == (({"bias_correction": True}, rate) if corrects else (rate,))


# -- how a training ended ---------------------------------------------------------------------------------------------


def history(
    validation: list[float], training: list[float] | None = None, *, start: float = 2.0, constant: float | None = None,
    scores: list[float] | None = None, chance: float | None = None, margin: float = 0.0,
) -> LossHistory:  # fmt: skip
    """Return the history of a training with one step an epoch and these losses; `scores` begin before the first."""
    known = {"loss": constant, "metric": chance, "margin": margin}
    told: list[Any] = [
        {"kind": "epoch", "epoch": 0, "step": 0, "validation_loss": start, "validation_metric": None, "constant": known}
    ]
    for epoch, loss in enumerate(validation, start=1):
        own = loss if training is None else training[epoch - 1]
        told.append({"kind": "loss", "step": epoch, "epoch": float(epoch), "loss": own})
        told.append(
            {"kind": "epoch", "epoch": epoch, "step": epoch, "validation_loss": loss, "validation_metric": None}
        )
    told[1]["first_loss"] = start
    epochs = [record for record in told if record["kind"] == "epoch"]
    for record, score in zip(epochs, scores or [], strict=scores is not None):
        record["validation_metric"] = score
    return LossHistory(told)


def came(of: LossHistory, *, moved: float = 5.0, metric: str = "loss") -> Finding | None:
    judged = Judged(of, {"lr": 0.01}, metric, metric == "accuracy", moved)
    return next(outcome(judged), None)


def kind_of(of: LossHistory, **about: Any) -> str | None:
    found = came(of, **about)
    return None if found is None else found.kind


NOTHING = "learned nothing"


@pytest.mark.parametrize(
    ("silent", "loud"),
    [
        (history([1.975] * 3), history([1.985] * 3)),  # SHARE of the loss before training
        (history([1.0, 0.985], constant=1.0), history([1.0, 0.992], constant=1.0)),  # SHARE of the constant's loss
        (
            history([2.0] * 2, scores=[0.1, 0.1, 0.20], chance=0.1),
            history([2.0] * 2, scores=[0.1, 0.1, 0.18], chance=0.1),
        ),
        (
            history([2.0] * 2, scores=[0.5, 0.5, 0.68], chance=0.5, margin=0.08),
            history([2.0] * 2, scores=[0.5, 0.5, 0.64], chance=0.5, margin=0.08),
        ),
    ],
)
def test_nothing_was_learned_from_its_thresholds_on(silent: LossHistory, loud: LossHistory) -> None:
    assert SHARE == 0.01
    assert kind_of(silent, metric="accuracy") != NOTHING
    assert kind_of(loud, metric="accuracy") == NOTHING


@pytest.mark.parametrize(
    ("training", "moved", "change"),
    [
        ([2.5, 2.1], 5.0, {"lr": 0.001}),  # the first loss is 1.25 times the loss before
        ([2.3, 2.1], 5.0, None),
        ([2.3, 2.1], 0.9, {"lr": 0.1}),
        ([2.3, 2.1], 1.1, None),
        ([2.5, 1.85], 5.0, {"lr": 0.001}),
        ([2.5, 1.75], 5.0, None),  # the training data were learned
    ],
)
def test_why_nothing_was_learned(training: list[float], moved: float, change: dict[str, Any] | None) -> None:
    found = came(history([2.0, 2.0], training), moved=moved)
    assert found is not None
    assert found.kind == NOTHING
    assert found.changes == (() if change is None else (change,))
    assert found.remedy


@pytest.mark.parametrize(
    ("silent", "loud"),
    [
        ((history([1.9, 1.8, 1.75]), 0.5), (history([1.95, 1.9, 1.85]), 0.5)),
        ((history([1.95, 1.9, 1.85]), 1.1), (history([1.95, 1.9, 1.85]), 0.9)),
        ((history([1.865, 1.845, 1.83, 1.82]), 0.5), (history([1.9, 1.88, 1.85, 1.82]), 0.5)),
        ((history([1.9, 1.859, 1.84, 1.82]), 0.5), (history([1.9, 1.878, 1.84, 1.82]), 0.5)),
        ((history([1.85]), 0.5), (history([1.95, 1.85]), 0.5)),
        ((history([1.95, 1.9, 1.85], constant=2.3), 0.5), (history([1.95, 1.9, 1.85], constant=2.15), 0.5)),
    ],
)
def test_a_training_is_slow_from_its_thresholds_on(
    silent: tuple[LossHistory, float], loud: tuple[LossHistory, float]
) -> None:
    assert kind_of(silent[0], moved=silent[1]) != "slow"
    assert kind_of(loud[0], moved=loud[1]) == "slow"


@pytest.mark.parametrize(
    ("silent", "loud"),
    [
        (history([1.0, 1.22]), history([1.0, 1.28])),
        (
            history([1.0, 1.5], scores=[0.1, 0.9, 0.864], chance=0.1),
            history([1.0, 1.5], scores=[0.1, 0.9, 0.856], chance=0.1),
        ),
    ],
)
def test_a_training_got_worse_from_its_thresholds_on(silent: LossHistory, loud: LossHistory) -> None:
    assert kind_of(silent, metric="accuracy") is None
    assert kind_of(loud, metric="accuracy") == "got worse"


@pytest.mark.parametrize(("training", "change"), [([0.5, 0.4], {"epochs": 1}), ([0.5, 0.6], {"lr": 0.001})])
def test_what_got_worse_while_training_got_better_stops_earlier(training: list[float], change: dict[str, Any]) -> None:
    found = came(history([1.0, 1.5], training))
    assert found is not None
    assert found.changes == (change,)


@pytest.mark.parametrize(
    ("kind", "training", "spared"),
    [
        ("long steps", [1.0, 0.19], True),
        ("long steps", [1.0, 0.21], False),
        ("first step", [2.8, 0.5], True),
        ("first step", [3.2, 0.5], False),
        ("first step", [3.2, 0.19], True),
        ("oscillation", [1.0, 0.19], True),
        ("spike", [1.0, 0.19], True),
        ("eps", [1.0, 0.01], False),
    ],
)
def test_long_steps_are_harmless_where_the_training_went_well(kind: str, training: list[float], spared: bool) -> None:
    assert harmless(Finding(kind, None, 1, "s", "c", {}, "t"), history([1.0, 0.5], training)) == spared


def test_an_outcome_needs_a_loss_before_the_first_step_and_one_at_the_end() -> None:
    assert came(LossHistory([])) is None
    start: Any = {"kind": "epoch", "epoch": 0, "step": 0, "validation_loss": 2.0}
    assert came(LossHistory([start])) is None
