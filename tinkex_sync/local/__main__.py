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
from . import announced
from .faults import Faults
from .serving import serve

#: Seconds between two looks at whether the parent is still there.
PARENT_CHECK = 1.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tinkex_sync.local", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    parser.add_argument(
        "--data", metavar="DIR", help="keep checkpoints here (default: a temporary directory)"
    )
    parser.add_argument("--api-key", metavar="KEY", help="what clients must send (default: anything goes)")
    parser.add_argument(
        "--model",
        metavar="NAME",
        action="append",
        default=[],
        help="another name for the tiny model; repeatable",
    )
    parser.add_argument(
        "--hold",
        type=float,
        default=45.0,
        metavar="SECONDS",
        help="longest hold of a poll (default: %(default)s)",
    )
    parser.add_argument(
        "--protocol", choices=announced.PROTOCOLS, default="0.7", help="what is spoken (default: %(default)s)"
    )
    parser.add_argument(
        "--announce",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="what client/config says otherwise than usual, VALUE in JSON; repeatable",
    )
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    group = parser.add_argument_group(
        "faults", "What to do wrong; values are JSON, such as --fault-fail-first '{\"asample\": [500, 503]}'."
    )
    for field in dataclasses.fields(Faults):
        group.add_argument(f"--fault-{field.name.replace('_', '-')}", metavar="VALUE")
    return parser


def _faults(given: argparse.Namespace) -> Faults:
    values = {}
    for field in dataclasses.fields(Faults):
        text = getattr(given, f"fault_{field.name}")
        if text is not None:
            try:
                values[field.name] = json.loads(text)
            except ValueError:
                values[field.name] = text
    return Faults(**values)


def main(arguments: Optional[List[str]] = None) -> int:
    """Serve until Ctrl-C; the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        if given.supervised:
            return _supervised()
        faults = _faults(given)
        serve(
            host=given.host,
            port=given.port,
            data=given.data,
            api_key=given.api_key,
            models=given.model,
            hold=given.hold,
            faults=faults,
            protocol=given.protocol,
            announce=announced.parsed(given.announce),
            ready=lambda base_url: print(
                f"tinkex_sync embedded server on {base_url} (Ctrl-C ends it)", flush=True
            ),
        )
    except ValueError as error:
        parser.error(str(error))
    except (MissingExtraError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _supervised() -> int:
    """Serve for the process at the other end of stdin, which sends the settings, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may still need us.
    settings: Dict[str, Any] = json.loads(sys.stdin.readline())
    parent, faults, temporary = (settings.pop(name) for name in ("parent", "faults", "temporary"))
    stop = threading.Event()

    def watch_pipe() -> None:
        # Not through sys.stdin: a daemon thread inside it at exit would bring the interpreter down.
        while os.read(0, 1):
            pass
        stop.set()

    def watch_parent() -> None:
        # A child forked from the parent holds the pipe open after the parent has died.
        while not stop.wait(PARENT_CHECK):
            if os.getppid() != parent:
                stop.set()

    for watch in (watch_pipe, watch_parent):
        threading.Thread(target=watch, name=watch.__name__, daemon=True).start()
    try:
        serve(
            **settings,
            faults=None if faults is None else Faults.from_dict(faults),
            ready=lambda base_url: print(json.dumps({"base_url": base_url}), flush=True),
            stop=stop,
        )
    finally:
        if temporary:
            shutil.rmtree(settings["data"], ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
