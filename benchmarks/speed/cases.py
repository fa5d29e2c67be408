"""The measurements. Each runs in a process of its own: ``python -m speed.cases NAME '{"client": "ours", ...}'``.

The process prints one JSON object of figures. Times are in seconds and memory is in MiB.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

Figures = Dict[str, Any]
#: The packages that importing tinkex_sync imports.
DEPENDENCIES = ("requests", "pluggy", "tenacity", "dataclasses_json", "orjson")


def samples(client: str, count: int, latency: float = 0.0, tls: bool = False, threads: int = 1, **_: Any) -> Figures:
    """Submit samples all at once and wait for their results. Bare loops divide them among threads."""
    from .clients import BARE, PROMPT_TOKENS, PROMPTS, Sdk, bare_post, bare_sample, in_threads, token_lists
    from .measure import Meter, Stub

    with Stub(tls=tls, latency=latency) as stub:
        if client.split()[0] in BARE:
            post, prompts = bare_post(client.split()[0], stub.url), token_lists(PROMPTS, PROMPT_TOKENS)
            bare_sample(post, prompts[0])
            stub.configure()
            with Meter() as meter:
                lengths = in_threads(lambda index: bare_sample(post, prompts[index % PROMPTS]), count, threads)
        else:
            sdk = Sdk(client, stub.url)
            sampler, prompts, params = sdk.sampler(), sdk.prompts(), sdk.params()
            for _ in range(3):
                sampler.sample(prompts[0], 1, params).result(60)
            stub.configure()
            with Meter() as meter:
                futures = [sampler.sample(prompts[index % PROMPTS], 1, params) for index in range(count)]
                lengths = [len(future.result(300).sequences[0].tokens) for future in futures]
        assert lengths == [64] * count
        return _per_sample(meter, stub, count)


def _per_sample(meter: Any, stub: Any, count: int) -> Figures:
    stats = stub.stats()
    del stats["heartbeats"]
    rates = {"cpu_ms": 1e3 * meter.figures["cpu"] / count, "rate": count / meter.figures["wall"]}
    return {**meter.figures, **rates, **stats}


def loop(client: str, count: int, tls: bool = False, **_: Any) -> Figures:
    """One caller, which waits for each sample."""
    from .clients import PROMPTS, Sdk
    from .measure import Meter, Stub

    with Stub(tls=tls) as stub:
        sdk = Sdk(client, stub.url)
        sampler, prompts, params = sdk.sampler(), sdk.prompts(), sdk.params()
        sampler.sample(prompts[0], 1, params).result(60)
        stub.configure()
        times = []
        with Meter() as meter:
            for index in range(count):
                begun = time.perf_counter()
                sampler.sample(prompts[index % PROMPTS], 1, params).result(60)
                times.append(time.perf_counter() - begun)
        times.sort()
        return {**_per_sample(meter, stub, count), "p50_ms": 1e3 * times[count // 2]}


def training(client: str, datums: int, tokens: int, arrays: bool, **_: Any) -> Figures:
    """Make datums of lists or arrays, and run one forward_backward. The bare loop sends the same with orjson."""
    from .clients import Sdk, bare_post, token_lists
    from .measure import Meter, Stub

    ids = token_lists(8, tokens)
    weights: List[Any] = [[round((index * 37 % 1000) / 999, 6) for index in range(tokens)] for _ in ids]
    targets: List[Any] = ids
    if arrays:
        import numpy

        targets = [numpy.array(one, dtype=numpy.int64) for one in ids]
        weights = [numpy.array(one, dtype=numpy.float32) for one in weights]
    with Stub(logprobs=tokens) as stub:
        if client == "orjson":
            post = bare_post("urllib3", stub.url)
            _bare_pass(post, 1, ids, targets, weights)
            with Meter() as meter:
                received = _bare_pass(post, datums, ids, targets, weights)
        else:
            sdk = Sdk(client, stub.url)
            trainer = sdk.trainer()
            first = sdk.datum(ids[0], target_tokens=targets[0], weights=weights[0])
            trainer.forward_backward([first], "cross_entropy").result(60)
            with Meter() as meter:
                data = [
                    sdk.datum(ids[index % 8], target_tokens=targets[index % 8], weights=weights[index % 8])
                    for index in range(datums)
                ]
                result = trainer.forward_backward(data, "cross_entropy").result(300)
            received = sum(len(output["logprobs"].data) for output in result.loss_fn_outputs)
        assert received == datums * tokens, received
        return {**meter.figures, "requests": stub.stats()["requests"]}


def _bare_pass(post: Any, datums: int, ids: List[Any], targets: List[Any], weights: List[Any]) -> int:
    import orjson

    length = len(ids[0])
    per_request = max(1, min(1024, 5_000_000 // (30 * length)))
    received = 0
    for start in range(0, datums, per_request):
        data = []
        for index in range(start, min(start + per_request, datums)):
            prompt = {"chunks": [{"tokens": ids[index % 8], "type": "encoded_text"}]}
            inputs = {
                "target_tokens": {"data": targets[index % 8], "dtype": "int64", "shape": [length]},
                "weights": {"data": weights[index % 8], "dtype": "float32", "shape": [length]},
            }
            data.append({"model_input": prompt, "loss_fn_inputs": inputs})
        request = {"forward_backward_input": {"data": data, "loss_fn": "cross_entropy"}, "model_id": "bench:train:0"}
        body = orjson.dumps({**request, "seq_id": 1}, option=orjson.OPT_SERIALIZE_NUMPY)
        promise = orjson.loads(post("/api/v1/forward_backward", body))
        poll = orjson.dumps({"request_id": promise["request_id"]})
        result = orjson.loads(post("/api/v1/retrieve_future", poll))
        received += sum(len(output["logprobs"]["data"]) for output in result["loss_fn_outputs"])
    return received


_IMPORT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
lines = open("/proc/self/status").read().splitlines()
print(wall, cpu, *[int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")])
"""


