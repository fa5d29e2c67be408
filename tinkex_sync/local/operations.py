"""Promises: accepting an operation once, running it in its turn, and handing the result to whoever polls."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import uuid
from collections import OrderedDict, deque
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Set, Tuple, Type

from ..concurrency.clock import Clock
from .bodies import Refusal, encode
from .faults import FaultGate
from .stats import Stats

__all__ = ["Lane", "Promise", "Promises", "Replays", "Result", "Runner", "digest"]

_log = logging.getLogger(__name__)

#: Bytes of results that were delivered and are kept in case the answer was lost; then the oldest go.
KEPT_BYTES = 64 * 1024 * 1024
#: Idempotency keys remembered.
KEPT_KEYS = 10_000


#: Makes protobuf of a result.
Pack = Callable[[Any], bytes]


def digest(data: bytes) -> bytes:
    """Tells request bodies apart."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Result(NamedTuple):
    """What an operation came to, as the answers of polls."""

    #: JSON.
    body: bytes
    #: Protobuf, where the result has that form too.
    packed: Optional[bytes] = None
    failed: bool = False

    def as_wanted(self, packed: bool) -> bytes:
        """The protobuf form if it is wanted and exists, else JSON."""
        return self.packed if packed and self.packed is not None else self.body

    @property
    def size(self) -> int:
        return len(self.body) + len(self.packed or b"")


class Promise:
    """The result of one accepted operation, now or later. Its fields belong to :class:`Promises`."""

    __slots__ = (
        "delivered",
        "done",
        "expired",
        "kind",
        "model_id",
        "request_id",
        "result",
        "told",
        "try_again_left",
        "waiting",
    )

    def __init__(self, kind: str, model_id: Optional[str], *, expired: bool, try_again_polls: int) -> None:
        self.request_id = uuid.uuid4().hex
        #: "training" or "sampling".
        self.kind = kind
        self.model_id = model_id
        self.expired = expired
        self.try_again_left = try_again_polls
        self.done = False
        self.delivered = False
        self.result = Result(b"")
        self.waiting: Set[threading.Event] = set()
        #: Called once with the result.
        self.told: Callable[[Result], None] = lambda result: None


