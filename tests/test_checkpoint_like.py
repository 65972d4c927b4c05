"""rmsprop.checkpoint: what a template keeps, groups and their keys, and files that are not what their names say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
from cases import STATE
from test_checkpoint import KEEP, checkpoint, equal, from_file, problems, to_file

import rmsprop.jax
from rmsprop import InputError
from rmsprop.checkpoint import Checkpoint, ParameterState, convert, plan, read, write
from rmsprop.torch import RMSprop


def trained(cls: Any = torch.optim.RMSprop, **options: Any) -> tuple[torch.nn.Linear, Any]:
    """Return a square layer and its optimizer after a step."""
    layer = torch.nn.Linear(3, 3).double()
    optimizer = cls(layer.parameters(), **options)
    layer(torch.ones(1, 3).double()).square().sum().backward()
    optimizer.step()
    return layer, optimizer


def save_optimizer(path: Path, cls: Any = torch.optim.RMSprop, **options: Any) -> Path:
    torch.save(trained(cls, **options)[1].state_dict(), path)
    return path


def jax_state(optimizer: Any, params: Any) -> Any:
    _, state = optimizer.update(jax.tree.map(lambda p: 30.0 * jnp.ones_like(p), params), optimizer.init(params), params)
    return state


VECTORS = tuple(ParameterState(name, np.full(2, size), None, None, 3) for name, size in (("a", 1.0), ("b", 2.0)))
PLAIN = {"lr": 0.5, "decay": 0.9, "eps": 1e-7, "momentum": 0.0, "eps_inside_sqrt": True, "lr_in_momentum": True}

# -- which parameter is which, where the target orders them -----------------------------------------------------------


@pytest.mark.parametrize("to", ["torch", "rmsprop.torch", "keras"])
def test_a_mapping_gives_indices_where_order_counts(to: str) -> None:
    """Names alone would keep the source's order, and parameters of the same shape would be swapped."""
    source = Checkpoint("optax", VECTORS, (PLAIN,))
    for mapping in ({"a": "weight", "b": "bias"}, {"a": "1", "b": "x"}, {"a": "1", "b": "2"}):
        (problem,) = problems(source, to, mapping=mapping)
        assert problem.startswith(f"mapping: targets of {to} are indices from 0 to 1")
    moved = convert(source, to, mapping={"a": "1", "b": "0"}).checkpoint.parameters
    assert [(p.name, p.square_avg[0]) for p in moved if p.square_avg is not None] == [("0", 2.0), ("1", 1.0)]
    like = Checkpoint(to, tuple(dataclasses.replace(p, name=n) for p, n in zip(VECTORS, "xy", strict=True)), (PLAIN,))
    named = convert(source, to, mapping={"a": "y", "b": "x"}, like=like).checkpoint.parameters
    assert [(p.name, p.square_avg[0]) for p in named if p.square_avg is not None] == [("x", 2.0), ("y", 1.0)]


def test_twelve_parameters_keep_the_order_of_their_indices(tmp_path: Path) -> None:
    """The order is neither the source's nor alphabetical."""
    states = tuple(ParameterState(f"p{i}", np.full(2, float(i)), None, None, 1) for i in (3, 11, 0, 5, 1, 2, 9, 4, 8, 6, 10, 7))  # fmt: skip  # noqa: E501
    moved = convert(Checkpoint("optax", states, (PLAIN,)), "torch", mapping={p.name: p.name[1:] for p in states})
    write(moved.checkpoint, tmp_path / "a.pt")
    saved = torch.load(tmp_path / "a.pt", weights_only=True)["state"]
    assert [saved[i]["square_avg"][0].item() for i in range(12)] == list(range(12))


