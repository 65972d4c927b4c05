"""Where a run diverged, found from a few steps: those with records, and those still in the ring."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from rmsprop.monitor import Monitor, PostMortem
from rmsprop.torch import RMSprop

Gradient = Callable[[int], float]


def asked(gradients: Sequence[Gradient], steps: int, every: int = 50, last: int = 100, **kw: Any) -> PostMortem | None:
    """Return the post-mortem after `steps` steps with these gradients, one for each tensor of four elements."""
    params = [nn.Parameter(torch.ones(4)) for _ in gradients]
    optimizer = RMSprop(params, lr=1e-3, **kw)
    monitor = Monitor(optimizer, every=every, last=last)
    for step in range(1, steps + 1):
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = torch.full_like(p, gradient(step))
        optimizer.step()
    return monitor.post_mortem()


def jump(at: int, factor: float, before: float = 1.0) -> Gradient:
    """Return a gradient that rises at step `at` and stays there."""
    return lambda step: before * (factor if step >= at else 1.0)


@pytest.mark.parametrize("kw", [{}, {"last": 0}, {"fused": False}])
@pytest.mark.parametrize(("at", "steps", "between"), [(2, 300, (1, 50)), (118, 400, (100, 150)), (2, 69, (1, 50))])
def test_a_divergence_whose_steps_are_no_longer_kept_is_told_by_the_records(
    at: int, steps: int, between: tuple[int, int], kw: dict[str, Any]
) -> None:
    found = asked([jump(at, 1e9), jump(at, 1e5, 0.1)], steps, **{"last": 20, **kw})
    assert found is not None
    assert (found.kind, found.after, found.step) == ("spike", *between)
    assert found.tensors == ("0.0", "0.1")
    words = f"between step {between[0]} and step {between[1]} in 0.0, and in 1 of 1 other tensor: its gradient rose to"
    assert f"{words} 1e+09 times the largest before, and has not come back." in str(found)
    assert "Which of these tensors was first is unknown" in str(found)


def test_steps_that_are_all_known_are_told_by_their_history() -> None:
    found = asked([jump(118, 1e9)], 400, last=400)
    assert found is not None
    assert (found.step, found.after) == (118, None)
    assert "its gradient was 1e+09 times its history" in str(found)


def test_a_rise_that_its_history_follows_is_told_where_it_left_what_was_before() -> None:
    found = asked([lambda step: 1.1 ** max(0, step - 100)], 300, every=1)
    assert found is not None
    assert found.kind == "spike"
    assert found.after is None
    assert 100 < found.step < 200


@pytest.mark.parametrize(
    "gradients",
    [
        [jump(70, 300.0), jump(70, 300.0)],  # the loss may have been multiplied
        [jump(10, 10.0), jump(5, 20.0)],
        [jump(70, 1e6, 1e-8), jump(70, 1.0)],  # the larger one is small beside the other
        [jump(70, 1.0, 0.0), lambda step: float(step >= 70)],  # no gradient before step 70
        [lambda step: 1e7 if step in (2, 3, 50, 100) else 1.0],  # returns each time
        [lambda step: 1e7 if step == 250 else 1.0],  # may still return
        [lambda step: 1e-5 ** (step / 250) if step < 200 else 1.0],  # falls, and rises again
    ],
)
@pytest.mark.parametrize("last", [0, 20])
def test_what_is_no_divergence_is_none_long_after_it(gradients: list[Gradient], last: int) -> None:
    assert asked(gradients, 250, last=last) is None


def test_where_steps_are_not_known_all_tensors_are_not_said_to_have_begun_at_once() -> None:
    found = asked([jump(333, math.nan), jump(334, math.nan)], 500)
    assert found is not None
    assert (found.kind, found.after, found.step) == ("nonfinite", 300, 350)
    assert str(found).startswith("It began between step 300 and step 350: by then, all 2 tensors were not finite.")
    assert "the loss" not in str(found)
    assert "Up to step 300, no gradient had risen to 10 times its history and stayed there." in str(found)
    assert "Which of these tensors was first is unknown" in str(found)
    at_once = asked([jump(333, math.nan), jump(333, math.nan)], 400)
    assert at_once is not None
    assert "It began at step 333 in all 2 tensors at once: the loss was not finite, or" in str(at_once)
    assert "Before it, no gradient had risen to 10 times its history and stayed there." in str(at_once)


def test_one_tensor_alone_is_named_also_where_steps_are_not_known() -> None:
    found = asked([jump(333, math.nan), jump(333, 1.0)], 500)
    assert found is not None
    assert str(found).startswith("It began between step 300 and step 350 in 0.0: 4 elements of its gradient were not")
    assert "was first is unknown" not in str(found)


def test_of_gradients_before_it_nothing_is_said_where_their_history_is_not_known() -> None:
    found = asked([jump(20, math.nan), jump(20, 1.0)], 60, fused=False)
    assert found is not None
    assert (found.after, found.step) == (1, 50)
    assert "had risen" not in str(found)


def test_steps_that_were_measured_are_not_said_not_to_have_been() -> None:
    gradients = [jump(333, math.nan), jump(333, 1.0)]
    kernel, without, records = asked(gradients, 500), asked(gradients, 500, fused=False), asked(gradients, 500, last=0)
    assert "The steps between them are no longer kept: pass Monitor a larger last than 100." in str(kernel)
    for found in (without, records):
        assert "The steps between them were not measured: pass every=1 to Monitor, or --every 1 to rmsprop run." in str(
            found
        )


@pytest.mark.parametrize(("every", "after", "factor"), [(50, None, 50), (20, 440, 5000)])
def test_a_loss_that_is_multiplied_is_told_to_be_possible(every: int, after: int | None, factor: float) -> None:
    def noise(seed: int) -> Gradient:
        values = torch.rand(501, generator=torch.Generator().manual_seed(seed)) + 0.5
        return lambda step: float(values[step]) * (factor if step >= 450 else 1)

    found = asked([noise(0), noise(1), noise(2)], 500, every, fused=after is None)
    assert found is not None
    assert (found.step, found.after) == (450 if after is None else 460, after)
    assert "All 3 gradients rose by about the same factor (" in str(found)
    assert "the loss may have been multiplied there, and then nothing has diverged." in str(found)


@pytest.mark.parametrize("factors", [(50, 5000), (50, 1), (50,)])
def test_a_loss_is_not_said_to_be_multiplied_where_gradients_rose_differently_or_there_is_one(
    factors: tuple[float, ...],
) -> None:
    found = asked([jump(450, factor) for factor in factors], 500)
    assert found is not None
    assert "factor" not in str(found)


def test_a_loss_is_not_said_to_be_multiplied_where_what_follows_is_not_finite() -> None:
    gradient = jump(450, 50)
    found = asked([lambda step: math.inf if step > 470 else gradient(step)] * 2, 500)
    assert found is not None
    assert (found.kind, found.step, found.nonfinite_step) == ("spike", 450, 471)
    assert "factor" not in str(found)


# -- thresholds: silent a tenth below, reported a tenth above ----------------------------------------------------------


@pytest.mark.parametrize(
    ("silent", "loud"),
    [
        (([jump(118, 9.0)], 200), ([jump(118, 11.0)], 200)),  # SPIKE, where every step is known
        (([jump(118, 900.0)], 250, 50, 0), ([jump(118, 1100.0)], 250, 50, 0)),  # LEAP, where only records are known
        (([jump(118, 11.0)], 120), ([jump(118, 11.0)], 121)),  # LASTING
    ],
)
def test_a_divergence_begins_at_its_threshold(silent: tuple[Any, ...], loud: tuple[Any, ...]) -> None:
    names = ("gradients", "steps", "every", "last")
    assert asked(**{"last": 400, **dict(zip(names, silent, strict=False))}) is None
    assert asked(**{"last": 400, **dict(zip(names, loud, strict=False))}) is not None


@pytest.mark.parametrize(("steps", "kind"), [(19, None), (20, "stuck")])
def test_twenty_steps_left_out_one_after_the_other_are_told(steps: int, kind: str | None) -> None:
    found = asked([jump(51, math.nan)], 50 + steps, nonfinite="skip")
    assert (None if found is None else found.kind) == kind


@pytest.mark.parametrize(("apart", "alike"), [(5.4, True), (6.6, False)])
def test_gradients_rose_alike_up_to_a_factor_of_six(apart: float, alike: bool) -> None:
    found = asked([jump(450, 50), jump(450, 50 * apart)], 500)
    assert found is not None
    assert ("about the same factor" in str(found)) == alike


def test_the_table_has_five_steps_up_to_the_beginning_and_two_after_it_of_three_tensors() -> None:
    found = asked([jump(118, 20.0 + i) for i in range(4)], 200, last=200)
    assert found is not None
    assert list(found.table) == ["0.3", "0.2", "0.1"]
    assert [row["step"] for row in found.table["0.3"]] == [114, 115, 116, 117, 118, 119, 120]
