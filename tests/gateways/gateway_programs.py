"""Gateways and proxies that run as programs: each listens on a free port of loopback and ends with its test."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Optional, Pattern, Sequence

import pytest

__all__ = ["READ_TIMEOUT", "Gateway", "find_program", "free_port", "haproxy", "nginx", "running", "wait_for"]

#: Seconds after which the gateways end a request that the server has not answered.
READ_TIMEOUT = 3
#: Seconds until a program must accept connections, and until it must end.
_START, _END = 20.0, 10.0


def find_program(name: str, install: str, variable: str = "") -> str:
    """Return the path of a program, from an environment variable or from PATH, or skip the test.

    Args:
        install: The line that installs it.
        variable: Environment variable that may contain the path.
    """
    # Debian keeps servers in a folder that is not on the PATH of users.
    folders = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    path = shutil.which(os.environ.get(variable) or name, path=folders)
    if path is None:
        pytest.skip(f"{name} is not on PATH: {install}")
    return path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Gateway:
    """A running gateway or proxy."""

    #: Name and version.
    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    #: The log with one line for each request.
    log: Path
    #: Matches the lines of requests that the gateway ended because the server was silent.
    cut_line: Pattern[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests_cut(self) -> int:
        """Return the number of requests that the gateway ended because the server was silent."""
        return len(self.cut_line.findall(self.log.read_text("utf-8", "replace"))) if self.log.exists() else 0

    def kill(self) -> None:
        """End the program and its connections."""
        self.process.kill()
        self.process.wait()

    def suspend(self, seconds: float) -> threading.Timer:
        """Stop the process for some seconds, without ending its connections. Join the timer that is returned."""
        self.process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, self.process.send_signal, (signal.SIGCONT,))
        timer.start()
        return timer


def wait_for(is_true: Callable[[], bool], seconds: float = _START) -> None:
    """Wait until a condition holds; fail after ``seconds``."""
    ends, tick = time.monotonic() + seconds, threading.Event()
    while not is_true():
        assert time.monotonic() < ends, "the condition did not become true"
        tick.wait(0.02)


def _listens(process: "subprocess.Popen[bytes]", port: int, output: Path) -> bool:
    assert process.poll() is None, f"{process.args!r} has ended:\n{output.read_text('utf-8', 'replace')}"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _version(command: Sequence[str]) -> str:
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_START)
    found = re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr)
    return found.group() if found else ""


@contextlib.contextmanager
def running(
    name: str, port: int, command: Sequence[str], log: Path, cut_line: str = r"(?!)", version_option: str = "-v"
) -> Iterator[Gateway]:
    """Run a program until the end of the block.

    Args:
        command: Its command line. The program must stay in the foreground.
        log: The log of its requests. Its directory gets the program's output, as ``output.txt``.
        cut_line: Pattern of the lines in ``log`` for requests that the program ended.
        version_option: The option that prints the version; empty if there is none.
    """
    version = _version([command[0], version_option]) if version_option else ""
    output = log.parent / "output.txt"
    with output.open("ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _listens(process, port, output))
        yield Gateway(f"{name} {version}".strip(), port, process, log, re.compile(cut_line, re.M))
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_NGINX = """
{user}
daemon off;
master_process off;
error_log stderr warn;
pid {folder}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type text/html;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            {rules}
            proxy_pass {target};
            proxy_http_version 1.1;
            proxy_read_timeout {read_timeout}s;
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, target: str, rules: str = "") -> Iterator[Gateway]:
    """Run nginx in front of the server at ``target``.

    Args:
        rules: Directives for each request.
    """
    program = find_program("nginx", "apt-get install nginx-light")
    port, config = free_port(), folder / "nginx.conf"
    # Root's worker would lose the right to read the temporary folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        _NGINX.format(folder=folder, port=port, target=target, rules=rules, user=user, read_timeout=READ_TIMEOUT)
    )
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with running("nginx", port, command, folder / "access.log", r'" 504 ') as gateway:
        yield gateway


_HAPROXY = """
global
    log stdout format raw local0
    maxconn 4096
defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client 60s
    timeout server {read_timeout}s
frontend front
    bind 127.0.0.1:{port}
    default_backend server
backend server
    http-response replace-header Location {target}/(.*) /\\1
    server one {address}
"""


