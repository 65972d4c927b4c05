"""Write the report of a run as one self-contained HTML file, which opens offline and loads nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from rmsprop.files import write_atomically
from rmsprop.lab.report.comparison import comparison_content
from rmsprop.lab.report.content import Content
from rmsprop.lab.report.sentences import evidence_words, value_words
from rmsprop.lab.report.training import training_content
from rmsprop.lab.report.tuning import tuning_content
from rmsprop.lab.runs.directory import REPORT, RunDirectory
from rmsprop.lab.score import score_words


def write_report(run: RunDirectory, path: Path | None = None) -> Path:
    """Write the report of `run` and return the path of the file.

    `path` is the file or its directory; None is the run's directory. The default name is report.html.
    """
    kind = run.config()["kind"]
    if kind == "compare":
        content = comparison_content(run.config(), run.summary(), run.records())
    elif kind == "tune":
        summary = run.summary()
        if summary is None:
            from rmsprop.lab.tuning.summary import so_far  # needs optuna, which other reports do not

            summary = so_far(run)
        content = tuning_content(run.config(), summary)
    else:
        content = training_content(run)
    path = path or run.path / REPORT
    return write_page(content, path / REPORT if path.is_dir() else path)


def write_page(content: Content, path: Path) -> Path:
    """Write a report's content as a file, and return its path."""
    write_atomically(path, _page().render(**{"tables": [], **content}))
    return path


@cache
def _page() -> jinja2.Template:
    loader = jinja2.PackageLoader("rmsprop.lab.report", "")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page.filters |= {"score": score_words, "evidence": evidence_words, "short": value_words, "together": _together}
    return page.get_template("report.html.j2")


def _together(text: str) -> str:
    """Keep each percent sign on the line of its number."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
