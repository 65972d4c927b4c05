"""Recipes: their numbers are those of the sources, their schedules follow the sources' code, and they train."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from rmsprop import InputError, Rule, init, profile, update
from rmsprop.profiles import FIELDS
from rmsprop.recipes import RECIPES, Clip, Recipe, Training, recipe
from rmsprop.recipes.schedules import Constant, Cosine, Exponential, Linear, RunFacts, Steps, Warmup, WeightEma

# The rules a second time, from the sources: lr, decay, eps, eps inside the root, momentum, rate in the buffer, start of
# the average, centered, weight decay. None: not stated.
IN, OUT = True, False
RULES: dict[str, tuple[Any, ...]] = {
    "graves-2013": (1e-4, 0.95, 1e-4, IN, 0.9, True, 0, True, 0),
    "char-rnn-2015": (2e-3, 0.95, 1e-8, OUT, 0, False, 0, False, 0),
    "dnc-2016": (1e-4, 0.9, 1e-10, IN, 0, True, 1, False, 0),
    "dqn-nature": (2.5e-4, 0.95, 0.01, IN, 0, True, 0, True, 0),
    "dqn-dopamine": (2.5e-4, 0.95, 1e-5, IN, 0, True, 1, True, 0),
    "dqn-minatar": (2.5e-4, 0.95, 0.01, OUT, 0.0, False, 0, True, 0),
    "a3c-2016": (None, 0.99, None, IN, 0, True, None, False, 0),
    "a2c-baselines": (7e-4, 0.99, 1e-5, IN, 0, True, 1, False, 0),
    "a2c-sb3": (7e-4, 0.99, 1e-5, OUT, 0, False, 0, False, 0),
    "impala-atari": (6e-4, 0.99, 0.01, IN, 0, True, 1, False, 0),
    "impala-dmlab": (4.8e-4, 0.99, 0.1, IN, 0, True, 1, False, 0),
    "torchbeast": (4.8e-4, 0.99, 0.01, OUT, 0, False, 0, False, 0),
    "qmix-pymarl": (5e-4, 0.99, 1e-5, OUT, 0, False, 0, False, 0),
    "wgan-2017": (5e-5, 0.99, 1e-8, OUT, 0, False, 0, False, 0),
    "slim-default": (0.01, 0.9, 1.0, IN, 0.9, True, 1, False, 4e-5),
    "inception-v3": (0.045, 0.9, 1.0, IN, 0.9, True, 1, False, 4e-5),
    "inception-v4": (0.045, 0.9, 1.0, IN, 0.9, True, 1, False, 4e-5),
    "mobilenet-v2": (0.045, 0.9, 1.0, IN, 0.9, True, 1, False, 4e-5),
    "mobilenet-v3": (0.1, 0.9, None, IN, 0.9, True, 1, False, 1e-5),
    "mnasnet": (0.256, 0.9, 1e-3, IN, 0.9, True, 1, False, 1e-5),
    "efficientnet-v1": (0.256, 0.9, 1e-3, IN, 0.9, True, 1, False, 1e-5),
    "efficientnet-v2": (0.256, 0.9, 1e-3, IN, 0.9, True, 1, False, 1e-5),
    "amoebanet-tpu": (0.64, 0.9, 1.0, IN, 0.9, True, 1, False, 4e-5),
    "amoebanet-defaults": (0.015, 0.9, 1.0, IN, 0.9, True, 1, False, 4e-5),
    "timm-efficientnet-b0": (0.048, 0.9, 1e-3, IN, 0.9, True, 1, False, 1e-5),
    "timm-mobilenet-v3-large": (0.064, 0.9, 1e-3, IN, 0.9, True, 1, False, 1e-5),
    "torchvision-mobilenet-v3": (0.064, 0.9, 0.0316, OUT, 0.9, False, 0, False, 1e-5),
}
COLUMNS = (
    "lr", "decay", "eps", "eps_inside_sqrt", "momentum", "lr_in_momentum", "initial_square_avg", "centered",
    "weight_decay",
)  # fmt: skip
CLIPS = {
    "char-rnn-2015": Clip("value", 5), "dnc-2016": Clip("norm", 50), "a2c-baselines": Clip("norm", 0.5),
    "a2c-sb3": Clip("norm", 0.5), "impala-atari": Clip("norm", 40), "torchbeast": Clip("norm", 40),
    "qmix-pymarl": Clip("norm", 10), "inception-v3": Clip("norm", 2), "amoebanet-defaults": Clip("norm", 10),
}  # fmt: skip
GIVEN = {"lr": 7e-4, "eps": 0.1, "initial_square_avg": 1.0}  # what A3C and MobileNetV3 do not state
EACH = pytest.mark.parametrize("each", RECIPES.values(), ids=RECIPES)


def open_values(each: Recipe) -> dict[str, Any]:
    return {name: GIVEN[name] for name in each.open}


def length(each: Recipe, steps_per_epoch: float = 3, total_steps: int = 20) -> dict[str, Any]:
    """Return the lengths that the recipe's schedule needs."""
    known = {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}
    return {name: known[name] for name in each.schedule.needs}


def rates(each: Recipe, steps: int, **known: Any) -> list[float]:
    lr = {name: value for name, value in open_values(each).items() if name == "lr"}
    return [each.learning_rate(step, **known, **lr) for step in range(steps)]


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_rules_are_those_of_the_sources() -> None:
    assert set(RULES) == set(RECIPES)
    for name, values in RULES.items():
        each = recipe(name)
        rule = each.facts()["rule"]
        assert tuple(rule[column] for column in COLUMNS) == values, name
        assert {column for column, value in zip(COLUMNS, values, strict=True) if value is None} == set(each.open)
        whole = each.rule(**open_values(each))
        assert {field: getattr(whole, field) for field in FIELDS} == {**rule, **open_values(each)}
        assert not any((whole.nesterov, whole.maximize, whole.bias_correction, whole.decoupled_weight_decay))
        assert each.clip == CLIPS.get(name), name
        assert (each.weight_clamp == 0.01) == (name == "wgan-2017")