class Promises:
    """All promises, by id and by (owner, number).

    Invariant, true whenever ``_lock`` is free: a number of an owner leads to one promise for ever, together
    with the digest of the body that was sent under it; every event in ``waiting`` belongs to a poll that has
    not returned, and is set once when the promise is done or the pauses change.
    """

    def __init__(self, gate: FaultGate, stats: Stats, clock: Clock) -> None:
        self._gate = gate
        self._stats = stats
        self._clock = clock
        self._lock = threading.Lock()
        self._by_id: Dict[str, Promise] = {}  # guarded by _lock
        self._by_number: Dict[Tuple[str, int], Tuple[bytes, Promise]] = {}  # guarded by _lock
        self._delivered: Deque[Promise] = deque()  # guarded by _lock; oldest first
        self._delivered_bytes = 0  # guarded by _lock
        self._waiting: Set[Promise] = set()  # guarded by _lock; promises with a poll on them
        self._closed = False  # guarded by _lock
        gate.subscribe(self.wake)

    def accept(
        self,
        kind: str,
        model_id: Optional[str],
        number: Optional[Tuple[str, int]],
        body: bytes,
        admit: Callable[[], None] = lambda: None,
    ) -> Tuple[Promise, bool]:
        """A promise for a request, and whether it is new (then the caller has it run).

        Args:
            number: Owner and number of the request; None: it is never taken for a repetition.
            body: Digest of the request body.
            admit: Called for a request not seen before; may refuse it by raising.

        Raises:
            Refusal: 409 if another body was sent under this number.
        """
        with self._lock:
            known = self._by_number.get(number) if number is not None else None
        if known is None:
            admit()
            expired, polls = self._gate.expire_next(), self._gate.faults.try_again_polls
            mine = (body, Promise(kind, model_id, expired=expired, try_again_polls=polls))
            with self._lock:
                # Two copies of one request may be here at the same time: one wins.
                known = self._by_number.setdefault(number, mine) if number is not None else mine
                if known is mine:
                    self._by_id[mine[1].request_id] = mine[1]
                    return mine[1], True
        if known[0] != body:
            assert number is not None
            raise Refusal(409, f"seq_id {number[1]} of {number[0]} was already used for another request body")
        self._stats.add("dedupe_hits")
        return known[1], False

    def get(self, request_id: str) -> Promise:
        """Raises: Refusal: 404, there is none of this id."""
        with self._lock:
            promise = self._by_id.get(request_id)
        if promise is None:
            raise Refusal(404, f"no promise {request_id!r} on this server")
        return promise

    def resolve(self, promise: Promise, result: Result) -> None:
        """The operation is over; ``result`` is what polls get."""
        with self._lock:
            if promise.done:
                return  # It was cancelled meanwhile.
            promise.done = True
            if not promise.expired:
                promise.result = result
            waiting = list(promise.waiting)
        for event in waiting:
            event.set()
        promise.told(result)

    def cancel(self, promise: Promise) -> bool:
        """Break a promise unless it is kept already; whether that was so. The work is not begun, if it was not."""
        with self._lock:
            done = promise.done
        if not done:
            broken = {"error": f"request {promise.request_id} was cancelled", "category": "user"}
            self.resolve(promise, Result(encode(broken), failed=True))
        return not done

    def forget(self, request_id: str) -> bool:
        """The result was read and need not be kept; whether it still was."""
        with self._lock:
            promise = self._by_id.get(request_id)
            if promise is None or not promise.delivered or promise.expired:
                return False
            self._delivered_bytes -= promise.result.size
            promise.result, promise.expired = Result(b""), True
            return True

    def wake(self, *, close: bool = False) -> None:
        """Have every held poll look again (the pauses changed) or, with ``close``, give up."""
        with self._lock:
            self._closed = self._closed or close
            waiting = [event for promise in self._waiting for event in promise.waiting]
        for event in waiting:
            event.set()

    def wait(
        self, promise: Promise, hold: float, peek: Callable[[Result], bool] = lambda result: False
    ) -> Optional[Result]:
        """What a poll gets: the result, or None when it is to try again.

        Args:
            hold: Seconds to wait for the result.
            peek: Whether the poll, though there is a result, is answered without it.

        Raises:
            Refusal: 410, the result is lost.
        """
        started = self._clock.time()
        while True:
            woken = threading.Event()
            with self._lock:
                if promise.try_again_left:
                    promise.try_again_left -= 1
                    return None
                done, first = promise.done, not promise.delivered
                if done:
                    result = promise.result
                    if promise.expired or not peek(result):
                        result = self._deliver(promise)
                    else:
                        first = False
                elif self._closed:
                    return None
                else:
                    promise.waiting.add(woken)
                    self._waiting.add(promise)
            if done:
                if first and promise.kind == "sampling":
                    self._stats.add("samples_delivered")
                return result
            limit = min(hold, self._gate.faults.pause_hold) if self._gate.paused(promise.kind) else hold
            left = started + limit - self._clock.time()
            if left > 0:
                self._clock.wait(woken, left)
            with self._lock:
                promise.waiting.discard(woken)
                if not promise.waiting:
                    self._waiting.discard(promise)
                if left <= 0 and not promise.done:
                    return None

    def _deliver(self, promise: Promise) -> Result:
        """Call with ``_lock`` held."""
        if promise.expired:
            raise Refusal(410, f"promise {promise.request_id!r} expired: its result is lost")
        if not promise.delivered:
            promise.delivered = True
            self._delivered.append(promise)
            self._delivered_bytes += promise.result.size
        result = promise.result
        while self._delivered_bytes > KEPT_BYTES and len(self._delivered) > 1:
            oldest = self._delivered.popleft()
            self._delivered_bytes -= oldest.result.size
            oldest.result, oldest.expired = Result(b""), True
        return result


