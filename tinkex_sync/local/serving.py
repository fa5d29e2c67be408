"""Running the server in this process until it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Callable, Optional

from .browser_protection import is_wildcard
from .directory_lock import DirectoryLock
from .options import ServerOptions
from .process import BLAS_THREADS, check_extra

__all__ = ["serve"]


def serve(
    options: ServerOptions,
    on_ready: Callable[[str], None] = lambda base_url: None,
    stop: Optional[threading.Event] = None,
) -> None:
    """Serve in the foreground. Return after Ctrl-C, after SIGTERM, or when ``stop`` is set.

    Args:
        options: The options of the server.
        on_ready: Called with the base URL when the server accepts requests.
        stop: An event that stops the server.

    Raises:
        MissingExtraError: flask, numpy, autograd or, for protocol 0.38.0, protobuf is not installed.
        OSError: The port or the directory cannot be used.
        ValueError: The port or the hold is out of range.
    """
    options.check()
    check_extra()
    options.config.check_extra()
    # One BLAS thread: equal inputs give equal bits. It must be set before numpy is imported.
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    root = Path(tempfile.mkdtemp(prefix="tinkex-local-") if options.data is None else options.data)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with DirectoryLock(root):
            _serve_in(root, options, on_ready, stop or threading.Event())
    finally:
        if options.data is None:
            shutil.rmtree(root, ignore_errors=True)


def _serve_in(root: Path, options: ServerOptions, on_ready: Callable[[str], None], stop: threading.Event) -> None:
    from .app import create_app
    from .http_server import Server
    from .state import ServerState

    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family, backlog=1024) as listening:
        base_url = f"http://{_url_host(options.host)}:{listening.getsockname()[1]}"
        state = ServerState.create(options, root, None if is_wildcard(options.host) else base_url)
        server = Server((options.host, options.port), create_app(state), state.stats, listening.fileno())
    threading.Thread(target=server.serve_forever, args=(0.1,), name="accept", daemon=True).start()
    cleaning = (state.closing,)
    threading.Thread(target=state.retention.run, args=cleaning, name="retention", daemon=True).start()
    try:
        _wait_for_stop(stop, lambda: on_ready(base_url))
    finally:
        state.close()
        server.shutdown()
        state.models.save_records()


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wait_for_stop(stop: threading.Event, on_ready: Callable[[], None]) -> None:
    """Return when ``stop`` is set, after Ctrl-C or, in the main thread, after SIGTERM."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set()) if is_main_thread else None
    try:
        on_ready()
        stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if is_main_thread:
            signal.signal(signal.SIGTERM, previous)
