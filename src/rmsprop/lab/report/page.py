"""Write one self-contained HTML file about a run: it opens offline and loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import jinja2

from rmsprop.explain import explain
from rmsprop.files import write_atomically
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.intervals import median_of_known
from rmsprop.lab.report import figures, monitor_figures
from rmsprop.lab.report.sentences import (
    OF_LOSSES,
    describe_comparison,
    describe_findings,
    describe_training,
    difference_words,
    evidence_words,
    findings_by_advice,
    range_words,
    score_words,
    value_words,
)
from rmsprop.lab.runs.directory import REPORT, RunDirectory
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.runs.schema import (
    CompareConfig,
    CompareSummary,
    EpochRecord,
    FinalRow,
    LossRecord,
    RunConfig,
    TrainConfig,
    TrainRecord,
    TrainSummary,
    TrialRow,
)
from rmsprop.rule import Rule

_ZERO = "Elements whose gradient has always been zero, such as weights of inputs that are always 0, sit at η/ε"
_ETA = f"η marks the rate that was set. {_ZERO} on the far right and do not move."
_FAR = f"{_ZERO} at the top and do not move."


class Figure(NamedTuple):
    """A picture, and in words what it shows."""

    title: str
    picture: str  # data URI
    caption: str


def write_report(run: RunDirectory, path: Path | None = None) -> Path:
    """Write the report of `run` to `path`, by default report.html in its directory; return the file's path."""
    if run.config()["kind"] == "compare":
        content = _comparison(run.config(), run.summary(), run.records())
        content["watched"] = None
    else:
        content = _training(run.config(), run.summary(), run.records())
        content["watched"] = _watched(run, run.summary())
    if content["watched"]:
        content["lines"] = [*content["lines"], *content["watched"]["outcome"]]
    path = path or run.path / REPORT
    if path.is_dir():
        path = path / REPORT
    write_atomically(path, _page().render(**content))
    return path


@cache
def _page() -> jinja2.Template:
    loader = jinja2.PackageLoader("rmsprop.lab.report", "")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page.filters |= {"score": score_words, "evidence": evidence_words, "short": value_words, "together": _together}
    return page.get_template("report.html.j2")


def _comparison(config: CompareConfig, summary: CompareSummary | None, records: list[TrialRow]) -> dict[str, Any]:
    tuning = [r for r in records if r["stage"] == "tune"]
    final = cast(list[FinalRow], [r for r in records if r["stage"] == "final"])
    metric = summary["metric"] if summary else "metric"
    log = not summary["higher_is_better"] if summary else False  # errors and losses differ by factors
    drawn = [
        _figure(
            "Learning rates",
            figures.draw_sensitivity(figures.sensitivity_data(tuning), f"validation {metric}", log=log),
            "Validation score of every rate on the grid, mean over the tuning seeds.",
        )
    ] if tuning else []  # fmt: skip
    scores = summary["scores"] if summary else []
    if final:
        own = next((s for s in scores if s["optimizer"] == "RMSprop"), {"lr": 0.0})
        rates = [r["effective_lr"] for r in final if r["optimizer"] == "RMSprop" and r["effective_lr"]]
        half = "median over the seeds; the band holds the middle half of them"
        loss = figures.draw_bands(figures.curve_data(final, "loss_curve", 1), "training loss", log=True)
        validation = figures.draw_bands(
            figures.curve_data(final, "validation_curve", 2), f"validation {metric}", log=log
        )
        drawn += [
            _figure("Training loss", loss, f"Each optimizer at its best rate: {half}."),
            _figure(f"Validation {metric}", validation, f"Each optimizer at its best rate: {half}."),
        ]
        if scores:
            order = [s["optimizer"] for s in scores]
            drawn.append(
                _figure(
                    f"Test {metric}",
                    figures.draw_test(figures.test_data(final, order), f"test {metric}"),
                    "One dot per seed, the line is the median.",
                )
            )
        if rates:
            drawn.append(
                _figure(
                    "Effective learning rates of RMSprop",
                    figures.draw_layers(figures.layer_data(rates), own["lr"]),
                    "η/d of the elements of each layer halfway through training (η has fallen to half): range, 5–95 %, "
                    "25–75 % and median. " + _ETA,
                )
            )
        timed = {
            o: median_of_known(r["optimizer_us"] for r in final if r["optimizer"] == o) for o in config["optimizers"]
        }
        times = {o: us for o, us in timed.items() if us is not None}
        jobs = f", {summary['jobs']} trainings at a time" if summary else ""
        drawn.append(
            _figure(
                "Time of one optimizer step",
                figures.draw_bars(times, "microseconds"),
                f"Median over steps and seeds, one thread per training{jobs}. "
                "RMSprop is this library's, the others are torch's.",
            )
        )
    rate = next((s["lr"] for s in scores if s["optimizer"] == "RMSprop"), Rule().lr)
    return {
        "title": f"RMSprop compared on {summary['task'] if summary else config['task']}",
        "lines": describe_comparison(config, summary),
        "summary": summary,
        "rows": [
            (s, range_words(s, metric, higher_is_better=not log), difference_words(s, metric))
            for s in (summary["scores"] if summary else [])
        ],
        "figures": drawn,
        "equations": explain(Rule(**cast(dict[str, Any], config["rule"]), lr=rate)),
        "settings": _settings(config),
    }


