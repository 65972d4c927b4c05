"""Update docs/conventions.md from the profiles: what each library means by RMSprop.

.venv/bin/python docs/make/conventions.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from blocks import with_block

from rmsprop import Rule, init, update
from rmsprop.profiles import PROFILES, WITH_MOMENTUM, Profile, profile

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "conventions.md"
_PLACES = {True: "inside", False: "outside", WITH_MOMENTUM: "outside; inside with momentum"}


def _rule(each: Profile, **values: float) -> Rule:
    return profile(each.name, **({"lr": 1e-3} | values))


def _smallest(each: Profile) -> str:
    """Return the smallest denominator; both values if momentum changes it."""
    rules = (_rule(each), _rule(each, momentum=0.9))
    floors = [f"{np.sqrt(rule.eps) if rule.eps_inside_sqrt else rule.eps:.2g}" for rule in rules]
    return "; ".join(dict.fromkeys(floors))


def defaults() -> str:
    """Return the table of defaults as Markdown."""
    lines = [
        "| profile | lr | β | ε | ε and the root | smallest d | v₀ | μ | b accumulates | weight decay | variant |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in PROFILES.values():
        lr = each.default("lr")
        rule = _rule(each)
        variants = [name.replace("_", " ") for name in ("centered", "bias_correction") if getattr(rule, name)]
        cells = (
            f"[`{each.name}`](#{each.name})",
            "required" if lr is None else f"{lr:g}",
            f"{rule.decay:g}",
            f"{rule.eps:g}",
            _PLACES[each.default("eps_inside_sqrt")],
            _smallest(each),
            f"{rule.initial_square_avg:g}",
            f"{rule.momentum:g}",
            "η·g/d" if rule.lr_in_momentum else "g/d",
            each.weight_decay,
            ", ".join(variants) or "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def _first_step(rule: Rule, gradient: float) -> float:
    param = np.zeros(1)
    return -float(update(rule, param, np.array([gradient]), init(rule, param))[0][0]) / rule.lr


def _step_after_cut(rule: Rule) -> float:
    """Return the step after the rate falls to a tenth, divided by the step before."""
    param, state, moves = np.zeros(1), init(rule, np.zeros(1)), []
    for t in range(101):
        now = rule if t < 100 else dataclasses.replace(rule, lr=rule.lr / 10)
        before = param
        param, state = update(now, param, np.ones(1), state)
        moves.append((param - before).item())
    return float(moves[-1] / moves[-2])


def effects() -> str:
    """Return the table of the differences' effects as Markdown."""
    lines = [
        "| profile | first step / lr, gradient 1 | gradient 0.001 | step after the rate's cut / step before |",
        "|---|---:|---:|---:|",
    ]
    for each in PROFILES.values():
        rule, heavy = _rule(each), _rule(each, momentum=0.9)
        lines.append(
            f"| `{each.name}` | {_first_step(rule, 1.0):.3g} | {_first_step(rule, 1e-3):.3g} "
            f"| {_step_after_cut(heavy):.2f} |"
        )
    return "\n".join(lines) + "\n\n"


def one_by_one() -> str:
    """Return title, difference and source of every profile as Markdown."""
    return "".join(
        f"### {each.name}\n\n{each.title}. {each.differs}\n\nDecay: {each.decay_name}. Source: {each.source}\n\n"
        for each in PROFILES.values()
    )


def up_to_date(text: str) -> str:
    """Return the page with its blocks from the profiles."""
    for name, content in (("defaults", defaults()), ("effects", effects()), ("profiles", one_by_one())):
        text = with_block(text, name, content)
    return text


if __name__ == "__main__":
    PAGE.write_text(up_to_date(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
