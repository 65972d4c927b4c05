"""Find what is wrong with the result of a training: learned nothing, too slow, or worse than in an earlier epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rmsprop.lab.chance import SHARE, STANDARD_ERRORS, no_better
from rmsprop.lab.findings.loss_history import Epoch, LossHistory
from rmsprop.lab.score import score_words
from rmsprop.monitor.findings import Finding
from rmsprop.monitor.findings.finding import higher, lower, percent
from rmsprop.monitor.findings.history import History
from rmsprop.monitor.record import Record

LEARNED_SHARE = 0.1  # something was learned if the accuracy is more than this share of the way from chance to 1
FITTED = 0.9  # the training data are fitted if the training loss falls below this multiple of the loss at the start
LOSS_JUMP = 1.2  # long steps are the cause if a training loss rises above this multiple of the loss at the start
MOVED = 1.0  # steps are short if all of them together are less than this multiple of every weight matrix
SLOW = 0.9  # a training is slow if its validation loss ends above this share of the validation loss at the start
STEADY = 0.3  # the loss still falls if at least this share of its fall is in the second half of the epochs
GAVE_BACK = 0.25  # a training got worse if it gave back more than this share of the validation loss's fall
GAVE_BACK_SCORE = 0.05  # and more than this share of the score's gain
EXPLODED = 10.0  # or if its loss never fell and ends above this multiple of its start, whatever the score
WELL_TRAINED = 0.1  # long steps are harmless if the training loss ends at or below this multiple of its start
HARMLESS_JUMP = 1.5  # long first steps are harmless if no training loss is above this multiple of the loss at the start
LONG_STEP_KINDS = ("first step", "long steps", "spike", "oscillation")  # kinds of findings about long steps


class Judged(NamedTuple):
    """The facts by which a finished training is judged."""

    history: LossHistory
    rule: dict[str, Any]
    metric: str
    higher_is_better: bool
    moved: float  # largest movement of a weight matrix by all steps, relative to its size; NaN if not known

    def score_of(self, epoch: Epoch) -> str:
        """Return the words for an epoch's score; empty if the score is the loss."""
        return "" if self.metric == "loss" else f"; {self.metric} {score_words(epoch.score, self.metric)}"


def outcome(judged: Judged) -> Iterator[Finding]:
    """Yield at most one finding about the result of a finished training.

    Yields none unless losses before the first step and after every epoch are known.
    """
    epochs = judged.history.validation
    if judged.history.lost or not judged.history.losses or len(epochs) < 2 or epochs[0].number:
        return
    yield from learned_nothing(judged) or too_slow(judged) or got_worse(judged)


def harmless(finding: Finding, history: LossHistory) -> bool:
    """Return whether the finding is about long steps that did not harm the training."""
    if finding.kind not in LONG_STEP_KINDS:
        return False
    return history.left <= WELL_TRAINED or (finding.kind == "first step" and history.jump <= HARMLESS_JUMP)


def movement(statistics: Sequence[Record], steps: int) -> float:
    """Return how far `steps` steps can move the weight matrix that moves most, relative to its size.

    NaN if no update ratio of a matrix is known.
    """
    history = History(statistics)
    matrices = [name for name, seen in history.tensors.items() if len(seen[-1].values["shape"]) >= 2]
    ratios = [history.typical(name, "update_ratio") for name in matrices]
    return steps * max((ratio for ratio in ratios if math.isfinite(ratio)), default=math.nan)


def learned_nothing(judged: Judged) -> list[Finding]:
    """Find a training that predicts the validation data no better than before the first step or than a constant."""
    history, lr = judged.history, judged.rule["lr"]
    first, last = history.validation[0], history.validation[-1]
    constant = history.constant.loss
    level = first.loss if constant is None else min(first.loss, constant)
    if history.separate:  # an untrained policy may have a high return by chance
        level = max(epoch.loss for epoch in history.validation)
    if not no_better(last.loss, level) or _beats_constant(judged, last):
        return []
    fitted, moved = history.left < FITTED, judged.moved
    changes: tuple[dict[str, Any], ...] = ()
    advice = "check that the targets belong to the inputs, and that a gradient reaches the weights"
    if fitted:
        cause = f"the model overfits: its training loss has fallen to {percent(history.left)} of its start"
        advice = "check that the validation data are of the same kind; use more training data or a smaller model"
    elif history.jump > LOSS_JUMP:
        cause = (
            f"steps at lr = {lr:g} are too long: the training loss rose to {history.jump:.3g} times its value before "
            "the first step"
        )
        changes, advice = ({"lr": lower(lr)},), ""
    elif moved < MOVED:
        cause = _short(lr, moved)
        changes, advice = ({"lr": higher(lr)},), ""
    elif history.separate:
        cause = "steps are long enough to move the weights"
        advice = f"train for more epochs: the {judged.metric} may begin to improve late"
    else:
        cause = "not the length of the steps: the training loss did not jump, and the weights moved"
    known = "" if constant is None else f"; the best constant prediction has {constant:.4g}"
    chance = history.constant.metric
    scored = judged.score_of(last)
    if scored and chance is not None:
        scored += f"; a constant answer has {score_words(chance, judged.metric)}"
    return [
        Finding(
            kind="learned nothing",
            tensor=None,
            step=history.losses[-1].step,
            sentence=f"Nothing was learned: the validation loss went from {first.loss:.4g} before the first step to "
            f"{last.loss:.4g}{known}{scored}.",
            cause=cause,
            evidence={
                "before": first.loss, "last": last.loss, "constant": constant, "score": last.score,
                "constant_score": chance, "training_loss_left": history.left, "highest_times_before": history.jump,
                "moved": moved,
            },
            threshold=f"validation loss not {percent(SHARE)} below both, and an accuracy not "
            f"{percent(LEARNED_SHARE)} of the way above a constant's",
            advice=advice,
            changes=changes,
        )
    ]  # fmt: skip


