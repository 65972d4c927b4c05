"""Facts of other libraries that claims state: Ray's default optimizer of IMPALA, bitsandbytes' 8-bit codes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rmsprop.lab.claims.low_precision import dynamic_map


def test_impala_of_rllib_has_adam_by_default() -> None:
    """The source is read: importing RLlib takes seconds, and packages that Ray alone does not bring."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        pytest.skip("ray is not installed")
    source = Path(spec.origin).parent / "rllib" / "algorithms" / "impala" / "impala.py"
    text = source.read_text(encoding="utf-8")
    assert 'self.opt_type = "adam"' in text
    assert "self.decay = 0.99" in text
    assert "self.epsilon = 0.1" in text


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_those_of_bitsandbytes(signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.create_dynamic_map(signed=signed).numpy()
    ours = dynamic_map(signed=signed)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)
    assert (ours >= 0).sum() == (129 if signed else 256)
