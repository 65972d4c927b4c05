"""What the terminal shows: live progress on standard error, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from rmsprop.checkpoint import Checkpoint, Conversion
    from rmsprop.explain import WorkedStep
    from rmsprop.lab.compare import Listener as ComparisonListener
    from rmsprop.lab.runs.directory import RunDirectory
    from rmsprop.lab.runs.training import Record, Training
    from rmsprop.lab.runs.trial import Row
    from rmsprop.lab.train import Listener as TrainingListener
    from rmsprop.recipes.training_recipe import Recipe

_SHOWN = 5  # findings at the end of a training
_STAGES = {"tune": "picking learning rates", "final": "comparing"}


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, TextColumn("{task.fields[news]}", markup=False), console=console, disable=not console.is_terminal
    )


@contextmanager
def training_progress(console: Console) -> Iterator[TrainingListener]:
    """Yield a listener for `train`: a bar of steps on a terminal, else a line for every tenth of the epochs."""
    from rmsprop.lab.report.sentences import steps_words

    with _progress(console) as progress:
        bar = progress.add_task("training", total=None, news="")

        def listen(training: Training, records: list[Record]) -> None:
            progress.update(bar, completed=training.step, total=training.total_steps)
            for record in records:
                if record["kind"] == "replay":
                    steps = steps_words(record["step"] + 1, record["step"] + record["steps"])
                    console.print(f"replaying {steps} to see where it began", markup=False)
                    progress.update(bar, description="replaying", news="")
                elif record["kind"] == "epoch":
                    words = _epoch_words(training, record)
                    progress.update(bar, news=words)
                    if not console.is_terminal and record["epoch"] % max(1, training.epochs // 10) == 0:
                        console.print(f"epoch {record['epoch']} of {training.epochs}: {words}", markup=False)

        yield listen


def _epoch_words(training: Training, record: Record) -> str:
    from rmsprop.lab.report.sentences import score_words

    name = training.score.name
    metric = score_words(record["validation_metric"], name)
    if training.score.kind == "loss":
        return f"validation {name} {metric}"
    return f"validation loss {record['validation_loss']:.4g}, {name} {metric}"


@contextmanager
def comparison_progress(console: Console) -> Iterator[ComparisonListener]:
    """Yield a listener for `compare`: a bar per stage on a terminal, else a line for every quarter of a stage."""
    with _progress(console) as progress:
        bars = {stage: progress.add_task(words, total=None, news="") for stage, words in _STAGES.items()}

        def listen(stage: str, done: int, total: int, row: Row | None) -> None:
            news = f"{row['optimizer']} at {row['lr']:g}" if row and done < total else ""
            progress.update(bars[stage], completed=done, total=total, news=news)
            if not console.is_terminal and (row is None or done % max(1, total // 4) == 0 or done == total):
                console.print(f"{_STAGES[stage]}: {done} of {total} trainings")

        yield listen


def show_training(console: Console, run: RunDirectory, report: Path | None) -> None:
    """Print how a training ended and where its report is."""
    from rmsprop.lab.report.sentences import describe_training

    summary = run.summary()
    for line in describe_training(run.config(), summary):
        console.print(line, markup=False)
    if summary and summary.get("implementation"):
        console.print(f"steps of RMSprop: {summary['implementation']}", markup=False)
    if summary and "findings" in summary:
        _show_watched(console, run, summary)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def _show_watched(console: Console, run: RunDirectory, summary: dict[str, Any]) -> None:
    """Print how a divergence began, and the first findings."""
    from rmsprop.lab.report.sentences import findings_by_advice

    if summary.get("post_mortem"):
        console.print(f"\n{summary['post_mortem']['text']}\n", markup=False)
    found = summary["findings"]
    for alike in findings_by_advice(found[:_SHOWN]):
        for finding in alike:
            console.print(finding["sentence"], markup=False)
        console.print(f"  remedy: {alike[0]['remedy']}", markup=False)
    if found:
        more = f"and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "causes and evidence"
        console.print(f"{more}: rmsprop doctor {run.path}", markup=False)


def show_comparison(console: Console, run: RunDirectory, report: Path | None) -> None:
    """Print a comparison's table, what it says in words, and where its report is."""
    from rmsprop.lab.report.sentences import describe_comparison

    summary = run.summary()
    assert summary is not None  # noqa: S101
    console.print(comparison_table(summary))
    console.print()
    for line in describe_comparison(run.config(), summary):
        console.print(line, markup=False)
    if summary and summary.get("implementation"):
        console.print(f"steps of RMSprop: {summary['implementation']}", markup=False)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def comparison_table(summary: dict[str, Any]) -> Table:
    """Return the scores of a comparison as a table."""
    from rmsprop.lab.report.sentences import difference_words, range_words, score_words

    metric = summary["metric"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("optimizer")
    table.add_column("lr", justify="right")
    table.add_column(escape(f"test {metric}"), justify="right")
    table.add_column("worst–best", justify="right")
    table.add_column(f"difference [{summary['confidence']:.0%}]", justify="right")
    table.add_column("than RMSprop")
    for score in summary["scores"]:
        table.add_row(
            score["optimizer"],
            f"{score['lr']:g}{'*' if score['at_edge'] else ''}",
            score_words(score["metric"], metric),
            range_words(score, metric, higher_is_better=summary["higher_is_better"]),
            escape(difference_words(score, metric)),
            score["verdict"] or "–",
            style="bold" if score["optimizer"] == "RMSprop" else None,
        )
    return table


def worked_table(steps: list[WorkedStep]) -> Table:
    """Return the worked example as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "parameter", "gradient", "v", "rate η/d", "change of p"):
        table.add_column(name, justify="left" if name == "parameter" else "right")
    for s in steps:
        values = (f"{x:.6g}" for x in (s.gradient, s.square_avg, s.rate, s.change))
        table.add_row(str(s.step), s.parameter, *values)
    return table


def show_findings(console: Console, findings: dict[str, Any]) -> None:
    """Print what `rmsprop doctor` found."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in findings["environment"].items():
        table.add_row(name, value)
    console.print(table)
    console.print()
    paths = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("path", "parameters", "result"):
        paths.add_column(name)
    for check in findings["paths"]:
        words = "not finite" if check["ulps"] is None else f"{check['ulps']:.3g} ulp from the rule"
        paths.add_row(check["path"], check["dtype"], f"{'ok' if check['ok'] else 'WRONG'}: {words}")
    console.print(paths)
    console.print()
    for line in findings["notes"]:
        console.print(line, markup=False)
    wrong = sum(not check["ok"] for check in findings["paths"])
    verdict = f"All {len(findings['paths'])} paths agree with the rule."
    if not findings["healthy"]:
        verdict = f"{wrong} of {len(findings['paths'])} paths are wrong." if wrong else "Not all paths could be tried."
    console.print(f"\n{verdict}", markup=False)


def show_examined(console: Console, examined: dict[str, Any]) -> None:
    """Print what `rmsprop doctor RUN` found."""
    from rmsprop.lab.report.sentences import describe_findings, evidence_words, findings_by_advice

    said = f"{examined['status']}, {examined['reason']}" if examined["reason"] else examined["status"]
    console.print(f"{examined['run']}: {said}", markup=False)
    for line in examined["result"]:
        console.print(line, markup=False)
    if examined["post_mortem"]:
        console.print(f"\n{examined['post_mortem']['text']}", markup=False)
    console.print(f"\n{describe_findings(examined['findings'], **examined['measured'])}", markup=False)
    for alike in findings_by_advice(examined["findings"]):
        console.print()
        for finding in alike:
            console.print(f"{finding['sentence']}\n  found      {evidence_words(finding['evidence'])}", markup=False)
        for name in ("cause", "remedy", "threshold"):
            console.print(f"  {name:<10} {alike[0][name]}", markup=False)


@contextmanager
def bench_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a listener for `bench`: a bar per case on a terminal, else a line."""
    with _progress(console) as progress:
        bars: dict[str, TaskID] = {}

        def listen(case: str, done: int, total: int) -> None:
            if case not in bars:
                bars[case] = progress.add_task(case, total=total, news="")
                if not console.is_terminal:
                    console.print(f"measuring: {case}", markup=False)
            progress.update(bars[case], completed=done)

        yield listen


def bench_table(found: dict[str, Any]) -> Table:
    """Return what `bench` measured: the time of a step of each contender, and how many times ours that is."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("step of")
    table.add_column("time", justify="right")
    table.add_column("times ours", justify="right")
    table.add_column("[middle half]".replace("[", r"\["))
    for case in found["cases"].values():
        table.add_row(f"[bold]{escape(case['title'])}[/bold]")
        for i, row in enumerate(case["rows"]):
            wait = f" (compiled in {row['compile_seconds']:.0f} s)" if "compile_seconds" in row else ""
            half = escape(f"[{row['low']:.2f}–{row['high']:.2f}]") if i else ""
            table.add_row(
                f"  {row['contender']}{wait}", _duration(row["seconds"]), f"{row['ratio']:.2f}" if i else "", half,
                end_section=i == len(case["rows"]) - 1,
            )  # fmt: skip
    return table


def _duration(seconds: float) -> str:
    unit, factor = next((u, f) for u, f in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{seconds * factor:.3g} {unit}"


def show_bench(console: Console, found: dict[str, Any]) -> None:
    """Print the table of `bench` and what it was measured on."""
    machine = found["environment"]
    console.print(bench_table(found))
    console.print()
    console.print(
        f"{machine['processor']}, {machine['threads']} threads, kernel {machine['kernel']}, torch {machine['torch']}",
        markup=False,
    )


def show_recipes(console: Console, recipes: Mapping[str, Recipe]) -> None:
    """Print a line for each recipe."""
    row = "{:<24} {:>7} {:>5} {:>6} {:<7} {:>4}  {}"
    console.print(row.format("recipe", "lr", "decay", "eps", "root", "mom.", "trained"))
    for name, each in recipes.items():
        rule = {field: "open" if value is None else value for field, value in each.facts()["rule"].items()}
        values = (f"{rule[field]:g}" if rule[field] != "open" else "open" for field in ("lr", "decay", "eps"))
        inside, centered = (
            ("inside" if rule["eps_inside_sqrt"] else "outside"),
            ", centered" if rule["centered"] else "",
        )
        line = row.format(name, *values, inside, f"{rule['momentum']:g}", each.title + centered)
        console.print(line, markup=False)
    console.print("\nrmsprop explain --recipe NAME has schedule, clipping, averaging, sources and notes.", markup=False)


def conversion_facts(source: Checkpoint, conversion: Conversion, target: Path | None) -> dict[str, Any]:
    """Return what `convert` has read, what it made of it, and what stands in the way."""
    from rmsprop.checkpoint import AVERAGES, WEIGHTS

    made = conversion.checkpoint
    done = not conversion.problems
    moved = [name for name in (*AVERAGES, *WEIGHTS) if any(getattr(p, name) is not None for p in made.parameters)]
    return {
        "from": source.kind,
        "to": made.kind,
        "parameters": sum(p.square_avg is not None for p in source.parameters),
        "step": source.step,
        "source_rule": [dict(group) for group in source.groups],
        "moved": moved if done else [],
        "target_rule": [dict(group) for group in made.groups] if done else [],
        "notes": list(conversion.notes) if done else [],
        "problems": list(conversion.problems),
        "written": str(target) if target else None,
        **({} if target else {"map": dict(conversion.mapping)}),
    }


def show_conversion(console: Console, facts: dict[str, Any]) -> None:
    """Print what moved, how exactly, and what stands in the way."""
    step = "steps unknown" if facts["step"] is None else f"step {facts['step']}"
    console.print(f"{facts['from']} to {facts['to']}: {facts['parameters']} parameters, {step}", markup=False)
    for problem in facts["problems"]:
        console.print(f"  PROBLEM  {problem}", markup=False)
    if facts["moved"]:
        console.print(f"  moved    {', '.join(facts['moved'])}; copied bit for bit unless noted", markup=False)
    for note in facts["notes"]:
        console.print(f"  note     {note}", markup=False)
    done = f"written: {facts['written']}" if facts["written"] else "nothing was written"
    console.print(done, markup=False)
    if "map" in facts:
        entries = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in facts["map"].items())
        console.print(f"the map, for --map FILE:\n{{\n{entries}\n}}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def range_test_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a listener for `find-lr`: a bar of steps on a terminal, else a line for every quarter of them."""
    with _progress(console) as progress:
        bar = progress.add_task("testing rates", total=None, news="")

        def listen(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)
            if not console.is_terminal and done % max(1, total // 4) == 0:
                console.print(f"testing rates: {done} of at most {total} steps")

        yield listen


def show_range_test(console: Console, found: dict[str, Any], directory: Path) -> None:
    """Print which rate `find-lr` suggests and why, or why none."""
    head = "no suggestion: the curve is unclear" if found["lr"] is None else f"suggested lr: {found['lr']:g}"
    console.print(head, markup=False, style="bold")
    console.print(found["reason"], markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"steps with a rate of 0 before: {found['warm_steps']}", markup=False)
    console.print(f"figure: {directory / 'find-lr.svg'}", markup=False)
