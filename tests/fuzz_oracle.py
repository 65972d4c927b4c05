"""What the fuzzer compares a step with: the rule for one parameter, and error bounds of tensor operations."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import rounding
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmsprop import Rule, State, update
from rmsprop.hyperparameters import averages
from rmsprop.rule import AVERAGES, SQUARES, denominator, moment_weights
from rmsprop.torch.groups import FIELDS
from rmsprop.torch.state import converted

Array = NDArray[Any]
ULPS = 6.0  # roundings by which two orders of the same operations may differ


class Outcome(NamedTuple):
    """One step of the rule, and how far another order of operations may be from each result."""

    p: Array
    state: State
    errors: dict[str, Array]  # of p and of every average


@np.errstate(all="ignore")
def outcome(rule: Rule, p: Array, g: Array, state: State) -> Outcome:
    """Return one step of `rule` from `p` and `state`, and error bounds for each element.

    The bounds follow the roundings through E1 to E9 as intervals. A bound is a few units in the last place of its
    quantity. It is wider where the rule subtracts nearly equal numbers.
    """
    p_new, new = update(rule, p, g, state)
    info, t = np.finfo(p.dtype), new.step
    unit, least = ULPS * info.eps, ULPS * float(info.smallest_subnormal)
    v, m, b, w = new.square_avg, new.grad_avg, new.momentum_buffer, new.max_square_avg
    coupled = bool(rule.weight_decay) and not rule.decoupled_weight_decay
    size = np.abs(g) + (rule.weight_decay * np.abs(p) if coupled else 0)  # size of the terms of E2
    error_g = unit * size if coupled else np.zeros_like(p)
    fresh = 1 - rule.decay
    error_v = unit * (v + fresh * size * size) + least
    error_m = np.zeros_like(p)
    if m is not None:
        error_m = unit * (np.abs(m) + np.abs(started(state.grad_avg, p)) + fresh * size) + least
    # E5: the variance before the mean is subtracted, then after.
    weight = 1 - rule.decay**t if rule.bias_correction else 1.0
    kappa = 4 * float(info.eps)
    plain = dataclasses.replace(rule, centered=False, eps=0.0, eps_inside_sqrt=False)
    largest = v if w is None or not rule.amsgrad else w  # its error is at most that of v
    first = denominator(plain, State(t, v, max_square_avg=w)) ** 2
    error_first = (error_v + unit * rule.initial_square_avg * bool(rule.bias_correction)) / weight + unit * first
    low, high = first - error_first, first + error_first
    if rule.bias_correction and rule.initial_square_avg:
        low = np.maximum(low, kappa * largest / weight * 0.99)
    if rule.centered and m is not None:
        mean = np.abs(m / weight) if rule.bias_correction else np.abs(m)
        error_mean = (error_m / weight if rule.bias_correction else error_m) + unit * mean
        square, error_square = mean * mean, (2 * mean + error_mean) * error_mean + unit * mean * mean + least
        floor = kappa * largest / weight
        variance = np.maximum(first - square, floor)
        low = np.maximum(variance - error_first - error_square, 0.99 * floor)
        high = variance + error_first + error_square
    # E6 and E7.
    bare = dataclasses.replace(rule, centered=False, bias_correction=False, momentum_decay=0.0, amsgrad=False)
    d = denominator(rule, State(t, v, m, max_square_avg=w))
    d_low, d_high = (denominator(bare, State(t, np.maximum(x, 0))) for x in (low, high))
    gradient = (-g if rule.maximize else g) + (rule.weight_decay * p if coupled else 0)
    n, error_n, error_b = gradient, error_g, np.zeros_like(p)
    if rule.momentum and rule.first_moment and b is not None:
        old, one_minus_mu = started(state.momentum_buffer, p), 1 - rule.momentum
        error_b = unit * (np.abs(b) + np.abs(old) + one_minus_mu * size) + least
        error_b = np.where((old == 0) & (gradient == 0) & (error_g == 0), 0.0, error_b)
        a, c = moment_weights(rule, t)
        n = a * b + (c * gradient if rule.nesterov else 0.0)
        error_n = a * error_b + c * error_g + unit * (a * np.abs(b) + c * size)
    u = np.divide(n, d, out=np.zeros_like(g), where=d != 0)
    most, least_u = np.divide(np.abs(n) + error_n, d_low), np.divide(np.abs(n) - error_n, d_high)
    error_u = np.maximum(most - np.abs(u), np.abs(u) - least_u) * (1 + unit) + unit * np.abs(u) + least
    still = (n == 0) & (error_n == 0)
    error_u = np.where(still, 0.0, error_u)
    if rule.lr_in_momentum:
        u, error_u = rule.lr * u, rule.lr * error_u + least
    # E8 and E9.
    r, error_r = u, error_u
    if rule.momentum and b is not None and not rule.first_moment:
        error_b = error_u + unit * (np.abs(b) + np.abs(u)) + least
        r, error_r = b, error_b
        if rule.nesterov:
            r = u + rule.momentum * b
            error_r = error_u + error_b + unit * (np.abs(u) + np.abs(b))
    scale = 1.0 if rule.lr_in_momentum else rule.lr
    error_p = scale * (error_r + unit * np.abs(r)) + unit * (np.abs(p) + np.abs(p_new)) + least
    if not (rule.weight_decay and rule.decoupled_weight_decay):
        error_p = np.where((r == 0) & (error_r == 0), 0.0, error_p)
    errors = {"square_avg": error_v, "grad_avg": error_m, "momentum_buffer": error_b, "max_square_avg": error_v}
    return Outcome(p_new, new, {"p": error_p, **errors})


def started(average: Array | None, p: Array) -> Array:
    """Return an average before the step: zeros if there is none yet."""
    return np.zeros_like(p) if average is None else average


# -- tensors of torch --------------------------------------------------------------------------------------------------

HALF = (torch.float16, torch.bfloat16)


class Story(NamedTuple):
    """The expected result of a step of one parameter."""

    before: dict[str, Tensor]  # the averages, in the dtype that they should have after the step
    rule: Rule
    outcome: Outcome
    state_dtype: str | None
    seed: int  # seed of stochastic rounding
    number: int
    still: NDArray[np.bool_] | None  # rows that a lazy step does not touch


@np.errstate(all="ignore")
def foretold(group: dict[str, Any], number: int, p: Tensor, own: dict[str, Tensor]) -> Story | None:
    """Return what a step should make of parameter `number` of `group` and its state `own`; None without a gradient."""
    if p.grad is None:
        return None
    rule = Rule(**{field: group[name] for name, field in FIELDS.items()})
    reduced = group["state_dtype"]
    dtype = torch.float32 if p.dtype in HALF else p.dtype.to_real()
    if own and own["square_avg"].dtype.to_real() == torch.float64 and not reduced:
        dtype = torch.float64
    stored = {"bfloat16": torch.bfloat16, "uint8": torch.uint8}.get(
        reduced, dtype.to_complex() if p.is_complex() else dtype
    )
    there = {name: own[name] for name in AVERAGES if name in own}
    # Packed averages stay as they are: packing them again may pick another power of two for the same numbers.
    before = {name: x if x.dtype == stored else converted(x, name, p, stored) for name, x in there.items()}
    v, *others = (as_numbers(before[name], name, p, dtype) if name in before else None for name in AVERAGES)
    value, g = as_numpy(p, dtype), as_numpy(p.grad, dtype)
    if v is None:
        fresh = np.full_like(value, rule.initial_square_avg)
        v = (
            fresh
            if stored != torch.uint8
            else as_numbers(converted(torch.from_numpy(fresh), AVERAGES[0], p, stored), AVERAGES[0], p, dtype)
        )
        if stored == torch.bfloat16:
            v = torch.from_numpy(fresh).bfloat16().float().numpy()
    if group["nonfinite"] == "zero":
        g = np.where(is_bad(p.grad).numpy(), 0, g).astype(g.dtype)
    out = outcome(rule, value, g, State(int(own.get("step", 0)), v, *others))
    if reduced:  # low-precision state has higher floors in E5
        t, old = out.state.step, [v, *others]
        filled = [np.zeros_like(value) if x is None else x for x in old]
        new_p, new = rounding.step(rule, t, value, g, filled, rounding.KAPPA[reduced])
        kept_or_new = [x if name in averages(rule) else y for name, x, y in zip(AVERAGES, new, old, strict=True)]
        state = State(t, new[0], *kept_or_new[1:])
        floored = rule.centered or (rule.bias_correction and rule.initial_square_avg > 0)
        unknown = np.full_like(value, np.inf)
        errors = {**out.errors, "p": unknown, "momentum_buffer": unknown} if floored else out.errors
        out = Outcome(new_p, state, errors)
    still = None
    if p.grad.is_sparse and group["sparse"] == "lazy":
        still = np.ones(len(p), dtype=bool)
        still[p.grad._indices()[0].numpy()] = False
    return Story(before, rule, out, reduced, int(group["stochastic_rounding"]), number, still)


def is_bad(g: Tensor) -> Tensor:
    """Return where a gradient or its square is not finite; complex numbers as two parts."""
    g = (
        g.to(torch.complex64 if g.is_complex() else torch.float32)
        if g.dtype not in (torch.float64, torch.complex128)
        else g
    ).to_dense()
    g = torch.view_as_real(g.resolve_conj()) if g.is_complex() else g
    return ~(g.abs() < 2.0 ** (512 if g.dtype == torch.float64 else 64))


def as_numpy(x: Tensor, dtype: torch.dtype) -> Array:
    """Return a copy of the numbers of `x` in `dtype`; complex numbers as pairs."""
    x = x.detach()
    if x.is_sparse:  # entries of one row are added in `dtype`
        x = x.to(dtype.to_complex() if x.is_complex() else dtype).to_dense()
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return x.to(dtype).clone().numpy()


def as_numbers(x: Tensor, name: str, p: Tensor, dtype: torch.dtype) -> Array:
    """Return a stored average as numbers in the shape of `p`."""
    if x.dtype == torch.uint8:
        return rounding.unpack(x.numpy(), p.numel(), name not in SQUARES).reshape(p.shape)
    return as_numpy(x, dtype)


def is_where_it_was(own: dict[str, Tensor], story: Story) -> None:
    """Assert that a skipped step changed neither the averages nor the step counter."""
    assert int(own["step"]) == story.outcome.state.step - 1
    for name, x in story.before.items():
        assert own[name].dtype == x.dtype
        np.testing.assert_array_equal(
            own[name].detach().numpy() if x.dtype != torch.bfloat16 else own[name].float().numpy(),
            x.detach().numpy() if x.dtype != torch.bfloat16 else x.float().numpy(),
        )


def compare(p: Tensor, own: dict[str, Tensor], story: Story, exact: bool) -> None:
    """Compare a parameter and its state after a step with the rule."""
    out, reduced, seed, t = story.outcome, story.state_dtype, story.seed, story.outcome.state.step
    assert int(own["step"]) == t
    dtype = torch.float64 if out.p.dtype == np.float64 else torch.float32
    for which, name in enumerate(AVERAGES, start=1):
        value = getattr(out.state, name)
        assert (name in own) == (value is not None), name
        if value is None:
            continue
        error = None if exact else out.errors[name]
        used = name in averages(story.rule)
        if not reduced or not used:
            if not used or story.still is not None:
                value, error = kept(
                    value,
                    error,
                    as_numbers(story.before[name], name, p, dtype)
                    if name in story.before
                    else value * 0 + (story.rule.initial_square_avg if which == 1 else 0),
                    story.still,
                    used,
                )
            assert own[name].dtype.to_real() == (dtype if not reduced else own[name].dtype)
            close(name, as_numbers(own[name], name, p, dtype), value, error)
            continue
        assert own[name].dtype == {"bfloat16": torch.bfloat16, "uint8": torch.uint8}[reduced]
        key = rounding.key(seed or 1, story.number, t, which)
        close_when_rounded(name, own[name], p, value, error, key)
    value, error = out.p, None if exact else out.errors["p"]
    if story.still is not None:
        value, error = kept(value, error, as_numpy(p, dtype), story.still, True)
    if seed and p.dtype == torch.bfloat16:
        close_when_rounded("p", p.detach(), p, value, error, rounding.key(seed, story.number, t, 0))
    else:
        close("p", as_numpy(p, dtype), value, error, p.dtype.to_real() if p.dtype.to_real() != dtype else None)


@np.errstate(all="ignore")
def kept(value: Array, error: Any, before: Array, still: Any, used: bool) -> tuple[Array, Any]:
    """Return `value` and `error`, with `before` and 0 in untouched rows; in all rows if the average is not `used`."""
    rows = np.ones(value.shape, dtype=bool)
    if used:
        rows[...] = still.reshape(-1, *[1] * (value.ndim - 1))
    return np.where(rows, before, value), None if error is None else np.where(rows, 0, error)


@np.errstate(all="ignore")
def close_when_rounded(name: str, found: Tensor, p: Tensor, value: Array, error: Any, key: int) -> None:
    """Assert that `found` is `value`, or a number within `error` of it, rounded with the noise of `key`."""
    order = memory_order(p) if found.dtype == torch.bfloat16 else np.arange(value.size)
    ends = []
    for sign in (0,) if error is None else (-1, 1):
        x = (value + sign * (0 if error is None else error)).astype(np.float32).reshape(-1)
        x = np.maximum(x, 0) if name in SQUARES else x
        if found.dtype == torch.bfloat16:
            rounded = np.empty_like(x)
            rounded[order] = rounding.bfloat16(x[order], key)
            ends.append(rounded.reshape(value.shape))
        elif error is None:
            packed = rounding.pack(x, name not in SQUARES, key)
            np.testing.assert_array_equal(found.numpy(), packed, err_msg=name)
            return
        elif not np.isfinite(x).all():
            return
        else:
            ends.append(
                rounding.unpack(rounding.pack(x, name not in SQUARES, key), x.size, name not in SQUARES).reshape(
                    value.shape
                )
            )
    numbers = as_numbers(found, name, p, torch.float32)
    if error is None:
        np.testing.assert_array_equal(numbers, ends[0], err_msg=name)
        return
    with np.errstate(invalid="ignore"):
        wrong = (
            ~((numbers >= np.minimum(*ends)) & (numbers <= np.maximum(*ends))) & np.isfinite(value) & np.isfinite(error)
        )
    assert not wrong.any(), f"{name}: {numbers[wrong][:3]} in place of {ends[0][wrong][:3]} .. {ends[1][wrong][:3]}"


def memory_order(p: Tensor) -> NDArray[np.int64]:
    """Return the element indices of `p` in memory order; row by row if its memory has gaps."""
    if not p.numel() or torch.empty_like(p).stride() != p.stride():
        return np.arange(p.numel())
    places = sum(
        (np.arange(n) * s).reshape(-1, *[1] * (p.dim() - 1 - i))
        for i, (n, s) in enumerate(zip(p.shape, p.stride(), strict=True))
    )
    return np.argsort(np.asarray(places).reshape(-1), kind="stable") if p.dim() else np.arange(1)


@np.errstate(all="ignore")
def close(what: str, found: Any, expected: Any, error: Any, kept: torch.dtype | None = None) -> None:
    """Assert that `found` lies within `error` of `expected`, both ends rounded to the dtype `kept`; exactly if None.

    Where the rule gives a number that is not finite, another order of operations may give another such number.
    """
    expected = np.asarray(expected)
    low, high = (np.asarray(expected + sign * (0 if error is None else error)) for sign in (-1, 1))
    if kept is not None:
        low, high = (torch.from_numpy(x).to(kept).double().numpy() for x in (low, high))
    wrong = ~((found >= low) & (found <= high))
    if error is None:
        wrong &= ~(np.isnan(found) & np.isnan(low))
    else:
        wrong &= np.isfinite(expected) & np.isfinite(error)
        wrong |= (what in SQUARES) & ~np.isfinite(expected) & np.isfinite(found)
    assert not wrong.any(), (
        f"{what}: {found[wrong][:3]} in place of {expected[wrong][:3]} "
        f"+- {0 if error is None else error[wrong][:3]} at {np.argwhere(wrong)[:3].tolist()}"
    )
