"""The server as a child process: start, end, the shared server and the temporary directory."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from server_calls import Wire, until
from server_processes import is_alive, python, responds

from tinkex_sync.errors import MissingExtraError
from tinkex_sync.local import LocalServer, local_base_url, process


def test_server_starts_responds_and_ends():
    server = LocalServer()
    assert server.pid is None
    with server:
        url, pid = server.base_url, server.pid
        assert server.start() is server
        assert server.pid == pid
        assert responds(url)
    server.close()
    assert not is_alive(pid)
    assert not responds(url)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.base_url


def test_closed_server_can_be_started_again():
    server = LocalServer()
    for _ in range(2):
        with server:
            assert responds(server.base_url)


def test_error_of_start_contains_that_the_port_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match="did not start(.|\n)*in use"):
            LocalServer(port=port).start()


def test_error_of_start_names_an_unusable_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RuntimeError, match="did not start(.|\n)*file"):
        LocalServer(data=str(file)).start()


def test_error_for_a_missing_library_names_the_extra(monkeypatch):
    find = process.importlib.util.find_spec
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None if name == "flask" else find(name))
    with pytest.raises(MissingExtraError, match=r'needs flask: pip install "tinkex-sync\[local\]"'):
        LocalServer().start()


def test_importing_the_package_imports_neither_numpy_nor_flask():
    code = "import sys, tinkex_sync.local; print({'numpy', 'flask', 'werkzeug', 'autograd'} & set(sys.modules))"
    output, _ = python("-c", code).communicate(timeout=60)
    assert output.strip() == b"set()"


def test_module_in_the_working_directory_does_not_shadow_the_standard_library(tmp_path, monkeypatch):
    (tmp_path / "types.py").write_text("raise RuntimeError('not me')")
    monkeypatch.chdir(tmp_path)
    with LocalServer(data="here") as server:
        assert responds(server.base_url)
    assert (tmp_path / "here").is_dir()


def test_server_uses_one_blas_thread():
    with LocalServer() as server:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= set(environment)


PARENT = """
import os, sys
from tinkex_sync.local import LocalServer
server = LocalServer(data=sys.argv[1]).start()
if sys.argv[2] == "fork" and os.fork() == 0:
    # This process inherits the pipe, and holds it open after the parent has ended.
    os.close(1), os.close(2)
    sys.stdin.read()
    os._exit(0)
print(server.pid, server.base_url, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("children", ["none", "fork"])
def test_server_ends_when_its_parent_is_killed(tmp_path, children):
    parent = python("-c", PARENT, str(tmp_path), children, stdin=subprocess.PIPE)
    with parent:
        pid, url = parent.stdout.readline().decode().split()
        assert responds(url)
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(int(pid)))
        assert not responds(url)


def test_ctrl_c_in_the_terminal_does_not_end_the_server():
    with LocalServer() as server:
        os.kill(server.pid, signal.SIGINT)
        assert responds(server.base_url)


SHARED = """
import os, threading
from tinkex_sync.local import local_base_url, process
urls = []
threads = [threading.Thread(target=lambda: urls.append(local_base_url())) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(urls)) == 1 and len(urls) == 8
if os.fork() == 0:
    # A child uses the server of its parent, and does not end it at a normal exit.
    assert local_base_url() == urls[0]
    raise SystemExit(0)
assert os.wait()[1] == 0
import urllib.request
urllib.request.urlopen(urls[0] + "/api/v1/healthz").read()
print(urls[0], process.shared_server.server().pid, flush=True)
"""


def test_threads_and_forked_children_share_one_server_until_the_process_exits():
    output, errors = python("-W", "ignore", "-c", SHARED).communicate(timeout=60)
    assert errors == b""
    url, pid = output.decode().split()
    assert not is_alive(int(pid))
    assert not responds(url)


def test_killed_shared_server_is_replaced():
    first = local_base_url()
    server = process.shared_server.server()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running)
    assert local_base_url() != first
    assert responds(local_base_url())


def test_close_logs_the_output_on_stderr(monkeypatch, caplog):
    # With this variable the interpreter of the server writes a line per import to stderr.
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    with LocalServer():
        monkeypatch.delenv("PYTHONVERBOSE")
    assert "the embedded server wrote to stderr" in caplog.text
    assert "import _frozen_importlib" in caplog.text


def test_lock_of_the_shared_server_is_free_in_a_forked_child():
    code = (
        "import os\n"
        "from tinkex_sync.local import process\n"
        "lock = process.shared_server._lock\n"
        "with lock:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(0 if process.shared_server._lock.acquire(timeout=5) else 1)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    output, _ = python("-W", "ignore", "-c", code).communicate(timeout=60)
    assert output.strip() == b"0"


def test_local_base_url_returns_the_same_running_server():
    assert local_base_url() == local_base_url()
    assert responds(local_base_url())


def test_close_from_another_thread_ends_the_server():
    server = LocalServer().start()
    closing = threading.Thread(target=server.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert server.pid is None


def test_temporary_directory_is_removed_on_close(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with LocalServer() as server, Wire(server) as wire:
        wire.save(wire.model(), "x")
        assert list(tmp_path.glob("tinkex-local-*/runs"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("killed", ["server", "parent"])
def test_surviving_process_removes_the_temporary_directory(tmp_path, monkeypatch, killed):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    if killed == "server":
        with LocalServer() as server:
            os.kill(server.pid, signal.SIGKILL)
    else:
        code = "import os, tinkex_sync.local as l; s = l.LocalServer().start(); os.kill(os.getpid(), 9)"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    until(lambda: not list(tmp_path.iterdir()))
