"""Ctrl-C while threads of a pool inside the client's ``with`` block wait for calls."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import List, Tuple

import pytest

from tinkex_sync.concurrency import interrupt_closing

ROOT = Path(__file__).resolve().parents[2]
START = """
import signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tinkex_sync import ServiceClient, types
from tinkex_sync.testing import Faults, LocalServer

prompt, params = types.ModelInput.from_ints([1, 2]), types.SamplingParams(max_tokens=2)
server = LocalServer().start()
service = ServiceClient(base_url=server.base_url, api_key="key")
sampler = service.create_sampling_client(base_model="tinkex/tiny")
server.set_faults(Faults(pause=600.0))


def announce(count):
    while sum(one["phase"] == "polling" for one in service.status()["open"]) < count:
        time.sleep(0.01)
    print("waiting", flush=True)
"""
POOL = """
try:
    with service, ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(sampler.sample, prompt, 1, params) for _ in range(5000)]
        threading.Thread(target=announce, args=(16,), daemon=True).start()
        for future in futures:
            future.result()
finally:
    print("restored", signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
    print("ended", sum(future.done() for future in futures), flush=True)
"""
ALONE = """
with service:
    threading.Thread(target=announce, args=(1,), daemon=True).start()
    try:
        sampler.sample(prompt, 1, params)
    except KeyboardInterrupt:
        server.set_faults(Faults())
        print("usable", len(sampler.sample(prompt, 1, params).sequences), flush=True)
"""


def interrupted(code: str) -> Tuple[List[str], int, float]:
    """Run a script, send SIGINT while it waits, and return its output, its status and the seconds it took to end."""
    process = subprocess.Popen([sys.executable, "-c", START + code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read().splitlines()
        status = process.wait(60)
    return output, status, time.monotonic() - started


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_a_pool_inside_the_block_ends_at_once() -> None:
    output, status, seconds = interrupted(POOL)
    assert output == ["restored True", "ended 5000"]
    assert status in (-signal.SIGINT, 130)
    assert seconds < 20.0  # it was 45 s and more


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_without_other_threads_the_client_stays_usable() -> None:
    output, status, _ = interrupted(ALONE)
    assert (output, status) == (["usable 1"], 0)


class Interruptible:
    def __init__(self) -> None:
        self.interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


def test_nested_blocks_share_one_handler_and_restore_pythons_own() -> None:
    outer, inner = Interruptible(), Interruptible()
    interrupt_closing.enter(outer)
    interrupt_closing.enter(inner)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupt_closing.leave(outer)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupt_closing.leave(inner)
    interrupt_closing.leave(inner)
    assert (outer.interrupts, inner.interrupts) == (1, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_stays() -> None:
    seen: List[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        one = Interruptible()
        interrupt_closing.enter(one)
        signal.raise_signal(signal.SIGINT)
        interrupt_closing.leave(one)
        assert (seen, one.interrupts) == ([signal.SIGINT], 0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_no_handler() -> None:
    one = Interruptible()
    thread = threading.Thread(target=interrupt_closing.enter, args=(one,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
