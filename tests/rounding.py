"""Averages in two bytes or one, written a second time in NumPy from their definition.

`rmsprop.torch.low_precision` and the native kernel are compared with this file. It shares no code with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop import Rule
from rmsprop.rule import moment_weights

Floats = NDArray[np.float32]
BLOCK = 32
UNSIGNED = (1, 4)  # v and w, among p, v, m, b and w = 0 … 4


def scramble(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the hash behind the noise, in arithmetic modulo 2³²."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def key(seed: int, number: int, step: int, which: int) -> int:
    """Return the key of the noise for p, v, m, b or w (`which` = 0 … 4) of parameter `number` in step `step`."""
    x = np.array([seed], np.uint32)
    for add in (number, step):
        x = scramble(x) ^ np.uint32(add)
    return int(scramble(scramble(x) + np.uint32(which))[0])


def noise(key: int, size: int) -> NDArray[np.uint32]:
    """Return the noise of elements 0 … size−1."""
    return scramble(np.arange(size, dtype=np.uint32) + np.uint32(key))


def bfloat16(x: Floats, key: int) -> Floats:
    """Return `x` rounded to bfloat16: up where the lower 16 bits plus 16 bits of noise reach 2¹⁶."""
    result = np.empty_like(x)
    for i, (value, r) in enumerate(zip(x.tolist(), noise(key, x.size).tolist(), strict=True)):
        if not math.isfinite(value):
            result[i] = value
            continue
        bits = int(np.float32(abs(value)).view(np.uint32))
        lower, fraction = bits >> 16, bits & 0xFFFF
        stored = min(lower + (fraction + (r >> 16) >= 1 << 16), 0x7F7F)
        result[i] = math.copysign(float(np.uint32(stored << 16).view(np.float32)), value)
    return result


def pack(x: Floats, signed: bool, key: int) -> NDArray[np.uint8]:
    """Return codes and exponents of `x`, as `rmsprop.torch.low_precision` defines them."""
    top = 15 if signed else 31
    codes, exponents = np.zeros(x.size, np.uint8), []
    random = noise(key, x.size)
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK].astype(np.float64)
        largest = np.abs(block).max()
        if not np.isfinite(block).all():
            exponents.append(255)
            continue
        exponent = min(max(math.frexp(largest)[1] - 1, -127), 127) if largest else -127
        border = 1.875 if exponent > -127 else 1.75  # subnormal numbers are farther apart
        if largest > border * 2.0**exponent and exponent < 127:
            exponent += 1
        exponents.append(exponent + 127)
        for i, value in enumerate(block.tolist(), start):
            y, r = abs(value) / 2.0**exponent, int(random[i]) >> 12
            binade = math.frexp(y)[1] - 1 if y else -99
            if binade < 1 - top:
                code = int(np.float32(y * 2.0 ** (top + 2)) + np.float32(r / 2**20))
            else:
                code = (binade + top) * 8 + math.floor(y / 2.0 ** (binade - 3) + r / 2**20) - 8
            code = max(code, 1) if value != 0 and not signed else code
            codes[i] = min(code, top << 3 | 7) | (128 if signed and math.copysign(1, value) < 0 else 0)
    return np.concatenate([codes, np.array(exponents, np.uint8)])


def unpack(packed: NDArray[np.uint8], size: int, signed: bool) -> Floats:
    """Return the numbers that codes and exponents stand for."""
    top = 15 if signed else 31
    result = np.empty(size, np.float32)
    for i in range(size):
        shared, code = int(packed[size + i // BLOCK]), int(packed[i])
        sign = -1.0 if signed and code >= 128 else 1.0
        code &= 127 if signed else 255
        binade = max(code >> 3, 1)
        mantissa = code & 7 if code < 8 else 8 + (code & 7)
        result[i] = np.nan if shared == 255 else sign * math.ldexp(mantissa, binade - top - 3 + shared - 127)
    return result


def stored(x: Floats, which: int, dtype: str | None, seed: int, number: int, step: int) -> Any:
    """Return average v, m, b or w (`which` = 1 … 4) as stored: float32, bfloat16 (as float32) or packed."""
    if dtype == "bfloat16":
        return bfloat16(x, key(seed, number, step, which))
    return x if dtype is None else pack(x, which not in UNSIGNED, key(seed, number, step, which))


def read(x: Any, which: int, dtype: str | None, size: int) -> Floats:
    """Return a stored average as numbers."""
    return unpack(x, size, which not in UNSIGNED) if dtype == "uint8" else np.asarray(x, np.float32)


KAPPA = {None: 4 * float(np.finfo(np.float32).eps), "bfloat16": 2.0**-5, "uint8": 0.5}


@np.errstate(all="ignore")
def step(
    rule: Rule, t: int, p: Floats, g: Floats, averages: Sequence[Floats], kappa: float
) -> tuple[Floats, list[Floats]]:
    """Return p and the averages after step `t` of the rule in float32; κ of E5 depends on how averages are stored.

    `averages` are v, m, b and w. w may be left out without amsgrad.
    """
    v, m, b, *rest = averages
    eta, beta, mu, lam, v0 = rule.lr, rule.decay, rule.momentum, rule.weight_decay, rule.initial_square_avg
    g = -g if rule.maximize else g
    if rule.decoupled_weight_decay:
        p = p - (eta * lam) * p if lam else p
    else:
        g = g + lam * p if lam else g
    v = largest = beta * v + ((1 - beta) * g) * g
    if rule.amsgrad:
        rest = [np.maximum(rest[0], v)]
        largest = rest[0]
    m = m + (1 - beta) * (g - m) if rule.centered else m
    s, v_hat, mean = largest, largest, m
    if rule.bias_correction:
        weight = 1 - beta**t
        s, mean = np.maximum(largest - beta**t * v0, kappa * largest) / weight, m / weight
        v_hat = largest / weight
    if rule.centered:
        s = np.maximum(s - mean * mean, kappa * v_hat)
    d = np.sqrt(s + rule.eps) if rule.eps_inside_sqrt else np.sqrt(s) + rule.eps
    n = g
    if mu and rule.first_moment:
        b = b + (1 - mu) * (g - b)
        a, c = moment_weights(rule, t)
        n = a * b + c * g if rule.nesterov else a * b
    u = np.where(d == 0, np.float32(0), n / d)
    u = eta * u if rule.lr_in_momentum else u
    r = u
    if mu and not rule.first_moment:
        b = mu * b + u
        r = u + mu * b if rule.nesterov else b
    p = np.asarray(p - (r if rule.lr_in_momentum else eta * r), np.float32)
    return p, [v, m, b, *rest]
