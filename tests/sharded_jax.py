"""Steps of parameters on a mesh of four devices beside steps on one device, with rmsprop.jax.

test_jax_sharding.py runs it in a process of its own: the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rmsprop import Rule
from rmsprop.jax import rmsprop

P: Any = PartitionSpec
# Of two axes: whole on every device, over one axis and replicated over the other, over both.
PLACEMENTS: dict[str, PartitionSpec] = {
    "whole": P(),
    "rows": P("rows"),
    "columns": P(None, "columns"),
    "rows and columns": P("rows", "columns"),
    "rows over both": P(("rows", "columns")),
}
SHAPE = (16, 32)
RULES = {
    "plain": Rule(lr=0.01),
    "centered, momentum": Rule(lr=0.01, centered=True, momentum=0.9, weight_decay=0.01),
    "Adam": Rule(lr=0.01, momentum=0.9, first_moment=True, bias_correction=True),
    "everything": cases.ALL_RULES["all of it"],
}


def mesh_of(kind: AxisType) -> Any:
    assert jax.device_count() == 4
    return jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(kind,) * 2)


def trees(count: int) -> list[dict[str, Any]]:
    """Return trees of a float32 array for each placement, and of others in some of them."""
    generator = np.random.default_rng(0)

    def tree() -> dict[str, Any]:
        arrays = {name: jnp.asarray(generator.standard_normal(SHAPE), jnp.float32) for name in PLACEMENTS}
        arrays |= {f"bfloat16, {name}": arrays[name].astype(jnp.bfloat16) for name in ("rows", "whole")}
        return arrays | {
            "complex, rows": arrays["rows"] + 1j * arrays["columns"],
            "small, rows": arrays["rows"][:16, :4],
        }

    return [tree() for _ in range(count)]


def placed(tree: dict[str, Any], mesh: Any) -> dict[str, Any]:
    return {name: jax.device_put(x, NamedSharding(mesh, placement(name))) for name, x in tree.items()}


def placement(name: str) -> PartitionSpec:
    return PLACEMENTS[name.rpartition(", ")[2]]


def step_of(optimizer: Any) -> Any:
    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def check_placements(params: Any, state: Any, mesh: Any) -> None:
    for tree in (params, *state[1:]):
        for name, x in (tree or {}).items():
            assert x.sharding.is_equivalent_to(NamedSharding(mesh, placement(name)), 2), (name, x.sharding)
    assert state.step.sharding.is_fully_replicated


def steps_have_the_bits_of_one_device() -> None:
    start, *gradients = trees(4)
    meshes = {kind: mesh_of(kind) for kind in (AxisType.Auto, AxisType.Explicit)}
    for name, rule in RULES.items():
        optimizer = rmsprop(rule)
        step = step_of(optimizer)
        whole, whole_state = start, optimizer.init(start)
        for g in gradients:
            whole, whole_state = step(whole, whole_state, g)
        for kind, mesh in meshes.items():
            if kind == AxisType.Explicit and name != "everything":
                continue
            params = placed(start, mesh)
            state = optimizer.init(params)
            for g in gradients:
                check_placements(params, state, mesh)
                params, state = step(params, state, placed(g, mesh))
            check_placements(params, state, mesh)
            for (path, x), y in zip(
                jax.tree.leaves_with_path((params, state)), jax.tree.leaves((whole, whole_state)), strict=True
            ):
                # XLA contracts s - m*m to one rounding in some loops, by the length that a device has.
                last_digits = 2.0**-21 if rule.centered and "small" in jax.tree_util.keystr(path) else 0
                np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=last_digits, err_msg=name)


def one_compilation_serves_all_steps() -> None:
    mesh, (start, *gradients) = mesh_of(AxisType.Auto), trees(4)
    optimizer = rmsprop(RULES["centered, momentum"])
    step, params = step_of(optimizer), placed(start, mesh)
    state = optimizer.init(params)
    for g in gradients:
        params, state = step(params, state, placed(g, mesh))
    assert step._cache_size() == 1


def a_network_of_shards_learns_what_one_on_one_device_learns() -> None:
    """Reductions cross shards here: the gradients have another rounding."""
    mesh, generator = mesh_of(AxisType.Auto), np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal((64, 16)), jnp.float32)
    start = {"in": jnp.asarray(generator.standard_normal((16, 32)), jnp.float32) / 4, "out": jnp.ones((32, 4)) / 8}
    spread = {"in": P(None, "columns"), "out": P("columns")}
    optimizer = rmsprop(Rule(lr=0.01, momentum=0.9), optax.linear_schedule(0.01, 0.0, 20))

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - x[:, :4]) ** 2)

    @jax.jit
    def step(params: Any, state: Any, x: Any) -> tuple[Any, Any, Any]:
        value, gradients = jax.value_and_grad(loss)(params, x)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for sharded in (False, True):
        params, batch = start, x
        if sharded:
            params = {name: jax.device_put(p, NamedSharding(mesh, spread[name])) for name, p in start.items()}
            batch = jax.device_put(x, NamedSharding(mesh, P("rows")))
        state = optimizer.init(params)
        own = []
        for _ in range(20):
            params, state, value = step(params, state, batch)
            own.append(float(value))
        losses.append(own)
        for name, v in state.square_avg.items():
            assert v.sharding.is_equivalent_to(params[name].sharding, 2)
            assert not sharded or v.sharding.is_equivalent_to(NamedSharding(mesh, spread[name]), 2)
    assert losses[0][-1] < 0.5 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def init_in_jit_with_shardings_equals_init() -> None:
    mesh, (start, g) = mesh_of(AxisType.Auto), trees(2)
    optimizer = rmsprop(RULES["everything"])
    params = placed(start, mesh)
    wanted = optimizer.init(params)
    shardings = jax.tree.map(lambda x: x.sharding, wanted)
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    check_placements(params, state, mesh)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    params, state = step_of(optimizer)(params, state, placed(g, mesh))
    check_placements(params, state, mesh)


if __name__ == "__main__":
    steps_have_the_bits_of_one_device()
    one_compilation_serves_all_steps()
    a_network_of_shards_learns_what_one_on_one_device_learns()
    init_in_jit_with_shardings_equals_init()
    print("same")
