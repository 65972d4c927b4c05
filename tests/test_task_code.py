"""The code of a task: what counts as a change, and which files belong to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmsprop.lab.runs.task_code import changes, task_code

OWN = """
import os, torch
import numpy as np
from helpers_of_own import scale
SIZE = 3

def make():
    from packaged.deep.inner import one
    return scale(one(SIZE))

class Net(torch.nn.Module):
    width: int = 3
    def forward(self, x):
        return np.tanh(x)
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a task with other modules beside it."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helpers_of_own.py").write_text("import unheard_of\n\ndef scale(x):\n    return 2 * x\n")
    deep = tmp_path / "packaged" / "deep"
    deep.mkdir(parents=True)
    (deep.parent / "__init__.py").write_text("")
    (deep / "__init__.py").write_text("from . import inner\n")
    (deep / "inner.py").write_text("from ..other import two\ndef one(x):\n    return two + x\n")
    (deep.parent / "other.py").write_text("two = 2\n")
    (tmp_path / "unused.py").write_text("x = 1\n")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "unheard_of.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(installed), *sys.path])
    yield tmp_path
    assert "packaged" not in sys.modules  # looking for modules imports none


def changed_by(folder: Path, name: str, old: str, new: str) -> list[str]:
    before = task_code(f"{folder / 'own.py'}:make")
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    after = task_code(f"{folder / 'own.py'}:make")
    assert before is not None
    assert after is not None
    assert changes(after, after) == []
    return changes(before, after)


def test_the_users_own_modules_count_wherever_they_are_imported(files: Path) -> None:
    code = task_code(f"{files / 'own.py'}:make")
    assert code is not None
    modules = {"own.py", "helpers_of_own", "packaged", "packaged.deep", "packaged.deep.inner", "packaged.other"}
    assert set(code) == modules
    assert set(code["own.py"]) == {"", "make", "Net", "Net.forward"}
    assert task_code("digits") is None


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("own.py", "SIZE = 3", "SIZE = 3  # three"),
        ("own.py", "SIZE = 3", "SIZE = (\n    3\n)"),
        ("own.py", "def make():\n", "def make():\n    'Make it.'\n"),
        ("own.py", "(torch.nn.Module):\n", "(torch.nn.Module):\n    'A net.'\n"),
        ("unused.py", "x = 1", "x = 2"),
        ("site-packages/unheard_of.py", "x = 1", "x = 2"),
    ],
)
def test_words_for_readers_and_other_modules_do_not_count(files: Path, name: str, old: str, new: str) -> None:
    assert changed_by(files, name, old, new) == []


REST = "module-level code of"


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("own.py", "SIZE = 3", "SIZE = 4", [f"{REST} own.py has changed"]),
        ("own.py", "SIZE)", "SIZE + 0)", ["make in own.py has changed"]),
        ("own.py", "np.tanh", "np.sinh", ["Net.forward in own.py has changed"]),
        ("own.py", "width: int = 3", "width: int = True", ["Net in own.py has changed"]),
        (
            "own.py", "def forward(", "def other(",
            ["Net.forward in own.py was removed", "Net.other in own.py is new"],
        ),
        (
            "own.py", "import numpy as np", "import numpy as np, unused",
            [f"{REST} own.py has changed", "unused is now imported"],
        ),
        ("packaged/other.py", "two = 2", "two = 3", [f"{REST} packaged.other has changed"]),
        (
            "packaged/deep/inner.py", "from ..other import two", "two = 2",
            [f"{REST} packaged.deep.inner has changed", "packaged.other is no longer imported"],
        ),
        (
            "helpers_of_own.py", "2 * x", "2 *",  # no longer Python: compared as a whole
            [f"{REST} helpers_of_own has changed", "scale in helpers_of_own was removed"],
        ),
    ],
)  # fmt: skip
def test_what_the_program_does_counts(files: Path, name: str, old: str, new: str, words: list[str]) -> None:
    assert sorted(changed_by(files, name, old, new)) == sorted(words)
