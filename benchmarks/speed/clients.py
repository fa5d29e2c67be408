"""The clients that are measured, with one set of methods: ours, the official SDKs, and bare loops of HTTP requests.

tinkex_sync is called through `tinkex_sync.compat`, which has the methods of the official SDK.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import threading
from typing import Any, Callable, Dict, List, Sequence

BARE = ("adapter", "urllib3")
PROMPTS, PROMPT_TOKENS = 64, 512


def token_lists(count: int, length: int) -> List[List[int]]:
    """Return lists of token ids, the same in every run."""
    return [[(7919 * (index * length + place)) % 151_000 for place in range(length)] for index in range(count)]


class Sdk:
    """One SDK with a session on a server."""

    def __init__(self, client: str, url: str) -> None:
        name = "tinkex_sync.compat" if client.startswith("ours") else "tinker"
        self.module = importlib.import_module(name)
        self.types = self.module.types
        logging.getLogger(name).setLevel(logging.ERROR)
        self.service = self.module.ServiceClient(base_url=url, api_key="tml-bench")

    def sampler(self) -> Any:
        return self._now(self.service.create_sampling_client(base_model="bench"))

    def trainer(self) -> Any:
        return self._now(self.service.create_lora_training_client(base_model="bench", rank=32))

    @staticmethod
    def _now(client: Any) -> Any:
        # In 0.38.0 the client is also a future of itself.
        return client.result() if hasattr(client, "result") else client

    def prompts(self) -> List[Any]:
        return [self.types.ModelInput.from_ints(tokens) for tokens in token_lists(PROMPTS, PROMPT_TOKENS)]

    def params(self) -> Any:
        return self.types.SamplingParams(max_tokens=64, temperature=1.0)

    def datum(self, tokens: Sequence[int], **inputs: Any) -> Any:
        return self.types.Datum(model_input=self.types.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)


Post = Callable[[str, bytes], bytes]
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "X-API-Key": "tml-bench"}


def bare_post(library: str, url: str) -> Post:
    """Return a function that sends a POST and returns the body of the response, from any thread."""
    if library == "urllib3":
        import urllib3

        pool = urllib3.connection_from_url(url, maxsize=2048)
        return lambda path, body: bytes(pool.urlopen("POST", path, body=body, headers=_HEADERS).data)
    import requests

    adapter = requests.adapters.HTTPAdapter(pool_maxsize=2048)
    headers = requests.structures.CaseInsensitiveDict(_HEADERS)

    def post(path: str, body: bytes) -> bytes:
        prepared = requests.models.PreparedRequest()
        prepared.method, prepared.url, prepared.body = "POST", url + path, body
        prepared.headers = headers.copy()
        prepared.headers["Content-Length"] = str(len(body))
        return bytes(adapter.send(prepared, timeout=60).content)

    return post


def bare_sample(post: Post, tokens: List[int]) -> int:
    """Send and poll one sample; return the number of its tokens."""
    import orjson

    params: Dict[str, Any] = {"max_tokens": 64, "temperature": 1.0, "top_k": -1, "top_p": 1.0}
    prompt = {"chunks": [{"tokens": tokens, "type": "encoded_text"}]}
    request = {"num_samples": 1, "prompt": prompt, "sampling_params": params, "sampling_session_id": "bench:sample:0"}
    promise = orjson.loads(post("/api/v1/asample", orjson.dumps({**request, "seq_id": 1, "type": "sample"})))
    result = orjson.loads(post("/api/v1/retrieve_future", orjson.dumps({"request_id": promise["request_id"]})))
    return len(result["sequences"][0]["tokens"])


def in_threads(work: Callable[[int], Any], count: int, threads: int) -> List[Any]:
    """Return the results of ``work(index)`` for each index, computed by a number of threads, in any order."""
    indices = itertools.count()
    results: List[Any] = []

    def run() -> None:
        for index in indices:  # next() of a count is atomic
            if index >= count:
                return
            results.append(work(index))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results