def imports(client: str, **_: Any) -> Figures:
    """Import the client's two main names, or the dependencies alone, in a process that has imported nothing else."""
    statement = f"import {', '.join(DEPENDENCIES)}"
    if client != "dependencies":
        statement = f"from {'tinkex_sync' if client == 'ours' else 'tinker'} import ServiceClient, types"
    code = _IMPORT.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(("wall", "cpu", "rss"), map(float, done.stdout.split())))


def size(client: str, **_: Any) -> Figures:
    """Add the disk space of the files of a distribution and of all it requires, with bytecode and without extras."""
    found: Dict[str, float] = {}
    missing = ["tinkex-sync" if client == "ours" else "tinker"]
    while missing:
        name = re.sub(r"[-_.]+", "-", missing.pop()).lower()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        # A second row of the same path has no second file.
        files = {Path(str(file.locate())) for file in distribution.files or ()}
        found[name] = sum(512 * path.stat().st_blocks for path in files if path.is_file()) / 2**20
        required = [line for line in distribution.requires or () if "extra ==" not in line]
        missing += [re.match(r"[\w.-]+", line)[0] for line in required]  # type: ignore[index]
    largest = sorted(found, key=lambda name: -found[name])[:5]
    return {
        "size": sum(found.values()),
        "distributions": len(found),
        "largest": ", ".join(f"{name} {found[name]:.1f}" for name in largest),
    }


def many(client: str, count: int, threads: int = 0, **_: Any) -> Figures:
    """Sample short prompts with sample_many, or with a number of threads; ``half``: growth after the first half."""
    from tinkex_sync import ServiceClient, types

    from .clients import in_threads
    from .measure import Meter, Stub, rss

    with Stub(tokens=4) as stub, ServiceClient(base_url=stub.url, api_key="tml-bench", load_plugins=False) as service:
        sampler = service.create_sampling_client(base_model="bench")
        prompt, params = types.ModelInput.from_ints([1, 2, 3, 4]), types.SamplingParams(max_tokens=4)
        list(sampler.sample_many([prompt] * 64, 1, params))
        stub.configure()
        middle: List[float] = []

        def sample(index: int) -> None:
            sampler.sample(prompt, 1, params)
            if index == count // 2:
                middle.append(rss())

        with Meter() as meter:
            if threads:
                for start in range(0, count, 10_000):  # each call returns a list of its results
                    in_threads(lambda index, start=start: sample(start + index), min(10_000, count - start), threads)  # type: ignore[misc]
            else:
                prompts = itertools.repeat(prompt, count)
                for index, _ in enumerate(sampler.sample_many(prompts, 1, params)):
                    if index == count // 2:
                        middle.append(rss())
        return {**_per_sample(meter, stub, count), "half": rss() - middle[0]}


def plan(client: str, count: int, **_: Any) -> Figures:
    """Plan a number of datums, produced one by one, into chunks."""
    from tinkex_sync import types
    from tinkex_sync.protocol.byte_estimates import datum_bytes
    from tinkex_sync.training.chunking import plan as plan_chunks

    from .measure import Meter

    ids = list(range(100))
    datum = types.Datum(types.ModelInput.from_ints(ids), {"target_tokens": ids, "weights": [1.0] * 100})
    produced: Iterator[types.Datum] = itertools.repeat(datum, count)
    with Meter() as meter:
        chunks = sum(1 for _ in plan_chunks(map(datum_bytes, produced)))
    return {**meter.figures, "chunks": chunks, "seconds_per_million": 1e6 * meter.figures["cpu"] / count}