class Lane:
    """Runs what it is given one at a time, in order, on a thread that is there while something is to do.

    Invariant: ``_running`` is true exactly while a thread will look at ``_todo`` again. In an ordered lane the jobs
    of the numbers below ``_next`` are in ``_todo`` or were; those of ``_early`` wait for a lower number.

    Args:
        ordered: Jobs run in the order of their numbers, from 1; otherwise as they come.
    """

    def __init__(self, name: str, *, ordered: bool = False) -> None:
        self._name = name
        self._ordered = ordered
        self._lock = threading.Lock()
        self._todo: Deque[Callable[[], None]] = deque()  # guarded by _lock
        self._running = False  # guarded by _lock
        self._next = 1  # guarded by _lock
        self._early: Dict[int, Callable[[], None]] = {}  # guarded by _lock

    def submit(self, job: Callable[[], None], number: Optional[int] = None) -> None:
        """``job`` must not raise; one without a number, or with one whose turn has passed, is run as it comes."""
        with self._lock:
            if self._ordered and number is not None and number >= self._next:
                self._early[number] = job
                while self._next in self._early:
                    self._todo.append(self._early.pop(self._next))
                    self._next += 1
            else:
                self._todo.append(job)
            start = bool(self._todo) and not self._running
            self._running = self._running or start
        if start:
            threading.Thread(target=self._run, name=f"lane-{self._name}", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    self._running = False
                    return
                job = self._todo.popleft()
            job()


class Runner:
    """Carries out accepted operations and resolves their promises, whatever happens."""

    def __init__(
        self, promises: Promises, gate: FaultGate, user_errors: Tuple[Type[Exception], ...], threads: int = 2
    ) -> None:
        self._promises = promises
        self._gate = gate
        self._user_errors = user_errors
        self._samples: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._run_samples, name=f"sampler-{number}", daemon=True).start()

    def train(
        self,
        lane: Lane,
        promise: Promise,
        work: Callable[[], Any],
        number: Optional[int] = None,
        pack: Optional[Pack] = None,
    ) -> None:
        """Run ``work`` when the earlier ones of its lane are over.

        Args:
            number: The place of the work in the lane, if that is an ordered one.
            pack: Makes the protobuf form of what ``work`` gives.
        """
        lane.submit(lambda: self._run(promise, work, pack), number)

    def sample(self, promise: Promise, work: Callable[[], Any], pack: Optional[Pack] = None) -> None:
        """Run ``work`` on one of the sampling threads."""
        self._samples.put(lambda: self._run(promise, work, pack))

    def _run_samples(self) -> None:
        while True:
            self._samples.get()()

    def _run(self, promise: Promise, work: Callable[[], Any], pack: Optional[Pack]) -> None:
        self._gate.wait_open(promise.kind)
        if promise.done:
            return  # It was cancelled.
        try:
            done = work()
            result = Result(encode(done), None if pack is None else pack(done))
        except self._user_errors as error:
            result = Result(encode({"error": str(error), "category": "user"}), failed=True)
        except Exception as error:
            _log.exception("operation %s failed", promise.request_id)
            text = f"{type(error).__name__}: {error}"
            result = Result(encode({"error": text, "category": "server"}), failed=True)
        self._gate.wait_open(promise.kind)
        self._promises.resolve(promise, result)


class Replays:
    """Answers of earlier requests by idempotency key.

    Invariant: a key is in ``_known`` from the moment its request is being handled until it failed, or until
    newer ones pushed it out; its event is set when the answer is there or the key was dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Tuple[str, str], _Replay] = OrderedDict()  # guarded by _lock

    def answer(self, path: str, key: str, body: bytes, handle: Callable[[], Any]) -> Tuple[Any, bool]:
        """The answer recorded for ``key``, or that of ``handle()``; and whether it was recorded.

        Raises:
            Refusal: 409 if the key was used with another body; and whatever ``handle`` raises.
        """
        mine = _Replay(body)
        while True:
            with self._lock:
                known = self._known.setdefault((path, key), mine)
                if len(self._known) > KEPT_KEYS:
                    self._known.popitem(last=False)
            if known is mine:
                break
            if known.body != body:
                raise Refusal(409, f"idempotency key {key!r} was already used for another request body")
            known.over.wait()
            if known.answered:
                return known.answer, True
        try:
            mine.answer = handle()
            mine.answered = True
        except BaseException:
            with self._lock:
                self._known.pop((path, key), None)
            raise
        finally:
            mine.over.set()
        return mine.answer, False


class _Replay:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.over = threading.Event()
        self.answered = False
        self.answer: Any = None
