"""Ctrl-C raises in the blocking call within a second, and the client stays usable."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from imitations import TUFT, Imitation

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys, time, threading
from types import SimpleNamespace
from imitations import *

service = client(SimpleNamespace(base_url=sys.argv[1]), max_dispatches=1 if sys.argv[2] == "throttle" else 400)
sampler = service.create_sampling_client(base_model="base")
model = training(service)

def endless_prompts():
    while True:
        yield prompt()

calls = {
    "poll": lambda: sampler.sample(prompt(), 1, PARAMS),
    "throttle": lambda: sampler.sample(prompt(), 1, PARAMS),
    "retry": lambda: sampler.sample(prompt(), 1, PARAMS),
    "sending": lambda: sampler.sample(prompt(), 1, PARAMS),
    "training": lambda: model.forward_backward(datums(2), "cross_entropy"),
    "train_step": lambda: model.train_step(datums(2), "cross_entropy", ADAM),
    "future": lambda: sampler.submit_sample(prompt(), 1, PARAMS).result(),
    "sample_many": lambda: list(sampler.sample_many(endless_prompts(), max_in_flight=8)),
    "unordered": lambda: list(sampler.sample_many(endless_prompts(), max_in_flight=8, ordered=False)),
    "rest": service.get_server_capabilities,
    "model": lambda: service.create_lora_training_client("base"),
}
print("set up", flush=True)
input()
if sys.argv[2] == "throttle":
    sampler.submit_sample(prompt(), 1, PARAMS)
try:
    print("calling", flush=True)
    calls[sys.argv[2]]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
input()
if sys.argv[2] != "throttle":
    assert sampler.sample(prompt(5, 6), 1, PARAMS).sequences[0].tokens == [6, 5]
model.train_step(datums(1), "cross_entropy", ADAM)
print("usable", flush=True)
started = time.monotonic()
service.close()
print("closed", time.monotonic() - started < 1, flush=True)
"""

BUSY = (503, "busy", {"Retry-After": "300"})

#: By kind of call: the server's behaviour, and the request that shows that the call waits.
CASES = {
    "poll": (None, "retrieve_future"),
    "throttle": (("asample", "silent"), "asample"),
    "retry": (("asample", BUSY), "asample"),
    "sending": (("asample", "silent"), "asample"),
    "training": (None, "retrieve_future"),
    "train_step": (("training", BUSY), "forward_backward"),
    "future": (None, "retrieve_future"),
    "sample_many": (None, "retrieve_future"),
    "unordered": (None, "retrieve_future"),
    "rest": (("get_server_capabilities", "silent"), "get_server_capabilities"),
    "model": (None, "retrieve_future"),
}


def asleep(pid):
    """Return whether the main thread of a process waits in the system; True where the system does not show it."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return True


@pytest.fixture(autouse=True)
def _interruptible():
    """Deliver SIGINT, which processes in the background and their children ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", CASES)
def test_ctrl_c_raises_within_a_second_and_the_client_stays_usable(kind):
    script, waits_after = CASES[kind]
    with Imitation(TUFT) as server:
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, server.base_url, kind],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
        )
        try:
            assert child.stdout.readline() == "set up\n"
            if script is None:
                server.ready.clear()
            else:
                server.script[script[0]] = [script[1]]
            count = len(server.arrived)
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "calling\n"
            server.until(lambda: any(row[0] == waits_after for row in server.arrived[count:]), 30)
            # The request arrived, but its sender may not wait yet. A signal before the wait would be lost.
            tick = threading.Event()
            assert any(asleep(child.pid) or tick.wait(0.01) for _ in range(1000))
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"
            assert time.monotonic() - sent < 1
            server.ready.set()
            if kind == "train_step":
                # The lane waits five minutes for the next retry of its first operation. The process can be ended.
                child.kill()
                return
            output, errors = child.communicate("\n", timeout=20)
            assert child.returncode == 0, errors
            assert output == "usable\nclosed True\n"
        finally:
            child.kill()
            child.communicate()
