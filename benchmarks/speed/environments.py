"""The virtual environments of the benchmark, the certificate of the stub server, and running one job in them."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from .jobs import NEW, OLD, OURS, Job, Part
from .measure import CERTIFICATE, FOLDER, SERVER_PYTHON

TREE = FOLDER.parent
#: What is installed for each client. ``ours`` also runs the bare loops and the stub server.
REQUIREMENTS: Dict[str, List[str]] = {
    OURS: [f"{TREE}[proto]", "numpy", "gevent", "uvloop; sys_platform != 'win32'"],
    OLD: ["tinker==0.7.0"],
    NEW: ["tinker==0.38.0"],
}
_TIMEOUT = 300.0


class Environments:
    """Pythons by client, made in ``folder`` if they are not given, and the variables of the processes."""

    def __init__(self, folder: Path, given: Dict[str, str], clients: List[str], tree: Path = TREE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tree = tree
        self.pythons = {client: given.get(client) or _install(folder, client) for client in clients}
        bundle = _make_certificate(folder / "certificate")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "TINKEX_"))}
        self._variables = {
            **inherited,
            CERTIFICATE: str(bundle.parent),
            SERVER_PYTHON: self.pythons[OURS],
            "SSL_CERT_FILE": str(bundle),
            "REQUESTS_CA_BUNDLE": str(bundle),
        }
        # Without bytecode, importing would be measured with compilation.
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            self._variables.pop(name, None)

    def run(self, job: Job, tree: Optional[Path] = None) -> Dict[str, Any]:
        """Run a job in a process of its own; return its figures, or ``{"error": text}``."""
        python = self.pythons.get(job.client, self.pythons[OURS])
        variables = {**self._variables, **dict(job.variables)}
        if python == self.pythons[OURS]:
            variables["PYTHONPATH"] = str(tree or self.tree)
        if "tls" not in job.settings:
            del variables["SSL_CERT_FILE"], variables["REQUESTS_CA_BUNDLE"]
        settings = json.dumps({"client": job.client, **job.settings})
        command = [python, "-m", "speed.cases", job.case, settings]
        try:
            done = subprocess.run(command, cwd=FOLDER, env=variables, capture_output=True, text=True, timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            return {"error": f"longer than {_TIMEOUT:g} s"}
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
        figures: Dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def run_all(
        self, jobs: List[Job], part: Part, report: Callable[[str], None], minutes: float = math.inf
    ) -> List[Dict[str, Any]]:
        """Run jobs again and again, all of them in each repetition, so that a busy minute affects every job alike.

        Args:
            jobs: Jobs of the part.
            part: How many repetitions there are, and how many jobs run concurrently.
            report: Is called with one line for each job.
            minutes: No repetition begins after this time.
        """

        def measure(number: int, job: Job) -> Dict[str, Any]:
            figures = self.run(job)
            outcome = figures.get("error") or ", ".join(f"{name} {figures[name]}" for name in list(figures)[:2])
            report(f"{number} {job.row}: {job.client}: {outcome}")
            return {"row": job.row, "client": job.client, "repetition": number, **figures}

        begun, runs = time.monotonic(), []
        with ThreadPoolExecutor(part.concurrent) as pool:
            for number in range(part.repetitions):
                if number and time.monotonic() - begun > 60 * minutes:
                    break
                pending = [pool.submit(measure, number, job) for job in jobs]
                runs += [one.result() for one in pending]
        return runs

    def versions(self) -> Dict[str, str]:
        """Return the Python and the versions of the packages that matter, by client."""
        code = (
            "import importlib.metadata as m, platform\n"
            "names = 'tinkex-sync tinker requests urllib3 orjson numpy httpx pydantic protobuf gevent torch'.split()\n"
            "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
            "found['Python'] = platform.python_version()\n"
            "print(', '.join(f'{n} {found[n]}' for n in ['Python', *names] if n in found))"
        )
        return {
            client: subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            for client, python in self.pythons.items()
        }


def _install(folder: Path, client: str) -> str:
    python = folder / client / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / client)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[client]], check=True)
    return str(python)


def _make_certificate(folder: Path) -> Path:
    """Return the certificate of localhost in ``folder``, which is its own authority."""
    bundle = folder / "cert.pem"
    if not bundle.exists():
        folder.mkdir(exist_ok=True)
        if shutil.which("openssl") is None:
            raise SystemExit("the benchmark makes a certificate with the command openssl, which is not installed")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", str(folder / "key.pem"), "-out", str(bundle), "-days", "3650", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost"),
            ],
            check=True,
            capture_output=True,
        )
    return bundle
