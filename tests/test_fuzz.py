"""A short run of the fuzzer, always the same; `python tests/fuzz.py --seconds 1200` makes a long one."""

from __future__ import annotations

import fuzz
import pytest

from rmsprop.torch import state


def test_a_few_runs_find_nothing() -> None:
    fuzz.DONE.clear()
    # Hypothesis also draws constants from loaded modules: the programs depend on the tests that ran before.
    finding = fuzz.look(seed=1, runs=60, shrink=False)
    assert finding is None, finding
    assert fuzz.DONE["steps"] > 100
    assert fuzz.DONE["parameters stepped by tensor operations"] > 50


@pytest.mark.slow
def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: initial_square_avg is ignored."""
    before = state.complete_state

    def forgetful(group: object, index: int, states: object) -> object:
        return before({**group, "initial_square_avg": 0.0}, index, states)  # type: ignore[dict-item, arg-type]

    monkeypatch.setattr("rmsprop.torch.engines.cpu_kernel.complete_state", forgetful)
    monkeypatch.setattr("rmsprop.torch.engines.tensor_ops.complete_state", forgetful)
    assert any("square_avg" in (fuzz.look(seed, 25, shrink=False) or "") for seed in range(1, 7))
