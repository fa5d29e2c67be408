"""The command ``tinkex-sync dashboard``, which shows recorded runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Tuple

import click

from tinkex_sync import hookimpl

from .recordings import replay
from .runs import Runs
from .server import DashboardServer


@hookimpl
def tinkex_register_commands(cli: click.Group) -> None:
    """Add the command."""
    cli.add_command(dashboard)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--port", default=0, show_default="a free one", type=click.IntRange(0, 65535), help="Port on 127.0.0.1.")
@click.option("--speed", default=0.0, type=click.FloatRange(0), help="Replay at this multiple of the run's speed.")
@click.option("--open/--no-open", "opens", default=False, help="Open the page in the default browser.")
def dashboard(files: Tuple[Path, ...], port: int, speed: float, opens: bool) -> None:
    """Show runs that tinkex-sync-jsonl recorded in FILES, and follow the files. Ctrl+C ends it."""
    runs, stop = Runs(), threading.Event()
    try:
        server = DashboardServer(runs, port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on port {port}: {error}") from error
    for file in files:
        threading.Thread(target=replay, args=(file, runs, stop, speed), daemon=True).start()
    click.echo(server.url)
    if opens:
        click.launch(server.url)
    try:
        stop.wait()
    except KeyboardInterrupt:
        stop.set()
    finally:
        server.close()
