"""The server as a child process that ends with its parent."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Dict, Mapping, Optional, Sequence, Type

from ..errors import MissingExtraError
from .announced import Announced
from .faults import Faults

__all__ = ["BLAS_THREADS", "LocalServer", "check_extra", "local_base_url"]

_log = logging.getLogger(__name__)

#: Environment variables by which the BLAS libraries numpy may come with learn how many threads to use.
BLAS_THREADS = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: Seconds a server gets to end on its own when it is closed.
CLOSE_TIMEOUT = 5.0


def check_extra() -> None:
    """Raises: MissingExtraError: something the server needs is not installed."""
    missing = [
        name for name in ("flask", "werkzeug", "numpy", "autograd") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise MissingExtraError(
            f'the embedded server needs {", ".join(missing)}: pip install "tinkex-sync[local]"'
        )


class LocalServer:
    """The embedded server in a child process; a context manager.

    Args:
        port: Port on 127.0.0.1; 0: any free one.
        data: Directory for checkpoints and all else that is to survive a restart. None: a temporary one,
            removed at the end.
        api_key: The key clients must send; None: none is needed.
        models: Names of base models to offer beside our own; the smallest model stands in for each.
        faults: What to do wrong.
        hold: Seconds for which a poll for a result is held at most.
        start_timeout: Seconds to wait for the server to come up.
        protocol: What it speaks: "0.7" (JSON), "0.38" (training requests as protobuf, and all that came with that) or
            "both"; the last two need the extra ``proto``.
        announce: What it says of itself in client/config and client/dynamic_config, by key of those replies, where
            that is to differ from ``announced.CONFIG`` and ``DYNAMIC``; it acts accordingly. None leaves a key out.
        token_life: Seconds for which a token is good (with ``pjwt_auth_enabled`` announced).
        metadata_above: A result of more bytes is first told by its size, to clients that ask for that.

    Raises:
        ValueError: there is no such protocol or key, or a value is out of range.

    The child ends when :meth:`close` is called and when this process ends, however it ends. In a forked
    child of this process :meth:`close` does nothing: the server is the parent's.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        data: Optional[str] = None,
        api_key: Optional[str] = None,
        models: Optional[Sequence[str]] = None,
        faults: Optional[Faults] = None,
        hold: float = 45.0,
        start_timeout: float = 60.0,
        protocol: str = "0.7",
        announce: Optional[Mapping[str, Any]] = None,
        token_life: float = 3600.0,
        metadata_above: int = 1_000_000,
    ) -> None:
        self._announced = Announced(protocol, dict(announce or {}), token_life, metadata_above)
        self._settings: Dict[str, Any] = {
            "port": port,
            "data": None if data is None else str(Path(data).resolve()),
            "api_key": api_key,
            "models": list(models or ()),
            "hold": hold,
            "faults": None if faults is None else faults.to_dict(),
            "protocol": protocol,
            "announce": dict(announce or {}),
            "token_life": token_life,
            "metadata_above": metadata_above,
        }
        self._api_key = api_key
        self._start_timeout = start_timeout
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._stderr: IO[bytes] = io.BytesIO()
        self._temporary: Optional[str] = None
        self._owner = os.getpid()
        self._base_url: Optional[str] = None

    @property
    def base_url(self) -> str:
        """Where it is, such as ``http://127.0.0.1:40123``.

        Raises:
            RuntimeError: It is not running.
        """
        if self._base_url is None:
            raise RuntimeError("the server is not running; call start() or use it in a with statement")
        return self._base_url

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended. In a forked child: whether the parent had it running."""
        if self._process is None:
            return False
        return os.getpid() != self._owner or self._process.poll() is None

    @property
    def pid(self) -> Optional[int]:
        """Process id of the server, None when it is not running."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def start(self) -> LocalServer:
        """Start the child and return when it serves requests. Does nothing if it was started before.

        Raises:
            MissingExtraError: flask, numpy or autograd is not installed, or protobuf and it is to be spoken.
            RuntimeError: It did not start; the text has what it wrote to stderr.
        """
        if self._process is not None:
            return self
        check_extra()
        self._announced.check_extra()
        package = Path(__file__).resolve().parents[1]
        environment = {**os.environ, **dict.fromkeys(BLAS_THREADS, "1")}
        if "PYTHONPATH" in environment:
            entries = environment["PYTHONPATH"].split(os.pathsep)
            environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).resolve()) for entry in entries)
        settings = {**self._settings, "parent": os.getpid(), "temporary": self._settings["data"] is None}
        if settings["temporary"]:
            # Made here and removed at both ends, since either process may be killed.
            settings["data"] = self._temporary = tempfile.mkdtemp(prefix="tinkex-local-")
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the server
        # From the directory of the package: "-m" puts the current one first on the path, and a user's own
        # may hold a types.py.
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}", "--supervised"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=str(package.parent),
            env=environment,
        )
        line = self._hand_over(process, settings)
        if not line:
            self._stop(process)
            raise RuntimeError(
                f"the embedded server did not start (exit status {process.returncode}):\n{_written(stderr)}"
            )
        self._process, self._stderr, self._owner = process, stderr, os.getpid()
        self._base_url = json.loads(line)["base_url"]
        return self

    def _hand_over(self, process: subprocess.Popen[bytes], settings: Dict[str, Any]) -> bytes:
        """Give the child its settings; its answer, or b"" if it ends without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        giving_up = threading.Timer(self._start_timeout, process.kill)
        giving_up.start()
        try:
            # The settings go through the pipe and not the command line, which others can read.
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            giving_up.cancel()

    def close(self) -> None:
        """End the child. May be called again, and before :meth:`start`."""
        process, self._process = self._process, None
        if process is None:
            return
        self._base_url = None
        if os.getpid() != self._owner:
            process.returncode = 0  # Not our child, so nothing to warn of when the object goes.
            return
        self._stop(process)
        complaints = _written(self._stderr)
        if complaints:
            _log.warning("the embedded server wrote:\n%s", complaints)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def stats(self) -> Dict[str, Any]:
        """What the server received and did so far; the keys are those of ``stats.Stats.snapshot``."""
        stats: Dict[str, Any] = self._control("/__stats")
        return stats

    def set_faults(self, faults: Faults) -> None:
        """Do these wrong from now on, and nothing else; counts start anew."""
        self._control("/__faults", faults.to_dict())

    def _control(self, path: str, body: Optional[Dict[str, Any]] = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base_url + path, data, {"Content-Type": "application/json"})
        if self._api_key is not None:
            request.add_header("X-API-Key", self._api_key)
        # No proxy is asked for the way to our own machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)


def _written(file: IO[bytes]) -> str:
    """What a child wrote to its stderr; the file is closed."""
    with file:
        file.seek(0)
        return file.read().decode(errors="replace").strip()


class _Shared:
    """The one server of this process behind ``base_url="local"``.

    Invariant: ``_starting`` is None, or whoever put it there starts the server and resolves it; a server that
    failed to start, or has died, is forgotten by whoever finds out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starting: Optional[Future[LocalServer]] = None  # guarded by _lock

    def base_url(self) -> str:
        while True:
            with self._lock:
                starting, mine = self._starting, Future[LocalServer]()
                if starting is None:
                    self._starting = mine
            if starting is None:
                return self._start(mine).base_url
            server = starting.result()
            if server.is_running:
                return server.base_url
            self._forget(starting)
            server.close()

    def _start(self, promise: Future[LocalServer]) -> LocalServer:
        try:
            server = LocalServer().start()
        except BaseException as error:
            self._forget(promise)
            promise.set_exception(error)
            raise
        atexit.register(server.close)
        promise.set_result(server)
        return server

    def _forget(self, promise: Future[LocalServer]) -> None:
        with self._lock:
            if self._starting is promise:
                self._starting = None

    def after_fork(self) -> None:
        # Another thread may have held the lock, or been starting the server, and is not in this process.
        self._lock = threading.Lock()
        if self._starting is not None and not self._starting.done():
            self._starting = None


_shared = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.after_fork)


def local_base_url() -> str:
    """Base URL of the embedded server of this process, which is started at the first call and ends with it.

    A forked child uses the server of its parent, which is there as long as the parent is.

    Raises:
        MissingExtraError: flask, numpy or autograd is not installed.
        RuntimeError: It did not start.
    """
    return _shared.base_url()
