"""RMSprop for Keras 3: `RMSprop`, a drop-in for `keras.optimizers.RMSprop` with every variant.

The step uses Keras' own operations and runs on every backend. On the PyTorch backend, `rmsprop.torch` steps all
variables at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from functools import lru_cache
from numbers import Real
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from rmsprop.errors import InputError, Received, plain
from rmsprop.hyperparameters import EVERYWHERE, HYPERPARAMETERS, averages, check_fields, names_in
from rmsprop.profiles import profile
from rmsprop.rule import AVERAGES, Rule, moment_weights, variance

try:
    import keras
except ModuleNotFoundError as error:
    if error.name == "keras":
        raise ModuleNotFoundError("rmsprop.keras needs Keras: pip install 'rmsprop[keras]'", name="keras") from None
    if error.name in ("tensorflow", "jax", "torch"):
        message = f"Keras found no {error.name}: set KERAS_BACKEND to torch, jax or tensorflow, whichever is installed"
        raise ModuleNotFoundError(message, name=error.name) from None
    raise
except ValueError as error:  # Keras raises it for an unknown backend
    if "backend" not in str(error):
        raise
    name = os.environ.get("KERAS_BACKEND", "that of keras.json")
    raise InputError("KERAS_BACKEND", "torch, jax or tensorflow", name, "set it before Keras is imported") from None

from keras import ops

__all__ = ["RMSprop"]

Tensor: TypeAlias = Any  # of the backend: tf.Tensor, jax.Array or torch.Tensor
Variable: TypeAlias = Any  # keras.Variable, or the tf.Variable inside one

# The fields of Rule that this module implements, under the names of Keras' arguments.
FIELDS = names_in("keras", EVERYWHERE)
# The averages; the first three in the order of keras.optimizers.RMSprop.
STATE = ("square_avg", "momentum_buffer", "grad_avg", "max_square_avg")
COMPUTE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
KERAS = profile("keras")  # the defaults


@keras.saving.register_keras_serializable(package="rmsprop")
class RMSprop(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras has no types
    r"""RMSprop with every variant; a drop-in for `keras.optimizers.RMSprop`, with its arguments and defaults first.

    For a variable p with gradient g, at each step (η = learning_rate, β = rho, ε = epsilon, μ = momentum,
    λ = weight_decay)::

        p ← p − (η·λ)·p
        v ← β·v + (1−β)·g²
        m ← m + (1−β)·(g − m)          s ← max(v − m², κ·v)     if centered, else s ← v
        b ← μ·b + η·g/√(s + ε)
        p ← p − b                      (without momentum: p ← p − η·g/√(s + ε))

    With `first_moment=True, bias_correction=True, eps_inside_sqrt=False, lr_in_momentum=False` the step is Adam's::

        b ← b + (1−μ)·(g − b)
        p ← p − η·b̂/(√v̂ + ε)           b̂ = b/(1−μᵗ), v̂ = v/(1−βᵗ)

    `rmsprop.rule` has the equations of all variants; `optimizer.rule().explain()` has the active ones.

    Parameters
    ----------
    learning_rate
        η: a number, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
    rho
        Decay β of the averages, in [0, 1).
    momentum
        μ in [0, 1).
    epsilon
        ε of the denominator; may be 0.
    centered
        Divide by the standard deviation of the gradient.
    weight_decay
        λ; shrinks p by η·λ before the step. With `decoupled_weight_decay=False`, λ·p is added to the gradient (L2).
        `exclude_from_weight_decay` works with both. None: 0.
    clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor, \