def test_batches_epochs_and_averages_are_those_of_the_sources() -> None:
    epochs = {name: each.epochs for name, each in RECIPES.items() if each.epochs}
    assert epochs == {
        "char-rnn-2015": 50, "inception-v3": 100, "mnasnet": 350, "efficientnet-v1": 350, "efficientnet-v2": 350,
        "amoebanet-tpu": 48, "amoebanet-defaults": 100, "timm-efficientnet-b0": 450, "timm-mobilenet-v3-large": 600,
        "torchvision-mobilenet-v3": 600,
    }  # fmt: skip
    batches = {name: each.batch_size for name, each in RECIPES.items() if each.batch_size}
    assert batches == {
        "char-rnn-2015": 50, "dnc-2016": 16, "dqn-nature": 32, "dqn-dopamine": 32, "dqn-minatar": 32,
        "impala-atari": 32, "impala-dmlab": 2, "torchbeast": 8, "qmix-pymarl": 32, "wgan-2017": 64,
        "slim-default": 32, "inception-v3": 32, "mobilenet-v2": 96, "mobilenet-v3": 4096, "mnasnet": 4096,
        "efficientnet-v1": 4096, "efficientnet-v2": 4096, "amoebanet-tpu": 256, "amoebanet-defaults": 32,
        "timm-efficientnet-b0": 768, "timm-mobilenet-v3-large": 1024, "torchvision-mobilenet-v3": 1024,
    }  # fmt: skip
    averaged = {name: each.weight_ema for name, each in RECIPES.items() if each.weight_ema}
    tf = ("inception-v3", "mobilenet-v2", "mobilenet-v3", "mnasnet", "efficientnet-v1", "efficientnet-v2",
          "amoebanet-tpu", "amoebanet-defaults")  # fmt: skip
    timm = ("timm-efficientnet-b0", "timm-mobilenet-v3-large")
    assert averaged == {
        **dict.fromkeys(tf, WeightEma(0.9999, num_updates=True)),
        **dict.fromkeys(timm, WeightEma(0.9999, num_updates=False)),
    }


@EACH
def test_a_recipe_says_what_it_is(each: Recipe) -> None:
    assert recipe(each.name) is each
    facts = each.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    text = each.explain()
    assert text.startswith(f"{each.name}: {each.title}\n")
    for part in (each.schedule.words(), *each.sources, *each.notes, *each.open.values()):
        assert part in text
    assert each.sources
    assert all(re.search(r"arXiv:\d{4}\.\d{4,5}|Nature \d|^[\w.-]+/[\w.-]+: ", source) for source in each.sources)


def test_explain_of_efficientnet_has_the_rates_that_matter() -> None:
    text = recipe("efficientnet-v1").explain()
    for part in (
        "0.256, rises step by step from 0 over 5 epochs, then × 0.97 every 2.4 epochs",
        "0 at the first step, 0.2409 after the warm-up, 0.00309 at the end",
        "0.256 · B/4096",
        "eps 0.001 inside the root (smallest denominator 0.0316)",
        "1e-05, L2, without norms",
        "min(0.9999, (1 + n)/(10 + n))",
    ):
        assert part in text
    assert "not stated     eps: the paper does not state it" in recipe("mobilenet-v3").explain()
    assert "clipping       norm of all gradients together to 40" in recipe("impala-atari").explain()
    assert "every element of the gradient to ±5" in recipe("char-rnn-2015").explain()
    assert "every one to ±0.01 before each step" in recipe("wgan-2017").explain()


def test_importing_recipes_imports_no_framework() -> None:
    code = "import sys, rmsprop.recipes as r; r.recipe('dqn-nature').learning_rate(3); print(set(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'rmsprop.recipes'" in modules
    assert not re.search(r"'(torch|jax|optax|tensorflow|keras)'", modules)


# -- common mistakes --------------------------------------------------------------------------------------------------


def test_the_gradient_momentum_of_dqn_is_the_decay_of_the_average_gradient() -> None:
    """Follow dqn/NeuralQLearner.lua line by line."""
    rule = recipe("dqn-nature").rule()
    assert (rule.momentum, rule.centered, rule.decay) == (0, True, 0.95)
    assert recipe("dqn-minatar").rule().momentum == 0
    w, g, g2 = np.array([0.5, -2.0]), np.zeros(2), np.zeros(2)
    param, state = w.copy(), init(rule, w)
    for dw in np.random.default_rng(0).standard_normal((20, 2)):  # gradients of ascent
        g = 0.95 * g + 0.05 * dw
        g2 = 0.95 * g2 + 0.05 * dw * dw
        w = w + 0.00025 * dw / np.sqrt(g2 - g * g + 0.01)
        param, state = update(rule, param, -dw, state)
    np.testing.assert_allclose(param, w, rtol=1e-13)


def test_dopamine_starts_its_average_at_1_and_nature_at_0() -> None:
    """With a gradient of 0.01, Nature's first step is the longer one, although its eps is larger."""
    steps = {}
    for name in ("dqn-nature", "dqn-dopamine"):
        rule = recipe(name).rule()
        param, _ = update(rule, np.zeros(1), np.array([0.01]), init(rule, np.zeros(1)))
        steps[name] = -param[0]
    v, m = 0.05 * 1e-4, 0.05 * 0.01
    assert steps["dqn-nature"] == pytest.approx(2.5e-4 * 0.01 / math.sqrt(v - m * m + 0.01), rel=1e-12)
    assert steps["dqn-dopamine"] == pytest.approx(2.5e-4 * 0.01 / math.sqrt(0.95 + v - m * m + 1e-5), rel=1e-12)


