"""Digest a task's code, so that a run is resumed only with the code that it began with.

The digest covers the task's file and the user's own modules that it imports, directly or through each other. Installed
packages, Python's own modules, comments, formatting and docstrings do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, TypeAlias

import rmsprop
from rmsprop.lab.task import Task
from rmsprop.lab_options import TASKS

# Module → function, method or class → digest. The key "" is the code outside of functions and classes.
Code: TypeAlias = dict[str, dict[str, str]]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_INSTALLED = {"site-packages", "dist-packages"}
_NOT_USERS_OWN = tuple(
    Path(path).resolve()
    for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), Path(rmsprop.__file__).parent)
)


def source_of(spec: str | Task) -> dict[str, Any]:
    """Return what run.json keeps of a task: its name or file, and the digests of its code.

    A task that was made in Python has no file: its code is not compared when the run is resumed.
    """
    if isinstance(spec, Task):
        return {"task": spec.name, "task_code": None, "from_python": True}
    return {"task": spec, "task_code": task_code(spec)}


def task_code(spec: str) -> Code | None:
    """Return the digests of the task `spec` after `load_task` has loaded it; None for a built-in task."""
    if spec in TASKS:
        return None
    file = Path(spec.rpartition(":")[0])
    code: Code = {file.name: {}}
    todo: list[tuple[str, Path, str]] = [(file.name, file, "")]
    seen = set()
    while todo:
        module, path, package = todo.pop()
        source = path.read_bytes()
        try:
            tree = ast.parse(source)
            code[module] = _digests(tree)
        except (SyntaxError, ValueError, RecursionError):  # cannot be parsed: digest its bytes
            code[module] = {"": _digest(repr(source))}
            continue
        for name in _imported(tree, package):
            if name not in seen:
                seen.add(name)
                found = _find(name)
                if found is not None and found.origin is not None and _is_users(Path(found.origin)):
                    todo.append(
                        (name, Path(found.origin), name if found.submodule_search_locations else found.parent or "")
                    )
    return code


def changes(before: Code, now: Code) -> list[str]:
    """Return the differences between two versions of the code, one phrase each."""
    words = []
    for module in sorted({*before, *now}):
        if module not in before or module not in now:
            words.append(f"{module} is {'now' if module in now else 'no longer'} imported")
            continue
        old, new = before[module], now[module]
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                what = f"{name} in {module}" if name else f"module-level code of {module}"
                how = "is new" if name not in old else "has changed" if name in new else "was removed"
                words.append(f"{what} {how}")
    return words


def _digests(tree: ast.Module) -> dict[str, str]:
    """Return a digest of each function, of each method, of the rest of each class and of the rest of the module."""
    parts: dict[str, list[str]] = {}

    def add(node: ast.stmt, inside: str) -> None:
        if isinstance(node, _FUNCTIONS):
            parts.setdefault(f"{inside}{node.name}", []).append(_text(node))
        elif isinstance(node, ast.ClassDef) and not inside:
            body, node.body = node.body, []
            parts.setdefault(node.name, []).append(_text(node))
            for each in _without_docstring(body):
                add(each, f"{node.name}.")
        else:
            parts.setdefault(inside.removesuffix("."), []).append(_text(node))

    for node in _without_docstring(tree.body):
        add(node, "")
    return {name: _digest("\n".join(texts)) for name, texts in parts.items()}


def _text(value: object) -> str:
    """Return a part of a syntax tree as text that is the same in every version of Python."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = dict(ast.iter_fields(value))
    if isinstance(value, (*_FUNCTIONS, ast.ClassDef)):
        fields["body"] = _without_docstring(value.body)
    said = (
        f"{name}={_text(each)}" for name, each in fields.items() if each not in (None, []) and name != "type_comment"
    )
    return f"{type(value).__name__}({', '.join(said)})"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0].value if body and isinstance(body[0], ast.Expr) else None
    return body[1:] if isinstance(first, ast.Constant) and isinstance(first.value, str) else body


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the full name of each module that the tree, a module of `package`, may import, and of its parents."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]  # a module, or a name in a module
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _find(name: str) -> ModuleSpec | None:
    """Return the spec of a module, or None. Imports neither the module nor its parents."""
    top, *rest = name.split(".")
    try:
        found = importlib.util.find_spec(top)
        for i in range(len(rest)):
            if found is None or found.submodule_search_locations is None:
                return None
            found = PathFinder.find_spec(".".join([top, *rest[: i + 1]]), found.submodule_search_locations)
    except (ImportError, ValueError, AttributeError):
        return None
    return found if found is not None and (found.has_location or found.submodule_search_locations) else None


def _is_users(file: Path) -> bool:
    path = file.resolve()
    return path.is_file() and not _INSTALLED & set(path.parts) and not any(map(path.is_relative_to, _NOT_USERS_OWN))
