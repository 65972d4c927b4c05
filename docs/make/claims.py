"""Run the claims and write src/rmsprop/lab/claims/results.json, docs/claims.md and its pictures.

.venv/bin/python docs/make/claims.py        judges trainings by evidence.json and ablation.json, and writes the page
.venv/bin/python docs/make/claims.py --run  runs the other claims as well
"""

from __future__ import annotations

import datetime
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from blocks import with_block

from rmsprop import Rule
from rmsprop.environment import environment
from rmsprop.files import finite, write_atomically
from rmsprop.lab.claims.catalogue import CLAIMS, AnyClaim
from rmsprop.lab.claims.claim import GROUPS, Claim, Picture, Source
from rmsprop.lab.claims.counterexamples import changes_sign, threshold
from rmsprop.lab.claims.result import Result, run_changed, run_claim
from rmsprop.lab.claims.sentences import main_number, seconds_words
from rmsprop.lab.claims.stability import edge_quartiles
from rmsprop.lab.claims.stored import RESULTS, comparison_key, counts, from_comparisons, stored, stored_results
from rmsprop.lab.claims.trainings import TrainingClaim
from rmsprop.lab.report.claims import draw_picture

DOCS = Path(__file__).resolve().parent.parent
PAGE, PICTURES = DOCS / "claims.md", DOCS / "claims"
SECOND_SEED = 1000  # of the second run, which must have the same verdicts


def comparisons() -> dict[str, Any]:
    """Return the stored comparisons by task, with what a claim reads of them."""
    kept = {}
    for name in ("evidence.json", "ablation.json"):
        dated = ["git", "log", "-1", "--format=%as", "--", name]
        date = subprocess.run(dated, cwd=DOCS, capture_output=True, text=True, check=True).stdout.strip()
        for each in json.loads((DOCS / name).read_text(encoding="utf-8")):
            config, summary = each["config"], each["summary"]
            plain = config["rule"] == {k: v for k, v in vars(Rule()).items() if k != "lr"}
            if not plain:
                continue
            fields = ("optimizer", "lr", "metric", "difference", "interval", "verdict")
            facts = {
                "command": summary["command"],
                "date": date,
                "machine": f"{summary['environment']['processor']}, torch {summary['environment']['torch']}",
                "quick": config.get("quick", False),
                "epochs": config["epochs"],
                "seeds": config["seeds"],
                "seconds": round(summary["seconds"]),
                "metric": summary["metric"],
                "higher_is_better": summary["higher_is_better"],
                "scores": [{field: score[field] for field in fields} for score in summary["scores"]],
            }
            if summary.get("all_switches"):
                facts["all_switches"] = summary["all_switches"]
            key = comparison_key(config["task"], config["ablate"])
            earlier = stored()["comparisons"].get(key, {})
            if all(earlier.get(name) == facts[name] for name in ("scores", "seconds")):
                facts["date"] = earlier["date"]  # the file has changed since then, this comparison has not
            kept[key] = facts
    trained = [claim for claim in CLAIMS.values() if isinstance(claim, TrainingClaim)]
    used = {comparison_key(task, claim.ablate) for claim in trained for task in claim.tasks}
    return {key: facts for key, facts in kept.items() if key in used}


def edge_rows() -> list[list[float]]:
    """Return rate, decay, momentum, 2(1+μ), and the quartiles of η·λmax, medians over five seeds."""
    rows = []
    for lr, decay, momentum in itertools.product((0.01, 0.003), (0.9, 0.99, 0.999), (0.0, 0.5)):
        rule = Rule(lr=lr, decay=decay, eps=1e-12, momentum=momentum)
        quartiles = edge_quartiles(rule, tuple(range(5)), round(18 / lr))
        rows.append([lr, decay, momentum, 2 * (1 + momentum), *(float(np.median(each)) for each in quartiles)])
    return rows