def test_torch_to_torch_the_mapping_is_followed_or_refused() -> None:
    source = Checkpoint("torch", tuple(dataclasses.replace(p, name=str(i)) for i, p in enumerate(VECTORS)), (PLAIN,))
    turned = convert(source, "torch", mapping={"0": "1", "1": "0"}).checkpoint.parameters
    assert [(p.name, p.square_avg[0]) for p in turned if p.square_avg is not None] == [("0", 2.0), ("1", 1.0)]
    assert "are indices from 0 to 1, not 5, 9" in problems(source, "torch", mapping={"0": "5", "1": "9"})[0]
    second = dataclasses.replace(source.parameters[1], group=1)
    groups = dataclasses.replace(source, parameters=(source.parameters[0], second), groups=(PLAIN, PLAIN))
    (problem,) = problems(groups, "torch", mapping={"0": "1", "1": "0"})
    assert problem == "group: 1 would stand in another group than those around it; give --like"


def test_a_frozen_parameter_may_be_named_in_the_mapping() -> None:
    state = ParameterState("1", None)
    source = Checkpoint("torch", (dataclasses.replace(VECTORS[0], name="0"), state), (PLAIN,))
    planned = plan(source, "optax", mapping={"0": "w", "1": "b"})
    assert planned.problems == ()
    assert "1 has no state yet and is skipped" in planned.notes


def test_a_parameter_cannot_hold_others() -> None:
    source = Checkpoint("torch", tuple(dataclasses.replace(p, name=str(i)) for i, p in enumerate(VECTORS)), (PLAIN,))
    for inner in ("w/b", "w/b/c"):
        assert problems(source, "optax", mapping={"0": "w", "1": inner}) == [
            "mapping: w cannot be a parameter and hold others"
        ]
    assert problems(source, "optax", mapping={"0": "w", "1": "wb/c"}) == []


# -- files that are not what their names say --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said", "options"),
    [
        ("rmsprop.torch", "torch", {"momentum": 0.5, "nesterov": True}),
        ("rmsprop.torch", "torch", {"eps_inside_sqrt": True}),
        ("rmsprop.torch", "sb3", {}),
        ("torch", "sb3", {}),
        ("torch", "timm", {}),
        ("torch", "bitsandbytes", {}),
    ],
)
def test_from_cannot_contradict_the_file(kind: str, said: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = save_optimizer(tmp_path / "a.pt", RMSprop if kind == "rmsprop.torch" else torch.optim.RMSprop, **options)
    with pytest.raises(InputError, match="check --from"):
        read(path, said)
    assert read(path, kind).kind == kind


def test_our_state_that_torch_loaded_and_saved_is_torch_s(tmp_path: Path) -> None:
    """torch keeps group keys that it does not know. They still state the rule."""
    _, ours = trained(RMSprop, lr=0.25, momentum=0.5)
    layer, theirs = trained()
    theirs.load_state_dict(ours.state_dict())
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", "torch").groups[0]["momentum"] == 0.5
    del layer


def test_timm_s_momentum_is_not_read_as_torch_s(tmp_path: Path) -> None:
    source = checkpoint("timm")
    write(source, tmp_path / "a.pt")
    with pytest.raises(InputError, match="lr_in_momentum=True; check --from"):
        read(tmp_path / "a.pt", "torch")
    (group,) = (saved := torch.load(tmp_path / "a.pt", weights_only=True))["param_groups"]
    group |= {"foreach": None, "corrected_weight_decay": True, "max_lr_snapshot": 0.1, "weight_decay": 0.1}
    torch.save(saved, tmp_path / "b.pt")
    with pytest.raises(InputError, match="corrected_weight_decay"):  # decay by η²/max η instead of η
        read(tmp_path / "b.pt")


@pytest.mark.parametrize("cls", [torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.ASGD, torch.optim.SGD])
@pytest.mark.parametrize("kind", [None, "torch", "rmsprop.torch", "sb3"])
def test_another_optimizer_of_torch_is_refused(cls: Any, kind: str | None, tmp_path: Path) -> None:
    path = save_optimizer(tmp_path / "a.pt", cls, lr=0.1)
    with pytest.raises(InputError, match="check --from"):
        read(path, kind)


@pytest.mark.parametrize(
    ("betas", "state"), [((0.0, 0.0), ("state1",)), ((0.9, 0.99), ("state1", "state2"))], ids=["Adagrad", "Adam"]
)
def test_another_optimizer_of_bitsandbytes_is_refused(
    betas: tuple[float, float], state: tuple[str, ...], tmp_path: Path
) -> None:
    group = {"lr": 0.01, "betas": betas, "eps": 1e-8, "weight_decay": 0.0, "params": [0]}
    own = {"step": 1, **{name: torch.ones(2) for name in state}}
    torch.save({"state": {0: own}, "param_groups": [group]}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="check --from"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("lr", -3.0), ("lr", float("nan")), ("eps", -1e-8)])
