"""A study: the searches of its optimizers, then the trainings that confirm the best of them. All in one storage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import stdev
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rmsprop.errors import InputError, Received
from rmsprop.lab.tuning.draws import SLOT, SlotSampler
from rmsprop.lab.tuning.plan import CONFIRMING_SEED, SEARCH_SHARE, Plan
from rmsprop.lab.tuning.space import Choices, Setting, Space, Value, point_of, widened
from rmsprop.lab.tuning.trial_queue import Queue, ended_slots, given_up, is_settled

_PLAN, _CONFIG, _BEGAN, _ALIVE = "plan", "config", "began", "alive"
_CONFIRM = "confirm"


class Claimed(NamedTuple):
    """A trial that this process runs."""

    queue: Queue
    identity: int
    trial: FrozenTrial
    optimizer: str | None  # whose search; None confirms


@dataclass
class Study:
    """The queues of a study, by optimizer, and the one that confirms."""

    storage: BaseStorage
    name: str
    plan: Plan

    def __post_init__(self) -> None:
        better = self.plan.higher_is_better
        self.searches = {o: Queue(self.storage, f"{self.name}/{o}", better) for o in self.plan.defaults}
        self.confirming = Queue(self.storage, f"{self.name}/{_CONFIRM}", better)

    # What is left to do

    def claim(self) -> Claimed | None:
        """Take a trial that is waiting, after failing lost ones and enqueuing what is missing; None if none waits."""
        self.advance()
        for optimizer, queue in self.searches.items():
            if (identity := queue.claim()) is not None:
                return Claimed(queue, identity, self.storage.get_trial(identity), optimizer)
        if (identity := self.confirming.claim()) is not None:
            return Claimed(self.confirming, identity, self.storage.get_trial(identity), None)
        return None

    def advance(self) -> None:
        """Fail lost trials, and enqueue what is missing: of the searches, and then of the trainings that confirm."""
        for optimizer, queue in self.searches.items():
            queue.fail_lost()
            if not self.search_is_over():
                queue.enqueue(range(self.slots(optimizer)))
        if self.is_searched():
            self.confirming.fail_lost()
            if not self.is_overdue():
                jobs = confirming_jobs(self.plan, self.candidates())
                self.confirming.enqueue(range(len(jobs)), lambda slot: jobs[slot])

    def slots(self, optimizer: str) -> int:
        """Return the number of slots of a search, as far as it is known now."""
        plan, trials = self.plan, self.searches[optimizer].trials()
        if plan.seconds is not None:  # two waiting ones for each that runs
            running = sum(trial.state == TrialState.RUNNING for trial in trials)
            return len(ended_slots(trials)) + 2 * running + 2
        slots = plan.trials
        if plan.total_epochs is not None:
            slots = affordable_slots(plan, trials, (plan.total_epochs - confirming_cost(plan)) // len(self.searches))
        return min(slots, plan.grid_slots(optimizer)) if plan.sampler == "grid" else slots

    def is_searched(self) -> bool:
        """Return whether all searches have ended: nothing runs, nothing will."""
        for optimizer, queue in self.searches.items():
            trials = queue.trials()
            if any(trial.state == TrialState.RUNNING for trial in trials):
                return False
            if not self.search_is_over() and not is_settled(trials, range(self.slots(optimizer))):
                return False
        return True

    def is_finished(self) -> bool:
        """Return whether the best settings are confirmed, or the time is over."""
        if not self.is_searched():
            return False
        trials = self.confirming.trials()
        if self.is_overdue():
            return not any(trial.state == TrialState.RUNNING for trial in trials)
        return is_settled(trials, range(len(confirming_jobs(self.plan, self.candidates()))))

    def search_is_over(self) -> bool:
        """Return whether the time for searching has passed."""
        return self.plan.seconds is not None and self.elapsed() > SEARCH_SHARE * self.plan.seconds

    def is_overdue(self) -> bool:
        """Return whether all time has passed."""
        return self.plan.seconds is not None and self.elapsed() > self.plan.seconds

    def elapsed(self) -> float:
        """Return the seconds since the study began, without the time in which nobody worked on it."""
        began: float = self._main.user_attrs.get(_BEGAN, time.time())
        return time.time() - began

    def keep_alive(self) -> None:
        """Record that a process works on the study now."""
        self._main.set_user_attr(_ALIVE, time.time())

    def go_on(self) -> None:
        """Take the time out of the count in which nobody worked on the study."""
        attributes = self._main.user_attrs
        if _ALIVE in attributes:
            self._main.set_user_attr(_BEGAN, attributes[_BEGAN] + time.time() - attributes[_ALIVE])
        self.keep_alive()

    # What a trial tries

    def sampler(self, claimed: Claimed) -> tuple[SlotSampler, Space, Setting | None]:
        """Return the sampler of a search trial, its space, and its setting if that is not drawn."""
        assert claimed.optimizer is not None  # noqa: S101
        plan, slot = self.plan, int(claimed.trial.user_attrs[SLOT])
        first = plan.first(claimed.optimizer)
        space = self.space(claimed.optimizer)
        if slot < len(first):
            fixed = nearest(space, point_of(first[slot], space, plan.gradient_rms))
            return SlotSampler(plan.sampler, space, slot, plan.trials, plan.seed, fixed), space, first[slot]
        drawn, count = slot - len(first), plan.trials - len(first)
        return SlotSampler(plan.sampler, space, drawn, count, plan.seed), space, None

    def space(self, optimizer: str) -> Space:
        """Return the domains as they are now: ranges at whose ends the best trial lies are widened.

        A grid stays as it is. Other draws are widened in the second half of the search.
        """
        space, trials = self.plan.spaces[optimizer], self.searches[optimizer].trials()
        best = best_trial(trials, maximize=self.plan.higher_is_better)
        if best is None or self.plan.sampler == "grid" or 2 * len(ended_slots(trials)) < self.plan.trials:
            return space
        while (wider := widened(space, best.params)) != space:
            space = wider
        return space

    def default_losses(self, optimizer: str) -> dict[int, float]:
        """Return the losses that the default has reported, by epoch."""
        trial = self.searches[optimizer].ended().get(0)
        return {} if trial is None else trial.intermediate_values

    # What was found

    def candidates(self) -> list[Setting]:
        """Return the settings to confirm: RMSprop's default, its best trials, and the best of each other optimizer."""
        found = [self.plan.defaults["RMSprop"]]
        for optimizer, queue in self.searches.items():
            count = self.plan.top if optimizer == "RMSprop" else 1
            best = ranked(queue.trials(), maximize=self.plan.higher_is_better)
            for trial in best:
                setting = Setting.from_json(trial.user_attrs["setting"])
                if count and setting not in found:
                    found.append(setting)
                    count -= 1
        return found

    def noise(self) -> float | None:
        """Return the standard deviation of the default's scores over its seeds; None if not known."""
        trial = self.searches["RMSprop"].ended().get(0)
        scores = [] if trial is None else trial.user_attrs.get("scores", [])
        return stdev(scores) if len(scores) > 1 else None

    # What the study keeps beside its trials

    @property
    def _main(self) -> optuna.Study:
        return self.searches["RMSprop"].study