def edge_table() -> str:
    """Return the measured edges of stability as Markdown."""
    lines = ["| η | β | μ | 2(1+μ) | η·λmax | its middle half |", "|---:|---:|---:|---:|---:|---:|"]
    for lr, decay, momentum, edge, low, middle, high in stored()["edge"]:
        lines.append(f"| {lr:g} | {decay:g} | {momentum:g} | {edge:g} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines) + "\n"


def judged() -> dict[str, Any]:
    """Return the stored results with those on trainings judged anew."""
    known, kept = comparisons(), stored()["results"]
    results = {
        name: from_comparisons(claim, known).facts() if isinstance(claim, TrainingClaim) else kept[name]
        for name, claim in CLAIMS.items()
    }
    return {**stored(), "results": results, "comparisons": known}


def measure() -> dict[str, Any]:
    """Run every claim twice, with other seeds, and under its changed rule; return the results to store."""
    known, results = comparisons(), {}
    for name, claim in CLAIMS.items():
        if isinstance(claim, TrainingClaim):
            results[name] = from_comparisons(claim, known).facts()
            continue
        result, again, changed = run_claim(claim), run_claim(claim, seed=SECOND_SEED), run_changed(claim)
        assert result.verdict == again.verdict, f"{name}: {result.verdict}, with other seeds {again.verdict}"
        assert result.verdict != changed.verdict, f"{name}: {result.verdict} under the changed rule as well"
        results[name] = {**result.facts(), "seconds": round(result.seconds, 2), "changed_verdict": changed.verdict}
    machine = "{processor}, one thread, numpy {numpy}".format(**environment())
    date = datetime.date.today().isoformat()
    captions = {name: picture.caption for name, picture in shown().items()}
    return {
        "date": date,
        "environment": machine,
        "results": results,
        "captions": captions,
        "edge": edge_rows(),
        "comparisons": known,
    }


def table(claims: list[AnyClaim], results: dict[str, Result]) -> str:
    """Return the claims of a group as Markdown: three columns, which fit a narrow window."""
    lines = [
        "| claim, and its time | what is said, and where | verdict, and the number that decides it |",
        "|---|---|---|",
    ]
    for claim in claims:
        result = results[claim.name]
        cells = (
            f"{_named(claim)}<br>{seconds_words(result.seconds)}",
            f"{claim.sentence}<br>{_linked(claim.source)}",
            f"**{result.verdict}**<br>{main_number(claim.bounds, result.numbers)}",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _named(claim: AnyClaim) -> str:
    return f'<a id="{claim.name}"></a>`{claim.name}`'


def _linked(source: Source) -> str:
    if source.where.startswith(("https://", "docs/")):
        return f"[{source.title}]({source.where.removeprefix('docs/')})"
    return f"{source.title}, {source.where}"


def summary(results: dict[str, Result]) -> str:
    """Return the counts, the tables of the groups, and where the numbers come from."""
    facts, parts = stored(), []
    number = counts([result.verdict for result in results.values()])
    parts.append(f"{len(results)} claims: {', '.join(f'{count} {kind}' for kind, count in number.items())}.\n")
    for group in GROUPS:
        own = [claim for claim in CLAIMS.values() if claim.group == group]
        parts.append(f"### {group.capitalize()}\n\n{table(own, results)}\n")
    runs: dict[tuple[str, str], list[str]] = {}
    for key, each in facts["comparisons"].items():
        runs.setdefault((each["date"], each["machine"]), []).append(f"`{_command(key, each)}`")
    parts.append(f"Measured on {facts['date']}: {facts['environment']}.")
    parts += [f"Trainings of {date}: {', '.join(names)}; {machine}." for (date, machine), names in runs.items()]
    parts.append("")
    return "\n".join(parts)


def _command(key: str, facts: dict[str, Any]) -> str:
    budget = f" --quick --epochs {facts['epochs']}" if facts["quick"] else ""
    return f"rmsprop compare {key}{budget}"


def thresholds() -> str:
    """Return the table of β* for C = 3 … 100."""
    rule = Rule(lr=1.0, eps=0.0)
    found = {size: (threshold(size), changes_sign(rule, size)) for size in range(3, 101)}
    assert all(sign for _, sign in found.values())
    cells = [f"{size} | {exact:.6f} | {(1 - exact) * size**2:.3f}" for size, (exact, _) in found.items()]
    rows, columns = -(-len(cells) // 4), 4
    lines = ["| C | β\\* | (1−β\\*)C² " * columns + "|", "|---:|---:|---:" * columns + "|"]
    for row in range(rows):
        line = [
            cells[row + column * rows] if row + column * rows < len(cells) else " | | " for column in range(columns)
        ]
        lines.append(f"| {' | '.join(line)} |")
    return (
        "\n".join(lines)
        + f"\n\nThe drift of the stepped rule changes its sign within 1e-5 of β\\* for all {len(found)} C.\n"
    )


def shown() -> dict[str, Picture]:
    """Return the pictures by the name of their claim."""
    return {name: c.picture(c.rule) for name, c in CLAIMS.items() if isinstance(c, Claim) and c.picture is not None}


def picture_block() -> str:
    """Return the pictures with their captions as Markdown."""
    captions = stored()["captions"]
    return "\n".join(f"**{name}.** {text}\n\n![{name}: {text}](claims/{name}.svg)\n" for name, text in captions.items())


def up_to_date(text: str) -> str:
    """Return the page with its blocks from the stored results."""
    results = {name: result for name, result in stored_results().items() if name in CLAIMS}
    text = with_block(text, "claims", summary(results))
    text = with_block(text, "thresholds", thresholds())
    text = with_block(text, "edge", edge_table())
    return with_block(text, "pictures", picture_block())


def main() -> None:
    """Run the claims if asked to, and write page and pictures."""
    facts = measure() if "--run" in sys.argv[1:] else judged()
    write_atomically(RESULTS, json.dumps(finite(facts), indent=1, ensure_ascii=False) + "\n")
    stored.cache_clear()
    PICTURES.mkdir(exist_ok=True)
    for name, picture in shown().items():
        (PICTURES / f"{name}.svg").write_text(draw_picture(picture), encoding="utf-8")
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
