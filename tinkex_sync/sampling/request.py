"""One sample from its submission to its result: a state machine that both forms of a sample run.

Each step does one thing and returns the step that follows, and when. The blocking form runs the steps in the caller's
thread and waits between them. The submitted form runs them in workers and holds no thread between them.
"""

from __future__ import annotations

import contextlib
import enum
import math
import weakref
from concurrent.futures import CancelledError
from typing import Any, Callable, ContextManager, Dict, Generic, List, NamedTuple, Optional, TypeVar

from .. import errors, types
from ..concurrency.primitives import Event, Lock
from ..concurrency.timer import TimerHandle
from ..futures import Future
from ..http.call_state import CallState
from ..http.error_advice import advise
from ..http.request import Request, new_idempotency_key
from ..http.retry import Attempts
from ..logs import get_logger
from ..polling.poller import ServerFuture, poll
from ..protocol import json_wire
from ..protocol.byte_estimates import model_input_bytes
from ..throttle.dispatch import Permit
from ..throttle.semaphores import Admission
from ..types.inputs import known_length
from .context import SamplingContext

T = TypeVar("T")

_log = get_logger(__name__)

#: A sample whose result the server has lost is submitted again at most this often.
_MOST_RESUBMISSIONS = 2
#: Seconds of a wait for a result that a dispatcher does itself, because handing it over would take as long.
_SHORT_WAIT = 0.01


class SampleOperation(Generic[T]):
    """One sample whose arguments were validated. Started once, by :meth:`run` or :meth:`submit`.

    Args:
        context: The objects of the sampling client.
        name: Name of the operation for observers, errors and ``ServiceClient.status()``.
        request: The body without ``seq_id``.
        finish: Makes the result of the response; its errors fail the operation.
    """

    def __init__(
        self,
        context: SamplingContext,
        name: str,
        request: types.SampleRequest,
        finish: Callable[[types.SampleResponse], T],
    ) -> None:
        self.context = context
        self.name = name
        self.request = request
        self.finish = finish
        self.estimated_bytes = model_input_bytes(request.prompt)

    def run(self, timeout: Optional[float] = None) -> T:
        """Run the sample in this thread and return its result.

        Args:
            timeout: Seconds until DeadlineExceeded; None: ``Config.timeout``.
        """
        session = self.context.session
        deadline = session.deadline(timeout)
        with session.calling(self.context.source, self.name) as call:
            result: T = _BlockingSample(self, call, deadline).run()
            return result

    def submit(self, timeout: Optional[float] = None) -> Future[T]:
        """Submit the sample and return its future without waiting.

        Args:
            timeout: Seconds until the future fails with DeadlineExceeded; None: ``Config.timeout``.
        """
        session = self.context.session
        deadline = session.deadline(timeout)
        call = session.begin(self.context.source, self.name)
        future: Future[T] = Future(session, call)
        _SubmittedSample(self, call, deadline, future).start()
        return future


class Next(NamedTuple):
    """The step that follows another one."""

    step: Callable[[], Optional[Next]]
    #: Time of the clock at which to run it; None: now; infinity: when the sample is woken. It also runs when the
    #: sample is woken earlier.
    at: Optional[float] = None
    #: Whether it waits for a result, which may take long and is done by pollers.
    is_poll: bool = False


