"""The consoles that commands print to, and progress bars."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rmsprop.text import in_ascii, printable

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID
    from rich.table import Table

_WIDTH_WITH_NEWS = 70  # columns of a terminal that has room for the newest result beside a bar
_MOVES = 20  # largest number of moves of a bar in a second
IN_ASCII = "rmsprop.in_ascii"  # name of the error handler for streams that cannot encode a character


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(IN_ASCII, _in_ascii)


class Terminal(Console):
    """A console that prints no control characters of names, and formulas in ASCII if the encoding lacks a character."""

    def shown(self, text: str) -> str:
        """Return `text`, or `text` in ASCII if the stream's encoding lacks one of its characters."""
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return in_ascii(text)
        return text

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text to lay out. It is turned into ASCII here, before columns take their width from it."""
        return super().render_str(self.shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments to print, without control characters. Rich adds its own control codes later."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """Raise the current BrokenPipeError again: rich would exit with its own status."""
        raise


# Lines are never wrapped: a table in a pipe or a narrow window keeps its columns.
stdout = Terminal(highlight=False, soft_wrap=True, width=10_000)
stderr = Terminal(stderr=True, highlight=False, soft_wrap=True)
if stderr.width < 1:  # COLUMNS=0: rich would print nothing
    stderr.width = 80


def print_table(console: Console, table: Table) -> None:
    """Print a table without the spaces that pad its last column, which would wrap in a narrow window."""
    for line in console.render_lines(table, pad=False):
        text = Text.assemble(*((part.text, part.style or "") for part in line))
        text.rstrip()
        console.print(text)


class Bars:
    """Progress bars on a terminal. Elsewhere no bar is drawn; commands print lines instead."""

    def __init__(self, console: Console) -> None:
        from rich import progress  # takes a tenth of the start-up time; few commands show bars

        news = [progress.TextColumn("{task.fields[news]}", markup=False)] if console.width >= _WIDTH_WITH_NEWS else []
        self.console = console
        self._next_move: dict[TaskID, float] = {}
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            _time_column(),
            *news,
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add_bar(self, description: str, total: int | None = None) -> TaskID:
        """Add a bar below the others."""
        return self._progress.add_task(description, total=total, news="")

    def update(
        self,
        bar: TaskID,
        *,
        completed: int | None = None,
        total: int | None = None,
        news: str | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """Move a bar, or replace the news beside it. `seconds_left` replaces the estimate from the bar's speed.

        On the way to `total`, a bar moves at most `_MOVES` times a second: a move takes as long as a small step.
        """
        now = monotonic()
        moves_only = news is None and total is not None and completed != total
        if not self.console.is_terminal or (moves_only and now < self._next_move.get(bar, 0.0)):
            return
        self._next_move[bar] = now + 1 / _MOVES
        given: dict[str, Any] = {"news": news, "seconds_left": seconds_left}
        fields = {name: value for name, value in given.items() if value is not None}
        self._progress.update(bar, completed=completed, total=total, **fields)


def _time_column() -> ProgressColumn:
    from rich.progress import Task, TimeRemainingColumn

    class TimeLeft(TimeRemainingColumn):
        """The time that is known to be left, or else the estimate from the bar's speed."""

        def render(self, task: Task) -> Text:
            known = task.fields.get("seconds_left")
            if known is None or task.finished:
                return super().render(task)
            return Text(str(timedelta(seconds=round(known))), style="progress.remaining")

    return TimeLeft()