def test_a_value_that_no_rule_has_is_refused(name: str, value: float, tmp_path: Path) -> None:
    _, optimizer = trained()
    saved = optimizer.state_dict()
    saved["param_groups"][0][name] = value
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"(decay|lr|eps) in .*a\.pt must be a"):
        read(tmp_path / "a.pt")


def test_a_schedule_s_end_just_below_0_is_0(tmp_path: Path) -> None:
    _, optimizer = trained()
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"lr": -1e-18, "initial_lr": 0.1}
    torch.save(saved, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt").groups[0]["lr"] == 0.0


# -- groups, and what else a file holds -------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [0, 1], ids=["first", "last"])
@pytest.mark.parametrize("to", ["torch", "rmsprop.torch"])
def test_empty_groups_are_kept(to: str, empty: int, tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 3)
    groups: list[dict[str, Any]] = [{"params": list(layer.parameters()), "lr": 0.25}]
    groups.insert(empty, {"params": [], "lr": 0.125})
    optimizer = torch.optim.RMSprop(groups)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    source = read(tmp_path / "a.pt")
    for like in (None, tmp_path / "a.pt"):
        if like is not None and to != "torch":
            continue
        path = tmp_path / f"{like is None}.pt"
        write(convert(source, to, like=None if like is None else read(like)).checkpoint, path, like=like)
        saved = torch.load(path, weights_only=True)
        assert [(g["lr"], g["params"]) for g in saved["param_groups"]] == [
            (g["lr"], g["params"]) for g in optimizer.state_dict()["param_groups"]
        ]
        {"torch": torch.optim.RMSprop, "rmsprop.torch": RMSprop}[to](groups).load_state_dict(saved)


@pytest.mark.parametrize("with_like", [False, True])
def test_a_schedule_finds_its_keys_in_the_groups(with_like: bool, tmp_path: Path) -> None:
    """With a template, everything else in the template's file stays."""
    layer, optimizer = trained(torch.optim.RMSprop, lr=0.25, maximize=True, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=10, cycle_momentum=False)
    optimizer.param_groups[0]["name"] = "decoder"
    torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "a.pt")
    source, like = read(tmp_path / "a.pt"), (tmp_path / "a.pt" if with_like else None)
    doubled = dataclasses.replace(
        source,
        parameters=tuple(
            dataclasses.replace(p, square_avg=2 * p.square_avg) for p in source.parameters if p.square_avg is not None
        ),
    )
    moved = convert(doubled, "torch", like=None if like is None else read(like))
    write(moved.checkpoint, tmp_path / "b.pt", like=like)
    whole = torch.load(tmp_path / "b.pt", weights_only=True)
    saved = whole["optimizer"] if with_like else whole
    assert saved["param_groups"] == optimizer.state_dict()["param_groups"]
    assert torch.equal(saved["state"][0]["square_avg"], 2 * optimizer.state_dict()["state"][0]["square_avg"])
    if with_like:
        assert whole["epoch"] == 3
        assert torch.equal(whole["model"]["weight"], layer.weight)
    optimizer.load_state_dict(saved)
    optimizer.step()
    schedule.step()
    ours = convert(source, "rmsprop.torch").checkpoint
    write(ours, tmp_path / "c.pt")
    (group,) = torch.load(tmp_path / "c.pt", weights_only=True)["param_groups"]
    assert (group["name"], group["max_lr"], group["maximize"]) == ("decoder", 0.5, True)


