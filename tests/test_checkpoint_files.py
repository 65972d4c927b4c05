"""Files with other things beside an optimizer's state, and small files that would take much memory or time."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import pytest
import torch

from rmsprop import InputError
from rmsprop.checkpoint import Checkpoint, ParameterState, convert, read, write
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.torch_file import Storage, Stored, TorchFile
from rmsprop.cli.app import run
from rmsprop.torch import RMSprop

PLAIN = {"lr": 0.5, "decay": 0.9, "eps": 1e-7, "momentum": 0.0, "eps_inside_sqrt": True, "lr_in_momentum": True}


class Colour(enum.Enum):
    """An enumeration from a user's script, unknown to any reader."""

    RED = 1


class Settings(dict[str, Any]):
    """A dict with attributes, as configuration libraries make them."""


def trained(cls: Any = torch.optim.RMSprop, **options: Any) -> Any:
    layer = torch.nn.Linear(3, 2)
    optimizer = cls(layer.parameters(), lr=0.25, **options)
    layer(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    return optimizer


def same_state(path: Path, optimizer: Any) -> Checkpoint:
    state = read(path)
    for p, own in zip(state.parameters, optimizer.state.values(), strict=True):
        assert np.array_equal(p.square_avg, own["square_avg"].numpy())  # type: ignore[arg-type]
    return state


BESIDE: dict[str, Any] = {
    "argparse": argparse.Namespace(lr=0.1, out=pathlib.Path("a/b"), sizes=[1, 2]),
    "enum": Colour.RED,
    "defaultdict": collections.defaultdict(list, a=[1]),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "date": datetime.datetime(2026, 1, 1),
    "torch": [torch.float32, torch.device("cpu"), torch.Size([2])],
    "configuration": Settings(a=Settings(b=1)),
    "rng": {"numpy": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
    "numbers": [np.float64(0.1), np.int64(3), np.bool_(True), 1 + 2j, {1, 2}, frozenset((3,)), b"x", 2**70],
    "function": json.dumps,
    "model": torch.nn.Linear(2, 2).state_dict(),
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_a_file_may_hold_anything_beside_the_state(beside: str, legacy: bool, tmp_path: Path) -> None:
    optimizer = trained()
    saved = {"before": BESIDE[beside], "optimizer": optimizer.state_dict(), "after": BESIDE[beside]}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    same_state(tmp_path / "a.pt", optimizer)


def test_rates_as_numpy_numbers_and_tensors_are_numbers(tmp_path: Path) -> None:
    """torch's LambdaLR leaves NumPy numbers in a group if its lambda returns them."""
    optimizer = trained()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: np.float64(0.5))
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"eps": torch.tensor(1e-3, dtype=torch.float64), "initial_lr": torch.tensor(0.25)}
    assert type(saved["param_groups"][0]["lr"]) is np.float64
    torch.save(saved, tmp_path / "a.pt")
    group = same_state(tmp_path / "a.pt", optimizer).groups[0]
    assert (group["lr"], group["eps"]) == (0.125, 1e-3)
    assert type(group["lr"]) is float
    write(convert(read(tmp_path / "a.pt"), "rmsprop.torch").checkpoint, tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt", weights_only=True)["param_groups"][0]["initial_lr"] == 0.25


def test_state_dicts_in_lists_and_under_text_keys_are_found(tmp_path: Path) -> None:
    optimizer = trained()
    saved = optimizer.state_dict()
    torch.save({"epoch": 1, "optimizer_states": [saved], "state_dict": {}}, tmp_path / "a.ckpt")
    assert same_state(tmp_path / "a.ckpt", optimizer).kind == "torch"
    write(convert(read(tmp_path / "a.ckpt"), "torch").checkpoint, tmp_path / "b.ckpt", like=tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "b.ckpt", weights_only=True)["epoch"] == 1
    torch.save(
        {"state": {str(i): own for i, own in saved["state"].items()}, "param_groups": saved["param_groups"]},
        tmp_path / "c.pt",
    )
    same_state(tmp_path / "c.pt", optimizer)


def test_the_error_for_several_optimizers_prints_how_to_save_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = trained(), trained()
    torch.save({"optimizer_states": [first.state_dict(), second.state_dict()]}, "a.ckpt")
    with pytest.raises(InputError, match="got 2: ") as caught:
        read("a.ckpt")
    exec(caught.value.remedy.partition(": ")[2], {"torch": torch})
    same_state(Path("one.pt"), first)
    torch.save({"model": {"w": torch.ones(2)}}, "b.pt")
    with pytest.raises(InputError, match=r"got none in it; save \{'optimizer': optimizer\.state_dict\(\)\}"):
        read("b.pt")


def test_a_template_with_settings_is_rewritten_and_one_with_unknown_classes_refused(tmp_path: Path) -> None:
    optimizer = trained()
    beside = {name: BESIDE[name] for name in ("argparse", "date", "rng")}
    torch.save({"optimizer": optimizer.state_dict(), **beside}, tmp_path / "a.pt")
    source = read(tmp_path / "a.pt")
    write(source, tmp_path / "b.pt", like=tmp_path / "a.pt")
    again = torch.load(tmp_path / "b.pt", weights_only=False)
    assert again["argparse"] == BESIDE["argparse"]
    assert np.array_equal(again["rng"]["numpy"][1], BESIDE["rng"]["numpy"][1])
    torch.save({"optimizer": optimizer.state_dict(), "x": Colour.RED}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"like must be .* save optimizer\.state_dict\(\) alone"):
        write(source, tmp_path / "d.pt", like=tmp_path / "c.pt")
    assert not (tmp_path / "d.pt").exists()


def test_views_big_endian_numbers_and_empty_tensors_are_read(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    views = [flat[2:8].view(2, 3).T, flat[8:], flat[:0], torch.tensor(2.0)]
    state = {i: {"step": torch.tensor(1.0), "square_avg": view} for i, view in enumerate(views)}
    groups = [{"params": [0, 1, 2, 3], "lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0, "foreach": None}]
    torch.save({"state": state, "param_groups": groups}, tmp_path / "a.pt")
    for p, view in zip(read(tmp_path / "a.pt").parameters, views, strict=True):
        assert np.array_equal(p.square_avg, view.numpy())  # type: ignore[arg-type]
    big = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(big, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if "/data/" in entry.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else content)
    (tmp_path / "b.pt").write_bytes(big.getvalue())
    for p, view in zip(read(tmp_path / "b.pt").parameters, views, strict=True):
        assert np.array_equal(p.square_avg, view.numpy())  # type: ignore[arg-type]


def test_the_error_for_a_folder_says_how_to_make_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(b"")
    assert run(["convert", str(tmp_path / "dcp"), "b.pt", "--from", "torch"]) != 0
    assert "python -m torch.distributed.checkpoint.format_utils dcp_to_torch" in capsys.readouterr().err


# -- whole models in HDF5 ---------------------------------------------------------------------------------------------


def whole_h5(path: Path, optimizer: str = "RMSprop", momentum: float = 0.0) -> None:
    """Write what `model.save("x.h5")` writes beside the weights."""
    options = {"rho": 0.8, "epsilon": 0.25, "momentum": momentum, "learning_rate": 0.5}
    config = {"class_name": optimizer, "config": options}
    names = ["rmsprop/iteration", "rmsprop/learning_rate", "rmsprop/z_velocity", "rmsprop/a_velocity"]
    values: list[Any] = [np.int32(3), np.float32(0.5), np.full((2, 3), 2.0), np.full(3, 4.0)]
    if momentum:
        names += ["rmsprop/z_momentum", "rmsprop/a_momentum"]
        values += [np.full((2, 3), 6.0), np.full(3, 8.0)]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Mine", "config": {}})
        file.attrs["training_config"] = json.dumps({"optimizer_config": config})
        group = file.create_group("optimizer_weights")
        group.attrs["weight_names"] = names
        for name, value in zip(names, values, strict=True):
            group[name] = value


def test_a_whole_model_s_h5_has_its_own_momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a file of weights takes momentum from the source."""
    monkeypatch.chdir(tmp_path)
    whole_h5(Path("a.h5"), momentum=0.5)
    state = read("a.h5")
    assert state.groups[0]["momentum"] == 0.5
    write(state, "b.h5", like="a.h5")
    whole_h5(Path("other.h5"), momentum=0.7)
    assert run(["convert", "a.h5", "c.h5", "--like", "other.h5"]) == 0
    assert read("c.h5").groups[0]["momentum"] == 0.7
    for name in ("b.h5", "c.h5"):
        with h5py.File(name) as file:
            assert file["optimizer_weights/rmsprop/a_momentum"][0] == 8.0


def test_a_whole_model_s_h5_is_read_and_written(tmp_path: Path) -> None:
    whole_h5(tmp_path / "a.h5")
    state = read(tmp_path / "a.h5")
    assert (state.kind, state.step, state.groups[0]["decay"], state.groups[0]["lr"]) == ("keras", 3, 0.8, 0.5)
    assert [float(np.ravel(p.square_avg)[0]) for p in state.parameters] == [2.0, 4.0]  # type: ignore[arg-type]
    write(state, tmp_path / "b.h5", like=tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["optimizer_weights/rmsprop/a_velocity"][0] == 4.0
    whole_h5(tmp_path / "c.h5", "Adagrad")
    with pytest.raises(InputError, match="that of Adagrad"):
        read(tmp_path / "c.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["optimizer_weights"]
    with pytest.raises(InputError, match=r"after optimizer\.build or a step"):
        read(tmp_path / "a.h5")


# -- small files that expand ------------------------------------------------------------------------------------------


def expanded(path: Path) -> None:
    groups = [{"params": [0], "lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0, "foreach": None}]
    state = {0: {"step": torch.tensor(1.0), "square_avg": torch.zeros(1).expand(2**28)}}
    torch.save({"state": state, "param_groups": groups}, path)


def linked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("optimizer/vars")
        group["0"], group["1"], group["2"] = np.int32(1), np.float32(1), np.zeros(2**20)
        for i in range(3, 400):
            group[str(i)] = group["2"]


def shared(path: Path) -> None:
    """Nested dicts that share their values: 1500³ visits."""
    level: Any = {}
    for _ in range(3):
        level = dict.fromkeys(range(1500), level)
    torch.save({"a": level, "state": 0}, path)


def shared_in_a_group(path: Path) -> None:
    level: Any = [0]
    for _ in range(3):
        level = [level] * 1500
    saved = trained().state_dict()
    saved["param_groups"][0]["name"] = level
    torch.save(saved, path)


def swollen(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 2**10)
    content = bytearray(path.read_bytes())
    size = content.rindex(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    content[size : size + 4] = struct.pack("<I", 2**31)
    path.write_bytes(content)


def keys_of_keys(path: Path) -> None:
    """A key of nested tuples whose hash takes 2⁶⁰ steps."""
    doubled = pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * 60
    content = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + doubled + pickle.NONE + pickle.SETITEM + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)


def copied(path: Path) -> None:
    """A text that is stored once and encoded a million times."""
    encode = b"c_codecs\nencode\n"
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    again = b"h\x00h\x01\x85R0" * 2**16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + encode + b"q\x000" + text + b"q\x010" + again + b"N.")


def claimed(path: Path) -> None:
    path.write_bytes(b"\x81\xa1a" + b"\xdd\xff\xff\xff\xff" * 200)


def claimed_map(path: Path) -> None:
    path.write_bytes(b"\xdf\xff\xff\xff\xff\xa1a\xc0")


def claimed_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.")


def many(path: Path) -> None:
    saved = trained().state_dict()
    saved["param_groups"][0]["params"] = list(range(2**20))
    torch.save(saved, path)


def pushed(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"N0" * 3 * 2**19 + b"N.")


HOSTILE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "expanded tensor": ("a.pt", expanded),
    "hard links": ("a.weights.h5", linked),
    "shared dictionaries": ("a.pt", shared),
    "shared lists in a group": ("a.pt", shared_in_a_group),
    "compressed pickle": ("a.pt", swollen),
    "keys of keys": ("a.pt", keys_of_keys),
    "copies of text": ("a.pt", copied),
    "arrays that claim": ("a.msgpack", claimed),
    "maps that claim": ("a.msgpack", claimed_map),
    "bytes that claim": ("a.pt", claimed_pickle),
    "millions of parameters": ("a.pt", many),
    "millions of steps of pickle": ("a.pt", pushed),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_would_unfold_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, make = HOSTILE[name]
    make(Path(path))
    taken: list[int] = []
    spend = ReadBudget.spend

    def counted(self: ReadBudget, size: int, what: str) -> None:
        spend(self, size, what)
        taken.append(size)

    monkeypatch.setattr(ReadBudget, "spend", counted)
    assert run(["convert", path, "b.pt", "--to", "rmsprop.torch", *(["--momentum", "0"] if "h5" in path else [])]) != 0
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 1000
    assert shown.out == ""
    assert not Path("b.pt").exists()
    assert sum(taken) <= 2**28 + 8 * Path(path).stat().st_size  # no more was allocated


def test_an_environment_variable_raises_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    groups = [{"params": [0], "lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0, "foreach": None}]
    state = {0: {"step": torch.tensor(1.0), "square_avg": torch.ones(1).expand(2**26 + 2**14)}}
    torch.save({"state": state, "param_groups": groups}, path)
    with pytest.raises(InputError, match="set RMSPROP_READ_LIMIT=10 in the environment"):
        read(path)
    monkeypatch.setenv("RMSPROP_READ_LIMIT", "2")
    assert read(path).parameters[0].square_avg.shape == (2**26 + 2**14,)  # type: ignore[union-attr]
    monkeypatch.setenv("RMSPROP_READ_LIMIT", "no")
    with pytest.raises(InputError, match="RMSPROP_READ_LIMIT must be a whole number"):
        read(path)


def test_the_steps_of_a_pickle_are_counted(tmp_path: Path) -> None:
    pushed(tmp_path / "a.pt")
    with pytest.raises(InputError, match="entries, got one of more"):
        read(tmp_path / "a.pt")


def test_a_dataset_without_its_numbers_is_not_read_as_zeros(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        group = file.create_group("optimizer/vars")
        group["0"], group["1"] = np.int32(1), np.float32(1)
        group.create_dataset("2", (1000,), "f8", chunks=(100,))
    with pytest.raises(InputError, match="which it does not hold whole"):
        read(tmp_path / "a.weights.h5", momentum=0.0)


def test_a_tensor_ends_where_its_numbers_end(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt", ReadBudget(tmp_path / "a.pt"))
    storage = Storage("0", "Float", 4)
    for offset, shape, stride in ((0, (4,), (1,)), (1, (2, 2), (1, 1)), (4, (0,), (1,))):
        assert Stored(file, storage, offset, shape, stride, "Float").shape == shape
    for offset, shape, stride in ((0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 2), (3, 1)), (-1, (1,), (1,))):
        with pytest.raises(ValueError, match="a tensor"):
            Stored(file, storage, offset, shape, stride, "Float")


def test_a_budget_counts_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    budget = ReadBudget(tmp_path / "a")
    budget.spend(2**28, "half")
    budget.spend(32, "rest")
    with pytest.raises(InputError, match="one whose last brings it to 268435489"):
        budget.spend(1, "last")
    budget.visit(2**21)
    with pytest.raises(InputError, match="at most 2097152 entries"):
        budget.visit()


# -- numbers that no optimizer has ------------------------------------------------------------------------------------


def with_step(step: Any, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        saved = trained(RMSprop, **options).state_dict()
        saved["state"][0]["step"] = step
        torch.save(saved, path)

    return make


def with_average(value: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        saved = trained().state_dict()
        saved["state"][1]["square_avg"] = value
        torch.save(saved, path)

    return make


def with_key(key: Any, value: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        saved = trained().state_dict()
        saved["param_groups"][0][key] = value
        torch.save(saved, path)

    return make


def tree(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **{name.replace("__", "/"): value for name, value in arrays.items()})


def npz_twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for value in (1.0, 2.0):
            content = io.BytesIO()
            np.save(content, np.full(2, value))
            with pytest.warns(UserWarning, match="Duplicate") if value == 2.0 else zipfile.ZipFile(io.BytesIO(), "w"):
                archive.writestr("0/nu/w.npy", content.getvalue())


def msgpack_twice(path: Path) -> None:
    one = msgpack.packb(msgpack.ExtType(1, msgpack.packb(((2,), "float64", np.ones(2).tobytes()))))
    path.write_bytes(b"\x81\xa2nu\x82\xa1w" + one + b"\xa1w" + one)


def safetensors_twice(path: Path) -> None:
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = ('{"nu/w":' + entry % (0, 4) + ',"nu/w":' + entry % (0, 4) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


WRONG: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a negative step": ("a.pt", with_step(-1), "step of 0 must be a whole number from 0 to 2**63 - 1, got -1"),
    "half a step": ("a.pt", with_step(torch.tensor(2.5)), "step of 0 must be a whole number"),
    "a step that is NaN": ("a.pt", with_step(torch.tensor(float("nan"))), "step of 0 must be a whole number"),
    "a step of 10³⁰": ("a.pt", with_step(10**30), "step of 0 must be a whole number"),
    "a step of 2⁸⁰ in float32": ("a.pt", with_step(torch.tensor(2.0**80)), "step of 0 must be a whole number"),
    "a step that is text": ("a.pt", with_step("3"), "step of 0 must be a whole number"),
    "a step that is true": ("a.pt", with_step(True), "step of 0 must be a whole number"),
    "a stopped counter": (
        "a.pt", with_step(torch.tensor(256, dtype=torch.bfloat16), bias_correction=True), "must be below 256",
    ),
    "whole averages": ("a.pt", with_average(torch.ones(2, dtype=torch.int64)), "square_avg of '1' must be of bfloat16"),
    "averages of flags": ("a.pt", with_average(torch.ones(2, dtype=torch.bool)), "square_avg of '1' must be of"),
    "negative v": ("a.pt", with_average(-torch.ones(2)), "must be an average of squares"),
    "groups under numbers": ("a.pt", with_key(3, 4), "a key of a group in a.pt must be text, got one of int"),
    "names that are numbers": ("a.pt", with_key("param_names", [1, 2]), "must be a name as text for each parameter"),
    "names that repeat": ("a.pt", with_key("param_names", ["a", "a"]), "must be a file with each name once"),
    "a rate of text": ("a.pt", with_key("lr", "0.1"), "lr in a.pt must be a finite number"),
    "a rate of lists": ("a.pt", with_key("lr", [[0.1]] * 5), "lr in a.pt must be a finite number"),
    "longdouble": ("a.npz", tree(square_avg__w=np.ones(2, np.longdouble)), "square_avg of 'w' must be of"),
    "int64 in npz": ("a.npz", tree(square_avg__w=np.ones(2, np.int64)), "square_avg of 'w' must be of"),
    "a negative count": ("a.npz", tree(square_avg__w=np.ones(2), step=np.int32(-2)), "step of step must be a whole"),
    "twice in npz": ("a.npz", npz_twice, "must be a file with each name once, got '0/nu/w"),
    "twice by another name": (
        "a.npz", tree(**{"square_avg__w": np.ones(2), "['square_avg']['w']": np.ones(2)}), "with each name once",
    ),
    "twice in msgpack": ("a.msgpack", msgpack_twice, "must be a file with each name once, got 'w' again"),
    "twice in safetensors": ("a.safetensors", safetensors_twice, "with each name once, got 'nu/w' again"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_impossible_value_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, make, words = WRONG[name]
    make(Path(path))
    assert run(["convert", path, "b.safetensors", "--to", "rmsprop.jax", "--lr", "0.1"]) != 0
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("b.safetensors").exists()


def state_of(step: int | None, **fields: Any) -> tuple[ParameterState, ...]:
    return (ParameterState("0", np.ones(2), step=step, **fields),)


@pytest.mark.parametrize("step", [2**31 - 1, 2**31, 2**40, 10**18])
@pytest.mark.parametrize(
    ("kind", "ending", "most"),
    [
        ("keras", ".weights.h5", 2**31 - 1), ("rmsprop.jax", ".npz", 2**31 - 1), ("rmsprop.jax", ".msgpack", 2**31 - 1),
        ("torch", ".pt", 2**53), ("rmsprop.torch", ".safetensors", 2**53),
    ],
)  # fmt: skip
def test_step_counts_are_exact_or_refused(kind: str, ending: str, most: int, step: int, tmp_path: Path) -> None:
    fields = {**PLAIN, "centered": False, "weight_decay": 0.0, "maximize": False}
    fields |= {"eps_inside_sqrt": False, "lr_in_momentum": False} if kind == "torch" else {}
    state = convert(Checkpoint(kind, state_of(step), (fields,)), kind).checkpoint
    path = tmp_path / f"a{ending}"
    if step > most:
        with pytest.raises(InputError, match=f"step must be at most {most}, the largest count in a file of {kind}"):
            write(state, path)
        assert not path.exists()
    else:
        write(state, path)
        known: dict[str, Any] = {"momentum": 0.0} if kind == "keras" else {}
        assert read(path, kind, **known).step == step


def test_a_note_says_that_a_step_count_may_have_stopped(tmp_path: Path) -> None:
    with_step(torch.tensor(256, dtype=torch.bfloat16))(tmp_path / "a.pt")
    state = read(tmp_path / "a.pt")
    assert "step was kept in bfloat16, which counts no further than 256: the true count is unknown" in state.notes
    with_step(torch.tensor(255, dtype=torch.bfloat16), bias_correction=True)(tmp_path / "b.pt")
    assert (read(tmp_path / "b.pt").step, read(tmp_path / "b.pt").notes) == (255, ())


def test_big_endian_averages_become_the_machine_s(tmp_path: Path) -> None:
    values: Any = {"square_avg/w": np.array([1.0, 2.0], ">f4"), "step": np.array(3, ">i4")}
    np.savez(tmp_path / "a.npz", **values)
    state = read(tmp_path / "a.npz")
    (p,) = state.parameters
    assert (p.step, p.square_avg.dtype.isnative, p.square_avg.tolist()) == (3, True, [1.0, 2.0])  # type: ignore[union-attr]
    write(state, tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors").parameters[0].square_avg.tolist() == [1.0, 2.0]  # type: ignore[union-attr]


def test_a_note_says_that_a_state_has_diverged() -> None:
    bad = ParameterState("0", np.array([np.nan, 1.0]), step=1)
    notes = convert(Checkpoint("torch", (bad,), ({**PLAIN, "lr_in_momentum": False},)), "rmsprop.torch").notes
    assert "square_avg of 0 holds NaN or infinity: the run had diverged" in notes
