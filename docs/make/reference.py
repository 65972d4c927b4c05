"""The generated pages of the site: the API by its docstrings, and every command by its help."""

from __future__ import annotations

import ast
import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from rmsprop.cli.app import COMMANDS, run

SOURCES = Path(__file__).resolve().parent.parent.parent / "src"


def pages(listed: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and text of the generated pages: of the commands, and of each `api/MODULE.md` that is listed."""
    yield "commands.md", commands()
    for name in listed:
        if name.startswith("api/"):
            yield name, module_page(Path(name).stem)


def commands() -> str:
    """Return the page of the commands, each with its help."""
    parts = [
        "# Commands\n\nEvery command prints one line for bad input. Exit status: 0 success, 1 failure, 2 bad input, "
        "130 interrupted. `--json` prints the result as JSON.\n"
    ]
    for name in (command.replace("_", "-") for command in COMMANDS):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), _columns("80"):
            if run([name, "--help"]) != 0:
                raise RuntimeError(f"rmsprop {name} --help failed")
        text = "\n".join(line.rstrip() for line in output.getvalue().strip().splitlines())
        parts.append(f"## rmsprop {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


@contextlib.contextmanager
def _columns(width: str) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = width
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def module_page(module: str) -> str:
    """Return the page of a public module: its docstring, then what `__all__` names, in this order."""
    path = SOURCES / Path(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    origins = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    ]
    members = "\n".join(f"::: {origins.get(name, f'{module}.{name}')}\n" for name in names)
    hidden = "".join(f"      {option}: false\n" for option in ("members", "show_root_heading", "show_root_toc_entry"))
    return f"# {module}\n\n::: {module}\n    options:\n{hidden}\n{members}"
