"""Descriptions of options for the help page, which keeps the line ends of docstrings otherwise."""

from __future__ import annotations

import re

_IN_DESCRIPTION = re.compile(r" {8}\S")  # a line of a description in a docstring in NumPy's style


def joined(doc: str | None) -> str:
    r"""Return a docstring with each description in one line: the help page breaks it anew.

    >>> print(joined("Sum.\n\n    rate\n        The rate of\n        a step."))
    Sum.
    <BLANKLINE>
        rate
            The rate of a step.
    """
    lines: list[str] = []
    for line in (doc or "").split("\n"):
        if lines and _IN_DESCRIPTION.match(lines[-1]) and _IN_DESCRIPTION.match(line):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)
