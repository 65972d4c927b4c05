"""rmsprop convert between Keras' layout and PyTorch's: what the layers of a model, or the map, tell of each array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmsprop.checkpoint import Checkpoint, ParameterState, convert, plan
from rmsprop.cli import run
from rmsprop.formats.keras_layers import variables

RULE = {"lr": 0.5, "decay": 0.9, "eps": 1e-7, "momentum": 0.0, "eps_inside_sqrt": True, "lr_in_momentum": True}


def states(*arrays: Any) -> tuple[ParameterState, ...]:
    return tuple(ParameterState(str(i), np.asarray(array, float), step=1) for i, array in enumerate(arrays))


def joined(height: int, width: int, channels: int, outputs: int) -> tuple[Any, Any]:
    """Return the same dense kernel behind a Flatten, as Keras and as PyTorch has it."""
    apart = np.random.default_rng(0).random((height, width, channels, outputs))
    return apart.reshape(-1, outputs), np.moveaxis(apart, (3, 2), (0, 1)).reshape(outputs, -1)


@pytest.mark.parametrize("kind", ["keras", "optax", "tf1"])
def test_a_flatten_that_the_map_tells_is_undone_both_ways(kind: str) -> None:
    there, here = joined(2, 3, 4, 5)
    entry = {"0": {"transpose": [1, 0], "flatten": [2, 3, 4]}}
    moved = convert(Checkpoint(kind, states(there), (RULE,)), "rmsprop.torch", mapping=entry).checkpoint
    assert np.array_equal(moved.parameters[0].square_avg, here)  # type: ignore[arg-type]
    back = convert(moved, "rmsprop.jax", mapping=entry).checkpoint
    assert np.array_equal(back.parameters[0].square_avg, there)  # type: ignore[arg-type]


def test_a_dense_layer_behind_a_convolution_must_say_whether_it_was_flattened() -> None:
    """Axes alone fit, and the state of 6 of 8 inputs would be another's."""
    there, here = joined(2, 2, 2, 5)
    axes = {"0": {"transpose": [3, 2, 0, 1]}, "1": {"transpose": [1, 0]}}
    source = Checkpoint("keras", states(np.ones((3, 3, 1, 2)), there), (RULE,))
    (problem,) = plan(source, "rmsprop.torch", mapping=axes).problems
    assert problem.startswith("layout: 1, (8, 5), may come from a Flatten")
    assert '"flatten": [height, width, channels], or null' in problem
    for said, expected in (([2, 2, 2], here), (None, there.T)):
        axes["1"]["flatten"] = said  # type: ignore[assignment]
        (_, moved) = convert(source, "rmsprop.torch", mapping=axes).checkpoint.parameters
        assert np.array_equal(moved.square_avg, expected)  # type: ignore[arg-type]
    back = Checkpoint("torch", states(np.ones((2, 1, 3, 3)), here), (RULE,))
    named: dict[str, Any] = {"0": {"to": "a", "transpose": [2, 3, 1, 0]}, "1": {"to": "b", "transpose": [1, 0]}}
    assert len(plan(back, "optax", mapping=named).problems) == 1
    # A normalization between the two has the same order, and one behind global pooling no other.
    source = Checkpoint("keras", states(np.ones((3, 3, 1, 2)), np.ones(8), there, np.ones((2, 5))), (RULE,))
    axes = {
        "0": {"transpose": [3, 2, 0, 1]},
        "2": {"transpose": [1, 0], "flatten": [2, 2, 2]},
        "3": {"transpose": [1, 0]},
    }
    (problem,) = plan(source, "rmsprop.torch", mapping=axes).problems
    assert problem.startswith("layout: 1, (8,), may come from a Flatten")
    assert plan(source, "rmsprop.torch", mapping={**axes, "1": {"flatten": [2, 2, 2]}}).problems == ()


