"""The work of the bench: samples and training operations, each checked against a run without faults."""

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from tinkex_sync import ServiceClient, types
from tinkex_sync.concurrency.clock import ScaledClock

__all__ = [
    "ADAM", "MODEL", "PARAMS", "SPEED", "Row", "descriptors", "expected", "memory", "own_threads", "run_sample_many",
    "run_samples_in_threads", "run_training",
]  # fmt: skip

#: Waits of minutes take seconds.
SPEED = 30.0
MODEL = "tinkex/tiny"
THREADS, CLIENTS, DIFFERENT = 64, 4, 50
PARAMS = types.SamplingParams(max_tokens=4, temperature=0.0)
ADAM = types.AdamParams(learning_rate=1e-3, weight_decay=0.01, grad_clip_norm=1.0)


class Row(NamedTuple):
    """What one workload did under one fault."""

    work: str
    operations: int
    #: Operations whose answer is missing, wrong or at another place.
    lost: int
    #: Operations that the server carried out more often than once.
    doubled: int
    seconds: float
    #: HTTP requests, and those of them that a fault hit.
    requests: int
    hit: int
    threads_left: int
    sockets_left: int
    #: Growth of this process's memory, in MiB.
    memory: float = 0.0


def _client(base_url: str, **settings: Any) -> ServiceClient:
    settings.update(api_key="local", load_plugins=False, clock=ScaledClock(SPEED), timeout=36_000.0)
    # Timeouts are real time too: with those of the defaults, a busy machine would look like a dead server.
    settings.update(submit_timeout=600.0, read_timeout=3_000.0, retry_for=3_600.0, poll_retry_for=9_000.0)
    return ServiceClient(base_url=base_url, **settings)


def _prompts(count: int) -> List[types.ModelInput]:
    return [types.ModelInput.from_ints([1 + number % DIFFERENT, 2, 3]) for number in range(count)]


def _tokens(response: types.SampleResponse) -> List[int]:
    return list(response.sequences[0].tokens)


def _datum(number: int) -> types.Datum:
    tokens = [1 + (number * 7 + place) % 200 for place in range(9)]
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:]}
    )


def expected(base_url: str, steps: int) -> Dict[str, Any]:
    """Return the results of a run without faults: the tokens for each prompt, and what training ends with."""
    with _client(base_url) as service:
        sampler = service.create_sampling_client(base_model=MODEL)
        tokens = [_tokens(sampler.sample(prompt, 1, PARAMS)) for prompt in _prompts(DIFFERENT)]
        ends = [_train(service, number, steps) for number in range(CLIENTS)]
    return {"tokens": tokens, "ends": ends}


class _Check:
    """Counts what a workload leaves behind, and what the server did more often than once."""

    def __init__(self, server: Any, counters: str) -> None:
        self._server, self._counters = server, counters.split()
        self._before = self._done()
        self._threads, self._sockets, self._memory = own_threads(), descriptors(), memory()
        self._started = time.monotonic()

    def _done(self) -> int:
        stats = self._server.stats()
        return sum(stats[name] for name in self._counters)

    def row(self, work: str, operations: int, lost: int, counts: Dict[str, int]) -> Row:
        seconds = time.monotonic() - self._started
        gc.collect()
        ends, tick = time.monotonic() + 10.0, threading.Event()
        while (own_threads() > self._threads or descriptors() > self._sockets) and time.monotonic() < ends:
            tick.wait(0.05)
            gc.collect()  # A thread that was ending may have kept objects alive before.
        doubled = max(self._done() - self._before - operations, 0)
        left = max(own_threads() - self._threads, 0), max(descriptors() - self._sockets, 0)
        requests = counts.pop("requests", 0)
        grown = memory() - self._memory
        return Row(work, operations, lost, doubled, seconds, requests, sum(counts.values()), *left, grown)


def own_threads() -> int:
    return sum(thread.name.startswith("tinkex-") for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208


def memory() -> float:
    """Return the resident memory of this process in MiB; 0 where the system does not show it."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_samples_in_threads(proxy: Any, server: Any, fault: str, count: int, right: Dict[str, Any]) -> Row:
    """Sample ``count`` prompts from 64 threads that share a sampling client."""
    check = _Check(server, "samples_done")
    with _client(proxy.base_url) as service:
        proxy.inject(fault)
        sampler = service.create_sampling_client(base_model=MODEL)
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda prompt: _tokens(sampler.sample(prompt, 1, PARAMS)), _prompts(count)))
        counts = proxy.inject(None)
    lost = sum(tokens != right["tokens"][number % DIFFERENT] for number, tokens in enumerate(found))
    return check.row(f"samples, {THREADS} threads", count, lost + count - len(found), counts)


def run_sample_many(proxy: Any, server: Any, fault: str, count: int, right: Dict[str, Any]) -> Row:
    """Sample ``count`` prompts with ``sample_many`` from one thread."""
    check = _Check(server, "samples_done")
    with _client(proxy.base_url) as service:
        proxy.inject(fault)
        sampler = service.create_sampling_client(base_model=MODEL)
        found = [_tokens(response) for response in sampler.sample_many(_prompts(count), 1, PARAMS)]
        counts = proxy.inject(None)
    lost = sum(tokens != right["tokens"][number % DIFFERENT] for number, tokens in enumerate(found))
    return check.row("samples, sample_many", count, lost + count - len(found), counts)


def _train(service: ServiceClient, number: int, steps: int) -> Any:
    """Train one model for some steps and return the log probabilities that it ends with."""
    training = service.create_lora_training_client(MODEL, rank=4, seed=number)
    for step in range(steps):
        training.train_step([_datum(number + step)], "cross_entropy", ADAM)
    output = training.forward([_datum(number)], "cross_entropy")
    return [list(one["logprobs"].data) for one in output.loss_fn_outputs]


def run_training(proxy: Any, server: Any, fault: str, operations: int, right: Dict[str, Any]) -> Row:
    """Train four models at the same time; two operations are one step. The results must be equal to the bit."""
    steps = operations // 2 // CLIENTS
    check = _Check(server, "optim_steps datums_done")
    with _client(proxy.base_url) as service, ThreadPoolExecutor(CLIENTS) as pool:
        proxy.inject(fault)
        calls = [pool.submit(_train, service, number, steps) for number in range(CLIENTS)]
        ends = [call.result() for call in calls]
        counts = proxy.inject(None)
    # The last forward pass of each client is one more datum.
    done = steps * 2 * CLIENTS + CLIENTS
    wrong = sum(found != one for found, one in zip(ends, right["ends"]))
    return check.row(f"training, {CLIENTS} clients", done, wrong, counts)
