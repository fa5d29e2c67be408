"""``tinkex-sync plugins``: what was found, and what came of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Dict

import click

from .groups import Command
from .output import Output, pass_output

if TYPE_CHECKING:
    from ..plugins.registry import Observers, PluginStatus

__all__ = ["observers", "plugins"]


def observers() -> Observers:
    """The plugins a service client of this process would load."""
    from ..concurrency.clock import Clock
    from ..plugins.queue_log import QueueLog
    from ..plugins.registry import Observers

    return Observers(builtin=(QueueLog(Clock()),))


def _row(status: PluginStatus) -> Dict[str, Any]:
    row = dataclasses.asdict(dataclasses.replace(status, errors={}))
    return {**row, "errors": dict(status.errors)}


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@pass_output
def plugins(output: Output, as_json: bool) -> None:
    """List plugins: where they come from, whether they work, what they observe."""
    if as_json:
        output.format = "json"
    found = observers()
    try:
        rows = found.report()
    finally:
        found.close()
    output.result(
        {"plugins": [_row(status) for status in rows]},
        f"{len(rows)} plugin{'' if len(rows) == 1 else 's'}",
        ("Name", "Distribution", "Version", "Origin", "Status", "Hooks", "Trouble"),
        [
            (
                status.name,
                status.distribution or "-",
                status.version or "-",
                status.origin,
                status.status,
                ", ".join(status.hooks) or "-",
                "; ".join(
                    [status.error] * bool(status.error)
                    + [f"unknown hook {hook}" for hook in status.unknown_hooks]
                )
                or "-",
            )
            for status in rows
        ],
    )