class _Sample:
    """The steps of one logical sample. Used by one thread at a time.

    Invariants: one ``seq_id`` and one idempotency key are used until the server has lost the result. The admission is
    held from its grant to the end of the sample. The permit is held from its admission until the server has accepted
    the sample, through every wait after a 429, and not during the wait for another retry.
    """

    def __init__(self, operation: SampleOperation[Any], call: CallState, deadline: Optional[float]) -> None:
        self.operation = operation
        self.context = operation.context
        self.session = operation.context.session
        self.call = call
        self.deadline = deadline
        self.result: Any = None
        #: The server future of the accepted sample.
        self.server_future: Optional[ServerFuture] = None
        self._admission: Optional[Admission] = Admission(1, self.wake)
        self._is_running = False
        self._is_retrying = False
        self._permit: Optional[Permit] = None
        self._attempts: Attempts
        self._dispatch_began = 0.0
        #: When the present wait for a permit or a turn began. Such waits do not count as time of the attempts.
        self._wait_began = 0.0
        self._is_claimed = False
        self._resubmissions = 0
        self._sequence_ids: Optional[List[str]] = None
        self._content = b""
        self._idempotency_key = ""

    # Drivers implement these

    def wake(self) -> None:
        """Run the step that waits. Called by any thread; short, does not block."""
        raise NotImplementedError

    def claim(self) -> bool:
        """Return whether the sample may be sent; afterwards it cannot be withdrawn."""
        return True

    def is_done(self) -> bool:
        """Return whether the caller has a result or an error already, because of a cancellation or of closing."""
        return False

    def network(self) -> ContextManager[None]:
        """Return a context manager for the time in which the thread waits or runs callbacks of users."""
        return contextlib.nullcontext()

    # Steps, in their order

    def wait_for_start(self) -> Optional[Next]:
        """Wait until fewer than ``RetryConfig.max_connections`` samples of the client are in progress."""
        self.call.phase = "throttled"
        if self._admission is None or not self._admission.is_granted:
            return Next(self.wait_for_start, math.inf)
        self.context.progress.begin()
        self._is_running = True
        return Next(self.begin_dispatch)

    def begin_dispatch(self) -> Optional[Next]:
        """Start the attempts under one ``seq_id``."""
        self._attempts = self.session.attempts("sampling")
        self._dispatch_began = self.session.clock.time()
        return Next(self.begin_attempt)

    def begin_attempt(self) -> Optional[Next]:
        """Request a permit for one more attempt."""
        self._set_retrying(False)
        self._attempts.start()
        self._wait_began = self.session.clock.time()
        self._permit = self.session.throttle.request(self.operation.estimated_bytes, self.wake)
        return Next(self.acquire_permit)

    def acquire_permit(self) -> Optional[Next]:
        """Wait until the throttle admits the sample."""
        permit, call = self._held_permit, self.call
        call.phase = "throttled"
        if not permit.admit():
            return Next(self.acquire_permit, math.inf)
        if hook := self.session.observers.dispatch_acquired:
            usage = self.session.throttle.usage()
            hook(source=call.source, call_id=call.call_id, **vars(permit.facts), **usage)
        return Next(self.wait_for_turn)

    def wait_for_turn(self) -> Optional[Next]:
        """Wait for the sample's own delay after a 429, for a stop of all samples, and for the pace."""
        self.call.phase = "throttled"
        at = self._held_permit.take_turn()
        if at is not None:
            return Next(self.wait_for_turn, at)
        self._attempts.exclude(self.session.clock.time() - self._wait_began)
        return Next(self.send)

    def send(self) -> Optional[Next]:
        """Send the sample once. POST /api/v1/asample."""
        if not self._content:
            if not (self._is_claimed or self.claim()):
                raise CancelledError
            self._is_claimed = True
            self._assign_seq_id()
        request = Request(
            "asample",
            self._content,
            headers={"X-Tinker-Sampling-Backpressure": "1"},
            call=self.call,
            deadline=self.deadline,
            idempotency_key=self._idempotency_key,
        )
        try:
            with self.network():
                response = self.session.send_once(request, self._attempts)
            self._held_permit.record_acceptance()
            accepted = types.UntypedAPIFuture.from_wire(response.json())
        except (errors.RateLimitError, errors.BillingError) as error:
            return self._wait_after_429(error)
        except Exception as error:
            return self._failed(error)
        return self._accepted(accepted)

    def poll(self) -> Optional[Next]:
        """Wait for the result; if the server has lost it, submit the sample again under a new ``seq_id``."""
        try:
            with self.network():
                response = self._wait_for_result()
            response = self._with_sequence_ids(response)
            if self.session.observers.call_finished:
                self.call.facts = _facts(self.operation.request, response)
            self.result = self.operation.finish(response)
            return None
        except Exception as error:
            if self.is_done():
                raise  # it was cancelled, and the server has dropped it
            delay = self._resubmit_delay(error)
        self._resubmissions += 1
        self._content = b""  # the next send takes a new number
        self.server_future = None
        self.call.request_id, self.call.sent = None, "no"
        return self._retry_in(delay, self.begin_dispatch)

    def release(self, *, success: bool) -> None:
        """Give back all that the sample holds. Idempotent; the last step of every sample."""
        self._release_permit()
        self._set_retrying(False)
        if self._is_running:
            self._is_running = False
            self.context.progress.end(success=success)
        admission, self._admission = self._admission, None
        if admission is not None:
            self.context.running.leave(admission)

    # What follows a response

    def _accepted(self, accepted: types.UntypedAPIFuture) -> Next:
        self._release_permit()
        roundtrip = self.session.clock.time() - self._dispatch_began
        self.server_future = ServerFuture(accepted.request_id, "asample", roundtrip)
        self._sequence_ids = accepted.sample_sequence_ids
        self.call.phase, self.call.request_id = "polling", accepted.request_id
        return Next(self.poll, is_poll=True)

    def _wait_after_429(self, error: errors.RateLimitError | errors.BillingError) -> Next:
        """Keep the permit through the wait after a 429 or 402."""
        call, session = self.call, self.session
        self.context.states.read(call, error.body)
        if isinstance(error, errors.BillingError):
            try:
                session.payment_wait.pause(error, call.source, call.call_id)
            except errors.BillingError as final:
                return self._failed(final)
        elif session.clock.time() >= self.context.progress.gives_up_at():
            raise self.context.progress.error() from error
        self._wait_began = session.clock.time()
        backoff = self._held_permit.record_rate_limit(error.retry_after)
        if hook := session.observers.backoff_started:
            hook(source=call.source, call_id=call.call_id, **vars(backoff))
        return Next(self.wait_for_turn)

    def _failed(self, error: Exception) -> Next:
        """Give the permit back and retry by the policy; raises the error if the policy does not retry it."""
        attempts = self._attempts
        self._release_permit()
        try:
            delay = attempts.policy.next_delay(attempts, error)
        except (errors.APIStatusError, errors.APIConnectionError) as final:
            attempts.describe(final)
            advise(final, self.session.config, False)
            raise
        request = Request("asample", source=self.call.source, call=self.call)
        self.session.report_retry(request, attempts, delay, error)
        return self._retry_in(delay, self.begin_attempt)

    def _retry_in(self, delay: float, step: Callable[[], Optional[Next]]) -> Next:
        self.call.phase = "retrying"
        self._set_retrying(True)
        return Next(step, self.session.clock.time() + delay)

    def _set_retrying(self, is_retrying: bool) -> None:
        if is_retrying != self._is_retrying:
            self._is_retrying = is_retrying
            self.session.count_retrying(1 if is_retrying else -1)

    # The permit and the number

    @property
    def _held_permit(self) -> Permit:
        assert self._permit is not None
        return self._permit

    def _release_permit(self) -> None:
        permit, self._permit = self._permit, None
        if permit is None:
            return
        was_admitted = permit.is_admitted
        permit.release()
        if (hook := self.session.observers.dispatch_released) is not None and was_admitted:
            hook(source=self.call.source, call_id=self.call.call_id, **self.session.throttle.usage())

    def _assign_seq_id(self) -> None:
        request = self.operation.request.with_checked(seq_id=next(self.context.seq_ids))
        self._content = json_wire.encode(request)
        self._idempotency_key = new_idempotency_key()

    # The result

    def _gives_up_at(self) -> float:
        """Return the time at which the wait for the result ends. It moves when another sample succeeds."""
        limit = self.context.progress.gives_up_at()
        return limit if self.deadline is None else min(limit, self.deadline)

    def _wait_for_result(self) -> types.SampleResponse:
        assert self.server_future is not None
        bulk, request_id = self.context.bulk, self.server_future.request_id
        began = self.session.clock.time()
        try:
            size = None if bulk is None else bulk.wait(request_id, self.call, self._gives_up_at)
            try:
                result: types.SampleResponse = poll(
                    self.session,
                    self.server_future,
                    self.call,
                    states=self.context.states,
                    deadline=self._gives_up_at(),
                    extend=self._gives_up_at,
                    result_size=size,
                )
                return result
            finally:
                self.context.progress.latest_wait = self.session.clock.time() - began
                if bulk is not None:
                    bulk.acknowledge(request_id)
        except errors.DeadlineExceeded:
            if self.deadline is not None and self.session.clock.time() >= self.deadline:
                raise
            raise self.context.progress.error() from None

    def _with_sequence_ids(self, result: types.SampleResponse) -> types.SampleResponse:
        """Return ``result`` with the ids of its completions, which the server returns when it accepts the sample."""
        ids, sequences = self._sequence_ids, result.sequences
        if not ids:
            return result
        if len(ids) != len(sequences):
            # The completions are valid, but it is unknown which id belongs to which one.
            text = "Sequence ids dropped: ids=%d completions=%d request_id=%s"
            _log.warning(text, len(ids), len(sequences), self.call.request_id)
            return result
        named = [sequence.with_checked(sequence_id=name) for sequence, name in zip(sequences, ids)]
        return result.with_checked(sequences=named)

    def _resubmit_delay(self, error: Exception) -> float:
        """Return the seconds to wait before the sample is submitted again; raise ``error`` if it is not.

        A sample that may still have a result is never submitted again.
        """
        retry = self.context.retry
        is_late = self.session.clock.time() >= self._gives_up_at()
        is_lost_again = isinstance(error, errors.PromiseExpiredError) and self._resubmissions >= _MOST_RESUBMISSIONS
        if is_late or is_lost_again or not retry.should_resubmit(error):
            raise error
        return retry.resubmit_delay(self._resubmissions)