@pytest.mark.parametrize(
    ("inside", "outside", "floors"),
    [
        ("impala-atari", "torchbeast", (0.1, 0.01)),
        ("a2c-baselines", "a2c-sb3", (1e-5**0.5, 1e-5)),
        ("efficientnet-v1", "torchvision-mobilenet-v3", (1e-3**0.5, 0.0316)),
        ("dqn-nature", "dqn-minatar", (0.1, 0.01)),
    ],
)
def test_the_same_eps_inside_and_outside_the_root_has_another_floor(
    inside: str, outside: str, floors: tuple[float, float]
) -> None:
    """Where the average is 0, the denominator is √eps inside the root, and eps outside."""
    for name, floor in zip((inside, outside), floors, strict=True):
        rule = dataclasses.replace(recipe(name).rule(), lr=1.0, weight_decay=0.0, initial_square_avg=0.0)
        param, _ = update(rule, np.zeros(1), np.array([1e-9]), init(rule, np.zeros(1)))
        assert -param[0] == pytest.approx(1e-9 / floor, rel=1e-3)
        assert f"smallest denominator {floor:.3g}" in recipe(name).explain()


def test_efficientnet_has_left_its_peak_behind_when_the_warm_up_ends() -> None:
    each, steps = recipe("efficientnet-v1"), 313
    assert each.learning_rate(0, steps_per_epoch=steps) == 0
    assert each.learning_rate(5 * steps - 1, steps_per_epoch=steps) == pytest.approx(0.256 * (1 - 1 / (5 * steps)))
    assert each.learning_rate(5 * steps, steps_per_epoch=steps) == pytest.approx(0.2408704, rel=1e-12)  # 0.256 · 0.97²
    assert each.learning_rate(350 * steps - 1, steps_per_epoch=steps) == pytest.approx(3.1e-3, rel=5e-3)
    assert each.learning_rate(5 * steps, steps_per_epoch=steps, batch_size=2048) == pytest.approx(0.1204352)
    assert max(rates(each, 6 * steps, steps_per_epoch=steps)) < 0.256


def test_a_first_step_with_rate_0_changes_the_average_and_not_the_weight() -> None:
    p = nn.Parameter(torch.ones(1))
    training = recipe("efficientnet-v2").torch(nn.ParameterList([p]), steps_per_epoch=10)
    p.grad = torch.full((1,), 3.0)
    training.optimizer.step()
    training.scheduler.step()
    assert p.item() == 1
    assert training.optimizer.state[p]["square_avg"].item() == pytest.approx(0.9 + 0.1 * (3 + 1e-5) ** 2)
    training.optimizer.step()
    assert p.item() < 1


def test_recipes_with_eps_1_follow_sgd_with_momentum() -> None:
    """On a quadratic with small gradients. EfficientNet's eps of 0.001 does not follow SGD."""

    def path(rule: Rule) -> float:
        p = np.array([1e-2, 1e-3])
        state, sgd, b = init(rule, p), p.copy(), np.zeros(2)
        curvature, farthest = np.array([0.1, 1.0]), 0.0
        for _ in range(300):
            scale = math.sqrt(0.9 ** (state.step + 1) + 1.0)  # what remains of the average's start, 1, plus eps
            b = 0.9 * b + 0.01 * curvature * sgd / scale
            sgd = sgd - b
            p, state = update(rule, p, curvature * p, state)
            farthest = max(farthest, float(np.max(np.abs(p - sgd))))
        return farthest / 1e-2

    for name in ("slim-default", "inception-v3", "inception-v4", "mobilenet-v2", "amoebanet-tpu", "amoebanet-defaults"):
        assert path(recipe(name).rule(lr=0.01, weight_decay=0)) < 1e-4, name
    assert path(recipe("efficientnet-v1").rule(lr=0.01, weight_decay=0)) > 0.1


def test_linear_schedules_end_at_0_and_stay_there() -> None:
    for each in RECIPES.values():
        if isinstance(each.schedule, Linear):
            lr = open_values(each).get("lr", each.facts()["rule"]["lr"])
            found = rates(each, 13, total_steps=10)
            assert found == pytest.approx([lr * max(0, 1 - step / 10) for step in range(13)], rel=1e-14, abs=0)
            assert found[10:] == [0, 0, 0]


