"""Clipping of gradients, as a recipe states it."""

from __future__ import annotations

from typing import NamedTuple


class Clip(NamedTuple):
    """Clipping of the gradient before the step: by "norm", over all parameters, or by "value", elementwise."""

    kind: str
    limit: float

    def words(self) -> str:
        """Return the clipping in words."""
        if self.kind == "norm":
            return f"norm of all gradients together to {self.limit:g}"
        return f"every element of the gradient to ±{self.limit:g}"
