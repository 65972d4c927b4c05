"""The package as a whole: light to import, one version, a changelog that has it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import rmsprop

ROOT = Path(__file__).resolve().parent.parent


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


def test_imports_run_one_way() -> None:
    """rule ← profiles ← recipes; adapters know the rule, only Keras' knows PyTorch's; the lab nothing of cli."""
    top = "cli"
    above = f"torch|jax|keras|pytensor|checkpoint|monitor|lab|{top}"
    forbidden = {
        "rule.py": rf"rmsprop\.({above}|profiles|recipes)",
        "explain.py": rf"rmsprop\.({above}|profiles|recipes)",
        "profiles.py": rf"rmsprop\.({above}|recipes)",
        "scaling.py": rf"rmsprop\.({above}|profiles|recipes)",
        "recipes/schedules.py": rf"rmsprop\.({above})",
        "libraries.py": rf"rmsprop\.({above}|recipes)",
        "recipes/training_recipe.py": rf"rmsprop\.(keras|pytensor|checkpoint|monitor|lab|{top})",
        "torch": rf"rmsprop\.(jax|keras|pytensor|checkpoint|recipes|monitor|lab|{top}|explain)",
        "jax.py": rf"rmsprop\.(torch|keras|pytensor|checkpoint|recipes|monitor|lab|{top}|explain)",
        "keras.py": rf"rmsprop\.(jax|pytensor|checkpoint|recipes|monitor|lab|{top}|explain)",
        "pytensor.py": rf"rmsprop\.(torch|jax|keras|checkpoint|recipes|monitor|lab|{top}|explain)",
        "checkpoint": rf"rmsprop\.(monitor|lab|{top}|recipes)",
        "monitor": rf"rmsprop\.(pytensor|checkpoint|recipes|lab|{top})",
        "lab": rf"rmsprop\.({top})",
    }
    for place, pattern in forbidden.items():
        path = ROOT / "src" / "rmsprop" / place
        for file in [path] if path.is_file() else path.rglob("*.py"):
            found = re.findall(rf"^\s*(?:from|import) {pattern}", file.read_text(), re.MULTILINE)
            assert not found, file


def test_every_mutant_finds_the_text_that_it_replaces() -> None:
    """Else `make mutants` fails, an hour after the source was changed and a third of the mutants at a time."""
    for mutant in runpy.run_path(str(ROOT / "scripts" / "mutants" / "table.py"))["MUTANTS"]:
        mutant.changed()  # raises if the text is not there, or twice