def test_a_dense_layer_before_a_convolution_must_say_whether_it_was_reshaped() -> None:
    apart = np.random.default_rng(0).random((5, 2, 2, 2))
    source = Checkpoint("keras", states(apart.reshape(5, 8), np.ones((3, 3, 1, 2))), (RULE,))
    axes: dict[str, Any] = {"0": {"transpose": [1, 0]}, "1": {"transpose": [3, 2, 0, 1]}}
    (problem,) = plan(source, "rmsprop.torch", mapping=axes).problems
    assert problem.startswith("layout: 0, (5, 8), may go into a Reshape")
    axes["0"]["reshape"] = [2, 2, 2]
    moved, _ = convert(source, "rmsprop.torch", mapping=axes).checkpoint.parameters
    assert np.array_equal(moved.square_avg, np.moveaxis(apart, (0, 3), (3, 0)).reshape(8, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"transpose": [1, 0], "flatten": [2, 3, 5]}, "flatten [2, 3, 5] does not make up 24 of (24, 5)"),
        ({"transpose": [1, 0], "flatten": "no"}, "mapping: 0 must have a name or"),
        ({"transpose": [1, 0], "flatten": [2, -3, -4]}, "mapping: 0 must have a name or"),
        ({"transpose": [1, 0], "blocks": [0, 2]}, "blocks [0, 2] is no order of equal parts of (24, 5)"),
        ({"transpose": [1, 0], "blocks": [0, 1]}, "blocks [0, 1] is no order of equal parts of (24, 5)"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(entry: dict[str, Any], words: str) -> None:
    source = Checkpoint("keras", states(joined(2, 3, 4, 5)[0]), (RULE,))
    assert any(words in problem for problem in plan(source, "rmsprop.torch", mapping={"0": entry}).problems)
    assert plan(source, "optax", mapping={"0": {"to": "w", "flatten": [2, 3, 4]}}).problems == (
        "mapping: 0 says flatten, and both have one layout",
    )


def test_a_dry_run_prints_a_map_that_can_be_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.1)
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), "a.pt")
    command = ["convert", "a.pt", "b.msgpack", "--to", "optax"]
    assert run([*command, "--dry-run", "--json"]) == 1
    asked = json.loads(capsys.readouterr().out)["map"]
    assert asked["0"] == {
        "to": "FILL IN: its name in the target",
        "transpose": "FILL IN: [2, 3, 1, 0] for a dense layer or a convolution, [0, 1, 2, 3] where nothing turns",
    }
    assert run([*command, "--dry-run"]) == 1
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{\n") :]) == asked
    for number, (name, axes) in enumerate((("c/w", [2, 3, 1, 0]), ("c/b", [0]), ("d/w", [1, 0]), ("d/b", [0]))):
        asked[str(number)] = {"to": name, "transpose": axes}
    Path("map.json").write_text(json.dumps(asked))
    assert run([*command, "--map", "map.json", "--dry-run", "--json"]) == 1
    again = json.loads(capsys.readouterr().out)["map"]
    assert again["2"]["flatten"].startswith("FILL IN: [height, width, channels], or null")
    Path("map.json").write_text(json.dumps(again))
    assert run([*command, "--map", "map.json"]) != 0  # as it is, it is no map
    again["2"]["flatten"] = [2, 2, 2]
    Path("map.json").write_text(json.dumps(again))
    capsys.readouterr()
    assert run([*command, "--map", "map.json", "--dry-run"]) == 0
    assert not Path("b.msgpack").exists()


def layer(cls: str, shape: Any = None, **config: Any) -> dict[str, Any]:
    return {"class_name": cls, "config": {"name": f"{cls}", **config}, "build_config": {"input_shape": shape}}


INPUT = layer("InputLayer", batch_shape=[None, 6, 6, 3])
CONV = layer("Conv2D", [None, 6, 6, 3], kernel_size=[3, 3])
FLATTEN = layer("Flatten", [None, 4, 4, 2])
DENSE = layer("Dense", [None, 32])


def told(*layers: dict[str, Any]) -> Any:
    found = variables({"class_name": "Sequential", "config": {"layers": list(layers)}})
    return found and [(each.name, each.turn and (each.turn.inputs, each.turn.outputs), each.open) for each in found]


@pytest.mark.parametrize(
    ("layers", "kernel"),
    [
        ((INPUT, CONV, FLATTEN, DENSE), ((4, 4, 2), None, None)),
        ((INPUT, CONV, layer("MaxPooling2D"), FLATTEN, layer("ReLU"), DENSE), ((4, 4, 2), None, None)),
        ((INPUT, CONV, layer("GlobalAveragePooling2D"), DENSE), (None, None, None)),
        ((INPUT, FLATTEN, DENSE), (None, None, "flatten")),  # images as they come in: PyTorch's program may have either
        ((layer("InputLayer", batch_shape=[None, 6, 6]), layer("Flatten", [None, 6, 6]), DENSE), (None, None, None)),
        ((INPUT, layer("Conv2D", data_format="channels_first"), FLATTEN, DENSE), (None, None, None)),
        ((INPUT, CONV, layer("Permute"), FLATTEN, DENSE), (None, None, "flatten")),
        ((INPUT, CONV, layer("Flatten", [None, None, 4, 2]), DENSE), (None, None, "flatten")),
        ((INPUT, layer("Embedding"), layer("Flatten", [None, 4, 4]), DENSE), (None, None, None)),
        ((INPUT, CONV, layer("Reshape", [None, 4, 4, 2], target_shape=[-1]), DENSE), ((4, 4, 2), None, None)),
    ],
)  # fmt: skip
def test_the_model_tells_what_was_flattened(layers: Any, kernel: Any) -> None:
    (inputs, outputs, unknown) = kernel
    assert told(*layers)[-2] == ("kernel", (inputs, outputs), unknown)
    assert told(*layers)[-1] == ("bias", None, None)


def test_the_model_tells_what_is_reshaped_and_what_it_does_not_know() -> None:
    start = layer("InputLayer", batch_shape=[None, 5])
    dense, reshape = layer("Dense", [None, 5]), layer("Reshape", [None, 32], target_shape=[4, 4, 2])
    assert told(start, dense, layer("BatchNormalization", name="n"), reshape, CONV)[:4] == [
        ("kernel", (None, (4, 4, 2)), None),
        ("bias", (None, (4, 4, 2)), None),
        ("gamma", (None, (4, 4, 2)), None),
        ("beta", (None, (4, 4, 2)), None),
    ]
    assert told(start, layer("Mystery"), dense) is None
    assert told(start, {**dense, "registered_name": "mine>Dense"}) is None
    assert variables({"class_name": "Mine", "config": {}}) is None
