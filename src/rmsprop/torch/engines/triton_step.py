"""E1 to E9 of `rmsprop.rule` in Triton, for many tensors in one launch. Imported for the first step on a GPU.

Operations and their order are those of the CPU kernel (kernel/step.hpp). They give the same bits if the launch forbids
fused multiply-adds. An option that costs no time as a number is a number: a factor of 1 or an addend of 0, both exact.
The other options are compiled in.

A launch reads three tables. `blocks` has two int32 for each program: the index of a tensor, and the index of a block of
that tensor. `tensors` has a `triton_tables.TensorRow` and the index of its scalars for each tensor, in int64.
`scalars` has a `triton_tables.Scalars` for each group and step count, in the compute dtype.
"""

import os

import torch
import triton
import triton.language as tl

from rmsprop.torch.engines.triton_memory import PACKED, load, load_average, noise_of, place, store, store_average

# Types in memory. bfloat16 is read and written as bits: the interpreter would not round it.
TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.float16: tl.float16,
    torch.bfloat16: tl.int16,
    torch.uint8: tl.uint8,
}

# The columns of `triton_tables.TensorRow` and the index of the scalars; those of `triton_tables.Scalars`.
P, G, V, M, B, W, SIZE, SCALARS = map(tl.constexpr, range(8))
COLUMNS = tl.constexpr(8)
SIGN, LAMBDA, BETA, ONE_MINUS_BETA, DECAYED_V0 = map(tl.constexpr, range(5))
ONE_MINUS_POWER, KAPPA, EPS_INSIDE, EPS_OUTSIDE = map(tl.constexpr, range(5, 9))
ONE_MINUS_MU, A, C, MU, LR_INSIDE, LR_OUTSIDE = map(tl.constexpr, range(9, 15))
NUMBERS = tl.constexpr(15)
KEYS = tl.constexpr(5)  # of the noise of the parameter and its averages

FLOAT32_LIMIT, FLOAT64_LIMIT = tl.constexpr(2.0**64), tl.constexpr(2.0**512)  # as in `nonfinite.is_finite`

# Before Triton 3.6, sqrt_rn and div_rn flush subnormal numbers to 0 on NVIDIA's GPUs. The instructions below do not.
FLUSHES = tl.constexpr(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6)
    and torch.version.hip is None
    and os.environ.get("TRITON_INTERPRET") != "1"
)

NO_DECAY, L2, DECOUPLED = map(tl.constexpr, range(3))
NO_MOMENTUM, HEAVY_BALL, NESTEROV, FIRST_MOMENT, FIRST_NESTEROV = map(tl.constexpr, range(5))