def test_schedules_are_those_of_torch_and_the_same_in_jax() -> None:
    import jax.numpy as jnp
    from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

    run, optimizers = RunFacts(1.0, None, 12), [torch.optim.SGD([torch.zeros(1)], lr=1.0) for _ in range(2)]
    torchs = [CosineAnnealingLR(optimizers[0], 12), MultiStepLR(optimizers[1], [6, 9])]
    for step in range(12):
        schedules: tuple[Any, Any] = (Cosine(), Steps())
        for schedule, theirs in zip(schedules, torchs, strict=True):
            assert float(schedule.fraction(step, run)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
            late = Warmup(4, schedule)
            shifted = (step + 1) / 5 if step < 4 else float(schedule.fraction(step - 4, run._replace(total_steps=8)))
            assert float(late.fraction(step, run)) == pytest.approx(shifted, rel=1e-14)
            for each in (schedule, late):
                there = float(each.fraction(jnp.asarray(step), run, jnp))
                assert there == pytest.approx(float(each.fraction(step, run)), abs=1e-6)  # float32
            theirs.optimizer.step()
            theirs.step()


def test_char_rnn_decays_as_its_training_loop_does() -> None:
    """Follow train.lua line by line: iterations count from 1, and the rate changes after an iteration."""
    per_epoch, found, rate = 7, [], 2e-3
    for i in range(1, 50 * per_epoch + 1):
        epoch = i / per_epoch
        found.append(rate)
        if i % per_epoch == 0 and epoch >= 10:
            rate *= 0.97
    assert rates(recipe("char-rnn-2015"), len(found), steps_per_epoch=per_epoch) == pytest.approx(found, rel=1e-13)
    assert found[70 - 1] == 2e-3 > found[70]


def test_the_two_amoebanets_are_the_flags_and_the_defaults_of_the_model() -> None:
    flags, model = recipe("amoebanet-tpu"), recipe("amoebanet-defaults")
    assert (flags.rule().lr, flags.clip, flags.batch_size) == (0.64, None, 256)
    assert (model.rule().lr, model.clip, model.batch_size) == (0.015, Clip("norm", 10.0), 32)
    # the source takes tf.maximum(rate, 0.0001 · peak)
    assert flags.learning_rate(0, steps_per_epoch=100) == pytest.approx(0.64e-4, rel=1e-14)
    assert flags.learning_rate(300, steps_per_epoch=100) == pytest.approx(0.64 * 0.9**3)
    assert model.learning_rate(300, steps_per_epoch=100) == pytest.approx(0.015 * 0.97)
    assert flags.learning_rate(100 * 100, steps_per_epoch=100) == pytest.approx(0.64e-4)


def test_mobilenet_v3_says_that_its_schedule_is_a_reading() -> None:
    each = recipe("mobilenet-v3")
    assert any("ambiguous" in note for note in each.notes)
    assert each.learning_rate(299, steps_per_epoch=100) == 0.1
    assert each.learning_rate(300, steps_per_epoch=100) == pytest.approx(0.099)


def test_a2c_of_stable_baselines_is_that_of_its_source() -> None:
    found = PathFinder.find_spec("stable_baselines3")
    if found is None or not found.submodule_search_locations:
        pytest.skip("stable_baselines3 is not installed")
    source = (Path(next(iter(found.submodule_search_locations))) / "a2c" / "a2c.py").read_text(encoding="utf-8")
    rule = recipe("a2c-sb3").rule()
    assert f"learning_rate: float | Schedule = {rule.lr:.0e}".replace("e-0", "e-") in source
    assert "rms_prop_eps: float = 1e-5" in source
    assert "max_grad_norm: float = 0.5" in source
    assert 'optimizer_class"] = th.optim.RMSprop' in source
    assert "dict(alpha=0.99, eps=rms_prop_eps, weight_decay=0)" in source
    assert (rule.lr, rule.decay, rule.eps, rule.weight_decay) == (7e-4, 0.99, 1e-5, 0)


# -- schedules --------------------------------------------------------------------------------------------------------


def tensorflow_rate(
    step: int, peak: float, steps_per_epoch: float, factor: float, epochs: float, warmup: int, least: float
) -> float:
    """build_learning_rate of EfficientNet and AmoebaNet, in float64."""
    lr = peak * factor ** math.floor(step / (steps_per_epoch * epochs))
    warmup_steps = int(warmup * steps_per_epoch)
    return max(peak * step / warmup_steps if step < warmup_steps else lr, least * peak)


@pytest.mark.parametrize("steps_per_epoch", [100, 313, 1281167 / 2048])
@pytest.mark.parametrize(
    ("name", "peak", "factor", "epochs", "warmup", "least"),
    [
        ("mnasnet", 0.256, 0.97, 2.4, 5, 0),
        ("efficientnet-v1", 0.256, 0.97, 2.4, 5, 0),
        ("efficientnet-v2", 0.256, 0.97, 2.4, 5, 0),
        ("amoebanet-tpu", 0.64, 0.9, 1, 3, 1e-4),
        ("amoebanet-defaults", 0.015, 0.97, 2.4, 3, 1e-4),
    ],
)
def test_tensorflow_schedules(
    name: str, peak: float, factor: float, epochs: float, warmup: int, least: float, steps_per_epoch: float
) -> None:
    for step in [*range(0, 2000, 3), *range(12 * 313 - 5, 12 * 313 + 5), int(350 * steps_per_epoch) - 1]:
        expected = tensorflow_rate(step, peak, steps_per_epoch, factor, epochs, warmup, least)
        assert recipe(name).learning_rate(step, steps_per_epoch=steps_per_epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "peak", "factor", "epochs"),
    [("slim-default", 0.01, 0.94, 2), ("inception-v3", 0.045, 0.94, 2), ("mobilenet-v2", 0.045, 0.98, 1)],
)
def test_slim_rounds_the_length_of_a_stair_down(name: str, peak: float, factor: float, epochs: int) -> None:
    per_epoch = 10.7
    decay_steps = int(per_epoch * epochs)
    expected = [peak * factor ** (step // decay_steps) for step in range(120)]
    assert rates(recipe(name), 120, steps_per_epoch=per_epoch) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("name", "peak", "factor", "epochs"),
    [("timm-efficientnet-b0", 0.048, 0.97, 450), ("timm-mobilenet-v3-large", 0.064, 0.973, 600)],
)
def test_timm_changes_the_rate_once_per_epoch(name: str, peak: float, factor: float, epochs: int) -> None:
    """Compare with the arithmetic of timm/scheduler/step_lr.py, in every epoch of the run."""
    for t in range(epochs):
        expected = 1e-6 + t * (peak - 1e-6) / 3 if t < 3 else peak * factor ** (t // 2.4)
        for step in (4 * t, 4 * t + 3):
            assert recipe(name).learning_rate(step, steps_per_epoch=4) == pytest.approx(expected, rel=1e-12)


def test_torchvision_is_steplr_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.064)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.973)
    expected = []
    for _ in range(30):
        expected += [theirs.get_last_lr()[0]] * 5
        optimizer.step()
        theirs.step()
    found = rates(recipe("torchvision-mobilenet-v3"), 150, steps_per_epoch=5)
    assert found == pytest.approx(expected, rel=1e-13)


