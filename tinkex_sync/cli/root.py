"""The group of all commands."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Dict, List, NoReturn, Optional, Sequence

import click

from .._version import __version__
from .groups import Group
from .output import CommandError, Output

if TYPE_CHECKING:
    from ..plugins.registry import Observers

__all__ = ["root"]

PROGRAM = "tinkex-sync"
#: Width of help text on a pipe or in a file, and its largest width on a terminal, in characters.
_HELP_WIDTH = 110

#: Our commands, and the modules that hold them under these names; each is imported when it is asked for.
_MODULES: Dict[str, str] = {
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


class _Stderr(logging.Handler):
    """Log records on whatever stderr is at that moment; a live display may stand in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _log_to_stderr() -> None:
    wanted = os.environ.get("TINKER_LOG", "").lower()
    level = {"debug": logging.DEBUG, "info": logging.INFO}.get(wanted, logging.WARNING)
    logger = logging.getLogger("tinkex_sync")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)


class Root(Group):
    """Our commands, and those of plugins, which are loaded only when a command is not one of ours."""

    format_hidden = False
    _loaded = False

    def add_command(self, cmd: click.Command, name: Optional[str] = None) -> None:
        """Add a command; a plugin's may not have the name of one that is there.

        Raises:
            ValueError: the name is taken.
        """
        name = name or cmd.name or ""
        if name in self.commands or name in _MODULES:
            raise ValueError(f"there is a command {name!r} already; give the plugin's another name")
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> List[str]:
        self.load_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        self._import(cmd_name)
        if cmd_name not in self.commands and not self._loaded:
            self.load_plugins()
        return super().get_command(ctx, cmd_name)

    def _import(self, name: str) -> None:
        if name in _MODULES and name not in self.commands:
            module = importlib.import_module(f".{_MODULES[name]}", __package__)
            super().add_command(getattr(module, name), name)

    def load_plugins(self) -> Optional[Observers]:
        """Load plugins and let them add their commands, once per process."""
        if self._loaded:
            return None
        self._loaded = True
        # What is wrong with a plugin is said, also where only help is asked for.
        _log_to_stderr()
        from .plugin_list import observers as found

        for name in _MODULES:
            # A plugin may add to a group of ours.
            self._import(name)
        observers = found()
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
        """Run one command and exit. This method never returns; ``standalone_mode`` has no effect."""
        if not sys.stdout.isatty():
            # click would otherwise wrap help text to COLUMNS, which describes the terminal, not the pipe.
            extra.setdefault("terminal_width", _HELP_WIDTH)
        try:
            code = super().main(args, prog_name or PROGRAM, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort as abort:
            interrupted = isinstance(abort.__cause__ or abort.__context__, KeyboardInterrupt)
            click.echo("Interrupted." if interrupted else "Aborted.", err=True)
            code = 130 if interrupted else 1
        except Exception as error:
            from .error_text import explain

            title, details = explain(error)
            CommandError(title, *details).show()
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


@click.command(
    PROGRAM,
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _HELP_WIDTH},
    epilog="The server is the one TINKER_BASE_URL names ('local' is the embedded one); the key is TINKER_API_KEY.",
)
@click.option("--base-url", metavar="URL", help="Server to talk to; 'local' starts the embedded one.")
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context, base_url: Optional[str]) -> None:
    """Fine-tune and sample over the Tinker API."""
    context.ensure_object(Output).base_url = base_url
    _log_to_stderr()


@root.command()
def version() -> None:
    """Print the version."""
    click.echo(f"{PROGRAM} {__version__}")
