"""The server as a process: how it starts, what it says when it cannot, and that it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
from server_calls import Wire, until

from tinkex_sync.errors import MissingExtraError
from tinkex_sync.local import Faults, LocalServer, local_base_url, process

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments, **options):
    """A Python process that finds the package."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def answers(base_url):
    try:
        return requests.get(f"{base_url}/api/v1/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed child nobody has waited for counts as dead.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_starts_answers_and_ends():
    server = LocalServer()
    assert server.pid is None
    with server:
        url, pid = server.base_url, server.pid
        assert server.start() is server
        assert server.pid == pid
        assert answers(url)
    server.close()
    assert not is_alive(pid)
    assert not answers(url)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.base_url


def test_it_can_be_started_again():
    server = LocalServer()
    for _ in range(2):
        with server:
            assert answers(server.base_url)


def test_a_port_in_use_is_said_in_the_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match="did not start(.|\n)*in use"):
            LocalServer(port=port).start()


def test_a_wrong_setting_is_said_in_the_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RuntimeError, match="did not start(.|\n)*file"):
        LocalServer(data=str(file)).start()


def test_a_missing_extra_says_what_to_install(monkeypatch):
    find = process.importlib.util.find_spec
    monkeypatch.setattr(
        process.importlib.util, "find_spec", lambda name: None if name == "flask" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r'needs flask: pip install "tinkex-sync\[local\]"'):
        LocalServer().start()


def test_importing_the_package_loads_neither_numpy_nor_flask():
    code = (
        "import sys, tinkex_sync.local; print({'numpy', 'flask', 'werkzeug', 'autograd'} & set(sys.modules))"
    )
    output, _ = python("-c", code).communicate(timeout=60)
    assert output.strip() == b"set()"


def test_a_module_of_the_user_does_not_get_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "types.py").write_text("raise RuntimeError('not me')")
    monkeypatch.chdir(tmp_path)
    with LocalServer(data="here") as server:
        assert answers(server.base_url)
    assert (tmp_path / "here").is_dir()


def test_it_computes_on_one_thread():
    with LocalServer() as server:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= set(environment)


PARENT = """
import os, sys
from tinkex_sync.local import LocalServer
server = LocalServer(data=sys.argv[1]).start()
if sys.argv[2] == "fork" and os.fork() == 0:
    # Inherits the pipe, and holds it open after the parent has died.
    os.close(1), os.close(2)
    sys.stdin.read()
    os._exit(0)
print(server.pid, server.base_url, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("children", ["none", "fork"])
def test_it_ends_when_its_parent_is_killed(tmp_path, children):
    parent = python("-c", PARENT, str(tmp_path), children, stdin=subprocess.PIPE)
    with parent:
        pid, url = parent.stdout.readline().decode().split()
        assert answers(url)
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(int(pid)))
        assert not answers(url)


def test_ctrl_c_in_the_terminal_leaves_it_to_its_parent():
    with LocalServer() as server:
        os.kill(server.pid, signal.SIGINT)
        assert answers(server.base_url)


SHARED = """
import os, threading
from tinkex_sync.local import local_base_url, process
urls = []
threads = [threading.Thread(target=lambda: urls.append(local_base_url())) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(urls)) == 1 and len(urls) == 8
if os.fork() == 0:
    # A child uses the server of its parent, and does not end it when it exits the usual way.
    assert local_base_url() == urls[0]
    raise SystemExit(0)
