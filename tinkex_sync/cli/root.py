"""The top group ``tinkex-sync``, which contains all commands."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any, Dict, List, NoReturn, Optional, Sequence

import click

from .._version import __version__
from ..logs import LEVELS, one_line
from .groups import Command, Group
from .output import CommandError, Output, pass_output, visible_text

if TYPE_CHECKING:
    from ..plugins.registry import Observers

__all__ = ["root"]

_PROGRAM = "tinkex-sync"
#: Width of help text on a pipe or in a file, and its largest width on a terminal, in characters.
_HELP_WIDTH = 110

#: The built-in commands, and the modules that define them under these names. Each module is imported at first use.
_MODULES: Dict[str, str] = {
    "chat": "chat",
    "checkpoint": "checkpoints",
    "completion": "completion",
    "demo": "demo",
    "doctor": "doctor",
    "plugins": "plugin_list",
    "run": "runs",
    "sample": "sample",
    "serve": "serve",
    "session": "sessions",
    "train": "train",
}


class _StderrHandler(logging.Handler):
    """Writes log records to the present ``sys.stderr``, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(visible_text(self.format(record)), err=True)


class _ShortFormatter(logging.Formatter):
    """Formats a record as one line, which ends with the error. With debug messages it adds the traceback instead."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or _log_level() == logging.DEBUG:
            return super().format(record)
        record.message = record.getMessage()
        text = self.formatMessage(record)
        description = one_line(traceback.format_exception_only(type(error), error)[-1].strip())
        return text if description in text else f"{text}: {description}"


def _log_level() -> int:
    return LEVELS.get(os.environ.get("TINKER_LOG", "").lower(), logging.WARNING)


def _log_to_stderr() -> None:
    logger = logging.getLogger("tinkex_sync")
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_ShortFormatter("%(levelname)s: %(message)s"))
        # Instead of the library's, which does not know of progress bars.
        logger.handlers = [handler]
    # They are logged too.
    warnings.filterwarnings("ignore", "plugin ", RuntimeWarning)
    logger.setLevel(_log_level())


class Root(Group):
    """The built-in commands and those of plugins. Plugins are loaded only for a name that is not built in."""

    _plugins_loaded = False

    def add_command(self, cmd: click.Command, name: Optional[str] = None) -> None:
        """Add the command of a plugin.

        Raises:
            ValueError: There is a command of this name.
        """
        name = name or cmd.name or ""
        if name in self.commands or name in _MODULES:
            raise ValueError(f"there is already a command {name!r}; rename the command of the plugin")
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> List[str]:
        """Return the names of all commands, those of plugins included."""
        self.load_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """Return a command by its name, or None."""
        self._import(cmd_name)
        if cmd_name not in self.commands and not self._plugins_loaded:
            self.load_plugins()
        return super().get_command(ctx, cmd_name)

    def _import(self, name: str) -> None:
        if name in _MODULES and name not in self.commands:
            module = importlib.import_module(f".{_MODULES[name]}", __package__)
            super().add_command(getattr(module, name), name)

    def load_plugins(self) -> Optional[Observers]:
        """Load plugins and let them add their commands, once per process.

        Returns:
            The plugins, or None if they were loaded before.
        """
        if self._plugins_loaded:
            return None
        self._plugins_loaded = True
        # Help is printed before a command sets up logging, and a broken plugin must be reported there too.
        _log_to_stderr()
        from .plugin_list import load_observers

        for name in _MODULES:
            # A plugin may add commands to a built-in group.
            self._import(name)
        observers = load_observers()
        if observers.register_commands is not None:
            observers.register_commands(cli=self)
        return observers

    def main(
        self,
        args: Optional[Sequence[str]] = None,
        prog_name: Optional[str] = None,
        complete_var: Optional[str] = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run one command and exit. This method never returns, and ``standalone_mode`` has no effect."""
        if not sys.stdout.isatty():
            # click would otherwise wrap help text to COLUMNS, which describes the terminal, not the pipe.
            extra.setdefault("terminal_width", _HELP_WIDTH)
        try:
            code = super().main(args, prog_name or _PROGRAM, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort as abort:
            interrupted = isinstance(abort.__cause__ or abort.__context__, KeyboardInterrupt)
            click.echo("Interrupted." if interrupted else "Aborted.", err=True)
            code = 130 if interrupted else 1
        except Exception as error:
            from .error_text import describe_error

            title, details = describe_error(error)
            CommandError(title, *details).show()
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


@click.command(
    _PROGRAM,
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _HELP_WIDTH},
    epilog="TINKER_BASE_URL names the server ('local' is the embedded server), and TINKER_API_KEY is the API key.",
)
@click.option("--base-url", metavar="URL", help="URL of the server. 'local' starts the embedded server.")
@click.version_option(__version__, prog_name=_PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context, base_url: Optional[str]) -> None:
    """Fine-tune and sample over the Tinker API."""
    context.ensure_object(Output).base_url = base_url
    _log_to_stderr()


@root.command(cls=Command)
@pass_output
def version(output: Output) -> None:
    """Print the version."""
    if output.json:
        output.document({"version": __version__})
    else:
        click.echo(f"{_PROGRAM} {__version__}")
