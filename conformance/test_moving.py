"""Runs that stop in one framework, move as a checkpoint, and continue in another with the same results.

All in double. The learning rate falls after the move: then only a correct state gives the same results.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from rmsprop.checkpoint import convert, read, write
from rmsprop.torch import RMSprop

STEPS, STOP = 12, 5
SHAPES = ((4, 3), (3,), (3, 2), (2,))
TURNED = {"0": {"transpose": [1, 0]}, "2": {"transpose": [1, 0]}}
NAMES = ("net/a/kernel", "net/a/bias", "net/b/kernel", "net/b/bias")
Arrays = list[np.ndarray[Any, Any]]

COMMON = """
import sys, numpy as np
folder, part, centered, momentum = sys.argv[1], sys.argv[2], sys.argv[3] == "True", float(sys.argv[4])
data = np.load(folder + "/data.npz")
rate = lambda t: 0.03 if t < 8 else 0.004
gradients = lambda t: [data[f"g{t}_{i}"] for i in range(4)]
first, last, start = (1, 12, "p") if part == "whole" else (6, 12, "h")
def save(name, values):
    np.savez(folder + "/" + name, *values)
"""
KERAS = (
    COMMON
    + """
import keras
keras.config.set_floatx("float64")
if part == "whole":
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.compile(keras.optimizers.RMSprop(0.03, rho=0.8, epsilon=0.02, momentum=momentum, centered=centered))
    model.optimizer.build(model.trainable_variables)
else:
    model = keras.saving.load_model(folder + "/back.keras")
model.set_weights([data[f"{start}{i}"] for i in range(4)])
for t in range(first, last + 1):
    model.optimizer.learning_rate = rate(t)
    model.optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients(t)], model.trainable_variables)
    if t == 5:
        model.save(folder + "/stop.keras")
        save("half", model.get_weights())
save(part, model.get_weights())
"""
)
OURS = KERAS.replace(
    "keras.optimizers.RMSprop(0.03,",
    "rmsprop.keras.RMSprop(0.03, weight_decay=0.1, nesterov=momentum > 0, eps_inside_sqrt=False, "
    "lr_in_momentum=False, bias_correction=True, initial_square_avg=1.0,",
).replace("import keras\n", "import keras, rmsprop.keras\n")
TF1 = (
    COMMON
    + """
import tensorflow.compat.v1 as tf
tf.disable_eager_execution()
names = ("net/a/kernel", "net/a/bias", "net/b/kernel", "net/b/bias")
variables = [tf.get_variable(n, initializer=data[f"{start}{i}"]) for i, n in enumerate(names)]
held = [tf.placeholder(tf.float64, v.shape) for v in variables]
lr = tf.placeholder(tf.float64)
decay, momentum, eps = map(np.float64, (0.8, momentum, 0.02))  # it rounds Python's floats to float32
optimizer = tf.train.RMSPropOptimizer(lr, decay, momentum, eps, centered=centered, name="Opt")
train = optimizer.apply_gradients(zip(held, variables), global_step=tf.train.get_or_create_global_step())
saver = tf.train.Saver()
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    if part == "rest":
        saver.restore(session, folder + "/back")
    for t in range(first, last + 1):
        session.run(train, {lr: rate(t), **dict(zip(held, gradients(t)))})
        if t == 5:
            saver.save(session, folder + "/stop")
            save("half", session.run(variables))
    save(part, [*session.run(variables), session.run(tf.train.get_global_step())])
