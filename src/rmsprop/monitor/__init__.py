"""Measure what an optimizer does while it trains, and report problems as sentences.

`Monitor` observes a `rmsprop.torch.RMSprop`. `from_optax` and `from_keras` make the same records for JAX and Keras.
`find` turns records into findings. `rmsprop.monitor.statistics` describes tensors in a record, `rmsprop.monitor.sinks`
stores records, and `rmsprop.monitor.lr_finder` suggests a learning rate. Frameworks are imported on first use.
"""

from rmsprop.monitor.findings import Finding, find
from rmsprop.monitor.jax import from_optax, probe
from rmsprop.monitor.keras import from_keras, keras_before
from rmsprop.monitor.monitor import Monitor
from rmsprop.monitor.post_mortem import PostMortem

__all__ = ["Finding", "Monitor", "PostMortem", "find", "from_keras", "from_optax", "keras_before", "probe"]
