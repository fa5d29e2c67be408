"""Many samples from one thread: a bounded window of futures over an iterable of prompts."""

from __future__ import annotations

import collections
from typing import Any, Callable, Deque, Dict, Iterable, Iterator

from .. import types
from ..concurrency.clock import wait_interruptibly
from ..concurrency.primitives import Event, Lock
from ..futures import Future

__all__ = ["SampleMany"]


class SampleMany(Iterator[Any]):
    """Iterator over the replies of :meth:`SamplingClient.sample_many`.

    Each prompt is answered exactly once. Invariant: at most ``max_in_flight`` futures are held, submitted or
    finished, that have not been handed out.
    """

    def __init__(
        self,
        submit: Callable[[types.ModelInput], Future[types.SampleResponse]],
        prompts: Iterable[types.ModelInput],
        *,
        max_in_flight: int,
        ordered: bool,
        on_error: str,
    ) -> None:
        if not isinstance(max_in_flight, int) or max_in_flight < 1:
            raise ValueError(f"max_in_flight must be a whole number of at least 1, not {max_in_flight!r}")
        if on_error not in ("raise", "yield"):
            raise ValueError(f"on_error must be 'raise' or 'yield', not {on_error!r}")
        self._submit = submit
        self._prompts = enumerate(prompts)
        self._most = max_in_flight
        self._ordered = ordered
        self._yield_errors = on_error == "yield"
        self._waiting: Deque[int] = collections.deque()
        self._futures: Dict[int, Future[types.SampleResponse]] = {}
        self._refused: Dict[int, Exception] = {}
        self._lock = Lock()
        self._finished: Deque[int] = collections.deque()  # guarded by _lock
        self._any_finished = Event()
        self._exhausted = False

    def __iter__(self) -> SampleMany:
        return self

    def __next__(self) -> Any:
        try:
            self._fill()
            if not self._futures and not self._refused:
                raise StopIteration
            index = self._waiting[0] if self._ordered else self._next_finished()
            reply = self._take(index)
        except BaseException:
            self.close()
            raise
        return reply if self._ordered else (index, reply)

    def _fill(self) -> None:
        while not self._exhausted and len(self._futures) + len(self._refused) < self._most:
            try:
                index, prompt = next(self._prompts)
            except StopIteration:
                self._exhausted = True
                return
            try:
                future = self._submit(prompt)
            except (ValueError, TypeError) as error:
                if not self._yield_errors:
                    raise type(error)(f"prompt {index}: {error}") from error
                # Refused before it was sent: its error takes its place in the order.
                self._refused[index] = error
                self._enter(index)
                if not self._ordered:
                    self._note(index)
                continue
            self._futures[index] = future
            self._enter(index)
            if not self._ordered:
                future.add_done_callback(lambda _, index=index: self._note(index))  # type: ignore[misc]

    def _enter(self, index: int) -> None:
        if self._ordered:
            self._waiting.append(index)

    def _note(self, index: int) -> None:
        with self._lock:
            self._finished.append(index)
        self._any_finished.set()

    def _next_finished(self) -> int:
        while True:
            with self._lock:
                if self._finished:
                    return self._finished.popleft()
                self._any_finished.clear()
            wait_interruptibly(self._any_finished)

    def _take(self, index: int) -> Any:
        reply: Any = self._refused.pop(index, None)
        if reply is None:
            try:
                reply = self._futures[index].result()
            except Exception as error:
                if not self._yield_errors:
                    raise
                reply = error
            del self._futures[index]
        if self._ordered:
            self._waiting.popleft()
        return reply

    def close(self) -> None:
        """Stop: withdraw what was not sent, and forget the rest. Idempotent; leaving a ``for`` loop calls it."""
        self._exhausted = True
        futures, self._futures = list(self._futures.values()), {}
        self._waiting.clear()
        for future in reversed(futures):
            future.abandon()

    def __enter__(self) -> SampleMany:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_futures"):
            self.close()
