"""Print results on standard output as a table or as JSON, and everything else on standard error."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any, Iterable, Optional, Sequence
from urllib.parse import urlsplit, urlunsplit

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..types.wire import Wire

__all__ = ["CommandError", "Output", "pass_output", "visible_text", "wire_fields", "without_secrets"]

#: A width that no table reaches, in characters. Files and pipes have no width: COLUMNS is the terminal's.
_UNLIMITED = 1_000_000
#: Control characters but line feed and tab, bidirectional overrides, and lone surrogates.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class CommandError(click.ClickException):
    """An error that is printed as ``Error: title`` with further lines below it. The exit status is 1."""

    def __init__(self, title: str, *details: str) -> None:
        super().__init__(title)
        self.details = details

    def show(self, file: Optional[Any] = None) -> None:
        """Print the error on standard error. ``file`` has no effect."""
        for line in (f"Error: {self.message}", *self.details):
            click.echo(visible_text(line), err=True)


class Output:
    """The options that all commands share, and the methods that print. It is used by the main thread."""

    def __init__(self) -> None:
        #: "table" or "json".
        self.format = "table"
        #: The value of ``--base-url``, or None.
        self.base_url: Optional[str] = None

    @property
    def json(self) -> bool:
        """Whether standard output is one JSON document."""
        return self.format == "json"

    def stdout(self) -> Console:
        """Return a console that writes to standard output."""
        return _console()

    def stderr(self) -> Console:
        """Return a console that writes to standard error."""
        return _console(stderr=True)

    def note(self, text: str) -> None:
        """Print a message that is not part of the result, on standard error."""
        click.echo(visible_text(text), err=True)

    def document(self, data: Any) -> None:
        """Print the only JSON document of a command on standard output."""
        click.echo(json.dumps(data, indent=2, default=str))
        sys.stdout.flush()

    def next_command(self, *words: str) -> None:
        """Print the next command to try on standard error.

        Args:
            words: Its words after ``tinkex-sync`` and the server of this command.
        """
        self.note(f"Next, try: {self.command_line(*words)}")

    def command_line(self, *words: str) -> str:
        """Return a command as text for a shell, with the server of this command."""
        server = ["--base-url", without_secrets(self.base_url)] if self.base_url else []
        return " ".join(shlex.quote(word) for word in ("tinkex-sync", *server, *words))

    def result(self, data: Any, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print the result of a command on standard output.

        Args:
            data: The result as JSON values. It is printed with ``--format json``.
            title: The title of the table.
            columns: The names of the columns.
            rows: The cells of each row. On a terminal they are folded to its width; elsewhere they are complete.
        """
        if self.json:
            self.document(data)
            return
        from rich.cells import cell_len
        from rich.table import Table

        # fold: ids and paths are copied from the table, so none of their characters may be left out.
        table = Table()
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(visible_text, row))
        console = self.stdout()
        if not console.file.isatty():
            natural_width = console.measure(table, options=console.options.update(width=_UNLIMITED)).maximum
            # Both are set, because rich ignores a width alone if TERM is "dumb".
            console.size = (natural_width, console.height)
        title = visible_text(title)
        if cell_len(title) <= console.width:
            table.title = title
        else:
            console.print(title, soft_wrap=True)
        console.print(table)
        sys.stdout.flush()


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment, which may contain secrets."""
    scheme, netloc, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, netloc.rpartition("@")[2], path, "", ""))


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


pass_output = click.make_pass_decorator(Output, ensure=True)


def visible_text(text: str) -> str:
    r"""Replace control characters and bidirectional overrides by escapes such as ``\x1b``.

    Names and error texts come from servers, and a terminal would execute control sequences in them. Line feeds and
    tabs are kept.
    """
    return _INVISIBLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def wire_fields(value: Wire) -> Any:
    """Return every field of a wire object as JSON values. Times become text in the form of ``str``."""

    def json_value(inner: Any) -> Any:
        if isinstance(inner, (list, tuple)):
            return [json_value(item) for item in inner]
        if isinstance(inner, dict):
            return {key: json_value(item) for key, item in inner.items()}
        return inner if inner is None or isinstance(inner, (bool, int, float, str)) else str(inner)

    return json_value(value.model_dump())
