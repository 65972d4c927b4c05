"""The package as a whole: light to import, and without circles."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from importlib.metadata import metadata
from pathlib import Path

from rmsprop.lab_options import TASKS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "rmsprop"


def test_importing_it_imports_numpy_and_nothing_else() -> None:
    code = (
        "import sys; import numpy; before = set(sys.modules); import rmsprop;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("['rmsprop']", "['numpy', 'rmsprop']")  # numpy imports parts of itself late
    requires = [r for r in metadata("rmsprop").get_all("Requires-Dist") or [] if "extra ==" not in r]
    assert [re.split(r"\W", r)[0] for r in requires] == ["numpy"]


def test_no_imports_go_in_a_circle() -> None:
    """Imports inside functions and for types count."""
    parts = {path: path.relative_to(SOURCES.parent).with_suffix("").parts for path in SOURCES.rglob("*.py")}
    files = {".".join(words).removesuffix(".__init__"): path for path, words in parts.items()}
    imports = {name: _imports(path, files.keys()) - {name} for name, path in files.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def _imports(path: Path, modules: Collection[str]) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {name if name in modules else str(node.module) for name in names}
    return imported & set(modules)


def test_every_built_in_task_has_a_file() -> None:
    assert {path.stem for path in (SOURCES / "lab" / "tasks").glob("*.py")} == {
        "__init__",
        *(name.replace("-", "_") for name in TASKS),
    }


def test_every_mutant_finds_the_text_that_it_replaces() -> None:
    """Otherwise `make mutants` fails, an hour after a change of the source."""
    for mutant in runpy.run_path(str(ROOT / "scripts" / "mutants" / "table.py"))["MUTANTS"]:
        mutant.changed()  # raises unless the text occurs once
