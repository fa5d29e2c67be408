"""``tinkex-sync serve``: the embedded server in the foreground."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Callable, Optional, Tuple, TypeVar

import click

from ..local import server_config
from ..local.faults import Faults
from ..local.options import ServerOptions
from .groups import Command
from .output import CommandError

__all__ = ["serve"]

F = TypeVar("F", bound=Callable[..., Any])


def _fault_options(command: F) -> F:
    for field in reversed(dataclasses.fields(Faults)):
        option = click.option(
            f"--fault-{field.name.replace('_', '-')}", f"fault_{field.name}", metavar="VALUE"
        )
        command = option(command)
    return command


def _faults(given: Any) -> Faults:
    values = {}
    for name, text in given.items():
        if text is not None:
            try:
                values[name[len("fault_") :]] = json.loads(text)
            except ValueError:
                values[name[len("fault_") :]] = text
    try:
        return Faults(**values)
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"--fault-...: {error}") from None


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on; 0 takes a free one."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Keep checkpoints here; otherwise they end with the server.",
)
@click.option("--api-key", metavar="KEY", help="What clients must send; otherwise anything goes.")
@click.option(
    "--model", "models", metavar="NAME", multiple=True, help="Another name for the tiny model; repeatable."
)
@click.option(
    "--hold",
    type=click.FloatRange(min=0),
    default=45.0,
    show_default=True,
    help="Seconds for which a poll for a result is held at most.",
)
@click.option(
    "--protocol",
    type=click.Choice(server_config.PROTOCOLS),
    default="0.7",
    show_default=True,
    help="Supported protocol: JSON (0.7), protobuf and the other features of 0.38, or both.",
)
@click.option(
    "--client-config",
    metavar="NAME=VALUE",
    multiple=True,
    help="Value in the response of client/config that replaces the default, such as pjwt_auth_enabled=true; "
    "repeatable.",
)
@_fault_options
def serve(
    host: str,
    port: int,
    data: Optional[str],
    api_key: Optional[str],
    models: Tuple[str, ...],
    hold: float,
    protocol: str,
    client_config: Tuple[str, ...],
    **faults: Optional[str],
) -> None:
    """Run the embedded server until Ctrl-C.

    A --fault option makes it misbehave; its VALUE is JSON, such as
    --fault-fail-first '{"asample": [500, 503]}'. What each does stands at tinkex_sync.local.Faults.
    """
    from ..local.serving import serve as serve_until_interrupted

    def ready(base_url: str) -> None:
        click.echo(f"The embedded server listens on {base_url} (Ctrl-C ends it). To use it:")
        click.echo(f"  export TINKER_BASE_URL={base_url} TINKER_API_KEY={'KEY' if api_key else 'local'}")
        click.echo(
            f'  ServiceClient(base_url="{base_url}", api_key={"..." if api_key else chr(34) + "local" + chr(34)})'
        )

    try:
        config = server_config.ServerConfig(protocol, server_config.parse_client_config(client_config))
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    try:
        options = ServerOptions(host, port, data, api_key, models, hold, _faults(faults), config)
        serve_until_interrupted(options, ready)
    except OSError as error:
        raise CommandError(f"cannot serve on {host} port {port}: {error}") from None
