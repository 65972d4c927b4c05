"""RMSprop, exactly: every variant of the rule, and able to say what it does.

`Rule`, `State`, `init` and `update` are the algorithm in NumPy; `profile` has the rules of other libraries and `recipe`
published trainings, by name; `scale_batch_size` changes a rule for another batch size. `rmsprop.torch`, `rmsprop.jax`,
`rmsprop.keras` and `rmsprop.pytensor` put the rule behind their frameworks' interfaces, `rmsprop.checkpoint` moves
state between them, `rmsprop.monitor` says what an optimizer does, `rmsprop.lab` trains and compares on real data; the
command `rmsprop` does so from a terminal.
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