def _short(lr: float, moved: float) -> str:
    return f"steps at lr = {lr:g} are short: all of them together have {percent(moved)} of a weight matrix's size"


def _beats_constant(judged: Judged, epoch: Epoch) -> bool:
    """Return whether the accuracy is well above the accuracy of a constant prediction."""
    chance, margin = judged.history.constant.metric, judged.history.constant.margin
    if chance is None or epoch.score is None or not judged.higher_is_better:
        return False
    return epoch.score > chance + max(STANDARD_ERRORS * margin, LEARNED_SHARE * (1 - chance))


def too_slow(judged: Judged) -> list[Finding]:
    """Find a training whose loss has hardly fallen and still falls."""
    epochs, lr = judged.history.validation, judged.rule["lr"]
    first, middle, last = epochs[0], epochs[len(epochs) // 2], epochs[-1]
    fall = first.loss - last.loss
    if not judged.history.has_scale or not 0 < fall <= (1 - SLOW) * first.loss or len(epochs) < 3:
        return []
    if first.loss < SLOW * (judged.history.constant.loss or 0.0):  # pretrained: the start was better than a constant
        return []
    late = (middle.loss - last.loss) / fall
    if not (late >= STEADY and judged.moved < MOVED):
        return []
    return [
        Finding(
            kind="slow",
            tensor=None,
            step=judged.history.losses[-1].step,
            sentence=f"This training has hardly begun: the validation loss has fallen from {first.loss:.4g} to "
            f"{last.loss:.4g}, {percent(late)} of it in the second half of the epochs{judged.score_of(last)}.",
            cause=_short(lr, judged.moved),
            evidence={"before": first.loss, "last": last.loss, "late_share": late, "moved": judged.moved},
            threshold=f"validation loss above {percent(SLOW)} of what it was, {percent(STEADY)} of its fall in the "
            f"second half, all steps together shorter than {MOVED:g} times a weight matrix",
            changes=({"lr": higher(lr)},),
        )
    ]


def got_worse(judged: Judged) -> list[Finding]:
    """Find a training that lost part of what it had learned."""
    history, lr = judged.history, judged.rule["lr"]
    first, last = history.validation[0], history.validation[-1]
    best = min(history.validation, key=lambda epoch: epoch.loss)
    fall, back = first.loss - best.loss, last.loss - best.loss
    exploded = best is first and last.loss > EXPLODED * abs(first.loss)
    if not (back > max(GAVE_BACK * fall, SHARE * abs(first.loss)) and (exploded or _score_fell(judged))):
        return []
    changes: tuple[dict[str, Any], ...] = ({"lr": lower(lr)},)
    cause = f"steps at lr = {lr:g} are too long: the training loss rose, too"
    jumped = exploded and history.jump > LOSS_JUMP  # the median of an epoch's losses hides a few bad batches
    if not jumped and history.training.get(last.number, math.nan) <= history.training.get(
        best.number, FITTED * (history.before or math.nan)
    ):
        cause = f"the model overfits: its training loss went on falling after epoch {best.number}"
        changes = ({"epochs": best.number},) if best.number else ()
    if history.separate:
        cause = f"steps at lr = {lr:g} are too long: they changed the model, and so the data of the next steps"
        changes = ({"lr": lower(lr)},)
    lost = f"It lost {percent(back / fall)} of its fall" if fall > 0 else "It never fell"
    return [
        Finding(
            kind="got worse",
            tensor=None,
            step=history.losses[-1].step,
            sentence=f"The validation loss ends at {last.loss:.4g}{judged.score_of(last)}; in epoch {best.number} it "
            f"was {best.loss:.4g}{judged.score_of(best)}. {lost}.",
            cause=cause,
            evidence={
                "before": first.loss, "best": best.loss, "last": last.loss, "best_epoch": best.number,
                "best_score": best.score, "score": last.score,
            },
            threshold=f"{percent(GAVE_BACK)} of the validation loss's fall lost, and {percent(GAVE_BACK_SCORE)} of the "
            f"score's gain; or a loss that never fell and ends above {EXPLODED:g} times its start",
            advice="" if changes else "use more training data or a smaller model",
            changes=changes,
        )
    ]  # fmt: skip


def _score_fell(judged: Judged) -> bool:
    """Return whether the score lost more than `GAVE_BACK_SCORE` of its gain, or is not known in an epoch."""
    sign = 1 if judged.higher_is_better else -1
    scores = [sign * e.score for e in judged.history.validation if e.score is not None and math.isfinite(e.score)]
    if len(scores) < len(judged.history.validation):
        return True
    return max(scores) - scores[-1] > GAVE_BACK_SCORE * (max(scores) - scores[0])
