"""Settings and trials of a search in words, for the terminal and for the report."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

from rmsprop.lab.runs.schema import TIME_OVER, SettingFacts, TrialFacts, TuneSummary
from rmsprop.lab.tuning.space import Setting
from rmsprop.rule import Rule

Plain: TypeAlias = float | str

_ROUNDED = ("lr", "eps", "weight_decay")  # shown with three digits; decay and momentum are 1 minus three digits
_STOPPED = {  # reasons of trials without a score
    "behind": "stopped (behind the others)",
    "ε governs": "stopped (ε governs the divisor)",
    "dead averages": "stopped (averages that cannot move)",
    TIME_OVER: "not finished (time ran out)",
}


def tuned(summary: TuneSummary) -> list[str]:
    """Return the coordinates of RMSprop that the search varied."""
    space = summary["spaces"].get("RMSprop", {})
    return [name for name, domain in space.items() if len(domain.get("values", (0, 1))) > 1]


def plain(setting: SettingFacts, name: str) -> Plain:
    """Return the value of a coordinate as a user writes it; flags are "yes" or "no"."""
    if name == "schedule":
        return setting["schedule"]
    if name == "warmup":
        return float(setting["warmup"])
    rule: Any = setting["rule"]
    return ("no", "yes")[rule[name]] if isinstance(rule[name], bool) else float(rule[name])


def value_words(setting: SettingFacts, name: str) -> str:
    """Return the value of a coordinate, for a table."""
    value = plain(setting, name)
    return value if isinstance(value, str) else _number_words(name, value)


def setting_words(setting: SettingFacts, default: SettingFacts) -> str:
    """Return a setting by what differs from the default of its optimizer: "lr 0.003, momentum 0.9, schedule cosine"."""
    rule: Any = setting["rule"]
    before: Any = default["rule"] if setting["optimizer"] == default["optimizer"] else {}
    parts = []
    for field in dataclasses.fields(Rule):
        value, words = rule[field.name], field.name.replace("_", " ")
        if field.name != "lr" and value == before.get(field.name, field.default):
            continue
        if isinstance(value, bool):
            parts.append(words if value else f"no {words}")
        else:
            parts.append(f"{words} {_number_words(field.name, value)}")
    if setting["schedule"] != default["schedule"]:
        parts.append(f"schedule {setting['schedule']}")
    if setting["warmup"] != default["warmup"]:
        parts.append(f"warm-up of {setting['warmup']} steps")
    name = "" if setting["optimizer"] == "RMSprop" else f"{setting['optimizer']} with "
    return name + ", ".join(parts)


def _number_words(name: str, value: float) -> str:
    return f"{value:{'.3g' if name in _ROUNDED else 'g'}}"


def default_of(optimizer: str, summary: TuneSummary) -> SettingFacts:
    """Return what an optimizer trained with in its first trial."""
    first = (t["setting"] for t in summary["trials"] if t["optimizer"] == optimizer and t["slot"] == 0)
    return summary["candidates"][0]["setting"] if optimizer == "RMSprop" else next(first, Setting(Rule()).to_json())


def candidate_words(number: int, summary: TuneSummary) -> str:
    """Return a candidate by its trial: "the default", "trial 12", "Adam, trial 3"."""
    setting = summary["candidates"][number]["setting"]
    if not number:
        return "the default"
    slot = next((t["slot"] for t in summary["trials"] if t["setting"] == setting and t["score"] is not None), None)
    name = "" if setting["optimizer"] == "RMSprop" else setting["optimizer"]
    return ", ".join(filter(None, [name, "" if slot is None else f"trial {slot + 1}"])) or "RMSprop"


def has_diverged(trial: TrialFacts) -> bool:
    """Return whether a trial has no score because it diverged, or because its score was not finite."""
    return trial["score"] is None and ("diverged" in trial["reason"] or "score" in trial["reason"])


def reason_words(reason: str) -> str:
    """Return why a trial has no score."""
    return _STOPPED.get(reason, reason)
