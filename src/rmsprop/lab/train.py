"""`rmsprop train`: one run of RMSprop, recorded, and resumable after every interruption."""

from __future__ import annotations

import dataclasses
import gc
import warnings
from collections.abc import Callable
from typing import Any

import torch

from rmsprop.environment import environment
from rmsprop.files import finite
from rmsprop.lab.findings.find import findings_to_show
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.runaway_loss import find_runaway_loss
from rmsprop.lab.runs import checkpoints
from rmsprop.lab.runs.directory import RunDirectory, new_path
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.measured_steps import StepRecorder, measured_steps
from rmsprop.lab.runs.replay import MOST, Replay, replay
from rmsprop.lab.runs.task_code import task_code
from rmsprop.lab.runs.training import Record, Training
from rmsprop.lab.task import first_line, load_task
from rmsprop.lab_options import TrainOptions, that_decide
from rmsprop.monitor import PostMortem
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

Listener = Callable[[Training, list[Record]], None]

EVERY = 250  # steps to a measured one, by which watching takes a small share of a long training (docs/monitor.md)
RECORDS = 10  # that a short one has: of its fraction of a second, they may take more
NOT_IN_VALIDATION = "validation not finite"  # while training is
LEARNED_NOTHING = "learned nothing"  # reason of a summary, and kind of its finding


