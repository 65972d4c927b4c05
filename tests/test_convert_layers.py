"""rmsprop convert between Keras' layout and PyTorch's: the model's layers, or the map, decide each array's layout."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from rmsprop import InputError
from rmsprop.checkpoint import Checkpoint, ParameterState, convert, plan, read
from rmsprop.checkpoint.keras_model import variables
from rmsprop.cli.app import run

RULE = {"lr": 0.5, "decay": 0.9, "eps": 1e-7, "momentum": 0.0, "eps_inside_sqrt": True, "lr_in_momentum": True}


def states(*arrays: Any) -> tuple[ParameterState, ...]:
    return tuple(ParameterState(str(i), np.asarray(array, float), step=1) for i, array in enumerate(arrays))


def joined(height: int, width: int, channels: int, outputs: int) -> tuple[Any, Any]:
    """Return one dense kernel after a Flatten, in Keras' layout and in PyTorch's."""
    apart = np.random.default_rng(0).random((height, width, channels, outputs))
    return apart.reshape(-1, outputs), np.moveaxis(apart, (3, 2), (0, 1)).reshape(outputs, -1)


@pytest.mark.parametrize("kind", ["keras", "optax", "tf1"])
def test_a_flatten_in_the_map_is_undone_both_ways(kind: str) -> None:
    there, here = joined(2, 3, 4, 5)
    entry = {"0": {"transpose": [1, 0], "flatten": [2, 3, 4]}}
    moved = convert(Checkpoint(kind, states(there), (RULE,)), "rmsprop.torch", mapping=entry).checkpoint
    assert np.array_equal(moved.parameters[0].square_avg, here)  # type: ignore[arg-type]
    back = convert(moved, "rmsprop.jax", mapping=entry).checkpoint
    assert np.array_equal(back.parameters[0].square_avg, there)  # type: ignore[arg-type]


def test_a_dense_layer_behind_a_convolution_must_say_whether_it_was_flattened() -> None:
    """The axes fit either way, but 6 of 8 inputs would get the state of another input."""
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
    # A normalization before the dense layer has the same order. After global pooling there is no other order.
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
        "mapping: 0 has flatten, but source and target have the same layout",
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
        "transpose": "FILL IN: [2, 3, 1, 0] for a dense layer or a convolution, [0, 1, 2, 3] if the layouts are equal",
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
    assert run([*command, "--map", "map.json"]) != 0  # the printed map must be completed first
    again["2"]["flatten"] = [2, 2, 2]
    Path("map.json").write_text(json.dumps(again))
    capsys.readouterr()
    assert run([*command, "--map", "map.json", "--dry-run"]) == 0
    assert not Path("b.msgpack").exists()


def layer(cls: str, shape: Any = None, **config: Any) -> dict[str, Any]:
    return {"class_name": cls, "config": {"name": cls.lower(), **config}, "build_config": {"input_shape": shape}}


INPUT = layer("InputLayer", batch_shape=[None, 6, 6, 3])
CONV = layer("Conv2D", [None, 6, 6, 3], kernel_size=[3, 3])
FLATTEN = layer("Flatten", [None, 4, 4, 2])
DENSE = layer("Dense", [None, 32])


def told(*layers: dict[str, Any]) -> Any:
    found = variables({"class_name": "Sequential", "config": {"layers": list(layers)}})
    return found and [(v.name, v.change and (v.change.inputs, v.change.outputs), v.ask) for v in found]


@pytest.mark.parametrize(
    ("layers", "kernel"),
    [
        ((INPUT, CONV, FLATTEN, DENSE), ((4, 4, 2), None, None)),
        ((INPUT, CONV, layer("MaxPooling2D"), FLATTEN, layer("ReLU"), DENSE), ((4, 4, 2), None, None)),
        ((INPUT, CONV, layer("GlobalAveragePooling2D"), DENSE), (None, None, None)),
        ((INPUT, FLATTEN, DENSE), (None, None, "flatten")),  # PyTorch's program may flatten its input in either order
        ((layer("InputLayer", batch_shape=[None, 6, 6]), layer("Flatten", [None, 6, 6]), DENSE), (None, None, None)),
        ((INPUT, layer("Conv2D", data_format="channels_first"), FLATTEN, DENSE), (None, None, None)),
        ((INPUT, layer("Flatten", [None, 6, 6, 3]), DENSE), (None, None, "flatten")),
        ((INPUT, layer("Flatten", [None, 6, 6, 1]), DENSE), (None, None, None)),
        ((INPUT, CONV, layer("Permute"), FLATTEN, DENSE), (None, None, "flatten")),
        ((INPUT, CONV, layer("Flatten", [None, None, 4, 2]), DENSE), (None, None, "flatten")),
        ((INPUT, layer("Embedding"), layer("Flatten", [None, 4, 4]), DENSE), (None, None, None)),
        ((INPUT, CONV, layer("Reshape", [None, 4, 4, 2], target_shape=[-1]), DENSE), ((4, 4, 2), None, None)),
    ],
)  # fmt: skip
def test_the_model_configuration_tells_what_was_flattened(layers: Any, kernel: Any) -> None:
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


# -- weights beside the state -----------------------------------------------------------------------------------------


def keras_file(path: Path, layers: list[tuple[dict[str, Any], list[Any], int]], compiled: bool = True) -> None:
    """Write a Keras model file: each layer's configuration, its variables, and how many of them are trained."""
    optimizer = {
        "class_name": "RMSprop",
        "config": {"rho": 0.9, "epsilon": 1e-7, "momentum": 0.0, "learning_rate": 0.5},
    }
    config = {"class_name": "Sequential", "config": {"layers": [each for each, _, _ in layers]}}
    config |= {"compile_config": {"optimizer": optimizer}} if compiled else {}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("optimizer/vars")
        trained = [value for _, values, count in layers for value in values[:count]]
        for i, value in enumerate([np.int32(3), np.float32(0.5), *(np.abs(value) + 1.0 for value in trained)]):
            group[str(i)] = value
        for number, (each, values, _) in enumerate(layers):
            own = file.create_group(f"layers/layer_{number}/vars")
            own.attrs["name"] = each["config"]["name"]
            for i, value in enumerate(values):
                own[str(i)] = value
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())