assert os.wait()[1] == 0
import urllib.request
urllib.request.urlopen(urls[0] + "/api/v1/healthz").read()
print(urls[0], process.shared_server.server().pid, flush=True)
"""


def test_a_process_has_one_shared_server_until_it_exits():
    output, errors = python("-W", "ignore", "-c", SHARED).communicate(timeout=60)
    assert errors == b""
    url, pid = output.decode().split()
    assert not is_alive(int(pid))
    assert not answers(url)


def test_a_shared_server_that_died_is_replaced():
    first = local_base_url()
    server = process.shared_server.server()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running)
    assert local_base_url() != first
    assert answers(local_base_url())


def test_what_the_server_wrote_to_stderr_is_logged_when_it_is_closed(monkeypatch, caplog):
    # Its own interpreter says so when an import takes place: output of the real process.
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    with LocalServer():
        monkeypatch.delenv("PYTHONVERBOSE")
    assert "the embedded server wrote to stderr" in caplog.text
    assert "import 'tinkex_sync.local" in caplog.text


def test_the_lock_of_the_shared_server_is_free_in_a_forked_child():
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


def test_the_shared_server_is_there_for_this_process():
    assert local_base_url() == local_base_url()
    assert answers(local_base_url())


def foreground(*arguments):
    """A server in the foreground, and its base URL."""
    running = python("-m", "tinkex_sync.local", *arguments, cwd=str(ROOT))
    line = running.stdout.readline().decode()
    assert "http://" in line, running.stderr.read().decode()
    return running, line.split()[4]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_ends_cleanly_on_a_signal(how):
    running, url = foreground()
    with running:
        assert answers(url)
        running.send_signal(how)
        output, errors = running.communicate(timeout=20)
    assert (running.returncode, output, errors) == (0, b"", b"")
    assert not answers(url)


def test_its_flags_do_what_they_say(tmp_path):
    running, url = foreground(
        *(
            "--data",
            str(tmp_path / "d"),
            "--api-key",
            "tml-k",
            "--model",
            "a/b",
            "--model",
            "c/d",
            "--hold",
            "0.2",
        ),
        *(
            "--fault-admit-per-second",
            "0.001",
            "--fault-fail-first",
            '{"healthz": [503]}',
            "--fault-pause-reason",
            "x",
        ),
    )
    with running:

        class At:
            base_url = url

        with Wire(At, **{"X-API-Key": "tml-k"}) as wire:
            names = [
                one["model_name"] for one in wire.get("get_server_capabilities").json()["supported_models"]
            ]
            assert {"a/b", "c/d"} <= set(names)
            assert [wire.get("healthz").status_code for _ in range(2)] == [503, 200]
            sampler = wire.sampler(wire.session())
            assert [wire.sample(sampler, seq).status_code for seq in range(2)] == [200, 429]
            assert wire.http.get(f"{url}/__faults", timeout=10).json()["pause_reason"] == "x"
            assert wire.http.get(f"{url}/__stats", headers={"X-API-Key": "no"}, timeout=10).status_code == 401
        assert (tmp_path / "d" / "sessions").is_dir()
        running.terminate()
        running.communicate(timeout=20)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault-pause", "soon"], "pause"),
        (["--fault-latency", '{"nowhere": 1}'], "nowhere"),
        (["--port", "x"], "--port"),
        (["--port", "99999"], "port must be"),
        (["--hold", "-1"], "hold must be"),
        (["--protocol", "0.8"], "0.8"),
        (["--client-config", "fwdbwd=1"], "unknown key 'fwdbwd'"),
        (["--client-config", "fwdbwd_max_chunk_len"], "NAME=VALUE"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(arguments, said):
    running = python("-m", "tinkex_sync.local", *arguments, cwd=str(ROOT))
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert said in errors.decode()
    assert "Traceback" not in errors.decode()


def test_a_port_in_use_ends_the_foreground_server_with_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = python("-m", "tinkex_sync.local", "--port", str(taken.getsockname()[1]), cwd=str(ROOT))
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.startswith(b"Error: ")
    assert b"in use" in errors


def test_faults_given_at_the_start_hold_from_the_start():
    with LocalServer(faults=Faults(fail_first={"*": [500]})) as server:
        assert requests.get(f"{server.base_url}/api/v1/healthz", timeout=10).status_code == 500


def test_close_from_another_thread_ends_it():
    server = LocalServer().start()
    closing = threading.Thread(target=server.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert server.pid is None
