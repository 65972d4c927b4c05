"""flax's TrainState, which takes any transformation of gradients."""

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from rmsprop.jax import rmsprop  # instead of: from optax import rmsprop

tx = rmsprop(1e-2, decay=0.9)
weights = {"w": jax.random.normal(jax.random.key(0), (4, 1))}
state = TrainState.create(apply_fn=lambda variables, x: x @ variables["w"], params=weights, tx=tx)
gradients = jax.grad(lambda params, inputs: jnp.square(state.apply_fn(params, inputs)).mean())
for inputs in jax.random.normal(jax.random.key(1), (10, 8, 4)):
    state = state.apply_gradients(grads=gradients(state.params, inputs))
result = state.params["w"]
