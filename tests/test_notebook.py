"""The notebooks of examples/: their cells are those of their sources, and give what the stored outputs say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import notebook
import pytest


@pytest.fixture(params=notebook.SOURCES, ids=lambda source: str(source.stem))
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def read(source: Path) -> Any:
    return nbformat.read(notebook.notebook_of(source), as_version=4)


def test_it_holds_the_cells_of_its_source_executed_in_order(source: Path) -> None:
    stored = read(source)
    nbformat.validate(stored)
    cells = notebook.cells(source.read_text())
    assert [(c.id, c.cell_type, c.source) for c in stored.cells] == [(c.id, c.cell_type, c.source) for c in cells]
    code = [c for c in stored.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c.outputs]
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    assert "image/png" in {kind for output in outputs for kind in output.get("data", {})}
    text = notebook.notebook_of(source).read_text()
    assert not re.search(r"0x[0-9a-f]{6}|/(home|root|tmp|work|usr|opt|var|Users)/", text)
    assert len(text) < 200_000


def test_every_notebook_has_a_source() -> None:
    assert {notebook.notebook_of(each) for each in notebook.SOURCES} == set(notebook.EXAMPLES.glob("*.ipynb"))


@pytest.mark.slow
def test_executed_again_it_says_the_same(source: Path) -> None:
    again = notebook.executed(source)
    assert not any(notebook.EXAMPLES.glob("runs"))  # it runs in a folder of its own
    for old, new in zip(read(source).cells, again.cells, strict=True):
        outputs = old.get("outputs", []), new.get("outputs", [])
        assert [kinds(o) for o in outputs[0]] == [kinds(o) for o in outputs[1]]
        for one, two in zip(*outputs, strict=True):
            words, numbers = zip(*(masked(text_of(o)) for o in (one, two)), strict=True)
            assert words[0] == words[1]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.1, abs=0.01)


def kinds(output: Any) -> list[str]:
    return [output.output_type, *sorted(output.get("data", {}))]


def text_of(output: Any) -> str:
    """Return the text of an output that a reader sees, without pictures."""
    data = output.get("data", {})
    text: str = output.get("text", data.get("text/html", data.get("text/plain", "")))
    return re.sub(r"<svg.*</svg>", "", text, flags=re.DOTALL)


def masked(text: str) -> tuple[str, list[float]]:
    """Return a text with # in place of its numbers, and the numbers."""
    number = r"\d+(?:\.\d+)?(?:e-?\d+)?"
    return re.sub(number, "#", text), [float(x) for x in re.findall(number, text)]