def train(
    spec: str,
    rule: Rule | None = None,
    options: TrainOptions | None = None,
    *,
    command: str = "",
    listen: Listener = lambda _training, _records: None,
    **keywords: Any,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train `spec` (see `load_task`) with `rule`; return the run's directory and its summary.

    Keywords are fields of `TrainOptions`, and count before those of `options`.

    The directory holds run.json (what was asked), records.jsonl (see `Training.run`), statistics.jsonl (what the
    optimizer did at every `every`-th step, see `rmsprop.monitor.Monitor`; 0 leaves it out, and None stands for a tenth
    of the run, at most `EVERY` steps), checkpoint.pt and, at the end, summary.json. A checkpoint is written once a
    second, or less often if writing takes long, at the end and when SIGINT or SIGTERM arrive after the first step; then
    Interrupted is raised. With `resume` the run goes on, bit for bit, if the task's code has not changed; with
    `accept_changes` also if it has, which run.json then says.

    A run that has diverged is replayed, from an older checkpoint that is kept for this or from the start, and its steps
    are measured, up to `MOST` of them: `listen` is told of that by a record of kind "replay", and post_mortem of the
    summary says what was seen. A replay that fails says so in the summary; the run's own result stands.

    status of the summary is "finished" or "diverged"; its reason is None only for a training that came to something.
    """
    options, rule = dataclasses.replace(options or TrainOptions(), **keywords), rule or Rule()
    epochs, batch_size, every = options.epochs, options.batch_size, options.every
    task = load_task(spec)
    task.try_out(batch_size)

    def start() -> Training:
        return Training(
            task, lambda params: RMSprop.from_rule(params, rule), options.seed, epochs, batch_size, options.schedule
        )

    training, given = start(), {"epochs": epochs, "batch_size": batch_size}
    every = usual_every(training.total_steps) if every is None else every
    config = {
        "kind": "train",
        "task": spec,
        "task_code": task_code(spec),
        "rule": dataclasses.asdict(rule),
        **that_decide(options),
        "epochs": epochs or task.epochs,
        "batch_size": batch_size or task.batch_size,
        "every": every,
        "made_with": {"torch": torch.__version__, "threads": torch.get_num_threads()},
    }
    path = options.out or new_path("train", task.name, resume=options.resume)
    with RunDirectory.open(path, config, resume=options.resume, accept_changes=options.accept_changes) as run:
        _like_before(run.config()["made_with"])
        watch = StepRecorder(run, training, every)
        records = 0

        def go_back(state: dict[str, Any]) -> None:
            nonlocal records
            training.load_state_dict(state["training"])
            watch.load_state_dict(state["watch"])
            records = state["records"]

        def state() -> dict[str, Any]:
            watch.write()
            return {"training": training.state_dict(), "watch": watch.state_dict(), "records": records}

        step = training.step if run.load_checkpoint(go_back) else -1  # without one, not even the start is done
        run.keep_records_until(step, records)
        watch.begin(step)
        saver = checkpoints.Saver(run)
        with stop_signals() as stopped:
            for new in training.run():
                run.append(new)
                records += len(new)
                listen(training, new)
                if training.step:  # what is before the first step is the start, which needs no checkpoint
                    if stopped:
                        run.save_checkpoint(state())
                    elif saver.due():
                        saver.save(state(), training.step)
                if stopped:
                    raise Interrupted(f"stopped after step {training.step} of {training.total_steps}")
            run.save_checkpoint(state())
            summary, found = _summary(run, training, command, given), watch.post_mortem()
            if (lost := records - len(run.records())) > 0:
                summary["lost_records"] = lost
            if every:  # else nothing is measured, then neither
                del training, watch
                gc.collect()  # so that a replay's model and averages are the only ones
                summary |= _explained(run, found, summary, start, stopped, listen)
        checkpoints.forget(run)
        return run, run.finish(summary)


def usual_every(steps: int) -> int:
    """Return how many steps lie between two records of a run of `steps`."""
    return min(EVERY, max(1, steps // RECORDS))


def _explained(
    run: RunDirectory,
    found: PostMortem | None,
    summary: dict[str, Any],
    start: Callable[[], Training],
    stopped: list[int],
    listen: Listener,
) -> dict[str, Any]:
    """Return where a run that diverged began to, by replaying its steps from there; Nones if nothing went wrong.

    `found` is what the run's own records say of it.
    """
    span, told = _span(run, found, summary), None
    if span is not None:
        begin, name, last = span
        try:
            seen = _replayed(run, start, begin, name, last, stopped, listen)
        except Interrupted:
            raise
        except Exception as error:  # the training is done: what it came to is not lost with its replay
            told = {"failed": f"{type(error).__name__}: {first_line(error)}"}
        else:
            told = seen.to_dict() | {"tells": seen.post_mortem is not None and (seen.same or found is None)}
            if told["tells"]:
                found = seen.post_mortem
    return {"post_mortem": None if found is None else {**found.to_dict(), "text": str(found)}, "replay": told}


def _span(run: RunDirectory, found: PostMortem | None, summary: dict[str, Any]) -> tuple[int, str | None, int] | None:
    """Return the step and the checkpoint (None: the start) to replay from, and the last step to measure, if any."""
    reason, end = summary["reason"], summary["steps"]
    diverged = summary["status"] == "diverged"
    if reason == NOT_IN_VALIDATION or not (found or diverged):
        return None
    good = _last_good(found, summary)
    good = end if good is None else good
    begin, name = checkpoints.before(run, end, good)
    if begin <= good:
        return begin, name, min(end, good + MOST)
    if reason == "ran away":
        return 0, None, min(end, good + MOST)
    return (begin, name, end) if diverged else None  # what stopped being finite shows at the end, too


def _replayed(
    run: RunDirectory,
    start: Callable[[], Training],
    begin: int,
    name: str | None,
    last: int,
    stopped: list[int],
    listen: Listener,
) -> Replay:
    """Train again from step `begin`, and measure the steps up to `last`."""
    again = start()
    if name is not None:
        run.load_checkpoint(lambda state: again.load_state_dict(state["training"]), name)
    listen(again, [{"kind": "replay", "step": begin, "steps": last - begin}])

    def each(again: Training) -> None:
        listen(again, [])
        if stopped:
            raise Interrupted(f"stopped after step {again.step} of the replay to step {last}")

    return replay(again, last, run.records(), measured_steps(run), each)


def _last_good(found: PostMortem | None, summary: dict[str, Any]) -> int | None:
    """Return the last step of which the records say that it was good, None if they say nothing."""
    steps = [f["evidence"]["step_before"] for f in summary["findings"] if f["kind"] == "loss"]
    if found is not None:
        steps.append(found.step - 1 if found.after is None else found.after)
    return min(steps, default=None)


def _like_before(made_with: dict[str, Any]) -> None:
    """Use the number of threads the run began with; say so if its torch is another: sums may differ in the last bit."""
    torch.set_num_threads(made_with["threads"])
    if made_with["torch"] != torch.__version__:
        text = f"the run began with torch {made_with['torch']} and goes on with {torch.__version__}"
        warnings.warn(f"{text}: it may differ in the last bits", stacklevel=3)


def _summary(run: RunDirectory, training: Training, command: str, given: dict[str, Any]) -> dict[str, Any]:
    task, rule, records = training.task, run.config()["rule"], run.records()
    epochs = [r for r in records if r["kind"] == "epoch"]
    if not epochs or epochs[-1]["epoch"] != training.epoch:  # the record was lost in a crash, but not what it said
        again = training.evaluate("validation")
        epochs.append(finite({"validation_loss": again.loss, "validation_metric": again.metric}))
        epochs[-1]["epoch"] = training.epoch
    last = epochs[-1]
    lost = last["validation_loss"] is None  # what is not finite is recorded as null
    reason = None
    if training.diverged or (lost and not all(p.isfinite().all() for p in training.model.parameters())):
        reason = "not finite"
    elif not rule["maximize"] and find_runaway_loss(LossHistory(records), rule["lr"]):
        reason = "ran away"
    elif lost:
        reason = NOT_IN_VALIDATION
    summary = {
        "status": "diverged" if reason else "finished",
        "reason": reason,
        "task": task.name,
        "metric": training.score.name,
        "metric_kind": training.score.kind,
        "higher_is_better": training.score.higher_is_better,
        "epochs": training.epoch,
        "steps": training.step,
        "validation_loss": last["validation_loss"],
        "validation_metric": last["validation_metric"],
        "command": command,
        "given": given,
        "implementation": getattr(training.optimizer, "implementation", ""),
        "environment": environment(),
    }
    if reason == NOT_IN_VALIDATION:
        summary["lost_epoch"] = next(r["epoch"] for r in epochs if r["validation_loss"] is None)
    findings = findings_to_show(run, summary)
    if findings or measured_steps(run):
        summary["findings"] = findings
    if any(f["kind"] == LEARNED_NOTHING for f in findings):
        summary["reason"] = LEARNED_NOTHING
    if task.test is not None and not reason:
        tested = training.evaluate("test")
        summary["test_loss"], summary["test_metric"] = tested.loss, tested.metric
    return summary
