"""A small real HTTP server that behaves like one column, and can be told what to do with which request."""

import json
import threading
from collections import defaultdict

from . import stored
from .engine import Engine, Refused
from .results import TRAINING, Promised, Results
from .serving import HOLD, Handler, Listener

__all__ = ["Imitation"]


class Imitation(Results):
    """One server; a context manager.

    What happens to requests is scripted: ``script[endpoint]`` (or ``script["training"]`` for all operations with
    numbers) is a list with one entry per request as they arrive. None: nothing special. "before", "after":
    the connection is dropped with the request unseen, or done. "silent": no answer. "drip": the answer comes a
    byte at a time and never ends. (status, body) or (status, body, headers): that answer.

    While ``ready`` is clear nothing has a result, and polls are held.

    Args:
        engine: Base URL of an embedded server that does the work; None: results are canned.
    """

    def __init__(self, column, key="tml-key", hold=HOLD, engine=None):
        self.column, self.key, self.hold = column, key, 0.0 if column.hurried else hold
        self.engine = None if engine is None else Engine(engine)
        self.script = defaultdict(list)
        self.ready = threading.Event()
        self.ready.set()
        #: Polls of a training operation's number that are answered 410 from now on.
        self.expires = {}
        #: Numbers whose operations fail.
        self.fails = set()
        self.queued_limit = column.queued_limit
        #: More sessions than this are refused; None: any number.
        self.session_limit = None
        self.changed = threading.Condition()
        #: Everything below is guarded by ``changed``.
        self.arrived = []  # (endpoint, seq_id, idempotency key, body)
        self.applied = []  # (seq_id, endpoint), in the order of taking effect
        self.sampled = []  # (sampling session, seq_id)
        self.polls = 0
        self.most_polls = 0
        self.keys_seen = set()
        self.sessions = []
        #: Our ids of sampling sessions, and the engine's.
        self.samplers = {}
        self._promises = {}  # request_id: _Promised
        self._by_number = {}  # (model, seq_id): (body, answer)
        self._next = defaultdict(lambda: 1)
        self._counter = self._models = self._samplers = 0
        #: Sessions, models and samplers that were there, and are not any more.
        self._gone = set()
        #: Paths as we show them, with the engine's by folder.
        self._paths = {}
        self.stopping = threading.Event()
        self._port = 0
        self._tls = None

    def __enter__(self):
        owner = self

        class Ours(Handler):
            imitation = owner

        self._http = Listener(("127.0.0.1", self._port), Ours)
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
        """Speak TLS from now on; before any request."""
        self._tls = context
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.base_url = self.base_url.replace("http://127.0.0.1", "https://localhost")

    # For tests

    def stop(self):
        """Be gone, as after a crash: connections are cut, and what is not on disk is forgotten."""
        self._http.shutdown()
        self._http.server_close()
        self._http.cut()
        self._thread.join()
        with self.changed:
            self._gone |= {*self.sessions, *self.samplers, *(one.model for one in self._promises.values())}
            self._promises.clear()
            self._by_number.clear()

    def start_again(self):
        """Be there again, at the same address."""
        self.__enter__()

    def expire_sessions(self):
        """Every session made so far is unknown from now on."""
        with self.changed:
            self._gone |= set(self.sessions)

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

    # Paths, as we show them and as the engine has them

    def shown(self, path):
        """Our form of a checkpoint's path."""
        model, folder, name = path.partition("://")[2].split("/")
        ours = self.column.paths[folder].format(model=model, name=name)
        with self.changed:
            self._paths.setdefault(ours, {})[folder] = path
        return ours

    def stored(self, path, folder="weights"):
        """The engine's form; ``folder`` is what counts where one path of ours stands for two of the engine's."""
        with self.changed:
            known = self._paths.get(path, {})
        return known.get(folder) or next(iter(known.values()), path)

    # What it does

    def action(self, endpoint):
        """Call with ``changed`` held."""
        for name in (endpoint, "training" if endpoint in TRAINING else endpoint):
            if self.script[name]:
                return self.script[name].pop(0)
        return None

    def pass_on(self, method, path, endpoint, body, content, headers):
        """Let the engine answer, as it is."""
        if endpoint == "retrieve_future" and not self._wait_ready():
            return 408, {"type": "try_again", "request_id": body["request_id"], "queue_state": "active"}, {}
        status, found, answer = self.engine.send(method, path, content, headers)
        if endpoint == "create_session" and status == 200:
            with self.changed:
                self.sessions.append(json.loads(answer)["session_id"])
        kept = {name: found[name] for name in ("location", "expires", "retry-after") if name in found}
        if endpoint in TRAINING and status == 200:
            with self.changed:
                row = (body["model_id"], body["seq_id"])
                if row not in self._by_number:
                    self._by_number[row] = (body, None)
                    self.applied.append((body["seq_id"], endpoint))
        return status, answer.decode(), {**kept, "Content-Type": found["content-type"]}

    def refusal(self, endpoint, body):
        """Status and body for what this server does not take; None if it takes it."""
        column = self.column
        with self.changed:
            gone = self._gone & {
                body.get("session_id"),
                body.get("model_id"),
                body.get("sampling_session_id"),
            }
            full = self.session_limit is not None and len(self.sessions) >= self.session_limit
        refused = None
        if endpoint in column.missing:
            refused = 404, "Not Found"
        elif gone:
            refused = 404, f"not found: {', '.join(gone)}"
        elif endpoint == "create_session" and full:
            refused = 429, "session limit reached"
        elif column.known_keys is not None and not set(body) <= column.known_keys.get(endpoint, set()):
            refused = 422, f"extra keys: {sorted(set(body) - column.known_keys.get(endpoint, set()))}"
        elif column.unique_names and endpoint.startswith("save_weights") and self._taken(body):
            refused = 409, f"checkpoint {body['path']!r} already exists"
        elif (
            endpoint == "create_model"
            and column.refuses_null_metadata
            and body.get("user_metadata", {}) is None
        ):
            refused = 422, "user_metadata: not a dict"
        else:
            refused = column.refuses(endpoint, body)
        return refused and (refused[0], column.error(*refused))

    def _taken(self, body):
        """Whether another request than this one saved under its name."""
        with self.changed:
            return any(
                one.model == body["model_id"] and one.body["path"] == body.get("path") and one.body != body
                for one in self._promises.values()
                if one.operation.startswith("save_weights") and one.body.get("path")
            )

    def handle(self, endpoint, body):
        """Status and answer of one request."""
        column = self.column
        refused = self.refusal(endpoint, body)
        if refused is not None:
            return refused
        try:
            if endpoint in TRAINING:
                return self._train(endpoint, body)
            if endpoint == "asample":
                return self._sample(body)
            if endpoint == "create_model":
                return column.accepted, self._promise("create_model", None, body)
            if endpoint == "retrieve_future":
                return self._poll(body["request_id"])
            return self._direct(endpoint, body)
        except Refused as error:
            return error.status, column.error(error.status, error.reason)

    def _direct(self, endpoint, body):
        column, engine = self.column, self.engine
        if endpoint == "create_session":
            answer = {"session_id": "session"} if engine is None else engine.call(endpoint, body)
            with self.changed:
                self.sessions.append(answer["session_id"])
            return column.created, answer
        if endpoint == "create_sampling_session":
            with self.changed:
                self._samplers += 1
                number = self._samplers
            ours = column.sampler(body["session_id"], number)
            if engine is not None:
                path = body["model_path"]
                theirs = {
                    **body,
                    "sampling_session_seq_id": number,
                    "model_path": path and self.stored(path, "sampler_weights"),
                }
                self.samplers[ours] = engine.call(endpoint, theirs)["sampling_session_id"]
            return column.created, {"sampling_session_id": ours}
        if engine is not None and endpoint in ("session_heartbeat", "get_info", "weights_info"):
            if "tinker_path" in body:
                body = {"tinker_path": self.stored(body["tinker_path"])}
            return 200, engine.call(endpoint, body)
        if endpoint == "client_config" and column.configured is not None:
            return 200, dict(column.configured)
        answers = {
            "session_heartbeat": {"type": "session_heartbeat"},
            "get_server_capabilities": {
                "supported_models": [{"model_name": "tinkex/tiny" if engine else "base"}]
            },
            "get_info": {"model_id": body.get("model_id"), "model_data": {"model_name": "base"}},
        }
        if endpoint not in answers:
            raise Refused(404, "Not Found")
        return 200, answers[endpoint]

    def _promise(self, operation, number, body):
        """Accept an operation; returns the promise. Raises Refused."""
        model, ticket = body.get("model_id", ""), None
        if self.engine is not None:
            accepted = self.engine.call(operation, self._for_engine(operation, body))
            ticket, model = accepted["request_id"], accepted["model_id"] or model
        elif operation == "create_model":
            if body["base_model"] != "base":
                raise Refused(400, f"unknown model {body['base_model']!r}")
            with self.changed:
                self._models += 1
                model = f"model-{self._models}"
        with self.changed:
            self._counter += 1
            answer = self.column.promise(self._counter, model, operation)
            self._promises[answer["request_id"]] = Promised(operation, number, body, model, ticket)
        if operation in self.column.inside_post:
            self._wait_ready()
            while (
                ticket is not None and self.engine.poll(ticket, 1.0)[0] == 408 and not self.stopping.is_set()
            ):
                pass
        return answer

    def _for_engine(self, operation, body):
        """The body under which the engine takes anything once more, and knows its own names."""
        theirs = {name: value for name, value in body.items() if name not in ("seq_id", "model_seq_id")}
        if operation == "load_weights":
            theirs["path"] = self.stored(body["path"])
        elif operation == "asample":
            theirs["sampling_session_id"] = self.samplers[body["sampling_session_id"]]
        elif "sampling_session_seq_id" in body:
            with self.changed:
                self._samplers += 1
                theirs["sampling_session_seq_id"] = self._samplers
            if self.column.names_ephemeral:
                theirs["path"] = f"ephemeral-{theirs.pop('sampling_session_seq_id')}"
        return theirs

    def _sample(self, body):
        if self.engine is not None and body["sampling_session_id"] not in self.samplers:
            raise Refused(404, "Sampling session not found")
        key = (body["sampling_session_id"], body["seq_id"])
        with self.changed:
            answer = self._by_number.get(key)
        if answer is None or self.column.numbers == "none":
            answer = self._promise("asample", body["seq_id"], body)
            with self.changed:
                self.sampled.append(key)
                self._by_number[key] = answer
        return self.column.accepted, answer

    def _train(self, endpoint, body):
        model, number = body["model_id"], body["seq_id"]
        if self.column.numbers == "late":
            return self.column.accepted, self._judged_late(endpoint, body)
        with self.changed:
            known = self._by_number.get((model, number))
            expected = self._next[model]
        if self.column.numbers == "consecutive":
            if number != expected:
                raise Refused(409, f"sequence conflict: expected {expected}, got {number}")
        elif self.column.numbers != "none" and known is not None:
            if self.column.numbers == "dedupe" and known[0] != body:
                raise Refused(409, f"seq_id {number} was used for another request")
            return self.column.accepted, known[1]
        answer = self._promise(endpoint, number, body)
        with self.changed:
            self._next[model] = number + 1
            self._by_number[model, number] = (body, answer)
            self.applied.append((number, endpoint))
        return self.column.accepted, answer

    def _judged_late(self, endpoint, body):
        """Carry an operation out before its promise is given, so that nothing else comes in between."""
        model, number = body["model_id"], body["seq_id"]
        with self.changed:
            expected = self._next[model]
        if number != expected:
            with self.changed:
                self._counter += 1
                answer = self.column.promise(self._counter, model, endpoint)
                refused = Promised(endpoint, number, body, model, None)
                refused.conflict = f"Sequence conflict: expected {expected}, got {number}."
                self._promises[answer["request_id"]] = refused
            return answer
        answer = self._promise(endpoint, number, body)
        found = self._promises[answer["request_id"]]
        failed = number in self.fails
        self.fails.discard(number)
        found.fails = failed
        while found.ticket is not None and not self.stopping.is_set():
            status, result = self.engine.poll(found.ticket, 1.0)
            if status != 408:
                failed = failed or "error" in result
                break
        if not failed:
            with self.changed:
                self._next[model] = number + 1
                self.applied.append((number, endpoint))
        return answer

    def stored_answer(self, name, method, ids, query):
        """Status, body and headers of a request about what is stored."""
        return stored.answer(self, name, method, ids, query)
