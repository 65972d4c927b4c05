"""Judge the best settings of a study on new seeds: a gain over the default, or none shown.

The best of many noisy trials is partly the luckiest. Its score in the search is no evidence. Each of the best trials
and the default train again, with the same new seeds. Differences are paired by seed. Their intervals are exact, by
Wilcoxon's signed ranks, since a rate near the edge of divergence has outliers, and some seeds diverge. They are widened
for the number of settings tried again (Bonferroni), among which the best is picked.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rmsprop.lab.intervals import signed_rank_interval
from rmsprop.lab.runs.schema import TIME_OVER, CandidateFacts, TrialFacts
from rmsprop.lab.tuning.draws import SLOT
from rmsprop.lab.tuning.space import Setting, at_ends
from rmsprop.lab.tuning.study import Study, best_trial, confirming_jobs
from rmsprop.lab.tuning.trial_queue import given_up
from rmsprop.lab.verdicts import CONFIDENCE, verdict_of

_FINITE = 1e100  # above it, a difference is that to a seed that diverged


def judge_candidates(study: Study) -> list[CandidateFacts]:
    """Return each candidate with its scores on new seeds and its difference to the default, which comes first."""
    settings = study.candidates()
    jobs = confirming_jobs(study.plan, settings)
    scores: list[dict[int, float | None]] = [{} for _ in settings]
    chance: list[list[bool]] = [[] for _ in settings]
    for slot, trial in study.confirming.ended().items():
        number, seed = jobs[slot]["candidate"], jobs[slot]["seed"]
        if trial.user_attrs["reason"] == TIME_OVER:
            continue
        scores[number][seed] = trial.values[0] if trial.state == TrialState.COMPLETE else None
        if trial.user_attrs.get("at_chance") is not None:
            chance[number].append(trial.user_attrs["at_chance"])
    for slot in given_up(study.confirming.trials()):  # an error is worse than any score, too
        scores[jobs[slot]["candidate"]][jobs[slot]["seed"]] = None
    seeds = sorted(set.intersection(*(set(each) for each in scores)))
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(settings) - 1)
    better = study.plan.higher_is_better
    found: list[CandidateFacts] = []
    for number, setting in enumerate(settings):
        values = [scores[number][seed] for seed in seeds]
        difference, interval, verdict = None, None, ""
        if number and seeds:
            pairs = [_difference(scores[number][seed], scores[0][seed], better) for seed in seeds]
            difference, interval = signed_rank_interval(pairs, confidence)
            verdict = verdict_of(interval, better)
            if interval is None or max(map(abs, (difference, *interval))) > _FINITE:  # an end is a diverged seed
                difference, interval = None, None
        diverged = values.count(None)
        ranked_values = sorted((math.inf if v is None else -v if better else v) for v in values)  # the best first
        middle = median(ranked_values) if values else math.inf
        found.append(
            {
                "setting": setting.to_json(),
                "scores": values,
                "median": (-middle if better else middle) if math.isfinite(middle) else None,
                "diverged": diverged,
                "difference": difference,
                "interval": interval,
                "verdict": verdict,
                "search_score": _search_score(study, setting),
                "at_chance": all(chance[number]) if chance[number] else None,
            }
        )
    return found


def recommended(candidates: list[CandidateFacts], *, higher_is_better: bool) -> int:
    """Return the index of the candidate to use: RMSprop's best if it is better than the default, else the default."""
    better = [
        number
        for number, each in enumerate(candidates)
        if each["verdict"] == "better" and each["setting"]["optimizer"] == "RMSprop"
    ]

    def rank(number: int) -> float:
        middle = candidates[number]["median"]
        return -math.inf if middle is None else middle if higher_is_better else -middle

    return max(better, key=rank, default=0)


def trial_facts(study: Study) -> list[TrialFacts]:
    """Return the trials of all searches, for tables and figures."""
    return [_facts(optimizer, trial) for optimizer, queue in study.searches.items() for trial in queue.ended().values()]


def failures(study: Study) -> list[str]:
    """Return the errors of trials that failed for good, each once, with their number."""
    errors: dict[str, int] = {}
    for queue in (*study.searches.values(), study.confirming):
        trials = queue.trials()
        for slot in given_up(trials):
            facts = [trial.user_attrs for trial in trials if trial.user_attrs[SLOT] == slot]
            reason = next(str(f.get("error") or f.get("lost")) for f in reversed(facts) if {"error", "lost"} & set(f))
            errors[reason] = errors.get(reason, 0) + 1
    return [f"{reason} ({count} {'trial' if count == 1 else 'trials'})" for reason, count in errors.items()]


def ends(study: Study) -> dict[str, list[str]]:
    """Return the coordinates whose best value lies at an end of the range, by optimizer, though ranges were widened."""
    found = {}
    for optimizer, queue in study.searches.items():
        best = best_trial(queue.trials(), maximize=study.plan.higher_is_better)
        names = [] if best is None else at_ends(study.space(optimizer), best.params)
        if names:
            found[optimizer] = names
    return found


def widened_ranges(study: Study) -> dict[str, list[float]]:
    """Return the ranges of RMSprop that the search widened, as they are now."""
    before, now = study.plan.spaces["RMSprop"], study.space("RMSprop")
    changed: Any = {name: domain for name, domain in now.items() if domain != before[name]}
    return {name: [domain.low, domain.high] for name, domain in changed.items()}


def _difference(score: float | None, reference: float | None, higher_is_better: bool) -> float:
    """Return the difference of two scores; None, of a seed that diverged, is worse than any score."""
    if score is not None and reference is not None:
        return score - reference
    infinity = math.inf if higher_is_better else -math.inf
    return 0.0 if score is reference else -infinity if score is None else infinity


def _search_score(study: Study, setting: Setting) -> float | None:
    """Return the score that the search saw."""
    for queue in study.searches.values():
        for trial in queue.ended().values():
            if trial.state == TrialState.COMPLETE and trial.user_attrs["setting"] == setting.to_json():
                return float(trial.values[0])
    return None


def _facts(optimizer: str, trial: FrozenTrial) -> TrialFacts:
    facts = trial.user_attrs
    return {
        "optimizer": optimizer,
        "slot": facts[SLOT],
        "phase": facts.get("phase", ""),
        "setting": facts["setting"],
        "point": dict(trial.params),
        "score": float(trial.values[0]) if trial.state == TrialState.COMPLETE else None,
        "reason": facts["reason"],
        "epochs": facts["epochs"],
        "seconds": facts["seconds"],
        "curve": [[epoch, value] for epoch, value in sorted(trial.intermediate_values.items())],
    }
