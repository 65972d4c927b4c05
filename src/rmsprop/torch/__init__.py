"""RMSprop for PyTorch: `RMSprop`, a drop-in for `torch.optim.RMSprop` that knows every variant.

`decay_groups` leaves biases and norms out of weight decay; `release_gradients` steps inside of the backward pass.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("rmsprop.torch needs PyTorch: pip install 'rmsprop[torch]'", name="torch") from None

from rmsprop.torch.decay import decay_groups
from rmsprop.torch.optimizer import RMSprop
from rmsprop.torch.release import release_gradients

__all__ = ["RMSprop", "decay_groups", "release_gradients"]
