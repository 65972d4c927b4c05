"""rmsprop.checkpoint: states read from real files, converted by the formulas, and training continued exactly."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from cases import STATE
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rmsprop.checkpoint
import rmsprop.jax
from rmsprop import InputError, Rule, State, update
from rmsprop.checkpoint import KINDS, Checkpoint, ParameterState, convert, plan, read, write
from rmsprop.torch import RMSprop

Arrays = list[np.ndarray[Any, Any]]
SHAPES = ((4, 3), (3,), (2, 3, 5), ())
MIDDLE = cases.STEPS // 2
RULE = {
    "lr": 0.03, "decay": 0.8, "eps": 0.02, "momentum": 0.6, "weight_decay": 0.0, "centered": True,
}  # fmt: skip

# The kinds whose momentum buffer sums updates; test_convert_adam.py has the others.
OF_UPDATES = [name for name, kind in KINDS.items() if kind.written and not kind.fixed.get("first_moment")]


def split(x: np.ndarray[Any, Any]) -> Arrays:
    """Cut 46 numbers into arrays of SHAPES."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
    return [part.reshape(shape) for part, shape in zip(np.split(x[: ends[-1]], ends[:-1]), SHAPES, strict=True)]


def start_and_gradients() -> tuple[Arrays, list[Arrays]]:
    start, gradients = cases.problem(np.float64, 60)
    return split(start), [split(g) for g in gradients]


def torch_steps(
    optimizer: torch.optim.Optimizer, gradients: list[Arrays], rate: Callable[[int], float], first: int = 1
) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t, now in enumerate(gradients, start=first):
        for group in optimizer.param_groups:
            group["lr"] = rate(t)
        for p, g in zip(params, now, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()


def tensors(arrays: Arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(a.copy()) for a in arrays]


def same(params: list[torch.Tensor], other: list[Any], tolerance: float = 1e-12) -> None:
    for p, q in zip(params, other, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), np.asarray(q), rtol=tolerance, atol=tolerance)


MOMENTUM: dict[str, Any] = {"momentum": 0.6}


def checkpoint(kind: str, *, seed: int = 0, dtype: Any = np.float64, **fields: Any) -> Checkpoint:
    """Return a state of `kind` with every average; parameters are named by index."""
    generator = np.random.default_rng(seed)
    rule = {**dataclasses.asdict(Rule()), **RULE, "lr_in_momentum": True, **fields, **KINDS[kind].fixed}
    states = tuple(
        ParameterState(
            str(i),
            (generator.random(shape) + 0.1).astype(dtype),
            np.asarray(generator.standard_normal(shape)).astype(dtype) * 0.1 if rule["centered"] else None,
            np.asarray(generator.standard_normal(shape)).astype(dtype) if rule["momentum"] else None,
            7,
        )
        for i, shape in enumerate(SHAPES)
    )
    return Checkpoint(kind, states, (rule,))


def equal(a: Checkpoint, b: Checkpoint) -> None:
    """Assert that two states are equal bit for bit, with dtypes and names."""
    assert [p.name for p in a.parameters] == [p.name for p in b.parameters]
    for p, q in zip(a.parameters, b.parameters, strict=True):
        for name in STATE:
            x, y = getattr(p, name), getattr(q, name)
            assert (x is None) == (y is None), name
            if x is not None:
                assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def problems(*arguments: Any, **options: Any) -> list[str]:
    return list(plan(*arguments, **options).problems)


KEEP = {str(i): {"transpose": list(range(len(shape)))} for i, shape in enumerate(SHAPES)}

