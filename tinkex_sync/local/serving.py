"""Running the server in this process, until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from ..concurrency.clock import Clock
from .announced import Announced
from .faults import FaultGate, Faults
from .process import BLAS_THREADS, check_extra

__all__ = ["serve"]


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    data: Optional[str] = None,
    api_key: Optional[str] = None,
    models: Sequence[str] = (),
    hold: float = 45.0,
    faults: Optional[Faults] = None,
    protocol: str = "0.7",
    announce: Optional[Mapping[str, Any]] = None,
    token_life: float = 3600.0,
    metadata_above: int = 1_000_000,
    ready: Callable[[str], None] = lambda base_url: None,
    stop: Optional[threading.Event] = None,
) -> None:
    """Serve in the foreground; return on Ctrl-C, SIGTERM, or when ``stop`` is set.

    Args:
        port: 0: any free one.
        data: Directory for checkpoints and everything else that is to survive a restart, made if it is not
            there. None: a temporary one, removed at the end.
        api_key: The key clients must send; None: none is needed.
        models: Names of base models to offer beside our own; the smallest model stands in for each.
        hold: Seconds for which a poll for a result is held at most.
        faults: What to do wrong.
        protocol: "0.7", "0.38" or "both".
        announce: Keys of the replies of client/config and client/dynamic_config that are to differ from
            ``announced.CONFIG`` and ``DYNAMIC``; None leaves a key out.
        token_life: Seconds for which a token is good.
        metadata_above: A result of more bytes is first told by its size, to clients that ask for that.
        ready: Called with the base URL once requests are served.

    Raises:
        MissingExtraError: flask, numpy or autograd is not installed, or protobuf and it is to be spoken.
        OSError: The port or the directory cannot be used.
        ValueError: ``port``, ``hold`` or something of the protocol is out of range.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    if not hold >= 0:
        raise ValueError(f"hold must be seconds, 0 or more, not {hold}")
    check_extra()
    announced = Announced(protocol, dict(announce or {}), token_life, metadata_above)
    announced.check_extra()
    # One BLAS thread: the same inputs give the same bits. Only works before numpy is first imported.
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    from .api import Api
    from .app import create_app
    from .completions import Completions
    from .engine import EngineError
    from .models import Models
    from .modern import Modern
    from .operations import Promises, Runner
    from .rest import Rest
    from .stats import Stats
    from .store import Store
    from .wsgi import Server

    clock, stats, closing = Clock(), Stats(), threading.Event()
    gate = FaultGate(faults or Faults(), clock)
    root = Path(tempfile.mkdtemp(prefix="tinkex-local-") if data is None else data)
    root.mkdir(parents=True, exist_ok=True)
    store = Store(root)
    live = Models(store, stats, models, ordered=announced.ordered)
    promises = Promises(gate, stats, clock)
    completions = Completions(clock)
    runner = Runner(promises, gate, (EngineError,))
    api = Api(store, live, promises, runner, gate, stats, announced, completions)
    app = create_app(
        api=api,
        modern=Modern(api, store, live, promises, completions, stats, hold),
        rest=Rest(store, live),
        models=live,
        gate=gate,
        stats=stats,
        announced=announced,
        api_key=api_key,
        hold=hold,
        clock=clock,
        closing=closing,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family, backlog=1024) as listening:
            server = Server(host, port, app, stats, listening.fileno())
        threading.Thread(target=server.serve_forever, args=(0.1,), name="accept", daemon=True).start()
        try:
            _until(stop or threading.Event(), lambda: ready(f"http://{_quoted(host)}:{server.port}"))
        finally:
            closing.set()
            promises.wake(close=True)
            completions.close()
            server.shutdown()
            live.keep()
    finally:
        if data is None:
            store.remove()


def _quoted(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _until(stop: threading.Event, ready: Callable[[], None]) -> None:
    """Return when ``stop`` is set, at Ctrl-C or, in the main thread, at SIGTERM."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set()) if here else None
    try:
        ready()
        stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
