"""Search for a rule: the space, the samplers, the queue of trials, the workers, the verdict."""

try:
    import optuna as _optuna  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("rmsprop tune needs optuna: pip install 'rmsprop[tune]'", name="optuna") from error
