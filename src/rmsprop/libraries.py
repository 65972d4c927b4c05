"""The table of libraries: what each library and paper means by "RMSprop", and what its checkpoints hold.

To add a library, add a row to `LIBRARIES`. `rmsprop.profiles` and `rmsprop.checkpoint` derive from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rmsprop.hyperparameters import HYPERPARAMETERS
from rmsprop.rule import Rule

FIELDS = tuple(HYPERPARAMETERS)
WITH_MOMENTUM = "with momentum"  # eps_inside_sqrt of legacy Keras: inside with momentum, outside without


@dataclass(frozen=True)
class Profile:
    """The rule of one library or paper: its defaults, and what sets it apart.

    Parameters
    ----------
    name
        The argument of `profile`.
    title
        The class, function or paper.
    defaults
        Fields of `Rule` with other defaults than `Rule()`. `lr=None` if the library requires a learning rate.
    weight_decay
        The library's own weight decay: none, L2, decoupled.
    differs
        What sets it apart from the others, in a sentence or two.
    source
        Where its definition was read.
    paper_decay_name
        A paper's name for the decay β. None for a library: `rmsprop.hyperparameters` has its argument.
    """

    name: str
    title: str
    defaults: Mapping[str, Any]
    weight_decay: str
    differs: str
    source: str
    paper_decay_name: str | None = None

    @property
    def decay_name(self) -> str:
        """What the library or paper calls the decay β."""
        return self.paper_decay_name or HYPERPARAMETERS["decay"].name_in(self.name)

    def default(self, field: str) -> Any:
        """Return the library's default of a field of `Rule`; None for an lr that must be given."""
        return self.defaults.get(field, getattr(Rule, field))


@dataclass(frozen=True)
class Groups:
    """The parameter groups in a PyTorch library's state dict.

    Parameters
    ----------
    fields
        The fields of `Rule` that a group states.
    keys
        {field of `Rule`: key of the group} where the two differ.
    defaults
        Other keys of every group, with the library's defaults.
    optional
        Other keys that a group may have, and that only this library has.
    marker
        A key that identifies the library: libraries with fewer fields lack it. None if no key does.
    betas
        The fields of `Rule` in the group's "betas", in order.
    averages
        {average of `rmsprop.State`: key in a parameter's state} where the two differ.
    required
        Keys without which a group is not this library's.
    foreign
        Keys with which a group is not this library's.
    """

    fields: tuple[str, ...]
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]
    optional: tuple[str, ...] = ()
    marker: str | None = None
    betas: tuple[str, ...] = ()
    averages: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ("alpha", "eps")
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """The checkpoints of one library: the content of its files, and the fields of `Rule` that it fixes.

    Parameters
    ----------
    title
        The class or function.
    format
        The module of `rmsprop.checkpoint.formats` that reads and writes its files.
    fixed
        {field of `Rule`: its only value in this library}.
    groups
        The parameter groups in its files, which state their hyperparameters. None if its files have no groups.
    channels_last
        Whether kernels are (…, in, out), as in TensorFlow, instead of (out, in, …), as in PyTorch.
    ordered
        Whether parameters are in the model's order, and a parameter's index can be its name.
    written
        Whether files of this kind can be written.
    endings
        Endings that imply this kind for a new file, unless the caller gives another kind.
    names
        {hyperparameter in its files: field of `Rule`} where the names are those of no profile.
    eps_before_correction
        Whether ε is added to √v, before the bias correction of v, and not to √v̂.
    max_after_correction
        Whether AMSGrad's maximum is that of v̂, after the bias correction of v, and not that of v.
    """

    title: str
    format: str
    fixed: Mapping[str, Any]
    groups: Groups | None = None
    channels_last: bool = False
    ordered: bool = False
    written: bool = True
    endings: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    eps_before_correction: bool = False
    max_after_correction: bool = False

    @property
    def states_rule(self) -> bool:
        """Whether each group in a file states its hyperparameters, and there may be several groups."""
        return self.groups is not None


@dataclass(frozen=True)
class Library:
    """A row of the table: a rule, checkpoints, or both. This package's own classes follow any rule: no profile."""

    profile: Profile | None = None
    kind: Kind | None = None


