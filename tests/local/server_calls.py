"""Calls of the wire protocol with nothing but requests, for the tests of the embedded server."""

import threading
import time

import requests

ADAM = {"learning_rate": 1e-3}


def until(condition, timeout=20.0):
    """Wait until ``condition()`` is true, and return what it gave."""
    ends, tick = time.monotonic() + timeout, threading.Event()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < ends, "waited in vain"
        tick.wait(0.02)


def datum(text="hello world"):
    """A training example of a text, one token per byte."""
    tokens = list(text.encode())
    return {
        "loss_fn_inputs": {
            "target_tokens": {"data": tokens[1:], "dtype": "int64"},
            "weights": {"data": [1.0] * (len(tokens) - 1), "dtype": "float32"},
        },
        "model_input": {"chunks": [{"tokens": tokens[:-1]}]},
    }


class Wire:
    """One client of a server: its connection, session and counters."""

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
        """The raw answer."""
        return self.http.post(f"{self.root}/api/v1/{path}", json=body, headers=headers, timeout=60)

    def get(self, path, **query):
        return self.http.get(f"{self.root}/api/v1/{path}", params=query, timeout=60, allow_redirects=False)

    def ok(self, path, body, **headers):
        """The JSON of an answer that must be 200."""
        answer = self.post(path, body, **headers)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    def poll(self, promise):
        """The raw answer of one poll."""
        return self.post("retrieve_future", {"request_id": promise["request_id"]})

    def result(self, promise):
        """Poll until there is a result."""
        answer = until(lambda: next((a for a in [self.poll(promise)] if a.status_code != 408), None))
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    def session(self):
        return self.ok("create_session", {"tags": [], "user_metadata": {}, "sdk_version": "0.7.0"})[
            "session_id"
        ]

    def model(self, session=None, number=0, rank=4, seed=7, **more):
        """The id of a new training model."""
        body = {
            "session_id": session or self.session(),
            "model_seq_id": number,
            "base_model": "tinkex/tiny",
            "user_metadata": None,
            "lora_config": {"rank": rank, "seed": seed},
            **more,
        }
        return self.result(self.ok("create_model", body))["model_id"]

    def send(self, path, model, body, seq=None):
        """The promise of a training operation."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        return self.ok(path, {**body, "model_id": model, "seq_id": seq})

    def backward(self, model, data=None, seq=None, loss_fn="cross_entropy"):
        given = {"data": data or [datum()], "loss_fn": loss_fn, "loss_fn_config": None}
        return self.send("forward_backward", model, {"forward_backward_input": given}, seq)

    def loss(self, model):
        """The loss on one fixed example, without gradients."""
        given = {"data": [datum()], "loss_fn": "cross_entropy", "loss_fn_config": None}
        return self.result(self.send("forward", model, {"forward_input": given}))["metrics"]["loss:sum"]

    def step(self, model, **adam):
        return self.send("optim_step", model, {"adam_params": {**ADAM, **adam}})

    def learn(self, model):
        """One backward and one optimizer step."""
        self.backward(model)
        return self.result(self.step(model))

    def save(self, model, name, path="save_weights"):
        return self.result(self.send(path, model, {"path": name}))["path"]

    def sampler(self, session, number=0, **source):
        body = {
            "session_id": session,
            "sampling_session_seq_id": number,
            "base_model": None,
            "model_path": None,
        }
        return self.ok("create_sampling_session", {**body, **(source or {"base_model": "tinkex/tiny"})})[
            "sampling_session_id"
        ]

    def sample_body(self, sampler, seq, text="hello", **more):
        return {
            "num_samples": 1,
            "prompt": {"chunks": [{"tokens": list(text.encode())}]},
            "sampling_params": {"max_tokens": 4, "seed": 1, "temperature": 1.0},
            "sampling_session_id": sampler,
            "seq_id": seq,
            "prompt_logprobs": False,
            "topk_prompt_logprobs": 0,
            **more,
        }

    def sample(self, sampler, seq, **more):
        """The raw answer of an asample."""
        return self.post("asample", self.sample_body(sampler, seq, **more))
