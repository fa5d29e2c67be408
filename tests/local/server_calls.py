"""Requests to the embedded server, as plain HTTP and through the client, for its tests."""

import threading
import time

import requests

from tinkex_sync import Config, ServiceClient, types

ADAM = {"learning_rate": 1e-3}


def until(condition, timeout=20.0):
    """Wait until ``condition()`` is true. Return its value."""
    deadline, tick = time.monotonic() + timeout, threading.Event()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"the condition was not met within {timeout} s"
        tick.wait(0.02)


def datum(text="hello world"):
    """Return the JSON of a datum of a text, one token per byte."""
    tokens = list(text.encode())
    return {
        "loss_fn_inputs": {
            "target_tokens": {"data": tokens[1:], "dtype": "int64"},
            "weights": {"data": [1.0] * (len(tokens) - 1), "dtype": "float32"},
        },
        "model_input": {"chunks": [{"tokens": tokens[:-1]}]},
    }


def example(text="the quick brown fox", weight=1.0):
    """Return a datum of a text, one token per byte."""
    tokens = list(text.encode())
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [weight] * (len(tokens) - 1)},
    )


def connect(server, protocol="auto", **settings):
    """Return a service client of a server."""
    settings = {"api_key": "tml-k", "base_url": server.base_url, "protocol": protocol, **settings}
    return ServiceClient(config=Config(**settings))


def post_protobuf(wire, request, **headers):
    """Send a protobuf message, or its bytes, to forward_backward. Return the response."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    headers = {"Content-Type": "application/x-protobuf", **headers}
    return requests.post(f"{wire.root}/api/v1/forward_backward", body, headers=headers, timeout=60)


def counted_result(server, call):
    """Return the result of ``call(service)``, and by how much it increased the counters of the server."""
    before = server.stats()
    with connect(server) as service:
        value = call(service)
    after = server.stats()
    return value, {name: after[name] - before[name] for name in before if isinstance(before[name], int)}


class Wire:
    """Requests of one client: a connection, and the sequence numbers of its operations."""

    def __init__(self, server, **headers):
        self.root = server.base_url
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers.update(headers)
        self.seq = 0

    def close(self):
        self.http.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def post(self, path, body, **headers):
        """Send a POST. Return the response."""
        return self.http.post(f"{self.root}/api/v1/{path}", json=body, headers=headers, timeout=60)

    def get(self, path, **query):
        """Send a GET. Return the response."""
        return self.http.get(f"{self.root}/api/v1/{path}", params=query, timeout=60, allow_redirects=False)

    def ok(self, path, body, **headers):
        """Send a POST that must get 200. Return the JSON of the response."""
        response = self.post(path, body, **headers)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    def poll(self, future):
        """Poll once. Return the response."""
        return self.post("retrieve_future", {"request_id": future["request_id"]})

    def result(self, future):
        """Poll until there is a result. Return it."""
        response = until(lambda: next((r for r in [self.poll(future)] if r.status_code != 408), None))
        assert response.status_code == 200, (response.status_code, response.text)
        return response.json()

    def session(self):
        """Create a session. Return its id."""
        return self.ok("create_session", {"tags": [], "user_metadata": {}, "sdk_version": "0.7.0"})["session_id"]

    def model(self, session=None, number=0, rank=4, seed=7, **fields):
        """Create a training model. Return its id."""
        body = {
            "session_id": session or self.session(),
            "model_seq_id": number,
            "base_model": "tinkex/tiny",
            "user_metadata": None,
            "lora_config": {"rank": rank, "seed": seed},
            **fields,
        }
        return self.result(self.ok("create_model", body))["model_id"]

    def send(self, path, model, body, seq=None):
        """Submit a training operation. Return the server future."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        return self.ok(path, {**body, "model_id": model, "seq_id": seq})

    def backward(self, model, data=None, seq=None, loss_fn="cross_entropy"):
        """Submit a forward_backward. Return the server future."""
        fields = {"data": data or [datum()], "loss_fn": loss_fn, "loss_fn_config": None}
        return self.send("forward_backward", model, {"forward_backward_input": fields}, seq)

    def loss(self, model):
        """Return the loss on one fixed datum."""
        fields = {"data": [datum()], "loss_fn": "cross_entropy", "loss_fn_config": None}
        return self.result(self.send("forward", model, {"forward_input": fields}))["metrics"]["loss:sum"]

    def step(self, model, **adam):
        """Submit an optimizer step. Return the server future."""
        return self.send("optim_step", model, {"adam_params": {**ADAM, **adam}})

    def learn(self, model):
        """Run one forward_backward and one optimizer step."""
        self.backward(model)
        return self.result(self.step(model))

    def save(self, model, name, path="save_weights"):
        """Save a checkpoint. Return its path."""
        return self.result(self.send(path, model, {"path": name}))["path"]

    def sampler(self, session, number=0, **source):
        """Create a sampling session. Return its id."""
        body = {"session_id": session, "sampling_session_seq_id": number, "base_model": None, "model_path": None}
        return self.ok("create_sampling_session", {**body, **(source or {"base_model": "tinkex/tiny"})})[
            "sampling_session_id"
        ]

    def sample_body(self, sampler, seq, text="hello", **fields):
        """Return the body of an asample."""
        return {
            "num_samples": 1,
            "prompt": {"chunks": [{"tokens": list(text.encode())}]},
            "sampling_params": {"max_tokens": 4, "seed": 1, "temperature": 1.0},
            "sampling_session_id": sampler,
            "seq_id": seq,
            "prompt_logprobs": False,
            "topk_prompt_logprobs": 0,
            **fields,
        }

    def sample(self, sampler, seq, **fields):
        """Submit a sample. Return the response."""
        return self.post("asample", self.sample_body(sampler, seq, **fields))