# -- a run continues exactly ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_every_rule_continues_in_our_torch_bit_for_bit(rule: Rule, ending: str, tmp_path: Path) -> None:
    """Save and load in the middle of the run, where the rate changes."""
    start, gradients = start_and_gradients()
    whole = RMSprop.from_rule(tensors(start), rule)
    torch_steps(whole, gradients[:MIDDLE], cases.lr_at)
    half = [p.clone() for p in whole.param_groups[0]["params"]]
    torch.save({"model": {}, "optimizer": whole.state_dict()}, tmp_path / "a.pt")
    source = read(tmp_path / "a.pt")
    assert (source.kind, source.step) == ("rmsprop.torch", MIDDLE)
    write(convert(source, "rmsprop.torch").checkpoint, tmp_path / f"b{ending}")
    again = read(tmp_path / f"b{ending}")
    equal(again, source)
    write(again, tmp_path / "c.pt")
    later = RMSprop(half)
    later.load_state_dict(torch.load(tmp_path / "c.pt", weights_only=True))
    for optimizer in (whole, later):
        torch_steps(optimizer, gradients[MIDDLE:], cases.lr_at, MIDDLE + 1)
    assert all(torch.equal(p, q) for p, q in zip(whole.param_groups[0]["params"], half, strict=True))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_a_torch_run_continues_in_torch_and_in_ours(centered: bool, momentum: float, tmp_path: Path) -> None:
    start, gradients = start_and_gradients()
    whole = torch.optim.RMSprop(
        tensors(start), lr=0.03, alpha=0.8, eps=0.02, momentum=momentum, centered=centered, weight_decay=0.1
    )
    torch_steps(whole, gradients[:MIDDLE], cases.lr_at)
    half = [p.numpy().copy() for p in whole.param_groups[0]["params"]]
    torch.save(whole.state_dict(), tmp_path / "a.pt")
    torch_steps(whole, gradients[MIDDLE:], cases.lr_at, MIDDLE + 1)
    for number, cls in enumerate((torch.optim.RMSprop, RMSprop)):
        to = ("torch", "rmsprop.torch")[number]
        path = tmp_path / f"{number}.pt"
        write(convert(read(tmp_path / "a.pt"), to).checkpoint, path)
        later = cls(tensors(half))
        later.load_state_dict(torch.load(path, weights_only=True))
        torch_steps(later, gradients[MIDDLE:], cases.lr_at, MIDDLE + 1)
        same(later.param_groups[0]["params"], [p.numpy() for p in whole.param_groups[0]["params"]])


def to_file(state: Any, path: Path) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    np.savez(path, **{jax.tree_util.keystr(keys, simple=True, separator="/"): x for keys, x in leaves})


def from_file(state: Any, path: Path) -> Any:
    file = np.load(path)
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: jnp.asarray(file[jax.tree_util.keystr(keys, simple=True, separator="/")]), state
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.6])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_optax_goes_on_in_ours_and_the_other_way(
    centered: bool, corrected: bool, momentum: float | None, nesterov: bool, tmp_path: Path
) -> None:
    """Every trait of optax.rmsprop. The rate changes where the run moves; ours keeps it in the buffer as optax does."""
    if nesterov and not momentum:
        pytest.skip("Nesterov needs momentum")
    with jax.enable_x64(True):
        start, gradients = start_and_gradients()

        def make(t: int) -> Any:
            return optax.rmsprop(
                cases.lr_at(t), 0.8, 0.02, centered=centered, momentum=momentum, nesterov=nesterov,
                bias_correction=corrected,
            )  # fmt: skip

        def steps(params: Any, state: Any, first: int, last: int) -> Any:
            for t in range(first, last):
                now = {str(i): jnp.asarray(g) for i, g in enumerate(gradients[t - 1])}
                change, state = make(t).update(now, state, params)
                params = optax.apply_updates(params, change)
            return params, state

        params: Any = {str(i): jnp.asarray(p) for i, p in enumerate(start)}
        half, state = steps(params, make(1).init(params), 1, MIDDLE + 1)
        end, _ = steps(half, state, MIDDLE + 1, cases.STEPS + 1)
        to_file(state, tmp_path / "a.npz")
        known = (MOMENTUM if momentum else {}) | ({"centered": True} if centered and corrected else {})
        source = read(tmp_path / "a.npz", decay=0.8, eps=0.02, nesterov=nesterov, **known)
        moved = convert(source, "rmsprop.torch", lr=cases.lr_at(MIDDLE + 1), mapping=KEEP)
        write(moved.checkpoint, tmp_path / "b.pt")
        ours = RMSprop(tensors([np.asarray(half[str(i)]) for i in range(len(SHAPES))]))
        ours.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
        torch_steps(ours, gradients[MIDDLE:], cases.lr_at, MIDDLE + 1)
        same(ours.param_groups[0]["params"], [end[str(i)] for i in range(len(SHAPES))])

        back = convert(read(tmp_path / "b.pt"), "optax", mapping=KEEP)
        write(back.checkpoint, tmp_path / "c.npz")
        once_more, _ = steps(half, from_file(make(1).init(params), tmp_path / "c.npz"), MIDDLE + 1, cases.STEPS + 1)
        same(ours.param_groups[0]["params"], [once_more[str(i)] for i in range(len(SHAPES))])
        equal(read(tmp_path / "c.npz", **known), source)


