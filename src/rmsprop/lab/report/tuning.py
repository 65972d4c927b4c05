"""The report of a search."""

from __future__ import annotations

import math

from rmsprop.explain import explain
from rmsprop.lab.report import figures, tuning_figures, tuning_slices
from rmsprop.lab.report.content import Content, Figure, Table, figure, settings
from rmsprop.lab.report.sentences import difference_words
from rmsprop.lab.report.tuning_axes import LABELS
from rmsprop.lab.report.tuning_figures import last_third_words, progress_data
from rmsprop.lab.report.tuning_sentences import describe_tuning, missing_importances
from rmsprop.lab.report.tuning_slices import own_trials
from rmsprop.lab.report.tuning_words import candidate_words, default_of, reason_words, setting_words, tuned
from rmsprop.lab.runs.schema import TrialFacts, TuneConfig, TuneSummary
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
        "settings": [(name, value) for name, value in settings(config) if value not in ("None", "")],
    }
    if summary is not None:
        content["lines"] += [words] if (words := missing_importances(summary)) else []
        confirmed = any(candidate["scores"] for candidate in summary["candidates"])
        content["tables"] = [*([confirmed_table(summary)] if confirmed else []), trials_table(summary)]
        content["figures"] = _figures(summary)
    return content


def _recommended(summary: TuneSummary) -> Setting:
    return Setting.from_json(summary["candidates"][summary["recommended"]]["setting"])


def confirmed_table(summary: TuneSummary) -> Table:
    """Return the settings that were trained again."""
    metric, default = summary["metric"], summary["candidates"][0]["setting"]
    rows = []
    for number, each in enumerate(summary["candidates"]):
        setting = each["setting"]
        before = default_of(setting["optimizer"], summary)
        rows.append(
            [
                candidate_words(number, summary),
                setting_words(setting, before) if number else setting_words(default, Setting(Rule()).to_json()),
                score_words(each["median"], metric),
                difference_words(each, metric),
                each["verdict"] or "–",
            ]
        )
    header = ["trained again", "setting", f"{summary['confirmed_on']} {metric}".strip()]
    header += [f"difference [{summary['confidence']:.0%}]".replace("%", " %"), "than the default"]
    seeds = len(summary["candidates"][0]["scores"])
    note = f"Medians over {seeds} new seeds. Differences are paired by seed. The intervals hold jointly."
    return Table("Confirmed on new seeds", header, rows, summary["recommended"], note, (2, 3))


def trials_table(summary: TuneSummary) -> Table:
    """Return all trials, the best first; those without a score say why."""
    metric, sign = summary["metric"], -1 if summary["higher_is_better"] else 1
    optimizers = list(dict.fromkeys(trial["optimizer"] for trial in summary["trials"]))
    several = len(optimizers) > 1

    def order(trial: TrialFacts) -> tuple[int, float, int]:
        score = math.inf if trial["score"] is None else sign * trial["score"]
        return optimizers.index(trial["optimizer"]), score, trial["slot"]

    rows = []
    for trial in sorted(summary["trials"], key=order):
        name = setting_words(trial["setting"], default_of(trial["optimizer"], summary))
        found = reason_words(trial["reason"]) if trial["score"] is None else score_words(trial["score"], metric)
        row = [str(trial["slot"] + 1), trial["phase"], name.removeprefix(f"{trial['optimizer']} with ")]
        rows.append([*([trial["optimizer"]] if several else []), *row, str(trial["epochs"]), found])
    header = [*(["optimizer"] if several else []), "trial", "drawn", "setting", "epochs", f"{metric}, or why it ended"]
    note = "A setting is described by what differs from its optimizer's default."
    title = f"{len(rows)} trials so far" if summary["status"] == "unfinished" else f"All {len(rows)} trials"
    return Table(title, header, rows, None, note, (several, several + 3), folded=True)


def _figures(summary: TuneSummary) -> list[Figure]:
    drawn = []
    if progress := progress_data(summary):
        drawn.append(_progress(summary, progress))
    if differences := _differences(summary):
        drawn.append(differences)
    if found := summary.get("importances"):
        caption = (
            "PED-ANOVA: how much a coordinate decides whether a trial is among the best quarter, at least 5 trials. "
            "Black lines: 5 % of shuffles of the scores reach more; grey bars do not exceed chance. Trials that failed "
            "count as the worst. lr is the rate that momentum amounts to, η/(1−μ); eps is relative to √v̂."
        )
        drawn.append(figure("Importances", tuning_figures.draw_importances(found), caption))
    names = tuned(summary)
    if progress:
        drawn += [_slice(summary, name) for name in names]
    if progress and len(names) > 1:
        picture = tuning_slices.draw_parallel(*tuning_slices.parallel_data(summary, names), summary)
        caption = "A line is a trial, coloured by its score; the best is wide. Grey, dashed: diverged or stopped."
        drawn.append(figure("All coordinates", picture, caption))
    return drawn


def _progress(summary: TuneSummary, data: list[tuning_figures.BestSoFar]) -> Figure:
    default = next((t["score"] for t in summary["trials"] if t["optimizer"] == "RMSprop" and t["slot"] == 0), None)
    caption = (
        f"Best score so far. {last_third_words(summary)} The band holds 90 % of random orders of RMSprop's trials."
    )
    return figure("Is the budget enough?", tuning_figures.draw_progress(data, default, summary), caption)


def _differences(summary: TuneSummary) -> Figure | None:
    found = [
        figures.Interval(candidate_words(k, summary), c["setting"]["optimizer"], c["difference"], *c["interval"])
        for k, c in enumerate(summary["candidates"])
        if c["interval"] is not None and c["difference"] is not None
    ]
    if not found:
        return None
    side = "Right" if summary["higher_is_better"] else "Left"
    what = f"{summary['confirmed_on']} {summary['metric']}".strip()
    seeds = len(summary["candidates"][0]["scores"])
    caption = f"Hodges-Lehmann difference of the {what} on {seeds} new seeds, with its interval. {side} of 0 is better."
    return figure("Difference to the default", figures.draw_differences(found, summary["metric"]), caption)


def _slice(summary: TuneSummary, name: str) -> Figure:
    data = tuning_slices.slice_data(summary, name)
    failed = len(data.stopped) + len(data.diverged)
    parts = [f"Crosses at the edge: {failed} of {len(own_trials(summary))} trials, without a score."] if failed else []
    parts += [f"Triangles: {len(data.worse)} with a worse score than the axis shows."] if data.worse else []
    caption = " ".join(parts) or f"All {len(own_trials(summary))} trials of RMSprop."
    return figure(f"Score by {LABELS[name].split(' in ')[0]}", tuning_slices.draw_slice(data, summary), caption)
