"""The values that a trial tries: drawn by grid, at random, quasi-randomly, or by TPE.

A draw depends on the seed and on the trial's slot: a trial that is lost and run again tries the same point. In the
second half of a search it also depends on the results known at that moment, since ranges may be widened, and TPE
learns from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from scipy.stats import qmc

from rmsprop.lab.tuning.space import Choices, Domain, Range, Space, Value, grid

SLOT = "slot"  # user attribute of a trial: its place in the plan


def distribution(domain: Domain) -> BaseDistribution:
    """Return the domain as Optuna has it."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    return FloatDistribution(domain.low, domain.high, log=True)


def startup_trials(trials: int) -> int:
    """Return the number of quasi-random trials before TPE: a third, at least 8.

    >>> startup_trials(12), startup_trials(60)
    (8, 20)
    """
    return max(8, trials // 3)


class SlotSampler(BaseSampler):
    """Optuna's sampler for one trial of a study.

    Parameters
    ----------
    name
        One of tpe, qmc, random, grid. "tpe" draws quasi-randomly in the slots up to `startup_trials`.
    space
        The domains at this moment: they may have been widened.
    slot, trials
        The trial's slot, and the number of slots.
    seed
        Decides all draws of the study.
    fixed
        Values by coordinate that are not drawn: those of the default, for example.
    """

    def __init__(
        self, name: str, space: Space, slot: int, trials: int, seed: int, fixed: Mapping[str, Value] | None = None
    ) -> None:
        self._space, self._fixed = space, fixed
        self._tpe = None
        if fixed is None and name == "tpe" and slot >= startup_trials(trials):
            self._tpe = _tpe(np.random.SeedSequence([seed, slot]))
        elif fixed is None:
            self._fixed = drawn(name, space, slot, trials, seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the domains that TPE draws jointly."""
        return {} if self._tpe is None else self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return TPE's joint draw."""
        found = {} if self._tpe is None else self._tpe.sample_relative(study, trial, search_space)
        return {name: self._tidy(name, value) for name, value in found.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of one coordinate."""
        if self._fixed is not None and param_name in self._fixed:
            return self._fixed[param_name]
        assert self._tpe is not None  # noqa: S101
        return self._tidy(param_name, self._tpe.sample_independent(study, trial, param_name, param_distribution))

    def _tidy(self, name: str, value: Any) -> Any:
        domain = self._space.get(name)
        if not isinstance(domain, Range) or not domain.low <= value <= domain.high:
            return value  # TPE also draws from ranges as they were before they were widened
        return domain.tidy(value)


def drawn(name: str, space: Space, slot: int, trials: int, seed: int) -> dict[str, Value]:
    """Return the point of a slot, by grid, random or quasi-random sampling.

    >>> from rmsprop.lab.tuning.space import Range
    >>> drawn("grid", {"lr": Range(0.001, 0.1)}, 1, 3, seed=0)
    {'lr': 0.01}
    """
    if name == "grid":
        return grid(space, trials)[slot]
    if name == "random":
        shares = np.random.default_rng([seed, slot]).random(len(space))
    else:  # a Halton sequence has its property at every length, Sobol's only at powers of two
        sequence = qmc.Halton(len(space), scramble=True, rng=np.random.default_rng(seed))
        sequence.fast_forward(slot)
        shares = sequence.random(1)[0]
    return {name: _at(domain, float(share)) for (name, domain), share in zip(space.items(), shares, strict=True)}


def _at(domain: Domain, share: float) -> Value:
    if isinstance(domain, Range):
        return domain.at(share)
    return domain.values[min(int(share * len(domain.values)), len(domain.values) - 1)]


def _tpe(sequence: np.random.SeedSequence) -> TPESampler:
    """Return TPE with every option of it named: its defaults change between versions."""
    return TPESampler(
        n_startup_trials=1,  # quasi-random trials came before
        n_ei_candidates=24,
        seed=int(sequence.generate_state(1)[0]),
        multivariate=True,
        group=False,
        constant_liar=True,  # workers do not try the same point at the same time
    )


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """Return the trial's point, drawn by its study's sampler."""
    values: dict[str, Value] = {}
    for name, domain in space.items():
        if isinstance(domain, Choices):
            values[name] = cast("Value", trial.suggest_categorical(name, domain.values))
        else:
            values[name] = trial.suggest_float(name, domain.low, domain.high, log=True)
    return values
