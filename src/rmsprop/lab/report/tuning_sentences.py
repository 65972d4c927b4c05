"""Describe the result of a search in sentences, for the terminal and for the report."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rmsprop.errors import InputError
from rmsprop.lab.intervals import least_pairs
from rmsprop.lab.report.sentences import difference_words
from rmsprop.lab.report.tuning_words import default_of, has_diverged, reason_words, setting_words, tuned
from rmsprop.lab.runs.schema import TIME_OVER, CandidateFacts, TrialFacts, TuneConfig, TuneSummary
from rmsprop.lab.score import is_share, score_words
from rmsprop.lab.tuning.setting_file import python_line
from rmsprop.lab.tuning.space import DIMENSIONS, Setting
from rmsprop.lab.verdicts import LEAST_SCORED
from rmsprop.scaling import scale_batch_size

_FACTORS = {"a quarter of": 1 / 4, "four times": 4}  # of the batch size, in the prediction


def describe_tuning(config: TuneConfig, summary: TuneSummary | None) -> list[str]:
    """Return the verdict, how far it can be trusted, and what to do next, one sentence per line."""
    if summary is None:
        return ["This search is not finished. rmsprop tune with --resume finishes it."]
    if summary["status"] == "unfinished":
        lines = ["This search is not finished; what follows is what it has recorded so far: no setting is confirmed."]
        return [*lines, *_counts(summary), "rmsprop tune with --resume finishes it."]
    return [
        *_verdict(summary),
        *_others(summary),
        *_chance(summary),
        *_counts(summary),
        *_ends(summary),
        *_importances(summary),
        *_next(config, summary),
    ]


def missing_importances(summary: TuneSummary) -> str:
    """Return why importances are not shown; empty if they are, or if one coordinate is tuned alone."""
    scored = sum(t["optimizer"] == "RMSprop" and t["score"] is not None for t in summary["trials"])
    if summary.get("importances") or len(tuned(summary)) < 2:
        return ""
    if scored < LEAST_SCORED:
        return (
            f"Importances of the coordinates are not shown: they need {LEAST_SCORED} trials with a score, and this "
            f"search has {scored}."
        )
    return "Importances of the coordinates are not shown: the scores do not tell the trials apart."


def _importances(summary: TuneSummary) -> list[str]:
    """Return the coordinates that decide, beyond chance, whether a trial is among the best."""
    found = summary.get("importances") or {}
    decisive = {name: each["share"] for name, each in found.items() if each["share"] > each["chance"]}
    names = [f"{_name(name)} ({100 * share:.0f} %)" for name, share in decisive.items()]
    if not found:
        return []
    if not names:
        return ["No coordinate decides more than chance whether a trial is among the best."]
    return [f"What decides, more than chance, whether a trial is among the best: {', '.join(names)}."]


def _where(summary: TuneSummary) -> str:
    """Return what the confirmed scores are: "test accuracy", or the metric of a function."""
    return f"{summary['confirmed_on']} {summary['metric']}".strip()


def _verdict(summary: TuneSummary) -> list[str]:
    default, metric = summary["candidates"][0], summary["metric"]
    found = [c for c in summary["candidates"][1:] if c["setting"]["optimizer"] == "RMSprop"]
    seeds = len(default["scores"])
    if not found:
        if any(trial["score"] is not None for trial in summary["trials"]):
            return ["Only the default's trial has a score. Keep the default."]
        if any(trial["reason"] == TIME_OVER for trial in summary["trials"]):
            return ["The time ran out before a trial ended: give more --minutes, or fewer --epochs."]
        return [
            "No trial has a score, the default's included: all diverged or failed. Look at one training: "
            f"rmsprop train {summary['task']}"
        ]
    least = least_pairs(1 - (1 - summary["confidence"]) / (len(summary["candidates"]) - 1))
    if seeds < least:
        return [f"No verdict: the budget ended before the settings were trained on {least} new seeds."]
    medians = f"medians of {seeds} new seeds{'' if summary['higher_is_better'] else '; lower is better'}"
    if summary["recommended"]:
        best = summary["candidates"][summary["recommended"]]
        reached = (
            f"Gain: {setting_words(best['setting'], default['setting'])} reaches a {_where(summary)} of "
            f"{score_words(best['median'], metric)}"
        )
        if best["difference"] is None:
            lost = f"The default diverged on {default['diverged']} of them."
            return [f"{reached} (median of {seeds} new seeds). {lost}"]
        shown = difference_words(_difference(best), metric, " points")
        return [
            f"{reached}, the default {score_words(default['median'], metric)} ({shown}; {medians}).",
            *_luck(best, summary),
        ]
    ended = [c for c in found if c["median"] is not None]
    if not ended:
        lost = "each of the tuned settings diverged on half of the new seeds or more"
        return [f"No gain over the default shown: {lost}. Keep the default."]
    sign = 1 if summary["higher_is_better"] else -1
    best = max(ended, key=lambda c: sign * (c["median"] or 0.0))
    words = setting_words(best["setting"], default["setting"])
    if best["difference"] is None:
        return [
            f"No gain over the default shown: it diverged on {default['diverged']} of {seeds} new seeds, the best of "
            f"the tuned settings ({words}; {score_words(best['median'], metric)}) on {best['diverged']}."
        ]
    shown = difference_words(_difference(best), metric, " points")
    return [
        f"No gain over the default shown: the best of the tuned settings ({words}) reaches a {_where(summary)} of "
        f"{score_words(best['median'], metric)}, the default {score_words(default['median'], metric)} "
        f"({shown}; {medians}). Keep the default.",
        *_luck(best, summary),
    ]


def _difference(candidate: CandidateFacts) -> Any:
    return {name: candidate[name] for name in ("difference", "interval", "verdict")}


def _luck(best: CandidateFacts, summary: TuneSummary) -> list[str]:
    """Return how the search's own score of the best compares with new seeds, where both are on the same data."""
    if summary["confirmed_on"] == "test" or best["search_score"] is None or best["median"] is None:
        return []
    sign = 1 if summary["higher_is_better"] else -1
    if sign * (best["search_score"] - best["median"]) <= 0:
        return []
    found = score_words(best["search_score"], summary["metric"])
    return [f"In the search, this setting had {found}: the best of many trials is partly the luckiest."]


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
        }.get(candidate["verdict"], "cannot be compared with RMSprop's default")
        found = score_words(candidate["median"], summary["metric"])
        shown = f" ({difference_words(_difference(candidate), summary['metric'], ' points')})"
        shown = "" if candidate["interval"] is None else shown
        lines.append(
            f"{setting_words(setting, default_of(setting['optimizer'], summary))}, tuned with the same budget, "
            f"{words}{'' if candidate['median'] is None else f': {found}{shown}'}."
        )
    return lines


