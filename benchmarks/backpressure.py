"""Measure sampling with real threads and real HTTP, against a server that limits requests with a token bucket.

    python benchmarks/backpressure.py                  # the two default tasks
    python benchmarks/backpressure.py --all            # other rates, buckets and response times
    python benchmarks/backpressure.py --rate 50 --bucket 5 --samples 200 --response 0.1 --callers 64

The script prints one line per run: the seconds, the ideal time `(samples - bucket) / rate + response`, their ratio, and
the rejected sends (429) per sample.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from typing import Callable, Iterator, List, NamedTuple

from token_bucket_stub import TokenBucketServer

from tinkex_sync import ServiceClient, types

PROMPT_TOKENS = 512
NAMED = [(50, 50, 500, 0.0), (50, 5, 200, 0.0)]
OTHER = [
    (5, 1, 30, 0.0),
    (5, 5, 50, 0.1),
    (50, 1, 300, 0.0),
    (50, 50, 500, 0.1),
    (50, 5, 200, 1.0),
    (200, 5, 1000, 0.001),
    (200, 50, 1500, 0.01),
    (500, 1, 2000, 0.0),
    (500, 50, 3000, 0.001),
    (500, 500, 4000, 0.01),
]


class Result(NamedTuple):
    seconds: float
    ideal: float
    refused: float
    finished: int


def run_threads(work: Callable[[], None], samples: int, callers: int) -> int:
    """Call `work` `samples` times from `callers` threads; how many calls returned."""
    tickets: Iterator[int] = iter(range(samples))
    lock = threading.Lock()
    finished: List[int] = []

    def caller() -> None:
        while True:
            with lock:
                ticket = next(tickets, None)
            if ticket is None:
                return
            work()
            finished.append(ticket)

    threads = [threading.Thread(target=caller) for _ in range(min(callers, samples))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(finished)


def measure(server: TokenBucketServer, rate: float, bucket: int, samples: int, response: float, callers: int) -> Result:
    prompt = types.ModelInput.from_ints(list(range(100_000, 100_000 + PROMPT_TOKENS)))
    params = types.SamplingParams(max_tokens=1)
    # Each task gets a client of its own, which remembers no earlier backoff.
    with ServiceClient(base_url=f"http://127.0.0.1:{server.port}", api_key="bench", load_plugins=False) as service:
        sampler = service.create_sampling_client(base_model="bench")
        server.set(rate=rate, bucket=bucket, response=response)
        begun = time.perf_counter()
        if callers == 0:
            finished = sum(1 for _ in sampler.sample_many([prompt] * samples, 1, params))
        else:
            finished = run_threads(lambda: sampler.sample(prompt, 1, params), samples, callers)
        seconds = time.perf_counter() - begun
    ideal = max(0.0, (samples - bucket) / rate) + response
    return Result(seconds, ideal, server.counts()["refused"] / samples, finished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also other rates, buckets and response times")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--bucket", type=int, default=1)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--response", type=float, default=0.0, help="seconds until the server responds to an asample")
    parser.add_argument(
        "--callers", type=int, action="append", help="threads; 0: sample_many from one; default 64, 500 and 0"
    )
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    if args.rate is not None:
        tasks = [(args.rate, args.bucket, args.samples, args.response)]
    else:
        tasks = NAMED + (OTHER if args.all else [])
    print("rate/s  bucket  samples  response  callers  seconds    ideal  x ideal  refused/sample   load")
    with TokenBucketServer() as server:
        for (rate, bucket, samples, response), callers, _ in itertools.product(
            tasks, args.callers or [64, 500, 0], range(args.repeat)
        ):
            result = measure(server, rate, bucket, samples, response, callers)
            print(
                f"{rate:6g}  {bucket:6d}  {samples:7d}  {response:8g}  {callers:7d}  {result.seconds:7.2f}"
                f"  {result.ideal:7.2f}  {result.seconds / result.ideal:7.2f}  {result.refused:14.3f}"
                f"  {os.getloadavg()[0]:5.2f}",
                flush=True,
            )
            if result.finished != samples:
                sys.exit(f"only {result.finished} of {samples} samples finished")


if __name__ == "__main__":
    main()
