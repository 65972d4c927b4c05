"""optax: accumulated gradients, a rate in the state, and a transformation for each part of a model."""

import jax
import jax.numpy as jnp
import optax

from rmsprop.jax import rmsprop  # instead of: from optax import rmsprop

rated = optax.inject_hyperparams(rmsprop)(learning_rate=optax.linear_schedule(1e-2, 0.0, 10), decay=0.9)
parts = optax.multi_transform({"slow": rmsprop(1e-3, decay=0.9), "fast": rated}, {"w": "fast", "b": "slow"})
tx = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), parts), every_k_schedule=2)
params = {"w": jax.random.normal(jax.random.key(0), (4, 1)), "b": jnp.ones(1)}
state = tx.init(params)
update = jax.jit(tx.update)
for inputs in jax.random.normal(jax.random.key(1), (10, 8, 4)):
    gradients = jax.grad(lambda p, x: jnp.square(x @ p["w"] + p["b"]).mean())(params, inputs)
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
result = params["w"]
