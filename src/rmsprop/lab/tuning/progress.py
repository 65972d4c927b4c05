"""Where a study stands, for those who wait for it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, NamedTuple

from rmsprop.lab.report.tuning_words import reason_words
from rmsprop.lab.tuning.study import Study, confirming_jobs, ranked
from rmsprop.lab.tuning.trial_queue import ended_slots


class Progress(NamedTuple):
    """Where a study stands.

    Attributes
    ----------
    done, total
        Trials of the searches, or with `confirming` trainings of the best settings.
    best, default
        Best score of RMSprop so far, and the default's.
    noise
        Standard deviation of the default's score over seeds; None if not known yet.
    seconds_left
        Estimate for the search, or with `confirming` for the rest; None at first.
    news
        The newest trial, in words.
    metric
        Name of the scores.
    """

    confirming: bool
    done: int
    total: int
    best: float | None
    default: float | None
    noise: float | None
    seconds_left: float | None
    news: str
    metric: str


Listener = Callable[[Progress], None]


def progress_of(study: Study, metric: str) -> Progress:
    """Return where a study stands."""
    plan, maximize = study.plan, study.plan.higher_is_better
    searches = {name: queue.trials() for name, queue in study.searches.items()}
    best = ranked(searches["RMSprop"], maximize=maximize)
    default = ended_slots(searches["RMSprop"]).get(0)
    confirming = study.is_searched()
    if confirming:
        done = len(ended_slots(study.confirming.trials()))
        total = len(confirming_jobs(plan, study.candidates()))
    else:
        done = sum(len(ended_slots(trials)) for trials in searches.values())
        total = sum(plan.trials if plan.seconds is not None else study.slots(name) for name in searches)
        total = max(total, done)  # of a budget in minutes, an estimate
    ended = [trial for trials in searches.values() for trial in ended_slots(trials).values()]
    newest = max(ended, key=lambda trial: str(trial.datetime_complete), default=None)
    score = None if default is None or default.values is None else float(default.values[0])
    return Progress(
        confirming=confirming,
        done=done,
        total=total,
        best=float(best[0].values[0]) if best else None,
        default=score,
        noise=study.noise(),
        seconds_left=_seconds_left(study, done, total, confirming=confirming),
        news="" if newest is None else _news(newest.user_attrs),
        metric=metric,
    )


def _seconds_left(study: Study, done: int, total: int, *, confirming: bool) -> float | None:
    """Return how long the search takes still, or the trainings that confirm; None if not known."""
    if study.plan.seconds is not None:
        return max(0.0, study.plan.seconds - study.elapsed())
    if not 0 < done < total:
        return None
    if not confirming:
        return study.elapsed() / done * (total - done)
    begun = [trial.datetime_start for trial in study.confirming.trials() if trial.datetime_start is not None]
    return (datetime.datetime.now() - min(begun)).total_seconds() / done * (total - done) if begun else None


def _news(facts: dict[str, Any]) -> str:
    setting = facts["setting"]
    name = "" if setting["optimizer"] == "RMSprop" else f"{setting['optimizer']}, "
    reason = f", {reason_words(facts['reason'])}" if facts["reason"] else ""
    return f"{name}{facts['phase']}: lr {setting['rule']['lr']:.3g}{reason}"
