"""The public surface: `__all__` of each public module, its docstrings, and what the documents import.

Every other module is private, whatever its name: no document mentions it, and no public module exports it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = (
    "rmsprop", "rmsprop.checkpoint", "rmsprop.explain", "rmsprop.jax", "rmsprop.keras", "rmsprop.lab",
    "rmsprop.lab.claims", "rmsprop.monitor", "rmsprop.monitor.findings", "rmsprop.monitor.lr_finder",
    "rmsprop.monitor.sinks", "rmsprop.monitor.statistics", "rmsprop.native", "rmsprop.profiles", "rmsprop.pytensor",
    "rmsprop.recipes", "rmsprop.rule", "rmsprop.scaling", "rmsprop.timm", "rmsprop.torch",
)  # fmt: skip
PRIVATE = {  # at the top of the package
    "cli", "environment", "errors", "files", "hyperparameters", "lab_options", "lab_tasks", "libraries", "names",
    "page", "statistics", "text",
}  # fmt: skip
DOCUMENTS = [ROOT / "README.md", ROOT / "conformance" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_module_at_the_top_is_public_or_private() -> None:
    modules = {path.stem for path in (ROOT / "src" / "rmsprop").iterdir() if path.suffix == ".py" or path.is_dir()}
    public = {name.split(".")[1] for name in PUBLIC if "." in name}
    assert modules - {"__init__", "__main__", "__pycache__", "kernel"} == PRIVATE | public
    assert not PRIVATE & public


def source(module: str) -> ast.Module:
    path = ROOT / "src" / Path(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def bindings(module: str) -> dict[str, ast.stmt]:
    """Return the statement that binds each name at the top of a module; the last one if there are several."""
    return _bindings(source(module).body)


def _bindings(statements: list[ast.stmt]) -> dict[str, ast.stmt]:
    bound: dict[str, ast.stmt] = {}
    for node in statements:
        if isinstance(node, ast.If | ast.Try):
            bound |= _bindings(node.body + node.orelse)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return bound


def exported(module: str) -> list[str]:
    node = bindings(module).get("__all__")
    assert isinstance(node, ast.Assign), f"{module} has no __all__"
    names: list[str] = ast.literal_eval(node.value)
    return names


def has_docstring(module: str, name: str) -> bool:
    """Return whether a function or class has a docstring; constants need none."""
    node = bindings(module)[name]
    if isinstance(node, ast.ImportFrom):
        assert node.module is not None
        original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
        return has_docstring(node.module, original)
    return not isinstance(node, ast.FunctionDef | ast.ClassDef) or bool(ast.get_docstring(node))


@pytest.mark.parametrize("module", PUBLIC)
def test_all_names_what_is_public_and_documented(module: str) -> None:
    names, bound = exported(module), bindings(module)
    assert set(names) <= set(bound)
    defined = {n for n, node in bound.items() if isinstance(node, ast.FunctionDef | ast.ClassDef) and n[0] != "_"}
    assert defined <= set(names), f"public but not in __all__: {defined - set(names)}"
    assert [name for name in names if not has_docstring(module, name)] == []
    assert ast.get_docstring(source(module))


def test_documents_name_public_modules_only() -> None:
    for document in DOCUMENTS:
        for module, names in re.findall(r"from (rmsprop[\w.]*) import ([\w, ]+)", document.read_text()):
            for name in names.split(", "):
                assert f"{module}.{name}" in PUBLIC or name in exported(module), f"{document.name}: {module}.{name}"
        for mention in re.findall(r"`(rmsprop(?:\.\w+)+)", document.read_text()):
            parts = mention.split(".")
            module = next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in PUBLIC)
            rest = mention.removeprefix(module).removeprefix(".").split(".")
            assert rest == [""] or rest[0] in exported(module), f"{document.name}: {mention}"
