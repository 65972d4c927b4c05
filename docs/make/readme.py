"""Update README.md and the pages with the demo, the benchmarks and the worked example. Run directories update the demo.

make demo && .venv/bin/python docs/make/readme.py runs/compare-digits RUN_WITH_BIAS_CORRECTION RUN_WITH_MOMENTUM_TOO
.venv/bin/python docs/make/speed.py measures the step times anew.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from blocks import with_block
from rich.console import Console

from rmsprop.cli.bench import duration, show_bench
from rmsprop.cli.compare import comparison_table
from rmsprop.lab.report import figures
from rmsprop.lab.report.sentences import describe_comparison
from rmsprop.lab.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
DEMO, PICTURE = DOCS / "demo.json", DOCS / "learning-rates.svg"
README, INDEX, EVIDENCE = ROOT / "README.md", DOCS / "index.md", DOCS / "evidence.md"
SPEED, RULE, GPU = DOCS / "speed.md", DOCS / "rule.md", DOCS / "gpu.md"
SHORT = ("large", "rich", "many", "policy", "policy-training", "language-training")  # cases of the short table


def store_demo(runs: list[RunDirectory]) -> None:
    """Store the comparisons for README: configurations, summaries, and the tuning curves of the first."""
    kept = [{"config": run.config(), "summary": run.summary()} for run in runs]
    tuning = [record for record in runs[0].records() if record["stage"] == "tune"]
    curves = figures.sensitivity_data(tuning, kept[0]["config"]["optimizers"])
    demo = {**dict(zip(("plain", "corrected", "momentum"), kept, strict=True)), "curves": curves}
    DEMO.write_text(json.dumps(demo, indent=1) + "\n")


def picture(demo: dict[str, Any]) -> str:
    """Return the figure of validation accuracy against the learning rate."""
    curves = {name: [(x, y) for x, y in points] for name, points in demo["curves"].items()}
    return figures.draw_sensitivity(curves, "validation accuracy")


def demo_block(demo: dict[str, Any]) -> str:
    """Return the table of the demo and the results of both comparisons, as Markdown."""
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    console.print(comparison_table(demo["plain"]["summary"]))
    table = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    plain, corrected, momentum = (
        describe_comparison(demo[name]["config"], demo[name]["summary"]) for name in ("plain", "corrected", "momentum")
    )
    machine = demo["plain"]["summary"]["environment"]
    made = f"{machine['processor']}, torch {machine['torch']}, {demo['plain']['summary']['seconds']:.0f} seconds"
    command, last = (demo[name]["summary"]["command"] for name in ("corrected", "momentum"))
    return (
        f"```text\n{table}\n```\n\n{plain[-1]} ({made}.)\n\n"
        "RMSprop as PyTorch has it does not win here: its first steps are 1/√(1−β) = 10 times the learning rate, which "
        f"rules larger rates out. Without that surge, in `{command}`: {' '.join(corrected[:-1])}\n\n"
        f"`{last}`: {' '.join(momentum[:-1])}\n\n"
    )


def bench_block(found: dict[str, Any]) -> str:
    """Return the table of `rmsprop bench` as Markdown."""
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    show_bench(console, found)
    table = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    return f"```text\n{table}\n```\n\n"


def steps_block(found: dict[str, Any]) -> str:
    """Return the short table of step times as Markdown."""
    lines = ["| step of | rmsprop | torch | torch, compiled |", "|---|---:|---:|---:|"]
    for case in (found["cases"][name] for name in SHORT):
        rows = {row["contender"]: row for row in case["rows"]}
        plain = rows.get("torch") or rows["torch, foreach"]
        ours, theirs = (duration(row["seconds"]) for row in (rows["rmsprop"], plain))
        compiled = f"{rows['torch, compiled']['ratio']:.2g} ×" if "torch, compiled" in rows else "–"
        lines.append(f"| {case['title']} | {ours} | {theirs}, {plain['ratio']:.2g} × | {compiled} |")
    machine = found["environment"]
    note = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, float32"
    return "\n".join([*lines, "", f"×: the time divided by that of rmsprop. ({note}.)", "", ""])


def threads_block() -> str:
    """Return the results of benchmarks/threads.py, with started threads and with torch's, as Markdown."""
    started, team = (json.loads((RESULTS / f"threads-{name}.json").read_text()) for name in ("started", "torch"))
    lines = [
        f"| elements | 1 thread | {team['threads']} threads of torch | {started['threads']} threads, started |",
        "|---:|---:|---:|---:|",
    ]
    for a, b in zip(started["rows"], team["rows"], strict=True):
        lines.append(
            f"| {a['size']} | {b['alone_us']:.0f} µs | {b['shared_us']:.0f} µs ({b['ratio']:.2f}) "
            f"| {a['shared_us']:.0f} µs ({a['ratio']:.2f}) |"
        )
    return "\n".join(lines) + "\n\n"


