"""The report of a comparison."""

from __future__ import annotations

from typing import Any, cast

from rmsprop.explain import explain
from rmsprop.lab.intervals import median_of_known
from rmsprop.lab.report import figures
from rmsprop.lab.report.content import ETA, Content, Figure, figure, settings
from rmsprop.lab.report.layer_figure import draw_layers, layer_data, layer_rows, rows_words
from rmsprop.lab.report.sentences import describe_comparison, difference_words, range_words
from rmsprop.lab.runs.schema import CompareConfig, CompareSummary, FinalRow, ScoreFacts, TrialRow
from rmsprop.rule import Rule

_HALF = "Each optimizer at its best rate: median over the seeds; the band holds the middle half of them."


def comparison_content(config: CompareConfig, summary: CompareSummary | None, rows: list[TrialRow]) -> Content:
    """Return the content of a comparison's report; without a summary, from the rows recorded so far."""
    metric = summary["metric"] if summary else "metric"
    scores = summary["scores"] if summary else []
    rate = next((s["lr"] for s in scores if s["optimizer"] == "RMSprop"), None)
    higher = summary["higher_is_better"] if summary else True
    task = summary["task"] if summary else config["task"]
    order = config["optimizers"]
    tuning = [row for row in rows if row["stage"] == "tune"]
    final = cast(list[FinalRow], [row for row in rows if row["stage"] == "final"])
    drawn: list[Figure] = []
    if tuning:
        drawn.append(_learning_rates(tuning, order, metric, log=not higher))
    if final:
        drawn += _curves(final, order, metric, log=not higher)
        if scores:
            drawn.append(_test_scores(final, [s["optimizer"] for s in scores], metric))
            drawn.append(_differences(scores, metric, ablation=bool(config.get("ablate"))))
        drawn += _effective_rates(final, rate or 0.0, config["schedule"])
        drawn.append(_times(final, config, summary))
    rule = Rule(**cast(dict[str, Any], config["rule"]), lr=Rule().lr if rate is None else rate)
    return {
        "title": f"{'From RMSprop to Adam' if config.get('ablate') else 'RMSprop compared'} on {task}",
        "lines": describe_comparison(config, summary),
        "summary": summary,
        "rows": [(s, range_words(s, metric, higher_is_better=higher), difference_words(s, metric)) for s in scores],
        "figures": drawn,
        "measured": None,
        "equations": explain(rule),
        "settings": settings(config),
    }


def _learning_rates(tuning: list[TrialRow], order: list[str], metric: str, *, log: bool) -> Figure:
    picture = figures.draw_sensitivity(figures.sensitivity_data(tuning, order), f"validation {metric}", log=log)
    return figure("Learning rates", picture, "Validation score of every rate on the grid, mean over the tuning seeds.")


def _curves(final: list[FinalRow], order: list[str], metric: str, *, log: bool) -> list[Figure]:
    """Draw losses and scores over the epochs. `log` is for scores such as errors, which differ by factors."""
    loss = figures.draw_bands(figures.curve_data(final, "loss_curve", 1, order), "training loss", log=True)
    score = figures.draw_bands(figures.curve_data(final, "validation_curve", 2, order), f"validation {metric}", log=log)
    return [figure("Training loss", loss, _HALF), figure(f"Validation {metric}", score, _HALF)]


def _test_scores(final: list[FinalRow], optimizers: list[str], metric: str) -> Figure:
    picture = figures.draw_test(figures.test_data(final, optimizers), f"test {metric}")
    return figure(f"Test {metric}", picture, "One dot per seed, the line is the median.")


def _differences(scores: list[ScoreFacts], metric: str, *, ablation: bool) -> Figure:
    reference = "the rule before it" if ablation else "RMSprop"
    picture = figures.draw_differences(figures.difference_data(scores), metric)
    return figure(f"Difference to {reference}", picture, f"Mean difference of the test {metric}, paired by seed.")


def _effective_rates(final: list[FinalRow], rate: float, schedule: str | None) -> list[Figure]:
    rates = [r["effective_lr"] for r in final if r["optimizer"] == "RMSprop" and r["effective_lr"]]
    if not rates:
        return []
    rows = layer_rows(layer_data(rates))
    picture = draw_layers(rows, rate)
    fallen = " (η has fallen to half)" if schedule in ("linear", "cosine") else ""
    caption = (
        f"η/d of the elements of each layer halfway through training{fallen}: range, 5–95 %, 25–75 % and "
        f"median.{rows_words(rows)} {ETA}"
    )
    return [figure("Effective learning rates of RMSprop", picture, caption)]


def _times(final: list[FinalRow], config: CompareConfig, summary: CompareSummary | None) -> Figure:
    times = {o: median_of_known(r["optimizer_us"] for r in final if r["optimizer"] == o) for o in config["optimizers"]}
    picture = figures.draw_bars({o: us for o, us in times.items() if us is not None}, "microseconds")
    jobs = f", {summary['jobs']} trainings at a time" if summary else ""
    whose = (
        "All rules are this library's."
        if config.get("ablate")
        else "RMSprop is this library's, the others are torch's."
    )
    caption = f"Median over steps and seeds, one thread per training{jobs}. {whose}"
    return figure("Time of one optimizer step", picture, caption)
