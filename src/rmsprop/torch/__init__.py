"""RMSprop for PyTorch: `RMSprop` is a drop-in for `torch.optim.RMSprop` with every variant.

`install` replaces torch's class in this process. `decay_groups` exempts biases and norms from weight decay.
`release_gradients` steps inside the backward pass.
"""

try:
    import torch as _torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("rmsprop.torch needs PyTorch: pip install 'rmsprop[torch]'", name="torch") from None
if _torch.__version__ < "2.6":
    raise ImportError(f"rmsprop.torch needs PyTorch 2.6 or newer, got {_torch.__version__}: pip install 'torch>=2.6'")

from rmsprop.torch.decay import decay_groups
from rmsprop.torch.install import install, uninstall
from rmsprop.torch.optimizer import RMSprop
from rmsprop.torch.release import release_gradients

__all__ = ["RMSprop", "decay_groups", "install", "release_gradients", "uninstall"]
