"""The findings of a run as a record, which ends its file of statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmsprop.monitor.findings.kinds import find

FINDINGS = "findings"  # the record's kind


def findings_record(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the findings in `records`, how many records these are, and the step of the last one."""
    return {
        "kind": FINDINGS,
        "step": records[-1]["step"] if records else 0,
        "records": len(records),
        "findings": [finding.to_dict() for finding in find(records)],
    }
