"""Findings: what is wrong in the records of a run, as sentences with a remedy each."""

from rmsprop.monitor.findings.finding import Finding
from rmsprop.monitor.findings.kinds import KINDS, consistent, find

__all__ = ["KINDS", "Finding", "consistent", "find"]
