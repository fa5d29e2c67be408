"""Child processes for the tests of the embedded server."""

import os
import subprocess
import sys
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments, **options):
    """Start a Python process that can import the package."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def foreground(*arguments):
    """Start a server in the foreground. Return the process and the base URL."""
    process = python("-m", "tinkex_sync.local", *arguments, cwd=str(ROOT))
    line = process.stdout.readline().decode()
    assert "http://" in line, process.stderr.read().decode()
    return process, line.split()[4]


def responds(base_url):
    """Return whether a server responds at a base URL."""
    try:
        return requests.get(f"{base_url}/api/v1/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def is_alive(pid):
    """Return whether a process is running. A killed child that was not waited for counts as dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