gradient_accumulation_steps, name
        As in every Keras optimizer; see `keras.optimizers.Optimizer`.
    nesterov
        Nesterov momentum; needs momentum > 0.
    eps_inside_sqrt
        √(v + ε), Keras' form; False: √v + ε.
    initial_square_avg
        Start of v; 1 in TensorFlow 1.
    lr_in_momentum
        Sum η·g/d in the momentum buffer, Keras' form; False: g/d, and a change of η acts at once.
    bias_correction
        Divide the averages by 1 − βᵗ. t counts executed updates, not accumulated gradients.
    decoupled_weight_decay
        Keras' form of weight decay; False: L2.
    maximize
        Ascend.
    first_moment
        Momentum averages the gradient before the division, as in Adam; needs lr_in_momentum=False.
    momentum_decay
        ψ of NAdam's momentum schedule; 1 in `keras.optimizers.Nadam`. Needs first_moment, nesterov and bias_correction.
    amsgrad
        Divide by the maximum that v has reached.

    Raises
    ------
    InputError
        A ValueError, for an argument out of range: its name, the range, the value and a remedy. `build` raises it
        for a variable that is not float16, bfloat16, float32 or float64.

    Notes
    -----
    After `build`, `optimizer.averages` has a list of variables for "square_avg", "momentum_buffer" (with momentum),
    "grad_avg" (if centered) and "max_square_avg" (with amsgrad). A list has the order, shapes and dtypes of the trained
    variables; averages of float16 and bfloat16 variables are float32. `optimizer.variables` has the order of
    `keras.optimizers.RMSprop`: saved state of one loads into the other. Import `rmsprop.keras` before loading a saved
    model: Keras does not import the class itself.

    Differences from `keras.optimizers.RMSprop`: `centered` never takes the root of a negative number. ε = 0 gives no
    NaN. The compute dtype and state of float16 and bfloat16 variables are float32. The learning rate may be an
    integer. Unknown arguments raise (Keras warns of `decay` and ignores it). Slices of one row in a gradient
    (`tf.IndexedSlices` of an embedding) are added before they are squared.

    As Adam, `keras.optimizers.Adam` adds ε to √v and this class to √v̂: Keras' ε is this class' ε·√(1−βᵗ). With ε = 0
    both are the same. `keras.optimizers.Nadam` adds ε to √v̂, as this class does.

    Sources: Hinton, Neural Networks for Machine Learning, lecture 6e (2012); keras-team/keras:
    keras/src/optimizers/rmsprop.py, base_optimizer.py (3.15).

    Examples
    --------
    >>> import keras
    >>> from rmsprop.keras import RMSprop
    >>> weight = keras.Variable([1.0, 1.0])
    >>> optimizer = RMSprop(learning_rate=0.01, rho=0.9)
    >>> optimizer.apply([keras.ops.array([10.0, 0.01])], [weight])
    >>> keras.ops.convert_to_numpy(weight).round(4)
    array([0.9684, 0.9685], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float | Callable[..., Any] = KERAS.lr,
        rho: float = KERAS.decay,
        momentum: float = KERAS.momentum,
        epsilon: float = KERAS.eps,
        centered: bool = KERAS.centered,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        nesterov: bool = KERAS.nesterov,
        eps_inside_sqrt: bool = KERAS.eps_inside_sqrt,
        initial_square_avg: float = KERAS.initial_square_avg,
        lr_in_momentum: bool = KERAS.lr_in_momentum,
        bias_correction: bool = KERAS.bias_correction,
        decoupled_weight_decay: bool = KERAS.decoupled_weight_decay,
        maximize: bool = KERAS.maximize,
        first_moment: bool = KERAS.first_moment,
        momentum_decay: float = KERAS.momentum_decay,
        amsgrad: bool = KERAS.amsgrad,
    ) -> None:
        if not callable(learning_rate):
            learning_rate = HYPERPARAMETERS["lr"].checked(learning_rate, "learning_rate")
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=plain(weight_decay),
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.nesterov = nesterov
        self.eps_inside_sqrt = eps_inside_sqrt
        self.initial_square_avg = initial_square_avg
        self.lr_in_momentum = lr_in_momentum
        self.bias_correction = bias_correction
        self.decoupled_weight_decay = decoupled_weight_decay
        self.maximize = maximize
        self.first_moment = first_moment
        self.momentum_decay = momentum_decay
        self.amsgrad = amsgrad
        # {dtype: a and c of E7} while a step runs. Keras tracks attributes, but not those of a namespace.
        self._step = SimpleNamespace(weights={})
        rule = self._rule()  # checks the attributes
        for name in FIELDS.keys() - {"learning_rate", "weight_decay"}:  # Python's numbers, which JSON can hold
            setattr(self, name, getattr(rule, FIELDS[name]))

    @classmethod
    def from_rule(cls, rule: Rule, **keras_arguments: Any) -> RMSprop:
        """Return an optimizer that follows `rule`.

        `keras_arguments` are the optimizer's other arguments. `learning_rate` among them replaces rule.lr, for example
        by a schedule.

        >>> from rmsprop import profile
        >>> RMSprop.from_rule(profile("tf1", lr=0.045, momentum=0.9), clipnorm=1.0).initial_square_avg
        1.0
        """
        if not isinstance(rule, Rule):
            raise InputError("rule", "a rmsprop.Rule", rule, 'say Rule(lr=0.01) or profile("tf1", lr=0.01)')
        check_fields(rule, FIELDS.values(), "rmsprop.keras")
        values = {name: getattr(rule, field) for name, field in FIELDS.items()}
        values["learning_rate"] = keras_arguments.pop("learning_rate", rule.lr)
        values["weight_decay"] = rule.weight_decay or None
        return cls(**values, **keras_arguments)

    @property
    def learning_rate(self) -> Any:
        """The current learning rate. A number is checked when set; rates of a schedule or callable are not."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if isinstance(value, Real):
            value = HYPERPARAMETERS["lr"].checked(value, "learning_rate")
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def rule(self) -> Rule:
        """Return the rule that this optimizer follows. Its lr is the current learning rate, rounded by Keras."""
        return self._rule(float(self.learning_rate))

    def _rule(self, lr: float = 0.0) -> Rule:
        """Return the rule of the attributes, checked. `lr` is optional: in a graph the learning rate is a tensor."""
        values = {name: getattr(self, name) for name in FIELDS if name != "learning_rate"}
        if values["weight_decay"] is None:
            values["weight_decay"] = 0.0
        try:
            return _cached_rule(lr, **values)
        except TypeError:  # an unhashable value, such as a list: Rule's error names it
            return _rule_from(lr, **values)

    def build(self, variables: list[Variable]) -> None:
        """Create the state of `variables`; Keras calls it before the first update."""
        if self.built:
            return
        for variable in variables:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            if dtype not in COMPUTE:
                remedy = f"do not train {variable.name}"
                raise InputError("a variable's dtype", " or ".join(COMPUTE), dtype, remedy)
        super().build(variables)
        rule = self._rule()

        def start(shape: tuple[int, ...], dtype: str) -> Tensor:  # Keras' own Constant rounds to float32
            return ops.ones(shape, dtype) * rule.initial_square_avg

        starts = {"square_avg": start}
        self.averages = {
            name: self.add_optimizer_variables(variables, name, starts.get(name, "zeros"))
            for name in STATE
            if name in averages(rule)
        }

    def add_variable(self, *args: Any, **kwargs: Any) -> Variable:
        """Add a variable to the optimizer, as `keras.optimizers.Optimizer` does. Averages are float32 or float64."""
        if str(kwargs.get("name")).endswith(STATE):
            kwargs["dtype"] = COMPUTE[keras.backend.standardize_dtype(kwargs.get("dtype"))]
        return super().add_variable(*args, **kwargs)

    def _apply_weight_decay(self, variables: list[Variable]) -> None:
        """Do nothing: `update_step` decays weights in the compute dtype, without rounding in between."""

    def _backend_update_step(
        self, grads: list[Tensor], trainable_variables: list[Variable], learning_rate: Any
    ) -> None:
        """Step all variables; on the PyTorch backend all at once, as `rmsprop.torch.RMSprop` does."""
        if keras.backend.backend() == "torch":
            self._torch_step(grads, trainable_variables, ops.convert_to_tensor(learning_rate))
            return
        # NAdam's schedule takes about 300 operations: once for all variables.
        dtypes = {_compute_dtype(x) for x in trainable_variables}
        self._step.weights = {dtype: self._moment_weights(dtype) for dtype in dtypes}
        try:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
        finally:
            self._step.weights = {}

    def _moment_weights(self, dtype: str) -> tuple[Any, Any]:
        """Return a and c of E7 for the step that runs, in `dtype`."""
        rule = self._rule()
        return moment_weights(rule, self._step_number(dtype), ops) if rule.first_moment else (1.0, 0.0)

    def _step_number(self, dtype: str) -> Tensor:
        """Return t in `dtype`. Keras counts executed updates, not skipped ones or accumulated gradients."""
        return ops.cast(self.iterations + 1, dtype)

    def _torch_step(self, grads: list[Tensor], variables: list[Variable], learning_rate: Tensor) -> None:
        import torch

        from rmsprop.torch.groups import group_of
        from rmsprop.torch.keras_lists import step_lists

        rule = self._built_rule()
        steps = ops.convert_to_tensor(self.iterations).to("cpu", torch.float64)  # executed so far
        columns = [self.averages.get(name) for name in AVERAGES]
        groups: dict[bool, list[list[Any]]] = {}  # by whether weight decay reaches a variable
        for gradient, variable in zip(grads, variables, strict=True):
            decays = bool(rule.weight_decay) and self._use_weight_decay(variable)
            i = self._get_variable_index(variable)
            p, g = variable.value, _dense(gradient)
            states: list[Any] = [column[i].value if column else None for column in columns]
            row = (p, g if g.dtype == p.dtype else g.to(states[0].dtype), steps.clone(), *states)
            for values, x in zip(groups.setdefault(decays, [[] for _ in row]), row, strict=True):
                values.extend([] if x is None else [x])
        for decays, lists in groups.items():
            group = group_of(rule if decays else dataclasses.replace(rule, weight_decay=0.0))
            with torch.no_grad():
                step_lists(group | {"lr": learning_rate}, lists)

    def _built_rule(self) -> Rule:
        """Return the rule, or raise InputError if it needs other averages than `build` created."""
        rule = self._rule()
        if self.averages.keys() != set(averages(rule)):
            now = f"momentum={rule.momentum:g}, centered={rule.centered}, amsgrad={rule.amsgrad} after it"
            allowed = "with and without state as when the optimizer was built"
            raise InputError("momentum, centered and amsgrad", allowed, Received(now), "build a new optimizer")
        return rule

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """Step `variable` by E1 to E9 of `rmsprop.rule`; Keras calls this for every variable."""
        rule, index = self._built_rule(), self._get_variable_index(variable)
        mu, beta = rule.momentum, rule.decay
        lam = rule.weight_decay if rule.weight_decay and self._use_weight_decay(variable) else 0.0
        dtype = _compute_dtype(variable)
        state = {name: variables[index] for name, variables in self.averages.items()}
        lr, p, v = (ops.convert_to_tensor(x, dtype) for x in (learning_rate, variable, state["square_avg"]))
        g = ops.cast(_dense(gradient), dtype)
        m = w = None
        if rule.maximize:
            g = -g  # E1
        if lam and rule.decoupled_weight_decay:
            p = p - (lr * lam) * p  # E2
        elif lam:
            g = g + lam * p
        v = beta * v + ((1 - beta) * g) * g  # E3
        self.assign(state["square_avg"], v)
        if rule.amsgrad:
            w = _maximum(v, ops.convert_to_tensor(state["max_square_avg"], dtype))
            self.assign(state["max_square_avg"], w)
        if rule.centered:
            m = ops.convert_to_tensor(state["grad_avg"], dtype)
            m = m + (1 - beta) * (g - m)  # E4
            self.assign(state["grad_avg"], m)
        averages = {"square_avg": v, "grad_avg": m, "max_square_avg": w}
        d = _denominator(rule, averages, self._step_number(dtype))  # E5, E6
        n = g
        if mu and rule.first_moment:
            b = ops.convert_to_tensor(state["momentum_buffer"], dtype)
            b = b + (1 - mu) * (g - b)  # E7
            self.assign(state["momentum_buffer"], b)
            a, c = self._step.weights.get(dtype) or self._moment_weights(dtype)
            n = a * b + c * g if rule.nesterov else a * b
        u = n / d
        if rule.lr_in_momentum:
            u = lr * u
        r = u
        if mu and not rule.first_moment:
            b = mu * ops.convert_to_tensor(state["momentum_buffer"], dtype) + u  # E8
            self.assign(state["momentum_buffer"], b)
            r = u + mu * b if rule.nesterov else b
        self.assign(variable, p - r if rule.lr_in_momentum else p - lr * r)  # E9

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this optimizer, for `from_config` and for saved models."""
        config: dict[str, Any] = super().get_config()
        return config | {name: getattr(self, name) for name in FIELDS if name != "learning_rate"}


