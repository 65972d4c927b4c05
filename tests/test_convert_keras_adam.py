"""A run stopped in Keras' Adam, AdamW or Nadam continues here, and back, by conversion of its files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import jax
import keras
import numpy as np
import pytest
import torch
from test_convert_adam import train

from rmsprop import InputError, profile
from rmsprop.checkpoint import Checkpoint, ParameterState, convert, plan, read, write
from rmsprop.torch import RMSprop

# NumPy warns whenever Keras turns one of its variables into an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

STEPS = 12
SHAPES = ((5,), (3, 2))
KEEP = {"0": {"transpose": [0]}, "1": {"transpose": [0, 1]}}
BETAS: dict[str, Any] = {"beta_1": 0.8, "beta_2": 0.9}
KNOWN: dict[str, Any] = {"momentum": 0.8, "decay": 0.9, "weight_decay": 0.0}
# {name: Keras' class, its options, kind, what a .weights.h5 does not state}
RUNS: dict[str, tuple[Any, dict[str, Any], str, dict[str, Any]]] = {
    "Adam": (keras.optimizers.Adam, {"epsilon": 0.0}, "keras-adam", {"eps": 0.0}),
    "amsgrad": (keras.optimizers.Adam, {"epsilon": 0.0, "amsgrad": True}, "keras-adam", {"eps": 0.0}),
    "AdamW": (keras.optimizers.AdamW, {"epsilon": 0.0, "weight_decay": 0.2}, "keras-adam",
              {"eps": 0.0, "weight_decay": 0.2}),
    "Nadam": (keras.optimizers.Nadam, {"epsilon": 1e-3}, "keras-nadam", {"eps": 1e-3}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    keras.config.set_floatx("float64")
    with jax.enable_x64(True):
        yield
    keras.config.set_floatx("float32")
    torch.set_default_dtype(torch.float32)


def start() -> list[Any]:
    generator = np.random.default_rng(1)
    return [keras.Variable(generator.standard_normal(shape), dtype=keras.config.floatx()) for shape in SHAPES]


def built(cls: Any, variables: list[Any], **options: Any) -> Any:
    optimizer = cls(2**-7, **{**BETAS, **options})
    optimizer.build(variables)
    return optimizer


def steps(optimizer: Any, variables: list[Any], numbers: range) -> None:
    """Take the steps of `train` of test_convert_adam.py in Keras."""
    for step in numbers:
        generator = torch.Generator().manual_seed(step)
        grads = [torch.randn(shape, generator=generator).numpy() * 10.0 ** (step % 5 - 2) for shape in SHAPES]
        optimizer.apply([keras.ops.convert_to_tensor(g, v.dtype) for g, v in zip(grads, variables, strict=True)])


def arrays(variables: list[Any]) -> list[Any]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def save(optimizer: Any, path: Path) -> Path:
    """Write a .weights.h5 of the optimizer's variables, as `keras.Model.save_weights` does."""
    with h5py.File(path, "w") as file:
        optimizer.save_own_variables(file.create_group("optimizer/vars"))
    return path


def load(optimizer: Any, path: Path) -> None:
    with h5py.File(path) as file:
        optimizer.load_own_variables(file["optimizer/vars"])