def parts_block() -> str:
    """Return the small parts of benchmarks/parts.py as Markdown."""
    found = json.loads((RESULTS / "parts.json").read_text())
    lines = [f"| {name} | {value:.2g} µs |" for name, value in found["small_us"].items()]
    return "\n".join(["| | |", "|---|---:|", *lines]) + "\n\n"


def language_block() -> str:
    """Return the language model's training step of benchmarks/parts.py as Markdown."""
    rows = json.loads((RESULTS / "parts.json").read_text())["language_ms"]
    names = {"rmsprop": "rmsprop, torch's threads", "rmsprop, started": "rmsprop, threads started", "torch": "torch"}
    lines = [
        f"| {names[name]} | {parts['forward']:.0f} ms | {parts['backward']:.0f} ms | {parts['step']:.1f} ms |"
        for name, parts in rows.items()
    ]
    return "\n".join(["| | forward | backward | step |", "|---|---:|---:|---:|", *lines]) + "\n\n"


def train_loop_block() -> str:
    """Return the results of benchmarks/train_loop.py as Markdown."""
    found = json.loads((RESULTS / "train_loop.json").read_text())
    lines = ["| task | a step by hand | `TrainingLoop` | `rmsprop train` | memory by hand, and of `rmsprop train` |"]
    lines.append("|---|---:|---:|---:|---:|")
    for task, row in found["tasks"].items():
        step = 1e6 * row["loop"]["hand_wall_s"] / row["steps_per_epoch"]
        ratios = " | ".join(f"{row[way]['wall_ratio']:.2f} ×" for way in ("loop", "train"))
        lines.append(f"| {task} | {step:.0f} µs | {ratios} | {row['hand_mb']:.0f} MB, {row['train_mb']:.0f} MB |")
    low, high = min(found["load"]), max(found["load"])
    lines += ["", f"Load of the machine, of which 1.0 is the benchmark: {low:.1f} to {high:.1f} on 2 cores.", "", ""]
    return "\n".join(lines)


def memory_block() -> str:
    """Return the results of benchmarks/gradient_release.py as Markdown."""
    found = json.loads((RESULTS / "gradient_release.json").read_text())
    lines = [f"| {way} | {row['peak_mb']:.0f} MB |" for way, row in found["rows"].items()]
    head = f"{found['parameters'] / 1e6:.1f} million parameters, {found['model_mb']:.0f} MB"
    return "\n".join([f"| {head} | peak of training |", "|---|---:|", *lines]) + "\n\n"