@contextlib.contextmanager
def haproxy(folder: Path, target: str, port: int = 0) -> Iterator[Gateway]:
    """Run haproxy in front of the server at ``target``, on any free port unless it is given."""
    program = find_program("haproxy", "apt-get install haproxy")
    port, config = port or free_port(), folder / "haproxy.cfg"
    address = target.partition("://")[2]
    config.write_text(_HAPROXY.format(port=port, target=target, address=address, read_timeout=READ_TIMEOUT))
    with running("haproxy", port, [program, "-db", "-f", str(config)], folder / "output.txt", r"^\S.* 504 ") as gateway:
        yield gateway


_SQUID = """
http_port 127.0.0.1:{port}
visible_hostname gateway.example
hosts_file {folder}/hosts
pid_filename {folder}/squid.pid
cache_log {folder}/cache.log
access_log stdio:{folder}/access.log
coredump_dir {folder}
netdb_filename none
pinger_enable off
cache deny all
shutdown_lifetime 0 seconds
read_timeout {read_timeout} seconds
{user}
{rules}
http_access allow all
"""
_PASSWORD = """
auth_param basic program {helper}
auth_param basic children 1
acl known proxy_auth REQUIRED
http_access deny !known
"""
#: A program that squid asks whether user and password are right.
_PASSWORD_HELPER = """#!/bin/sh
while read -r line; do
    if [ "$line" = "joe s3cr3t" ]; then echo OK; else echo ERR; fi
done
"""


@contextlib.contextmanager
def _folder_of_nobody() -> Iterator[Path]:
    """Yield a folder for a program that does not run as root, outside of the folder that only root may read."""
    with tempfile.TemporaryDirectory(prefix="tinkex-gateway-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, "nobody")
        yield Path(name)


@contextlib.contextmanager
def squid(*, password: bool = False, names: Sequence[str] = ()) -> Iterator[Gateway]:
    """Run squid as a forward proxy.

    Args:
        password: Whether it requires the user joe with the password s3cr3t.
        names: Names of hosts that stand for this machine.
    """
    program = find_program("squid", "apt-get install squid")
    user = "cache_effective_user nobody" if os.geteuid() == 0 else ""
    with _folder_of_nobody() as folder:
        port, config, helper = free_port(), folder / "squid.conf", folder / "password"
        (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        helper.write_text(_PASSWORD_HELPER)
        helper.chmod(0o755)
        rules = _PASSWORD.format(helper=helper) if password else ""
        config.write_text(_SQUID.format(folder=folder, port=port, rules=rules, user=user, read_timeout=READ_TIMEOUT))
        # 504: squid responded itself. A tunnel that it closed has the status 200, and lasted as long as the timeout.
        cut = rf"TCP_\w+/504 |^\S+ +{READ_TIMEOUT}\d\d\d \S+ TCP_TUNNEL/200 "
        # The name keeps its shared memory apart from that of other squids.
        command = [program, "-N", "-n", f"tinkex{port}", "-f", str(config)]
        with running("squid", port, command, folder / "access.log", cut) as gateway:
            yield gateway


@contextlib.contextmanager
def microsocks(folder: Path, *, password: bool = False) -> Iterator[Gateway]:
    """Run a SOCKS5 proxy; with ``password``, for the user joe with the password s3cr3t."""
    program = find_program("microsocks", "apt-get install microsocks")
    port = free_port()
    credentials = ["-u", "joe", "-P", "s3cr3t"] if password else []
    command = [program, "-i", "127.0.0.1", "-p", str(port), *credentials]
    with running("microsocks", port, command, folder / "output.txt", version_option="") as gateway:
        yield gateway


@contextlib.contextmanager
def mitmproxy(folder: Path, *, password: bool = False, trusted: Optional[Path] = None) -> Iterator[Gateway]:
    """Run mitmproxy, which decrypts TLS and encrypts it again with certificates of its own authority.

    ``authority(folder)`` is the certificate of that authority.

    Args:
        password: Whether it requires the user joe with the password s3cr3t.
        trusted: Certificates of authorities that it trusts.
    """
    program = find_program("mitmdump", "pip install mitmproxy, in an environment of its own", "TINKEX_MITMDUMP")
    port = free_port()
    options = {"confdir": folder / "mitmproxy", "ssl_verify_upstream_trusted_ca": trusted or ""}
    options["proxyauth"] = "joe:s3cr3t" if password else ""
    command = [program, "--listen-host", "127.0.0.1", "--listen-port", str(port), "--flow-detail", "1"]
    for name, value in options.items():
        command += ["--set", f"{name}={value}"] if value else []
    with running("mitmproxy", port, command, folder / "output.txt", version_option="--version") as gateway:
        yield gateway


def authority(folder: Path) -> Path:
    return folder / "mitmproxy" / "mitmproxy-ca-cert.pem"
