"""What the commands print: results on stdout as a table or as JSON, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Iterable, Optional, Sequence

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..types.wire import Wire

__all__ = ["CommandError", "Output", "pass_output", "wire_fields"]

#: A width that no table reaches, in characters. Files and pipes have no width: COLUMNS is the terminal's.
_UNLIMITED = 1_000_000


class CommandError(click.ClickException):
    """An error to show as ``Error: title`` with further lines below it; exit status 1."""

    def __init__(self, title: str, *details: str) -> None:
        super().__init__(title)
        self.details = details

    def show(self, file: Optional[Any] = None) -> None:
        for line in (f"Error: {self.message}", *self.details):
            click.echo(line, err=True)


class Output:
    """How the present command prints."""

    def __init__(self) -> None:
        #: "table" or "json".
        self.format = "table"
        #: What ``--base-url`` said.
        self.base_url: Optional[str] = None

    @property
    def json(self) -> bool:
        """Whether only JSON may reach stdout."""
        return self.format == "json"

    def stdout(self) -> Console:
        """A console on stdout."""
        return _console()

    def stderr(self) -> Console:
        """A console on stderr."""
        return _console(stderr=True)

    def note(self, text: str) -> None:
        """Tell the user something that is not the result."""
        click.echo(text, err=True)

    def result(self, data: Any, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a command's result: ``data`` as JSON, or the table."""
        if self.json:
            click.echo(json.dumps(data, indent=2, default=str))
            return
        from rich.cells import cell_len
        from rich.table import Table

        # fold: ids and paths are copied from the table, so none of their characters may be left out.
        table = Table()
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console = self.stdout()
        if not console.file.isatty():
            natural_width = console.measure(table, options=console.options.update(width=_UNLIMITED)).maximum
            # Both are set, because rich ignores a width alone if TERM is "dumb".
            console.size = (natural_width, console.height)
        if cell_len(title) <= console.width:
            table.title = title
        else:
            console.print(title, soft_wrap=True)
        console.print(table)
        sys.stdout.flush()


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


pass_output = click.make_pass_decorator(Output, ensure=True)


def wire_fields(value: Wire) -> Any:
    """Return every field of a wire object as JSON values; times become text as ``str`` writes them."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, (list, tuple)):
            return [plain(item) for item in inner]
        if isinstance(inner, dict):
            return {key: plain(item) for key, item in inner.items()}
        return inner if inner is None or isinstance(inner, (bool, int, float, str)) else str(inner)

    return plain(value.model_dump())
