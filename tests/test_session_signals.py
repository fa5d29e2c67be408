"""Closing from a signal handler and after an interrupted close; a fork while locks are held; opening in time."""

import os
import signal
import threading
import time

import pytest
from imitations import TUFT, Imitation, client
from scripted_server import Answer, bare_session

from tinkex_sync import DeadlineExceeded, ForkedClientError
from tinkex_sync.clients import base
from tinkex_sync.concurrency import exit_closing
from tinkex_sync.concurrency.primitives import Event
from tinkex_sync.protocol import negotiation, protobuf_schema
from tinkex_sync.tokenizers import loading


@pytest.mark.parametrize("owner", ["session", "helpers", "timer", "transport"])
def test_close_in_a_handler_returns_although_the_interrupted_code_holds_a_lock(owner):
    with Imitation(TUFT) as server:
        session = client(server).session
        lock = (session if owner == "session" else getattr(session, owner))._lock
        before = signal.signal(signal.SIGUSR1, lambda *_: session.close())
        try:
            with lock:
                began = time.monotonic()
                os.kill(os.getpid(), signal.SIGUSR1)
                assert session.closing.is_set()
                assert time.monotonic() - began < 2
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert session._ended.wait(10)


def test_closing_completes_after_an_interrupt_of_the_first_close(monkeypatch):
    with Imitation(TUFT) as server:
        session = client(server).session
        release, stop = Event(), session.transport.close
        monkeypatch.setattr(session.transport, "close", lambda: (release.wait(10), stop()))
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            session.close()
        release.set()
        session.close()
        assert session._ended.is_set()
        timer.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_every_lock_of_a_module_is_free_in_a_child_that_was_forked_while_it_was_held():
    locks = [base._rebuilding, exit_closing._lock, negotiation._cache_lock, protobuf_schema._building, loading._lock]
    with Imitation(TUFT) as server, client(server) as service:
        held, release = threading.Event(), threading.Event()

        def hold():
            with locks[0], locks[1], locks[2], locks[3], locks[4], service.session._lock:
                held.set()
                release.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            for lock in locks:
                with lock:
                    pass
            try:
                service.status()
            except ForkedClientError:
                os._exit(0)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        release.set()
        holder.join()
        assert status == 0


@pytest.mark.parametrize("endpoint", ["client/config", "create_session"])
def test_opening_ends_at_the_timeout_of_the_configuration(endpoint):
    with bare_session(protocol="auto", timeout=0.5) as (server, session):
        release = threading.Event()
        server.script(endpoint, Answer(body={"session_id": "s"}, hold=lambda: release.wait(10)))
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            session.open()
        assert time.monotonic() - began < 1.5
        release.set()