"""
)


def prepare(folder: Path) -> list[Arrays]:
    """Write start and gradients, of sizes from 0.1 to 10, for the scripts. Return the gradients."""
    generator = np.random.default_rng(0)
    values: dict[str, Any] = {f"p{i}": generator.standard_normal(shape) for i, shape in enumerate(SHAPES)}
    for t in range(1, STEPS + 1):
        for i, shape in enumerate(SHAPES):
            values[f"g{t}_{i}"] = generator.standard_normal(shape) * 10 ** generator.uniform(-1, 1, shape)
    np.savez(folder / "data.npz", **values)
    return [[values[f"g{t}_{i}"] for i in range(4)] for t in range(1, STEPS + 1)]


def run(code: str, folder: Path, part: str, centered: bool, momentum: float, **environment: str) -> Arrays:
    arguments = [str(folder), part, str(centered), str(momentum)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(np.load(folder / f"{part}.npz").values())


def rate(t: int) -> float:
    return 0.03 if t < 8 else 0.004


def in_torch(cls: Any, half: Arrays, path: Path, gradients: list[Arrays], turned: bool) -> Arrays:
    """Return the parameters of a run that continues in torch from the state in `path`."""
    params = [torch.from_numpy(p.T.copy() if turned else p.copy()) for p in half]
    optimizer = cls(params)
    optimizer.load_state_dict(torch.load(path, weights_only=True))
    for t in range(STOP + 1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(t)
        for p, g in zip(params, gradients[t - 1], strict=True):
            p.grad = torch.from_numpy(g.T.copy() if turned else g.copy())
        optimizer.step()
    return [p.numpy().T if turned else p.numpy() for p in params]


def same(a: Arrays, b: Arrays) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("backend", "centered", "momentum"),
    [
        ("tensorflow", False, 0.0),
        ("tensorflow", False, 0.6),
        ("tensorflow", True, 0.6),
        ("torch", True, 0.6),
        ("jax", True, 0.6),
    ],
)
def test_keras_goes_on_in_torch_and_optax_and_back(
    backend: str, centered: bool, momentum: float, tmp_path: Path
) -> None:
    gradients = prepare(tmp_path)
    environment = {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    whole = run(KERAS, tmp_path, "whole", centered, momentum, **environment)
    half = list(np.load(tmp_path / "half.npz").values())

    source = read(tmp_path / "stop.keras")
    moved = convert(source, "rmsprop.torch", mapping=TURNED)
    assert moved.notes == ()
    write(moved.checkpoint, tmp_path / "state.pt")
    same(in_torch(RMSprop, half, tmp_path / "state.pt", gradients, turned=True), whole)

    names = {str(i): {"to": name, "transpose": list(range(len(SHAPES[i])))} for i, name in enumerate(NAMES)}
    write(convert(source, "optax", mapping=names).checkpoint, tmp_path / "state.npz")
    with jax.enable_x64(True):
        params: Any = {}
        for name, p in zip(NAMES, half, strict=True):
            _, layer, leaf = name.split("/")
            params.setdefault("net", {}).setdefault(layer, {})[leaf] = jnp.asarray(p)
        options: Any = {"decay": 0.8, "eps": 0.02, "centered": centered, "momentum": momentum or None}
        file = np.load(tmp_path / "state.npz")
        state = jax.tree_util.tree_map_with_path(
            lambda keys, _: jnp.asarray(file[jax.tree_util.keystr(keys, simple=True, separator="/")]),
            optax.rmsprop(0.03, **options).init(params),
        )
        for t in range(STOP + 1, STEPS + 1):
            leaves = dict(zip(NAMES, gradients[t - 1], strict=True))
            now = jax.tree_util.tree_map_with_path(
                lambda keys, _, leaves=leaves: jnp.asarray(
                    leaves[jax.tree_util.keystr(keys, simple=True, separator="/")]
                ),
                params,
            )
            change, state = optax.rmsprop(rate(t), **options).update(now, state, params)
            params = optax.apply_updates(params, change)
        same([np.asarray(params["net"][n.split("/")[1]][n.split("/")[2]]) for n in NAMES], whole)

    back = convert(read(tmp_path / "state.pt"), "keras", mapping=TURNED, like=read(tmp_path / "stop.keras"))
    write(back.checkpoint, tmp_path / "back.keras", like=tmp_path / "stop.keras")
    np.savez(tmp_path / "data.npz", **np.load(tmp_path / "data.npz"), **{f"h{i}": p for i, p in enumerate(half)})
    same(run(KERAS, tmp_path, "rest", centered, momentum, **environment), whole)


@pytest.mark.parametrize(("centered", "momentum"), [(False, 0.0), (True, 0.6)])
def test_our_keras_goes_on_in_our_torch_and_back(centered: bool, momentum: float, tmp_path: Path) -> None:
    """With the variants that Keras' own RMSprop lacks."""
    gradients = prepare(tmp_path)
    environment = {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}
    whole = run(OURS, tmp_path, "whole", centered, momentum, **environment)
    half = list(np.load(tmp_path / "half.npz").values())
    source = read(tmp_path / "stop.keras")
    assert (source.kind, source.groups[0]["initial_square_avg"]) == ("rmsprop.keras", 1.0)
    moved = convert(source, "rmsprop.torch", mapping=TURNED)
    assert moved.notes == ()
    write(moved.checkpoint, tmp_path / "state.pt")
    same(in_torch(RMSprop, half, tmp_path / "state.pt", gradients, turned=True), whole)
    back = convert(read(tmp_path / "state.pt"), "rmsprop.keras", mapping=TURNED, like=read(tmp_path / "stop.keras"))
    write(back.checkpoint, tmp_path / "back.keras", like=tmp_path / "stop.keras")
    np.savez(tmp_path / "data.npz", **np.load(tmp_path / "data.npz"), **{f"h{i}": p for i, p in enumerate(half)})
    same(run(OURS, tmp_path, "rest", centered, momentum, **environment), whole)