def test_torchbeast_is_its_lr_lambda() -> None:
    steps, batch, total = 80, 8, 96_000

    def lr_lambda(epoch: int) -> float:
        return 1 - min(epoch * steps * batch, total) / total

    found = rates(recipe("torchbeast"), 170, total_steps=total // (steps * batch))
    assert found == pytest.approx([4.8e-4 * lr_lambda(i) for i in range(170)], rel=1e-13, abs=1e-19)
    assert found[150:] == [0] * 20


def test_stairs_without_warm_up_are_those_of_optax() -> None:
    optax = pytest.importorskip("optax")
    for name, factor, width in (("inception-v4", 0.94, 20), ("mobilenet-v3", 0.99, 30)):
        each = recipe(name)
        theirs = optax.exponential_decay(each.facts()["rule"]["lr"], width, factor, staircase=True)
        for step in range(95):
            found = each.learning_rate(step, steps_per_epoch=10)
            assert found == pytest.approx(float(theirs(step)), rel=1e-6), (name, step)


@pytest.mark.slow
def test_schedules_and_the_average_are_those_of_tensorflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow warns
        tf = pytest.importorskip("tensorflow")
    v1 = tf.compat.v1.train
    for step in (0, 1, 479, 480, 481, 959, 960, 1199, 1200, 4799, 4800):
        their_stairs = float(v1.exponential_decay(0.256, step, 200 * 2.4, 0.97, staircase=True)())
        found = Exponential(0.97, 2.4).fraction(step, RunFacts(0.256, 200)) * 0.256
        assert found == pytest.approx(their_stairs, rel=2e-6)
        their_line = float(v1.polynomial_decay(6e-4, step, 1000, 0.0)())
        assert recipe("impala-atari").learning_rate(step, total_steps=1000) == pytest.approx(their_line, abs=1e-10)
    model = nn.Linear(3, 1, bias=False).double()
    variable = tf.Variable(model.weight.detach().numpy(), dtype=tf.float64)
    step_counter = tf.Variable(0, dtype=tf.int64)
    theirs = tf.train.ExponentialMovingAverage(0.9999, num_updates=step_counter)
    theirs.apply([variable])  # creates the average with the variable's value
    ours = recipe("efficientnet-v1").torch(model, steps_per_epoch=10).ema
    assert ours is not None
    for n in range(1, 30):
        value = np.random.default_rng(n).standard_normal((1, 3))
        variable.assign(value)
        step_counter.assign(n)
        theirs.apply([variable])
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(value))
        ours.update_parameters(model)
        average = ours.module.state_dict()["weight"].numpy()
        np.testing.assert_allclose(average, theirs.average(variable).numpy(), atol=2e-7)  # the decay is float32


schedules = st.builds(
    Exponential,
    factor=st.sampled_from([0.5, 0.9, 0.97]),
    epochs=st.sampled_from([1, 2, 2.4, 0.7]),
    delay=st.integers(0, 3),
    warmup_epochs=st.integers(0, 4),
    warmup_rate=st.sampled_from([0.0, 1e-3]),
    per_epoch=st.booleans(),
    whole=st.booleans(),
    least=st.sampled_from([0.0, 1e-3]),
)


@given(schedules, st.floats(1, 50) | st.integers(1, 50).map(float), st.integers(0, 2000))
@example(Exponential(0.97, 2.4), 5.0, 60)  # 60/12 is exact in float32; 60/2.4 is not
def test_a_schedule_rises_during_the_warm_up_and_never_after_it(
    schedule: Exponential, steps_per_epoch: float, step: int
) -> None:
    run = RunFacts(0.1, steps_per_epoch)
    now, then = (float(schedule.fraction(s, run)) for s in (step, step + 1))
    assert 0 <= now <= 1
    if step + 1 < int(schedule.warmup_epochs * steps_per_epoch):
        assert now <= then
    elif step >= math.ceil(schedule.warmup_epochs * steps_per_epoch):
        assert then <= now
    whole = schedule.factor ** max(0, math.floor((step / steps_per_epoch - schedule.delay) / schedule.epochs + 1e-9))
    if not (schedule.per_epoch or schedule.whole or step < schedule.warmup_epochs * steps_per_epoch):
        # A step within rounding of a stair's edge may be on either side.
        assert now in (
            pytest.approx(max(whole, schedule.least), rel=1e-9),
            pytest.approx(max(whole / schedule.factor, schedule.least), rel=1e-9),
        )


@EACH
def test_torch_jitted_jax_and_learning_rate_agree_at_every_step(each: Recipe) -> None:
    """Over epochs and past the ends of warm-ups and linear schedules; LambdaLR agrees bit for bit."""
    jax = pytest.importorskip("jax")
    known, lr = length(each, steps_per_epoch=7, total_steps=100), open_values(each)
    steps = [*range(200), 10**5]
    expected = rates(each, 200, **known)
    p = nn.Linear(2, 2)
    training = each.torch(p, **known, **lr)
    for step in range(200):
        assert training.scheduler.get_last_lr() == [expected[step]] * len(training.optimizer.param_groups)
        assert {group["lr"] for group in training.optimizer.param_groups} == {expected[step]}
        training.optimizer.step()
        training.scheduler.step()
    run = RunFacts(each.rule(**lr).lr, known.get("steps_per_epoch"), known.get("total_steps"))
    jitted = jax.jit(lambda step: run.peak * each.schedule.fraction(step, run, jax.numpy))
    found = [float(jitted(jax.numpy.int32(step))) for step in steps]
    late = each.learning_rate(10**5, **known, **{k: v for k, v in lr.items() if k == "lr"})
    np.testing.assert_allclose(found, [*expected, late], rtol=2e-6)


def test_stairs_under_jit_are_where_they_are_in_exact_fractions() -> None:
    """60/2.4 is 24.999998 in float32: rounding the quotient down would be late by a step."""
    jax = pytest.importorskip("jax")
    schedule, run = Exponential(0.97, 2.4, per_epoch=True), RunFacts(1.0, 1)
    assert np.floor(np.float32(60) / np.float32(2.4)) == 24
    fraction = jax.jit(lambda step: schedule.fraction(step, run, jax.numpy))
    for step in range(601):
        k = step * 5 // 12
        assert schedule.fraction(step, run) == 0.97**k
        assert round(math.log(float(fraction(step))) / math.log(0.97)) == k


# -- training ---------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A network with every kind of parameter that weight decay may skip."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(2, 2, 3, groups=2, padding=1)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.depthwise(x.reshape(-1, 2, 8)))).flatten(1))  # type: ignore[no-any-return]


NAMES = ("depthwise.weight", "depthwise.bias", "norm.weight", "norm.bias", "head.weight", "head.bias")
DECAYED = {
    "norms": {"depthwise.weight", "depthwise.bias", "head.weight", "head.bias"},
    "norms, biases": {"depthwise.weight", "head.weight"},
    "norms, biases, depthwise": {"head.weight"},
    "vectors, biases": {"depthwise.weight", "head.weight"},
    "": set(NAMES),
}


