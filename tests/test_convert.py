"""rmsprop convert: what it prints, what it writes, and how it treats damaged, foreign and malicious files."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import pytest
import torch

from rmsprop.checkpoint import read, write
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.torch import StateDictFile
from rmsprop.cli.app import run
from rmsprop.torch import RMSprop

MARKER = "executed"


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_torch(path: str = "a.pt", **options: Any) -> None:
    layer = torch.nn.Linear(3, 2).double()
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.25, momentum=0.5, **options)
    layer(torch.ones(1, 3).double()).square().sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), path)


def save_map(content: Any = None) -> None:
    Path("map.json").write_text(json.dumps(content or {"0": {"to": "w", "transpose": [1, 0]}, "1": "b"}))


# -- what works -------------------------------------------------------------------------------------------------------


def test_the_output_says_what_moved_and_how_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    save_torch()
    save_map()
    assert run(["convert", "a.pt", "b.msgpack", "--to", "optax", "--map", "map.json"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "torch to optax: 2 parameters, step 1"
    assert "moved    square_avg, momentum_buffer" in text
    assert "multiplied by the learning rate 0.25" in text
    assert (
        "to be set in the program that continues: lr=0.25, decay=0.99, eps=1e-08, momentum=0.5, weight_decay=0.0"
        in text
    )
    assert "eps_inside_sqrt=False" in text
    assert text.splitlines()[-1] == "written: b.msgpack"
    moved, source = read("b.msgpack"), read("a.pt")
    assert [p.name for p in moved.parameters] == ["w", "b"]
    for p, q in zip(source.parameters, moved.parameters, strict=True):
        assert p.square_avg is not None
        assert p.momentum_buffer is not None
        assert q.square_avg is not None
        assert q.momentum_buffer is not None
        assert np.array_equal(p.square_avg.T, q.square_avg)
        assert np.array_equal(0.25 * p.momentum_buffer.T, q.momentum_buffer)
    stored = msgpack.unpackb(Path("b.msgpack").read_bytes(), ext_hook=lambda _, data: msgpack.unpackb(data)[0])
    assert stored == {"0": {"nu": {"w": [3, 2], "b": [2]}}, "1": {}, "2": {"trace": {"w": [3, 2], "b": [2]}}}


def test_json_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    save_torch()
    assert run(["convert", "a.pt", "b.pt", "--to", "rmsprop.torch", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["from"], facts["to"], facts["parameters"], facts["step"]) == ("torch", "rmsprop.torch", 2, 1)
    assert (facts["moved"], facts["problems"], facts["written"]) == (["square_avg", "momentum_buffer"], [], "b.pt")
    assert facts["target_rule"][0]["decay"] == 0.99


def test_a_dry_run_names_every_problem_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    save_torch()
    save_torch("like.pt", centered=True)
    assert run(["convert", "a.pt", "b.msgpack", "--to", "optax", "--dry-run"]) == 1
    text = capsys.readouterr().out
    assert text.count("PROBLEM") == 2
    assert "layout: 0 (2, 3) needs its axes" in text
    assert run(["convert", "a.pt", "b.pt", "--like", "like.pt", "--dry-run", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems == ["impossible: the target is centered, and the source has no average gradient"]
    assert run(["convert", "a.pt", "b.pt", "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert {p.name for p in Path().iterdir()} == {"a.pt", "like.pt"}


def test_a_keras_template_takes_its_layout_from_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    """A .weights.h5 does not name its arrays: the source's momentum and centered tell which there are."""
    save_torch(centered=True)
    turned = {"0": {"transpose": [1, 0]}}
    save_map(turned)
    assert run(["convert", "a.pt", "like.weights.h5", "--map", "map.json"]) == 0
    with h5py.File("like.weights.h5", "r+") as file:
        file["layers/dense/vars/0"] = np.ones(3)
        file["optimizer/vars/2"][...] = 0.0
    arguments = ["convert", "a.pt", "b.weights.h5", "--like", "like.weights.h5", "--map", "map.json"]
    assert run(arguments) == 0
    with h5py.File("b.weights.h5") as file:
        assert file["layers/dense/vars/0"][...].tolist() == [1, 1, 1]
    back, source = read("b.weights.h5", momentum=0.5, centered=True), read("a.pt")
    assert (back.step, back.groups[0]["lr"]) == (1, 0.25)
    for p, q in zip(source.parameters, back.parameters, strict=True):
        for name, factor in (("square_avg", 1), ("grad_avg", 1), ("momentum_buffer", 0.25)):
            assert np.array_equal(factor * getattr(p, name).T, getattr(q, name))


