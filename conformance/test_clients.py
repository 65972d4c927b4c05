"""Scripts of libraries that name torch's RMSprop, unchanged, under Python and under `rmsprop run`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

A2C = """
import json, sys
import torch
from stable_baselines3 import A2C

torch.set_num_threads(1)
model = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
model.learn(500)
weights = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
print(json.dumps({"weights": weights.tolist(), "optimizer": type(model.policy.optimizer).__mro__[1].__module__}))
"""


def test_a2c_of_stable_baselines3_trains_the_same(tmp_path: Path) -> None:
    """A2C's default optimizer is torch.optim.RMSprop or RMSpropTFLike, by version."""
    pytest.importorskip("stable_baselines3")
    script = tmp_path / "train.py"
    script.write_text(A2C)
    found = []
    for words in ([], ["-m", "rmsprop", "run", "--sb3"]):
        done = subprocess.run(
            [sys.executable, *words, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0]["optimizer"].startswith("torch.optim")
    assert found[1]["optimizer"].startswith("rmsprop.torch")
    np.testing.assert_allclose(found[1]["weights"], found[0]["weights"], rtol=1e-3, atol=1e-5)
    assert (tmp_path / "runs/run-train/statistics.jsonl").exists()