def gradients(seed: int) -> dict[str, NDArray[Any]]:
    """Return gradients for `Small`. In some steps their norm and elements exceed the limits of recipes."""
    generator = np.random.default_rng(seed)
    shapes = {name: tuple(p.shape) for name, p in Small().named_parameters()}
    return {name: generator.standard_normal(shape) * 10 ** (seed % 3 - 1) for name, shape in shapes.items()}


def clipped(clip: Clip | None, grads: dict[str, NDArray[Any]], slack: float) -> dict[str, NDArray[Any]]:
    if clip is None:
        return grads
    if clip.kind == "value":
        return {name: np.clip(g, -clip.limit, clip.limit) for name, g in grads.items()}
    norm = math.sqrt(sum(float(np.sum(g * g)) for g in grads.values()))
    return {name: g * min(1.0, clip.limit / (norm + slack)) for name, g in grads.items()}


def trajectory(each: Recipe, start: dict[str, NDArray[Any]], steps: int, slack: float) -> dict[str, NDArray[Any]]:
    """Return the parameters after training with the rule in NumPy, with clipping, rates and decay written out."""
    rule = each.rule(**open_values(each))
    decayed = DECAYED[", ".join(each.not_decayed)]
    rules = {name: dataclasses.replace(rule, weight_decay=rule.weight_decay * (name in decayed)) for name in start}
    params, states = dict(start), {name: init(rule, p) for name, p in start.items()}
    for step, lr in enumerate(rates(each, steps, **length(each))):
        grads = {name: g for name, g in gradients(step).items() if name in start}
        for name, g in clipped(each.clip, grads, slack).items():
            now = dataclasses.replace(rules[name], lr=lr)
            params[name], states[name] = update(now, params[name], g, states[name])
    return params


@EACH
def test_torch_trains_as_the_rule_does(each: Recipe) -> None:
    """24 steps in float64, past the ends of the warm-up and of the linear schedules."""
    torch.manual_seed(0)
    model = Small().double()
    start = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    training = each.torch(model, **length(each), **open_values(each))
    for step in range(24):
        for name, g in gradients(step).items():
            model.get_parameter(name).grad = torch.from_numpy(g.copy())
        if training.clip:
            training.clip(model.parameters())
        training.optimizer.step()
        training.scheduler.step()
    for name, expected in trajectory(each, start, 24, 1e-6).items():
        found = model.get_parameter(name).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13, err_msg=name)
        assert not np.array_equal(found, start[name])
    assert (training.clip is None) == (each.clip is None)
    assert (training.clamp is None) == (each.weight_clamp is None)
    assert (training.ema is None) == (each.weight_ema is None)


@EACH
def test_optax_trains_as_the_rule_does(each: Recipe) -> None:
    """Compare two of the parameters, compiled and in float32."""
    jax = pytest.importorskip("jax")
    import optax

    torch.manual_seed(0)
    names = ("norm.bias", "head.weight")
    start = {name: Small().get_parameter(name).detach().numpy().copy() for name in names}
    decayed = DECAYED[", ".join(each.not_decayed)]
    mask: dict[str, Any] = {"decay_mask": {name: name in decayed for name in start}} if each.not_decayed else {}
    optimizer = each.optax(**length(each), **mask, **open_values(each))
    params = {name: jax.numpy.asarray(p) for name, p in start.items()}
    state = optimizer.init(params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step)
    for i in range(24):
        params, state = jitted(params, state, {name: gradients(i)[name].astype(np.float32) for name in names})
    for name, expected in trajectory(each, {k: v.astype(np.float64) for k, v in start.items()}, 24, 0.0).items():
        scale = np.abs(expected) + np.abs(expected - start[name]) + 1e-3
        np.testing.assert_array_less(np.abs(np.asarray(params[name]) - expected), 2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("variant", [{}, {"decoupled_weight_decay": True}, {"maximize": True}], ids=str)
@pytest.mark.parametrize("mask", ["tree", "function", "True"])
def test_a_decay_mask_of_optax_decays_what_it_says_in_every_variant(variant: dict[str, bool], mask: str) -> None:
    jax = pytest.importorskip("jax")
    import optax

    each = recipe("slim-default")
    values: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.5, **variant}
    told = {"a": True, "b": mask == "True"}
    masks: dict[str, Any] = {
        "tree": told,
        "function": lambda params: {name: told[name] for name in params},
        "True": True,
    }
    optimizer = each.optax(steps_per_epoch=5, batch_size=None, decay_mask=masks[mask], **values)
    start: dict[str, NDArray[Any]] = {name: np.array([1.0, -2.0], np.float32) for name in told}
    params, state = jax.tree.map(jax.numpy.asarray, start), None
    state = optimizer.init(params)
    rules = {name: each.rule(**values) for name in told}
    rules = {name: dataclasses.replace(rule, weight_decay=0.5 * told[name]) for name, rule in rules.items()}
    expected = {name: p.astype(np.float64) for name, p in start.items()}
    states = {name: init(rules[name], p) for name, p in expected.items()}
    for i in range(20):
        grads = {name: np.full(2, 0.01 * (i % 3), np.float32) for name in start}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, rule in rules.items():
            now = dataclasses.replace(rule, lr=each.learning_rate(i, steps_per_epoch=5, lr=0.1))
            grad = grads[name].astype(np.float64)
            expected[name], states[name] = update(now, expected[name], grad, states[name])
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-5)
    assert np.array_equal(params["a"], params["b"]) == (mask == "True")


@pytest.mark.parametrize("mask", ["x", {"a": 1}, [None, "no"]])
def test_a_decay_mask_that_is_none_is_refused(mask: Any) -> None:
    with pytest.raises(InputError, match="decay_mask must be True, a tree of bools or a function that makes one, got"):
        recipe("slim-default").optax(steps_per_epoch=5, decay_mask=mask)


