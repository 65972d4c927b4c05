"""`rmsprop watch`: what the statistics of a run show, from the file that a monitor writes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from rmsprop.cli.common import Failure, Flag, print_result
from rmsprop.cli.record_files import records_of
from rmsprop.cli.terminal import stdout
from rmsprop.errors import InputError

_POLL = 1.0  # seconds between two looks at a growing file


def watch(
    file: Path,
    /,
    *,
    follow: Flag = False,
    fail_on: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative="")] = None,
    json: Flag = False,
) -> None:
    """Print what the records in FILE show, with causes and remedies.

    FILE is a statistics.jsonl of rmsprop run, of rmsprop train or of your own
    JSONL sink; or the directory that holds it. TensorBoard's event files and
    exports of W&B (CSV, or the history as JSON lines) hold the same records,
    if sinks of rmsprop.monitor.sinks wrote them.

    Exit status 1 if there is a finding that --fail-on names.

    Try:
      rmsprop watch runs/run-train
      rmsprop watch runs/run-train --follow
      rmsprop watch statistics.jsonl --fail-on nonfinite,spike,eps
      rmsprop watch logs/events.out.tfevents.1764500000.host.1.0

    Parameters
    ----------
    file
        A file of JSON lines, of TensorBoard or of W&B, or a directory with statistics.jsonl.
    follow
        Go on reading while the file grows, and print each finding when it appears; until Ctrl-C.
    fail_on
        Kinds of findings, separated by commas or spaces, that make the exit status 1; any means all of them.
    json
        Print the findings as JSON.
    """
    from rmsprop.monitor.findings import KINDS, find

    path = file / "statistics.jsonl" if file.is_dir() else file
    wanted = {name for word in fail_on or () for name in word.split(",") if name}
    for name in sorted(wanted - {*KINDS, "any"}):
        raise InputError("--fail-on", f"some of {', '.join(KINDS)}, or any", name, "docs/monitor.md describes them")
    if follow and json:
        raise InputError("--json", "given without --follow", True, "omit one of them")
    if follow:
        findings = _followed(path)
    else:
        records = records_of(path)
        findings = find(records)
        facts = {
            "file": str(path),
            "records": len(records),
            "first": records[0]["step"] if records else None,
            "last": records[-1]["step"] if records else None,
            "findings": [finding.to_dict() for finding in findings],
        }
        print_result(json, facts, lambda: _show(facts, findings))
    if any(finding.kind in wanted or "any" in wanted for finding in findings):
        raise Failure


def _show(facts: dict[str, Any], findings: list[Any]) -> None:
    from rmsprop.lab.report.sentences import describe_findings

    found = describe_findings(facts["findings"], facts["records"], facts["first"], facts["last"])
    stdout.print(f"{facts['file']}: {found}", markup=False)
    for finding in findings:
        stdout.print(f"\n{finding}", markup=False)


def _followed(path: Path) -> list[Any]:
    """Print each new finding of a growing file until Ctrl-C; return all."""
    from rmsprop.monitor.findings import find

    said: set[tuple[str, str | None]] = set()
    findings: list[Any] = []
    size = -1
    try:
        while True:
            if path.stat().st_size != size:
                size = path.stat().st_size
                findings = find(records_of(path))
                for finding in findings:
                    if (finding.kind, finding.tensor) not in said:
                        said.add((finding.kind, finding.tensor))
                        stdout.print(f"{finding}\n", markup=False)
            time.sleep(_POLL)
    except KeyboardInterrupt:
        return findings
