"""Add this RMSprop to the optimizers that timm creates by name."""

from __future__ import annotations

from rmsprop.profiles import PROFILES, WITH_MOMENTUM, profile
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

__all__ = ["register"]


def register() -> list[str]:
    """Register this RMSprop in timm, under a name for each profile: "rmsprop-tf1", "rmsprop-keras" and so on.

    timm adds `momentum`: 0.9 unless `create_optimizer_v2` or timm's training script is given another one. Other
    arguments of `rmsprop.torch.RMSprop` can be passed as keywords, and replace those of the profile. Profiles that
    average the gradient, such as "adam", and "keras-legacy", whose rule depends on `momentum`, have no name in timm.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    ModuleNotFoundError
        If timm is not installed.

    Examples
    --------
    ::

        import rmsprop.timm
        from timm.optim import create_optimizer_v2

        rmsprop.timm.register()
        optimizer = create_optimizer_v2(model, "rmsprop-tf1", lr=0.01, weight_decay=1e-5)
    """
    try:
        from timm.optim import OptimInfo
        from timm.optim._optim_factory import default_registry
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"rmsprop.timm needs timm: pip install timm ({error})", name=error.name) from None
    names = []
    for name, library in PROFILES.items():
        if library.defaults.get("eps_inside_sqrt") == WITH_MOMENTUM:
            continue
        rule = profile(name, lr=library.defaults.get("lr") or Rule.lr)
        if rule.first_moment:
            continue
        names.append(f"rmsprop-{name}")
        if names[-1] not in default_registry.list_optimizers():
            arguments = {key: value for key, value in rule.torch_kwargs().items() if key != "momentum"}
            default_registry.register(
                OptimInfo(
                    names[-1],
                    RMSprop,
                    f"rmsprop's RMSprop with the rule of {library.title}",
                    has_momentum=True,
                    defaults={"lr": rule.lr, **arguments},
                )
            )
    return names
