"""Findings: problems in the records of a run, each a sentence with a remedy."""

from rmsprop.monitor.findings.finding import Finding
from rmsprop.monitor.findings.kinds import KINDS, consistent, find

__all__ = ["KINDS", "Finding", "consistent", "find"]
