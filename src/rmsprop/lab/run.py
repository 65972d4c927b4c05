"""The results of `train`, `compare` and `find_lr`, for scripts and notebooks."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rmsprop.errors import InputError, Received
from rmsprop.lab.find_task import load_task
from rmsprop.lab.report.page import write_report
from rmsprop.lab.report.sentences import LOSS_FINDINGS, describe_comparison, describe_training
from rmsprop.lab.runs.directory import CHECKPOINT, RANGE_FIGURE, RunDirectory
from rmsprop.lab.task import Task


class Run(NamedTuple):
    """A run of `train` or `compare`, and how it ended: `run, summary = train(...)` gives both.

    Attributes
    ----------
    directory
        The run's files.
    summary
        Content of summary.json: a TrainSummary or a CompareSummary.
    """

    directory: RunDirectory
    summary: Any

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.directory.path

    @property
    def records(self) -> list[Any]:
        """Losses and scores, one dict each, in the order of the training."""
        return self.directory.records()

    @property
    def findings(self) -> list[Any]:
        """What the run's monitor and losses show, gravest first; empty for a comparison."""
        found: list[Any] = self.summary.get("findings", [])
        return found

    @property
    def sentences(self) -> list[str]:
        """How the run ended, one sentence each."""
        config = self.directory.config()
        describe: Any = describe_comparison if config["kind"] == "compare" else describe_training
        lines: list[str] = describe(config, self.summary)
        return lines

    def report(self) -> Path:
        """Write the report, a self-contained HTML file, and return its path."""
        return write_report(self.directory)

    def load_model(self, task: str | Task | None = None) -> nn.Module:
        """Return the trained model, in eval mode on the CPU.

        The weights are the best ones if the training kept them (`best`), the average if it has one (`average`), and the
        last ones otherwise. They are in checkpoint.pt, which holds tensors and plain values only.

        Parameters
        ----------
        task
            The task that was trained, if it was made in Python; otherwise the run knows it.
        """
        config = self.directory.config()
        if config["kind"] != "train":
            found = Received(f"{self.path}, of compare")
            raise InputError("the run", "one of train: a comparison keeps no weights", found, "train the one you want")
        if task is None and config.get("from_python"):
            remedy = "pass the Task: run.load_model(task)"
            raise InputError("task", "given for a run of a task that was made in Python", Received("none"), remedy)
        model = load_task(config["task"] if task is None else task).model()
        state = torch.load(self.path / CHECKPOINT, weights_only=True, map_location="cpu")["training"]
        weights = state["best"][2]
        if not weights and state["ema"] is not None:
            inside = "module."  # beside it, torch's AveragedModel counts its updates
            weights = {k.removeprefix(inside): v for k, v in state["ema"].items() if k.startswith(inside)}
        model.load_state_dict(weights or state["model"])
        return model.eval()

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.summary['status']}>"

    def _repr_html_(self) -> str:
        """Return the run's result for a notebook, and where it is."""
        outcome = [finding["sentence"] for finding in self.findings if finding["kind"] in LOSS_FINDINGS]
        lines = [*self.sentences, *outcome, f"run: {self.path}; its report() has the figures"]
        return "".join(f"<p>{escape(line)}</p>" for line in lines)


class RangeTest(NamedTuple):
    """A range test: `directory, result = find_lr(...)` gives both.

    Attributes
    ----------
    directory
        Directory of find-lr.json and find-lr.svg.
    result
        Content of find-lr.json.
    """

    directory: Path
    result: dict[str, Any]

    @property
    def lr(self) -> float | None:
        """The suggested rate; None if the curve is unclear."""
        lr: float | None = self.result["lr"]
        return lr

    def __repr__(self) -> str:
        return f"<RangeTest {self.directory}: lr {self.lr}>"

    def _repr_html_(self) -> str:
        """Return the suggestion, its reason and the figure for a notebook."""
        head = "no suggestion" if self.lr is None else f"suggested lr: {self.lr:g}"
        figure = (self.directory / RANGE_FIGURE).read_text(encoding="utf-8")
        return f"<p><b>{head}</b></p><p>{escape(self.result['reason'])}</p>{figure}"