@triton.jit
def root(x):
    """Return √x, correctly rounded."""
    if x.dtype == tl.float64:
        y = tl.sqrt(x)
    elif FLUSHES:
        y = tl.inline_asm_elementwise("sqrt.rn.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = tl.sqrt_rn(x)
    return y


@triton.jit
def quotient(n, d):
    """Return n/d, correctly rounded; `/` is not for float32."""
    if n.dtype == tl.float64:
        q = n / d
    elif FLUSHES:
        q = tl.inline_asm_elementwise("div.rn.f32 $0, $1, $2;", "=f,f,f", [n, d], tl.float32, is_pure=True, pack=1)
    else:
        q = tl.div_rn(n, d)
    return q


@triton.jit
def maximum(a, b):
    """Return NumPy's maximum if b is NaN only where a is NaN, as in E5."""
    return tl.where(a < b, b, a)


@triton.jit
def step(
    c,
    p,
    g,
    v,
    m,
    b,
    w,
    DECAY: tl.constexpr,
    MOMENTUM: tl.constexpr,
    CENTERED: tl.constexpr,
    CORRECTED: tl.constexpr,
    AMSGRAD: tl.constexpr,
):
    """Return p, v, m, b and w after a step with the row of scalars at `c`. Averages that the rule lacks are unused."""
    g = tl.load(c + SIGN) * g  # E1
    if DECAY == L2:
        g = g + tl.load(c + LAMBDA) * p  # E2
    if DECAY == DECOUPLED:
        p = p - tl.load(c + LAMBDA) * p
    v = tl.load(c + BETA) * v + (tl.load(c + ONE_MINUS_BETA) * g) * g  # E3
    top = v
    if AMSGRAD:
        w = tl.where(v != v, v, maximum(w, v))
        top = w
    if CENTERED:
        m = m + tl.load(c + ONE_MINUS_BETA) * (g - m)  # E4
    s = top  # E5
    v_hat = top
    m_hat = m
    if CORRECTED:
        weight = tl.load(c + ONE_MINUS_POWER)
        s = quotient(maximum(top - tl.load(c + DECAYED_V0), tl.load(c + KAPPA) * top), weight)
        v_hat = quotient(top, weight)
        m_hat = quotient(m, weight)
    if CENTERED:
        s = maximum(s - m_hat * m_hat, tl.load(c + KAPPA) * v_hat)
    d = root(s + tl.load(c + EPS_INSIDE)) + tl.load(c + EPS_OUTSIDE)  # E6
    n = g  # E7
    if MOMENTUM >= FIRST_MOMENT:
        b = b + tl.load(c + ONE_MINUS_MU) * (g - b)
        n = tl.load(c + A) * b
        if MOMENTUM == FIRST_NESTEROV:
            n = n + tl.load(c + C) * g
    u = tl.where(d != 0, quotient(n, tl.where(d != 0, d, 1.0)), 0.0)
    u = tl.load(c + LR_INSIDE) * u  # E8
    r = u
    if MOMENTUM != NO_MOMENTUM and MOMENTUM < FIRST_MOMENT:
        b = tl.load(c + MU) * b + u
        r = b
        if MOMENTUM == NESTEROV:
            r = u + tl.load(c + MU) * b
    p = p - tl.load(c + LR_OUTSIDE) * r  # E9
    return p, v, m, b, w


@triton.jit
def nonfinite(c, g, mask):
    """Return where a gradient or its square is not finite, after it is divided by the loss scale."""
    bad = (tl.abs(tl.load(c + SIGN) * g) < (FLOAT64_LIMIT if g.dtype == tl.float64 else FLOAT32_LIMIT)) == 0
    if mask is not None:
        bad = bad & mask
    return bad


@triton.jit
def step_block(
    row,
    c,
    keys,
    zeroed,
    start,
    size,
    offsets,
    mask,
    PARAM: tl.constexpr,
    STATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    DECAY: tl.constexpr,
    MOMENTUM: tl.constexpr,
    CENTERED: tl.constexpr,
    CORRECTED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Load, step and store the elements at `start + offsets` of the tensor in `row`, which has `size`."""
    p_at = place(tl.load(row + P), start, offsets, PARAM, ALIGNED)
    v_address = tl.load(row + V)
    p = load(p_at, mask)
    g = load(place(tl.load(row + G), start, offsets, PARAM, ALIGNED), mask)
    if zeroed is not None:
        bad = nonfinite(c, g, mask)
        tl.store(zeroed + 0 * offsets, 1, bad)
        g = tl.where(bad, 0.0, g)
    v = load_average(v_address, start, size, offsets, mask, STATE, False, ALIGNED)
    m, b, w = v, v, v
    if CENTERED:
        m_address = tl.load(row + M)
        m = load_average(m_address, start, size, offsets, mask, STATE, True, ALIGNED)
    if MOMENTUM != NO_MOMENTUM:
        b_address = tl.load(row + B)
        b = load_average(b_address, start, size, offsets, mask, STATE, True, ALIGNED)
    if AMSGRAD:
        w_address = tl.load(row + W)
        w = load_average(w_address, start, size, offsets, mask, STATE, False, ALIGNED)
    p, v, m, b, w = step(c, p, g, v, m, b, w, DECAY, MOMENTUM, CENTERED, CORRECTED, AMSGRAD)
    elements = start.to(tl.uint32) + offsets.to(tl.uint32)
    store(p_at, p, mask, noise_of(keys, 0, elements) if STOCHASTIC else None)
    store_average(v_address, v, start, size, offsets, mask, keys, 1, STATE, False, ALIGNED)
    if CENTERED:
        store_average(m_address, m, start, size, offsets, mask, keys, 2, STATE, True, ALIGNED)
    if MOMENTUM != NO_MOMENTUM:
        store_average(b_address, b, start, size, offsets, mask, keys, 3, STATE, True, ALIGNED)
    if AMSGRAD:
        store_average(w_address, w, start, size, offsets, mask, keys, 4, STATE, False, ALIGNED)


@triton.jit
def block_of(blocks, tensors, scalars, BLOCK: tl.constexpr):
    """Return what this program steps: its tensor's row, where its block starts, the tensor's size, and its scalars."""
    at = blocks + 2 * tl.program_id(0)
    row = tensors + COLUMNS * tl.load(at)
    start = tl.load(at + 1).to(tl.int64) * BLOCK
    return row, start, tl.load(row + SIZE), scalars + NUMBERS * tl.load(row + SCALARS)


@triton.jit
def step_tensors(
    blocks,
    tensors,
    scalars,
    keys,
    skip,
    zeroed,
    PARAM: tl.constexpr,
    STATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    DECAY: tl.constexpr,
    MOMENTUM: tl.constexpr,
    CENTERED: tl.constexpr,
    CORRECTED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Step one block of one tensor: program i steps the block in row i of `blocks`.

    `keys` has five keys of noise for each tensor, if its parameter or its averages are rounded stochastically.

    If there is a `skip` and its number is not 0, nothing changes. If there is a `zeroed`, gradient elements that are
    not finite count as 0, and it becomes 1 where there was one.
    """
    if skip is not None:  # noqa: SIM102
        if tl.load(skip) != 0:
            return
    row, start, size, c = block_of(blocks, tensors, scalars, BLOCK)
    if keys is not None:
        keys += KEYS * tl.load(blocks + 2 * tl.program_id(0))
    offsets = tl.arange(0, BLOCK)
    if tl.uint8 == STATE:  # a row for each block of an average
        offsets = tl.arange(0, BLOCK // PACKED)[:, None] * PACKED + tl.arange(0, PACKED)[None, :]
    if start + BLOCK <= size:  # without a mask, loads are wide
        step_block(
            row, c, keys, zeroed, start, size, offsets, None,
            PARAM, STATE, STOCHASTIC, DECAY, MOMENTUM, CENTERED, CORRECTED, AMSGRAD, ALIGNED,
        )  # fmt: skip
    else:
        step_block(
            row, c, keys, zeroed, start, size, offsets, offsets < (size - start).to(tl.int32),
            PARAM, STATE, STOCHASTIC, DECAY, MOMENTUM, CENTERED, CORRECTED, AMSGRAD, ALIGNED,
        )  # fmt: skip


@triton.jit
def find_nonfinite(blocks, tensors, scalars, found, PARAM: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Set `found` to 1 if a block has a gradient that is not finite; program i reads the block in row i of `blocks`."""
    row, start, size, c = block_of(blocks, tensors, scalars, BLOCK)
    offsets = tl.arange(0, BLOCK)
    mask = start + offsets < size
    g = load(place(tl.load(row + G), start, offsets, PARAM, ALIGNED), mask)
    tl.store(found + 0 * offsets, 1, nonfinite(c, g, mask))
