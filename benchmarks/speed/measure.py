"""The stub server as a child process, and a meter of time, memory and threads of this process."""

from __future__ import annotations

import http.client
import json
import os
import resource
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Optional

FOLDER = Path(__file__).resolve().parent.parent
#: Names the Python of the stub server, and the folder with its certificate.
SERVER_PYTHON, CERTIFICATE = "BENCH_SERVER_PYTHON", "BENCH_CERTIFICATE"


class Stub:
    """A stub server, which ends with the ``with`` block. ``settings``: see `speed/stub.py`; ``tls``: bool."""

    def __init__(self, tls: bool = False, **settings: Any) -> None:
        folder = os.environ.get(CERTIFICATE, "")
        if tls:
            settings["folder"] = folder
        self._context: Optional[ssl.SSLContext] = None
        if tls:
            self._context = ssl.create_default_context(cafile=str(Path(folder, "cert.pem")))
        python = os.environ.get(SERVER_PYTHON, sys.executable)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [python, "-m", "speed.stub", json.dumps(settings)],
            cwd=FOLDER,
            env=clean,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def configure(self, **settings: Any) -> None:
        """Change settings and reset the counters."""
        self._call("POST", "/settings", json.dumps(settings))

    def stats(self) -> Dict[str, Any]:
        stats: Dict[str, Any] = self._call("GET", "/stats")
        return stats

    def _call(self, method: str, target: str, body: Optional[str] = None) -> Any:
        if self._context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        else:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self._context)
        try:
            connection.request(method, target, body=body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def process_status(name: str) -> int:
    """Return a number from Linux's table of this process: VmRSS and VmHWM in KiB, or Threads."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def rss() -> float:
    """Return the resident memory in MiB."""
    return process_status("VmRSS") / 1024


class Meter:
    """Measure a ``with`` block: ``wall`` and ``cpu`` in seconds, ``growth`` of memory at its peak in MiB, ``threads``.

    A thread of its own reads the number of threads 20 times per second and is not counted.
    """

    def __enter__(self) -> Meter:
        # Resets the kernel's record of the peak.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = rss()
        self._most = 0
        self._is_done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._cpu = self._cpu_time()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        wall, cpu = time.perf_counter() - self._start, self._cpu_time() - self._cpu
        self._is_done.set()
        self._watcher.join()
        self.figures: Dict[str, Any] = {
            "wall": wall,
            "cpu": cpu,
            "growth": process_status("VmHWM") / 1024 - self._before,
            "threads": self._most,
        }

    @staticmethod
    def _cpu_time() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, process_status("Threads") - 1)
            if self._is_done.wait(0.05):
                return
