"""Serving in the foreground: signals, errors at the start, and closing with held polls."""

import contextlib
import signal
import socket
import threading
import time

import pytest
import requests
from server_calls import Wire, until
from server_processes import ROOT, foreground, python, responds

from tinkex_sync.local import Faults, LocalServer


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_foreground_server_ends_cleanly_on_a_signal(how):
    process, url = foreground()
    with process:
        assert responds(url)
        process.send_signal(how)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, b"", b"")
    assert not responds(url)


def test_foreground_server_exits_with_an_error_if_the_port_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = python("-m", "tinkex_sync.local", "--port", str(taken.getsockname()[1]), cwd=str(ROOT))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(b"Error: ")
    assert b"in use" in errors


def test_faults_of_the_options_apply_to_the_first_request():
    with LocalServer(faults=Faults(fail_first={"*": [500]})) as server:
        assert requests.get(f"{server.base_url}/api/v1/healthz", timeout=10).status_code == 500


def test_server_ends_while_a_poll_for_completions_is_held():
    with LocalServer(protocol="0.38") as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        target = {"type": "sampling_session", "sampling_session_id": sampler}

        def poll():
            # The process may end before it responds.
            with contextlib.suppress(requests.ConnectionError):
                wire.post("retrieve_futures", {"target": target, "prev_cursor": 0})

        polling = threading.Thread(target=poll)
        polling.start()
        until(lambda: server.stats()["connections"] >= 2)
        started = time.monotonic()
        server.close()
        polling.join(10)
    assert not polling.is_alive()
    assert time.monotonic() - started < 4.5
