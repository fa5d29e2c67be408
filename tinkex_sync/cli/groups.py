"""Commands and groups of ours: ``--format`` anywhere, help when nothing is asked for."""

from __future__ import annotations

from typing import Any, List, Optional

import click

from .output import Output

__all__ = ["Command", "Group"]


def _set_format(context: click.Context, _: click.Parameter, value: Optional[str]) -> None:
    if value is not None:
        context.ensure_object(Output).format = value


def format_option(hidden: bool) -> click.Option:
    """``-f/--format``; before the command or, unlisted in its help, after it."""
    return click.Option(
        ["-f", "--format", "format"],
        type=click.Choice(["table", "json"]),
        expose_value=False,
        callback=_set_format,
        hidden=hidden,
        help="How results are printed (default: table); json is all that reaches stdout.",
    )


class Command(click.Command):
    """A command that takes ``--format`` after its name too."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(format_option(hidden=True))


class Group(click.Group):
    """A group that prints its help to stderr, with exit status 2, when nothing is asked of it."""

    command_class = Command
    group_class = type
    #: Whether ``--format`` is left out of its help.
    format_hidden = True

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{**settings, "no_args_is_help": False})
        self.params.append(format_option(hidden=self.format_hidden))

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        # click's own way of doing this changed its exit status and its stream between 8.1 and 8.2.
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)
