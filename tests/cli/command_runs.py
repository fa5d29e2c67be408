"""Run commands as processes, or in this process where only their result matters."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "cli-key"


def variables(base_url: str, key: str = KEY) -> Dict[str, str]:
    """Return the environment of a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TINKE")}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {**environment, "TINKER_BASE_URL": base_url, "TINKER_API_KEY": key, "NO_PROXY": "*"}


class Commands:
    """Starts processes of the command line, all with the same environment."""

    def __init__(self, environment: Dict[str, str]) -> None:
        self.environment = environment

    def start(self, *arguments: Any, **options: Any) -> "subprocess.Popen[str]":
        """Start a command. ``options`` are those of ``subprocess.Popen``; ``env`` adds variables."""
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        command = [sys.executable, "-m", "tinkex_sync", *map(str, arguments)]
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.Popen(command, text=True, encoding="utf-8", env=environment, **options)

    def __call__(self, *arguments: Any, given: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, with ``given`` as its standard input."""
        with self.start(*arguments, stdin=subprocess.PIPE, **options) as process:
            out, err = process.communicate(given, timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def in_process(environment: Dict[str, str], *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end in this process, which is faster than a process of its own."""
    from tinkex_sync.cli.root import root

    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment, clear=True))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        ended = stack.enter_context(pytest.raises(SystemExit))
        root.main([*map(str, arguments)])
    return subprocess.CompletedProcess([*arguments], ended.value.code, out.getvalue(), err.getvalue())


def next_command(printed: str) -> List[str]:
    """Return the words after ``tinkex-sync`` of the next command that a command printed."""
    [line] = [line for line in printed.splitlines() if line.startswith("Next, try: ")]
    words = shlex.split(line[len("Next, try: ") :])
    assert words[0] == "tinkex-sync"
    return words[1:]


def peak_memory(environment: Dict[str, str], cwd: Path, *arguments: Any) -> float:
    """Run a command as a process and return its largest resident memory in megabytes. Linux only."""
    script = (
        "import atexit, sys; from pathlib import Path; from tinkex_sync.cli.root import root\n"
        # Not ru_maxrss: it includes the memory of the process that started this one.
        "atexit.register(lambda: Path('peak').write_text(Path('/proc/self/status').read_text()))\n"
        "root.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in (cwd / "peak").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


class Saved(NamedTuple):
    """A training run with checkpoints."""

    run_id: str
    session_id: str
    training: List[str]
    sampler: str
