"""Claims on averages in bfloat16 and in eight bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source, near
from rmsprop.lab.claims.simulate import normal, uniform
from rmsprop.rule import Rule, State, init, update

_BF16 = Source("Said of training with state in bfloat16", "docs/numerics.md")
_BLOCK = 256
BITSANDBYTES = Source(
    "Dettmers et al., 8-bit Optimizers via Block-wise Quantization", "https://arxiv.org/abs/2110.02861"
)


def bfloat16(values: Floats) -> Floats:
    """Round to the nearest bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(rounded.astype(np.uint32).view(np.float32).astype(np.float64))


def _idle_decay(rule: Rule, seeds: Seeds) -> Floats:
    """Return the mean of v after two windows without gradient, v in bfloat16, over v in float64."""
    start = np.exp(normal(seeds, 500))
    state = State(0, bfloat16(start))
    zero, count = np.zeros_like(start), round(2 / (1 - rule.decay))
    for _ in range(count):
        _, state = update(rule, zero, zero, state)
        state = replace(state, square_avg=bfloat16(state.square_avg))
    return np.asarray((state.square_avg / (start * rule.decay**count)).mean(axis=1))


def _bfloat16_average(rule: Rule, seeds: Seeds) -> Measured:
    return {
        "v / exact v after 2000 idle steps, β = 0.999": _idle_decay(replace(rule, decay=0.999), seeds),
        "v / exact v after two windows, the rule's β": _idle_decay(rule, seeds),
    }


def _stochastic(rule: Rule, seeds: Seeds) -> Measured:
    """Step rmsprop.torch's optimizer on normal gradients, from v = 1; v stays 1 on average if rounding has no bias."""
    from rmsprop.torch import RMSprop

    means = []
    for seed in seeds:
        param = torch.nn.Parameter(torch.zeros(1000))
        optimizer = RMSprop.from_rule([param], rule, state_dtype="bfloat16")
        generator = torch.Generator().manual_seed(seed)
        for _ in range(1000):
            param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
        means.append(float(optimizer.state[param]["square_avg"].float().mean()))
    return {"mean v after 1000 gradients of variance 1": np.array(means)}


def dynamic_map(*, signed: bool) -> Floats:
    """Return the 256 values of bitsandbytes' 8-bit code, in their order.

    Seven decades up to 1 have 1, 2, 4, … 64 values each, or twice as many without a sign: midpoints of equal parts of
    [0.1, 1]. 0 and 1 are added.
    """
    values = []
    for decade in range(7):
        ends = np.linspace(0.1, 1.0, 2**decade * (1 if signed else 2) + 1)
        values.append((ends[1:] + ends[:-1]) / 2 * 10.0 ** (decade - 6))
    positive = np.concatenate(values)
    return np.sort(np.concatenate([-positive if signed else [], positive, [0.0, 1.0]]))


def _codes(values: Floats, codes: Floats) -> tuple[Floats, Floats]:
    """Return the nearest code of each value, and the largest value of its block: (…, blocks, 256), (…, blocks, 1)."""
    blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
    largest = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), 1e-300)
    return np.searchsorted((codes[1:] + codes[:-1]) / 2, blocks / largest), largest


def _codes_in_use(rule: Rule, seeds: Seeds) -> Measured:
    """Count the codes of the average that the rule keeps last: v, or the momentum buffer."""
    grads = normal(seeds, 3, 40 * _BLOCK).swapaxes(0, 1) * 10 ** uniform(seeds, -7, 0, 40 * _BLOCK)
    state, param = init(rule, grads[0]), np.zeros_like(grads[0])
    for grad in grads:
        param, state = update(rule, param, grad, state)
    kept = state.square_avg if state.momentum_buffer is None else state.momentum_buffer
    found, _ = _codes(kept, dynamic_map(signed=True))
    return {"codes in use, of 256": np.array([len(np.unique(each)) for each in found])}


