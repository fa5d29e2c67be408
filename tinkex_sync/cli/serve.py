"""``tinkex-sync serve``: run the embedded server in the foreground."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, TypeVar

import click

from ..local import server_config
from ..local.faults import Faults
from ..local.options import ServerOptions
from .groups import Command
from .output import CommandError, Output, pass_output

__all__ = ["serve"]

F = TypeVar("F", bound=Callable[..., Any])

_FAULT = "fault_"


def _fault_options(command: F) -> F:
    """Add one option for each field of :class:`Faults`."""
    for field in reversed(dataclasses.fields(Faults)):
        option = click.option(f"--fault-{field.name.replace('_', '-')}", f"{_FAULT}{field.name}", metavar="VALUE")
        command = option(command)
    return command


def _faults_from_options(options: Mapping[str, Optional[str]]) -> Faults:
    """Build the faults from the values of the options, which are JSON or plain text."""
    values: Dict[str, Any] = {}
    for name, text in options.items():
        if text is not None:
            try:
                values[name[len(_FAULT) :]] = json.loads(text)
            except ValueError:
                values[name[len(_FAULT) :]] = text
    try:
        return Faults(**values)
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"--fault-...: {error}") from None


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on. 0 selects a free port.")
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Folder for checkpoints. Without it, they are deleted when the server ends.",
)
@click.option("--api-key", metavar="KEY", help="Key that clients must send. Without it, every key is accepted.")
@click.option("--model", "models", metavar="NAME", multiple=True, help="A further name of the tiny model. Repeatable.")
@click.option(
    "--hold",
    type=click.FloatRange(min=0),
    default=45.0,
    show_default=True,
    help="Longest time for which a long poll is held, in seconds.",
)
@click.option(
    "--protocol",
    type=click.Choice(server_config.PROTOCOLS),
    default="0.7",
    show_default=True,
    help="Protocol version: JSON (0.7), protobuf and its capabilities (0.38), or both.",
)
@click.option(
    "--client-config",
    metavar="NAME=VALUE",
    multiple=True,
    help="A changed value of the client/config response, such as pjwt_auth_enabled=true. Repeatable.",
)
@_fault_options
@pass_output
def serve(output: Output, /, host: str, port: int, data: Optional[str], api_key: Optional[str], **options: Any) -> None:
    """Run the embedded server until Ctrl-C.

    It prints its address when it is ready, with --format json as "base_url".

    A --fault option makes the server fail in a chosen way. Its VALUE is JSON, such as
    --fault-fail-first '{"asample": [500, 503]}'. tinkex_sync.local.Faults describes each of them.
    """
    from ..local.serving import serve as serve_until_interrupted

    models, hold, protocol = options.pop("models"), options.pop("hold"), options.pop("protocol")
    try:
        changes = server_config.parse_client_config(options.pop("client_config"))
        config = server_config.ServerConfig(protocol, changes)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    faults = _faults_from_options(options)
    if data is not None:
        _create_folder(Path(data))
    try:
        server_options = ServerOptions(host, port, data, api_key, models, hold, faults, config)
        serve_until_interrupted(server_options, lambda base_url: _print_usage(output, base_url, api_key is not None))
    except OSError as error:
        raise CommandError(f"cannot serve on {host} port {port}: {error}") from None


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"cannot create the folder of --data {folder}: {error.strerror}", "Give --data another folder."
        ) from None


def _print_usage(output: Output, base_url: str, has_key: bool) -> None:
    """Print the address of the running server, and how a client connects to it."""
    if output.json:
        output.document({"base_url": base_url, "needs_api_key": has_key})
        return
    click.echo(f"The embedded server listens on {base_url} (Ctrl-C ends it). To use it:")
    click.echo(f"  export TINKER_BASE_URL={base_url} TINKER_API_KEY={'KEY' if has_key else 'local'}")
    key = "..." if has_key else '"local"'
    click.echo(f'  ServiceClient(base_url="{base_url}", api_key={key})')