@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_every_rule_continues_from_our_jax_in_our_torch(rule: Rule, tmp_path: Path) -> None:
    with jax.enable_x64(True):
        start, gradients = start_and_gradients()
        params: Any = {str(i): jnp.asarray(p) for i, p in enumerate(start)}
        state = rmsprop.jax.rmsprop(rule).init(params)
        for t in range(1, cases.STEPS + 1):
            if t == MIDDLE + 1:
                half, kept = params, state
            now = {str(i): jnp.asarray(g) for i, g in enumerate(gradients[t - 1])}
            optimizer = rmsprop.jax.rmsprop(dataclasses.replace(rule, lr=cases.lr_at(t)))
            change, state = optimizer.update(now, state, params)
            params = optax.apply_updates(params, change)
        to_file(kept, tmp_path / "a.npz")
    known = {name: value for name, value in dataclasses.asdict(rule).items() if name != "lr"}
    moved = convert(read(tmp_path / "a.npz", **known), "rmsprop.torch", lr=0.03, mapping=KEEP)
    write(moved.checkpoint, tmp_path / "b.pt")
    ours = RMSprop(tensors([np.asarray(half[str(i)]) for i in range(len(SHAPES))]))
    ours.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    torch_steps(ours, gradients[MIDDLE:], cases.lr_at, MIDDLE + 1)
    same(ours.param_groups[0]["params"], [params[str(i)] for i in range(len(SHAPES))], 1e-11)
    write(convert(read(tmp_path / "b.pt"), "rmsprop.jax", mapping=KEEP).checkpoint, tmp_path / "c.npz")
    with jax.enable_x64(True):
        again = from_file(kept, tmp_path / "c.npz")
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, kept))


@pytest.mark.parametrize("to", OF_UPDATES)
@pytest.mark.parametrize("kind", OF_UPDATES)
def test_at_a_constant_rate_the_converted_state_gives_the_same_steps(kind: str, to: str) -> None:
    """Run the rule on both states; all traits but the one of the buffer are set alike."""
    source = checkpoint(kind)
    target = convert(source, to, mapping=KEEP).checkpoint
    gradients = start_and_gradients()[1]
    for i, (a, b) in enumerate(zip(source.parameters, target.parameters, strict=True)):
        results = []
        for p, group in ((a, source.groups[0]), (b, target.groups[0])):
            assert p.square_avg is not None
            rule = Rule(**{**RULE, "lr_in_momentum": group["lr_in_momentum"]})
            param, state = np.zeros(SHAPES[i]), State(7, p.square_avg, p.grad_avg, p.momentum_buffer)
            for now in gradients:
                param, state = update(rule, param, now[i], state)
            results.append(param)
        np.testing.assert_allclose(results[0], results[1], rtol=1e-12, atol=1e-12)
    assert target.groups[0]["lr_in_momentum"] == {"torch": False, "sb3": False}.get(
        to, KINDS[to].fixed.get("lr_in_momentum", source.groups[0]["lr_in_momentum"])
    )