def test_a_batch_size_scales_the_rate_of_optax_as_that_of_torch() -> None:
    jax = pytest.importorskip("jax")
    each, start, grad = recipe("efficientnet-v1"), jax.numpy.ones(3), jax.numpy.ones(3)
    steps = []
    for batch_size in (256, 4096):
        optimizer = each.optax(steps_per_epoch=0.5 * 10, batch_size=batch_size, decay_mask=True)
        state = optimizer.init(start)
        for _ in range(3):
            updates, state = optimizer.update(grad, state, start)
        steps.append(updates)
        training = each.torch(Small(), steps_per_epoch=5, batch_size=batch_size)
        assert training.optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.256 * batch_size / 4096)
    np.testing.assert_allclose(16 * steps[0], steps[1], rtol=1e-5)


class Zoo(nn.Module):
    """Modules whose norms, biases and kernels are harder to recognize."""

    def __init__(self) -> None:
        super().__init__()
        self.rms, self.layer, self.group = nn.RMSNorm(4), nn.LayerNorm(4), nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm1d(4, affine=True)
        self.lstm, self.attention = nn.LSTM(4, 4), nn.MultiheadAttention(4, 1)
        self.grouped, self.one_each = nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 8, 3, groups=4)
        self.q_bias, self.gamma = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("efficientnet-v2", {"gamma", "one_each.weight"}),
        ("mobilenet-v2", {"gamma"}),
        ("timm-efficientnet-b0", {"one_each.weight"}),
    ],
)
def test_norms_biases_and_depthwise_kernels_are_told_from_what_is_decayed(name: str, extra: set[str]) -> None:
    zoo = Zoo()
    groups = recipe(name).torch(zoo, steps_per_epoch=5).optimizer.param_groups
    found = {
        n for n, p in zoo.named_parameters() for g in groups if g["weight_decay"] and any(p is q for q in g["params"])
    }
    kernels = {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight", "attention.out_proj.weight"}
    assert found == kernels | {"grouped.weight"} | extra


def test_weights_in_half_precision_are_not_averaged() -> None:
    with pytest.raises(
        InputError, match=r"the dtype of the model's .* must be float32 where .*, got bfloat16; keep the"
    ):
        recipe("mnasnet").torch(Small().bfloat16(), steps_per_epoch=5)


THEIRS: dict[str, dict[str, Any]] = {  # the arguments of the optimizer in the sources
    "char-rnn-2015": {"lr": 2e-3, "alpha": 0.95},
    "dqn-minatar": {"lr": 0.00025, "alpha": 0.95, "centered": True, "eps": 0.01},
    "a2c-sb3": {"lr": 7e-4, "alpha": 0.99, "eps": 1e-5, "weight_decay": 0},
    "torchbeast": {"lr": 0.00048, "momentum": 0, "eps": 0.01, "alpha": 0.99},
    "qmix-pymarl": {"lr": 0.0005, "alpha": 0.99, "eps": 0.00001},
    "wgan-2017": {"lr": 0.00005},
    "torchvision-mobilenet-v3": {"lr": 0.064, "momentum": 0.9, "weight_decay": 1e-5, "eps": 0.0316, "alpha": 0.9},
}


@pytest.mark.parametrize("name", THEIRS)
def test_recipes_from_pytorch_follow_the_optimizer_of_their_source(name: str) -> None:
    each = recipe(name)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64)) for _ in range(2))
    training, their_optimizer = each.torch([ours], **length(each)), torch.optim.RMSprop([theirs], **THEIRS[name])
    generator = torch.Generator().manual_seed(0)
    for _ in range(24):
        g = torch.randn(9, dtype=torch.float64, generator=generator)
        ours.grad, theirs.grad = g.clone(), g.clone()
        their_optimizer.param_groups[0]["lr"] = training.scheduler.get_last_lr()[0]
        training.optimizer.step()
        training.scheduler.step()
        their_optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@EACH
def test_weight_decay_reaches_what_the_source_decays(each: Recipe) -> None:
    model = Small()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = each.torch(model, **length(each), **open_values(each)).optimizer.param_groups
    found = {names[id(p)] for group in groups for p in group["params"] if group["weight_decay"]}
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(NAMES)
    assert found == (DECAYED[", ".join(each.not_decayed)] if each.facts()["rule"]["weight_decay"] else set())


def test_parameters_shared_by_modules_are_in_one_group_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    groups = recipe("slim-default").torch(model, steps_per_epoch=5).optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [1, 2]


def test_wgan_clamps_the_critic() -> None:
    p = nn.Parameter(torch.tensor([0.5, -0.002, -3.0]))
    training = recipe("wgan-2017").torch([p])
    assert training.clamp is not None
    training.clamp([p])
    assert torch.equal(p.data, torch.tensor([0.01, -0.002, -0.01]))
    assert p.requires_grad