def _facts(request: types.SampleRequest, response: types.SampleResponse) -> Dict[str, Any]:
    """Return the facts of a sample for observers."""
    return {
        "prompt_tokens": known_length(request.prompt),
        "completion_tokens": sum(len(sequence.tokens) for sequence in response.sequences),
        "stop_reasons": [sequence.stop_reason for sequence in response.sequences],
    }


class _BlockingSample(_Sample):
    """A sample whose steps run in the thread of its caller, which waits between them."""

    def __init__(self, operation: SampleOperation[Any], call: CallState, deadline: Optional[float]) -> None:
        super().__init__(operation, call, deadline)
        self._woken = Event()

    def wake(self) -> None:
        self._woken.set()

    def run(self) -> Any:
        """Run all steps and return the result."""
        success = False
        try:
            assert self._admission is not None
            self.context.running.enter(self._admission)
            following: Optional[Next] = Next(self.wait_for_start)
            while following is not None:
                # Before the step, so that no wake during the step is missed.
                self._woken.clear()
                following = following.step()
                if following is not None and following.at is not None:
                    self._wait(following.at)
            success = True
            return self.result
        finally:
            self.release(success=success)

    def _wait(self, at: float) -> None:
        until = at if self.deadline is None else min(at, self.deadline)
        self.session.wait(self._woken, None if until == math.inf else until)
        if self.deadline is not None and self.session.clock.time() >= self.deadline:
            raise self.call.deadline_exceeded()


