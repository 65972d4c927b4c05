"""Suggest a learning rate by a range test that warms the averages and restores everything: `find_lr`."""

from rmsprop.monitor.lr_finder.finder import WARM_LIMIT, Found, find_lr

__all__ = ["WARM_LIMIT", "Found", "find_lr"]
