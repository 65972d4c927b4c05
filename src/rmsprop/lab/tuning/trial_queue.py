"""A queue of trials in an Optuna study. It has a fixed number of slots; each slot runs to its end once.

Workers on any host share a queue through its storage alone:

- A slot is enqueued as a waiting trial of Optuna, and again if its trial fails.
- A worker claims a waiting trial: of several workers, the storage lets one. Then the worker looks whether an older
  trial of the same slot is alive, and drops its own if so. Two workers that enqueue a slot at once thus run it once.
- A running trial is lost if its process has ended, or if it has stopped beating. The worker that sees this fails it.

A trial that raised is tried once more; one whose process ended is tried ten times.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rmsprop.lab.tuning.draws import SLOT

BEAT_SECONDS = 5.0  # between two signs of life of a running trial
SILENT_SECONDS = 60.0  # without a new one, a trial of another host is lost
MAX_ERRORS, MAX_LOST = 2, 10
_LIVE = (TrialState.WAITING, TrialState.RUNNING)
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def process_id() -> dict[str, Any]:
    """Return what identifies this process: host, process number, and its start, since numbers are used again."""
    return {"host": platform.node(), "pid": os.getpid(), "start": _start_of(os.getpid())}


@dataclass
class Queue:
    """The slots of one study.

    Attributes
    ----------
    storage, name
        Optuna's storage, and the name of the study in it.
    maximize
        Whether higher scores are better.
    """

    storage: BaseStorage
    name: str
    maximize: bool
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)  # trial → newest beat, when it was first seen

    def __post_init__(self) -> None:
        self.study = optuna.create_study(
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(seed=0),  # of no use: every claim has its own sampler
            pruner=optuna.pruners.NopPruner(),
            study_name=self.name,
            direction="maximize" if self.maximize else "minimize",
            load_if_exists=True,
        )

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, the oldest first."""
        return self.study.get_trials(deepcopy=False)

    def ended(self) -> dict[int, FrozenTrial]:
        """Return the trial of each slot that has ended, with or without a score."""
        return ended_slots(self.trials())

    def enqueue(self, slots: Iterable[int], attributes: Callable[[int], Mapping[str, Any]] = lambda _: {}) -> None:
        """Enqueue each slot that is neither waiting, nor running, nor at its end."""
        trials = self.trials()
        settled = {trial.user_attrs[SLOT] for trial in trials if trial.state in (*_LIVE, *_ENDED)}
        settled |= given_up(trials)
        for slot in slots:
            if slot not in settled:
                self.study.enqueue_trial({}, user_attrs={SLOT: slot, **attributes(slot)})

    def claim(self) -> int | None:
        """Take the oldest waiting trial and return its id in the storage; None if none is waiting."""
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            identity = waiting._trial_id  # the storage's methods take it, and nothing else returns it
            try:
                if not self.storage.set_trial_state_values(identity, state=TrialState.RUNNING):
                    continue
            except UpdateFinishedTrialError:
                continue
            self.storage.set_trial_user_attr(identity, "owner", process_id())
            slot, older = waiting.user_attrs[SLOT], self.trials()[: waiting.number]
            if not any(t.user_attrs[SLOT] == slot and t.state in (*_LIVE, *_ENDED) for t in older):
                return identity
            self._fail(identity, "dropped", "another trial has this slot")
        return None

    def trial(self, identity: int, sampler: BaseSampler, pruner: BasePruner) -> optuna.Trial:
        """Return a claimed trial, to suggest values and report scores."""
        self.study.sampler, self.study.pruner = sampler, pruner
        return optuna.trial.Trial(self.study, identity)

    def finish(self, identity: int, score: float | None, attributes: Mapping[str, Any]) -> bool:
        """End a trial: with its score, or pruned without one. Return False if the trial was taken for lost before."""
        try:
            for name, value in attributes.items():
                self.storage.set_trial_user_attr(identity, name, value)
            if score is None:
                return self.storage.set_trial_state_values(identity, state=TrialState.PRUNED)
            return self.storage.set_trial_state_values(identity, state=TrialState.COMPLETE, values=[score])
        except UpdateFinishedTrialError:
            return False

    def fail(self, identity: int, error: str) -> None:
        """Record an exception of a trial; `enqueue` tries its slot once more."""
        self._fail(identity, "error", error)

    def beat(self, identity: int, count: int) -> None:
        """Say that a trial is running."""
        self.storage.set_trial_user_attr(identity, "beat", count)

    def fail_lost(self, *, now: float | None = None) -> int:
        """Fail the running trials whose process has ended or has been silent; return their number."""
        now, lost = time.monotonic() if now is None else now, 0
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            identity = trial._trial_id
            owner, beat = trial.user_attrs.get("owner"), trial.user_attrs.get("beat", 0)
            before, since = self._seen.setdefault(identity, (beat, now))
            if beat != before:
                self._seen[identity] = (beat, now)
                continue
            ended = owner is not None and owner["host"] == platform.node() and not _is_running(owner)
            if ended or now - since > SILENT_SECONDS:
                lost += self._fail(identity, "lost", "its process ended" if ended else "its process fell silent")
        return lost

    def _fail(self, identity: int, name: str, reason: str) -> bool:
        try:
            self.storage.set_trial_user_attr(identity, name, reason)
            return self.storage.set_trial_state_values(identity, state=TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False


def ended_slots(trials: Iterable[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Return the first ended trial of each slot."""
    found: dict[int, FrozenTrial] = {}
    for trial in trials:
        if trial.state in _ENDED:
            found.setdefault(trial.user_attrs[SLOT], trial)
    return dict(sorted(found.items()))


def given_up(trials: Iterable[FrozenTrial]) -> set[int]:
    """Return the slots that have failed too often."""
    errors: dict[int, int] = {}
    lost: dict[int, int] = {}
    for trial in trials:
        slot = trial.user_attrs[SLOT]
        errors[slot] = errors.get(slot, 0) + ("error" in trial.user_attrs)
        lost[slot] = lost.get(slot, 0) + ("lost" in trial.user_attrs and trial.state == TrialState.FAIL)
    return {slot for slot in errors if errors[slot] >= MAX_ERRORS or lost[slot] >= MAX_LOST}


def is_settled(trials: list[FrozenTrial], slots: Iterable[int]) -> bool:
    """Return whether each slot has ended or been given up."""
    return set(slots) <= ended_slots(trials).keys() | given_up(trials)


def _is_running(owner: Mapping[str, Any]) -> bool:
    """Return whether the process that claimed a trial runs on this host."""
    started = _start_of(owner["pid"])
    return started is not None and started == owner["start"]


def _start_of(pid: int) -> str | None:
    """Return when a process of this host started, as the system counts; "" if unknown, None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