def test_the_source_takes_precedence_over_a_template() -> None:
    source = checkpoint("torch", decay=0.7)
    assert convert(source, "torch", like=checkpoint("torch", decay=0.8)).checkpoint.groups[0]["decay"] == 0.7


def test_nesterov_is_dropped_with_the_momentum() -> None:
    source, like = checkpoint("rmsprop.torch", nesterov=True), checkpoint("rmsprop.torch", momentum=0.0)
    (group,) = convert(source, "rmsprop.torch", like=like).checkpoint.groups
    assert (group["momentum"], group["nesterov"]) == (0.0, False)


@pytest.mark.parametrize("kind", ["torch", "keras", "rmsprop.jax"])
def test_a_template_that_does_not_fit_is_refused(kind: str, tmp_path: Path) -> None:
    """HDF5 would broadcast (1,) to (3,), and drop the third of three parameters for two, without an error."""
    ending = {"torch": ".pt", "keras": ".weights.h5", "rmsprop.jax": ".npz"}[kind]
    whole = checkpoint(kind)
    like = tmp_path / f"like{ending}"
    write(whole, like)
    first = whole.parameters[0]
    one: dict[str, Any] = {name: np.ones((1, 1)) for name in STATE}
    others = [
        (*whole.parameters, dataclasses.replace(first, name="9")),
        whole.parameters[:-1],
        (dataclasses.replace(first, **one), *whole.parameters[1:]),
        tuple(dataclasses.replace(p, momentum_buffer=None, grad_avg=None) for p in whole.parameters),
    ]
    for parameters in others:
        with pytest.raises(InputError):
            write(dataclasses.replace(whole, parameters=parameters), tmp_path / f"b{ending}", like=like)
        assert list(tmp_path.iterdir()) == [like]
    write(whole, tmp_path / f"b{ending}", like=like)


# -- the start v₀, which bias correction needs ------------------------------------------------------------------------


def test_the_start_of_v_moves_with_bias_correction(tmp_path: Path) -> None:
    path = save_optimizer(tmp_path / "a.pt", RMSprop, bias_correction=True, initial_square_avg=1.0)
    source = read(path)
    turned = {"0": {"to": "w", "transpose": [1, 0]}, "1": "b"}
    moved = convert(source, "rmsprop.jax", mapping=turned)
    assert "initial_square_avg=1.0" in moved.notes[-1]
    write(moved.checkpoint, tmp_path / "b.npz")
    known = {name: value for name, value in source.groups[0].items() if name not in ("lr", "initial_square_avg")}
    back = {"w": {"to": "0", "transpose": [1, 0]}, "b": "1"}
    for said, words in (({}, "the file states: initial_square_avg=0.0"), ({"initial_square_avg": 1.0}, None)):
        facts: dict[str, Any] = {**known, **said}
        again = convert(read(tmp_path / "b.npz", **facts), "rmsprop.torch", lr=0.1, mapping=back)
        assert again.checkpoint.groups[0]["initial_square_avg"] == said.get("initial_square_avg", 0.0)
        assert [note.endswith(words or "") for note in again.notes] == ([True] if words else [])
    assert problems(source, "optax", mapping=turned) == ["impossible: optax corrects for a start at 0, not 1.0"]


# -- trees ------------------------------------------------------------------------------------------------------------


