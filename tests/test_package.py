"""The package as a whole: light to import, one version, a changelog that has it."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import rmsprop

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "rmsprop"


def test_importing_it_imports_numpy_and_nothing_else() -> None:
    code = (
        "import sys; import numpy; before = set(sys.modules); import rmsprop;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("['rmsprop']", "['numpy', 'rmsprop']")  # numpy loads parts of itself late
    requires = [r for r in metadata("rmsprop").get_all("Requires-Dist") or [] if "extra ==" not in r]
    assert [re.split(r"\W", r)[0] for r in requires] == ["numpy"]


def test_the_version_is_one_and_the_changelog_has_it() -> None:
    assert version("rmsprop") == rmsprop.__version__
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == rmsprop.__version__


def test_no_module_imports_a_package_that_it_lies_in() -> None:
    """Such an import is a circle, which import-linter does not look for: it compares siblings."""
    for file in sorted(SOURCES.rglob("*.py")):
        inside = [parent for parent in file.parents if SOURCES in parent.parents]  # rmsprop itself is import-linter's
        packages = {".".join(("rmsprop", *folder.relative_to(SOURCES).parts)): folder for folder in inside}
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in packages and file.name != "__init__.py":
                folder = packages[node.module]
                modules = {path.stem for path in folder.iterdir()}
                assert {alias.name for alias in node.names} <= modules, f"{file} imports {node.module}"


def test_every_mutant_finds_the_text_that_it_replaces() -> None:
    """Else `make mutants` fails, an hour after the source was changed and a third of the mutants at a time."""
    for mutant in runpy.run_path(str(ROOT / "scripts" / "mutants" / "table.py"))["MUTANTS"]:
        mutant.changed()  # raises if the text is not there, or twice
