"""Measure the step times of README, docs/speed.md and docs/numerics.md anew, and write these pages.

.venv/bin/python docs/make/speed.py [--try] [PART ...]    PART: steps, state, threads, parts, loop, memory

All parts take about half an hour on an idle machine. Each is stored in benchmarks/results/ as soon as it is measured.
If the machine was busy before or after a part, the part is not stored. With --try, small sizes show that the parts
work, and nothing is stored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import failures
import readme

from rmsprop.cli.bench import busy_warning
from rmsprop.files import write_atomically
from rmsprop.lab.timing import is_busy, machine_load

BENCHMARKS = readme.ROOT / "benchmarks"
PARTS = {  # files of the results, and the commands that print them
    "steps": {"steps": ["-m", "rmsprop", "bench", "--json"]},
    "state": {"state_dtypes": [str(BENCHMARKS / "state_dtypes.py"), "--times", "--json"]},
    "threads": {
        "threads-started": [str(BENCHMARKS / "threads.py"), "--json"],
        "threads-torch": [str(BENCHMARKS / "threads.py"), "--json", "--torch"],
    },
    "parts": {"parts": [str(BENCHMARKS / "parts.py"), "--json"]},
    "loop": {"train_loop": [str(BENCHMARKS / "train_loop.py"), "--json"]},
    "memory": {"gradient_release": [str(BENCHMARKS / "gradient_release.py"), "--json"]},
}
SMALL = {
    "steps": ["policy-training"],
    "state_dtypes": ["--scale", "0.001"],
    "train_loop": ["digits"],
}


def measured(name: str, command: list[str], small: bool) -> str:
    """Return the JSON that a command prints."""
    full = [sys.executable, *command, *(SMALL.get(name, []) if small else [])]
    print("$", *full[1:], file=sys.stderr, flush=True)
    text = subprocess.run(full, check=True, stdout=subprocess.PIPE, text=True).stdout
    if name == "steps" and not small and (warning := busy_warning(json.loads(text))):
        raise SystemExit(warning)
    return json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


def check_idle(when: str) -> None:
    """Exit if other work uses the processors."""
    load = machine_load()
    if is_busy(load):
        raise SystemExit(f"The machine is busy {when}: {load}. Stop the other programs and measure this part again.")


def measure(part: str, small: bool) -> None:
    """Measure a part and store its results; store nothing of small sizes."""
    if not small:
        check_idle(f"before {part}")
    found = {name: measured(name, command, small) for name, command in PARTS[part].items()}
    if not small:
        check_idle(f"after {part}")
        for name, text in found.items():
            write_atomically(readme.RESULTS / f"{name}.json", text)


def main() -> None:
    """Measure, store, and write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if left out")
    parser.add_argument("--try", dest="small", action="store_true", help="small sizes; store nothing")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for part in given.parts or PARTS:
        measure(part, given.small)
    if not given.small:
        readme.write_pages()
        write_atomically(failures.PAGE, failures.with_tables(Path(failures.PAGE).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