# -- bit for bit ------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_a_state_survives_the_way_to_any_kind_and_back(data: st.DataObject) -> None:
    """Copies, signs and permutations lose nothing. The rate is a power of two: multiplying and dividing are exact."""
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=3))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    width = np.dtype(dtype).itemsize * 8
    large = st.floats(0.0625, 16, width=width)  # type: ignore[arg-type]  # 16, 32 or 64
    arrays = hnp.arrays(dtype, shape, elements=large)
    sign = data.draw(st.sampled_from([-1, 1]))
    v, m, b = data.draw(arrays), data.draw(arrays), data.draw(arrays) * dtype(sign)
    origin, stop = (data.draw(st.sampled_from(OF_UPDATES)) for _ in range(2))
    axes = data.draw(st.permutations(range(len(shape))))
    fields = {**dataclasses.asdict(Rule()), **RULE, "lr": 0.125, "lr_in_momentum": True, **KINDS[origin].fixed}
    source = Checkpoint(origin, (ParameterState("0", v, m, b, 3),), (fields,))
    there = convert(source, stop, mapping={"0": {"to": "0", "transpose": axes}}).checkpoint
    assert there.parameters[0].square_avg is not None
    assert there.parameters[0].square_avg.shape == tuple(shape[axis] for axis in axes)
    back = convert(there, origin, mapping={"0": {"transpose": [axes.index(i) for i in range(len(axes))]}}).checkpoint
    if back.groups[0]["lr_in_momentum"] == fields["lr_in_momentum"]:  # otherwise it came back as b, which is M/η
        equal(back, source)
    else:
        assert back.parameters[0].momentum_buffer is not None
        assert (back.parameters[0].momentum_buffer * dtype(0.125) == b).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "complex64"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz", ".msgpack", ".weights.h5"])