RNG = np.random.default_rng(5)
KERNEL, BIAS = RNG.standard_normal((3, 3, 1, 2)), RNG.standard_normal(2)
NORM = [RNG.standard_normal(2) for _ in range(3)] + [RNG.random(2)]
WHERE = layer("Conv2D", [None, 4, 4, 1], kernel_size=[3, 3])
START: tuple[dict[str, Any], list[Any], int] = (layer("InputLayer", batch_shape=[None, 4, 4, 1]), [], 0)


def model(path: Path) -> tuple[Any, Any]:
    """Write a small model, and return its dense kernel in Keras' layout and in PyTorch's."""
    there, here = joined(2, 2, 2, 5)
    norm = layer("BatchNormalization", epsilon=1e-3, momentum=0.99)
    flatten, dense = layer("Flatten", [None, 2, 2, 2]), layer("Dense", [None, 8])
    layers = [(WHERE, [KERNEL, BIAS], 2), (norm, NORM, 2), (flatten, [], 0), (dense, [there, np.ones(5)], 2)]
    keras_file(path, [START, *layers])
    return there, here


def test_weights_and_statistics_move_with_the_state_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    there, here = model(Path("m.keras"))
    command = ["convert", "m.keras", "a.pt", "--to", "rmsprop.torch", "--weights"]
    assert run(command) != 0
    assert 'say "weight" in --map, or give --like' in capsys.readouterr().err
    assert run([*command, "--dry-run", "--json"]) == 1
    asked = json.loads(capsys.readouterr().out)["map"]
    assert asked["4"] == {
        "to": "4", "transpose": [1, 0], "flatten": [2, 2, 2], "weight": "FILL IN: its name in model.state_dict()",
    }  # fmt: skip
    for number, name in enumerate(("c.weight", "c.bias", "n.weight", "n.bias", "d.weight", "d.bias")):
        asked[str(number)]["weight"] = name
    Path("map.json").write_text(json.dumps(asked))
    assert run([*command, "--map", "map.json"]) == 0
    shown = capsys.readouterr().out
    assert "set eps=0.001 in PyTorch's BatchNormalization and momentum=0.01" in shown
    saved = torch.load("a.pt", weights_only=True)
    expected = {
        "c.weight": np.transpose(KERNEL, (3, 2, 0, 1)), "c.bias": BIAS, "n.weight": NORM[0], "n.bias": NORM[1],
        "n.running_mean": NORM[2], "n.running_var": NORM[3], "d.weight": here, "d.bias": np.ones(5),
    }  # fmt: skip
    assert saved["model"].keys() == expected.keys()
    assert all(np.array_equal(saved["model"][name], value) for name, value in expected.items())
    assert np.array_equal(saved["optimizer"]["state"][4]["square_avg"], np.abs(here) + 1)
    saved["model"] = {name: 2 * value for name, value in saved["model"].items()}
    torch.save({**saved, "ema": {name: 0 * value for name, value in saved["model"].items()}}, "b.pt")
    assert run(["convert", "b.pt", "c.keras", "--like", "m.keras", "--weights"]) == 0
    back = read("c.keras", weights=True).parameters
    for p, value in zip(back, (KERNEL, BIAS, NORM[0], NORM[1], there, np.ones(5)), strict=True):
        assert np.array_equal(p.weight, 2 * value)  # type: ignore[arg-type]
    assert np.array_equal(back[2].running_mean, 2 * NORM[2])  # type: ignore[arg-type]
    assert np.array_equal(back[2].running_var, 2 * NORM[3])  # type: ignore[arg-type]
    # Without --weights, the weights of --like stay.
    assert run(["convert", "b.pt", "d.keras", "--like", "m.keras"]) == 0
    assert np.array_equal(read("d.keras", weights=True).parameters[0].weight, KERNEL)  # type: ignore[arg-type]


