"""Judge optimizers by their final trainings, paired seed by seed."""

from __future__ import annotations

import math
from statistics import median
from typing import NamedTuple

from rmsprop.lab.chance import Constant, no_better
from rmsprop.lab.intervals import median_of_known, paired_interval
from rmsprop.lab.learning_rates import Choice
from rmsprop.lab.runs.schema import FinalRow

CONFIDENCE = 0.95  # joint confidence of all intervals of a comparison
LEAST_SCORED = 10  # trials with a score below which a search shows no importances


class Difference(NamedTuple):
    """The paired difference of an optimizer's scores to those of its reference."""

    difference: float | None  # mean of this optimizer's metric minus the reference's; None if a seed diverged
    interval: tuple[float, float] | None
    verdict: str  # "better" or "worse" than the reference, "no difference" shown, or "not comparable"


class Score(NamedTuple):
    """One optimizer's test results over the seeds, and its paired difference to its reference."""

    optimizer: str
    lr: float
    at_edge: bool
    metric: float  # median over the seeds
    low: float  # smallest and largest metric of a seed
    high: float
    validation_loss: float | None  # median over the seeds that did not diverge, at the end of training
    optimizer_us: float | None  # median time of one optimizer step in µs; None if no epoch was finished
    diverged: int  # number of seeds that ended with a loss or metric that is not finite
    difference: float | None  # these three are a Difference; None and "" for RMSprop, which has no reference
    interval: tuple[float, float] | None
    verdict: str
    at_chance: bool | None = None  # whether no better than the best constant prediction; None if not known


def judge(
    higher_is_better: bool, choices: dict[str, Choice], rows: list[FinalRow], *, in_turn: bool = False
) -> list[Score]:
    """Return one Score per optimizer.

    The reference of each is RMSprop, and RMSprop comes first, then the others from best to worst median. If `in_turn`,
    the reference of each is the one before it, and the order stays.
    """
    names = list(choices)
    metrics = _metrics_by_optimizer(names, rows, higher_is_better)
    constant = constant_score(rows)
    scores = []
    for number, (optimizer, choice) in enumerate(choices.items()):
        results = [row for row in rows if row["optimizer"] == optimizer]
        values = metrics[optimizer].values()
        found = Difference(None, None, "")
        if optimizer != "RMSprop":
            reference = metrics[names[number - 1] if in_turn else "RMSprop"]
            comparisons = len(names) - 1 + in_turn  # in turn, the last is compared with the first, too
            found = _difference(metrics[optimizer], reference, comparisons, higher_is_better)
        scores.append(
            Score(
                optimizer=optimizer,
                lr=choice.lr,
                at_edge=choice.at_edge,
                metric=median(values),
                low=min(values),
                high=max(values),
                validation_loss=median_of_known(r["validation_loss"] for r in results if not r["diverged"]),
                optimizer_us=median_of_known(r["optimizer_us"] for r in results),
                diverged=sum(r["diverged"] for r in results),
                difference=found.difference,
                interval=found.interval,
                verdict=found.verdict,
                at_chance=_at_chance(results, median(values), constant, higher_is_better),
            )
        )
    if in_turn:
        return scores
    return sorted(scores, key=lambda s: (s.optimizer != "RMSprop", -s.metric if higher_is_better else s.metric))


def judge_all_switches(higher_is_better: bool, choices: dict[str, Choice], rows: list[FinalRow]) -> Difference:
    """Return the difference of the last rule of an ablation to the first."""
    names = list(choices)
    metrics = _metrics_by_optimizer(names, rows, higher_is_better)
    return _difference(metrics[names[-1]], metrics[names[0]], len(names), higher_is_better)


def _metrics_by_optimizer(
    names: list[str], rows: list[FinalRow], higher_is_better: bool
) -> dict[str, dict[int, float]]:
    """Return the test metric of each seed, by optimizer."""
    return {o: _metrics({r["seed"]: r for r in rows if r["optimizer"] == o}, higher_is_better) for o in names}


def _difference(
    metrics: dict[int, float], reference: dict[int, float], comparisons: int, higher_is_better: bool
) -> Difference:
    """Return the paired difference; the intervals of all `comparisons` hold jointly (Bonferroni)."""
    paired = [metrics[seed] - reference[seed] for seed in sorted(reference)]
    center, interval = paired_interval(paired, 1 - (1 - CONFIDENCE) / comparisons)
    return Difference(center, interval, verdict_of(interval, higher_is_better))


def constant_score(rows: list[FinalRow]) -> Constant:
    """Return the score of the best constant prediction on the test data, from the first row that has it."""
    known = (row["constant"] for row in rows if row.get("constant"))
    return next((Constant(**constant) for constant in known if constant), Constant())


def _metrics(results: dict[int, FinalRow], higher_is_better: bool) -> dict[int, float]:
    """Return the test metric of each seed; infinity of the worse sign if the seed diverged."""
    worst = -math.inf if higher_is_better else math.inf
    known = {seed: None if row["diverged"] else row["test_metric"] for seed, row in results.items()}
    return {seed: worst if metric is None else metric for seed, metric in known.items()}


def verdict_of(interval: tuple[float, float] | None, higher_is_better: bool) -> str:
    """Return "better", "worse", "no difference", or "not comparable" without an interval."""
    if interval is None:
        return "not comparable"
    if interval[0] <= 0 <= interval[1]:
        return "no difference"
    return "better" if (interval[0] > 0) == higher_is_better else "worse"


def _at_chance(rows: list[FinalRow], score: float, constant: Constant, higher_is_better: bool) -> bool | None:
    """Return whether one optimizer's median score is no better than the constant's; None if not known.

    If the constant's score is not known, test losses are compared.
    """
    if constant.metric is not None:
        return no_better(score, constant.metric, constant.margin, higher_is_better=higher_is_better)
    loss = median_of_known(math.inf if r["diverged"] else r.get("test_loss") for r in rows)
    return None if loss is None else no_better(loss, constant.loss)
