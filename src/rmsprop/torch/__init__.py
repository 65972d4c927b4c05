"""RMSprop for PyTorch: `RMSprop` is a drop-in for `torch.optim.RMSprop` with every variant.

`install` replaces torch's class in this process. `decay_groups` exempts biases and norms from weight decay.
`release_gradients` steps inside the backward pass.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("rmsprop.torch needs PyTorch: pip install 'rmsprop[torch]'", name="torch") from None

from rmsprop.torch.decay import decay_groups
from rmsprop.torch.install import install, uninstall
from rmsprop.torch.optimizer import RMSprop
from rmsprop.torch.release import release_gradients

__all__ = ["RMSprop", "decay_groups", "install", "release_gradients", "uninstall"]
