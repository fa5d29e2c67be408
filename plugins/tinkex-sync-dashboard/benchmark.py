"""Measure the cost of the dashboard: ``python benchmark.py [SECONDS]``.

This process trains and samples against an embedded server in another process, and a third process reads the page's
stream as a browser does. The script prints, without and with an open page:

- events per minute, and how long after the last event the open page has it,
- CPU time of the hooks and of the dashboard's threads, as a share of the CPU time of this process.

It exits with status 1 if a share is more than 2 % or the page is more than 5 s behind.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from typing import Tuple
from urllib.parse import urlsplit

from tinkex_sync_dashboard import Dashboard

from tinkex_sync import ServiceClient, types
from tinkex_sync.plugins import Source
from tinkex_sync.plugins.registry import Observers

BUDGET = 0.02
BEHIND = 5.0


class Counting(Dashboard):
    """A dashboard that counts its events."""

    def __init__(self) -> None:
        self.events = 0
        super().__init__(0)

    def put(self, event: object) -> None:
        """Count the event."""
        self.events += 1
        super().put(event)


def read(url: str) -> None:
    """Read the stream of a page, and print the number of events of each run after each update."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.request("GET", parts.path + "events")
    for line in connection.getresponse():
        if line.startswith(b"data: ["):
            for run in json.loads(line[6:]):
                print(run["session"], run["events"], flush=True)


def cost_of_a_hook(count: int = 20_000) -> float:
    """Return the CPU seconds that one event costs the thread in which it happens."""
    registry = Observers([Dashboard(0)], autoload=False, strict=True)
    hook = registry.call_started
    assert hook is not None
    source = Source("training", "m", "benchmark")
    began = time.thread_time()
    for _ in range(count):
        hook(source=source, call_id="c", operation="sample", items=1)
    used = time.thread_time() - began
    registry.close(time.monotonic() + 30)
    return used / count


def own_time() -> float:
    """Return the CPU seconds of the dashboard's threads that exist now."""
    names = ("tinkex-dashboard", "tinkex-Counting", "process_request_thread")
    threads = [thread for thread in threading.enumerate() if any(name in thread.name for name in names)]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0)) for thread in threads)


def work(service: ServiceClient, seconds: float) -> None:
    """Train and sample, with a pause after each step that makes about 10,000 events a minute."""
    training = service.create_lora_training_client("tinkex/tiny", rank=8)
    text = list(range(97, 123)) * 20
    datums = [types.Datum(types.ModelInput.from_ints(text[:-1]), {"target_tokens": text[1:]}) for _ in range(8)]
    sampler = training.save_weights_and_get_sampling_client()
    prompts = [types.ModelInput.from_ints(text)] * 28
    end = time.monotonic() + seconds
    next_step = time.monotonic()
    while time.monotonic() < end:
        time.sleep(max(0.0, next_step - time.monotonic()))
        next_step += 1.0
        training.train_step(datums, "cross_entropy", types.AdamParams(1e-3))
        list(sampler.sample_many(prompts, 1, types.SamplingParams(max_tokens=2)))


def measure(base_url: str, seconds: float, with_page: bool, hook_cost: float) -> Tuple[float, float]:
    """Print the figures of one run; return the share of CPU time and how far the page was behind."""
    plugin = Counting()
    assert plugin.url is not None
    command = [sys.executable, __file__, "--read", plugin.url]
    page = subprocess.Popen(command, stdout=subprocess.PIPE) if with_page else None
    with ServiceClient(base_url=base_url, api_key="local", plugins=[plugin]) as service:
        began, cpu, own = time.monotonic(), time.process_time(), own_time()
        work(service, seconds)
        plugin.hurry()
        last, count = time.monotonic(), plugin.events
        elapsed, used = last - began, time.process_time() - cpu
        total = own_time() - own + count * hook_cost
        if page is not None and page.stdout is not None:
            shown = 0
            while shown < count:
                session, _, number = page.stdout.readline().decode().partition(" ")
                shown = int(number) if session == service.session_id else shown
        behind = time.monotonic() - last
    if page is not None:
        page.kill()
        page.communicate()
    print(
        f"{'with' if with_page else 'without'} an open page: {count / elapsed * 60:,.0f} events a minute, "
        f"{total / used:.2%} of the run's CPU time ({total / count * 1e6:.0f} microseconds an event), "
        f"{behind:.1f} s behind"
    )
    return total / used, behind


def main(seconds: float = 60.0) -> int:
    """Measure and print; return the exit status."""
    server = subprocess.Popen([sys.executable, "-m", "tinkex_sync.local"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        base_url = server.stdout.readline().split()[4]
        hook_cost = cost_of_a_hook()
        figures = [measure(base_url, seconds, with_page, hook_cost) for with_page in (False, True)]
    finally:
        server.terminate()
        server.communicate()
    return int(any(share > BUDGET or behind > BEHIND for share, behind in figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(sys.argv[2])
    else:
        sys.exit(main(*map(float, sys.argv[1:])))
