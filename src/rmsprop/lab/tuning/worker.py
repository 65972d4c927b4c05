"""The work of one process on a study: claim a trial, train, record, until nothing is left."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import torch

from rmsprop.lab.runs.schema import TIME_OVER
from rmsprop.lab.runs.trial import Source, task_of
from rmsprop.lab.task import Task
from rmsprop.lab.tuning.draws import SLOT, suggested
from rmsprop.lab.tuning.objective import FunctionObjective, Objective, TaskObjective
from rmsprop.lab.tuning.plan import NOISE_SEEDS, Plan, phase
from rmsprop.lab.tuning.space import Setting, setting_of
from rmsprop.lab.tuning.storage import FULL, opened
from rmsprop.lab.tuning.study import Claimed, Study
from rmsprop.lab.tuning.trainings import Epoch, Outcome, Stop
from rmsprop.lab.tuning.trial_queue import BEAT_SECONDS
from rmsprop.lab.user_code import described_error

_WAIT = 0.3  # seconds between two looks for a trial, while others run


def objective_of(source: Source | Task, epochs: int | None, folds: int | None, seed: int) -> Objective:
    """Return what a study scores: a task, or the function that `source` holds."""
    task: Any = source if isinstance(source, Task) else task_of(source)
    return TaskObjective(task, epochs, folds, seed) if isinstance(task, Task) else FunctionObjective(task)


def work_on(location: str, name: str, plan: Plan, source: Source, epochs: int | None, folds: int | None) -> None:
    """Do the work of one process of a crew, in one thread."""
    torch.set_num_threads(1)
    work(location, name, plan, objective_of(source, epochs, folds, plan.seed))


def work(location: str, name: str, plan: Plan, objective: Objective) -> None:
    """Run trials of a study until none is left. Trials that other processes run are waited for: they may be lost."""
    with opened(location) as storage:
        study = Study(storage, name, plan)
        while not study.is_finished():
            claimed = study.claim()
            if claimed is None:
                time.sleep(_WAIT)
                continue
            with _beating(claimed):
                run_trial(study, claimed, objective)


def run_trial(study: Study, claimed: Claimed, objective: Objective) -> None:
    """Run one trial to its end and record it. An exception of the user's code fails it, with file and line."""
    began = time.monotonic()
    try:
        outcome, facts = (_confirm if claimed.optimizer is None else _search)(study, claimed, objective)
    except (Exception, SystemExit) as error:  # SystemExit of the user's code must not end this worker
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # no fault of the trial, which runs again when there is room
        claimed.queue.fail(claimed.identity, str(described_error(error)))
        return
    facts |= {
        "epochs": outcome.epochs,
        "seconds": time.monotonic() - began,
        "reason": outcome.reason,
        "at_chance": outcome.at_chance,
    }
    claimed.queue.finish(claimed.identity, outcome.score, facts)


def _search(study: Study, claimed: Claimed, objective: Objective) -> tuple[Outcome, dict[str, Any]]:
    plan, optimizer = study.plan, claimed.optimizer
    assert optimizer is not None  # noqa: S101
    slot = int(claimed.trial.user_attrs[SLOT])
    sampler, space, setting = study.sampler(claimed)
    trial = claimed.queue.trial(claimed.identity, sampler, _pruner(plan))
    point = suggested(trial, space)
    if setting is None:
        setting = setting_of(point, plan.defaults[optimizer], plan.gradient_rms)
    trial.set_user_attr("setting", setting.to_json())
    trial.set_user_attr("phase", phase(plan, slot))
    default_losses = {} if slot == 0 else study.default_losses(optimizer)
    done = 0

    def on_epoch(epoch: Epoch) -> None:
        nonlocal done
        done = epoch.number
        if study.search_is_over():
            raise Stop(TIME_OVER)
        if math.isfinite(epoch.loss):
            trial.report(-epoch.loss if plan.higher_is_better else epoch.loss, epoch.number)
        if slot == 0 or epoch.number >= plan.cost:  # the default is the measure; the last epoch is paid for
            return
        default = default_losses.get(epoch.number)
        behind = default is None or epoch.loss > (-default if plan.higher_is_better else default)
        if epoch.problem and behind:
            raise Stop(epoch.problem)
        if trial.should_prune():
            raise Stop("behind")

    try:
        outcome = objective.search(setting, plan.seed, on_epoch)
    except Stop as stop:
        return Outcome(None, done, str(stop)), {}
    if slot > 0 or outcome.score is None:
        return outcome, {}
    scores, epochs = [outcome.score], outcome.epochs

    def on_other_seed(_epoch: Epoch) -> None:
        if study.search_is_over():
            raise Stop(TIME_OVER)

    with suppress(Stop):
        for seed in range(1, NOISE_SEEDS):  # the spread of the default is the unit in which gains are shown
            again = objective.search(setting, plan.seed + seed, on_other_seed)
            epochs += again.epochs
            scores += [] if again.score is None else [again.score]
    return Outcome(outcome.score, epochs), {"scores": scores}


def _confirm(study: Study, claimed: Claimed, objective: Objective) -> tuple[Outcome, dict[str, Any]]:
    facts = claimed.trial.user_attrs

    def on_epoch(_epoch: Epoch) -> None:
        if study.is_overdue():
            raise Stop(TIME_OVER)

    try:
        return objective.confirm(Setting.from_json(facts["setting"]), facts["seed"], on_epoch), {}
    except Stop as stop:
        return Outcome(None, 0, str(stop)), {}


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner, with every option of it named."""
    if plan.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=5, n_warmup_steps=max(1, plan.cost // 4), interval_steps=1, n_min_trials=3
        )
    if plan.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=max(1, plan.cost // 9), max_resource=plan.cost, reduction_factor=3, bootstrap_count=0
        )
    return optuna.pruners.NopPruner()


@contextmanager
def _beating(claimed: Claimed) -> Iterator[None]:
    """Give signs of life of a trial, from a thread, as long as the context lasts."""
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            with suppress(Exception):  # a database that is away: the next beat may reach it
                claimed.queue.beat(claimed.identity, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
