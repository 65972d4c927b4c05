"""A run stopped in optax.adam, adamw, nadam or amsgrad continues here, and back, by conversion of its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from test_checkpoint import from_file, to_file
from test_convert_adam import STEPS, train

from rmsprop import InputError, Rule, profile
from rmsprop.checkpoint import Checkpoint, ParameterState, convert, plan, read, write
from rmsprop.cli.app import run
from rmsprop.torch import RMSprop

BETAS: dict[str, Any] = {"b1": 0.8, "b2": 0.9, "eps": 1e-3}
KNOWN: dict[str, Any] = {"momentum": 0.8, "decay": 0.9, "eps": 1e-3}
KEEP = {"0": {"transpose": [0]}, "1": {"transpose": [0, 1]}}
# {name: optax's function, its options, what files do not state}
RUNS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "adam": (optax.adam, {}, {}),
    "adamw": (optax.adamw, {"weight_decay": 0.2}, {"weight_decay": 0.2}),
    "nadam": (optax.nadam, {}, {"nesterov": True}),
    "nadamw": (optax.nadamw, {"weight_decay": 0.2}, {"weight_decay": 0.2, "nesterov": True}),
    "amsgrad": (optax.amsgrad, {"b2": 0.5}, {"decay": 0.5}),  # 0.5⁶⁰ is 0 beside 1
}


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


def start() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {str(i): jnp.asarray(generator.standard_normal(shape)) for i, shape in enumerate(((5,), (3, 2)))}


def in_torch(params: dict[str, Any]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.from_numpy(np.array(p))) for p in params.values()]


def steps(optimizer: Any, params: Any, state: Any, numbers: range) -> tuple[Any, Any]:
    """Take the steps of `train` of test_convert_adam.py in optax."""
    for step in numbers:
        generator = torch.Generator().manual_seed(step)
        grads = {
            name: jnp.asarray(torch.randn(p.shape, generator=generator).numpy() * 10.0 ** (step % 5 - 2))
            for name, p in params.items()
        }
        change, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, change)
    return params, state


def stopped(cls: Any, count: int, path: Path, **options: Any) -> tuple[Any, Any]:
    """Return parameters and state after `count` steps; write the state."""
    optimizer = cls(0.01, **{**BETAS, **options})
    params, state = steps(optimizer, start(), optimizer.init(start()), range(count))
    to_file(state, path)
    return params, state


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_optax_continues_here_and_back_as_if_uninterrupted(name: str, tmp_path: Path) -> None:
    cls, options, more = RUNS[name]
    known = {**KNOWN, **more}
    half, state = stopped(cls, STEPS, tmp_path / "a.npz", **options)
    kind = None if name == "amsgrad" else "optax-adam"  # nu_max is Adam's alone
    moved = convert(read(tmp_path / "a.npz", kind, **known), "rmsprop.torch", lr=0.02, mapping=KEEP)
    assert not [note for note in moved.notes if "another rule" in note]
    write(moved.checkpoint, tmp_path / "b.pt")
    params = in_torch(half)
    ours = RMSprop(params)
    ours.load_state_dict(torch.load(tmp_path / "b.pt"))
    train(ours, params, range(STEPS, 2 * STEPS))
    torch.save(ours.state_dict(), tmp_path / "c.pt")
    back = convert(read(tmp_path / "c.pt"), "optax-adam", mapping=KEEP)
    assert not [note for note in back.notes if "another rule" in note]
    write(back.checkpoint, tmp_path / "d.npz")
    optimizer = cls(0.02, **{**BETAS, **options})
    ended = {str(i): jnp.asarray(p.detach().numpy()) for i, p in enumerate(params)}
    ended, _ = steps(optimizer, ended, from_file(state, tmp_path / "d.npz"), range(2 * STEPS, 3 * STEPS))
    expected, _ = steps(optimizer, half, state, range(STEPS, 3 * STEPS))
    for key in ended:
        np.testing.assert_allclose(ended[key], expected[key], rtol=1e-12, atol=1e-14)


def test_what_the_maximum_of_optax_becomes_while_bias_correction_matters(tmp_path: Path) -> None:
    """optax keeps max v̂, the rule max v. The divisor of the last step stays; a note says that later ones differ."""
    half, state = stopped(optax.amsgrad, 4, tmp_path / "a.npz")
    source = read(tmp_path / "a.npz", **KNOWN)
    moved = convert(source, "rmsprop.torch", lr=0.01, mapping=KEEP)
    assert [note.partition(":")[0] for note in moved.notes if "another rule" in note] == [
        "optax-adam takes the maximum after the bias correction of v, rmsprop.torch before it"
    ]
    for p, name in zip(moved.checkpoint.parameters, half, strict=True):
        assert p.max_square_avg is not None
        np.testing.assert_allclose(p.max_square_avg, (1 - 0.9**4) * state[0].nu_max[name], rtol=1e-15)
    back = convert(moved.checkpoint, "optax-adam", mapping=KEEP)
    assert [note.partition(":")[0] for note in back.notes if "another rule" in note] == [
        "rmsprop.torch takes the maximum before the bias correction of v, optax-adam after it"
    ]
    for p, name in zip(back.checkpoint.parameters, half, strict=True):
        assert p.max_square_avg is not None
        np.testing.assert_allclose(p.max_square_avg, state[0].nu_max[name], rtol=1e-15)
    no_decay = read(tmp_path / "a.npz", momentum=0.8)
    assert "unknown: decay, needed to convert max_square_avg; pass --decay" in plan(no_decay, "rmsprop.jax").problems


def test_amsgrad_that_does_not_correct_v_is_refused(tmp_path: Path) -> None:
    stopped(optax.amsgrad, 4, tmp_path / "a.npz", bias_correction_nu=False)
    problems = plan(read(tmp_path / "a.npz", **KNOWN), "rmsprop.torch", lr=0.01, mapping=KEEP).problems
    words = "is smaller than v̂, as with optax.amsgrad(bias_correction_nu=False), which no rule follows"
    assert problems == tuple(f"impossible: max_square_avg of {name} {words}" for name in "01")


def test_plain_rmsprop_from_optax_adam_keeps_v_and_says_what_is_dropped(tmp_path: Path) -> None:
    _, state = stopped(optax.adam, 4, tmp_path / "a.npz")
    moved = convert(read(tmp_path / "a.npz", "optax-adam", **KNOWN), "torch", lr=0.01, mapping=KEEP)
    assert [note.partition(":")[0] for note in moved.notes if "another rule" in note] == [
        "momentum_buffer is dropped, as it averages gradients",
        "torch has no bias correction",
    ]
    for i, p in enumerate(moved.checkpoint.parameters):
        assert p.square_avg is not None
        assert (p.square_avg == state[0].nu[str(i)]).all()
        assert p.momentum_buffer is None


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_tree_of_flax_has_the_nodes_of_optax(momentum: float, tmp_path: Path) -> None:
    """flax restores a chain only from a map with a node for each of its stages, those without state included."""
    serialization = pytest.importorskip("flax.serialization")
    for name, optimizer in (("adam", optax.adam(0.01)), ("adamw", optax.adamw(0.01, weight_decay=0.2))):
        decay = 0.2 if name == "adamw" else 0.0
        rule = Rule(**{**dataclasses.asdict(profile(name)), "weight_decay": decay, "momentum": momentum})
        ones = np.ones((3, 2))
        arrays = ParameterState("w", ones, momentum_buffer=2 * ones if momentum else None, step=3)
        source = Checkpoint("rmsprop.jax", (arrays,), (dataclasses.asdict(rule),))
        path = tmp_path / f"{name}.msgpack"
        write(convert(source, "optax-adam").checkpoint, path)
        empty = optimizer.init({"w": jnp.zeros((3, 2))})
        state = serialization.from_bytes(empty, path.read_bytes())
        assert str(jax.tree.structure(state)) == str(jax.tree.structure(empty))
        assert (int(state[0].count), state[0].nu["w"][0, 0], state[0].mu["w"][0, 0]) == (3, 1, 2 if momentum else 0)


# -- what the file tells ----------------------------------------------------------------------------------------------


def test_the_tree_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    trees = {
        "centered": optax.rmsprop(0.1, momentum=0.5, centered=True, bias_correction=True),
        "plain": optax.rmsprop(0.1, bias_correction=True),
        "uncounted": optax.rmsprop(0.1, centered=True),
        "amsgrad": optax.amsgrad(0.1),
    }
    for name, optimizer in trees.items():
        to_file(optimizer.init({"w": jnp.ones(3)}), tmp_path / f"{name}.npz")
    for name in ("centered", "plain", "uncounted"):
        with pytest.raises(InputError, match=r"must be the state of optax\.adam, adamw, nadam or amsgrad, got another"):
            read(tmp_path / f"{name}.npz", "optax-adam", momentum=0.9)
    with pytest.raises(InputError, match=r"must be the state of optax\.rmsprop, got another optimizer's, of mu, nu,"):
        read(tmp_path / "amsgrad.npz", "optax", centered=True)


def test_adam_is_not_read_as_centered_even_if_the_kind_is_given(tmp_path: Path) -> None:
    to_file(optax.adam(0.1).init({"w": jnp.ones(3)}), tmp_path / "a.npz")
    for kind in (None, "optax"):
        with pytest.raises(InputError, match=r"^centered must be given, .* --from optax-adam if it is Adam's$"):
            read(tmp_path / "a.npz", kind)


def test_a_template_of_adam_needs_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A centered RMSprop has the same tree: it would get the average of gradients for another rule."""
    monkeypatch.chdir(tmp_path)
    _, state = stopped(optax.adam, 3, Path("a.npz"))
    write(convert(read("a.npz", "optax-adam", **KNOWN), "rmsprop.torch", lr=0.01, mapping=KEEP).checkpoint, "b.pt")
    Path("axes.json").write_text(json.dumps(KEEP))
    command = ["convert", "b.pt", "c.npz", "--like", "a.npz", "--map", "axes.json"]
    assert run(command) != 0
    assert "pass --to optax or --to optax-adam" in capsys.readouterr().err
    assert run([*command, "--to", "optax-adam"]) == 0
    again = from_file(state, Path("c.npz"))
    assert jax.tree.all(jax.tree.map(lambda p, q: bool((p == q).all()), again, state))


