"""The server as a child process that ends with its parent process."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
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
from ..logs import get_logger
from .faults import Faults
from .options import ServerOptions
from .server_config import ServerConfig

__all__ = ["BLAS_THREADS", "LocalServer", "check_extra", "local_base_url"]

_log = get_logger(__name__)

#: Environment variables that set the number of threads of the BLAS libraries that numpy may use.
BLAS_THREADS = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: Seconds after which a closed server that has not ended is killed.
CLOSE_TIMEOUT = 5.0


def check_extra() -> None:
    """Check that the libraries of the server are installed.

    Raises:
        MissingExtraError: A library is not installed.
    """
    missing = [name for name in ("flask", "werkzeug", "numpy", "autograd") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f'the embedded server needs {", ".join(missing)}: pip install "tinkex-sync[local]"')


class LocalServer:
    """The embedded server in a child process. A context manager.

    The child process ends when :meth:`close` is called and when this process ends, even if it is killed. In a forked
    child of this process :meth:`close` does nothing, because the server belongs to the parent. :meth:`start` and
    :meth:`close` must not run concurrently. The other methods are thread-safe.

    Args:
        port: Port on 127.0.0.1. 0: any free port.
        data: Directory of checkpoints and of other data that must survive a restart. None: a temporary directory,
            which is removed when the server ends.
        api_key: The key that clients must send. None: no key is required.
        models: Further names of base models. The smallest model replaces each of them.
        faults: The faults to inject. None: no faults.
        hold: Seconds for which a poll for a result is held at most.
        start_timeout: Seconds to wait until the server accepts requests.
        protocol: "0.7": training requests are JSON. "0.38": they are protobuf, and the other features of protocol
            0.38.0 are available. "both": both. The last two need the extra ``proto``.
        client_config: Values of the responses of client/config and client/dynamic_config that replace the defaults in
            ``server_config.CLIENT_CONFIG`` and ``DYNAMIC_CONFIG``. The server acts accordingly. None omits a key.
        token_lifetime: Seconds for which a token is valid, if ``client_config`` enables ``pjwt_auth_enabled``.
        metadata_threshold: If a result has more bytes, a poll with ``allow_metadata_only`` returns its size first.
        session_lifetime: Seconds without a request or a heartbeat after which the models of a session are unloaded,
            and its samplers without a name are deleted.
        like: "tuft" or "skyrl": apply the rules of this server, which :mod:`tinkex_sync.local.strictness` lists.

    Raises:
        ValueError: The protocol, the server in ``like`` or a key of ``client_config`` does not exist, or a value is out
            of range.
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
        client_config: Optional[Mapping[str, Any]] = None,
        token_lifetime: float = 3600.0,
        metadata_threshold: int = 1_000_000,
        session_lifetime: float = 3600.0,
        like: Optional[str] = None,
    ) -> None:
        self._options = ServerOptions(
            port=port,
            data=None if data is None else str(Path(data).resolve()),
            api_key=api_key,
            models=tuple(models or ()),
            hold=hold,
            session_lifetime=session_lifetime,
            like=like,
            faults=faults or Faults(),
            config=ServerConfig(protocol, dict(client_config or {}), token_lifetime, metadata_threshold),
        )
        self._options.check()
        self._start_timeout = start_timeout
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._stderr: IO[bytes] = io.BytesIO()
        self._temporary: Optional[str] = None
        self._owner = os.getpid()
        self._base_url: Optional[str] = None

    @property
    def base_url(self) -> str:
        """The base URL of the server, such as ``http://127.0.0.1:40123``.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._base_url is None:
            raise RuntimeError("the server is not running; call start() or use it in a with statement")
        return self._base_url

    @property
    def is_running(self) -> bool:
        """Whether the server was started and has not ended. In a forked child: whether it ran in the parent."""
        if self._process is None:
            return False
        return os.getpid() != self._owner or self._process.poll() is None

    @property
    def pid(self) -> Optional[int]:
        """The process id of the server, or None if it is not running."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        self.close()

    def start(self) -> LocalServer:
        """Start the child process, and return when it accepts requests. Do nothing if it is running.

        Returns:
            The server.

        Raises:
            MissingExtraError: flask, numpy, autograd or, for protocol 0.38.0, protobuf is not installed.
            RuntimeError: The server did not start. The message contains the output on stderr.
        """
        if self._process is not None:
            return self
        check_extra()
        self._options.config.check_extra()
        settings = self._child_settings()
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the server
        # In the directory of the package: "-m" puts the current directory first on the path, and a directory of the
        # user may contain a module such as types.py.
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}", "--supervised"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=str(Path(__file__).resolve().parents[2]),
            env=_child_environment(),
        )
        line = self._send(process, settings)
        if not line:
            self._stop(process)
            raise RuntimeError(
                f"the embedded server did not start (exit status {process.returncode}):\n{_read_and_close(stderr)}"
            )
        self._process, self._stderr, self._owner = process, stderr, os.getpid()
        self._base_url = json.loads(line)["base_url"]
        return self

    def _child_settings(self) -> Dict[str, Any]:
        options = self._options.to_dict()
        if options["data"] is None:
            # This process creates the directory, and both processes remove it, because either may be killed.
            options["data"] = self._temporary = tempfile.mkdtemp(prefix="tinkex-local-")
        return {"options": options, "parent": os.getpid(), "temporary": self._options.data is None}

    def _send(self, process: subprocess.Popen[bytes], settings: Dict[str, Any]) -> bytes:
        """Send the settings to the child. Return the line that it prints, or b"" if it ends without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(self._start_timeout, process.kill)
        timer.start()
        try:
            # Through the pipe instead of the command line, because other users can read command lines.
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the child process. The method is idempotent, and may be called before :meth:`start`."""
        process, self._process = self._process, None
        if process is None:
            return
        self._base_url = None
        if os.getpid() != self._owner:
            # The process is not a child of this one, so its destructor must not warn that it is still running.
            process.returncode = 0
            return
        self._stop(process)
        output = _read_and_close(self._stderr)
        if output:
            _log.warning("the embedded server wrote to stderr:\n%s", output)

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
        """Return the counters of the server. The keys are those of ``stats.Stats.snapshot``."""
        stats: Dict[str, Any] = self._control("/__stats")
        return stats

    def set_faults(self, faults: Faults) -> None:
        """Replace the injected faults. All their counters restart."""
        self._control("/__faults", faults.to_dict())

    def _control(self, path: str, body: Optional[Dict[str, Any]] = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base_url + path, data, {"Content-Type": "application/json"})
        if self._options.api_key is not None:
            request.add_header("X-API-Key", self._options.api_key)
        # Without a proxy, because the server listens on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            return json.load(response)