SQUARES = [(3, 6), (2, 6)]


@pytest.mark.parametrize(
    ("cls", "config", "shapes", "words"),
    [
        ("LSTM", {}, [(3, 8), (2, 8), (8,)], "two biases in its place"),
        ("GRU", {}, [*SQUARES, (2, 6)], "has its rows as two parameters"),
        ("GRU", {"use_bias": False, "reset_after": False}, SQUARES, "use reset_after=True"),
        ("DepthwiseConv2D", {"use_bias": False, "depth_multiplier": 2}, [(3, 3, 3, 2)], "joins its channels"),
        ("Dense", {"trainable": False}, [(3, 2), (2,)], "a frozen layer"),
        ("Mine", {}, [(3, 2)], "layers that are not known"),
    ],
)
def test_layers_that_cannot_move_are_refused(
    cls: str,
    config: Any,
    shapes: Any,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = [np.ones(shape) for shape in shapes]
    trained = 0 if config.get("trainable") is False else len(values)
    last = (layer("Dense", [None, 2], name="last"), [np.ones((2, 1)), np.ones(1)], 2)
    inner = (layer(cls, [None, 4, 3], **config), values, trained)
    keras_file(Path("m.keras"), [(layer("InputLayer", batch_shape=[None, 4, 3]), [], 0), inner, last])
    assert run(["convert", "m.keras", "a.pt", "--to", "rmsprop.torch", "--weights"]) != 0
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1
    assert not Path("a.pt").exists()


def test_the_gates_of_a_gru_are_reordered() -> None:
    """Keras has update, reset, new; PyTorch has reset, update, new."""
    layers = [layer("InputLayer", batch_shape=[None, 4, 3]), layer("GRU", [None, 4, 3], use_bias=False)]
    found = variables({"class_name": "Sequential", "config": {"layers": layers}}) or []
    assert [each.change and each.change.blocks for each in found] == [(1, 0, 2), (1, 0, 2)]
    kernel = found[0]
    gates = np.repeat([[1.0, 2.0, 3.0]], 2, axis=1).repeat(3, axis=0)
    source = Checkpoint("keras", (ParameterState("0", gates, step=1, layer=kernel),), (RULE,))
    (moved,) = convert(source, "rmsprop.torch").checkpoint.parameters
    assert moved.square_avg[:, 0].tolist() == [2, 2, 1, 1, 3, 3]  # type: ignore[index]


def test_a_model_that_was_not_compiled_is_refused(tmp_path: Path) -> None:
    keras_file(tmp_path / "m.keras", [START, (WHERE, [KERNEL, BIAS], 2)], compiled=False)
    with pytest.raises(InputError, match="must be a compiled model"):
        read(tmp_path / "m.keras")


def test_a_model_in_pytorch_must_be_the_optimizer_s(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    names = {"module." + name: value for name, value in network.state_dict().items()}
    plain = torch.optim.RMSprop(network.parameters())
    rest = [network[0].bias, *network[1].parameters()]
    groups = torch.optim.RMSprop([{"params": [network[0].weight]}, {"params": rest}])
    part = torch.optim.RMSprop(network[0].parameters())
    named = torch.optim.RMSprop(list(network.named_parameters())[::-1])
    path = tmp_path / "a.pt"
    for optimizer, words in (
        (groups, "named_parameters"), (part, "a model of 4 weights and an optimizer of 2"), (None, "one optimizer's"),
    ):  # fmt: skip
        torch.save({"model": names, "optimizer": optimizer and optimizer.state_dict()}, path)
        with pytest.raises(InputError, match=words):
            read(path, weights=True)
    for optimizer, first in ((plain, "module.0.weight"), (named, "module.1.bias")):
        torch.save({"model": names, "optimizer": optimizer.state_dict()}, path)
        state = read(path, weights=True)
        assert state.parameters[0].weight_name == first
        assert [p.running_mean is not None for p in state.parameters].count(True) == 1
    torch.save({"a": names, "b": names | {"x": torch.ones(1)}, "optimizer": plain.state_dict()}, path)
    with pytest.raises(InputError, match=r"got \['a'\], \['b'\]"):
        read(path, weights=True)
    tree: Any = {"square_avg/w": np.ones(2)}
    np.savez(tmp_path / "a.npz", **tree)
    with pytest.raises(InputError, match="--weights must be used with files of Keras and PyTorch"):
        read(tmp_path / "a.npz", weights=True)
    source = dataclasses.replace(state, kind="torch", groups=({**state.groups[0], "lr_in_momentum": False},))
    assert any("keeps them elsewhere" in problem for problem in plan(source, "optax").problems)


@pytest.mark.slow
def test_real_models_give_the_same_outputs_and_go_on_training_the_same(tmp_path: Path) -> None:
    script = Path(__file__).with_name("layers_checks.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
