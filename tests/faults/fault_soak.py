"""A soak: hours of simulated time with samples, training, heartbeats, pauses and 429s, and the memory meanwhile."""

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

from fault_workloads import ADAM, MODEL, PARAMS, descriptors, memory, own_threads

from tinkex_sync import ServiceClient, types
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.testing import Faults, LocalServer

__all__ = ["soak"]

#: Simulated seconds per second. Heartbeats, idle threads, pauses and pacing follow this clock.
SPEED = 100.0
#: Timeouts are real time too: with those of the defaults, a busy machine would look like a dead server.
SETTINGS = {"submit_timeout": 600.0, "read_timeout": 3_000.0, "retry_for": 3_600.0}
WORKERS = 8
#: What the server does in the first, second, third and fourth hour, and so on again.
WEATHER = (
    Faults(),
    Faults(admit_per_second=100.0, admit_burst=5, refusal_state="paused_rate_limit", refusal_reason="busy"),
    Faults(error_rate={"*": 0.05}, error_status=503),
    Faults(pause=1.0, pause_reason="maintenance"),
)
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints(list(range(1, 9))), loss_fn_inputs={"target_tokens": list(range(2, 10))}
)


class _Work:
    """What the workers do until the clock says that the time is over. Thread-safe."""

    def __init__(self, service: ServiceClient, clock: ScaledClock, ends: float) -> None:
        self._service, self._clock, self._ends = service, clock, ends
        self._lock = threading.Lock()
        self.done = {"samples": 0, "steps": 0, "clients": 0}

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self.done[name] += number

    def sample(self) -> None:
        """Sample in bursts of 20, with ten simulated minutes between them; a new client for every burst."""
        rest = threading.Event()
        while self._clock.time() < self._ends:
            sampler = self._service.create_sampling_client(base_model=MODEL)
            prompts = [types.ModelInput.from_ints([1 + number, 2]) for number in range(20)]
            self._count("samples", sum(1 for _ in sampler.sample_many(prompts, 1, PARAMS)))
            self._count("clients")
            rest.wait(self._clock.real(600.0))

    def train(self) -> None:
        """Train new models for five steps each, and save the last state."""
        number, rest = 0, threading.Event()
        while self._clock.time() < self._ends:
            training = self._service.create_lora_training_client(MODEL, rank=2, seed=number)
            for _ in range(5):
                training.train_step([DATUM], "cross_entropy", ADAM)
            training.save_state("end", ttl_seconds=600)
            self._count("steps", 5)
            self._count("clients")
            number += 1
            rest.wait(self._clock.real(1200.0))


def soak(hours: float) -> Dict[str, Any]:
    """Run for some simulated hours.

    Returns:
        ``rows``: [hour, memory in MiB, descriptors, threads] every six simulated minutes. ``done``: what was done.
        ``slope``: growth of memory over the second half in MiB per simulated hour.
    """
    clock = ScaledClock(SPEED)
    rows: List[List[float]] = []
    with LocalServer() as server:
        settings = {"api_key": "local", "load_plugins": False, "clock": clock, **SETTINGS}
        with ServiceClient(base_url=server.base_url, **settings) as service:
            began = clock.time()
            work = _Work(service, clock, began + hours * 3600.0)
            with ThreadPoolExecutor(WORKERS) as pool:
                jobs = [pool.submit(work.sample) for _ in range(WORKERS - 2)] + [
                    pool.submit(work.train) for _ in range(2)
                ]
                while not all(job.done() for job in jobs):
                    time.sleep(clock.real(360.0))
                    gc.collect()
                    hour = (clock.time() - began) / 3600.0
                    server.set_faults(WEATHER[int(hour) % len(WEATHER)])
                    rows.append([round(hour, 2), round(memory(), 2), descriptors(), own_threads()])
                for job in jobs:
                    job.result()
        ends = time.monotonic() + 10.0
        while own_threads() and time.monotonic() < ends:
            time.sleep(0.05)
        left = {"threads": own_threads(), "descriptors": descriptors()}
    half = [row for row in rows if row[0] >= hours / 2]
    mean = [sum(column) / len(half) for column in zip(*half)]
    above = sum((row[0] - mean[0]) * (row[1] - mean[1]) for row in half)
    slope = above / sum((row[0] - mean[0]) ** 2 for row in half)
    return {"hours": hours, "rows": rows, "done": work.done, "slope": round(slope, 3), "left": left, "pid": os.getpid()}