def _stored_in_codes(rule: Rule, seeds: Seeds) -> Floats:
    """Return the mean of √(v in 8 bits / v) after two windows in which one element of each block has gradients."""
    start = uniform(seeds, 0.01, 0.99, 2 * _BLOCK)
    start[:, ::_BLOCK] = 1.0
    grad, zero, codes = np.where(start == 1.0, 1.0, 0.0), np.zeros_like(start), dynamic_map(signed=True)
    state = exact = State(0, start)
    for _ in range(round(2 / (1 - rule.decay))):
        _, state = update(rule, zero, grad, state)
        _, exact = update(rule, zero, grad, exact)
        found, largest = _codes(state.square_avg, codes)
        state = replace(state, square_avg=(codes[found] * largest).reshape(zero.shape))
    return np.asarray(np.sqrt(state.square_avg / exact.square_avg).mean(axis=1))


def _eight_bits(rule: Rule, seeds: Seeds) -> Measured:
    return {
        "√(v in 8 bits / v), β = 0.99": _stored_in_codes(replace(rule, decay=0.99), seeds),
        "√(v in 8 bits / v), the rule's β": _stored_in_codes(rule, seeds),
    }


CLAIMS = (
    Claim(
        name="bfloat16-average",
        sentence="bfloat16 is precise enough for v.",
        source=_BF16,
        expected="v keeps 8 bits. At β = 0.999 a step takes less than half of the last one, and v never falls.",
        rule=Rule(decay=0.98),
        measure=_bfloat16_average,
        says=(
            Bound("v / exact v after 2000 idle steps, β = 0.999", high=1.2),
            Bound("v / exact v after two windows, the rule's β", high=1.2),
        ),
        only_if="1 − β is well above the format's 2⁻⁸, as at β = 0.98",
        where=(Bound("v / exact v after two windows, the rule's β", high=1.2),),
        changed={"decay": 0.998},
    ),
    Claim(
        name="stochastic-rounding",
        sentence="Stochastic rounding keeps the mean of a bfloat16 v right, even at β = 0.999.",
        source=_BF16,
        expected="The nearer a number lies to the upper one of two stored numbers, the more often it becomes that "
        "one. Errors average out.",
        rule=Rule(decay=0.999, initial_square_avg=1.0),
        measure=_stochastic,
        says=(near("mean v after 1000 gradients of variance 1", 1.0, 0.01),),
        changed={"initial_square_avg": 0.0},
        notes='Run on the optimizer of rmsprop.torch, with state_dtype="bfloat16".',
    ),
    Claim(
        name="eight-bit-codes",
        sentence="bitsandbytes' 8-bit RMSprop uses all of its 256 codes for v.",
        source=BITSANDBYTES,
        expected="Its RMSprop stores v by the codes for numbers with a sign. v has none: 129 codes remain. A "
        "momentum buffer would use them all.",
        rule=Rule(lr=1.0, decay=0.99, eps=1e-12),
        measure=_codes_in_use,
        says=(Bound("codes in use, of 256", low=200),),
        changed={"momentum": 0.9, "lr_in_momentum": True, "eps": 1.0},
    ),
    Claim(
        name="eight-bit-average",
        sentence="Eight bits for each v, in blocks of 256 numbers, are precise enough.",
        source=BITSANDBYTES,
        expected="Rounding to the nearest code undoes a step that changes v by less than half a code. At β = 0.99 a "
        "v without gradients stays where it is; at 0.9 it falls as it should.",
        rule=Rule(decay=0.9),
        measure=_eight_bits,
        says=(
            near("√(v in 8 bits / v), β = 0.99", 1.0, 0.05),
            near("√(v in 8 bits / v), the rule's β", 1.0, 0.05),
        ),
        only_if="1 − β is about 0.1 or more",
        where=(near("√(v in 8 bits / v), the rule's β", 1.0, 0.05),),
        changed={"decay": 0.99},
        notes="Two windows, with gradients for one number of a block. With gradients for all, the scale of the block "
        "moves, and the error is far smaller.",
    ),
)
