"""Write the tables of wheels, sizes and import times into docs/install.md.

make wheels && .venv/bin/python docs/make/wheels.py build/dist/found.jsonl

What is built comes from pyproject.toml and .github/workflows/release.yml. The results of `scripts/check-wheels` replace
benchmarks/results/wheels.json.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from blocks import with_block

from rmsprop.environment import processor
from rmsprop.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, RESULTS = ROOT / "docs" / "install.md", ROOT / "benchmarks" / "results" / "wheels.json"
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
SYSTEMS = {"linux": {"manylinux": "Linux, glibc", "musllinux": "Linux, musl"}, "macos": {"macosx": "macOS 11 or newer"}}


def configured() -> list[tuple[str, str, str]]:
    """Return system, its name in tags, and processor of the wheels that a release builds."""
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return [
        (system, name, entry["arch"])
        for entry in jobs["wheels"]["strategy"]["matrix"]["include"]
        for name, system in SYSTEMS[entry["platform"]].items()
    ]


def pythons() -> list[str]:
    """Return the versions of Python that cibuildwheel tries: ["3.11", …]."""
    selected = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]["build"]
    return [f"3.{minor}" for minor in re.findall(r"cp3(\d+)-", " ".join(selected))]


def wheels_block(found: dict[str, Any]) -> str:
    """Return the table of wheels as Markdown."""
    lines = ["| system | processor | kernel | Python | built and tried |", "|---|---|---|---|---|"]
    versions = pythons()
    span = f"{versions[0]}–{versions[-1]}"
    for system, name, processor_name in configured():
        tried = [w for w in found["wheels"] if re.search(rf"-{name}_.*{processor_name}$", w["tag"])]
        words = "Python " + ", ".join(w["python"] for w in tried) if tried else "not yet: configured only"
        lines.append(f"| {system} | {processor_name} | yes | {span} | {words} |")
    tried = [w for w in found["wheels"] if w["tag"].endswith("-any")]
    words = "Linux, Python " + ", ".join(w["python"] for w in tried)
    lines.append(f"| Windows, others | any | no | 3.11 or newer | {words} |")
    return "\n".join(lines) + "\n\n"


def size_block(found: dict[str, Any]) -> str:
    """Return the table of sizes and import times as Markdown."""
    with_kernel, without = (
        next(w for w in found["wheels"] if bool(w["instructions"]) is kernel) for kernel in (True, False)
    )
    rows = {
        "rmsprop": (with_kernel["bytes"], with_kernel["import_seconds"]),
        "rmsprop, without the kernel": (without["bytes"], without["import_seconds"]),
        f"NumPy {with_kernel['numpy']}, which it needs": (
            with_kernel["numpy_bytes"],
            with_kernel["numpy_import_seconds"],
        ),
    }
    lines = ["| | installed | import |", "|---|---:|---:|"]
    lines += [f"| {name} | {size / 1e6:.1f} MB | {1000 * seconds:.0f} ms |" for name, (size, seconds) in rows.items()]
    note = f"Processor time of `import`, the rest after NumPy; {found['processor']}, Python {with_kernel['python']}."
    return "\n".join([*lines, "", note, "", ""])


def up_to_date(text: str) -> str:
    """Return docs/install.md with its tables from the stored results."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return with_block(with_block(text, "wheels", wheels_block(found)), "size", size_block(found))


def main() -> None:
    """Store new results, and rewrite the page."""
    for name in sys.argv[1:]:
        wheels = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]
        found = {"processor": processor(), "wheels": wheels}
        write_atomically(RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
