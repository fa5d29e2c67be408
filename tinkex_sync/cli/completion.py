"""``tinkex-sync completion``: print the script with which a shell completes commands and options."""

from __future__ import annotations

import click

from .groups import Command
from .output import Output, pass_output

__all__ = ["completion"]

#: The environment variable through which click's scripts request completions from the program.
_VARIABLE = "_TINKEX_SYNC_COMPLETE"

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(_SHELLS))
@pass_output
@click.pass_context
def completion(context: click.Context, output: Output, shell: str) -> None:
    """Print a script that completes commands and options.

    \b
    bash:  eval "$(tinkex-sync completion bash)"    in ~/.bashrc
    zsh:   eval "$(tinkex-sync completion zsh)"     in ~/.zshrc
    fish:  tinkex-sync completion fish | source     in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    root_context = context.find_root()
    completion_class = get_completion_class(shell)
    assert completion_class is not None, "click supports all shells of _SHELLS"
    script = completion_class(root_context.command, {}, root_context.info_name or "", _VARIABLE).source()
    if output.json:
        output.document({"shell": shell, "script": script})
    else:
        click.echo(script)
