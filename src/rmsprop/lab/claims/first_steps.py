"""Claims on the length of steps: the first ones, the longest one, and those after an outlier."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Line, Measured, Picture, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, scheduled, state_after, uniform
from rmsprop.rule import Rule, denominator

DERIVED = "docs/theory.md#start-up"
HINTON = Source("Hinton, Neural Networks for Machine Learning, lecture 6e", "Coursera, 2012")
UNIT = Rule(lr=1.0, decay=0.99, eps=0.0)


def _first_step(rule: Rule, seeds: Seeds) -> Measured:
    gradient = 10 ** uniform(seeds, -6, 6)
    return {"first step / η": np.abs(move(rule, gradient[None])[0]) / rule.lr}


def _longest_step(rule: Rule, seeds: Seeds) -> Measured:
    tails = np.array([np.random.default_rng(seed).standard_t(1.1, (500, 200)) for seed in seeds])
    path = move(rule, tails.swapaxes(0, 1))
    longest = np.abs(np.diff(path, axis=0)).max(axis=(0, 2)) / rule.lr
    return {"longest step / η": longest}


def _early_and_late_steps(rule: Rule, seeds: Seeds) -> Measured:
    gradient = 0.1 * np.exp(0.1 * normal(seeds))
    lengths = np.abs(np.diff(move(rule, np.repeat(gradient[None], 800, axis=0)), axis=0, prepend=0.0))
    return {"first step / settled step": lengths[0] / lengths[-1], "step 10 / settled step": lengths[9] / lengths[-1]}


def _surge(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    path = np.abs(move(rule, np.repeat(gradient[None], 1500, axis=0)))
    return {"extra distance / η": path[-1] / rule.lr - 1500}


def _surge_picture(rule: Rule) -> Picture:
    t = np.arange(1, 301)
    lines = []
    for label, each in (
        ("v₀ = 0", rule),
        ("v₀ = 0, bias correction", replace(rule, bias_correction=True)),
        ("v₀ = 1", replace(rule, initial_square_avg=1.0)),
    ):
        path = move(each, np.full((300, 1), 0.1))
        lines.append(Line(label, t, np.abs(np.diff(path[:, 0], prepend=0.0))))
    caption = (
        "Length of each step, constant gradient of 0.1, β = 0.99. Without correction the first steps are too long."
    )
    return Picture("step", "length / η", tuple(lines), caption, log_x=True, log_y=True)


def _warmed_up(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    path = scheduled(
        rule, np.zeros_like(gradient), lambda p, _: gradient, 600, lambda t: min(1.0, t * (1 - rule.decay) / 2)
    )
    return {"longest step / η": np.abs(np.diff(path, axis=0, prepend=0.0)).max(axis=0) / rule.lr}


def _half_time(rule: Rule, seeds: Seeds) -> Measured:
    gradient = 10 ** uniform(seeds, -3, -1)
    count = 2000
    lengths = np.abs(np.diff(move(rule, np.repeat(gradient[None], count, axis=0)), axis=0, prepend=0.0)) / rule.lr
    reached = np.where((lengths >= 0.5).any(axis=0), (lengths >= 0.5).argmax(axis=0) + 1.0, np.inf)
    formula = np.log(3 * gradient**2 / (1 - gradient**2)) / math.log(rule.decay)
    return {"steps to half the rate / formula": reached / formula}


def _outlier(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    grads = np.repeat(gradient[None], 1400, axis=0)
    grads[1000] *= 10
    settled = denominator(rule, state_after(rule, grads[:1000]))
    lengths = np.abs(np.diff(move(rule, grads), axis=0))[1000:] * settled / (rule.lr * gradient)
    slow = (lengths < 0.9).sum(axis=0)
    return {
        "steps below 90 % of the rate × (1−β)": slow * (1 - rule.decay),
        "step of the large gradient / usual step": np.abs(np.diff(move(rule, grads), axis=0))[999]
        * settled
        / (rule.lr * gradient),
    }


def _cycle_of_ten(rule: Rule, seeds: Seeds) -> Measured:
    scale = 10 ** uniform(seeds, -3, 3)
    cycle = np.array([0.01] * 9 + [-0.09])
    grads = np.tile(cycle, 60)[:, None] * scale
    path = move(rule, grads) / rule.lr
    signs = move(replace(rule, decay=0.0), grads) / rule.lr  # rprop's step without its adaptation: the sign
    return {
        "drift in ten steps / η": np.abs(path[-1] - path[-101]) / 10,
        "drift of the sign / η": np.abs(signs[-1] - signs[-101]) / 10,
    }


def _sign(rule: Rule, seeds: Seeds) -> Measured:
    grads = normal(seeds, 400).T
    signs = np.sign(grads[200:])

    def distance(each: Rule) -> np.ndarray:
        steps = -np.diff(move(each, grads), axis=0)[199:] / each.lr
        return np.asarray(np.sqrt(((steps - signs) ** 2).mean(axis=0)))

    return {"rms distance to the sign": distance(rule), "the same with β = 0": distance(replace(rule, decay=0.0))}


CLAIMS = (
    Claim(
        name="first-step",
        sentence="The first step has the length η/√(1−β), whatever the gradient.",
        source=Source("Derived from the update", DERIVED),
        expected="v starts at 0, so after one step √v = √(1−β)·|g|: 10 η at β = 0.99.",
        rule=UNIT,
        measure=_first_step,
        says=(near("first step / η", 10.0, 1e-9),),
        changed={"bias_correction": True},
    ),
    Claim(
        name="longest-step",
        sentence="No gradient sequence gives a step longer than η/√(1−β), however heavy its tails.",
        source=Source("Derived; compare Kingma and Ba, Adam, section 2.1", "https://arxiv.org/abs/1412.6980"),
        expected="v holds (1−β)·g² at least. Student's t with 1.1 degrees of freedom comes within 1 % of the bound.",
        rule=UNIT,
        measure=_longest_step,
        says=(Bound("longest step / η", 9.5, 10.001),),
        changed={"momentum": 0.9},
    ),
    Claim(
        name="small-first-steps",
        sentence="Without bias correction, v is biased towards 0 and the first steps are too small.",
        source=Source(
            "CompPhysics, Machine Learning, week 37",
            "https://compphysics.github.io/MachineLearning",
        ),
        expected="v divides: an average that is too small makes steps too long. The argument is true of Adam's m.",
        rule=UNIT,
        measure=_early_and_late_steps,
        says=(Bound("first step / settled step", high=0.99), Bound("step 10 / settled step", high=0.99)),
        changed={"initial_square_avg": 1.0},
        picture=_surge_picture,
    ),
    Claim(
        name="surge",
        sentence="The long first steps add about 2·ln 2/(1−β) learning rates of distance.",
        source=Source("Derived from the update", DERIVED),
        expected="The sum of 1/√(1−βᵏ) − 1 is 123.9 at β = 0.99; the integral 2·ln 2/(1−β) is 138.6.",
        rule=UNIT,
        measure=_surge,
        says=(near("extra distance / η", 123.863, 0.01),),
        changed={"bias_correction": True},
    ),
    Claim(
        name="warm-up",
        sentence="A linear warm-up of the rate over 2/(1−β) steps removes the long first steps.",
        source=Source("Ma and Yarats, On the Adequacy of Untuned Warmup", "https://arxiv.org/abs/1910.04209"),
        expected="The rate rises as t(1−β)/2, and the step without it falls no faster than 1/√(t(1−β)).",
        rule=UNIT,
        measure=_warmed_up,
        says=(Bound("longest step / η", high=1.1),),
        changed={"momentum": 0.9},
    ),
    Claim(
        name="start-at-one",
        sentence="TensorFlow starts v at 1: for gradients below ½ this is a warm-up, of ln(3g²/(1−g²))/ln β steps to "
        "half of η.",
        source=Source("Derived; TensorFlow 1 starts v at 1", "docs/conventions.md"),
        expected="v = βᵏ + (1−βᵏ)·g²; the step is half as long as it will be when v = 4g².",
        rule=replace(UNIT, initial_square_avg=1.0),
        measure=_half_time,
        says=(near("steps to half the rate / formula", 1.0, 0.03),),
        changed={"initial_square_avg": 0.0},
    ),
    Claim(
        name="outlier",
        sentence="A gradient ten times as large as usual slows a parameter for longer than the window of 1/(1−β) "
        "steps.",
        source=Source("Derived from the update", "docs/theory.md#memory"),
        expected="The rate falls to 1/√(1+99(1−β)βʲ) after j steps: below 90 % for 143 steps at β = 0.99.",
        rule=UNIT,
        measure=_outlier,
        says=(Bound("steps below 90 % of the rate × (1−β)", low=1.0),),
        changed={"eps": 1e6},
    ),
    Claim(
        name="outlier-step",
        sentence="A gradient ten times as large as usual makes a step ten times as long.",
        source=Source("True of gradient descent; derived for RMSprop", "docs/theory.md#memory"),
        expected="The large gradient enters v before it is divided: 10/√(β+100(1−β)), 7.09 at β = 0.99 and 3.03 at "
        "0.9.",
        rule=UNIT,
        measure=_outlier,
        says=(near("step of the large gradient / usual step", 10.0, 0.5),),
        changed={"eps": 1e6},
    ),
    Claim(
        name="nine-and-one",
        sentence="With nine gradients of +0.01 and one of −0.09, the sign of the gradient runs away; RMSprop stays.",
        source=HINTON,
        expected="The sign moves 8 η in ten steps. RMSprop's net move is smaller, but it is not 0: after the large "
        "gradient v falls, so that the nine small ones count more.",
        rule=replace(UNIT, decay=0.9),
        measure=_cycle_of_ten,
        says=(Bound("drift in ten steps / η", high=0.8), near("drift of the sign / η", 8.0, 1e-9)),
        changed={"decay": 0.0},
    ),
    Claim(
        name="only-the-sign",
        sentence="RMSprop steps by the sign of the gradient.",
        source=Source("A learner's question", "https://community.deeplearning.ai/t/38392"),
        expected="g/√v is the sign only if v is the square of this very gradient.",
        rule=replace(UNIT, decay=0.9),
        measure=_sign,
        says=(Bound("rms distance to the sign", high=0.05),),
        only_if="β = 0, or the gradient is constant",
        where=(Bound("the same with β = 0", high=1e-12),),
        changed={"decay": 0.0},
    ),
)