def _compute_dtype(variable: Variable) -> str:
    return COMPUTE[keras.backend.standardize_dtype(variable.dtype)]


def _denominator(rule: Rule, averages: dict[str, Tensor | None], t: Tensor) -> Tensor:
    """Return d of E5 and E6, with ∞ for 0 so that n/d is 0 there (E7)."""
    info = np.finfo(keras.backend.standardize_dtype(averages["square_avg"].dtype))  # type: ignore[union-attr]
    kappa = 4 * float(info.eps)  # 8 × unit roundoff
    power, weight = 0.0, 1.0
    if rule.bias_correction:
        exponent = t * (math.log(rule.decay) if rule.decay else -math.inf)
        power, weight = ops.exp(exponent), -ops.expm1(exponent)  # expm1 keeps the digits of 1 − βᵗ
    s, _ = variance(rule, averages, power, weight, kappa, _maximum)  # E5
    d = ops.sqrt(s + rule.eps) if rule.eps_inside_sqrt else ops.sqrt(s) + rule.eps
    return d if rule.eps >= info.tiny else ops.where(ops.equal(d, 0), math.inf, d)


def _maximum(x: Tensor, y: Tensor) -> Tensor:
    """Return the larger of each pair, and x where x is NaN, as NumPy does."""
    return ops.where(x < y, y, x)


def _dense(gradient: Tensor) -> Tensor:
    """Return a gradient as a dense tensor. Slices of one row are added."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    if keras.backend.backend() == "torch":
        return gradient.to_dense() if gradient.is_sparse else gradient
    return ops.convert_to_tensor(gradient, sparse=False)


def _rule_from(lr: float, **values: Any) -> Rule:
    """Return the rule of Keras' arguments. Errors use their names."""
    try:
        return Rule(lr=lr, **{FIELDS[name]: value for name, value in values.items()})
    except InputError as error:
        name = HYPERPARAMETERS[error.name].name_in("keras")
        raise InputError(name, error.allowed, error.value, error.remedy) from None


_cached_rule = lru_cache(maxsize=256, typed=True)(_rule_from)
