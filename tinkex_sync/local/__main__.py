"""``python -m tinkex_sync.local``: the embedded server in the foreground."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import threading
from typing import Any, Dict, List, Optional

from ..errors import MissingExtraError
from .faults import Faults
from .options import ServerOptions
from .server_config import PROTOCOLS, ServerConfig, parse_client_config
from .serving import serve
from .strictness import LIKE

#: Seconds between two checks whether the parent process is alive.
PARENT_CHECK_INTERVAL = 1.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tinkex_sync.local", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=0, help="port to listen on (default: any free one)")
    add("--data", metavar="DIR", help="directory of checkpoints (default: a temporary directory)")
    add("--api-key", metavar="KEY", help="key that clients must send (default: none is required)")
    add("--model", metavar="NAME", action="append", default=[], help="another name for the tiny model; repeatable")
    add("--hold", type=float, default=45.0, metavar="SECONDS", help="longest hold of a poll (default: %(default)s)")
    add("--protocol", choices=PROTOCOLS, default="0.7", help="supported protocol (default: %(default)s)")
    add(
        "--client-config",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="value in the response of client/config that replaces the default, VALUE in JSON; repeatable",
    )
    add("--like", choices=sorted(LIKE), help="another server whose rules apply")
    add("--supervised", action="store_true", help=argparse.SUPPRESS)
    group = parser.add_argument_group(
        "faults", "Faults to inject; values are JSON, such as --fault-fail-first '{\"asample\": [500, 503]}'."
    )
    for field in dataclasses.fields(Faults):
        group.add_argument(f"--fault-{field.name.replace('_', '-')}", metavar="VALUE")
    return parser


def _parse_faults(arguments: argparse.Namespace) -> Faults:
    values = {}
    for field in dataclasses.fields(Faults):
        text = getattr(arguments, f"fault_{field.name}")
        if text is not None:
            try:
                values[field.name] = json.loads(text)
            except ValueError:
                values[field.name] = text
    return Faults(**values)


def _parse_options(arguments: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        host=arguments.host,
        port=arguments.port,
        data=arguments.data,
        api_key=arguments.api_key,
        models=tuple(arguments.model),
        hold=arguments.hold,
        like=arguments.like,
        faults=_parse_faults(arguments),
        config=ServerConfig(arguments.protocol, parse_client_config(arguments.client_config)),
    )


def main(arguments: Optional[List[str]] = None) -> int:
    """Serve until Ctrl-C.

    Args:
        arguments: The arguments of the command line. Default: those of this process.

    Returns:
        The exit status.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        if parsed.supervised:
            return _serve_supervised()
        serve(
            _parse_options(parsed),
            lambda base_url: print(f"tinkex_sync embedded server on {base_url} (Ctrl-C ends it)", flush=True),
        )
    except ValueError as error:
        parser.error(str(error))
    except (MissingExtraError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _serve_supervised() -> int:
    """Serve as a child process until the parent closes the pipe at stdin or ends. The pipe starts with the options."""
    # The terminal sends Ctrl-C to the child too, but the parent may still need the server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings: Dict[str, Any] = json.loads(sys.stdin.readline())
    options = ServerOptions.from_dict(settings["options"])
    stop = threading.Event()

    def watch_pipe() -> None:
        # os.read instead of sys.stdin: a daemon thread inside sys.stdin would abort the interpreter at exit.
        while os.read(0, 1):
            pass
        stop.set()

    def watch_parent() -> None:
        # A process that was forked from the parent holds the pipe open after the parent has ended.
        while not stop.wait(PARENT_CHECK_INTERVAL):
            if os.getppid() != settings["parent"]:
                stop.set()

    for watch in (watch_pipe, watch_parent):
        threading.Thread(target=watch, name=watch.__name__, daemon=True).start()
    try:
        serve(options, lambda base_url: print(json.dumps({"base_url": base_url}), flush=True), stop)
    finally:
        if settings["temporary"] and options.data is not None:
            shutil.rmtree(options.data, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