def _chance(summary: TuneSummary) -> list[str]:
    known = [c["at_chance"] for c in summary["candidates"] if c["at_chance"] is not None]
    if known and all(known):
        return ["None of these settings learned anything: no score is better than that of a constant prediction."]
    return []


def _counts(summary: TuneSummary) -> list[str]:
    """Return what was spent, how many trials have no score, and why."""
    trials = summary["trials"]
    reasons = Counter(_kind(trial) for trial in trials if trial["score"] is None)
    unit = "epochs" if summary["confirmed_on"] else "calls"  # of a function
    lines = [f"{len(trials)} trials took {sum(trial['epochs'] for trial in trials)} {unit}."]
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        lines[0] += f" Without a score: {listed}."
    if summary["noise"] is not None:
        noise = summary["noise"]
        shown = f"{100 * noise:.1f} points" if is_share(summary["metric"]) else f"{noise:.3g}"
        lines.append(f"Seed noise, the standard deviation of the default's score over the seeds of its trial: {shown}.")
    lines += [f"Failed for good: {failure}" for failure in summary["failures"]]
    return lines


def _kind(trial: TrialFacts) -> str:
    return "diverged" if has_diverged(trial) else reason_words(trial["reason"])


def _ends(summary: TuneSummary) -> list[str]:
    lines = []
    if summary["widened"]:
        ranges = "; ".join(f"{_name(name)} to {_range(name, ends)}" for name, ends in summary["widened"].items())
        lines.append(f"The best trial lay at the end of a range. The search widened {ranges}.")
    for optimizer, names in summary["at_ends"].items():
        of = "" if optimizer == "RMSprop" else f" of {optimizer}"
        lines.append(
            f"The best {' and '.join(map(_name, names))}{of} still lies at the end of its range: a better one may lie "
            "beyond. Widen the range with --space, or give more trials."
        )
    return lines


def _name(name: str) -> str:
    return "eps/√v̂" if name == "eps" else name.replace("_", " ")


def _range(name: str, ends: list[float]) -> str:
    low, high = ends
    if DIMENSIONS[name].complement:
        low, high = 1 - high, 1 - low
    return f"{low:.3g}:{high:.3g}"


def _next(config: TuneConfig, summary: TuneSummary) -> list[str]:
    """Return the line of Python, and what the scaling rule predicts for other batch sizes."""
    setting = Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])
    more = [f"schedule {setting.schedule}"] if setting.schedule != "constant" else []
    more += [f"a warm-up of {setting.warmup} steps"] if setting.warmup else []
    training = f", with {' and '.join(more)}" if more else ""
    lines = [f"Use: {python_line(setting)}{training}"]
    predictions = []
    for words, factor in _FACTORS.items():
        try:
            scaled = scale_batch_size(setting.rule, 64, round(64 * factor)).rule
        except InputError:  # the averages would remember less than one step
            continue
        predictions.append(f"lr {scaled.lr:.3g} and decay {scaled.decay:.4g} for {words} the batch size")
    if predictions:
        lines.append(f"Predicted by the square-root scaling rule, not measured: {'; '.join(predictions)}.")
    return lines