def _child_environment() -> Dict[str, str]:
    environment = {**os.environ, **dict.fromkeys(BLAS_THREADS, "1")}
    if "PYTHONPATH" in environment:
        # The child has another working directory, so relative entries must become absolute.
        entries = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).resolve()) for entry in entries)
    return environment


def _read_and_close(file: IO[bytes]) -> str:
    """Return the stripped text of a file, and close it."""
    with file:
        file.seek(0)
        return file.read().decode(errors="replace").strip()


class _SharedServer:
    """The server of this process behind ``base_url="local"``. Thread-safe.

    Invariant: ``_starting`` is None, or the thread that set it starts the server and resolves the future. The thread
    that finds that a server failed to start or has ended resets ``_starting``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starting: Optional[Future[LocalServer]] = None  # guarded by _lock

    def base_url(self) -> str:
        """Return the base URL. Start the server if it is not running."""
        return self.server().base_url

    def server(self) -> LocalServer:
        """Return the running server. Start it if it is not running."""
        while True:
            with self._lock:
                starting, own = self._starting, Future[LocalServer]()
                if starting is None:
                    self._starting = own
            if starting is None:
                return self._start(own)
            server = starting.result()
            if server.is_running:
                return server
            self._reset(starting)
            server.close()

    def _start(self, future: Future[LocalServer]) -> LocalServer:
        try:
            server = LocalServer().start()
        except BaseException as error:
            self._reset(future)
            future.set_exception(error)
            raise
        atexit.register(server.close)
        future.set_result(server)
        return server

    def _reset(self, future: Future[LocalServer]) -> None:
        with self._lock:
            if self._starting is future:
                self._starting = None

    def after_fork(self) -> None:
        """Make the object usable in a forked child."""
        # A thread that held the lock, or was starting the server, exists in the parent only.
        self._lock = threading.Lock()
        if self._starting is not None and not self._starting.done():
            self._starting = None


#: The server of this process behind ``base_url="local"``.
shared_server = _SharedServer()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared_server.after_fork)


def local_base_url() -> str:
    """Return the base URL of the embedded server of this process.

    The first call starts the server. It ends with this process. A forked child uses the server of its parent.

    Returns:
        The base URL.

    Raises:
        MissingExtraError: flask, numpy or autograd is not installed.
        RuntimeError: The server did not start.
    """
    return shared_server.base_url()
