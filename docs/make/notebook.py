"""Write the notebooks of examples/: the cells of the files in cells/, executed.

.venv/bin/python docs/make/notebook.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.font_manager  # noqa: F401  (builds its cache, which says so in the first process that needs it)
import nbformat
from nbclient import NotebookClient
from nbformat import v4

MAKE = Path(__file__).resolve().parent
SOURCES = sorted((MAKE / "cells").glob("*.py"))
EXAMPLES = MAKE.parent.parent / "examples"


def cells(text: str) -> list[Any]:
    """Return the cells of a Python file that `# %%` divides. Text stands in comments after `# %% [markdown]`."""
    made = []
    for number, part in enumerate(re.split(r"^# %%", text, flags=re.MULTILINE)[1:]):
        kind, _, source = part.partition("\n")
        if kind.strip() == "[markdown]":
            words = re.sub(r"^# ?", "", source.strip(), flags=re.MULTILINE)
            made.append(v4.new_markdown_cell(words, id=f"cell-{number}"))
        else:
            made.append(v4.new_code_cell(source.strip(), id=f"cell-{number}"))
    return made


def notebook_of(source: Path) -> Path:
    """Return the path of the notebook with the cells of this file."""
    return EXAMPLES / f"{source.stem}.ipynb"


def executed(source: Path) -> Any:
    """Return the notebook with its outputs. It runs in an empty directory, in a kernel of this Python."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = v4.new_notebook(cells=cells(source.read_text(encoding="utf-8")), metadata={"kernelspec": kernel})
    with TemporaryDirectory() as folder, TemporaryDirectory() as own:  # the user's own settings stay out of it
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, resources=resources, timeout=300, record_timing=False)
        manager = client.create_kernel_manager()
        manager.transport, manager.connection_file = "ipc", f"{own}/kernel.json"  # files in place of ports
        client.execute(env={**os.environ, "IPYTHONDIR": own, "OMP_NUM_THREADS": "1"})
    notebook.metadata["language_info"] = {"name": "python"}  # the version of Python changes no cell
    return notebook


def main() -> None:
    """Write the notebooks."""
    for source in SOURCES:
        notebook_of(source).write_text(nbformat.writes(executed(source)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
