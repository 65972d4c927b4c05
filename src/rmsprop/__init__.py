"""RMSprop, exactly: every variant of the rule, and able to say what it does.

`Rule`, `State`, `init` and `update` are the algorithm in NumPy. By name, `profile` returns the rule of another library
and `recipe` a published training. `scale_batch_size` scales a rule to another batch size.

`rmsprop.torch`, `rmsprop.jax`, `rmsprop.keras` and `rmsprop.pytensor` are optimizers for these frameworks.
`rmsprop.checkpoint` converts state between them. `rmsprop.monitor` reports what an optimizer does. `rmsprop.lab` trains
and compares on real data. The command `rmsprop` offers all of this in a terminal.
"""

from rmsprop.errors import InputError
from rmsprop.native import get_num_threads, set_num_threads, update
from rmsprop.profiles import profile
from rmsprop.recipes import recipe
from rmsprop.rule import Rule, State, init
from rmsprop.scaling import scale_batch_size

__all__ = [
    "InputError",
    "Rule",
    "State",
    "get_num_threads",
    "init",
    "profile",
    "recipe",
    "scale_batch_size",
    "set_num_threads",
    "update",
]
__version__ = "0.1.0"