def test_injected_hyperparameters_are_read_and_written(tmp_path: Path) -> None:
    def tree(path: Path, **options: Any) -> Any:
        optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.25, weight_decay=0.5, **options)
        state = optimizer.init({"w": jnp.ones(3)})
        to_file(state, path)
        return state

    tree(tmp_path / "a.npz", b1=0.75, b2=0.875, eps=0.125)
    fields = read(tmp_path / "a.npz", "optax-adam").groups[0]
    expected = {"lr": 0.25, "momentum": 0.75, "decay": 0.875, "eps": 0.125, "weight_decay": 0.5}
    assert {name: fields[name] for name in expected} == expected
    assert fields["decoupled_weight_decay"]
    like = tree(tmp_path / "like.npz")
    moved = convert(
        read(tmp_path / "a.npz", "optax-adam"), "optax-adam", like=read(tmp_path / "like.npz", "optax-adam")
    )
    write(moved.checkpoint, tmp_path / "b.npz", like=tmp_path / "like.npz")
    found = from_file(like, tmp_path / "b.npz").hyperparams
    assert [float(found[name]) for name in ("learning_rate", "b1", "b2", "eps", "weight_decay")] == [
        0.25, 0.75, 0.875, 0.125, 0.5
    ]  # fmt: skip
    tree(tmp_path / "root.npz", eps_root=1e-3)
    with pytest.raises(InputError, match=r"^eps_root in .* must be 0, got 0\.001; the run cannot continue here"):
        read(tmp_path / "root.npz", "optax-adam")