@pytest.mark.parametrize("name", ["efficientnet-v1", "timm-efficientnet-b0"])
def test_the_average_of_the_weights_is_the_formula(name: str) -> None:
    """Weights, and averages of batch normalization. TensorFlow uses min(d, (1+n)/(10+n)) after step n, timm d."""
    each, model = recipe(name), Small().double()
    ema = each.torch(model, steps_per_epoch=5).ema
    assert ema is not None
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    assert {key.removeprefix("module.") for key in ema.state_dict() if key != "n_averaged"} == set(expected)
    for n in range(1, 20):
        model(torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(n)))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * n)
        ema.update_parameters(model)
        d = min(0.9999, (1 + n) / (10 + n)) if name == "efficientnet-v1" else 0.9999
        for key, value in model.state_dict().items():
            expected[key] = d * expected[key] + (1 - d) * value if value.is_floating_point() else value.clone()
    for key, value in expected.items():
        torch.testing.assert_close(ema.module.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    assert WeightEma(0.9999).at(10**6) == 0.9999


def digits_run(training: Training, model: nn.Module, steps: range) -> float:
    """Train on digits in batches drawn by step number, and return the last loss."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
    loss = torch.zeros(())
    for step in steps:
        rows = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
        training.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        if training.clip:
            training.clip(model.parameters())
        training.optimizer.step()
        training.scheduler.step()
        if training.ema:
            training.ema.update_parameters(model)
    return loss.item()


@pytest.mark.parametrize(
    ("name", "known", "overrides"),
    [
        ("impala-atari", {"total_steps": 200}, {"lr": 0.1}),
        ("char-rnn-2015", {"steps_per_epoch": 10}, {}),
        ("efficientnet-v1", {"steps_per_epoch": 20, "batch_size": 64}, {}),
    ],
)
def test_a_real_network_learns_and_goes_on_from_a_checkpoint(
    name: str, known: dict[str, Any], overrides: dict[str, Any]
) -> None:
    def begin() -> tuple[nn.Module, Training]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        return model, recipe(name).torch(model, **known, **overrides)

    model, training = begin()
    first = digits_run(training, model, range(1))
    last = digits_run(training, model, range(1, 150))
    assert last < first / 2

    halted, stopped = begin()
    digits_run(stopped, halted, range(70))
    file = io.BytesIO()
    parts: dict[str, Any] = {
        "model": halted,
        "optimizer": stopped.optimizer,
        "scheduler": stopped.scheduler,
        "ema": stopped.ema,
    }
    torch.save({key: part.state_dict() for key, part in parts.items() if part is not None}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, again = begin()
    resumed.load_state_dict(saved["model"])
    again.optimizer.load_state_dict(saved["optimizer"])
    again.scheduler.load_state_dict(saved["scheduler"])
    if again.ema is not None:
        again.ema.load_state_dict(saved["ema"])
    digits_run(again, resumed, range(70, 150))
    assert again.scheduler.get_last_lr() == training.scheduler.get_last_lr()
    for key, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    if training.ema is not None and again.ema is not None:
        for key, value in training.ema.state_dict().items():
            assert torch.equal(value, again.ema.state_dict()[key]), key


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: recipe("impala"), "recipe must be one of graves-2013"),
        (lambda: recipe("a3c-2016").rule(lr=1e-3), "eps must be given with recipe 'a3c-2016', got none; the paper"),
        (lambda: recipe("a3c-2016").learning_rate(0, total_steps=9), "LogUniform(1e-4, 1e-2)"),
        (lambda: recipe("mobilenet-v3").rule(), "eps must be given with recipe 'mobilenet-v3'"),
        (lambda: recipe("mobilenet-v3").torch(Small(), steps_per_epoch=9), "slim's script takes 1.0"),
        (lambda: recipe("mobilenet-v3").optax(steps_per_epoch=9), "eps must be given"),
        (lambda: recipe("impala-atari").learning_rate(0), "total_steps must be given with recipe 'impala-atari'"),
        (lambda: recipe("impala-atari").torch(Small()), "say how many updates the run has"),
        (lambda: recipe("impala-atari").learning_rate(0, total_steps=0), "total_steps must be a whole number >= 1"),
        (lambda: recipe("impala-atari").learning_rate(0, total_steps=5, steps_per_epoch=5), "does not depend on it"),
        (lambda: recipe("efficientnet-v1").learning_rate(0), "say how many updates an epoch has"),
        (lambda: recipe("efficientnet-v1").learning_rate(0, steps_per_epoch=0), "a number from 1"),
        (lambda: recipe("efficientnet-v1").learning_rate(0, steps_per_epoch=math.nan), "a number from 1"),
        (lambda: recipe("efficientnet-v1").learning_rate(-1, steps_per_epoch=5), "step must be a whole number >= 0"),
        (lambda: recipe("efficientnet-v1").learning_rate(0, steps_per_epoch=5, batch_size=0), "batch_size must be"),
        (lambda: recipe("dqn-nature").learning_rate(0, total_steps=5), "omitted with recipe 'dqn-nature'"),
        (lambda: recipe("dqn-nature").learning_rate(0, batch_size=5), "whose source does not scale the rate"),
        (lambda: recipe("dqn-nature").learning_rate(0, lr=-1.0), "lr must be a finite number >= 0"),
        (lambda: recipe("dqn-nature").rule(beta=1), "an argument of a rule"),
        (lambda: recipe("efficientnet-v1").torch([torch.zeros(2)], steps_per_epoch=5), "it averages weights"),
        (lambda: recipe("slim-default").torch([torch.zeros(2)], steps_per_epoch=5), "decays some of the weights"),
        (lambda: recipe("slim-default").optax(steps_per_epoch=5), "decays no norms, no biases, got none"),
        (lambda: recipe("dqn-nature").optax(decay_mask=True), "decay_mask must be omitted without weight decay"),
    ],
)  # fmt: skip
def test_what_is_missing_or_of_no_use_is_said_in_one_line(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert words in one_line(error).replace("'efficientnet-v1' averages", "it averages")


def test_values_may_be_overridden_under_any_library_s_name() -> None:
    assert recipe("dqn-nature").rule(alpha=0.9, learning_rate=1e-3) == profile("dqn", decay=0.9, lr=1e-3)
    each = recipe("efficientnet-v1")
    assert each.learning_rate(10**4, steps_per_epoch=5000, lr=1.0) == 10**4 / 25000
    training = each.torch(Small(), steps_per_epoch=10, batch_size=256, eps=0.5, weight_decay=0.0)
    assert len(training.optimizer.param_groups) == 1
    assert training.optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.016)
    assert training.optimizer.rule().eps == 0.5


def test_constant_needs_nothing() -> None:
    assert Constant().needs == ()
    assert rates(recipe("graves-2013"), 3) == [1e-4] * 3


def test_decay_mask_true_decays_all() -> None:
    jnp = pytest.importorskip("jax.numpy")
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    found = {}
    for key, mask in (("all", True), ("w only", {"w": True, "b": False})):
        optimizer = recipe("slim-default").optax(steps_per_epoch=5, decay_mask=mask)
        grads = {name: jnp.zeros(2) for name in params}
        found[key], _ = optimizer.update(grads, optimizer.init(params), params)
    assert float(found["all"]["b"][0]) == float(found["all"]["w"][0]) < 0
    assert float(found["w only"]["b"][0]) == 0 > float(found["w only"]["w"][0])
