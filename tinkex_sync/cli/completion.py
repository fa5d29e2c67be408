"""``tinkex-sync completion``: what makes a shell complete our commands."""

from __future__ import annotations

import click

from .groups import Command

__all__ = ["completion"]

#: click's own scripts ask the program for words through this variable.
_VARIABLE = "_TINKEX_SYNC_COMPLETE"

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options.

    \b
    bash:  eval "$(tinkex-sync completion bash)"    in ~/.bashrc
    zsh:   eval "$(tinkex-sync completion zsh)"     in ~/.zshrc
    fish:  tinkex-sync completion fish | source     in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    top = context.find_root()
    found = get_completion_class(shell)
    assert found is not None, "click knows them all"
    click.echo(found(top.command, {}, top.info_name or "", _VARIABLE).source())
