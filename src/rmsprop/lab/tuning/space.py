"""The search space of `rmsprop tune`: what is tuned, in which coordinates and ranges, and how a point becomes a rule.

Coordinates are chosen so that one does not shift the best value of another:

- lr: the rate that momentum amounts to, η/(1−μ), where momentum acts after the division; η elsewhere
- decay: 1−β, the share of the newest gradient
- eps: ε relative to √v̂ as a short probe run measured √v̂
- momentum: 1−μ
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule

Value: TypeAlias = float | bool | str
Point: TypeAlias = Mapping[str, Value]  # coordinates by name

SCHEDULES = ("constant", "linear", "cosine", "steps")
RULES = {"RMSprop": "torch", "Adam": "adam", "AdamW": "adamw"}  # optimizers that are rules, with their profiles
_EDGE = 0.05  # share of a range, on a log scale, that counts as its end
_WIDER = 1 / 3  # share of a range that is added beyond its end


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, on a log scale. `least` and `most` bound what widening may reach."""

    low: float
    high: float
    least: float = 0.0
    most: float = math.inf

    def at(self, share: float) -> float:
        """Return the number at a share of the range, from 0 to 1."""
        return self.tidy(self.low * (self.high / self.low) ** share)

    def tidy(self, value: float) -> float:
        """Return a number of the range with three digits: it is trained, stored and printed alike."""
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def share(self, value: float) -> float:
        """Return where in the range a number lies: 0 at `low`, 1 at `high`."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def points(self, count: int) -> list[float]:
        """Return `count` numbers at equal ratios; one is the middle."""
        return [self.at(0.5)] if count == 1 else [self.at(k / (count - 1)) for k in range(count)]

    def around(self, best: float) -> Range:
        """Return the range, widened until `best` does not lie at an end, as far as `least` and `most` allow."""
        low, high, factor = self.low, self.high, (self.high / self.low) ** _WIDER
        margin = (self.high / self.low) ** _EDGE
        if best <= low * margin:
            low = max(low / factor, self.least)
        if best >= high / margin:
            high = min(high * factor, self.most)
        return dataclasses.replace(self, low=low, high=high)


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Value, ...]


Domain: TypeAlias = Range | Choices
Space: TypeAlias = dict[str, Domain]


@dataclass(frozen=True)
class Dimension:
    """One coordinate: its usual domain, the number of trials from which it is tuned, and how users write it.

    Attributes
    ----------
    usual
        Domain unless the user gives another.
    from_trials
        Smallest budget at which it is tuned unless the user says otherwise.
    complement
        Whether users write 1 minus the coordinate: decay and momentum.
    """

    usual: Domain
    from_trials: int
    complement: bool = False


DIMENSIONS: dict[str, Dimension] = {
    "lr": Dimension(Range(1e-5, 1.0), 1),
    "decay": Dimension(Range(1e-3, 0.3, 1e-6, 1.0), 10, complement=True),
    "schedule": Dimension(Choices(SCHEDULES), 10),
    "eps": Dimension(Range(1e-6, 1.0), 25),
    "momentum": Dimension(Range(0.01, 1.0, 1e-4, 1.0), 25, complement=True),
    "centered": Dimension(Choices((False, True)), 40),
    "bias_correction": Dimension(Choices((False, True)), 40),
    "weight_decay": Dimension(Range(1e-6, 1e-1), 40),
    "warmup": Dimension(Choices((0.0, 1.0, 3.0)), 40),
}


@dataclass(frozen=True)
class Setting:
    """What a trial trains with: a rule, a schedule, a warm-up.

    Attributes
    ----------
    optimizer
        One of `RULES`, or an optimizer of torch, which takes the rule's lr only.
    warmup
        Steps in which the rate rises.
    """

    rule: Rule
    schedule: str = "constant"
    warmup: int = 0
    optimizer: str = "RMSprop"

    def to_json(self) -> Any:
        """Return the setting as plain values: `rmsprop.lab.runs.schema.SettingFacts`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Setting:
        """Return the setting of `to_json`."""
        return cls(**{**values, "rule": Rule(**values["rule"])})


