"""The report of claims, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmsprop.environment import environment
from rmsprop.lab.claims.catalogue import AnyClaim
from rmsprop.lab.claims.claim import GROUPS, Claim, Picture
from rmsprop.lab.claims.result import Result
from rmsprop.lab.claims.sentences import bound_words, main_number, measured_words, seconds_words
from rmsprop.lab.claims.stored import counts
from rmsprop.lab.report.content import Content, Figure, Table, figure
from rmsprop.lab.report.figures import add_legend, log_scale, new_axes, style, to_svg, verbatim


@verbatim
def draw_picture(picture: Picture) -> str:
    """Draw the lines of a picture; return an SVG."""
    canvas, axes = new_axes()
    for position, line in enumerate(picture.lines):
        colour, dashes = style(line.label, position)
        axes.plot(
            np.asarray(line.x), np.asarray(line.y), color=colour, linestyle=dashes, linewidth=1.5, label=line.label
        )
    for which, logarithmic in (("x", picture.log_x), ("y", picture.log_y)):
        if logarithmic:
            log_scale(axes, "x" if which == "x" else "y")
    axes.set_xlabel(picture.x_label)
    axes.set_ylabel(picture.y_label)
    if len(picture.lines) > 1:
        add_legend(canvas, 2)
    return to_svg(canvas)


def claims_content(pairs: Sequence[tuple[AnyClaim, Result]], *, command: str, when: str, equations: str) -> Content:
    """Return the content of a report: verdicts by group, numbers beside their bounds, pictures."""
    number = counts([result.verdict for _, result in pairs])
    parts = [f"{count} {'undecided' if kind == 'undecided' else kind}" for kind, count in number.items() if count]
    groups = [*GROUPS, *dict.fromkeys(claim.group for claim, _ in pairs if claim.group not in GROUPS)]
    tables = []
    for group in groups:
        own = [(claim, result) for claim, result in pairs if claim.group == group]
        if own:
            tables += [_verdicts(group, own), _numbers(group, own), _reasons(group, own)]
    return Content(
        title="Claims about RMSprop, run and judged",
        lines=[
            f"{len(pairs)} claims: {', '.join(parts)}.",
            "Each verdict is computed from numbers: a bound holds if the whole 95 % interval over the "
            "seeds lies within it.",
            when,
        ],
        summary=None,
        rows=[],
        tables=tables,
        figures=[_figure(claim) for claim, _ in pairs if isinstance(claim, Claim) and claim.picture is not None],
        measured=None,
        equations=equations,
        settings=[("command", command), *environment().items()],
    )


def _verdicts(group: str, pairs: Sequence[tuple[AnyClaim, Result]]) -> Table:
    header = ["claim", "what is said", "verdict", "what decides it"]
    rows = [
        [claim.name, claim.sentence, result.verdict, main_number(claim.bounds, result.numbers)]
        for claim, result in pairs
    ]
    return Table(group.capitalize(), header, rows, own=None, note="")


def _numbers(group: str, pairs: Sequence[tuple[AnyClaim, Result]]) -> Table:
    rows = []
    for claim, result in pairs:
        named = {bound.number for bound in claim.bounds}
        for bound in claim.bounds:
            measured = result.numbers[bound.number]
            words = bound_words(bound) if bound in claim.says else f"{bound_words(bound)}, under the condition"
            rows.append([claim.name, bound.number, words, measured_words(measured), bound.status(measured)])
        others = [(name, number) for name, number in result.numbers.items() if name not in named]
        rows += [[claim.name, name, "–", measured_words(number), "–"] for name, number in others]
    header = ["claim", "number", "said", "measured", "bound"]
    return Table(f"{group.capitalize()}: the numbers", header, rows, own=None, note="", folded=True)


def _reasons(group: str, pairs: Sequence[tuple[AnyClaim, Result]]) -> Table:
    rows = []
    for claim, result in pairs:
        run = f"{len(result.seeds)} seeds, {seconds_words(result.seconds)}"
        source = f"{claim.source.title}, {claim.source.where}"
        rows.append([claim.name, f"{claim.expected} {claim.notes}".strip(), source, run])
    header = ["claim", "what is expected, and why", "source", "run"]
    return Table(
        f"{group.capitalize()}: reasons and sources", header, rows, own=None, note="", numbers=(3,), folded=True
    )


def _figure(claim: Claim) -> Figure:
    assert claim.picture is not None  # noqa: S101
    picture = claim.picture(claim.rule)
    return figure(claim.name, draw_picture(picture), picture.caption)
