"""RMSprop for PyTorch: `RMSprop`, a drop-in for `torch.optim.RMSprop` that knows every variant."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("rmsprop.torch needs PyTorch: pip install 'rmsprop[torch]'", name="torch") from None

from rmsprop.torch.optimizer import RMSprop

__all__ = ["RMSprop"]
