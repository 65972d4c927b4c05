"""Describe the result of a search in sentences, for the terminal and for the report."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from rmsprop.errors import InputError
from rmsprop.lab.report.sentences import difference_words
from rmsprop.lab.runs.schema import TIME_OVER, CandidateFacts, SettingFacts, TrialFacts, TuneConfig, TuneSummary
from rmsprop.lab.score import is_share, score_words
from rmsprop.lab.tuning.setting_file import python_line
from rmsprop.lab.tuning.space import DIMENSIONS, Setting
from rmsprop.lab.verdicts import LEAST_SEEDS
from rmsprop.rule import Rule
from rmsprop.scaling import scale_batch_size

_FACTORS = (1 / 4, 4)  # of the batch size, in the prediction


def describe_tuning(config: TuneConfig, summary: TuneSummary | None) -> list[str]:
    """Return the verdict, how far it can be trusted, and what to do next, one sentence per line."""
    if summary is None:
        return ["This search is not finished: rmsprop tune with --resume goes on with it."]
    return [
        *_verdict(summary),
        *_others(summary),
        *_chance(summary),
        *_counts(summary),
        *_ends(summary),
        *_next(config, summary),
    ]


def setting_words(setting: SettingFacts, default: SettingFacts) -> str:
    """Return a setting by what differs from the default: "lr 0.003, momentum 0.9, schedule cosine"."""
    rule: Any = setting["rule"]
    before: Any = default["rule"] if setting["optimizer"] == default["optimizer"] else {}
    parts = [f"lr {rule['lr']:g}"]
    for field in dataclasses.fields(Rule):
        value = rule[field.name]
        if field.name != "lr" and value != before.get(field.name, field.default):
            parts.append(f"{field.name} {value:g}" if not isinstance(value, bool) else _flag(field.name, value))
    if setting["schedule"] != default["schedule"]:
        parts.append(f"schedule {setting['schedule']}")
    if setting["warmup"]:
        parts.append(f"warm-up of {setting['warmup']} steps")
    name = "" if setting["optimizer"] == "RMSprop" else f"{setting['optimizer']} with "
    return name + ", ".join(parts)


def _flag(name: str, value: bool) -> str:
    words = name.replace("_", " ")
    return words if value else f"not {words}"


def _verdict(summary: TuneSummary) -> list[str]:
    default, metric = summary["candidates"][0], summary["metric"]
    tuned = [c for c in summary["candidates"][1:] if c["setting"]["optimizer"] == "RMSprop"]
    seeds = len(default["scores"])
    where = f"{summary['confirmed_on']} {metric}"
    if not tuned:
        if any(trial["score"] is not None for trial in summary["trials"]):
            return ["No trial but the default has a score: keep the default."]
        if any(trial["reason"] == TIME_OVER for trial in summary["trials"]):
            return ["The time ended before a trial did: give more --minutes, or fewer --epochs to each training."]
        return [
            "No trial has a score, the default's included: all diverged or failed. Look at one training: "
            f"rmsprop train {summary['task']}"
        ]
    if seeds < LEAST_SEEDS:
        return [f"The budget ended before {LEAST_SEEDS} seeds were confirmed: no verdict, so keep the default."]
    if summary["recommended"]:
        best = summary["candidates"][summary["recommended"]]
        return [
            f"Gain: {setting_words(best['setting'], default['setting'])} reaches a {where} of "
            f"{score_words(best['mean'], metric)} against {score_words(default['mean'], metric)} of the default "
            f"({difference_words(_difference(best), metric, ' points')}; means of {seeds} new seeds).",
            *_luck(best, summary),
        ]
    sign = 1 if summary["higher_is_better"] else -1
    best = max(tuned, key=lambda c: -1e300 if c["mean"] is None else sign * c["mean"])
    shown = difference_words(_difference(best), metric, " points")
    return [
        f"No gain over the default shown: on {seeds} new seeds the best of the tuned settings "
        f"({setting_words(best['setting'], default['setting'])}) reaches a {where} of "
        f"{score_words(best['mean'], metric)}, the default {score_words(default['mean'], metric)} ({shown}). "
        "Keep the default.",
        *_luck(best, summary),
    ]


def _difference(candidate: CandidateFacts) -> Any:
    return {name: candidate[name] for name in ("difference", "interval", "verdict")}


def _luck(best: CandidateFacts, summary: TuneSummary) -> list[str]:
    """Return how the search's own score of the best compares with new seeds, where both are on the same data."""
    if summary["confirmed_on"] != "validation" or best["search_score"] is None or best["mean"] is None:
        return []
    metric = summary["metric"]
    sign = 1 if summary["higher_is_better"] else -1
    if sign * (best["search_score"] - best["mean"]) <= 0:
        return []
    return [
        f"In the search it had {score_words(best['search_score'], metric)}: the best of "
        f"{len(summary['trials'])} trials is partly the luckiest."
    ]


