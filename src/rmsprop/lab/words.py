"""Results in words: the sentences of the terminal and of the report."""

from __future__ import annotations

from itertools import groupby
from typing import Any


def score_words(value: float | None, metric: str) -> str:
    """Return an accuracy as a percentage, any other metric with four significant digits, and a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def range_words(score: dict[str, Any], metric: str, *, higher_is_better: bool) -> str:
    """Return the worst and the best seed of a score; a seed that diverged has no score and is the worst."""
    ends = (score["low"], score["high"]) if higher_is_better else (score["high"], score["low"])
    return "–".join("diverged" if x is None else score_words(x, metric).removesuffix(" %") for x in ends)


def difference_words(score: dict[str, Any], metric: str, unit: str = "") -> str:
    """Return the difference of a score to RMSprop with its interval; accuracies differ by percentage points."""
    if score["interval"] is None:
        return "–"
    scale, digits = (100, ".1f") if metric == "accuracy" else (1, ".4g")
    unit = unit if metric == "accuracy" else ""
    center, low, high = (f"{scale * x:+{digits}}" for x in (score["difference"], *score["interval"]))
    return f"{center}{unit} [{low}, {high}]"


def describe_comparison(config: dict[str, Any], summary: dict[str, Any] | None) -> list[str]:
    """Return what a comparison found, a sentence a line."""
    if summary is None:
        return ["This comparison is not finished; what follows is what it has recorded so far."]
    metric, scores = summary["metric"], summary["scores"]
    own = next(s for s in scores if s["optimizer"] == "RMSprop")
    lines = [
        f"RMSprop reaches a test {metric} of {score_words(own['metric'], metric)} at lr {own['lr']:g} "
        f"(median of {config['seeds']} seeds; worst to best "
        f"{range_words(own, metric, higher_is_better=summary['higher_is_better'])})."
    ]
    for verdict, words in (
        ("better", "better than RMSprop"),
        ("worse", "worse than RMSprop"),
        ("no difference", "no difference to RMSprop shown"),
        ("not comparable", "not comparable with RMSprop, since seeds diverged"),
    ):
        names = [
            f"{s['optimizer']} ({difference_words(s, metric, ' points')})" for s in scores if s["verdict"] == verdict
        ]
        if names:
            lines.append(f"{words[0].upper()}{words[1:]}: {', '.join(names)}.")
    edges = [f"{s['optimizer']} ({s['lr']:g})" for s in scores if s["at_edge"]]
    if edges:
        lines.append(f"Picked at the end of the grid, so a better rate may lie beyond it: {', '.join(edges)}.")
    unstable = [f"{s['optimizer']} ({s['diverged']} of {config['seeds']})" for s in scores if s["diverged"]]
    if unstable:
        lines.append(f"Seeds that ended in a loss that is not finite: {', '.join(unstable)}.")
    lines.append(
        f"Differences are paired by seed; the intervals hold jointly with {summary['confidence']:.0%} and cover the "
        "seeds' variation, not that of drawing other test data."
    )
    return lines


def describe_training(config: dict[str, Any], summary: dict[str, Any] | None) -> list[str]:
    """Return how a training ended, a sentence a line."""
    if summary is None:
        return ["This run is not finished; what follows is what it has recorded so far."]
    metric, replayed = summary["metric"], summary.get("replay")
    again = [] if replayed is None else [_replay_words(replayed, summary["post_mortem"])]
    if summary.get("reason") == "not finite":
        return [
            f"The loss stopped being finite at step {summary['steps']}: the learning rate "
            f"{config['rule']['lr']:g} is too high for this task, or its data hold values that are not finite.",
            *again,
        ]
    score, loss = score_words(summary["validation_metric"], metric), score_words(summary["validation_loss"], "loss")
    done = f"fter {summary['epochs']} epoch{'s' * (summary['epochs'] != 1)} ({summary['steps']} steps)"
    done = f"Diverged, a{done}" if summary["status"] == "diverged" else f"A{done}"
    lines = [f"{done} on the validation data: {metric} {score}, loss {loss}."]
    if "test_metric" in summary:
        lines.append(f"On the test data: {metric} {score_words(summary['test_metric'], metric)}.")
    return lines + again


def _replay_words(replayed: dict[str, Any], post_mortem: dict[str, Any] | None) -> str:
    """Return what was replayed, whether it was what had happened, and that nothing was seen if so it is."""
    words = f"Steps {replayed['first']} to {replayed['last']} were replayed, each of them measured: "
    words += (
        "they met the same losses, bit for bit."
        if replayed["same"]
        else "they met other losses than before, so this task is not the same each time; what is said of where it "
        "began is of the replay."
    )
    return words if post_mortem else f"{words} No gradient left its history for good."


def describe_findings(findings: list[dict[str, Any]], count: int, first: int, last: int) -> str:
    """Return how many findings there are in the `count` measured steps, of which `first` and `last` are the ends."""
    found = "Nothing found" if not findings else "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    steps = f"{count} measured steps ({first} to {last})" if count > 1 else f"1 measured step ({first})"
    return f"{found} in {steps if count else 'the losses; no step was measured'}."


def findings_by_advice(findings: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the findings with those next to each other together that have cause, threshold and remedy in common."""
    return [list(same) for _, same in groupby(findings, lambda f: (f["cause"], f["threshold"], f["remedy"]))]


def evidence_words(evidence: dict[str, Any]) -> str:
    """Return the numbers behind a finding, as far as they are known: names and values."""
    known = {name: value for name, value in evidence.items() if value is not None}
    return ", ".join(f"{name.replace('_', ' ')} {_value_words(value)}" for name, value in known.items())


def _value_words(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(_value_words(x) for x in value)
    if isinstance(value, dict):
        return f"({evidence_words(value)})"
    return str(value)