def test_files_keep_every_dtype_or_refuse_it(ending: str, dtype: str, tmp_path: Path) -> None:
    names = {".npz": "rmsprop.jax", ".msgpack": "rmsprop.jax", ".weights.h5": "keras"}
    name = names.get(ending, "rmsprop.torch")
    if name != "rmsprop.torch" and dtype == "complex64":
        pytest.skip("no state of JAX and Keras is moved in complex numbers")
    kind = np.dtype(jnp.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    source = checkpoint(name, dtype=kind)
    path = tmp_path / f"a{ending}"
    if (ending, dtype) == (".npz", "bfloat16"):
        with pytest.raises(InputError, match=ending):
            write(source, path)
        assert not list(tmp_path.iterdir())
        return
    write(source, path)
    assert list(tmp_path.iterdir()) == [path]
    equal(read(path, momentum=0.6, centered=True), source)


def test_a_quotient_is_rounded_once() -> None:
    source = checkpoint("keras", dtype=np.float32)
    target = convert(source, "sb3", lr=0.001, mapping=KEEP).checkpoint
    for p, q in zip(source.parameters, target.parameters, strict=True):
        assert p.momentum_buffer is not None
        assert q.momentum_buffer is not None
        exact = p.momentum_buffer.astype(np.float64) / 0.001
        assert (q.momentum_buffer == exact.astype(np.float32)).all()
        assert (np.abs(q.momentum_buffer - exact) <= 0.5 * np.spacing(np.abs(q.momentum_buffer))).all()


# -- what the files of each kind hold ---------------------------------------------------------------------------------


def test_groups_frozen_parameters_and_names_survive(tmp_path: Path) -> None:
    """Two groups have their own rates, and one parameter never had a gradient."""
    layer, other = torch.nn.Linear(2, 3).double(), torch.nn.Linear(3, 1).double()
    groups: Any = [
        {"params": [(f"a.{n}", p) for n, p in layer.named_parameters()], "lr": 0.25},
        {"params": [(f"b.{n}", p) for n, p in other.named_parameters()], "lr": 0.5, "momentum": 0.5},
    ]
    optimizer = torch.optim.RMSprop(groups)
    other.bias.requires_grad_(False)
    other(layer(torch.ones(1, 2).double())).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    source = read(tmp_path / "a.pt")
    assert [(p.name, p.group) for p in source.parameters] == [
        ("a.weight", 0), ("a.bias", 0), ("b.weight", 1), ("b.bias", 1)
    ]  # fmt: skip
    assert source.parameters[3].square_avg is None
    timm = convert(source, "timm").checkpoint
    assert timm.groups[1]["lr_in_momentum"] is False  # timm can keep b itself
    moved = convert(source, "rmsprop.torch")
    write(moved.checkpoint, tmp_path / "b.pt")
    saved = torch.load(tmp_path / "b.pt", weights_only=True)
    assert [group["lr"] for group in saved["param_groups"]] == [0.25, 0.5]
    assert list(saved["state"]) == [0, 1, 2]
    RMSprop(groups).load_state_dict(saved)
    torch.optim.RMSprop(groups).load_state_dict(saved)
    assert any("group: lr, momentum differ" in words for words in problems(source, "keras", mapping={}))
    with pytest.raises(InputError, match=r"the source's groups have different rates; omit lr"):
        convert(source, "rmsprop.torch", lr=0.1)


def test_timm_s_buffer_is_m_unless_its_group_says_otherwise(tmp_path: Path) -> None:
    """A timm state dict loads into torch without an error; then its first steps would be too short by the rate."""
    group = {
        "lr": 0.25, "momentum": 0.5, "alpha": 0.9, "eps": 1e-10, "centered": False, "weight_decay": 0.0,
        "decoupled_decay": False, "lr_in_momentum": True, "caution": False, "params": [0],
    }  # fmt: skip
    state = {"step": 3, "square_avg": torch.ones(2), "momentum_buffer": torch.tensor([1.0, -2.0])}
    for inside, expected in ((True, [4.0, -8.0]), (False, [1.0, -2.0])):
        saved = {"state": {0: state}, "param_groups": [{**group, "lr_in_momentum": inside}]}
        path = tmp_path / f"{inside}.pt"
        torch.save(saved, path)
        source = read(path)
        assert (source.kind, source.groups[0]["lr_in_momentum"]) == ("timm", inside)
        torch_buffer = convert(source, "torch").checkpoint.parameters[0].momentum_buffer
        assert torch_buffer is not None
        assert torch_buffer.tolist() == expected
        write(source, tmp_path / f"{inside} again.pt")
        (again,) = torch.load(tmp_path / f"{inside} again.pt", weights_only=True)["param_groups"]
        assert again == saved["param_groups"][0]  # type: ignore[index]
    torch.save({"state": {0: state}, "param_groups": [{**group, "caution": True}]}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="caution"):
        read(tmp_path / "c.pt")


def test_averages_that_the_rule_does_not_use_are_dropped(tmp_path: Path) -> None:
    """Momentum that was switched off during a run leaves its buffer in the state."""
    write(checkpoint("torch"), tmp_path / "a.pt")
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    saved["param_groups"][0] |= {"momentum": 0, "centered": False}
    torch.save(saved, tmp_path / "b.pt")
    assert all(p.momentum_buffer is None and p.grad_avg is None for p in read(tmp_path / "b.pt").parameters)
    del saved["state"][1]["square_avg"]
    torch.save(saved, tmp_path / "c.pt")
    with pytest.raises(InputError, match="with square_avg"):
        read(tmp_path / "c.pt")


def test_torch_and_sb3_groups_look_alike_without_later_arguments(tmp_path: Path) -> None:
    write(checkpoint("sb3"), tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["state"][0]["step"] == 7
    with pytest.raises(InputError, match="--from torch or --from sb3"):
        read(tmp_path / "a.pth")
    equal(read(tmp_path / "a.pth", "sb3"), checkpoint("sb3"))


@pytest.mark.parametrize("eightbit", [False, True])
def test_bitsandbytes_is_read(eightbit: bool, tmp_path: Path) -> None:
    """256 codes share a scale; the layout is that of bitsandbytes 0.49."""
    generator = torch.Generator().manual_seed(0)
    own: dict[str, Any] = {"state1": torch.rand(20, 30, generator=generator)}
    expected = own["state1"].numpy()
    if eightbit:
        table, scales = torch.linspace(-1, 1, 256), torch.rand(3, generator=generator)
        codes = torch.randint(128, 256, (20, 30), generator=generator, dtype=torch.uint8)
        own = {"state1": codes, "qmap1": table, "absmax1": scales}
        expected = table.numpy()[codes] * np.repeat(scales.numpy(), 256)[:600].reshape(20, 30)
    group = {"lr": 0.01, "betas": (0.95, 0.9), "eps": 1e-8, "weight_decay": 0.1, "params": [0]}
    saved = {"state": {0: {"step": 2, "__bnb_optimizer_quant_state__": own}}, "param_groups": [group]}
    torch.save(saved, tmp_path / "a.pt")
    source = read(tmp_path / "a.pt")
    assert (source.kind, source.step, source.groups[0]["decay"]) == ("bitsandbytes", 2, 0.95)
    assert source.groups[0]["momentum"] == 0.0  # bitsandbytes accepts betas[1] and never uses it
    assert source.parameters[0].square_avg is not None
    assert (source.parameters[0].square_avg == expected).all()
    assert convert(source, "torch").checkpoint.groups[0]["weight_decay"] == 0.1
    with pytest.raises(InputError, match="only read"):
        convert(source, "bitsandbytes")


def test_optax_trees_by_any_usual_name_and_with_a_schedule(tmp_path: Path) -> None:
    params = {"a": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}}
    chain = optax.chain(optax.clip(1.0), optax.rmsprop(optax.constant_schedule(0.1), momentum=0.5))
    _, state = chain.update(jax.tree.map(jnp.ones_like, params), chain.init(params), params)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    np.savez(tmp_path / "a.npz", **{jax.tree_util.keystr(keys): x for keys, x in leaves})
    source = read(tmp_path / "a.npz")
    assert ([p.name for p in source.parameters], source.step) == (["a/b", "a/w"], 1)
    to_file(state, tmp_path / "like.npz")
    changed = dataclasses.replace(source, parameters=tuple(dataclasses.replace(p, step=9) for p in source.parameters))
    write(
        convert(changed, "optax", like=read(tmp_path / "like.npz")).checkpoint,
        tmp_path / "b.npz",
        like=tmp_path / "like.npz",
    )
    again = from_file(state, tmp_path / "b.npz")
    assert str(jax.tree.structure(again)) == str(jax.tree.structure(state))
    assert again[1][1].count == 9
    assert (again[1][2].trace["a"]["w"] == state[1][2].trace["a"]["w"]).all()


SAVE = """
import keras, numpy as np, os, sys
keras.config.set_floatx("float64")
rates = {"full": 0.5, "ema and schedule": keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)}
for form, rate in rates.items():
    folder = sys.argv[1] + "/" + form
    os.mkdir(folder)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    options = dict(momentum=0.9, centered=True) if form == "full" else dict(use_ema=True)
    model.compile(keras.optimizers.RMSprop(rate, rho=0.8, epsilon=0.25, **options))
    generator = np.random.default_rng(0)
    for _ in range(3):
        variables = model.trainable_variables
        model.optimizer.apply([generator.standard_normal(v.shape) for v in variables], variables)
    model.save(folder + "/m.keras")
    model.save_weights(folder + "/m.weights.h5")
    np.savez(folder + "/expected.npz", *[keras.ops.convert_to_numpy(v) for v in model.optimizer.variables])
"""
LOAD = """
import keras, numpy as np, sys
keras.config.set_floatx("float64")
model = keras.saving.load_model(sys.argv[1] + "/new.keras")
np.savez(sys.argv[1] + "/loaded.npz", *[keras.ops.convert_to_numpy(v) for v in model.optimizer.variables])
model.load_weights(sys.argv[1] + "/new.weights.h5")
np.savez(sys.argv[1] + "/again.npz", *[keras.ops.convert_to_numpy(v) for v in model.optimizer.variables])
"""


def in_keras(code: str, folder: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment)


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files that Keras wrote, in a folder for each form."""
    folder = tmp_path_factory.mktemp("keras")
    in_keras(SAVE, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "ema and schedule"])
def test_keras_files_are_those_of_keras(form: str, keras_files: Path) -> None:
    tmp_path, full = keras_files / form, form == "full"
    values = list(np.load(tmp_path / "expected.npz").values())
    source = read(tmp_path / "m.keras")
    assert (source.kind, source.step, len(source.parameters)) == ("keras", 3, 4)
    assert (source.groups[0]["decay"], source.groups[0]["eps"], source.groups[0].get("lr")) == (
        0.8, 0.25, 0.5 if full else None,
    )  # fmt: skip
    first = 2 if full else 5
    names = ["square_avg", *(["momentum_buffer", "grad_avg"] if full else [])]
    for block, name in enumerate(names):
        for i, p in enumerate(source.parameters):
            assert np.array_equal(getattr(p, name), values[first + 4 * block + i])
    if full:
        equal(read(tmp_path / "m.weights.h5", momentum=0.9, centered=True), source)
        with pytest.raises(InputError, match="pass --momentum"):
            read(tmp_path / "m.weights.h5")
    doubled = dataclasses.replace(
        source,
        parameters=tuple(
            dataclasses.replace(p, step=8, **{name: 2 * getattr(p, name) for name in names}) for p in source.parameters
        ),
    )
    write(doubled, tmp_path / "new.keras", like=tmp_path / "m.keras")
    if not full:
        return
    write(doubled, tmp_path / "new.weights.h5", like=tmp_path / "m.weights.h5")
    write(doubled, tmp_path / "alone.weights.h5")
    equal(read(tmp_path / "alone.weights.h5", momentum=0.9, centered=True), doubled)
    in_keras(LOAD, tmp_path)
    for name in ("loaded.npz", "again.npz"):
        found = list(np.load(tmp_path / name).values())
        assert (found[0], found[1]) == (8, 0.5)
        assert all(np.array_equal(2 * a, b) for a, b in zip(values[2:], found[2:], strict=True))


def test_sb3_archives_keep_everything_else(tmp_path: Path) -> None:
    write(checkpoint("sb3"), tmp_path / "policy.optimizer.pth")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(tmp_path / "policy.optimizer.pth", "policy.optimizer.pth")
        archive.writestr("data", "{}")
    source = read(tmp_path / "model.zip")
    equal(source, checkpoint("sb3"))
    other = checkpoint("sb3", seed=1)
    write(other, tmp_path / "new.zip", like=tmp_path / "model.zip")
    equal(read(tmp_path / "new.zip"), other)
    with zipfile.ZipFile(tmp_path / "new.zip") as archive:
        assert archive.read("data") == b"{}"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "to", "options", "words"),
    [
        (checkpoint("torch", centered=False), "torch", {"like": checkpoint("torch")}, "no average gradient"),
        (checkpoint("rmsprop.torch", nesterov=True), "torch", {}, "no Nesterov"),
        (checkpoint("optax", nesterov=True), "keras", {}, "no Nesterov"),
        (checkpoint("optax", bias_correction=True), "timm", {"mapping": KEEP}, "no bias correction"),
        (checkpoint("torch", maximize=True), "sb3", {}, "cannot maximize"),
        (checkpoint("keras", lr=0.0), "sb3", {"mapping": KEEP}, "cannot be divided"),
        (checkpoint("sb3", lr=0.0), "keras", {"mapping": KEEP}, "would be lost"),
        (checkpoint("keras", lr=None), "sb3", {"mapping": KEEP}, "unknown: lr"),
        (checkpoint("keras", decay=None), "sb3", {"mapping": KEEP}, "unknown: decay"),
        (checkpoint("keras"), "rmsprop.torch", {}, "layout: 0 (4, 3)"),
        (checkpoint("keras"), "rmsprop.torch", {"mapping": {**KEEP, "0": {"transpose": [0]}}}, "no order of its 2"),
        (checkpoint("torch"), "optax", {}, "mapping: torch has no parameter names"),
        (checkpoint("optax"), "torch", {}, "mapping: optax has no parameter order"),
        (checkpoint("torch"), "torch", {"mapping": {"9": "0"}}, "extra: the mapping names 9"),
        (checkpoint("torch"), "torch", {"mapping": {"1": "0"}}, "more than one parameter goes to 0"),
        (checkpoint("torch"), "torch", {"mapping": {"1": 3}}, "mapping: 1 must have"),
        (checkpoint("torch"), "torch", {"like": checkpoint("torch", dtype=np.float32)}, "dtype: square_avg of 0"),
        (checkpoint("torch", dtype=np.complex128), "sb3", {}, "is complex"),
    ],
    ids=lambda x: x if isinstance(x, str) and " " in x else "",
)
def test_impossible_moves_are_refused_with_the_reason(
    source: Checkpoint, to: str, options: dict[str, Any], words: str
) -> None:
    found = problems(source, to, **options)
    assert any(words in each for each in found), found
    with pytest.raises(InputError) as error:
        convert(source, to, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_adam_of_optax_is_not_taken_for_centered_rmsprop(tmp_path: Path) -> None:
    to_file(optax.adam(0.1).init({"w": jnp.ones(3)}), tmp_path / "a.npz")
    message = r"^centered must be given, got a tree that optax.adam and optax.rmsprop share; pass --centered if"
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npz")


def test_bias_correction_needs_the_number_of_steps() -> None:
    source = checkpoint("optax", bias_correction=True)
    unknown = dataclasses.replace(
        source, parameters=tuple(dataclasses.replace(p, step=None) for p in source.parameters)
    )
    assert problems(source, "rmsprop.torch", mapping=KEEP) == []
    assert problems(unknown, "rmsprop.torch", mapping=KEEP) == [
        "impossible: bias correction needs the number of steps, which the source lacks"
    ]


def test_a_template_names_what_is_missing_extra_and_of_another_shape() -> None:
    source = checkpoint("torch")
    fewer = dataclasses.replace(source, parameters=source.parameters[:3])
    assert problems(fewer, "torch", like=source) == ["missing: nothing in the source is for 3"]
    assert problems(source, "torch", like=fewer) == ["extra: nothing in the target is for 3"]
    parameters = (dataclasses.replace(p, **{name: getattr(p, name).T for name in STATE}) for p in source.parameters)
    turned = dataclasses.replace(source, parameters=tuple(parameters))
    assert problems(turned, "torch", like=source) == [
        "shape: 0 is (3, 4), 0 (4, 3)",
        "shape: 2 is (5, 3, 2), 2 (2, 3, 5)",
    ]
    mapping = {"0": {"transpose": [1, 0]}, "2": {"transpose": [2, 1, 0]}}
    equal(convert(turned, "torch", like=source, mapping=mapping).checkpoint, source)


def test_a_template_decides_what_is_kept() -> None:
    plain = checkpoint("torch", centered=False, momentum=0.0)
    dropped = convert(checkpoint("torch"), "torch", like=plain)
    assert {(p.grad_avg, p.momentum_buffer) for p in dropped.checkpoint.parameters} == {(None, None)}
    assert [note.split(",")[0] for note in dropped.notes] == ["grad_avg is dropped", "momentum_buffer is dropped"]
    begun = convert(plain, "torch", like=checkpoint("torch", centered=False))
    assert begun.checkpoint.groups[0]["momentum"] == 0.6
    assert all(p.momentum_buffer is not None and not p.momentum_buffer.any() for p in begun.checkpoint.parameters)
    narrow = checkpoint("torch", dtype=np.float32)
    wider = convert(narrow, "torch", like=checkpoint("torch")).checkpoint
    for p, q in zip(narrow.parameters, wider.parameters, strict=True):
        assert p.square_avg is not None
        assert q.square_avg is not None
        assert q.square_avg.dtype == np.float64
        assert (p.square_avg == q.square_avg).all()


def test_a_note_says_that_the_target_follows_another_rule() -> None:
    notes = " ".join(convert(checkpoint("keras", weight_decay=0.1), "torch", mapping=KEEP).notes)
    assert "keras divides by √(v + ε), torch by √v + ε" in notes
    assert "weight decay shrinks the parameters in keras, adds to the gradient in torch" in notes
    assert "while the rate is constant" in notes
    exact = convert(checkpoint("keras", weight_decay=0.1), "rmsprop.torch", mapping=KEEP)
    assert exact.notes == ()


@pytest.mark.parametrize(
    "known", [{"decay": 2.0}, {"momentum": -1}, {"alpha": 0.9, "decay": 0.9}, {"rhoo": 1}, {"decay": 0.5}]
)
def test_given_fields_are_checked_against_the_source(known: dict[str, Any], tmp_path: Path) -> None:
    write(checkpoint("torch"), tmp_path / "a.pt")
    with pytest.raises(InputError):
        read(tmp_path / "a.pt", **known)
    equal(read(tmp_path / "a.pt", decay=0.8), checkpoint("torch"))


def test_a_state_is_validated() -> None:
    with pytest.raises(InputError, match="average of squares"):
        ParameterState("w", np.array([1.0, -1.0]))
    with pytest.raises(InputError, match="shape"):
        ParameterState("w", np.ones(2), np.ones(3))