def begin(
    storage: BaseStorage, name: str, config: Mapping[str, Any], plan: Plan, began: float, *, accept_changes: bool
) -> Study:
    """Return the study of this name: a new one, or the one that was begun with the same configuration.

    `began` is when the command started: its time counts from there. The others are those of `check_config`.
    """
    check_config(storage, name, config, accept_changes=accept_changes)
    known, asked = _known(storage, name), without_versions(config)
    study = Study(storage, name, Plan.from_json(known[_PLAN]) if _CONFIG in known else plan)
    main = study.searches["RMSprop"].study
    if _CONFIG not in known:
        main.set_user_attr(_PLAN, plan.to_json())
        main.set_user_attr(_BEGAN, began)
    if known.get(_CONFIG) != asked:  # last: it says that the plan is there
        main.set_user_attr(_CONFIG, asked)
    return study


def begun(storage: BaseStorage, name: str) -> Study | None:
    """Return the study of this name; None if it does not have its plan yet."""
    known = _known(storage, name)
    return Study(storage, name, Plan.from_json(known[_PLAN])) if _CONFIG in known else None


def is_begun(storage: BaseStorage, name: str) -> bool:
    """Return whether the study has its plan."""
    return _CONFIG in _known(storage, name)


def check_config(storage: BaseStorage, name: str, config: Mapping[str, Any], *, accept_changes: bool) -> None:
    """Raise InputError if the study has another configuration. With `accept_changes`, the task's code may differ."""
    known = _known(storage, name).get(_CONFIG)
    asked = without_versions(config)
    if known is None:
        return
    differing = [key for key in {**known, **asked} if known.get(key) != asked.get(key)]
    if accept_changes:
        differing = [key for key in differing if key != "task_code"]
    if differing:
        there = ", ".join(f"{key} {known.get(key)!r}" for key in differing)
        found = Received(", ".join(f"{key} {asked.get(key)!r}" for key in differing))
        remedy = "choose another --study, or another --out"
        raise InputError(f"the study {name!r}", f"the one asked for ({there})", found, remedy)


