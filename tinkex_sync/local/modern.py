"""The operations that came after level 0.7.0."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import defaultdict
from typing import Any, Callable, DefaultDict, Dict, Iterator

from .api import Answer, Api
from .bodies import Body, Refusal
from .completions import Completions
from .extras import kept_until, labels
from .models import Models
from .operations import Promises
from .stats import Stats
from .store import Store, check_name, now, tinker_path
from .tokens import Tokens

__all__ = ["Modern"]

#: Seconds for which a poll for completions is held, if it does not say.
HOLD = 30.0


class Modern:
    """One method per operation, as :class:`Api`.

    Invariant: a counter of ``_copies`` gives each number once.
    """

    def __init__(
        self,
        api: Api,
        store: Store,
        models: Models,
        promises: Promises,
        completions: Completions,
        stats: Stats,
        hold: float,
    ) -> None:
        self._api = api
        self._store = store
        self._models = models
        self._promises = promises
        self._completions = completions
        self._stats = stats
        self._hold = min(hold, HOLD)
        self._lock = threading.Lock()
        self._copies: DefaultDict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        self.operations: Dict[str, Callable[[Body, bytes], Answer]] = {
            "cancel_future": self.cancel_future,
            "copy_weights": self.copy_weights,
            "join_sampling_session": self.join_sampling_session,
            "retrieve_futures": self.retrieve_futures,
            "save_weights_external": self.save_weights_external,
        }

    def token(self, tokens: Tokens) -> str:
        """A token in exchange for the key."""
        self._stats.add("tokens_issued")
        return tokens.issue()

    def finish_session(self, session_id: str, body: Body) -> Answer:
        """Note how a session ended; the first word counts."""
        record = self._store.get("sessions", session_id)
        reason = body.inner("reason").text("type")
        if reason not in ("success", "errored", "interrupted"):
            raise body.bad("reason.type", f"must be success, errored or interrupted, not {reason!r}")
        if "finished" not in record:
            ended = {"reason": reason, "detail": body.optional_text("detail"), "time": now()}
            self._store.put("sessions", {**record, "finished": ended})
            self._stats.add("sessions_finished")
        return {}

    def assign_project(self, session_id: str, body: Body) -> Answer:
        """Put a session, with its runs, into a project; every name is one."""
        record = self._store.get("sessions", session_id)
        self._store.put("sessions", {**record, "project_id": body.text("project_id")})
        return {}

    # Sampling.

    def join_sampling_session(self, body: Body, _: bytes) -> Answer:
        sampler_id = body.text("sampling_session_id")
        self._store.get("samplers", sampler_id)
        with self._lock:
            return {"client_counter": next(self._copies[sampler_id])}

    def retrieve_futures(self, body: Body, _: bytes) -> Answer:
        target = body.inner("target")
        sampler_id = target.text("sampling_session_id")
        self._store.get("samplers", sampler_id)
        group = (sampler_id, target.optional_integer("cloned_sampler_id") or 0)
        read = body.raw.get("retrieved_request_ids") or []
        if not isinstance(read, list) or not all(isinstance(id, str) for id in read):
            raise body.bad("retrieved_request_ids", f"must be a list of strings, not {read!r:.80}")
        self._stats.add("samples_acknowledged", sum(map(self._promises.forget, read)))
        hold = body.raw.get("timeout")
        if hold is not None and (isinstance(hold, bool) or not isinstance(hold, (int, float)) or hold < 0):
            raise body.bad("timeout", f"must be seconds, 0 or more, not {hold!r}")
        found, cursor = self._completions.since(
            group,
            body.optional_integer("prev_cursor") or 0,
            self._hold if hold is None else min(hold, self._hold),
        )
        return {"completions": found, "cursor": cursor}

    def cancel_future(self, body: Body, _: bytes) -> Answer:
        promise = self._promises.get(body.text("request_id"))
        if promise.kind != "sampling":
            raise Refusal(400, f"request {promise.request_id!r} is no sample; nothing else can be cancelled")
        if self._promises.cancel(promise):
            self._stats.add("samples_cancelled")
        return {}

    # Checkpoints.

    def save_weights_external(self, body: Body, data: bytes) -> Answer:
        if body.raw.get("age_encryption_recipients"):
            raise body.bad("age_encryption_recipients", "this server cannot encrypt; leave it out")
        model = self._models.live(body.text("model_id"))
        name, about = check_name(body.text("path")), {"expires_at": kept_until(body)}
        return self._api.in_turn(
            model, body, data, lambda: self._models.save(model, "external_weights", name, about)
        )

    def copy_weights(self, body: Body, _: bytes) -> Answer:
        source = self._models.checkpoint(body.text("source_path"))
        project, number = body.optional_text("destination_project_id"), body.optional_integer("model_seq_id")
        if (project is None) == (number is None):
            raise body.bad("destination_project_id", "give it, or session_id and model_seq_id")
        run: Dict[str, Any] = {**self._store.get("runs", source["run_id"]), "user_metadata": None}
        if project is None:
            session_id = self._api.session(body)
            run.update(id=f"{session_id}:train:{number}", session_id=session_id)
        else:
            run.update(id=uuid.uuid4().hex, project_id=project)
        self._store.put("runs", {**run, "time": now(), "last_request_time": now()})
        copy = {**source, "run_id": run["id"], "expires_at": kept_until(body), **labels(body)}
        return {"tinker_path": tinker_path(self._store.save(copy, self._store.arrays(source)))}
