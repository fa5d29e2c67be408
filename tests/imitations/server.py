"""A small real HTTP server that behaves like one column, and can be told what to do with which request."""

import json
import socket
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["TRAINING", "Imitation"]

#: Operations that carry a number of their model.
TRAINING = (
    "forward",
    "forward_backward",
    "optim_step",
    "save_weights",
    "load_weights",
    "save_weights_for_sampler",
)
_HOLD = 20.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        """Clients hang up; that is what these servers are for."""


class Imitation:
    """One server; a context manager.

    What happens to requests is scripted: ``script[endpoint]`` (or ``script["training"]`` for all operations with
    numbers) is a list with one entry per request as they arrive. None: nothing special. "before", "after":
    the connection is dropped with the request unseen, or done. "silent": no answer. "drip": the answer comes a
    byte at a time and never ends. (status, body) or (status, body, headers): that answer.

    While ``ready`` is clear nothing has a result, and polls are held.
    """

    def __init__(self, column, key="tml-key", hold=_HOLD):
        self.column, self.key, self.hold = column, key, hold
        self.script = defaultdict(list)
        self.ready = threading.Event()
        self.ready.set()
        #: Polls of a training operation's number that are answered 410 from now on.
        self.expires = {}
        #: Numbers whose operations fail.
        self.fails = set()
        self.changed = threading.Condition()
        #: Everything below is guarded by ``changed``.
        self.arrived = []  # (endpoint, seq_id, idempotency key, body)
        self.applied = []  # (seq_id, endpoint), in the order of taking effect
        self.sampled = []  # (sampling session, seq_id)
        self.polls = 0
        self.most_polls = 0
        self.keys_seen = set()
        self._promises = {}  # request_id: (operation, seq_id, body)
        self._by_number = {}  # (model, seq_id): (body, answer)
        self._next = defaultdict(lambda: 1)
        self._counter = self._models = 0
        self._stopping = threading.Event()

    def __enter__(self):
        owner = self

        class Handler(_Handler):
            imitation = owner

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self.ready.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def use_tls(self, context):
        """Speak TLS from now on; before any request."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.base_url = self.base_url.replace("http://127.0.0.1", "https://localhost")

    # For tests

    def until(self, condition, timeout=20.0):
        """Wait until ``condition()`` holds; it is asked with the lock held, after each request."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "waited in vain"

    def requests_to(self, *endpoints):
        """Those that arrived, in order."""
        with self.changed:
            return [row for row in self.arrived if row[0] in endpoints]

    def numbers(self):
        """Numbers and operations that took effect, in order."""
        with self.changed:
            return list(self.applied)

    # What it does

    def action(self, endpoint):
        """Call with ``changed`` held."""
        for name in (endpoint, "training" if endpoint in TRAINING else endpoint):
            if self.script[name]:
                return self.script[name].pop(0)
        return None

    def handle(self, endpoint, body):
        """Status and answer of one request."""
        column = self.column
        if endpoint == "create_session":
            return column.created, {"session_id": "session", "type": "create_session"}
        if endpoint == "session_heartbeat":
            return 200, {"type": "session_heartbeat"}
        if endpoint == "get_server_capabilities":
            return 200, {"supported_models": [{"model_name": "base"}]}
        if endpoint == "get_info":
            return 200, {"model_id": body["model_id"], "model_data": {"model_name": "base"}}
        if endpoint == "create_sampling_session":
            return column.created, {"sampling_session_id": f"session:{body['sampling_session_seq_id']}"}
        if endpoint == "create_model":
            if column.refuses_null_metadata and body.get("user_metadata", {}) is None:
                return 422, {"detail": "user_metadata: not a dict"}
            if body["base_model"] != "base":
                return 400, {"detail": f"unknown model {body['base_model']!r}"}
            with self.changed:
                self._models += 1
                made = {**body, "model_id": f"model-{self._models}"}
            return column.accepted, self._promise("create_model", None, made)
        if endpoint == "asample":
            with self.changed:
                answer = self._by_number.get((body["sampling_session_id"], body["seq_id"]))
            if answer is None or column.numbers == "none":
                answer = self._promise("asample", body["seq_id"], body)
                with self.changed:
                    self.sampled.append((body["sampling_session_id"], body["seq_id"]))
                    self._by_number[body["sampling_session_id"], body["seq_id"]] = answer
            return column.accepted, answer
        if endpoint in TRAINING:
            return self._train(endpoint, body)
        if endpoint == "retrieve_future":
            return self._poll(body["request_id"])
        return 404, {"detail": f"no such endpoint: {endpoint}"}

    def _promise(self, operation, number, body):
        with self.changed:
            self._counter += 1
            answer = self.column.promise(self._counter, body.get("model_id", ""), operation)
            self._promises[answer["request_id"]] = (operation, number, body)
        return answer

    def _train(self, endpoint, body):
        model, number = body["model_id"], body["seq_id"]
        with self.changed:
            known = self._by_number.get((model, number))
            expected = self._next[model]
        if self.column.numbers == "consecutive":
            if number != expected:
                return 409, {"detail": f"sequence conflict: expected {expected}, got {number}"}
        elif self.column.numbers != "none" and known is not None:
            if self.column.numbers == "dedupe" and known[0] != body:
                return 409, {"detail": f"seq_id {number} was used for another request"}
            return self.column.accepted, known[1]
        answer = self._promise(endpoint, number, body)
        with self.changed:
            self._next[model] = number + 1
            self._by_number[model, number] = (body, answer)
            self.applied.append((number, endpoint))
        return self.column.accepted, answer

    def _poll(self, request_id):
        with self.changed:
            found = self._promises.get(request_id)
            self.polls += 1
            self.most_polls = max(self.most_polls, self.polls)
            self.changed.notify_all()
        try:
            if found is None:
                return 404, {"detail": f"no request {request_id}"}
            if not self.ready.wait(self.hold) or self._stopping.is_set():
                return self.column.not_yet
            return self._result(*found)
        finally:
            with self.changed:
                self.polls -= 1

    def _result(self, operation, number, body):
        with self.changed:
            if operation in TRAINING and self.expires.get(number, 0):
                self.expires[number] -= 1
                return 410, {"detail": "promise expired"}
        if number in self.fails and operation in TRAINING:
            if self.column.failure == "failed":
                return 200, {"type": "request_failed", "error": "it failed", "category": "user_error"}
            return (400 if self.column.failure == "400" else 404), {"detail": "it failed"}
        if operation == "create_model":
            return 200, {"model_id": body["model_id"], "type": "create_model"}
        if operation in ("forward", "forward_backward"):
            data = body[f"{operation}_input"]["data"]
            outputs = [{"logprobs": {"data": [-1.0], "dtype": "float32", "shape": [1]}} for _ in data]
            return 200, {
                "loss_fn_output_type": "ArrayRecord",
                "loss_fn_outputs": outputs,
                "metrics": dict(self.column.metrics),
            }
        if operation == "optim_step":
            return 200, {"metrics": None}
        if operation == "asample":
            tokens = [token for chunk in body["prompt"]["chunks"] for token in chunk["tokens"]]
            short = self.column.short_prompt_logprobs
            logprobs = [-1.0] * (len(tokens) - 1) if short else [None] + [-1.0] * (len(tokens) - 1)
            # The completion is the prompt backwards, so that a test knows whose answer it holds.
            sequence = {"stop_reason": "length", "tokens": tokens[::-1], "logprobs": [-1.0] * len(tokens)}
            return 200, {
                "type": "sample",
                "sequences": [sequence] * body["num_samples"],
                "prompt_logprobs": logprobs if body.get("prompt_logprobs") else None,
            }
        if operation == "save_weights_for_sampler" and body.get("path") is None:
            return 200, {"path": None, "sampling_session_id": f"s:{body['sampling_session_seq_id']}"}
        kind = "weights" if operation == "save_weights" else "sampler_weights"
        name = body.get("path")
        return 200, {"path": self.column.path.format(model=body["model_id"], kind=kind, name=name)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    imitation = None
    # An answer leaves in one piece, or polls pay for two.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve({})

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if len(data) < length:
            self.close_connection = True
            return
        self._serve(json.loads(data) if data else {})

    def _serve(self, body):
        owner = self.imitation
        endpoint = self.path.partition("?")[0].rpartition("/")[2]
        with owner.changed:
            row = (endpoint, body.get("seq_id"), self.headers.get("X-Idempotency-Key"), body)
            owner.arrived.append(row)
            owner.keys_seen.add(self.headers.get("X-API-Key"))
            action = owner.action(endpoint)
            owner.changed.notify_all()
        if action == "before":
            self._drop()
        elif action == "silent":
            owner._stopping.wait(_HOLD)
            self._drop()
        elif action == "drip":
            self._drip()
        elif isinstance(action, tuple):
            self._answer(*action)
        else:
            answer = self._key_refusal() or owner.handle(endpoint, body)
            if action == "after":
                self._drop()
            else:
                self._answer(*answer)
        with owner.changed:
            owner.changed.notify_all()

    def _key_refusal(self):
        column, key = self.imitation.column, self.headers.get("X-API-Key")
        if column.missing_key and key is None:
            return column.missing_key, {"detail": "no API key"}
        if column.unknown_key and key != self.imitation.key:
            return column.unknown_key, {"detail": "unknown API key"}
        return None

    def _answer(self, status, body, headers=()):
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = "text/html" if isinstance(body, str) else "application/json"
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if status == 500 and self.imitation.column.drops_after_500:
            # Without a word: the client finds out when it uses the connection again.
            self.close_connection = True

    def _drop(self):
        self.close_connection = True
        try:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _drip(self):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        ends = time.monotonic() + _HOLD
        while time.monotonic() < ends and not self.imitation._stopping.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()
