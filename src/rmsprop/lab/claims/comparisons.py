"""Claims that compare optimizers on problems of seconds; `trainings.py` has those on real tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source
from rmsprop.lab.claims.simulate import normal, run
from rmsprop.rule import Rule, init, update

_RATES = tuple(10.0**k for k in np.arange(-4, 1.01, 0.5))
_EXAMPLES, _FEATURES, _STEPS, _BATCH = 200, 10, 200, 20


def _losses(rule: Rule, seeds: Seeds, rates: tuple[float, ...] = _RATES) -> tuple[Floats, Floats]:
    """Return the losses of logistic regression after training at each rate, for RMSprop and SGD: rates × seeds."""
    x = normal(seeds, _EXAMPLES, _FEATURES) * np.logspace(-1, 1, _FEATURES)
    weights = normal(seeds, _FEATURES) / np.logspace(-1, 1, _FEATURES)
    noise = np.array([np.random.default_rng([seed, 1]).logistic(size=_EXAMPLES) for seed in seeds])
    y = np.sign((x * weights[:, None]).sum(axis=2) * 2 + noise)
    signed = x * y[:, :, None]

    def gradient(p: Floats, t: int) -> Floats:
        at = (t * _BATCH) % _EXAMPLES
        rows = signed[:, at : at + _BATCH]
        share = 1 / (1 + np.exp(np.clip((rows * p[:, None]).sum(axis=2), -500, 500)))
        return np.asarray(-(rows * share[:, :, None]).mean(axis=1))

    def loss(p: Floats) -> Floats:
        return np.asarray(np.logaddexp(0, -(signed * p[:, None]).sum(axis=2)).mean(axis=1))

    start = np.zeros((len(seeds), _FEATURES))
    ours, plain = [], []
    for rate in rates:
        ours.append(loss(run(replace(rule, lr=rate), start, gradient, _STEPS).param))
        p = start
        for t in range(1, _STEPS + 1):
            p = p - rate * gradient(p, t)
        plain.append(loss(p))
    return np.array(ours), np.array(plain)


def _width(losses: Floats) -> Floats:
    """Return the decades of rates whose loss is within 5 % of the best."""
    return np.asarray((losses <= 1.05 * losses.min(axis=0)).sum(axis=0) * 0.5)


def _good_rates(rule: Rule, seeds: Seeds) -> Measured:
    ours, plain = _losses(rule, seeds)
    return {"decades of rates within 5 % of the best loss, of 5.5": _width(ours), "the same for SGD": _width(plain)}


def _rates_picture(rule: Rule) -> Picture:
    ours, plain = _losses(rule, (0, 1, 2))
    lines = (Line("RMSprop", np.array(_RATES), ours.mean(axis=1)), Line("SGD", np.array(_RATES), plain.mean(axis=1)))
    return Picture(
        "η", "loss after 200 steps", lines, "Logistic regression, features of scales from 0.1 to 10.", True, True
    )


def _separable(rule: Rule, seeds: Seeds) -> Measured:
    """Train on the data of Wilson et al., section 3.3, and test with features not seen before."""
    count = 60
    errors: dict[str, list[float]] = {"RMSprop": [], "SGD": []}
    wrong: list[float] = []
    for seed in seeds:
        y = np.where(np.random.default_rng(seed).random(count) < 0.65, 1.0, -1.0)
        x = np.zeros((count, 3 + 5 * count))
        x[:, 0], x[:, 1:3] = y, 1.0
        for i, label in enumerate(y):
            x[i, 3 + 5 * i : 3 + 5 * i + (1 if label > 0 else 5)] = 1.0

        def gradient(w: Floats, _: int, x: Floats = x, y: Floats = y) -> Floats:
            return np.asarray(x.T @ (x @ w - y) / count)

        w = run(rule, np.zeros(x.shape[1]), gradient, 400).param
        plain = np.zeros(x.shape[1])
        rate = 1 / np.linalg.eigvalsh(x @ x.T / count)[-1]
        for t in range(2000):
            plain = plain - rate * gradient(plain, t)
        wrong += [np.mean(np.sign(x @ each) != y) for each in (w, plain)]
        labels = np.array([1.0] * 65 + [-1.0] * 35)
        for name, each in (("RMSprop", w), ("SGD", plain)):
            errors[name].append(float((np.sign(each[0] * labels + each[1] + each[2]) != labels).mean()))
    tested = {f"test error of {name}": np.array(each) for name, each in errors.items()}
    return {**tested, "largest training error": max(wrong)}


def _last_digits(rule: Rule, seeds: Seeds) -> Measured:
    """Compare the best loss at a constant rate with that of a rate that falls to 0."""
    grads = normal(seeds, 1000, 150).swapaxes(0, 1)
    found = []
    for falling in (False, True):
        p, state = np.ones_like(grads[0]), init(rule, grads[0])
        for t, noise in enumerate(grads):
            moved, state = update(rule, p, p + noise, state)
            p = p + (moved - p) * ((1 - t / 1000) if falling else 1.0)
        found.append((p**2).mean(axis=1))
    return {"loss with a falling rate / with a constant one": found[1] / found[0]}


CLAIMS = (
    Claim(
        name="no-need-to-tune",
        sentence="With RMSprop the learning rate need not be treated as a hyperparameter.",
        source=Source(
            "DeepAI, machine learning glossary, RMSprop",
            "https://deepai.org/machine-learning-glossary-and-terms/rmsprop",
        ),
        expected="The scale of the gradients no longer matters, but the distance of a step is still η.",
        rule=Rule(decay=0.9),
        measure=_good_rates,
        says=(Bound("decades of rates within 5 % of the best loss, of 5.5", low=4.0),),
        changed={"eps": 1e9},
        picture=_rates_picture,
    ),
    Claim(
        name="separable-toy",
        sentence="On some separable problems SGD classifies new examples, and RMSprop calls them all positive.",
        source=Source(
            "Wilson et al., The Marginal Value of Adaptive Gradient Methods", "https://arxiv.org/abs/1705.08292"
        ),
        expected="RMSprop gives each feature a weight of the same size, so that new examples look positive. SGD "
        "finds the solution of least norm.",
        rule=Rule(lr=1e-3, decay=0.99, eps=1e-12),
        measure=_separable,
        says=(
            Bound("test error of RMSprop", low=0.3),
            Bound("test error of SGD", high=0.05),
            Bound("largest training error", high=0.0),
        ),
        changed={"eps": 1e6, "lr": 1e5},
        notes="35 % of the test data are negative. A constructed problem: see sgd-generalises for real ones.",
    ),
    Claim(
        name="constant-rate",
        sentence="RMSprop adapts its rates, so it needs no schedule.",
        source=Source("A frequent reading of adaptive learning rates", "docs/theory.md#where-it-goes"),
        expected="√v tends to the size of the noise: the rate stays. With noise a rate that falls to 0 ends lower.",
        rule=Rule(lr=0.03, decay=0.99, eps=0.0),
        measure=_last_digits,
        says=(Bound("loss with a falling rate / with a constant one", low=0.9),),
        changed={"lr": 1e-5},
    ),
)