COUNTED = """
import sys
import numpy as np, tensorflow.compat.v1 as tf
from rmsprop.checkpoint import read, write
tf.disable_eager_execution()
folder = sys.argv[1]
w = tf.get_variable("w", initializer=np.ones((2, 2)))
count = tf.get_variable("global_step", initializer=np.int32(0), trainable=False)
train = tf.train.RMSPropOptimizer(0.1, momentum=0.5).minimize(tf.reduce_sum(w * w), global_step=count)
saver = tf.train.Saver()
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    session.run(train)
    saver.save(session, folder + "/a")
    write(read(folder + "/a", momentum=0.5), folder + "/b", like=folder + "/a")
    before = session.run(tf.global_variables())
    session.run(train)
    saver.restore(session, folder + "/b")
    assert all(np.array_equal(x, y) for x, y in zip(before, session.run(tf.global_variables())))
"""


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_tensorflow_1_is_written_inside_its_own_program(dtype: str, tmp_path: Path) -> None:
    """Without eager execution, with a step count of 32 bits, and in every dtype."""
    code = COUNTED if dtype == "float64" else COUNTED.replace("np.ones((2, 2))", "tf.ones((2, 2), tf.bfloat16)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("centered", "momentum"), [(False, 0.0), (False, 0.6), (True, 0.6)])
def test_tensorflow_1_goes_on_in_torch_and_back(centered: bool, momentum: float, tmp_path: Path) -> None:
    """`<variable>/Opt_1` is the momentum, or with centered the average gradient."""
    gradients = prepare(tmp_path)
    whole = run(TF1, tmp_path, "whole", centered, momentum)
    half = list(np.load(tmp_path / "half.npz").values())
    source = read(tmp_path / "stop", decay=0.8, eps=0.02, momentum=momentum)
    assert (source.kind, source.step, sorted(p.name for p in source.parameters)) == ("tf1", STOP, sorted(NAMES))
    keep: dict[str, Any] = {
        name: {"to": str(i), "transpose": list(range(len(SHAPES[i])))} for i, name in enumerate(NAMES)
    }
    write(convert(source, "rmsprop.torch", lr=0.03, mapping=keep).checkpoint, tmp_path / "state.pt")
    same(in_torch(RMSprop, half, tmp_path / "state.pt", gradients, turned=False), whole[:-1])

    to_names = {entry["to"]: {**entry, "to": name} for name, entry in keep.items()}
    like = read(tmp_path / "stop.index")
    back = convert(read(tmp_path / "state.pt"), "tf1", mapping=to_names, like=like)
    write(back.checkpoint, tmp_path / "back", like=tmp_path / "stop")
    for p, q in zip(like.parameters, read(tmp_path / "back").parameters, strict=True):
        assert p.name == q.name
        assert np.array_equal(p.square_avg, q.square_avg)  # type: ignore[arg-type]
    np.savez(tmp_path / "data.npz", **np.load(tmp_path / "data.npz"), **{f"h{i}": p for i, p in enumerate(half)})
    again = run(TF1, tmp_path, "rest", centered, momentum)
    same(again, whole)
    assert again[-1] == STEPS


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100])
def test_a_foreign_tensorflow_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(content)
    (tmp_path / "x.data-00000-of-00001").write_bytes(content)
    with pytest.raises(ValueError, match="must be an undamaged checkpoint") as error:
        read(tmp_path / "x")
    assert "\n" not in str(error.value)


