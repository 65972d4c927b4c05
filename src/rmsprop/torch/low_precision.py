"""Round stochastically: averages in bfloat16 or eight bits, and parameters in bfloat16.

Rounding to nearest loses every change smaller than half the distance to the next number. At β = 0.999 an average in
bfloat16 would never change. Stochastic rounding turns a number x between two stored numbers a < b into b with the
probability (x − a)/(b − a). The expectation of the stored number is x: errors average out.

The noise is a hash of the seed, the parameter's index in the optimizer, the step and the element. The hash needs no
generator and no state, and does not depend on device or number of threads. The native kernel
(kernel/low_precision.hpp, noise.hpp) gives the same bits.

Eight-bit averages are a block floating-point format: 32 numbers in row-major order share a power of two. A code has
three bits of mantissa. Codes of square averages have five bits of exponent and no sign: 31 binades below the largest
number of the block. Codes of the other averages have four bits of exponent and a sign. One flat tensor holds the codes,
then exponent + 127 of each block: 33 bytes for 32 numbers. A square average above 0 is at least the smallest code. A
non-finite number makes its block NaN. The OCP Microscaling formats (2023) also share an exponent among 32 numbers; the
codes and the rounding differ.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rmsprop.rule import AVERAGES

Integer: TypeAlias = "int | Tensor"

BLOCK = 32
DTYPES = {"bfloat16": torch.bfloat16, "uint8": torch.uint8}
# κ of E5: 8 × unit roundoff, here of the stored format.
KAPPA = {torch.bfloat16: 2.0**-5, torch.uint8: 2.0**-1}
_MASK = 0xFFFFFFFF
_BIAS = {False: 31, True: 15}  # biased exponent of [1, 2), by `signed`


def packed_size(size: int) -> int:
    """Return the number of bytes of an eight-bit average of `size` numbers."""
    return size + -(-size // BLOCK)


def noise_keys(seed: int, index: Integer, step: Integer) -> list[Any]:
    """Return the noise keys of the parameter and each of AVERAGES; integers may be integer Tensors."""
    key = _hash(_hash(_hash(seed) ^ index) ^ (step & _MASK))
    return [_hash((key + i) & _MASK) for i in range(1 + len(AVERAGES))]


def _hash(x: Any) -> Any:
    """Hash 32 bits to 32 bits, one to one: lowbias32 of nullprogram.com/blog/2018/07/31/."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def order_of(p: Tensor) -> tuple[int, ...]:
    """Return the strides that number the elements of `p`: its own if its memory has no gaps, else row-major ones."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(p.stride(), p.shape, strict=True) if size != 1):
        if stride != expected:
            return tuple(math.prod(p.shape[i + 1 :]) for i in range(p.dim()))
        expected *= size
    return p.stride()


def positions(p: Tensor) -> Tensor:
    """Return the index of every element: the offset in memory if `p` has no gaps, else the row-major index."""
    indices = torch.arange(p.numel(), device=p.device)
    return indices.as_strided(p.shape, order_of(p)) if p.numel() else indices.view(p.shape)


def round_bfloat16(x: Tensor, key: Integer, indices: Tensor) -> Tensor:
    """Round float32 `x` to bfloat16 by the noise of `key` at `indices`. Finite numbers stay finite."""
    noise = (_hash((indices + key) & _MASK) >> 16).int()
    magnitude = x.abs().view(torch.int32)
    rounded = ((magnitude.clamp(max=0x7F7FFFFF) + noise) >> 16).clamp(max=0x7F7F) << 16
    return torch.where(x.isfinite(), rounded.view(torch.float32).copysign(x), x).to(torch.bfloat16)


def pack(x: Tensor, *, signed: bool, key: Integer | None) -> Tensor:
    """Return `x` in eight bits, rounded by the noise of `key`; to nearest if `key` is None."""
    x = x.detach().float().reshape(-1)
    normal, quantum, offset = _format(signed)
    blocks = -(-x.numel() // BLOCK)
    bits = x.abs().view(torch.int32)
    largest = torch.nn.functional.pad(bits, (0, blocks * BLOCK - x.numel())).view(blocks, BLOCK).amax(1).long()
    # A mantissa above 1.875 takes the next power of two: rounding up then stays in range.
    shared = torch.where(largest >= 0x7F800000, 255, ((largest + (1 << 20) - 1) >> 23).clamp(max=254))
    exponent = shared.clamp(max=254) - 127
    half = exponent >> 1  # two factors, since 2⁻¹²⁷ is subnormal
    y = x.abs() * _per_element(_power_of_two(-half), x) * _per_element(_power_of_two(half - exponent), x)
    if key is None:
        noise = torch.full_like(bits, 1 << 19)
    else:
        noise = (_hash((torch.arange(x.numel(), device=x.device) + key) & _MASK) >> 12).int()
    small = (y.clamp(max=normal).nan_to_num() * (1 / quantum) + noise.float() * 2.0**-20).int()
    large = ((y.view(torch.int32).clamp(max=0x7F800000) + noise) >> 20) - offset
    codes = torch.where(y < normal, small, large).clamp(max=_BIAS[signed] << 3 | 7)
    # A square average above 0 never rounds to 0: the step would divide by ε alone.
    codes = codes | (x.signbit().int() << 7) if signed else codes.maximum((x != 0).int())
    codes = codes.masked_fill(_per_element(shared, x) == 255, 0)
    return torch.cat([codes.to(torch.uint8), shared.to(torch.uint8)])


def packed_full(size: int, value: float, *, signed: bool, device: torch.device) -> Tensor:
    """Return an eight-bit average of `size` numbers equal to `value`, rounded to nearest."""
    code, exponent = pack(torch.full((1,), value, device=device), signed=signed, key=None)
    return torch.cat([code.expand(size), exponent.expand(packed_size(size) - size)])


def slice_packed(packed: Tensor, start: int, stop: int, size: int) -> Tensor:
    """Return elements `start` to `stop` of a packed average of `size` numbers, packed; `start` begins a block."""
    return torch.cat([packed[start:stop], packed[size + start // BLOCK : size - (-stop // BLOCK)]])


def write_packed(codes: Tensor, packed: Tensor, start: int, count: int, size: int) -> None:
    """Write `count` elements, packed in `codes`, into a packed average of `size` numbers, from `start` on."""
    packed[start : start + count] = codes[:count]
    packed[size + start // BLOCK :][: codes.numel() - count] = codes[count:]


def unpack(packed: Tensor, like: Tensor, *, signed: bool) -> Tensor:
    """Return an eight-bit average in float32 and in the shape of `like`."""
    _, quantum, offset = _format(signed)
    codes, shared = packed[: like.numel()].int(), packed[like.numel() :].int()
    k = codes & 127 if signed else codes
    y = torch.where(k < 8, k.float() * quantum, ((k + offset) << 20).view(torch.float32))
    half = (shared - 127) >> 1
    first = _power_of_two(half).masked_fill(shared == 255, torch.nan)
    y = y * _per_element(first, codes) * _per_element(_power_of_two(shared - 127 - half), codes)
    return torch.where(codes > 127, -y, y).view(like.shape) if signed else y.view(like.shape)


def _format(signed: bool) -> tuple[float, float, int]:
    """Return the smallest normal number, the spacing of subnormal numbers, and the offset of codes from float32."""
    normal = 2.0 ** (1 - _BIAS[signed])
    return normal, normal / 8, (127 - _BIAS[signed]) << 3


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 127) << 23).int().view(torch.float32)


def _per_element(of_block: Tensor, like: Tensor) -> Tensor:
    """Return, for every element of `like`, the value of its block."""
    return of_block.repeat_interleave(BLOCK)[: like.numel()]
