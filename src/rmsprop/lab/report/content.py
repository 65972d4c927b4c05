"""The content of a report, for every kind of run."""

from __future__ import annotations

import base64
from typing import NamedTuple, NotRequired, TypedDict

from rmsprop.lab.runs.schema import (
    CompareSummary,
    FindingFacts,
    PostMortemFacts,
    RunConfig,
    ScoreFacts,
    TrainSummary,
    TuneSummary,
)

ZERO = "Elements whose gradient has always been zero, such as weights of inputs that are always 0, sit at η/ε"
ETA = f"η marks the rate that was set. {ZERO} on the far right and do not move."
FAR = f"{ZERO} at the top and do not move."


class Figure(NamedTuple):
    """A picture with title and caption."""

    title: str
    picture: str  # data URI
    caption: str


class Measured(TypedDict):
    """Findings and figures of what the optimizer did."""

    line: str
    outcome: list[str]
    findings: list[list[FindingFacts]]
    post_mortem: PostMortemFacts | None
    figures: list[Figure]


class Table(NamedTuple):
    """A table with title and note.

    Attributes
    ----------
    own
        The row that is set in bold; None for none.
    numbers
        Columns whose cells end at the right.
    folded
        Whether the reader opens it.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    own: int | None
    note: str
    numbers: tuple[int, ...] = ()
    folded: bool = False


class Content(TypedDict):
    """The values for the template report.html.j2."""

    title: str
    lines: list[str]
    summary: TrainSummary | CompareSummary | TuneSummary | None
    rows: list[tuple[ScoreFacts, str, str]]  # score, worst and best seed in words, difference to RMSprop in words
    tables: NotRequired[list[Table]]
    figures: list[Figure]
    measured: Measured | None
    equations: str
    settings: list[tuple[str, str]]


def figure(title: str, svg: str, caption: str) -> Figure:
    """Return the Figure of an SVG picture."""
    return Figure(title, "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(), caption)


def settings(config: RunConfig) -> list[tuple[str, str]]:
    """Return the run's configuration as pairs of name and value, in words."""
    hidden = ("kind", "rule", "task_code", "made_with", "metric_kind")
    words = {k: ", ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in v) if isinstance(v, list) else str(v)
             for k, v in config.items() if k not in hidden}  # fmt: skip
    labels = {"every": "steps between statistics"}
    return [(labels.get(k, k.replace("_", " ")), v) for k, v in words.items()]