def _others(summary: TuneSummary) -> list[str]:
    """Return how the other optimizers compare, each tuned with the same budget."""
    lines = []
    for candidate in summary["candidates"][1:]:
        setting = candidate["setting"]
        if setting["optimizer"] == "RMSprop":
            continue
        words = {
            "better": "is better than RMSprop's default",
            "worse": "is worse than RMSprop's default",
            "no difference": "shows no difference to RMSprop's default",
        }.get(candidate["verdict"], "cannot be compared, since a seed diverged")
        shown = difference_words(_difference(candidate), summary["metric"], " points")
        mean = score_words(candidate["mean"], summary["metric"])
        lines.append(f"{setting_words(setting, setting)}, tuned with the same budget, {words}: {mean} ({shown}).")
    return lines


def _chance(summary: TuneSummary) -> list[str]:
    known = [c["at_chance"] for c in summary["candidates"] if c["at_chance"] is not None]
    if known and all(known):
        return ["All of these scores are no better than a constant prediction: no setting has learned anything."]
    return []


def _counts(summary: TuneSummary) -> list[str]:
    """Return how many trials were stopped, why, and what was spent."""
    trials = summary["trials"]
    reasons = Counter(_kind(trial) for trial in trials if trial["score"] is None)
    stopped = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    epochs = sum(trial["epochs"] for trial in trials)
    lines = [f"{len(trials)} trials, {epochs} epochs{f'; without a score: {stopped}' if stopped else ''}."]
    if summary["noise"] is not None:
        noise = summary["noise"]
        shown = f"{100 * noise:.1f} points" if is_share(summary["metric"]) else f"{noise:.3g}"
        lines.append(f"Another seed changes the default's score by {shown} (standard deviation of its trial).")
    lines += [f"Failed for good: {failure}" for failure in summary["failures"]]
    return lines


def _kind(trial: TrialFacts) -> str:
    return "diverged" if trial["reason"].startswith("diverged") else f"stopped: {trial['reason']}"


def _ends(summary: TuneSummary) -> list[str]:
    lines = []
    if summary["widened"]:
        ranges = "; ".join(f"{name} to {_range(name, ends)}" for name, ends in summary["widened"].items())
        lines.append(f"The best value lay at the end of its range, which was widened: {ranges}.")
    for optimizer, names in summary["at_ends"].items():
        of = "" if optimizer == "RMSprop" else f" of {optimizer}"
        lines.append(
            f"The best {' and '.join(names)}{of} lies at the end of the range still: a better one may lie beyond. "
            "Widen it with --space, or give more trials."
        )
    return lines


def _range(name: str, ends: list[float]) -> str:
    low, high = ends
    if DIMENSIONS[name].complement:
        low, high = 1 - high, 1 - low
    return f"{low:.3g}:{high:.3g}"


def _next(config: TuneConfig, summary: TuneSummary) -> list[str]:
    """Return the line of Python, and what the scaling rule predicts for other batch sizes."""
    setting = Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])
    lines = [f"Use it: {python_line(setting)}"]
    predictions = []
    for factor in _FACTORS:
        try:
            scaled = scale_batch_size(setting.rule, 64, round(64 * factor)).rule
        except InputError:  # the averages would remember less than one step
            continue
        predictions.append(f"lr {scaled.lr:.3g}, decay {scaled.decay:.4g} for a batch {factor:g} times as large")
    if predictions:
        lines.append(f"Predicted, not measured, by the square-root scaling rule: {'; '.join(predictions)}.")
    return lines
