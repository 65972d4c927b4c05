"""Read the records of a monitor from files of its sinks: JSON lines, TensorBoard's events, exports of W&B."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmsprop.errors import InputError, Received

_GIVE = "give the statistics.jsonl of a run"


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return the records of statistics in a file. Other lines, and a last one that is not complete, are left out.

    A program that loads a state goes back to an earlier step: records of the steps that it undid are left out, too.

    Raises
    ------
    InputError
        For a file of another kind, or a record that is not one of this package.
    """
    from rmsprop.lab.runs.checks import check_statistics

    records: list[dict[str, Any]] = []
    for where, text in _texts(path):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise InputError(where, "a JSON object", Received("other text"), _GIVE)
        if record.get("kind") == "statistics":
            check_statistics(record, where)
            while records and records[-1]["step"] >= record["step"]:
                records.pop()
            records.append(record)
    return records


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each JSON text of a file that may be a record, and where it is."""
    if ".tfevents." in path.name:
        yield from _in_events(path)
        return
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise InputError("FILE", "a file of JSON lines, of TensorBoard or of W&B", f"{path}", _GIVE) from None
    if path.suffix == ".csv":
        yield from _in_columns(path, lines)
        return
    for number, line in enumerate(lines[:-1], 1):  # a line ends with "\n"
        if line:
            yield f"line {number} of {path}", _out_of_history(line)


def _out_of_history(line: str) -> str:
    """Return the record in a line of W&B's history, and other lines as they are."""
    from rmsprop.monitor.sinks import RECORD

    if RECORD in line:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return line
        if isinstance(found, dict) and RECORD in found:
            return found[RECORD] or "{}"  # the training may log beside the monitor
    return line


def _in_columns(path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the records in a CSV export of W&B, whose columns may begin with the name of the run."""
    from rmsprop.monitor.sinks import RECORD

    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(lines)
    columns = [i for i, name in enumerate(next(rows, [])) if name == RECORD or name.endswith(f" - {RECORD}")]
    if len(columns) != 1:
        found = Received(f"{len(columns)} columns of this name")
        raise InputError("FILE", f"an export of one run with the column {RECORD}", found, "export this column, too")
    for row in rows:
        if len(row) > columns[0] and row[columns[0]]:
            yield f"line {rows.line_num} of {path}", row[columns[0]]


def _in_events(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the records in an event file of TensorBoard."""
    from rmsprop.monitor.sinks import RECORD

    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ModuleNotFoundError as error:
        text = f"rmsprop watch needs TensorBoard for event files: pip install tensorboard ({error})"
        raise ModuleNotFoundError(text, name=error.name) from None
    path.open("rb").close()  # or raise: the loader would wait for the file
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == f"{RECORD}/text_summary":  # as SummaryWriter.add_text names it
                yield f"the event of step {event.step} in {path}", value.tensor.string_val[0].decode()
