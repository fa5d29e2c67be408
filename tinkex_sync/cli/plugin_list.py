"""``tinkex-sync plugins``: list the plugins that were found, with their status."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Dict

import click

from .groups import Command
from .output import Output, pass_output

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


def _problems(status: PluginStatus) -> str:
    unknown = [f"unknown hook {hook}" for hook in status.unknown_hooks]
    return "; ".join([*([status.error] if status.error else []), *unknown])


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
        ("Name", "Distribution", "Version", "Origin", "Status", "Hooks", "Problems"),
        [
            (
                status.name,
                status.distribution or "-",
                status.version or "-",
                status.origin,
                status.status,
                ", ".join(status.hooks) or "-",
                _problems(status) or "-",
            )
            for status in found
        ],
    )
    if any(status.status in ("failed", "invalid") for status in found):
        click.get_current_context().exit(1)
