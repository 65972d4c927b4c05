"""How much each coordinate decides whether a trial is among the best, by Optuna's PED-ANOVA."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from rmsprop.lab.runs.schema import TIME_OVER, ImportanceFacts
from rmsprop.lab.tuning.draws import distribution
from rmsprop.lab.tuning.space import Choices, Domain, Space
from rmsprop.lab.tuning.trial_queue import ended_slots
from rmsprop.lab.verdicts import LEAST_SCORED

_SHUFFLES = 50
_CHANCE = 0.95  # quantile of the shuffled scores' importance
_BEST_SHARE, _BEST_COUNT = 0.25, 5  # "among the best": this share of the trials, at least this many


def importances(trials: list[FrozenTrial], space: Space, *, maximize: bool, seed: int) -> dict[str, ImportanceFacts]:
    """Return each coordinate's share of the importance, the largest first, and what chance reaches.

    Chance is the importance with shuffled scores, which 5 % of shuffles exceed, in the same unit. A trial that diverged
    or was stopped counts as worse than every score: that it failed says where not to search. The result is empty if
    fewer than `LEAST_SCORED` trials have a score, if scores are all equal, or if at most one coordinate varies.

    Parameters
    ----------
    trials
        The trials of one optimizer.
    space
        The domains at the end of the search. They grow here to the values that were tried: a range that was widened may
        have become narrow again.
    seed
        Decides the shuffles.
    """
    names = [name for name, domain in space.items() if not isinstance(domain, Choices) or len(domain.values) > 1]
    ended = [t for t in ended_slots(trials).values() if t.params and t.user_attrs["reason"] != TIME_OVER]
    scored = [t for t in ended if t.state == TrialState.COMPLETE]
    if len(scored) < LEAST_SCORED or len(names) < 2:
        return {}
    sign = 1.0 if maximize else -1.0
    worst = min(sign * t.values[0] for t in scored)
    values = np.array([sign * t.values[0] if t.state == TrialState.COMPLETE else worst - 1 for t in ended])
    domains = {name: distribution(_holding(space[name], [t.params[name] for t in ended])) for name in names}
    found = _divergences(ended, values, domains)
    total = sum(found.values())
    if total == 0:
        return {}
    random = np.random.default_rng(seed)
    shuffled = [_divergences(ended, random.permutation(values), domains) for _ in range(_SHUFFLES)]
    return {
        name: {
            "share": value / total,
            "chance": float(np.quantile([each[name] for each in shuffled], _CHANCE)) / total,
        }
        for name, value in found.items()
    }


def best_count(trials: int, scored: int) -> int:
    """Return how many trials count as the best.

    >>> best_count(40, 30), best_count(12, 12), best_count(100, 10)
    (10, 5, 10)
    """
    return min(max(math.ceil(_BEST_SHARE * trials), _BEST_COUNT), scored)


def _holding(domain: Domain, values: list[Any]) -> Domain:
    if isinstance(domain, Choices):
        return domain
    return dataclasses.replace(domain, low=min(domain.low, *values), high=max(domain.high, *values))


def _divergences(
    trials: list[FrozenTrial], values: npt.NDArray[np.float64], domains: dict[str, BaseDistribution]
) -> dict[str, float]:
    """Return PED-ANOVA's importances, the largest first: how far the best trials lie from where all were drawn.

    The result is empty if no trial is worse than the best ones. The trials are copied into a study in memory, where all
    have the same domains. A range that was widened would be another domain for PED-ANOVA, which judges each domain by
    itself.
    """
    count = best_count(len(values), int((values > values.min()).sum()))
    if count == 0:
        return {}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for trial, value in zip(trials, values, strict=True):
        point = {name: trial.params[name] for name in domains}
        study.add_trial(optuna.trial.create_trial(params=point, distributions=domains, value=float(value)))
    evaluator = PedAnovaImportanceEvaluator(
        target_quantile=(count - 0.5) / len(values),  # half a trial less: rounding up must not take one more
        region_quantile=1.0,
        evaluate_on_local=True,  # relative to where trials were drawn, since TPE does not draw evenly
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of normalize=False
        return get_param_importances(study, evaluator=evaluator, params=list(domains), target=None, normalize=False)
