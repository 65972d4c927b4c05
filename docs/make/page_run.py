"""Record the training that the page of `rmsprop page` shows before a reader's own: `python docs/make/page_run.py`."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from rmsprop.cli.record_files import records_of
from rmsprop.files import write_atomically
from rmsprop.lab.training_run import train
from rmsprop.page.bundle import STATIC
from rmsprop.page.run_data import run_data
from rmsprop.rule import Rule

SAMPLE = STATIC / "sample_run.json"
NAME = "rmsprop train digits --epochs 12 --every 6"


def main() -> None:
    """Train, and write the records that the page shows."""
    with TemporaryDirectory() as folder:
        run, _ = train("digits", Rule(), epochs=12, every=6, out=Path(folder) / "run")
        data = run_data(NAME, records_of(run.path / "statistics.jsonl"))
    write_atomically(SAMPLE, json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