def _training(config: TrainConfig, summary: TrainSummary | None, records: list[TrainRecord]) -> dict[str, Any]:
    losses: list[LossRecord] = [r for r in records if r["kind"] == "loss"]
    epochs: list[EpochRecord] = [r for r in records if r["kind"] == "epoch"]
    metric = summary["metric"] if summary else "metric"

    def curve(points: list[tuple[float, float | None]], label: str, *, log: bool) -> str:
        known = [(x, y) for x, y in points if y is not None]  # a value that is not finite is recorded as null
        x, y = [p[0] for p in known], [p[1] for p in known]
        return figures.draw_bands([figures.Band("RMSprop", x, y, y, y)], label, log=log)

    drawn = []
    if losses:
        points = [(r["epoch"], r["loss"]) for r in losses]
        drawn.append(
            _figure("Training loss", curve(points, "training loss", log=True), "Mean over a tenth of an epoch.")
        )
    if epochs:
        points = [(r["epoch"], r["validation_loss"]) for r in epochs]
        drawn.append(
            _figure(
                "Validation loss",
                curve(points, "validation loss", log=True),
                "After every epoch, and before the first.",
            )
        )
    if epochs and not (summary and summary.get("metric_kind") == "loss"):
        points = [(r["epoch"], r["validation_metric"]) for r in epochs]
        drawn.append(
            _figure(f"Validation {metric}", curve(points, f"validation {metric}", log=False), "After every epoch.")
        )
    measured = [r for r in epochs if any((q[3] or 0) > 0 for q in r["effective_lr"].values())]
    if measured:
        chosen = measured[-1] if config["schedule"] == "constant" else measured[len(measured) // 2]
        drawn.append(
            _figure(
                "Effective learning rates",
                figures.draw_layers(figures.layer_data([chosen["effective_lr"]]), config["rule"]["lr"]),
                f"η/d of the elements of each layer after epoch {chosen['epoch']}: range, 5–95 %, 25–75 % and median. "
                + _ETA,
            )
        )
    whole = median_of_known(r["step_us"] for r in epochs)
    inside = median_of_known(r["optimizer_us"] for r in epochs)
    if whole is not None and inside is not None:
        bars = {"whole step": whole, "optimizer": inside}
        caption = f"Median of a training step and of the optimizer's part in it ({100 * inside / whole:.0f} %)."
        drawn.append(_figure("Time per step", figures.draw_bars(bars, "microseconds"), caption))
    return {
        "title": f"RMSprop trained on {summary['task'] if summary else config['task']}",
        "lines": describe_training(config, summary),
        "summary": summary,
        "rows": [],
        "figures": drawn,
        "equations": explain(Rule(**config["rule"])),
        "settings": _settings(config),
    }


def _watched(run: RunDirectory, summary: TrainSummary | None) -> dict[str, Any] | None:
    """Return findings and figures of what the optimizer did; None where nothing was measured or found."""
    records, findings = measured_steps(run), findings_to_show(run, summary)
    if not (records or findings):
        return None
    steps, post_mortem = [record["step"] for record in records], summary.get("post_mortem") if summary else None
    line = describe_findings(findings, len(records), min(steps, default=None), max(steps, default=None))
    return {
        "line": f"Beside that, {line[0].lower()}{line[1:]}" if post_mortem and not findings else line,
        "outcome": [finding["sentence"] for finding in findings if finding["kind"] in OF_LOSSES],
        "findings": findings_by_advice(findings),
        "post_mortem": post_mortem,
        "figures": _watched_figures(records) if records else [],
    }


def _watched_figures(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    many = (
        f" Of the {len(records[-1]['tensors'])} tensors: the range, the median, and those that are mostly highest and "
        "lowest."
        if len(records[-1]["tensors"]) >= monitor_figures.MANY
        else ""
    )
    drawn = []

    def draw(title: str, field: str, label: str, form: str, caption: str, *, log: bool, mark: float | None) -> None:
        series = monitor_figures.series_data(records, field)
        if any(value > 0 for s in series for value in s.values):
            picture = monitor_figures.draw_series(series, label, log=log, mark=mark)
            words = f"{caption}{many} {monitor_figures.extremes_words(series, form)}"
            drawn.append(_figure(title, picture, words))

    draw(
        "Update beside weight", "update_ratio", "update / weight", ".2g",
        "Root mean square of what a step changed, by that of the parameter. The dashed line is at 1/1000, "
        "a rule of thumb for weight matrices.",
        log=True, mark=1e-3,
    )  # fmt: skip
    draw(
        "Gradients", "gradient_rms", "RMS of the gradient", ".2g", "Root mean square of the gradient.",
        log=True, mark=None,
    )  # fmt: skip
    draw(
        "Where ε governs", "eps_share", "share of elements", ".1%",
        "Share of the elements whose ε is larger than √v: their steps follow the size of the gradient, as those of SGD "
        "do. Elements whose gradient has always been zero are among them.",
        log=False, mark=None,
    )  # fmt: skip
    whole = monitor_figures.heat_data(records)
    if whole is not None:
        rates = "η/d of the elements; the darker, the more of them. The dashed line is η."
        picture = monitor_figures.draw_heat({"all": whole})
        drawn.append(_figure("Effective learning rates over the steps", picture, f"{rates} {_FAR}"))
        names = list(records[-1]["tensors"])
        heats = {name: heat for name in names if (heat := monitor_figures.heat_data(records, name)) is not None}
        if 1 < len(heats) <= monitor_figures.FEW:
            picture = monitor_figures.draw_heat(heats)
            span = f"Each field runs from step {records[0]['step']} to step {records[-1]['step']}."
            drawn.append(_figure("Effective learning rates of each tensor", picture, f"{rates} {span}"))
    return drawn


def _settings(config: RunConfig) -> list[tuple[str, str]]:
    hidden = ("kind", "rule", "task_code", "made_with")
    words = {k: ", ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in v) if isinstance(v, list) else str(v)
             for k, v in config.items() if k not in hidden}  # fmt: skip
    labels = {"every": "steps between statistics"}
    return [(labels.get(k, k.replace("_", " ")), v) for k, v in words.items()]


def _together(text: str) -> str:
    """Keep percent signs on the line of their numbers."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _figure(title: str, svg: str, caption: str) -> Figure:
    return Figure(title, "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(), caption)
