"""Base classes of commands and groups: ``--format`` in every position, and help for a group without a command."""

from __future__ import annotations

from typing import Any, List, Optional

import click

from .output import Output

__all__ = ["FORMAT_HELP", "Command", "Group"]

#: The meaning of ``--format``, which is the same in all commands.
FORMAT_HELP = "Format of the result (default: table). With json, standard output is one JSON document and nothing else."


def _set_format(context: click.Context, _: click.Parameter, value: Optional[str]) -> None:
    if value is not None:
        context.ensure_object(Output).format = value


def _format_option() -> click.Option:
    return click.Option(
        ["-f", "--format", "format"],
        type=click.Choice(["table", "json"]),
        expose_value=False,
        callback=_set_format,
        help=FORMAT_HELP,
    )


class Command(click.Command):
    """A command that accepts ``--format`` after its name."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(_format_option())


class Group(click.Group):
    """A group that accepts ``--format``. Without a command it prints its help to standard error, with exit status 2."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{**settings, "no_args_is_help": False})
        self.params.append(_format_option())

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        """Parse arguments, or print the help if there are none."""
        # click changed the exit status and the stream of no_args_is_help between 8.1 and 8.2.
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)
