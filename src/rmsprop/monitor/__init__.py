"""What the optimizer does, measured while it does it, and told in words.

`Monitor` watches a `rmsprop.torch.RMSprop`; `from_optax` and `from_keras` make the same records of JAX and Keras;
`find` turns records into findings. `rmsprop.monitor.statistics` defines what is measured, `rmsprop.monitor.sinks` are
places for records, `rmsprop.monitor.lr_finder` suggests a learning rate. Frameworks are imported when they are used.
"""

from rmsprop.monitor.findings import Finding, find
from rmsprop.monitor.jax import from_optax, probe
from rmsprop.monitor.keras import from_keras, keras_before
from rmsprop.monitor.monitor import Monitor
from rmsprop.monitor.post_mortem import PostMortem

__all__ = ["Finding", "Monitor", "PostMortem", "find", "from_keras", "from_optax", "keras_before", "probe"]
