"""The report of a training: its losses and scores, and what the optimizer did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmsprop.explain import explain
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.intervals import median_of_known
from rmsprop.lab.report import figures, monitor_figures
from rmsprop.lab.report.content import ETA, FAR, Content, Figure, Measured, figure, settings
from rmsprop.lab.report.layer_figure import draw_layers, layer_data, layer_rows, rows_words
from rmsprop.lab.report.sentences import LOSS_FINDINGS, describe_findings, describe_training, findings_by_advice
from rmsprop.lab.runs.directory import PICTURE, RunDirectory
from rmsprop.lab.runs.measured_steps import measured_steps
from rmsprop.lab.runs.schema import EpochRecord, FindingFacts, LossRecord, TrainConfig, TrainRecord, TrainSummary
from rmsprop.lab.score import IN_PLACE_OF_LOSS
from rmsprop.rule import Rule

_Points = list[tuple[float, float | None]]


def training_content(run: RunDirectory) -> Content:
    """Return the content of a training's report; if the run is not finished, from the records so far."""
    config: TrainConfig = run.config()
    summary: TrainSummary | None = run.summary()
    records: list[TrainRecord] = run.records()
    losses: list[LossRecord] = [r for r in records if r["kind"] == "loss"]
    epochs: list[EpochRecord] = [r for r in records if r["kind"] == "epoch"]
    measured = _measured(run, summary)
    found = _found_tensors([finding for alike in (measured["findings"] if measured else []) for finding in alike])
    return {
        "title": f"RMSprop trained on {summary['task'] if summary else config['task']}",
        "lines": [*describe_training(config, summary), *(measured["outcome"] if measured else [])],
        "summary": summary,
        "rows": [],
        "figures": [
            *_generated(run),
            *_curves(losses, epochs, summary),
            *_effective_rates(epochs, config, found),
            *_times(epochs),
        ],
        "measured": measured,
        "equations": explain(Rule(**config["rule"])),
        "settings": settings(config),
    }


def _generated(run: RunDirectory) -> list[Figure]:
    path = run.path / PICTURE
    if not path.exists():
        return []
    caption = "What the trained model generates from random numbers."
    return [figure("Generated images", path.read_text(encoding="utf-8"), caption)]


def _curves(losses: list[LossRecord], epochs: list[EpochRecord], summary: TrainSummary | None) -> list[Figure]:
    drawn = []
    if losses:
        points: _Points = [(r["epoch"], r["loss"]) for r in losses]
        drawn.append(_curve("Training loss", points, "Mean over a tenth of an epoch.", log=True))
    if epochs and not (summary and summary.get("metric_kind") in IN_PLACE_OF_LOSS):
        points = [(r["epoch"], r["validation_loss"]) for r in epochs]
        drawn.append(_curve("Validation loss", points, "After every epoch, and before the first.", log=True))
    if epochs and not (summary and summary.get("metric_kind") == "loss"):
        points = [(r["epoch"], r["validation_metric"]) for r in epochs]
        metric = summary["metric"] if summary else "metric"
        drawn.append(_curve(f"Validation {metric}", points, "After every epoch.", log=False))
    return drawn


def _curve(title: str, points: _Points, caption: str, *, log: bool) -> Figure:
    known = [(x, y) for x, y in points if y is not None]  # records hold null for a value that is not finite
    x, y = [point[0] for point in known], [point[1] for point in known]
    label = title[0].lower() + title[1:]
    return figure(title, figures.draw_bands([figures.Band("RMSprop", x, y, y, y)], label, log=log), caption)


def _found_tensors(findings: list[FindingFacts]) -> list[str]:
    """Return the worst tensor of each finding, the gravest finding first."""
    return list(dict.fromkeys(name for finding in findings if (name := finding.get("tensor")) is not None))


def _effective_rates(epochs: list[EpochRecord], config: TrainConfig, found: list[str]) -> list[Figure]:
    """Draw the effective rates at the end, or halfway if the learning rate falls to 0."""
    measured = [r for r in epochs if any((q[3] or 0) > 0 for q in r["effective_lr"].values())]
    if not measured:
        return []
    chosen = measured[-1] if config["schedule"] == "constant" else measured[len(measured) // 2]
    rows = layer_rows(layer_data([chosen["effective_lr"]]), found)
    picture = draw_layers(rows, config["rule"]["lr"])
    when = f"after epoch {chosen['epoch']}"
    caption = f"η/d of the elements of each layer {when}: range, 5–95 %, 25–75 % and median.{rows_words(rows)} {ETA}"
    return [figure("Effective learning rates", picture, caption)]


def _times(epochs: list[EpochRecord]) -> list[Figure]:
    whole = median_of_known(r["step_us"] for r in epochs)
    inside = median_of_known(r["optimizer_us"] for r in epochs)
    if whole is None or inside is None:
        return []
    picture = figures.draw_bars({"whole step": whole, "optimizer": inside}, "microseconds")
    caption = f"Median of a training step and of the optimizer's part in it ({100 * inside / whole:.0f} %)."
    return [figure("Time per step", picture, caption)]


def _measured(run: RunDirectory, summary: TrainSummary | None) -> Measured | None:
    """Return findings and figures of what the optimizer did; None if nothing was measured or found."""
    records, findings = measured_steps(run), findings_to_show(run, summary)
    if not (records or findings):
        return None
    steps, post_mortem = [record["step"] for record in records], summary.get("post_mortem") if summary else None
    line = describe_findings(findings, len(records), min(steps, default=None), max(steps, default=None))
    return {
        "line": f"Beside that, {line[0].lower()}{line[1:]}" if post_mortem and not findings else line,
        "outcome": [finding["sentence"] for finding in findings if finding["kind"] in LOSS_FINDINGS],
        "findings": findings_by_advice(findings),
        "post_mortem": post_mortem,
        "figures": _measured_figures(records, _found_tensors(findings)) if records else [],
    }


def _measured_figures(records: Sequence[Mapping[str, Any]], found: list[str]) -> list[Figure]:
    many = (
        f" Of the {len(records[-1]['tensors'])} tensors: the range, the median, those that are mostly highest and "
        "lowest, and those of the first findings."
        if len(records[-1]["tensors"]) >= monitor_figures.MANY
        else ""
    )
    drawn = []

    def draw(title: str, field: str, label: str, form: str, caption: str, *, log: bool, mark: float | None) -> None:
        series = monitor_figures.series_data(records, field)
        if any(value > 0 for s in series for value in s.values):
            picture = monitor_figures.draw_series(series, label, log=log, mark=mark, found=found)
            words = f"{caption}{many} {monitor_figures.extremes_words(series, form)}"
            drawn.append(figure(title, picture, words))

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
        drawn.append(figure("Effective learning rates over the steps", picture, f"{rates} {FAR}"))
        names = list(records[-1]["tensors"])
        heats = {name: heat for name in names if (heat := monitor_figures.heat_data(records, name)) is not None}
        if 1 < len(heats) <= monitor_figures.FEW:
            picture = monitor_figures.draw_heat(heats)
            span = f"Each field runs from step {records[0]['step']} to step {records[-1]['step']}."
            drawn.append(figure("Effective learning rates of each tensor", picture, f"{rates} {span}"))
    return drawn