def test_the_count_beside_v_is_that_of_the_bias_correction(tmp_path: Path) -> None:
    """A schedule may count from another start."""
    optimizer = optax.adam(optax.constant_schedule(0.1))
    scaling, schedule = optimizer.init({"w": jnp.ones(3)})
    to_file((scaling._replace(count=jnp.asarray(4)), schedule._replace(count=jnp.asarray(9))), tmp_path / "a.npz")
    assert read(tmp_path / "a.npz", "optax-adam").step == 4


def test_the_average_of_a_momentum_of_0_is_kept_for_optax_and_dropped_elsewhere(tmp_path: Path) -> None:
    _, state = stopped(optax.adam, 3, tmp_path / "a.npz", b1=0.0)
    source = read(tmp_path / "a.npz", "optax-adam", **{**KNOWN, "momentum": 0.0})
    moved = convert(source, "rmsprop.torch", lr=0.01, mapping=KEEP)
    assert not [note for note in moved.notes if "momentum_buffer" in note]
    assert all(p.momentum_buffer is None for p in moved.checkpoint.parameters)
    same = convert(source, "optax-adam").checkpoint
    for i, p in enumerate(same.parameters):
        assert p.momentum_buffer is not None
        assert (p.momentum_buffer == state[0].mu[str(i)]).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nesterov": True, "momentum_decay": 4e-3}, "optax-adam has no schedule of momentum"),
        ({"initial_square_avg": 0.5}, "optax-adam corrects for a start at 0, not 0.5"),
        ({"maximize": True}, "optax-adam cannot maximize"),
    ],
)
def test_what_optax_cannot_follow_prevents_the_conversion(fields: dict[str, Any], words: str) -> None:
    rule = {**dataclasses.asdict(profile("adam")), **fields}
    state = ParameterState("w", np.ones(3), momentum_buffer=np.ones(3), step=3)
    problems = plan(Checkpoint("rmsprop.jax", (state,), (rule,)), "optax-adam").problems
    assert [problem for problem in problems if problem.startswith(f"impossible: {words}")]
