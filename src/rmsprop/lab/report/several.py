"""The report of comparisons on several tasks, and its table and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rmsprop.explain import explain
from rmsprop.lab.report import figures
from rmsprop.lab.report.content import Content, Figure, Table, figure, settings
from rmsprop.lab.report.sentences import difference_words
from rmsprop.lab.run import Run
from rmsprop.lab.score import score_words
from rmsprop.rule import Rule

_MARKS = {"better": "+", "worse": "−", "no difference": "=", "not comparable": "?", "": ""}


def verdict_table(summaries: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: an optimizer a row, a task a column.

    A cell holds the median test score, and + for better than RMSprop, − for worse, = for no difference shown.
    """
    names = [score["optimizer"] for score in summaries[0]["scores"]]
    names.sort(key=lambda name: name != "RMSprop")
    header = ["optimizer", *(f"{s['task']} ({s['metric']})" for s in summaries)]
    rows = []
    for name in names:
        cells = []
        for summary in summaries:
            score = next(s for s in summary["scores"] if s["optimizer"] == name)
            cells.append(f"{score_words(score['metric'], summary['metric'])} {_MARKS[score['verdict']]}".rstrip())
        rows.append([name, *cells])
    return header, rows


def describe_several(summaries: Sequence[Any]) -> list[str]:
    """Return who wins where, one optimizer a sentence."""
    lines = []
    for name in [s["optimizer"] for s in summaries[0]["scores"] if s["optimizer"] != "RMSprop"]:
        found: dict[str, list[str]] = {}
        for summary in summaries:
            score = next(s for s in summary["scores"] if s["optimizer"] == name)
            words = f"{summary['task']} ({difference_words(score, summary['metric'], ' points')})"
            found.setdefault(score["verdict"], []).append(words)
        parts = [
            f"{verdict} on {', '.join(found[verdict])}"
            for verdict in ("better", "worse", "no difference", "not comparable")
            if verdict in found
        ]
        lines.append(f"{name}, beside RMSprop: {'; '.join(parts)}.")
    chance = [
        f"{score['optimizer']} on {summary['task']}"
        for summary in summaries
        for score in summary["scores"]
        if score.get("at_chance")
    ]
    if chance:
        lines.append(f"No better than a prediction that is the same for every input: {', '.join(chance)}.")
    lines.append(
        f"The intervals of one task hold jointly with {summaries[0]['confidence']:.0%}; those of all tasks together "
        "hold with less."
    )
    return lines


def several_content(runs: Sequence[Run]) -> Content:
    """Return the content of the report: a figure of the differences for each task."""
    summaries = [run.summary for run in runs]
    config = runs[0].directory.config()
    drawn = [_differences(summary) for summary in summaries]
    header, rows = verdict_table(summaries)
    return {
        "title": f"RMSprop compared on {', '.join(summary['task'] for summary in summaries)}",
        "lines": describe_several(summaries),
        "summary": None,
        "rows": [],
        "tables": [
            Table(
                "Test scores",
                header,
                rows,
                [row[0] for row in rows].index("RMSprop"),
                "Median over the seeds; + is better than RMSprop, − worse, = no difference shown.",
            )
        ],
        "figures": drawn,
        "measured": None,
        "equations": explain(Rule(**config["rule"], lr=_ours(summaries[0])["lr"])),
        "settings": [(name, value) for name, value in settings(config) if name not in ("task", "from python")],
    }


def _differences(summary: Any) -> Figure:
    metric, side = summary["metric"], "Right" if summary["higher_is_better"] else "Left"
    ours = f"RMSprop: {score_words(_ours(summary)['metric'], metric)}"
    caption = f"Mean over the seeds, with its interval. {side} of 0 is better than RMSprop. {ours}."
    picture = figures.draw_differences(figures.difference_data(summary["scores"]), metric)
    return figure(f"{summary['task']}: difference of the test {metric} to RMSprop's", picture, caption)


def _ours(summary: Any) -> Any:
    return next(score for score in summary["scores"] if score["optimizer"] == "RMSprop")
