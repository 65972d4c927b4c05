"""Choose what the page shows of a run's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmsprop.files import finite

WHOLE = ("step", "gradient_norm", "update_norm", "nonfinite_steps")
TENSOR = ("elements", "effective_lr_median", "update_ratio", "gradient_rms", "eps_share", "nonfinite")

MOST = 200_000  # statistics of tensors, which take 30 MB


def run_data(name: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the records of a run with the fields that the page shows, and the findings.

    Of a long run, records at equal distances and the last one are shown, and `name` says so. Findings are of all.
    """
    from rmsprop.monitor.findings.findings_record import findings_record

    stride = -(-sum(len(record["tensors"]) for record in records) // MOST) or 1
    kept = [*records[:-1:stride], *records[-1:]]
    shown = [
        {
            "kind": "statistics",
            **{key: record.get(key) for key in WHOLE},
            "groups": [{"lr": group["lr"]} for group in record["groups"]],
            "tensors": {
                tensor: {key: values.get(key) for key in TENSOR} for tensor, values in record["tensors"].items()
            },
        }
        for record in kept
    ]
    if stride > 1:
        name = f"{name} (one record in {stride})"
    return dict(finite({"name": name, "records": shown, "findings": findings_record(records)}))
