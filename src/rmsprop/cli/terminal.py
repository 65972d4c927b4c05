"""The consoles that commands print to, and their progress bars."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from rmsprop.text import printable


class Terminal(Console):
    """A console that shows no control characters in text of others."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments to be written. Rich adds its own control codes later."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is handled here, as other files do; rich's own way is to exit."""
        raise


# Results are as wide as they are: no table loses digits in a narrow window, or in a file.
stdout = Terminal(highlight=False, soft_wrap=True, width=10_000)
stderr = Terminal(stderr=True, highlight=False)
if stderr.width < 1:  # COLUMNS=0, in which rich shows nothing at all
    stderr.width = 80


class Bars(Progress):
    """Progress bars on a terminal. Elsewhere nothing is drawn: a command prints lines instead."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[news]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