def test_the_template_says_what_the_target_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The template, not the target's name: torch's groups would give our optimizer the wrong lr_in_momentum."""
    param = torch.nn.Parameter(torch.ones(2))
    options: dict[str, Any] = {"lr": 0.25, "momentum": 0.5, "nesterov": True, "lr_in_momentum": True}
    optimizer = RMSprop([param], eps_inside_sqrt=True, **options)
    param.grad = torch.ones(2)
    optimizer.step()
    torch.save(optimizer.state_dict(), "ours.pt")
    assert run(["convert", "ours.pt", "new.pt", "--like", "ours.pt"]) == 0
    assert capsys.readouterr().out.startswith("rmsprop.torch to rmsprop.torch: 1 parameters, step 1")
    buffer = torch.load("new.pt")["state"][0]["momentum_buffer"]
    assert torch.equal(buffer, optimizer.state[param]["momentum_buffer"])
    assert run(["convert", "ours.pt", "other.pt", "--like", "ours.pt", "--to", "torch"]) == 2
    assert "check --from" in capsys.readouterr().err


def test_the_template_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    save_torch()
    reads: list[str] = []
    open_file = StateDictFile.__init__

    def counted(self: StateDictFile, path: Path, budget: ReadBudget) -> None:
        reads.append(str(path))
        open_file(self, path, budget)

    monkeypatch.setattr(StateDictFile, "__init__", counted)
    assert run(["convert", "a.pt", "b.pt", "--like", "a.pt", "--from", "torch"]) == 0
    assert reads == ["a.pt", "a.pt"]  # once as the source, once as the template


def test_torch_s_state_goes_into_sb3_s_archive() -> None:
    """A Stable-Baselines3 model trains with any optimizer; an archive alone does not mean RMSpropTFLike."""
    save_torch("policy.optimizer.pth")
    Path("like.zip").write_bytes(zipped("policy.optimizer.pth", Path("policy.optimizer.pth").read_bytes()))
    assert run(["convert", "policy.optimizer.pth", "new.zip", "--like", "like.zip"]) == 0
    assert read("new.zip").kind == "torch"


def test_options_state_the_whole_rule() -> None:
    arrays: dict[str, Any] = {"square_avg/w": np.ones(2), "step": np.int32(3)}
    np.savez("a.npz", **arrays)
    Path("map.json").write_text('{"w": "0"}')
    said = ["--decay", "0.9", "--eps", "1e-8", "--bias-correction", "--initial-square-avg", "1"]
    said += ["--decoupled-weight-decay", "--weight-decay", "0.5", "--no-eps-inside-sqrt", "--lr", "0.25"]
    assert run(["convert", "a.npz", "b.pt", "--to", "rmsprop.torch", "--map", "map.json", *said]) == 0
    (group,) = read("b.pt").groups
    assert (group["initial_square_avg"], group["decoupled_weight_decay"], group["lr"]) == (1.0, True, 0.25)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.pt", "b.bin"], "--to must be given"),
        (["a.pt", "b.pt", "--to", "adagrad"], "to must be one of"),
        (["a.pt", "b.pt", "--from", "adagrad"], "kind must be one of"),
        (["a.pt", "b.npz", "--to", "torch"], "a file of torch must be named with .pt"),
        (["a.pt", "a.pt"], "the target must be a new file"),
        (["a.pt", "b.zip"], "like must be a .zip that SB3 saved, to put the state into, got None; or write a .pth"),
        (["a.pt", "b.keras", "--map", "keep.json"], "like must be a .keras file"),
        (["a.pt", "b.pt", "--decay", "0.5"], "decay must be the value in a.pt or of its library (0.99)"),
        (["a.pt", "b.pt", "--lr", "-1"], "lr must be a finite number"),
        (["a.pt", "b.pt", "--map", "a.pt"], "a.pt must be JSON"),
        (["a.pt", "b.pt", "--map", "list.json"], "list.json must be JSON"),
        (["a.pt", "b.pt", "--map", "twice.json"], "twice.json must be a file with each name once, got '0' again"),
        (["a.pt", "b.msgpack", "--to", "optax", "--map", "inside.json"], "mapping: w cannot be a parameter and hold"),
        (["damaged.zip", "b.pt"], "damaged.zip must be an undamaged checkpoint"),
        (["folder.pt", "b.pt"], "folder.pt: Is a directory"),
        (["a.pt", "b.index", "--map", "inside.json"], "like must be a checkpoint with the variables"),
        (["a.pt", "p.ckpt", "--to", "tf1", "--map", "inside.json"], "the target must be a new file"),
        (["none.pt", "b.pt"], "none.pt: No such file"),
        (["a.pt", "none/b.pt"], "none/b.pt: No such file"),
        (["a.pt", "b.pt", "--like", "none.pt"], "none.pt: No such file"),
        (["a.pt", "b.msgpack", "--to", "optax"], "layout: 0 (2, 3)"),
        (["a.pt", "b.pt", "--from", "keras"], "the kind of a.pt must be one of torch, rmsprop.torch, timm, sb3"),
        (["a.pt", "b.pt", "--from", "tf1"], "got 'tf1'; omit --from"),
        (
            ["a.npz", "b.pt", "--from", "torch"],
            "the kind of a.npz must be one of optax, rmsprop.jax, optax-adam, as the file shows",
        ),
        (["a.safetensors", "b.pt", "--from", "optax"], "the kind of a.safetensors must be one of torch"),
        (["a.pt", "b.keras", "--like", "a.pt", "--to", "keras"], "the kind of a.pt must be one of torch"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_torch()
    Path("keep.json").write_text('{"0": {"transpose": [0, 1]}}')
    Path("list.json").write_text("[]")
    Path("twice.json").write_text('{"0": "1", "1": "0", "0": "2"}')
    Path("inside.json").write_text('{"0": {"to": "w", "transpose": [1, 0]}, "1": "w/b"}')
    Path("damaged.zip").write_bytes(b"PK and more")
    write(read("a.pt"), "a.safetensors")
    arrays: dict[str, Any] = {"square_avg/w": np.ones(2)}
    np.savez("a.npz", **arrays)
    Path("folder.pt").mkdir()
    Path("p.ckpt.data-00000-of-00001").write_bytes(b"precious")
    before = sorted(p.name for p in Path().iterdir())
    assert run(["convert", *arguments]) != 0
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(p.name for p in Path().iterdir()) == before


def test_a_missing_package_is_named_with_its_command(tmp_path: Path) -> None:
    (tmp_path / "a.msgpack").write_bytes(b"\x80")
    code = (
        "import sys; sys.modules['msgpack'] = None; from rmsprop.cli.app import run;"
        "sys.exit(run(['convert', 'a.msgpack', 'b.pt', '--from', 'optax']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "rmsprop: this kind of file needs msgpack: pip install 'rmsprop[convert]'\n"


# -- damaged, foreign and malicious files -----------------------------------------------------------------------------


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(MARKER),)


def bomb() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state": {0: {"step": Bomb()}}, "param_groups": [{"params": [0], "foreach": None}]}, buffer)
    return buffer.getvalue()


def zipped(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy(shape: str, descr: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def hollow_h5(external: bool) -> bytes:
    """Return a file that promises 8 TB, or links to another file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("optimizer/vars")
        group["0"] = np.int32(1)
        group["1"] = np.float32(1)
        if external:
            group["2"] = h5py.ExternalLink("/etc/passwd", "/")
        else:
            group.create_dataset("2", (10**12,), "f8", chunks=(10**6,))
    return buffer.getvalue()


