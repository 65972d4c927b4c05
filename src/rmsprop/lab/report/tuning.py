"""The report of a search."""

from __future__ import annotations

from rmsprop.explain import explain
from rmsprop.lab.report.content import Content, Table, settings
from rmsprop.lab.report.sentences import difference_words
from rmsprop.lab.report.tuning_sentences import describe_tuning, setting_words
from rmsprop.lab.runs.schema import TuneConfig, TuneSummary
from rmsprop.lab.score import score_words
from rmsprop.lab.tuning.space import Setting
from rmsprop.rule import Rule


def tuning_content(config: TuneConfig, summary: TuneSummary | None) -> Content:
    """Return the content of a search's report."""
    rule = Rule(**config["rule"]) if summary is None else _recommended(summary).rule
    content: Content = {
        "title": f"RMSprop tuned on {config['task'] if summary is None else summary['task']}",
        "lines": describe_tuning(config, summary),
        "summary": summary,
        "rows": [],
        "figures": [],
        "measured": None,
        "equations": explain(rule),
        "settings": settings(config),
    }
    if summary is not None:
        content["table"] = _confirmed(summary)
    return content


def _recommended(summary: TuneSummary) -> Setting:
    return Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])


def _confirmed(summary: TuneSummary) -> Table:
    """Return the settings that were trained again."""
    metric, default = summary["metric"], summary["candidates"][0]["setting"]
    rows = []
    for number, each in enumerate(summary["candidates"]):
        words = setting_words(each["setting"], default) if number else "the default"
        rows.append([words, score_words(each["mean"], metric), difference_words(each, metric), each["verdict"] or "–"])
    header = ["setting", f"{summary['confirmed_on']} {metric}", "difference to the default", "than the default"]
    note = f"Means over {len(summary['candidates'][0]['scores'])} new seeds; differences are paired by seed."
    return Table("Confirmed on new seeds", header, rows, summary["recommended"], note)
