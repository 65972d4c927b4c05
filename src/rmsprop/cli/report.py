"""`rmsprop report`: write the HTML report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.terminal import stdout


def report(run: Path, /, *, out: Path | None = None, json: Flag = False) -> None:
    """Write the HTML report of the run in directory RUN again.

    An interrupted run has a report, too.

    Try:
      rmsprop report runs/compare-digits
      rmsprop report runs/train-mnist --out mnist.html

    Parameters
    ----------
    run
        Directory of a run of train or compare.
    out
        File to write; report.html in the run's directory if omitted.
    json
        Print the path, the run's configuration, summary and history (all records) as JSON.
    """
    from rmsprop.lab.report.page import write_report
    from rmsprop.lab.runs.directory import RunDirectory

    directory = RunDirectory(run)
    path = write_report(directory, out)
    facts: dict[str, Any] = {"report": str(path)}
    if json:
        facts |= {"config": directory.config(), "summary": directory.summary(), "records": directory.records()}
    print_result(json, facts, lambda: stdout.print(f"report: {path}", markup=False))
