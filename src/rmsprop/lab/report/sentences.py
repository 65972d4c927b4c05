"""Describe results in sentences, for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, cast

from rmsprop.lab.findings.remedies import compare_command
from rmsprop.lab.report.tensor_names import names_words
from rmsprop.lab.runs.schema import (
    CompareConfig,
    CompareSummary,
    Difference,
    FindingFacts,
    ScoreFacts,
    TrainConfig,
    TrainSummary,
)
from rmsprop.lab.score import IN_PLACE_OF_LOSS, is_share, score_words
from rmsprop.rule import Rule

LOSS_FINDINGS = ("loss", "learned nothing", "slow", "got worse")  # kinds of findings that need no measured step


# Verdicts, and the words before the names of the optimizers, or of the switches.
_COMPARED = (
    ("better", "Better than RMSprop"),
    ("worse", "Worse than RMSprop"),
    ("no difference", "No difference to RMSprop shown"),
    ("not comparable", "Not comparable with RMSprop, since seeds diverged"),
)
_SWITCHED = (
    ("better", "Better with"),
    ("worse", "Worse with"),
    ("no difference", "No difference shown with"),
    ("not comparable", "Not comparable, since seeds diverged"),
)


def range_words(score: ScoreFacts, metric: str, *, higher_is_better: bool) -> str:
    """Return the scores of the worst and the best seed; a seed that diverged is the worst."""
    ends = (score["low"], score["high"]) if higher_is_better else (score["high"], score["low"])
    return "–".join("diverged" if x is None else score_words(x, metric).removesuffix(" %") for x in ends)


def difference_words(score: ScoreFacts | Difference, metric: str, unit: str = "") -> str:
    """Return a difference with its interval; for shares in percentage points."""
    if score["interval"] is None or score["difference"] is None:
        return "–"
    scale, digits = (100, ".1f") if is_share(metric) else (1, ".4g")
    unit = unit if is_share(metric) else ""
    center, low, high = (f"{scale * x:+{digits}}" for x in (score["difference"], *score["interval"]))
    return f"{center}{unit} [{low}, {high}]"


def describe_comparison(config: CompareConfig, summary: CompareSummary | None) -> list[str]:
    """Return the results of a comparison, one sentence per line."""
    if summary is None:
        return ["This comparison is not finished; what follows is what it has recorded so far."]
    metric, scores = summary["metric"], summary["scores"]
    ours = next(s for s in scores if s["optimizer"] == "RMSprop")
    lines = [
        f"RMSprop reaches a test {metric} of {score_words(ours['metric'], metric)} at lr {ours['lr']:g} "
        f"(median of {config['seeds']} seeds; worst to best "
        f"{range_words(ours, metric, higher_is_better=summary['higher_is_better'])}"
        f"{'' if summary['higher_is_better'] else '; lower is better'}).",
        *_chance_sentences(summary),
    ]
    for verdict, words in _SWITCHED if config.get("ablate") else _COMPARED:
        names = [
            f"{s['optimizer']} ({difference_words(s, metric, ' points')})" for s in scores if s["verdict"] == verdict
        ]
        if names:
            lines.append(f"{words}: {', '.join(names)}.")
    if (whole := summary.get("all_switches")) is not None:
        lines.append(
            f"From RMSprop to Adam, all switches together: {whole['verdict']} "
            f"({difference_words(whole, metric, ' points')}). A switch is judged with those above it on; in another "
            "order, it may bring something else."
        )
    lines += _grid_words(summary)
    if "clip" in summary:
        lines.append(f"All trainings clip the norm of the gradients to {summary['clip']:g}, as the task says.")
    unstable = [f"{s['optimizer']} ({s['diverged']} of {config['seeds']})" for s in scores if s["diverged"]]
    if unstable:
        lines.append(f"Seeds that ended in a loss that is not finite: {', '.join(unstable)}.")
    if config.get("quick"):
        lines.append("A quick comparison, with few rates and seeds: it shows large differences only.")
    lines += _next_words(config, summary)
    lines.append(
        f"Differences are paired by seed; the intervals hold jointly with {summary['confidence']:.0%} and cover the "
        "seeds' variation, not that of drawing other test data."
    )
    return lines


def _next_words(config: CompareConfig, summary: CompareSummary) -> list[str]:
    """Return what to try where another optimizer is better than RMSprop."""
    rule = Rule(**cast(dict[str, Any], config["rule"]))
    if config.get("ablate") or rule.maximize:
        return []
    better = {s["optimizer"] for s in summary["scores"] if s["verdict"] == "better"}
    tries = []
    if better and not rule.bias_correction:
        surge = 1 / math.sqrt(1 - rule.decay)
        why = f"the first steps of this rule are {surge:.3g} times its rate, which can rule larger rates out"
        tries.append(f"{compare_command(config, {'bias_correction': True})} ({why})")
    elif better - {"SGD", "AdaGrad", "Adadelta"} and not rule.momentum:
        tries.append(f"{compare_command(config, {'momentum': 0.9})} (what is better has momentum, this rule has none)")
    if better & {"Adam", "AdamW"}:
        tries.append(f"{compare_command(config, {'ablate': True})} (what each part of Adam brings)")
    return [f"Try next: {'; or '.join(tries)}."] if tries else []


def _grid_words(summary: CompareSummary) -> list[str]:
    """Return sentences on how the grid was widened, and on optimizers with their best rate at its end."""
    lines, widened = [], summary.get("widened", [])
    if widened:
        rates = ", ".join(f"{lr:g}" for lr in widened)
        lines.append(f"The best rate of an optimizer was at the end of the grid: all were tried at {rates}, too.")
    edges = [f"{s['optimizer']} ({s['lr']:g})" for s in summary["scores"] if s["at_edge"]]
    if edges:
        end = "the widened grid" if widened else "the grid"
        lines.append(f"Picked at the end of {end}, so a better rate may lie beyond it: {', '.join(edges)}.")
    return lines


def _chance_sentences(summary: CompareSummary) -> list[str]:
    """Return a sentence if all optimizers score the same, and one on those no better than a constant prediction."""
    scores, metric, lines = summary["scores"], summary["metric"], []
    if all(s["interval"] is not None and {s["difference"], *s["interval"]} == {0} for s in scores[1:]):
        lines.append(f"All optimizers have exactly the same {metric} in every seed: it cannot rank them.")
    low = [s for s in scores if s.get("at_chance")]
    if low:
        constant, judged = summary["constant"]["metric"], metric
        if constant is None:
            constant, judged = summary["constant"]["loss"], "loss"
        level = f"a prediction that is the same for every input ({judged} {score_words(constant, judged)})"
        if len(low) == len(scores):
            lines.append(f"No optimizer does better than {level}: nothing was learned, and nothing is compared.")
        else:
            names = [f"{s['optimizer']} ({score_words(s['metric'], metric)})" for s in low]
            lines.append(f"No better than {level}: {', '.join(names)}.")
    return lines


def describe_training(config: TrainConfig, summary: TrainSummary | None) -> list[str]:
    """Return how a training ended, one sentence per line."""
    if summary is None:
        return ["This run is not finished; what follows is what it has recorded so far."]
    metric = summary["metric"]
    keeps_weights = config.get("nonfinite", "propagate") != "propagate"
    if summary.get("reason") == "not finite":
        when = "stopped being finite at" if not keeps_weights else "was not finite in a whole epoch of steps, up to"
        return [
            f"The loss {when} step {summary['steps']}: the learning rate "
            f"{config['rule']['lr']:g} is too high for this task, or its data hold values that are not finite."
        ]
    if summary.get("reason") == "validation not finite":
        since = f"after epoch {summary['lost_epoch']}" if summary["lost_epoch"] else "before the first step"
        trained = "the weights were" if keeps_weights else "the training loss was at every step"
        return [
            f"The validation loss was not finite, first {since}, while {trained}: look at "
            "the validation data, or at what the model does otherwise in eval mode, such as averages of batch norm."
        ]
    score, loss = score_words(summary["validation_metric"], metric), score_words(summary["validation_loss"], "loss")
    done = f"fter {_count(summary['epochs'], 'epoch')} ({_count(summary['steps'], 'step')})"
    done = f"Diverged, a{done}" if summary["status"] == "diverged" else f"A{done}"
    is_loss = summary.get("metric_kind") == "loss"
    found = f"{metric} {score} (the loss itself; lower is better)" if is_loss else f"{metric} {score}, loss {loss}"
    if summary.get("metric_kind") in IN_PLACE_OF_LOSS:
        found = f"{metric} {score}"
    if "best_epoch" in summary:
        done += f", with the weights of epoch {summary['best_epoch']}, the best,"
    lines = [f"{done} on the validation data: {found}{_metric_words(summary.get('metrics', {}))}."]
    if "test_metric" in summary:
        others = _metric_words(summary.get("test_metrics", {}))
        lines.append(f"On the test data: {metric} {score_words(summary['test_metric'], metric)}{others}.")
    if summary.get("stopped_early"):
        waited = _count(config.get("patience") or 0, "evaluation")
        lines.append(f"Stopped before epoch {config['epochs']}: {waited} in a row brought no better validation score.")
    if "nonfinite_losses" in summary:
        bad = _count(summary["nonfinite_losses"], "step")
        lines.append(f"The loss of {bad} was not finite; mean training losses skip such steps.")
    if "lost_records" in summary:
        lost = _count(summary["lost_records"], "record")
        lines.append(f"A crash has cost this run {lost}: its figures have a gap.")
    return lines


def _metric_words(metrics: Mapping[str, float | None]) -> str:
    return "".join(f", {name} {score_words(value, name)}" for name, value in metrics.items())


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def describe_findings(findings: Sequence[Mapping[str, object]], count: int, first: int | None, last: int | None) -> str:
    """Return the number of findings in the losses and in `count` measured steps, from step `first` to `last`."""
    in_losses = sum(f["kind"] in LOSS_FINDINGS for f in findings)
    losses = f"{_found(in_losses)} in the losses"
    if not count:
        return f"{losses}; no step was measured."
    steps = f"{_count(count, 'measured step')} ({first}{f' to {last}' * (count > 1)})"
    measured = f"{_found(len(findings) - in_losses)} in {steps}."
    return f"{losses}; {measured[0].lower()}{measured[1:]}" if in_losses else measured


def _found(number: int) -> str:
    return _count(number, "finding") if number else "Nothing found"


def findings_by_advice(findings: list[FindingFacts]) -> list[list[FindingFacts]]:
    """Group neighbouring findings with the same cause, threshold and remedy."""
    return [list(same) for _, same in groupby(findings, lambda f: (f["cause"], f["threshold"], f["remedy"]))]


def evidence_words(evidence: dict[str, Any]) -> str:
    """Return the known numbers behind a finding, as names and values."""
    known = {name: value for name, value in evidence.items() if value is not None}
    return ", ".join(f"{name.replace('_', ' ')} {value_words(value)}" for name, value in known.items())


def value_words(value: Any) -> str:
    """Return a value of the evidence in words: a float with three digits, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
        return names_words(value)
    if isinstance(value, list):
        return ", ".join(value_words(x) for x in value)
    if isinstance(value, dict):
        return f"({evidence_words(value)})"
    return str(value)
