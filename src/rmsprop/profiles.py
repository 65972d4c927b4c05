"""What each library and paper means by "RMSprop", by name, as rules: `profile("tf1", lr=0.045, momentum=0.9)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule

FIELDS = tuple(field.name for field in dataclasses.fields(Rule))
# What other libraries call the fields of Rule.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "alpha": "decay", "rho": "decay", "beta2": "decay", "learning_rate": "lr", "epsilon": "eps",
        "eps_in_sqrt": "eps_inside_sqrt", "initial_scale": "initial_square_avg",
        "decoupled_decay": "decoupled_weight_decay",
    }
)  # fmt: skip
WITH_MOMENTUM = "with momentum"  # eps_inside_sqrt of legacy Keras


@dataclass(frozen=True)
class Profile:
    """One library's or paper's RMSprop: its defaults, and what sets it apart.

    Parameters
    ----------
    name
        What `profile` is called with.
    title
        The class, function or paper.
    defaults
        Values of `Rule`'s fields where they are not those of `Rule()`; `lr=None` where the library demands one.
    decay_name
        The library's argument for the decay β.
    weight_decay
        The library's own weight decay: none, L2, decoupled.
    differs
        What sets it apart from the others, in a sentence or two.
    source
        Where its definition was read.
    """

    name: str
    title: str
    defaults: Mapping[str, Any]
    decay_name: str
    weight_decay: str
    differs: str
    source: str

    def default(self, field: str) -> Any:
        """Return the library's default of a field of `Rule`; None for an lr that has to be given."""
        return self.defaults.get(field, getattr(Rule, field))

    def rule(self, **overrides: Any) -> Rule:
        """Return the rule; see `profile`."""
        given = canonical(overrides)
        values = {**self.defaults, **given}
        if values.get("lr", Rule.lr) is None and "lr" not in given:
            raise InputError(
                "lr",
                f"given with profile {self.name!r}",
                Received("none"),
                f"{self.title} has no default; say lr=0.001",
            )
        if values.get("eps_inside_sqrt") == WITH_MOMENTUM:
            values["eps_inside_sqrt"] = bool(values.get("momentum", 0))
            if values.get("eps") == 0:
                remedy = f"the library would take {self.default('eps'):g} instead; say so, or leave eps out"
                raise InputError("eps", f"> 0 with profile {self.name!r}", values["eps"], remedy)
        return Rule(**values)


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` under the names of `Rule`'s fields; InputError for an unknown name or one given twice."""
    result: dict[str, Any] = {}
    said: dict[str, str] = {}
    for name, value in values.items():
        field = ALIASES.get(name, name)
        if field not in FIELDS:
            allowed = f"one of {', '.join(FIELDS)} (or {', '.join(ALIASES)})"
            raise InputError("an argument of a rule", allowed, name, "see rmsprop.Rule")
        if field in result:
            raise InputError(field, "given once", Received(f"{said[field]} and {name}"), f"leave {name} out")
        result[field], said[field] = value, name
    return result


def profile(name: str, **overrides: Any) -> Rule:
    """Return the rule that a library or paper calls RMSprop, with its defaults where `overrides` are silent.

    Parameters
    ----------
    name
        One of `PROFILES`: torch, tf1, keras, keras-legacy, optax, timm, sb3, graves, dqn, lasagne, adam-b1-0.
    **overrides
        Fields of `Rule`, under its names or those of other libraries (alpha, rho, beta2: decay; learning_rate: lr;
        epsilon: eps; eps_in_sqrt: eps_inside_sqrt; initial_scale: initial_square_avg; decoupled_decay).

    Raises
    ------
    InputError
        For an unknown profile or argument, an argument given under two names, a value out of range, and
        where the library has no default learning rate and none is given (tf1, optax).

    Notes
    -----
    The rule follows the library while its numbers are finite; where its variance turns negative, or it divides by
    zero, the library makes NaN and the rule does not (E5 and E7 in `rmsprop.rule`). `docs/conventions.md` has
    all profiles in one table.

    Examples
    --------
    >>> profile("tf1", learning_rate=0.045, momentum=0.9, epsilon=1.0).initial_square_avg
    1.0
    >>> profile("keras-legacy").eps_inside_sqrt, profile("keras-legacy", momentum=0.9).eps_inside_sqrt
    (False, True)
    """
    if name not in PROFILES:
        raise InputError("profile", f"one of {', '.join(PROFILES)}", name, "docs/conventions.md says what they are")
    return PROFILES[name].rule(**overrides)


_INSIDE = {"eps_inside_sqrt": True}
_TF1 = {**_INSIDE, "decay": 0.9, "eps": 1e-10, "initial_square_avg": 1.0, "lr_in_momentum": True}
_KERAS = {"lr": 1e-3, "decay": 0.9, "eps": 1e-7, "lr_in_momentum": True}

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        each.name: each
        for each in (
            Profile(
                "torch", "torch.optim.RMSprop", {}, "alpha", "L2",
                "ε stands outside the root and the learning rate outside the momentum buffer, so that a change of the "
                "rate acts at once on all that the buffer holds.",
                "pytorch/pytorch: torch/optim/rmsprop.py (2.13)",
            ),
            Profile(
                "tf1", "tf.compat.v1.train.RMSPropOptimizer", {**_TF1, "lr": None}, "decay", "none",
                "The average starts at 1, so that small gradients begin with small steps; ε stands inside the root, "
                "the learning rate in the momentum buffer.",
                "tensorflow/tensorflow: tensorflow/python/training/rmsprop.py, "
                "tensorflow/core/kernels/training_ops.cc (2.21)",
            ),
            Profile(
                "keras", "keras.optimizers.RMSprop (Keras 3)",
                {**_KERAS, **_INSIDE, "decoupled_weight_decay": True}, "rho", "decoupled",
                "Like TensorFlow 1, but the average starts at 0, so that the first steps are 1/√(1−β) times the "
                "learning rate; weight decay is decoupled.",
                "keras-team/keras: keras/src/optimizers/rmsprop.py, base_optimizer.py (3.15)",
            ),
            Profile(
                "keras-legacy", "tf.keras.optimizers.legacy.RMSprop (the one of TensorFlow up to 2.10)",
                {**_KERAS, "eps_inside_sqrt": WITH_MOMENTUM}, "rho", "none",
                "ε stands outside the root without momentum and inside it with momentum: the smallest denominator "
                "jumps from ε to √ε as soon as momentum is not 0.",
                "keras-team/tf-keras: tf_keras/optimizers/legacy/rmsprop.py (2.21)",
            ),
            Profile(
                "optax", "optax.rmsprop",
                {**_INSIDE, "lr": None, "decay": 0.9, "lr_in_momentum": True}, "decay", "none",
                "ε stands inside the root unless eps_in_sqrt=False, which matches PyTorch only without momentum or at "
                "a constant learning rate: the rate stays in the momentum buffer.",
                "google-deepmind/optax: optax/_src/alias.py, optax/_src/transform.py (0.2.8)",
            ),
            Profile(
                "timm", "timm.optim.RMSpropTF", {**_TF1, "lr": 1e-2}, "alpha", "L2, or decoupled",
                "TensorFlow 1's rule for PyTorch, with weight decay.",
                "huggingface/pytorch-image-models: timm/optim/rmsprop_tf.py (1.0.31)",
            ),
            Profile(
                "sb3", "stable_baselines3.common.sb2_compat.rmsprop_tf_like.RMSpropTFLike",
                {**_INSIDE, "initial_square_avg": 1.0}, "alpha", "L2",
                "ε inside the root and an average that starts at 1, as in TensorFlow 1, but PyTorch's decay, ε and "
                "momentum buffer.",
                "DLR-RM/stable-baselines3: stable_baselines3/common/sb2_compat/rmsprop_tf_like.py (2.9.2)",
            ),
            Profile(
                "graves", "Graves, Generating Sequences With Recurrent Neural Networks, eq. 38-45",
                {**_INSIDE, "lr": 1e-4, "decay": 0.95, "eps": 1e-4, "momentum": 0.9, "centered": True,
                 "lr_in_momentum": True}, "unnamed", "none",
                "Centered, always: the gradient is divided by its standard deviation, with a large ε inside the root.",
                "arXiv:1308.0850 (2013); chainer/chainer: chainer/optimizers/rmsprop_graves.py",
            ),
            Profile(
                "dqn", "DQN, Mnih et al., Nature 518 (2015), as released in Lua",
                {**_INSIDE, "lr": 2.5e-4, "decay": 0.95, "eps": 0.01, "centered": True, "lr_in_momentum": True},
                "gradient momentum, squared gradient momentum", "L2",
                'Centered, without heavy-ball momentum: the paper\'s "gradient momentum 0.95" is the decay of the '
                "average gradient.",
                "kuz/DeepMind-Atari-Deep-Q-Learner: dqn/NeuralQLearner.lua",
            ),
            Profile(
                "lasagne", "lasagne.updates.rmsprop, pymc.rmsprop",
                {**_INSIDE, "lr": 1.0, "decay": 0.9, "eps": 1e-6, "lr_in_momentum": True}, "rho", "none",
                "A learning rate of 1: every parameter moves by about 1 in each step unless told otherwise. Momentum "
                "is added by apply_momentum, whose buffer holds whole steps, the learning rate included.",
                "Lasagne/Lasagne: lasagne/updates.py; pymc-devs/pymc: pymc/variational/updates.py",
            ),
            Profile(
                "adam-b1-0", "Adam with β₁ = 0", {"lr": 1e-3, "decay": 0.999, "bias_correction": True}, "beta2", "L2",
                "Bias-corrected RMSprop: the first steps are no longer than the later ones.",
                "Kingma and Ba, arXiv:1412.6980 (2014); torch.optim.Adam(betas=(0, beta2))",
            ),
        )
    }
)  # fmt: skip
