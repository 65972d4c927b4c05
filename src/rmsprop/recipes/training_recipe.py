"""A published training: rule, schedule, clipping and weight averaging, for PyTorch and optax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rmsprop.errors import InputError, Received, check_count, number_of_text, plain, require
from rmsprop.profiles import FIELDS, PROFILES, canonical, profile
from rmsprop.recipes.clip import Clip
from rmsprop.recipes.schedules import Exponential, RunFacts, Schedule, WeightEma
from rmsprop.recipes.schedules import facts as part_facts
from rmsprop.recipes.sentences import decay_words, milestones, rule_words
from rmsprop.recipes.torch_parts import Training, averaged_model, clamp, clipping
from rmsprop.rule import Rule

if TYPE_CHECKING:
    import optax
    from torch import Tensor, nn

    from rmsprop.torch import RMSprop


@dataclass(frozen=True)
class Recipe:
    """One published training.

    Parameters
    ----------
    name
        The argument of `rmsprop.recipe`.
    title
        What was trained, by whom and when.
    profile
        The profile (`rmsprop.profiles`) with the values of all other fields.
    values
        Values of fields of `Rule`.
    schedule
        The learning rate over the run.
    sources
        Where the numbers were read.
    notes
        What else a user must know.
    open
        Fields of the rule that no source states, with the values that others use. The caller must give them.
    clip, weight_clamp, weight_ema
        Clipping of the gradient; a bound on every weight before each step; a running average of the weights.
    batch_size, batch
        Examples in a step, if the number is fixed; what a batch is, in words.
    rate_follows_batch
        The source's code scales the rate with the batch size: lr·B/batch_size.
    epochs
        Length of the run, where the source states it.
    not_decayed
        Parameters exempt from weight decay: "norms", "biases", "depthwise", "vectors"; see `torch`.

    Examples
    --------
    >>> from rmsprop import recipe
    >>> impala = recipe("impala-atari")
    >>> impala.rule().eps, impala.clip
    (0.01, Clip(kind='norm', limit=40.0))
    >>> impala.learning_rate(500, total_steps=1000)
    0.0003
    """

    name: str
    title: str
    profile: str
    values: Mapping[str, Any]
    schedule: Schedule
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    open: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    clip: Clip | None = None
    weight_clamp: float | None = None
    weight_ema: WeightEma | None = None
    batch_size: int | None = None
    batch: str = ""
    rate_follows_batch: bool = False
    epochs: int | None = None
    not_decayed: tuple[str, ...] = ()

    def rule(self, **overrides: Any) -> Rule:
        """Return the rule, with the values of `overrides` in place of the recipe's.

        Raises InputError for an open value that `overrides` lacks, and where `rmsprop.profile` does.
        """
        whole = self.changed(**overrides)
        for name, others in whole.open.items():
            raise InputError(name, f"given with recipe {self.name!r}", Received("none"), others)
        return profile(self.profile, **whole.values)

    def changed(self, **overrides: Any) -> Recipe:
        """Return the recipe with the values of `overrides`, checked, in place of its own and open values."""
        values = canonical(overrides)
        Rule(**{**self._values(), **values})
        still_open = {name: others for name, others in self.open.items() if name not in values}
        return dataclasses.replace(self, values={**self.values, **values}, open=MappingProxyType(still_open))

    def learning_rate(
        self,
        step: int,
        *,
        steps_per_epoch: float | None = None,
        total_steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
    ) -> float:
        """Return the learning rate of one step. The first update is step 0.

        Parameters
        ----------
        step
            Number of earlier updates.
        steps_per_epoch, total_steps
            Length of an epoch, or of the run, in updates. Give exactly those in `schedule.needs`.
        batch_size
            Scales the rate by batch_size/recipe.batch_size, where the source does (`rate_follows_batch`).
        lr
            Replaces the recipe's rate. Required if the recipe's rate is open.

        Raises
        ------
        InputError
            If an argument that the schedule needs is missing, or one that it does not use is given.
        """
        if lr is None and "lr" in self.open:
            raise InputError("lr", f"given with recipe {self.name!r}", Received("none"), self.open["lr"])
        rate = self._values()["lr"] if lr is None else Rule(lr=lr).lr
        run = self._run(rate, steps_per_epoch, total_steps, batch_size)
        step = check_count("step", step, "steps count from 0", least=0)
        return float(run.peak * self.schedule.fraction(step, run))

    def torch(
        self,
        model: nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        steps_per_epoch: float | None = None,
        total_steps: int | None = None,
        batch_size: int | None = None,
        optimizer: Callable[[Any, Rule], RMSprop] | None = None,
        **overrides: Any,
    ) -> Training:
        """Return the recipe for PyTorch: optimizer, scheduler, clipping, clamping and averaged model.

        Parameters
        ----------
        model
            The module to train. Parameters or parameter groups are enough for a recipe that neither averages weights
            nor exempts some from weight decay.
        steps_per_epoch, total_steps, batch_size
            As in `learning_rate`.
        optimizer
            Function of parameters and rule that makes the optimizer, for arguments that no rule has, such as
            `state_dtype`; `RMSprop.from_rule` if omitted.
        **overrides
            Fields of the rule, in place of the recipe's.

        Returns
        -------
        Training
            `scheduler` is a `torch.optim.lr_scheduler.LambdaLR`. Step it after every update; its rates are those of
            `learning_rate`. `ema` is a `torch.optim.swa_utils.AveragedModel` that starts at the current weights.
            `optimizer`, `scheduler` and `ema` have `state_dict`.

        Raises
        ------
        InputError
            Where `learning_rate` does. For parameters, if the module is needed. For a half-precision module whose
            weights are to be averaged: a half-precision average stands still.

        Notes
        -----
        `rmsprop.torch.decay_groups` exempts parameters from weight decay by their module and name.

        `torch.nn.utils.clip_grad_norm_` divides by norm + 1e-6, where TensorFlow and optax divide by the norm.

        Examples
        --------
        >>> import torch
        >>> from rmsprop import recipe
        >>> model = torch.nn.Linear(4, 2)
        >>> training = recipe("torchbeast").torch(model, total_steps=100)
        >>> model(torch.ones(3, 4)).sum().backward()
        >>> norm = training.clip(model.parameters())
        >>> training.optimizer.step()
        >>> training.scheduler.step()
        >>> training.scheduler.get_last_lr()
        [0.0004752]
        """
        from rmsprop.torch import RMSprop, decay_groups  # before torch: the error says how to install torch

        rule = self.rule(**overrides)
        run = self._run(rule.lr, steps_per_epoch, total_steps, batch_size)
        rule = dataclasses.replace(rule, lr=run.peak)

        import torch
        from torch.optim.lr_scheduler import LambdaLR

        ema = None
        if isinstance(model, torch.nn.Module):
            params: Any = model.parameters()
            if self.weight_ema:
                ema = averaged_model(model, self.weight_ema)
            if rule.weight_decay:
                params = decay_groups(model, rule.weight_decay, without=self.not_decayed)
        elif self.weight_ema or (rule.weight_decay and self.not_decayed):
            what = "averages weights" if self.weight_ema else "decays some of the weights only"
            remedy = f"or take the optimizer alone: RMSprop.from_rule(params, recipe({self.name!r}).rule())"
            raise InputError("model", f"an nn.Module: {self.name!r} {what}", Received("parameters"), remedy)
        else:
            params = model
        made = (optimizer or RMSprop.from_rule)(params, rule)
        return Training(
            optimizer=made,
            scheduler=LambdaLR(made, lambda step: float(self.schedule.fraction(step, run))),
            clip=clipping(self.clip) if self.clip else None,
            clamp=None if self.weight_clamp is None else partial(clamp, limit=self.weight_clamp),
            ema=ema,
        )

    def optax(
        self,
        *,
        steps_per_epoch: float | None = None,
        total_steps: int | None = None,
        batch_size: int | None = None,
        decay_mask: Any = None,
        **overrides: Any,
    ) -> optax.GradientTransformation:
        """Return the recipe for optax: clipping, weight decay and the step with its schedule, in one transformation.

        Parameters
        ----------
        steps_per_epoch, total_steps, batch_size
            As in `learning_rate`.
        decay_mask
            The parameters with weight decay: a tree of bools, a function from parameters to such a tree, or True for
            all. Required if the recipe exempts some (`not_decayed`).
        **overrides
            Fields of the rule, in place of the recipe's.

        Notes
        -----
        `weight_clamp` and `weight_ema` do not transform gradients: the training loop must apply them.
        `weight_ema.at(n)` is the decay after step n.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> from rmsprop import recipe
        >>> optimizer = recipe("impala-atari").optax(total_steps=1000)
        >>> updates, state = optimizer.update(jnp.array([100.0]), optimizer.init(jnp.array([0.0])))
        >>> updates
        Array([-0.00582086], dtype=float32)
        """
        from rmsprop.jax import rmsprop  # before JAX: the error says how to install JAX

        rule = self.rule(**overrides)
        run = self._run(rule.lr, steps_per_epoch, total_steps, batch_size)

        import jax
        import jax.numpy as jnp
        import optax

        clip = []
        if self.clip:
            clip = [(optax.clip_by_global_norm if self.clip.kind == "norm" else optax.clip)(self.clip.limit)]
        if decay_mask is not None and not rule.weight_decay:
            raise InputError("decay_mask", "omitted without weight decay", Received("one"), "omit it")
        if rule.weight_decay and decay_mask is None and self.not_decayed:
            remedy = "for example lambda params: jax.tree.map(lambda p: p.ndim > 1, params), or True for all"
            allowed = f"given with recipe {self.name!r}, which decays no {', no '.join(self.not_decayed)}"
            raise InputError("decay_mask", allowed, Received("none"), remedy)
        is_mask = callable(decay_mask) or all(isinstance(leaf, bool) for leaf in jax.tree.leaves(decay_mask))
        allowed = "True, a tree of bools or a function that makes one"
        require(is_mask, "decay_mask", allowed, decay_mask, "see optax.masked")

        def rate(step: Any) -> Any:
            return run.peak * self.schedule.fraction(step, run, jnp)

        if decay_mask is None or decay_mask is True:
            return optax.chain(*clip, rmsprop(rule, rate))

        def not_masked(params: Any) -> Any:
            mask = decay_mask(params) if callable(decay_mask) else decay_mask
            return jax.tree.map(lambda is_decayed: not is_decayed, mask)

        undecayed = rmsprop(dataclasses.replace(rule, weight_decay=0.0), rate)
        return optax.chain(*clip, optax.masked(rmsprop(rule, rate), decay_mask), optax.masked(undecayed, not_masked))

    def explain(self) -> str:
        """Return rule, schedule, other parts, sources and notes as plain text."""
        values = self._values()
        lines = [("rule", rule_words(values))]
        if self.open:
            lines += [("not stated", f"{name}: {others}") for name, others in self.open.items()]
        rate = "not stated" if "lr" in self.open else f"{values['lr']:g}"
        lines.append(("learning rate", f"{rate}, {self.schedule.words()}"))
        if isinstance(self.schedule, Exponential) and self.epochs:
            lines.append(("", milestones(self.schedule, values["lr"], self.epochs)))
        if self.rate_follows_batch:
            lines.append(("", f"in proportion to the batch size: {values['lr']:g} · B/{self.batch_size}"))
        parts = [
            ("clipping", self.clip and self.clip.words()),
            ("weights", self.weight_clamp and f"every one to ±{self.weight_clamp:g} before each step"),
            ("evaluated with", self.weight_ema and self.weight_ema.words()),
            ("weight decay", decay_words(values, self.not_decayed)),
            ("batch", self.batch or (str(self.batch_size) if self.batch_size else None)),
            ("epochs", self.epochs and str(self.epochs)),
        ]
        lines += [(name, text) for name, text in parts if text]
        lines += [("source" if i == 0 else "", text) for i, text in enumerate(self.sources)]
        lines += [("notes" if i == 0 else "", text) for i, text in enumerate(self.notes)]
        return "\n".join([f"{self.name}: {self.title}", "", *(f"    {name:<15}{text}" for name, text in lines)])

    def facts(self) -> dict[str, Any]:
        """Return all fields by name, ready for JSON. Open values of the rule are None."""
        values = self._values()
        return {
            "name": self.name,
            "title": self.title,
            "profile": self.profile,
            "rule": {name: values.get(name) for name in FIELDS},
            "open": dict(self.open),
            "schedule": part_facts(self.schedule),
            "clip": self.clip._asdict() if self.clip else None,
            "weight_clamp": self.weight_clamp,
            "weight_ema": part_facts(self.weight_ema) if self.weight_ema else None,
            "batch_size": self.batch_size,
            "batch": self.batch,
            "rate_follows_batch": self.rate_follows_batch,
            "epochs": self.epochs,
            "not_decayed": list(self.not_decayed),
            "sources": list(self.sources),
            "notes": list(self.notes),
        }

    def _values(self) -> dict[str, Any]:
        """Return the values of the rule, without the open ones."""
        defaults = {name: PROFILES[self.profile].default(name) for name in FIELDS}
        return {name: value for name, value in {**defaults, **self.values}.items() if name not in self.open}

    def _run(self, lr: float, steps_per_epoch: Any, total_steps: Any, batch_size: Any) -> RunFacts:
        for name, value, remedy in (
            ("steps_per_epoch", steps_per_epoch, "say how many updates an epoch has"),
            ("total_steps", total_steps, "say how many updates the run has"),
        ):
            needed = name in self.schedule.needs
            if needed and value is None:
                raise InputError(name, f"given with recipe {self.name!r}", Received("none"), remedy)
            if not needed and value is not None:
                why = f"omitted with recipe {self.name!r}, whose rate does not depend on it"
                raise InputError(name, why, value, "omit it")
        if total_steps is not None:
            total_steps = check_count("total_steps", total_steps, "say how many updates the run has")
        if steps_per_epoch is not None:
            steps_per_epoch = plain(steps_per_epoch)
            number = isinstance(steps_per_epoch, Real) and not isinstance(steps_per_epoch, bool)
            if not number or not 1 <= steps_per_epoch < 2**31:
                remedy = number_of_text(steps_per_epoch) or "divide the number of examples by the batch size"
                raise InputError("steps_per_epoch", "a number from 1 to 2147483647", steps_per_epoch, remedy)
            steps_per_epoch = float(steps_per_epoch)
        if batch_size is not None:
            if not self.rate_follows_batch or self.batch_size is None:
                why = f"omitted with recipe {self.name!r}, whose source does not scale the rate with it"
                raise InputError("batch_size", why, batch_size, "give lr, if another rate is meant")
            lr = lr * check_count("batch_size", batch_size, "say how many examples a step has") / self.batch_size
        return RunFacts(lr, steps_per_epoch, total_steps)
