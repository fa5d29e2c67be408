"""A session on the server: the state that its clients share, the calls that have not ended, and closing."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import warnings
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Union

from . import types
from .concurrency.clock import wait_interruptibly
from .concurrency.exit_closing import close_at_exit
from .concurrency.primitives import Event, start_thread
from .concurrency.workers import Lane, Workers
from .config import Config
from .errors import ClosedError, PluginError, ThreadStartError, TinkexError
from .http.call_state import CallState, Unfinished, outcome_of
from .http.connection import Connection
from .http.request import Request
from .logs import get_logger
from .plugins.events import Source
from .plugins.queued_observer import QueuedObserver
from .plugins.registry import Observers
from .protocol.negotiation import CONFIG_SDK_VERSION, Negotiated
from .throttle.dispatch import Throttle
from .throttle.semaphores import BytesSemaphore

#: Seconds that closing spends on reporting the session's end to the server.
_FINISH_WITHIN = 0.5
#: Seconds that ``close()`` in the main thread waits until all threads are stopped, and then until it has ended.
_STOPPED_WITHIN, _ENDED_WITHIN = 1.0, 6.0
#: Request ids that the warning about unfinished calls contains at most; close() returns all.
_MOST_IDS = 5
#: Least seconds between requests of the dynamic configuration.
_LEAST_REFRESH = 10.0

_log = get_logger(__name__)


class Session(Connection):
    """The state that the clients of one server session share. Thread-safe.

    Background threads hold a session weakly unless they work for a call, so that dropping the last client closes it.
    Invariants: after :meth:`close` no call begins, and every wait ends with ClosedError. A call is in ``_open`` from
    its start to its end.
    """

    def __init__(self, config: Config, observers: Observers, *, owned: bool = True) -> None:
        super().__init__(config, observers)
        #: The telemetry plugin, set by the service client; None while telemetry is off.
        self.telemetry: Optional[QueuedObserver] = None
        #: Whether a client of this process must close it. If that is forgotten, a ResourceWarning is issued.
        self.owned = owned
        #: Called with the error of a future before the future fails; may change the error's class. Set by compat.
        self.adapt_error: Optional[Callable[[Optional[BaseException]], None]] = None
        self._apply_limits()
        # Weak, because the session outlives the clients of its models and their lanes.
        # A dict, whose order is that of the insertions.
        self._threads: weakref.WeakKeyDictionary[Union[Lane, Workers], None] = weakref.WeakKeyDictionary()
        self.dispatchers = self._make_workers("dispatch", config.dispatchers, config.max_dispatches)
        self.pollers = self._make_workers("poll", config.max_polls, config.max_polls)
        # Separate from the polls of samples, so that a thousand of those do not delay training.
        self.helpers = self._make_workers("work", 1000, 1000)
        self._cancels: Optional[Workers] = None  # guarded by _lock
        self.session_id = ""
        self._open: Dict[str, CallState] = {}  # guarded by _lock
        self._closed = False  # guarded by _lock
        #: Set when :meth:`close` has stopped all threads, and when it has ended.
        self._stopped, self._ended = Event(), Event()
        self._plugin_error: Optional[PluginError] = None
        self._counters: Dict[str, Iterator[int]] = {}  # guarded by _lock
        close_at_exit(self)

    def _make_workers(self, name: str, active: int, limit: int) -> Workers:
        """Make workers that end with the session. Call with ``_lock`` held, except in the constructor."""
        workers = Workers(name, self.clock, self.timer, active=active, limit=limit)
        self._threads[workers] = None
        return workers

    def run_in_helper(self, job: Callable[[], None]) -> None:
        """Run a job in a helper; in this thread if the session is closed or no thread can be started."""
        try:
            is_queued = self.helpers.submit(job)
        except ThreadStartError:
            is_queued = False
        if not is_queued:
            job()

    def make_lane(self, name: str) -> Lane:
        """Return a new lane that ends with the session."""
        lane = Lane(name)
        with self._lock:
            self._threads[lane] = None
        return lane

    def _apply_limits(self) -> None:
        """Make the throttle and the budgets of bytes, as the server's capabilities require."""
        limits = replace(self.config.throttle, dispatch_bytes=self.capabilities.dispatch_bytes)
        self.throttle = Throttle(limits, self.clock)
        self.fetch_budget = BytesSemaphore(self.capabilities.fetch_bytes, self.clock, self.closing)
        self.chunk_budget = BytesSemaphore(self.capabilities.chunk_dispatch_bytes, self.clock, self.closing)

    # Opening

    def open(self, user_metadata: Optional[Mapping[str, Any]] = None) -> None:
        """Negotiate the protocol and create the session on the server. POST /api/v1/create_session.

        Args:
            user_metadata: Labels stored with the session.

        Raises:
            APIConnectionError: The server cannot be reached, for 15 s.
            DeadlineExceeded: ``Config.timeout`` seconds have passed.
            AuthenticationError, APIStatusError: The server refuses the request. The message names what to check.
        """
        deadline = self.deadline(None)
        self._negotiate(deadline)
        body = types.CreateSessionRequest(
            tags=list(self.config.tags),
            user_metadata=dict(user_metadata or {}),
            sdk_version=self.capabilities.sdk_version,
            project_id=self.config.project_id,
        )
        response = self.call(Request("create_session", body, deadline=deadline, first_contact=True))
        for level, text in (
            (logging.INFO, response.info_message),
            (logging.WARNING, response.warning_message),
            (logging.ERROR, response.error_message),
        ):
            if text:
                _log.log(level, "%s", text)
        self.join(response.session_id)
        if hook := self.observers.session_opened:
            hook(source=self.source, call_id="")

    def join(self, session_id: str) -> None:
        """Use a session that exists on the server; nothing is sent."""
        self.session_id = session_id
        self.source = Source("service", session_id, session_id)
        self.last_heartbeat = self.clock.time()

    def restore(self, negotiated: Negotiated) -> None:
        """Use the result of another session's negotiation."""
        self.negotiation.restore(negotiated)
        self._apply_capabilities()

    def _negotiate(self, deadline: Optional[float]) -> None:
        """Negotiate the protocol, unless the result is cached or configured. POST /api/v1/client/config."""
        negotiation = self.negotiation
        if negotiation.is_required and not negotiation.load_cached():
            body = types.ServerConfigRequest(CONFIG_SDK_VERSION)
            request = Request("client_config", body, deadline=deadline, first_contact=True)
            negotiation.apply_config(self.call(request))
        self._apply_capabilities()
        self._refresh(deadline)

    def _apply_capabilities(self) -> None:
        """Apply the negotiated limits and credentials. Called before any request that depends on them."""
        self.use_server_credentials(self.helpers.submit)
        self._apply_limits()

    def _refresh(self, deadline: Optional[float] = None) -> None:
        """Request the dynamic configuration, now and at each refresh interval. POST /api/v1/client/dynamic_config.

        Raises:
            APIError: The request failed. A missing endpoint is no failure.
        """
        if not self.capabilities.has_dynamic_config:
            return
        body = types.DynamicConfigRequest(self.capabilities.sdk_version)
        response = self.call(Request("dynamic_config", body, deadline=deadline))
        if response is not None:
            self.negotiation.apply_dynamic_config(response)
            self._refresh_later()

    def _refresh_later(self) -> None:
        # Weak, because the timer must not keep the session of a dropped client.
        reference = weakref.ref(self)

        def submit() -> None:
            session = reference()
            if session is not None and not session.forked:
                try:
                    session.helpers.submit(session._refresh_again)
                except ThreadStartError:
                    session._refresh_later()

        interval = max(self.capabilities.refresh_interval, _LEAST_REFRESH)
        self.timer.at(self.clock.time() + interval, submit)

    def _refresh_again(self) -> None:
        """Request the dynamic configuration in a worker. After a failure, the present one stays in force."""
        try:
            self._refresh()
        except (TinkexError, OSError) as error:
            _log.debug("The dynamic configuration stays in force: error=%s", error)
            if not self.closing.is_set():
                self._refresh_later()

    def next_number(self, counter: str) -> int:
        """Return the next number of a dense sequence from 0 (``model_seq_id``, ``sampling_session_seq_id``)."""
        self.check_usable()
        with self._lock:
            return next(self._counters.setdefault(counter, itertools.count()))

    def cancel_remote(self, request_id: str) -> bool:
        """Cancel a sample on the server, in the background. POST /api/v1/cancel_future.

        Returns:
            Whether the server supports it, and the request is queued. A failure is only logged.
        """
        if self.forked or not self.capabilities.cancels_samples:
            return False
        with self._lock:
            if self._cancels is None:
                most = self.capabilities.max_cancellations
                self._cancels = self._make_workers("cancel", most, most)
            workers = self._cancels
        request = Request("cancel_future", types.CancelFutureRequest(request_id))
        return workers.submit(partial(self._try_call, request, f"Cancelling request {request_id}"))

    def _try_call(self, request: Request, subject: str) -> None:
        """Send a request whose failure is only logged."""
        try:
            self.call(request)
        except (TinkexError, OSError) as error:
            _log.debug("%s failed: session=%s error=%s", subject, self.session_id, error)

    # Calls that have not ended

    def begin(self, source: Source, operation: str, items: int = 1) -> CallState:
        """Add a call to those that have not ended, and report it to observers.

        Args:
            source: The client that makes it.
            operation: Name of the public method.
            items: Number of datums, or 1.

        Raises:
            ClosedError: The client is closed.
            ForkedClientError: The client was made before a fork, in the parent process.
        """
        self.check_usable()
        call = CallState(source, f"{random.getrandbits(48):012x}", operation, items, self.clock.time())
        with self._lock:
            # close() ends the calls that it finds. A call added after that would wait without end.
            if self._closed:
                raise ClosedError("the client is closed")
            self._open[call.call_id] = call
        if hook := self.observers.call_started:
            hook(source=source, call_id=call.call_id, operation=operation, items=items)
        return call

    def end(self, call: CallState, error: Optional[BaseException] = None) -> None:
        """Remove a call from those that have not ended, and report its end to observers. Idempotent.

        Args:
            error: The error that it ended with; None: it has a result.

        Raises:
            PluginError: A plugin failed; in strict mode only.
        """
        if self.forked:
            return  # A thread of the parent may have held the lock at the fork.
        with self._lock:
            self._open.pop(call.call_id, None)
            is_first, call.has_ended = not call.has_ended, True
        call.last_failure = None  # Its traceback refers to the call.
        self.sends_changed.set()
        if is_first and (hook := self.observers.call_finished):
            hook(
                **call.origin,
                operation=call.operation,
                items=call.items,
                outcome=outcome_of(error),
                elapsed=self.clock.time() - call.started,
                facts=call.facts,
                error=error,
            )

    @contextmanager
    def calling(self, source: Source, operation: str, items: int = 1) -> Iterator[CallState]:
        """Begin a call, and end it with the ``with`` block."""
        call = self.begin(source, operation, items)
        try:
            yield call
        except BaseException as error:
            self.end(call, error)
            raise
        self.end(call)

    def open_calls(self) -> List[CallState]:
        """Return every call that has not ended, oldest first.

        Raises:
            ForkedClientError: The client was made before a fork, in the parent process.
        """
        self.check_not_forked()
        with self._lock:
            return list(self._open.values())

    def report_client(self, source: Source, call: Optional[CallState], **facts: Any) -> None:
        """Report to observers that ``call`` made a client, whose ``source`` is given.

        Args:
            facts: Arguments of ``tinkex_client_created``, as far as they are known.
        """
        if hook := self.observers.client_created:
            made_by = ("", f"create_{source.kind}_client") if call is None else (call.call_id, call.operation)
            facts = {"base_model": None, "rank": None, "model_path": None, **facts}
            hook(source=source, call_id=made_by[0], operation=made_by[1], **facts)

    # Closing

    def drain(self, seconds: float) -> None:
        """Wait until every call is sent, for at most ``seconds``, or until the session is closed."""
        ends = self.clock.time() + seconds
        with self.closing.waking(self.sends_changed):
            while not self.closing.is_set():
                # Before the check, so that no change after it is missed.
                self.sends_changed.clear()
                with self._lock:
                    # The newest calls are sent last. In this order, the first call is unsent until the end.
                    is_unaccepted = any(call.is_unaccepted for call in reversed(self._open.values()))
                if not (is_unaccepted and self.clock.wait(self.sends_changed, ends - self.clock.time())):
                    return

    def _finish(self, outcome: Any, detail: Optional[str]) -> None:
        """Report how the session ended, once; a failure is only logged. POST /api/v1/sessions/ID/finish."""
        if not (self.owned and self.session_id and self.capabilities.finishes_sessions):
            return
        request = Request(
            "finish_session",
            types.FinishSessionRequest(types.FinishReason(outcome), detail),
            path_values={"session": self.session_id},
            deadline=self.clock.time() + _FINISH_WITHIN,
        )
        self._try_call(request, "Reporting the session's end")

    def close(self, outcome: Optional[str] = "success", detail: Optional[str] = None) -> List[Unfinished]:
        """End every wait with ClosedError, and stop all threads. Idempotent.

        Any thread may call it, a signal handler too. In a forked child it does nothing.

        Args:
            outcome: Reported to servers that support it: "success", "errored" or "interrupted"; None: nothing is sent.
            detail: The text of the error that ended the session.

        Returns:
            The calls that had no result. They are counted in one WARNING.
        """
        left: List[Unfinished] = []
        if self.forked or self._ended.is_set():
            return left
        if threading.current_thread() is not threading.main_thread():
            self._end(outcome, detail, left)
            return self._checked(left)
        # A signal handler may have interrupted this thread while it holds one of the locks, and a second Ctrl-C may
        # end this method at any instruction. Another thread is affected by neither.
        try:
            start_thread(self._end, "tinkex-close", outcome, detail, left)
        except RuntimeError:
            self._end(outcome, detail, left)  # The interpreter is exiting and starts no more threads.
        if wait_interruptibly(self._stopped, _STOPPED_WITHIN):
            wait_interruptibly(self._ended, _ENDED_WITHIN)
        else:
            # The interrupted code continues after this, releases its lock, and must not start anything.
            self.closing.set()
        return self._checked(left)

    def interrupt(self) -> None:
        """Close the session if other threads than this one wait for calls. Called by the handler of Ctrl-C.

        Otherwise a pool of threads inside the client's ``with`` block would process its whole queue first.
        """
        if not self.forked and any(call.thread != threading.get_ident() for call in list(self._open.values())):
            with suppress(ThreadStartError):
                start_thread(self._end, "tinkex-close", "interrupted", "KeyboardInterrupt", [])

    def _checked(self, left: List[Unfinished]) -> List[Unfinished]:
        """Return ``left``; raise the error of a plugin that failed while the session was closed."""
        error, self._plugin_error = self._plugin_error, None
        if error is not None:
            raise error
        return left

    def _end(self, outcome: Optional[str], detail: Optional[str], left: List[Unfinished]) -> None:
        """Do the work of :meth:`close`, once, and add the calls that had no result to ``left``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            calls = list(self._open.values())
            self._open.clear()
        try:
            if outcome is not None:
                self._finish(outcome, detail)
            left.extend(Unfinished(call.operation, call.sent, call.request_id) for call in calls)
            self._stop()
        finally:
            self._stopped.set()
        try:
            _fail_all([call.future() for call in calls if call.future is not None])
            for call in calls:
                self.end(call, ClosedError("the client was closed before there was a result"))
            if hook := self.observers.session_closed:
                hook(source=self.source, call_id="")
            self.observers.close()
            _log_unfinished(left)
        except PluginError as error:
            self._plugin_error = error
        finally:
            self._ended.set()

    def _stop(self) -> None:
        """End all waits, connections and threads."""
        self.closing.set()
        self.transport.close()
        self.timer.close()
        with self._lock:
            threads = list(self._threads)
        for workers in threads:
            workers.close()

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
            self._end(None, None, [])


def _log_unfinished(left: List[Unfinished]) -> None:
    if left:
        ids = [one.request_id for one in left if one.request_id]
        more = f" and {len(ids) - _MOST_IDS} more, which close() returns" if len(ids) > _MOST_IDS else ""
        listed = f"; requests {', '.join(ids[:_MOST_IDS])}{more}" if ids else ""
        unsent = sum(one.sent == "no" for one in left)
        _log.warning("Closed with %d calls unfinished (%d of them never sent)%s", len(left), unsent, listed)


def _fail_all(futures: List[Any]) -> None:
    """Fail the futures of unfinished calls, in a thread of its own, because their callbacks may block."""
    waiting = [future for future in futures if future is not None]
    if not waiting:
        return

    def fail() -> None:
        for future in waiting:
            future.set_exception(ClosedError("the client was closed before there was a result"))

    try:
        thread = start_thread(fail, "tinkex-closing")
    except RuntimeError:
        fail()  # The interpreter is exiting and starts no more threads.
    else:
        thread.join(0.5)