def good(ending: str) -> bytes:
    save_torch()
    save_map()
    names = {".pt": "torch", ".safetensors": "torch"}
    path = f"good{ending}"
    assert run(["convert", "a.pt", path, "--to", names.get(ending, "optax")]
               + ([] if ending in names else ["--map", "map.json"])) == 0  # fmt: skip
    content = Path(path).read_bytes()
    for each in (path, "a.pt", "map.json"):
        Path(each).unlink()
    return content


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "pickle bomb in .pt": ("x.pt", bomb),
    "pickle bomb, the old form": ("x.pt", lambda: pickle.dumps(Bomb())),
    "pickle bomb in SB3's archive": ("x.zip", lambda: zipped("policy.optimizer.pth", bomb())),
    "path that leads out": ("x.zip", lambda: zipped("../policy.optimizer.pth", b"x")),
    "archive that swells": ("x.zip", lambda: zipped("policy.optimizer.pth", b"\0" * 2**26, zipfile.ZIP_DEFLATED)),
    "npz that swells": ("x.npz", lambda: zipped("0/nu.npy", b"\0" * 2**26, zipfile.ZIP_DEFLATED)),
    "npz of objects": ("x.npz", lambda: zipped("0/nu/w.npy", npy("(1,)", "'|O'", pickle.dumps(Bomb())))),
    "npz that promises": ("x.npz", lambda: zipped("0/nu/w.npy", npy("(1000000000000,)", "'<f8'"))),
    "text as .pt": ("x.pt", lambda: b"hello\n" * 100),
    "text as .npz": ("x.npz", lambda: b"hello\n" * 100),
    "text as .safetensors": ("x.safetensors", lambda: b"hello\n" * 100),
    "text as .msgpack": ("x.msgpack", lambda: b"hello\n" * 100),
    "text as .keras": ("x.keras", lambda: b"hello\n" * 100),
    "text as .h5": ("x.weights.h5", lambda: b"hello\n" * 100),
    "text as .zip": ("x.zip", lambda: b"hello\n" * 100),
    "another ending": ("x.bin", lambda: b"hello\n" * 100),
    "nothing": ("x.pt", lambda: b""),
    "h5 that promises": ("x.weights.h5", lambda: hollow_h5(external=False)),
    "h5 that points out": ("x.weights.h5", lambda: hollow_h5(external=True)),
    "safetensors that promises": ("x.safetensors", lambda: struct.pack("<Q", 2**60) + b"{}"),
    "msgpack of other lengths": (
        "x.msgpack",
        lambda: msgpack.packb({"nu": msgpack.ExtType(1, msgpack.packb(([10**12], "float64", b"12345678")))}),
    ),
    "msgpack of objects": (
        "x.msgpack", lambda: msgpack.packb({"nu": msgpack.ExtType(1, msgpack.packb(([1], "object", b"12345678")))})
    ),
    "msgpack nested": ("x.msgpack", lambda: b"\x81\xa1a" * 3000 + b"\xc0"),
    "truncated .pt": ("x.pt", lambda: good(".pt")[:-40]),
    "truncated .npz": ("x.npz", lambda: good(".npz")[:-40]),
    "truncated .safetensors": ("x.safetensors", lambda: good(".safetensors")[:-4]),
    "truncated .msgpack": ("x.msgpack", lambda: good(".msgpack")[:-4]),
    "truncated .h5": ("x.weights.h5", lambda: hollow_h5(external=False)[:900]),
    "another optimizer": ("x.pt", lambda: adagrad()),
    "a model": ("x.pt", lambda: saved(torch.nn.Linear(1, 1).state_dict())),
    "state without its average": (
        "x.pt", lambda: saved({"state": {0: {"step": 1}}, "param_groups": [{"params": [0], "foreach": None}]})
    ),
}  # fmt: skip


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def adagrad() -> bytes:
    p = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adagrad([p])
    p.grad = torch.ones(2)
    optimizer.step()
    return saved(optimizer.state_dict())


@pytest.mark.parametrize(("name", "content"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_one_line_and_nothing_is_written(
    name: str, content: Callable[[], bytes], capsys: pytest.CaptureFixture[str], in_empty_directory: Path
) -> None:
    data = content()
    capsys.readouterr()
    Path(name).write_bytes(data)
    known = ["--momentum", "0"] if name.endswith(".h5") else []
    assert run(["convert", name, "out.pt", "--to", "rmsprop.torch", *known]) != 0
    shown = capsys.readouterr()
    assert shown.err.startswith("rmsprop: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert {p.name for p in in_empty_directory.iterdir()} == {name}  # neither an output nor the file of a bomb
    assert not (in_empty_directory.parent / "policy.optimizer.pth").exists()


def test_pickle_itself_would_run_the_malicious_file() -> None:
    pickle.loads(pickle.dumps(Bomb()))
    assert Path(MARKER).exists()
