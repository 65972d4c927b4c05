"""How the Triton kernel loads and stores numbers of every dtype, with the bits of `rmsprop.torch.low_precision`."""

import triton
import triton.language as tl

PACKED = tl.constexpr(32)  # numbers of an eight-bit average that share an exponent: `low_precision.BLOCK`


@triton.jit
def place(address, start, offsets, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return pointers to elements of a tensor. ALIGNED: its address is a multiple of 16 bytes, for wide loads.

    `offsets` have 32 bits and count from `start`, which has 64: this takes fewer registers.
    """
    pointer = address.to(tl.pointer_type(DTYPE)) + start
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + offsets


@triton.jit
def load(at, mask):
    """Load numbers in their compute dtype; of bfloat16, `at` points to the bits."""
    x = tl.load(at, mask)
    if at.dtype.element_ty == tl.int16:
        x = (x.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    if at.dtype.element_ty == tl.float16:
        x = x.to(tl.float32)
    return x


@triton.jit
def hashed(x):
    """Return the noise of stochastic rounding: a hash of 32 bits, as in kernel/noise.hpp."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def store(at, x, mask, noise):
    """Store numbers, rounded to nearest, ties to even; bfloat16 by `noise` if there is any."""
    if at.dtype.element_ty == tl.int16:
        bits = x.to(tl.uint32, bitcast=True)
        if noise is None:
            x = tl.where(x == x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0).to(tl.int16)
        else:
            magnitude = bits & 0x7FFFFFFF
            rounded = (magnitude + (noise >> 16)) >> 16
            rounded = tl.where(rounded > 0x7F7F, 0x7F7F, rounded)
            rounded = tl.where(magnitude < 0x7F800000, rounded, tl.where(magnitude > 0x7F800000, 0x7FC0, 0x7F80))
            x = (rounded | ((bits >> 16) & 0x8000)).to(tl.int16)
    if at.dtype.element_ty == tl.float16:
        x = x.to(tl.float16)
    tl.store(at, x, mask)


@triton.jit
def noise_of(keys, index, elements):
    """Return the noise of the parameter (index 0) or of an average for its `elements`; None without `keys`."""
    return hashed(tl.load(keys + index).to(tl.uint32) + elements)


@triton.jit
def power_of_two(exponent):
    """Return 2 to the power of an int32 from -126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exponents_of(address, start, size, offsets):
    """Return pointers to the exponents of an eight-bit average, which follow its codes."""
    return address.to(tl.pointer_type(tl.uint8)) + size + start // PACKED + tl.arange(0, offsets.shape[0])[:, None]


@triton.jit
def exponents_mask(start, size, offsets):
    """Return which exponents exist in the last program of a tensor."""
    return tl.arange(0, offsets.shape[0])[:, None] * PACKED < (size - start).to(tl.int32)


@triton.jit
def unpack(codes, shared, SIGNED: tl.constexpr):
    """Return float32 numbers from codes and the exponents of their blocks, as `low_precision.unpack` does."""
    TOP: tl.constexpr = 15 if SIGNED else 31  # the exponent of codes in [1, 2)
    k = codes.to(tl.int32)
    if SIGNED:
        k = k & 127
    shared = shared.to(tl.int32)
    y = ((k + ((127 - TOP) << 3)) << 20).to(tl.float32, bitcast=True)
    y = tl.where(k < 8, k.to(tl.float32) * (0.125 / (1 << (TOP - 1))), y)
    half = (shared - 127) >> 1  # two factors, since 2⁻¹²⁷ is subnormal
    y = y * tl.where(shared == 255, float("nan"), power_of_two(half)) * power_of_two(shared - 127 - half)
    if SIGNED:  # -y would be 0 - y, which loses the sign of zero
        y = (y.to(tl.int32, bitcast=True) | ((codes.to(tl.int32) & 128) << 24)).to(tl.float32, bitcast=True)
    return y


@triton.jit
def pack(x, mask, noise, SIGNED: tl.constexpr):
    """Return codes and exponents of float32 numbers in blocks, rounded by `noise`, as `low_precision.pack` does."""
    TOP: tl.constexpr = 15 if SIGNED else 31
    OFFSET: tl.constexpr = (127 - TOP) << 3
    NORMAL: tl.constexpr = 1.0 / (1 << (TOP - 1))
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    largest = tl.max(magnitude if mask is None else tl.where(mask, magnitude, 0), axis=1)[:, None]
    # A mantissa above 1.875 takes the next power of two: rounding up then stays in range.
    shared = tl.minimum((tl.minimum(largest, 0x7F800000) + ((1 << 20) - 1)) >> 23, 254)
    half = (shared - 127) >> 1
    y = magnitude.to(tl.float32, bitcast=True) * power_of_two(-half) * power_of_two(half - shared + 127)
    noise = (noise >> 12).to(tl.int32)
    # Codes with 20 bits behind the point, where noise may carry.
    small = (tl.where(y < NORMAL, y, NORMAL) * (8.0 * (1 << 20) / NORMAL) + noise.to(tl.float32)).to(tl.int32)
    large = tl.minimum(y.to(tl.int32, bitcast=True), 0x7F800000) + (noise - (OFFSET << 20))
    codes = tl.minimum(tl.where(y < NORMAL, small, large) >> 20, TOP << 3 | 7)
    # A square average above 0 never rounds to 0.
    codes = (codes | ((bits >> 24) & 128)) if SIGNED else tl.maximum(codes, (magnitude != 0).to(tl.int32))
    lost = largest >= 0x7F800000
    return tl.where(lost, 0, codes).to(tl.uint8), tl.where(lost, 255, shared).to(tl.uint8)


@triton.jit
def load_average(address, start, size, offsets, mask, STATE: tl.constexpr, SIGNED: tl.constexpr, ALIGNED: tl.constexpr):
    """Load an average in its compute dtype."""
    at = place(address, start, offsets, STATE, ALIGNED)
    if tl.uint8 == STATE:
        exponents = exponents_of(address, start, size, offsets)
        shared = tl.load(exponents, None if mask is None else exponents_mask(start, size, offsets))
        x = unpack(tl.load(at, mask), shared, SIGNED)
    else:
        x = load(at, mask)
    return x


@triton.jit
def store_average(
    address,
    x,
    start,
    size,
    offsets,
    mask,
    keys,
    index,
    STATE: tl.constexpr,
    SIGNED: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Store an average; in fewer bits than the compute dtype, round it by the noise of key `index`."""
    at = place(address, start, offsets, STATE, ALIGNED)
    elements = start.to(tl.uint32) + offsets.to(tl.uint32)
    if tl.uint8 == STATE:
        codes, shared = pack(x, mask, noise_of(keys, index, elements), SIGNED)
        tl.store(at, codes, mask)
        exponents = exponents_of(address, start, size, offsets)
        tl.store(exponents, shared, None if mask is None else exponents_mask(start, size, offsets))
    else:
        store(at, x, mask, noise_of(keys, index, elements) if tl.int16 == STATE else None)
