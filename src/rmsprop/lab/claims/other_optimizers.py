"""Claims that RMSprop equals another optimizer, or differs from it: Adam, Adadelta, AdaGrad, libraries and papers."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import torch

from rmsprop.lab.claims.adam import Adam, adam_path
from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source
from rmsprop.lab.claims.simulate import move, normal, steps, with_mean
from rmsprop.rule import Rule, denominator, init, update

RUDER = Source(
    "Ruder, An overview of gradient descent optimization algorithms",
    "https://www.ruder.io/optimizing-gradient-descent/",
)
ADAM = Rule(lr=0.01, decay=0.999, eps=1e-8)


def _distance(first: Floats, second: Floats, lr: float) -> Floats:
    return np.asarray(np.abs(first - second).max(axis=(0, 2)) / lr)


def _adam_without_momentum(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 200)
    adam = adam_path(Adam(rule.lr, 0.0, rule.decay, rule.eps), grads)
    corrected = replace(rule, bias_correction=True)
    return {
        "distance to Adam(β₁=0) / η": _distance(move(rule, grads), adam, rule.lr),
        "the same with bias correction": _distance(move(corrected, grads), adam, rule.lr),
    }


def _adam_with_momentum(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 200)
    adam = adam_path(Adam(rule.lr, 0.9, rule.decay, rule.eps), grads)
    buffer = replace(rule, momentum=0.9, lr=rule.lr * 0.1)
    averaged = replace(rule, momentum=0.9, first_moment=True)
    return {
        "distance to Adam / η, torch's momentum": _distance(move(buffer, grads), adam, rule.lr),
        "distance to Adam / η, momentum before the division": _distance(move(averaged, grads), adam, rule.lr),
    }


def _adadelta(rule: Rule, grads: Floats) -> tuple[Floats, Floats]:
    """Return Adadelta's steps and the rates RMS[Δx]/RMS[g] (Zeiler 2012, algorithm 1); RMS[g] is the rule's d."""
    state, zero = init(rule, grads[0]), np.zeros_like(grads[0])
    moved, path, rates = zero, [], []
    for g in grads:
        _, state = update(rule, zero, g, state)
        rates.append(np.sqrt(moved + rule.eps) / denominator(rule, state))
        path.append(-rates[-1] * g)
        moved = rule.decay * moved + (1 - rule.decay) * path[-1] ** 2
    return np.array(path), np.array(rates)


def _adadelta_first_step(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 1)
    ours, step = move(rule, grads)[0], _adadelta(rule, grads)[0][0]
    v = 0.1 * grads[0] ** 2  # as in Ruder's text: γ = 0.9, and ε inside the root
    with_eta = -rule.lr * grads[0] / np.sqrt(v + 1e-8)
    return {
        "RMSprop's first step / Adadelta's": np.median(ours / step, axis=1),
        "RMSprop's first step / that with η for RMS[Δx]": np.median(ours / with_eta, axis=1),
    }


def _adadelta_rates(rule: Rule, seeds: Seeds) -> Measured:
    grads = normal(seeds, 60, 2).swapaxes(0, 1) * np.array([1.0, 1e3])
    _, rates = _adadelta(rule, grads)
    return {
        "rate at gradients of 1 / at gradients of 1000": np.exp(
            np.log(rates[:, :, 0] / rates[:, :, 1])[-30:].mean(axis=0)
        )
    }


def _adagrad_schedule(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 300)
    param, state = np.zeros_like(grads[0]), init(rule, grads[0])
    total, other = np.zeros_like(param), np.zeros_like(param)
    for t, g in enumerate(grads, start=1):
        now = replace(rule, decay=1 - 1 / t, lr=rule.lr / t**0.5)
        param, state = update(now, param, g, state)
        total = total + g * g
        other = other - rule.lr * g / np.sqrt(total)
    return {"distance to AdaGrad / η": np.abs(param - other).max(axis=1) / rule.lr}


def _torch_default(rule: Rule, seeds: Seeds) -> Measured:
    alpha = inspect.signature(torch.optim.RMSprop).parameters["alpha"].default
    grads = with_mean(seeds, 30)
    distance = _distance(move(rule, grads), move(replace(rule, decay=alpha), grads), rule.lr)
    return {"default of alpha": alpha, "distance to the path with torch's default / η": distance}


def _coasting(rule: Rule, seeds: Seeds) -> Measured:
    grads = np.zeros((40, len(seeds)))
    grads[:20] = np.exp(normal(seeds))

    def coasted(each: Rule) -> Floats:
        path = move(each, grads)
        return np.asarray(np.abs(path[-1] - path[19]) / each.lr)

    graves = replace(rule, decay=0.95, eps=1e-4, momentum=0.9, centered=True, eps_inside_sqrt=True, lr_in_momentum=True)
    return {"way / η after the last gradient, Graves 2013": coasted(graves), "the same with μ = 0": coasted(rule)}


def _momentum_rate(rule: Rule, seeds: Seeds) -> Measured:
    grads = np.repeat(np.exp(normal(seeds))[None], 400, axis=0)
    step = np.abs(np.diff(move(rule, grads), axis=0))[-1]
    return {"step / η at μ = 0.9, constant gradient": step / rule.lr}


def _surge_beside_adam(rule: Rule, seeds: Seeds) -> Measured:
    """Compare the losses on a noisy quadratic in ten dimensions."""
    noise = normal(seeds, 1000, 10).swapaxes(0, 1)
    curvature = np.logspace(-1, 1, 10)
    start = np.ones((len(seeds), 10))
    ours = steps(replace(rule, momentum=0.9, lr=rule.lr * 0.1), start, lambda p, t: curvature * p + noise[t - 1], 1000)
    m = v = np.zeros_like(start)
    p, early, late = start, [], []
    for t, path in enumerate(ours, start=1):
        g = curvature * p + noise[t - 1]
        m, v = 0.9 * m + 0.1 * g, rule.decay * v + (1 - rule.decay) * g * g
        p = p - rule.lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - rule.decay**t)) + 1e-8)
        ratio = (curvature * path.param**2).sum(axis=1) / (curvature * p**2).sum(axis=1)
        early.append(ratio)
        late.append((curvature * path.param**2).sum(axis=1) - (curvature * p**2).sum(axis=1))
    loss = (curvature * start**2).sum(axis=1)
    return {
        "loss / Adam's after 10 steps": early[9],
        "mean loss − Adam's over the last 500 steps, in losses at the start": np.mean(late[500:], axis=0) / loss,
    }


CLAIMS = (
    Claim(
        name="adam-without-momentum",
        sentence="RMSprop is Adam with β₁ = 0.",
        source=Source("Optax documentation, rmsprop", "https://optax.readthedocs.io/en/latest/api/optimizers.html"),
        expected="Adam divides both averages by 1 − βᵗ; RMSprop does so with bias_correction=True only.",
        rule=ADAM,
        measure=_adam_without_momentum,
        says=(Bound("distance to Adam(β₁=0) / η", high=1e-6),),
        only_if="it corrects the bias of v",
        where=(Bound("the same with bias correction", high=1e-9),),
        changed={"momentum": 0.9},
    ),
    Claim(
        name="adam-is-rmsprop-with-momentum",
        sentence="Adam is RMSprop with momentum and bias correction.",
        source=Source(
            "CompPhysics, Machine Learning, week 37",
            "https://compphysics.github.io/MachineLearning",
        ),
        expected="RMSprop's usual buffer sums steps after the division; Adam averages gradients before it.",
        rule=replace(ADAM, bias_correction=True),
        measure=_adam_with_momentum,
        says=(Bound("distance to Adam / η, torch's momentum", high=1e-6),),
        only_if="momentum averages the gradients before the division",
        where=(Bound("distance to Adam / η, momentum before the division", high=1e-9),),
        changed={"bias_correction": False},
    ),
    Claim(
        name="lags-behind-adam",
        sentence="RMSprop is slower than Adam, because it lacks bias correction.",
        source=Source(
            "Often said of Adam's bias correction; compare Kingma and Ba, Adam, section 3",
            "https://arxiv.org/abs/1412.6980",
        ),
        expected="Without the correction steps are longer at first. With equal momentum and rates, it is ahead "
        "after ten steps and equal later.",
        rule=Rule(lr=0.01, decay=0.999),
        measure=_surge_beside_adam,
        says=(Bound("loss / Adam's after 10 steps", low=1.0),),
        changed={"initial_square_avg": 100.0},
    ),
    Claim(
        name="adadelta-first-step",
        sentence="RMSprop is identical to the first update vector of Adadelta.",
        source=RUDER,
        expected="v is the same. Adadelta's step has RMS[Δx] in place of η, √ε at first.",
        rule=Rule(lr=0.001, decay=0.9, eps=1e-8, eps_inside_sqrt=True),
        measure=_adadelta_first_step,
        says=(Bound("RMSprop's first step / Adadelta's", 0.99, 1.01),),
        only_if="η stands in place of Adadelta's RMS[Δx], as in the first form of the text",
        where=(Bound("RMSprop's first step / that with η for RMS[Δx]", 1 - 1e-9, 1 + 1e-9),),
        changed={"initial_square_avg": 1.0},
    ),
    Claim(
        name="adadelta-one-rate",
        sentence="Adadelta needs no learning rate: it has one for all parameters.",
        source=Source("A frequent summary of Zeiler, Adadelta", "https://arxiv.org/abs/1212.5701"),
        expected="RMS[Δx]/RMS[g] is computed for each parameter. Gradients of 1 and 1000 get rates 1000 apart.",
        rule=Rule(decay=0.95, eps=1e-6, eps_inside_sqrt=True),
        measure=_adadelta_rates,
        says=(Bound("rate at gradients of 1 / at gradients of 1000", 0.9, 1.1),),
        changed={"eps": 1e12},
    ),
    Claim(
        name="adagrad-schedule",
        sentence="With β = 1 − 1/t and a rate of η/√t, RMSprop is AdaGrad.",
        source=Source("Mukkamala and Hein, Variants of RMSProp and Adagrad", "https://arxiv.org/abs/1706.05507"),
        expected="v is then the mean of all squares, and √t·√v the root of AdaGrad's sum.",
        rule=Rule(lr=0.1, eps=0.0),
        measure=_adagrad_schedule,
        says=(Bound("distance to AdaGrad / η", high=1e-10),),
        changed={"momentum": 0.9},
    ),
    Claim(
        name="torch-alpha",
        sentence="PyTorch's RMSprop has a decay of 0.9 by default.",
        source=Source(
            "Hinton's value, often taken for PyTorch's",
            "https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html",
        ),
        expected="alpha is 0.99, and lr 0.01. 0.9 is the default of TensorFlow, Keras and optax.",
        rule=Rule(decay=0.9),
        measure=_torch_default,
        says=(Bound("distance to the path with torch's default / η", high=1e-6),),
        changed={"decay": 0.99},
    ),
    Claim(
        name="momentum-rate",
        sentence="Momentum of 0.9 smooths the steps and leaves their length as it is.",
        source=Source("True of averaged momentum, as in Adam", "https://arxiv.org/abs/1412.6980"),
        expected="RMSprop's buffer sums steps: they become 1/(1−μ) times as long. Compare with Adam at η(1−μ).",
        rule=Rule(lr=0.01, decay=0.9, momentum=0.9),
        measure=_momentum_rate,
        says=(Bound("step / η at μ = 0.9, constant gradient", 0.9, 1.1),),
        changed={"first_moment": True},
    ),
    Claim(
        name="no-momentum",
        sentence="RMSprop has no momentum.",
        source=Source(
            "Key Kingdom, Is RMSprop better than Adam?", "https://key-kingdom.com/is-rmsprop-better-than-adam"
        ),
        expected="Every library has the argument. Graves' published form uses 0.9: its parameters coast by up to 9 "
        "steps.",
        rule=Rule(lr=1.0, decay=0.95),
        measure=_coasting,
        says=(Bound("way / η after the last gradient, Graves 2013", high=1e-9),),
        only_if="momentum stays at its default of 0",
        where=(Bound("the same with μ = 0", high=1e-9),),
        changed={"momentum": 0.9},
    ),
)