def chosen_space(
    given: Iterable[str],
    trials: int,
    *,
    everything: bool,
    only: Collection[str] = DIMENSIONS.keys(),
    strict: bool = True,
) -> Space:
    """Return the domain of each tuned coordinate, in the order of `DIMENSIONS`.

    Parameters
    ----------
    given
        Items like lr=1e-4:1e-1, schedule=linear,cosine or momentum=0.9, or paths of TOML files that hold them.
    trials
        The budget: with fewer trials, fewer coordinates are tuned.
    everything
        Tune all coordinates, whatever the budget.
    only
        The coordinates that there are to tune.
    strict
        Raise InputError if a given name is none of them; otherwise leave it out.

    Examples
    --------
    >>> list(chosen_space([], 8, everything=False)), list(chosen_space([], 30, everything=False))
    (['lr'], ['lr', 'decay', 'schedule', 'eps', 'momentum'])
    >>> chosen_space(["lr=1e-4:1e-2", "decay=0.9,0.99"], 8, everything=False)["lr"]
    Range(low=0.0001, high=0.01, least=0.0, most=inf)
    """
    named = _given(given)
    for name in sorted(named.keys() - set(only)) if strict else ():
        allowed = f"about one of {', '.join(only)} here"
        raise InputError("--space", allowed, name, "leave it out, or leave out the option that fixes it")
    return {
        name: named.get(name, dimension.usual)
        for name, dimension in DIMENSIONS.items()
        if name in only and (name in named or everything or trials >= dimension.from_trials)
    }


def setting_of(point: Point, base: Setting, gradient_rms: float | None) -> Setting:
    """Return the setting at a point of the space; what the point leaves out is that of `base`.

    Numbers that are computed are rounded to six digits, so that what is trained is what is printed.
    `gradient_rms` is √v̂ of the probe run: the unit of the coordinate eps.
    """
    changes: dict[str, Any] = {k: point[k] for k in ("centered", "bias_correction", "weight_decay") if k in point}
    for name in ("decay", "momentum"):
        if name in point:
            changes[name] = round(1 - float(point[name]), 12)
    if "eps" in point:
        assert gradient_rms is not None  # noqa: S101
        eps = float(point["eps"]) * gradient_rms
        changes["eps"] = eps * eps if base.rule.eps_inside_sqrt else eps
    if "lr" in point:
        rule = dataclasses.replace(base.rule, **changes)
        changes["lr"] = float(point["lr"]) / amplification(rule)
    for name in set(changes) & {"lr", "eps", "weight_decay"}:
        changes[name] = float(f"{changes[name]:.6g}")
    rule = dataclasses.replace(base.rule, **changes)
    warmup = base.warmup
    if "warmup" in point:
        warmup = round(float(point["warmup"]) / (1 - rule.decay))
    return dataclasses.replace(base, rule=rule, schedule=str(point.get("schedule", base.schedule)), warmup=warmup)


def point_of(setting: Setting, space: Space, gradient_rms: float | None) -> dict[str, Value]:
    """Return the coordinates of a setting. Those outside the space are left out, such as a weight decay of 0."""
    rule = setting.rule
    values: dict[str, Value] = {
        "lr": rule.lr * amplification(rule),
        "decay": 1 - rule.decay,
        "momentum": 1 - rule.momentum,
        "schedule": setting.schedule,
        "centered": rule.centered,
        "bias_correction": rule.bias_correction,
        "weight_decay": rule.weight_decay,
        "warmup": setting.warmup * (1 - rule.decay),
    }
    if gradient_rms:
        values["eps"] = (math.sqrt(rule.eps) if rule.eps_inside_sqrt else rule.eps) / gradient_rms
    return {name: values[name] for name in space if name in values}


def amplification(rule: Rule) -> float:
    """Return the factor by which momentum lengthens the steps in a lasting direction: 1/(1−μ), or 1.

    >>> amplification(Rule(momentum=0.9)), amplification(Rule(momentum=0.9, first_moment=True))
    (10.0, 1.0)
    """
    return 1.0 if rule.first_moment else round(1 / (1 - rule.momentum), 12)


def widened(space: Space, best: Point) -> Space:
    """Return the space, with each range widened at whose end the best point lies."""
    return {
        name: domain.around(float(best[name])) if isinstance(domain, Range) and name in best else domain
        for name, domain in space.items()
    }


def at_ends(space: Space, best: Point) -> list[str]:
    """Return the coordinates whose best value lies at an end of the range, where a better one may lie beyond."""
    return [name for name, domain in widened(space, best).items() if domain != space[name]]