def test_injected_hyperparameters_are_written_and_must_agree(tmp_path: Path) -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}

    def inject(rate: float) -> Any:
        return optax.inject_hyperparams(optax.rmsprop)(learning_rate=rate, momentum=0.75, decay=0.5)

    state = jax_state(inject(0.125), params)
    to_file(state, tmp_path / "like.npz")
    like = read(tmp_path / "like.npz")
    assert (like.groups[0]["lr"], like.groups[0]["momentum"]) == (0.125, 0.75)
    v = tuple(dataclasses.replace(p, momentum_buffer=p.square_avg) for p in VECTORS)
    source = Checkpoint("rmsprop.jax", v, ({**PLAIN, "lr": 0.25, "momentum": 0.5, "decay": 0.875},))
    moved = convert(source, "optax", like=dataclasses.replace(like, parameters=v))
    assert not any(name in moved.notes[-1] for name in ("lr=", "decay=", "momentum="))
    narrow = tuple(
        ParameterState(p.name, np.ones(2, np.float32), None, np.ones(2, np.float32), 3) for p in like.parameters
    )
    write(dataclasses.replace(moved.checkpoint, parameters=narrow), tmp_path / "b.npz", like=tmp_path / "like.npz")
    held = from_file(state, tmp_path / "b.npz").hyperparams
    assert [float(held[name]) for name in ("learning_rate", "momentum", "decay")] == [0.25, 0.5, 0.875]

    two = optax.multi_transform({"x": inject(0.125), "y": inject(0.5)}, {"a": "x", "b": "y"})
    to_file(jax_state(two, params), tmp_path / "two.npz")
    with pytest.raises(InputError, match=r"lr=0\.125 and lr=0\.5; save its part"):
        read(tmp_path / "two.npz")


def test_every_injected_number_of_a_rule_is_read(tmp_path: Path) -> None:
    numbers = {"decay": 0.75, "eps": 0.5, "momentum": 0.25, "weight_decay": 0.125, "initial_square_avg": 2.0}
    optimizer = optax.inject_hyperparams(rmsprop.jax.rmsprop)(rmsprop.Rule(), learning_rate=0.375, **numbers)
    to_file(jax_state(optimizer, {"a": jnp.ones(2)}), tmp_path / "state.npz")
    group = read(tmp_path / "state.npz").groups[0]
    assert {name: group[name] for name in ("lr", *numbers)} == {"lr": 0.375, **numbers}


@pytest.mark.parametrize("name", ["count", "step", "hyperparams"])
def test_a_parameter_may_have_any_name(name: str, tmp_path: Path) -> None:
    params: Any = {name: {"decay": jnp.ones(())} if name == "hyperparams" else jnp.ones(()), "w": jnp.ones(2)}
    for number, optimizer in enumerate((optax.rmsprop(optax.constant_schedule(0.1)), rmsprop.jax.rmsprop(0.1))):
        state = jax_state(optimizer, params)
        path = tmp_path / f"{number}.npz"
        to_file(state, path)
        source = read(path)
        assert source.step == 1
        assert source.groups[0].get("decay") is None
        write(source, tmp_path / f"{number}b.npz", like=path)
        again = from_file(state, tmp_path / f"{number}b.npz")
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, state))


@pytest.mark.parametrize("params", [jnp.ones(3), {"mlp/~/linear": {"w": jnp.ones(2)}}], ids=["bare", "haiku"])
@pytest.mark.parametrize("ending", [".npz", ".msgpack"])
def test_trees_without_names_and_with_slashes_in_them(params: Any, ending: str, tmp_path: Path) -> None:
    serialization = pytest.importorskip("flax.serialization")
    optimizer = optax.rmsprop(0.1, momentum=0.5)
    state = jax_state(optimizer, params)
    a, b = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    if ending == ".npz":
        to_file(state, a)
    else:
        a.write_bytes(serialization.to_bytes(state))
    write(convert(read(a), "optax").checkpoint, b)
    again = from_file(state, b) if ending == ".npz" else serialization.from_bytes(state, b.read_bytes())
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), again, state))


