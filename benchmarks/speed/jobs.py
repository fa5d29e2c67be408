"""The parts of the benchmark: which case runs with which client and settings, and the figures of each part.

``SIZES`` are the sizes of the recorded run, ``TINY`` those of the test that runs every part.
"""

from __future__ import annotations

import itertools
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

OURS, OLD, NEW = "ours", "0.7.0", "0.38.0"
SDKS = (OURS, OLD, NEW)

Sizes = Dict[str, Any]
SIZES: Sizes = {
    "samples": 2000,
    "slow": 1.0,
    "loop": 400,
    "shapes": [(1024, 1000, False), (64, 32000, True)],
    "threads": 256,
    "many": [100, 1000, 10_000, 30_000],
    "plan": [64, 1000, 10_000, 100_000, 1_000_000],
    "callers": [1, 10, 100, 500, 1000, 2000],
    "polls": 2000,
    "hold": 8.0,
    "greenlets": 5000,
    "heavy": (1600, 2000),
    "rates": [10, 50, 500],
    "depths": [1, 5, 50],
    "responses": [0.0, 0.1, 1.0],
    "seconds": 3.0,
}
TINY: Sizes = {
    **SIZES,
    "samples": 20,
    "slow": 0.05,
    "loop": 10,
    "shapes": [(4, 10, False), (2, 20, True)],
    "threads": 4,
    "many": [40],
    "plan": [64],
    "callers": [4],
    "polls": 20,
    "hold": 0.2,
    "greenlets": 20,
    "heavy": (4, 100),
    "rates": [100],
    "depths": [5],
    "responses": [0.0],
    "seconds": 0.2,
}
#: ``--full``: the largest sizes, which take hours.
FULL: Sizes = {**SIZES, "many": [100, 1000, 10_000, 100_000, 1_000_000]}


class Job(NamedTuple):
    """One measurement: its row and column in the tables of its part, and what to run."""

    row: str
    client: str
    case: str
    settings: Dict[str, Any]
    #: Variables of the environment.
    variables: Tuple[Tuple[str, str], ...] = ()


def _samples(sizes: Sizes) -> Iterator[Job]:
    count, slow = sizes["samples"], sizes["slow"]
    for latency in (0.0, slow):
        row = f"{count} samples at once, results after {1000 * latency:g} ms"
        for client in SDKS:
            yield Job(row, client, "samples", {"count": count, "latency": latency})
        for library, threads in itertools.product(("adapter", "urllib3"), (count,) if latency else (1, 16)):
            yield Job(row, f"{library} {threads}", "samples", {"count": count, "latency": latency, "threads": threads})
    for client in SDKS:
        yield Job(f"one caller, {sizes['loop']} samples", client, "loop", {"count": sizes["loop"]})


def _training(sizes: Sizes) -> Iterator[Job]:
    for datums, tokens, arrays in sizes["shapes"]:
        row = f"{datums} x {tokens}, {'arrays' if arrays else 'lists'}"
        settings = {"datums": datums, "tokens": tokens, "arrays": arrays}
        for client, protocol in (("ours protobuf", "0.38"), ("ours JSON", "0.7")):
            yield Job(row, client, "training", settings, (("TINKEX_SYNC_PROTOCOL", protocol),))
        for client in (OLD, NEW, "orjson"):
            yield Job(row, client, "training", settings)


def _imports(_: Sizes) -> Iterator[Job]:
    for client in (OURS, "dependencies", OLD, NEW):
        yield Job("import", client, "imports", {})


def _size(_: Sizes) -> Iterator[Job]:
    for client in SDKS:
        yield Job("size", client, "size", {})


def _tls(sizes: Sizes) -> Iterator[Job]:
    count = sizes["samples"]
    for tls in (False, True):
        name = ", TLS" if tls else ""
        for client in SDKS:
            yield Job(f"{count} samples at once{name}", client, "samples", {"count": count, "tls": tls})
            yield Job(
                f"one caller, {sizes['loop']} samples{name}", client, "loop", {"count": sizes["loop"], "tls": tls}
            )
        settings = {"count": count, "latency": sizes["slow"], "tls": tls}
        yield Job(f"{count} samples, {1000 * sizes['slow']:g} ms{name}", OURS, "samples", settings)
        settings = {"count": count // 2, "callers": sizes["threads"], "tls": tls}
        yield Job(f"{count // 2} samples of {sizes['threads']} threads{name}", OURS, "callers", settings)


def _scale(sizes: Sizes) -> Iterator[Job]:
    for count in sizes["many"]:
        yield Job(f"sample_many {count}", OURS, "many", {"count": count})
        yield Job(f"64 threads {count}", OURS, "many", {"count": count, "threads": 64})
    for count in sizes["plan"]:
        yield Job(f"plan {count}", OURS, "plan", {"count": count})
    for callers in sizes["callers"]:
        yield Job(f"callers {callers}", OURS, "callers", {"count": sizes["samples"], "callers": callers})
    for client in SDKS:
        yield Job("polls", client, "samples", {"count": sizes["polls"], "latency": sizes["hold"]})
    yield Job("gevent", OURS, "greenlets", {"count": sizes["greenlets"], "latency": sizes["hold"]})
    datums, tokens = sizes["heavy"]
    for protocol, encoding in (("0.38", "protobuf"), ("0.7", "JSON")):
        settings = {"datums": datums, "tokens": tokens}
        yield Job(f"heartbeats {encoding}", OURS, "heartbeats", settings, (("TINKEX_SYNC_PROTOCOL", protocol),))


def _backpressure(sizes: Sizes) -> Iterator[Job]:
    for rate, depth, response in itertools.product(sizes["rates"], sizes["depths"], sizes["responses"]):
        settings = {"rate": rate, "depth": depth, "response": response, "seconds": sizes["seconds"]}
        for client in SDKS:
            yield Job(f"{rate} {depth} {1000 * response:g}", client, "backpressure", settings)


class Part(NamedTuple):
    """A part: its jobs by sizes, the repetitions of a recorded run, and how many jobs may run concurrently."""

    jobs: Any
    repetitions: int = 5
    #: More than one only where the client waits most of the time.
    concurrent: int = 1

    def list_jobs(self, sizes: Sizes) -> List[Job]:
        return list(self.jobs(sizes))


PARTS: Dict[str, Part] = {
    "samples": Part(_samples),
    "training": Part(_training),
    "import": Part(_imports),
    "size": Part(_size, 1),
    "tls": Part(_tls, 3),
    "scale": Part(_scale, 1),
    "backpressure": Part(_backpressure, 1, 6),
}