def grid(space: Space, count: int) -> list[dict[str, Value]]:
    """Return at most `count` points: each range at equal ratios, each choice at all its values.

    Raises
    ------
    InputError
        If the smallest grid, with two values of each range, has more points.
    """
    choices = {name: list(domain.values) for name, domain in space.items() if isinstance(domain, Choices)}
    ranges = {name: domain for name, domain in space.items() if isinstance(domain, Range)}
    fixed = math.prod(map(len, choices.values()))
    sizes = dict.fromkeys(ranges, 2)
    if fixed * 2 ** len(ranges) > count:
        words = f"{fixed * 2 ** len(ranges)} points: two values of each range, all values of each choice"
        remedy = "raise --trials, or name fewer values: --space lr=0.001,0.01,0.1"
        raise InputError("--trials", f"at least {fixed * 2 ** len(ranges) + 1} for this grid of {words}", count, remedy)
    grown = True
    while grown:
        grown = False
        for name in ranges:  # in the order of DIMENSIONS: the rate gets most values
            more = {**sizes, name: sizes[name] + 1}
            if fixed * math.prod(more.values()) <= count:
                sizes, grown = more, True
    axes = {name: choices[name] if name in choices else ranges[name].points(sizes[name]) for name in space}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _given(items: Iterable[str]) -> Space:
    space: Space = {}
    for item in items:
        name, sign, text = item.partition("=")
        if sign:
            entries: Mapping[str, Any] = {name.strip(): _parsed(name.strip(), text)}
        else:
            entries = _from_file(Path(item))
        for key, value in entries.items():
            space[key] = _domain(_known(key), value)
    return space


def _known(name: str) -> str:
    if name not in DIMENSIONS:
        raise InputError("--space", f"about one of {', '.join(DIMENSIONS)}", name, "for example lr=1e-4:1e-1")
    return name


def _parsed(name: str, text: str) -> Any:
    """Return the value of NAME=TEXT as TOML would give it: {"from", "to"}, a list, or one value."""
    if ":" in text:
        ends = [_scalar(part) for part in text.split(":")]
        if len(ends) != 2:
            raise InputError(f"--space {name}", "a range LOW:HIGH", text, f"for example {name}=0.001:0.1")
        return {"from": ends[0], "to": ends[1]}
    return [_scalar(part) for part in text.split(",")]


def _scalar(text: str) -> Any:
    words = {"true": True, "false": False, "yes": True, "no": False}
    text = text.strip()
    if text.lower() in words:
        return words[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        found, remedy = Received(f"{path}: {error.strerror}"), "or give NAME=LOW:HIGH, such as lr=1e-4:1e-1"
        raise InputError("--space", "NAME=VALUES or a readable TOML file", found, remedy) from None
    except ValueError as error:
        raise InputError("--space", "a file in TOML", Received(f"{path}: {error}"), "lr = [1e-4, 1e-1]") from None


def _domain(name: str, value: Any) -> Domain:
    """Return the domain that a user gave, in coordinates."""
    dimension = DIMENSIONS[name]
    inside: Callable[[Any], Any] = (lambda x: _coordinate(name, x)) if _is_numeric(name) else (lambda x: x)
    if isinstance(value, Mapping):
        if not isinstance(dimension.usual, Range) or set(value) != {"from", "to"}:
            raise InputError(f"--space {name}", "values to choose from", value, f"for example {name}={_example(name)}")
        low, high = sorted((inside(value["from"]), inside(value["to"])))
        if not 0 < low < high:
            written = Received(f"{value['from']!r}:{value['to']!r}")
            allowed = "a range of two different numbers" + (" below 1" if dimension.complement else " above 0")
            raise InputError(f"--space {name}", allowed, written, f"for example {name}={_example(name)}")
        return dataclasses.replace(dimension.usual, low=low, high=high)
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values:
        raise InputError(f"--space {name}", "at least one value", value, f"for example {name}={_example(name)}")
    known = dimension.usual.values if isinstance(dimension.usual, Choices) and not _is_numeric(name) else None
    for each in values:
        if known is not None and each not in known:
            raise InputError(f"--space {name}", f"among {', '.join(map(str, known))}", each, "")
    return Choices(tuple(inside(each) for each in values))


def _is_numeric(name: str) -> bool:
    usual = DIMENSIONS[name].usual
    return isinstance(usual, Range) or isinstance(usual.values[0], float)


def _coordinate(name: str, value: Any) -> float:
    """Return a number of the user as a coordinate: 1−β for decay."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    complement = DIMENSIONS[name].complement
    if not number or value < 0 or (complement and value >= 1):
        allowed = "numbers in [0, 1)" if complement else "finite numbers >= 0"
        raise InputError(f"--space {name}", allowed, value, f"for example {name}={_example(name)}")
    return 1 - float(value) if complement else float(value)


def _example(name: str) -> str:
    usual = DIMENSIONS[name].usual
    if isinstance(usual, Choices):
        return ",".join(str(v).lower() for v in usual.values)
    low, high = (1 - usual.high, 1 - usual.low) if DIMENSIONS[name].complement else (usual.low, usual.high)
    return f"{low:g}:{high:g}"
