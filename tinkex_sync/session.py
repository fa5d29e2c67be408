"""A session on the server: one retried, observed call at a time; heartbeat; what is open; closing."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import warnings
import weakref
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, TypeVar

from .concurrency.workers import Workers
from .config import Config
from .errors import ClosedError, TinkexError
from .heartbeat import beat, close_at_exit, refresh_later
from .http.auth import Tokens
from .http.call_state import CallState, Unfinished
from .http.connection import Connection
from .http.request import Request
from .plugins.hookspecs import Source
from .plugins.queued_observer import QueuedObserver
from .plugins.registry import Observers
from .protocol import json_wire as codec
from .protocol.negotiation import ASKS_AS, Known
from .throttle.dispatch import Throttle, ThrottleLimits
from .throttle.semaphores import BytesSemaphore

__all__ = ["Session"]

T = TypeVar("T")

#: Seconds that closing spends on telling the server.
_FINISH_WITHIN = 0.5

_log = logging.getLogger(__name__)


class Session(Connection):
    """Everything the clients of one server session share.

    Threads of ours hold a session weakly unless they work for a call: dropping the last client closes it.
    Invariants: after :meth:`close` no call begins and every wait ends with ClosedError; a call is in
    ``_open`` from its start to its end.
    """

    def __init__(self, config: Config, observers: Observers, *, owned: bool = True) -> None:
        super().__init__(config, observers)
        #: The telemetry plugin, set by the service client; None while telemetry is off.
        self.telemetry: Optional[QueuedObserver] = None
        #: Whether somebody holds a client that can close it; forgetting that is worth a warning.
        self.owned = owned
        self.throttle = self._throttle()
        self.fetch_budget = self._budget(self.protocol.fetch_bytes)
        self.chunk_budget = self._budget(self.protocol.chunk_dispatch_bytes)
        self.dispatchers = Workers(
            "dispatch", self.clock, self.timer, active=config.dispatchers, limit=config.max_dispatches
        )
        self.pollers = Workers(
            "poll", self.clock, self.timer, active=config.max_polls, limit=config.max_polls
        )
        # Apart from samples' polls, so that a thousand of those never hold up training.
        self.helpers = Workers("work", self.clock, self.timer, active=1000, limit=1000)
        self._cancels: Optional[Workers] = None  # guarded by _lock
        self.session_id = ""
        self.last_heartbeat: Optional[float] = None
        self._open: Dict[str, CallState] = {}  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._close_callbacks: List[Callable[[], None]] = []  # guarded by _lock
        self._counters: Dict[str, Iterator[int]] = {}  # guarded by _lock
        close_at_exit(self)

    def _throttle(self) -> Throttle:
        numbers = {one.name: getattr(self.config, one.name) for one in fields(ThrottleLimits)}
        limits = ThrottleLimits(**{**numbers, "dispatch_bytes": self.protocol.dispatch_bytes})
        return Throttle(limits, self.clock, self.closing)

    def _budget(self, size: int) -> BytesSemaphore:
        return BytesSemaphore(size, self.clock, self.closing)

    # Opening

    def open(self, user_metadata: Optional[Mapping[str, Any]] = None) -> None:
        """Create the session on the server and start its heartbeat. POST /api/v1/create_session.

        Before that the server is asked what it speaks, unless that is known: POST /api/v1/client/config.

        Raises:
            APIConnectionError: the server cannot be reached; after 15 s, not minutes.
            AuthenticationError, APIStatusError: it refuses us; the text says what to do.
        """
        self._detect()
        body: Dict[str, Any] = {
            "tags": list(self.config.tags),
            "user_metadata": dict(user_metadata or {}),
            "sdk_version": self.protocol.version,
        }
        if self.config.project_id is not None:
            body["project_id"] = self.config.project_id
        answer = self.call(Request("create_session", body, first_contact=True))
        for level, text in (
            (logging.INFO, answer.info_message),
            (logging.WARNING, answer.warning_message),
            (logging.ERROR, answer.error_message),
        ):
            if text:
                _log.log(level, "%s", text)
        self.join(answer.session_id)
        hook = self.observers.session_opened
        if hook is not None:
            hook(source=self.source, call_id="")

    def _detect(self) -> None:
        protocol = self.protocol
        if protocol.asks and not protocol.recall():
            protocol.heard(self.call(Request("client_config", {"sdk_version": ASKS_AS}, first_contact=True)))
        self._adopt()
        self.refresh()

    def take_over(self, known: Known) -> None:
        """Start from what another session found out about the server."""
        self.protocol.take_over(known)
        self._adopt()

    def _adopt(self) -> None:
        """What the server announced comes into force; nothing was sent so far that it concerns."""
        self.use_server_credentials(self.helpers.submit)
        self.throttle = self._throttle()
        self.fetch_budget = self._budget(self.protocol.fetch_bytes)
        self.chunk_budget = self._budget(self.protocol.chunk_dispatch_bytes)

    def refresh(self) -> None:
        """Ask for what may have changed, if the server announced anything, and again each time it is due.

        POST /api/v1/client/dynamic_config.

        Raises:
            APIError: it failed, other than for want of the endpoint.
        """
        if not (self.protocol.modern and self.protocol.configured):
            return
        dynamic = self.call(Request("dynamic_config", {"sdk_version": self.protocol.version}))
        if dynamic is not None:
            self.protocol.dynamic = dynamic
            refresh_later(self)

    @property
    def tokens(self) -> Optional[Tokens]:
        """What is sent in place of the key, where the server wants that."""
        return self.credentials.tokens

    def join(self, session_id: str) -> None:
        """Belong to an existing session: beat for it, create nothing."""
        self.session_id = session_id
        self.source = Source("service", session_id, session_id)
        self.last_heartbeat = self.clock.time()
        body = codec.encode({"session_id": session_id})
        threading.Thread(
            target=beat,
            args=(weakref.ref(self), body, self.closing, self.clock, self.config.heartbeat_interval),
            name=f"tinkex-heartbeat-{session_id}",
            daemon=True,
        ).start()

    def next_number(self, counter: str) -> int:
        """The next of a dense sequence from 0 (``model_seq_id``, ``sampling_session_seq_id``)."""
        self.check_usable()
        with self._lock:
            return next(self._counters.setdefault(counter, itertools.count()))

    def take_back(self, request_id: str) -> bool:
        """Tell the server, in the background, that nobody wants a sample any more; False where it does not listen.

        POST /api/v1/cancel_future; failures are logged only.
        """
        dynamic = self.protocol.dynamic
        if not dynamic.sample_cancel_enabled:
            return False

        def tell() -> None:
            try:
                self.call(Request("cancel_future", {"request_id": request_id}))
            except (TinkexError, OSError) as error:
                _log.debug("The server was not told that sample %s is not wanted: %s", request_id, error)

        with self._lock:
            if self._cancels is None:
                most = max(dynamic.sample_cancel_max_batch_size, 1)
                self._cancels = Workers("cancel", self.clock, self.timer, active=most, limit=most)
            workers = self._cancels
        return workers.submit(tell)

    # What is open

    def begin(self, source: Source, operation: str, items: int = 1) -> CallState:
        """Enter a call into the list of open ones and tell the observers."""
        self.check_usable()
        call = CallState(source, f"{random.getrandbits(48):012x}", operation, items, self.clock.time())
        with self._lock:
            # Closing looks at the calls once; one that came later would never be told.
            closed = self._closed
            if not closed:
                self._open[call.call_id] = call
        if closed:
            raise ClosedError("the client is closed")
        hook = self.observers.call_started
        if hook is not None:
            hook(source=source, call_id=call.call_id, operation=operation, items=items)
        return call

    def end(self, call: CallState) -> None:
        """Take a call out of the list. Idempotent."""
        with self._lock:
            self._open.pop(call.call_id, None)

    @contextmanager
    def calling(self, source: Source, operation: str, items: int = 1) -> Iterator[CallState]:
        """A call for the length of a ``with`` block."""
        call = self.begin(source, operation, items)
        try:
            yield call
        finally:
            self.end(call)

    def open_calls(self) -> List[CallState]:
        """Every call that has not ended, oldest first."""
        with self._lock:
            return list(self._open.values())

    # Closing

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` (short, not blocking) when the session closes."""
        with self._lock:
            self._close_callbacks.append(callback)

    def drain(self, seconds: float) -> None:
        """Wait until everything submitted was sent, for at most ``seconds``."""
        end = self.clock.time() + seconds
        nap = threading.Event()
        while any(call.is_unsent for call in self.open_calls()) and self.clock.time() < end:
            # Sending is what other threads do; there is no single event that says all of it is done.
            if self.closing.is_set():
                return
            self.clock.wait(nap, 0.01)

    def _finish(self, outcome: str, detail: Optional[str]) -> None:
        """Tell the server how the session ended. POST /api/v1/sessions/ID/finish; best effort, once."""
        if not (self.owned and self.session_id and self.protocol.modern):
            return
        body = {"reason": {"type": outcome}, "detail": detail}
        try:
            # Codec drops nothing: a detail of null is part of this body.
            self.call(
                Request(
                    "finish_session",
                    body,
                    parts={"session": self.session_id},
                    deadline=self.clock.time() + _FINISH_WITHIN,
                )
            )
        except (TinkexError, OSError) as error:
            _log.debug("The server was not told that session %s ended: %s", self.session_id, error)

    def close(self, outcome: Optional[str] = "success", detail: Optional[str] = None) -> List[Unfinished]:
        """End every wait with ClosedError, stop all threads, and say what was left. Idempotent.

        May be called from any thread. In a forked child it does nothing.

        Args:
            outcome: What a server that wants to know is told first: "success", "errored" or "interrupted"; None:
                nothing is sent.
            detail: The error's text.
        """
        if self.forked:
            return []
        with self._lock:
            if self._closed:
                return []
            self._closed = True
            calls = [call for call in self._open.values() if not call.is_withdrawn]
            self._open.clear()
            callbacks, self._close_callbacks = self._close_callbacks, []
        if outcome is not None:
            self._finish(outcome, detail)
        left = [Unfinished(call.operation, call.sent, call.request_id) for call in calls]
        self.closing.set()
        self.throttle.close()
        self.fetch_budget.close()
        self.chunk_budget.close()
        self.transport.close()
        self.timer.close()
        for callback in callbacks:
            callback()
        for workers in (self.dispatchers, self.pollers, self._cancels):
            if workers is not None:
                workers.close()
        self.helpers.close()
        _fail_all([call.future() for call in calls if call.future is not None])
        hook = self.observers.session_closed
        if hook is not None:
            hook(source=self.source, call_id="")
        self.observers.close()
        if left:
            ids = ", ".join(one.request_id for one in left if one.request_id)
            _log.warning(
                "Closed with %d calls unfinished (%d of them never sent)%s",
                len(left),
                sum(one.sent == "no" for one in left),
                f"; requests {ids}" if ids else "",
            )
        return left

    def __del__(self) -> None:
        if not hasattr(self, "_pid") or self.forked or self._closed:
            return
        try:
            if self.owned:
                warnings.warn(
                    f"unclosed client of session {self.session_id!r}: use it in a with statement, or call close()",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
        finally:
            # Also where warnings are errors.
            self.close(outcome=None)


def _fail_all(futures: List[Any]) -> None:
    """Tell those who wait, in a thread of its own: their callbacks may block."""
    waiting = [future for future in futures if future is not None]
    if not waiting:
        return

    def fail() -> None:
        for future in waiting:
            future.set_exception(ClosedError("the client was closed before there was a result"))

    thread = threading.Thread(target=fail, name="tinkex-closing", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        fail()  # the interpreter is going and starts no more threads
    else:
        thread.join(0.5)
