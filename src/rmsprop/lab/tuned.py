"""The result of `tune`."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.tuning_sentences import describe_tuning
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.tuning.space import Setting
from rmsprop.rule import Rule


class Tuned(NamedTuple):
    """A search that has ended.

    Attributes
    ----------
    directory
        The run's files: run.json, summary.json, best.toml, report.html and, without a database, study.journal.
    summary
        Content of summary.json: a TuneSummary.
    """

    directory: RunDirectory
    summary: Any

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.directory.path

    @property
    def setting(self) -> Setting:
        """What to train with: the best setting if it is a gain over the default, else the default."""
        return Setting.from_json(self.summary["candidates"][self.summary["recommended"]]["setting"])

    @property
    def rule(self) -> Rule:
        """The rule of `setting`."""
        return self.setting.rule

    @property
    def gain(self) -> bool:
        """Whether a setting is better than the default on new seeds."""
        return bool(self.summary["recommended"])

    @property
    def trials(self) -> list[Any]:
        """The trials of all searches, one dict each."""
        trials: list[Any] = self.summary["trials"]
        return trials

    @property
    def sentences(self) -> list[str]:
        """What was found, one sentence each."""
        return describe_tuning(self.directory.config(), self.summary)

    def report(self) -> Path:
        """Write the report, a self-contained HTML file, and return its path."""
        return write_report(self.directory)

    def _repr_html_(self) -> str:
        """Return the result for a notebook, and where it is."""
        lines = [*self.sentences, f"run: {self.path}; its report() has the figures"]
        return "".join(f"<p>{escape(line)}</p>" for line in lines)
