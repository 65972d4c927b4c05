"""Claims on memory, underflow, deep networks and the centered variant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, state_after
from rmsprop.rule import AVERAGES, Rule, init, update

_LAYERS, _WIDTH = 20, 12


def _network_gradient(weights: Floats, inputs: Floats, targets: Floats) -> Floats:
    """Return the gradient of a deep sigmoid network's squared error: seeds × layers × width × width."""
    values = [inputs]
    for layer in range(_LAYERS):
        values.append(1 / (1 + np.exp(-values[-1] @ weights[:, layer])))
    back, grads = values[-1] - targets, np.zeros_like(weights)
    for layer in reversed(range(_LAYERS)):
        back = back * values[layer + 1] * (1 - values[layer + 1])
        grads[:, layer] = values[layer].swapaxes(1, 2) @ back / inputs.shape[1]
        back = back @ weights[:, layer].swapaxes(1, 2)
    return grads


def _depth(rule: Rule, seeds: Seeds) -> tuple[Floats, Floats]:
    """Return the rms of gradients and of steps by layer: seeds × layers, after twenty steps."""
    weights = normal(seeds, _LAYERS, _WIDTH, _WIDTH) / _WIDTH**0.5
    data = normal(seeds, 20, 2, 16, _WIDTH)
    state = init(rule, weights)
    grads = moved = np.zeros_like(weights)
    for batch in range(20):
        grads = _network_gradient(weights, data[:, batch, 0], data[:, batch, 1])
        after, state = update(rule, weights, grads, state)
        moved, weights = after - weights, after
    return (np.sqrt((grads**2).mean(axis=(2, 3))), np.sqrt((moved**2).mean(axis=(2, 3))))


def _vanishing(rule: Rule, seeds: Seeds) -> Measured:
    grads, moved = _depth(rule, seeds)
    return {
        "gradient of the first layer / of the last": grads[:, 0] / grads[:, -1],
        "step of the first layer / of the last": moved[:, 0] / moved[:, -1],
    }


def _depth_picture(rule: Rule) -> Picture:
    grads, moved = _depth(rule, (0, 1))
    layers = np.arange(1, _LAYERS + 1)
    lines = (Line("gradient", layers, grads[0] / grads[0, -1]), Line("step", layers, moved[0] / moved[0, -1]))
    return Picture("layer", "rms / rms of the last layer", lines, "Twenty layers with sigmoids.", log_y=True)


def _centered(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(0.1 * normal(seeds))
    lengths = np.abs(np.diff(move(rule, np.repeat(gradient[None], 200, axis=0)), axis=0, prepend=0.0)) / rule.lr
    single = np.exp(0.3 * normal(seeds, 2000)).astype(np.float32)
    state = state_after(replace(rule, centered=True, decay=0.99), np.repeat(single[None], 1500, axis=0))
    assert state.grad_avg is not None  # noqa: S101
    return {
        "step 200 / η, constant gradient": lengths[-1],
        "share of v − m² below 0 in float32": (state.square_avg - state.grad_avg**2 < 0).mean(axis=1),
    }


def _bytes(rule: Rule) -> float:
    param = np.zeros(1000, dtype=np.float32)
    state = init(rule, param)
    arrays = [getattr(state, name) for name in AVERAGES]
    return float(sum(array.nbytes for array in arrays if array is not None) / param.size)


def _memory(rule: Rule, _: Seeds) -> Measured:
    adam = _bytes(Rule(momentum=0.9, first_moment=True, bias_correction=True))
    return {
        "bytes of state for a parameter / Adam's, with momentum": _bytes(replace(rule, momentum=0.9)) / adam,
        "the same, as the rule is": _bytes(rule) / adam,
    }


def _underflow(rule: Rule, seeds: Seeds) -> Measured:
    """Step with a stored v of 0 and, if the rule has one, an average of gradients of 1."""
    small = 1e-6 * np.exp(normal(seeds))
    state = replace(init(rule, small), step=1000)
    if state.momentum_buffer is not None:
        state = replace(state, momentum_buffer=np.ones_like(small))
    after, _ = update(rule, np.zeros_like(small), small, state)
    return {"step / (η/√(1−β))": np.abs(after) / rule.lr * (1 - rule.decay) ** 0.5}


CLAIMS = (
    Claim(
        name="vanishing-gradients",
        sentence="RMSprop prevents vanishing and exploding gradients.",
        source=Source(
            "DeepAI, machine learning glossary, RMSprop",
            "https://deepai.org/machine-learning-glossary-and-terms/rmsprop",
        ),
        expected="Gradients depend on the network, not on the optimizer. RMSprop divides each by its own size: "
        "steps of all layers are alike.",
        rule=Rule(lr=1e-4, decay=0.9, eps=1e-30),
        measure=_vanishing,
        says=(Bound("gradient of the first layer / of the last", 0.1, 10),),
        only_if="steps are meant, not gradients, and ε is far below the smallest gradient",
        where=(Bound("step of the first layer / of the last", 0.5, 2),),
        changed={"eps": 1e-4},
        picture=_depth_picture,
    ),
    Claim(
        name="centered",
        sentence="centered=True is a free improvement: it costs a little memory and no stability.",
        source=Source(
            "Keras documentation, RMSprop: centered may help with training", "https://keras.io/api/optimizers/rmsprop"
        ),
        expected="On a steady gradient v − m² tends to 0 and the step grows without bound. In float32 the "
        "difference becomes negative; its root is NaN in libraries without a floor.",
        rule=Rule(lr=1.0, decay=0.95, eps=0.0, centered=True),
        measure=_centered,
        says=(Bound("step 200 / η, constant gradient", high=5.0),),
        changed={"centered": False},
    ),
    Claim(
        name="memory-beside-adam",
        sentence="RMSprop needs less memory than Adam.",
        source=Source(
            "Key Kingdom, Is RMSprop better than Adam?", "https://key-kingdom.com/is-rmsprop-better-than-adam"
        ),
        expected="One average instead of two. Momentum, or centered, adds the second one.",
        rule=Rule(),
        measure=_memory,
        says=(Bound("bytes of state for a parameter / Adam's, with momentum", high=0.75),),
        only_if="it has neither momentum nor a centered average",
        where=(near("the same, as the rule is", 0.5, 1e-9),),
        changed={"momentum": 0.9},
    ),
    Claim(
        name="underflow",
        sentence="An underflow of v is harmless to RMSprop: the step keeps its bound.",
        source=Source("Derived", "docs/numerics.md"),
        expected="v holds (1−β)g² of this gradient. Adam divides an average of gradients, which may be larger than "
        "√v allows.",
        rule=Rule(lr=1.0, decay=0.999, eps=0.0),
        measure=_underflow,
        says=(Bound("step / (η/√(1−β))", high=1 + 1e-9),),
        changed={"first_moment": True, "momentum": 0.9},
    ),
)