def _fixed(defaults: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Return the library's values of `fields`, which it fixes."""
    return {field: defaults.get(field, getattr(Rule, field)) for field in fields}


def _keys(library: str) -> dict[str, str]:
    """Return {field of Rule: argument of a library} where the two differ."""
    return {each.name: each.names[library] for each in HYPERPARAMETERS.values() if library in each.names}


_INSIDE = {"eps_inside_sqrt": True}
_TF1 = {**_INSIDE, "lr": None, "decay": 0.9, "eps": 1e-10, "initial_square_avg": 1.0, "lr_in_momentum": True}
_TIMM = {**_TF1, "lr": 1e-2}
_SB3 = {**_INSIDE, "initial_square_avg": 1.0}
_KERAS_LEGACY = {"lr": 1e-3, "decay": 0.9, "eps": 1e-7, "lr_in_momentum": True, "eps_inside_sqrt": WITH_MOMENTUM}
_KERAS = {**_KERAS_LEGACY, **_INSIDE, "decoupled_weight_decay": True}
_OPTAX = {**_INSIDE, "lr": None, "decay": 0.9, "lr_in_momentum": True}

# Fields that most libraries fix.
_OF_ADAM = ("first_moment", "momentum_decay", "amsgrad")
_TRAITS = ("nesterov", "bias_correction", "eps_inside_sqrt", "lr_in_momentum", "decoupled_weight_decay", *_OF_ADAM)
_EVERY_GROUP = ("lr", "decay", "eps", "momentum", "centered", "weight_decay")
_EXECUTION = {"capturable": False, "foreach": None, "differentiable": False}

_ADAM = {"lr": 1e-3, "decay": 0.999, "momentum": 0.9, "first_moment": True, "bias_correction": True}
_NOT_IN_ADAM = ("eps_inside_sqrt", "lr_in_momentum", "centered", "initial_square_avg")
_BETAS = ("momentum", "decay")
_ADAM_OF_KERAS = {**_ADAM, "decoupled_weight_decay": True}
_IN_ADAM_OF_KERAS = ("first_moment", "bias_correction", "decoupled_weight_decay", "maximize", *_NOT_IN_ADAM)
_BETAS_OF_KERAS = {"beta_1": "momentum", "beta_2": "decay"}
_MOMENTS = {"momentum_buffer": "exp_avg", "square_avg": "exp_avg_sq", "max_square_avg": "max_exp_avg_sq"}

LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "torch": Library(
            Profile(
                "torch", "torch.optim.RMSprop", {}, "L2",
                "ε stands outside the root and the learning rate outside the momentum buffer, so that a change of the "
                "rate acts at once on all that the buffer holds.",
                "pytorch/pytorch: torch/optim/rmsprop.py (2.13)",
            ),
            Kind(
                "torch.optim.RMSprop", "torch",
                _fixed({}, *_TRAITS),
                Groups((*_EVERY_GROUP, "maximize"), _keys("torch"), _EXECUTION, marker="foreach"),
                ordered=True, endings=(".pt", ".pth"),
            ),
        ),
        "rmsprop.torch": Library(
            kind=Kind(
                "rmsprop.torch.RMSprop", "torch", {},
                Groups(
                    FIELDS, _keys("torch"), {**_EXECUTION, "fused": None},
                    ("state_dtype", "stochastic_rounding", "sparse", "nonfinite"), marker="eps_inside_sqrt",
                ),
                ordered=True,
            ),
        ),
        "tf1": Library(
            Profile(
                "tf1", "tf.compat.v1.train.RMSPropOptimizer", _TF1, "none",
                "The average starts at 1, so that small gradients begin with small steps; ε stands inside the root, "
                "the learning rate in the momentum buffer.",
                "tensorflow/tensorflow: tensorflow/python/training/rmsprop.py, "
                "tensorflow/core/kernels/training_ops.cc (2.21)",
            ),
            Kind(
                "tf.compat.v1.train.RMSPropOptimizer", "tf1",
                _fixed(_TF1, *_TRAITS, "maximize"),
                channels_last=True, endings=(".index",),
            ),
        ),
        "keras": Library(
            Profile(
                "keras", "keras.optimizers.RMSprop (Keras 3)", _KERAS, "decoupled",
                "Like TensorFlow 1, but the average starts at 0, so that the first steps are 1/√(1−β) times the "
                "learning rate; weight decay is decoupled.",
                "keras-team/keras: keras/src/optimizers/rmsprop.py, base_optimizer.py (3.15)",
            ),
            Kind(
                "keras.optimizers.RMSprop", "keras",
                _fixed(_KERAS, *_TRAITS, "maximize"),
                channels_last=True, ordered=True, endings=(".keras", ".h5"),
            ),
        ),
        "rmsprop.keras": Library(
            kind=Kind("rmsprop.keras.RMSprop", "keras", {}, channels_last=True, ordered=True)
        ),
        "keras-legacy": Library(
            Profile(
                "keras-legacy", "tf.keras.optimizers.legacy.RMSprop (the one of TensorFlow up to 2.10)",
                _KERAS_LEGACY, "none",
                "ε stands outside the root without momentum and inside it with momentum: the smallest denominator "
                "jumps from ε to √ε as soon as momentum is not 0.",
                "keras-team/tf-keras: tf_keras/optimizers/legacy/rmsprop.py (2.21)",
            ),
        ),
        "optax": Library(
            Profile(
                "optax", "optax.rmsprop", _OPTAX, "none",
                "ε stands inside the root unless eps_in_sqrt=False, which matches PyTorch only without momentum or at "
                "a constant learning rate: the rate stays in the momentum buffer.",
                "google-deepmind/optax: optax/_src/alias.py, optax/_src/transform.py (0.2.8)",
            ),
            Kind(
                "optax.rmsprop", "jax",
                _fixed(_OPTAX, "decoupled_weight_decay", "maximize", "lr_in_momentum", *_OF_ADAM),
                channels_last=True,
            ),
        ),
        "rmsprop.jax": Library(kind=Kind("rmsprop.jax.rmsprop", "jax", {}, channels_last=True)),
        "timm": Library(
            Profile(
                "timm", "timm.optim.RMSpropTF", _TIMM, "L2, or decoupled",
                "TensorFlow 1's rule for PyTorch, with weight decay.",
                "huggingface/pytorch-image-models: timm/optim/rmsprop_tf.py (1.0.31)",
            ),
            Kind(
                "timm.optim.RMSpropTF", "torch",
                _fixed(_TIMM, "nesterov", "bias_correction", "eps_inside_sqrt", "maximize", *_OF_ADAM),
                Groups(
                    (*_EVERY_GROUP, "lr_in_momentum", "decoupled_weight_decay"),
                    _keys("timm"), {"caution": False},
                    ("corrected_weight_decay", "max_lr_snapshot"), marker="lr_in_momentum",
                    required=("alpha", "eps", "lr_in_momentum"),
                ),
                ordered=True,
            ),
        ),
        "sb3": Library(
            Profile(
                "sb3", "stable_baselines3.common.sb2_compat.rmsprop_tf_like.RMSpropTFLike", _SB3, "L2",
                "ε inside the root and an average that starts at 1, as in TensorFlow 1, but PyTorch's decay, ε and "
                "momentum buffer.",
                "DLR-RM/stable-baselines3: stable_baselines3/common/sb2_compat/rmsprop_tf_like.py (2.9.2)",
            ),
            Kind(
                "Stable-Baselines3's RMSpropTFLike", "torch",
                _fixed(_SB3, *_TRAITS, "maximize"),
                Groups(_EVERY_GROUP, _keys("sb3"), {}, foreign=("foreach",)),
                ordered=True, endings=(".zip",),
            ),
        ),
        "bitsandbytes": Library(
            kind=Kind(
                "bitsandbytes.optim.RMSprop", "torch",
                _fixed({}, *_TRAITS, "maximize", "momentum"),
                Groups(
                    ("lr", "decay", "eps", "weight_decay"), {}, {}, marker="betas", betas=("decay",),
                    required=("betas",),
                ),
                ordered=True, written=False,
            ),
        ),
        "graves": Library(
            Profile(
                "graves", "Graves, Generating Sequences With Recurrent Neural Networks, eq. 38-45",
                {**_INSIDE, "lr": 1e-4, "decay": 0.95, "eps": 1e-4, "momentum": 0.9, "centered": True,
                 "lr_in_momentum": True}, "none",
                "Centered, always: the gradient is divided by its standard deviation, with a large ε inside the root.",
                "arXiv:1308.0850 (2013); chainer/chainer: chainer/optimizers/rmsprop_graves.py",
                "unnamed",
            ),
        ),
        "dqn": Library(
            Profile(
                "dqn", "DQN, Mnih et al., Nature 518 (2015), as released in Lua",
                {**_INSIDE, "lr": 2.5e-4, "decay": 0.95, "eps": 0.01, "centered": True, "lr_in_momentum": True},
                "L2",
                'Centered, without heavy-ball momentum: the paper\'s "gradient momentum 0.95" is the decay of the '
                "average gradient.",
                "kuz/DeepMind-Atari-Deep-Q-Learner: dqn/NeuralQLearner.lua",
                "gradient momentum, squared gradient momentum",
            ),
        ),
        "lasagne": Library(
            Profile(
                "lasagne", "lasagne.updates.rmsprop, pymc.rmsprop",
                {**_INSIDE, "lr": 1.0, "decay": 0.9, "eps": 1e-6, "lr_in_momentum": True}, "none",
                "A learning rate of 1: every parameter moves by about 1 in each step unless told otherwise. Momentum "
                "is added by apply_momentum, whose buffer holds whole steps, the learning rate included.",
                "Lasagne/Lasagne: lasagne/updates.py; pymc-devs/pymc: pymc/variational/updates.py",
            ),
        ),
        "adam": Library(
            Profile(
                "adam", "torch.optim.Adam, optax.adam", _ADAM, "L2, or decoupled",
                "Bias-corrected RMSprop whose momentum averages the gradient before the division. Keras and "
                "TensorFlow add ε before the bias correction of v, so that ε counts for more in the first steps.",
                "Kingma and Ba, arXiv:1412.6980 (2014); pytorch/pytorch: torch/optim/adam.py (2.13)",
            ),
            Kind(
                "torch.optim.Adam or AdamW", "torch",
                _fixed(_ADAM, "first_moment", "bias_correction", "nesterov", "momentum_decay", *_NOT_IN_ADAM),
                Groups(
                    ("lr", "decay", "eps", "momentum", "weight_decay", "amsgrad", "decoupled_weight_decay", "maximize"),
                    {}, {**_EXECUTION, "fused": None}, marker="amsgrad", betas=_BETAS, averages=_MOMENTS,
                    required=("betas", "amsgrad"),
                ),
                ordered=True,
            ),
        ),
        "adamw": Library(
            Profile(
                "adamw", "torch.optim.AdamW, optax.adamw",
                {**_ADAM, "weight_decay": 1e-2, "decoupled_weight_decay": True}, "decoupled",
                "Adam with decoupled weight decay: parameters shrink by η·λ in each step. optax.adamw has λ = 1e-4.",
                "Loshchilov and Hutter, arXiv:1711.05101 (2017); pytorch/pytorch: torch/optim/adamw.py (2.13)",
            ),
        ),
        "amsgrad": Library(
            Profile(
                "amsgrad", "torch.optim.Adam(amsgrad=True)", {**_ADAM, "amsgrad": True}, "L2, or decoupled",
                "Adam divided by the largest v so far. The maximum is taken before the bias correction, as in PyTorch; "
                "optax.amsgrad takes it after.",
                "Reddi, Kale and Kumar, ICLR 2018, algorithm 2; pytorch/pytorch: torch/optim/adam.py (2.13)",
            ),
        ),
        "nadam": Library(
            Profile(
                "nadam", "torch.optim.NAdam", {**_ADAM, "lr": 2e-3, "nesterov": True, "momentum_decay": 4e-3},
                "L2, or decoupled",
                "Adam with Nesterov momentum and a momentum that rises from μ/2 to μ. Keras' Nadam raises it faster "
                "(momentum_decay=1); optax.nadam keeps it constant (momentum_decay=0).",
                "Dozat, ICLR workshop 2016; pytorch/pytorch: torch/optim/nadam.py (2.13)",
            ),
            Kind(
                "torch.optim.NAdam", "torch",
                _fixed({**_ADAM, "nesterov": True}, "first_moment", "bias_correction", "nesterov", "amsgrad",
                       *_NOT_IN_ADAM),
                Groups(
                    ("lr", "decay", "eps", "momentum", "weight_decay", "momentum_decay", "decoupled_weight_decay",
                     "maximize"),
                    {}, _EXECUTION, marker="momentum_decay", betas=_BETAS, averages=_MOMENTS,
                    required=("betas", "momentum_decay"),
                ),
                ordered=True,
            ),
        ),
        "optax-adam": Library(
            kind=Kind(
                "optax.adam, adamw, nadam or amsgrad", "jax",
                _fixed(_ADAM, "first_moment", "bias_correction", "momentum_decay", "maximize", *_NOT_IN_ADAM),
                channels_last=True, names={"b1": "momentum", "b2": "decay"}, max_after_correction=True,
            ),
        ),
        "keras-adam": Library(
            kind=Kind(
                "keras.optimizers.Adam or AdamW", "keras",
                _fixed(_ADAM_OF_KERAS, "nesterov", "momentum_decay", *_IN_ADAM_OF_KERAS),
                channels_last=True, ordered=True, names=_BETAS_OF_KERAS, eps_before_correction=True,
            ),
        ),
        "keras-nadam": Library(
            kind=Kind(
                "keras.optimizers.Nadam", "keras",
                _fixed({**_ADAM_OF_KERAS, "nesterov": True, "momentum_decay": 1.0}, "nesterov", "momentum_decay",
                       "amsgrad", *_IN_ADAM_OF_KERAS),
                channels_last=True, ordered=True, names=_BETAS_OF_KERAS,
            ),
        ),
        "adam-b1-0": Library(
            Profile(
                "adam-b1-0", "Adam with β₁ = 0", {"lr": 1e-3, "decay": 0.999, "bias_correction": True}, "L2",
                "Bias-corrected RMSprop: the first steps are no longer than the later ones.",
                "Kingma and Ba, arXiv:1412.6980 (2014); torch.optim.Adam(betas=(0, beta2))",
            ),
        ),
    }
)  # fmt: skip