@pytest.mark.parametrize("floatx", ["float64", "float32"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_keras_continues_here_and_back_as_if_uninterrupted(name: str, floatx: str, tmp_path: Path) -> None:
    cls, options, kind, more = RUNS[name]
    keras.config.set_floatx(floatx)
    torch.set_default_dtype(getattr(torch, floatx))
    variables = start()
    theirs = built(cls, variables, **options)
    steps(theirs, variables, range(STEPS))
    half = arrays(variables)
    source = read(save(theirs, tmp_path / "a.weights.h5"), kind, **{**KNOWN, **more})
    moved = convert(source, "rmsprop.torch", mapping=KEEP)
    assert not [note for note in moved.notes if "another rule" in note]
    write(moved.checkpoint, tmp_path / "b.pt")
    params = [torch.nn.Parameter(torch.from_numpy(p)) for p in half]
    ours = RMSprop(params)
    ours.load_state_dict(torch.load(tmp_path / "b.pt"))
    train(ours, params, range(STEPS, 2 * STEPS))
    torch.save(ours.state_dict(), tmp_path / "c.pt")
    back = convert(read(tmp_path / "c.pt"), kind, mapping=KEEP)
    assert not [note for note in back.notes if "another rule" in note]
    write(back.checkpoint, tmp_path / "d.weights.h5")
    ended = start()
    for variable, p in zip(ended, params, strict=True):
        variable.assign(p.detach().numpy())
    again = built(cls, ended, **options)
    load(again, tmp_path / "d.weights.h5")
    steps(again, ended, range(2 * STEPS, 3 * STEPS))
    steps(theirs, variables, range(STEPS, 3 * STEPS))
    tolerance = 1e-12 if floatx == "float64" else 2e-5
    for p, q in zip(arrays(ended), arrays(variables), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


def test_the_epsilon_of_keras_is_said_to_be_another(tmp_path: Path) -> None:
    """Keras divides by √v + ε before it corrects the bias of v: ε counts 1/√(1−βᵗ) times."""
    variables = start()
    adam = built(keras.optimizers.Adam, variables, epsilon=1e-3)
    steps(adam, variables, range(4))
    source = read(save(adam, tmp_path / "a.weights.h5"), "keras-adam", eps=1e-3, **KNOWN)
    factor = math.sqrt(1 - 0.9**5)
    words = "(in the next step ε is {:.4g} times as large)"
    for to in ("rmsprop.torch", "adam"):
        (note,) = [note for note in convert(source, to, mapping=KEEP).notes if "another rule" in note]
        assert note.startswith(f"keras-adam adds ε before the bias correction of v, {to} after it")
        assert words.format(factor) in note
    moved = convert(source, "rmsprop.torch", mapping=KEEP)
    (note,) = [note for note in convert(moved.checkpoint, "keras-adam", mapping=KEEP).notes if "another rule" in note]
    assert words.format(1 / factor) in note
    # The next step of Keras is that of the rule with the ε of the note.
    eps = 1e-3 / factor
    write(moved.checkpoint, tmp_path / "b.pt")
    params = [torch.nn.Parameter(torch.from_numpy(p)) for p in arrays(variables)]
    ours = RMSprop(params)
    ours.load_state_dict(torch.load(tmp_path / "b.pt"))
    ours.param_groups[0]["eps"] = eps
    train(ours, params, range(4, 5))
    steps(adam, variables, range(4, 5))
    for p, q in zip(params, arrays(variables), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-12, atol=1e-14)


def test_once_bias_correction_has_no_effect_nothing_is_said_of_epsilon() -> None:
    rule = {**dataclasses.asdict(profile("adam")), "decay": 0.5}
    for step, said in ((52, True), (54, False)):
        state = ParameterState("0", np.ones(3), momentum_buffer=np.ones(3), step=step)
        notes = convert(Checkpoint("keras-adam", (state,), (rule,)), "rmsprop.torch").notes
        assert any("adds ε before" in note for note in notes) == said


def test_rmsprop_torch_is_no_exact_alternative_for_the_epsilon_of_keras() -> None:
    rule = {**dataclasses.asdict(profile("adam"))}
    state = ParameterState("0", np.ones(3), momentum_buffer=np.ones(3), step=3)
    for kind, exact in (("keras-adam", False), ("adam", True)):
        notes = [note for note in convert(Checkpoint(kind, (state,), (rule,)), "torch").notes if "another rule" in note]
        assert [note.endswith("--to rmsprop.torch follows it exactly") for note in notes] == [exact, exact]


def test_plain_rmsprop_from_keras_adam_keeps_v_and_says_what_is_dropped(tmp_path: Path) -> None:
    variables = start()
    adam = built(keras.optimizers.Adam, variables, amsgrad=True)
    steps(adam, variables, range(4))
    source = read(save(adam, tmp_path / "a.weights.h5"), "keras-adam", eps=1e-7, **KNOWN)
    moved = convert(source, "keras")
    assert [note.partition(":")[0] for note in moved.notes if "another rule" in note] == [
        "momentum_buffer is dropped, as it averages gradients",
        "max_square_avg is dropped, as the target divides by square_avg",
        "keras has no bias correction",
        "keras-adam divides by √v + ε, keras by √(v + ε)",
    ]
    write(moved.checkpoint, tmp_path / "b.weights.h5")
    plain = keras.optimizers.RMSprop()
    plain.build(variables)
    load(plain, tmp_path / "b.weights.h5")
    for p, q in zip(arrays(plain._velocities), arrays(adam._velocities), strict=True):
        assert (p == q).all()


# -- what the file tells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("cls", "options", "kind", "fields"),
    [
        (keras.optimizers.Adam, {"amsgrad": True, "use_ema": True}, "keras-adam", {"amsgrad": True}),
        (keras.optimizers.AdamW, {"weight_decay": 0.25}, "keras-adam", {"weight_decay": 0.25, "amsgrad": False}),
        (keras.optimizers.Nadam, {}, "keras-nadam", {"momentum_decay": 1.0, "nesterov": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_whole_model_states_its_optimizer(
    cls: Any, options: dict[str, Any], kind: str, fields: dict[str, Any], ending: str, tmp_path: Path
) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(cls(0.25, epsilon=0.125, **BETAS, **options))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.apply([np.ones(v.shape) for v in model.trainable_variables])
    path = tmp_path / f"a{ending}"
    model.save(path)
    source = read(path)
    expected = {"lr": 0.25, "momentum": 0.8, "decay": 0.9, "eps": 0.125, **fields}
    assert source.kind == kind
    assert {name: source.groups[0][name] for name in expected} == expected
    doubled = [
        dataclasses.replace(p, **{name: 2 * getattr(p, name) for name in ("square_avg", "momentum_buffer")}, step=7)
        for p in source.parameters
    ]
    write(dataclasses.replace(source, parameters=tuple(doubled)), tmp_path / f"b{ending}", like=path)
    for p, q in zip(read(tmp_path / f"b{ending}").parameters, source.parameters, strict=True):
        for name in ("square_avg", "momentum_buffer"):
            assert (getattr(p, name) == 2 * getattr(q, name)).all()
        assert p.step == 7
    if ending == ".keras":  # Keras restores no optimizer from an .h5
        again = keras.saving.load_model(tmp_path / f"b{ending}").optimizer
        assert int(again.iterations) == 7
        for p, q in zip(arrays(again._velocities), arrays(model.optimizer._velocities), strict=True):
            assert (p == 2 * q).all()
        if kind == "keras-nadam":
            product = math.prod(0.8 * (1 - 0.5 * 0.96**i) for i in range(1, 8))
            assert math.isclose(float(again._u_product), product, rel_tol=1e-6)
    for wrong in {"keras", "keras-adam", "keras-nadam"} - {kind}:
        with pytest.raises(InputError, match=rf"must be the state of .*, got that of {cls.__name__}; check --from"):
            read(path, wrong)


def test_accumulated_batches_are_no_steps(tmp_path: Path) -> None:
    """`iteration` counts batches: bias correction needs their number divided by those of a step."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=3))
    model.optimizer.build(model.trainable_variables)
    for _ in range(7):
        model.optimizer.apply([np.ones(v.shape) for v in model.trainable_variables])
    model.save(tmp_path / "a.keras")
    source = read(tmp_path / "a.keras")
    assert (source.step, source.notes) == (2, ("gradients accumulated over 1 of 3 batches are dropped",))
    write(source, tmp_path / "b.keras", like=tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "b.keras").optimizer
    assert (int(again._iterations), int(again.iterations)) == (6, 2)
    assert not any(p.any() for p in arrays(again._accumulated_gradients))


def test_weights_alone_need_the_kind_and_amsgrad_only_where_shapes_do_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("optimizer/vars")
        group["0"], group["1"] = np.int32(1), np.float32(0.5)
        for i in range(2, 8):  # two variables with amsgrad, or three without
            group[str(i)] = np.full(3, float(i))
    with pytest.raises(InputError, match=r"^amsgrad must be known .* pass --amsgrad or --no-amsgrad$"):
        read(path, "keras-adam")
    three, two = read(path, "keras-adam", amsgrad=False), read(path, "keras-adam", amsgrad=True)
    assert [p.square_avg[0] for p in three.parameters] == [3, 5, 7]  # type: ignore[index]
    assert [(p.square_avg[0], p.max_square_avg[0]) for p in two.parameters] == [(3, 6), (5, 7)]  # type: ignore[index]
    with h5py.File(path, "r+") as file:
        del file["optimizer/vars/3"]
        file["optimizer/vars/3"] = np.ones(2)
    with pytest.raises(InputError, match=r"got 6 that do not fall into 2 equal blocks; check --from and --amsgrad"):
        read(path, "keras-adam")


def test_a_product_of_other_momenta_is_refused(tmp_path: Path) -> None:
    variables = start()
    nadam = built(keras.optimizers.Nadam, variables)
    steps(nadam, variables, range(3))
    path = save(nadam, tmp_path / "a.weights.h5")
    with pytest.raises(
        InputError, match=r"^mu_product of .* after 3 steps, got 0\..*; its betas or momentum_decay changed"
    ):
        read(path, "keras-nadam", **{**KNOWN, "momentum": 0.9}, eps=1e-7)
    unknown = dataclasses.replace(read(path, "keras-nadam"), kind="keras-nadam")
    with pytest.raises(InputError, match=r"^momentum must be known, as Keras keeps a product of momenta"):
        write(unknown, tmp_path / "b.weights.h5")


def test_the_schedule_of_nadam_is_that_of_its_library() -> None:
    state = ParameterState("0", np.ones(3), momentum_buffer=np.ones(3), step=3)
    torch_s = Checkpoint("nadam", (state,), (dataclasses.asdict(profile("nadam")),))
    assert plan(torch_s, "keras-nadam").problems == ("impossible: keras-nadam has momentum_decay=1.0, not 0.004",)
    keras_s = Checkpoint("keras-nadam", (state,), (dataclasses.asdict(profile("nadam", momentum_decay=1.0)),))
    assert not plan(keras_s, "nadam").problems
    assert plan(keras_s, "keras-adam").problems == (
        "impossible: keras-adam has no schedule of momentum",
        "impossible: keras-adam has no Nesterov momentum",
    )
    adam = Checkpoint("adam", (state,), (dataclasses.asdict(profile("adam")),))
    assert plan(adam, "keras-nadam").problems == ("impossible: keras-nadam has momentum_decay=1.0, not 0.0",)


def test_our_keras_optimizer_keeps_the_maximum_of_amsgrad(tmp_path: Path) -> None:
    rule = dataclasses.asdict(profile("amsgrad"))
    states = tuple(
        ParameterState(
            str(i), np.full(2, 1.0 + i), momentum_buffer=np.ones(2), step=3, max_square_avg=np.full(2, 5.0 + i)
        )
        for i in range(2)
    )
    write(Checkpoint("rmsprop.keras", states, (rule,)), tmp_path / "a.weights.h5")
    again = read(tmp_path / "a.weights.h5", "rmsprop.keras", momentum=0.9, amsgrad=True)
    assert [p.max_square_avg[0] for p in again.parameters] == [5, 6]  # type: ignore[index]