def callers(client: str, count: int, callers: int, latency: float = 0.0, **_: Any) -> Figures:
    """Divide samples among concurrent callers, each a thread that waits for its sample."""
    from .clients import PROMPTS, Sdk, in_threads
    from .measure import Meter, Stub

    with Stub(latency=latency) as stub:
        sdk = Sdk(client, stub.url)
        sampler, prompts, params = sdk.sampler(), sdk.prompts(), sdk.params()
        sampler.sample(prompts[0], 1, params).result(60)
        stub.configure()
        with Meter() as meter:
            in_threads(lambda index: sampler.sample(prompts[index % PROMPTS], 1, params).result(300), count, callers)
        return _per_sample(meter, stub, count)


def greenlets(client: str, count: int, latency: float, **_: Any) -> Figures:
    """Let greenlets wait for one sample each. gevent has patched the standard library before."""
    import gevent

    from tinkex_sync import ServiceClient, types

    from .measure import Meter, Stub

    with (
        Stub(latency=latency) as stub,
        ServiceClient(base_url=stub.url, api_key="tml-bench", load_plugins=False) as service,
    ):
        sampler = service.create_sampling_client(base_model="bench")
        prompt, params = types.ModelInput.from_ints(list(range(512))), types.SamplingParams(max_tokens=64)
        sampler.sample(prompt, 1, params)
        stub.configure()
        with Meter() as meter:
            jobs = [gevent.spawn(sampler.sample, prompt, 1, params) for _ in range(count)]
            gevent.joinall(jobs, raise_error=True)
        return _per_sample(meter, stub, count)


def heartbeats(client: str, datums: int, tokens: int, **_: Any) -> Figures:
    """Send a large batch while heartbeats are sent every 20 ms; compare their gaps with those of an idle client."""
    import numpy

    from tinkex_sync import ServiceClient, types

    from .clients import token_lists
    from .measure import Stub

    interval = 0.02
    ids = token_lists(1, tokens)[0]
    targets = numpy.array(ids, dtype=numpy.int64)
    weights = numpy.linspace(0, 1, tokens, dtype=numpy.float32)
    with (
        Stub(logprobs=1) as stub,
        ServiceClient(
            base_url=stub.url, api_key="tml-bench", load_plugins=False, heartbeat_interval=interval
        ) as service,
    ):
        training = service.create_lora_training_client("bench", rank=32)
        data = [
            types.Datum(types.ModelInput.from_ints(ids), {"target_tokens": targets, "weights": weights})
            for _ in range(datums)
        ]
        stub.configure()
        begun = time.monotonic()
        training.forward_backward(data, "cross_entropy")
        seconds = time.monotonic() - begun
        busy = stub.stats()["heartbeats"]
        stub.configure()
        threading.Event().wait(max(1.0, seconds))
        idle = stub.stats()["heartbeats"]
    figures: Figures = {"wall": seconds, "heartbeats": len(busy)}
    for name, times in (("busy", busy), ("idle", idle)):
        late = sorted(1e3 * (after - before - interval) for before, after in zip(times, times[1:])) or [0.0]
        figures[f"{name}_p50_ms"] = late[len(late) // 2]
        figures[f"{name}_p99_ms"] = late[min(len(late) - 1, int(0.99 * len(late)))]
    return {**figures, "later_ms": figures["busy_p99_ms"] - figures["idle_p99_ms"]}


def backpressure(client: str, rate: float, depth: int, response: float, seconds: float, **_: Any) -> Figures:
    """Submit samples to a server that accepts them by token bucket; the ideal takes ``seconds`` and one response."""
    from .clients import PROMPTS, Sdk
    from .measure import Meter, Stub

    count = depth + int(rate * seconds)
    with Stub() as stub:
        sdk = Sdk(client, stub.url)
        sampler, prompts, params = sdk.sampler(), sdk.prompts(), sdk.params()
        sampler.sample(prompts[0], 1, params).result(60)
        stub.configure(rate=rate, depth=depth, response=response)
        with Meter() as meter:
            futures = [sampler.sample(prompts[index % PROMPTS], 1, params) for index in range(count)]
            for future in futures:
                future.result(300)
        ideal = int(rate * seconds) / rate + response
        figures = _per_sample(meter, stub, count)
        return {**figures, "over": figures["wall"] / ideal, "rejections": figures["rejected"] / count}


CASES: Dict[str, Callable[..., Figures]] = {
    one.__name__: one
    for one in (
        samples, loop, training, imports, size, many, plan, callers, greenlets, heartbeats, backpressure,
    )
}  # fmt: skip


def main() -> None:
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    if name == "greenlets":
        from gevent import monkey

        monkey.patch_all()
    print(json.dumps(CASES[name](**settings)), flush=True)
    # The official SDKs' threads would delay the end.
    os._exit(0)


if __name__ == "__main__":
    main()
