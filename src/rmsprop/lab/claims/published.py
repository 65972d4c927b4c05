"""Claims on the optimizers of well-known papers and their ports."""

from __future__ import annotations

import numpy as np

from rmsprop.lab.claims.adam import Adam, adam_path
from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source
from rmsprop.lab.claims.simulate import move, with_mean
from rmsprop.rule import Rule

_FACENET_RATE = 0.05
# β whose 1 − β is an exact power of two: v is then (1 − β) times the sum of all squares, to eleven digits.
_ALMOST_ONE = 1 - 2.0**-40


R2D2 = Adam(lr=1e-4, b1=0.9, b2=0.999, eps=1e-3)
RLLIB_IMPALA = Adam(lr=5e-4, b1=0.9, b2=0.999, eps=1e-8)


def _relative_distance(path: Floats, other: Floats) -> Floats:
    """Return the largest distance between two paths in lengths of the other one, for each seed."""
    return np.asarray(np.abs(path - other).max(axis=(0, 2)) / np.abs(other).max(axis=(0, 2)))


def _dqn(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 200)
    mean = square = param = np.zeros_like(grads[0])
    for g in grads:  # the released Lua: deltas:mul(0):addcdiv(lr, dw, sqrt(g2 - g·g + 0.01))
        mean, square = 0.95 * mean + 0.05 * g, 0.95 * square + 0.05 * g * g
        param = param - 2.5e-4 * g / np.sqrt(square - mean * mean + 0.01)
    return {"distance to the released code / η": np.abs(move(rule, grads)[-1] - param).max(axis=1) / rule.lr}


def _r2d2(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 200)
    return {"distance to the paper's path / its length": _relative_distance(move(rule, grads), adam_path(R2D2, grads))}


def _rllib(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 200)
    path = adam_path(RLLIB_IMPALA, grads)
    return {"distance to the path of RLlib's default / its length": _relative_distance(move(rule, grads), path)}


def _facenet(rule: Rule, seeds: Seeds) -> Measured:
    grads = with_mean(seeds, 200)
    adagrad = np.cumsum(-_FACENET_RATE * grads / np.sqrt(np.cumsum(grads**2, axis=0)), axis=0)
    return {"distance to the paper's path / its length": _relative_distance(move(rule, grads), adagrad)}


CLAIMS = (
    Claim(
        name="dqn-momentum",
        sentence="DQN of 2015 used RMSprop with a momentum of 0.95.",
        source=Source(
            "Mnih et al., Nature 518, extended data table 1: gradient momentum 0.95",
            "https://www.nature.com/articles/nature14236",
        ),
        expected="The released Lua has no momentum term: 0.95 is the decay of the mean gradient, for centering.",
        rule=Rule(lr=2.5e-4, decay=0.95, eps=0.01, momentum=0.95, centered=True, eps_inside_sqrt=True),
        measure=_dqn,
        says=(Bound("distance to the released code / η", high=1e-6),),
        changed={"momentum": 0.0},
    ),
    Claim(
        name="r2d2",
        sentence="R2D2, the recurrent successor of DQN, was trained with RMSprop.",
        source=Source(
            "Taken over from DQN; the paper's table has Adam. Kapturowski et al., ICLR 2019",
            "https://openreview.net/forum?id=r1lyTjAqYX",
        ),
        expected="Its table of hyperparameters has Adam with a rate of 1e-4 and an ε of 1e-3. RMSprop with these "
        "two numbers takes another path.",
        rule=Rule(lr=R2D2.lr, decay=R2D2.b2, eps=R2D2.eps),
        measure=_r2d2,
        says=(Bound("distance to the paper's path / its length", high=1e-6),),
        changed={"first_moment": True, "momentum": R2D2.b1, "bias_correction": True},
    ),
    Claim(
        name="rllib-impala",
        sentence="By default, IMPALA in Ray's RLlib trains with RMSprop, as the paper's code does.",
        source=Source(
            "Suggested by its settings decay, momentum and epsilon",
            "https://docs.ray.io/en/master/rllib/api/doc/ray.rllib.algorithms.impala.impala.IMPALAConfig.html",
        ),
        expected='Its opt_type is "adam" unless one sets "rmsprop". The settings decay 0.99 and epsilon 0.1 have no '
        "effect before.",
        rule=Rule(lr=RLLIB_IMPALA.lr, decay=0.99, eps=0.1, eps_inside_sqrt=True),
        measure=_rllib,
        says=(Bound("distance to the path of RLlib's default / its length", high=1e-6),),
        changed={
            "decay": RLLIB_IMPALA.b2, "eps": RLLIB_IMPALA.eps, "eps_inside_sqrt": False, "first_moment": True,
            "momentum": RLLIB_IMPALA.b1, "bias_correction": True,
        },
    ),
    Claim(
        name="facenet",
        sentence="FaceNet was trained with RMSprop.",
        source=Source(
            "Taken from a TensorFlow port that offers RMSprop; Schroff et al., FaceNet, section 3.3",
            "https://arxiv.org/abs/1503.03832",
        ),
        expected="The paper says AdaGrad, with a rate of 0.05. AdaGrad is the limit of RMSprop as β tends to 1, with "
        "a rate of 0.05·√(1−β).",
        rule=Rule(lr=_FACENET_RATE, decay=0.9),
        measure=_facenet,
        says=(Bound("distance to the paper's path / its length", high=1e-6),),
        changed={"decay": _ALMOST_ONE, "lr": _FACENET_RATE * 2.0**-20, "eps": 0.0},
    ),
)  # fmt: skip
