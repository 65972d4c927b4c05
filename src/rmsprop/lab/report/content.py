"""What a report shows, whatever kind of run it is about."""

from __future__ import annotations

import base64
from typing import NamedTuple, TypedDict

from rmsprop.lab.runs.schema import CompareSummary, FindingFacts, PostMortemFacts, RunConfig, ScoreFacts, TrainSummary

ZERO = "Elements whose gradient has always been zero, such as weights of inputs that are always 0, sit at η/ε"
ETA = f"η marks the rate that was set. {ZERO} on the far right and do not move."
FAR = f"{ZERO} at the top and do not move."


class Figure(NamedTuple):
    """A picture, and in words what it shows."""

    title: str
    picture: str  # data URI
    caption: str


class Measured(TypedDict):
    """What the optimizer did, as findings and figures."""

    line: str
    outcome: list[str]
    findings: list[list[FindingFacts]]
    post_mortem: PostMortemFacts | None
    figures: list[Figure]


class Content(TypedDict):
    """The values that the template report.html.j2 is filled with."""

    title: str
    lines: list[str]
    summary: TrainSummary | CompareSummary | None
    rows: list[tuple[ScoreFacts, str, str]]  # scores with their worst and best seed and their difference, in words
    figures: list[Figure]
    watched: Measured | None
    equations: str
    settings: list[tuple[str, str]]


def figure(title: str, svg: str, caption: str) -> Figure:
    """Return a Figure of an SVG."""
    return Figure(title, "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(), caption)


def settings(config: RunConfig) -> list[tuple[str, str]]:
    """Return what a run was asked to do, as names and values."""
    hidden = ("kind", "rule", "task_code", "made_with")
    words = {k: ", ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in v) if isinstance(v, list) else str(v)
             for k, v in config.items() if k not in hidden}  # fmt: skip
    labels = {"every": "steps between statistics"}
    return [(labels.get(k, k.replace("_", " ")), v) for k, v in words.items()]