class _State(enum.Enum):
    """What a submitted sample does at the moment."""

    WAITING = 1  # for a time, or to be woken
    QUEUED = 2  # for a worker
    RUNNING = 3
    ENDED = 4


class _SubmittedSample(_Sample):
    """A sample whose steps run in workers. It holds no thread while it waits.

    Dispatchers run the steps up to the acceptance. Pollers wait for the result, or the dispatcher does if the latest
    result came quickly. A sample that waits is known only to
    the timer, a semaphore or the throttle.

    Invariants: one thread runs steps, in the state RUNNING. A wake during a step is kept in ``_is_woken``, and then the
    step's wait ends immediately. The deadline ends every wait, also the wait for a worker.
    """

    def __init__(
        self, operation: SampleOperation[Any], call: CallState, deadline: Optional[float], future: Future[Any]
    ) -> None:
        super().__init__(operation, call, deadline)
        self._future = future
        self._lock = Lock()
        self._state = _State.WAITING  # guarded by _lock
        self._is_woken = False  # guarded by _lock
        self._is_expired = False  # guarded by _lock
        #: The step that a waiting or queued sample runs next.
        self._next = Next(self.wait_for_start)
        self._timer: Optional[TimerHandle] = None
        self._expiry: Optional[TimerHandle] = None

    def claim(self) -> bool:
        return self._future.begin()

    def is_done(self) -> bool:
        return self._future.done()

    def network(self) -> ContextManager[None]:
        is_poller = self._next.is_poll
        return contextlib.nullcontext() if is_poller else self.session.dispatchers.waiting()

    def start(self) -> None:
        """Enter the queue of the client's samples."""
        # Weakly, because a future that is dropped must log its error immediately.
        reference = weakref.ref(self)

        def cancel_remote() -> bool:
            sample = reference()
            accepted = None if sample is None else sample.server_future
            # The server can cancel an accepted sample, but not a request that is being sent.
            return sample is not None and accepted is not None and sample.session.cancel_remote(accepted.request_id)

        self._future.cancel_remote = cancel_remote
        if self.deadline is not None:
            self._expiry = self.session.timer.at(self.deadline, self._expire)
        assert self._admission is not None
        if self.context.running.enter(self._admission):
            self.wake()
        # Closing fails the futures of the calls that it finds after it has set the signal. It may have missed this one.
        if self.session.closing.is_set():
            self._interrupt(errors.ClosedError("the client was closed before the sample was sent"))

    def wake(self) -> None:
        with self._lock:
            if self._state is not _State.WAITING:
                self._is_woken = True
                return
            self._state = _State.QUEUED
        self._enqueue()

    def _enqueue(self) -> None:
        workers = self.session.pollers if self._next.is_poll else self.session.dispatchers
        # A closed session has no workers, and closing fails the future.
        try:
            workers.submit(self._run)
        except errors.ThreadStartError as error:
            self._interrupt(error)

    def _run(self) -> None:
        with self._lock:
            if self._state is not _State.QUEUED:
                return  # it has expired
            self._state = _State.RUNNING
            self._is_woken = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        try:
            following: Optional[Next] = self._next
            while following is not None:
                if self.is_done():
                    raise CancelledError
                following = following.step()
                if following is not None and self._hand_over(following):
                    return
        except BaseException as error:
            self._end(error)
        else:
            self._end()

    def _hand_over(self, following: Next) -> bool:
        """Leave the next step to another worker or to a later time; False if this thread runs it now."""
        if following.is_poll and self.context.progress.latest_wait > _SHORT_WAIT:
            with self._lock:
                self._state, self._next = _State.QUEUED, following
            self._enqueue()
            return True
        if following.at is None:
            return False
        # Before the state changes, because a wake in another thread may end the wait immediately.
        self._timer = None if following.at == math.inf else self.session.timer.at(following.at, self.wake)
        with self._lock:
            is_expired = self._is_expired
            is_woken, self._is_woken = self._is_woken, False
            if not (is_expired or is_woken):
                self._state, self._next = _State.WAITING, following
                return True
        if self._timer is not None:
            self._timer.cancel()
        if is_expired:
            raise self.call.deadline_exceeded()
        return False

    def _expire(self) -> None:
        """End a sample that waits at its deadline. Called by the timer, which must not run hooks or callbacks."""
        with self._lock:
            self._is_expired = True
        self.session.run_in_helper(lambda: self._interrupt(self.call.deadline_exceeded()))

    def _interrupt(self, error: BaseException) -> None:
        """End the sample with ``error`` unless one of its steps runs."""
        with self._lock:
            if self._state not in (_State.WAITING, _State.QUEUED):
                return
            self._state = _State.ENDED
        self._end(error)

    def _end(self, error: Optional[BaseException] = None) -> None:
        with self._lock:
            self._state = _State.ENDED
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self.release(success=error is None)
        future, waiting = self._future, self.network()
        # They refer to this object directly or through the error's traceback. Without these cycles, a future that is
        # dropped is freed and logs its error immediately.
        del self._future, self._next
        if error is not None:
            future.fail_in_worker(error)
        else:
            # The callbacks of the future may block: a dispatcher counts as waiting, so that others replace it.
            with waiting:
                future.set_result(self.result)