def without_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration must share with another one to be of the same study."""
    return {key: value for key, value in config.items() if key not in ("made_with", "accepted_changes")}


def _known(storage: BaseStorage, name: str) -> dict[str, Any]:
    """Return what the study keeps beside its trials; nothing if there is no such study."""
    studies = storage.get_all_studies()
    return next((each.user_attrs for each in studies if each.study_name == f"{name}/RMSprop"), {})


def confirming_jobs(plan: Plan, candidates: list[Setting]) -> list[dict[str, Any]]:
    """Return setting and seed of each training that confirms, seed by seed: an early end leaves complete seeds."""
    return [
        {"setting": setting.to_json(), "candidate": number, "seed": CONFIRMING_SEED + plan.seed + seed}
        for seed in range(plan.seeds)
        for number, setting in enumerate(candidates)
    ]


def confirming_cost(plan: Plan) -> int:
    """Return the epochs that confirming takes at most."""
    return (plan.top + len(plan.defaults)) * plan.seeds * plan.confirming_cost


def affordable_slots(plan: Plan, trials: list[FrozenTrial], epochs: int) -> int:
    """Return the number of slots for which `epochs` suffice.

    Trials that ended count what they took; those that wait, run or will run again count in full.
    """
    hopeless = given_up(trials)
    costs: dict[int, int] = {}
    spent = 0
    for trial in trials:
        slot = trial.user_attrs[SLOT]
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            costs[slot] = trial.user_attrs["epochs"]
            continue
        if trial.state == TrialState.FAIL and "dropped" not in trial.user_attrs:
            spent += plan.full_cost(slot)
        if slot not in hopeless:
            costs.setdefault(slot, plan.full_cost(slot))
    spent, count = spent + sum(costs.values()), max(costs, default=-1) + 1
    while spent + plan.full_cost(count) <= epochs:
        spent += plan.full_cost(count)
        count += 1
    return count


def nearest(space: Space, point: dict[str, Value]) -> dict[str, Value]:
    """Return the nearest point of the space: Optuna knows no trial outside of its space, such as one without decay."""
    found: dict[str, Value] = {}
    for name, domain in space.items():
        value = point.get(name)
        if isinstance(domain, Choices):
            found[name] = value if value in domain.values else domain.values[0]
        else:
            number = domain.low if value is None else float(value)
            found[name] = min(max(number, domain.low), domain.high)
    return found


def ranked(trials: list[FrozenTrial], *, maximize: bool) -> list[FrozenTrial]:
    """Return the trials that have a score, the best first; of equal ones, the older first."""
    scored = [trial for trial in ended_slots(trials).values() if trial.state == TrialState.COMPLETE]
    return sorted(scored, key=lambda trial: (-trial.values[0] if maximize else trial.values[0], trial.number))


def best_trial(trials: list[FrozenTrial], *, maximize: bool) -> FrozenTrial | None:
    """Return the best trial that has coordinates; None without one."""
    return next((trial for trial in ranked(trials, maximize=maximize) if trial.params), None)
