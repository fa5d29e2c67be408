"""``tinkex-sync plugins``: list the plugins that were found, with their status."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Dict, List

import click

from .groups import Command
from .output import Output, pass_output, visible_text

if TYPE_CHECKING:
    from ..plugins import Observers, PluginStatus

__all__ = ["load_observers", "plugins"]


def load_observers() -> Observers:
    """Load the plugins that a service client of this process would load."""
    from ..concurrency.clock import Clock
    from ..plugins.queue_log import QueueLog
    from ..plugins.registry import Observers

    return Observers(builtin=(QueueLog(Clock()),))


def _json_row(status: PluginStatus) -> Dict[str, Any]:
    row = dataclasses.asdict(dataclasses.replace(status, errors={}))
    return {**row, "errors": dict(status.errors)}


def _problems(status: PluginStatus) -> List[str]:
    unknown = [f"unknown hook {hook}" for hook in status.unknown_hooks]
    return [*([status.error] if status.error else []), *unknown]


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@pass_output
def plugins(output: Output, as_json: bool) -> None:
    """List plugins with their origin, status and hooks.

    The exit status is 1 if a plugin has the status failed or invalid.
    """
    if as_json:
        output.format = "json"
    observers = load_observers()
    try:
        found = observers.report()
    finally:
        observers.close()
    output.result(
        {"plugins": [_json_row(status) for status in found]},
        f"{len(found)} plugin{'' if len(found) == 1 else 's'}",
        ("Name", "Distribution", "Version", "Origin", "Status", "Hooks"),
        [
            (
                status.name,
                status.distribution or "-",
                status.version or "-",
                status.origin,
                status.status,
                # One below the other: a plugin may have twenty hooks.
                "\n".join(status.hooks) or "-",
            )
            for status in found
        ],
    )
    if not output.json:
        # Not in the table, whose columns would be as wide as the longest reason.
        for status in found:
            for problem in _problems(status):
                click.echo(visible_text(f"{status.name}: {problem}"))
    if any(status.status in ("failed", "invalid") for status in found):
        click.get_current_context().exit(1)