def versions_block() -> str:
    """Return the results of scripts/check-torch as Markdown, a row for each version of torch."""
    found = json.loads((RESULTS / "torch_versions.json").read_text(encoding="utf-8"))
    versions = sorted(found.items(), key=lambda pair: [int(part) for part in pair[0].partition("+")[0].split(".")])
    cases = list(versions[-1][1]["steps"])
    lines = [f"| torch | Python | passed | skipped | failed | kernel reads tensors by | {' | '.join(cases)} |"]
    lines.append("|---|---|---:|---:|---:|---|" + "---:|" * len(cases))
    for version, row in versions:
        steps = [f"{step['ratio']:.1f} × ({step['low']:.1f}–{step['high']:.1f})" for step in row["steps"].values()]
        counts = f"{row['passed']} | {sum(row['skipped'].values())} | {len(row['failed'])}"
        lines.append(f"| {version} | {row['python']} | {counts} | {row['reads']} | {' | '.join(steps)} |")
    reasons = Counter[str]()
    for _, row in versions:
        for reason, count in row["skipped"].items():
            reasons[reason] = max(reasons[reason], count)
    machines = ", ".join(dict.fromkeys(row["machine"] for _, row in versions))
    lines += ["", f"One thread, {machines}. Reasons for skipped tests, and how many tests of a version had them:", ""]
    lines += [f"- {count}: {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines) + "\n\n"


def with_speed(text: str) -> str:
    """Return docs/speed.md with its blocks from the stored results."""
    blocks = {
        "threads": threads_block(),
        "parts": parts_block(),
        "language": language_block(),
        "train loop": train_loop_block(),
        "memory": memory_block(),
        "versions": versions_block(),
        "bench": bench_block(benchmarks()),
    }
    for name, content in blocks.items():
        text = with_block(text, name, content)
    return text


def with_triton(text: str) -> str:
    """Return docs/gpu.md with the results of scripts/check-triton, a row for each version of Triton."""
    found = json.loads((RESULTS / "triton.json").read_text(encoding="utf-8"))
    lines = ["| Triton | forms | compiled for | not exact | registers of a thread, at most | bytes spilled |"]
    lines.append("|---|---:|---|---:|---:|---:|")
    for version, row in found.items():
        targets = ", ".join([*(f"sm_{arch}" for arch in row["nvidia"]), *row["amd"]])
        lines.append(
            f"| {version} | {row['forms']} | {targets} | {row['inexact']} | {row['registers']} | {row['spilled']} |"
        )
    return with_block(text, "triton", "\n".join(lines) + "\n\n")


def benchmarks() -> dict[str, Any]:
    """Return the stored results of `rmsprop bench`."""
    found: dict[str, Any] = json.loads((RESULTS / "steps.json").read_text(encoding="utf-8"))
    return found


def with_steps(text: str) -> str:
    """Return README or the first page of the docs with the short table of step times."""
    return with_block(text, "steps", steps_block(benchmarks()))


def with_demo(text: str) -> str:
    """Return docs/evidence.md with the result of `make demo`."""
    return with_block(text, "demo", demo_block(json.loads(DEMO.read_text(encoding="utf-8"))))


def with_outputs(text: str) -> str:
    """Return docs/rule.md with the output of every `$ rmsprop` line of its console blocks."""

    def run(match: re.Match[str]) -> str:
        command = match.group(1)
        arguments = [sys.executable, "-m", *command.split()]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={"COLUMNS": "100"})
        output = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
        return f"```console\n$ {command}\n{output}\n```"

    return re.sub(r"```console\n\$ (rmsprop [^\n]*)\n.*?```", run, text, flags=re.DOTALL)


PAGES = {
    README: with_steps,
    INDEX: with_steps,
    EVIDENCE: with_demo,
    SPEED: with_speed,
    RULE: with_outputs,
    GPU: with_triton,
}


def main() -> None:
    """Rewrite the pages and the figure."""
    if len(sys.argv) > 1:
        store_demo([RunDirectory(Path(name)) for name in sys.argv[1:]])
    write_pages()


def write_pages() -> None:
    """Rewrite the pages and the figure from the stored results."""
    PICTURE.write_text(picture(json.loads(DEMO.read_text(encoding="utf-8"))), encoding="utf-8")
    for path, renewed in PAGES.items():
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
