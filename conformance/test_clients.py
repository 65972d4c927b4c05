"""Libraries that people train with: the examples, with this library and before; a script under `rmsprop run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import client_table
import clients
import numpy as np
import pytest

BEGIN = "import sys; sys.modules['tensorflow'] = None\n"  # else TensorBoard imports it, which takes seconds
END = "\nimport json; print(json.dumps([result.tolist(), type(optimizer).__mro__[1].__module__]))\n"


# timm's optimizers, without its models, which need torchvision
SITE = f"""
import sys
sys.path.append({str(Path(clients.__file__).parent)!r})
import clients
kept = clients.importable("timm_by_name")
kept.__enter__()
"""


@pytest.mark.parametrize(("name", "option"), [("stable_baselines3_a2c", "--sb3"), ("timm_by_name", "--timm")])
def test_a_whole_script_trains_the_same_under_rmsprop_run(name: str, option: str, tmp_path: Path) -> None:
    """A2C's default is torch.optim.RMSprop or RMSpropTFLike, by version; timm's is RMSpropTF, created by name."""
    check_installed(name)
    (tmp_path / "train.py").write_text(BEGIN + clients.before(name) + END)
    environment = {**os.environ}
    if option == "--timm":
        (tmp_path / "sitecustomize.py").write_text(SITE)
        environment["PYTHONPATH"] = str(tmp_path)
    words = [sys.executable, "-m", "rmsprop", "run", option, "train.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights, module = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("rmsprop.torch")
    np.testing.assert_allclose(weights, clients.run(name, ours=False).weights, rtol=1e-3, atol=1e-5)
    assert (tmp_path / "runs/run-train/statistics.jsonl").exists()


def check_installed(name: str) -> None:
    for package in clients.CLIENTS[name][1]:
        try:
            version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")


@pytest.mark.filterwarnings("default")  # of the clients
@pytest.mark.parametrize("name", clients.CLIENTS)
def test_an_example_trains_as_it_did_before(name: str) -> None:
    check_installed(name)
    ours, theirs = clients.run(name, ours=True), clients.run(name, ours=False)
    assert (ours.ours > 0, theirs.ours) == (True, 0)
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["accelerate_loop", "lightning_module", "skorch_classifier", "peft_lora"])
def test_a_script_that_is_not_changed_trains_the_same_with_torchs_class_replaced(name: str) -> None:
    check_installed(name)
    ours, theirs = clients.run(name, ours=True, changed=False), clients.run(name, ours=False)
    assert (ours.ours > 0, theirs.ours) == (True, 0)
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-3, atol=1e-6)


def test_every_example_is_a_client() -> None:
    assert {path.stem for path in clients.EXAMPLES.glob("*.py")} == clients.CLIENTS.keys()


def test_the_page_has_the_table_of_the_examples() -> None:
    results = client_table.results()
    assert results.keys() == clients.CLIENTS.keys()
    assert client_table.DOCUMENT.read_text() == client_table.up_to_date(client_table.DOCUMENT.read_text(), results)