def their_class(kind: str) -> Any:
    """Return the optimizer class. timm's is imported without timm itself, which needs torchvision."""
    if kind == "sb3":
        from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

        return RMSpropTFLike
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps timm==1.0.31")
    sys.path.insert(0, str(Path(__file__).parent / "generate"))
    try:
        return importlib.import_module("from_timm").RMSpropTF
    finally:
        sys.path.pop(0)
        for name in ("timm", "timm.optim"):  # placeholders, not timm
            sys.modules.pop(name, None)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("kind", ["sb3", "timm"])
def test_what_copies_torch_goes_on_in_ours_and_back(kind: str, centered: bool, tmp_path: Path) -> None:
    cls = their_class(kind)
    gradients = prepare(tmp_path)
    params = [torch.from_numpy(p) for p in (np.load(tmp_path / "data.npz")[f"p{i}"] for i in range(4))]
    optimizer = cls(params, lr=0.03, alpha=0.8, eps=0.02, momentum=0.6, centered=centered)
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = rate(t)
        for p, g in zip(params, gradients[t - 1], strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        if t == STOP:
            torch.save(optimizer.state_dict(), tmp_path / "stop.pth")
            half = [p.numpy().copy() for p in params]
    whole = [p.numpy() for p in params]
    moved = convert(read(tmp_path / "stop.pth", kind), "rmsprop.torch")
    assert moved.checkpoint.groups[0]["lr_in_momentum"] == (kind == "timm")
    if kind == "sb3":
        assert moved.notes == ()
    write(moved.checkpoint, tmp_path / "state.pt")
    same(in_torch(RMSprop, half, tmp_path / "state.pt", gradients, turned=False), whole)
    write(convert(read(tmp_path / "state.pt"), kind).checkpoint, tmp_path / "back.pth")
    same(in_torch(cls, half, tmp_path / "back.pth", gradients, turned=False), whole)


def test_a_model_that_sb3_saved_moves(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SB3 warns on import
        from stable_baselines3 import A2C
        from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

        options = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5, "momentum": 0.5}}
        model = A2C("MlpPolicy", "CartPole-v1", policy_kwargs=options, n_steps=5, device="cpu", seed=0)
        model.learn(20)
        model.save(tmp_path / "a.zip")
        source = read(tmp_path / "a.zip")
        assert (source.kind, source.step, len(source.parameters)) == ("sb3", 4, 12)
        write(convert(source, "sb3").checkpoint, tmp_path / "b.zip", like=tmp_path / "a.zip")
        again = A2C.load(tmp_path / "b.zip", device="cpu").policy.optimizer
    for p, state in zip(source.parameters, again.state.values(), strict=True):
        assert np.array_equal(p.momentum_buffer, state["momentum_buffer"])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["RMSprop32bit", "RMSprop8bit"])
def test_bitsandbytes_is_read_as_it_reads_itself(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes warns on import
        import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(0)
    param = torch.nn.Parameter(torch.randn(70, 100, generator=generator))
    optimizer = getattr(bnb.optim, name)([param], lr=0.01, alpha=0.9)
    for _ in range(3):
        param.grad = torch.randn(70, 100, generator=generator)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    (found,) = read(tmp_path / "a.pt").parameters
    own = optimizer.state[param]
    expected = own["state1"]
    if name == "RMSprop8bit":
        assert expected.dtype == torch.uint8
        expected = bnb.functional.dequantize_blockwise(
            expected, absmax=own["absmax1"], code=own["qmap1"], blocksize=256
        )
    assert found.step == 3
    assert np.array_equal(found.square_avg, expected.numpy())  # type: ignore[arg-type]


def test_flax_reads_and_writes_the_same_msgpack(tmp_path: Path) -> None:
    serialization = pytest.importorskip("flax.serialization")
    params = {"a": {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.zeros(3)}, "c": [jnp.ones(2)]}
    optimizer = optax.rmsprop(0.1, momentum=0.9, centered=True)
    _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(state))
    source = read(tmp_path / "a.msgpack")
    assert [p.name for p in source.parameters] == ["a/b", "a/w", "c/0"]
    for like in (None, tmp_path / "a.msgpack"):
        path = tmp_path / f"{like is None}.msgpack"
        write(source, path, like=like)
        again = serialization.from_bytes(optimizer.init(params), path.read_bytes())
        assert str(jax.tree.structure(again)) == str(jax.tree.structure(state))
        assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()) and x.dtype == y.dtype, again, state))
