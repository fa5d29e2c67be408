"""A small HTTP server with the behaviour of one profile, whose responses can be scripted."""

import json
import threading
from collections import defaultdict

from . import stored_resources
from .engine import Engine, ImitationError
from .http_handler import HOLD, Handler, Listener
from .poll_results import TRAINING, AcceptedOperation, Results

__all__ = ["Imitation"]


class Imitation(Results):
    """A server with the behaviour of one profile. A context manager.

    Faults are scripted: ``script[endpoint]``, or ``script["training"]`` for all operations with numbers, is a list with
    one entry per request in the order of arrival:

    - None: no fault.
    - "before", "after": the connection is closed before or after the request is handled.
    - "silent": no response.
    - "drip": a response that is sent one byte at a time and never ends.
    - (status, body) or (status, body, headers): this response.

    While the event ``ready`` is clear no operation has a result, and polls are held.

    Args:
        profile: The behaviour of the server.
        key: The API key that is accepted.
        hold: Seconds for which polls are held.
        engine: Base URL of an embedded server that computes results. None: results are canned.
    """

    def __init__(self, profile, key="tml-key", hold=HOLD, engine=None):
        self.profile, self.key, self.hold = profile, key, 0.0 if profile.never_holds else hold
        self.engine = None if engine is None else Engine(engine)
        self.script = defaultdict(list)
        self.ready = threading.Event()
        self.ready.set()
        #: Per number of a training operation, the number of polls that get 410.
        self.expires = {}
        #: The numbers of operations that fail.
        self.fails = set()
        self.queued_limit = profile.queued_limit
        #: The maximal number of sessions. None: no limit.
        self.session_limit = None
        self.changed = threading.Condition()
        #: All attributes below are guarded by ``changed``.
        self.arrived = []  # (endpoint, seq_id, idempotency key, body)
        self.applied = []  # (seq_id, endpoint), in the order in which they took effect
        self.sampled = []  # (sampling session, seq_id)
        self.polls = 0
        self.most_polls = 0
        self.keys_seen = set()
        self.sessions = []
        #: Ids of sampling sessions, and the corresponding ids of the engine.
        self.samplers = {}
        self.accepted_operations = {}  # request_id: AcceptedOperation
        self._by_number = {}  # (model, seq_id): (body, response)
        self._next = defaultdict(lambda: 1)
        self._counter = self._models = self._samplers = 0
        #: Sessions, models and samplers that no longer exist.
        self._gone = set()
        #: Paths of checkpoints, and the corresponding paths of the engine by folder.
        self._paths = {}
        self.stopping = threading.Event()
        self._port = 0
        self._tls = None

    def __enter__(self):
        owner = self

        class BoundHandler(Handler):
            imitation = owner

        self._http = Listener(("127.0.0.1", self._port), BoundHandler)
        if self._tls is not None:
            self._http.socket = self._tls.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self._port = self._http.server_address[1]
        self.base_url = f"http://127.0.0.1:{self._port}"
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.ready.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self.engine is not None:
            self.engine.close()

    def use_tls(self, context):
        """Use TLS. Call before the first request."""
        self._tls = context
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.base_url = self.base_url.replace("http://127.0.0.1", "https://localhost")

    # For tests

    def stop(self):
        """Stop like a crashed server: reset connections, and discard all state that is not on disk."""
        self._http.shutdown()
        self._http.server_close()
        self._http.reset_connections()
        self._thread.join()
        with self.changed:
            self._gone |= {*self.sessions, *self.samplers, *(one.model for one in self.accepted_operations.values())}
            self.accepted_operations.clear()
            self._by_number.clear()

    def start_again(self):
        """Start again at the same address."""
        self.__enter__()

    def expire_sessions(self):
        """Make all existing sessions unknown."""
        with self.changed:
            self._gone |= set(self.sessions)

    def until(self, condition, timeout=20.0):
        """Wait until ``condition()`` is true. It is evaluated with ``changed`` held, after each request."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), f"the condition was not met within {timeout} s"

    def requests_to(self, *endpoints):
        """Return the requests to some endpoints in the order of arrival."""
        with self.changed:
            return [row for row in self.arrived if row[0] in endpoints]

    def numbers(self):
        """Return numbers and names of the operations that took effect, in order."""
        with self.changed:
            return list(self.applied)

    # Paths of this server and of the engine

    def to_own_path(self, path):
        """Return the path of a checkpoint in the form of this server."""
        model, folder, name = path.partition("://")[2].split("/")
        own_id = self.profile.paths[folder].format(model=model, name=name)
        with self.changed:
            self._paths.setdefault(own_id, {})[folder] = path
        return own_id

    def to_engine_path(self, path, folder="weights"):
        """Return the path of the engine. ``folder`` selects one if this server uses one path for two checkpoints."""
        with self.changed:
            known = self._paths.get(path, {})
        return known.get(folder) or next(iter(known.values()), path)

    # Handling of requests

    def action(self, endpoint):
        """Return the scripted action for the next request to an endpoint. Call with ``changed`` held."""
        for name in (endpoint, "training" if endpoint in TRAINING else endpoint):
            if self.script[name]:
                return self.script[name].pop(0)
        return None

    def forward(self, method, path, endpoint, body, content, headers):
        """Forward a request to the engine, and return its response."""
        if endpoint == "retrieve_future" and not self._wait_ready():
            return 408, {"type": "try_again", "request_id": body["request_id"], "queue_state": "active"}, {}
        status, found, response = self.engine.send(method, path, content, headers)
        if endpoint == "create_session" and status == 200:
            with self.changed:
                self.sessions.append(json.loads(response)["session_id"])
        kept = {name: found[name] for name in ("location", "expires", "retry-after") if name in found}
        if endpoint in TRAINING and status == 200:
            with self.changed:
                row = (body["model_id"], body["seq_id"])
                if row not in self._by_number:
                    self._by_number[row] = (body, None)
                    self.applied.append((body["seq_id"], endpoint))
        return status, response.decode(), {**kept, "Content-Type": found["content-type"]}

    def rejection(self, endpoint, body):
        """Return status and body of an error if this server rejects the request, else None."""
        profile = self.profile
        with self.changed:
            gone = self._gone & {body.get("session_id"), body.get("model_id"), body.get("sampling_session_id")}
            full = self.session_limit is not None and len(self.sessions) >= self.session_limit
        rejected = None
        if endpoint in profile.missing:
            rejected = 404, "Not Found"
        elif gone:
            rejected = 404, f"not found: {', '.join(gone)}"
        elif endpoint == "create_session" and full:
            rejected = 429, "session limit reached"
        elif profile.known_keys is not None and not set(body) <= profile.known_keys.get(endpoint, set()):
            rejected = 422, f"extra keys: {sorted(set(body) - profile.known_keys.get(endpoint, set()))}"
        elif profile.unique_names and endpoint.startswith("save_weights") and self._name_exists(body):
            rejected = 409, f"checkpoint {body['path']!r} already exists"
        elif endpoint == "create_model" and profile.rejects_null_metadata and body.get("user_metadata", {}) is None:
            rejected = 422, "user_metadata: not a dict"
        else:
            rejected = profile.rejects(endpoint, body)
        return rejected and (rejected[0], profile.error(*rejected))

    def _name_exists(self, body):
        """Return whether another request saved a checkpoint of this name."""
        with self.changed:
            return any(
                one.model == body["model_id"] and one.body["path"] == body.get("path") and one.body != body
                for one in self.accepted_operations.values()
                if one.operation.startswith("save_weights") and one.body.get("path")
            )

    def handle(self, endpoint, body):
        """Handle a request. Return status and body of the response."""
        profile = self.profile
        rejected = self.rejection(endpoint, body)
        if rejected is not None:
            return rejected
        try:
            if endpoint in TRAINING:
                return self._train(endpoint, body)
            if endpoint == "asample":
                return self._sample(body)
            if endpoint == "create_model":
                return profile.accepted, self._accept("create_model", None, body)
            if endpoint == "retrieve_future":
                return self._poll(body["request_id"])
            return self._direct(endpoint, body)
        except ImitationError as error:
            return error.status, profile.error(error.status, error.reason)

    def _direct(self, endpoint, body):
        profile, engine = self.profile, self.engine
        if endpoint == "create_session":
            response = {"session_id": "session"} if engine is None else engine.call(endpoint, body)
            with self.changed:
                self.sessions.append(response["session_id"])
            return profile.created, response
        if endpoint == "create_sampling_session":
            with self.changed:
                self._samplers += 1
                number = self._samplers
            own_id = profile.sampler(body["session_id"], number)
            if engine is not None:
                path = body["model_path"]
                engine_body = {
                    **body,
                    "sampling_session_seq_id": number,
                    "model_path": path and self.to_engine_path(path, "sampler_weights"),
                }
                self.samplers[own_id] = engine.call(endpoint, engine_body)["sampling_session_id"]
            return profile.created, {"sampling_session_id": own_id}
        if engine is not None and endpoint in ("session_heartbeat", "get_info", "weights_info"):
            if "tinker_path" in body:
                body = {"tinker_path": self.to_engine_path(body["tinker_path"])}
            return 200, engine.call(endpoint, body)
        if endpoint == "client_config" and profile.client_config is not None:
            return 200, dict(profile.client_config)
        responses = {
            "session_heartbeat": {"type": "session_heartbeat"},
            "get_server_capabilities": {"supported_models": [{"model_name": "tinkex/tiny" if engine else "base"}]},
            "get_info": {"model_id": body.get("model_id"), "model_data": {"model_name": "base"}},
        }
        if endpoint not in responses:
            raise ImitationError(404, "Not Found")
        return 200, responses[endpoint]

    def _accept(self, operation, number, body):
        """Accept an operation. Return the body of the response. Raise ImitationError if the engine rejects it."""
        model, engine_id = body.get("model_id", ""), None
        if self.engine is not None:
            accepted = self.engine.call(operation, self._for_engine(operation, body))
            engine_id, model = accepted["request_id"], accepted["model_id"] or model
        elif operation == "create_model":
            if body["base_model"] != "base":
                raise ImitationError(400, f"unknown model {body['base_model']!r}")
            with self.changed:
                self._models += 1
                model = f"model-{self._models}"
        with self.changed:
            self._counter += 1
            response = self.profile.accepted_body(self._counter, model, operation)
            self.accepted_operations[response["request_id"]] = AcceptedOperation(
                operation, number, body, model, engine_id
            )
        if operation in self.profile.inside_post:
            self._wait_ready()
            while engine_id is not None and self.engine.poll(engine_id, 1.0)[0] == 408 and not self.stopping.is_set():
                pass
        return response

    def _for_engine(self, operation, body):
        """Return the body for the engine: without numbers, and with the engine's ids and paths."""
        engine_body = {name: value for name, value in body.items() if name not in ("seq_id", "model_seq_id")}
        if operation == "load_weights":
            engine_body["path"] = self.to_engine_path(body["path"])
        elif operation == "asample":
            engine_body["sampling_session_id"] = self.samplers[body["sampling_session_id"]]
        elif operation.startswith("save_weights") and body.get("path"):
            # The profile decides whether a name can be used again.
            engine_body["overwrite"] = True
        elif "sampling_session_seq_id" in body:
            with self.changed:
                self._samplers += 1
                engine_body["sampling_session_seq_id"] = self._samplers
            if self.profile.names_ephemeral:
                engine_body["path"] = f"ephemeral-{engine_body.pop('sampling_session_seq_id')}"
        return engine_body

    def _sample(self, body):
        if self.engine is not None and body["sampling_session_id"] not in self.samplers:
            raise ImitationError(404, "Sampling session not found")
        key = (body["sampling_session_id"], body["seq_id"])
        with self.changed:
            response = self._by_number.get(key)
        if response is None or self.profile.numbers == "none":
            response = self._accept("asample", body["seq_id"], body)
            with self.changed:
                self.sampled.append(key)
                self._by_number[key] = response
        return self.profile.accepted, response

    def _train(self, endpoint, body):
        model, number = body["model_id"], body["seq_id"]
        if self.profile.numbers == "late":
            return self.profile.accepted, self._check_number_late(endpoint, body)
        with self.changed:
            known = self._by_number.get((model, number))
            expected = self._next[model]
        if self.profile.numbers == "consecutive":
            if number != expected:
                raise ImitationError(409, f"sequence conflict: expected {expected}, got {number}")
        elif self.profile.numbers != "none" and known is not None:
            if self.profile.numbers == "dedupe" and known[0] != body:
                raise ImitationError(409, f"seq_id {number} was used for another request")
            return self.profile.accepted, known[1]
        response = self._accept(endpoint, number, body)
        with self.changed:
            self._next[model] = number + 1
            self._by_number[model, number] = (body, response)
            self.applied.append((number, endpoint))
        return self.profile.accepted, response

    def _check_number_late(self, endpoint, body):
        """Run an operation before its POST returns, so that no other operation runs between."""
        model, number = body["model_id"], body["seq_id"]
        with self.changed:
            expected = self._next[model]
        if number != expected:
            with self.changed:
                self._counter += 1
                response = self.profile.accepted_body(self._counter, model, endpoint)
                rejected = AcceptedOperation(endpoint, number, body, model, None)
                rejected.conflict = f"Sequence conflict: expected {expected}, got {number}."
                self.accepted_operations[response["request_id"]] = rejected
            return response
        response = self._accept(endpoint, number, body)
        found = self.accepted_operations[response["request_id"]]
        failed = number in self.fails
        self.fails.discard(number)
        found.fails = failed
        while found.engine_id is not None and not self.stopping.is_set():
            status, result = self.engine.poll(found.engine_id, 1.0)
            if status != 408:
                failed = failed or "error" in result
                break
        if not failed:
            with self.changed:
                self._next[model] = number + 1
                self.applied.append((number, endpoint))
        return response

    def stored_response(self, name, method, ids, query):
        """Return status, body and headers of a request for stored resources."""
        return stored_resources.respond(self, name, method, ids, query)
