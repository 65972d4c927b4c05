"""`rmsprop doctor`: find what is wrong with the installation or with a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rmsprop.cli.common import Failure, Flag, print_result
from rmsprop.cli.terminal import print_table, stdout


def doctor(run: Path | None = None, /, *, json: Flag = False) -> None:
    """Check the installation, or what the optimizer did in a training.

    Without RUN: print versions, and compare real steps with the rule.
    With RUN, finished, interrupted or diverged: print what its statistics
    show, with causes and remedies.

    Exit status 1 if something needs a remedy, or if the training diverged or
    learned nothing.

    Try:
      rmsprop doctor
      rmsprop doctor runs/train-digits

    Parameters
    ----------
    run
        Directory of a run of train; the installation is checked if omitted.
    json
        Print the findings as JSON.
    """
    if run is None:
        from rmsprop.cli.installation import check_installation

        found: Mapping[str, Any] = check_installation()
        print_result(json, found, lambda: show_installation(stdout, found))
    else:
        from rmsprop.lab.examine import examine_run
        from rmsprop.lab.runs.directory import RunDirectory

        found = examine_run(RunDirectory(run))
        print_result(json, found, lambda: show_findings(stdout, found))
    if not found["healthy"]:
        raise Failure


def show_installation(console: Console, found: Mapping[str, Any]) -> None:
    """Print versions, and the distance of each implementation to the rule."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found["environment"].items():
        table.add_row(name, value)
    print_table(console, table)
    console.print()
    paths = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("path", "parameters", "result"):
        paths.add_column(name)
    for check in found["paths"]:
        words = "not finite" if check["ulps"] is None else f"{check['ulps']:.3g} ulp from the rule"
        paths.add_row(check["path"], check["dtype"], f"{'ok' if check['ok'] else 'WRONG'}: {words}")
    print_table(console, paths)
    console.print()
    for line in found["notes"]:
        console.print(line, markup=False)
    wrong = sum(not check["ok"] for check in found["paths"])
    verdict = f"All {len(found['paths'])} paths agree with the rule."
    if not found["healthy"]:
        verdict = f"{wrong} of {len(found['paths'])} paths are wrong." if wrong else "Not all paths could be tried."
    console.print(f"\n{verdict}", markup=False)


def show_findings(console: Console, found: Mapping[str, Any]) -> None:
    """Print how a run ended, and the findings in its losses and statistics."""
    from rmsprop.lab.report.sentences import describe_findings, evidence_words, findings_by_advice

    status = f"{found['status']}, {found['reason']}" if found["reason"] else found["status"]
    console.print(f"{found['run']}: {status}", markup=False)
    for line in found["result"]:
        console.print(line, markup=False)
    if found["post_mortem"]:
        console.print(f"\n{found['post_mortem']['text']}", markup=False)
    console.print(f"\n{describe_findings(found['findings'], **found['measured'])}", markup=False)
    for alike in findings_by_advice(found["findings"]):
        console.print()
        for finding in alike:
            console.print(f"{finding['sentence']}\n  found      {evidence_words(finding['evidence'])}", markup=False)
        for name in ("cause", "remedy", "threshold"):
            console.print(f"  {name:<10} {alike[0][name]}", markup=False)
