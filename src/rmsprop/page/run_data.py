"""Choose what the page shows of a run's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmsprop.files import finite

WHOLE = ("step", "gradient_norm", "update_norm", "nonfinite_steps")
TENSOR = ("elements", "effective_lr_median", "update_ratio", "gradient_rms", "eps_share", "nonfinite")


def run_data(name: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the records of a run with the fields that the page shows, and the findings."""
    from rmsprop.monitor.findings import find

    shown = [
        {
            "kind": "statistics",
            **{key: record.get(key) for key in WHOLE},
            "groups": [{"lr": group["lr"]} for group in record["groups"]],
            "tensors": {
                tensor: {key: values.get(key) for key in TENSOR} for tensor, values in record["tensors"].items()
            },
        }
        for record in records
    ]
    findings = [
        {
            "step": finding.step,
            "kind": finding.kind,
            "text": finding.sentence,
            "cause": finding.cause,
            "remedy": finding.remedy,
        }
        for finding in find(records)
    ]
    return dict(finite({"name": name, "records": shown, "findings": findings}))
