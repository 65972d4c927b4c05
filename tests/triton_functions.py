"""Functions in Triton for `test_triton.py`, which imports them after it has switched the interpreter on."""

import triton
import triton.language as tl

from rmsprop.torch.engines.triton_memory import load_average, store, store_average


@triton.jit
def store_all(source, target, SIZE: tl.constexpr):
    """Store float32 numbers as bfloat16."""
    at = tl.arange(0, SIZE)
    store(target + at, tl.load(source + at), None, None)


@triton.jit
def pack_all(source, packed, keys, size, target, SIGNED: tl.constexpr, ROWS: tl.constexpr):
    """Store `size` float32 numbers as an eight-bit average by the noise of key 1, and load them into `target`."""
    offsets = tl.arange(0, ROWS)[:, None] * 32 + tl.arange(0, 32)[None, :]
    mask = offsets < size
    start = tl.program_id(0).to(tl.int64)
    address = tl.load(packed)
    x = tl.load(source + offsets, mask)
    store_average(address, x, start, size, offsets, mask, keys, 1, tl.uint8, SIGNED, False)
    y = load_average(address, start, size, offsets, mask, tl.uint8, SIGNED, False)
    tl.store(target + offsets, y, mask)
