"""What a person sees in a terminal; plain lines when the output is piped."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")


def console() -> Console:
    """Standard output. Wide when piped, so that no line of a table is broken."""
    out = Console(highlight=False, markup=False, emoji=False)  # ids and labels are not markup
    if not out.is_terminal:
        out.width = 160
    return out


def progress_bar(out: Console) -> Progress:
    """A bar that disappears when it is done, and is not drawn at all when the output is piped."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Iterate, with a progress bar, over what has a length."""
    with progress_bar(console()) as bar:
        yield from bar.track(items, description=label)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], footer: Sequence[object] = ()) -> None:
    """Print a table; numbers are set to the right."""
    grid, filled, out = Table(show_footer=bool(footer)), [tuple(row) for row in rows], console()
    for position, column in enumerate(columns):
        numeric = bool(filled) and all(isinstance(row[position], int | float) for row in filled)
        last = _text(footer[position]) if footer else ""
        grid.add_column(column, justify="right" if numeric else "left", footer=last, overflow="fold")
    for row in filled:
        grid.add_row(*map(_text, row))
    if title:  # above the grid, because a title inside it is folded to the grid's width
        out.print(title, style="bold", soft_wrap=True)
    out.print(grid)


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