def test_compressed_zeros_are_read_up_to_the_limit(tmp_path: Path) -> None:
    zeros: Any = {"0/nu/w": np.zeros(2_000_000)}
    np.savez_compressed(tmp_path / "a.npz", **zeros)
    (state,) = read(tmp_path / "a.npz").parameters
    assert state.square_avg is not None
    assert state.square_avg.shape == (2_000_000,)
    zeros = {"0/nu/w": np.zeros(2**28 + 2**24, np.uint8)}
    np.savez_compressed(tmp_path / "b.npz", **zeros)
    with pytest.raises(InputError, match=r"unpacks to at most .* RMSPROP_READ_LIMIT=10"):
        read(tmp_path / "b.npz")


# -- Keras ------------------------------------------------------------------------------------------------------------


def test_bfloat16_in_hdf5_is_marked_as_keras_marks_it(tmp_path: Path) -> None:
    source = dataclasses.replace(checkpoint("keras", dtype=ml_dtypes.bfloat16, centered=False), groups=(PLAIN,))
    write(source, tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5") as file:
        marks = [file[f"optimizer/vars/{i}"].attrs.get("dtype") for i in range(10)]
    assert marks == [None, None, *["bfloat16"] * 8]
    equal(read(tmp_path / "a.weights.h5", momentum=0.5), source)
    write(source, tmp_path / "b.weights.h5", like=tmp_path / "a.weights.h5")
    equal(read(tmp_path / "b.weights.h5", momentum=0.5), source)


def test_notes_say_what_a_keras_template_keeps() -> None:
    moved = convert(checkpoint("torch", decay=0.75), "keras", like=checkpoint("keras", lr=0.5), mapping=KEEP)
    assert "the file keeps decay=0.8 of --like, the source has 0.75: set it" in moved.notes
    assert not any(" lr=" in note for note in moved.notes)
    like = checkpoint("keras")
    scheduled = dataclasses.replace(like, groups=({k: v for k, v in like.groups[0].items() if k != "lr"},))
    assert "continues: lr=0.03" in " ".join(convert(checkpoint("torch"), "keras", like=scheduled, mapping=KEEP).notes)
    assert not any("of --like" in note for note in convert(checkpoint("torch"), "keras", mapping=KEEP).notes)


# -- files are written whole or not at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch", "keras", "rmsprop.jax"])
def test_a_failed_write_leaves_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / {"torch": "a.pt", "keras": "a.weights.h5", "rmsprop.jax": "a.npz"}[kind]

    def full(_: int) -> None:
        assert not path.exists(), "a part of the file stands under its name"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(checkpoint(kind), path)
    assert list(tmp_path.iterdir()) == []


# -- what Keras files must hold ---------------------------------------------------------------------------------------


def keras_file(path: Path, *shapes: tuple[int, ...]) -> Path:
    """Write an optimizer's variables of these shapes, all 1, in the order of their indices."""
    with h5py.File(path, "w") as file:
        group = file.create_group("optimizer/vars")
        group["0"], group["1"] = np.int32(1), np.float32(0.5)
        for i, shape in enumerate(shapes, start=2):
            group[str(i)] = np.ones(shape, np.float32)
    return path


def test_blocks_of_keras_variables_have_equal_shapes(tmp_path: Path) -> None:
    sound = keras_file(tmp_path / "sound.weights.h5", (2,), (3,), (2,), (3,))
    assert len(read(sound, momentum=0.5, centered=False).parameters) == 2
    crossed = keras_file(tmp_path / "crossed.weights.h5", (2,), (3,), (3,), (2,))
    with pytest.raises(InputError, match=r"got 4 that do not fall into 2 equal blocks; check --momentum"):
        read(crossed, momentum=0.5, centered=False)


def test_a_keras_file_holds_all_of_its_numbers(tmp_path: Path) -> None:
    """HDF5 reads 0 where nothing was written: the averages would be lost without an error."""
    path = keras_file(tmp_path / "hollow.weights.h5")
    with h5py.File(path, "r+") as file:
        file["optimizer/vars"].create_dataset("2", (4,), "f4", chunks=(2,))
    with pytest.raises(InputError, match=r"got variable 2 of \(4,\), which it does not hold whole"):
        read(path, momentum=0.0, centered=False)
